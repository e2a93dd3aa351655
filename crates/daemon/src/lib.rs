//! What runs around the core on a host: threads, the underlay, and the conversion of documents into policy.
//!
//! The daemon owns every clock, socket and thread; the core owns every decision. Nothing here may choose what
//! becomes of a packet.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod control;
pub mod convert;
pub mod explain;
pub mod host;
pub mod run;
pub mod server;
pub mod underlay;
pub mod worker;
