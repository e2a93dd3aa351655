//! What a packet measures: what it counts as, whether it fits, and what its cached answers may stand for.

use crate::drop_reason::DropReason;
use crate::flow::{Direction, Fragment, HeaderStack, L4};
use crate::inspect::Lost;
use crate::packet::{Offload, Packet, Parsed};
use crate::port::Egress;
use crate::stats::Count;
use crate::time::Instant;

/// Later fragments and ICMP messages that are no queries never use a cached answer (§5.1).
pub(super) fn is_cacheable(stack: &HeaderStack) -> bool {
    stack.groups().iter().all(|group| {
        let is_error = match group.flow_id.l4 {
            Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => icmp.id.is_none(),
            _ => false,
        };
        group.extra.fragment != Fragment::Later && !is_error
    })
}

/// Drops that hold for every packet of the flow until policy or state changes.
pub(super) fn is_lasting(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::Blocked
            | DropReason::MappingMiss
            | DropReason::NoTarget
            | DropReason::CannotTranspose
            | DropReason::VlanNotCarried
            | DropReason::PuntWithoutController
    )
}

/// False for a packet that may be dropped earlier than others of its flow: for a congestion mark in an outer header
/// (RFC 6040), or for being a fragment where headers are removed.
pub(super) fn has_fate_of_its_flow(stack: &HeaderStack) -> bool {
    let congested = stack.groups().iter().rev().skip(1).any(|group| group.extra.ecn == 3);
    !congested && stack.groups().iter().all(|group| group.extra.fragment == Fragment::None)
}

/// First byte after the innermost headers.
fn header_end(parsed: &Parsed) -> usize {
    parsed.layout.groups[parsed.stack.groups().len() - 1].end as usize
}

/// Header bytes of a packet that had `entered` bytes when it was parsed and now has `now`.
pub(crate) fn header_len(parsed: &Parsed, entered: usize, now: usize) -> usize {
    now - (entered - header_end(parsed).min(entered)).min(now)
}

/// What is known of a packet that is dropped; `parsed` is `None` where it could not be read.
pub(super) fn lost<'p>(now: Instant, packet: &Packet, parsed: Option<&'p Parsed>) -> Lost<'p> {
    let length = packet.len();
    let count = match parsed {
        Some(parsed) => guest_count(length, parsed, packet),
        None => Count { packets: 1, bytes: length as u64 },
    };
    Lost { now, count, length, headers: parsed.map(|parsed| &parsed.stack) }
}

/// What a packet that entered with `entered` bytes and is now `packet` counts as on the guest's side.
pub(crate) fn guest_side(direction: Direction, entered: usize, parsed: &Parsed, packet: &Packet) -> Count {
    let len = match direction {
        Direction::Outbound => entered,
        Direction::Inbound => packet.len(),
    };
    let payload = entered - header_end(parsed).min(entered);
    segments_count(len, payload, &packet.offload)
}

/// What a frame of `len` bytes counts as.
pub(super) fn guest_count(len: usize, parsed: &Parsed, packet: &Packet) -> Count {
    segments_count(len, len - header_end(parsed).min(len), &packet.offload)
}

/// A super-frame counts as the segments it stands for (§5.6).
fn segments_count(len: usize, payload: usize, offload: &Offload) -> Count {
    match offload.segmentation {
        Some(segmentation) if segmentation.size > 0 => {
            let segments = payload.div_ceil(segmentation.size as usize).max(1);
            let headers = len - payload.min(len);
            Count { packets: segments as u64, bytes: (len + (segments - 1) * headers) as u64 }
        }
        _ => Count { packets: 1, bytes: len as u64 },
    }
}

/// The largest frame with these headers on a link whose packets have up to `mtu` bytes; no limit for 0.
pub(crate) fn max_frame(mtu: u32, headers: &HeaderStack) -> u32 {
    let l2 = headers.outermost().flow_id.l2.map_or(0, |l2| 14 + 4 * l2.tags.count() as u32);
    if mtu == 0 { u32::MAX } else { mtu.saturating_add(l2) }
}

/// True when the frame, or a segment of the super-frame, is larger than the way out takes.
pub(crate) fn is_too_big(egress: Egress, packet: &Packet, header_len: usize) -> bool {
    let max_frame = match egress {
        Egress::Nic { max_frame } | Egress::Uplink { max_frame, .. } => max_frame as usize,
        Egress::Port { .. } | Egress::Multicast => return false,
    };
    frame_len(packet, header_len) > max_frame
}

/// Bytes of the frame, or of a segment of the super-frame.
pub(super) fn frame_len(packet: &Packet, header_len: usize) -> usize {
    match packet.offload.segmentation {
        Some(segmentation) => packet.len().min(header_len + segmentation.size as usize),
        None => packet.len(),
    }
}
