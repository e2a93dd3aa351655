//! Respond: the packet is answered here, and the reply goes back through the layers already crossed (§3.5).
//!
//! What a request *is* can be seen from its headers, and that is all that an action reads. What it *says*, where that
//! matters (DHCP, DNS), is read when the answer is made, see [`Reply`].

mod dhcp;
mod dhcpv6;

pub use dhcp::Dhcp;
pub use dhcpv6::Dhcpv6;

use alloc::sync::Arc;

use core::net::IpAddr;

use super::{ActionInput, Effect, Outcome, Reply};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{L3, L4};
use crate::packet::{DHCP_SERVER_PORT, DHCPV6_SERVER_PORT, DNS_PORT, RouterAdvertisement};
use crate::resource::{DnsTableId, Lease, LeaseTableId, Lookup, MappingId, MappingKey, Resources};

/// Answer the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Respond {
    /// ARP requests.
    Arp(MacSource),
    /// Neighbour solicitations (RFC 4861 §7.2).
    NeighborDiscovery(MacSource),
    /// ICMP and ICMPv6 echo requests.
    Echo,
    /// DHCP for IPv4.
    Dhcp(Arc<Dhcp>),
    /// DHCPv6.
    Dhcpv6(Arc<Dhcpv6>),
    /// DNS queries over UDP, from this table.
    Dns(DnsTableId),
    /// Router solicitations.
    RouterAdvertisement(Arc<RouterAdvertisement>),
}

/// Where a client's lease comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseSource {
    /// The client of this port always has this one.
    Fixed(Lease),
    /// The lease of the client's MAC.
    Table(LeaseTableId),
}

impl LeaseSource {
    fn of<'a>(&'a self, client: MacAddr, resources: &'a Resources) -> Option<&'a Lease> {
        match self {
            LeaseSource::Fixed(lease) => Some(lease),
            LeaseSource::Table(table) => resources.lease_table(*table).lookup(client),
        }
    }
}

/// Where the MAC of an answer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacSource {
    /// Always this one (an anycast gateway).
    Fixed(MacAddr),
    /// The mapping of the requested address; a miss drops the request.
    Mapping {
        /// The table.
        mapping: MappingId,
        /// The tenant whose entries are looked up; 0 for a table of one tenant.
        key_tenant: u32,
    },
}

impl Respond {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let mut looked_up = None;
        let effect = match self.reply(input, &mut looked_up) {
            Ok(reply) => Effect { outcome: Outcome::Reply(reply), ..Effect::default() },
            Err(reason) => Effect::drop(reason),
        };
        Effect { looked_up, ..effect }
    }

    fn reply(&self, input: &ActionInput<'_>, looked_up: &mut Option<Lookup>) -> Result<Reply, DropReason> {
        let group = input.headers.innermost();
        let id = &group.flow_id;
        match (self, id.l3, id.l4) {
            (Respond::Arp(source), Some(L3::Arp(arp)), _) if arp.operation == 1 => {
                Ok(Reply::Arp(source.mac(input, arp.target_ip.into(), looked_up)?))
            }
            (Respond::NeighborDiscovery(source), _, Some(L4::Icmpv6(icmp))) if icmp.kind == 135 => {
                let target = group.extra.nd_target.ok_or(DropReason::CannotRespond)?;
                Ok(Reply::NeighborAdvertisement(source.mac(input, target.into(), looked_up)?))
            }
            (Respond::RouterAdvertisement(advertisement), _, Some(L4::Icmpv6(icmp))) if icmp.kind == 133 => {
                Ok(Reply::RouterAdvertisement(Arc::clone(advertisement)))
            }
            (Respond::Dhcp(dhcp), _, Some(L4::Udp(ports))) if ports.dst == DHCP_SERVER_PORT => {
                Ok(Reply::Dhcp(Arc::clone(dhcp)))
            }
            (Respond::Dhcpv6(dhcp), _, Some(L4::Udp(ports))) if ports.dst == DHCPV6_SERVER_PORT => {
                Ok(Reply::Dhcpv6(Arc::clone(dhcp)))
            }
            (Respond::Dns(table), _, Some(L4::Udp(ports))) if ports.dst == DNS_PORT => Ok(Reply::Dns(*table)),
            (Respond::Echo, Some(L3::Ip(_)), Some(L4::Icmp(icmp))) if icmp.kind == 8 => Ok(Reply::Echo),
            (Respond::Echo, Some(L3::Ip(_)), Some(L4::Icmpv6(icmp))) if icmp.kind == 128 => Ok(Reply::Echo),
            _ => Err(DropReason::CannotRespond),
        }
    }
}

impl MacSource {
    fn mac(
        &self,
        input: &ActionInput<'_>,
        address: IpAddr,
        looked_up: &mut Option<Lookup>,
    ) -> Result<MacAddr, DropReason> {
        match *self {
            MacSource::Fixed(mac) => Ok(mac),
            MacSource::Mapping { mapping, key_tenant } => {
                let lookup = Lookup { mapping, key: MappingKey { tenant: key_tenant, address } };
                *looked_up = Some(lookup);
                input.mappings.find(&lookup).map(|mapping| mapping.mac).ok_or(DropReason::MappingMiss)
            }
        }
    }
}
