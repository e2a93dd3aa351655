//! The drop cache: answers for blocked flows, so that they do not take the slow path again and again (§3.7).
//!
//! A fixed number of places; a new entry overwrites what its hash maps to. It holds no claim on anything: an
//! entry is right only for the generation at which it was made, and is void as soon as state that its packet
//! might have met is created ([`super::watch`]).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Ufid;
use crate::drop_reason::DropReason;
use crate::resource::Dependencies;
use crate::stats::Slot;

/// Why a flow is dropped and what counts it.
#[derive(Clone, Debug)]
pub(crate) struct BlockedFlow {
    words: Box<[u64]>,
    pub(crate) generation: u64,
    pub(crate) reason: DropReason,
    pub(crate) slots: Box<[Slot]>,
    /// A rule before the drop asked for layer flows: while a layer's table is full, the packet stops there.
    pub(crate) asks_for_state: bool,
    /// The number of the place in the drop log.
    pub(crate) row: u32,
    /// The mappings that it relies on.
    pub(crate) depends: Dependencies,
    pub(crate) stamp: u32,
}

/// What is to be remembered of a blocked flow.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) reason: DropReason,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) asks_for_state: bool,
    pub(crate) row: u32,
    pub(crate) depends: Dependencies,
}

/// Blocked flows by hash.
#[derive(Debug)]
pub(crate) struct DropCache {
    places: Vec<Option<BlockedFlow>>,
    used: usize,
    stamp: u32,
}

impl DropCache {
    pub(crate) fn new(size: usize) -> Self {
        DropCache { places: (0..size.max(1).next_power_of_two()).map(|_| None).collect(), used: 0, stamp: 0 }
    }

    /// Places in use, those of older generations included.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// How many places there are.
    pub(crate) fn size(&self) -> usize {
        self.places.len()
    }

    fn place(&self, hash: u64) -> usize {
        // The upper bits: the lower ones already chose the bucket of the unified flow table.
        (hash >> 32) as usize & (self.places.len() - 1)
    }

    /// The answer for `ufid`, if it is known and right for `generation`.
    pub(crate) fn find(&self, ufid: &Ufid, hash: u64, generation: u64) -> Option<&BlockedFlow> {
        let flow = self.places[self.place(hash)].as_ref()?;
        (flow.generation == generation && *flow.words == *ufid.words()).then_some(flow)
    }

    /// Stores an answer; returns its place and stamp.
    pub(crate) fn insert(&mut self, ufid: &Ufid, hash: u64, generation: u64, block: Block) -> (u32, u32) {
        let Block { reason, slots, asks_for_state, row, depends } = block;
        let place = self.place(hash);
        self.stamp = self.stamp.wrapping_add(1);
        let words = ufid.words().into();
        let stamp = self.stamp;
        self.used += usize::from(self.places[place].is_none());
        let flow = BlockedFlow { words, generation, reason, slots, asks_for_state, row, depends, stamp };
        self.places[place] = Some(flow);
        (place as u32, self.stamp)
    }

    /// Forgets the entry at `place` if it is still the one that was stamped `stamp`.
    pub(crate) fn void(&mut self, place: u32, stamp: u32) {
        if let Some(entry) = self.places.get_mut(place as usize)
            && entry.as_ref().is_some_and(|flow| flow.stamp == stamp)
        {
            *entry = None;
            self.used -= 1;
        }
    }

    /// True when the entry at `place` is still the one that was stamped `stamp`.
    pub(crate) fn is_current(&self, place: u32, stamp: u32) -> bool {
        matches!(self.places.get(place as usize), Some(Some(flow)) if flow.stamp == stamp)
    }
}
