//! Looking at a port's state: the live layer flows, the tables and their limits, the classifiers. Changes nothing.

use alloc::format;
use alloc::vec::Vec;

use super::Port;
use super::layer_flow::{LayerPair, Tuple};
use crate::flow::Direction;
use crate::inspect::{ClassifierInfo, Full, LimitUse, MAX_DROP_PLACES};
use crate::layer::{MAX_LAYERS, MAX_METADATA_KEYS, Name};
use crate::resource::{LiveMappings, MAX_MAPPINGS};
use crate::time::{Duration, Instant};

/// One layer's state of one conversation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LayerFlowInfo {
    /// The layer.
    pub layer: Name,
    /// The direction of the packet that created it.
    pub direction: Direction,
    /// The tuple of forward packets as they arrive at the layer.
    pub forward: Tuple,
    /// The tuple of replies as they arrive at the layer.
    pub reverse: Tuple,
    /// The group and rule that it belongs to.
    pub group: Name,
    /// The rule.
    pub rule: Name,
    /// How long after the last packet it ends.
    pub time_to_live: Duration,
    /// Time since the conversation's last packet.
    pub quiet: Duration,
}

impl Port {
    /// The layer flows that live at `now`, sorted by layer and tuple.
    pub(crate) fn layer_flows(&self, now: Instant) -> Vec<LayerFlowInfo> {
        let mut flows = Vec::new();
        for table in self.layer_tables.iter().flatten() {
            let alive = table.iter().filter(|(_, pair)| self.is_alive(pair, now));
            flows.extend(alive.map(|(_, pair)| self.layer_flow(&table.name, pair, now)));
        }
        flows.sort();
        flows
    }

    /// What `pair`, of the layer called `layer`, tells about itself.
    pub(super) fn layer_flow(&self, layer: &Name, pair: &LayerPair, now: Instant) -> LayerFlowInfo {
        let seen =
            self.conversations.get(pair.conversation).map_or(now, |conversation| conversation.last_seen);
        LayerFlowInfo {
            layer: layer.clone(),
            direction: pair.forward_key.direction,
            forward: pair.forward_key.tuple,
            reverse: pair.reverse_key.tuple,
            group: pair.rule.group.clone(),
            rule: pair.rule.rule.clone(),
            time_to_live: pair.rule.time_to_live,
            quiet: now - seen,
        }
    }

    /// What the classifiers of all groups are made of.
    pub(crate) fn classifiers(&self) -> Vec<ClassifierInfo> {
        let mut classifiers = Vec::new();
        for layer in self.program.iter().flat_map(|program| &program.layers) {
            for direction in [Direction::Outbound, Direction::Inbound] {
                let groups = layer.side(direction).iter();
                classifiers.extend(groups.map(|(group, compiled)| {
                    let (layer, group) = (layer.name.clone(), group.name.clone());
                    ClassifierInfo::new(layer, direction, group, compiled.classifier())
                }));
            }
        }
        classifiers
    }

    /// Every table of the port, its limit and what is used of it.
    pub(crate) fn limits(&self, live: &LiveMappings) -> Vec<LimitUse> {
        let none = Full::default();
        let mut limits = alloc::vec![
            LimitUse::new("unified-flows", self.flows.len(), Some(self.flows.limit()), self.full),
            LimitUse::new("conversations", self.conversations.len(), None, none),
            LimitUse::new("drop-cache", self.drop_cache.len(), Some(self.drop_cache.size()), none),
            LimitUse::new("drop-places", self.drop_log.len(), Some(MAX_DROP_PLACES), self.drop_log.full),
        ];
        limits.extend(self.asking.limits());
        limits.push(self.punts.limit());
        let Some(program) = &self.program else { return limits };
        limits.push(LimitUse::new("layers", program.layers.len(), Some(MAX_LAYERS), none));
        let keys = program.metadata_keys.len();
        limits.push(LimitUse::new("metadata-keys", keys, Some(MAX_METADATA_KEYS), none));
        for (layer, table) in program.layers.iter().zip(&self.tables) {
            let Some(flows) = self.layer_table(*table) else { continue };
            let name = format!("layer-flows {}", layer.name);
            limits.push(LimitUse::new(name, flows.len(), Some(layer.flow_limit), flows.full));
        }
        limits.extend(self.limit_uses());
        for meter in &self.meters {
            let (used, limit) = (meter.cells.len(), Some(meter.limit));
            limits.push(LimitUse::new(format!("meter {}", meter.name), used, limit, meter.full));
        }
        let resources = &program.resources;
        for mapping in &resources.mappings {
            let used = live.get(&mapping.name).map_or(0, |table| table.len());
            let name = format!("mapping {}", mapping.name);
            limits.push(LimitUse::new(name, used, Some(MAX_MAPPINGS), none));
        }
        for set in &resources.target_sets {
            limits.push(LimitUse::new(format!("targets {}", set.name), set.targets().len(), None, none));
        }
        for set in &resources.prefix_sets {
            limits.push(LimitUse::new(format!("prefixes {}", set.name), set.prefixes().len(), None, none));
        }
        limits
    }
}
