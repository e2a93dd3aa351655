//! The header stack: every field that policy can match or change, by header.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::{MacAddr, VlanTags};

/// Encapsulation levels that the parser follows (§4.1).
pub const MAX_GROUPS: usize = 3;

/// What the parser read: up to three header groups, outermost first, at least one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HeaderStack {
    groups: [HeaderGroup; MAX_GROUPS],
    count: u8,
}

impl HeaderStack {
    /// A stack of `groups`; `None` when there are none or more than [`MAX_GROUPS`].
    pub fn new(groups: &[HeaderGroup]) -> Option<Self> {
        let mut stack = HeaderStack::default();
        for group in groups {
            stack.push_inner(*group)?;
        }
        (stack.count > 0).then_some(stack)
    }

    /// Adds a group below the innermost one; `None` when the stack is full.
    pub fn push_inner(&mut self, group: HeaderGroup) -> Option<()> {
        *self.groups.get_mut(self.count as usize)? = group;
        self.count += 1;
        Some(())
    }

    /// Adds an empty group below the innermost one, to be filled in place; `None` when the stack is full.
    #[inline]
    pub fn push_empty(&mut self) -> Option<&mut HeaderGroup> {
        // An unused place is as `default` made it: groups are taken away only by `clear`.
        let group = self.groups.get_mut(self.count as usize)?;
        self.count += 1;
        Some(group)
    }

    /// Takes all groups away, as `default` has it. The places that were not used are not touched.
    #[inline]
    pub fn clear(&mut self) {
        self.groups_mut().fill(HeaderGroup::default());
        self.count = 0;
    }

    /// The groups, outermost first.
    pub fn groups(&self) -> &[HeaderGroup] {
        &self.groups[..self.count as usize]
    }

    /// The groups, outermost first, to change.
    pub fn groups_mut(&mut self) -> &mut [HeaderGroup] {
        &mut self.groups[..self.count as usize]
    }

    /// The outermost group.
    pub fn outermost(&self) -> &HeaderGroup {
        &self.groups[0]
    }

    /// The innermost group: the guest's own headers.
    pub fn innermost(&self) -> &HeaderGroup {
        &self.groups[(self.count as usize).saturating_sub(1)]
    }

    /// The innermost group, to change.
    pub fn innermost_mut(&mut self) -> &mut HeaderGroup {
        &mut self.groups[(self.count as usize).saturating_sub(1)]
    }

    /// Tenant id of the encapsulation nearest to the innermost group; `None` without a tunnel that carries one.
    pub fn tenant(&self) -> Option<u32> {
        self.groups().iter().rev().find_map(|group| match group.flow_id.l4 {
            Some(L4::Encap(encap)) if encap.kind.has_tenant() => Some(encap.tenant),
            _ => None,
        })
    }
}

/// One encapsulation level: its [`FlowId`] and its per-packet fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HeaderGroup {
    /// The base fields, equal for all packets of one flow.
    pub flow_id: FlowId,
    /// The fields that change from packet to packet.
    pub extra: Extra,
}

/// The relevant fields of one header group (VFP §6.1.1). Which headers exist is part of the identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowId {
    /// Ethernet and VLAN tags; absent inside a tunnel that carries IP directly.
    pub l2: Option<L2>,
    /// IPv4, IPv6 or ARP; absent for other ethertypes.
    pub l3: Option<L3>,
    /// Transport, ICMP, or the encapsulation that opens the next group. Absent for other protocols and for
    /// non-first fragments.
    pub l4: Option<L4>,
}

/// The three places of a header in its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Ethernet and VLAN tags.
    L2,
    /// IPv4, IPv6, ARP.
    L3,
    /// Transport, ICMP, or encapsulation.
    L4,
}

/// An Ethernet header with its VLAN tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct L2 {
    /// Source address.
    pub src: MacAddr,
    /// Destination address.
    pub dst: MacAddr,
    /// 802.1Q and 802.1ad tags, outermost first, priority bits included.
    pub tags: VlanTags,
    /// What follows the tags. Emitting derives it from the L3 header where there is one.
    pub ethertype: u16,
}

/// An IPv4, IPv6 or ARP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum L3 {
    /// IPv4 or IPv6.
    Ip(Ip),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
}

/// The base fields of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ip {
    /// Both addresses, always of one family.
    pub addresses: IpPair,
    /// IANA protocol number of the payload; for IPv6 of what follows the extension headers.
    pub protocol: u8,
}

/// Source and destination of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpPair {
    /// IPv4.
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
    },
}

impl IpPair {
    /// The pair, if both are of one family.
    pub const fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(IpPair::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(IpPair::V6 { src, dst }),
            _ => None,
        }
    }

    /// The source.
    pub const fn src(&self) -> IpAddr {
        match *self {
            IpPair::V4 { src, .. } => IpAddr::V4(src),
            IpPair::V6 { src, .. } => IpAddr::V6(src),
        }
    }

    /// The destination.
    pub const fn dst(&self) -> IpAddr {
        match *self {
            IpPair::V4 { dst, .. } => IpAddr::V4(dst),
            IpPair::V6 { dst, .. } => IpAddr::V6(dst),
        }
    }

    /// Source and destination exchanged.
    pub const fn swapped(&self) -> Self {
        match *self {
            IpPair::V4 { src, dst } => IpPair::V4 { src: dst, dst: src },
            IpPair::V6 { src, dst } => IpPair::V6 { src: dst, dst: src },
        }
    }

    /// True for IPv4.
    pub const fn is_v4(&self) -> bool {
        matches!(self, IpPair::V4 { .. })
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// A transport, ICMP or encapsulation header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum L4 {
    /// TCP.
    Tcp(Ports),
    /// UDP that is not a known encapsulation.
    Udp(Ports),
    /// SCTP (ports only).
    Sctp(Ports),
    /// ICMP for IPv4.
    Icmp(Icmp),
    /// ICMP for IPv6.
    Icmpv6(Icmp),
    /// A tunnel header: the next group lies inside.
    Encap(Encap),
}

/// TCP, UDP or SCTP port numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    /// Source.
    pub src: u16,
    /// Destination.
    pub dst: u16,
}

impl Ports {
    /// Source and destination exchanged.
    pub const fn swapped(self) -> Self {
        Ports { src: self.dst, dst: self.src }
    }
}

/// ICMP type, code and, for queries (echo, timestamp), the identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier of a query (IPv4 types 8, 0, 13, 14, 15, 16, 17, 18; IPv6 types 128, 129); `None` for every
    /// other type.
    pub id: Option<u16>,
}

/// A tunnel header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Encap {
    /// Which tunnel.
    pub kind: EncapKind,
    /// 24-bit tenant id (VNI, VSID), or the 32-bit GRE key; 0 where the kind has none.
    pub tenant: u32,
}

/// The tunnels that the parser follows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EncapKind {
    /// Ethernet in UDP, RFC 7348.
    Vxlan,
    /// Ethernet or IP in UDP, RFC 8926; options are kept and skipped.
    Geneve,
    /// Ethernet in GRE with a key whose upper 24 bits are the VSID, RFC 7637.
    Nvgre,
    /// IP in GRE without a key, RFC 2784.
    Gre,
    /// IP in GRE with a 32-bit key, RFC 2890.
    GreKeyed,
    /// IPv4 or IPv6 directly in IPv4 or IPv6 (protocols 4 and 41): a header of no bytes.
    IpInIp,
}

impl EncapKind {
    /// True where the tunnel carries a tenant id or key.
    pub const fn has_tenant(self) -> bool {
        !matches!(self, EncapKind::Gre | EncapKind::IpInIp)
    }

    /// True where the payload starts with an Ethernet header. (Geneve can carry IP too; Lamina pushes it with
    /// Ethernet, and parses both.)
    pub const fn carries_ethernet(self) -> bool {
        matches!(self, EncapKind::Vxlan | EncapKind::Geneve | EncapKind::Nvgre)
    }

    /// True where the tunnel is carried in UDP, so that the source port carries entropy.
    pub const fn over_udp(self) -> bool {
        matches!(self, EncapKind::Vxlan | EncapKind::Geneve)
    }

    /// The largest tenant id that the kind can carry.
    pub const fn max_tenant(self) -> u32 {
        match self {
            EncapKind::Vxlan | EncapKind::Geneve | EncapKind::Nvgre => 0x00ff_ffff,
            EncapKind::GreKeyed => u32::MAX,
            EncapKind::Gre | EncapKind::IpInIp => 0,
        }
    }

    /// The name used in policy files and output.
    pub const fn name(self) -> &'static str {
        match self {
            EncapKind::Vxlan => "vxlan",
            EncapKind::Geneve => "geneve",
            EncapKind::Nvgre => "nvgre",
            EncapKind::Gre => "gre",
            EncapKind::GreKeyed => "gre-keyed",
            EncapKind::IpInIp => "ip-in-ip",
        }
    }
}

/// Whether the packet is a fragment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Fragment {
    /// Not a fragment.
    #[default]
    None,
    /// The first fragment: it has the transport header.
    First,
    /// A later fragment: no transport header.
    Later,
}

/// Per-packet fields of one group: matchable, never base (§5.1). Absent headers leave zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Extra {
    /// DSCP, 6 bits.
    pub dscp: u8,
    /// ECN, 2 bits: 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
    pub ecn: u8,
    /// IPv4 time to live or IPv6 hop limit.
    pub ttl: u8,
    /// TCP flags, as in the low 8 bits of the flags field (FIN 0x01 ... CWR 0x80).
    pub tcp_flags: u8,
    /// Fragment state of the IP header.
    pub fragment: Fragment,
    /// IPv6 flow label, 20 bits.
    pub flow_label: u32,
    /// UDP source port of a tunnel over UDP, or the NVGRE flow id.
    pub entropy: u16,
    /// UDP destination port of a tunnel over UDP, by which it is known; else 0.
    pub tunnel_port: u16,
    /// The address asked for, in a neighbour solicitation or advertisement.
    pub nd_target: Option<Ipv6Addr>,
    /// The link-layer address in a router or neighbour solicitation or advertisement (RFC 4861 §4.6.1): of the sender,
    /// in a neighbour advertisement of the target. Zero where the options cannot be read, or name several.
    pub nd_link: Option<MacAddr>,
}
