//! Fields: what a condition, a key or an action can read from a packet (§3.4).

use core::net::IpAddr;

use super::{Direction, Fragment, HeaderGroup, HeaderStack, L3, L4};
use crate::address::MacAddr;

/// Which header group a field is read from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// The outermost group: what the network sees.
    Outer,
    /// The innermost group: what the guest sees. The same as `Outer` for a packet without a tunnel.
    Inner,
}

/// A field of one header group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum HeaderField {
    /// Ethernet source address.
    EthSrc,
    /// Ethernet destination address.
    EthDst,
    /// 1 where the Ethernet destination is a group of receivers (multicast, broadcast), else 0.
    EthMulticast,
    /// Ethertype after VLAN tags.
    EthType,
    /// Type (TPID) of the first VLAN tag: 0x8100 or 0x88a8.
    VlanType,
    /// VLAN id of the first tag.
    VlanId,
    /// 802.1p priority of the first tag.
    VlanPriority,
    /// VLAN id of the second tag.
    InnerVlanId,
    /// IP source, or ARP sender protocol address.
    IpSrc,
    /// IP destination, or ARP target protocol address.
    IpDst,
    /// IP protocol number.
    IpProtocol,
    /// DSCP.
    IpDscp,
    /// ECN.
    IpEcn,
    /// Time to live, hop limit.
    IpTtl,
    /// 0 no fragment, 1 first fragment, 2 later fragment.
    IpFragment,
    /// TCP, UDP or SCTP source port.
    L4Src,
    /// TCP, UDP or SCTP destination port.
    L4Dst,
    /// TCP flags.
    TcpFlags,
    /// ICMP or ICMPv6 type.
    IcmpType,
    /// ICMP or ICMPv6 code.
    IcmpCode,
    /// Identifier of an ICMP query.
    IcmpId,
    /// ARP operation.
    ArpOperation,
    /// ARP sender hardware address.
    ArpSenderMac,
    /// ARP target hardware address.
    ArpTargetMac,
    /// The address asked for in a neighbour solicitation or advertisement.
    NdTarget,
    /// The link-layer address that neighbour discovery binds its sender, or an advertised target, to. The zero address
    /// where options cannot be read to their end, or contradict each other.
    NdLinkAddress,
    /// Kind of tunnel that this group opens ([`super::EncapKind`] as a number).
    EncapKind,
    /// Tenant id or key of the tunnel that this group opens.
    EncapTenant,
}

/// What a condition can read: a header field of one scope, or a property of the packet's journey.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Field {
    /// A field of the outermost or innermost header group.
    Header(Scope, HeaderField),
    /// Tenant id of the tunnel nearest to the innermost group.
    Tenant,
    /// 0 inbound, 1 outbound.
    Direction,
    /// The port (its number) by which the packet entered the switch; the uplink's number from the network.
    IngressPort,
    /// A metadata key (by index) that an earlier layer set.
    Metadata(u8),
}

/// The kind of number a [`Value`] is. Numbers of different families never compare equal, so an IPv4 address
/// and an IPv6 address with the same low bits stay apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// Everything that is not an IP address.
    Number,
    /// IPv4 address, 32 bits.
    Ipv4,
    /// IPv6 address, 128 bits.
    Ipv6,
}

/// The value of a field: a family and a number. Ordered by family, then number, so ranges never span families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Value {
    /// What kind of number it is.
    pub family: Family,
    /// The number; an address is its big-endian bits.
    pub bits: u128,
}

impl Value {
    /// A plain number.
    pub const fn number(bits: u128) -> Self {
        Value { family: Family::Number, bits }
    }

    /// An IP address.
    pub const fn ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Value { family: Family::Ipv4, bits: v4.to_bits() as u128 },
            IpAddr::V6(v6) => Value { family: Family::Ipv6, bits: v6.to_bits() },
        }
    }

    /// A MAC address.
    pub const fn mac(mac: MacAddr) -> Self {
        Value::number(mac.to_bits() as u128)
    }
}

impl HeaderField {
    /// The field's bit width as a plain number; an IP field's widest family.
    pub const fn bits(self) -> u32 {
        use HeaderField::*;
        match self {
            EthSrc | EthDst | ArpSenderMac | ArpTargetMac | NdLinkAddress => 48,
            EthMulticast => 1,
            EthType | VlanType | L4Src | L4Dst | IcmpId | ArpOperation => 16,
            VlanId | InnerVlanId => 12,
            VlanPriority | EncapKind => 3,
            IpSrc | IpDst | NdTarget => 128,
            IpProtocol | IpTtl | TcpFlags | IcmpType | IcmpCode => 8,
            IpDscp => 6,
            IpEcn | IpFragment => 2,
            EncapTenant => 32,
        }
    }

    /// True for the fields that are part of a [`super::FlowId`] and thus of every unified flow's key. The others
    /// join the key only when a program declares that it reads them (§5.1).
    pub const fn is_base(self) -> bool {
        use HeaderField::*;
        !matches!(self, IpDscp | IpEcn | IpTtl | IpFragment | TcpFlags | NdTarget | NdLinkAddress)
    }

    /// Reads the field from `group`; `None` when the group lacks it.
    pub fn read(self, group: &HeaderGroup) -> Option<Value> {
        use HeaderField::*;
        let id = &group.flow_id;
        let extra = &group.extra;
        let ip = match id.l3 {
            Some(L3::Ip(ip)) => Some(ip),
            _ => None,
        };
        let arp = match id.l3 {
            Some(L3::Arp(arp)) => Some(arp),
            _ => None,
        };
        let ports = match id.l4 {
            Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => Some(ports),
            _ => None,
        };
        let icmp = match id.l4 {
            Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => Some(icmp),
            _ => None,
        };
        let encap = match id.l4 {
            Some(L4::Encap(encap)) => Some(encap),
            _ => None,
        };
        let number = |n: u128| Some(Value::number(n));
        match self {
            EthSrc => number(id.l2?.src.to_bits() as u128),
            EthDst => number(id.l2?.dst.to_bits() as u128),
            EthMulticast => number(id.l2?.dst.is_multicast() as u128),
            EthType => number(id.l2?.ethertype as u128),
            VlanType => number(id.l2?.tags.tag(0)?.tpid as u128),
            VlanId => number(id.l2?.tags.tag(0)?.id() as u128),
            VlanPriority => number(id.l2?.tags.tag(0)?.priority() as u128),
            InnerVlanId => number(id.l2?.tags.tag(1)?.id() as u128),
            IpSrc => match id.l3? {
                L3::Ip(ip) => Some(Value::ip(ip.addresses.src())),
                L3::Arp(arp) => Some(Value::ip(IpAddr::V4(arp.sender_ip))),
            },
            IpDst => match id.l3? {
                L3::Ip(ip) => Some(Value::ip(ip.addresses.dst())),
                L3::Arp(arp) => Some(Value::ip(IpAddr::V4(arp.target_ip))),
            },
            IpProtocol => number(ip?.protocol as u128),
            IpDscp => ip.and(number(extra.dscp as u128)),
            IpEcn => ip.and(number(extra.ecn as u128)),
            IpTtl => ip.and(number(extra.ttl as u128)),
            IpFragment => ip.and(number(match extra.fragment {
                Fragment::None => 0,
                Fragment::First => 1,
                Fragment::Later => 2,
            })),
            L4Src => number(ports?.src as u128),
            L4Dst => number(ports?.dst as u128),
            TcpFlags => match id.l4? {
                L4::Tcp(_) => number(extra.tcp_flags as u128),
                _ => None,
            },
            IcmpType => number(icmp?.kind as u128),
            IcmpCode => number(icmp?.code as u128),
            IcmpId => number(icmp?.id? as u128),
            ArpOperation => number(arp?.operation as u128),
            ArpSenderMac => number(arp?.sender_mac.to_bits() as u128),
            ArpTargetMac => number(arp?.target_mac.to_bits() as u128),
            NdTarget => extra.nd_target.map(|target| Value::ip(IpAddr::V6(target))),
            NdLinkAddress => extra.nd_link.map(Value::mac),
            EncapKind => number(encap?.kind as u128),
            EncapTenant => encap.filter(|e| e.kind.has_tenant()).and_then(|e| number(e.tenant as u128)),
        }
    }
}

impl Field {
    /// Reads a header field (or the tenant) from `stack`; `None` for fields that the stack does not hold.
    pub fn read_header(self, stack: &HeaderStack) -> Option<Value> {
        match self {
            Field::Header(Scope::Outer, field) => field.read(stack.outermost()),
            Field::Header(Scope::Inner, field) => field.read(stack.innermost()),
            Field::Tenant => stack.tenant().map(|tenant| Value::number(tenant as u128)),
            Field::Direction | Field::IngressPort | Field::Metadata(_) => None,
        }
    }

    /// True where the field is always part of a unified flow's key.
    pub const fn is_base(self) -> bool {
        match self {
            Field::Header(_, field) => field.is_base(),
            Field::Tenant | Field::Direction => true,
            Field::IngressPort | Field::Metadata(_) => false,
        }
    }
}

impl From<Direction> for Value {
    fn from(direction: Direction) -> Value {
        Value::number(match direction {
            Direction::Inbound => 0,
            Direction::Outbound => 1,
        })
    }
}

/// The non-base header fields that a program reads; their values join the unified flow's key (§5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FieldSet {
    outer: u32,
    inner: u32,
    ingress_port: bool,
}

impl FieldSet {
    /// Nothing declared.
    pub const EMPTY: FieldSet = FieldSet { outer: 0, inner: 0, ingress_port: false };

    /// Declares `field`. Base fields and metadata (a result of the walk, not an input to it) change nothing.
    pub fn insert(&mut self, field: Field) {
        match field {
            Field::Header(scope, field) if !field.is_base() => match scope {
                Scope::Outer => self.outer |= 1 << field as u8,
                Scope::Inner => self.inner |= 1 << field as u8,
            },
            Field::IngressPort => self.ingress_port = true,
            _ => {}
        }
    }

    /// Every field of either set.
    pub const fn union(self, other: FieldSet) -> FieldSet {
        FieldSet {
            outer: self.outer | other.outer,
            inner: self.inner | other.inner,
            ingress_port: self.ingress_port | other.ingress_port,
        }
    }

    /// True when nothing is declared.
    pub const fn is_empty(self) -> bool {
        self.outer == 0 && self.inner == 0 && !self.ingress_port
    }

    /// True where the port by which the packet entered the switch was declared.
    pub const fn has_ingress_port(self) -> bool {
        self.ingress_port
    }

    /// True where `field` of any scope was declared.
    pub const fn contains(self, field: HeaderField) -> bool {
        (self.outer | self.inner) & (1 << field as u8) != 0
    }
}
