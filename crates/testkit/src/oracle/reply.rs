//! Answers: ARP replies (RFC 826), neighbour advertisements (RFC 4861 §7.2.4), echo replies (RFC 792, RFC 4443).
//!
//! DNS has its own file. Only a whole packet outside any tunnel, from one host, is answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lamina_core::action::Reply;
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::Fragment;
use lamina_core::resource::Resources;

use super::dns;
use crate::wire::{Checksum, Ethernet, Frame, Header, Icmp, Ipv6};

/// True when the responder of `reply`, having seen `request`, leaves it to others.
pub(super) fn declines(reply: &Reply, request: &Frame, resources: &Resources) -> bool {
    match reply {
        Reply::Dns(table) => dns::declines(request, resources.dns_table(*table)),
        _ => false,
    }
}

const REFUSED: DropReason = DropReason::CannotRespond;

/// The answer to `request`.
pub(super) fn answer(reply: &Reply, request: &Frame, resources: &Resources) -> Result<Frame, DropReason> {
    let inner = request.innermost();
    let is_whole = request.group_ranges().len() == 1 && inner.fragment() == Fragment::None;
    let link = inner.l2.filter(|l2| is_whole && !l2.src.is_multicast()).ok_or(REFUSED)?;
    let mut answer = match reply {
        Reply::Arp(mac) => arp(request, link, *mac)?,
        Reply::NeighborAdvertisement(mac) => advertisement(request, link, *mac)?,
        Reply::Echo => echo(request, link)?,
        Reply::Dns(table) => dns::answer(request, link, resources.dns_table(*table))?,
        // Their answers depend on their request and on policy alone, so no cache can get them wrong.
        Reply::Dhcp(_) | Reply::Dhcpv6(_) | Reply::RouterAdvertisement(_) => {
            panic!("random policies have no {}", reply.name())
        }
    };
    answer.restate();
    Ok(answer)
}

fn link_to(link: &Ethernet, dst: MacAddr, src: MacAddr) -> Header {
    Header::Ethernet(Ethernet { dst, src, ..link.clone() })
}

fn is_many(address: Ipv4Addr) -> bool {
    address.is_multicast() || address.is_broadcast() || address.is_loopback()
}

fn arp(request: &Frame, link: &Ethernet, mac: MacAddr) -> Result<Frame, DropReason> {
    let Some(Header::Arp(asked)) = request.innermost().l3 else { return Err(REFUSED) };
    let asks = asked.operation == 1 && asked.sender_ip != asked.target_ip;
    if !asks || asked.sender_mac.is_multicast() || is_many(asked.sender_ip) {
        return Err(REFUSED);
    }
    let reply = crate::wire::Arp {
        operation: 2,
        sender_mac: mac,
        sender_ip: asked.target_ip,
        target_mac: asked.sender_mac,
        target_ip: asked.sender_ip,
    };
    let headers = vec![link_to(link, asked.sender_mac, mac), Header::Arp(reply)];
    Ok(Frame { headers, payload: request.payload.clone() })
}

fn advertisement(request: &Frame, link: &Ethernet, mac: MacAddr) -> Result<Frame, DropReason> {
    let inner = request.innermost();
    let (Some(Header::Ipv6(ip)), Some(Header::Icmp(icmp)), Some(target)) =
        (inner.l3, inner.l4, inner.nd_target)
    else {
        return Err(REFUSED);
    };
    let is_detection = ip.src.is_unspecified();
    let is_valid = (icmp.kind, icmp.code) == (135, 0)
        && ip.hop_limit == 255
        && !target.is_multicast()
        && !ip.src.is_multicast()
        && (!is_detection || ip.dst.is_multicast())
        && icmp.checksum == Checksum::Right;
    if !is_valid {
        return Err(REFUSED);
    }
    let all_nodes = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), MacAddr([0x33, 0x33, 0, 0, 0, 1]));
    let (to, to_mac) = if is_detection { all_nodes } else { (ip.src, link.src) };
    let mut payload = target.octets().to_vec();
    payload.extend([2, 1]);
    payload.extend(mac.0);
    let header = Ipv6 {
        dscp: 0,
        ecn: 0,
        flow_label: 0,
        hop_limit: 255,
        src: target,
        dst: to,
        extensions: Vec::new(),
        protocol: 58,
        slack: Vec::new(),
    };
    let flags = if is_detection { 0x20 } else { 0x60 };
    let message = Icmp { is_v6: true, kind: 136, code: 0, rest: [flags, 0, 0, 0], checksum: Checksum::Right };
    Ok(Frame {
        headers: vec![link_to(link, to_mac, mac), Header::Ipv6(header), Header::Icmp(message)],
        payload,
    })
}

fn echo(request: &Frame, link: &Ethernet) -> Result<Frame, DropReason> {
    let inner = request.innermost();
    let (Some(ip), Some(Header::Icmp(icmp))) = (inner.l3, inner.l4) else { return Err(REFUSED) };
    let (src, dst) = ip.addresses().ok_or(REFUSED)?;
    let is_bare = match ip {
        Header::Ipv4(ip) => ip.options.is_empty(),
        Header::Ipv6(ip) => ip.extensions.is_empty(),
        _ => false,
    };
    let is_one_to_one = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => !is_many(src) && !src.is_unspecified() && !is_many(dst),
        (src, dst) => !src.is_multicast() && !src.is_unspecified() && !dst.is_multicast(),
    };
    let (asked, answered) = if icmp.is_v6 { (128, 129) } else { (8, 0) };
    let fits = (icmp.kind, icmp.code) == (asked, 0) && icmp.is_v6 == src.is_ipv6();
    if !fits || !is_bare || !is_one_to_one || link.dst.is_multicast() {
        return Err(REFUSED);
    }
    let mut answer = request.clone();
    answer.headers[0] = link_to(link, link.src, link.dst);
    match &mut answer.headers[1] {
        Header::Ipv4(ip) => (ip.src, ip.dst, ip.ttl) = (ip.dst, ip.src, 64),
        Header::Ipv6(ip) => (ip.src, ip.dst, ip.hop_limit) = (ip.dst, ip.src, 64),
        _ => {}
    }
    if let Header::Icmp(icmp) = &mut answer.headers[2] {
        icmp.kind = answered;
    }
    Ok(answer)
}
