//! Mapping tables that change while packets flow (§6): the switch's calls for whoever fills them.
//!
//! A table exists while a port's policy names it, or from [`Switch::replace_mapping`] to [`Switch::remove_mapping`].
//! A change that names a key which is asked for is the answer, whatever it says: the packets that wait for it enter
//! again with the next [`Switch::resume`]. To remove a key that is not there says that there is no such mapping.

use super::Switch;
use super::resume::Reason;
use crate::resource::{LiveMapping, MappingChange, MappingError, MappingTable, MappingUpdate};

impl Switch {
    /// Carries out `changes` of the mapping table `name` in order, all or none. Costs what is changed; no rule is
    /// compiled, and only flows that read one of the keys are resolved again.
    pub fn update_mapping(
        &mut self,
        name: &str,
        changes: &[MappingChange],
    ) -> Result<MappingUpdate, MappingError> {
        let (number, update) = self.mappings.update(name, changes)?;
        self.answer(number, changes);
        Ok(update)
    }

    /// Gives the mapping table of `content`'s name exactly that content. It is created where there is none, and
    /// stays until it is removed, whether or not a port names it.
    pub fn replace_mapping(&mut self, content: &MappingTable) -> Result<MappingUpdate, MappingError> {
        let replaced = self.mappings.replace(content)?;
        if replaced.has_other_misses {
            self.raise_generations();
        }
        self.answer(replaced.number, &replaced.changes);
        Ok(replaced.update)
    }

    /// Removes a mapping table that no port names.
    pub fn remove_mapping(&mut self, name: &str) -> Result<(), MappingError> {
        self.mappings.remove(name)?;
        self.answer_orphans();
        Ok(())
    }

    /// The mapping table `name` as rules read it.
    pub fn mapping(&self, name: &str) -> Option<&LiveMapping> {
        self.mappings.get(name)
    }

    /// What `changes` of table `number` name was asked for until now.
    pub(super) fn answer(&mut self, number: u32, changes: &[MappingChange]) {
        if self.misses.is_empty() {
            return;
        }
        for change in changes {
            let reason = match change {
                MappingChange::Put(..) => Reason::Answered,
                MappingChange::Remove(_) => Reason::Refused,
            };
            if let Some(charged) = self.misses.answer((number, *change.key()), reason, &mut self.entering) {
                self.discharge(charged);
            }
        }
    }

    /// What tables that are gone were asked for is not asked for any more.
    pub(super) fn answer_orphans(&mut self) {
        for key in self.misses.orphans(&self.mappings) {
            if let Some(charged) = self.misses.answer(key, Reason::Answered, &mut self.entering) {
                self.discharge(charged);
            }
        }
    }
}
