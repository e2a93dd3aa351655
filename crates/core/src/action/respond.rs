//! Respond: the packet is answered here, and the reply goes back through the layers already crossed (§3.5).

use core::net::IpAddr;

use super::{ActionInput, Effect, Outcome, Reply};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{L3, L4};
use crate::resource::{Lookup, MappingId, MappingKey};

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
