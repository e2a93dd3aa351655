//! Respond: the packet is answered here, and the reply goes back through the layers already crossed (§3.5).

use super::{ActionInput, Effect, Outcome, Reply};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{L3, L4};
use crate::resource::{MappingId, MappingKey};

/// Answer the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Respond {
    /// ARP requests.
    Arp(MacSource),
    /// Neighbour solicitations (RFC 4861 §7.2).
    NeighborDiscovery(MacSource),
    /// ICMP and ICMPv6 echo requests.
    Echo,
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
        match self.reply(input) {
            Ok(reply) => Effect { outcome: Outcome::Reply(reply), ..Effect::default() },
            Err(reason) => Effect::drop(reason),
        }
    }

    fn reply(&self, input: &ActionInput<'_>) -> Result<Reply, DropReason> {
        let group = input.headers.innermost();
        let id = &group.flow_id;
        match (self, id.l3, id.l4) {
            (Respond::Arp(source), Some(L3::Arp(arp)), _) if arp.operation == 1 => {
                Ok(Reply::Arp(source.mac(input, core::net::IpAddr::V4(arp.target_ip))?))
            }
            (Respond::NeighborDiscovery(source), _, Some(L4::Icmpv6(icmp))) if icmp.kind == 135 => {
                let target = group.extra.nd_target.ok_or(DropReason::CannotRespond)?;
                Ok(Reply::NeighborAdvertisement(source.mac(input, core::net::IpAddr::V6(target))?))
            }
            (Respond::Echo, Some(L3::Ip(_)), Some(L4::Icmp(icmp))) if icmp.kind == 8 => Ok(Reply::Echo),
            (Respond::Echo, Some(L3::Ip(_)), Some(L4::Icmpv6(icmp))) if icmp.kind == 128 => Ok(Reply::Echo),
            _ => Err(DropReason::CannotRespond),
        }
    }
}

impl MacSource {
    fn mac(&self, input: &ActionInput<'_>, address: core::net::IpAddr) -> Result<MacAddr, DropReason> {
        match *self {
            MacSource::Fixed(mac) => Ok(mac),
            MacSource::Mapping { mapping, key_tenant } => input
                .resources
                .mapping(mapping)
                .lookup(&MappingKey { tenant: key_tenant, address })
                .map(|mapping| mapping.mac)
                .ok_or(DropReason::MappingMiss),
        }
    }
}
