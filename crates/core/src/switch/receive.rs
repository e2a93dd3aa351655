//! The packet path: parse, look up, edit, forward; or resolve, commit, and then the same (§2).
//!
//! Order within one packet: nothing of a port's state changes before the packet's bytes are edited and it is
//! certain that the packet leaves, so that a dropped packet leaves no trace (§3.7).

mod drops;
mod reply;

use alloc::boxed::Box;

use super::fabric::Arrival;
use super::measure::{
    guest_count, guest_side, has_fate_of_its_flow, header_len, is_cacheable, is_lasting, is_too_big, lost,
    max_frame,
};
use super::mirror::{Copied, plan_copies};
use super::misses::patience;
use super::resume::{Entering, Reason};
use super::tap::{Threshold, tap_layers};
use super::{Fabric, Output, PortId, Switch};
use crate::drop_reason::DropReason;
use crate::event::Interests;
use crate::flow::{Direction, FieldSet, HeaderStack, Ufid};
use crate::inspect::Lost;
use crate::layer::{MalformedPolicy, Name, Program};
use crate::packet::{Batch, Packet, Parsed, TunnelPorts, parse_opaque};
use crate::port::{Caching, Committed, Egress, Entry, Lookup, Planned, Port, Refused, Resolution};
use crate::resource::LiveMappings;
use crate::stats::Count;
use crate::time::Instant;
use crate::transposition::Edit;

/// A packet that is to enter a side of a port.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) to: PortId,
    pub(super) direction: Direction,
    pub(super) ingress: PortId,
    pub(super) packet: Packet,
}

/// What the first crossing of a received packet came to.
#[derive(Clone, Copy)]
pub(super) struct Entered {
    /// The port that it crossed, or the uplink where it crossed none.
    pub(super) at: PortId,
    pub(super) is_dropped: bool,
}

/// The layers that a packet crosses, as indexes from the guest outward; `None` for all.
type Layers = Option<(usize, usize)>;

/// What became of a packet on one side of a port.
pub(super) enum Fate {
    Forward(Egress),
    /// It is dropped, counted and remembered.
    Drop,
    /// A responder took it and there is nothing to answer.
    Consumed,
    /// It needs a mapping that this plan lacks, and somebody is asked for it.
    Ask(Box<Resolution>),
}

/// A packet's headers and key, in places that the next packet uses again: to make them anew, and to move them,
/// costs more than to fill them.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) parsed: Parsed,
    ufid: Ufid,
}

/// What the parser said to a packet whose headers are in the scratch.
#[derive(Clone, Copy)]
pub(super) struct Reading(Result<(), DropReason>);

impl Reading {
    #[inline]
    fn of(packet: &Packet, tunnels: &TunnelPorts, scratch: &mut Scratch) -> Reading {
        Reading(scratch.parsed.read(packet.frame(), tunnels))
    }

    /// For where malformed packets are to pass: reads of such a packet the Ethernet header alone.
    fn or_opaque(self, packet: &Packet, scratch: &mut Scratch) -> Result<(), DropReason> {
        let Reading(Err(reason)) = self else { return Ok(()) };
        scratch.parsed = parse_opaque(packet.frame()).map_err(|_| reason)?;
        Ok(())
    }
}

/// One packet's crossing of one side of a port.
pub(super) struct Crossing<'a> {
    pub(super) fabric: &'a Fabric,
    pub(super) mappings: &'a LiveMappings,
    pub(super) interests: &'a Interests,
    pub(super) reason: Reason,
    pub(super) now: Instant,
    pub(super) id: PortId,
    pub(super) direction: Direction,
    pub(super) ingress: PortId,
    /// The packet crosses only the layers behind this one.
    pub(super) behind: Option<&'a Name>,
}

impl Switch {
    /// Processes a batch that was received on `from`, draining it into `output`.
    pub fn receive(&mut self, now: Instant, from: PortId, batch: &mut Batch, output: &mut Output) {
        if self.captures.are_running() {
            self.process::<true>(now, from, batch, output);
        } else {
            self.process::<false>(now, from, batch, output);
        }
    }

    /// Compiled twice, so that no packet asks whether a capture runs.
    fn process<const TAPS: bool>(
        &mut self,
        now: Instant,
        from: PortId,
        batch: &mut Batch,
        output: &mut Output,
    ) {
        let is_uplink = self.fabric.uplink(from).is_some();
        let mut scratch = Scratch::default();
        for packet in batch.drain(..) {
            if TAPS {
                self.captures.hold(packet.frame());
            }
            let entered = if is_uplink {
                self.enter_from_network::<TAPS>(now, from, packet, &mut scratch, output)
            } else {
                let (direction, reason) = (Direction::Outbound, Reason::Received);
                let entering =
                    Entering { port: from, direction, ingress: from, behind: None, packet, reason };
                let reading = Reading::of(&entering.packet, &self.fabric.tunnels, &mut scratch);
                self.cross_port::<TAPS>(now, entering, reading, &mut scratch, output)
            };
            if TAPS {
                self.tap_received(now, from, entered);
            }
            self.enter_pending::<TAPS>(now, &mut scratch, output);
        }
    }

    #[inline]
    pub(super) fn enter_pending<const TAPS: bool>(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        output: &mut Output,
    ) {
        while let Some(next) = self.pending.pop() {
            let reading = Reading::of(&next.packet, &self.fabric.tunnels, scratch);
            self.enter::<TAPS>(now, next, reading, scratch, output);
        }
    }

    /// Takes a packet that was not received just now through one side of a port, and wherever it goes from there. It
    /// takes no turn.
    pub(super) fn enter_later(
        &mut self,
        now: Instant,
        entering: Entering,
        scratch: &mut Scratch,
        output: &mut Output,
    ) {
        let reading = Reading::of(&entering.packet, &self.fabric.tunnels, scratch);
        if self.captures.are_running() {
            self.cross_port::<true>(now, entering, reading, scratch, output);
            self.enter_pending::<true>(now, scratch, output);
        } else {
            self.cross_port::<false>(now, entering, reading, scratch, output);
            self.enter_pending::<false>(now, scratch, output);
        }
    }

    /// Frees a packet that port or uplink `at` dropped.
    pub(super) fn discard<const TAPS: bool>(
        &mut self,
        now: Instant,
        (at, direction): (PortId, Direction),
        packet: Packet,
        output: &mut Output,
    ) -> Entered {
        if TAPS {
            self.tap_dropped(now, at, direction, &packet);
        }
        output.free.push(packet);
        Entered { at, is_dropped: true }
    }

    /// Frees a packet that a responder of port `at` took.
    fn consume(at: PortId, packet: Packet, output: &mut Output) -> Entered {
        output.free.push(packet);
        Entered { at, is_dropped: false }
    }

    fn enter_from_network<const TAPS: bool>(
        &mut self,
        now: Instant,
        from: PortId,
        packet: Packet,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Entered {
        let reading = Reading::of(&packet, &self.fabric.tunnels, scratch);
        let target = reading.or_opaque(&packet, scratch).and_then(|()| {
            let parsed = &scratch.parsed;
            let count = guest_count(packet.len(), parsed, &packet);
            if let Some(uplink) = self.fabric.uplink_mut(from) {
                uplink.counters.received.add(count);
            }
            self.fabric.target(from, &parsed.stack)
        });
        match target {
            Ok(Arrival::Forward(Egress::Port { to, direction })) => {
                let next = Pending { to, direction, ingress: from, packet };
                self.enter::<TAPS>(now, next, reading, scratch, output)
            }
            Ok(Arrival::Forward(egress)) => self.forward::<TAPS>(now, from, egress, packet, output),
            Ok(Arrival::Host) => {
                let count = guest_count(packet.len(), &scratch.parsed, &packet);
                if let Some(uplink) = self.fabric.uplink_mut(from) {
                    uplink.counters.host.add(count);
                }
                output.free.push(packet);
                Entered { at: from, is_dropped: false }
            }
            Err(reason) => {
                let parsed = reading.0.is_ok().then_some(&scratch.parsed);
                self.fabric.lose(from, reason, &lost(now, &packet, parsed));
                self.discard::<TAPS>(now, (from, Direction::Inbound), packet, output)
            }
        }
    }

    /// Takes a packet that comes from another port or an uplink, and whose headers are in `scratch` as `reading`
    /// says, through one side of a port.
    fn enter<const TAPS: bool>(
        &mut self,
        now: Instant,
        next: Pending,
        reading: Reading,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Entered {
        let Pending { to, direction, ingress, mut packet } = next;
        if !self.ports.contains_key(&to) {
            return self.hand_over::<TAPS>(now, Pending { to, direction, ingress, packet }, output);
        }
        if !packet.take_turn() {
            let parsed = reading.0.is_ok().then_some(&scratch.parsed);
            let lost = lost(now, &packet, parsed);
            match self.ports.get_mut(&to) {
                Some(port) => port.lose(DropReason::TooManyTurns, direction, None, &lost),
                None => self.fabric.lose_ownerless(direction, &lost),
            }
            return self.discard::<TAPS>(now, (to, direction), packet, output);
        }
        let reason = Reason::Received;
        let entering = Entering { port: to, direction, ingress, behind: None, packet, reason };
        self.cross_port::<TAPS>(now, entering, reading, scratch, output)
    }

    /// Takes a packet, whose headers are in `scratch` as `reading` says, through one side of a port.
    fn cross_port<const TAPS: bool>(
        &mut self,
        now: Instant,
        entering: Entering,
        reading: Reading,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Entered {
        let Entering { port: id, direction, ingress, behind, mut packet, reason } = entering;
        let Some(port) = self.ports.get_mut(&id) else {
            self.fabric.lose_ownerless(direction, &lost(now, &packet, None));
            return self.discard::<TAPS>(now, (id, direction), packet, output);
        };
        let (fabric, mappings, interests) = (&self.fabric, &self.mappings, &self.interests);
        let behind = behind.as_ref();
        let crossing = Crossing { fabric, mappings, interests, reason, now, id, direction, ingress, behind };
        if TAPS && reason != Reason::InjectedPastLayers {
            tap_layers(&mut self.captures, port, &crossing.threshold(), &packet);
        }
        let first_copy = output.transmit.len();
        let fate = match (reason, behind) {
            (Reason::InjectedPastLayers, _) => crossing.pass_by(port, &mut packet, reading, scratch, output),
            (_, Some(layer)) => crossing.cross_behind(port, layer, &mut packet, reading, scratch, output),
            _ => crossing.cross(port, &mut packet, reading, scratch, output),
        };
        let (egress, is_dropped) = match fate {
            Fate::Forward(egress) => (Some(egress), false),
            Fate::Consumed => (None, false),
            Fate::Drop => (None, true),
            Fate::Ask(plan) => {
                let asked = crossing.ask(port, (&plan, &scratch.parsed), &packet, &mut self.misses, output);
                if let Err(reason) = asked {
                    let lost = lost(now, &packet, Some(&scratch.parsed));
                    crossing.lose_planned(port, &plan, reason, None, &lost);
                }
                // A copy of it waits.
                (None, asked.is_err())
            }
        };
        self.leave_copies::<TAPS>(now, id, first_copy, output);
        match egress {
            Some(egress) => self.forward::<TAPS>(now, id, egress, packet, output),
            None if is_dropped => self.discard::<TAPS>(now, (id, direction), packet, output),
            None => Self::consume(id, packet, output),
        }
    }

    /// Sends a packet on its way from port or uplink `from`.
    fn forward<const TAPS: bool>(
        &mut self,
        now: Instant,
        from: PortId,
        egress: Egress,
        packet: Packet,
        output: &mut Output,
    ) -> Entered {
        if TAPS {
            self.tap_sent(now, from, egress, &packet);
        }
        match egress {
            Egress::Nic { .. } => output.transmit.push((from, packet)),
            Egress::Port { to, direction } => {
                self.pending.push(Pending { to, direction, ingress: from, packet });
            }
            Egress::Uplink { id, .. } => {
                if let Some(uplink) = self.fabric.uplink_mut(id) {
                    uplink.counters.transmitted.add(Count { packets: 1, bytes: packet.len() as u64 });
                }
                output.transmit.push((id, packet));
            }
            Egress::Multicast => {
                for to in self.fabric.multicast_targets(from) {
                    let direction = Direction::Inbound;
                    let copy = output.copy_of(&packet);
                    self.pending.push(Pending { to, direction, ingress: from, packet: copy });
                }
                output.free.push(packet);
            }
        }
        Entered { at: from, is_dropped: false }
    }
}

impl Crossing<'_> {
    fn threshold(&self) -> Threshold<'_> {
        let Crossing { fabric, now, id, direction, ingress, behind, mappings, interests, .. } = *self;
        Threshold {
            time: now,
            id,
            direction,
            ingress,
            behind,
            mappings,
            punts: &interests.punts,
            tunnels: &fabric.tunnels,
        }
    }

    /// Takes a packet across, whose headers are in `scratch` as `reading` says.
    fn cross(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        reading: Reading,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Fate {
        let extras = match self.read(port, packet, reading, scratch) {
            Ok(extras) => extras,
            Err(fate) => return fate,
        };
        let Scratch { parsed, ufid } = scratch;
        if !is_cacheable(&parsed.stack) {
            return self.slow(port, packet, parsed, (None, None), output);
        }
        ufid.set(&parsed.stack, self.direction, extras, self.ingress.0);
        let hash = port.flows.hash(ufid);
        match port.lookup(ufid, hash, self.now, self.mappings) {
            Lookup::Hit(id) => self.hit(port, id, packet, parsed, output),
            Lookup::Blocked if has_fate_of_its_flow(&parsed.stack) => {
                port.lose_blocked(ufid, hash, &lost(self.now, packet, Some(parsed)));
                Fate::Drop
            }
            Lookup::Blocked => self.slow(port, packet, parsed, (None, None), output),
            Lookup::Miss(stale) => {
                self.slow(port, packet, parsed, (None, Some(Caching { ufid, hash, stale })), output)
            }
        }
    }

    /// What the port makes of a packet whose headers are in `scratch` as `reading` says: the fields outside the base
    /// key that its program reads.
    #[inline]
    pub(super) fn read(
        &self,
        port: &mut Port,
        packet: &Packet,
        reading: Reading,
        scratch: &mut Scratch,
    ) -> Result<FieldSet, Fate> {
        let Some(program) = &port.program else {
            let parsed = reading.0.is_ok().then_some(&scratch.parsed);
            return Err(self.lose(port, DropReason::PortNotReady, packet, parsed));
        };
        let extras = program.extras;
        if let Err(reason) = reading.0 {
            match program.malformed {
                MalformedPolicy::Drop => return Err(self.lose(port, reason, packet, None)),
                MalformedPolicy::PassOpaque => match parse_opaque(packet.frame()) {
                    Ok(parsed) => scratch.parsed = parsed,
                    Err(reason) => return Err(self.lose(port, reason, packet, None)),
                },
            }
        }
        Ok(extras)
    }

    /// The fast path: the cached answer, whatever the number of layers and rules behind it.
    fn hit(
        &self,
        port: &mut Port,
        id: u32,
        packet: &mut Packet,
        parsed: &Parsed,
        output: &mut Output,
    ) -> Fate {
        let Some(answer) = port.answer(id) else {
            return self.lose(port, DropReason::CannotTranspose, packet, Some(parsed));
        };
        let entered = packet.len();
        let offered = guest_count(entered, parsed, packet);
        let egress = answer.egress;
        let copies = !answer.copies.is_empty();
        let copied = copies.then(|| Copied::make(&answer.copies, packet, parsed, output));
        let edited = answer.edit.apply(packet, &parsed.layout);
        let too_big = || is_too_big(egress, packet, header_len(parsed, entered, packet.len()));
        if let Err(reason) = edited.and_then(|()| if too_big() { Err(DropReason::TooBig) } else { Ok(()) }) {
            if let Some(copied) = copied {
                copied.take_back(output);
            }
            return self.refuse_hit(port, parsed, (entered, offered), reason);
        }
        let is_limited = !answer.charges.is_empty();
        let count = guest_side(self.direction, entered, parsed, packet);
        if is_limited {
            let lost = Lost { now: self.now, count: offered, length: entered, headers: Some(&parsed.stack) };
            if let Err(refused) = port.charge(id, count, self.direction, &lost) {
                self.tell_rate(port, refused, output);
                if let Some(copied) = copied {
                    copied.take_back(output);
                }
                return Fate::Drop;
            }
        }
        self.count(port, count);
        port.touch(id, count, self.now, self.mappings);
        if let Some(copied) = copied.filter(|copied| !copied.is_complete()) {
            let lost = Lost { now: self.now, count: offered, length: entered, headers: Some(&parsed.stack) };
            self.lose_copies_of_hit(port, id, &copied, &lost, output);
        }
        Fate::Forward(egress)
    }

    fn entry(&self, parsed: &Parsed, (first_layer, end_layer): (usize, usize)) -> Entry<'_> {
        Entry {
            headers: parsed.stack,
            direction: self.direction,
            ingress: self.ingress.0,
            now: self.now,
            mappings: self.mappings,
            punts: &self.interests.punts,
            first_layer,
            end_layer,
            declined: 0,
        }
    }

    /// The plan of a packet. Where a responder that would answer leaves the packet to others, the walk is begun anew
    /// and passes it; each time one responder more, so this ends.
    fn plan(
        &self,
        port: &mut Port,
        program: &Program,
        entry: &mut Entry,
        packet: &Packet,
        parsed: &Parsed,
    ) -> Resolution {
        loop {
            let mut plan = port.resolve(program, entry, &mut ());
            if plan.outcome == Planned::Drop(DropReason::LayerFlowTableFull) && port.reclaim(self.now) {
                plan = port.resolve(program, entry, &mut ());
            }
            match &plan.outcome {
                Planned::Reply(reply, _) if reply.declines(packet, parsed, &program.resources) => {
                    entry.declined += 1;
                }
                _ => return plan,
            }
        }
    }

    /// A packet that goes past the layers: forwarding alone decides.
    fn pass_by(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        reading: Reading,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Fate {
        if let Err(reason) = reading.or_opaque(packet, scratch) {
            return self.lose(port, reason, packet, None);
        }
        let entry = self.entry(&scratch.parsed, (0, 0));
        self.send_reply(port, packet, &scratch.parsed, &entry, output)
    }

    /// The slow path, and the news of tables that it filled.
    pub(super) fn slow(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        parsed: &Parsed,
        (layers, caching): (Layers, Option<Caching<'_>>),
        output: &mut Output,
    ) -> Fate {
        let fate = self.ask_layers(port, packet, parsed, (layers, caching), output);
        self.tell_limits(port, output);
        fate
    }

    /// The slow path: ask the layers, edit, commit, remember.
    fn ask_layers(
        &self,
        port: &mut Port,
        packet: &mut Packet,
        parsed: &Parsed,
        (layers, caching): (Layers, Option<Caching<'_>>),
        output: &mut Output,
    ) -> Fate {
        port.flow_counters.misses += 1;
        let Some(program) = port.program.clone() else {
            return self.lose(port, DropReason::PortNotReady, packet, Some(parsed));
        };
        let mut entry = self.entry(parsed, layers.unwrap_or((0, program.layers.len())));
        let mut plan = self.plan(port, &program, &mut entry, packet, parsed);
        // The next packet of the flow may ask for what the responder does not decline.
        let caching = caching.filter(|_| entry.declined == 0);
        let stale = caching.as_ref().and_then(|caching| caching.stale);
        let entered = packet.len();
        let lost = lost(self.now, packet, Some(parsed));
        match plan.outcome.clone() {
            Planned::Drop(mut reason) => {
                let missing = plan.missing.as_ref();
                let is_asked =
                    missing.is_some_and(|missing| patience(missing, self.mappings, self.interests).is_some());
                if is_asked && self.reason.may_ask() {
                    return Fate::Ask(Box::new(plan));
                }
                if plan.missing.is_some() && self.reason == Reason::TimedOut {
                    reason = DropReason::MappingTimedOut;
                }
                let changed = self.lose_planned(port, &plan, reason, stale, &lost);
                // A layer flow that the walk met may end without notice, and then something else answers.
                let is_cachable = !changed
                    && !is_asked
                    && plan.met.is_empty()
                    && is_lasting(reason)
                    && plan.transposition.ttl_changes() == 0
                    && !plan.forgets_ttl
                    && has_fate_of_its_flow(&parsed.stack);
                if let Some(Caching { ufid, hash, .. }) = caching.filter(|_| is_cachable) {
                    port.cache_drop((ufid, hash), reason, &plan, self.mappings);
                }
                Fate::Drop
            }
            Planned::Punt(punt) => self.punt(port, packet, parsed, (&entry, plan), &punt, output),
            Planned::Reply(reply, layer) => {
                self.reply(port, packet, parsed, (&entry, plan), (reply, layer), output)
            }
            Planned::Forward | Planned::Turn(_) => {
                let (egress, edit) = match self.leave(&entry.headers, &mut plan, port, output) {
                    Ok(way) => way,
                    Err(reason) => return self.refuse(port, &plan, &lost, reason),
                };
                let copies = plan_copies(self.fabric, &entry.headers, &plan.copies);
                let copied = Copied::make(&copies, packet, parsed, output);
                let edited = edit.apply(packet, &parsed.layout);
                let too_big = || is_too_big(egress, packet, header_len(parsed, entered, packet.len()));
                let sent = edited.and_then(|()| if too_big() { Err(DropReason::TooBig) } else { Ok(()) });
                if let Err(reason) = sent {
                    copied.take_back(output);
                    return self.refuse(port, &plan, &lost, reason);
                }
                let count = guest_side(self.direction, entered, parsed, packet);
                if let Some(passed) = port.limited(&[], &plan, count, self.now) {
                    copied.take_back(output);
                    return self.limit(port, plan, passed, &lost, output);
                }
                self.count(port, count);
                let committed: Committed = port.commit(&entry, &mut plan, count);
                self.lose_copies(port, &copies, &copied, &lost, output);
                if let Some(caching) = caching {
                    let answer = (edit, egress, copies);
                    port.cache_flow(&caching, answer, committed, &plan.missed, self.now);
                }
                Fate::Forward(egress)
            }
        }
    }

    pub(in crate::switch) fn tell_rate(&self, port: &mut Port, refused: Refused, output: &mut Output) {
        if self.interests.rates {
            port.tell_rate(refused, (self.id, self.direction), self.now, &mut output.events);
        }
    }

    /// Where a packet goes after the layers, and the edit that takes it there.
    fn leave(
        &self,
        entered: &HeaderStack,
        plan: &mut Resolution,
        port: &Port,
        output: &mut Output,
    ) -> Result<(Egress, Edit), DropReason> {
        let egress = match (plan.outcome.clone(), self.direction) {
            (Planned::Turn(to), direction) => {
                self.fabric.turn(to.unwrap_or(self.id), direction.opposite())?
            }
            (_, Direction::Inbound) => Egress::Nic { max_frame: max_frame(port.config.mtu, &plan.headers) },
            (_, Direction::Outbound) => {
                let way = self.fabric.forward(self.id, &plan.headers, &plan.transposition);
                let way = way.map_err(|failure| {
                    output.resolve.extend(failure.unresolved);
                    failure.reason
                })?;
                output.resolve.extend(way.wanted);
                way.transposition.apply(&mut plan.headers).map_err(|_| DropReason::CannotTranspose)?;
                plan.transposition = plan.transposition.then(&way.transposition);
                way.egress
            }
        };
        let edit = Edit::compile(&plan.transposition, entered).map_err(|_| DropReason::CannotTranspose)?;
        Ok((egress, edit))
    }

    /// Adds a packet that goes on to the port's total.
    pub(super) fn count(&self, port: &mut Port, count: Count) {
        match self.direction {
            Direction::Outbound => port.outbound.add(count),
            Direction::Inbound => port.inbound.add(count),
        }
    }
}
