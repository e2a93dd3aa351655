//! Meter: the packet is counted, by the meter's key, also when a cached flow answers it (§8.4).

use super::{ActionInput, Effect};
use crate::resource::MeterId;

/// Count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meter {
    /// The meter that counts.
    pub meter: MeterId,
}

impl Meter {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect { meter: Some(self.meter), ..Effect::default() }
    }
}
