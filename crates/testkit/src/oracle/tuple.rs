//! The keys by which the oracle tells flows apart.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lamina_core::action::{Action, Respond};
use lamina_core::flow::{Direction, Field, Fragment, HeaderField, Scope};
use lamina_core::layer::Policy;

use crate::wire::{Frame, Header};

/// The innermost addresses, protocol and ports (of an ICMP query: its id twice) and the tenant id (0 without).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, query id, or 0.
    pub src_port: u16,
    /// Destination port, query id, or 0.
    pub dst_port: u16,
    /// Tenant id.
    pub tenant: u32,
}

impl Tuple {
    /// The tuple of `frame`; `None` where it has none: not IP, a later fragment, an ICMP message that is no query.
    pub fn of(frame: &Frame) -> Option<Tuple> {
        let inner = frame.innermost();
        let (src, dst) = inner.l3?.addresses()?;
        if inner.fragment() == Fragment::Later {
            return None;
        }
        let (src_port, dst_port) = match inner.l4 {
            Some(icmp @ Header::Icmp(_)) => (icmp.query_id()?, icmp.query_id()?),
            Some(l4) => l4.ports().unwrap_or((0, 0)),
            None => (0, 0),
        };
        let protocol = super::read::protocol(&inner)?;
        Some(Tuple { src, dst, protocol, src_port, dst_port, tenant: frame.tenant().unwrap_or(0) })
    }

    /// The tuple of a reply.
    pub fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }
}

/// A tuple as packets of one direction bring it to a layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LayerKey {
    /// The direction of those packets.
    pub direction: Direction,
    /// Their tuple.
    pub tuple: Tuple,
}

/// What all packets of one flow have in common (§5.1), as text: the base fields of every header group, and the
/// values of the fields beyond them that `declared` names. The oracle compares it only.
pub(super) fn flow_name(direction: Direction, ingress: u32, frame: &Frame, declared: &Declared) -> String {
    let mut name = direction.name().to_string();
    for header in &frame.headers {
        let part = match header {
            Header::Ethernet(eth) => {
                format!("eth {} {} {:?} {:x}", eth.src, eth.dst, eth.tags, eth.ethertype)
            }
            Header::Ipv4(ip) => format!("ip {} {} {}", ip.src, ip.dst, ip.protocol),
            Header::Ipv6(ip) => format!("ip {} {} {}", ip.src, ip.dst, ip.protocol),
            Header::Arp(arp) => format!("arp {} {} {}", arp.operation, arp.sender_ip, arp.target_ip),
            Header::Tcp(tcp) => format!("tcp {} {}", tcp.src, tcp.dst),
            Header::Udp(udp) => format!("udp {} {}", udp.src, udp.dst),
            Header::Sctp(sctp) => format!("sctp {} {}", sctp.src, sctp.dst),
            Header::Icmp(icmp) => {
                format!("icmp {} {} {} {:?}", icmp.is_v6, icmp.kind, icmp.code, header.query_id())
            }
            Header::Tunnel(tunnel) => format!("tunnel {} {}", tunnel.kind.name(), tunnel.tenant),
        };
        name.push_str(" / ");
        name.push_str(&part);
    }
    // A declared field whose value is zero tells no flows apart: policies that declare more keep the names of flows.
    for (number, group) in frame.groups().iter().enumerate() {
        for field in &declared.fields {
            if let Some(value) = super::read::read(group, *field).filter(|value| value.bits != 0) {
                name.push_str(&format!(" {number} {field:?} {value:?}"));
            }
        }
    }
    if declared.ingress_port {
        name.push_str(&format!(" from {ingress}"));
    }
    name
}

/// The fields beyond the base that a policy reads anywhere, which tell flows apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    fields: BTreeSet<HeaderField>,
    ingress_port: bool,
}

impl Declared {
    /// What `policy` reads: in conditions, in meters' keys (of every meter, used or not), to answer solicitations.
    pub(super) fn by(policy: &Policy) -> Self {
        let groups = policy.layers.iter().flat_map(|layer| layer.inbound.iter().chain(&*layer.outbound));
        let mut fields: Vec<Field> =
            policy.resources.meters.iter().flat_map(|meter| meter.key.clone()).collect();
        fields.extend(policy.resources.limits.iter().flat_map(|limit| limit.key.clone()));
        for group in groups {
            fields.extend(group.conditions.iter().map(|condition| condition.field));
            for rule in group.rules.iter() {
                fields.extend(rule.conditions.iter().map(|condition| condition.field));
                if let Action::Respond(Respond::Arp(_) | Respond::NeighborDiscovery(_)) = rule.action {
                    fields.push(Field::Header(Scope::Inner, HeaderField::NdTarget));
                }
            }
        }
        let mut declared = Declared::default();
        for field in fields {
            match field {
                Field::IngressPort => declared.ingress_port = true,
                Field::Header(_, field) if !is_base(field) => {
                    declared.fields.insert(field);
                }
                _ => {}
            }
        }
        declared
    }
}

fn is_base(field: HeaderField) -> bool {
    use HeaderField::*;
    let beyond = [IpDscp, IpEcn, IpTtl, IpFragment, TcpFlags, NdTarget, NdLinkAddress];
    !beyond.contains(&field)
}
