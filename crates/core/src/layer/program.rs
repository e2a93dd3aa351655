//! The compiled policy of one port: immutable, built off the packet path, swapped whole (§7, §11).
//!
//! Compiling checks that every id points to something, builds one classifier per group (shared by all ports
//! that carry the same rules, §3.8), and works out what the packet path must know beforehand: which non-base
//! fields join the key of unified flows (§5.1), and which layers read transport fields and so cannot judge a
//! non-first fragment.
//!
//! A program is compiled as the successor of another one of its port and shares with it all that is the same: sides
//! of layers, groups, and of a group that was edited its base.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::base_cache::{BaseCache, BaseCode};
use super::facts::{Facts, WholeScopes, is_transport};
use super::limit_change::{LimitChange, limit_changes};
use super::slots::{GroupSlots, Retirement, SlotPlan, SlotSpace};
use super::{Condition, DefaultAction, Group, Layer, MalformedPolicy, Name, Place, Policy, Rule};
use crate::action::{Action, LeaseSource, Limit, Limiter, MacSource, Respond};
use crate::classify::{AddedClassifier, Classifier, GroupIndex, Read};
use crate::flow::{Direction, Field, FieldSet};
use crate::resource::{MappingId, Rate, Resources};
use crate::stats::Slot;

/// Metadata keys that one port can have.
pub const MAX_METADATA_KEYS: usize = 16;
/// Layers with a mirror that one port can have: no packet leaves more copies behind.
pub const MAX_MIRROR_LAYERS: usize = 8;
/// Layers that one port can have.
pub const MAX_LAYERS: usize = 64;

/// A port's policy, ready to run.
#[derive(Debug)]
pub struct Program {
    pub(crate) layers: Vec<CompiledLayer>,
    pub(crate) resources: Arc<Resources>,
    /// Names of the metadata keys, by number.
    pub(crate) metadata_keys: Arc<[String]>,
    pub(crate) malformed: MalformedPolicy,
    /// Non-base fields that join the unified flow's key.
    pub(crate) extras: FieldSet,
    /// Rule slots of this program and its predecessors.
    pub(crate) slots: Arc<SlotSpace>,
    /// What it was compiled as the successor of: a port that runs this keeps its counts where they are.
    predecessor: Option<Weak<Program>>,
    /// Rules of the predecessor that are gone.
    pub(crate) retirement: Option<Retirement>,
    /// Rules that both have, whose buckets must be told of their new limits.
    pub(crate) limit_changes: Vec<LimitChange>,
    /// A layer has a mirror.
    pub(crate) has_mirrors: bool,
    /// A layer gives packets to a controller.
    pub(crate) has_punts: bool,
}

/// A layer, compiled.
#[derive(Debug)]
pub(crate) struct CompiledLayer {
    pub(crate) name: Name,
    pub(crate) owner: Name,
    pub(crate) flow_limit: usize,
    /// A rule of either direction creates layer flows.
    pub(crate) is_stateful: bool,
    pub(crate) inbound: Arc<CompiledSide>,
    pub(crate) outbound: Arc<CompiledSide>,
}

/// One direction of a layer.
#[derive(Debug)]
pub(crate) struct CompiledSide {
    /// What it was compiled from.
    source: Arc<Vec<Group>>,
    pub(crate) default: DefaultAction,
    pub(crate) default_slot: Slot,
    /// Policy of the groups, in the order in which they are asked.
    pub(crate) groups: Arc<Vec<Group>>,
    /// What was compiled of each.
    pub(crate) compiled: Vec<CompiledGroup>,
    pub(crate) index: Arc<GroupIndex>,
    /// A rule or group here reads transport fields, or an action rewrites or hashes them.
    pub(crate) reads_l4: bool,
    extras: FieldSet,
    is_stateful: bool,
    has_mirror: bool,
    has_punt: bool,
}

/// What was compiled of a group. All but the slots is shared by all ports with the same rules.
#[derive(Clone, Debug)]
pub(crate) struct CompiledGroup {
    base: Arc<BaseCode>,
    added: Arc<AddedClassifier>,
    facts: Arc<Facts>,
    pub(crate) slots: GroupSlots,
}

impl CompiledGroup {
    /// The rule of `group`, from which this was compiled, that is selected for `packet`.
    pub(crate) fn select(&self, group: &Group, packet: &impl Read, resources: &Resources) -> Option<Place> {
        self.base.classifier.select(&self.added, &group.rules, packet, resources)
    }

    /// The classifier of the group's base.
    pub(crate) fn classifier(&self) -> &Classifier {
        self.base.classifier.classifier()
    }
}

impl CompiledSide {
    /// Every group with what was compiled of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Group, &CompiledGroup)> {
        self.groups.iter().zip(&self.compiled)
    }

    /// The group `name`; `place` is where it probably is.
    pub(crate) fn find(&self, name: &Name, place: usize) -> Option<(&Group, &CompiledGroup)> {
        let is_here = self.groups.get(place).is_some_and(|group| group.name == *name);
        let place =
            if is_here { Some(place) } else { self.groups.iter().position(|group| group.name == *name) }?;
        Some((&self.groups[place], &self.compiled[place]))
    }
}

impl CompiledLayer {
    pub(crate) fn side(&self, direction: Direction) -> &Arc<CompiledSide> {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Program {
    /// True when this was compiled as what follows `program`.
    pub(crate) fn follows(&self, program: &Arc<Program>) -> bool {
        // While the weak reference is held, nothing else has its address.
        self.predecessor.as_ref().is_some_and(|weak| weak.as_ptr() == Arc::as_ptr(program))
    }

    /// The layer `name`; `place` is where it probably is.
    pub(crate) fn find(&self, name: &Name, place: usize) -> Option<&CompiledLayer> {
        let here = self.layers.get(place).filter(|layer| layer.name == *name);
        here.or_else(|| self.layers.iter().find(|layer| layer.name == *name))
    }

    /// Compiles `policy`. The error names the layer, group and rule, and what is wrong; nothing was changed.
    pub(crate) fn compile(
        policy: &Policy,
        predecessor: Option<&Arc<Program>>,
        cache: &mut BaseCache,
    ) -> Result<Program, String> {
        if policy.layers.len() > MAX_LAYERS {
            return Err(format!("{} layers; a port has at most {MAX_LAYERS}", policy.layers.len()));
        }
        if policy.metadata_keys.len() > MAX_METADATA_KEYS {
            return Err(format!(
                "{} metadata keys; a port has at most {MAX_METADATA_KEYS}",
                policy.metadata_keys.len()
            ));
        }
        let mut extras = FieldSet::EMPTY;
        for meter in &policy.resources.meters {
            for field in &meter.key {
                check_field(*field, policy.metadata_keys.len())
                    .map_err(|why| format!("meter {}: {why}", meter.name))?;
                extras.insert(*field);
            }
        }
        for limit in &policy.resources.limits {
            for field in &limit.key {
                check_field(*field, policy.metadata_keys.len())
                    .map_err(|why| format!("limit {}: {why}", limit.name))?;
                extras.insert(*field);
            }
            check_rate(&limit.rate).map_err(|why| format!("limit {}: {why}", limit.name))?;
        }
        let mut layers: Vec<&Layer> = policy.layers.iter().collect();
        layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let space = predecessor.map_or_else(Arc::default, |program| program.slots.clone());
        let mut compilation = Compilation {
            resources: &policy.resources,
            metadata_keys: policy.metadata_keys.len(),
            is_same_ground: predecessor.is_some_and(|program| {
                Arc::ptr_eq(&program.resources, &policy.resources)
                    && program.metadata_keys.len() == policy.metadata_keys.len()
            }),
            plan: SlotPlan::new(space),
            limit_changes: Vec::new(),
            cache,
        };
        let mut compiled: Vec<CompiledLayer> = Vec::with_capacity(layers.len());
        for layer in layers {
            if compiled.iter().any(|other| other.name == layer.name) {
                return Err(format!("layer {}: the name is used twice on this port", layer.name));
            }
            let before = predecessor.and_then(|program| program.find(&layer.name, compiled.len()));
            let layer = compilation.layer(layer, before)?;
            extras = extras.union(layer.inbound.extras).union(layer.outbound.extras);
            compiled.push(layer);
        }
        let has_mirror = |layer: &&CompiledLayer| layer.inbound.has_mirror || layer.outbound.has_mirror;
        let mirrors = compiled.iter().filter(has_mirror).count();
        let has_punts = compiled.iter().any(|layer| layer.inbound.has_punt || layer.outbound.has_punt);
        if mirrors > MAX_MIRROR_LAYERS {
            return Err(format!(
                "{mirrors} layers have a mirror; a port has at most {MAX_MIRROR_LAYERS} such layers"
            ));
        }
        let gone = predecessor.into_iter().flat_map(|program| &program.layers);
        for gone in gone.filter(|before| !compiled.iter().any(|layer| layer.name == before.name)) {
            compilation.leave_side(&gone.inbound);
            compilation.leave_side(&gone.outbound);
        }
        let Compilation { plan, limit_changes, .. } = compilation;
        let (slots, retirement) = plan.finish();
        Ok(Program {
            layers: compiled,
            resources: policy.resources.clone(),
            metadata_keys: predecessor
                .map(|program| program.metadata_keys.clone())
                .filter(|keys| **keys == *policy.metadata_keys)
                .unwrap_or_else(|| policy.metadata_keys.as_slice().into()),
            malformed: policy.malformed,
            extras,
            slots,
            predecessor: predecessor.map(Arc::downgrade),
            retirement,
            limit_changes,
            has_mirrors: mirrors > 0,
            has_punts,
        })
    }
}

/// One program in the making.
struct Compilation<'a> {
    resources: &'a Arc<Resources>,
    metadata_keys: usize,
    /// The predecessor was compiled with the same resources and keys, so that what is shared need not be checked.
    is_same_ground: bool,
    plan: SlotPlan,
    limit_changes: Vec<LimitChange>,
    cache: &'a mut BaseCache,
}

impl Compilation<'_> {
    fn layer(&mut self, layer: &Layer, before: Option<&CompiledLayer>) -> Result<CompiledLayer, String> {
        let name = &layer.name;
        let sides = before.map(|before| (&before.inbound, &before.outbound)).unzip();
        let inbound = self.side(name, &layer.inbound, layer.default_inbound, sides.0)?;
        let outbound = self.side(name, &layer.outbound, layer.default_outbound, sides.1)?;
        Ok(CompiledLayer {
            name: name.clone(),
            owner: layer.owner.clone(),
            flow_limit: layer.flow_limit,
            is_stateful: inbound.is_stateful || outbound.is_stateful,
            inbound,
            outbound,
        })
    }

    fn side(
        &mut self,
        layer: &Name,
        source: &Arc<Vec<Group>>,
        default: DefaultAction,
        before: Option<&Arc<CompiledSide>>,
    ) -> Result<Arc<CompiledSide>, String> {
        if let Some(before) = before
            && self.is_same_ground
            && before.default == default
            && Arc::ptr_eq(&before.source, source)
        {
            return Ok(before.clone());
        }
        let mut groups = source.clone();
        let order = |a: &Group, b: &Group| (a.priority, &a.name).cmp(&(b.priority, &b.name));
        if !groups.is_sorted_by(|a, b| order(a, b).is_le()) {
            Arc::make_mut(&mut groups).sort_by(order);
        }
        let default_slot = before.map_or_else(|| self.plan.take(), |before| before.default_slot);
        let mut side = CompiledSide {
            source: source.clone(),
            default,
            default_slot,
            compiled: Vec::with_capacity(groups.len()),
            index: group_index(&groups, before),
            reads_l4: false,
            extras: FieldSet::EMPTY,
            is_stateful: false,
            has_mirror: false,
            has_punt: false,
            groups: Arc::default(),
        };
        for (place, group) in groups.iter().enumerate() {
            let before = before.and_then(|before| before.find(&group.name, place));
            let whole = WholeScopes::of(&group.conditions);
            for condition in group.conditions.iter() {
                self.condition(condition)
                    .map_err(|why| format!("layer {layer}, group {}: {why}", group.name))?;
                side.extras.insert(condition.field);
                side.reads_l4 |= is_transport(condition.field) && !whole.has(condition.field);
            }
            let compiled = self.group(layer, group, before)?;
            side.reads_l4 |= compiled.facts.reads_transport(self.resources, whole);
            side.extras = side.extras.union(compiled.facts.extras());
            side.is_stateful |= compiled.facts.is_stateful();
            side.has_mirror |= compiled.facts.has_mirror();
            side.has_punt |= compiled.facts.has_punt();
            side.compiled.push(compiled);
        }
        side.groups = groups;
        for (place, (gone, compiled)) in before.iter().flat_map(|before| before.iter()).enumerate() {
            if side.find(&gone.name, place).is_none() {
                self.plan.leave_group(&compiled.slots, &gone.rules);
            }
        }
        Ok(Arc::new(side))
    }

    fn group(
        &mut self,
        layer: &Name,
        group: &Group,
        before: Option<(&Group, &CompiledGroup)>,
    ) -> Result<CompiledGroup, String> {
        let list = &group.rules;
        let slots = match before {
            Some((before, compiled)) => self.plan.successor(&compiled.slots, &before.rules, list),
            None => self.plan.group(list),
        };
        if let Some((before, compiled)) = before
            && compiled.facts.has_own_limits()
        {
            let changes = limit_changes((&before.rules, &compiled.slots), (list, &slots));
            self.limit_changes.extend(changes);
        }
        let known = before.filter(|(before, _)| before.selection == group.selection);
        let compiled = match known {
            Some((before, compiled)) if before.rules.is_same(list) => {
                CompiledGroup { slots, ..compiled.clone() }
            }
            known => {
                let known = known.filter(|(before, _)| Arc::ptr_eq(&before.rules.base, &list.base));
                let base = match known {
                    Some((_, compiled)) => compiled.base.clone(),
                    None => self.cache.code(list, group.selection, self.resources),
                };
                let facts = if list.overlay_len() == 0 {
                    base.facts.clone()
                } else {
                    Arc::new(base.facts.edited(list))
                };
                let added = Arc::new(AddedClassifier::build(&list.overlay.added));
                CompiledGroup { base, added, facts, slots }
            }
        };
        if !compiled.facts.are_met(self.resources, self.metadata_keys) {
            for rule in list.iter() {
                self.rule(rule).map_err(|why| {
                    format!("layer {layer}, group {}, rule {}: {why}", group.name, rule.name)
                })?;
            }
        }
        Ok(compiled)
    }

    /// Everything of a side is no longer used.
    fn leave_side(&mut self, side: &CompiledSide) {
        self.plan.leave(side.default_slot, None);
        for (group, compiled) in side.iter() {
            self.plan.leave_group(&compiled.slots, &group.rules);
        }
    }

    fn condition(&self, condition: &Condition) -> Result<(), String> {
        check_field(condition.field, self.metadata_keys)?;
        let unknown =
            condition.prefix_sets.iter().find(|id| id.0 as usize >= self.resources.prefix_sets.len());
        unknown.map_or(Ok(()), |id| Err(format!("prefix set {} does not exist", id.0)))
    }

    /// What is wrong with a rule.
    fn rule(&self, rule: &Rule) -> Result<(), String> {
        let resources = self.resources;
        for condition in &rule.conditions {
            self.condition(condition)?;
        }
        let mapping = |id: MappingId| {
            let exists = (id.0 as usize) < resources.mappings.len();
            exists.then_some(()).ok_or_else(|| format!("mapping table {} does not exist", id.0))
        };
        let lease = |source: &LeaseSource| match source {
            LeaseSource::Table(id) if id.0 as usize >= resources.lease_tables.len() => {
                Err(format!("lease table {} does not exist", id.0))
            }
            _ => Ok(()),
        };
        match &rule.action {
            Action::LoadBalance(balance) if balance.targets.0 as usize >= resources.target_sets.len() => {
                Err(format!("target set {} does not exist", balance.targets.0))
            }
            Action::MapEncap(encap) => mapping(encap.mapping),
            Action::Meter(meter) if meter.meter.0 as usize >= resources.meters.len() => {
                Err(format!("meter {} does not exist", meter.meter.0))
            }
            Action::Limit(Limit { by: Limiter::Shared(id) }) if id.0 as usize >= resources.limits.len() => {
                Err(format!("limit {} does not exist", id.0))
            }
            Action::Limit(Limit { by: Limiter::Own(rate) }) => check_rate(rate),
            Action::Mark(mark) => {
                let unknown = mark.metadata.iter().find(|(key, _)| *key as usize >= self.metadata_keys);
                unknown.map_or(Ok(()), |(key, _)| Err(format!("metadata key {key} is not declared")))
            }
            Action::Respond(
                Respond::Arp(MacSource::Mapping { mapping: id, .. })
                | Respond::NeighborDiscovery(MacSource::Mapping { mapping: id, .. }),
            ) => mapping(*id),
            Action::Respond(Respond::Dns(id)) if id.0 as usize >= resources.dns_tables.len() => {
                Err(format!("table of domain names {} does not exist", id.0))
            }
            Action::Respond(Respond::Dhcp(dhcp)) => lease(&dhcp.lease),
            Action::Respond(Respond::Dhcpv6(dhcp)) => lease(&dhcp.lease),
            _ => Ok(()),
        }
    }
}

/// The index of `groups`; that of `before` where it is the same.
fn group_index(groups: &[Group], before: Option<&Arc<CompiledSide>>) -> Arc<GroupIndex> {
    let same = before.filter(|before| {
        let pairs = groups.iter().zip(before.groups.iter());
        before.groups.len() == groups.len()
            && pairs.into_iter().all(|(a, b)| {
                Arc::ptr_eq(&a.conditions, &b.conditions)
                    || (a.conditions.is_empty() && b.conditions.is_empty())
            })
    });
    same.map_or_else(|| Arc::new(GroupIndex::build(groups)), |before| before.index.clone())
}

fn check_rate(rate: &Rate) -> Result<(), String> {
    let bounds = (Rate::MAX_PER_SECOND, Rate::MAX_BURST);
    let message = || format!("a rate is 1 to {} per second, a burst 1 to {}", bounds.0, bounds.1);
    if rate.is_valid() { Ok(()) } else { Err(message()) }
}

fn check_field(field: Field, metadata_keys: usize) -> Result<(), String> {
    match field {
        Field::Metadata(key) if key as usize >= metadata_keys => {
            Err(format!("metadata key {key} is not declared"))
        }
        _ => Ok(()),
    }
}
