//! Packets that are dropped: what each counts as, and what is left of its plan (§3.7).

use alloc::vec::Vec;

use super::{Crossing, Fate, lost};
use crate::drop_reason::DropReason;
use crate::inspect::Lost;
use crate::packet::{Packet, Parsed};
use crate::port::{Planned, Port, Resolution};
use crate::resource::MeterCounts;
use crate::stats::Count;
use crate::switch::Output;

impl Crossing<'_> {
    /// A packet that its cached answer does not fit (its TTL would reach 0, it is too big): the layers are asked
    /// what that counts as (§4.5).
    pub(in crate::switch) fn refuse_hit(
        &self,
        port: &mut Port,
        parsed: &Parsed,
        (length, count): (usize, Count),
        reason: DropReason,
    ) -> Fate {
        let lost = Lost { now: self.now, count, length, headers: Some(&parsed.stack) };
        let Some(program) = port.program.clone() else {
            port.lose(reason, self.direction, None, &lost);
            return Fate::Drop;
        };
        let entry = self.entry(parsed, (0, program.layers.len()));
        let plan = port.resolve(&program, &entry, &mut ());
        match plan.outcome {
            Planned::Drop(reason) => {
                self.lose_planned(port, &plan, reason, None, &lost);
                Fate::Drop
            }
            _ => self.refuse(port, &plan, &lost, reason),
        }
    }

    /// A packet for which the limit number `passed` of its plan has no tokens: it is dropped there as if the rule had
    /// blocked it, but for this packet only.
    pub(in crate::switch) fn limit(
        &self,
        port: &mut Port,
        mut plan: Resolution,
        passed: usize,
        lost: &Lost<'_>,
        output: &mut Output,
    ) -> Fate {
        if let Some(refused) = port.refusal(&plan, passed) {
            self.tell_rate(port, refused, output);
        }
        let limit = &plan.limits[passed];
        plan.meters.truncate(limit.meters);
        plan.slots = Vec::from([limit.slot]);
        plan.dropped_by = Some(limit.place.clone());
        self.undo(port, plan, lost, DropReason::Limited)
    }

    /// A packet that the layers passed and that cannot leave all the same: no state; the drop counts, and meters that
    /// count offered packets.
    pub(in crate::switch) fn refuse(
        &self,
        port: &mut Port,
        plan: &Resolution,
        lost: &Lost<'_>,
        reason: DropReason,
    ) -> Fate {
        let mut plan = plan.clone();
        plan.dropped_by = None;
        plan.slots.clear();
        self.undo(port, plan, lost, reason)
    }

    /// Counts a packet that comes to nothing, by the slots that its plan has left.
    pub(in crate::switch) fn undo(
        &self,
        port: &mut Port,
        mut plan: Resolution,
        lost: &Lost<'_>,
        reason: DropReason,
    ) -> Fate {
        plan.created.clear();
        if let Some(program) = &port.program {
            plan.meters.retain(|(meter, _)| program.resources.meter(*meter).counts == MeterCounts::Offered);
        }
        self.lose_planned(port, &plan, reason, None, lost);
        Fate::Drop
    }

    /// Drops a packet as its plan says; true when state ended with it.
    pub(in crate::switch) fn lose_planned(
        &self,
        port: &mut Port,
        plan: &Resolution,
        reason: DropReason,
        stale: Option<u32>,
        lost: &Lost<'_>,
    ) -> bool {
        port.lose(reason, self.direction, plan.dropped_by.as_ref(), lost);
        port.commit_drop(plan, reason, (stale, self.mappings), lost.count)
    }

    /// Drops a packet that no layer was asked about.
    #[cold]
    pub(in crate::switch) fn lose(
        &self,
        port: &mut Port,
        reason: DropReason,
        packet: &Packet,
        parsed: Option<&Parsed>,
    ) -> Fate {
        port.lose(reason, self.direction, None, &lost(self.now, packet, parsed));
        Fate::Drop
    }
}
