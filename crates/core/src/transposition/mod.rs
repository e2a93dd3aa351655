//! Header transpositions: what is done to each header, how that composes, and the edit it compiles to (§4).
//!
//! Theory. Write a packet's headers as a list, outermost first: `L2 L3 L4 L2 L3 L4 ...`. A [`Transposition`] is
//! a list of [`HeaderOp`]s that is read against it. *Ignore* and *modify* take one header of the packet and
//! leave one, *pop* takes one and leaves none, *push* takes none and leaves one; headers beyond the end of the
//! list are ignored. So a transposition is a small transducer over the header list, and two of them compose like
//! transducers do: the second reads what the first would write. `pop` after `push` cancels, `modify` after
//! `push` edits what is pushed, the later `modify` wins; nothing has to be special-cased. Law (property-tested):
//! `apply(compose(a, b), p) == apply(b, apply(a, p))`, bytes and checksums included.
//!
//! Some things cannot be frozen into a list, because they change from packet to packet of one flow: TTL
//! decrement, the DSCP and ECN that an outer header copies, the ECN that a popped header hands inward
//! (RFC 6040), lengths, entropy. The list says *that* they happen; the compiled [`Edit`] does them per packet.

mod apply;
mod compose;
mod display;
mod edit;
mod entropy;
mod headers;
mod reverse;
mod source;
#[cfg(test)]
mod tests;

pub use apply::TransposeError;
pub use edit::Edit;
pub(crate) use entropy::flow_hash;

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use crate::address::{MacAddr, VlanTags};
use crate::flow::{Arp, EncapKind, Icmp, IpPair, Level, Ports};
use source::Source;

/// A list of header operations, in canonical form: no `Modify` without a field, no trailing `Ignore`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Transposition {
    ops: Vec<HeaderOp>,
    /// One per pushed IP header, in order: where its ECN and DSCP come from.
    sources: Vec<Source>,
}

/// What happens to one header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeaderOp {
    /// The header stays as it is.
    Ignore(Level),
    /// Named fields change, the header stays.
    Modify(Modify),
    /// A new header is put here, every field named.
    Push(Push),
    /// The header is removed.
    Pop(Level),
}

/// Changed fields of one header; at least one is `Some`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Modify {
    /// Ethernet addresses and VLAN tags.
    L2(ModifyL2),
    /// IP or ARP fields.
    L3(ModifyL3),
    /// Transport, ICMP or tunnel fields.
    L4(ModifyL4),
}

/// Changes of an Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModifyL2 {
    /// New source.
    pub src: Option<MacAddr>,
    /// New destination.
    pub dst: Option<MacAddr>,
    /// The tags that shall be there instead of those that are.
    pub tags: Option<VlanTags>,
    /// New ethertype; only for frames whose L3 header is unknown.
    pub ethertype: Option<u16>,
}

/// Changes of an IP or ARP header. New addresses are of the header's family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModifyL3 {
    /// New source (ARP: sender protocol address).
    pub src: Option<IpAddr>,
    /// New destination (ARP: target protocol address).
    pub dst: Option<IpAddr>,
    /// New DSCP.
    pub dscp: Option<u8>,
    /// What happens to the time to live.
    pub ttl: Option<Ttl>,
    /// ARP: new operation and hardware addresses.
    pub arp: ModifyArp,
}

/// Changes of an ARP packet beyond its protocol addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModifyArp {
    /// New operation.
    pub operation: Option<u16>,
    /// New sender hardware address.
    pub sender_mac: Option<MacAddr>,
    /// New target hardware address.
    pub target_mac: Option<MacAddr>,
}

/// What happens to a time to live or hop limit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ttl {
    /// It becomes this number; with 0 the packet is not forwarded.
    Set(u8),
    /// It falls by this much; a packet whose TTL would reach 0 is not forwarded (§4.5).
    Decrement(u8),
    /// It falls by `decrement`, as above, and then becomes `value`: what composing the two gives. The packet is
    /// still dropped where the decrement would have reached 0.
    DecrementThenSet {
        /// By how much it falls first.
        decrement: u8,
        /// What it becomes.
        value: u8,
    },
}

/// Changes of a transport, ICMP or tunnel header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModifyL4 {
    /// New source port.
    pub src_port: Option<u16>,
    /// New destination port.
    pub dst_port: Option<u16>,
    /// New ICMP type.
    pub icmp_type: Option<u8>,
    /// New ICMP code.
    pub icmp_code: Option<u8>,
    /// New identifier of an ICMP query.
    pub icmp_id: Option<u16>,
    /// New tenant id of a tunnel.
    pub tenant: Option<u32>,
}

/// A new header, every field named. Lengths, checksums, ethertype and protocol follow from what lies below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Push {
    /// An Ethernet header.
    L2(PushL2),
    /// An IPv4 or IPv6 header.
    Ip(PushIp),
    /// An ARP packet.
    Arp(Arp),
    /// A UDP header.
    Udp(Ports),
    /// An ICMP or ICMPv6 header (as the IP header above it says).
    Icmp(Icmp),
    /// A tunnel header.
    Encap(PushEncap),
}

/// A new Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PushL2 {
    /// Source.
    pub src: MacAddr,
    /// Destination.
    pub dst: MacAddr,
    /// VLAN tags.
    pub tags: VlanTags,
    /// Ethertype, used only where no L3 header that Lamina knows follows.
    pub ethertype: u16,
}

/// A new IP header: DF set (v4), ECN by RFC 6040 normal mode, flow label 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PushIp {
    /// Addresses.
    pub addresses: IpPair,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP.
    pub dscp: PushDscp,
    /// Protocol number, used only where no L4 header that Lamina knows follows.
    pub protocol: u8,
}

/// DSCP of a pushed header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PushDscp {
    /// This value.
    Fixed(u8),
    /// A copy of the next IP header's, as the packet arrived (0 where there is none; of the popped header where
    /// this one replaces it). Composition replaces it by `Fixed` when an earlier step had set that DSCP.
    Copy,
}

/// A new tunnel header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PushEncap {
    /// Which tunnel.
    pub kind: EncapKind,
    /// Tenant id or key.
    pub tenant: u32,
    /// UDP destination port of a tunnel over UDP (default 4789 VXLAN, 6081 Geneve); else ignored.
    pub udp_port: u16,
}

impl HeaderOp {
    /// The level of the header that the operation is about.
    pub const fn level(&self) -> Level {
        match self {
            HeaderOp::Ignore(level) | HeaderOp::Pop(level) => *level,
            HeaderOp::Modify(Modify::L2(_)) | HeaderOp::Push(Push::L2(_)) => Level::L2,
            HeaderOp::Modify(Modify::L3(_)) | HeaderOp::Push(Push::Ip(_) | Push::Arp(_)) => Level::L3,
            HeaderOp::Modify(Modify::L4(_)) => Level::L4,
            HeaderOp::Push(Push::Udp(_) | Push::Icmp(_) | Push::Encap(_)) => Level::L4,
        }
    }
}

impl Modify {
    /// True when no field is named.
    pub fn is_empty(&self) -> bool {
        match self {
            Modify::L2(modify) => *modify == ModifyL2::default(),
            Modify::L3(modify) => *modify == ModifyL3::default(),
            Modify::L4(modify) => *modify == ModifyL4::default(),
        }
    }
}

impl Transposition {
    /// Changes nothing.
    pub const IDENTITY: Transposition = Transposition { ops: Vec::new(), sources: Vec::new() };

    /// A transposition that does `ops`, outermost header first. A `Modify` that names no field becomes `Ignore`.
    pub fn new(ops: Vec<HeaderOp>) -> Self {
        let sources = source::by_place(&ops);
        Transposition::with_sources(ops, sources)
    }

    /// The same with the sources of pushed IP headers given, one per push.
    fn with_sources(mut ops: Vec<HeaderOp>, sources: Vec<Source>) -> Self {
        for op in &mut ops {
            if matches!(op, HeaderOp::Modify(modify) if modify.is_empty()) {
                *op = HeaderOp::Ignore(op.level());
            }
        }
        while matches!(ops.last(), Some(HeaderOp::Ignore(_))) {
            ops.pop();
        }
        Transposition { ops, sources }
    }

    /// A transposition that fits no packet: what composing two that do not fit together gives. (No packet has a
    /// transport header outermost.)
    fn misfit() -> Self {
        Transposition::new(alloc::vec![HeaderOp::Pop(Level::L4)])
    }

    /// The operations, outermost header first.
    pub fn ops(&self) -> &[HeaderOp] {
        &self.ops
    }

    /// True when it changes nothing.
    pub fn is_identity(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many headers of the packet get another time to live: for which packets of a flow may be dropped.
    pub(crate) fn ttl_changes(&self) -> usize {
        let changes = |op: &&HeaderOp| matches!(op, HeaderOp::Modify(Modify::L3(l3)) if l3.ttl.is_some());
        self.ops.iter().filter(changes).count()
    }

    /// True when the outermost tunnel, if there is one afterwards, is one that this puts on: not one that the packet
    /// brought along.
    pub(crate) fn puts_on_tunnel(&self) -> bool {
        let mut left = self.ops.iter().filter(|op| !matches!(op, HeaderOp::Pop(_)));
        matches!(left.find(|op| op.level() == Level::L4), Some(HeaderOp::Push(Push::Encap(_))))
    }

    /// True when it removes an IP or ARP header.
    pub(crate) fn removes_l3(&self) -> bool {
        self.ops.contains(&HeaderOp::Pop(Level::L3))
    }
}

/// The default outer TTL (§4.5).
pub const OUTER_TTL: u8 = 64;
/// IANA port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
/// IANA port of Geneve.
pub const GENEVE_PORT: u16 = 6081;

/// The unspecified address of the pair's family, for a source the underlay resolver fills in.
pub const UNSPECIFIED_V4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
