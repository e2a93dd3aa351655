//! Transpose: a header change written by the controller, without code (VFP §5.3.3).

use super::{ActionInput, Effect};
use crate::transposition::Transposition;

/// A user-defined transposition. A packet whose headers it does not fit is dropped with `cannot-transpose`, one
/// whose time to live would reach 0 with `ttl-exceeded`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transpose {
    /// The header operations, outermost first.
    pub transposition: Transposition,
}

impl Transpose {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let mut probe = *input.headers;
        match self.transposition.apply(&mut probe) {
            Ok(()) => Effect::transpose(self.transposition.clone()),
            Err(error) => Effect::drop(error.into()),
        }
    }
}
