//! One field's values turned into small numbers, once per packet.
//!
//! Theory. The conditions of a group name finitely many ranges on a field, and two values that lie in the same of
//! them are alike. So each set of like, neighbouring values gets a number, its *rank*: 0 for a packet that lacks
//! the field (or has a family that no condition names), then the elementary intervals of numbers, of IPv4 and of
//! IPv6 in order. A condition's range is then exactly a range of ranks, and from here on addresses, ports, MACs
//! and metadata are all the same: 32-bit numbers, compared without knowing their width or family.
//!
//! The structure that finds a rank is chosen per family by what the conditions look like: numbers of 16 bits are
//! ranks as they are, few starts are counted through (interval tree of one block), single values are hashed,
//! prefixes get a trie, ranges an interval tree.
//!
//! It must be exact: `ranks(range)` holds the rank of a value if and only if the range holds the value.

use alloc::vec::Vec;

use super::Kind;
use super::hash::Hash;
use super::interval_tree::IntervalTree;
use super::key::Key;
use super::trie::Trie;
use crate::flow::{Family, Field, Value};
use crate::layer::ValueRange;

const FAMILIES: [Family; 3] = [Family::Number, Family::Ipv4, Family::Ipv6];
/// So few starts are one block of the interval tree, which nothing beats.
const FEW: usize = 16;

/// Finds ranks of one field.
#[derive(Clone, Debug)]
pub(super) struct FieldIndex {
    /// Where values come from.
    pub(super) field: Field,
    families: [Option<FamilyIndex>; 3],
    /// How many ranks there are, 0 included.
    pub(super) ranks: u32,
}

#[derive(Clone, Debug)]
struct FamilyIndex {
    /// Rank of the values below the first start.
    first: u32,
    starts: usize,
    search: Search,
}

/// From here on numbers that are their own ranks are alike.
const SMALL: u128 = 1 << 16;

/// Finds ranks within a family, in the narrowest keys that hold its starts.
#[derive(Clone, Debug)]
enum Search {
    Small,
    Bits32(Structure<u32>),
    Bits64(Structure<u64>),
    Bits128(Structure<u128>),
}

#[derive(Clone, Debug)]
enum Structure<K> {
    Hash(Hash<K>),
    Trie(Trie<K>),
    IntervalTree(IntervalTree<K>),
}

impl FieldIndex {
    /// An index that tells apart the values of all `ranges` on `field`.
    pub(super) fn new<'a>(field: Field, ranges: impl Iterator<Item = &'a ValueRange> + Clone) -> Self {
        let mut index = FieldIndex { field, families: [const { None }; 3], ranks: 1 };
        for (slot, family) in FAMILIES.into_iter().enumerate() {
            let spans: Vec<(u128, u128)> = ranges.clone().filter_map(|range| within(range, family)).collect();
            if spans.is_empty() {
                continue;
            }
            let (search, starts) = Search::new(&spans);
            index.families[slot] = Some(FamilyIndex { first: index.ranks, starts, search });
            index.ranks += starts as u32 + 1;
        }
        index
    }

    /// The rank of `value`.
    #[inline]
    pub(super) fn rank(&self, value: Option<Value>) -> u32 {
        let Some(value) = value else { return 0 };
        match &self.families[value.family as usize] {
            Some(family) => family.first + family.search.rank(value.bits),
            None => 0,
        }
    }

    /// The ranks of the values in `range`, one run per family (a range normally has one). `range` must be one that
    /// the index was made of.
    pub(super) fn ranks_of(&self, range: &ValueRange) -> impl Iterator<Item = (u32, u32)> {
        FAMILIES.into_iter().zip(&self.families).filter_map(move |(family, index)| {
            let (low, high) = within(range, family)?;
            let index = index.as_ref()?;
            Some((index.first + index.search.rank(low), index.first + index.search.rank(high)))
        })
    }

    /// The kind that most of its starts are found by.
    pub(super) fn kind(&self) -> Kind {
        let largest = self.families.iter().flatten().max_by_key(|family| family.starts);
        largest.map_or(Kind::List, |family| match &family.search {
            Search::Small => Kind::Hash,
            Search::Bits32(structure) => structure.kind(),
            Search::Bits64(structure) => structure.kind(),
            Search::Bits128(structure) => structure.kind(),
        })
    }

    /// True where numbers are their own ranks.
    pub(super) fn is_small(&self) -> bool {
        self.families.iter().flatten().any(|family| matches!(family.search, Search::Small))
    }

    /// Bytes of memory behind it, about.
    pub(super) fn bytes(&self) -> usize {
        self.families
            .iter()
            .flatten()
            .map(|family| match &family.search {
                Search::Small => 0,
                Search::Bits32(structure) => structure.bytes(),
                Search::Bits64(structure) => structure.bytes(),
                Search::Bits128(structure) => structure.bytes(),
            })
            .sum()
    }
}

/// The part of `range` in `family`. A range lies in one family; should one span several, its meaning
/// ([`ValueRange::contains`]) covers all values between.
fn within(range: &ValueRange, family: Family) -> Option<(u128, u128)> {
    if family < range.low.family || range.high.family < family {
        return None;
    }
    let low = if family == range.low.family { range.low.bits } else { 0 };
    let high = if family == range.high.family { range.high.bits } else { u128::MAX };
    (low <= high).then_some((low, high))
}

impl Search {
    /// The search that suits `spans`, and how many ranks above its first it gives.
    fn new(spans: &[(u128, u128)]) -> (Search, usize) {
        let highest = spans.iter().map(|(low, high)| high.checked_add(1).unwrap_or(*low)).max();
        if highest.is_none_or(|highest| highest <= SMALL) {
            return (Search::Small, SMALL as usize);
        }
        let mut values: Vec<u128> = spans.iter().map(|(low, _)| *low).collect();
        values.sort_unstable();
        values.dedup();
        let kind = if spans.iter().all(|(low, high)| low == high) && values.len() > FEW {
            Kind::Hash
        } else {
            values.extend(spans.iter().filter_map(|(_, high)| high.checked_add(1)));
            values.sort_unstable();
            values.dedup();
            let prefixes = spans.iter().all(|(low, high)| is_prefix(*low, *high));
            if prefixes && values.len() > FEW { Kind::Trie } else { Kind::IntervalTree }
        };
        let search = if let Some(values) = narrowed(&values) {
            Search::Bits32(Structure::new(kind, values))
        } else if let Some(values) = narrowed(&values) {
            Search::Bits64(Structure::new(kind, values))
        } else {
            Search::Bits128(Structure::new(kind, values.clone()))
        };
        (search, values.len())
    }

    #[inline]
    fn rank(&self, bits: u128) -> u32 {
        match self {
            Search::Small => bits.min(SMALL) as u32,
            Search::Bits32(structure) => structure.rank(bits),
            Search::Bits64(structure) => structure.rank(bits),
            Search::Bits128(structure) => structure.rank(bits),
        }
    }
}

/// The `values` in a narrower width, when all fit.
fn narrowed<K: Key>(values: &[u128]) -> Option<Vec<K>> {
    values.iter().map(|value| K::exact(*value)).collect()
}

impl<K: Key> Structure<K> {
    fn new(kind: Kind, values: Vec<K>) -> Self {
        match kind {
            Kind::Hash => Structure::Hash(Hash::new(&values)),
            Kind::Trie => Structure::Trie(Trie::new(&values)),
            Kind::List | Kind::IntervalTree => Structure::IntervalTree(IntervalTree::new(&values)),
        }
    }

    #[inline]
    fn rank(&self, bits: u128) -> u32 {
        match self {
            Structure::Hash(hash) => K::exact(bits).map_or(0, |key| hash.rank(key)),
            Structure::Trie(trie) => trie.rank(K::clamped(bits)),
            Structure::IntervalTree(tree) => tree.rank(K::clamped(bits)),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Structure::Hash(_) => Kind::Hash,
            Structure::Trie(_) => Kind::Trie,
            Structure::IntervalTree(_) => Kind::IntervalTree,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Structure::Hash(hash) => hash.bytes(),
            Structure::Trie(trie) => trie.bytes(),
            Structure::IntervalTree(tree) => tree.bytes(),
        }
    }
}

/// True for an aligned block of a power of two.
fn is_prefix(low: u128, high: u128) -> bool {
    let host = low ^ high;
    low & host == 0 && host & host.wrapping_add(1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELD: Field = Field::Metadata(0);

    fn value() -> impl Strategy<Value = Value> {
        let bits = prop_oneof![
            0u128..60,
            Just(u128::MAX),
            Just(u64::MAX as u128),
            Just(1u128 << 64),
            (u32::MAX as u128 - 2)..(1 << 32) + 2,
            any::<u128>()
        ];
        (0usize..3, bits).prop_map(|(family, bits)| Value { family: FAMILIES[family], bits })
    }

    fn ranges() -> impl Strategy<Value = Vec<ValueRange>> {
        let single = value().prop_map(ValueRange::single).boxed();
        let prefix = (value(), 0u32..128).prop_map(|(value, bits)| {
            let (low, high) = value.bits.block(bits);
            ValueRange { low: Value { bits: low, ..value }, high: Value { bits: high, ..value } }
        });
        let prefix = prefix.boxed();
        // Also upside down and across families: the meaning is that of `contains`.
        let any = (value(), value()).prop_map(|(low, high)| ValueRange { low, high });
        prop_oneof![
            prop::collection::vec(single.clone(), 1..60),
            prop::collection::vec(prefix.clone(), 1..60),
            prop::collection::vec(prop_oneof![single, prefix, any], 0..60),
        ]
    }

    proptest! {
        #[test]
        fn a_range_of_ranks_holds_what_the_range_holds(
            ranges in ranges(),
            values in prop::collection::vec(value(), 0..20),
        ) {
            let index = FieldIndex::new(FIELD, ranges.iter());
            let ends = ranges.iter().flat_map(|range| [range.low, range.high]);
            for value in values.into_iter().chain(ends) {
                let rank = index.rank(Some(value));
                prop_assert!(rank < index.ranks);
                for range in &ranges {
                    let held = index.ranks_of(range).any(|(low, high)| low <= rank && rank <= high);
                    prop_assert_eq!(held, range.contains(value), "{:?} {:?}", range, value);
                }
            }
            for range in &ranges {
                prop_assert!(index.ranks_of(range).all(|(low, _)| low > index.rank(None)));
            }
        }
    }

    fn kind(ranges: &[(u128, u128)]) -> Kind {
        let ranges: Vec<ValueRange> = ranges
            .iter()
            .map(|(low, high)| ValueRange { low: Value::number(*low), high: Value::number(*high) })
            .collect();
        FieldIndex::new(FIELD, ranges.iter()).kind()
    }

    #[test]
    fn the_kind_follows_the_values() {
        let singles: Vec<(u128, u128)> = (0..100).map(|n| (n << 20, n << 20)).collect();
        let prefixes: Vec<(u128, u128)> = (0..100).map(|n| (n << 20, n << 20 | 0xff)).collect();
        let ranges: Vec<(u128, u128)> = (0..100).map(|n| (n << 20, (n << 21) + 3)).collect();
        let small: Vec<(u128, u128)> = (0..100).map(|n| (n * 3, n * 5)).collect();
        assert_eq!(kind(&singles), Kind::Hash);
        assert_eq!(kind(&prefixes), Kind::Trie);
        assert_eq!(kind(&ranges), Kind::IntervalTree);
        assert_eq!(kind(&singles[..4]), Kind::IntervalTree);
        assert_eq!(kind(&small), Kind::Hash);
        assert_eq!(kind(&[]), Kind::List);
    }
}
