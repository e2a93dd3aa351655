//! A packet's bytes: buffer, parser, checksums, segmentation (§2, §4.6).
//!
//! A [`Packet`] is headroom, then the frame. The core reads and writes only the first [`HEADER_WINDOW`] bytes of
//! the frame and treats the rest as payload; checksums over payload are computed only where a header must be
//! made from nothing (responders, software segmentation). Checksum and segmentation offload travel beside the
//! bytes with virtio-net semantics.

pub mod checksum;
mod parse;
mod reply;
mod segment;
#[cfg(test)]
mod test_frames;

pub use parse::{GroupLayout, Layout, Parsed, TunnelPorts, parse, parse_opaque, parse_with};
pub use reply::{
    Advertised, AdvertisedPrefix, AdvertisedRoute, Answered, DHCP_SERVER_PORT, DHCPV6_SERVER_PORT, DNS_PORT,
    DhcpLease, DhcpOption, DhcpServer, Dhcpv6Option, Dhcpv6Server, DnsData, DnsName, DnsRecord, DnsSource,
    RouterAdvertisement, RouterPreference, Unknown, dhcp_code, dns_declines, link_local, reply_arp,
    reply_dhcp, reply_dhcpv6, reply_dns, reply_echo, reply_neighbor_advertisement,
    reply_router_advertisement,
};
pub use segment::Segments;

use alloc::vec::Vec;

/// Bytes in front of a received frame, room for what encapsulation adds.
pub const HEADROOM: usize = 128;
/// The part of the frame in which headers are looked for and changed.
pub const HEADER_WINDOW: usize = 512;
/// The largest frame: a 64 KB super-frame with its Ethernet header, two tags and one encapsulation.
pub const MAX_FRAME: usize = 65536 + 256;

/// One frame with headroom and offload state. Owns its buffer; a pool recycles buffers so that no packet
/// allocates.
#[derive(Clone, Debug)]
pub struct Packet {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Checksum and segmentation work that was left to a later stage.
    pub offload: Offload,
    /// How often it has been handed from one port of the switch to another.
    turns: u8,
}

/// The most often that one packet is handed from port to port: policy that answers answers must not make a loop.
const MAX_TURNS: u8 = 4;

/// Equal are packets that a switch cannot tell apart: the same frame, offload work and turns.
impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        (self.frame(), self.offload, self.turns) == (other.frame(), other.offload, other.turns)
    }
}

impl Eq for Packet {}

impl Packet {
    /// An empty packet whose buffer holds frames of up to `frame_capacity` bytes behind [`HEADROOM`].
    pub fn with_capacity(frame_capacity: usize) -> Self {
        Packet {
            buffer: alloc::vec![0; HEADROOM + frame_capacity],
            start: HEADROOM,
            end: HEADROOM,
            offload: Offload::default(),
            turns: 0,
        }
    }

    /// A packet that holds a copy of `frame`.
    pub fn from_frame(frame: &[u8]) -> Self {
        let mut packet = Packet::with_capacity(frame.len());
        packet.buffer[HEADROOM..].copy_from_slice(frame);
        packet.end = HEADROOM + frame.len();
        packet
    }

    /// Bytes that the buffer holds behind [`HEADROOM`].
    pub fn frame_capacity(&self) -> usize {
        self.buffer.len() - HEADROOM
    }

    /// Counts one handing over to another port; false when there were too many.
    #[must_use]
    pub(crate) fn take_turn(&mut self) -> bool {
        self.turns = self.turns.saturating_add(1);
        self.turns <= MAX_TURNS
    }

    /// The frame.
    pub fn frame(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The frame, to change.
    pub fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Length of the frame in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// True when the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that can still be put in front of the frame.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Empties the packet and returns its whole receive area, for a backend to fill; follow with
    /// [`Packet::set_len`].
    pub fn reset(&mut self) -> &mut [u8] {
        self.start = HEADROOM;
        self.end = HEADROOM;
        self.offload = Offload::default();
        self.turns = 0;
        &mut self.buffer[HEADROOM..]
    }

    /// Declares that the first `len` bytes of the receive area hold the frame. A `len` beyond the buffer is cut.
    pub fn set_len(&mut self, len: usize) {
        self.end = (self.start + len).min(self.buffer.len());
    }

    /// Makes the frame a copy of `parts`, one after the other, without offload. Returns false, and leaves the
    /// packet empty, when the buffer is too small.
    #[must_use]
    pub fn fill(&mut self, parts: &[&[u8]]) -> bool {
        let area = self.reset();
        let mut length = 0;
        for part in parts {
            let Some(to) = area.get_mut(length..length + part.len()) else { return false };
            to.copy_from_slice(part);
            length += part.len();
        }
        self.set_len(length);
        true
    }

    /// Becomes a copy of `other`. Allocates only when the buffer is too small.
    pub fn copy_from(&mut self, other: &Packet) {
        if self.buffer.len() < HEADROOM + other.len() {
            self.buffer.resize(HEADROOM + other.len(), 0);
        }
        self.start = HEADROOM;
        self.end = HEADROOM + other.len();
        self.buffer[self.start..self.end].copy_from_slice(other.frame());
        self.offload = other.offload;
        self.turns = other.turns;
    }

    /// Becomes a copy of `other` without allocating. Returns false, and leaves the packet empty, when the buffer is too
    /// small.
    #[must_use]
    pub fn refill(&mut self, other: &Packet) -> bool {
        self.reset();
        let fits = self.buffer.len() >= HEADROOM + other.len();
        if fits {
            self.copy_from(other);
        }
        fits
    }

    /// Cuts the frame down to `len` bytes. Work that was left undone on it cannot be done any more and is forgotten.
    pub fn cut(&mut self, len: usize) {
        if len < self.len() {
            self.end = self.start + len;
            self.offload = Offload::default();
        }
    }

    /// Makes the frame a copy of `frame`, which was made from this packet; its offload is to be set by the caller.
    /// Allocates only when the buffer is too small, which no buffer of a pool is for what responders make.
    pub(crate) fn replace(&mut self, frame: &[u8]) {
        if self.buffer.len() < HEADROOM + frame.len() {
            self.buffer.resize(HEADROOM + frame.len(), 0);
        }
        self.start = HEADROOM;
        self.end = HEADROOM + frame.len();
        self.buffer[self.start..self.end].copy_from_slice(frame);
    }

    /// Replaces the first `strip` bytes of the frame by `front`. Returns false, and changes nothing, when the
    /// headroom is too small or the frame is shorter than `strip`.
    #[must_use]
    pub fn replace_front(&mut self, strip: usize, front: &[u8]) -> bool {
        let keep = self.start + strip;
        if keep > self.end || front.len() > keep {
            return false;
        }
        self.start = keep - front.len();
        self.buffer[self.start..keep].copy_from_slice(front);
        true
    }
}

/// Work left undone on a packet: the meaning of the virtio-net header (virtio 1.2 §5.1.6), with positions
/// counted from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// The transport checksum holds only the pseudo-header sum and must be completed before the frame leaves
    /// for a real link: `start..end of frame` is to be summed and stored at `start + offset`.
    pub checksum: Option<PartialChecksum>,
    /// The frame is a super-frame to be cut into segments.
    pub segmentation: Option<Segmentation>,
    /// The receiver already verified the checksum.
    pub checksum_verified: bool,
}

/// Where a partial checksum starts and is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChecksum {
    /// First byte to sum, from the start of the frame.
    pub start: u16,
    /// Where the checksum is stored, from `start`.
    pub offset: u16,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segmentation {
    /// TCP over IPv4, TCP over IPv6, or UDP payload cut into datagrams.
    pub kind: SegmentationKind,
    /// Transport payload bytes of each segment but the last.
    pub size: u16,
    /// TCP: the congestion-window-reduced flag may be set on the first segment only.
    pub ecn: bool,
}

/// What a super-frame carries, innermost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentationKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of equal size (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    UdpL4,
}

/// Packets handled in one breath; bounded by the worker, so it never grows after start.
pub type Batch = Vec<Packet>;
