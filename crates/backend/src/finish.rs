//! Offload work before a frame goes to the kernel: what the kernel can do is left to it, the rest is done here.
//!
//! The kernel finishes a checksum or cuts a super-frame correctly only when its own idea of the headers is ours:
//! plain TCP or UDP over IP, the partial checksum at that header. A tunnelled super-frame with the same header
//! fields means something else to it (it would cut at the outer header, or refuse), so those are finished in
//! software.

use lamina_core::packet::{Batch, Packet, SegmentationKind, Segments};

use crate::backend::{BackendDrop, Statistics, Traffic, Transmitted};
use crate::pool::PacketPool;
use crate::vnet::{self, VNET_HEADER_LEN};

/// Frames finished before they are handed over.
pub(crate) const BATCH: usize = 32;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Frames beyond this length are handed over with a short linear part, so that the kernel needs no large block of
/// contiguous memory for them.
const LINEAR_LIMIT: usize = 2048;
const SHORT_LINEAR: u16 = 128;

/// Frames that the kernel can take, each with its virtio-net header.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) packets: Batch,
    pub(crate) headers: Vec<[u8; VNET_HEADER_LEN]>,
}

impl Ready {
    /// Sends all of `batch`: finishes its packets, hands them to `send` some at a time, and counts those that did not
    /// go. `send` says what became of what is ready, and counts what it sent.
    pub(crate) fn transmit(
        &mut self,
        pool: &mut PacketPool,
        batch: &mut Batch,
        statistics: &mut Statistics,
        mut send: impl FnMut(&Ready, &mut Traffic) -> Transmitted,
    ) -> Transmitted {
        let mut outcome = Transmitted::default();
        for packet in batch.drain(..) {
            if !self.add(packet, pool) {
                outcome.failed += 1;
            }
            if self.packets.len() >= BATCH {
                outcome += send(self, &mut statistics.transmitted);
                self.clear(pool);
            }
        }
        outcome += send(self, &mut statistics.transmitted);
        self.clear(pool);
        statistics.drops[BackendDrop::TransmitQueueFull] += outcome.queue_full as u64;
        statistics.drops[BackendDrop::CannotTransmit] += outcome.failed as u64;
        outcome
    }

    /// Adds `packet`, finished as far as the kernel needs it; a super-frame may become many packets. False when it
    /// cannot be finished: the packet then went back to `pool`.
    fn add(&mut self, mut packet: Packet, pool: &mut PacketPool) -> bool {
        if let Some(linear) = linear_for_kernel(&packet) {
            self.push(packet, linear);
            return true;
        }
        if packet.offload.segmentation.is_none() {
            let finished = packet.complete_checksum().is_ok();
            match finished {
                true => self.push_finished(packet),
                false => pool.give(packet),
            }
            return finished;
        }
        let cut = self.cut(&packet, pool);
        pool.give(packet);
        cut
    }

    /// Cuts a super-frame into whole packets, all of them or none.
    fn cut(&mut self, packet: &Packet, pool: &mut PacketPool) -> bool {
        let Ok(mut segments) = Segments::new(packet) else { return false };
        if segments.count() > pool.available() {
            return false;
        }
        let before = self.packets.len();
        while let Some(mut segment) = pool.take() {
            match segments.next_into(&mut segment) {
                Ok(true) => self.push_finished(segment),
                Ok(false) => {
                    pool.give(segment);
                    return true;
                }
                Err(_) => {
                    pool.give(segment);
                    break;
                }
            }
        }
        // The pool may have run dry exactly with the last segment.
        if self.packets.len() - before == segments.count() {
            return true;
        }
        self.packets.drain(before..).for_each(|segment| pool.give(segment));
        self.headers.truncate(before);
        false
    }

    fn push_finished(&mut self, packet: Packet) {
        let linear = if packet.len() > LINEAR_LIMIT { SHORT_LINEAR } else { 0 };
        self.push(packet, linear);
    }

    fn push(&mut self, packet: Packet, linear: u16) {
        self.headers.push(vnet::encode(&packet.offload, linear));
        self.packets.push(packet);
    }

    fn clear(&mut self, pool: &mut PacketPool) {
        pool.give_all(&mut self.packets);
        self.headers.clear();
    }
}

/// When the kernel can take the packet with its offload work undone: the bytes it should keep in one piece.
fn linear_for_kernel(packet: &Packet) -> Option<u16> {
    let frame = packet.frame();
    let Some(partial) = packet.offload.checksum else {
        let plain = packet.offload.segmentation.is_none();
        return plain.then_some(if frame.len() > LINEAR_LIMIT { SHORT_LINEAR } else { 0 });
    };
    let (l4, protocol, is_v4) = plain_transport(frame)?;
    let start = usize::from(partial.start);
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    if l4 != start || partial.offset != offset {
        return None;
    }
    let kind_fits = match packet.offload.segmentation.map(|segmentation| segmentation.kind) {
        None => true,
        Some(SegmentationKind::TcpV4) => protocol == TCP && is_v4,
        Some(SegmentationKind::TcpV6) => protocol == TCP && !is_v4,
        Some(SegmentationKind::UdpL4) => protocol == UDP,
    };
    let header_len = if protocol == TCP { usize::from(frame.get(l4 + 12)? >> 4) * 4 } else { 8 };
    let end = l4 + header_len;
    (kind_fits && header_len >= 8 && end <= frame.len()).then_some(end as u16)
}

/// Offset and protocol of the transport header, and whether the packet is IPv4; `None` for anything but unfragmented
/// IP without IPv6 extension headers, behind at most two VLAN tags.
fn plain_transport(frame: &[u8]) -> Option<(usize, u8, bool)> {
    let mut at = 12;
    let mut ethertype = read(frame, at)?;
    for _ in 0..2 {
        if matches!(ethertype, 0x8100 | 0x88a8) {
            at += 4;
            ethertype = read(frame, at)?;
        }
    }
    let l3 = at + 2;
    match ethertype {
        0x0800 => {
            let header_len = usize::from(frame.get(l3)? & 0xf) * 4;
            let fragment = read(frame, l3 + 6)? & 0x3fff;
            (header_len >= 20 && fragment == 0).then_some((l3 + header_len, *frame.get(l3 + 9)?, true))
        }
        0x86dd => Some((l3 + 40, *frame.get(l3 + 6)?, false)),
        _ => None,
    }
}

fn read(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use lamina_core::packet::checksum::{finish, pseudo_header_v4, sum};
    use lamina_core::packet::{Offload, PartialChecksum, Segmentation};

    use super::*;

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    /// Ethernet, IPv4, TCP with a partial checksum, `length` bytes of payload.
    fn tcp(pool: &mut PacketPool, length: usize) -> Packet {
        let mut frame = vec![2; 12];
        let total = (40 + length) as u16;
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([A, B].concat());
        let header = finish(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame.extend([1, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        let partial = !finish(pseudo_header_v4(A.into(), B.into(), 6, 20 + length as u32));
        frame[50..52].copy_from_slice(&partial.to_be_bytes());
        frame.extend((0..length).map(|i| i as u8));
        let mut packet = pool.take().unwrap();
        packet.reset()[..frame.len()].copy_from_slice(&frame);
        packet.set_len(frame.len());
        packet.offload.checksum = Some(PartialChecksum { start: 34, offset: 16 });
        packet
    }

    fn large(pool: &mut PacketPool, kind: SegmentationKind, length: usize) -> Packet {
        let mut packet = tcp(pool, length);
        packet.offload.segmentation = Some(Segmentation { kind, size: 100, ecn: false });
        packet
    }

    #[test]
    fn plain_work_is_left_to_the_kernel() {
        let mut pool = PacketPool::new(4, 4000);
        let mut ready = Ready::default();
        let (small, super_frame) = (tcp(&mut pool, 50), large(&mut pool, SegmentationKind::TcpV4, 3000));
        let offloads = [small.offload, super_frame.offload];
        assert!(ready.add(small, &mut pool) && ready.add(super_frame, &mut pool));
        for (i, offload) in offloads.into_iter().enumerate() {
            assert_eq!(ready.packets[i].offload, offload);
            assert_eq!(vnet::decode(&ready.headers[i], ready.packets[i].len()), Ok(offload));
        }
    }

    #[test]
    fn a_checksum_in_another_place_is_finished_here() {
        let mut pool = PacketPool::new(4, 4000);
        let mut ready = Ready::default();
        let mut packet = tcp(&mut pool, 50);
        // To the kernel this looks like a fragment, so it would not find the TCP header itself.
        packet.frame_mut()[20] = 0x20;
        assert!(ready.add(packet, &mut pool));
        let done = &ready.packets[0];
        assert_eq!(done.offload, Offload::default());
        assert_eq!(finish(pseudo_header_v4(A.into(), B.into(), 6, 70) + sum(&done.frame()[34..])), 0);
        ready.clear(&mut pool);
        let mut outside = tcp(&mut pool, 50);
        outside.offload.checksum = Some(PartialChecksum { start: 104, offset: 0 });
        assert!(!ready.add(outside, &mut pool));
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_super_frame_is_cut_whole_or_not_at_all() {
        // Marked as already verified by the network card: the kernel gets no checksum place, so it is cut here.
        let verified = |pool: &mut PacketPool| {
            let mut packet = large(pool, SegmentationKind::TcpV4, 500);
            packet.offload.checksum = None;
            packet
        };
        for (buffers, fits) in [(5, false), (6, true), (7, true)] {
            let mut pool = PacketPool::new(buffers, 4000);
            let mut ready = Ready::default();
            let packet = verified(&mut pool);
            assert_eq!(ready.add(packet, &mut pool), fits, "{buffers} buffers");
            assert_eq!(ready.packets.len(), if fits { 5 } else { 0 });
            assert_eq!(ready.headers.len(), ready.packets.len());
            ready.clear(&mut pool);
            assert_eq!(pool.in_use(), 0, "{buffers} buffers");
        }
    }

    #[test]
    fn a_lie_about_the_kind_is_refused() {
        let mut pool = PacketPool::new(64, 4000);
        let mut ready = Ready::default();
        for kind in [SegmentationKind::TcpV6, SegmentationKind::UdpL4] {
            let packet = large(&mut pool, kind, 3000);
            assert!(!ready.add(packet, &mut pool), "{kind:?}");
        }
        assert!(ready.packets.is_empty());
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn random_frames_with_random_work_neither_panic_nor_cost_buffers() {
        let mut pool = PacketPool::new(128, 4000);
        let mut ready = Ready::default();
        let mut state = 5u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..50_000 {
            let kinds = [SegmentationKind::TcpV4, SegmentationKind::TcpV6, SegmentationKind::UdpL4];
            let mut packet = large(&mut pool, kinds[next(3) as usize], next(2000) as usize);
            for _ in 0..next(4) {
                let at = next(60) as usize;
                packet.frame_mut()[at % 54] = next(256) as u8;
            }
            if next(4) == 0 {
                packet.set_len(next(packet.len() as u64) as usize);
            }
            if next(2) == 0 {
                let (start, offset) = (next(70) as u16, next(20) as u16);
                packet.offload.checksum = (next(4) > 0).then_some(PartialChecksum { start, offset });
            }
            if next(3) == 0 {
                packet.offload.segmentation = None;
            }
            ready.add(packet, &mut pool);
            assert_eq!(ready.packets.len(), ready.headers.len());
            ready.clear(&mut pool);
            assert_eq!(pool.in_use(), 0);
        }
    }
}
