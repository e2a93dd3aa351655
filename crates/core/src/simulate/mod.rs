//! Simulation: the walk of any packet through any port, explained and without effect (§5.2, §14; VFP §8.3).
//!
//! A [`Trace`] is a tree: the port that the packet enters, its layers with what each group said and why the layer
//! answered as it did, and, as a child, the port (or the way back of a reply) that comes next. It is made by the
//! same `resolve` that the packet path runs, so it cannot disagree with it; it takes no token, creates no flow
//! and counts nothing.

mod recorder;

use alloc::vec::Vec;

use crate::action::Reply;
use crate::drop_reason::DropReason;
use crate::flow::{Direction, HeaderStack, Ufid};
use crate::layer::{Condition, DefaultAction, MalformedPolicy, Name};
use crate::packet::{Answered, Packet, Parsed, parse_opaque, parse_with};
use crate::port::{Egress, Entry, FlowCopy, Lookup, Planned, Port, Resolution};
use crate::resource::{LiveMappings, MappingKey};
use crate::stats::Count;
use crate::switch::{
    Arrival, Judgement, PortId, Switch, guest_side, header_len, is_too_big, max_frame, plan_copies,
};
use crate::time::Instant;
use crate::transposition::{Edit, Transposition};

use recorder::Recorder;

/// The explained walk of one packet through one side of one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The port or uplink.
    pub port: Name,
    /// Which way the packet crosses it.
    pub direction: Direction,
    /// The headers with which it entered; `None` for a frame that cannot be parsed.
    pub entered: Option<HeaderStack>,
    /// What the caches would answer, without asking the layers.
    pub cache: CacheState,
    /// The layers crossed, in the order in which they were.
    pub layers: Vec<TraceNode>,
    /// All changes as one.
    pub transposition: Transposition,
    /// The frame after them; empty for a dropped packet.
    pub frame: Vec<u8>,
    /// What becomes of the packet.
    pub outcome: TraceOutcome,
    /// Copies that it leaves behind for mirrors.
    pub copies: Vec<CopyTrace>,
    /// The next port that it crosses, or the way back of its reply.
    pub next: Vec<Trace>,
    /// The next ports that belong to other workers: [`Switch::trace_onward`] on theirs tells more.
    pub onward: Vec<Onward>,
}

/// Where a traced packet goes on at another worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Onward {
    /// The port that it crosses next.
    pub to: PortId,
    /// Which way.
    pub direction: Direction,
    /// The port or uplink that it comes from.
    pub ingress: PortId,
    /// The packet as it stands there.
    pub packet: Packet,
}

/// A copy for a mirror.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyTrace {
    /// The layer that asked for it.
    pub layer: Name,
    /// The port or uplink by which it leaves, and its frame; or why it does not.
    pub result: Result<(Name, Vec<u8>), DropReason>,
}

/// What the caches know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheState {
    /// Nothing: it would take the slow path.
    Miss,
    /// A unified flow would answer.
    Hit,
    /// A unified flow exists and must be reconciled first.
    Stale,
    /// The drop cache would answer.
    Blocked,
}

/// One layer's part in a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceNode {
    /// The layer.
    pub layer: Name,
    /// The controller that owns it.
    pub owner: Name,
    /// The packet as it stood at the layer.
    pub headers: HeaderStack,
    /// The groups asked, in order; empty where a layer flow answered.
    pub groups: Vec<GroupTrace>,
    /// How the layer came to its answer.
    pub decision: TraceDecision,
    /// The header change that it asked for.
    pub transposition: Transposition,
}

/// What one group said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupTrace {
    /// The group.
    pub group: Name,
    /// What it said.
    pub verdict: GroupTraceVerdict,
}

/// What a group said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupTraceVerdict {
    /// This condition of the group does not hold, so its rules were not asked.
    Skipped(Condition),
    /// No rule matches.
    NoMatch,
    /// This rule was selected.
    Selected {
        /// The rule.
        rule: Name,
        /// Its conditions, all of which hold.
        conditions: Vec<Condition>,
        /// It wins without asking later groups.
        terminating: bool,
    },
}

/// How a layer came to its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceDecision {
    /// A layer flow that a rule created earlier.
    Flow {
        /// The group of the rule.
        group: Name,
        /// The rule.
        rule: Name,
        /// True for replies.
        is_reverse: bool,
    },
    /// A rule.
    Rule {
        /// Its group.
        group: Name,
        /// The rule.
        rule: Name,
        /// Its action.
        action: &'static str,
        /// It would create layer flows.
        is_stateful: bool,
    },
    /// No rule matched.
    Default(DefaultAction),
    /// The packet is a later fragment, and the layer reads transport fields.
    Fragment,
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceOutcome {
    /// It is delivered to the port's NIC.
    Deliver,
    /// It goes to these ports of the same switch.
    Ports(Vec<Name>),
    /// It turns round: the walk in the other direction of this port starts.
    Turn(Name),
    /// It leaves by this uplink.
    Uplink(Name),
    /// It came by an uplink and is for the host itself, whose kernel has it already.
    Host,
    /// It is answered; the reply's way back follows.
    Reply(Reply),
    /// A responder takes it and there is nothing to answer.
    Consumed,
    /// It waits until its controller has answered for this key of a mapping table.
    Wait {
        /// The table.
        mapping: Name,
        /// The key.
        key: MappingKey,
    },
    /// Its controller gets it.
    Punt {
        /// The controller that owns the layer.
        owner: Name,
        /// What the rule has it told.
        queue: Name,
    },
    /// It is dropped.
    Drop(DropReason),
}

impl Switch {
    /// Traces `frame` as if it were received on `from` at `now`: outbound from a port's NIC, or from the network
    /// on an uplink. `None` when there is no such port.
    pub fn trace(&self, now: Instant, from: PortId, frame: &[u8]) -> Option<Trace> {
        self.trace_packet(now, from, &Packet::from_frame(frame))
    }

    /// Traces `packet`, which may be a super-frame, like [`Switch::trace`].
    pub fn trace_packet(&self, now: Instant, from: PortId, packet: &Packet) -> Option<Trace> {
        if self.port(from).is_some() {
            return self.crossing(now, from, Direction::Outbound, from, packet);
        }
        let frame = packet.frame();
        let uplink = self.fabric().uplink_name(from)?;
        let parsed = self.read(frame).or_else(|reason| parse_opaque(frame).map_err(|_| reason));
        let mut trace = Trace {
            port: uplink,
            direction: Direction::Inbound,
            entered: parsed.as_ref().ok().map(|parsed| parsed.stack),
            cache: CacheState::Miss,
            layers: Vec::new(),
            transposition: Transposition::IDENTITY,
            frame: frame.to_vec(),
            outcome: TraceOutcome::Deliver,
            copies: Vec::new(),
            next: Vec::new(),
            onward: Vec::new(),
        };
        match parsed.and_then(|parsed| self.fabric().target(from, &parsed.stack)) {
            Ok(Arrival::Forward(egress)) => self.follow(now, (from, false), egress, packet, &mut trace),
            Ok(Arrival::Host) => trace.outcome = TraceOutcome::Host,
            Err(reason) => trace.outcome = TraceOutcome::Drop(reason),
        }
        Some(trace)
    }

    /// Traces `frame` as if it entered port `id` in `direction`, having come into the switch by `ingress`.
    pub fn trace_crossing(
        &self,
        now: Instant,
        id: PortId,
        direction: Direction,
        ingress: PortId,
        frame: &[u8],
    ) -> Option<Trace> {
        self.crossing(now, id, direction, ingress, &Packet::from_frame(frame))
    }

    /// Goes on with a trace that another worker's switch began. `None` when there is no such port here.
    pub fn trace_onward(&self, now: Instant, onward: &Onward) -> Option<Trace> {
        self.crossing(now, onward.to, onward.direction, onward.ingress, &onward.packet)
    }

    fn read(&self, frame: &[u8]) -> Result<Parsed, DropReason> {
        parse_with(frame, &self.fabric().tunnels)
    }

    fn crossing(
        &self,
        now: Instant,
        id: PortId,
        direction: Direction,
        ingress: PortId,
        packet: &Packet,
    ) -> Option<Trace> {
        let frame = packet.frame();
        let port = self.port(id)?;
        let mut trace = Trace {
            port: port.config.name.clone(),
            direction,
            entered: None,
            cache: CacheState::Miss,
            layers: Vec::new(),
            transposition: Transposition::IDENTITY,
            frame: Vec::new(),
            outcome: TraceOutcome::Drop(DropReason::PortNotReady),
            copies: Vec::new(),
            next: Vec::new(),
            onward: Vec::new(),
        };
        let Some(program) = &port.program else { return Some(trace) };
        let parsed = match program.malformed {
            MalformedPolicy::Drop => self.read(frame),
            MalformedPolicy::PassOpaque => self.read(frame).or_else(|_| parse_opaque(frame)),
        };
        match parsed {
            Err(reason) => trace.outcome = TraceOutcome::Drop(reason),
            Ok(parsed) => {
                trace.entered = Some(parsed.stack);
                let place = (direction, ingress, now);
                trace.cache = cache_state(port, &parsed, place, self.live_mappings());
                let range = (0, program.layers.len());
                self.walk(now, (id, port), (direction, ingress, range), (&parsed, packet), None, &mut trace);
            }
        }
        Some(trace)
    }

    fn walk(
        &self,
        now: Instant,
        (id, port): (PortId, &Port),
        (direction, ingress, range): (Direction, PortId, (usize, usize)),
        (parsed, packet): (&Parsed, &Packet),
        before: Option<(&Resolution, Count)>,
        trace: &mut Trace,
    ) {
        let Some(program) = &port.program else { return };
        let (first_layer, end_layer) = range;
        let mut entry = Entry {
            headers: parsed.stack,
            direction,
            ingress: ingress.0,
            now,
            mappings: self.live_mappings(),
            punts: &self.interests().punts,
            first_layer,
            end_layer,
            declined: 0,
        };
        // Only a reply crosses a part of the layers, and it is not answered in turn.
        let is_reply = range != (0, program.layers.len());
        let mut recorder = Recorder::default();
        let pending = before.map_or(&[][..], |(plan, _)| &plan.created);
        let mut plan = port.resolve_after(program, &entry, pending, &mut recorder);
        while let Planned::Reply(reply, _) = &plan.outcome
            && !is_reply
            && reply.declines(packet, parsed, &program.resources)
        {
            entry.declined += 1;
            recorder = Recorder::default();
            plan = port.resolve_after(program, &entry, pending, &mut recorder);
        }
        trace.layers = recorder.nodes;
        let copies = self.copies(&plan, parsed, packet);
        trace.transposition = plan.transposition.clone();
        let entered = packet.len();
        // Of a packet that goes on: what it counts as, unless a limit holds it.
        let limit = |packet: &Packet, trace: &mut Trace| {
            let count = guest_side(direction, entered, parsed, packet);
            let Some(passed) = port.limited(before.as_slice(), &plan, count, now) else { return Ok(count) };
            trace.layers.truncate(plan.limits[passed].layers);
            Err(DropReason::Limited)
        };
        let mut packet = packet.clone();
        match plan.outcome.clone() {
            Planned::Drop(reason) => {
                // Only a packet that enters the port waits; a reply on its way back does not.
                let judgement = self.judge_miss(port, &plan, packet.len()).filter(|_| !is_reply);
                trace.outcome = match (judgement, plan.missing) {
                    (Some(Judgement::Wait), Some(missing)) => TraceOutcome::Wait {
                        mapping: self.live_mappings().name(missing.table()),
                        key: *missing.key(),
                    },
                    (Some(Judgement::Drop(reason)), _) => TraceOutcome::Drop(reason),
                    _ => TraceOutcome::Drop(reason),
                };
            }
            Planned::Punt(punt) => {
                let edited = edit(&trace.transposition, parsed, &mut packet)
                    .and_then(|()| packet.complete_checksum())
                    .and_then(|()| limit(&packet, trace));
                trace.outcome = match (edited, &plan.ended_by) {
                    (Err(reason), _) => TraceOutcome::Drop(reason),
                    (Ok(_), Some(by)) if port.punts.has_token(now) => {
                        trace.copies = copies;
                        trace.frame = packet.frame().to_vec();
                        TraceOutcome::Punt { owner: by.owner.clone(), queue: punt.queue }
                    }
                    _ => TraceOutcome::Drop(DropReason::PuntLimit),
                };
            }
            Planned::Reply(..) if is_reply => {
                trace.outcome = TraceOutcome::Drop(DropReason::CannotRespond);
            }
            Planned::Reply(reply, layer) => {
                let answered = edit(&trace.transposition, parsed, &mut packet)
                    .and_then(|()| reply.answer(&mut packet, &program.resources));
                trace.outcome = match answered {
                    Ok(Answered::Reply) => TraceOutcome::Reply(reply),
                    Ok(Answered::Consumed) => TraceOutcome::Consumed,
                    Err(reason) => TraceOutcome::Drop(reason),
                };
                if matches!(trace.outcome, TraceOutcome::Drop(_)) {
                    return;
                }
                let count = match limit(&packet, trace) {
                    Ok(count) => count,
                    Err(reason) => {
                        trace.outcome = TraceOutcome::Drop(reason);
                        return;
                    }
                };
                trace.copies = copies;
                if trace.outcome == TraceOutcome::Consumed {
                    return;
                }
                let range = match direction {
                    Direction::Outbound => (0, layer),
                    Direction::Inbound => (layer + 1, program.layers.len()),
                };
                let way = (direction.opposite(), range);
                self.way_back(now, (id, port), way, &packet, (&plan, count), trace);
            }
            Planned::Forward | Planned::Turn(_) => {
                let egress = match (&plan.outcome, direction) {
                    (Planned::Turn(to), _) => {
                        self.fabric().turn(to.unwrap_or(id), direction.opposite()).map_err(Into::into)
                    }
                    (_, Direction::Inbound) => {
                        Ok(Egress::Nic { max_frame: max_frame(port.config.mtu, &plan.headers) })
                    }
                    (_, Direction::Outbound) => {
                        self.fabric().forward(id, &plan.headers, &plan.transposition).map(|way| {
                            trace.transposition = trace.transposition.then(&way.transposition);
                            way.egress
                        })
                    }
                };
                let left = egress.map_err(|failure| failure.reason).and_then(|egress| {
                    edit(&trace.transposition, parsed, &mut packet)?;
                    if is_too_big(egress, &packet, header_len(parsed, entered, packet.len())) {
                        return Err(DropReason::TooBig);
                    }
                    limit(&packet, trace)?;
                    trace.frame = packet.frame().to_vec();
                    Ok(egress)
                });
                match left {
                    Ok(egress) => {
                        trace.copies = copies;
                        let has_turned = matches!(plan.outcome, Planned::Turn(_));
                        self.follow(now, (id, has_turned), egress, &packet, trace);
                    }
                    Err(reason) => trace.outcome = TraceOutcome::Drop(reason),
                }
            }
        }
    }

    /// The copies that a packet with this plan leaves behind if it leaves itself.
    fn copies(&self, plan: &Resolution, parsed: &Parsed, packet: &Packet) -> Vec<CopyTrace> {
        let ways = plan_copies(self.fabric(), &parsed.stack, &plan.copies);
        let trace = |copy: &FlowCopy| {
            let result = copy.way.as_ref().map_err(|(reason, _)| *reason).and_then(|way| {
                let mut made = Packet::with_capacity(packet.len());
                made.copy_from(packet);
                way.edited(&mut made, parsed)?;
                let port = self.port(way.to).map(|port| port.config.name.clone());
                let name = port.or_else(|| self.fabric().uplink_name(way.to));
                Ok((name.unwrap_or_else(|| "uplink".into()), made.frame().to_vec()))
            });
            CopyTrace { layer: copy.place.layer.clone(), result }
        };
        ways.iter().map(trace).collect()
    }

    fn way_back(
        &self,
        now: Instant,
        (id, port): (PortId, &Port),
        (direction, range): (Direction, (usize, usize)),
        packet: &Packet,
        before: (&Resolution, Count),
        trace: &mut Trace,
    ) {
        let mut back = Trace {
            direction,
            entered: None,
            layers: Vec::new(),
            transposition: Transposition::IDENTITY,
            frame: Vec::new(),
            copies: Vec::new(),
            next: Vec::new(),
            onward: Vec::new(),
            ..trace.clone()
        };
        match self.read(packet.frame()) {
            Err(reason) => back.outcome = TraceOutcome::Drop(reason),
            Ok(parsed) => {
                back.entered = Some(parsed.stack);
                back.cache = CacheState::Miss;
                self.walk(
                    now,
                    (id, port),
                    (direction, id, range),
                    (&parsed, packet),
                    Some(before),
                    &mut back,
                );
            }
        }
        trace.next.push(back);
    }

    /// Follows a packet from port or uplink `from`; `has_turned` where a hairpin sent it there.
    fn follow(
        &self,
        now: Instant,
        (from, has_turned): (PortId, bool),
        egress: Egress,
        packet: &Packet,
        trace: &mut Trace,
    ) {
        let name = |id: &PortId| {
            let here = self.port(*id).map(|port| &port.config.name);
            here.or_else(|| self.fabric().remote_name(*id)).cloned()
        };
        let (side, targets): (Direction, Vec<PortId>) = match egress {
            Egress::Nic { .. } => {
                trace.outcome = TraceOutcome::Deliver;
                return;
            }
            Egress::Uplink { id, .. } => {
                trace.outcome =
                    TraceOutcome::Uplink(self.fabric().uplink_name(id).unwrap_or_else(|| "uplink".into()));
                return;
            }
            Egress::Port { to, direction } => (direction, Vec::from([to])),
            Egress::Multicast => (Direction::Inbound, self.fabric().multicast_targets(from).collect()),
        };
        let turned = if has_turned { targets.first().and_then(name) } else { None };
        trace.outcome = match turned {
            Some(port) => TraceOutcome::Turn(port),
            None => TraceOutcome::Ports(targets.iter().filter_map(name).collect()),
        };
        let mut packet = packet.clone();
        if !packet.take_turn() {
            trace.outcome = TraceOutcome::Drop(DropReason::TooManyTurns);
            return;
        }
        for to in targets {
            match self.crossing(now, to, side, from, &packet) {
                Some(next) => trace.next.push(next),
                None if self.fabric().remote_name(to).is_some() => {
                    let packet = packet.clone();
                    trace.onward.push(Onward { to, direction: side, ingress: from, packet });
                }
                None => {}
            }
        }
    }
}

fn cache_state(
    port: &Port,
    parsed: &Parsed,
    (direction, ingress, now): (Direction, PortId, Instant),
    mappings: &LiveMappings,
) -> CacheState {
    let ufid = Ufid::new(&parsed.stack, direction, port.extras(), ingress.0);
    match port.lookup(&ufid, port.flows.hash(&ufid), now, mappings) {
        Lookup::Hit(_) => CacheState::Hit,
        Lookup::Blocked => CacheState::Blocked,
        Lookup::Miss(Some(_)) => CacheState::Stale,
        Lookup::Miss(None) => CacheState::Miss,
    }
}

fn edit(transposition: &Transposition, parsed: &Parsed, packet: &mut Packet) -> Result<(), DropReason> {
    let edit = Edit::compile(transposition, &parsed.stack)?;
    edit.apply(packet, &parsed.layout)
}
