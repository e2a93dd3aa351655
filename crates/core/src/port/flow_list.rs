//! The list of a port's flows and conversations, slice by slice, and their clearing (§14).
//!
//! Theory. A flow keeps its place in the table while it lives, so a walk over the places in order meets every flow
//! that lives all the while exactly once, whatever is added and removed meanwhile; the cursor is the next place.
//! The cached answer is an edit of bytes; what it means and which rules made it is not stored with it. It is asked
//! of the layers again: by the invariant of §5.1 they answer what the cache answers, unless the flow is stale, and
//! then the list says so. Nothing is changed by listing.

use alloc::vec::Vec;

use super::observe::{Decision, Observer};
use super::resolve::{Entry, Planned, Resolution};
use super::{Egress, Port, Side, Tuple};
use crate::event::Audience;
use crate::flow::table::UnifiedFlow;
use crate::flow::ufid_read::{self, KeyReading};
use crate::flow::{Direction, HeaderStack};
use crate::inspect::{
    ClearPage, ConversationInfo, FlowCursor, FlowEgress, FlowFilter, FlowInfo, FlowPage, FlowStep,
    StepDecision,
};
use crate::layer::{CompiledLayer, DefaultAction};
use crate::resource::{LiveMappings, mix};
use crate::switch::PortId;
use crate::time::Instant;
use crate::transposition::{Edit, Transposition};

/// Cursors from here on count conversations.
const CONVERSATIONS: u64 = 1 << 32;
/// What asking the layers about a flow takes of a slice's budget; looking at an entry takes 1.
const RESOLVE_COST: u32 = 8;
/// A time to live that no policy counts down to 0, for keys that hold none.
const SOME_TTL: u8 = 64;

/// A walk through the flows of a port.
pub(crate) struct FlowWalk<'a> {
    pub(crate) port: &'a Port,
    pub(crate) filter: &'a FlowFilter,
    pub(crate) now: Instant,
    pub(crate) mappings: &'a LiveMappings,
    /// What forwarding adds to an outbound packet with these headers.
    pub(crate) forward: &'a dyn Fn(&HeaderStack, &Transposition) -> Option<Transposition>,
    /// What is left of the slice's budget.
    pub(crate) budget: u32,
}

/// A flow that the filter admits; the path where the filter had to ask for it.
struct Admitted<'a> {
    flow: &'a UnifiedFlow,
    key: KeyReading,
    path: Option<Path>,
}

/// What the layers say about a flow.
struct Path {
    steps: Vec<FlowStep>,
    change: Transposition,
    pair_key: Option<Tuple>,
}

/// What a clearing slice found: flows without a conversation, and conversations.
#[derive(Default)]
pub(crate) struct Doomed {
    flows: Vec<u32>,
    conversations: Vec<u32>,
    pub(crate) next: Option<FlowCursor>,
}

impl<'a> FlowWalk<'a> {
    /// The next slice of the list.
    pub(crate) fn list(mut self, cursor: FlowCursor) -> FlowPage {
        let mut page = FlowPage::default();
        page.next = self.slice(cursor, &mut |walk, place| match place {
            Place::Flow(place) => {
                if let Some(admitted) = walk.admit(place).filter(|flow| walk.is_sampled(place, flow.flow)) {
                    page.flows.push(walk.flow(place, admitted));
                }
            }
            Place::Conversation(id) => {
                if walk.is_idle(id) {
                    page.idle.extend(walk.conversation(id).filter(|info| walk.admits_idle(info)));
                }
            }
        });
        page
    }

    /// What the next slice of the filter's flows is, to be cleared.
    pub(crate) fn doom(mut self, cursor: FlowCursor) -> Doomed {
        let mut doomed = Doomed::default();
        doomed.next = self.slice(cursor, &mut |walk, place| match place {
            Place::Flow(place) => match walk.admit(place).map(|admitted| admitted.flow.basis.conversation) {
                Some(Some(conversation)) => doomed.conversations.push(conversation),
                Some(None) => doomed.flows.push(place),
                None => {}
            },
            Place::Conversation(id) => {
                if walk.is_idle(id) && walk.conversation(id).is_some_and(|info| walk.admits_idle(&info)) {
                    doomed.conversations.push(id);
                }
            }
        });
        doomed
    }

    /// Visits places from `cursor` on while the budget lasts; where to go on.
    fn slice(&mut self, cursor: FlowCursor, visit: &mut dyn FnMut(&mut Self, Place)) -> Option<FlowCursor> {
        let FlowCursor(mut at) = cursor;
        self.budget = self.budget.max(1);
        while self.budget > 0 {
            if at < CONVERSATIONS && at >= u64::from(self.port.flows.bound()) {
                at = CONVERSATIONS;
            }
            let place = if at < CONVERSATIONS {
                Place::Flow(at as u32)
            } else if at - CONVERSATIONS < u64::from(self.port.conversations.bound()) {
                Place::Conversation((at - CONVERSATIONS) as u32)
            } else {
                return None;
            };
            self.budget -= 1;
            at += 1;
            visit(self, place);
        }
        Some(FlowCursor(at))
    }

    /// The flow at `place`, if the filter, its sampling apart, admits it.
    fn admit(&mut self, place: u32) -> Option<Admitted<'a>> {
        let (port, filter) = (self.port, self.filter);
        let flow = port.flows.get(place)?;
        let key = ufid_read::read(flow.words())?;
        let is_stale = !port.is_current(flow, self.now, self.mappings);
        let mut packets = flow.count;
        packets.add(port.flows.history(place).folded);
        if packets.packets < filter.min_packets || filter.stale.is_some_and(|wanted| wanted != is_stale) {
            return None;
        }
        let mut path = None;
        let mut is_meant = filter.packet.admits(&key.headers, key.direction);
        if !is_meant && filter.pair {
            is_meant = match flow.basis.conversation.and_then(|id| port.conversations.get(id)) {
                Some(conversation) => {
                    self.admits_key(&conversation.key)
                        || conversation.flows.iter().any(|other| {
                            let key = port.flows.get(*other).and_then(|flow| ufid_read::read(flow.words()));
                            key.is_some_and(|key| filter.packet.admits(&key.headers, key.direction))
                        })
                }
                None => {
                    let walked = self.ask(&key);
                    let pair_key = walked.pair_key;
                    path = Some(walked);
                    pair_key.is_some_and(|key| self.admits_key(&key))
                }
            };
        }
        if !is_meant {
            return None;
        }
        if filter.reads_path() {
            let walked = path.unwrap_or_else(|| self.ask(&key));
            let admits = |step: &FlowStep| {
                let (group, rule) = step.rule.as_ref().map(|(group, rule)| (&**group, &**rule)).unzip();
                filter.admits_rule(&step.layer, group, rule)
            };
            if !walked.steps.iter().any(admits) {
                return None;
            }
            path = Some(walked);
        }
        Some(Admitted { flow, key, path })
    }

    /// True when packets of either direction of a conversation with `key` are meant.
    fn admits_key(&self, key: &Tuple) -> bool {
        self.filter.packet.admits_tuple(key, Direction::Outbound)
            || self.filter.packet.admits_tuple(&key.reversed(), Direction::Inbound)
    }

    /// Both flows of a conversation are in a sample, or neither.
    fn is_sampled(&self, place: u32, flow: &UnifiedFlow) -> bool {
        let number = flow.basis.conversation.map_or(u64::from(place), |id| CONVERSATIONS + u64::from(id));
        self.filter.sample <= 1 || mix(number).is_multiple_of(u64::from(self.filter.sample))
    }

    fn is_idle(&self, id: u32) -> bool {
        self.port.conversations.get(id).is_some_and(|conversation| conversation.flows.is_empty())
    }

    fn admits_idle(&self, info: &ConversationInfo) -> bool {
        let is_layers = |state: &super::LayerFlowInfo| {
            self.filter.admits_rule(&state.layer, Some(&state.group), Some(&state.rule))
        };
        self.filter.min_packets == 0
            && self.filter.stale.is_none()
            && self.admits_key(&info.key)
            && (!self.filter.reads_path() || info.layer_flows.iter().any(is_layers))
    }

    /// Asks the layers about packets with `key`.
    fn ask(&mut self, key: &KeyReading) -> Path {
        self.budget = self.budget.saturating_sub(RESOLVE_COST);
        let mut steps = Steps(Vec::new());
        let Some(program) = &self.port.program else {
            return Path { steps: steps.0, change: Transposition::IDENTITY, pair_key: None };
        };
        let headers = with_some_ttl(&key.headers);
        let entry = Entry {
            headers,
            direction: key.direction,
            ingress: key.ingress,
            now: self.now,
            mappings: self.mappings,
            // Packets for a controller are not in the cache.
            punts: &Audience::Nobody,
            first_layer: 0,
            end_layer: program.layers.len(),
            // A flow of packets that a responder declines is not in the cache.
            declined: 0,
        };
        let plan = self.port.resolve(program, &entry, &mut steps);
        let Resolution { outcome, transposition, headers: after, .. } = plan;
        let (change, pair_key) = match key.direction {
            Direction::Outbound if matches!(outcome, Planned::Turn(_)) => {
                (transposition, Tuple::of(&key.headers))
            }
            Direction::Outbound => {
                let way = (self.forward)(&after, &transposition).unwrap_or(Transposition::IDENTITY);
                (transposition.then(&way), Tuple::of(&key.headers))
            }
            Direction::Inbound => (transposition, Tuple::of(&after).map(Tuple::reversed)),
        };
        Path { steps: steps.0, change, pair_key }
    }

    fn number(&self, place: u32) -> u64 {
        u64::from(self.port.flows.history(place).number) << 32 | u64::from(place)
    }

    fn flow(&mut self, place: u32, admitted: Admitted<'_>) -> FlowInfo {
        let Admitted { flow, key, path } = admitted;
        let path = path.unwrap_or_else(|| self.ask(&key));
        let port = self.port;
        let answer = port.answers.get(flow.basis.answer);
        let history = port.flows.history(place);
        let mut count = history.folded;
        count.add(flow.count);
        let conversation = flow.basis.conversation.and_then(|id| self.conversation(id));
        let members = flow.basis.conversation.and_then(|id| port.conversations.get(id));
        let partners = members.map_or(Vec::new(), |conversation| {
            let is_partner = |other: &&u32| {
                let other = port.flows.get(**other).and_then(|flow| ufid_read::read(flow.words()));
                other.is_some_and(|other| other.direction != key.direction)
            };
            conversation.flows.iter().filter(is_partner).map(|other| self.number(*other)).collect()
        });
        let is_stale = !port.is_current(flow, self.now, self.mappings);
        debug_assert!(
            is_stale
                || answer.map(|answer| &answer.edit)
                    == Edit::compile(&path.change, &with_some_ttl(&key.headers)).ok().as_ref(),
            "the layers answer otherwise than the cache: {}",
            path.change
        );
        let egress = match answer.map(|answer| answer.egress) {
            Some(Egress::Port { to, direction }) => FlowEgress::Port { to, direction },
            Some(Egress::Uplink { id, .. }) => FlowEgress::Uplink(id),
            Some(Egress::Multicast) => FlowEgress::Multicast,
            Some(Egress::Nic { .. }) | None => FlowEgress::Nic,
        };
        FlowInfo {
            id: self.number(place),
            direction: key.direction,
            headers: key.headers,
            ingress: (key.ingress != 0).then_some(PortId(key.ingress)),
            tuple: Tuple::of(&key.headers),
            pair_key: path.pair_key,
            partners,
            conversation,
            change: path.change,
            egress,
            path: path.steps,
            count,
            created: history.created,
            last_seen: flow.last_seen,
            generation: flow.basis.generation,
            is_stale,
        }
    }

    fn conversation(&self, id: u32) -> Option<ConversationInfo> {
        let conversation = self.port.conversations.get(id)?;
        let layer_flow = |(table, pair): &(u32, u32)| {
            let table = self.port.layer_table(*table)?;
            Some(self.port.layer_flow(&table.name, table.get(*pair)?, self.now))
        };
        Some(ConversationInfo {
            id,
            key: conversation.key,
            last_seen: conversation.last_seen,
            flows: conversation.flows.iter().map(|place| self.number(*place)).collect(),
            layer_flows: conversation.pairs.iter().filter_map(layer_flow).collect(),
        })
    }
}

/// Headers read from a key, which seldom holds a time to live.
fn with_some_ttl(headers: &HeaderStack) -> HeaderStack {
    let mut headers = *headers;
    for group in headers.groups_mut().iter_mut().filter(|group| group.extra.ttl == 0) {
        group.extra.ttl = SOME_TTL;
    }
    headers
}

enum Place {
    Flow(u32),
    Conversation(u32),
}

impl Port {
    /// Ends what a slice found. Counts are folded first, as whenever a flow ends.
    pub(crate) fn clear(&mut self, doomed: &Doomed) -> ClearPage {
        let before = self.flows.len();
        let mut page = ClearPage { next: doomed.next, ..ClearPage::default() };
        for id in &doomed.conversations {
            // Both flows of a conversation may have been found.
            page.conversations += u64::from(self.conversations.get(*id).is_some());
            self.end_conversation(*id);
        }
        doomed.flows.iter().for_each(|place| self.remove_flow(*place));
        page.flows = (before - self.flows.len()) as u64;
        page
    }
}

/// Writes down who answered.
struct Steps(Vec<FlowStep>);

impl Observer for Steps {
    fn enter_layer(&mut self, layer: &CompiledLayer, _headers: &HeaderStack) {
        let (layer, owner) = (layer.name.clone(), layer.owner.clone());
        self.0.push(FlowStep { layer, owner, rule: None, by: StepDecision::Default(DefaultAction::Pass) });
    }

    fn decide(&mut self, decision: Decision<'_>) {
        let Some(step) = self.0.last_mut() else { return };
        (step.rule, step.by) = match decision {
            Decision::Flow { side, rule } => {
                let by = match side {
                    Side::Forward => StepDecision::FlowForward,
                    Side::Reverse => StepDecision::FlowReverse,
                };
                (Some((rule.group.clone(), rule.rule.clone())), by)
            }
            Decision::Rule { group, rule } => (Some((group.clone(), rule.name.clone())), StepDecision::Rule),
            Decision::Default(default) => (None, StepDecision::Default(default)),
            Decision::Fragment => (None, StepDecision::Fragment),
        };
    }
}
