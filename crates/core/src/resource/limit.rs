//! Limits: how fast packets may pass, as a value (§8.4). The tokens themselves are a port's state.

use alloc::vec::Vec;

use crate::flow::Field;
use crate::layer::Name;

/// A limit: one token bucket, or one per distinct value of its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitSpec {
    /// Unique on the port; tokens belong to this name across updates.
    pub name: Name,
    /// What distinguishes buckets; empty means one bucket.
    pub key: Vec<Field>,
    /// The most buckets; packets of further keys share one more.
    pub buckets: usize,
    /// What each bucket lets pass.
    pub rate: Rate,
}

/// What a token bucket lets pass in the long run, and at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// What costs a token.
    pub unit: RateUnit,
    /// Tokens that come in each second, evenly; 1 to [`Rate::MAX_PER_SECOND`].
    pub per_second: u64,
    /// The most tokens that wait, and what a bucket begins with; 1 to [`Rate::MAX_BURST`].
    pub burst: u64,
}

/// What costs a token: a segment of a super-frame counts like a packet of its own (§8.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RateUnit {
    /// A packet costs one.
    Packets,
    /// A byte on the guest's side costs one.
    Bytes,
}

impl Rate {
    /// The largest rate: a terabyte per second.
    pub const MAX_PER_SECOND: u64 = 1_000_000_000_000;
    /// The largest burst: a gigabyte.
    pub const MAX_BURST: u64 = 1_000_000_000;

    /// True when both numbers lie within what a bucket can count.
    pub const fn is_valid(&self) -> bool {
        let rate = self.per_second >= 1 && self.per_second <= Rate::MAX_PER_SECOND;
        rate && self.burst >= 1 && self.burst <= Rate::MAX_BURST
    }
}
