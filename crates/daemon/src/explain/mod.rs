//! A trace for people and programs: as a tree of text, and as JSON.
//!
//! The daemon renders the traces of its running ports, `lamina trace` those of policy files; both say the same. The
//! core's trace holds meaning; names of fields, resources and ports come from the policy that ran. Nothing here
//! judges a packet: which rules a packet missed is read again from that policy.

pub mod decode;
mod json;
mod names;
mod render;
mod why;

pub use json::frame as json_frame;
pub use json::trace as json;
pub use names::Names;
pub use render::trace as text;
pub use why::{Missed, Place, dropped_by, missed};

use lamina_core::layer::Policy;

use crate::convert::PortIds;

/// What a rendering must know of the ports that a trace crosses.
pub trait PortPolicies {
    /// The policy that runs on the port called `name`; `None` for an uplink.
    fn policy_of(&self, name: &str) -> Option<&Policy>;
    /// Numbers and names of ports.
    fn ids(&self) -> &PortIds;
}
