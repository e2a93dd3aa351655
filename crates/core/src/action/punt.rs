//! Punt: the packet goes to the controller that owns the layer, as it stands there, and ends here (§3.5).
//!
//! The controller may send it on behind the layer, send another one, or nothing. Whether anybody listens, and how many
//! packets a port may send, is decided by the switch: the action only says what the controller is told.

use alloc::sync::Arc;

use super::{ActionInput, Effect, Outcome};

/// Send the packet to the controller that owns the layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Punt {
    /// What the controller is told with it.
    pub queue: Arc<str>,
    /// The most bytes of the frame that it gets.
    pub max_bytes: u32,
}

impl Punt {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect { outcome: Outcome::Punt(self.clone()), ..Effect::default() }
    }
}
