//! Composition.

use super::{Modify, Transposition};
use crate::flow::HeaderStack;

impl Transposition {
    /// The one transposition that does what `self` and then `next` would do.
    pub fn then(&self, next: &Transposition) -> Transposition {
        let _ = next;
        todo!()
    }

    /// A transposition that ignores every group but the innermost one of `headers`, and does `changes` there.
    /// Changes that name no field are left out.
    pub fn on_innermost(headers: &HeaderStack, changes: impl IntoIterator<Item = Modify>) -> Transposition {
        let _ = (headers, changes.into_iter().count());
        todo!()
    }
}
