//! Punted packets: what a controller gets of one, and the way of one that it sends on (§3.5, §6).
//!
//! Theory. A punted packet ends in its layer: the layers before have let it pass and keep what they made for it, as for
//! a packet that is answered, so that what comes back finds their state. The controller gets the frame as it stands; it
//! may send it on *behind* the layer, and from there it is a packet like any other, which the layers before are not
//! asked about again. That is why it cannot go round. No cached answer may stand for a punted packet while its controller
//! listens; where nobody listens it is a drop that the cache answers, until somebody subscribes, which raises every
//! generation. A port's punts are bounded by a rate, so that a guest cannot keep its controller from the others' packets.

use alloc::boxed::Box;

use super::Output;
use super::measure::{guest_side, lost};
use super::mirror::{Copied, plan_copies};
use super::receive::{Crossing, Fate, Reading, Scratch};
use crate::action::Punt;
use crate::drop_reason::DropReason;
use crate::event::{Event, Punted};
use crate::flow::Direction;
use crate::layer::{Name, Program};
use crate::packet::{Packet, Parsed};
use crate::port::{Entry, Port, Resolution};
use crate::transposition::Edit;

impl Crossing<'_> {
    /// Gives a packet to the controller of the layer that ends its walk.
    pub(super) fn punt(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        parsed: &Parsed,
        (entry, mut plan): (&Entry<'_>, Resolution),
        punt: &Punt,
        output: &mut Output,
    ) -> Fate {
        let entered = packet.len();
        let lost = lost(self.now, packet, Some(parsed));
        let copies = plan_copies(self.fabric, &entry.headers, &plan.copies);
        let copied = Copied::make(&copies, packet, parsed, output);
        let edited = Edit::compile(&plan.transposition, &entry.headers)
            .map_err(|_| DropReason::CannotTranspose)
            .and_then(|edit| edit.apply(packet, &parsed.layout))
            .and_then(|()| packet.complete_checksum());
        if let Err(reason) = edited {
            copied.take_back(output);
            return self.refuse(port, &plan, &lost, reason);
        }
        let count = guest_side(self.direction, entered, parsed, packet);
        if let Some(passed) = port.limited(&[], &plan, count, self.now) {
            copied.take_back(output);
            return self.limit(port, plan, passed, &lost, output);
        }
        if let Err(reason) = self.give(port, &plan, punt, packet, output) {
            copied.take_back(output);
            port.punts.full.note(self.now);
            // It is dropped there as if the rule had blocked it, but for this packet only.
            plan.dropped_by = plan.ended_by.take().map(|by| by.place);
            plan.slots.drain(..plan.slots.len().saturating_sub(1));
            return self.undo(port, plan, &lost, reason);
        }
        self.count(port, count);
        port.commit(entry, &mut plan, count);
        self.lose_copies(port, &copies, &copied, &lost, output);
        Fate::Consumed
    }

    /// Puts the packet into an event, if the port may.
    fn give(
        &self,
        port: &mut Port,
        plan: &Resolution,
        punt: &Punt,
        packet: &Packet,
        output: &mut Output,
    ) -> Result<(), DropReason> {
        let Some(by) = &plan.ended_by else { return Err(DropReason::PuntWithoutController) };
        if !port.punts.has_token(self.now) {
            return Err(DropReason::PuntLimit);
        }
        let (frame, (group, rule)) = (packet.frame(), by.place.rule.clone().unwrap_or_default());
        let punted = Punted {
            port: self.id,
            direction: self.direction,
            layer: by.place.layer.clone(),
            owner: by.owner.clone(),
            group,
            rule,
            queue: punt.queue.clone(),
            frame: frame[..frame.len().min(punt.max_bytes as usize)].to_vec(),
            length: frame.len(),
        };
        if !output.events.push(Event::Punt(Box::new(punted))) {
            return Err(DropReason::PuntQueueFull);
        }
        port.punts.take(self.now);
        Ok(())
    }

    /// Takes a packet across the layers behind `layer` only: a controller sends it on.
    pub(super) fn cross_behind(
        &self,
        port: &mut Port,
        layer: &Name,
        packet: &mut Packet,
        reading: Reading,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Fate {
        if let Err(fate) = self.read(port, packet, reading, scratch) {
            return fate;
        }
        let layers = port.program.as_ref().and_then(|program| layers_behind(program, layer, self.direction));
        if layers.is_none() {
            return self.lose(port, DropReason::PuntLayerGone, packet, Some(&scratch.parsed));
        }
        self.slow(port, packet, &scratch.parsed, (layers, None), output)
    }
}

/// The layers that a packet in this direction crosses behind `layer`, as indexes from the guest outward.
pub(super) fn layers_behind(program: &Program, layer: &Name, direction: Direction) -> Option<(usize, usize)> {
    let index = program.layers.iter().position(|known| known.name == *layer)?;
    Some(match direction {
        Direction::Outbound => (index + 1, program.layers.len()),
        Direction::Inbound => (0, index),
    })
}
