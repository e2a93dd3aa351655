//! Packets for tests, written the way one would say them:
//!
//! ```
//! use lamina_testkit::builder::{eth, mac};
//! let inner = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").ttl(9).tcp(1000, 80).syn().payload(b"hello");
//! let outer = eth(mac(8), mac(9)).ipv4("192.0.2.1", "192.0.2.2").vxlan(5001).wrap(&inner);
//! let frame: Vec<u8> = outer.frame();
//! # assert_eq!(frame.len(), 50 + 14 + 20 + 20 + 5);
//! ```
//!
//! Lengths, types and checksums are always right; who wants a wrong one changes the bytes. A method that changes a
//! field belongs to the header added last that has it, and panics when there is none: that is an error of the test.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::flow::EncapKind;
use lamina_core::transposition::{GENEVE_PORT, VXLAN_PORT};

use crate::wire::*;

/// A packet being written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketBuilder {
    frame: Frame,
}

/// The locally administered unicast MAC `02:00:00:00:00:<last>`.
pub const fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// A packet that starts with an Ethernet header.
pub fn eth(src: MacAddr, dst: MacAddr) -> PacketBuilder {
    PacketBuilder { frame: Frame::default() }.eth(src, dst)
}

/// An address from text or from itself.
fn address<T: FromStr>(text: impl ToString) -> T
where
    T::Err: Debug,
{
    let text = text.to_string();
    text.parse().unwrap_or_else(|error| panic!("{text} is no such address: {error:?}"))
}

impl From<Frame> for PacketBuilder {
    fn from(frame: Frame) -> Self {
        PacketBuilder { frame }
    }
}

macro_rules! last_header {
    ($self:ident, $pattern:pat => $value:expr) => {
        $self.frame.headers.iter_mut().rev().find_map(|header| match header {
            $pattern => Some($value),
            _ => None,
        })
    };
}

impl PacketBuilder {
    fn header(mut self, header: Header) -> Self {
        self.frame.headers.push(header);
        self
    }

    /// An Ethernet header: the first one, or that of a frame inside a tunnel.
    pub fn eth(self, src: MacAddr, dst: MacAddr) -> Self {
        self.header(Header::Ethernet(Ethernet { dst, src, tags: Vec::new(), ethertype: 0 }))
    }

    /// A VLAN tag: 802.1Q, behind the tags that are there.
    pub fn vlan(self, id: u16, priority: u8) -> Self {
        self.tag(VlanTag { tpid: VlanTag::DOT1Q, tci: u16::from(priority) << 13 | (id & 0xfff) })
    }

    /// A VLAN tag of any kind.
    pub fn tag(mut self, tag: VlanTag) -> Self {
        last_header!(self, Header::Ethernet(ethernet) => ethernet).expect("tag follows eth").tags.push(tag);
        self
    }

    /// The ethertype of a frame whose payload is neither IP nor ARP.
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        last_header!(self, Header::Ethernet(ethernet) => ethernet)
            .expect("ethertype follows eth")
            .ethertype = ethertype;
        self
    }

    /// An IPv4 header: TTL 64, DF set.
    pub fn ipv4(self, src: impl ToString, dst: impl ToString) -> Self {
        self.header(Header::Ipv4(Ipv4 {
            dscp: 0,
            ecn: 0,
            id: 0x1234,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            ttl: 64,
            protocol: 253,
            src: address::<Ipv4Addr>(src),
            dst: address::<Ipv4Addr>(dst),
            options: Vec::new(),
            slack: Vec::new(),
        }))
    }

    /// An IPv6 header: hop limit 64.
    pub fn ipv6(self, src: impl ToString, dst: impl ToString) -> Self {
        self.header(Header::Ipv6(Ipv6 {
            dscp: 0,
            ecn: 0,
            flow_label: 0,
            hop_limit: 64,
            src: address::<Ipv6Addr>(src),
            dst: address::<Ipv6Addr>(dst),
            extensions: Vec::new(),
            protocol: 253,
            slack: Vec::new(),
        }))
    }

    fn ip(&mut self) -> &mut Header {
        let is_ip = |header: &&mut Header| header.addresses().is_some();
        self.frame.headers.iter_mut().rev().find(is_ip).expect("an IP field follows an IP header")
    }

    /// Time to live or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Self {
        *self.ip().ttl_mut().expect("an IP header has it") = ttl;
        self
    }

    /// DSCP.
    pub fn dscp(mut self, dscp: u8) -> Self {
        *self.ip().dscp_mut().expect("an IP header has it") = dscp & 63;
        self
    }

    /// ECN.
    pub fn ecn(mut self, ecn: u8) -> Self {
        *self.ip().ecn_mut().expect("an IP header has it") = ecn & 3;
        self
    }

    /// IPv4 identification.
    pub fn id(mut self, id: u16) -> Self {
        last_header!(self, Header::Ipv4(ip) => ip).expect("id follows ipv4").id = id;
        self
    }

    /// The don't-fragment bit of IPv4.
    pub fn dont_fragment(mut self, set: bool) -> Self {
        last_header!(self, Header::Ipv4(ip) => ip).expect("dont_fragment follows ipv4").dont_fragment = set;
        self
    }

    /// IPv4 options, padded here to four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        let ip = last_header!(self, Header::Ipv4(ip) => ip).expect("options follow ipv4");
        ip.options = options.to_vec();
        ip.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// IPv6 flow label.
    pub fn flow_label(mut self, label: u32) -> Self {
        last_header!(self, Header::Ipv6(ip) => ip).expect("flow_label follows ipv6").flow_label =
            label & 0xf_ffff;
        self
    }

    /// An IPv6 extension header that holds options: hop-by-hop (0), routing (43) or destination options (60).
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        let length = (2 + body.len()).next_multiple_of(8);
        let mut bytes = vec![0; length];
        bytes[1] = (length / 8 - 1) as u8;
        bytes[2..2 + body.len()].copy_from_slice(body);
        let ip = last_header!(self, Header::Ipv6(ip) => ip).expect("extension follows ipv6");
        ip.extensions.push((kind, bytes));
        self
    }

    /// The protocol number of an IP packet whose payload is opaque.
    pub fn protocol(mut self, protocol: u8) -> Self {
        match self.ip() {
            Header::Ipv4(ip) => ip.protocol = protocol,
            Header::Ipv6(ip) => ip.protocol = protocol,
            _ => {}
        }
        self
    }

    /// A TCP header: flags ACK.
    pub fn tcp(self, src: u16, dst: u16) -> Self {
        self.header(Header::Tcp(Tcp {
            src,
            dst,
            seq: 1,
            ack: 0,
            reserved: 0,
            flags: 0x10,
            window: 0xffff,
            urgent: 0,
            options: Vec::new(),
            checksum: Checksum::Right,
        }))
    }

    fn tcp_mut(&mut self) -> &mut Tcp {
        last_header!(self, Header::Tcp(tcp) => tcp).expect("a TCP field follows tcp")
    }

    /// TCP flags, FIN 0x01 to CWR 0x80.
    pub fn flags(mut self, flags: u8) -> Self {
        self.tcp_mut().flags = flags;
        self
    }

    /// TCP flags: SYN alone.
    pub fn syn(self) -> Self {
        self.flags(0x02)
    }

    /// TCP sequence number.
    pub fn seq(mut self, seq: u32) -> Self {
        self.tcp_mut().seq = seq;
        self
    }

    /// TCP acknowledgement number.
    pub fn ack(mut self, ack: u32) -> Self {
        self.tcp_mut().ack = ack;
        self
    }

    /// TCP options, padded here to four bytes with no-operation.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        let tcp = self.tcp_mut();
        tcp.options = options.to_vec();
        tcp.options.resize(options.len().next_multiple_of(4), 1);
        self
    }

    /// A UDP header.
    pub fn udp(self, src: u16, dst: u16) -> Self {
        let checksum = Checksum::Right;
        self.header(Header::Udp(Udp { src, dst, declared_length: None, checksum, slack: Vec::new() }))
    }

    /// The UDP header added last (of a tunnel too) has no checksum (`false`) or a right one (`true`).
    pub fn udp_checksum(mut self, present: bool) -> Self {
        let udp = self.frame.headers.iter_mut().rev().find_map(|header| match header {
            Header::Udp(udp) | Header::Tunnel(Tunnel { udp: Some(udp), .. }) => Some(udp),
            _ => None,
        });
        udp.expect("udp_checksum follows udp or a tunnel over it").checksum =
            if present { Checksum::Right } else { Checksum::Absent };
        self
    }

    /// An SCTP common header (tag zero, checksum right).
    pub fn sctp(self, src: u16, dst: u16) -> Self {
        self.header(Header::Sctp(Sctp { src, dst, tag: [0; 4], off: 0 }))
    }

    /// An ICMP header (for IPv4).
    pub fn icmp(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.header(Header::Icmp(Icmp { is_v6: false, kind, code, rest, checksum: Checksum::Right }))
    }

    /// An ICMPv6 header.
    pub fn icmpv6(self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.header(Header::Icmp(Icmp { is_v6: true, kind, code, rest, checksum: Checksum::Right }))
    }

    /// An echo request of the family of the IP header before.
    pub fn echo_request(self, id: u16, seq: u16) -> Self {
        self.echo(id, seq, 8, 128)
    }

    /// An echo reply of the family of the IP header before.
    pub fn echo_reply(self, id: u16, seq: u16) -> Self {
        self.echo(id, seq, 0, 129)
    }

    fn echo(mut self, id: u16, seq: u16, kind_v4: u8, kind_v6: u8) -> Self {
        let [a, b] = id.to_be_bytes();
        let [c, d] = seq.to_be_bytes();
        let is_v6 = matches!(self.ip(), Header::Ipv6(_));
        if is_v6 { self.icmpv6(kind_v6, 0, [a, b, c, d]) } else { self.icmp(kind_v4, 0, [a, b, c, d]) }
    }

    /// A neighbour solicitation for `target` with the source link-layer address option.
    pub fn neighbor_solicitation(self, target: impl ToString, source: MacAddr) -> Self {
        let mut body = address::<Ipv6Addr>(target).octets().to_vec();
        body.extend([1, 1]);
        body.extend(source.0);
        self.ttl(255).icmpv6(135, 0, [0; 4]).payload(&body)
    }

    /// An ARP packet.
    pub fn arp(self, operation: u16, sender: (MacAddr, &str), target: (MacAddr, &str)) -> Self {
        self.header(Header::Arp(Arp {
            operation,
            sender_mac: sender.0,
            sender_ip: address(sender.1),
            target_mac: target.0,
            target_ip: address(target.1),
        }))
    }

    /// A tunnel of any kind; what follows is inside.
    pub fn tunnel(self, kind: EncapKind, tenant: u32) -> Self {
        let port = if kind == EncapKind::Geneve { GENEVE_PORT } else { VXLAN_PORT };
        self.header(Header::Tunnel(Tunnel::new(kind, tenant, port, 0xc123)))
    }

    /// A VXLAN tunnel; Ethernet follows.
    pub fn vxlan(self, vni: u32) -> Self {
        self.tunnel(EncapKind::Vxlan, vni)
    }

    /// A Geneve tunnel without options.
    pub fn geneve(self, vni: u32) -> Self {
        self.tunnel(EncapKind::Geneve, vni)
    }

    /// Geneve options, padded here to four bytes.
    pub fn geneve_options(mut self, options: &[u8]) -> Self {
        let tunnel = last_header!(self, Header::Tunnel(tunnel) => tunnel).expect("options follow geneve");
        tunnel.raw.extend(options);
        tunnel.raw.resize(tunnel.raw.len().next_multiple_of(4), 0);
        tunnel.raw[0] = ((tunnel.raw.len() - 8) / 4) as u8;
        self
    }

    /// An NVGRE tunnel; Ethernet follows.
    pub fn nvgre(self, vsid: u32) -> Self {
        self.tunnel(EncapKind::Nvgre, vsid)
    }

    /// A GRE tunnel without (`None`) or with a key; IP follows.
    pub fn gre(self, key: Option<u32>) -> Self {
        match key {
            None => self.tunnel(EncapKind::Gre, 0),
            Some(key) => self.tunnel(EncapKind::GreKeyed, key),
        }
    }

    /// An IP-in-IP tunnel; [`PacketBuilder::ipv4`] or [`PacketBuilder::ipv6`] follows.
    pub fn ipip(self) -> Self {
        self.tunnel(EncapKind::IpInIp, 0)
    }

    /// Puts `inner` into the tunnel added last: whole, or without its Ethernet header where the tunnel carries IP.
    pub fn wrap(mut self, inner: &PacketBuilder) -> Self {
        let tunnel = last_header!(self, Header::Tunnel(tunnel) => tunnel).expect("wrap follows a tunnel");
        let skip = usize::from(!tunnel.kind.carries_ethernet());
        self.frame.headers.extend(inner.frame.headers.iter().skip(skip).cloned());
        self.frame.payload = inner.frame.payload.clone();
        self
    }

    /// The payload behind the last header.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.frame.payload = payload.to_vec();
        self
    }

    /// Pads the frame with zeroes behind its IP packet up to `length` bytes, as a NIC does to 60.
    pub fn pad_to(mut self, length: usize) -> Self {
        let missing = length.saturating_sub(self.frame.wire_len());
        match self.frame.headers.iter_mut().find(|header| header.level() == lamina_core::flow::Level::L3) {
            Some(Header::Ipv4(ip)) => ip.slack.resize(ip.slack.len() + missing, 0),
            Some(Header::Ipv6(ip)) => ip.slack.resize(ip.slack.len() + missing, 0),
            _ => self.frame.payload.resize(self.frame.payload.len() + missing, 0),
        }
        self
    }

    /// The packet as a list of headers.
    pub fn decoded(&self) -> &Frame {
        &self.frame
    }

    /// The bytes.
    pub fn frame(&self) -> Vec<u8> {
        self.frame.encode()
    }

    /// The packet as the fragments that a router would make of it, each with at most `size` bytes (a multiple of
    /// eight, at least eight) of the outermost IP packet's payload. A packet without payload stays whole.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let size = (size / 8 * 8).max(8);
        let at = self.frame.headers.iter().position(|header| header.addresses().is_some());
        let at = at.expect("fragments are of an IP packet");
        let whole = self.frame.encode();
        let front = Frame { headers: self.frame.headers[..=at].to_vec(), payload: Vec::new() };
        let body = &whole[front.wire_len()..];
        let mut number = 0x0102_0304u32;
        number = number.wrapping_add(body.len() as u32);
        let protocol = match crate::wire::decode(&whole).ok().map(|frame| frame.headers[at].clone()) {
            Some(Header::Ipv4(ip)) => ip.protocol,
            Some(Header::Ipv6(ip)) => ip.protocol,
            _ => 253,
        };
        let count = body.len().div_ceil(size);
        let piece = |(index, part): (usize, &[u8])| {
            let mut fragment = front.clone();
            let (offset, is_more) = ((index * size / 8) as u16, index + 1 < count);
            match &mut fragment.headers[at] {
                Header::Ipv4(ip) => {
                    (ip.offset, ip.more_fragments, ip.dont_fragment) = (offset, is_more, false);
                    ip.protocol = protocol;
                }
                Header::Ipv6(ip) => {
                    let mut bytes = vec![0, 0];
                    bytes.extend((offset << 3 | u16::from(is_more)).to_be_bytes());
                    bytes.extend(number.to_be_bytes());
                    ip.extensions.push((44, bytes));
                    ip.protocol = protocol;
                }
                _ => {}
            }
            fragment.payload = part.to_vec();
            fragment.encode()
        };
        if body.is_empty() {
            return vec![whole];
        }
        body.chunks(size).enumerate().map(piece).collect()
    }
}

#[cfg(test)]
mod tests;
