//! The underlay as the host sees it: routes and neighbours, so that policy names remote addresses only (§10).

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::address::MacAddr;
use crate::switch::PortId;

/// Routes and neighbours of the host, as synchronised from the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Underlay {
    /// Routes; the longest prefix wins, then the lowest metric.
    pub routes: Vec<Route>,
    /// Resolved neighbours.
    pub neighbors: Vec<(IpAddr, MacAddr)>,
}

/// One route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The next router; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The uplink that it leaves by.
    pub uplink: PortId,
    /// Source address for packets that name none.
    pub source: Option<IpAddr>,
    /// Path MTU of the route where it is smaller than the uplink's.
    pub mtu: Option<u32>,
    /// Lower is preferred.
    pub metric: u32,
}

/// What the outer headers of a packet to a remote address get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The uplink to leave by.
    pub uplink: PortId,
    /// Outer destination MAC.
    pub mac: MacAddr,
    /// Outer source address where the rule names none.
    pub source: Option<IpAddr>,
    /// Largest packet without Ethernet header; 0 for the uplink's own.
    pub mtu: u32,
}

/// Why there is no next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnderlayError {
    /// No route covers the address.
    NoRoute,
    /// The next hop is known but has not answered yet; this address must be resolved.
    Unresolved(IpAddr),
}

type RoutesByNetwork = HashMap<IpAddr, usize, rapidhash::fast::RandomState>;

/// An [`Underlay`] arranged for lookups: for each prefix length that occurs, longest first, a table from network
/// to its best route. A lookup probes one table per length, whatever the number of routes.
#[derive(Debug, Default)]
pub(crate) struct UnderlayIndex {
    underlay: Underlay,
    /// Family and length, and the index of the best route by network.
    lengths: Vec<((bool, u8), RoutesByNetwork)>,
    neighbors: HashMap<IpAddr, MacAddr, rapidhash::fast::RandomState>,
}

impl UnderlayIndex {
    pub(crate) fn new(underlay: Underlay) -> Self {
        let mut index = UnderlayIndex::default();
        for (at, route) in underlay.routes.iter().enumerate() {
            let kind = (route.destination.addr().is_ipv4(), route.destination.prefix_len());
            let slot = match index.lengths.iter().position(|(other, _)| *other == kind) {
                Some(slot) => slot,
                None => {
                    index.lengths.push((kind, HashMap::default()));
                    index.lengths.len() - 1
                }
            };
            let best = index.lengths[slot].1.entry(route.destination.network()).or_insert(at);
            if route.metric < underlay.routes[*best].metric {
                *best = at;
            }
        }
        index.lengths.sort_by_key(|((_, length), _)| core::cmp::Reverse(*length));
        index.neighbors = underlay.neighbors.iter().copied().collect();
        index.underlay = underlay;
        index
    }

    /// The values that it was made of.
    pub(crate) fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// How to reach `remote`.
    pub(crate) fn next_hop(&self, remote: IpAddr) -> Result<NextHop, UnderlayError> {
        let route = self.route(remote).ok_or(UnderlayError::NoRoute)?;
        let hop = route.gateway.unwrap_or(remote);
        let mac = *self.neighbors.get(&hop).ok_or(UnderlayError::Unresolved(hop))?;
        Ok(NextHop { uplink: route.uplink, mac, source: route.source, mtu: route.mtu.unwrap_or(0) })
    }

    fn route(&self, remote: IpAddr) -> Option<&Route> {
        self.lengths.iter().find_map(|((is_v4, length), routes)| {
            let network = IpNet::new(remote, *length).ok().filter(|_| *is_v4 == remote.is_ipv4())?.network();
            self.underlay.routes.get(*routes.get(&network)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, gateway: Option<&str>, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            uplink: PortId(9),
            source: None,
            mtu: None,
            metric,
        }
    }

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let routes = Vec::from([
            route("0.0.0.0/0", Some("10.0.0.1"), 0),
            route("10.0.0.0/24", None, 0),
            route("10.1.0.0/16", Some("10.0.0.2"), 20),
            route("10.1.0.0/16", Some("10.0.0.3"), 10),
            route("fd00::/8", None, 0),
        ]);
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let neighbors =
            Vec::from([(at("10.0.0.1"), mac(1)), (at("10.0.0.3"), mac(3)), (at("10.0.0.7"), mac(7))]);
        let index = UnderlayIndex::new(Underlay { routes, neighbors });
        assert_eq!(index.next_hop(at("8.8.8.8")).map(|hop| hop.mac), Ok(mac(1)));
        assert_eq!(index.next_hop(at("10.1.2.3")).map(|hop| hop.mac), Ok(mac(3)));
        assert_eq!(index.next_hop(at("10.0.0.7")).map(|hop| hop.mac), Ok(mac(7)));
        assert_eq!(index.next_hop(at("10.0.0.8")), Err(UnderlayError::Unresolved(at("10.0.0.8"))));
        assert_eq!(index.next_hop(at("fd00::1")), Err(UnderlayError::Unresolved(at("fd00::1"))));
        assert_eq!(index.next_hop(at("fe80::1")), Err(UnderlayError::NoRoute));
    }
}
