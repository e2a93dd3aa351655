//! Looking at a port's state: the live layer flows, for people and for tests.

use alloc::vec::Vec;

use super::Port;
use super::layer_flow::Tuple;
use crate::flow::Direction;
use crate::layer::Name;
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
            for (_, pair) in table.iter().filter(|(_, pair)| self.is_alive(pair, now)) {
                let seen = self
                    .conversations
                    .get(pair.conversation)
                    .map_or(now, |conversation| conversation.last_seen);
                flows.push(LayerFlowInfo {
                    layer: table.name.clone(),
                    direction: pair.forward_key.direction,
                    forward: pair.forward_key.tuple,
                    reverse: pair.reverse_key.tuple,
                    group: pair.rule.group.clone(),
                    rule: pair.rule.rule.clone(),
                    time_to_live: pair.rule.time_to_live,
                    quiet: now - seen,
                });
            }
        }
        flows.sort();
        flows
    }
}
