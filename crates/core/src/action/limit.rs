//! Limit: the packet passes while there are tokens for it, also when a cached flow answers it (§8.4).
//!
//! The action only names the bucket. Tokens are taken when the packet is certain to go on, so a packet that a later
//! layer blocks takes none (§3.7).

use super::{ActionInput, Effect};
use crate::resource::{LimitId, Rate};

/// Pass while there are tokens, else drop (`limited`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Whose tokens.
    pub by: Limiter,
}

/// Where the tokens come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Limiter {
    /// A bucket of the rule's own.
    Own(Rate),
    /// A limit that other rules may name, too.
    Shared(LimitId),
}

impl Limit {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect { limit: Some(self.by), ..Effect::default() }
    }
}
