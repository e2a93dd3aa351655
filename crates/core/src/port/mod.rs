//! One virtual NIC: its program, its state, and what happens to a packet that crosses it (§3, §5).
//!
//! A port answers a packet in one of three ways: by its unified flow (`Port::lookup`), by the drop cache, or by
//! a walk through the layers (`resolve`) whose plan is then committed (`commit`). It edits no bytes and
//! forwards nothing: that is the switch's part.

mod asking;
mod commit;
mod conversation;
mod counters;
mod flow_list;
mod inspect;
mod layer_flow;
mod mirror;
mod observe;
mod policer;
mod publish;
mod punts;
mod resolve;
mod slab;
mod token_bucket;

pub use inspect::LayerFlowInfo;
pub use layer_flow::Tuple;

pub use asking::{MAX_MISSES, MAX_WAITING_BYTES, MAX_WAITING_PACKETS};
pub use punts::{MAX_PUNTS_AT_ONCE, MAX_PUNTS_PER_SECOND};

pub(crate) use asking::Asking;
pub(crate) use commit::{Caching, Committed, Egress};
pub(crate) use flow_list::FlowWalk;
pub(crate) use layer_flow::LayerPair;
pub(crate) use layer_flow::Side;
pub(crate) use mirror::{CopyWay, Cut, FlowCopy, OuterHeaders, PlannedCopy};
pub(crate) use observe::{Decision, GroupVerdict, Observer};
pub(crate) use policer::{Charge, PassedLimit, Refused};
pub(crate) use resolve::{Entry, Planned, Resolution};

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use crate::drop_reason::DropReason;
use crate::flow::drop_cache::DropCache;
use crate::flow::table::{UnifiedFlow, UnifiedFlowTable};
use crate::flow::watch::Watches;
use crate::flow::{Direction, FieldSet, Ufid};
use crate::inspect::{DropLog, DropPlace, Full, Lost};
use crate::layer::{MAX_METADATA_KEYS, Program, Retirement};
use crate::resource::LiveMappings;
use crate::stats::{Count, CounterTable, DropCounters, FlowCounters};
use crate::switch::PortConfig;
use crate::time::Instant;

use conversation::Conversations;
use counters::{CellKey, MeterState};
use layer_flow::{LayerFlowTable, LayerKey};

/// Values that layers set for later layers, by key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Metadata {
    values: [Option<u32>; MAX_METADATA_KEYS],
}

impl Metadata {
    pub(crate) fn get(&self, key: u8) -> Option<u32> {
        self.values.get(key as usize).copied().flatten()
    }

    pub(crate) fn set(&mut self, key: u8, value: u32) {
        if let Some(slot) = self.values.get_mut(key as usize) {
            *slot = Some(value);
        }
    }
}

/// A virtual NIC.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) config: PortConfig,
    pub(crate) seed: u64,
    hasher: crate::hash::TableHasher,
    /// `None` until the first policy is published: the port is not ready and drops everything.
    pub(crate) program: Option<Arc<Program>>,
    /// The numbers of the live mapping tables that the program names.
    pub(crate) mappings: Vec<u32>,
    /// Rises with every change that may alter a resolution. 0 is before any.
    pub(crate) generation: u64,
    /// Layer flow tables by number; a removed layer leaves a hole.
    layer_tables: Vec<Option<LayerFlowTable>>,
    /// For each layer of the program, the number of its table.
    tables: Vec<u32>,
    conversations: Conversations,
    pub(crate) flows: UnifiedFlowTable,
    answers: commit::Answers,
    drop_cache: DropCache,
    watches: Watches,
    counters: CounterTable,
    meters: Vec<MeterState>,
    /// Slots whose rules are gone, each with the walk around the flow table that had begun then.
    retiring: VecDeque<(Retirement, u64)>,
    /// What it asks controllers for.
    pub(crate) asking: Asking,
    policers: policer::Policers,
    /// What it may send to controllers.
    pub(crate) punts: punts::Punts,
    pub(crate) drops: DropCounters,
    pub(crate) drop_log: DropLog,
    pub(crate) flow_counters: FlowCounters,
    pub(crate) outbound: Count,
    pub(crate) inbound: Count,
    /// How often the unified flow table was full.
    full: Full,
}

/// What the caches know about a packet.
pub(crate) enum Lookup {
    /// This unified flow answers.
    Hit(u32),
    /// The packet's flow is blocked.
    Blocked,
    /// The layers must be asked; a unified flow that must be reconciled has this number.
    Miss(Option<u32>),
}

impl Port {
    pub(crate) fn new(config: PortConfig, seed: u64) -> Self {
        let hasher = crate::hash::table_hasher(seed);
        let limits = config.limits;
        Port {
            config,
            seed,
            hasher,
            program: None,
            mappings: Vec::new(),
            generation: 0,
            layer_tables: Vec::new(),
            tables: Vec::new(),
            conversations: Conversations::new(hasher),
            flows: UnifiedFlowTable::new(limits.unified_flows, hasher),
            answers: commit::Answers::default(),
            drop_cache: DropCache::new(limits.drop_cache),
            watches: Watches::new(limits.unified_flows / 8),
            counters: CounterTable::default(),
            meters: Vec::new(),
            retiring: VecDeque::new(),
            asking: Asking::default(),
            policers: policer::Policers::default(),
            punts: punts::Punts::default(),
            drops: DropCounters::default(),
            drop_log: DropLog::new(hasher),
            flow_counters: FlowCounters::default(),
            outbound: Count::default(),
            inbound: Count::default(),
            full: Full::default(),
        }
    }

    /// Replaces what the port is. Caches of other sizes are made anew, empty; conversations are no part of them.
    pub(crate) fn set_config(&mut self, config: PortConfig) {
        let (old, new) = (self.config.limits, config.limits);
        self.config = config;
        if (old.unified_flows, old.drop_cache) == (new.unified_flows, new.drop_cache) {
            return;
        }
        // Each is counted where it belongs, and its conversation forgets it.
        for id in 0..self.flows.bound() {
            self.remove_flow(id);
        }
        let walks = self.flows.walks;
        self.flows = UnifiedFlowTable::new(new.unified_flows, self.hasher);
        self.flows.walks = walks;
        self.drop_cache = DropCache::new(new.drop_cache);
        // What watched the old ones must not void their successors in the same places.
        self.watches = Watches::new(new.unified_flows / 8);
        self.full.rearm(0, new.unified_flows);
    }

    /// The fields beyond the base that join the key of this port's unified flows.
    pub(crate) fn extras(&self) -> FieldSet {
        self.program.as_ref().map_or(FieldSet::EMPTY, |program| program.extras)
    }

    /// What the caches say about the packet with key `ufid` at `now`.
    pub(crate) fn lookup(&self, ufid: &Ufid, hash: u64, now: Instant, mappings: &LiveMappings) -> Lookup {
        let Some(id) = self.flows.find(ufid, hash) else {
            return match self.drop_cache.find(ufid, hash, self.generation) {
                Some(blocked)
                    if blocked.depends.are_current(mappings)
                        && (!blocked.asks_for_state || !self.has_full_table()) =>
                {
                    Lookup::Blocked
                }
                _ => Lookup::Miss(None),
            };
        };
        let is_current = self.flows.get(id).is_some_and(|flow| self.is_current(flow, now, mappings));
        if is_current { Lookup::Hit(id) } else { Lookup::Miss(Some(id)) }
    }

    /// True when the answer of `flow` may be used at `now` without asking the layers again.
    #[inline(always)]
    fn is_current(&self, flow: &UnifiedFlow, now: Instant, mappings: &LiveMappings) -> bool {
        !flow.is_void
            && flow.basis.generation == self.generation
            && flow.depends.are_current(mappings)
            && flow.basis.conversation.is_none_or(|conversation| {
                let seen = self.conversations.get(conversation).map(|conversation| conversation.last_seen);
                seen.is_some_and(|seen| now - seen <= flow.basis.time_to_live)
            })
    }

    /// Counts and remembers a packet that this port drops. `place` is the layer that did it.
    pub(crate) fn lose(
        &mut self,
        reason: DropReason,
        direction: Direction,
        place: Option<&DropPlace>,
        lost: &Lost<'_>,
    ) {
        self.drops.count(reason);
        let row = self.drop_log.row(reason, direction, place, lost.now);
        self.drop_log.count(row, lost);
    }

    /// True when a layer has as many layer flows as it may.
    fn has_full_table(&self) -> bool {
        let Some(program) = &self.program else { return false };
        program.layers.iter().zip(&self.tables).any(|(layer, table)| {
            self.layer_table(*table).is_some_and(|flows| flows.len() >= layer.flow_limit)
        })
    }

    /// Raises the generation: every cached answer is checked again when it is next hit (§5.5).
    pub(crate) fn raise_generation(&mut self) {
        self.generation += 1;
    }

    fn layer_table(&self, table: u32) -> Option<&LayerFlowTable> {
        self.layer_tables.get(table as usize)?.as_ref()
    }

    fn layer_table_mut(&mut self, table: u32) -> Option<&mut LayerFlowTable> {
        self.layer_tables.get_mut(table as usize)?.as_mut()
    }

    /// A pair lives while its conversation's last packet is not longer ago than the pair's time to live.
    fn is_alive(&self, pair: &LayerPair, now: Instant) -> bool {
        let conversation = self.conversations.get(pair.conversation);
        conversation.is_some_and(|conversation| now - conversation.last_seen <= pair.rule.time_to_live)
    }

    fn key_hash(&self, table: u32, key: &LayerKey) -> u64 {
        self.hasher.hash_one((table, key))
    }
}
