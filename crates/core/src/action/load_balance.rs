//! Load balance: a target is chosen by consistent hash of the flow, and the destination rewritten to it.

use super::nat::{NatTo, rewrite};
use super::{ActionInput, Effect};
use crate::drop_reason::DropReason;
use crate::flow::{HeaderStack, L3, L4};
use crate::resource::TargetSetId;
use crate::resource::mix;
use crate::transposition::Transposition;

/// Choose a target and rewrite the destination to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadBalance {
    /// The targets.
    pub targets: TargetSetId,
    /// What keeps going to the same target.
    pub affinity: Affinity,
}

/// Which packets are sent to the same target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// Those of one conversation: addresses, protocol and ports are hashed.
    #[default]
    FiveTuple,
    /// Those of one client: only the source address is hashed.
    SourceAddress,
}

impl LoadBalance {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let hash = match self.affinity {
            Affinity::FiveTuple => flow_hash(input.headers, input.seed),
            Affinity::SourceAddress => source_hash(input.headers, input.seed),
        };
        let Some(target) = input.resources.target_set(self.targets).choose(hash) else {
            return Effect::drop(DropReason::NoTarget);
        };
        let to = NatTo { address: Some(target.address), port: target.port };
        match rewrite(input.headers, None, Some(to)) {
            Some(transposition) => Effect::transpose(transposition),
            None => Effect::drop(DropReason::CannotTranspose),
        }
    }

    /// A binding lives on while its target is in the set, with weight or without.
    pub(super) fn admits(&self, input: &ActionInput<'_>, binding: &Transposition) -> bool {
        input.resources.target_set(self.targets).targets().iter().any(|target| {
            let to = NatTo { address: Some(target.address), port: target.port };
            rewrite(input.headers, None, Some(to)).is_some_and(|would_be| would_be == *binding)
        })
    }
}

/// A hash of the innermost addresses, protocol and ports, the same for the same seed on every host.
pub(super) fn flow_hash(headers: &HeaderStack, seed: u64) -> u64 {
    let id = &headers.innermost().flow_id;
    let mut hash = source_hash(headers, seed);
    if let Some(L3::Ip(ip)) = id.l3 {
        hash = mix_address(hash, ip.addresses.dst());
        hash = mix(hash ^ ip.protocol as u64);
    }
    match id.l4 {
        Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => {
            mix(hash ^ (ports.src as u64) << 16 ^ ports.dst as u64)
        }
        Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => mix(hash ^ icmp.id.unwrap_or(0) as u64),
        _ => hash,
    }
}

fn source_hash(headers: &HeaderStack, seed: u64) -> u64 {
    match headers.innermost().flow_id.l3 {
        Some(L3::Ip(ip)) => mix_address(mix(seed), ip.addresses.src()),
        _ => mix(seed),
    }
}

pub(super) fn mix_address(hash: u64, address: core::net::IpAddr) -> u64 {
    match address {
        core::net::IpAddr::V4(v4) => mix(hash ^ v4.to_bits() as u64),
        core::net::IpAddr::V6(v6) => mix(mix(hash ^ (v6.to_bits() >> 64) as u64) ^ v6.to_bits() as u64),
    }
}
