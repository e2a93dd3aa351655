//! Which groups of a layer apply to a packet: an index over groups' conditions (§7).

use core::ops::ControlFlow;

use super::{Read, matches};
use crate::layer::Group;
use crate::resource::Resources;

/// An index over the conditions of a layer's groups of one direction.
#[derive(Clone, Debug, Default)]
pub struct GroupIndex;

impl GroupIndex {
    /// Compiles `groups`, in the order in which they are asked.
    pub fn build(_groups: &[Group]) -> GroupIndex {
        GroupIndex
    }

    /// Calls `visit` with the index of every group whose conditions hold, in order, until it breaks (a terminating
    /// rule was selected). `groups` are those it was built from.
    pub fn candidates(
        &self,
        groups: &[Group],
        packet: &impl Read,
        resources: &Resources,
        visit: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) {
        for (index, group) in groups.iter().enumerate() {
            if matches(&group.conditions, packet, resources) && visit(index).is_break() {
                return;
            }
        }
    }
}
