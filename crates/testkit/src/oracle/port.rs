//! One port of the oracle: its policy, its layer flows and conversations, and a packet's walk through the layers.
//!
//! A walk changes nothing; what it found is written down in a [`Plan`], which is then carried out, or, for a packet
//! that is dropped, mostly thrown away (§3.7).

use std::collections::{BTreeMap, BTreeSet};

use lamina_core::action::{Action, Limiter, Mirror, Punt, Reply};
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Direction, Fragment, Value};
use lamina_core::layer::{ContextDirection, DefaultAction, Layer, Name, Policy, ReverseTunnel, Rule};
use lamina_core::resource::{MeterCounts, MeterId};
use lamina_core::switch::{PortConfig, PortId};
use lamina_core::time::{Duration, Instant};
use lamina_core::transposition::HeaderOp;

use super::action::{self, Effect, Sources};
use super::counters::{Counters, DropSite, RuleName, Selected, Tally};
use super::limits::{Buckets, Passed};
use super::mapping::{Reading, Tables};
use super::read::{self, Metadata, View};
use super::transpose;
use super::tuple::{Declared, LayerKey, Tuple, flow_name};
use crate::wire::Frame;

/// A port.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) config: PortConfig,
    pub(super) seed: u64,
    /// `None` until the first policy is published.
    pub(super) policy: Option<Policy>,
    pub(super) generation: u64,
    pub(super) pairs: BTreeMap<u64, Pair>,
    pub(super) conversations: BTreeMap<u64, Conversation>,
    /// By flow: the conversation that it was last forwarded in, and under which generation.
    remembered: BTreeMap<String, Remembered>,
    declared: Declared,
    buckets: Buckets,
    /// Which limit refused the packet that is about to be recorded as dropped.
    refused_by: Option<usize>,
    next_id: u64,
    pub(super) counters: Counters,
    pub(super) drop_sites: BTreeMap<DropSite, Tally>,
    /// How much of what it may send to controllers is used, in nanoseconds, and when it was.
    punted: (u64, Instant),
}

/// Time in which a port may send one more packet to controllers, in nanoseconds,
const PUNT: u64 = 1_000_000;
/// and how many at once.
const MOST_PUNTS: u64 = 256;

/// What is remembered of a flow.
#[derive(Clone, Debug)]
struct Remembered {
    conversation: Option<u64>,
    generation: u64,
    readings: Vec<Reading>,
}

/// A pair of layer flows.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) layer: Name,
    pub(super) forward_key: LayerKey,
    pub(super) reverse_key: LayerKey,
    forward: Vec<HeaderOp>,
    reverse: Vec<HeaderOp>,
    pub(super) rule: PairRule,
    origin: Origin,
    generation: u64,
    pub(super) conversation: u64,
}

/// What a pair has from its rule.
#[derive(Clone, Debug)]
pub(super) struct PairRule {
    pub(super) name: RuleName,
    action: &'static str,
    pub(super) time_to_live: Duration,
    contexts: ContextDirection,
    meter: Option<MeterId>,
    limit: Option<Limiter>,
    mirror: Option<Mirror>,
    metadata: Vec<(u8, u32)>,
    reading: Option<Reading>,
}

/// The packet that created a pair, as it stood at the layer.
#[derive(Clone, Debug)]
struct Origin {
    frame: Frame,
    /// By the names of the keys.
    metadata: BTreeMap<String, u32>,
    ingress: u32,
}

/// The pairs that belong to each other.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    key: Tuple,
    pub(super) last_seen: Instant,
}

/// A packet at the beginning of a walk through layers `first..end`, counted from the guest outward.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) frame: Frame,
    pub(super) direction: Direction,
    pub(super) ingress: u32,
    pub(super) now: Instant,
    pub(super) first: usize,
    pub(super) end: usize,
    /// How many responders on the way leave the packet to others.
    pub(super) declined: usize,
    /// Controllers listen to punted packets.
    pub(super) is_heard: bool,
}

/// What a walk found.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) outcome: Outcome,
    /// Who in the layers dropped it.
    dropped_by: Option<Selected>,
    pub(super) frame: Frame,
    /// Which of its headers the layers put on, rather than whoever sent it.
    pub(super) made: Vec<bool>,
    selected: Vec<Selected>,
    meters: Vec<(MeterId, Vec<Option<Value>>)>,
    readings: Vec<Reading>,
    limits: Vec<Passed>,
    /// Copies, each as the packet stood then, and who asked for it.
    pub(super) copies: Vec<(Mirror, Frame, Selected)>,
    met: Vec<u64>,
    moved: Vec<(u64, PairRule)>,
    revoked: Vec<u64>,
    created: Vec<Pair>,
}

/// How a walk ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Forward,
    Drop(DropReason),
    /// Answered in the layer of this index.
    Reply(Reply, usize),
    /// The walk in the other direction starts, of the same port or of this one.
    Turn(Option<PortId>),
    /// The controller of the layer of this index gets it.
    Punt(Punt, usize),
}

/// One layer's answer.
struct Answer {
    selected: Selected,
    effect: Effect,
}

impl Port {
    pub(super) fn new(config: PortConfig, seed: u64) -> Self {
        Port {
            config,
            seed,
            policy: None,
            generation: 0,
            pairs: BTreeMap::new(),
            conversations: BTreeMap::new(),
            remembered: BTreeMap::new(),
            declared: Declared::default(),
            buckets: Buckets::default(),
            refused_by: None,
            next_id: 0,
            counters: Counters::default(),
            drop_sites: BTreeMap::new(),
            punted: (0, Instant(0)),
        }
    }

    /// Removes what is over at `now`: a pair whose conversation has been quiet for longer than its time to live.
    pub(super) fn purge(&mut self, now: Instant) {
        let conversations = &self.conversations;
        self.pairs.retain(|_, pair| {
            let conversation = conversations.get(&pair.conversation);
            conversation.is_some_and(|known| now - known.last_seen <= pair.rule.time_to_live)
        });
        self.forget_empty_conversations();
    }

    fn forget_empty_conversations(&mut self) {
        let pairs = &self.pairs;
        self.conversations.retain(|id, _| pairs.values().any(|pair| pair.conversation == *id));
    }

    /// Replaces the policy. Pairs of layers that are gone end; counters follow names.
    pub(super) fn publish(&mut self, mut policy: Policy) -> u64 {
        policy.layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        self.counters.carry_over(&policy);
        self.buckets.carry_over(&policy);
        self.pairs.retain(|_, pair| policy.layers.iter().any(|layer| layer.name == pair.layer));
        self.forget_empty_conversations();
        self.declared = Declared::by(&policy);
        self.policy = Some(policy);
        self.generation += 1;
        self.generation
    }

    fn pair_at(&self, layer: &Layer, key: &LayerKey) -> Option<(u64, &Pair)> {
        let owns =
            |pair: &Pair| pair.layer == layer.name && (pair.forward_key == *key || pair.reverse_key == *key);
        self.pairs.iter().find(|(_, pair)| owns(pair)).map(|(id, pair)| (*id, pair))
    }

    fn conversation_of(&self, key: &Tuple) -> Option<u64> {
        self.conversations.iter().find(|(_, conversation)| conversation.key == *key).map(|(id, _)| *id)
    }

    /// Walks `entry` through its layers under `policy`, which is this port's.
    pub(super) fn walk(&self, policy: &Policy, tables: &Tables, entry: &Entry) -> Plan {
        let mut walk = Walk {
            port: self,
            policy,
            tables,
            entry,
            metadata: Metadata::new(),
            plan: Plan {
                outcome: Outcome::Forward,
                dropped_by: None,
                frame: entry.frame.clone(),
                made: vec![false; entry.frame.headers.len()],
                selected: Vec::new(),
                meters: Vec::new(),
                copies: Vec::new(),
                readings: Vec::new(),
                limits: Vec::new(),
                met: Vec::new(),
                moved: Vec::new(),
                revoked: Vec::new(),
                created: Vec::new(),
            },
        };
        let mut order: Vec<usize> = (entry.first..entry.end).collect();
        if entry.direction == Direction::Inbound {
            order.reverse();
        }
        let mut declined = entry.declined;
        for index in order {
            match walk.layer(&policy.layers[index]) {
                Ok(End::None) => {}
                Ok(End::Reply(_)) if declined > 0 => declined -= 1,
                Ok(End::Reply(reply)) => {
                    walk.plan.outcome = Outcome::Reply(reply, index);
                    break;
                }
                Ok(End::Turn(to)) => {
                    walk.plan.outcome = Outcome::Turn(to);
                    break;
                }
                Ok(End::Punt(punt)) => {
                    walk.plan.outcome = Outcome::Punt(punt, index);
                    break;
                }
                Err((reason, selected, by)) => {
                    walk.plan.outcome = Outcome::Drop(reason);
                    walk.plan.dropped_by = Some(by);
                    walk.plan.selected = selected.into_iter().collect();
                    break;
                }
            }
        }
        walk.plan
    }

    /// Carries out the plan of a packet that goes on or was answered; `bytes` is its length on the guest's side.
    /// Returns its conversation, if it has one and met pairs of no other.
    pub(super) fn commit(&mut self, entry: &Entry, plan: &Plan, bytes: usize) -> Option<u64> {
        self.end(&plan.revoked);
        for (id, rule) in &plan.moved {
            if let Some(pair) = self.pairs.get_mut(id) {
                pair.rule = rule.clone();
                pair.generation = self.generation;
            }
        }
        let key = match entry.direction {
            Direction::Outbound => Tuple::of(&entry.frame),
            Direction::Inbound => Tuple::of(&plan.frame).map(Tuple::reversed),
        };
        let mut owners: Vec<u64> =
            plan.met.iter().filter_map(|id| self.pairs.get(id)).map(|pair| pair.conversation).collect();
        let uses_state = !owners.is_empty() || !plan.created.is_empty();
        let mut conversation = key.filter(|_| uses_state).and_then(|key| self.conversation_of(&key));
        let is_shared = owners.iter().any(|owner| conversation != Some(*owner));
        for mut pair in plan.created.iter().cloned() {
            let owner = match conversation {
                Some(owner) => owner,
                None => {
                    let key = key.unwrap_or(pair.forward_key.tuple);
                    let owner = self.fresh_id();
                    self.conversations.insert(owner, Conversation { key, last_seen: entry.now });
                    owner
                }
            };
            conversation = Some(owner);
            owners.push(owner);
            pair.conversation = owner;
            let id = self.fresh_id();
            self.pairs.insert(id, pair);
        }
        for owner in owners {
            if let Some(conversation) = self.conversations.get_mut(&owner) {
                conversation.last_seen = entry.now;
            }
        }
        self.counters.forwarded(entry.direction, bytes);
        for selected in &plan.selected {
            self.counters.count(selected, bytes);
        }
        self.count_meters(&plan.meters, bytes, |_| true);
        self.buckets.take(&plan.limits, bytes, entry.now);
        conversation.filter(|_| !is_shared)
    }

    /// Whether a limit refuses a packet that would go on with `plan`.
    pub(super) fn refuse(&mut self, plan: &Plan, bytes: usize, now: Instant) -> Result<(), DropReason> {
        self.refused_by = self.buckets.refuses(&plan.limits, bytes, now);
        if self.refused_by.is_some() { Err(DropReason::Limited) } else { Ok(()) }
    }

    /// True when a rule gives packets to a controller.
    pub(super) fn has_punts(&self) -> bool {
        let layers = self.policy.iter().flat_map(|policy| &policy.layers);
        let mut groups = layers.flat_map(|layer| layer.inbound.iter().chain(layer.outbound.iter()));
        groups.any(|group| group.rules.iter().any(|rule| matches!(rule.action, Action::Punt(_))))
    }

    /// Takes one of the packets that the port may send to controllers; false when none is left.
    pub(super) fn may_punt(&mut self, now: Instant) -> bool {
        let (used, then) = self.punted;
        let left_over = used.saturating_sub((now - then).0);
        let is_left = left_over + PUNT <= MOST_PUNTS * PUNT;
        self.punted = (left_over + if is_left { PUNT } else { 0 }, now);
        is_left
    }

    /// The plan of a packet that is dropped after all by the rule that would have sent it to its controller.
    pub(super) fn dropped_at_end(plan: &Plan, reason: DropReason) -> Plan {
        let last = plan.selected.last().cloned();
        Plan {
            outcome: Outcome::Drop(reason),
            dropped_by: last.clone(),
            selected: last.into_iter().collect(),
            ..plan.clone()
        }
    }

    /// Who ended the walk.
    pub(super) fn ended_by(plan: &Plan) -> Option<&Selected> {
        plan.selected.last()
    }

    /// Remembers that the flow of `entry` was forwarded in `conversation` under today's policy.
    pub(super) fn remember(&mut self, entry: &Entry, plan: &Plan, conversation: Option<u64>) {
        let name = self.flow_name(entry);
        let (generation, readings) = (self.generation, plan.readings.clone());
        self.remembered.insert(name, Remembered { conversation, generation, readings });
    }

    fn flow_name(&self, entry: &Entry) -> String {
        flow_name(entry.direction, entry.ingress, &entry.frame, &self.declared)
    }

    /// Records a dropped packet: its reason, its rule, the meters that count offered packets, and what an update
    /// ended.
    pub(super) fn commit_drop(
        &mut self,
        entry: &Entry,
        plan: &Plan,
        reason: DropReason,
        (bytes, tables): (usize, &Tables),
    ) {
        self.counters.dropped(reason);
        let was_refused = plan.outcome != Outcome::Drop(reason);
        let refused_by = self.refused_by.take().filter(|_| reason == DropReason::Limited);
        let limit = refused_by.map(|index| &plan.limits[index]);
        let by = match limit {
            Some(limit) => Some(&limit.selected),
            None => plan.dropped_by.as_ref().filter(|_| !was_refused),
        };
        self.count_drop(DropSite::new(reason, entry.direction, by), bytes);
        if !was_refused {
            for selected in &plan.selected {
                self.counters.count(selected, bytes);
            }
        }
        if let Some(limit) = limit {
            self.counters.count(&limit.selected, bytes);
        }
        let meters = &plan.meters[..limit.map_or(plan.meters.len(), |limit| limit.meters)];
        self.count_meters(meters, bytes, |counts| counts == MeterCounts::Offered);
        let mut over: Vec<u64> = Vec::new();
        if reason == DropReason::Blocked {
            let rechecked = plan.moved.iter().map(|(id, _)| id).chain(&plan.revoked);
            over.extend(rechecked.filter_map(|id| self.pairs.get(id)).map(|pair| pair.conversation));
            // An answer on its way back, and a packet that a controller sends on, are no packets of a flow.
            let layers = self.policy.as_ref().map_or(0, |policy| policy.layers.len());
            let is_of_flow = (entry.first, entry.end) == (0, layers);
            let name = is_of_flow.then(|| self.flow_name(entry));
            if let Some(flow) = name.and_then(|name| self.remembered.remove(&name))
                && (flow.generation < self.generation
                    || flow.readings.iter().any(|reading| !tables.is_as_read(reading)))
            {
                over.extend(flow.conversation);
            }
        }
        self.end(&plan.revoked);
        self.pairs.retain(|_, pair| !over.contains(&pair.conversation));
        self.forget_empty_conversations();
    }

    /// Counts a dropped packet at its place.
    pub(super) fn count_drop(&mut self, site: DropSite, bytes: usize) {
        self.drop_sites.entry(site).or_default().add(bytes);
    }

    /// Ends the conversations with these keys.
    pub(super) fn end_conversations(&mut self, keys: &BTreeSet<Tuple>) {
        let conversations = &self.conversations;
        self.pairs.retain(|_, pair| {
            let owner = conversations.get(&pair.conversation);
            owner.is_none_or(|owner| !keys.contains(&owner.key))
        });
        self.forget_empty_conversations();
    }

    fn end(&mut self, pairs: &[u64]) {
        self.pairs.retain(|id, _| !pairs.contains(id));
        self.forget_empty_conversations();
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn count_meters(
        &mut self,
        meters: &[(MeterId, Vec<Option<Value>>)],
        bytes: usize,
        counts: impl Fn(MeterCounts) -> bool,
    ) {
        let Some(policy) = &self.policy else { return };
        for (id, key) in meters {
            let spec = &policy.resources.meters[id.0 as usize];
            if counts(spec.counts) {
                self.counters.meter(spec, key, bytes);
            }
        }
    }
}

/// Whether a layer ended the walk.
enum End {
    None,
    Reply(Reply),
    Turn(Option<PortId>),
    Punt(Punt),
}

type Dropped = (DropReason, Option<Selected>, Selected);

struct Walk<'a> {
    port: &'a Port,
    policy: &'a Policy,
    tables: &'a Tables,
    entry: &'a Entry,
    metadata: Metadata,
    plan: Plan,
}

impl Walk<'_> {
    /// Asks one layer and lets its answer change the packet. A reply or a turn ends the walk.
    fn layer(&mut self, layer: &Layer) -> Result<End, Dropped> {
        let direction = self.entry.direction;
        let is_later = self.plan.frame.innermost().fragment() == Fragment::Later;
        if is_later && read::needs_ports(layer, direction, &self.policy.resources) {
            let by = Selected::Default(layer.name.clone(), direction);
            return Err((DropReason::FragmentWithoutPorts, None, by));
        }
        let key = Tuple::of(&self.plan.frame).map(|tuple| LayerKey { direction, tuple });
        let met = key.and_then(|key| self.ask_pair(layer, &key));
        let Answer { selected, effect } = match met {
            Some(answer) => answer,
            None => self.ask_rules(layer, key)?,
        };
        if let Some(meter) = effect.meter {
            let spec = &self.policy.resources.meters[meter.0 as usize];
            let view = self.view();
            let key = spec.key.iter().map(|field| view.read(*field)).collect();
            self.plan.meters.push((meter, key));
        }
        self.plan.readings.extend(effect.reading);
        let meters = self.plan.meters.len();
        let passed = effect.limit.and_then(|limiter| {
            Passed::new(limiter, &selected, self.policy, meters, |field| self.view().read(field))
        });
        if let Some(passed) = passed.filter(|new| !self.plan.limits.iter().any(|old| old.is_same_bucket(new)))
        {
            self.plan.limits.push(passed);
        }
        if let Some(mirror) = effect.mirror
            && action::is_sampled(&mirror, &self.plan.frame, self.port.seed)
        {
            self.plan.copies.push((mirror, self.plan.frame.clone(), selected.clone()));
        }
        if effect.punt.is_some() && !self.entry.is_heard {
            return Err((DropReason::PuntWithoutController, Some(selected.clone()), selected));
        }
        self.metadata.extend(effect.metadata);
        if effect.reply.is_none() {
            match transpose::apply(&effect.ops, &self.plan.frame) {
                Ok(frame) => {
                    self.plan.frame = frame;
                    self.plan.made = transpose::track(&effect.ops, &self.plan.made);
                }
                Err(reason) => return Err((reason, Some(selected.clone()), selected)),
            }
        }
        self.plan.selected.push(selected);
        Ok(match (effect.reply, effect.turn, effect.punt) {
            (Some(reply), _, _) => End::Reply(reply),
            (None, Some(to), _) => End::Turn(to),
            (None, None, Some(punt)) => End::Punt(punt),
            (None, None, None) => End::None,
        })
    }

    fn sources(&self) -> Sources<'_> {
        Sources { resources: &self.policy.resources, tables: self.tables }
    }

    fn view(&self) -> View<'_> {
        View {
            frame: &self.plan.frame,
            metadata: &self.metadata,
            direction: self.entry.direction,
            ingress: self.entry.ingress,
        }
    }

    /// The answer of a living pair.
    fn ask_pair(&mut self, layer: &Layer, key: &LayerKey) -> Option<Answer> {
        let (id, pair) = self.port.pair_at(layer, key)?;
        let mut rule = pair.rule.clone();
        let has_changed = rule.reading.as_ref().is_some_and(|reading| !self.tables.is_as_read(reading));
        if pair.generation != self.port.generation || has_changed {
            match self.recheck(layer, pair) {
                Some(renewed) => {
                    rule = renewed.clone();
                    self.plan.moved.push((id, renewed));
                }
                None => {
                    self.plan.revoked.push(id);
                    return None;
                }
            }
        }
        self.plan.met.push(id);
        let is_forward = pair.forward_key == *key;
        let has_meter = is_forward || rule.contexts == ContextDirection::Both;
        let effect = Effect {
            ops: if is_forward { pair.forward.clone() } else { pair.reverse.clone() },
            meter: rule.meter.filter(|_| has_meter),
            limit: rule.limit.filter(|_| has_meter),
            mirror: rule.mirror.filter(|_| has_meter),
            metadata: if is_forward { rule.metadata.clone() } else { Vec::new() },
            reply: None,
            reading: rule.reading.clone(),
            turn: None,
            punt: None,
        };
        Some(Answer { selected: Selected::Rule(rule.name), effect })
    }

    /// What `pair` has from the rule that is selected now for the packet that created it; `None` when it must end.
    fn recheck(&self, layer: &Layer, pair: &Pair) -> Option<PairRule> {
        let resources = &self.policy.resources;
        let Origin { frame, metadata, ingress } = &pair.origin;
        let direction = pair.forward_key.direction;
        let keys = self.policy.metadata_keys.iter().zip(0..);
        let metadata = keys.filter_map(|(name, key)| Some((key, *metadata.get(name)?))).collect();
        let view = View { frame, metadata: &metadata, direction, ingress: *ingress };
        let (group, rule) = view.select(layer, resources)?;
        rule.state?;
        let seed = self.port.seed;
        let is_same_type = rule.action.name() == pair.rule.action;
        let sources = self.sources();
        if !is_same_type || !action::admits(&rule.action, frame, sources, seed, &pair.forward) {
            return None;
        }
        let effect = action::act(&rule.action, frame, sources, seed).unwrap_or_default();
        Some(pair_rule(RuleName::new(layer, direction, group, rule), rule, &effect))
    }

    /// The answer of the layer's rules, or of its default.
    fn ask_rules(&mut self, layer: &Layer, key: Option<LayerKey>) -> Result<Answer, Dropped> {
        let direction = self.entry.direction;
        let resources = &self.policy.resources;
        let Some((group, rule)) = self.view().select(layer, resources) else {
            let selected = Selected::Default(layer.name.clone(), direction);
            let default = match direction {
                Direction::Inbound => layer.default_inbound,
                Direction::Outbound => layer.default_outbound,
            };
            return match default {
                DefaultAction::Pass => Ok(Answer { selected, effect: Effect::default() }),
                DefaultAction::Block => Err((DropReason::Blocked, Some(selected.clone()), selected)),
            };
        };
        let name = RuleName::new(layer, direction, group, rule);
        let selected = Selected::Rule(name.clone());
        if rule.state.is_some() && self.plan.frame.innermost().fragment() == Fragment::Later {
            return Err((DropReason::FragmentWithoutPorts, None, selected));
        }
        let effect = action::act(&rule.action, &self.plan.frame, self.sources(), self.port.seed)
            .map_err(|reason| (reason, Some(selected.clone()), selected.clone()))?;
        if let (Some(state), Some(key), false) = (rule.state, key, effect.ends()) {
            let tunnels = state.reverse_tunnel == ReverseTunnel::Restore;
            self.create(layer, key, pair_rule(name, rule, &effect), &effect.ops, tunnels)
                .map_err(|reason| (reason, Some(selected.clone()), selected.clone()))?;
        }
        Ok(Answer { selected, effect })
    }

    /// Plans a pair for the packet as it stands.
    fn create(
        &mut self,
        layer: &Layer,
        forward_key: LayerKey,
        rule: PairRule,
        ops: &[HeaderOp],
        tunnels: bool,
    ) -> Result<(), DropReason> {
        let before = &self.plan.frame;
        let after = transpose::apply(ops, before)?;
        let Some(mut result) = Tuple::of(&after) else { return Ok(()) };
        if !tunnels && after.group_ranges().len() > before.group_ranges().len() {
            // The reply comes without the tunnel that was put on.
            result.tenant = forward_key.tuple.tenant;
        }
        let direction = forward_key.direction.opposite();
        let reverse_key = LayerKey { direction, tuple: result.reversed() };
        let is_living = |id: &u64| !self.plan.revoked.contains(id);
        if self.port.pair_at(layer, &reverse_key).is_some_and(|(id, _)| is_living(&id)) {
            return Err(DropReason::FlowKeyTaken);
        }
        let in_layer = self.port.pairs.iter().filter(|(id, pair)| pair.layer == layer.name && is_living(id));
        if in_layer.count() >= layer.flow_limit {
            return Err(DropReason::LayerFlowTableFull);
        }
        let named = |(key, value): (&u8, &u32)| (self.policy.metadata_keys[*key as usize].clone(), *value);
        let (frame, metadata) = (before.clone(), self.metadata.iter().map(named).collect());
        self.plan.created.push(Pair {
            layer: layer.name.clone(),
            forward_key,
            reverse_key,
            forward: ops.to_vec(),
            reverse: transpose::reversed(ops, before, tunnels),
            rule,
            origin: Origin { frame, metadata, ingress: self.entry.ingress },
            generation: self.port.generation,
            conversation: 0,
        });
        Ok(())
    }
}

fn pair_rule(name: RuleName, rule: &Rule, effect: &Effect) -> PairRule {
    let state = rule.state.unwrap_or_default();
    PairRule {
        name,
        action: rule.action.name(),
        time_to_live: state.time_to_live,
        contexts: state.contexts,
        meter: effect.meter,
        limit: effect.limit,
        mirror: effect.mirror,
        metadata: effect.metadata.clone(),
        reading: effect.reading.clone(),
    }
}
