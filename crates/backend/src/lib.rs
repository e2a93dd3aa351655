//! Where packets come from and go to.
//!
//! A backend receives and sends batches of [`lamina_core::packet::Packet`] and knows nothing of policy. This is the
//! only crate of the workspace with `unsafe`: system calls and memory that somebody else also writes. It must never
//! decide what becomes of a packet, and never block: a worker that drives many backends sleeps once, for all of
//! them.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod namespace;
