//! What the kernel said about links, addresses, routes and neighbours, and the snapshot that follows from it.
//!
//! Facts are kept as the kernel numbers them (interface indexes, route keys) so that a change message is applied
//! in place; `Facts::snapshot` then derives what the switch wants. It is a pure function, so its rules are
//! tested without a kernel:
//!
//! - only unicast routes of the main table that leave by an uplink count, on-link or through a gateway;
//! - a route's source is its preferred source, else an address of the uplink in the next hop's prefix, else the
//!   first of the family (what the kernel does for a packet of its own);
//! - a neighbour counts while its MAC may be used: reachable, stale, delay, probe, permanent, noarp.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lamina_core::address::MacAddr;
use lamina_core::switch::{Route, Underlay, UplinkConfig};

use super::UplinkInterface;

/// What the switch needs to know, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The uplinks whose interfaces exist, are up and have a MAC, in the order they were asked for.
    pub uplinks: Vec<(lamina_core::switch::PortId, UplinkConfig)>,
    /// Routes and neighbours over them.
    pub underlay: Underlay,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let same_uplink = |(a_id, a): &(_, UplinkConfig), (b_id, b): &(_, UplinkConfig)| {
            a_id == b_id && (&a.name, a.mac, &a.addresses, a.mtu) == (&b.name, b.mac, &b.addresses, b.mtu)
        };
        self.underlay == other.underlay
            && self.uplinks.len() == other.uplinks.len()
            && self.uplinks.iter().zip(&other.uplinks).all(|(a, b)| same_uplink(a, b))
    }
}

/// A link as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// The other end is there.
    pub(crate) carrier: bool,
}

/// What makes a route the same route in a later message.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RouteKey {
    pub(crate) destination: IpNet,
    pub(crate) metric: u32,
    pub(crate) interface: u32,
    pub(crate) gateway: Option<IpAddr>,
}

/// The rest of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RouteFact {
    pub(crate) source: Option<IpAddr>,
    pub(crate) mtu: Option<u32>,
}

/// A neighbour that has, or may get, a MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Neighbor {
    /// The MAC, when it may be used.
    pub(crate) mac: Option<MacAddr>,
    /// Not confirmed lately; the kernel verifies it only when it is used.
    pub(crate) stale: bool,
}

/// Everything that was learned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) links: BTreeMap<u32, Link>,
    /// Addresses in the order the kernel lists them; the first of a family is the primary one.
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: BTreeMap<RouteKey, RouteFact>,
    pub(crate) neighbors: BTreeMap<(u32, IpAddr), Neighbor>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Link(u32, Link),
    LinkGone(u32),
    Address(u32, IpNet),
    AddressGone(u32, IpNet),
    /// A route with its next hops, one entry each.
    Route {
        hops: Vec<(RouteKey, RouteFact)>,
        /// The message replaces what the kernel had under the same destination and metric.
        replaces: bool,
    },
    RouteGone(Vec<RouteKey>),
    Neighbor(u32, IpAddr, Neighbor),
    NeighborGone(u32, IpAddr),
}

impl Facts {
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Link(index, link) => {
                self.links.insert(index, link);
            }
            Change::LinkGone(index) => {
                // The kernel announces what goes with a link, but not for every family; nothing of it is left.
                self.links.remove(&index);
                self.addresses.retain(|(interface, _)| *interface != index);
                self.routes.retain(|key, _| key.interface != index);
                self.neighbors.retain(|(interface, _), _| *interface != index);
            }
            Change::Address(index, address) => {
                if !self.addresses.contains(&(index, address)) {
                    self.addresses.push((index, address));
                }
            }
            Change::AddressGone(index, address) => {
                self.addresses.retain(|known| *known != (index, address));
            }
            Change::Route { hops, replaces } => {
                if replaces && let Some((new, _)) = hops.first() {
                    let (destination, metric) = (new.destination, new.metric);
                    self.routes.retain(|key, _| key.destination != destination || key.metric != metric);
                }
                self.routes.extend(hops);
            }
            Change::RouteGone(keys) => {
                for key in keys {
                    self.routes.remove(&key);
                }
            }
            Change::Neighbor(index, address, neighbor) => {
                self.neighbors.insert((index, address), neighbor);
            }
            Change::NeighborGone(index, address) => {
                self.neighbors.remove(&(index, address));
            }
        }
    }

    /// What the switch needs to know, for these uplinks.
    pub(crate) fn snapshot(&self, uplinks: &[UplinkInterface]) -> Snapshot {
        let mut by_index = BTreeMap::new();
        let mut configs = Vec::new();
        for uplink in uplinks {
            let found = self.links.iter().find(|(_, link)| link.name == uplink.interface);
            let Some((index, link)) = found else { continue };
            let (true, Some(mac)) = (link.up, link.mac) else { continue };
            by_index.insert(*index, uplink.id);
            configs.push((
                uplink.id,
                UplinkConfig {
                    name: uplink.interface.as_str().into(),
                    mac,
                    addresses: self
                        .addresses_of(*index)
                        .chain(self.of_no_link())
                        .map(|it| it.addr())
                        .collect(),
                    mtu: link.mtu,
                },
            ));
        }
        let routes = self
            .routes
            .iter()
            .filter_map(|(key, route)| {
                Some(Route {
                    destination: key.destination,
                    gateway: key.gateway,
                    uplink: *by_index.get(&key.interface)?,
                    source: route.source.or_else(|| self.source_for(key)),
                    mtu: route.mtu,
                    metric: key.metric,
                })
            })
            .collect();
        let neighbors = self
            .neighbors
            .iter()
            .filter(|((interface, _), _)| by_index.contains_key(interface))
            .filter_map(|((_, address), neighbor)| Some((*address, neighbor.mac?)))
            .collect();
        Snapshot { uplinks: configs, underlay: Underlay { routes, neighbors } }
    }

    fn addresses_of(&self, index: u32) -> impl Iterator<Item = &IpNet> {
        self.addresses.iter().filter(move |(interface, _)| *interface == index).map(|(_, address)| address)
    }

    /// Addresses that the host has whatever becomes of its links: those of the loopback device that others may know.
    fn of_no_link(&self) -> impl Iterator<Item = &IpNet> {
        let is_loopback = |index: &u32| self.links.get(index).is_some_and(|link| link.name == "lo");
        self.addresses
            .iter()
            .filter(move |(interface, address)| is_loopback(interface) && !address.addr().is_loopback())
            .map(|(_, address)| address)
    }

    fn source_for(&self, key: &RouteKey) -> Option<IpAddr> {
        let hop = key.gateway.unwrap_or(key.destination.network());
        let of_family = || {
            self.addresses_of(key.interface)
                .filter(|address| address.addr().is_ipv4() == key.destination.addr().is_ipv4())
        };
        of_family()
            .find(|address| address.contains(&hop))
            .or_else(|| of_family().find(|address| !is_link_local(address.addr())))
            .map(|address| address.addr())
    }

    /// True for the gateway of a route that leaves by one of `uplinks`.
    pub(crate) fn is_gateway(&self, address: IpAddr, uplinks: &[UplinkInterface]) -> bool {
        self.routes.keys().any(|key| key.gateway == Some(address) && self.is_uplink(key.interface, uplinks))
    }

    fn is_uplink(&self, index: u32, uplinks: &[UplinkInterface]) -> bool {
        self.links.get(&index).is_some_and(|link| uplinks.iter().any(|uplink| uplink.interface == link.name))
    }

    /// The interface by which the kernel would reach `hop`, a next hop, among those of `uplinks`.
    pub(crate) fn interface_towards(&self, hop: IpAddr, uplinks: &[UplinkInterface]) -> Option<u32> {
        let is_uplink = |index: u32| self.is_uplink(index, uplinks);
        let gateway = self.routes.keys().find(|key| key.gateway == Some(hop) && is_uplink(key.interface));
        let on_link = || {
            self.routes
                .keys()
                .filter(|key| key.gateway.is_none() && key.destination.contains(&hop))
                .filter(|key| is_uplink(key.interface))
                .max_by_key(|key| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)))
        };
        gateway.or_else(on_link).map(|key| key.interface)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_core::switch::PortId;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn key(destination: &str, interface: u32, gateway: Option<&str>, metric: u32) -> RouteKey {
        RouteKey { destination: net(destination), metric, interface, gateway: gateway.map(ip) }
    }

    fn add(facts: &mut Facts, key: RouteKey, mtu: Option<u32>) {
        let fact = RouteFact { source: None, mtu };
        facts.apply(Change::Route { hops: vec![(key, fact)], replaces: false });
    }

    fn host() -> (Facts, Vec<UplinkInterface>) {
        let mut facts = Facts::default();
        let link =
            |name: &str| Link { name: name.into(), mac: Some(MAC), mtu: 1500, up: true, carrier: true };
        facts.apply(Change::Link(1, Link { mac: None, ..link("lo") }));
        facts.apply(Change::Link(2, link("underlay")));
        facts.apply(Change::Link(3, link("management")));
        facts.apply(Change::Address(2, net("169.254.1.1/16")));
        facts.apply(Change::Address(2, net("192.168.50.1/24")));
        facts.apply(Change::Address(2, net("fd00::1/64")));
        facts.apply(Change::Address(3, net("10.0.0.1/8")));
        facts.apply(Change::Address(1, net("127.0.0.1/8")));
        facts.apply(Change::Address(1, net("10.255.0.1/32")));
        add(&mut facts, key("192.168.50.0/24", 2, None, 0), None);
        add(&mut facts, key("fd00::/64", 2, None, 256), None);
        add(&mut facts, key("172.16.0.0/12", 2, Some("192.168.50.254"), 0), Some(1400));
        add(&mut facts, key("172.17.0.0/16", 3, None, 0), None);
        facts.apply(Change::Neighbor(2, ip("192.168.50.254"), Neighbor { mac: Some(ROUTER), stale: true }));
        facts.apply(Change::Neighbor(2, ip("192.168.50.7"), Neighbor { mac: None, stale: false }));
        (facts, vec![UplinkInterface { id: PortId(1000), interface: "underlay".into() }])
    }

    #[test]
    fn only_what_belongs_to_uplinks_is_told() {
        let (facts, uplinks) = host();
        let snapshot = facts.snapshot(&uplinks);
        let [(PortId(1000), uplink)] = snapshot.uplinks.as_slice() else { panic!("{snapshot:?}") };
        let of_the_host = ip("10.255.0.1");
        assert_eq!(uplink.addresses, [ip("169.254.1.1"), ip("192.168.50.1"), ip("fd00::1"), of_the_host]);
        assert_eq!((uplink.mac, uplink.mtu), (MAC, 1500));
        assert_eq!(snapshot.underlay.routes.len(), 3, "not the management route");
        let routed =
            |prefix: &str| snapshot.underlay.routes.iter().find(|r| r.destination == net(prefix)).unwrap();
        let far = routed("172.16.0.0/12");
        assert_eq!((far.gateway, far.mtu), (Some(ip("192.168.50.254")), Some(1400)));
        assert_eq!(far.source, Some(ip("192.168.50.1")), "the address in the gateway's prefix");
        assert_eq!(routed("fd00::/64").source, Some(ip("fd00::1")));
        let known = [(ip("192.168.50.254"), ROUTER)];
        assert_eq!(snapshot.underlay.neighbors, known, "not the one without a MAC");
    }

    #[test]
    fn an_interface_that_is_down_takes_its_routes_along() {
        let (mut facts, uplinks) = host();
        let down = Link { name: "underlay".into(), mac: Some(MAC), mtu: 1500, up: false, carrier: false };
        facts.apply(Change::Link(2, down));
        let snapshot = facts.snapshot(&uplinks);
        assert!(snapshot.uplinks.is_empty() && snapshot.underlay == Underlay::default());
        facts.apply(Change::LinkGone(2));
        assert!(facts.routes.keys().all(|key| key.interface == 3));
        assert!(facts.neighbors.is_empty());
    }

    #[test]
    fn a_replaced_route_leaves_nothing_of_the_old_one() {
        let (mut facts, uplinks) = host();
        let new = key("172.16.0.0/12", 2, Some("192.168.50.253"), 0);
        let fact = RouteFact { source: Some(ip("192.168.50.99")), mtu: None };
        facts.apply(Change::Route { hops: vec![(new.clone(), fact)], replaces: true });
        let routes = facts.snapshot(&uplinks).underlay.routes;
        let matching: Vec<_> = routes.iter().filter(|r| r.destination == net("172.16.0.0/12")).collect();
        assert_eq!(matching.len(), 1);
        assert_eq!(matching[0].gateway, Some(ip("192.168.50.253")));
        assert_eq!(matching[0].source, Some(ip("192.168.50.99")), "the preferred source wins");
        facts.apply(Change::RouteGone(vec![new]));
        assert_eq!(facts.snapshot(&uplinks).underlay.routes.len(), 2);
    }

    #[test]
    fn the_interface_of_a_next_hop_is_an_uplink() {
        let (facts, uplinks) = host();
        assert_eq!(facts.interface_towards(ip("192.168.50.7"), &uplinks), Some(2));
        assert_eq!(facts.interface_towards(ip("192.168.50.254"), &uplinks), Some(2));
        assert_eq!(facts.interface_towards(ip("172.17.0.1"), &uplinks), None);
        assert!(facts.is_gateway(ip("192.168.50.254"), &uplinks));
        assert!(!facts.is_gateway(ip("192.168.50.7"), &uplinks), "on the link, but nothing is routed by it");
        assert!(!facts.is_gateway(ip("192.168.50.254"), &[]));
    }
}
