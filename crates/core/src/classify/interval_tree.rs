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

use super::key::Key;

/// Keys per block.
const FAN: usize = 16;

/// Sorted starts and the levels above them.
#[derive(Clone, Debug)]
pub(super) struct IntervalTree<K> {
    /// All levels in one row, the smallest first, the starts themselves last.
    keys: Vec<K>,
    /// Offset of each level in `keys`, the same way.
    levels: Vec<u32>,
}

impl<K: Key> IntervalTree<K> {
    /// A tree of `starts`, sorted and without duplicates.
    pub(super) fn new(starts: &[K]) -> Self {
        let mut rows: Vec<Vec<K>> = alloc::vec![starts.to_vec()];
        while let Some(row) = rows.last().filter(|row| row.len() > FAN) {
            let above: Vec<K> = row.iter().skip(FAN - 1).step_by(FAN).copied().collect();
            rows.push(above);
        }
        let mut keys = Vec::new();
        let mut levels = Vec::new();
        for row in rows.iter().rev() {
            levels.push(keys.len() as u32);
            keys.extend_from_slice(row);
        }
        IntervalTree { keys, levels }
    }

    /// How many starts are not above `key`.
    pub(super) fn rank(&self, key: K) -> u32 {
        // If c keys of a level are not above `key`, then the same holds for the first c * FAN keys of the level
        // below, and its key (c + 1) * FAN - 1, where it exists, is above: the count ends in block c.
        let mut count = 0;
        for (depth, start) in self.levels.iter().enumerate() {
            let end = self.levels.get(depth + 1).map_or(self.keys.len(), |next| *next as usize);
            let row = &self.keys[*start as usize..end];
            let block = count * FAN;
            let block_end = (block + FAN).min(row.len());
            count = block + row[block..block_end].iter().filter(|start| **start <= key).count();
        }
        count as u32
    }

    /// Bytes of memory behind it.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * size_of::<K>() + self.levels.len() * size_of::<u32>()
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
