//! Watches: which cached answers rely on a layer flow *not* existing.
//!
//! Theory. A packet that found no layer flow in a layer was judged by that layer's rules. When a layer flow that
//! it would have found is created later (by the other direction, or by another conversation), its cached answer
//! is wrong. So an answer leaves a watch under the hash of every layer key it looked for in vain, and creating a
//! pair takes the watches of its two keys and voids what they point to. Two keys that share a bucket void a few
//! answers without need; they are resolved again. A watch whose answer is gone is recognised by its stamp and
//! dropped when its bucket is next taken or full. A guest that changes its MAC with every packet puts all its flows into
//! one bucket, so adding must cost the same whatever the bucket holds: it is searched only when full, and then at
//! least half of it is free.

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
        if bucket.len() == bucket.capacity() {
            bucket.retain(is_live);
            if bucket.len() > bucket.capacity() / 2 {
                bucket.reserve(bucket.capacity());
            }
        }
        bucket.push(watch);
    }

    /// Takes all watches under `hash`.
    pub(crate) fn take(&mut self, hash: u64) -> Vec<Watch> {
        core::mem::take(self.bucket(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn adding_to_one_bucket_costs_the_same_however_full_and_forgets_the_dead() {
        const LIVE: u32 = 1 << 10;
        let mut watches = Watches::new(64);
        let looks = Cell::new(0);
        for n in 0..20 * LIVE {
            let is_live = |watch: &Watch| {
                looks.set(looks.get() + 1);
                matches!(watch, Watch::Flow(id, _) if *id + LIVE > n)
            };
            watches.add(7, Watch::Flow(n, 0), is_live);
        }
        assert!(looks.get() < 4 * 20 * LIVE, "{} looks", looks.get());
        assert!(watches.take(7).len() <= 4 * LIVE as usize);
    }
}
