//! The underlay as the host sees it: routes and neighbours, so that policy names remote addresses only (§10).

use alloc::vec::Vec;
use core::net::IpAddr;

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

impl Underlay {
    /// How to reach `remote`.
    pub fn next_hop(&self, remote: IpAddr) -> Result<NextHop, UnderlayError> {
        let route = self
            .routes
            .iter()
            .filter(|route| route.destination.contains(&remote))
            .max_by_key(|route| (route.destination.prefix_len(), core::cmp::Reverse(route.metric)))
            .ok_or(UnderlayError::NoRoute)?;
        let hop = route.gateway.unwrap_or(remote);
        let mac = self.neighbors.iter().find(|(address, _)| *address == hop).map(|(_, mac)| *mac);
        let mac = mac.ok_or(UnderlayError::Unresolved(hop))?;
        Ok(NextHop { uplink: route.uplink, mac, source: route.source, mtu: route.mtu.unwrap_or(0) })
    }
}
