//! Mark: sets the DSCP of the innermost IP header, and metadata that later layers can match.

use alloc::vec::Vec;

use super::{ActionInput, Effect};
use crate::flow::L3;
use crate::transposition::{Modify, ModifyL3, Transposition};

/// Set DSCP or metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// New DSCP, 0-63; packets that are not IP keep what they have.
    pub dscp: Option<u8>,
    /// Metadata keys (by index) and their new values.
    pub metadata: Vec<(u8, u32)>,
}

impl Mark {
    pub(super) fn process(&self, input: &ActionInput<'_>) -> Effect {
        let is_ip = matches!(input.headers.innermost().flow_id.l3, Some(L3::Ip(_)));
        let transposition = match self.dscp {
            Some(dscp) if is_ip => Transposition::on_innermost(
                input.headers,
                [Modify::L3(ModifyL3 { dscp: Some(dscp), ..ModifyL3::default() })],
            ),
            _ => Transposition::IDENTITY,
        };
        Effect { transposition, metadata: self.metadata.clone(), ..Effect::default() }
    }
}
