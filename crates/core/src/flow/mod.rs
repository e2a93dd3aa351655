//! What a packet's headers mean, apart from where they lie in the bytes (§4.1, §5.1).
//!
//! A packet is a stack of header groups, outermost first; one group is one encapsulation level with up to
//! three headers: L2, L3, and L4 or the encapsulation that opens the next group. The *base* fields of a group
//! are its [`FlowId`]; all `FlowId`s together, with the direction, are the [`Ufid`] that keys the unified flow
//! table. Fields that change from packet to packet of one flow (TTL, DSCP, ECN, TCP flags, entropy) are
//! [`Extra`]: they can be matched, but join the key only when a program declares that it reads them.
//!
//! Nothing here touches packet bytes. Policy, transpositions and simulation work on this meaning alone.

pub(crate) mod drop_cache;
mod field;
mod headers;
pub(crate) mod table;
mod ufid;
pub(crate) mod ufid_read;
pub(crate) mod watch;

pub use field::{Family, Field, FieldSet, HeaderField, Scope, Value};
pub use headers::{
    Arp, Encap, EncapKind, Extra, FlowId, Fragment, HeaderGroup, HeaderStack, Icmp, Ip, IpPair, L2, L3, L4,
    Level, MAX_GROUPS, Ports,
};
pub use ufid::Ufid;

/// Which way a packet goes, always seen from the guest: `Outbound` leaves its NIC, `Inbound` arrives at it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From the switch to the NIC.
    Inbound,
    /// From the NIC into the switch.
    Outbound,
}

impl Direction {
    /// The other way.
    pub const fn opposite(self) -> Direction {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }

    /// `inbound` or `outbound`, as in policy files and output.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}
