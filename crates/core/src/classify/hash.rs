//! The hash table: which of many exact values a value is.
//!
//! Theory. Where all conditions on a field name single values, a value is either one of them or none, so one
//! probe finds its number whatever their count, and the number line need not be cut around each of them.
//!
//! The values come from policy and only probes from packets, so nobody outside can fill a chain; the hash needs
//! no secret seed, and the same policy gives the same table.

use hashbrown::HashMap;

use super::key::Key;

type Build = core::hash::BuildHasherDefault<rapidhash::fast::RapidHasher<'static>>;

/// Exact values, numbered from 1.
#[derive(Clone, Debug)]
pub(super) struct Hash<K> {
    numbers: HashMap<K, u32, Build>,
}

impl<K: Key> Hash<K> {
    /// A table of `values`, without duplicates.
    pub(super) fn new(values: &[K]) -> Self {
        Hash { numbers: values.iter().zip(1..).map(|(value, number)| (*value, number)).collect() }
    }

    /// The number of `key`, from 1 in the order given; 0 when it is none of the values.
    pub(super) fn rank(&self, key: K) -> u32 {
        self.numbers.get(&key).copied().unwrap_or(0)
    }

    /// Bytes of memory behind it, about.
    pub(super) fn bytes(&self) -> usize {
        self.numbers.capacity() * (size_of::<(K, u32)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_and_others_are_zero() {
        let hash = Hash::new(&[9u64, 4, 7]);
        assert_eq!([9, 4, 7, 0, 5].map(|key| hash.rank(key)), [1, 2, 3, 0, 0]);
        assert!(hash.bytes() >= 3 * size_of::<(u64, u32)>());
    }
}
