//! What a switch tells about itself: the questions, for workers to pass on (§14).
//!
//! Everything that may be long is asked slice by slice, so that a worker goes on forwarding between two slices.

use alloc::vec::Vec;

use super::{PortId, Switch};
use crate::flow::HeaderStack;
use crate::inspect::{
    ClassifierInfo, ClearPage, DropLog, DropRow, DropSummary, FlowCursor, FlowFilter, FlowPage, Full,
    LimitUse,
};
use crate::port::FlowWalk;
use crate::time::Instant;
use crate::transposition::Transposition;

impl Switch {
    /// The next slice of the flows of port `id` that `filter` admits, from `cursor` on (the default is the begin).
    /// Up to `budget` entries are looked at; asking the layers about one costs eight. `None` when there is no such
    /// port.
    pub fn flows(
        &self,
        id: PortId,
        filter: &FlowFilter,
        cursor: FlowCursor,
        budget: u32,
        now: Instant,
    ) -> Option<FlowPage> {
        self.walk_flows(id, filter, budget, now, |walk| walk.list(cursor))
    }

    /// Ends the flows of port `id` that `filter` admits, slice by slice like [`Switch::flows`]: unified flows and
    /// whole conversations, with their state in every layer. Their next packets are resolved anew. What they
    /// counted stays with the rules.
    pub fn clear_flows(
        &mut self,
        id: PortId,
        filter: &FlowFilter,
        cursor: FlowCursor,
        budget: u32,
        now: Instant,
    ) -> Option<ClearPage> {
        let doomed = self.walk_flows(id, filter, budget, now, |walk| walk.doom(cursor))?;
        self.ports.get_mut(&id).map(|port| port.clear(&doomed))
    }

    fn walk_flows<T>(
        &self,
        id: PortId,
        filter: &FlowFilter,
        budget: u32,
        now: Instant,
        walk: impl FnOnce(FlowWalk<'_>) -> T,
    ) -> Option<T> {
        let port = self.port(id)?;
        let forward = |headers: &HeaderStack, done: &Transposition| {
            Some(self.fabric.forward(id, headers, done).ok()?.transposition)
        };
        Some(walk(FlowWalk { port, filter, now, mappings: &self.mappings, forward: &forward, budget }))
    }

    /// What port or uplink `id` dropped, by place, the busiest first; for `None` the packets of ports that do not
    /// exist or no longer do. `None` when there is no such port or uplink.
    pub fn drop_rows(&self, id: Option<PortId>) -> Option<Vec<DropRow>> {
        self.drop_log(id).map(DropLog::rows)
    }

    /// The last packets that port or uplink `id` dropped, newest first.
    pub fn recent_drops(&self, id: Option<PortId>) -> Option<Vec<DropSummary>> {
        self.drop_log(id).map(DropLog::recent)
    }

    pub(super) fn drop_log(&self, id: Option<PortId>) -> Option<&DropLog> {
        let Some(id) = id else { return Some(&self.fabric.ownerless) };
        match self.port(id) {
            Some(port) => Some(&port.drop_log),
            None => self.fabric.uplink(id).map(|uplink| &uplink.drop_log),
        }
    }

    /// What the classifier of every group of port `id` is made of, and why, in the order in which an outbound packet
    /// meets the layers.
    pub fn classifiers(&self, id: PortId) -> Option<Vec<ClassifierInfo>> {
        Some(self.port(id)?.classifiers())
    }

    /// The tables of port `id`, or of the switch itself for `None`, with their limits and what is used of them.
    pub fn limits(&self, id: Option<PortId>) -> Option<Vec<LimitUse>> {
        match id {
            Some(id) => Some(self.port(id)?.limits(&self.mappings)),
            None => Some(alloc::vec![
                LimitUse::new("ports", self.ports.len(), None, Full::default()),
                LimitUse::new("uplinks", self.fabric.uplink_count(), None, Full::default()),
            ]),
        }
    }
}
