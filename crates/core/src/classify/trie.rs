//! The compressed trie: which elementary interval an address lies in, for many prefixes.
//!
//! Theory. As in the interval tree, the question is how many starts are not above a value; here the value's own
//! bits lead the way. A node covers the smallest aligned block of numbers that holds all its starts, so common
//! leading bits are skipped (path compression). It cuts its block into two to four times as many equal slots as it
//! has starts, and indexes them with the next bits in one step (level compression). A slot with more than sixteen
//! starts becomes a node of its own. Of any other slot only the number of starts below it is stored: a value's rank
//! is that number plus how many of the next sixteen starts are not above the value, since those beyond the slot are
//! above anyway. Counting always sixteen needs no branch. Evenly spread starts need one step whatever their number;
//! a full routing table two or three; and a slot always has fewer bits left than its node, so the depth is bounded
//! by the width of the key.
//!
//! It must never be asked to change: it is built once from sorted keys.

use alloc::vec::Vec;

use super::key::{Key, count_through};

/// A slot with more starts is a node.
const BUCKET: usize = 16;
/// Index bits of the largest node.
const STRIDE_LIMIT: u32 = 20;
/// Marks a slot that leads to a node.
const NODE: u32 = 1 << 31;

/// Sorted starts and the nodes that lead to them.
#[derive(Clone, Debug)]
pub(super) struct Trie<K> {
    /// Followed by a bucket of the largest key.
    starts: Vec<K>,
    nodes: Vec<Node<K>>,
    /// How many starts are below the slot, or [`NODE`] and the number of a node.
    slots: Vec<u32>,
}

/// A block of numbers cut into equal slots.
#[derive(Clone, Copy, Debug)]
struct Node<K> {
    low: K,
    high: K,
    /// Bits below the index.
    shift: u32,
    /// Where its slots begin.
    slots: u32,
    /// Starts below `low`, and starts not above `high`.
    below: u32,
    through: u32,
}

impl<K: Key> Trie<K> {
    /// A trie of `starts`, sorted and without duplicates.
    pub(super) fn new(starts: &[K]) -> Self {
        let mut trie = Trie { starts: starts.to_vec(), nodes: Vec::new(), slots: Vec::new() };
        if !starts.is_empty() {
            trie.add_node(0, starts.len());
        }
        trie.starts.extend([K::MAX; BUCKET]);
        trie
    }

    /// Adds the node of the starts `from..to` (at least one) and the nodes below it; its number.
    fn add_node(&mut self, from: usize, to: usize) -> u32 {
        let bits = self.starts[from].differing_bits(self.starts[to - 1]);
        let (low, high) = self.starts[from].block(bits);
        let stride = ((to - from).ilog2() + 2).min(bits).min(STRIDE_LIMIT);
        let shift = bits - stride;
        let number = self.nodes.len() as u32;
        let slots = self.slots.len();
        self.nodes.push(Node {
            low,
            high,
            shift,
            slots: slots as u32,
            below: from as u32,
            through: to as u32,
        });
        self.slots.resize(slots + (1 << stride), 0);
        let mut next = from;
        for index in 0..1usize << stride {
            let below = next;
            while next < to && self.starts[next].slot(low, shift) == index {
                next += 1;
            }
            let crowded = next - below > BUCKET;
            self.slots[slots + index] =
                if crowded { NODE | self.add_node(below, next) } else { below as u32 };
        }
        number
    }

    /// How many starts are not above `key`.
    #[inline]
    pub(super) fn rank(&self, key: K) -> u32 {
        let mut number = 0;
        loop {
            let Some(node) = self.nodes.get(number) else { return 0 };
            if key < node.low {
                return node.below;
            }
            if key > node.high {
                return node.through;
            }
            let slot = self.slots[node.slots as usize + key.slot(node.low, node.shift)];
            if slot & NODE == 0 {
                let rank = slot + count_through(&self.starts[slot as usize..][..BUCKET], key);
                // The largest key also counts what only fills the last bucket.
                return rank.min(node.through);
            }
            number = (slot & !NODE) as usize;
        }
    }

    /// Bytes of memory behind it.
    pub(super) fn bytes(&self) -> usize {
        self.starts.len() * size_of::<K>()
            + self.nodes.len() * size_of::<Node<K>>()
            + self.slots.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Starts as prefixes make them: multiples of a power of two, some close together, some far apart.
    fn starts() -> impl Strategy<Value = Vec<u128>> {
        let start = (any::<u128>(), 0u32..=128, any::<bool>()).prop_map(|(bits, shift, near)| {
            let bits = if near { bits & 0xffff } else { bits };
            bits.checked_shr(shift).unwrap_or(0).checked_shl(shift).unwrap_or(0)
        });
        prop::collection::vec(start, 0..400).prop_map(|mut starts| {
            starts.sort_unstable();
            starts.dedup();
            starts
        })
    }

    proptest! {
        #[test]
        fn it_counts_like_a_scan(starts in starts(), key in any::<u128>(), near in any::<u16>()) {
            let trie = Trie::new(&starts);
            let narrow: Vec<u64> = starts.iter().filter_map(|start| u64::exact(*start)).collect();
            let narrow_trie = Trie::new(&narrow);
            let around = starts.iter().flat_map(|start| [start.saturating_sub(1), *start, start.saturating_add(1)]);
            for key in around.chain([key, near as u128, 0, u128::MAX]) {
                let scan = starts.iter().filter(|start| **start <= key).count();
                prop_assert_eq!(trie.rank(key), scan as u32);
                let scan = narrow.iter().filter(|start| u128::from(**start) <= key).count();
                prop_assert_eq!(narrow_trie.rank(u64::clamped(key)), scan as u32);
            }
        }
    }

    #[test]
    fn many_starts_in_one_corner_stay_small() {
        let starts: Vec<u128> = (0..10_000u128).map(|n| (0x2001 << 112) | n).chain([u128::MAX]).collect();
        let trie = Trie::new(&starts);
        assert!(trie.bytes() < 10_000 * 64, "{} bytes", trie.bytes());
        assert_eq!(trie.rank((0x2001 << 112) | 777), 778);
        assert_eq!(trie.rank(u128::MAX - 1), 10_000);
    }
}
