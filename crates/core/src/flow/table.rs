//! The unified flow table: exact match from a [`Ufid`] to the one answer that all layers gave (§5.1, §5.6).
//!
//! Theory. The table is a cache: everything in it can be resolved again. An entry holds its key, the number of
//! its interned answer, the port generation at which the answer was last known to be right, and a counter. A hit
//! reads the index, the entry and the answer, and writes the entry. When the table is full the entry that was
//! used longest ago, among a few looked at, gives way; so a new flow costs the same in a full table as in an
//! empty one.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use super::Ufid;
use crate::resource::Dependencies;
use crate::stats::Count;
use crate::time::{Duration, Instant};

/// Words of a key that are kept in the entry itself; longer keys (IPv6 in a tunnel) live on the heap.
const INLINE_WORDS: usize = 12;
/// Entries looked at to find one that gives way.
const EVICTION_SAMPLE: u32 = 8;

/// A packed key of a stored flow.
#[derive(Clone, Debug)]
enum Key {
    Inline(u8, [u64; INLINE_WORDS]),
    Heap(Box<[u64]>),
}

impl Key {
    fn new(words: &[u64]) -> Key {
        if words.len() > INLINE_WORDS {
            return Key::Heap(words.into());
        }
        let mut inline = [0; INLINE_WORDS];
        inline[..words.len()].copy_from_slice(words);
        Key::Inline(words.len() as u8, inline)
    }

    fn words(&self) -> &[u64] {
        match self {
            Key::Inline(len, words) => &words[..*len as usize],
            Key::Heap(words) => words,
        }
    }
}

/// A cached answer and what it is based on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Basis {
    /// The interned answer.
    pub(crate) answer: u32,
    /// The conversation whose state the answer relies on.
    pub(crate) conversation: Option<u32>,
    /// The generation of the port for which the answer was resolved.
    pub(crate) generation: u64,
    /// The shortest time to live of the layer flows that the answer relies on.
    pub(crate) time_to_live: Duration,
}

/// One cached flow of one direction.
#[derive(Clone, Debug)]
pub(crate) struct UnifiedFlow {
    key: Key,
    hash: u64,
    pub(crate) basis: Basis,
    /// The mappings that the answer relies on.
    pub(crate) depends: Dependencies,
    /// State that the answer relies on has changed since: it must be resolved again.
    pub(crate) is_void: bool,
    /// When the flow was last hit.
    pub(crate) last_seen: Instant,
    /// Packets since the last folding.
    pub(crate) count: Count,
    /// Which use of this entry it is: a remembered (number, stamp) is void when the stamp differs.
    pub(crate) stamp: u32,
}

impl UnifiedFlow {
    /// The packed key.
    pub(crate) fn words(&self) -> &[u64] {
        self.key.words()
    }
}

/// What people ask about a flow and packets do not: kept apart from the entry, whose cache lines a hit reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct History {
    /// Which use of this place the flow is.
    pub(crate) number: u32,
    pub(crate) created: Instant,
    /// Packets before the last folding, the one that made the flow included.
    pub(crate) folded: Count,
}

/// All unified flows of a port, both directions.
#[derive(Debug)]
pub(crate) struct UnifiedFlowTable {
    index: HashTable<u32>,
    entries: Vec<Option<UnifiedFlow>>,
    histories: Vec<History>,
    stamps: Vec<u32>,
    free: Vec<u32>,
    limit: usize,
    hasher: crate::hash::TableHasher,
    eviction_cursor: u32,
    sweep_cursor: u32,
    /// Walks around the table that were begun.
    pub(crate) walks: u64,
}

impl UnifiedFlowTable {
    pub(crate) fn new(limit: usize, hasher: crate::hash::TableHasher) -> Self {
        UnifiedFlowTable {
            index: HashTable::with_capacity(limit),
            entries: Vec::with_capacity(limit),
            histories: Vec::with_capacity(limit),
            stamps: Vec::with_capacity(limit),
            free: Vec::new(),
            limit: limit.max(1),
            hasher,
            eviction_cursor: 0,
            sweep_cursor: 0,
            walks: 0,
        }
    }

    pub(crate) fn hash(&self, ufid: &Ufid) -> u64 {
        self.hasher.hash_one(ufid)
    }

    /// The number of the flow with key `ufid`, whose hash is `hash`.
    pub(crate) fn find(&self, ufid: &Ufid, hash: u64) -> Option<u32> {
        let entries = &self.entries;
        let same = |id: &u32| match &entries[*id as usize] {
            Some(flow) => flow.hash == hash && flow.key.words() == ufid.words(),
            None => false,
        };
        self.index.find(hash, same).copied()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&UnifiedFlow> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut UnifiedFlow> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.index.len() >= self.limit
    }

    /// The number of a flow that may give way in a full table.
    pub(crate) fn victim(&mut self) -> Option<u32> {
        let bound = self.entries.len() as u32;
        let mut oldest: Option<(Instant, u32)> = None;
        for _ in 0..bound {
            self.eviction_cursor = (self.eviction_cursor + 1) % bound.max(1);
            let Some(flow) = self.get(self.eviction_cursor) else { continue };
            if oldest.is_none_or(|(seen, _)| flow.last_seen < seen) {
                oldest = Some((flow.last_seen, self.eviction_cursor));
            }
            if self.eviction_cursor.is_multiple_of(EVICTION_SAMPLE) {
                break;
            }
        }
        oldest.map(|(_, id)| id)
    }

    /// Stores a flow; the caller has made room and knows that the key is absent.
    pub(crate) fn insert(
        &mut self,
        ufid: &Ufid,
        hash: u64,
        (basis, depends): (Basis, Dependencies),
        now: Instant,
    ) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.stamps.push(0);
            self.histories.push(History::default());
            (self.entries.len() - 1) as u32
        });
        let stamp = self.stamps[id as usize];
        let number = self.histories[id as usize].number.wrapping_add(1);
        self.histories[id as usize] = History { number, created: now, folded: Count::default() };
        self.entries[id as usize] = Some(UnifiedFlow {
            key: Key::new(ufid.words()),
            hash,
            basis,
            depends,
            is_void: false,
            last_seen: now,
            count: Count::default(),
            stamp,
        });
        let entries = &self.entries;
        self.index.insert_unique(hash, id, |id| entries[*id as usize].as_ref().map_or(0, |flow| flow.hash));
        id
    }

    /// Makes everything that was remembered of flow `id` by its stamp void.
    pub(crate) fn restamp(&mut self, id: u32) {
        if let Some(Some(flow)) = self.entries.get_mut(id as usize) {
            let stamp = &mut self.stamps[id as usize];
            *stamp = stamp.wrapping_add(1);
            flow.stamp = *stamp;
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<UnifiedFlow> {
        let flow = self.entries.get_mut(id as usize)?.take()?;
        if let Ok(entry) = self.index.find_entry(flow.hash, |other| *other == id) {
            entry.remove();
        }
        self.stamps[id as usize] = self.stamps[id as usize].wrapping_add(1);
        self.free.push(id);
        Some(flow)
    }

    /// Takes the packets that flow `id` has counted since the last time.
    pub(crate) fn take_count(&mut self, id: u32) -> Count {
        let Some(Some(flow)) = self.entries.get_mut(id as usize) else { return Count::default() };
        let count = flow.count.take();
        if count != Count::default() {
            self.histories[id as usize].folded.add(count);
        }
        count
    }

    /// Notes a packet of flow `id` that is counted elsewhere already.
    pub(crate) fn note_counted(&mut self, id: u32, count: Count) {
        if let Some(history) = self.histories.get_mut(id as usize) {
            history.folded.add(count);
        }
    }

    /// The history of the flow at place `id`.
    pub(crate) fn history(&self, id: u32) -> History {
        self.histories.get(id as usize).copied().unwrap_or_default()
    }

    /// One more than the largest place in use so far.
    pub(crate) fn bound(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The most flows that fit.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The next `count` numbers of a walk around the table.
    pub(crate) fn slice(&mut self, count: u32) -> impl Iterator<Item = u32> + use<> {
        let bound = self.entries.len() as u32;
        let start = if self.sweep_cursor >= bound { 0 } else { self.sweep_cursor };
        self.walks += u64::from(start == 0);
        let end = start.saturating_add(count).min(bound);
        self.sweep_cursor = end;
        start..end
    }
}
