//! Entropy of a tunnel: the number from which the underlay's routers tell the flows inside apart (§4.4).
//!
//! One function for meaning and bytes. It depends on the innermost flow alone, so all packets of a flow take one
//! path; it must never depend on a per-packet field.

use crate::flow::{EncapKind, FlowId, IpPair, L3, L4};
use crate::resource::mix;

/// The UDP source port (in the dynamic range 49152-65535, RFC 7348 §5) or NVGRE flow id (RFC 7637 §3.2) of a
/// tunnel of `kind` around the flow `inner`; 0 where the tunnel carries none.
pub(super) fn entropy(kind: EncapKind, inner: &FlowId) -> u16 {
    let hash = flow_hash(inner);
    match kind {
        EncapKind::Vxlan | EncapKind::Geneve => 0xc000 | (hash >> 50) as u16,
        EncapKind::Nvgre => (hash >> 56) as u16,
        EncapKind::Gre | EncapKind::GreKeyed | EncapKind::IpInIp => 0,
    }
}

/// What tells the flow `flow` of a packet apart from others, for choices that all its packets must share.
pub(crate) fn flow_hash(flow: &FlowId) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15;
    let mut add = |word: u64| hash = mix(hash ^ word);
    match flow.l3 {
        Some(L3::Ip(ip)) => {
            match ip.addresses {
                IpPair::V4 { src, dst } => add((src.to_bits() as u64) << 32 | dst.to_bits() as u64),
                IpPair::V6 { src, dst } => {
                    for bits in [src.to_bits(), dst.to_bits()] {
                        add((bits >> 64) as u64);
                        add(bits as u64);
                    }
                }
            }
            let ports = match flow.l4 {
                Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => {
                    (ports.src as u64) << 16 | ports.dst as u64
                }
                Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => icmp.id.unwrap_or(0) as u64,
                _ => 0,
            };
            add((ip.protocol as u64) << 32 | ports);
        }
        _ => {
            if let Some(l2) = flow.l2 {
                add(l2.src.to_bits() << 16 | l2.ethertype as u64);
                add(l2.dst.to_bits());
            }
        }
    }
    hash
}
