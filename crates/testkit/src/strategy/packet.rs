//! Random frames, and frames made from others: replies, repetitions with small changes.

use lamina_core::flow::EncapKind;
use proptest::prelude::*;
use proptest::sample::select;

use super::universe::*;
use crate::builder::{PacketBuilder, eth};
use crate::message::Dns;
use crate::wire::{Frame, Header};

/// What a random frame carries.
#[derive(Clone, Debug)]
pub enum Content {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP, with a checksum or without.
    Udp(bool),
    /// An echo request or reply.
    Echo {
        /// A request.
        is_request: bool,
        /// The identifier.
        id: u16,
    },
    /// An ICMP error (type 3; ICMPv6 type 1) that quotes nothing useful.
    IcmpError,
    /// A protocol without ports.
    Other,
    /// An ARP request or reply, whatever the addresses' family.
    Arp(u16),
    /// A neighbour solicitation (on IPv4: an echo request).
    Solicitation,
    /// No IP at all.
    Opaque,
}

/// A random frame.
#[derive(Clone, Debug)]
pub struct PacketSpec {
    /// IPv6 instead of IPv4.
    pub is_v6: bool,
    /// Index of the source address.
    pub src: usize,
    /// Index of the destination address.
    pub dst: usize,
    /// Index of the destination MAC.
    pub dst_mac: usize,
    /// Indexes of the transport ports.
    pub ports: (usize, usize),
    /// What it carries.
    pub content: Content,
    /// DSCP and ECN.
    pub class: (u8, u8),
    /// Time to live.
    pub ttl: u8,
    /// VLAN id of the tag, if it has one.
    pub vlan: Option<u16>,
    /// IPv4 options or an IPv6 extension header.
    pub has_options: bool,
    /// Payload bytes.
    pub payload: usize,
    /// The fragment to send of it; `None` sends it whole.
    pub fragment: Option<usize>,
    /// The tunnel around it.
    pub tunnel: Option<TunnelAround>,
    /// Cut or flip: `None` leaves it in order.
    pub damage: Option<(usize, u8)>,
}

/// A tunnel around a random frame, as it arrives from the network (or from a guest that makes its own).
#[derive(Clone, Debug)]
pub struct TunnelAround {
    /// Which.
    pub kind: EncapKind,
    /// Tenant id.
    pub tenant: u32,
    /// Index of the outer source and destination among the remotes.
    pub ends: (usize, usize),
    /// The outer addresses are IPv6.
    pub is_v6: bool,
    /// Outer DSCP and ECN.
    pub class: (u8, u8),
    /// The outer destination MAC is the uplink's; else the first port's.
    pub is_to_uplink: bool,
}

/// All tunnel kinds.
pub const KINDS: [EncapKind; 6] = [
    EncapKind::Vxlan,
    EncapKind::Geneve,
    EncapKind::Nvgre,
    EncapKind::Gre,
    EncapKind::GreKeyed,
    EncapKind::IpInIp,
];

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        8 => select(vec![0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04]).prop_map(Content::Tcp),
        5 => prop::bool::weighted(0.8).prop_map(Content::Udp),
        3 => (any::<bool>(), 1u16..4).prop_map(|(is_request, id)| Content::Echo { is_request, id }),
        1 => Just(Content::IcmpError),
        1 => Just(Content::Other),
        1 => (1u16..3).prop_map(Content::Arp),
        1 => Just(Content::Solicitation),
        1 => Just(Content::Opaque),
    ]
}

fn tunnel_around() -> impl Strategy<Value = TunnelAround> {
    (
        prop_oneof![3 => Just(EncapKind::Vxlan), 2 => select(KINDS.to_vec())],
        select(TENANTS.to_vec()),
        (1..3usize, prop_oneof![4 => Just(0usize), 1 => 0..3usize]),
        prop::bool::weighted(0.2),
        (prop_oneof![2 => Just(0u8), 1 => Just(10)], 0u8..4),
        prop::bool::weighted(0.9),
    )
        .prop_map(|(kind, tenant, ends, is_v6, class, is_to_uplink)| TunnelAround {
            kind,
            tenant,
            ends,
            is_v6,
            class,
            is_to_uplink,
        })
}

/// Random frames; `tunnelled` is the chance of a tunnel around them.
pub fn packets(tunnelled: f64) -> impl Strategy<Value = PacketSpec> {
    let mac = prop_oneof![6 => 0usize..3, 3 => 3usize..5, 1 => 5usize..8];
    let who = (prop::bool::weighted(0.25), 0..V4.len(), 0..V4.len(), mac, (0..5usize, 0..5usize));
    let how = (
        content(),
        (prop_oneof![2 => Just(0u8), 1 => Just(10), 1 => Just(46)], 0u8..4),
        prop_oneof![6 => Just(64u8), 1 => 1u8..4, 1 => Just(255)],
        prop::option::weighted(0.1, 1u16..3),
        prop::bool::weighted(0.1),
    );
    let rest = (
        prop_oneof![8 => 0usize..40, 1 => 150usize..360],
        prop::option::weighted(0.08, 0usize..3),
        prop::option::weighted(tunnelled, tunnel_around()),
        prop::option::weighted(0.02, (0usize..80, 1u8..)),
    );
    (who, how, rest).prop_map(|(who, how, rest)| {
        let (is_v6, src, dst, dst_mac, ports) = who;
        let (content, class, ttl, vlan, has_options) = how;
        let (payload, fragment, tunnel, damage) = rest;
        PacketSpec {
            is_v6,
            src,
            dst,
            dst_mac,
            ports,
            content,
            class,
            ttl,
            vlan,
            has_options,
            payload,
            fragment,
            tunnel,
            damage,
        }
    })
}

impl PacketSpec {
    /// The frame, as sent by a station with the MAC of index `src_mac`.
    pub fn frame(&self, src_mac: usize) -> Vec<u8> {
        let plain = self.plain(src_mac);
        let can_fragment = plain.decoded().headers.iter().any(|header| header.addresses().is_some());
        let plain = match self.fragment.filter(|_| can_fragment) {
            None => plain,
            Some(number) => {
                let fragments = plain.fragments(24);
                let fragment = &fragments[number.min(fragments.len() - 1)];
                crate::wire::decode(fragment).map_or(plain, PacketBuilder::from)
            }
        };
        let mut frame = match &self.tunnel {
            None => plain.frame(),
            Some(around) => around.around(&plain).unwrap_or(plain).frame(),
        };
        match self.damage {
            Some((at, 1)) => frame.truncate(at.max(15)),
            Some((at, bits)) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= bits;
                }
            }
            None => {}
        }
        frame
    }

    fn plain(&self, src_mac: usize) -> PacketBuilder {
        let link = eth(MACS[src_mac], MACS[self.dst_mac % MACS.len()]);
        let link = match self.vlan {
            Some(id) => link.vlan(id, 3),
            None => link,
        };
        let (src, dst) = (self.src, self.dst);
        let (v4_src, v4_dst) = (V4[src % V4.len()], V4[dst % V4.len()]);
        match self.content {
            Content::Arp(operation) => {
                let nobody = lamina_core::address::MacAddr::ZERO;
                return link.arp(operation, (MACS[src_mac], v4_src), (nobody, v4_dst));
            }
            Content::Opaque => return link.ethertype(0x88cc).payload(&vec![0x5a; self.payload]),
            _ => {}
        }
        let ip = if self.is_v6 {
            let ip = link.ipv6(V6[src % V6.len()], V6[dst % V6.len()]);
            if self.has_options { ip.extension(60, &[1, 4, 0, 0, 0, 0]) } else { ip }
        } else {
            let ip = link.ipv4(v4_src, v4_dst);
            if self.has_options { ip.options(&[1, 1, 1, 1]) } else { ip }
        };
        let ip = ip.ttl(self.ttl).dscp(self.class.0).ecn(self.class.1);
        let ports = (L4_PORTS[self.ports.0 % 5], L4_PORTS[self.ports.1 % 5]);
        let packet = match self.content {
            Content::Tcp(flags) => ip.tcp(ports.0, ports.1).flags(flags),
            Content::Udp(has_checksum) => ip.udp(ports.0, ports.1).udp_checksum(has_checksum || self.is_v6),
            Content::Echo { is_request: true, id } => ip.echo_request(id, 1),
            Content::Echo { is_request: false, id } => ip.echo_reply(id, 1),
            Content::IcmpError if self.is_v6 => ip.icmpv6(1, 0, [0; 4]),
            Content::IcmpError => ip.icmp(3, 1, [0; 4]),
            Content::Solicitation if self.is_v6 => {
                return ip.neighbor_solicitation(V6[dst % V6.len()], MACS[src_mac]);
            }
            Content::Solicitation => ip.echo_request(9, 9),
            _ => ip.protocol(253),
        };
        if matches!(self.content, Content::Udp(_)) && ports.1 == 53 && self.payload < 40 {
            let name = NAMES[self.payload % NAMES.len()];
            let kind = if self.payload.is_multiple_of(3) { 28 } else { 1 };
            return packet.payload(&Dns::query(self.payload as u16, name, kind).encode());
        }
        packet.payload(&vec![0xa5; self.payload])
    }
}

impl TunnelAround {
    fn around(&self, inner: &PacketBuilder) -> Option<PacketBuilder> {
        let carries_ip = !self.kind.carries_ethernet();
        let starts_with_ip =
            inner.decoded().headers.get(1).is_some_and(|header| header.addresses().is_some());
        if carries_ip && !starts_with_ip {
            return None;
        }
        let link = eth(NEIGHBOR_MAC, if self.is_to_uplink { UPLINK_MAC } else { MACS[0] });
        let outer = if self.is_v6 {
            link.ipv6(REMOTES_V6[self.ends.0 % 2], REMOTES_V6[self.ends.1 % 2])
        } else {
            link.ipv4(REMOTES_V4[self.ends.0], REMOTES_V4[self.ends.1])
        };
        let tenant = self.tenant & self.kind.max_tenant();
        Some(outer.dscp(self.class.0).ecn(self.class.1).tunnel(self.kind, tenant).wrap(inner))
    }
}

/// The answer that the receiver of `frame` would send: every address and port exchanged, an echo request answered.
pub fn reply_to(frame: &Frame) -> Frame {
    let mut reply = frame.clone();
    for header in &mut reply.headers {
        match header {
            Header::Ethernet(eth) => std::mem::swap(&mut eth.src, &mut eth.dst),
            Header::Ipv4(ip) => (ip.src, ip.dst, ip.ttl) = (ip.dst, ip.src, 63),
            Header::Ipv6(ip) => (ip.src, ip.dst, ip.hop_limit) = (ip.dst, ip.src, 63),
            Header::Arp(arp) => {
                std::mem::swap(&mut arp.sender_mac, &mut arp.target_mac);
                std::mem::swap(&mut arp.sender_ip, &mut arp.target_ip);
                arp.operation = 2;
            }
            Header::Tcp(tcp) => (tcp.src, tcp.dst, tcp.flags) = (tcp.dst, tcp.src, 0x12),
            Header::Udp(udp) => std::mem::swap(&mut udp.src, &mut udp.dst),
            Header::Sctp(sctp) => std::mem::swap(&mut sctp.src, &mut sctp.dst),
            Header::Icmp(icmp) => {
                icmp.kind = match (icmp.is_v6, icmp.kind) {
                    (false, 8) => 0,
                    (true, 128) => 129,
                    (_, other) => other,
                }
            }
            Header::Tunnel(_) => {}
        }
    }
    reply
}

/// A change of a frame that is sent once more.
#[derive(Clone, Debug)]
pub enum Tweak {
    /// None.
    Same,
    /// Another innermost time to live.
    Ttl(u8),
    /// Another innermost DSCP and ECN.
    Class(u8, u8),
    /// Another outermost ECN.
    OuterEcn(u8),
    /// Other TCP flags.
    Flags(u8),
    /// Another payload length.
    Payload(usize),
    /// Another source MAC.
    SrcMac(usize),
    /// IPv4 options or an IPv6 extension header on the innermost IP header.
    Options,
}

/// Random changes.
pub fn tweaks() -> impl Strategy<Value = Tweak> {
    prop_oneof![
        6 => Just(Tweak::Same),
        1 => (1u8..4).prop_map(Tweak::Ttl),
        1 => (select(vec![0u8, 10, 46]), 0u8..4).prop_map(|(dscp, ecn)| Tweak::Class(dscp, ecn)),
        1 => (0u8..4).prop_map(Tweak::OuterEcn),
        1 => select(vec![0x02u8, 0x10, 0x11, 0x04]).prop_map(Tweak::Flags),
        1 => (0usize..380).prop_map(Tweak::Payload),
        1 => (0usize..5).prop_map(Tweak::SrcMac),
        1 => Just(Tweak::Options),
    ]
}

impl Tweak {
    /// Changes `frame`.
    pub fn apply(&self, frame: &mut Frame) {
        let is_ip = |header: &&mut Header| header.addresses().is_some();
        let innermost = frame.headers.iter_mut().rev().find(is_ip);
        match *self {
            Tweak::Same => {}
            Tweak::Ttl(ttl) => {
                if let Some(old) = innermost.and_then(Header::ttl_mut) {
                    *old = ttl;
                }
            }
            Tweak::Class(dscp, ecn) => {
                if let Some(header) = innermost {
                    header.dscp_mut().into_iter().for_each(|old| *old = dscp);
                    header.ecn_mut().into_iter().for_each(|old| *old = ecn);
                }
            }
            Tweak::OuterEcn(ecn) => {
                let outermost = frame.headers.iter_mut().find(is_ip);
                if let Some(old) = outermost.and_then(Header::ecn_mut) {
                    *old = ecn;
                }
            }
            Tweak::Flags(flags) => {
                if let Some(Header::Tcp(tcp)) = frame.headers.last_mut() {
                    tcp.flags = flags;
                }
            }
            Tweak::Payload(length) => {
                let is_message = matches!(frame.headers.last(), Some(Header::Icmp(icmp)) if !icmp.is_query());
                if !is_message && frame.innermost().fragment() == lamina_core::flow::Fragment::None {
                    frame.payload = vec![0x3c; length];
                }
            }
            Tweak::SrcMac(index) => {
                if let Some(Header::Ethernet(eth)) = frame.headers.first_mut() {
                    eth.src = MACS[index];
                }
            }
            Tweak::Options => match innermost {
                Some(Header::Ipv4(ip)) if ip.options.is_empty() => ip.options = vec![1; 8],
                Some(Header::Ipv6(ip)) if ip.extensions.is_empty() => {
                    ip.extensions.push((60, vec![0, 0, 1, 4, 0, 0, 0, 0]));
                }
                _ => {}
            },
        }
    }
}
