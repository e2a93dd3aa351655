//! What the answers to UDP requests and router solicitations have in common: taking the request apart, writing the
//! answer beside it, and putting the answer in its place.
//!
//! Theory. Such an answer is longer than its request and repeats parts of it (transaction id, client id, the name
//! asked for), so it cannot be written over the request byte by byte. It is written into a [`Writer`], a fixed
//! piece of stack that holds the largest answer, and copied into the packet's buffer once it is whole. A writer
//! that runs full says so and the packet stays as it was: nothing is ever cut off silently.

use core::net::IpAddr;

use super::{Packet, Parsed, question};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{Ip, IpPair, L2, L3, L4, Ports};
use crate::packet::Offload;
use crate::packet::checksum::{finish, finish_udp, pseudo_header_v4, pseudo_header_v6, sum};

/// TTL of an answer that is not a neighbour message.
const TTL: u8 = 64;
const UDP: u8 = 17;
/// Ethernet with two tags, then 1,500 bytes of IP packet: the largest answer.
const LARGEST: usize = 22 + 1500;

/// A request over UDP.
pub(super) struct Datagram<'a> {
    /// Its Ethernet header with tags, as it stands on the wire.
    pub(super) link: &'a [u8],
    pub(super) l2: L2,
    pub(super) addresses: IpPair,
    pub(super) ports: Ports,
    /// What UDP carries.
    pub(super) message: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the request in `packet`: whole, outside any tunnel, from one host, with a right or absent checksum.
    pub(super) fn read(packet: &'a Packet, parsed: &Parsed) -> Result<Self, DropReason> {
        let (group, layout, l2) = question(packet, parsed)?;
        let (Some(L3::Ip(Ip { addresses, protocol: UDP })), Some(L4::Udp(ports))) =
            (group.flow_id.l3, group.flow_id.l4)
        else {
            return Err(DropReason::CannotRespond);
        };
        let frame = packet.frame();
        let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
        let link = frame.get(..l3).ok_or(DropReason::CannotRespond)?;
        let header = frame.get(l4..l4 + 8).ok_or(DropReason::CannotRespond)?;
        let length = u16::from_be_bytes([header[4], header[5]]) as usize;
        let datagram = frame.get(l4..l4 + length).ok_or(DropReason::CannotRespond)?;
        let has_checksum = header[6..8] != [0, 0];
        let is_vouched_for = packet.offload.checksum.is_some() || packet.offload.checksum_verified;
        // A UDP checksum may be absent over IPv4 only (RFC 8200 §8.1).
        let is_right = match addresses {
            _ if is_vouched_for => true,
            IpPair::V4 { .. } if !has_checksum => true,
            _ => has_checksum && finish(pseudo_header(&addresses, UDP, length) + sum(datagram)) == 0,
        };
        if !is_right {
            return Err(DropReason::BadTransportChecksum);
        }
        let message = datagram.get(8..).ok_or(DropReason::CannotRespond)?;
        Ok(Datagram { link, l2, addresses, ports, message })
    }

    /// A writer for the message of the answer, at most `limit` bytes of it.
    pub(super) fn writer(&self, limit: usize) -> Writer {
        let header = if self.addresses.is_v4() { 20 } else { 40 };
        Writer::new(self.link, self.link.len() + header + 8, limit)
    }
}

/// Where an answer goes and where it comes from.
pub(super) struct Ends {
    pub(super) macs: Macs,
    pub(super) addresses: IpPair,
    pub(super) ports: Ports,
}

/// Source and destination on the link.
pub(super) struct Macs {
    pub(super) src: MacAddr,
    pub(super) dst: MacAddr,
}

/// A frame being written: room for its headers, then the message, byte after byte.
pub(super) struct Writer {
    bytes: [u8; LARGEST],
    start: usize,
    len: usize,
    limit: usize,
    is_full: bool,
}

impl Writer {
    /// A frame whose first bytes are `link` and whose message, of at most `limit` bytes, starts at byte `start`.
    pub(super) fn new(link: &[u8], start: usize, limit: usize) -> Self {
        let mut writer = Writer {
            bytes: [0; LARGEST],
            start,
            len: start.min(LARGEST),
            limit: start.saturating_add(limit).min(LARGEST),
            is_full: start > LARGEST,
        };
        match writer.bytes.get_mut(..link.len()) {
            Some(to) if link.len() <= start => to.copy_from_slice(link),
            _ => writer.is_full = true,
        }
        writer
    }

    /// Appends `bytes`. What does not fit is left out whole and makes the frame unusable.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        match self.bytes.get_mut(self.len..end) {
            Some(to) if end <= self.limit => {
                to.copy_from_slice(bytes);
                self.len = end;
            }
            _ => self.is_full = true,
        }
    }

    /// Bytes that the message still has room for.
    pub(super) fn room(&self) -> usize {
        self.limit - self.len.min(self.limit)
    }

    /// Length of the message so far.
    pub(super) fn message_len(&self) -> usize {
        self.len - self.start
    }

    /// The message so far, to change what was only known later.
    pub(super) fn message_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.len]
    }

    /// Forgets all of the message but its first `len` bytes, and that it did not fit.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(self.start + len);
        self.is_full = false;
    }

    /// Writes the headers of a UDP datagram around the message and makes the frame the packet's.
    pub(super) fn send_udp(mut self, packet: &mut Packet, ends: &Ends) -> Result<(), DropReason> {
        let udp = self.start - 8;
        let length = self.len - udp;
        let header = [ends.ports.src, ends.ports.dst, length as u16, 0].map(u16::to_be_bytes);
        self.bytes[udp..self.start].copy_from_slice(header.as_flattened());
        let sum = pseudo_header(&ends.addresses, UDP, length) + sum(&self.bytes[udp..self.len]);
        self.bytes[udp + 6..udp + 8].copy_from_slice(&finish_udp(sum).to_be_bytes());
        self.send(packet, &ends.macs, &ends.addresses, (UDP, TTL), udp)
    }

    /// Completes an ICMPv6 message whose checksum field is zero and makes the frame the packet's.
    pub(super) fn send_neighbor_message(
        mut self,
        packet: &mut Packet,
        macs: &Macs,
        addresses: &IpPair,
    ) -> Result<(), DropReason> {
        let message = &self.bytes[self.start..self.len];
        let checksum = finish(pseudo_header(addresses, super::ICMPV6, message.len()) + sum(message));
        match self.message_mut().get_mut(2..4) {
            Some(field) => field.copy_from_slice(&checksum.to_be_bytes()),
            None => return Err(DropReason::CannotRespond),
        }
        let start = self.start;
        self.send(packet, macs, addresses, (super::ICMPV6, super::NEIGHBOR_HOP_LIMIT), start)
    }

    /// Writes Ethernet and IP headers in front of byte `l4` and makes the frame the packet's.
    fn send(
        mut self,
        packet: &mut Packet,
        macs: &Macs,
        addresses: &IpPair,
        (protocol, ttl): (u8, u8),
        l4: usize,
    ) -> Result<(), DropReason> {
        if self.is_full {
            return Err(DropReason::AnswerTooLong);
        }
        let payload = (self.len - l4) as u16;
        super::write_macs(&mut self.bytes, macs.dst, macs.src);
        match *addresses {
            IpPair::V4 { src, dst } => {
                let header = &mut self.bytes[l4 - 20..l4];
                header[..2].copy_from_slice(&[0x45, 0]);
                header[2..4].copy_from_slice(&(20 + payload).to_be_bytes());
                // An atomic datagram needs no identification (RFC 6864).
                header[6] = 0x40;
                header[8..10].copy_from_slice(&[ttl, protocol]);
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let checksum = finish(sum(header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            IpPair::V6 { src, dst } => {
                let header = &mut self.bytes[l4 - 40..l4];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&payload.to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, ttl]);
                header[8..24].copy_from_slice(&src.octets());
                header[24..40].copy_from_slice(&dst.octets());
            }
        }
        packet.replace(&self.bytes[..self.len]);
        packet.offload = Offload::default();
        Ok(())
    }
}

fn pseudo_header(addresses: &IpPair, protocol: u8, length: usize) -> u32 {
    match *addresses {
        IpPair::V4 { src, dst } => pseudo_header_v4(src, dst, protocol, length as u32),
        IpPair::V6 { src, dst } => pseudo_header_v6(src, dst, protocol, length as u32),
    }
}

/// True for an address of one host.
pub(super) fn is_one(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !super::is_many(address) && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    }
}

/// The link-local address that `mac` gives its interface (RFC 4291 §2.5.1, appendix A).
pub fn link_local(mac: MacAddr) -> core::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let words = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
    core::net::Ipv6Addr::new(0xfe80, 0, 0, 0, words[0], words[1], words[2], words[3])
}
