//! Which packets and flows are meant: what lists, clearing and captures are narrowed by.
//!
//! A filter is a list of wishes that must all hold; one that is not set holds for everything. It reads meaning
//! ([`HeaderStack`]), never bytes, and never policy.

use core::net::IpAddr;

use ipnet::IpNet;

use crate::address::MacAddr;
use crate::flow::{Direction, HeaderStack, L3, L4};
use crate::layer::Name;
use crate::port::Tuple;

/// Packets by their headers. The default admits everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PacketFilter {
    /// Which way the packet crosses the port.
    pub direction: Option<Direction>,
    /// The innermost source lies in this prefix; of ARP the sender's protocol address.
    pub src: Option<IpNet>,
    /// The innermost destination lies in this prefix; of ARP the target's protocol address.
    pub dst: Option<IpNet>,
    /// The innermost source or destination lies in this prefix.
    pub address: Option<IpNet>,
    /// The outermost source or destination lies in this prefix.
    pub outer_address: Option<IpNet>,
    /// The innermost source port is in this inclusive range. An ICMP query's identifier counts as both ports.
    pub src_port: Option<(u16, u16)>,
    /// The innermost destination port is in this inclusive range.
    pub dst_port: Option<(u16, u16)>,
    /// The innermost source or destination port is in this inclusive range.
    pub l4_port: Option<(u16, u16)>,
    /// The innermost IP protocol number.
    pub protocol: Option<u8>,
    /// The tenant id of the innermost tunnel; 0 also means a packet without one.
    pub tenant: Option<u32>,
    /// The innermost source or destination MAC.
    pub mac: Option<MacAddr>,
}

impl PacketFilter {
    /// True when it admits everything, frames that cannot be parsed included.
    pub fn is_empty(&self) -> bool {
        *self == PacketFilter::default()
    }

    /// True when a packet with `headers` that crosses in `direction` is meant.
    pub fn admits(&self, headers: &HeaderStack, direction: Direction) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction) && self.admits_headers(headers)
    }

    fn admits_headers(&self, headers: &HeaderStack) -> bool {
        let inner = &headers.innermost().flow_id;
        let either = |prefix: &IpNet, pair: Option<(IpAddr, IpAddr)>| {
            pair.is_some_and(|(src, dst)| prefix.contains(&src) || prefix.contains(&dst))
        };
        let addresses = addresses(inner.l3);
        let outer = addresses_of_outermost(headers);
        let ports = ports(inner.l4);
        let protocol = match inner.l3 {
            Some(L3::Ip(ip)) => Some(ip.protocol),
            _ => None,
        };
        self.src.is_none_or(|prefix| addresses.is_some_and(|(src, _)| prefix.contains(&src)))
            && self.dst.is_none_or(|prefix| addresses.is_some_and(|(_, dst)| prefix.contains(&dst)))
            && self.address.is_none_or(|prefix| either(&prefix, addresses))
            && self.outer_address.is_none_or(|prefix| either(&prefix, outer))
            && self.src_port.is_none_or(|range| ports.is_some_and(|(src, _)| within(range, src)))
            && self.dst_port.is_none_or(|range| ports.is_some_and(|(_, dst)| within(range, dst)))
            && self
                .l4_port
                .is_none_or(|range| ports.is_some_and(|(src, dst)| within(range, src) || within(range, dst)))
            && self.protocol.is_none_or(|wanted| protocol == Some(wanted))
            && self.tenant.is_none_or(|wanted| headers.tenant().unwrap_or(0) == wanted)
            && self.mac.is_none_or(|mac| inner.l2.is_some_and(|l2| l2.src == mac || l2.dst == mac))
    }

    /// True when packets with `tuple` that cross in `direction` are meant; wishes about what a tuple does not tell
    /// (MACs, outermost addresses) hold for none.
    pub fn admits_tuple(&self, tuple: &Tuple, direction: Direction) -> bool {
        let ports = |range: (u16, u16)| (within(range, tuple.src_port), within(range, tuple.dst_port));
        self.direction.is_none_or(|wanted| wanted == direction)
            && self.outer_address.is_none()
            && self.mac.is_none()
            && self.src.is_none_or(|prefix| prefix.contains(&tuple.src))
            && self.dst.is_none_or(|prefix| prefix.contains(&tuple.dst))
            && self.address.is_none_or(|prefix| prefix.contains(&tuple.src) || prefix.contains(&tuple.dst))
            && self.src_port.is_none_or(|range| ports(range).0)
            && self.dst_port.is_none_or(|range| ports(range).1)
            && self.l4_port.is_none_or(|range| ports(range).0 || ports(range).1)
            && self.protocol.is_none_or(|wanted| tuple.protocol == wanted)
            && self.tenant.is_none_or(|wanted| tuple.tenant == wanted)
    }
}

fn within((low, high): (u16, u16), port: u16) -> bool {
    low <= port && port <= high
}

fn addresses(l3: Option<L3>) -> Option<(IpAddr, IpAddr)> {
    match l3? {
        L3::Ip(ip) => Some((ip.addresses.src(), ip.addresses.dst())),
        L3::Arp(arp) => Some((arp.sender_ip.into(), arp.target_ip.into())),
    }
}

fn addresses_of_outermost(headers: &HeaderStack) -> Option<(IpAddr, IpAddr)> {
    addresses(headers.outermost().flow_id.l3)
}

fn ports(l4: Option<L4>) -> Option<(u16, u16)> {
    match l4? {
        L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports) => Some((ports.src, ports.dst)),
        L4::Icmp(icmp) | L4::Icmpv6(icmp) => icmp.id.map(|id| (id, id)),
        L4::Encap(_) => None,
    }
}

/// Flows and conversations of a port. The default admits all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// What its packets look like as they enter the port.
    pub packet: PacketFilter,
    /// A flow is meant, too, when the other side of its conversation is.
    pub pair: bool,
    /// A layer of this name answered by a rule or a layer flow.
    pub layer: Option<Name>,
    /// A rule of a group of this name did.
    pub group: Option<Name>,
    /// A rule of this name did.
    pub rule: Option<Name>,
    /// The flow has carried so many packets at least.
    pub min_packets: u64,
    /// It must (`true`), or need not (`false`), be resolved again when it is next hit.
    pub stale: Option<bool>,
    /// Of the flows that all of the above admits, every so many-th; 0 and 1 for all. The choice is the flow's own,
    /// so that two lists show the same ones. Ignored when flows are cleared.
    pub sample: u32,
}

impl FlowFilter {
    /// True when it asks for what only the rules of a flow's path tell.
    pub(crate) fn reads_path(&self) -> bool {
        self.layer.is_some() || self.group.is_some() || self.rule.is_some()
    }

    /// True when a rule at this place is meant.
    pub(crate) fn admits_rule(&self, layer: &str, group: Option<&str>, rule: Option<&str>) -> bool {
        let is = |wanted: &Option<Name>, name: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| name == Some(wanted))
        };
        is(&self.layer, Some(layer)) && is(&self.group, group) && is(&self.rule, rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Encap, EncapKind, FlowId, HeaderGroup, Ip, IpPair, L2, Ports};

    fn group(src: [u8; 4], dst: [u8; 4], l4: L4) -> HeaderGroup {
        let addresses = IpPair::V4 { src: src.into(), dst: dst.into() };
        let l2 = L2 { src: MacAddr([2, 0, 0, 0, 0, 1]), ..L2::default() };
        let l3 = L3::Ip(Ip { addresses, protocol: 17 });
        HeaderGroup { flow_id: FlowId { l2: Some(l2), l3: Some(l3), l4: Some(l4) }, ..HeaderGroup::default() }
    }

    fn tunnelled() -> HeaderStack {
        let vxlan = L4::Encap(Encap { kind: EncapKind::Vxlan, tenant: 77 });
        let inner = L4::Udp(Ports { src: 1000, dst: 53 });
        HeaderStack::new(&[
            group([172, 16, 0, 1], [172, 16, 0, 2], vxlan),
            group([10, 0, 0, 1], [10, 1, 0, 2], inner),
        ])
        .unwrap()
    }

    #[test]
    fn every_wish_is_asked_of_its_own_header() {
        let net = |text: &str| Some(text.parse::<IpNet>().unwrap());
        let none = PacketFilter::default;
        let cases = [
            (none(), true),
            (PacketFilter { direction: Some(Direction::Inbound), ..none() }, true),
            (PacketFilter { direction: Some(Direction::Outbound), ..none() }, false),
            (PacketFilter { src: net("10.0.0.0/16"), ..none() }, true),
            (PacketFilter { src: net("10.1.0.0/16"), ..none() }, false),
            (PacketFilter { src: net("172.16.0.0/16"), ..none() }, false),
            (PacketFilter { dst: net("10.1.0.2/32"), ..none() }, true),
            (PacketFilter { address: net("10.1.0.2/32"), ..none() }, true),
            (PacketFilter { address: net("172.16.0.2/32"), ..none() }, false),
            (PacketFilter { outer_address: net("172.16.0.2/32"), ..none() }, true),
            (PacketFilter { outer_address: net("10.0.0.0/8"), ..none() }, false),
            (PacketFilter { src: net("::/0"), ..none() }, false),
            (PacketFilter { src_port: Some((1000, 1000)), ..none() }, true),
            (PacketFilter { dst_port: Some((1000, 1000)), ..none() }, false),
            (PacketFilter { l4_port: Some((50, 60)), ..none() }, true),
            (PacketFilter { l4_port: Some((54, 999)), ..none() }, false),
            (PacketFilter { protocol: Some(17), ..none() }, true),
            (PacketFilter { protocol: Some(6), ..none() }, false),
            (PacketFilter { tenant: Some(77), ..none() }, true),
            (PacketFilter { tenant: Some(0), ..none() }, false),
            (PacketFilter { mac: Some(MacAddr([2, 0, 0, 0, 0, 1])), ..none() }, true),
            (PacketFilter { mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..none() }, false),
        ];
        let headers = tunnelled();
        let tuple = Tuple::of(&headers).unwrap();
        for (filter, expected) in cases {
            assert_eq!(filter.admits(&headers, Direction::Inbound), expected, "{filter:?}");
            if filter.mac.is_none() && filter.outer_address.is_none() {
                assert_eq!(filter.admits_tuple(&tuple, Direction::Inbound), expected, "{filter:?}");
            }
        }
    }
}
