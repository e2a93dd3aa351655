//! Mapping tables as they live (§6), kept as plainly as can be: sorted maps, and with every entry the number of the
//! change that made it, so that a pair or a remembered flow can ask whether what it read is still the same.

use std::collections::BTreeMap;

use lamina_core::layer::Name;
use lamina_core::resource::{Mapping, MappingChange, MappingKey, MappingTable, Resources};

/// All live tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    tables: BTreeMap<Name, Table>,
    changes: u64,
}

#[derive(Clone, Debug, Default)]
struct Table {
    declared: BTreeMap<MappingKey, Mapping>,
    entries: BTreeMap<MappingKey, (Mapping, u64)>,
    is_kept: bool,
}

/// An entry that was read, and by which change it was there; `None` when it was not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    table: Name,
    key: MappingKey,
    change: Option<u64>,
}

impl Tables {
    /// What a publication brings about: the difference to what the last one declared of the same table.
    pub(super) fn declare(&mut self, resources: &Resources) {
        for table in &resources.mappings {
            let wanted: BTreeMap<MappingKey, Mapping> = table.iter().map(|(key, to)| (*key, *to)).collect();
            let known = self.tables.entry(table.name.clone()).or_default();
            let before = std::mem::replace(&mut known.declared, wanted.clone());
            for key in before.keys().filter(|key| !wanted.contains_key(key)) {
                self.change(&table.name, &MappingChange::Remove(*key));
            }
            for (key, mapping) in wanted.iter().filter(|(key, mapping)| before.get(key) != Some(mapping)) {
                self.change(&table.name, &MappingChange::Put(*key, *mapping));
            }
        }
    }

    /// Forgets the tables that are not `wanted` and were not made on their own.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Name) -> bool) {
        self.tables.retain(|name, table| table.is_kept || wanted(name));
    }

    /// Makes one change; a table that does not exist cannot be changed.
    pub(super) fn change(&mut self, name: &Name, change: &MappingChange) {
        let Some(table) = self.tables.get_mut(name) else { return };
        let entries = &mut table.entries;
        let has_changed = match change {
            MappingChange::Put(key, mapping) if entries.get(key).is_none_or(|(is, _)| is != mapping) => {
                entries.insert(*key, (*mapping, self.changes + 1));
                true
            }
            MappingChange::Remove(key) => entries.remove(key).is_some(),
            MappingChange::Put(..) => false,
        };
        self.changes += u64::from(has_changed);
    }

    /// Gives a table exactly this content, and keeps it.
    pub(super) fn replace(&mut self, content: &MappingTable) {
        let table = self.tables.entry(content.name.clone()).or_default();
        table.is_kept = true;
        let gone: Vec<MappingKey> =
            table.entries.keys().filter(|key| content.lookup(key).is_none()).copied().collect();
        for key in gone {
            self.change(&content.name, &MappingChange::Remove(key));
        }
        for (key, mapping) in content.iter() {
            self.change(&content.name, &MappingChange::Put(*key, *mapping));
        }
    }

    /// Looks `key` up in the table that `declared` is the declaration of.
    pub(super) fn read(&self, declared: &MappingTable, key: MappingKey) -> (Option<Mapping>, Reading) {
        let found = self.tables.get(&declared.name).and_then(|table| table.entries.get(&key));
        let table = declared.name.clone();
        (found.map(|(mapping, _)| *mapping), Reading { table, key, change: found.map(|(_, change)| *change) })
    }

    /// True while the entry is as it was read.
    pub(super) fn is_as_read(&self, reading: &Reading) -> bool {
        let entry = self.tables.get(&reading.table).and_then(|table| table.entries.get(&reading.key));
        entry.map(|(_, change)| *change) == reading.change
    }
}
