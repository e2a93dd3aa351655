//! The compiled form of a transposition: what the fast path runs (§4.4).
//!
//! Theory. All packets of a unified flow have the same base fields, so almost every byte of the new headers is
//! known when the flow is made. The headers up to the last one that is added, removed or resized form the
//! *front*: it is put together from a template, and from copies of those input headers that are kept but hold
//! per-packet fields, and replaces the old front in one move. The headers behind it stay where they are and get
//! their new fields written over the old ones. What is left for each packet is what differs between packets:
//! TTL, DSCP and ECN, lengths, and checksums. Those move by differences that were computed once (RFC 1624), as
//! old and new values are base fields.
//!
//! | field | is |
//! | --- | --- |
//! | IPv4 header checksum | moved by a constant and by what the packet's own fields moved |
//! | TCP, UDP, ICMP, ICMPv6 checksum | moved by a constant; a partial one by the pseudo header's part alone |
//! | UDP checksum 0 | stays 0; computed in full where IPv4 becomes IPv6, which does not allow it |
//! | SCTP CRC32c | moved by the linear difference of the ports |
//! | checksum of a kept UDP or GRE tunnel header | moved by the sums of all changed headers inside |
//! | outer UDP checksum of a pushed tunnel | 0, over IPv6 too (RFC 6935) |
//! | transport header made anew (UDP, ICMP) | the only case in which payload is summed |
//!
//! Ethernet padding stays at the end of the frame. It belongs to a frame that is put into a tunnel, not to an IP
//! packet that is.
//!
//! Nothing here allocates, and nothing looks at policy. A packet whose outer length would pass 65,535 bytes is
//! dropped as too big, super-frame or not: no length field could say how long it is, and no reader behind this
//! one, the segmenter included, would find its end.

mod apply;
mod bytes;
mod compile;
mod fields;

use alloc::boxed::Box;

use super::Ttl;
use super::source::Source;
use crate::flow::{EncapKind, IpPair, Level};
use crate::packet::Layout;

/// A transposition compiled for the packets of one unified flow. Equal edits are equal values, so that they can
/// be interned.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Edit {
    /// The input's L3 header in each group.
    input: [Network; 3],
    /// Groups whose IP header is read per packet (class, length): bit 1 << group.
    reads: u8,
    /// Groups whose packet must not be a fragment.
    whole: u8,
    /// The front replaces the input up to here.
    strip: Place,
    /// Bytes of the front in order, and then of headers behind it that are written whole.
    template: Box<[u8]>,
    /// How many of them are the front's.
    front_len: u16,
    /// The front, header by header.
    front: Box<[Piece]>,
    /// Some of it is copied from the input.
    has_copies: bool,
    /// What changes behind the front.
    behind: Box<[Change]>,
    /// Kept tunnel headers that may have a checksum over what changes, outermost first.
    covers: Box<[Cover]>,
    /// The last changed header ends here.
    changed_end: Place,
    /// The innermost header group ends here.
    headers_end: Place,
    /// What a TCP super-frame is afterwards.
    tcp: TcpKind,
}

/// What an L3 header is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Network {
    #[default]
    None,
    V4,
    V6,
    Arp,
}

/// What becomes of the innermost TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum TcpKind {
    /// It stays over the same family, or there is none.
    #[default]
    Same,
    /// It is over the other family now, this one.
    Moved { v4: bool },
    /// It is removed: a super-frame cannot be changed so.
    Removed,
}

/// The start of a header, or the end of the group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Place {
    group: u8,
    /// `None` is the end of the group.
    level: Option<Level>,
}

impl Default for Place {
    fn default() -> Self {
        Place { group: 0, level: Some(Level::L2) }
    }
}

impl Place {
    #[inline(always)]
    fn offset(self, layout: &Layout) -> usize {
        let group = layout.of(self.group);
        (match self.level {
            Some(Level::L2) => group.l2,
            Some(Level::L3) => group.l3,
            Some(Level::L4) => group.l4,
            None => group.end,
        }) as usize
    }
}

/// Where a packet that a pushed or kept IP header describes ends: with the frame, or with the packet of the IP
/// header that the input has in this group. They differ by Ethernet padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Extent {
    Frame,
    Group(u8),
}

/// One header of the front.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Piece {
    /// So many bytes of the template, as they are.
    Plain { len: u8 },
    /// A new IPv4 header; `sum` is that of its template.
    V4 { sum: u16, class: PushedClass, extent: Extent },
    /// A new IPv6 header.
    V6 { class: PushedClass, extent: Extent },
    /// The UDP header of a new tunnel, without checksum.
    TunnelUdp,
    /// A new UDP header.
    Udp { addresses: IpPair },
    /// A new ICMP header; ICMPv6 where there are addresses.
    Icmp { addresses: Option<IpPair> },
    /// An input header that is kept, with changes.
    Kept(Change),
}

/// DSCP and ECN of a pushed header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct PushedClass {
    /// `None` copies.
    dscp: Option<u8>,
    source: Source,
}

/// The change of one kept header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Change {
    /// The whole header (L2 and ARP, where every byte is base) is written from the template.
    Whole { place: Place, at: u16, len: u8 },
    /// IP fields.
    Ip(IpChange),
    /// Transport, ICMP or tunnel fields.
    L4(L4Change),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct IpChange {
    group: u8,
    addresses: IpPair,
    /// `~old + new` of the addresses.
    address_delta: u16,
    dscp: Option<u8>,
    ttl: Option<Ttl>,
    /// Where popped headers hand their ECN to this one.
    merge: Option<Source>,
    /// The protocol number, where it changes.
    protocol: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct L4Change {
    group: u8,
    fields: L4Fields,
    checksum: L4Checksum,
    /// `~old + new` of the pseudo header and of the header itself.
    pseudo_delta: u16,
    own_delta: u16,
}

/// The header's new base fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum L4Fields {
    Ports([u8; 4]),
    Icmp {
        kind: u8,
        code: u8,
        id: Option<u16>,
    },
    /// A tunnel: its tenant, and the ethertype of what it carries where the header says that.
    Encap {
        kind: EncapKind,
        tenant: u32,
        carries: u16,
    },
}

/// Which checksum a transport header has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum L4Checksum {
    Tcp,
    /// With addresses: a checksum of 0 has to be computed, for these.
    Udp {
        fill: Option<IpPair>,
    },
    Sctp,
    Icmp,
    Icmpv6,
    /// A tunnel's: see [`Cover`].
    Covered,
}

/// A kept tunnel header whose checksum, if it has one, covers changed headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Cover {
    group: u8,
    kind: EncapKind,
    /// Old and new addresses: a UDP checksum covers them.
    before: IpPair,
    after: IpPair,
}

impl Edit {
    /// True when it changes nothing.
    pub fn is_identity(&self) -> bool {
        self.front.is_empty() && self.behind.is_empty() && !self.strips()
    }

    /// True where the front of the packet is replaced.
    fn strips(&self) -> bool {
        self.strip != Place::default()
    }
}
