//! From headers to bytes, innermost first: lengths, types and checksums follow from what lies inside.

use std::net::IpAddr;

use lamina_core::flow::EncapKind;

use super::checksum;
use super::*;

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.payload.clone();
        for (index, header) in self.headers.iter().enumerate().rev() {
            let addresses = self.headers[..index].iter().rev().find_map(Header::addresses);
            body = put_in_front(header, &self.headers[index + 1..], addresses, body);
        }
        body
    }

    /// Makes the stored ethertypes and protocol numbers those that the list of headers gives.
    pub fn restate(&mut self) {
        for index in 0..self.headers.len() {
            let (front, rest) = self.headers.split_at_mut(index + 1);
            match &mut front[index] {
                Header::Ethernet(eth) => eth.ethertype = ethertype_of(rest.first()).unwrap_or(eth.ethertype),
                Header::Ipv4(ip) => ip.protocol = protocol_of(rest).unwrap_or(ip.protocol),
                Header::Ipv6(ip) => ip.protocol = protocol_of(rest).unwrap_or(ip.protocol),
                _ => {}
            }
        }
    }

    /// Length of the frame in bytes.
    pub fn wire_len(&self) -> usize {
        self.encode().len()
    }

    /// Bytes up to the end of the last header.
    pub fn header_len(&self) -> usize {
        let slack: usize = self
            .headers
            .iter()
            .map(|header| match header {
                Header::Ipv4(ip) => ip.slack.len(),
                Header::Ipv6(ip) => ip.slack.len(),
                Header::Udp(udp) => udp.slack.len(),
                Header::Tunnel(tunnel) => tunnel.udp.as_ref().map_or(0, |udp| udp.slack.len()),
                _ => 0,
            })
            .sum();
        self.wire_len() - self.payload.len() - slack
    }
}

fn put_in_front(
    header: &Header,
    rest: &[Header],
    addresses: Option<(IpAddr, IpAddr)>,
    body: Vec<u8>,
) -> Vec<u8> {
    let next = rest.first();
    let mut bytes = Vec::with_capacity(body.len() + 64);
    match header {
        Header::Ethernet(ethernet) => {
            bytes.extend(ethernet.dst.0);
            bytes.extend(ethernet.src.0);
            for tag in &ethernet.tags {
                bytes.extend(tag.tpid.to_be_bytes());
                bytes.extend(tag.tci.to_be_bytes());
            }
            bytes.extend(ethertype_of(next).unwrap_or(ethernet.ethertype).to_be_bytes());
            bytes.extend(body);
        }
        Header::Ipv4(ip) => {
            let header_length = 20 + ip.options.len();
            bytes.push(0x40 | (header_length / 4) as u8);
            bytes.push(ip.dscp << 2 | ip.ecn);
            bytes.extend(((header_length + body.len()) as u16).to_be_bytes());
            bytes.extend(ip.id.to_be_bytes());
            let flags = u16::from(ip.dont_fragment) << 14 | u16::from(ip.more_fragments) << 13;
            bytes.extend((flags | ip.offset).to_be_bytes());
            bytes.extend([ip.ttl, protocol_of(rest).unwrap_or(ip.protocol), 0, 0]);
            bytes.extend(ip.src.octets());
            bytes.extend(ip.dst.octets());
            bytes.extend(&ip.options);
            let sum = internet_checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(body);
            bytes.extend(&ip.slack);
        }
        Header::Ipv6(ip) => {
            let last = protocol_of(rest).unwrap_or(ip.protocol);
            let extensions: usize = ip.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
            let class = u32::from(ip.dscp << 2 | ip.ecn);
            bytes.extend((6 << 28 | class << 20 | ip.flow_label).to_be_bytes());
            bytes.extend(((extensions + body.len()) as u16).to_be_bytes());
            bytes.push(ip.extensions.first().map_or(last, |(kind, _)| *kind));
            bytes.push(ip.hop_limit);
            bytes.extend(ip.src.octets());
            bytes.extend(ip.dst.octets());
            for (index, (_, extension)) in ip.extensions.iter().enumerate() {
                bytes.push(ip.extensions.get(index + 1).map_or(last, |(kind, _)| *kind));
                bytes.extend(&extension[1..]);
            }
            bytes.extend(body);
            bytes.extend(&ip.slack);
        }
        Header::Arp(arp) => {
            bytes.extend([0, 1, 8, 0, 6, 4]);
            bytes.extend(arp.operation.to_be_bytes());
            bytes.extend(arp.sender_mac.0);
            bytes.extend(arp.sender_ip.octets());
            bytes.extend(arp.target_mac.0);
            bytes.extend(arp.target_ip.octets());
            bytes.extend(body);
        }
        Header::Tcp(tcp) => {
            bytes.extend(tcp.src.to_be_bytes());
            bytes.extend(tcp.dst.to_be_bytes());
            bytes.extend(tcp.seq.to_be_bytes());
            bytes.extend(tcp.ack.to_be_bytes());
            bytes.push(((5 + tcp.options.len() / 4) as u8) << 4 | tcp.reserved);
            bytes.push(tcp.flags);
            bytes.extend(tcp.window.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(tcp.urgent.to_be_bytes());
            bytes.extend(&tcp.options);
            bytes.extend(body);
            let right = checksum::transport(addresses, 6, &bytes);
            bytes[16..18].copy_from_slice(&checksum::stored(tcp.checksum, right).to_be_bytes());
        }
        Header::Udp(udp) => put_udp(udp, addresses, &body, &mut bytes),
        Header::Sctp(sctp) => {
            bytes.extend(sctp.src.to_be_bytes());
            bytes.extend(sctp.dst.to_be_bytes());
            bytes.extend(sctp.tag);
            bytes.extend([0; 4]);
            bytes.extend(body);
            let stored = checksum::crc32c(&bytes) ^ sctp.off;
            bytes[8..12].copy_from_slice(&stored.to_le_bytes());
        }
        Header::Icmp(icmp) => {
            bytes.extend([icmp.kind, icmp.code, 0, 0]);
            bytes.extend(icmp.rest);
            bytes.extend(body);
            let right = checksum::transport(addresses.filter(|_| icmp.is_v6), 58, &bytes);
            bytes[2..4].copy_from_slice(&checksum::stored(icmp.checksum, right).to_be_bytes());
        }
        Header::Tunnel(tunnel) => {
            let mut inside = tunnel.header_bytes(next);
            inside.extend(body);
            match &tunnel.udp {
                Some(udp) => put_udp(udp, addresses, &inside, &mut bytes),
                None => bytes = inside,
            }
        }
    }
    bytes
}

fn put_udp(udp: &Udp, addresses: Option<(IpAddr, IpAddr)>, body: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(udp.src.to_be_bytes());
    bytes.extend(udp.dst.to_be_bytes());
    bytes.extend(udp.declared_length.unwrap_or(8 + body.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(body);
    if udp.checksum != Checksum::Absent {
        let right = checksum::transport(addresses, 17, bytes);
        let stored = match checksum::stored(udp.checksum, right) {
            0 => 0xffff,
            other => other,
        };
        bytes[6..8].copy_from_slice(&stored.to_be_bytes());
    }
    bytes.extend(&udp.slack);
}

impl Tunnel {
    /// A new tunnel header; one over UDP has source port `entropy` and no UDP checksum.
    pub fn new(kind: EncapKind, tenant: u32, udp_port: u16, entropy: u16) -> Self {
        let raw = match kind {
            EncapKind::Vxlan => vec![8, 0, 0, 0, 0, 0, 0, 0],
            EncapKind::Geneve => vec![0; 8],
            EncapKind::Nvgre => vec![0x20, 0, 0, 0, 0, 0, 0, entropy as u8],
            EncapKind::GreKeyed => vec![0x20, 0, 0, 0, 0, 0, 0, 0],
            EncapKind::Gre => vec![0; 4],
            EncapKind::IpInIp => Vec::new(),
        };
        let udp = kind.over_udp().then(|| Udp {
            src: entropy,
            dst: udp_port,
            declared_length: None,
            checksum: Checksum::Absent,
            slack: Vec::new(),
        });
        Tunnel { kind, tenant, udp, raw }
    }

    /// The tunnel's own header in front of `next`, tenant id and protocol written in.
    fn header_bytes(&self, next: Option<&Header>) -> Vec<u8> {
        let mut raw = self.raw.clone();
        let [_, a, b, c] = self.tenant.to_be_bytes();
        let protocol = match next {
            Some(Header::Ethernet(_)) => Some(ETHERTYPE_ETHERNET),
            other => ethertype_of(other),
        };
        match self.kind {
            EncapKind::Vxlan => raw[4..7].copy_from_slice(&[a, b, c]),
            EncapKind::Geneve => raw[4..7].copy_from_slice(&[a, b, c]),
            EncapKind::Nvgre | EncapKind::GreKeyed => {
                let at = if raw[0] & 0x80 != 0 { 8 } else { 4 };
                if self.kind == EncapKind::Nvgre {
                    raw[at..at + 3].copy_from_slice(&[a, b, c]);
                } else {
                    raw[at..at + 4].copy_from_slice(&self.tenant.to_be_bytes());
                }
            }
            EncapKind::Gre | EncapKind::IpInIp => {}
        }
        if let (Some(protocol), true) = (protocol, raw.len() >= 4 && self.kind != EncapKind::Vxlan) {
            raw[2..4].copy_from_slice(&protocol.to_be_bytes());
        }
        raw
    }
}

fn ethertype_of(next: Option<&Header>) -> Option<u16> {
    match next? {
        Header::Ipv4(_) => Some(ETHERTYPE_IPV4),
        Header::Ipv6(_) => Some(ETHERTYPE_IPV6),
        Header::Arp(_) => Some(ETHERTYPE_ARP),
        _ => None,
    }
}

/// The protocol number of what follows an IP header. An IP-in-IP tunnel has no bytes of its own, so the number is
/// that of what is inside it.
fn protocol_of(rest: &[Header]) -> Option<u8> {
    match rest.first()? {
        Header::Tcp(_) => Some(6),
        Header::Udp(_) => Some(17),
        Header::Sctp(_) => Some(132),
        Header::Icmp(icmp) => Some(if icmp.is_v6 { 58 } else { 1 }),
        Header::Tunnel(tunnel) => match tunnel.kind {
            EncapKind::Vxlan | EncapKind::Geneve => Some(17),
            EncapKind::Nvgre | EncapKind::Gre | EncapKind::GreKeyed => Some(47),
            EncapKind::IpInIp => match rest.get(1)? {
                Header::Ipv4(_) => Some(4),
                Header::Ipv6(_) => Some(41),
                _ => None,
            },
        },
        _ => None,
    }
}
