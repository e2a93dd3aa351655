//! Resolve: the plan that a packet's walk through the layers makes, changing nothing (§5.2, VFP §6.1).
//!
//! Theory. The walk keeps the packet's *meaning* as the layers so far have left it. Each layer is asked in turn:
//! a living layer flow answers first; else the groups are classified and the selected rule's action answers; else
//! the layer's default. The answer's transposition is composed onto the accumulated one and applied to the
//! meaning, which the next layer sees. What has to be created, moved or ended is only written down. Because the
//! walk takes `&self`, simulation is the same walk with an observer that writes down why.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::layer_flow::{LayerKey, LayerPair, Origin, PairRule, Side, Tuple};
use super::mirror::PlannedCopy;
use super::observe::{Decision, GroupVerdict, Observer};
use super::{Metadata, PassedLimit, Port};
use crate::action::{ActionInput, Effect, Limiter, Outcome, Punt, Reply};
use crate::classify::Read;
use crate::drop_reason::DropReason;
use crate::event::Audience;
use crate::flow::{Direction, Field, Fragment, HeaderStack, Value};
use crate::inspect::DropPlace;
use crate::layer::{CompiledLayer, ContextDirection, DefaultAction, Name, Program, ReverseTunnel, Rule};
use crate::resource::{Dependency, LiveMappings, Lookup, Mappings, MeterCounts, MeterId};
use crate::stats::Slot;
use crate::switch::PortId;
use crate::time::{Duration, Instant};
use crate::transposition::{TransposeError, Transposition};

/// A packet at the beginning of a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) headers: HeaderStack,
    pub(crate) direction: Direction,
    /// The port or uplink by which it entered the switch.
    pub(crate) ingress: u32,
    pub(crate) now: Instant,
    /// The mapping tables as they are now.
    pub(crate) mappings: &'a LiveMappings,
    /// The controllers that listen to punted packets.
    pub(crate) punts: &'a Audience,
    /// The layers to walk, as indexes from the guest outward: `first..end`.
    pub(crate) first_layer: usize,
    pub(crate) end_layer: usize,
    /// How many responders, in the order of the walk, have seen this packet's payload and leave it to others.
    pub(crate) declined: usize,
}

/// The plan of one packet.
#[derive(Clone, Debug)]
pub(crate) struct Resolution {
    /// When it was made.
    pub(crate) now: Instant,
    pub(crate) outcome: Planned,
    /// Who dropped the packet, where a layer did.
    pub(crate) dropped_by: Option<DropPlace>,
    /// Who gave the packet to a controller.
    pub(crate) ended_by: Option<Ender>,
    /// All layers' changes as one.
    pub(crate) transposition: Transposition,
    /// The headers after it.
    pub(crate) headers: HeaderStack,
    /// The rules and defaults that answered, one per layer crossed; of a dropped packet only the one that dropped.
    pub(crate) slots: Vec<Slot>,
    /// Meters passed, with the key of the cell and whether blocked packets count.
    pub(crate) meters: Vec<(MeterId, Box<[Option<Value>]>)>,
    /// Copies that it leaves behind when it leaves itself.
    pub(crate) copies: Vec<PlannedCopy>,
    /// Mappings that the walk read.
    pub(crate) depends: Vec<Dependency>,
    /// The mapping for lack of which the packet is dropped.
    pub(crate) missing: Option<Dependency>,
    /// Limits passed, whose tokens the packet needs when it goes on.
    pub(crate) limits: Vec<PassedLimit>,
    /// Layer flows that answered: table, pair.
    pub(crate) met: Vec<(u32, u32)>,
    /// Pairs that an update left valid under another rule: table, pair, what they now have from it.
    pub(crate) moved: Vec<(u32, u32, PairRule)>,
    /// Pairs that end: expired, or no longer allowed.
    pub(crate) ended: Vec<(u32, u32)>,
    /// Those of them that an update no longer allows.
    pub(crate) revoked: Vec<(u32, u32)>,
    /// Pairs to create: table, pair (its conversation is filled in on commit).
    pub(crate) created: Vec<(u32, LayerPair)>,
    /// A rule asked for a pair, even if the packet was dropped later.
    pub(crate) asks_for_state: bool,
    /// Hashes of layer keys that were looked for in vain.
    pub(crate) missed: Vec<u64>,
    /// The shortest time to live of the layer flows that answered or are created.
    pub(crate) time_to_live: Duration,
    /// A layer counted down the time to live of a header that a later one removed: `transposition` alone no longer
    /// tells which packets that drops, so no cached answer may stand for it (§4.5).
    pub(crate) forgets_ttl: bool,
}

/// What becomes of the packet at the end of its walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Planned {
    /// It leaves the last layer.
    Forward,
    /// It is dropped.
    Drop(DropReason),
    /// It is answered in the layer with this index.
    Reply(Reply, usize),
    /// It starts the walk in the other direction, of the same port or of this one.
    Turn(Option<PortId>),
    /// It ends in a layer, whose controller gets it.
    Punt(Punt),
}

/// The rule that gave a packet to a controller.
#[derive(Clone, Debug)]
pub(crate) struct Ender {
    pub(crate) owner: Name,
    pub(crate) place: DropPlace,
}

/// The packet as one layer sees it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) headers: &'a HeaderStack,
    pub(crate) metadata: &'a Metadata,
    pub(crate) direction: Direction,
    pub(crate) ingress: u32,
}

impl Read for View<'_> {
    fn read(&self, field: Field) -> Option<Value> {
        match field {
            Field::Direction => Some(self.direction.into()),
            Field::IngressPort => Some(Value::number(self.ingress as u128)),
            Field::Metadata(key) => self.metadata.get(key).map(|value| Value::number(value as u128)),
            _ => field.read_header(self.headers),
        }
    }
}

/// A rule that a layer selected.
pub(crate) struct Selected<'a> {
    pub(crate) group: usize,
    pub(crate) rule: &'a Rule,
    pub(crate) slot: Slot,
}

/// What one layer answered.
struct LayerAnswer<'a> {
    slot: Slot,
    effect: Effect,
    who: Who<'a>,
}

/// Who answered for a layer: its default, or a rule of a group. Names are cloned for a dropped packet only.
#[derive(Clone, Debug)]
enum Who<'a> {
    Default,
    Rule(&'a Name, &'a Name),
    /// The rule to which an update moved a layer flow.
    Moved(Name, Name),
}

impl Who<'_> {
    fn place(self, layer: &CompiledLayer) -> DropPlace {
        let rule = match self {
            Who::Default => None,
            Who::Rule(group, rule) => Some((group.clone(), rule.clone())),
            Who::Moved(group, rule) => Some((group, rule)),
        };
        DropPlace { layer: layer.name.clone(), rule }
    }
}

impl Port {
    /// Walks `entry` through the layers. `program` is this port's.
    pub(crate) fn resolve(
        &self,
        program: &Program,
        entry: &Entry<'_>,
        observer: &mut dyn Observer,
    ) -> Resolution {
        self.resolve_after(program, entry, &[], observer)
    }

    /// The same, as if the pairs `pending` (table, pair) of another plan had been committed: what a simulated reply
    /// meets on its way back.
    pub(crate) fn resolve_after(
        &self,
        program: &Program,
        entry: &Entry<'_>,
        pending: &[(u32, LayerPair)],
        observer: &mut dyn Observer,
    ) -> Resolution {
        let mut walk = Walk {
            port: self,
            program,
            entry,
            pending,
            metadata: Metadata::default(),
            declined: entry.declined,
            plan: Resolution {
                now: entry.now,
                outcome: Planned::Forward,
                dropped_by: None,
                ended_by: None,
                transposition: Transposition::IDENTITY,
                headers: entry.headers,
                slots: Vec::new(),
                meters: Vec::new(),
                copies: Vec::new(),
                depends: Vec::new(),
                missing: None,
                limits: Vec::new(),
                met: Vec::new(),
                moved: Vec::new(),
                ended: Vec::new(),
                revoked: Vec::new(),
                created: Vec::new(),
                asks_for_state: false,
                missed: Vec::new(),
                time_to_live: Duration(u64::MAX),
                forgets_ttl: false,
            },
        };
        let count = entry.end_layer.saturating_sub(entry.first_layer);
        for step in 0..count {
            let index = match entry.direction {
                Direction::Outbound => entry.first_layer + step,
                Direction::Inbound => entry.end_layer - 1 - step,
            };
            if walk.layer(index, observer).is_break() {
                break;
            }
        }
        walk.plan
    }
}

struct Walk<'a> {
    port: &'a Port,
    program: &'a Program,
    entry: &'a Entry<'a>,
    /// Pairs that are to be seen as if they existed.
    pending: &'a [(u32, LayerPair)],
    metadata: Metadata,
    /// Responders still to be met that decline.
    declined: usize,
    plan: Resolution,
}

impl<'a> Walk<'a> {
    fn layer(&mut self, index: usize, observer: &mut dyn Observer) -> ControlFlow<()> {
        let program = self.program;
        let layer = &program.layers[index];
        let direction = self.entry.direction;
        let side = layer.side(direction);
        observer.enter_layer(layer, &self.plan.headers);
        if side.reads_l4 && self.plan.headers.innermost().extra.fragment == Fragment::Later {
            observer.decide(Decision::Fragment);
            return self.drop(DropReason::FragmentWithoutPorts, None, Who::Default.place(layer));
        }
        let table = self.port.tables[index];
        let remembers =
            layer.is_stateful || self.port.layer_table(table).is_some_and(|flows| flows.len() > 0);
        let tuple = if remembers { Tuple::of(&self.plan.headers) } else { None };
        let key = tuple.map(|tuple| LayerKey { tuple, direction });
        let mut answer = None;
        if let Some(key) = &key {
            answer = self.ask_flow(layer, table, key, observer);
            if answer.is_none() {
                self.plan.missed.push(self.port.key_hash(table, key));
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => match self.ask_rules(layer, table, key, observer) {
                Ok(answer) => answer,
                Err((reason, slot, who)) => return self.drop(reason, slot, who.place(layer)),
            },
        };
        self.take(index, answer, observer)
    }

    /// The answer of a living layer flow.
    fn ask_flow(
        &mut self,
        layer: &CompiledLayer,
        table: u32,
        key: &LayerKey,
        observer: &mut dyn Observer,
    ) -> Option<LayerAnswer<'a>> {
        let port = self.port;
        let of_table = self.pending.iter().filter(|(of, _)| *of == table);
        if let Some((side, pair)) = of_table.filter_map(|(_, pair)| Some((pair.side_of(key)?, pair))).next() {
            let who = Who::Rule(&pair.rule.group, &pair.rule.rule);
            return Some(self.answer_of(pair, side, (&pair.rule, who), observer));
        }
        let (id, side, pair) = port.layer_table(table)?.find(key)?;
        if !self.port.is_alive(pair, self.entry.now) {
            self.plan.ended.push((table, id));
            return None;
        }
        let reads_the_same = pair.rule.depends.is_none_or(|entry| self.entry.mappings.is_current(&entry));
        let renewed = if pair.generation == self.port.generation && reads_the_same {
            None
        } else {
            match self.recheck(layer, pair) {
                Some(rule) => Some(rule),
                None => {
                    self.plan.ended.push((table, id));
                    self.plan.revoked.push((table, id));
                    return None;
                }
            }
        };
        let who = match &renewed {
            Some(rule) => Who::Moved(rule.group.clone(), rule.rule.clone()),
            None => Who::Rule(&pair.rule.group, &pair.rule.rule),
        };
        let rule = renewed.as_ref().unwrap_or(&pair.rule);
        let answer = self.answer_of(pair, side, (rule, who), observer);
        self.plan.met.push((table, id));
        if let Some(rule) = renewed {
            self.plan.moved.push((table, id, rule));
        }
        Some(answer)
    }

    /// What `pair`, which has `rule`, answers on one of its sides.
    fn answer_of(
        &mut self,
        pair: &LayerPair,
        side: Side,
        (rule, who): (&PairRule, Who<'a>),
        observer: &mut dyn Observer,
    ) -> LayerAnswer<'a> {
        observer.decide(Decision::Flow { side, rule });
        let carries_contexts = side == Side::Forward || rule.contexts == ContextDirection::Both;
        let effect = Effect {
            transposition: pair.transposition(side).clone(),
            meter: rule.meter.filter(|_| carries_contexts),
            limit: rule.limit.filter(|_| carries_contexts),
            metadata: if side == Side::Forward { rule.metadata.clone() } else { Vec::new() },
            mirror: rule.mirror.filter(|_| carries_contexts),
            looked_up: None,
            outcome: Outcome::Continue,
        };
        self.plan.depends.extend(rule.depends);
        self.plan.time_to_live = self.plan.time_to_live.min(rule.time_to_live);
        LayerAnswer { slot: rule.slot, effect, who }
    }

    /// Asks the rules of `layer` about the packet that created `pair`: what the pair has from the rule that it may
    /// move to, or `None` when it must end (§5.5).
    fn recheck(&self, layer: &CompiledLayer, pair: &LayerPair) -> Option<PairRule> {
        let origin = &*pair.origin;
        let direction = pair.forward_key.direction;
        let metadata = origin.metadata_under(&self.program.metadata_keys);
        let view = View { headers: &origin.headers, metadata: &metadata, direction, ingress: origin.ingress };
        let selected = select(self.program, layer, &view, &mut ())?;
        let state = selected.rule.state?;
        if !pair.rule.is_of_type(&selected.rule.action) {
            return None;
        }
        let input = self.input(&origin.headers, direction);
        if !selected.rule.action.admits(&input, &pair.forward) {
            return None;
        }
        let effect = selected.rule.action.process(&input);
        Some(PairRule {
            slot: selected.slot,
            action: selected.rule.action.name(),
            time_to_live: state.time_to_live,
            contexts: state.contexts,
            meter: effect.meter,
            limit: effect.limit,
            mirror: effect.mirror,
            metadata: effect.metadata,
            depends: self.dependency(effect.looked_up.as_ref()),
            group: layer.side(direction).groups[selected.group].name.clone(),
            rule: selected.rule.name.clone(),
        })
    }

    /// The answer of the layer's rules, or of its default.
    fn ask_rules(
        &mut self,
        layer: &'a CompiledLayer,
        table: u32,
        key: Option<LayerKey>,
        observer: &mut dyn Observer,
    ) -> Result<LayerAnswer<'a>, (DropReason, Option<Slot>, Who<'a>)> {
        let direction = self.entry.direction;
        let side = layer.side(direction);
        let headers = self.plan.headers;
        let view =
            View { headers: &headers, metadata: &self.metadata, direction, ingress: self.entry.ingress };
        let Some(selected) = select(self.program, layer, &view, observer) else {
            observer.decide(Decision::Default(side.default));
            let effect = match side.default {
                DefaultAction::Pass => Effect::default(),
                DefaultAction::Block => Effect::drop(DropReason::Blocked),
            };
            return Ok(LayerAnswer { slot: side.default_slot, effect, who: Who::Default });
        };
        let group = &side.groups[selected.group].name;
        observer.decide(Decision::Rule { group, rule: selected.rule });
        let who = Who::Rule(group, &selected.rule.name);
        let slot = selected.slot;
        if selected.rule.state.is_some() && headers.innermost().extra.fragment == Fragment::Later {
            return Err((DropReason::FragmentWithoutPorts, None, who));
        }
        let effect = selected.rule.action.process(&self.input(&headers, direction));
        let depends = self.dependency(effect.looked_up.as_ref());
        self.plan.depends.extend(depends);
        if let (Some(state), Some(key), Outcome::Continue) = (selected.rule.state, key, &effect.outcome) {
            let rule = PairRule {
                slot,
                action: selected.rule.action.name(),
                time_to_live: state.time_to_live,
                contexts: state.contexts,
                meter: effect.meter,
                limit: effect.limit,
                mirror: effect.mirror,
                metadata: effect.metadata.clone(),
                depends,
                group: group.clone(),
                rule: selected.rule.name.clone(),
            };
            let created = self.create(layer, table, key, rule, state.reverse_tunnel, &effect.transposition);
            if let Err(reason) = created {
                return Err((reason, Some(slot), who));
            }
        }
        Ok(LayerAnswer { slot, effect, who })
    }

    /// Plans a pair for the packet as it stands.
    fn create(
        &mut self,
        layer: &CompiledLayer,
        table: u32,
        forward_key: LayerKey,
        rule: PairRule,
        reverse_tunnel: ReverseTunnel,
        forward: &Transposition,
    ) -> Result<(), DropReason> {
        let before = self.plan.headers;
        let mut after = before;
        forward.apply(&mut after).map_err(drop_reason)?;
        let tunnels = reverse_tunnel == ReverseTunnel::Restore;
        let seen_by_reply = if tunnels { Tuple::of(&after) } else { untunnelled(&before, &after) };
        let Some(tuple) = seen_by_reply else { return Ok(()) };
        let reverse_key = LayerKey { tuple: tuple.reversed(), direction: forward_key.direction.opposite() };
        let Some(flows) = self.port.layer_table(table) else { return Ok(()) };
        self.plan.asks_for_state = true;
        if let Some((id, _, occupant)) = flows.find(&reverse_key)
            && !self.plan.ended.contains(&(table, id))
        {
            if self.port.is_alive(occupant, self.entry.now) {
                return Err(DropReason::FlowKeyTaken);
            }
            self.plan.ended.push((table, id));
        }
        let ending = self.plan.ended.iter().filter(|(other, _)| *other == table).count();
        if flows.len() - ending.min(flows.len()) >= layer.flow_limit {
            return Err(DropReason::LayerFlowTableFull);
        }
        self.plan.time_to_live = self.plan.time_to_live.min(rule.time_to_live);
        let (metadata, keys) = (self.metadata, self.program.metadata_keys.clone());
        let origin = Box::new(Origin { headers: before, metadata, keys, ingress: self.entry.ingress });
        let due = self.entry.now + rule.time_to_live;
        let pair = LayerPair {
            forward_key,
            reverse_key,
            forward: forward.clone(),
            reverse: forward.reverse(&before, tunnels),
            rule,
            origin,
            generation: self.port.generation,
            conversation: u32::MAX,
            due,
        };
        self.plan.created.push((table, pair));
        self.plan.missed.pop();
        Ok(())
    }

    /// Takes a layer's answer into the plan.
    fn take(
        &mut self,
        index: usize,
        answer: LayerAnswer<'a>,
        observer: &mut dyn Observer,
    ) -> ControlFlow<()> {
        let LayerAnswer { slot, effect, who } = answer;
        let layer = &self.program.layers[index];
        if let Some(meter) = effect.meter {
            let key = self.key_of(&self.program.resources.meter(meter).key);
            self.plan.meters.push((meter, key));
        }
        if let Some(by) = effect.limit {
            let key = match by {
                Limiter::Shared(id) => self.key_of(&self.program.resources.limit(id).key),
                Limiter::Own(_) => Box::default(),
            };
            let (meters, layers) = (self.plan.meters.len(), self.plan.slots.len() + 1);
            let place = who.clone().place(layer);
            let passed = PassedLimit { by, key, slot, place, meters, layers };
            if !self.plan.limits.iter().any(|other| other.is_same_bucket(&passed)) {
                self.plan.limits.push(passed);
            }
        }
        if let Some(mirror) = effect.mirror.filter(|mirror| mirror.takes(&self.plan.headers, self.port.seed))
        {
            self.plan.copies.push(PlannedCopy {
                mirror,
                transposition: self.plan.transposition.clone(),
                headers: self.plan.headers,
                place: who.clone().place(layer),
            });
        }
        for (key, value) in effect.metadata {
            self.metadata.set(key, value);
        }
        match effect.outcome {
            Outcome::Drop(reason) => {
                if reason == DropReason::MappingMiss {
                    let missing = self.dependency(effect.looked_up.as_ref());
                    self.plan.missing = missing.filter(Dependency::is_absent);
                }
                return self.drop(reason, Some(slot), who.place(layer));
            }
            // The responder has declined: its rule let the packet pass.
            Outcome::Reply(_) if self.declined > 0 => self.declined -= 1,
            Outcome::Reply(reply) => {
                self.plan.slots.push(slot);
                self.plan.outcome = Planned::Reply(reply, index);
                return ControlFlow::Break(());
            }
            Outcome::Turn(to) => {
                self.plan.slots.push(slot);
                self.plan.outcome = Planned::Turn(to);
                return ControlFlow::Break(());
            }
            Outcome::Punt(punt) => {
                let place = who.place(layer);
                if !self.entry.punts.includes(&layer.owner) {
                    return self.drop(DropReason::PuntWithoutController, Some(slot), place);
                }
                self.plan.slots.push(slot);
                self.plan.ended_by = Some(Ender { owner: layer.owner.clone(), place });
                self.plan.outcome = Planned::Punt(punt);
                return ControlFlow::Break(());
            }
            Outcome::Continue => {}
        }
        if let Err(error) = effect.transposition.apply(&mut self.plan.headers) {
            return self.drop(drop_reason(error), Some(slot), who.place(layer));
        }
        observer.transposed(&effect.transposition, &self.plan.headers);
        let composed = self.plan.transposition.then(&effect.transposition);
        let wanted = self.plan.transposition.ttl_changes() + effect.transposition.ttl_changes();
        self.plan.forgets_ttl |= effect.transposition.removes_l3() && composed.ttl_changes() < wanted;
        self.plan.transposition = composed;
        self.plan.slots.push(slot);
        ControlFlow::Continue(())
    }

    /// The packet is dropped: of all that was planned only the drop's own rule counts, the meters passed before
    /// that count offered packets, and what has ended has ended (§3.7).
    fn drop(&mut self, reason: DropReason, slot: Option<Slot>, place: DropPlace) -> ControlFlow<()> {
        let resources = &self.program.resources;
        self.plan.outcome = Planned::Drop(reason);
        self.plan.dropped_by = Some(place);
        self.plan.copies.clear();
        self.plan.slots.clear();
        self.plan.slots.extend(slot);
        self.plan.meters.retain(|(meter, _)| resources.meter(*meter).counts == MeterCounts::Offered);
        self.plan.limits.clear();
        // The pairs are not made after all, so the answer relies on both of their keys being free.
        for (table, pair) in self.plan.created.drain(..) {
            let keys = [pair.forward_key, pair.reverse_key];
            self.plan.missed.extend(keys.map(|key| self.port.key_hash(table, &key)));
        }
        ControlFlow::Break(())
    }

    /// The values of `fields` in the packet as it stands.
    fn key_of(&self, fields: &[Field]) -> Box<[Option<Value>]> {
        let (headers, metadata) = (&self.plan.headers, &self.metadata);
        let view = View { headers, metadata, direction: self.entry.direction, ingress: self.entry.ingress };
        fields.iter().map(|field| view.read(*field)).collect()
    }

    fn input<'b>(&'b self, headers: &'b HeaderStack, direction: Direction) -> ActionInput<'b> {
        let mappings = Mappings::new(self.entry.mappings, &self.port.mappings);
        let (resources, seed) = (&*self.program.resources, self.port.seed);
        ActionInput { headers, direction, resources, mappings, seed }
    }

    /// What an answer that made this lookup relies on.
    fn dependency(&self, lookup: Option<&Lookup>) -> Option<Dependency> {
        self.entry.mappings.dependency(&self.port.mappings, lookup?)
    }
}

/// The rule that `layer` selects for `view` (§3.3): of every group whose conditions hold the one it selects; the
/// last group's, unless an earlier group's is terminating.
pub(crate) fn select<'a>(
    program: &Program,
    layer: &'a CompiledLayer,
    view: &View<'_>,
    observer: &mut dyn Observer,
) -> Option<Selected<'a>> {
    let side = layer.side(view.direction);
    let resources = &program.resources;
    let mut selected: Option<Selected<'a>> = None;
    let mut ask = |position: usize, observer: &mut dyn Observer| -> ControlFlow<()> {
        let (group, compiled) = (&side.groups[position], &side.compiled[position]);
        let Some(place) = compiled.select(group, view, resources) else {
            observer.group(group, GroupVerdict::NoMatch);
            return ControlFlow::Continue(());
        };
        let rule = group.rules.rule(place);
        observer.group(group, GroupVerdict::Selected(rule));
        selected = Some(Selected { group: position, rule, slot: compiled.slots.of(place) });
        if rule.terminating { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    if observer.is_explaining() {
        for (position, group) in side.groups.iter().enumerate() {
            if let Some(failed) = group.conditions.iter().find(|c| !c.holds(view.read(c.field), resources)) {
                observer.group(group, GroupVerdict::Skipped(failed));
            } else if ask(position, observer).is_break() {
                break;
            }
        }
    } else {
        side.index.candidates(&side.groups, view, resources, &mut |position| ask(position, observer));
    }
    selected
}

/// The tuple of a packet whose reply comes back without the tunnels that were pushed on its way (§3.6).
fn untunnelled(before: &HeaderStack, after: &HeaderStack) -> Option<Tuple> {
    let pushed = after.groups().len() > before.groups().len();
    let tenant = if pushed { before.tenant() } else { after.tenant() };
    Some(Tuple { tenant: tenant.unwrap_or(0), ..Tuple::of(after)? })
}

/// The drop that an impossible transposition is.
pub(crate) fn drop_reason(error: TransposeError) -> DropReason {
    match error {
        TransposeError::DoesNotFit => DropReason::CannotTranspose,
        TransposeError::TtlExceeded => DropReason::TtlExceeded,
        TransposeError::EcnViolation => DropReason::EcnViolation,
    }
}
