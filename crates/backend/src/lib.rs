//! Where packets come from and go to.
//!
//! A [`Backend`] receives and sends batches of [`lamina_core::packet::Packet`] and knows nothing of policy. This is
//! the only crate of the workspace with `unsafe`: system calls and memory that somebody else also writes. It must
//! never decide what becomes of a packet, and never block: a worker that drives many backends sleeps once, for all
//! of them.
//!
//! | module | packets come from |
//! | --- | --- |
//! | [`af_packet`] | a network device: containers, uplinks |
//! | [`tap`] | a virtual device: the host itself, QEMU |
//! | [`memory`] | another end in the same process: tests, benches |
//! | [`pcap`] | a capture file; they can be recorded to one |
//! | [`fault`] | another backend, less reliably |
//!
//! Beside them, for the same reason here: [`namespace`]s, and how threads are scheduled
//! ([`schedule`]), and who is at the other end of a socket ([`credentials`]), and the
//! [`filter`] of sockets that only have to be there.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod af_packet;
mod backend;
pub mod credentials;
pub mod fault;
pub mod filter;
mod finish;
mod interface;
pub mod memory;
pub mod namespace;
pub mod pcap;
mod pool;
pub mod schedule;
pub mod tap;
mod vnet;

pub use backend::{Backend, BackendDrop, Capabilities, Statistics, Traffic, Transmitted};
pub use pool::PacketPool;
