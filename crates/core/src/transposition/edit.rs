//! The compiled form: what the fast path runs.

use super::{TransposeError, Transposition};
use crate::drop_reason::DropReason;
use crate::flow::HeaderStack;
use crate::packet::{Layout, Packet};

/// A transposition compiled for the packets of one unified flow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Edit {}

impl Edit {
    /// Compiles `transposition` for packets whose base headers are those of `input`.
    pub fn compile(transposition: &Transposition, input: &HeaderStack) -> Result<Edit, TransposeError> {
        let _ = (transposition, input);
        todo!()
    }

    /// Changes the bytes of `packet`, whose headers lie as `layout` says.
    pub fn apply(&self, packet: &mut Packet, layout: &Layout) -> Result<(), DropReason> {
        let _ = (packet, layout);
        todo!()
    }
}
