//! Hairpin: the packet turns round here (§3.5).
//!
//! Its walk ends, with the header changes made so far, and the full walk in the other direction begins, of the same
//! port or of a named one: what came inbound goes out as if the port's NIC had sent it, and what the NIC sent is
//! delivered to the inbound side of the named port, whatever its MAC says. Policy alone can so be a gateway or a
//! chain of services. The new walk begins with nothing but the packet; how often one packet may turn is bounded by
//! the switch.

use super::{ActionInput, Effect, Outcome};
use crate::switch::PortId;

/// End this walk and start the other direction's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hairpin {
    /// Whose walk starts; `None` for the same port's.
    pub port: Option<PortId>,
}

impl Hairpin {
    pub(super) fn process(&self, _input: &ActionInput<'_>) -> Effect {
        Effect { outcome: Outcome::Turn(self.port), ..Effect::default() }
    }
}
