//! The underlay as the host sees it: routes and neighbours, so that policy names remote addresses only (§10).

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::address::MacAddr;
use crate::resource::mix;
use crate::switch::PortId;

/// Routes and neighbours of the host, as synchronised from the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Underlay {
    /// Routes; the longest prefix wins, then the lowest metric. Routes that are equal in both share the flows: each flow
    /// takes one of those whose next hop has a MAC, by the hash that tunnels carry as entropy.
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
    /// A next hop that the flow would rather take and that must be resolved.
    pub wanted: Option<IpAddr>,
}

/// Why there is no next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnderlayError {
    /// No route covers the address.
    NoRoute,
    /// The next hop is known but has not answered yet; this address must be resolved.
    Unresolved(IpAddr),
}

type RoutesByNetwork = HashMap<IpAddr, Vec<usize>, rapidhash::fast::RandomState>;

/// An [`Underlay`] arranged for lookups: for each prefix length that occurs, longest first, a table from network
/// to its best routes. A lookup probes one table per length, whatever the number of routes.
///
/// Among several best routes a flow takes the one whose next hop, hashed together with the flow, gives the highest
/// number (rendezvous hashing). When a next hop goes, only its flows move; when it comes back, only they return.
#[derive(Debug, Default)]
pub(crate) struct UnderlayIndex {
    underlay: Underlay,
    /// Family and length, and the indexes of the best routes by network.
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
            let best = index.lengths[slot].1.entry(route.destination.network()).or_default();
            let metric = best.first().map_or(u32::MAX, |known| underlay.routes[*known].metric);
            if route.metric < metric {
                best.clear();
            }
            if best.is_empty() || route.metric == metric {
                best.push(at);
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

    /// How the flow with this hash reaches `remote`.
    pub(crate) fn next_hop(&self, remote: IpAddr, flow: u64) -> Result<NextHop, UnderlayError> {
        let mut best: Option<(u64, &Route, MacAddr)> = None;
        let mut favourite: Option<(u64, IpAddr)> = None;
        for route in self.routes(remote).ok_or(UnderlayError::NoRoute)? {
            let hop = route.gateway.unwrap_or(remote);
            let weight = weight(flow, hop, route.uplink);
            if favourite.is_none_or(|(most, _)| weight > most) {
                favourite = Some((weight, hop));
            }
            let Some(mac) = self.neighbors.get(&hop) else { continue };
            if best.is_none_or(|(most, ..)| weight > most) {
                best = Some((weight, route, *mac));
            }
        }
        let (_, favourite) = favourite.ok_or(UnderlayError::NoRoute)?;
        let (_, route, mac) = best.ok_or(UnderlayError::Unresolved(favourite))?;
        let wanted = Some(favourite).filter(|hop| !self.neighbors.contains_key(hop));
        Ok(NextHop { uplink: route.uplink, mac, source: route.source, mtu: route.mtu.unwrap_or(0), wanted })
    }

    /// The best routes to `remote`, equal among each other.
    fn routes(&self, remote: IpAddr) -> Option<impl Iterator<Item = &Route>> {
        let best = self.lengths.iter().find_map(|((is_v4, length), routes)| {
            let network = IpNet::new(remote, *length).ok().filter(|_| *is_v4 == remote.is_ipv4())?.network();
            routes.get(&network)
        })?;
        Some(best.iter().filter_map(|at| self.underlay.routes.get(*at)))
    }
}

/// How much the flow with this hash likes a next hop.
fn weight(flow: u64, hop: IpAddr, uplink: PortId) -> u64 {
    let bits = match hop {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let hop = mix(mix((bits >> 64) as u64 ^ u64::from(uplink.0)) ^ bits as u64);
    mix(flow ^ hop)
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
        assert_eq!(index.next_hop(at("8.8.8.8"), 0).map(|hop| hop.mac), Ok(mac(1)));
        assert_eq!(index.next_hop(at("10.1.2.3"), 0).map(|hop| hop.mac), Ok(mac(3)));
        assert_eq!(index.next_hop(at("10.0.0.7"), 0).map(|hop| hop.mac), Ok(mac(7)));
        assert_eq!(index.next_hop(at("10.0.0.8"), 0), Err(UnderlayError::Unresolved(at("10.0.0.8"))));
        assert_eq!(index.next_hop(at("fd00::1"), 0), Err(UnderlayError::Unresolved(at("fd00::1"))));
        assert_eq!(index.next_hop(at("fe80::1"), 0), Err(UnderlayError::NoRoute));
    }

    /// Three equal routes; those next hops have a MAC whose last number is in `resolved`.
    fn shared(resolved: &[u8]) -> UnderlayIndex {
        let routes = (1..=3).map(|n| route("10.1.0.0/16", Some(&alloc::format!("10.0.0.{n}")), 5));
        let worse = [route("10.1.0.0/16", Some("10.0.0.9"), 6)];
        let neighbors = resolved
            .iter()
            .chain(&[9])
            .map(|n| (IpAddr::V4([10, 0, 0, *n].into()), MacAddr([2, 0, 0, 0, 0, *n])));
        UnderlayIndex::new(Underlay { routes: routes.chain(worse).collect(), neighbors: neighbors.collect() })
    }

    const FLOWS: u64 = 3_000;

    fn chosen(index: &UnderlayIndex, flow: u64) -> NextHop {
        index.next_hop("10.1.2.3".parse().unwrap(), mix(flow)).unwrap()
    }

    #[test]
    fn equal_routes_share_the_flows_evenly() {
        let index = shared(&[1, 2, 3]);
        let mut counts = [0; 4];
        for flow in 0..FLOWS {
            let hop = chosen(&index, flow);
            assert_eq!(hop.wanted, None);
            counts[hop.mac.0[5] as usize] += 1;
        }
        assert!(counts[1..].iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_the_flows_of_a_dead_next_hop_move_and_it_is_asked_for() {
        let (all, without) = (shared(&[1, 2, 3]), shared(&[1, 3]));
        for flow in 0..FLOWS {
            let (before, after) = (chosen(&all, flow), chosen(&without, flow));
            if before.mac.0[5] == 2 {
                assert_ne!(after.mac.0[5], 9, "a worse route is not used while an equal one is left");
                assert_eq!(after.wanted, Some("10.0.0.2".parse().unwrap()));
            } else {
                assert_eq!(before, after);
            }
        }
        let none = shared(&[]).next_hop("10.1.2.3".parse().unwrap(), 7);
        assert!(matches!(none, Err(UnderlayError::Unresolved(_))), "{none:?}");
    }
}
