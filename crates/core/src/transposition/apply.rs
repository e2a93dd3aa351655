//! A transposition on meaning: what the headers would be afterwards.

use super::Transposition;
use crate::flow::HeaderStack;

/// The headers do not fit the transposition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransposeError;

impl Transposition {
    /// Changes `headers` as the packet would change. On error `headers` is unchanged.
    pub fn apply(&self, headers: &mut HeaderStack) -> Result<(), TransposeError> {
        let _ = headers;
        todo!()
    }
}
