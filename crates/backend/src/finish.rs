//! Offload work before a frame goes to the kernel: what the kernel can do is left to it, the rest is done here.
//!
//! The kernel finishes a checksum or cuts a super-frame correctly only when its own idea of the headers is ours:
//! plain TCP or UDP over IP, the partial checksum at that header. A tunnelled super-frame with the same header
//! fields means something else to it (it would cut at the outer header, or refuse), so those are finished in
//! software.

use lamina_core::packet::{Batch, Packet, SegmentationKind, Segments};

use crate::pool::PacketPool;
use crate::vnet::{self, VNET_HEADER_LEN};

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
    /// Adds `packet`, finished as far as the kernel needs it; a super-frame may become many packets. False when it
    /// cannot be finished: the packet then went back to `pool`.
    pub(crate) fn add(&mut self, mut packet: Packet, pool: &mut PacketPool) -> bool {
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

    pub(crate) fn clear(&mut self, pool: &mut PacketPool) {
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
