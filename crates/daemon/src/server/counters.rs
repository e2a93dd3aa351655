//! What the API counts of itself: refusals by kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counters by name.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// Adds one to `name`.
    pub fn add(&self, name: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }
}
