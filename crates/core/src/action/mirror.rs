//! Mirror: a copy of the packet as it stands at this layer goes somewhere else; the packet itself goes on (§3.5).
//!
//! The action says where to and how much. It reads the packet for one thing only: which conversations are copied
//! where only one in so many is. That is a hash of the conversation, the same for both of its directions, so what is
//! copied can be read from its first packet to its last. Copies are made by the switch, and only when the packet
//! leaves: what is blocked later leaves none.

use core::net::IpAddr;

use super::load_balance::mix_address;
use super::{ActionInput, Effect, Tunnel};
use crate::flow::{HeaderStack, L3, L4};
use crate::resource::mix;
use crate::switch::PortId;

/// Send a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Where to.
    pub to: MirrorTarget,
    /// The most bytes that are copied, counted from the start of the frame; `None` copies all.
    pub truncate: Option<u32>,
    /// One conversation in so many is copied; 0 and 1 are all.
    pub sample: u32,
}

/// Where copies go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MirrorTarget {
    /// To the NIC of this port of the switch, through none of its layers.
    Port(PortId),
    /// In a tunnel through the underlay.
    Collector {
        /// The tunnel.
        tunnel: Tunnel,
        /// Tenant id (VNI, VSID, key).
        tenant: u32,
        /// The collector.
        remote: IpAddr,
    },
}

impl Mirror {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect { mirror: Some(*self), ..Effect::default() }
    }

    /// True when packets with `headers` are among those that are copied. Packets that are not IP always are.
    pub(crate) fn takes(&self, headers: &HeaderStack, seed: u64) -> bool {
        self.sample <= 1
            || conversation_hash(headers, seed).is_none_or(|hash| hash.is_multiple_of(self.sample.into()))
    }
}

/// A hash of the innermost addresses, protocol and ports, the same for both directions. A later fragment, which has no
/// ports, is judged by the rest.
fn conversation_hash(headers: &HeaderStack, seed: u64) -> Option<u64> {
    let id = &headers.innermost().flow_id;
    let Some(L3::Ip(ip)) = id.l3 else { return None };
    let (src, dst) = match id.l4 {
        Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => (ports.src, ports.dst),
        Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => (icmp.id.unwrap_or(0), icmp.id.unwrap_or(0)),
        _ => (0, 0),
    };
    let end = |address, port: u16| mix(mix_address(mix(seed), address) ^ u64::from(port));
    let ends = end(ip.addresses.src(), src).wrapping_add(end(ip.addresses.dst(), dst));
    Some(mix(ends ^ u64::from(ip.protocol)))
}
