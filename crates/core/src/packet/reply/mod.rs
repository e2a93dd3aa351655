//! Answers made from their question, in the question's buffer: ARP (RFC 826), neighbour advertisement (RFC 4861
//! §7.2.4), echo reply (RFC 792, RFC 4443 §4.2) here; DHCP, DNS and router advertisements in their own files.
//!
//! The question must be whole, outside any tunnel, and from one host: a packet from a multicast or unspecified
//! address is never answered (duplicate address detection apart), so that no answer can be multiplied or sent to
//! many. What cannot be answered is [`DropReason::CannotRespond`], and the packet is then unchanged. Whether an
//! answer is due at all is policy and decided elsewhere. After an answer the packet is to be parsed again.

mod dhcp;
mod dhcpv6;
mod dns;
mod message;
mod router_advertisement;

pub use dhcp::{DHCP_SERVER_PORT, DhcpLease, DhcpOption, DhcpServer, code as dhcp_code, reply_dhcp};
pub use dhcpv6::{DHCPV6_SERVER_PORT, Dhcpv6Option, Dhcpv6Server, reply_dhcpv6};
pub use dns::{DNS_PORT, DnsData, DnsName, DnsRecord, DnsSource, Unknown, dns_declines, reply_dns};
pub use message::link_local;
pub use router_advertisement::{
    Advertised, AdvertisedPrefix, AdvertisedRoute, RouterAdvertisement, RouterPreference,
    reply_router_advertisement,
};

use core::net::{Ipv4Addr, Ipv6Addr};

use super::checksum::{finish, pseudo_header_v6, sum, update};
use super::{GroupLayout, Packet, Parsed};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{Fragment, HeaderGroup, IpPair, L2, L3, L4};

/// What became of a question that could be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// The packet is now the answer.
    Reply,
    /// It wanted none: the packet has done its work and goes nowhere.
    Consumed,
}

/// TTL of an answer.
const REPLY_TTL: u8 = 64;
/// The hop limit that proves that a neighbour message crossed no router (RFC 4861 §7.1).
const NEIGHBOR_HOP_LIMIT: u8 = 255;
const ICMPV6: u8 = 58;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Turns an ARP request into the reply that its target address is at `mac`. A probe (sender address 0.0.0.0,
/// RFC 5227) is answered; an announcement (sender and target address equal) asks nothing and is not.
pub fn reply_arp(packet: &mut Packet, parsed: &Parsed, mac: MacAddr) -> Result<(), DropReason> {
    let (group, layout, _) = question(packet, parsed)?;
    let Some(L3::Arp(arp)) = group.flow_id.l3 else { return Err(DropReason::CannotRespond) };
    let is_announcement = arp.sender_ip == arp.target_ip;
    let is_one_host = !arp.sender_mac.is_multicast() && !is_many(arp.sender_ip);
    if arp.operation != 1 || is_announcement || !is_one_host {
        return Err(DropReason::CannotRespond);
    }
    let frame = packet.frame_mut();
    write_macs(frame, arp.sender_mac, mac);
    let body = frame.get_mut(layout.l3 as usize..layout.l4 as usize).ok_or(DropReason::CannotRespond)?;
    let fields = body.get_mut(6..28).ok_or(DropReason::CannotRespond)?;
    fields[..2].copy_from_slice(&2u16.to_be_bytes());
    fields[2..8].copy_from_slice(&mac.0);
    fields[8..12].copy_from_slice(&arp.target_ip.octets());
    fields[12..18].copy_from_slice(&arp.sender_mac.0);
    fields[18..22].copy_from_slice(&arp.sender_ip.octets());
    Ok(())
}

/// Turns a neighbour solicitation into the advertisement that its target is at `mac`: solicited and overriding;
/// to all nodes and unsolicited when the question came from the unspecified address (duplicate address
/// detection). The question must be valid by RFC 4861 §7.1.1.
pub fn reply_neighbor_advertisement(
    packet: &mut Packet,
    parsed: &Parsed,
    mac: MacAddr,
) -> Result<(), DropReason> {
    let (group, layout, l2) = question(packet, parsed)?;
    let (Some(L3::Ip(ip)), Some(L4::Icmpv6(icmp)), Some(target)) =
        (group.flow_id.l3, group.flow_id.l4, group.extra.nd_target)
    else {
        return Err(DropReason::CannotRespond);
    };
    let IpPair::V6 { src, dst } = ip.addresses else { return Err(DropReason::CannotRespond) };
    let is_detection = src.is_unspecified();
    let is_valid = (icmp.kind, icmp.code) == (135, 0)
        && group.extra.ttl == NEIGHBOR_HOP_LIMIT
        && !target.is_multicast()
        && !src.is_multicast()
        && (!is_detection || dst.is_multicast())
        && message_sums_up(packet, &layout, src, dst);
    if !is_valid {
        return Err(DropReason::CannotRespond);
    }
    let (to, to_mac) = if is_detection { (ALL_NODES, ALL_NODES_MAC) } else { (src, l2.src) };

    // Ethernet with its tags, then 40 bytes of IPv6 and 32 of ICMPv6: 94 bytes at most.
    let mut answer = [0; 22 + 40 + 32];
    let l3 = layout.l3 as usize;
    let link = packet.frame().get(..l3).ok_or(DropReason::CannotRespond)?;
    let answer = answer.get_mut(..l3 + 72).ok_or(DropReason::CannotRespond)?;
    answer[..l3].copy_from_slice(link);
    write_macs(answer, to_mac, mac);
    let (header, message) = answer[l3..].split_at_mut(40);
    header[0] = 0x60;
    header[4..6].copy_from_slice(&32u16.to_be_bytes());
    header[6] = ICMPV6;
    header[7] = NEIGHBOR_HOP_LIMIT;
    header[8..24].copy_from_slice(&target.octets());
    header[24..40].copy_from_slice(&to.octets());
    message[0] = 136;
    message[4] = if is_detection { OVERRIDE } else { SOLICITED | OVERRIDE };
    message[8..24].copy_from_slice(&target.octets());
    // Target link-layer address option, in units of eight bytes (RFC 4861 §4.6.1).
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&mac.0);
    let checksum = finish(pseudo_header_v6(target, to, ICMPV6, 32) + sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    if !packet.replace_front(packet.len(), answer) {
        return Err(DropReason::NoHeadroom);
    }
    packet.offload = super::Offload::default();
    Ok(())
}

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Turns an echo request (ICMP or ICMPv6) into its reply, payload untouched. IP options and extension headers
/// may hold a route that would have to be reversed; such a question is not answered.
pub fn reply_echo(packet: &mut Packet, parsed: &Parsed) -> Result<(), DropReason> {
    let (group, layout, l2) = question(packet, parsed)?;
    let Some(L3::Ip(ip)) = group.flow_id.l3 else { return Err(DropReason::CannotRespond) };
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let (is_one_to_one, header_length, reply_kind) = match (ip.addresses, group.flow_id.l4) {
        (IpPair::V4 { src, dst }, Some(L4::Icmp(icmp))) if (icmp.kind, icmp.code) == (8, 0) => {
            (!is_many(src) && !src.is_unspecified() && !is_many(dst), 20, 0)
        }
        (IpPair::V6 { src, dst }, Some(L4::Icmpv6(icmp))) if (icmp.kind, icmp.code) == (128, 0) => {
            (!src.is_multicast() && !src.is_unspecified() && !dst.is_multicast(), 40, 129)
        }
        _ => return Err(DropReason::CannotRespond),
    };
    if !is_one_to_one || l2.dst.is_multicast() || l4 != l3 + header_length {
        return Err(DropReason::CannotRespond);
    }
    let is_v4 = ip.addresses.is_v4();
    let has_partial_checksum = packet.offload.checksum.is_some();
    let frame = packet.frame_mut();
    if frame.len() < l4 + 8 {
        return Err(DropReason::CannotRespond);
    }
    write_macs(frame, l2.src, l2.dst);
    let header = &mut frame[l3..l4];
    if is_v4 {
        // Exchanged addresses sum up to the same; the TTL shares its word with the protocol.
        let old = u16::from_be_bytes([header[8], header[9]]);
        let new = u16::from_be_bytes([REPLY_TTL, header[9]]);
        header[8] = REPLY_TTL;
        let checksum = update(u16::from_be_bytes([header[10], header[11]]), old as u32, new as u32);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let (front, dst) = header.split_at_mut(16);
        front[12..16].swap_with_slice(dst);
    } else {
        header[7] = REPLY_TTL;
        let (front, dst) = header.split_at_mut(24);
        front[8..24].swap_with_slice(dst);
    }
    let message = &mut frame[l4..];
    let old = u16::from_be_bytes([message[0], message[1]]);
    message[0] = reply_kind;
    // A partial checksum covers the pseudo header alone, in which nothing changed.
    if !has_partial_checksum {
        let new = u16::from_be_bytes([message[0], message[1]]);
        let checksum = update(u16::from_be_bytes([message[2], message[3]]), old as u32, new as u32);
        // A message may be all zeroes but for its checksum, where the update's zero would be wrong.
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(())
}

/// What every question must be: one whole packet with an Ethernet header and no tunnel, from a unicast MAC.
fn question(packet: &Packet, parsed: &Parsed) -> Result<(HeaderGroup, GroupLayout, L2), DropReason> {
    let [group] = parsed.stack.groups() else { return Err(DropReason::CannotRespond) };
    let l2 = group.flow_id.l2.ok_or(DropReason::CannotRespond)?;
    let is_whole = group.extra.fragment == Fragment::None && packet.offload.segmentation.is_none();
    if !is_whole || l2.src.is_multicast() {
        return Err(DropReason::CannotRespond);
    }
    Ok((*group, parsed.layout.groups[0], l2))
}

/// True for an address of many hosts, or of none that could be answered.
fn is_many(address: Ipv4Addr) -> bool {
    address.is_multicast() || address.is_broadcast() || address.is_loopback()
}

/// True when the ICMPv6 message has a right checksum, or its sender left it to us.
fn message_sums_up(packet: &Packet, layout: &GroupLayout, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
    if packet.offload.checksum.is_some() || packet.offload.checksum_verified {
        return true;
    }
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let frame = packet.frame();
    let Some([a, b]) = frame.get(l3 + 4..l3 + 6).and_then(|bytes| bytes.first_chunk().copied()) else {
        return false;
    };
    let end = l3 + 40 + u16::from_be_bytes([a, b]) as usize;
    let Some(message) = frame.get(l4..end) else { return false };
    finish(pseudo_header_v6(src, dst, ICMPV6, message.len() as u32) + sum(message)) == 0
}

/// Sets the Ethernet addresses of a frame that has an Ethernet header.
fn write_macs(frame: &mut [u8], dst: MacAddr, src: MacAddr) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses[..6].copy_from_slice(&dst.0);
        addresses[6..].copy_from_slice(&src.0);
    }
}

#[cfg(test)]
mod tests;
