//! An edit on bytes. This is the fast path: no allocation, no lookup, no look at policy.
//!
//! Order matters. First everything that the change needs is read from the old headers (classes, lengths, sums
//! under a tunnel's checksum); then the headers behind the front change in place; then the front is replaced;
//! then lengths, which depend on the new front, are written.

use super::super::source::Class;
use super::bytes::{put, read, write};
use super::fields::{
    FRAGMENT, ICMP_CHECKSUM, ICMPV6, UDP, UDP_CHECKSUM, pseudo_sum, sum_new, walk_extensions,
};
use super::{Change, Edit, Extent, IpChange, L4Change, L4Fields, Network, Piece, PushedClass, TcpKind};
use crate::drop_reason::DropReason;
use crate::flow::{IpPair, MAX_GROUPS};
use crate::packet::checksum::{finish, update, update_partial};
use crate::packet::{HEADER_WINDOW, Layout, Packet, PartialChecksum, SegmentationKind};

/// What is read from the packet before it changes.
pub(super) struct Before {
    /// Per group, for the groups that are read: DSCP and ECN, and where the IP packet ends.
    pub(super) classes: [Class; 3],
    pub(super) ends: [usize; 3],
    pub(super) len: usize,
    /// Where the partial checksum starts.
    pub(super) partial: Option<usize>,
}

/// How far the new front is written.
struct Cursor {
    /// The next header starts here.
    at: usize,
    /// The packet of the last IP header ends here.
    end: usize,
}

/// Where transport headers of the front are afterwards.
#[derive(Default)]
struct Moved {
    /// Per group of the input, those that were kept.
    kept: [Option<usize>; 3],
    /// One that was made anew, and where in it the checksum is.
    made: Option<(usize, usize)>,
}

/// What the checksums of kept tunnel headers cover, before the change.
#[derive(Default)]
struct CoverSums {
    all: [u32; 3],
    pseudo: [u32; 3],
}

impl Edit {
    /// Changes the bytes of `packet`, whose headers lie as `layout` says. On error the packet is to be dropped;
    /// its headers may be half changed. Where two reasons hold (TTL and ECN), either may be named.
    #[inline]
    pub fn apply(&self, packet: &mut Packet, layout: &Layout) -> Result<(), DropReason> {
        if self.is_identity() {
            return Ok(());
        }
        self.run(packet, layout)
    }

    fn run(&self, packet: &mut Packet, layout: &Layout) -> Result<(), DropReason> {
        let before = self.read(packet, layout)?;
        if self.tcp == TcpKind::Removed
            && packet.offload.segmentation.is_some_and(|cut| cut.kind != SegmentationKind::UdpL4)
        {
            return Err(DropReason::CannotTranspose);
        }
        let mut sums = CoverSums::default();
        if !self.covers.is_empty() {
            self.sum_covers(packet.frame(), layout, &mut sums);
        }
        let frame = packet.frame_mut();
        for change in &self.behind {
            self.change_in_place(change, frame, layout, &before)?;
        }
        let mut moved = Moved::default();
        if self.strips() || !self.front.is_empty() {
            self.replace_front(packet, layout, &before, &mut moved)?;
        }
        let grown = packet.len() as isize - before.len as isize;
        if !self.covers.is_empty() {
            self.write_covers(packet, layout, &before, &moved, &sums);
        }
        if packet.offload.checksum.is_some() || packet.offload.segmentation.is_some() {
            self.move_offload(packet, layout, grown, &moved);
        }
        Ok(())
    }

    #[inline(always)]
    fn read(&self, packet: &Packet, layout: &Layout) -> Result<Before, DropReason> {
        let frame = packet.frame();
        let mut before = Before {
            classes: [None; 3],
            ends: [0; 3],
            len: frame.len(),
            partial: packet.offload.checksum.map(|partial| partial.start as usize),
        };
        let mut left = self.reads | self.whole;
        while left != 0 {
            let index = (left.trailing_zeros() as usize).min(MAX_GROUPS - 1);
            left &= left - 1;
            let l3 = layout.groups[index].l3 as usize;
            let Some(header) = frame.get(l3..) else { return Err(DropReason::CannotTranspose) };
            match self.input[index] {
                Network::V4 => {
                    let Some(header) = header.first_chunk::<20>() else { continue };
                    before.classes[index] = Some((header[1] >> 2, header[1] & 3));
                    before.ends[index] = l3 + u16::from_be_bytes([header[2], header[3]]) as usize;
                }
                Network::V6 => {
                    let Some(header) = header.first_chunk::<40>() else { continue };
                    let class = header[0] << 4 | header[1] >> 4;
                    before.classes[index] = Some((class >> 2, class & 3));
                    before.ends[index] = l3 + 40 + u16::from_be_bytes([header[4], header[5]]) as usize;
                }
                Network::None | Network::Arp => {}
            }
            if self.whole & 1 << index != 0 && self.is_fragment(index, frame, layout) {
                return Err(DropReason::CannotTranspose);
            }
        }
        Ok(before)
    }

    fn is_fragment(&self, group: usize, frame: &[u8], layout: &Layout) -> bool {
        let places = layout.of(group as u8);
        let (l3, l4) = (places.l3 as usize, places.l4 as usize);
        match self.input[group % 3] {
            Network::V4 => read(frame, l3 + 6) & 0x3fff != 0,
            Network::V6 => {
                let mut found = false;
                walk_extensions(frame, l3, l4, |next, at| {
                    found |= next == FRAGMENT && read(frame, at + 2) & 0xfff9 != 0;
                });
                found
            }
            Network::None | Network::Arp => false,
        }
    }

    #[inline(always)]
    fn change_in_place(
        &self,
        change: &Change,
        frame: &mut [u8],
        layout: &Layout,
        before: &Before,
    ) -> Result<(), DropReason> {
        match change {
            Change::Whole { place, at, len } => {
                let at = *at as usize;
                let image = self.template.get(at..at + *len as usize).unwrap_or(&[]);
                put(frame, place.offset(layout), image);
                Ok(())
            }
            Change::Ip(change) => {
                let places = layout.of(change.group);
                let header = frame.get_mut(places.l3 as usize..places.l4 as usize);
                change.apply(header.unwrap_or(&mut []), before)
            }
            Change::L4(change) => {
                let places = layout.of(change.group);
                let l4 = places.l4 as usize;
                change.apply(frame, l4, before, l4)
            }
        }
    }

    /// Puts the new front there, and writes what is per packet into it.
    #[inline(always)]
    fn replace_front(
        &self,
        packet: &mut Packet,
        layout: &Layout,
        before: &Before,
        moved: &mut Moved,
    ) -> Result<(), DropReason> {
        let strip = self.strip.offset(layout);
        let template = self.template.get(..self.front_len as usize).unwrap_or(&[]);
        let done = if self.has_copies {
            self.copy_front(packet, strip, layout)
        } else {
            let headers = (self.headers_end.offset(layout) + template.len()).saturating_sub(strip);
            headers <= HEADER_WINDOW && packet.replace_front(strip, template)
        };
        if !done {
            return Err(DropReason::NoHeadroom);
        }
        let len = packet.len();
        let frame = packet.frame_mut();
        let transport = layout.of(self.headers_end.group).l4 as usize;
        let partial = before.partial == Some(transport);
        let mut cursor = Cursor { at: 0, end: len };
        for piece in &self.front {
            let Cursor { at, end } = cursor;
            match piece {
                Piece::Plain { len } => cursor.at += *len as usize,
                Piece::V4 { sum, class, extent } => {
                    let end = extent.end(before, len);
                    cursor.end = end;
                    let total = u16::try_from(end.saturating_sub(at)).map_err(|_| DropReason::TooBig)?;
                    let class = class.read(before)?;
                    if let Some(header) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<20>()) {
                        header[1] = class;
                        let [high, low] = total.to_be_bytes();
                        (header[2], header[3]) = (high, low);
                        let value = finish(*sum as u32 + class as u32 + total as u32);
                        [header[10], header[11]] = value.to_be_bytes();
                    }
                    cursor.at += 20;
                }
                Piece::V6 { class, extent } => {
                    let end = extent.end(before, len);
                    cursor.end = end;
                    let payload =
                        u16::try_from(end.saturating_sub(at + 40)).map_err(|_| DropReason::TooBig)?;
                    let class = class.read(before)?;
                    write(frame, at, 0x6000 | (class as u16) << 4);
                    write(frame, at + 4, payload);
                    cursor.at += 40;
                }
                Piece::TunnelUdp => {
                    write(frame, at + 4, end.saturating_sub(at) as u16);
                    cursor.at += 8;
                }
                Piece::Udp { addresses } => {
                    let length = end.saturating_sub(at);
                    write(frame, at + 4, length as u16);
                    moved.made = Some((at, UDP_CHECKSUM));
                    let pseudo = pseudo_sum(addresses, UDP, length);
                    sum_new(frame, at, end, UDP_CHECKSUM, pseudo, partial);
                    cursor.at += 8;
                }
                Piece::Icmp { addresses } => {
                    moved.made = Some((at, ICMP_CHECKSUM));
                    let length = end.saturating_sub(at);
                    let pseudo = addresses.map_or(0, |pair| pseudo_sum(&pair, ICMPV6, length));
                    sum_new(frame, at, end, ICMP_CHECKSUM, pseudo, partial);
                    cursor.at += 8;
                }
                Piece::Kept(change) => {
                    self.finish_kept(change, frame, layout, before, &mut cursor, moved)?;
                }
            }
        }
        Ok(())
    }

    /// Puts a front with copies of input headers there.
    #[inline(never)]
    fn copy_front(&self, packet: &mut Packet, strip: usize, layout: &Layout) -> bool {
        let mut buffer = [0; HEADER_WINDOW];
        let frame = packet.frame();
        let (mut at, mut taken) = (0, 0);
        for piece in &self.front {
            let source = match piece {
                Piece::Kept(Change::Ip(IpChange { group, .. })) => {
                    let places = layout.of(*group);
                    frame.get(places.l3 as usize..places.l4 as usize)
                }
                Piece::Kept(Change::L4(L4Change { group, .. })) => {
                    let places = layout.of(*group);
                    frame.get(places.l4 as usize..places.end as usize)
                }
                other => {
                    let len = match other {
                        Piece::Plain { len } => *len as usize,
                        Piece::V4 { .. } => 20,
                        Piece::V6 { .. } => 40,
                        _ => 8,
                    };
                    taken += len;
                    self.template.get(taken - len..taken)
                }
            };
            let source = source.unwrap_or(&[]);
            let Some(to) = buffer.get_mut(at..at + source.len()) else { return false };
            to.copy_from_slice(source);
            at += source.len();
        }
        let headers = (self.headers_end.offset(layout) + at).saturating_sub(strip);
        headers <= HEADER_WINDOW && packet.replace_front(strip, &buffer[..at])
    }

    /// Writes the changes, and the length, of a kept header that was copied to the cursor, and moves on.
    #[inline(never)]
    fn finish_kept(
        &self,
        change: &Change,
        frame: &mut [u8],
        layout: &Layout,
        before: &Before,
        cursor: &mut Cursor,
        moved: &mut Moved,
    ) -> Result<(), DropReason> {
        let at = cursor.at;
        match change {
            Change::Whole { len, .. } => cursor.at += *len as usize,
            Change::Ip(change) => {
                let places = layout.of(change.group);
                cursor.at += places.l4.saturating_sub(places.l3) as usize;
                cursor.end = Extent::Group(change.group).end(before, frame.len());
                let total = cursor.end.saturating_sub(at);
                let header = frame.get_mut(at..cursor.at).unwrap_or(&mut []);
                let (offset, length) = match change.addresses {
                    IpPair::V4 { .. } => (2, total),
                    IpPair::V6 { .. } => (4, total.saturating_sub(40)),
                };
                let length = u16::try_from(length).map_err(|_| DropReason::TooBig)?;
                if offset == 2 {
                    let value = update(read(header, 10), read(header, 2) as u32, length as u32);
                    write(header, 10, value);
                }
                write(header, offset, length);
                change.apply(header, before)?;
            }
            Change::L4(change) => {
                let places = layout.of(change.group);
                cursor.at += places.end.saturating_sub(places.l4) as usize;
                moved.kept[change.group as usize % 3] = Some(at);
                if matches!(change.fields, L4Fields::Encap { kind, .. } if kind.over_udp()) {
                    write(frame, at + 4, cursor.end.saturating_sub(at) as u16);
                }
                change.apply(frame, at, before, places.l4 as usize)?;
            }
        }
        Ok(())
    }

    /// Sums what the checksums of kept tunnel headers cover, as far as it will change.
    #[inline(never)]
    fn sum_covers(&self, frame: &[u8], layout: &Layout, sums: &mut CoverSums) {
        let changed_end = self.changed_end.offset(layout);
        for cover in &self.covers {
            let group = cover.group as usize % 3;
            let at = layout.groups[group].l4 as usize;
            sums.pseudo[group] = cover.pseudo(frame, at, &cover.before);
            sums.all[group] = sums.pseudo[group] + cover.sum(frame, at, changed_end);
        }
    }

    /// Corrects the checksums of kept tunnel headers by what changed inside, innermost first.
    #[inline(never)]
    fn write_covers(
        &self,
        packet: &mut Packet,
        layout: &Layout,
        before: &Before,
        moved: &Moved,
        sums: &CoverSums,
    ) {
        let grown = packet.len() as isize - before.len as isize;
        let changed_end = self.changed_end.offset(layout).saturating_add_signed(grown);
        for cover in self.covers.iter().rev() {
            let group = cover.group as usize % 3;
            let old_at = layout.groups[group].l4 as usize;
            let at = moved.kept[group].unwrap_or(old_at.saturating_add_signed(grown));
            let frame = packet.frame_mut();
            let Some(field) = cover.field(frame, at) else { continue };
            let pseudo = cover.pseudo(frame, at, &cover.after);
            let value = read(frame, field);
            let value = if before.partial == Some(old_at) && cover.kind.over_udp() {
                update_partial(value, sums.pseudo[group], pseudo)
            } else {
                let all = pseudo + cover.sum(frame, at, changed_end);
                // A GRE or UDP sum is never of zeroes alone, so 0 and 0xffff are the same number.
                match update(value, sums.all[group], all) {
                    0 => 0xffff,
                    value => value,
                }
            };
            write(frame, field, value);
        }
    }

    /// Positions and kinds of what was left undone follow the headers.
    #[inline(never)]
    fn move_offload(&self, packet: &mut Packet, layout: &Layout, grown: isize, moved: &Moved) {
        if let Some(partial) = &mut packet.offload.checksum {
            let start = partial.start as usize;
            let last = self.headers_end.group as usize % 3;
            let kept = (0..=last).find(|group| layout.groups[*group].l4 as usize == start);
            let new = if start >= self.strip.offset(layout) {
                Some((start.saturating_add_signed(grown), partial.offset as usize))
            } else {
                // A tunnel header that is gone took its checksum with it; the one inside was complete.
                let kept = kept.and_then(|group| moved.kept[group]);
                let made = if layout.groups[last].l4 as usize == start { moved.made } else { None };
                kept.map(|at| (at, partial.offset as usize)).or(made)
            };
            packet.offload.checksum = new.map(|(start, offset)| PartialChecksum {
                start: start.min(u16::MAX as usize) as u16,
                offset: offset as u16,
            });
        }
        if let (Some(segmentation), TcpKind::Moved { v4 }) = (&mut packet.offload.segmentation, self.tcp)
            && segmentation.kind != SegmentationKind::UdpL4
        {
            segmentation.kind = if v4 { SegmentationKind::TcpV4 } else { SegmentationKind::TcpV6 };
        }
    }
}

impl Extent {
    /// Where the packet ends in a frame that is `len` bytes long now.
    #[inline(always)]
    fn end(self, before: &Before, len: usize) -> usize {
        match self {
            Extent::Frame => len,
            Extent::Group(group) => {
                let behind = before.len.saturating_sub(before.ends[group as usize % 3]);
                len.saturating_sub(behind)
            }
        }
    }
}

impl PushedClass {
    /// The class octet: DSCP and ECN.
    #[inline(always)]
    fn read(&self, before: &Before) -> Result<u8, DropReason> {
        let (copied, ecn) = self.source.read(&before.classes)?;
        Ok(self.dscp.unwrap_or(copied) << 2 | ecn)
    }
}
