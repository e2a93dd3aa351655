//! Watches: which cached answers rely on a layer flow *not* existing.
//!
//! Theory. A packet that found no layer flow in a layer was judged by that layer's rules. When a layer flow that
//! it would have found is created later (by the other direction, or by another conversation), its cached answer
//! is wrong. So an answer leaves a watch under the hash of every layer key it looked for in vain, and creating a
//! pair takes the watches of its two keys and voids what they point to. Two keys that share a bucket void a few
//! answers without need; they are resolved again. A watch whose answer is gone is recognised by its stamp and
//! dropped when its bucket is next taken or grows.

use alloc::vec::Vec;

/// A cached answer, by where it is and its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watch {
    /// A unified flow: number and stamp.
    Flow(u32, u32),
    /// A place of the drop cache, and its stamp.
    Drop(u32, u32),
}

/// Watches by hash of the layer key.
#[derive(Debug)]
pub(crate) struct Watches {
    buckets: Vec<Vec<Watch>>,
}

/// A bucket is searched for dead watches when it reaches a power of two from here on.
const PRUNE_FROM: usize = 8;

impl Watches {
    pub(crate) fn new(size: usize) -> Self {
        Watches { buckets: (0..size.max(64).next_power_of_two()).map(|_| Vec::new()).collect() }
    }

    fn bucket(&mut self, hash: u64) -> &mut Vec<Watch> {
        let mask = self.buckets.len() - 1;
        &mut self.buckets[hash as usize & mask]
    }

    /// Leaves a watch; `is_live` tells which of the bucket's old watches still point to something.
    pub(crate) fn add(&mut self, hash: u64, watch: Watch, is_live: impl Fn(&Watch) -> bool) {
        let bucket = self.bucket(hash);
        if bucket.len() >= PRUNE_FROM && bucket.len().is_power_of_two() {
            bucket.retain(is_live);
        }
        if !bucket.contains(&watch) {
            bucket.push(watch);
        }
    }

    /// Takes all watches under `hash`.
    pub(crate) fn take(&mut self, hash: u64) -> Vec<Watch> {
        core::mem::take(self.bucket(hash))
    }
}
