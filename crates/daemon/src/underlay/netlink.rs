//! Route netlink messages, read as changes of [`Facts`](super::facts::Facts).
//!
//! Only what an underlay needs is kept; a message of another kind, table or family is no change.

use std::net::IpAddr;

use ipnet::IpNet;
use lamina_core::address::MacAddr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};

use super::facts::{Change, Link, Neighbor, RouteFact, RouteKey};

/// The kernel's main routing table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;
/// A message that replaces an existing object (`NLM_F_REPLACE`).
const REPLACE_FLAG: u16 = 0x100;

/// The change that a message, with the flags of its netlink header, tells of.
pub(super) fn change(message: &RouteNetlinkMessage, flags: u16) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) => self::link(link),
        RouteNetlinkMessage::DelLink(link) => {
            // A bridge announces that a port left it by a DelLink of its own family; the link itself stays.
            let gone = link.header.interface_family == AddressFamily::Unspec;
            gone.then_some(Change::LinkGone(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(message) => {
            let (index, address) = address(message)?;
            Some(Change::Address(index, address))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            let (index, address) = address(message)?;
            Some(Change::AddressGone(index, address))
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let hops = route(message, RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown)?;
            Some(Change::Route { hops, replaces: flags & REPLACE_FLAG != 0 })
        }
        RouteNetlinkMessage::DelRoute(message) => Some(Change::RouteGone(
            route(message, RouteNextHopFlags::empty())?.into_iter().map(|(key, _)| key).collect(),
        )),
        RouteNetlinkMessage::NewNeighbour(message) => {
            let (index, address) = neighbor_key(message)?;
            Some(Change::Neighbor(index, address, neighbor(message)))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            let (index, address) = neighbor_key(message)?;
            Some(Change::NeighborGone(index, address))
        }
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

fn link(message: &LinkMessage) -> Option<Change> {
    let flags = message.header.flags;
    let (up, carrier) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::Running));
    let mut link = Link { name: String::new(), mac: None, mtu: 0, up, carrier };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    // Messages of other families (bridge ports, IPv6 device settings) describe the link in part only.
    let whole = message.header.interface_family == AddressFamily::Unspec && !link.name.is_empty();
    whole.then_some(Change::Link(message.header.index, link))
}

fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // On point-to-point links `Address` is the peer's and `Local` is ours; elsewhere they are the same, and IPv6
    // sends `Address` only.
    let mut local = None;
    let mut other = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => other = Some(*ip),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// A route's next hops, without those that have one of the flags `without`.
fn route(message: &RouteMessage, without: RouteNextHopFlags) -> Option<Vec<(RouteKey, RouteFact)>> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut fact = RouteFact { source: None, mtu: None };
    let (mut metric, mut interface, mut gateway) = (0, None, None);
    let mut multipath = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::PrefSource(address) => fact.source = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => {
                fact.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops.iter().filter(|hop| !hop.flags.intersects(without)) {
                    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => ip(address),
                        RouteAttribute::Via(via) => via_ip(via),
                        _ => None,
                    });
                    multipath.push((hop.interface_index, gateway));
                }
            }
            _ => {}
        }
    }
    if table != MAIN_TABLE {
        return None;
    }
    if multipath.is_empty() {
        multipath.push((interface?, gateway));
    }
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?.trunc();
    let hops = multipath
        .into_iter()
        .map(|(interface, gateway)| (RouteKey { destination, metric, interface, gateway }, fact.clone()));
    Some(hops.collect())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteVia::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn neighbor_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    Some((message.header.ifindex, address?))
}

fn neighbor(message: &NeighbourMessage) -> Neighbor {
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    Neighbor {
        mac: address.filter(|mac| usable && *mac != MacAddr::ZERO && !mac.is_multicast()),
        stale: message.header.state == NeighbourState::Stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route_message(table: u8, kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = table;
        message.header.kind = kind;
        message.header.destination_prefix_length = 24;
        message.attributes = attributes;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet([10, 1, 2, 0].into())));
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn local_broadcast_and_other_tables_are_no_routes() {
        let oif = || vec![RouteAttribute::Oif(3)];
        assert!(change(&route_message(254, RouteType::Unicast, oif()), 0).is_some());
        assert!(change(&route_message(255, RouteType::Local, oif()), 0).is_none());
        assert!(change(&route_message(255, RouteType::Unicast, oif()), 0).is_none());
        assert!(change(&route_message(254, RouteType::BlackHole, oif()), 0).is_none());
        let high_table = vec![RouteAttribute::Oif(3), RouteAttribute::Table(1000)];
        assert!(change(&route_message(252, RouteType::Unicast, high_table), 0).is_none());
    }

    #[test]
    fn metrics_gateways_and_replacement_are_read() {
        let attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())),
            RouteAttribute::Priority(7),
            RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Mtu(1400)]),
        ];
        let change = change(&route_message(254, RouteType::Unicast, attributes), REPLACE_FLAG);
        let Some(Change::Route { hops, replaces: true }) = change else { panic!("{change:?}") };
        let [(key, fact)] = hops.as_slice() else { panic!("{hops:?}") };
        assert_eq!(key.gateway, Some(IpAddr::V4([10, 0, 0, 1].into())));
        assert_eq!((key.metric, key.interface, fact.mtu), (7, 3, Some(1400)));
    }

    #[test]
    fn a_failed_neighbour_has_no_mac_even_when_one_is_still_listed() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 1].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        for (state, usable, stale) in [
            (NeighbourState::Reachable, true, false),
            (NeighbourState::Stale, true, true),
            (NeighbourState::Permanent, true, false),
            (NeighbourState::Failed, false, false),
            (NeighbourState::Incomplete, false, false),
        ] {
            message.header.state = state;
            let told = change(&RouteNetlinkMessage::NewNeighbour(message.clone()), 0);
            let Some(Change::Neighbor(3, _, neighbor)) = told else { panic!("{told:?}") };
            assert_eq!((neighbor.mac.is_some(), neighbor.stale), (usable, stale), "{state:?}");
        }
    }
}
