//! From bytes to headers.
//!
//! Refuses what the core's parser documents as malformed, with the same reasons; what is merely unknown ends the
//! list and is payload. Every checksum is verified by computing it whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{EncapKind, Fragment, MAX_GROUPS};
use lamina_core::packet::HEADER_WINDOW;
use lamina_core::transposition::{GENEVE_PORT, VXLAN_PORT};

use super::checksum::{self, Checksum};
use super::*;

/// Takes `frame` apart.
pub fn decode(frame: &[u8]) -> Result<Frame, DropReason> {
    let mut decoder = Decoder::new(frame);
    let mut next = Next::Ethernet;
    let mut groups = 0;
    loop {
        groups += 1;
        next = match decoder.group(next, groups)? {
            Some(next) => next,
            None => break,
        };
    }
    Ok(Frame { headers: decoder.headers, payload: decoder.body.to_vec() })
}

/// Takes the Ethernet header of `frame` off; the rest is payload.
pub fn decode_opaque(frame: &[u8]) -> Result<Frame, DropReason> {
    let mut decoder = Decoder::new(frame);
    decoder.ethernet(DropReason::FrameTooShort)?;
    Ok(Frame { headers: decoder.headers, payload: decoder.body.to_vec() })
}

enum Next {
    Ethernet,
    Ipv4,
    Ipv6,
}

struct Decoder<'a> {
    /// What is not yet taken, cut to the packet that is being read.
    body: &'a [u8],
    consumed: usize,
    headers: Vec<Header>,
    /// Where each tunnel's header (of one over UDP: the UDP header) starts.
    tunnels: Vec<(usize, EncapKind)>,
}

/// Where the tunnel headers of `frame` start, of those over UDP their UDP header; as far as it can be decoded.
pub fn tunnel_offsets(frame: &[u8]) -> Vec<(usize, EncapKind)> {
    let mut decoder = Decoder::new(frame);
    let mut next = Next::Ethernet;
    for number in 1.. {
        match decoder.group(next, number) {
            Ok(Some(following)) => next = following,
            _ => break,
        }
    }
    decoder.tunnels
}

impl<'a> Decoder<'a> {
    fn new(frame: &'a [u8]) -> Self {
        Decoder { body: frame, consumed: 0, headers: Vec::new(), tunnels: Vec::new() }
    }

    /// Takes `count` bytes, or fails with `cut`.
    fn take(&mut self, count: usize, cut: DropReason) -> Result<&'a [u8], DropReason> {
        let header = self.peek(count, cut)?;
        self.body = &self.body[count..];
        self.consumed += count;
        Ok(header)
    }

    fn peek(&self, count: usize, cut: DropReason) -> Result<&'a [u8], DropReason> {
        if self.body.len() < count {
            return Err(cut);
        }
        if self.consumed + count > HEADER_WINDOW {
            return Err(DropReason::TooManyHeaders);
        }
        Ok(&self.body[..count])
    }

    /// Cuts the body to `length` bytes and returns what lay behind them.
    fn cut(&mut self, length: usize) -> Vec<u8> {
        let (body, slack) = self.body.split_at(length);
        self.body = body;
        slack.to_vec()
    }

    fn group(&mut self, start: Next, number: usize) -> Result<Option<Next>, DropReason> {
        let is_ipv4 = match start {
            Next::Ethernet => {
                let cut = if number == 1 { DropReason::FrameTooShort } else { DropReason::Truncated };
                match self.ethernet(cut)? {
                    ETHERTYPE_IPV4 => true,
                    ETHERTYPE_IPV6 => false,
                    ETHERTYPE_ARP => {
                        self.arp()?;
                        return Ok(None);
                    }
                    VlanTag::DOT1Q | VlanTag::DOT1AD => return Err(DropReason::TooManyHeaders),
                    _ => return Ok(None),
                }
            }
            Next::Ipv4 => true,
            Next::Ipv6 => false,
        };
        let protocol = if is_ipv4 { self.ipv4()? } else { self.ipv6()? };
        let ip = self.headers.last().expect("an IP header was just read").clone();
        if ip.fragment() == Fragment::Later {
            return Ok(None);
        }
        let may_nest = number < MAX_GROUPS && ip.fragment() == Fragment::None;
        self.transport(&ip, protocol, may_nest)
    }

    fn ethernet(&mut self, cut: DropReason) -> Result<u16, DropReason> {
        let bytes = self.take(14, cut)?;
        let mut ethertype = be16(bytes, 12);
        let mut tags = Vec::new();
        while tags.len() < 2 && (ethertype == VlanTag::DOT1Q || ethertype == VlanTag::DOT1AD) {
            let tag = self.take(4, DropReason::Truncated)?;
            tags.push(VlanTag { tpid: ethertype, tci: be16(tag, 0) });
            ethertype = be16(tag, 2);
        }
        self.headers.push(Header::Ethernet(Ethernet {
            dst: mac(bytes, 0),
            src: mac(bytes, 6),
            tags,
            ethertype,
        }));
        Ok(ethertype)
    }

    fn arp(&mut self) -> Result<(), DropReason> {
        let bytes = self.peek(28, DropReason::BadArp)?;
        if bytes[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(DropReason::BadArp);
        }
        self.take(28, DropReason::BadArp)?;
        self.headers.push(Header::Arp(Arp {
            operation: be16(bytes, 6),
            sender_mac: mac(bytes, 8),
            sender_ip: v4(bytes, 14),
            target_mac: mac(bytes, 18),
            target_ip: v4(bytes, 24),
        }));
        Ok(())
    }

    fn ipv4(&mut self) -> Result<u8, DropReason> {
        let fixed = self.peek(20, DropReason::Truncated)?;
        let header_length = usize::from(fixed[0] & 15) * 4;
        let total_length = usize::from(be16(fixed, 2));
        let is_bad = fixed[0] >> 4 != 4 || header_length < 20 || total_length < header_length;
        if is_bad || total_length > self.body.len() {
            return Err(DropReason::BadIpv4Header);
        }
        let slack = self.cut(total_length);
        let bytes = self.take(header_length, DropReason::BadIpv4Header)?;
        let mut zeroed = bytes.to_vec();
        zeroed[10..12].fill(0);
        let right = internet_checksum(&zeroed);
        if checksum::classify(be16(bytes, 10), right) != Checksum::Right {
            return Err(DropReason::BadIpv4Checksum);
        }
        let word = be16(bytes, 6);
        self.headers.push(Header::Ipv4(Ipv4 {
            dscp: bytes[1] >> 2,
            ecn: bytes[1] & 3,
            id: be16(bytes, 4),
            dont_fragment: word & 0x4000 != 0,
            more_fragments: word & 0x2000 != 0,
            offset: word & 0x1fff,
            ttl: bytes[8],
            protocol: bytes[9],
            src: v4(bytes, 12),
            dst: v4(bytes, 16),
            options: bytes[20..].to_vec(),
            slack,
        }));
        Ok(bytes[9])
    }

    fn ipv6(&mut self) -> Result<u8, DropReason> {
        let bytes = self.peek(40, DropReason::Truncated)?;
        let payload_length = usize::from(be16(bytes, 4));
        if bytes[0] >> 4 != 6 || payload_length + 40 > self.body.len() {
            return Err(DropReason::BadIpv6Header);
        }
        self.take(40, DropReason::BadIpv6Header)?;
        let slack = self.cut(payload_length);
        let mut ip = Ipv6 {
            dscp: (be16(bytes, 0) >> 6) as u8 & 63,
            ecn: (be16(bytes, 0) >> 4) as u8 & 3,
            flow_label: u32::from_be_bytes([0, bytes[1] & 15, bytes[2], bytes[3]]),
            hop_limit: bytes[7],
            src: v6(bytes, 8),
            dst: v6(bytes, 24),
            extensions: Vec::new(),
            protocol: bytes[6],
            slack,
        };
        let bad = DropReason::BadIpv6Header;
        loop {
            let kind = ip.protocol;
            let length = match kind {
                EXT_HOP_BY_HOP | EXT_ROUTING | EXT_DESTINATION => {
                    (usize::from(self.peek(2, bad)?[1]) + 1) * 8
                }
                EXT_AUTHENTICATION => (usize::from(self.peek(2, bad)?[1]) + 2) * 4,
                EXT_FRAGMENT => 8,
                _ => break,
            };
            if ip.extensions.len() == 8 {
                return Err(DropReason::TooManyHeaders);
            }
            let extension = self.take(length, bad)?;
            ip.protocol = extension[0];
            ip.extensions.push((kind, extension.to_vec()));
            if Header::Ipv6(ip.clone()).fragment() == Fragment::Later {
                break;
            }
        }
        let protocol = ip.protocol;
        self.headers.push(Header::Ipv6(ip));
        Ok(protocol)
    }

    fn transport(&mut self, ip: &Header, protocol: u8, may_nest: bool) -> Result<Option<Next>, DropReason> {
        let addresses = ip.addresses();
        match protocol {
            6 => {
                let message = self.body;
                let fixed = self.peek(20, DropReason::Truncated)?;
                let length = usize::from(fixed[12] >> 4) * 4;
                if length < 20 {
                    return Err(DropReason::BadTransportHeader);
                }
                // Of a first fragment the options may be in the next one: cut, not wrong.
                let is_first = ip.fragment() == Fragment::First;
                let cut = if is_first { DropReason::Truncated } else { DropReason::BadTransportHeader };
                let bytes = self.take(length, cut)?;
                self.headers.push(Header::Tcp(Tcp {
                    src: be16(bytes, 0),
                    dst: be16(bytes, 2),
                    seq: be32(bytes, 4),
                    ack: be32(bytes, 8),
                    reserved: bytes[12] & 15,
                    flags: bytes[13],
                    window: be16(bytes, 14),
                    urgent: be16(bytes, 18),
                    options: bytes[20..].to_vec(),
                    checksum: verify(addresses, 6, message, 16),
                }));
            }
            17 => return self.udp(ip, may_nest),
            1 | 58 => {
                let message = self.body;
                let bytes = self.peek(8, DropReason::Truncated)?;
                let is_v6 = protocol == 58;
                let is_whole = ip.fragment() == Fragment::None;
                if is_v6 && matches!(bytes[0], 135 | 136) && is_whole {
                    self.peek(24, DropReason::Truncated)?;
                }
                self.take(8, DropReason::Truncated)?;
                let pseudo = addresses.filter(|_| is_v6);
                self.headers.push(Header::Icmp(Icmp {
                    is_v6,
                    kind: bytes[0],
                    code: bytes[1],
                    rest: [bytes[4], bytes[5], bytes[6], bytes[7]],
                    checksum: verify(pseudo, 58, message, 2),
                }));
            }
            132 => {
                let mut message = self.body.to_vec();
                let bytes = self.take(12, DropReason::Truncated)?;
                let stored = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
                message[8..12].fill(0);
                self.headers.push(Header::Sctp(Sctp {
                    src: be16(bytes, 0),
                    dst: be16(bytes, 2),
                    tag: [bytes[4], bytes[5], bytes[6], bytes[7]],
                    off: stored ^ checksum::crc32c(&message),
                }));
            }
            47 if may_nest => return self.gre(),
            4 | 41 if may_nest => {
                self.headers.push(tunnel(EncapKind::IpInIp, 0, None, &[]));
                return Ok(Some(if protocol == 4 { Next::Ipv4 } else { Next::Ipv6 }));
            }
            _ => {}
        }
        Ok(None)
    }

    fn udp(&mut self, ip: &Header, may_nest: bool) -> Result<Option<Next>, DropReason> {
        let start = self.consumed;
        let fixed = self.peek(8, DropReason::Truncated)?;
        let length = usize::from(be16(fixed, 4));
        let is_first = ip.fragment() == Fragment::First;
        let is_v6 = matches!(ip, Header::Ipv6(_));
        let (whole, declared_length) = match length {
            0 if is_v6 => (self.body.len(), Some(0)),
            0..8 => return Err(DropReason::BadTransportHeader),
            _ if is_first => (self.body.len(), Some(length as u16)),
            _ if length > self.body.len() => return Err(DropReason::BadTransportHeader),
            _ => (length, None),
        };
        let slack = self.cut(whole);
        let checksum = match be16(fixed, 6) {
            0 => Checksum::Absent,
            _ => verify(ip.addresses(), 17, self.body, 6),
        };
        self.take(8, DropReason::Truncated)?;
        let udp = Udp { src: be16(fixed, 0), dst: be16(fixed, 2), declared_length, checksum, slack };
        let bytes = self.body;
        match udp.dst {
            VXLAN_PORT if may_nest && bytes.len() >= 8 && bytes[0] & 8 != 0 => {
                let raw = self.take(8, DropReason::Truncated)?;
                self.tunnels.push((start, EncapKind::Vxlan));
                self.headers.push(tunnel(EncapKind::Vxlan, be32(raw, 4) >> 8, Some(udp), raw));
                return Ok(Some(Next::Ethernet));
            }
            GENEVE_PORT if may_nest && bytes.len() >= 8 => {
                self.peek(8, DropReason::Truncated)?;
                if let (Some(next), 0) = (payload_of(be16(bytes, 2)), bytes[0] >> 6) {
                    let length = 8 + usize::from(bytes[0] & 63) * 4;
                    let raw = self.take(length, DropReason::BadTunnelHeader)?;
                    self.tunnels.push((start, EncapKind::Geneve));
                    self.headers.push(tunnel(EncapKind::Geneve, be32(bytes, 4) >> 8, Some(udp), raw));
                    return Ok(Some(next));
                }
            }
            _ => {}
        }
        self.headers.push(Header::Udp(udp));
        Ok(None)
    }

    fn gre(&mut self) -> Result<Option<Next>, DropReason> {
        let fixed = self.peek(4, DropReason::Truncated)?;
        let flags = be16(fixed, 0);
        let Some(next) = payload_of(be16(fixed, 2)).filter(|_| flags & 7 == 0) else { return Ok(None) };
        if flags & 0x4c00 != 0 {
            return Err(DropReason::BadTunnelHeader);
        }
        let optional = |bit: u16| if flags & bit != 0 { 4 } else { 0 };
        let key_at = 4 + optional(0x8000);
        let length = key_at + optional(0x2000) + optional(0x1000);
        let raw = self.take(length, DropReason::BadTunnelHeader)?;
        let (kind, tenant) = match (flags & 0x2000 != 0, &next) {
            (false, _) => (EncapKind::Gre, 0),
            (true, Next::Ethernet) => (EncapKind::Nvgre, be32(raw, key_at) >> 8),
            (true, _) => (EncapKind::GreKeyed, be32(raw, key_at)),
        };
        self.tunnels.push((self.consumed - length, kind));
        self.headers.push(tunnel(kind, tenant, None, raw));
        Ok(Some(next))
    }
}

fn tunnel(kind: EncapKind, tenant: u32, udp: Option<Udp>, raw: &[u8]) -> Header {
    Header::Tunnel(Tunnel { kind, tenant, udp, raw: raw.to_vec() })
}

fn payload_of(ethertype: u16) -> Option<Next> {
    match ethertype {
        ETHERTYPE_ETHERNET => Some(Next::Ethernet),
        ETHERTYPE_IPV4 => Some(Next::Ipv4),
        ETHERTYPE_IPV6 => Some(Next::Ipv6),
        _ => None,
    }
}

/// Verifies the checksum at `at` of `message`.
fn verify(addresses: Option<(IpAddr, IpAddr)>, protocol: u8, message: &[u8], at: usize) -> Checksum {
    let mut zeroed = message.to_vec();
    zeroed[at..at + 2].fill(0);
    checksum::classify(be16(message, at), checksum::transport(addresses, protocol, &zeroed))
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn mac(bytes: &[u8], at: usize) -> MacAddr {
    let mut octets = [0; 6];
    octets.copy_from_slice(&bytes[at..at + 6]);
    MacAddr(octets)
}

fn v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn v6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}
