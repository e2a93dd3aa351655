//! Copies for mirrors: how each is made, and the making (§3.5).
//!
//! Order within one packet: the copies are made first, of the packet as it entered, since afterwards its bytes are
//! those that leave; they wait at the end of the output's list. When the packet leaves they stay there and what could
//! not be copied is counted; when it does not leave they are taken back. Nothing here may hurt the packet itself, and
//! nothing allocates: copies are made into buffers that were dropped before in the same call, or that the caller lent.

use alloc::boxed::Box;
use core::net::IpAddr;

use super::measure::{frame_len, header_len, max_frame};
use super::receive::Crossing;
use super::{Fabric, Output, PortId, Switch};
use crate::action::{Mirror, MirrorTarget};
use crate::drop_reason::DropReason;
use crate::flow::{HeaderStack, L4};
use crate::inspect::Lost;
use crate::layer::MAX_MIRROR_LAYERS;
use crate::packet::{Packet, Parsed, checksum};
use crate::port::{CopyWay, Cut, Egress, FlowCopy, OuterHeaders, PlannedCopy, Port};
use crate::stats::Count;
use crate::time::Instant;
use crate::transposition::Edit;

/// Copies that were made and not yet sent, and which could not be made.
pub(super) struct Copied {
    /// Where they start in the output's list.
    start: usize,
    failed: [Option<DropReason>; MAX_MIRROR_LAYERS],
}

impl Copied {
    /// Makes `copies` of `packet`, which has not been changed since it was parsed.
    pub(super) fn make(copies: &[FlowCopy], packet: &Packet, parsed: &Parsed, output: &mut Output) -> Copied {
        let mut copied = Copied { start: output.transmit.len(), failed: [None; MAX_MIRROR_LAYERS] };
        for (copy, failed) in copies.iter().zip(&mut copied.failed) {
            let made = match &copy.way {
                Ok(way) => buffer(packet, output)
                    .ok_or(DropReason::MirrorNoBuffer)
                    .and_then(|buffer| way.make(buffer, parsed, output)),
                Err((reason, _)) => Err(*reason),
            };
            *failed = made.err();
        }
        copied
    }

    /// Takes the copies back: the packet does not leave.
    pub(super) fn take_back(self, output: &mut Output) {
        output.free.extend(output.transmit.drain(self.start..).map(|(_, copy)| copy));
    }

    /// Why copy `index` was not made.
    pub(super) fn failure(&self, index: usize) -> Option<DropReason> {
        self.failed.get(index).copied().flatten()
    }

    /// True when all were made.
    pub(super) fn is_complete(&self) -> bool {
        self.failed == [None; MAX_MIRROR_LAYERS]
    }
}

impl Switch {
    /// Counts and captures the copies of a packet of port `from`: what leaves from place `first` on. A packet that was
    /// answered has left its copies, whatever becomes of the answer.
    pub(super) fn leave_copies<const TAPS: bool>(
        &mut self,
        now: Instant,
        from: PortId,
        first: usize,
        output: &Output,
    ) {
        for (id, copy) in &output.transmit[first..] {
            let (at, egress) = match self.fabric.uplink_mut(*id) {
                Some(uplink) => {
                    uplink.counters.transmitted.add(Count { packets: 1, bytes: copy.len() as u64 });
                    (from, Egress::Uplink { id: *id, max_frame: 0 })
                }
                None => (*id, Egress::Nic { max_frame: 0 }),
            };
            if TAPS {
                self.tap_sent(now, at, egress, copy);
            }
        }
    }
}

impl Crossing<'_> {
    /// Counts the copies that could not be made of a packet that leaves, and asks for next hops that they want.
    pub(super) fn lose_copies(
        &self,
        port: &mut Port,
        copies: &[FlowCopy],
        copied: &Copied,
        lost: &Lost<'_>,
        output: &mut Output,
    ) {
        for (index, copy) in copies.iter().enumerate() {
            output.resolve.extend(copy.wanted());
            let Some(reason) = copied.failure(index) else { continue };
            port.lose(reason, self.direction, Some(&copy.place), lost);
        }
    }

    /// The same for a packet that unified flow `id` answered.
    #[cold]
    pub(super) fn lose_copies_of_hit(
        &self,
        port: &mut Port,
        id: u32,
        copied: &Copied,
        lost: &Lost<'_>,
        output: &mut Output,
    ) {
        for index in 0..MAX_MIRROR_LAYERS {
            let Some(reason) = copied.failure(index) else { continue };
            let Some(copy) = port.answer(id).and_then(|answer| answer.copies.get(index)) else { continue };
            output.resolve.extend(copy.wanted());
            // Names are shared: this allocates nothing.
            let place = copy.place.clone();
            port.lose(reason, self.direction, Some(&place), lost);
        }
    }
}

/// A copy of `packet` in a buffer that was dropped or lent.
fn buffer(packet: &Packet, output: &mut Output) -> Option<Packet> {
    for source in [&mut output.free, &mut output.spare] {
        let Some(mut buffer) = source.pop() else { continue };
        if buffer.refill(packet) {
            return Some(buffer);
        }
        source.push(buffer);
    }
    None
}

impl CopyWay {
    /// Makes the copy of the packet in `copy` and puts it into the list of what leaves.
    fn make(&self, mut copy: Packet, parsed: &Parsed, output: &mut Output) -> Result<(), DropReason> {
        match self.edited(&mut copy, parsed) {
            Ok(()) => {
                output.transmit.push((self.to, copy));
                Ok(())
            }
            Err(reason) => {
                output.free.push(copy);
                Err(reason)
            }
        }
    }

    /// Turns a packet, as it was when it was parsed, into the copy.
    pub(crate) fn edited(&self, copy: &mut Packet, parsed: &Parsed) -> Result<(), DropReason> {
        let entered = copy.len();
        self.edit.apply(copy, &parsed.layout).map_err(|reason| match reason {
            DropReason::TooBig => DropReason::MirrorTooBig,
            _ => DropReason::MirrorImpossible,
        })?;
        let headers = header_len(parsed, entered, copy.len());
        if let Some(cut) = &self.cut {
            cut.apply(copy);
        }
        if frame_len(copy, headers) > self.max_frame as usize {
            return Err(DropReason::MirrorTooBig);
        }
        Ok(())
    }
}

impl Cut {
    /// Shortens the frame. What is left of an inner packet says its whole length, as in a capture; checksum and
    /// segmentation that were left to a later stage are not possible any more.
    fn apply(&self, copy: &mut Packet) {
        let length = self.length as usize;
        let over = copy.len().saturating_sub(length);
        if over == 0 {
            return;
        }
        copy.cut(length);
        if let Some(outer) = &self.tunnel {
            outer.shorten(copy.frame_mut(), over);
        }
    }
}

impl OuterHeaders {
    /// Takes `over` bytes off the lengths of the tunnel's headers.
    fn shorten(self, frame: &mut [u8], over: usize) {
        let l3 = usize::from(self.l3);
        let mut less = |at: usize| {
            if let Some(field) = frame.get_mut(at..at + 2) {
                let length = u16::from_be_bytes([field[0], field[1]]);
                field.copy_from_slice(&length.saturating_sub(over as u16).to_be_bytes());
            }
        };
        let l4 = if self.is_v4 { l3 + 20 } else { l3 + 40 };
        less(if self.is_v4 { l3 + 2 } else { l3 + 4 });
        if self.has_udp {
            less(l4 + 4);
        }
        if let Some(header) = frame.get_mut(l3..l3 + 20).filter(|_| self.is_v4) {
            header[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// How the copies that a walk asked for are made of packets that entered with the base headers of `entered`.
pub(crate) fn plan_copies(
    fabric: &Fabric,
    entered: &HeaderStack,
    planned: &[PlannedCopy],
) -> Box<[FlowCopy]> {
    let copy = |copy: &PlannedCopy| FlowCopy { way: way(fabric, entered, copy), place: copy.place.clone() };
    planned.iter().map(copy).collect()
}

fn way(
    fabric: &Fabric,
    entered: &HeaderStack,
    copy: &PlannedCopy,
) -> Result<CopyWay, (DropReason, Option<IpAddr>)> {
    let PlannedCopy { mirror, transposition, headers, .. } = copy;
    let Mirror { to, truncate, .. } = *mirror;
    let impossible = (DropReason::MirrorImpossible, None);
    let compile = |transposition| Edit::compile(transposition, entered).map_err(|_| impossible);
    match to {
        MirrorTarget::Port(to) => {
            let mtu = fabric.mtu(to).ok_or((DropReason::MirrorNoSuchPort, None))?;
            let cut = truncate.map(|length| Cut { length, tunnel: None });
            let max_frame = max_frame(mtu, headers);
            Ok(CopyWay { to, max_frame, wanted: None, edit: compile(transposition)?, cut })
        }
        MirrorTarget::Collector { tunnel, tenant, remote } => {
            let push = tunnel.enter(headers, remote, tenant, None).map_err(|_| impossible)?;
            let mut after = *headers;
            push.apply(&mut after).map_err(|_| impossible)?;
            let unreachable = |unresolved| (DropReason::MirrorUnreachable, unresolved);
            let way = fabric.collector(remote, &after).map_err(|failure| unreachable(failure.unresolved))?;
            let Egress::Uplink { id: to, max_frame } = way.egress else { return Err(unreachable(None)) };
            let is_v4 = remote.is_ipv4();
            let l2 = after.outermost().flow_id.l2.map_or(0, |l2| 14 + 4 * l2.tags.count());
            let has_udp =
                matches!(after.outermost().flow_id.l4, Some(L4::Encap(encap)) if encap.kind.over_udp());
            let outer = OuterHeaders { l3: l2 as u8, is_v4, has_udp };
            let cut = truncate.map(|length| Cut {
                length: length.saturating_add(tunnel.overhead(is_v4)),
                tunnel: Some(outer),
            });
            let edit = compile(&transposition.then(&push).then(&way.transposition))?;
            Ok(CopyWay { to, max_frame, wanted: way.wanted, edit, cut })
        }
    }
}
