//! Commit: the one place where a plan changes a port's state (§5.2).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use super::conversation::Conversation;
use super::layer_flow::{LayerKey, Tuple};
use super::mirror::FlowCopy;
use super::resolve::{Entry, Resolution};
use super::{Charge, Port, slab::Slab};
use crate::drop_reason::DropReason;
use crate::flow::drop_cache::Block;
use crate::flow::table::Basis;
use crate::flow::watch::Watch;
use crate::flow::{Direction, Ufid};
use crate::inspect::Lost;
use crate::resource::{Dependencies, LiveMappings};
use crate::stats::{Count, Slot};
use crate::switch::PortId;
use crate::time::{Duration, Instant};
use crate::transposition::Edit;

/// The most unified flows of one conversation; packets of further ones take the slow path. A conversation has two, and
/// a few more where policy reads fields that change from packet to packet; only a guest that changes its MAC all the
/// time has many, and the lists that hold them are searched.
const MAX_CONVERSATION_FLOWS: usize = 64;

/// Where a packet goes after its walk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Egress {
    /// To this port's own NIC, which takes frames of up to `max_frame` bytes.
    Nic { max_frame: u32 },
    /// To this side of a port of this switch.
    Port { to: PortId, direction: Direction },
    /// Out of an uplink whose path takes frames of up to `max_frame` bytes.
    Uplink { id: PortId, max_frame: u32 },
    /// A copy to every port of the multicast set.
    Multicast,
}

/// What a unified flow does, interned: many flows share one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Answer {
    pub(crate) edit: Edit,
    pub(crate) egress: Egress,
    /// What every packet leaves behind.
    pub(crate) copies: Box<[FlowCopy]>,
    pub(crate) slots: Box<[Slot]>,
    /// Buckets whose tokens every packet needs.
    pub(crate) charges: Box<[Charge]>,
}

/// Interned answers with the number of flows that use each.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    slab: Slab<(Answer, u64, u32)>,
    index: HashTable<u32>,
    hasher: crate::hash::TableHasher,
}

impl Answers {
    fn intern(&mut self, answer: Answer) -> u32 {
        let hash = self.hasher.hash_one(&answer);
        let slab = &mut self.slab;
        if let Some(id) = self.index.find(hash, |id| slab.get(*id).is_some_and(|entry| entry.0 == answer)) {
            let id = *id;
            if let Some(entry) = slab.get_mut(id) {
                entry.2 += 1;
            }
            return id;
        }
        let id = slab.insert((answer, hash, 1));
        self.index.insert_unique(hash, id, |id| slab.get(*id).map_or(0, |entry| entry.1));
        id
    }

    fn release(&mut self, id: u32) {
        let Some(entry) = self.slab.get_mut(id) else { return };
        entry.2 -= 1;
        if entry.2 > 0 {
            return;
        }
        let hash = entry.1;
        self.slab.remove(id);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Answer> {
        self.slab.get(id).map(|entry| &entry.0)
    }
}

/// How a packet's answer is to be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caching<'a> {
    pub(crate) ufid: &'a Ufid,
    pub(crate) hash: u64,
    /// A unified flow of this key that must be reconciled.
    pub(crate) stale: Option<u32>,
}

/// What commit leaves for the caller to store with a unified flow.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    /// The packet, which is counted.
    count: Count,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) charges: Box<[Charge]>,
    pub(crate) conversation: Option<u32>,
    /// False for an answer that relies on state of conversations other than this one, or that does not tell which
    /// packets are dropped for their time to live.
    pub(crate) is_cachable: bool,
    pub(crate) time_to_live: Duration,
    /// The mappings that the answer relies on.
    pub(crate) depends: Dependencies,
}

impl Port {
    /// The answer of unified flow `id`.
    pub(crate) fn answer(&self, id: u32) -> Option<&Answer> {
        self.answers.get(self.flows.get(id)?.basis.answer)
    }

    /// Counts a hit of unified flow `id`.
    pub(crate) fn touch(&mut self, id: u32, count: Count, now: Instant, mappings: &LiveMappings) {
        self.flow_counters.hits += 1;
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.count.add(count);
        flow.last_seen = now;
        flow.depends.confirm(mappings);
        if let Some(conversation) = flow.basis.conversation {
            self.see(conversation, now);
        }
    }

    /// Marks a packet of conversation `id`. Pairs that were over before it end here, so that it cannot bring them
    /// back.
    #[inline]
    fn see(&mut self, id: u32, now: Instant) {
        let Some(conversation) = self.conversations.get_mut(id) else { return };
        if now - conversation.last_seen <= conversation.shortest {
            conversation.last_seen = now;
            return;
        }
        self.end_expired(id, now);
        if let Some(conversation) = self.conversations.get_mut(id) {
            conversation.last_seen = now;
        }
    }

    /// The conversation of a pair.
    fn owner(&self, table: u32, pair: u32) -> Option<u32> {
        self.layer_table(table).and_then(|flows| flows.get(pair)).map(|pair| pair.conversation)
    }

    /// Ends the pairs of conversation `id` that are over at `now`, and the conversation with its last pair.
    fn end_expired(&mut self, id: u32, now: Instant) {
        let Some(conversation) = self.conversations.get(id) else { return };
        let quiet = now - conversation.last_seen;
        let mut ended = Vec::new();
        let mut shortest = Duration(u64::MAX);
        for (table, pair) in &conversation.pairs {
            match self.layer_table(*table).and_then(|flows| flows.get(*pair)) {
                Some(alive) if quiet <= alive.rule.time_to_live => {
                    shortest = shortest.min(alive.rule.time_to_live);
                }
                _ => ended.push((*table, *pair)),
            }
        }
        self.end_pairs(&ended);
        if let Some(conversation) = self.conversations.get_mut(id) {
            conversation.shortest = shortest;
        }
    }

    /// Carries out the plan of a packet that is forwarded or answered, and counts it. The caller has seen that no
    /// limit holds it ([`Port::limited`]).
    pub(crate) fn commit(&mut self, entry: &Entry<'_>, plan: &mut Resolution, count: Count) -> Committed {
        let now = entry.now;
        self.end_pairs(&plan.ended);
        for (table, id) in &plan.met {
            if let Some(owner) = self.owner(*table, *id) {
                self.see(owner, now);
            }
        }
        for (table, id, rule) in plan.moved.drain(..) {
            let generation = self.generation;
            if let Some(flows) = self.layer_table_mut(table)
                && let Some(pair) = flows.get_mut(id)
            {
                let (owner, time_to_live) = (pair.conversation, rule.time_to_live);
                pair.rule = rule;
                pair.generation = generation;
                let is_sooner = now + time_to_live < pair.due;
                if is_sooner {
                    flows.set_due(id, now + time_to_live);
                }
                if let Some(owner) = self.conversations.get_mut(owner) {
                    owner.shortest = owner.shortest.min(time_to_live);
                }
            }
        }
        // A packet that used no state belongs to no conversation: it keeps none alive, cached or not.
        let key = conversation_key(entry, plan);
        let mut conversation =
            key.filter(|_| !plan.met.is_empty()).and_then(|key| self.conversations.find(&key));
        if let Some((_, first)) = plan.created.first() {
            let key = key.unwrap_or(first.forward_key.tuple);
            if let Some(known) = self.conversations.find(&key) {
                self.see(known, now);
            }
            conversation = Some(self.conversations.find_or_insert(key, now));
        }
        for (table, mut pair) in plan.created.drain(..) {
            let Some(owner) = conversation else { break };
            pair.conversation = owner;
            let keys = [pair.forward_key, pair.reverse_key];
            let time_to_live = pair.rule.time_to_live;
            let Some(flows) = self.layer_table_mut(table) else { continue };
            let id = flows.insert(pair);
            if let Some(owner) = self.conversations.get_mut(owner) {
                owner.pairs.push((table, id));
                owner.shortest = owner.shortest.min(time_to_live);
            }
            keys.iter().for_each(|key| self.void_watches(table, key));
        }
        let is_shared = plan
            .met
            .iter()
            .any(|(table, id)| self.owner(*table, *id).is_some_and(|owner| conversation != Some(owner)));
        let slots = self.slots(plan);
        for slot in &slots {
            self.counters.add(*slot, count);
        }
        let charges = self.take_tokens(plan, &slots, count, now);
        let is_cachable = !is_shared && !plan.forgets_ttl;
        let depends = Dependencies::new(&plan.depends, entry.mappings);
        Committed {
            count,
            slots,
            charges,
            conversation,
            is_cachable,
            time_to_live: plan.time_to_live,
            depends,
        }
    }

    /// Counts a dropped packet and ends what its walk showed to be over: pairs that expired or that policy no
    /// longer allows, and, where policy *blocks* what it let through before an update, the whole conversation
    /// (§5.5). Other drops are about this packet only. True when something ended, so that the next packet may be
    /// dropped for another cause.
    pub(crate) fn commit_drop(
        &mut self,
        plan: &Resolution,
        reason: DropReason,
        (stale_flow, mappings): (Option<u32>, &LiveMappings),
        count: Count,
    ) -> bool {
        let slots = self.slots(plan);
        for slot in &slots {
            self.counters.add(*slot, count);
        }
        if reason == DropReason::LayerFlowTableFull {
            self.note_full(plan);
        }
        let mut over: Vec<u32> = Vec::new();
        if reason == DropReason::Blocked {
            let moved = plan.moved.iter().map(|(table, id, _)| (table, id));
            let revoked = plan.revoked.iter().map(|(table, id)| (table, id));
            over.extend(moved.chain(revoked).filter_map(|(table, id)| self.owner(*table, *id)));
            if let Some(flow) = stale_flow.and_then(|id| self.flows.get(id))
                && (flow.basis.generation < self.generation || !flow.depends.are_current(mappings))
            {
                over.extend(flow.basis.conversation);
            }
            if let Some(id) = stale_flow {
                self.remove_flow(id);
            }
        }
        let any = !over.is_empty() || !plan.ended.is_empty();
        self.end_pairs(&plan.ended);
        for conversation in over {
            self.end_conversation(conversation);
        }
        any
    }

    /// Notes that the flow table of the layer that dropped the packet is full.
    fn note_full(&mut self, plan: &Resolution) {
        let Some(place) = &plan.dropped_by else { return };
        let mut tables = self.layer_tables.iter_mut().flatten();
        if let Some(table) = tables.find(|table| table.name == place.layer) {
            table.full.note(plan.now);
        }
    }

    /// Remembers that the flow of `ufid` is blocked.
    pub(crate) fn cache_drop(
        &mut self,
        (ufid, hash): (&Ufid, u64),
        reason: DropReason,
        plan: &Resolution,
        mappings: &LiveMappings,
    ) {
        let slots = self.slots(plan);
        let row = self.drop_log.row(reason, ufid.direction(), plan.dropped_by.as_ref(), plan.now);
        let depends = Dependencies::new(&plan.depends, mappings);
        let block = Block { reason, slots, asks_for_state: plan.asks_for_state, row, depends };
        let (place, stamp) = self.drop_cache.insert(ufid, hash, self.generation, block);
        self.watch(&plan.missed, Watch::Drop(place, stamp));
    }

    /// Counts and remembers a packet that the drop cache answered.
    pub(crate) fn lose_blocked(&mut self, ufid: &Ufid, hash: u64, lost: &Lost<'_>) {
        self.flow_counters.drop_cache_hits += 1;
        if let Some(blocked) = self.drop_cache.find(ufid, hash, self.generation) {
            for slot in &blocked.slots {
                self.counters.add(*slot, lost.count);
            }
            self.drops.count(blocked.reason);
            self.drop_log.count(blocked.row, lost);
        }
    }

    /// Stores, or renews, the unified flow of `caching`. The packet is already counted.
    pub(crate) fn cache_flow(
        &mut self,
        caching: &Caching<'_>,
        (edit, egress, copies): (Edit, Egress, Box<[FlowCopy]>),
        committed: Committed,
        missed: &[u64],
        now: Instant,
    ) {
        let Committed { count, slots, charges, conversation, is_cachable, time_to_live, depends } = committed;
        let is_crowded = conversation.and_then(|id| self.conversations.get(id)).is_some_and(|owner| {
            let is_member = caching.stale.is_some_and(|id| owner.flows.contains(&id));
            owner.flows.len() >= MAX_CONVERSATION_FLOWS && !is_member
        });
        if !is_cachable || is_crowded {
            if let Some(id) = caching.stale {
                self.remove_flow(id);
            }
            return;
        }
        let answer = self.answers.intern(Answer { edit, egress, copies, slots, charges });
        let basis = Basis { answer, conversation, generation: self.generation, time_to_live };
        let id = match caching.stale.filter(|id| self.flows.get(*id).is_some()) {
            Some(id) => {
                self.renew(id, (basis, depends), now);
                id
            }
            None => {
                if self.flows.is_full()
                    && let Some(victim) = self.flows.victim()
                {
                    self.flow_counters.evicted += 1;
                    self.full.note(now);
                    self.remove_flow(victim);
                }
                self.flows.insert(caching.ufid, caching.hash, (basis, depends), now)
            }
        };
        self.flows.note_counted(id, count);
        if let Some(conversation) = conversation.and_then(|id| self.conversations.get_mut(id)) {
            conversation.flows.push(id);
        }
        if let Some(stamp) = self.flows.get(id).map(|flow| flow.stamp) {
            self.watch(missed, Watch::Flow(id, stamp));
        }
    }

    /// Gives a unified flow that was resolved again its new answer.
    fn renew(&mut self, id: u32, (basis, depends): (Basis, Dependencies), now: Instant) {
        self.flow_counters.reconciled += 1;
        self.fold(id);
        self.leave_conversation(id);
        // It is watched anew by the caller.
        self.flows.restamp(id);
        let Some(flow) = self.flows.get_mut(id) else { return };
        let old = core::mem::replace(&mut flow.basis, basis);
        flow.depends = depends;
        flow.is_void = false;
        flow.last_seen = now;
        self.answers.release(old.answer);
    }

    /// Frees what has expired, looking at up to `budget` conversations and unified flows; goes on from there on
    /// the next call. Expiry itself does not wait for this: a lookup checks the time.
    pub(crate) fn expire(&mut self, now: Instant, budget: u32) {
        for id in self.conversations.slice(budget) {
            self.end_expired(id, now);
        }
        for table in self.tables.clone() {
            self.free_due(table, now, budget);
        }
        self.rearm_limits(now);
        let idle = self.config.limits.idle;
        for id in self.flows.slice(budget) {
            let Some(flow) = self.flows.get(id) else { continue };
            let is_stale = flow.basis.generation != self.generation;
            if flow.basis.conversation.is_none() && now - flow.last_seen > idle {
                self.remove_flow(id);
            } else if is_stale {
                self.fold(id);
            }
        }
        self.finish_retirements(self.flows.walks);
    }

    /// Frees the expired pairs of every table that is full by the program's limits. True when there was one.
    pub(crate) fn reclaim(&mut self, now: Instant) -> bool {
        let Some(program) = self.program.clone() else { return false };
        let mut any = false;
        for (layer, table) in program.layers.iter().zip(self.tables.clone()) {
            if self.layer_table(table).is_some_and(|flows| flows.len() >= layer.flow_limit) {
                any |= self.free_due(table, now, u32::MAX);
            }
        }
        any
    }

    /// Frees pairs of `table` that are over, looking at up to `budget` that may be. True when there was one.
    fn free_due(&mut self, table: u32, now: Instant, budget: u32) -> bool {
        let mut ended = Vec::new();
        for _ in 0..budget {
            let Some(id) = self.layer_table_mut(table).and_then(|flows| flows.next_due(now)) else { break };
            let Some(pair) = self.layer_table(table).and_then(|flows| flows.get(id)) else { break };
            let seen = self.conversations.get(pair.conversation).map_or(Instant(0), |owner| owner.last_seen);
            let last_moment = seen + pair.rule.time_to_live;
            if now > last_moment {
                ended.push((table, id));
            } else if let Some(flows) = self.layer_table_mut(table) {
                flows.set_due(id, last_moment);
            }
        }
        self.end_pairs(&ended);
        !ended.is_empty()
    }

    /// Removes pairs, and conversations that hold nothing any more.
    pub(super) fn end_pairs(&mut self, pairs: &[(u32, u32)]) {
        for (table, id) in pairs {
            let Some(pair) = self.layer_table_mut(*table).and_then(|flows| flows.remove(*id)) else {
                continue;
            };
            let Some(conversation) = self.conversations.get_mut(pair.conversation) else { continue };
            conversation.pairs.retain(|other| other != &(*table, *id));
            // Cached answers rely on the pair that is gone.
            let flows = core::mem::take(&mut conversation.flows);
            if conversation.pairs.is_empty() {
                self.conversations.remove(pair.conversation);
                flows.iter().for_each(|flow| self.remove_flow(*flow));
            } else {
                for id in &flows {
                    if let Some(flow) = self.flows.get_mut(*id) {
                        flow.is_void = true;
                    }
                }
                conversation_flows(&mut self.conversations, pair.conversation, flows);
            }
        }
    }

    /// Ends a conversation: its layer flows and its unified flows go together.
    pub(crate) fn end_conversation(&mut self, id: u32) {
        let Some(Conversation { pairs, flows, .. }) = self.conversations.remove(id) else { return };
        for (table, pair) in pairs {
            if let Some(flows) = self.layer_table_mut(table) {
                flows.remove(pair);
            }
        }
        flows.iter().for_each(|flow| self.remove_flow(*flow));
    }

    /// Removes a unified flow; its count is folded first.
    pub(crate) fn remove_flow(&mut self, id: u32) {
        self.fold(id);
        self.leave_conversation(id);
        if let Some(flow) = self.flows.remove(id) {
            self.answers.release(flow.basis.answer);
        }
    }

    fn leave_conversation(&mut self, flow: u32) {
        let conversation = self.flows.get(flow).and_then(|flow| flow.basis.conversation);
        if let Some(conversation) = conversation.and_then(|id| self.conversations.get_mut(id)) {
            conversation.flows.retain(|other| *other != flow);
        }
    }

    fn watch(&mut self, missed: &[u64], watch: Watch) {
        let (flows, drops) = (&self.flows, &self.drop_cache);
        let is_live = |watch: &Watch| match *watch {
            Watch::Flow(id, stamp) => flows.get(id).is_some_and(|flow| flow.stamp == stamp),
            Watch::Drop(place, stamp) => drops.is_current(place, stamp),
        };
        for hash in missed {
            self.watches.add(*hash, watch, is_live);
        }
    }

    fn void_watches(&mut self, table: u32, key: &LayerKey) {
        let hash = self.key_hash(table, key);
        for watch in self.watches.take(hash) {
            match watch {
                Watch::Flow(id, stamp) => {
                    if let Some(flow) = self.flows.get_mut(id).filter(|flow| flow.stamp == stamp) {
                        flow.is_void = true;
                    }
                }
                Watch::Drop(place, stamp) => self.drop_cache.void(place, stamp),
            }
        }
    }
}

fn conversation_flows(conversations: &mut super::Conversations, id: u32, flows: Vec<u32>) {
    if let Some(conversation) = conversations.get_mut(id) {
        conversation.flows = flows;
    }
}

/// The tuple of the conversation's outbound packets on the guest's side: of an outbound packet as it entered, of
/// an inbound one as it is delivered, reversed.
fn conversation_key(entry: &Entry<'_>, plan: &Resolution) -> Option<Tuple> {
    match entry.direction {
        Direction::Outbound => Tuple::of(&entry.headers),
        Direction::Inbound => Tuple::of(&plan.headers).map(Tuple::reversed),
    }
}
