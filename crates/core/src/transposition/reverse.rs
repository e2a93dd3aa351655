//! What a reply needs: the transposition that puts the reversed result back into the reversed original (§3.6).

use super::Transposition;
use crate::flow::HeaderStack;

impl Transposition {
    /// For a packet with headers `before` that `self` changed into `after`: the transposition that turns a reply
    /// to `after` into a reply to `before`. With `tunnels` false, pushes and pops are not undone.
    pub fn reverse(&self, before: &HeaderStack, tunnels: bool) -> Transposition {
        let _ = (before, tunnels);
        todo!()
    }
}
