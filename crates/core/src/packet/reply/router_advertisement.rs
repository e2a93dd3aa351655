//! Router advertisements in answer to router solicitations (RFC 4861 §6), with what hosts configure themselves from:
//! prefixes, MTU, routes (RFC 4191), DNS servers and search domains (RFC 8106).
//!
//! All that an advertisement says is policy, so its message is made once, when policy is, and an answer is a copy of
//! it with the addresses of the host that asked. A host asks when its interface comes up; nothing is sent unasked,
//! so lifetimes must be as long as the host may live without asking again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::message::{Macs, Writer, is_one};
use super::{ALL_NODES, ALL_NODES_MAC, NEIGHBOR_HOP_LIMIT, Packet, Parsed, message_sums_up, question};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{IpPair, L3, L4};

/// The longest advertisement: what every IPv6 link carries (1,280 bytes) without its IPv6 header.
pub const LONGEST_ADVERTISEMENT: usize = 1280 - 40;

/// A router's advertisement, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouterAdvertisement {
    mac: MacAddr,
    source: Ipv6Addr,
    message: Box<[u8]>,
}

/// What a router advertises.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Advertised {
    /// The hop limit that hosts are to use; 0 leaves it to them.
    pub hop_limit: u8,
    /// Addresses come from DHCPv6.
    pub managed: bool,
    /// Other configuration comes from DHCPv6.
    pub other: bool,
    /// How this router compares with others as a default router.
    pub preference: RouterPreference,
    /// For how many seconds this is a default router; 0 for never.
    pub lifetime_seconds: u16,
    /// The link's MTU.
    pub mtu: Option<u32>,
    /// On-link prefixes and those to make addresses from.
    pub prefixes: Vec<AdvertisedPrefix>,
    /// Routes through this router.
    pub routes: Vec<AdvertisedRoute>,
    /// DNS servers.
    pub dns_servers: Vec<Ipv6Addr>,
    /// Search domains, each as labels on the wire.
    pub search: Vec<Box<[u8]>>,
    /// For how many seconds the DNS servers and search domains hold.
    pub dns_lifetime_seconds: u32,
}

/// A prefix of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdvertisedPrefix {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// Its addresses are neighbours.
    pub on_link: bool,
    /// Hosts make addresses from it.
    pub autonomous: bool,
    /// For how many seconds it holds; `u32::MAX` is for ever.
    pub valid_seconds: u32,
    /// For how many seconds its addresses begin new conversations.
    pub preferred_seconds: u32,
}

/// A route through the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdvertisedRoute {
    /// Where to.
    pub prefix: Ipv6Net,
    /// How this router compares with others.
    pub preference: RouterPreference,
    /// For how many seconds it holds; `u32::MAX` is for ever.
    pub lifetime_seconds: u32,
}

/// How a router compares with others (RFC 4191 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RouterPreference {
    /// Rather another one.
    Low,
    /// As good as any.
    #[default]
    Medium,
    /// Rather this one.
    High,
}

impl RouterPreference {
    fn bits(self) -> u8 {
        match self {
            RouterPreference::Low => 0b11 << 3,
            RouterPreference::Medium => 0,
            RouterPreference::High => 0b01 << 3,
        }
    }
}

impl RouterAdvertisement {
    /// The advertisement of `advertised` by the router at `mac` and `source`, its link-local address; `None` when it
    /// is longer than `LONGEST_ADVERTISEMENT`.
    pub fn new(mac: MacAddr, source: Ipv6Addr, advertised: &Advertised) -> Option<Self> {
        let message = message(mac, advertised);
        (message.len() <= LONGEST_ADVERTISEMENT).then(|| RouterAdvertisement {
            mac,
            source,
            message: message.into(),
        })
    }
}

/// The ICMPv6 message with checksum 0 (RFC 4861 §4.2).
fn message(mac: MacAddr, advertised: &Advertised) -> Vec<u8> {
    let flags = (u8::from(advertised.managed) << 7)
        | (u8::from(advertised.other) << 6)
        | advertised.preference.bits();
    let mut message = Vec::from([134, 0, 0, 0, advertised.hop_limit, flags]);
    message.extend(advertised.lifetime_seconds.to_be_bytes());
    // Reachable time and retransmission timer are the host's own.
    message.extend([0; 8]);
    // Options are as long as their second byte says, in units of eight bytes (RFC 4861 §4.6).
    message.extend([1, 1]);
    message.extend(mac.0);
    if let Some(mtu) = advertised.mtu {
        message.extend([5, 1, 0, 0]);
        message.extend(mtu.to_be_bytes());
    }
    for prefix in &advertised.prefixes {
        let flags = (u8::from(prefix.on_link) << 7) | (u8::from(prefix.autonomous) << 6);
        message.extend([3, 4, prefix.prefix.prefix_len(), flags]);
        message.extend(prefix.valid_seconds.to_be_bytes());
        message.extend(prefix.preferred_seconds.to_be_bytes());
        message.extend([0; 4]);
        message.extend(prefix.prefix.network().octets());
    }
    for route in &advertised.routes {
        let len = route.prefix.prefix_len();
        let words = usize::from(len.div_ceil(64));
        message.extend([24, 1 + words as u8, len, route.preference.bits()]);
        message.extend(route.lifetime_seconds.to_be_bytes());
        message.extend(&route.prefix.network().octets()[..8 * words]);
    }
    let lifetime = advertised.dns_lifetime_seconds.to_be_bytes();
    // An option's length has one byte, which bounds both lists.
    for servers in advertised.dns_servers.chunks(127) {
        message.extend([25, 1 + 2 * servers.len() as u8, 0, 0]);
        message.extend(lifetime);
        message.extend(servers.iter().flat_map(|server| server.octets()));
    }
    for domain in &advertised.search {
        let padded = domain.len().div_ceil(8) * 8;
        message.extend([31, 1 + (padded / 8) as u8, 0, 0]);
        message.extend(lifetime);
        message.extend(domain.iter());
        message.extend(core::iter::repeat_n(0, padded - domain.len()));
    }
    message
}

/// Turns a router solicitation into `advertisement`: to the host that asked, to all nodes when it has no address
/// yet. The question must be valid by RFC 4861 §6.1.1.
pub fn reply_router_advertisement(
    packet: &mut Packet,
    parsed: &Parsed,
    advertisement: &RouterAdvertisement,
) -> Result<(), DropReason> {
    let (group, layout, l2) = question(packet, parsed)?;
    let (Some(L3::Ip(ip)), Some(L4::Icmpv6(icmp))) = (group.flow_id.l3, group.flow_id.l4) else {
        return Err(DropReason::CannotRespond);
    };
    let IpPair::V6 { src, dst } = ip.addresses else { return Err(DropReason::CannotRespond) };
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let frame = packet.frame();
    let length = frame.get(l3 + 4..l3 + 6).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let options = frame.get(l4 + 8..l3 + 40 + length as usize).ok_or(DropReason::CannotRespond)?;
    let is_unspecified = src.is_unspecified();
    let is_valid = (icmp.kind, icmp.code) == (133, 0)
        && group.extra.ttl == NEIGHBOR_HOP_LIMIT
        && (is_unspecified || is_one(IpAddr::V6(src)))
        && options_are_valid(options, is_unspecified)
        && message_sums_up(packet, &layout, src, dst);
    if !is_valid {
        return Err(DropReason::CannotRespond);
    }
    let (to, to_mac) = if is_unspecified { (ALL_NODES, ALL_NODES_MAC) } else { (src, l2.src) };
    let link = frame.get(..l3).ok_or(DropReason::CannotRespond)?;
    let mut writer = Writer::new(link, l3 + 40, LONGEST_ADVERTISEMENT);
    writer.put(&advertisement.message);
    let macs = Macs { src: advertisement.mac, dst: to_mac };
    writer.send_neighbor_message(packet, &macs, &IpPair::V6 { src: advertisement.source, dst: to })
}

/// No option is empty or cut off; a host without an address gives no link-layer address.
fn options_are_valid(mut options: &[u8], is_unspecified: bool) -> bool {
    while let [kind, words, ..] = *options {
        let Some(rest) = options.get(8 * words as usize..).filter(|_| words > 0) else { return false };
        if is_unspecified && kind == 1 {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}
