//! Replies: what a responder decided to answer, and how it becomes bytes once the walk through the layers is over.

use alloc::sync::Arc;

use super::respond::{Dhcp, Dhcpv6};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::packet::{
    Answered, Packet, Parsed, RouterAdvertisement, dns_declines, parse, reply_arp, reply_dns, reply_echo,
    reply_neighbor_advertisement, reply_router_advertisement,
};
use crate::resource::{DnsTableId, Resources};

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// An ARP reply saying that the requested address is at this MAC.
    Arp(MacAddr),
    /// A neighbour advertisement saying so.
    NeighborAdvertisement(MacAddr),
    /// An ICMP or ICMPv6 echo reply.
    Echo,
    /// What DHCP answers to this client.
    Dhcp(Arc<Dhcp>),
    /// What DHCPv6 answers to this client.
    Dhcpv6(Arc<Dhcpv6>),
    /// What a table says of the name that is asked for.
    Dns(DnsTableId),
    /// A router advertisement.
    RouterAdvertisement(Arc<RouterAdvertisement>),
}

impl Reply {
    /// Turns the request in `packet` into this answer, in place; what it refers to is in `resources`.
    pub(crate) fn answer(&self, packet: &mut Packet, resources: &Resources) -> Result<Answered, DropReason> {
        let request = parse(packet.frame())?;
        match self {
            Reply::Arp(mac) => reply_arp(packet, &request, *mac)?,
            Reply::NeighborAdvertisement(mac) => reply_neighbor_advertisement(packet, &request, *mac)?,
            Reply::Echo => reply_echo(packet, &request)?,
            Reply::Dhcp(dhcp) => return dhcp.answer(packet, &request, resources),
            Reply::Dhcpv6(dhcp) => return dhcp.answer(packet, &request, resources),
            Reply::Dns(table) => reply_dns(packet, &request, resources.dns_table(*table))?,
            Reply::RouterAdvertisement(advertisement) => {
                reply_router_advertisement(packet, &request, advertisement)?;
            }
        }
        Ok(Answered::Reply)
    }

    /// True when the responder, having seen the request in `packet`, leaves it to others: the packet then goes on as
    /// if the responder's rule had allowed it. An action reads no payload, so only this tells (§3.5).
    pub(crate) fn declines(&self, packet: &Packet, parsed: &Parsed, resources: &Resources) -> bool {
        match self {
            Reply::Dns(table) => dns_declines(packet, parsed, resources.dns_table(*table)),
            _ => false,
        }
    }

    /// The name used in output.
    pub const fn name(&self) -> &'static str {
        match self {
            Reply::Arp(_) => "arp",
            Reply::NeighborAdvertisement(_) => "neighbor-advertisement",
            Reply::Echo => "echo",
            Reply::Dhcp(_) => "dhcp",
            Reply::Dhcpv6(_) => "dhcpv6",
            Reply::Dns(_) => "dns",
            Reply::RouterAdvertisement(_) => "router-advertisement",
        }
    }
}
