//! The underlay: routes, neighbours, links and addresses of the host, kept in step with the kernel (§10).
//!
//! Policy names remote tunnel endpoints only. Which uplink a packet leaves by, which MAC it is sent to and how
//! large it may be is the host's own routing, so the kernel stays the one place where an operator configures it.
//! [`Synchroniser`] reads it over netlink, subscribes to its changes, and hands every new state to a callback as
//! a [`Snapshot`]; when a next hop has no MAC yet, [`Resolver::resolve`] has the kernel find it.
//!
//! Files: [`facts`] is what the kernel said, and how a snapshot follows from it (no I/O); `netlink` turns
//! messages into facts; `sync` is the thread; [`sink`] keeps the kernel from answering tunnel packets that the
//! switch takes.
//!
//! This module must never change the host's configuration: it only reads, and asks for neighbour resolution.

pub mod facts;
mod netlink;
pub mod sink;
mod sync;

pub use facts::Snapshot;
pub use sync::{Resolver, StartError, Synchroniser};

use lamina_core::switch::PortId;

/// An interface that a switch uses as an uplink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UplinkInterface {
    /// The uplink's number in the switch.
    pub id: PortId,
    /// The interface's name in the namespace of the thread that starts the synchroniser.
    pub interface: String,
}
