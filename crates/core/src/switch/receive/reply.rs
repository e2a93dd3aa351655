//! Answers: a packet that a responder answers turns round in its layer, and crosses the layers already crossed (§3.5).

use super::{Crossing, Fate, guest_side, header_len, is_too_big, lost};
use crate::action::Reply;
use crate::drop_reason::DropReason;
use crate::flow::Direction;
use crate::packet::{Answered, Packet, Parsed, parse_with};
use crate::port::{Entry, Planned, Port, Resolution};
use crate::switch::Output;
use crate::switch::mirror::{Copied, plan_copies};
use crate::transposition::Edit;

impl Crossing<'_> {
    /// Answers a packet in the layer where it stands; the reply crosses the layers already crossed, the other way.
    pub(super) fn reply(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        parsed: &Parsed,
        (entry, mut plan): (&Entry<'_>, Resolution),
        (reply, layer): (Reply, usize),
        output: &mut Output,
    ) -> Fate {
        let entered = packet.len();
        let lost = lost(self.now, packet, Some(parsed));
        let Some(program) = port.program.clone() else {
            return self.lose(port, DropReason::PortNotReady, packet, Some(parsed));
        };
        let copies = plan_copies(self.fabric, &entry.headers, &plan.copies);
        let copied = Copied::make(&copies, packet, parsed, output);
        let edited = Edit::compile(&plan.transposition, &entry.headers)
            .map_err(|_| DropReason::CannotTranspose)
            .and_then(|edit| edit.apply(packet, &parsed.layout))
            .and_then(|()| reply.answer(packet, &program.resources))
            .and_then(|answered| Ok((answered, parse_with(packet.frame(), &self.fabric.tunnels)?)));
        let (answered, answer) = match edited {
            Ok(answer) => answer,
            Err(reason) => {
                copied.take_back(output);
                return self.refuse(port, &plan, &lost, reason);
            }
        };
        let count = guest_side(self.direction, entered, parsed, packet);
        if let Some(passed) = port.limited(&[], &plan, count, self.now) {
            copied.take_back(output);
            return self.limit(port, plan, passed, &lost, output);
        }
        self.count(port, count);
        port.commit(entry, &mut plan, count);
        self.lose_copies(port, &copies, &copied, &lost, output);
        if answered == Answered::Consumed {
            return Fate::Consumed;
        }
        let back = self.direction.opposite();
        let (first_layer, end_layer) = match self.direction {
            Direction::Outbound => (0, layer),
            Direction::Inbound => (layer + 1, program.layers.len()),
        };
        let crossing = Crossing { direction: back, ingress: self.id, ..*self };
        let entry = Entry {
            headers: answer.stack,
            direction: back,
            ingress: self.id.0,
            now: self.now,
            mappings: self.mappings,
            punts: &self.interests.punts,
            first_layer,
            end_layer,
            declined: 0,
        };
        crossing.send_reply(port, packet, &answer, &entry, output)
    }

    pub(super) fn send_reply(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        parsed: &Parsed,
        entry: &Entry<'_>,
        output: &mut Output,
    ) -> Fate {
        let Some(program) = port.program.clone() else {
            return self.lose(port, DropReason::PortNotReady, packet, Some(parsed));
        };
        let mut plan = port.resolve(&program, entry, &mut ());
        let entered = packet.len();
        let lost = lost(self.now, packet, Some(parsed));
        match plan.outcome {
            Planned::Drop(reason) => {
                self.lose_planned(port, &plan, reason, None, &lost);
                Fate::Drop
            }
            Planned::Reply(..) => self.refuse(port, &plan, &lost, DropReason::CannotRespond),
            Planned::Punt(ref punt) => {
                let punt = punt.clone();
                self.punt(port, packet, parsed, (entry, plan), &punt, output)
            }
            Planned::Forward | Planned::Turn(_) => {
                let copies = plan_copies(self.fabric, &entry.headers, &plan.copies);
                let copied = Copied::make(&copies, packet, parsed, output);
                let sent = self.leave(&entry.headers, &mut plan, port, output).and_then(|(egress, edit)| {
                    edit.apply(packet, &parsed.layout)?;
                    let header_len = header_len(parsed, entered, packet.len());
                    if is_too_big(egress, packet, header_len) { Err(DropReason::TooBig) } else { Ok(egress) }
                });
                match sent {
                    Err(reason) => {
                        copied.take_back(output);
                        self.refuse(port, &plan, &lost, reason)
                    }
                    Ok(egress) => {
                        let count = guest_side(self.direction, entered, parsed, packet);
                        if let Some(passed) = port.limited(&[], &plan, count, self.now) {
                            copied.take_back(output);
                            return self.limit(port, plan, passed, &lost, output);
                        }
                        self.count(port, count);
                        port.commit(entry, &mut plan, count);
                        self.lose_copies(port, &copies, &copied, &lost, output);
                        Fate::Forward(egress)
                    }
                }
            }
        }
    }
}
