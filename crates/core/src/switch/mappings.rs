//! Mapping tables that change while packets flow (§6): the switch's calls for whoever fills them.
//!
//! A table exists while a port's policy names it, or from [`Switch::replace_mapping`] to [`Switch::remove_mapping`].

use super::Switch;
use crate::resource::{LiveMapping, MappingChange, MappingError, MappingTable, MappingUpdate};

impl Switch {
    /// Carries out `changes` of the mapping table `name` in order, all or none. Costs what is changed; no rule is
    /// compiled, and only flows that read one of the keys are resolved again.
    pub fn update_mapping(
        &mut self,
        name: &str,
        changes: &[MappingChange],
    ) -> Result<MappingUpdate, MappingError> {
        self.mappings.update(name, changes)
    }

    /// Gives the mapping table of `content`'s name exactly that content. It is created where there is none, and
    /// stays until it is removed, whether or not a port names it.
    pub fn replace_mapping(&mut self, content: &MappingTable) -> Result<MappingUpdate, MappingError> {
        self.mappings.replace(content).map(|(update, _)| update)
    }

    /// Removes a mapping table that no port names.
    pub fn remove_mapping(&mut self, name: &str) -> Result<(), MappingError> {
        self.mappings.remove(name)
    }

    /// The mapping table `name` as rules read it.
    pub fn mapping(&self, name: &str) -> Option<&LiveMapping> {
        self.mappings.get(name)
    }
}
