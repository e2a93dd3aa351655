//! What the switch tells about itself, held against what it does and against the oracle: flow lists, clearing,
//! captures, drops by place. None of it may change what becomes of a packet, clearing apart, which the oracle follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use lamina_core::action::{Action, MirrorTarget};
use lamina_core::flow::Direction;
use lamina_core::inspect::{
    CaptureId, CapturePoint, CaptureRecord, CaptureSink, CaptureSpec, CaptureVerdict, FlowCursor, FlowFilter,
    FlowPage,
};
use lamina_core::layer::{Layer, Policy};
use lamina_core::switch::PortId;
use lamina_core::time::Instant;

use super::Pair;
use crate::oracle::{DropSite, Tuple};
use crate::spread::Spread;
use crate::strategy::policy;
use crate::strategy::universe::{PORTS, UPLINK};

/// What an oracle's tuple is called in the core.
pub(super) fn tuple(tuple: lamina_core::switch::Tuple) -> Tuple {
    Tuple {
        src: tuple.src,
        dst: tuple.dst,
        protocol: tuple.protocol,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        tenant: tuple.tenant,
    }
}

/// A captured packet.
#[derive(Clone, Debug)]
struct Copy {
    port: PortId,
    direction: Direction,
    point: CapturePoint,
    verdict: CaptureVerdict,
    frame: Vec<u8>,
}

/// Keeps everything.
#[derive(Clone, Default, Debug)]
struct Sink(Arc<Mutex<Vec<Copy>>>);

impl CaptureSink for Sink {
    fn take(&mut self, record: &CaptureRecord<'_>) -> bool {
        let CaptureRecord { port, direction, verdict, .. } = *record;
        let copy =
            Copy { port, direction, point: record.point.clone(), verdict, frame: record.frame.to_vec() };
        self.0.lock().map(|mut copies| copies.push(copy)).is_ok()
    }
}

/// A capture of every point.
#[derive(Debug)]
pub(super) struct Watcher {
    ids: Vec<CaptureId>,
    sink: Sink,
}

impl Watcher {
    pub(super) fn start(core: &mut Spread) -> Result<Watcher, String> {
        let sink = Sink::default();
        // Every layer that a random policy may have.
        let kinds = policy::LAYER_KINDS.iter();
        let name = |(kind, place): (&str, usize)| format!("{kind}-{place}").as_str().into();
        let at_layers = kinds.flat_map(|kind| (0..21).map(move |place| name((*kind, place)))).collect();
        let spec =
            CaptureSpec { at_nic: true, at_uplink: true, at_drop: true, at_layers, ..CaptureSpec::default() };
        let ids = core.start_capture(&spec, || Box::new(sink.clone())).map_err(|error| error.to_string())?;
        Ok(Watcher { ids, sink })
    }

    pub(super) fn stop(self, core: &mut Spread) {
        core.stop_capture(&self.ids);
    }

    /// Holds what was captured of one frame, which was `received` or sent by a controller, against what became of it; the packets captured behind layers. What
    /// leaves by the NIC of a port of `own_mirrors` may be a copy made between its layers.
    pub(super) fn check(
        &self,
        received: Option<(PortId, &[u8])>,
        sent: &[(PortId, Vec<u8>)],
        drops: usize,
        own_mirrors: &BTreeSet<PortId>,
    ) -> Result<u64, String> {
        let copies = std::mem::take(&mut *self.sink.0.lock().map_err(|error| error.to_string())?);
        let fail = |what: &str| Err(format!("capture: {what}\n{copies:#?}"));
        let is_received =
            |copy: &&Copy| matches!(copy.point, CapturePoint::NicReceived | CapturePoint::UplinkReceived);
        let as_received: Vec<&Copy> = copies.iter().filter(is_received).collect();
        let received = match (as_received.as_slice(), received) {
            ([one], Some((from, frame))) => {
                if one.frame != frame || (one.point == CapturePoint::NicReceived) == (from == UPLINK) {
                    return fail("the received packet is another one");
                }
                Some(one)
            }
            // A controller sent it.
            ([], None) => None,
            _ => return fail("not one received packet"),
        };
        let left: Vec<(PortId, &[u8])> = copies
            .iter()
            .filter_map(|copy| match copy.point {
                CapturePoint::NicSent => Some((copy.port, &*copy.frame)),
                CapturePoint::UplinkSent => Some((UPLINK, &*copy.frame)),
                _ => None,
            })
            .collect();
        if left != sent.iter().map(|(id, frame)| (*id, &**frame)).collect::<Vec<_>>() {
            return fail("what was captured leaving is not what left");
        }
        let dropped: Vec<&Copy> = copies.iter().filter(|copy| copy.point == CapturePoint::Drop).collect();
        if dropped.len() != drops || dropped.iter().any(|copy| copy.verdict == CaptureVerdict::Passed) {
            return fail("not one capture per drop");
        }
        if let Some(received) = received
            && received.verdict != CaptureVerdict::Passed
            && !dropped.iter().any(|copy| copy.verdict == received.verdict)
        {
            return fail("the received packet has another verdict than its drop");
        }
        for pair in copies.windows(2) {
            let [before, after] = pair else { continue };
            let is_same_walk = (before.port, before.direction) == (after.port, after.direction);
            let is_link = match (&before.point, &after.point) {
                (CapturePoint::LayerAfter(_), CapturePoint::LayerBefore(_)) => true,
                // All layers are captured, so what the last inbound one leaves is delivered.
                (CapturePoint::LayerAfter(_), CapturePoint::NicSent) => !own_mirrors.contains(&after.port),
                _ => false,
            };
            if is_same_walk && is_link && before.frame != after.frame {
                return fail("a packet changes between two layers");
            }
        }
        let at_layers = copies.iter().filter(|copy| copy.point.name() == "layer-after");
        Ok(at_layers.count() as u64)
    }
}

/// True when the policy sends copies to the NIC of port `id`.
pub(super) fn has_mirror_to(id: PortId, policy: &Policy) -> bool {
    let groups = policy.layers.iter().flat_map(|layer| layer.inbound.iter().chain(layer.outbound.iter()));
    let mut actions = groups.flat_map(|group| group.rules.iter()).map(|rule| &rule.action);
    actions.any(|action| matches!(action, Action::Mirror(mirror) if mirror.to == MirrorTarget::Port(id)))
}

/// How many layers of `policy` have a mirror.
pub(super) fn mirror_layers(policy: &Policy) -> usize {
    let mirrors = |layer: &&Layer| {
        let mut groups = layer.inbound.iter().chain(layer.outbound.iter());
        groups.any(|group| group.rules.iter().any(|rule| matches!(rule.action, Action::Mirror(_))))
    };
    policy.layers.iter().filter(mirrors).count()
}

impl Pair {
    /// Lists the flows of a port in small slices and at once, which must show the same.
    pub(super) fn list(&mut self, id: PortId, filter: &FlowFilter, budget: u32) -> Result<FlowPage, String> {
        let whole = list_all(&self.core, id, filter, u32::MAX, self.now)?;
        let sliced = list_all(&self.core, id, filter, budget, self.now)?;
        if whole != sliced {
            return Err(format!("{id:?}: slices of {budget} differ from the whole\n{sliced:#?}\n{whole:#?}"));
        }
        let ids: BTreeSet<u64> = whole.flows.iter().map(|flow| flow.id).collect();
        if ids.len() != whole.flows.len() {
            return Err(format!("{id:?}: a flow is listed twice\n{whole:#?}"));
        }
        for flow in &whole.flows {
            let is_member = flow.conversation.as_ref().is_none_or(|known| known.flows.contains(&flow.id));
            if !is_member || flow.count.packets == 0 || flow.count.packets < filter.min_packets {
                return Err(format!("{id:?}: {flow:#?}"));
            }
        }
        self.coverage.listed += whole.flows.len() as u64;
        Ok(whole)
    }

    /// Clears flows, of which the oracle is told the conversations that a list with the same filter shows.
    pub(super) fn clear(&mut self, id: PortId, filter: &FlowFilter, budget: u32) -> Result<(), String> {
        let filter = FlowFilter { sample: 0, ..filter.clone() };
        let page = self.list(id, &filter, budget)?;
        let of_flows = page.flows.iter().filter_map(|flow| flow.conversation.as_ref());
        let keys: BTreeSet<Tuple> = of_flows.chain(&page.idle).map(|info| tuple(info.key)).collect();
        let (mut conversations, mut cursor) = (0, FlowCursor::default());
        loop {
            let cleared =
                self.core.clear_flows(id, &filter, cursor, budget, self.now).ok_or("no such port")?;
            conversations += cleared.conversations;
            match cleared.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        if conversations != keys.len() as u64 {
            return Err(format!("{id:?}: {conversations} conversations cleared, not {}", keys.len()));
        }
        self.coverage.cleared += conversations;
        self.oracle.end_conversations(id, &keys);
        let left = list_all(&self.core, id, &filter, u32::MAX, self.now)?;
        // Ending one conversation may void answers of another, which then counts as stale.
        if filter.stale.is_none() && (!left.flows.is_empty() || !left.idle.is_empty()) {
            return Err(format!("{id:?}: left after clearing {left:#?}"));
        }
        self.compare_state()
    }

    /// Drops by place must be those of the oracle, and add up to the drops by reason.
    pub(super) fn compare_drops(&mut self) -> Result<(), String> {
        for id in PORTS.into_iter().chain([UPLINK]) {
            let rows = self.core.drop_rows(id);
            let core: BTreeMap<DropSite, (u64, u64)> = rows
                .iter()
                .map(|row| {
                    let rule = row.group.clone().zip(row.rule.clone());
                    let layer = row.layer.clone();
                    let site = DropSite { reason: row.reason, direction: row.direction, layer, rule };
                    (site, (row.packets, row.bytes))
                })
                .collect();
            let oracle = self.oracle.drop_sites(id);
            if core != oracle {
                return Err(format!("{id:?}: drops differ\ncore   {core:#?}\noracle {oracle:#?}"));
            }
            let recent = self.core.recent_drops(id);
            let total: u64 = rows.iter().map(|row| row.frames).sum();
            let remembered = total.min(lamina_core::inspect::RECENT_DROPS as u64);
            if recent.len() as u64 != remembered || !recent.is_sorted_by(|a, b| a.time >= b.time) {
                return Err(format!("{id:?}: of {total} drops these are remembered: {recent:#?}"));
            }
        }
        Ok(())
    }
}

fn list_all(
    core: &Spread,
    id: PortId,
    filter: &FlowFilter,
    budget: u32,
    now: Instant,
) -> Result<FlowPage, String> {
    let mut all = FlowPage::default();
    let mut cursor = FlowCursor::default();
    loop {
        let mut page = core.flows(id, filter, cursor, budget, now).ok_or("no such port")?;
        all.flows.append(&mut page.flows);
        all.idle.append(&mut page.idle);
        match page.next {
            Some(next) if next > cursor => cursor = next,
            Some(next) => return Err(format!("the walk does not go on: {cursor:?}, {next:?}")),
            None => return Ok(all),
        }
    }
}
