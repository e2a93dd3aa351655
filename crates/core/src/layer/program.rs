//! The compiled policy of one port: immutable, built off the packet path, swapped whole (§7, §11).
//!
//! Compiling checks that every id points to something, builds one classifier per group (shared by all ports
//! that carry the same rules, §3.8), and works out what the packet path must know beforehand: which non-base
//! fields join the key of unified flows (§5.1), and which layers read transport fields and so cannot judge a
//! non-first fragment.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::rule_list::RuleBase;
use super::{Condition, DefaultAction, Group, Layer, MalformedPolicy, Name, Policy, Selection};
use crate::action::{Action, Affinity, LeaseSource, MacSource, Respond};
use crate::classify::{Classifier, GroupIndex};
use crate::flow::{Direction, Field, FieldSet, HeaderField};
use crate::resource::{MappingId, Resources};
use crate::stats::Slot;

/// Metadata keys that one port can have.
pub const MAX_METADATA_KEYS: usize = 16;
/// Layers that one port can have.
pub const MAX_LAYERS: usize = 64;

/// A port's policy, ready to run.
#[derive(Debug)]
pub struct Program {
    pub(crate) layers: Vec<CompiledLayer>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) metadata_keys: Vec<String>,
    pub(crate) malformed: MalformedPolicy,
    /// Non-base fields that join the unified flow's key.
    pub(crate) extras: FieldSet,
    /// Rule slots that the program needs.
    pub(crate) rule_slots: usize,
}

/// A layer, compiled.
#[derive(Debug)]
pub(crate) struct CompiledLayer {
    pub(crate) name: Name,
    pub(crate) owner: Name,
    pub(crate) flow_limit: usize,
    /// A rule of either direction creates layer flows.
    pub(crate) is_stateful: bool,
    pub(crate) inbound: CompiledSide,
    pub(crate) outbound: CompiledSide,
}

/// One direction of a layer.
#[derive(Debug)]
pub(crate) struct CompiledSide {
    pub(crate) default: DefaultAction,
    pub(crate) default_slot: Slot,
    /// Policy of the groups, in the order in which they are asked.
    pub(crate) groups: Vec<Group>,
    /// What was compiled of each.
    pub(crate) compiled: Vec<CompiledGroup>,
    pub(crate) index: GroupIndex,
    /// A rule or group here reads transport fields, or an action rewrites or hashes them.
    pub(crate) reads_l4: bool,
}

/// What was compiled of a group. The classifier is shared by all ports with the same rules.
#[derive(Debug)]
pub(crate) struct CompiledGroup {
    pub(crate) classifier: Arc<Classifier>,
    /// The slot of rule `i` is `first_slot + i`.
    pub(crate) first_slot: usize,
}

impl CompiledGroup {
    pub(crate) fn slot(&self, rule: usize) -> Slot {
        Slot::rule(self.first_slot + rule)
    }
}

impl CompiledSide {
    /// Every group with what was compiled of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Group, &CompiledGroup)> {
        self.groups.iter().zip(&self.compiled)
    }
}

impl CompiledLayer {
    pub(crate) fn side(&self, direction: Direction) -> &CompiledSide {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// Classifiers of rule lists that are in use, so that many ports share one (§3.8).
#[derive(Debug, Default)]
pub(crate) struct ClassifierCache {
    entries: Vec<SharedClassifier>,
}

/// A classifier and what it was built from.
#[derive(Debug)]
struct SharedClassifier {
    rules: Weak<RuleBase>,
    selection: Selection,
    classifier: Weak<Classifier>,
}

impl ClassifierCache {
    fn classifier(&mut self, group: &Group, resources: &Arc<Resources>) -> Arc<Classifier> {
        let rules = Arc::downgrade(&group.rules.base);
        let known = self
            .entries
            .iter()
            .find(|entry| Weak::ptr_eq(&entry.rules, &rules) && entry.selection == group.selection);
        if let Some(classifier) = known.and_then(|entry| entry.classifier.upgrade()) {
            return classifier;
        }
        let classifier = Arc::new(Classifier::build(&group.rules.base.rules, group.selection, resources));
        self.entries.retain(|entry| entry.classifier.strong_count() > 0);
        self.entries.push(SharedClassifier {
            rules,
            selection: group.selection,
            classifier: Arc::downgrade(&classifier),
        });
        classifier
    }
}

impl Program {
    /// Compiles `policy`. The error names the layer, group and rule, and what is wrong; nothing was changed.
    pub(crate) fn compile(policy: Policy, cache: &mut ClassifierCache) -> Result<Program, String> {
        if policy.layers.len() > MAX_LAYERS {
            return Err(format!("{} layers; a port has at most {MAX_LAYERS}", policy.layers.len()));
        }
        if policy.metadata_keys.len() > MAX_METADATA_KEYS {
            return Err(format!(
                "{} metadata keys; a port has at most {MAX_METADATA_KEYS}",
                policy.metadata_keys.len()
            ));
        }
        let mut program = Program {
            layers: Vec::with_capacity(policy.layers.len()),
            resources: policy.resources,
            metadata_keys: policy.metadata_keys,
            malformed: policy.malformed,
            extras: FieldSet::EMPTY,
            rule_slots: 0,
        };
        for meter in &program.resources.meters {
            for field in &meter.key {
                check_field(*field, program.metadata_keys.len())
                    .map_err(|why| format!("meter {}: {why}", meter.name))?;
                program.extras.insert(*field);
            }
        }
        let mut layers = policy.layers;
        layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        for layer in layers {
            if program.layers.iter().any(|other| other.name == layer.name) {
                return Err(format!("layer {}: the name is used twice on this port", layer.name));
            }
            let compiled = program.layer(layer, cache)?;
            program.layers.push(compiled);
        }
        Ok(program)
    }

    fn layer(&mut self, layer: Layer, cache: &mut ClassifierCache) -> Result<CompiledLayer, String> {
        let name = layer.name;
        let inbound = self.side(&name, layer.inbound, layer.default_inbound, cache)?;
        let outbound = self.side(&name, layer.outbound, layer.default_outbound, cache)?;
        let mut groups = inbound.groups.iter().chain(&outbound.groups);
        let is_stateful = groups.any(|group| group.rules.iter().any(|rule| rule.state.is_some()));
        let (owner, flow_limit) = (layer.owner, layer.flow_limit);
        Ok(CompiledLayer { name, owner, flow_limit, is_stateful, inbound, outbound })
    }

    fn side(
        &mut self,
        layer: &Name,
        groups: Arc<Vec<Group>>,
        default: DefaultAction,
        cache: &mut ClassifierCache,
    ) -> Result<CompiledSide, String> {
        let mut groups = Arc::unwrap_or_clone(groups);
        groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        let default_slot = Slot::rule(self.rule_slots);
        self.rule_slots += 1;
        let index = GroupIndex::build(&groups);
        let mut reads_l4 = false;
        let mut compiled = Vec::with_capacity(groups.len());
        for group in &mut groups {
            group.rules = group.rules.rebuilt();
            let place = |rule: &Name| format!("layer {layer}, group {}, rule {rule}", group.name);
            reads_l4 |= self
                .conditions(&group.conditions)
                .map_err(|why| format!("layer {layer}, group {}: {why}", group.name))?;
            for rule in group.rules.iter() {
                reads_l4 |= self
                    .conditions(&rule.conditions)
                    .map_err(|why| format!("{}: {why}", place(&rule.name)))?;
                reads_l4 |=
                    self.action(&rule.action).map_err(|why| format!("{}: {why}", place(&rule.name)))?;
            }
            let classifier = cache.classifier(group, &self.resources);
            let first_slot = self.rule_slots;
            self.rule_slots += group.rules.len();
            compiled.push(CompiledGroup { classifier, first_slot });
        }
        Ok(CompiledSide { default, default_slot, groups, compiled, index, reads_l4 })
    }

    /// Checks conditions and declares their fields; true when one reads a transport field.
    fn conditions(&mut self, conditions: &[Condition]) -> Result<bool, String> {
        let mut reads_l4 = false;
        for condition in conditions {
            check_field(condition.field, self.metadata_keys.len())?;
            self.extras.insert(condition.field);
            reads_l4 |= is_l4(condition.field);
            if let Some(id) =
                condition.prefix_sets.iter().find(|id| id.0 as usize >= self.resources.prefix_sets.len())
            {
                return Err(format!("prefix set {} does not exist", id.0));
            }
        }
        Ok(reads_l4)
    }

    /// Checks an action's references and declares what it reads; true when it depends on transport fields.
    fn action(&mut self, action: &Action) -> Result<bool, String> {
        let resources = Arc::clone(&self.resources);
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
        match action {
            Action::Nat(nat) => {
                return Ok([nat.source, nat.destination].into_iter().flatten().any(|to| to.port.is_some()));
            }
            Action::LoadBalance(balance) => {
                if balance.targets.0 as usize >= resources.target_sets.len() {
                    return Err(format!("target set {} does not exist", balance.targets.0));
                }
                let ports = resources
                    .target_set(balance.targets)
                    .targets()
                    .iter()
                    .any(|target| target.port.is_some());
                return Ok(balance.affinity == Affinity::FiveTuple || ports);
            }
            Action::MapEncap(encap) => mapping(encap.mapping)?,
            Action::Meter(meter) if meter.meter.0 as usize >= resources.meters.len() => {
                return Err(format!("meter {} does not exist", meter.meter.0));
            }
            Action::Mark(mark) => {
                let unknown = mark.metadata.iter().find(|(key, _)| *key as usize >= self.metadata_keys.len());
                if let Some((key, _)) = unknown {
                    return Err(format!("metadata key {key} is not declared"));
                }
            }
            Action::Respond(Respond::Arp(source) | Respond::NeighborDiscovery(source)) => {
                if let MacSource::Mapping { mapping: id, .. } = source {
                    mapping(*id)?;
                }
                self.extras.insert(Field::Header(crate::flow::Scope::Inner, HeaderField::NdTarget));
            }
            Action::Respond(Respond::Dns(id)) if id.0 as usize >= resources.dns_tables.len() => {
                return Err(format!("table of domain names {} does not exist", id.0));
            }
            Action::Respond(Respond::Dhcp(dhcp)) => lease(&dhcp.lease)?,
            Action::Respond(Respond::Dhcpv6(dhcp)) => lease(&dhcp.lease)?,
            _ => {}
        }
        Ok(false)
    }
}

fn check_field(field: Field, metadata_keys: usize) -> Result<(), String> {
    match field {
        Field::Metadata(key) if key as usize >= metadata_keys => {
            Err(format!("metadata key {key} is not declared"))
        }
        _ => Ok(()),
    }
}

/// True for fields of transport and ICMP headers, which a non-first fragment lacks.
fn is_l4(field: Field) -> bool {
    use HeaderField::*;
    matches!(field, Field::Header(_, L4Src | L4Dst | TcpFlags | IcmpType | IcmpCode | IcmpId))
}
