//! Checksum completion and software segmentation, for backends that cannot take a partial checksum or a
//! super-frame (§4.6).
//!
//! Theory. A super-frame is one set of headers in front of the payload of many segments. A segment is a copy of
//! those headers and its slice of the payload, with the few fields that depend on either made right, innermost
//! header first since outer checksums cover inner headers:
//!
//! | header | changes from segment to segment |
//! | --- | --- |
//! | TCP | sequence number; FIN and PSH on the last only, CWR on the first only; checksum |
//! | UDP | length, checksum (a tunnel's absent checksum stays absent) |
//! | GRE | checksum, where there is one |
//! | IPv4 | total length, identification (one more each time), header checksum |
//! | IPv6 | payload length |
//!
//! This is the only place beside the responders that reads payload. It allocates nothing: the caller lends one
//! [`Packet`] at a time.

use super::checksum::{finish, finish_udp, pseudo_header_v4, pseudo_header_v6, sum};
use super::{
    GroupLayout, HEADER_WINDOW, Packet, Parsed, PartialChecksum, SegmentationKind, TunnelPorts, checksum,
    parse, parse_with,
};
use crate::drop_reason::DropReason;
use crate::flow::{EncapKind, Fragment, HeaderGroup, IpPair, L3, L4, MAX_GROUPS};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE_CHECKSUM_BIT: u8 = 0x80;
const GRE_SEQUENCE_BIT: u8 = 0x10;
const IPV6_ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const IPV6_AUTHENTICATION: u8 = 51;

impl Packet {
    /// Completes a partial checksum in place; a packet without one is left as it is. Fails with
    /// [`DropReason::TransmitFailed`], and changes nothing, when the positions lie outside the frame.
    ///
    /// The position of the checksum tells its kind: SCTP's CRC32c is at byte 8 of its header, and nothing else is.
    /// A computed zero is stored as 0xffff: UDP needs it, and to everybody else the two are the same number.
    pub fn complete_checksum(&mut self) -> Result<(), DropReason> {
        let Some(PartialChecksum { start, offset }) = self.offload.checksum else { return Ok(()) };
        let message = self.frame_mut().get_mut(start as usize..).ok_or(DropReason::TransmitFailed)?;
        let offset = offset as usize;
        if offset == SCTP_CHECKSUM_OFFSET {
            let field: &mut [u8] = message.get_mut(offset..offset + 4).ok_or(DropReason::TransmitFailed)?;
            field.fill(0);
            let crc = checksum::crc32c(&[message]);
            message[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
        } else {
            if offset + 2 > message.len() {
                return Err(DropReason::TransmitFailed);
            }
            // The field holds the pseudo header's sum and is summed with the rest.
            let value = finish_udp(sum(message));
            message[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
        }
        self.offload.checksum = None;
        Ok(())
    }

    /// How many packets this one is on a link: 1, or the number of segments of a super-frame. `parsed` is what
    /// [`parse`] says of the frame.
    pub fn segment_count(&self, parsed: &Parsed) -> u32 {
        let Some(segmentation) = self.offload.segmentation else { return 1 };
        let headers = innermost_layout(parsed).end as usize;
        let payload = self.len().saturating_sub(headers);
        payload.div_ceil(segmentation.size.max(1) as usize).max(1) as u32
    }

    /// Length in bytes of the largest frame that this packet is on a link: what is held against an MTU.
    pub fn largest_segment(&self, parsed: &Parsed) -> usize {
        match self.offload.segmentation {
            Some(segmentation) => {
                self.len().min(innermost_layout(parsed).end as usize + segmentation.size as usize)
            }
            None => self.len(),
        }
    }
}

/// Where SCTP keeps its CRC32c.
const SCTP_CHECKSUM_OFFSET: usize = 8;

fn innermost_layout(parsed: &Parsed) -> &GroupLayout {
    let last = parsed.stack.groups().len().clamp(1, MAX_GROUPS) - 1;
    &parsed.layout.groups[last]
}

/// Cuts a super-frame, one segment per call of [`Segments::next_into`].
#[derive(Debug)]
pub struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    parsed: Parsed,
    size: usize,
    /// A UDP super-frame without checksum: its datagrams have none either.
    without_checksum: bool,
    index: usize,
    done: usize,
}

impl<'a> Segments<'a> {
    /// Prepares to cut `packet`. Fails with the parser's reason, or with [`DropReason::TransmitFailed`] when the
    /// frame is no super-frame of the kind that its offload says, or cannot be cut: a fragment, a GRE sequence
    /// number (only the tunnel's end may number), an IPv6 source route not yet used up (the checksum is of an
    /// address that the header does not name yet), an authentication header.
    pub fn new(packet: &'a Packet) -> Result<Self, DropReason> {
        let segmentation = packet.offload.segmentation.ok_or(DropReason::TransmitFailed)?;
        let frame = packet.frame();
        let mut parsed = parse(frame)?;
        if let Some(port) = tunnel_port(packet, &parsed) {
            parsed = parse_with(frame, &TunnelPorts::with_vxlan(&[port]).unwrap_or_default())?;
        }
        let layout = *innermost_layout(&parsed);
        let group = parsed.stack.innermost();
        let id = &group.flow_id;
        let is_v4 = matches!(id.l3, Some(L3::Ip(ip)) if ip.addresses.is_v4());
        let kind_fits = match (segmentation.kind, id.l4) {
            (SegmentationKind::TcpV4, Some(L4::Tcp(_))) => is_v4,
            (SegmentationKind::TcpV6, Some(L4::Tcp(_))) => !is_v4,
            (SegmentationKind::UdpL4, Some(L4::Udp(_))) => true,
            _ => false,
        };
        let checksum_fits = packet.offload.checksum.is_none_or(|partial| partial.start == layout.l4);
        if !kind_fits || !checksum_fits || segmentation.size == 0 {
            return Err(DropReason::TransmitFailed);
        }
        let (headers, _) = frame.split_at_checked(layout.end as usize).ok_or(DropReason::TransmitFailed)?;
        for (group, layout) in parsed.stack.groups().iter().zip(&parsed.layout.groups) {
            if !can_be_cut(headers, group, layout) {
                return Err(DropReason::TransmitFailed);
            }
        }
        let l4 = layout.l4 as usize;
        let is_udp = segmentation.kind == SegmentationKind::UdpL4;
        let mut end = packet_end(headers, group, &layout);
        if is_udp {
            // A UDP length of zero is "as long as the packet"; bytes behind the datagram are not its payload.
            let length = read(headers, l4 + 4) as usize;
            end = if length == 0 { end } else { end.min(l4 + length) };
        }
        let payload = frame.get(headers.len()..end);
        let field = read(headers, l4 + 6);
        Ok(Segments {
            headers,
            payload: payload.ok_or(DropReason::TransmitFailed)?,
            parsed,
            size: segmentation.size as usize,
            without_checksum: is_udp && is_v4 && field == 0 && packet.offload.checksum.is_none(),
            index: 0,
            done: 0,
        })
    }

    /// How many segments there are in all.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Writes the next segment into `segment`, whole and with every checksum complete; false when there is none
    /// left. Fails with [`DropReason::TransmitFailed`] when the buffer is too small for it.
    pub fn next_into(&mut self, segment: &mut Packet) -> Result<bool, DropReason> {
        if self.index == self.count() {
            return Ok(false);
        }
        let start = self.done;
        let end = (start + self.size).min(self.payload.len());
        // Bounds: start <= end <= payload's length.
        let payload = &self.payload[start..end];
        if !segment.fill(&[self.headers, payload]) {
            return Err(DropReason::TransmitFailed);
        }
        let position = Position {
            index: self.index as u16,
            sent: start as u32,
            is_last: self.index + 1 == self.count(),
            without_checksum: self.without_checksum,
        };
        let frame = segment.frame_mut();
        let groups = self.parsed.stack.groups().iter().zip(&self.parsed.layout.groups);
        for (group, layout) in groups.rev() {
            position.patch_l4(frame, group, layout);
            position.patch_l3(frame, group, layout);
        }
        self.index += 1;
        self.done = end;
        Ok(true)
    }
}

/// The UDP port of a tunnel that is not known by it: what is to be cut begins behind the UDP header, as its offload says.
fn tunnel_port(packet: &Packet, parsed: &Parsed) -> Option<u16> {
    let Some(L4::Udp(ports)) = parsed.stack.innermost().flow_id.l4 else { return None };
    let l4 = innermost_layout(parsed).l4;
    let is_tcp = packet.offload.segmentation.is_some_and(|it| it.kind != SegmentationKind::UdpL4);
    let is_inside = packet.offload.checksum.is_some_and(|partial| partial.start > l4);
    (is_tcp || is_inside).then_some(ports.dst)
}

/// False for headers that only their maker can multiply.
fn can_be_cut(headers: &[u8], group: &HeaderGroup, layout: &GroupLayout) -> bool {
    if group.extra.fragment != Fragment::None {
        return false;
    }
    match group.flow_id.l4 {
        Some(L4::Encap(encap))
            if is_gre(encap.kind) && headers[layout.l4 as usize] & GRE_SEQUENCE_BIT != 0 =>
        {
            false
        }
        _ => !is_bound_to_whole(headers, group, layout),
    }
}

fn is_gre(kind: EncapKind) -> bool {
    matches!(kind, EncapKind::Gre | EncapKind::GreKeyed | EncapKind::Nvgre)
}

/// True for an IPv6 header with extension headers that forbid cutting: a routing header with segments left (RFC
/// 8200 §8.1), an authentication header, which covers the payload.
fn is_bound_to_whole(headers: &[u8], group: &HeaderGroup, layout: &GroupLayout) -> bool {
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let is_v6 = matches!(group.flow_id.l3, Some(L3::Ip(ip)) if !ip.addresses.is_v4());
    if !is_v6 {
        return false;
    }
    let mut next = headers[l3 + 6];
    let mut at = l3 + 40;
    while let Some(&[following, units, _, left]) = headers.get(at..l4).and_then(|rest| rest.first_chunk()) {
        if next == IPV6_AUTHENTICATION || next == IPV6_ROUTING && left != 0 {
            return true;
        }
        at += if next == IPV6_FRAGMENT { 8 } else { (units as usize + 1) * 8 };
        next = following;
    }
    false
}

/// Where the group's IP packet ends, in bytes from the start of the frame: the parser has checked that this is
/// inside.
fn packet_end(headers: &[u8], group: &HeaderGroup, layout: &GroupLayout) -> usize {
    let l3 = layout.l3 as usize;
    match group.flow_id.l3 {
        Some(L3::Ip(ip)) if ip.addresses.is_v4() => l3 + read(headers, l3 + 2) as usize,
        _ => l3 + 40 + read(headers, l3 + 4) as usize,
    }
}

/// Which segment is being made.
struct Position {
    /// Its number from 0. A super-frame has fewer than 65,536 bytes, so it fits.
    index: u16,
    /// Payload bytes before it.
    sent: u32,
    is_last: bool,
    without_checksum: bool,
}

impl Position {
    fn patch_l4(&self, frame: &mut [u8], group: &HeaderGroup, layout: &GroupLayout) {
        let l4 = layout.l4 as usize;
        match group.flow_id.l4 {
            Some(L4::Tcp(_)) => {
                let sequence = u32::from(read(frame, l4 + 4)) << 16 | u32::from(read(frame, l4 + 6));
                let sequence = sequence.wrapping_add(self.sent).to_be_bytes();
                frame[l4 + 4..l4 + 8].copy_from_slice(&sequence);
                if !self.is_last {
                    frame[l4 + 13] &= !(FIN | PSH);
                }
                if self.index > 0 {
                    frame[l4 + 13] &= !CWR;
                }
                write(frame, l4 + 16, 0);
                let total = pseudo_header(group, TCP, frame.len() - l4) + sum(&frame[l4..]);
                write(frame, l4 + 16, finish(total));
            }
            Some(L4::Udp(_)) => self.patch_udp(frame, group, l4, !self.without_checksum),
            Some(L4::Encap(encap)) if encap.kind.over_udp() => {
                let has_checksum = read(frame, l4 + 6) != 0;
                self.patch_udp(frame, group, l4, has_checksum);
            }
            Some(L4::Encap(encap)) if is_gre(encap.kind) && frame[l4] & GRE_CHECKSUM_BIT != 0 => {
                write(frame, l4 + 4, 0);
                let value = finish(sum(&frame[l4..]));
                write(frame, l4 + 4, value);
            }
            _ => {}
        }
    }

    fn patch_udp(&self, frame: &mut [u8], group: &HeaderGroup, l4: usize, has_checksum: bool) {
        let length = frame.len() - l4;
        write(frame, l4 + 4, length as u16);
        write(frame, l4 + 6, 0);
        if has_checksum {
            let value = finish_udp(pseudo_header(group, UDP, length) + sum(&frame[l4..]));
            write(frame, l4 + 6, value);
        }
    }

    fn patch_l3(&self, frame: &mut [u8], group: &HeaderGroup, layout: &GroupLayout) {
        let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
        let Some(L3::Ip(ip)) = group.flow_id.l3 else { return };
        if ip.addresses.is_v4() {
            write(frame, l3 + 2, (frame.len() - l3) as u16);
            let identification = read(frame, l3 + 4).wrapping_add(self.index);
            write(frame, l3 + 4, identification);
            write(frame, l3 + 10, 0);
            let value = finish(sum(&frame[l3..l4]));
            write(frame, l3 + 10, value);
        } else {
            write(frame, l3 + 4, (frame.len() - l3 - 40) as u16);
        }
    }
}

/// The pseudo header's sum of the group's IP header, for `length` bytes of `protocol`.
fn pseudo_header(group: &HeaderGroup, protocol: u8, length: usize) -> u32 {
    match group.flow_id.l3 {
        Some(L3::Ip(ip)) => match ip.addresses {
            IpPair::V4 { src, dst } => pseudo_header_v4(src, dst, protocol, length as u32),
            IpPair::V6 { src, dst } => pseudo_header_v6(src, dst, protocol, length as u32),
        },
        _ => 0,
    }
}

/// Two bytes of a header that the parser has found inside the frame's first [`HEADER_WINDOW`] bytes.
fn read(bytes: &[u8], at: usize) -> u16 {
    debug_assert!(at + 2 <= HEADER_WINDOW);
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Sets two bytes of such a header.
fn write(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
