//! NAT: source, destination or both are rewritten to fixed values, addresses alone or with ports.
//!
//! Ports of a packet that has none (ICMP, other protocols, IP only) are left alone: the address still changes.
//! Pools of addresses and ports are another action, with leases.

use core::net::IpAddr;

use super::{ActionInput, Effect};
use crate::drop_reason::DropReason;
use crate::flow::{HeaderStack, IpPair, L3, L4};
use crate::transposition::{Modify, ModifyL3, ModifyL4, Transposition};

/// Rewrite addresses and ports of the innermost group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nat {
    /// New source.
    pub source: Option<NatTo>,
    /// New destination.
    pub destination: Option<NatTo>,
}

/// What one side becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatTo {
    /// New address; `None` keeps it.
    pub address: Option<IpAddr>,
    /// New port; `None` keeps it.
    pub port: Option<u16>,
}

impl Nat {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        match rewrite(input.headers, self.source, self.destination) {
            Some(transposition) => Effect::transpose(transposition),
            None => Effect::drop(DropReason::CannotTranspose),
        }
    }
}

/// The transposition that rewrites the innermost source and destination; `None` when the packet is not IP or an
/// address is of the other family. Fields that already have the wanted value are left out, so that the result
/// is minimal and comparable.
pub(super) fn rewrite(
    headers: &HeaderStack,
    source: Option<NatTo>,
    destination: Option<NatTo>,
) -> Option<Transposition> {
    let id = &headers.innermost().flow_id;
    let Some(L3::Ip(ip)) = id.l3 else { return None };
    let (old_src, old_dst) = (ip.addresses.src(), ip.addresses.dst());
    let src = source.and_then(|to| to.address).unwrap_or(old_src);
    let dst = destination.and_then(|to| to.address).unwrap_or(old_dst);
    let pair = IpPair::new(src, dst)?;
    if pair.is_v4() != ip.addresses.is_v4() {
        return None;
    }
    let l3 = ModifyL3 {
        src: (src != old_src).then_some(src),
        dst: (dst != old_dst).then_some(dst),
        ..ModifyL3::default()
    };
    let mut l4 = ModifyL4::default();
    if let Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) = id.l4 {
        l4.src_port = source.and_then(|to| to.port).filter(|port| *port != ports.src);
        l4.dst_port = destination.and_then(|to| to.port).filter(|port| *port != ports.dst);
    }
    Some(Transposition::on_innermost(headers, [Modify::L3(l3), Modify::L4(l4)]))
}
