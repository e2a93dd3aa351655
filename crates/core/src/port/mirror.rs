//! What a walk and a cached flow know of the copies that a packet leaves behind (§3.5).

use core::net::IpAddr;

use crate::action::Mirror;
use crate::drop_reason::DropReason;
use crate::flow::HeaderStack;
use crate::inspect::DropPlace;
use crate::switch::PortId;
use crate::transposition::{Edit, Transposition};

/// A copy that a layer asked for.
#[derive(Clone, Debug)]
pub(crate) struct PlannedCopy {
    pub(crate) mirror: Mirror,
    /// What the layers had changed by then.
    pub(crate) transposition: Transposition,
    /// The headers after that.
    pub(crate) headers: HeaderStack,
    /// Whose drop it is when the copy cannot be delivered.
    pub(crate) place: DropPlace,
}

/// A copy that every packet of a flow leaves behind, ready to be made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FlowCopy {
    /// How it is made; or why there is none, and the underlay address that must be resolved first.
    pub(crate) way: Result<CopyWay, (DropReason, Option<IpAddr>)>,
    pub(crate) place: DropPlace,
}

impl FlowCopy {
    /// The underlay address that must be resolved: there is no way without it, or another one would be taken with it.
    pub(crate) fn wanted(&self) -> Option<IpAddr> {
        match &self.way {
            Ok(way) => way.wanted,
            Err((_, unresolved)) => *unresolved,
        }
    }
}

/// How a copy is made of the packet as it entered, and where it leaves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct CopyWay {
    /// The port, or the uplink, by which it leaves.
    pub(crate) to: PortId,
    /// The largest frame that it may be.
    pub(crate) max_frame: u32,
    /// The next hop that it would take if its address were known.
    pub(crate) wanted: Option<IpAddr>,
    pub(crate) edit: Edit,
    pub(crate) cut: Option<Cut>,
}

/// Where a copy ends that is not to be whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Cut {
    /// The most bytes of the frame, tunnel included.
    pub(crate) length: u32,
    /// The tunnel around it, whose lengths must say so.
    pub(crate) tunnel: Option<OuterHeaders>,
}

/// Where the headers of a tunnel are that was put around a copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct OuterHeaders {
    /// The IP header.
    pub(crate) l3: u8,
    /// IPv4, without options; else IPv6, without extension headers.
    pub(crate) is_v4: bool,
    /// UDP is next.
    pub(crate) has_udp: bool,
}
