//! The interval tree: which elementary interval a value lies in.
//!
//! Theory. The ends of n ranges cut the number line into at most 2n + 1 elementary intervals, within which every
//! value lies in the same ranges. Finding a value's interval is counting the starts that are not above it. The
//! starts are kept sorted, with a level above that holds every 16th of them, and so on: a tree of fan-out 17
//! without pointers. A search counts within one block of 16 per level, a short run of compares that the processor
//! does without a branch, so 4,096 starts cost three blocks.
//!
//! It must never be asked to change: it is built once from sorted keys.

use alloc::vec::Vec;

use super::key::{Key, count_through};

/// Keys per block.
const FAN: usize = 16;

/// Sorted starts and the levels above them.
#[derive(Clone, Debug)]
pub(super) struct IntervalTree<K> {
    /// The starts and, behind them, each level above, every row filled up with the largest key,
    /// at least one.
    blocks: Vec<[K; FAN]>,
    /// First block of each row but the starts', the smallest row first.
    above: Vec<u32>,
    starts: u32,
}

impl<K: Key> IntervalTree<K> {
    /// A tree of `starts`, sorted and without duplicates.
    pub(super) fn new(starts: &[K]) -> Self {
        let mut tree = IntervalTree { blocks: Vec::new(), above: Vec::new(), starts: starts.len() as u32 };
        let mut row = starts.to_vec();
        loop {
            tree.above.insert(0, tree.blocks.len() as u32);
            for at in (0..=row.len()).step_by(FAN) {
                let block = &row[at..(at + FAN).min(row.len())];
                let mut filled = [K::MAX; FAN];
                filled[..block.len()].copy_from_slice(block);
                tree.blocks.push(filled);
            }
            if row.len() <= FAN {
                break;
            }
            row = row.iter().skip(FAN - 1).step_by(FAN).copied().collect();
        }
        tree.above.pop();
        tree
    }

    /// How many starts are not above `key`.
    #[inline]
    pub(super) fn rank(&self, key: K) -> u32 {
        // If c keys of a row are not above `key`, then the same holds for the first c * FAN keys of the row below,
        // and its key (c + 1) * FAN - 1, where it exists, is above: the count ends in block c, which exists since a
        // row of full blocks is followed by one of fillers. Fillers are only counted for the largest key, and what
        // that leads to only adds to a count that is cut to the number of starts.
        let mut block = 0;
        for first in &self.above {
            block = block * FAN + self.count(*first as usize + block, key);
        }
        ((block * FAN + self.count(block, key)) as u32).min(self.starts)
    }

    /// How many keys of block `number` are not above `key`; none where there is no such block.
    #[inline]
    fn count(&self, number: usize, key: K) -> usize {
        self.blocks.get(number).map_or(0, |block| count_through(block, key) as usize)
    }

    /// Bytes of memory behind it.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<[K; FAN]>() + self.above.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_counts_like_a_scan(mut starts in prop::collection::vec(0u64..5_000, 0..1_000), key in 0u64..5_100) {
            starts.sort_unstable();
            starts.dedup();
            let tree = IntervalTree::new(&starts);
            let scan = starts.iter().filter(|start| **start <= key).count();
            prop_assert_eq!(tree.rank(key), scan as u32);
        }
    }

    #[test]
    fn every_size_around_a_block_counts_every_key() {
        for size in [0usize, 1, 15, 16, 17, 255, 256, 257, 272, 4_096, 4_097] {
            let starts: Vec<u128> = (0..size as u128).map(|n| n * 2 + 1).collect();
            let tree = IntervalTree::new(&starts);
            for key in 0..=(size as u128 * 2 + 2) {
                assert_eq!(tree.rank(key) as u128, key.div_ceil(2).min(size as u128), "{size} {key}");
            }
        }
    }
}
