//! Prefix sets (tags): a named list of prefixes that conditions refer to.
//!
//! Theory. Whether an address lies in *any* prefix is a question about a union of ranges. Sorted and merged, the
//! ranges are disjoint, so one binary search answers it: the last range that starts at or before the address
//! either contains it or nothing does.

use alloc::vec::Vec;

use ipnet::IpNet;

use crate::flow::Value;
use crate::layer::{Name, ValueRange};

/// A set of IPv4 and IPv6 prefixes.
#[derive(Clone, Debug)]
pub struct PrefixSet {
    /// Unique on the port.
    pub name: Name,
    /// Sorted, disjoint, merged.
    ranges: Vec<ValueRange>,
    prefixes: Vec<IpNet>,
}

impl PrefixSet {
    /// A set of `prefixes`.
    pub fn new(name: Name, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let prefixes: Vec<IpNet> = prefixes.into_iter().collect();
        let mut sorted: Vec<ValueRange> = prefixes.iter().map(|prefix| ValueRange::prefix(*prefix)).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<ValueRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match ranges.last_mut() {
                Some(last) if last.contains(range.low) => last.high = last.high.max(range.high),
                _ => ranges.push(range),
            }
        }
        PrefixSet { name, ranges, prefixes }
    }

    /// True when a prefix of the set covers `value`.
    pub fn contains(&self, value: Value) -> bool {
        let after = self.ranges.partition_point(|range| range.low <= value);
        after > 0 && self.ranges[after - 1].contains(value)
    }

    /// The prefixes as given.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }
}
