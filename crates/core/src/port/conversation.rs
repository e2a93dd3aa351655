//! Conversations: both directions of a flow, seen on the guest's side of the pipeline (§5.3, §5.4).
//!
//! A conversation exists while it holds state in some layer. It owns that state: the time of its last packet, in
//! either direction, decides for all of its layer flows whether they live, and ending it removes them and its
//! unified flows together.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::layer_flow::Tuple;
use super::slab::Slab;
use crate::time::{Duration, Instant};

/// One conversation that holds state.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    /// The tuple of its outbound packets on the guest's side.
    pub(crate) key: Tuple,
    /// When a packet of either direction was last forwarded.
    pub(crate) last_seen: Instant,
    /// No pair of it has a shorter time to live.
    pub(crate) shortest: Duration,
    /// Its layer flows: layer table and pair.
    pub(crate) pairs: Vec<(u32, u32)>,
    /// Its unified flows.
    pub(crate) flows: Vec<u32>,
}

/// All conversations of a port, by number and by key.
#[derive(Debug)]
pub(crate) struct Conversations {
    slab: Slab<Conversation>,
    by_key: HashMap<Tuple, u32, crate::hash::TableHasher>,
    /// Where the next bounded expiry pass goes on.
    cursor: u32,
}

impl Conversations {
    pub(crate) fn new(hasher: crate::hash::TableHasher) -> Self {
        Conversations { slab: Slab::default(), by_key: HashMap::with_hasher(hasher), cursor: 0 }
    }

    pub(crate) fn find(&self, key: &Tuple) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Conversation> {
        self.slab.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Conversation> {
        self.slab.get_mut(id)
    }

    /// One more than the largest number in use so far.
    pub(crate) fn bound(&self) -> u32 {
        self.slab.bound()
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn find_or_insert(&mut self, key: Tuple, now: Instant) -> u32 {
        let slab = &mut self.slab;
        *self.by_key.entry(key).or_insert_with(|| {
            let shortest = Duration(u64::MAX);
            slab.insert(Conversation { key, last_seen: now, shortest, pairs: Vec::new(), flows: Vec::new() })
        })
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Conversation> {
        let conversation = self.slab.remove(id)?;
        self.by_key.remove(&conversation.key);
        Some(conversation)
    }

    /// The next `count` numbers of a walk around the table.
    pub(crate) fn slice(&mut self, count: u32) -> impl Iterator<Item = u32> + use<> {
        let bound = self.slab.bound();
        let start = if self.cursor >= bound { 0 } else { self.cursor };
        let end = start.saturating_add(count).min(bound);
        self.cursor = end;
        start..end
    }
}
