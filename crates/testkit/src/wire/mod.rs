//! A frame as a plain list of headers, outermost first, and the payload behind them.
//!
//! Theory. Decoding takes a frame apart into [`Header`]s, each with every field that it has on the wire; encoding
//! puts them together again from the innermost outward, so that a header always knows how long its body is and
//! what comes next. Lengths, ethertypes, protocol numbers and checksums are never carried along: they follow from
//! the list. What cannot follow from it is kept: options, extension headers, padding, and by how much a checksum
//! was wrong, so that a wrong one stays exactly as wrong (a first fragment's checksum covers bytes that are not
//! there).
//!
//! This is the test oracle's codec. It must never share code with the core, and speed is no aim.

mod checksum;
mod decode;
mod encode;
mod group;

pub use checksum::{Checksum, internet_checksum};
pub use decode::{decode, decode_opaque, tunnel_offsets};
pub use group::Group;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::flow::{EncapKind, Fragment, Level};

/// A frame, taken apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// The headers, outermost first.
    pub headers: Vec<Header>,
    /// What follows the last header.
    pub payload: Vec<u8>,
}

/// One header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Header {
    /// Ethernet with its tags.
    Ethernet(Ethernet),
    /// IPv4 with options.
    Ipv4(Ipv4),
    /// IPv6 with extension headers.
    Ipv6(Ipv6),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// TCP with options.
    Tcp(Tcp),
    /// UDP that opens no tunnel.
    Udp(Udp),
    /// SCTP's common header.
    Sctp(Sctp),
    /// The first eight bytes of an ICMP or ICMPv6 message.
    Icmp(Icmp),
    /// A tunnel header, with the UDP header that carries it where there is one.
    Tunnel(Tunnel),
}

/// An Ethernet header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// VLAN tags, outermost first.
    pub tags: Vec<VlanTag>,
    /// What follows; used on encoding only where no header follows.
    pub ethertype: u16,
}

/// An IPv4 header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ipv4 {
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// ECN, 2 bits.
    pub ecn: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments.
    pub more_fragments: bool,
    /// Fragment offset, in units of eight bytes.
    pub offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// What follows; used on encoding only where no header follows.
    pub protocol: u8,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Options, padded to four bytes.
    pub options: Vec<u8>,
    /// Bytes of the carrier behind the packet (Ethernet padding).
    pub slack: Vec<u8>,
}

/// An IPv6 header with its extension headers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ipv6 {
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// ECN, 2 bits.
    pub ecn: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// Extension headers: their protocol number and their bytes, whose first one is rewritten on encoding.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What follows them; used on encoding only where no header follows.
    pub protocol: u8,
    /// Bytes of the carrier behind the packet.
    pub slack: Vec<u8>,
}

/// An ARP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

/// A TCP header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// The four reserved bits behind the data offset.
    pub reserved: u8,
    /// Flags, FIN 0x01 to CWR 0x80.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options, padded to four bytes.
    pub options: Vec<u8>,
    /// State of the checksum.
    pub checksum: Checksum,
}

/// A UDP header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// The length on the wire where it is not that of header and body (first fragments).
    pub declared_length: Option<u16>,
    /// State of the checksum.
    pub checksum: Checksum,
    /// Bytes of the IP packet behind the datagram.
    pub slack: Vec<u8>,
}

/// SCTP's common header; chunks are payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sctp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Verification tag.
    pub tag: [u8; 4],
    /// What must be added (exclusive or) to the right CRC32c to have the stored one: 0 where it is right.
    pub off: u32,
}

/// The first eight bytes of an ICMP or ICMPv6 message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// ICMPv6.
    pub is_v6: bool,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The second four bytes: of a query, identifier and sequence number.
    pub rest: [u8; 4],
    /// State of the checksum.
    pub checksum: Checksum,
}

/// A tunnel header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Which tunnel.
    pub kind: EncapKind,
    /// Tenant id or key; written into `raw` on encoding.
    pub tenant: u32,
    /// The UDP header, for tunnels over UDP.
    pub udp: Option<Udp>,
    /// The tunnel's own header with options, as on the wire.
    pub raw: Vec<u8>,
}

impl Header {
    /// The header's place in its group.
    pub fn level(&self) -> Level {
        match self {
            Header::Ethernet(_) => Level::L2,
            Header::Ipv4(_) | Header::Ipv6(_) | Header::Arp(_) => Level::L3,
            _ => Level::L4,
        }
    }

    /// Source and destination of an IP header.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match self {
            Header::Ipv4(ip) => Some((ip.src.into(), ip.dst.into())),
            Header::Ipv6(ip) => Some((ip.src.into(), ip.dst.into())),
            _ => None,
        }
    }

    /// DSCP, ECN and time to live of an IP header.
    pub fn class_and_ttl(&self) -> Option<(u8, u8, u8)> {
        match self {
            Header::Ipv4(ip) => Some((ip.dscp, ip.ecn, ip.ttl)),
            Header::Ipv6(ip) => Some((ip.dscp, ip.ecn, ip.hop_limit)),
            _ => None,
        }
    }

    /// DSCP of an IP header, to change.
    pub fn dscp_mut(&mut self) -> Option<&mut u8> {
        match self {
            Header::Ipv4(ip) => Some(&mut ip.dscp),
            Header::Ipv6(ip) => Some(&mut ip.dscp),
            _ => None,
        }
    }

    /// ECN of an IP header, to change.
    pub fn ecn_mut(&mut self) -> Option<&mut u8> {
        match self {
            Header::Ipv4(ip) => Some(&mut ip.ecn),
            Header::Ipv6(ip) => Some(&mut ip.ecn),
            _ => None,
        }
    }

    /// Time to live of an IP header, to change.
    pub fn ttl_mut(&mut self) -> Option<&mut u8> {
        match self {
            Header::Ipv4(ip) => Some(&mut ip.ttl),
            Header::Ipv6(ip) => Some(&mut ip.hop_limit),
            _ => None,
        }
    }

    /// Fragment state of an IP header.
    pub fn fragment(&self) -> Fragment {
        match self {
            Header::Ipv4(ip) if ip.offset > 0 => Fragment::Later,
            Header::Ipv4(ip) if ip.more_fragments => Fragment::First,
            Header::Ipv6(ip) => {
                let found = ip.extensions.iter().find(|(kind, _)| *kind == EXT_FRAGMENT);
                let Some((_, bytes)) = found else { return Fragment::None };
                let word = u16::from_be_bytes([bytes[2], bytes[3]]);
                match (word >> 3, word & 1) {
                    (0, 0) => Fragment::None,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                }
            }
            _ => Fragment::None,
        }
    }

    /// Source and destination port of TCP, UDP or SCTP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self {
            Header::Tcp(tcp) => Some((tcp.src, tcp.dst)),
            Header::Udp(udp) => Some((udp.src, udp.dst)),
            Header::Sctp(sctp) => Some((sctp.src, sctp.dst)),
            _ => None,
        }
    }

    /// Identifier of an ICMP query.
    pub fn query_id(&self) -> Option<u16> {
        match self {
            Header::Icmp(icmp) if icmp.is_query() => Some(u16::from_be_bytes([icmp.rest[0], icmp.rest[1]])),
            _ => None,
        }
    }
}

impl Icmp {
    /// True for the types that carry an identifier.
    pub fn is_query(&self) -> bool {
        if self.is_v6 { matches!(self.kind, 128 | 129) } else { matches!(self.kind, 0 | 8 | 13..=18) }
    }
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_ETHERNET: u16 = 0x6558;
pub(crate) const EXT_HOP_BY_HOP: u8 = 0;
pub(crate) const EXT_ROUTING: u8 = 43;
pub(crate) const EXT_FRAGMENT: u8 = 44;
pub(crate) const EXT_AUTHENTICATION: u8 = 51;
pub(crate) const EXT_DESTINATION: u8 = 60;
