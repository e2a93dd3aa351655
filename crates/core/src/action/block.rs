//! Block: the packet is dropped and leaves no state behind (§3.7).

use super::{ActionInput, Effect};
use crate::drop_reason::DropReason;

/// Drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block;

impl Block {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect::drop(DropReason::Blocked)
    }
}
