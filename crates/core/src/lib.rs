//! What Lamina decides.
//!
//! `lamina-core` is the switch without its surroundings: it parses packets, asks the layers of a port what is
//! to happen, composes the answers into one edit, remembers that edit for the flow, and applies it. It has no
//! I/O, no clock, no thread, no random number and no `unsafe`: time, seeds and bytes come in as values, and
//! verdicts and bytes go out. That is what lets one test run a whole network on fake time.
//!
//! The modules, in the order in which a packet meets them:
//!
//! | module | decides |
//! | --- | --- |
//! | [`packet`] | which bytes are headers: buffer, parser, checksums |
//! | [`flow`] | what those headers mean: `HeaderStack`, `FlowId`, `Ufid`, the unified flow table |
//! | [`layer`] | the policy as meant (layers, groups, rules, conditions) and its compiled program |
//! | [`classify`] | which rule of a group matches |
//! | [`action`] | what a matched rule asks for |
//! | [`resource`] | tables that rules refer to by name |
//! | [`transposition`] | how header changes compose, and the edit that applies them to bytes |
//! | [`port`] | one virtual NIC: its program, its state, resolve and commit |
//! | [`switch`] | the ports of one worker, forwarding between them |
//! | [`event`] | what it tells whoever subscribed |
//! | [`simulate`] | the explained resolution: `Trace` |
//! | [`stats`] | counters |
//! | [`inspect`] | flows, drops, limits, captures: what a switch tells about itself |
//!
//! Section numbers (§3.4) refer to the design page, `docs/design.md`.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod action;
pub mod address;
pub mod classify;
pub mod drop_reason;
pub mod event;
pub mod flow;
mod hash;
pub mod inspect;
pub mod layer;
pub mod packet;
pub mod port;
pub mod resource;
pub mod simulate;
pub mod stats;
pub mod switch;
pub mod time;
pub mod transposition;
