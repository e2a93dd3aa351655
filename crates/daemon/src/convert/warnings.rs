//! Warnings of the core about a policy that is legal but probably not meant: shadowed rules, blocks that a later
//! group overrides (§7). The core names layer, group and rule; here they get their place in the text.

use super::ports::MergedPort;
use super::{Converter, PortPolicy};

impl Converter {
    /// Adds what the core says about the policy of each port.
    pub(super) fn core_warnings(&mut self, _ports: &[PortPolicy], _merged: &[MergedPort<'_>]) {}
}
