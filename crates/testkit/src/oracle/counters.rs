//! What the oracle counts, by name. Every packet is counted at once; there is nothing to fold.

use std::collections::BTreeMap;

use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Direction, Value};
use lamina_core::layer::{Group, Layer, Name, Policy, Rule};
use lamina_core::resource::MeterSpec;

/// Packets and bytes, bytes as on the guest's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes of Ethernet frames.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// A rule by its full name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleName {
    /// The layer.
    pub layer: Name,
    /// The direction of the group.
    pub direction: Direction,
    /// The group.
    pub group: Name,
    /// The rule.
    pub rule: Name,
}

impl RuleName {
    pub(super) fn new(layer: &Layer, direction: Direction, group: &Group, rule: &Rule) -> Self {
        RuleName { layer: layer.name.clone(), direction, group: group.name.clone(), rule: rule.name.clone() }
    }
}

/// What answered in a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Selected {
    Rule(RuleName),
    Default(Name, Direction),
}

/// Why and where packets are dropped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DropSite {
    /// The reason.
    pub reason: DropReason,
    /// Which way they crossed the port.
    pub direction: Direction,
    /// The layer that dropped them, if one did.
    pub layer: Option<Name>,
    /// The group and rule, if one did.
    pub rule: Option<(Name, Name)>,
}

impl DropSite {
    pub(super) fn new(reason: DropReason, direction: Direction, by: Option<&Selected>) -> Self {
        let (layer, rule) = match by {
            None => (None, None),
            Some(Selected::Default(layer, _)) => (Some(layer.clone()), None),
            Some(Selected::Rule(name)) => {
                (Some(name.layer.clone()), Some((name.group.clone(), name.rule.clone())))
            }
        };
        DropSite { reason, direction, layer, rule }
    }
}

/// The cells of one meter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MeterTally {
    /// By key; a field that the packet lacked is `None`.
    pub cells: BTreeMap<Vec<Option<Value>>, Tally>,
    /// Packets of keys that found the meter full.
    pub other: Tally,
}

/// Everything a port counts. Entries that never counted anything are absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets from the guest that went on.
    pub outbound: Tally,
    /// Packets to the guest that went on.
    pub inbound: Tally,
    /// Drops.
    pub drops: BTreeMap<DropReason, u64>,
    /// By rule.
    pub rules: BTreeMap<RuleName, Tally>,
    /// By group: counts of rules that an update removed.
    pub retired: BTreeMap<(Name, Direction, Name), Tally>,
    /// By layer and direction: packets that no rule matched.
    pub defaults: BTreeMap<(Name, Direction), Tally>,
    /// By name.
    pub meters: BTreeMap<Name, MeterTally>,
}

impl Counters {
    pub(super) fn forwarded(&mut self, direction: Direction, bytes: usize) {
        match direction {
            Direction::Inbound => self.inbound.add(bytes),
            Direction::Outbound => self.outbound.add(bytes),
        }
    }

    pub(super) fn dropped(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(super) fn count(&mut self, selected: &Selected, bytes: usize) {
        match selected {
            Selected::Rule(name) => self.rules.entry(name.clone()).or_default().add(bytes),
            Selected::Default(layer, direction) => {
                self.defaults.entry((layer.clone(), *direction)).or_default().add(bytes);
            }
        }
    }

    pub(super) fn meter(&mut self, spec: &MeterSpec, key: &[Option<Value>], bytes: usize) {
        let meter = self.meters.entry(spec.name.clone()).or_default();
        let is_full = meter.cells.len() >= spec.limit;
        match meter.cells.get_mut(key) {
            Some(cell) => cell.add(bytes),
            None if is_full => meter.other.add(bytes),
            None => meter.cells.entry(key.to_vec()).or_default().add(bytes),
        }
    }

    /// Keeps what belongs to names that `policy` still has. A rule that is gone leaves its count to its group.
    pub(super) fn carry_over(&mut self, policy: &Policy) {
        let groups = |layer: &Name, direction: Direction| {
            let layer = policy.layers.iter().find(|known| known.name == *layer);
            layer.map_or(Vec::new(), |layer| super::read::groups_in_order(layer, direction))
        };
        let group_of = |layer: &Name, direction: Direction, group: &Name| {
            groups(layer, direction).into_iter().find(|known| known.name == *group)
        };
        for (name, tally) in std::mem::take(&mut self.rules) {
            let Some(group) = group_of(&name.layer, name.direction, &name.group) else { continue };
            if group.rules.iter().any(|rule| rule.name == name.rule) {
                self.rules.insert(name, tally);
            } else {
                let retired = self.retired.entry((name.layer, name.direction, name.group)).or_default();
                retired.packets += tally.packets;
                retired.bytes += tally.bytes;
            }
        }
        self.retired.retain(|(layer, direction, group), _| group_of(layer, *direction, group).is_some());
        self.defaults.retain(|(layer, _), _| policy.layers.iter().any(|known| known.name == *layer));
        self.meters.retain(|name, _| policy.resources.meters.iter().any(|spec| spec.name == *name));
    }
}
