//! Allow: the packet passes unchanged.

use super::{ActionInput, Effect};

/// Pass unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allow;

impl Allow {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect::default()
    }
}
