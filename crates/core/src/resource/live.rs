//! Live mapping tables: what rules look up, changed in bulk while packets flow (§6, §11).
//!
//! Theory. Policy *declares* mapping tables; what rules read is one live replica per worker, shared by every port
//! whose policy names the table. A change touches only the entries it names. Cached answers notice it by *stamp*:
//! every effective change of any table takes the next number of one count, and an entry keeps the number of its own
//! last change. An answer remembers the entries that it read with their stamps ([`Dependency`]; 0 for an entry that
//! was not there), and the count at the time. While the count stands still the answer is right; when it moved, the
//! answer's own entries are looked at again, and only if one of them changed is it resolved anew. So a change costs
//! what it changes, whatever the number of ports and flows, and a flow that read other entries pays one look.
//!
//! A table is 64 small ones, chosen by hash, so that growing one never moves more than a 64th of the entries between
//! two packets.
//!
//! A publication must never undo what was pushed live: it brings about what changed *in the declaration* since the
//! last one, entry by entry, and leaves all else.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::{HashMap, HashTable, hash_table};

use super::{
    MAX_MAPPINGS, Mapping, MappingChange, MappingError, MappingId, MappingKey, MappingTable, MappingUpdate,
    OnMiss,
};
use crate::hash::{TableHasher, table_hasher};
use crate::layer::Name;

/// Small tables that one is made of.
const SHARDS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: MappingKey,
    mapping: Mapping,
    stamp: u64,
}

/// A mapping table as rules read it.
#[derive(Debug)]
pub struct LiveMapping {
    name: Name,
    shards: Box<[HashTable<Entry>]>,
    hasher: TableHasher,
    count: usize,
    on_miss: OnMiss,
    /// What the last publication declared.
    declared: Option<Arc<MappingTable>>,
    /// Ports whose policy names it.
    users: usize,
    /// It stays when no port names it any more.
    is_kept: bool,
}

impl LiveMapping {
    fn new(name: Name, hasher: TableHasher) -> Self {
        let shards = (0..SHARDS).map(|_| HashTable::new()).collect();
        LiveMapping {
            name,
            shards,
            hasher,
            count: 0,
            on_miss: OnMiss::Drop,
            declared: None,
            users: 0,
            is_kept: false,
        }
    }

    /// The table's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What happens to packets that miss.
    pub fn on_miss(&self) -> OnMiss {
        self.on_miss
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is no mapping.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The mapping of `key`.
    pub fn lookup(&self, key: &MappingKey) -> Option<&Mapping> {
        self.entry(key).map(|entry| &entry.mapping)
    }

    /// All mappings, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&MappingKey, &Mapping)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|entry| (&entry.key, &entry.mapping))
    }

    /// The shard of a hash: by bits that choose neither the place within it nor the tag there.
    fn shard(hash: u64) -> usize {
        (hash >> 32) as usize & (SHARDS - 1)
    }

    fn entry(&self, key: &MappingKey) -> Option<&Entry> {
        let hash = self.hasher.hash_one(key);
        self.shards[Self::shard(hash)].find(hash, |entry| entry.key == *key)
    }

    /// Carries out one change, which is number `stamp`. False when there was nothing to do.
    fn apply(&mut self, change: &MappingChange, stamp: u64, update: &mut MappingUpdate) -> bool {
        let hasher = self.hasher;
        let hash = hasher.hash_one(change.key());
        let shard = &mut self.shards[Self::shard(hash)];
        match *change {
            MappingChange::Put(key, mapping) => {
                let place = shard.entry(hash, |entry| entry.key == key, |entry| hasher.hash_one(entry.key));
                match place {
                    hash_table::Entry::Occupied(mut known) if known.get().mapping != mapping => {
                        *known.get_mut() = Entry { key, mapping, stamp };
                        update.replaced += 1;
                    }
                    hash_table::Entry::Occupied(_) => {
                        update.unchanged += 1;
                        return false;
                    }
                    hash_table::Entry::Vacant(vacant) => {
                        vacant.insert(Entry { key, mapping, stamp });
                        self.count += 1;
                        update.added += 1;
                    }
                }
            }
            MappingChange::Remove(key) => match shard.find_entry(hash, |entry| entry.key == key) {
                Ok(known) => {
                    known.remove();
                    self.count -= 1;
                    update.removed += 1;
                }
                Err(_) => {
                    update.unchanged += 1;
                    return false;
                }
            },
        }
        true
    }

    /// True when the table has room for what it has after `changes`.
    fn has_room(&self, changes: &[MappingChange]) -> bool {
        if self.count + changes.len() <= MAX_MAPPINGS {
            return true;
        }
        let mut after: HashMap<&MappingKey, bool, TableHasher> = HashMap::with_hasher(self.hasher);
        for change in changes {
            after.insert(change.key(), matches!(change, MappingChange::Put(..)));
        }
        let mut count = self.count;
        for (key, is_mapped) in after {
            match (self.entry(key).is_some(), is_mapped) {
                (false, true) => count += 1,
                (true, false) => count -= 1,
                _ => {}
            }
        }
        count <= MAX_MAPPINGS
    }

    /// What changed in the declaration.
    fn declared_changes(&self, declared: &Arc<MappingTable>) -> Vec<MappingChange> {
        let before = match &self.declared {
            Some(before) if Arc::ptr_eq(before, declared) => return Vec::new(),
            before => before.as_deref(),
        };
        let was = |key: &MappingKey| before.and_then(|before| before.lookup(key));
        let gone = before.into_iter().flat_map(|before| before.iter()).map(|(key, _)| *key);
        let gone = gone.filter(|key| declared.lookup(key).is_none()).map(MappingChange::Remove);
        let come = declared.iter().filter(|(key, mapping)| was(key) != Some(mapping));
        gone.chain(come.map(|(key, mapping)| MappingChange::Put(*key, *mapping))).collect()
    }
}

/// An entry that an answer relies on, as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dependency {
    table: u32,
    key: MappingKey,
    /// 0 for an entry that was not there.
    stamp: u64,
}

impl Dependency {
    pub(crate) const fn table(&self) -> u32 {
        self.table
    }

    pub(crate) const fn key(&self) -> &MappingKey {
        &self.key
    }

    /// The entry was not there.
    pub(crate) const fn is_absent(&self) -> bool {
        self.stamp == 0
    }
}

/// What [`LiveMappings::replace`] did.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) number: u32,
    pub(crate) update: MappingUpdate,
    pub(crate) changes: Vec<MappingChange>,
    /// What happens to packets that miss is not what it was.
    pub(crate) has_other_misses: bool,
}

/// The entries that a cached answer relies on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependencies {
    entries: Box<[Dependency]>,
    /// The count of changes up to which they are known to be as they were.
    seen: u64,
}

/// All live mapping tables of one worker.
#[derive(Debug)]
pub(crate) struct LiveMappings {
    tables: Vec<Option<LiveMapping>>,
    by_name: HashMap<Name, u32, TableHasher>,
    hasher: TableHasher,
    /// Effective changes so far.
    changes: u64,
}

impl LiveMappings {
    /// No tables; `seed` decides where their entries lie.
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = table_hasher(seed);
        LiveMappings { tables: Vec::new(), by_name: HashMap::with_hasher(hasher), hasher, changes: 0 }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&LiveMapping> {
        self.table(*self.by_name.get(name)?)
    }

    pub(crate) fn table(&self, number: u32) -> Option<&LiveMapping> {
        self.tables.get(number as usize)?.as_ref()
    }

    /// The name of a table.
    pub(crate) fn name(&self, number: u32) -> Name {
        self.table(number).map_or_else(|| Name::from(""), |table| table.name.clone())
    }

    fn table_mut(&mut self, number: u32) -> Option<&mut LiveMapping> {
        self.tables.get_mut(number as usize)?.as_mut()
    }

    fn find_or_insert(&mut self, name: &Name) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let table = Some(LiveMapping::new(name.clone(), self.hasher));
        let hole = self.tables.iter().position(Option::is_none);
        let number = hole.unwrap_or(self.tables.len());
        match hole {
            Some(hole) => self.tables[hole] = table,
            None => self.tables.push(table),
        }
        self.by_name.insert(name.clone(), number as u32);
        number as u32
    }

    fn remove_at(&mut self, number: u32) {
        if let Some(table) = self.tables.get_mut(number as usize).and_then(Option::take) {
            self.by_name.remove(&table.name);
        }
    }

    fn change(&mut self, number: u32, changes: &[MappingChange]) -> MappingUpdate {
        let mut update = MappingUpdate::default();
        let mut stamp = self.changes;
        let Some(table) = self.table_mut(number) else { return update };
        for change in changes {
            if table.apply(change, stamp + 1, &mut update) {
                stamp += 1;
            }
        }
        self.changes = stamp;
        update
    }

    /// Carries out `changes` in order, all or none.
    pub(crate) fn update(
        &mut self,
        name: &str,
        changes: &[MappingChange],
    ) -> Result<(u32, MappingUpdate), MappingError> {
        let number = *self.by_name.get(name).ok_or(MappingError::NoSuchTable)?;
        let has_room = self.table(number).is_some_and(|table| table.has_room(changes));
        if has_room { Ok((number, self.change(number, changes))) } else { Err(MappingError::TooMany) }
    }

    /// Gives the table of `content`'s name exactly that content, and keeps it until it is removed.
    pub(crate) fn replace(&mut self, content: &MappingTable) -> Result<Replaced, MappingError> {
        if content.len() > MAX_MAPPINGS {
            return Err(MappingError::TooMany);
        }
        let number = self.find_or_insert(&content.name);
        let Some(table) = self.table_mut(number) else { return Err(MappingError::NoSuchTable) };
        table.is_kept = true;
        let has_other_misses = core::mem::replace(&mut table.on_miss, content.on_miss) != content.on_miss;
        let gone = table.iter().map(|(key, _)| *key).filter(|key| content.lookup(key).is_none());
        let mut changes: Vec<MappingChange> = gone.map(MappingChange::Remove).collect();
        changes.extend(content.iter().map(|(key, mapping)| MappingChange::Put(*key, *mapping)));
        let update = self.change(number, &changes);
        Ok(Replaced { number, update, changes, has_other_misses })
    }

    /// Removes a table that no port names.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), MappingError> {
        let number = *self.by_name.get(name).ok_or(MappingError::NoSuchTable)?;
        if self.table(number).is_some_and(|table| table.users > 0) {
            return Err(MappingError::InUse);
        }
        self.remove_at(number);
        Ok(())
    }

    /// The first of `declared` that its live table would not have room for.
    pub(crate) fn without_room<'d>(&self, declared: &'d [Arc<MappingTable>]) -> Option<&'d MappingTable> {
        let fits = |declared: &Arc<MappingTable>| match self.get(&declared.name) {
            Some(table) => table.has_room(&table.declared_changes(declared)),
            None => declared.len() <= MAX_MAPPINGS,
        };
        declared.iter().find(|declared| !fits(declared)).map(|declared| &**declared)
    }

    /// Makes a port a user of the tables of `declared`, and brings about what changed in the declaration; there is
    /// room for it. Returns their numbers, by [`MappingId`], and the changes that were made.
    pub(crate) fn bind(&mut self, declared: &[Arc<MappingTable>]) -> (Vec<u32>, Vec<(u32, MappingChange)>) {
        let mut all = Vec::new();
        let mut numbers = Vec::with_capacity(declared.len());
        for declared in declared {
            let number = self.find_or_insert(&declared.name);
            if let Some(table) = self.table_mut(number) {
                table.users += 1;
                let changes = table.declared_changes(declared);
                table.on_miss = declared.on_miss;
                table.declared = Some(Arc::clone(declared));
                self.change(number, &changes);
                all.extend(changes.into_iter().map(|change| (number, change)));
            }
            numbers.push(number);
        }
        (numbers, all)
    }

    /// Ends what [`LiveMappings::bind`] began; a table that nobody uses any more goes, unless it is kept.
    pub(crate) fn unbind(&mut self, numbers: &[u32]) {
        for number in numbers {
            let Some(table) = self.table_mut(*number) else { continue };
            table.users = table.users.saturating_sub(1);
            if table.users == 0 && !table.is_kept {
                self.remove_at(*number);
            }
        }
    }

    /// The entry that `lookup` read through `numbers`, as it is now.
    pub(crate) fn dependency(&self, numbers: &[u32], lookup: &Lookup) -> Option<Dependency> {
        let table = *numbers.get(lookup.mapping.0 as usize)?;
        let stamp = self.stamp(table, &lookup.key);
        Some(Dependency { table, key: lookup.key, stamp })
    }

    fn stamp(&self, table: u32, key: &MappingKey) -> u64 {
        self.table(table).and_then(|table| table.entry(key)).map_or(0, |entry| entry.stamp)
    }

    /// True while the entry is as it was.
    pub(crate) fn is_current(&self, dependency: &Dependency) -> bool {
        self.stamp(dependency.table, &dependency.key) == dependency.stamp
    }
}

impl Dependencies {
    /// What an answer resolved now relies on.
    pub(crate) fn new(entries: &[Dependency], live: &LiveMappings) -> Self {
        Dependencies { entries: entries.into(), seen: live.changes }
    }

    /// True while all entries are as they were.
    #[inline]
    pub(crate) fn are_current(&self, live: &LiveMappings) -> bool {
        self.entries.is_empty()
            || self.seen == live.changes
            || self.entries.iter().all(|entry| live.is_current(entry))
    }

    /// Notes that all entries are as they were.
    #[inline]
    pub(crate) fn confirm(&mut self, live: &LiveMappings) {
        self.seen = live.changes;
    }
}

/// An entry that an action read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lookup {
    /// The table.
    pub mapping: MappingId,
    /// The key.
    pub key: MappingKey,
}

/// The live tables as the rules of one port see them: by [`MappingId`].
#[derive(Clone, Copy, Debug)]
pub struct Mappings<'a> {
    live: &'a LiveMappings,
    numbers: &'a [u32],
}

impl<'a> Mappings<'a> {
    pub(crate) fn new(live: &'a LiveMappings, numbers: &'a [u32]) -> Self {
        Mappings { live, numbers }
    }

    /// What `lookup` finds.
    pub fn find(&self, lookup: &Lookup) -> Option<&'a Mapping> {
        self.live.table(*self.numbers.get(lookup.mapping.0 as usize)?)?.lookup(&lookup.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::MacAddr;
    use core::net::{IpAddr, Ipv4Addr};

    fn key(number: u32) -> MappingKey {
        MappingKey { tenant: 0, address: IpAddr::V4(Ipv4Addr::from_bits(number)) }
    }

    fn mapping(last: u8) -> Mapping {
        Mapping { remote: None, mac: MacAddr([2, 0, 0, 0, 0, last]), tenant: None }
    }

    fn put(number: u32, last: u8) -> MappingChange {
        MappingChange::Put(key(number), mapping(last))
    }

    fn declared(entries: &[(u32, u8)]) -> Arc<MappingTable> {
        let entries = entries.iter().map(|(number, last)| (key(*number), mapping(*last)));
        Arc::new(MappingTable::new("blue".into(), entries))
    }

    fn tables() -> LiveMappings {
        LiveMappings::new(1)
    }

    fn content(live: &LiveMappings) -> Vec<(u32, u8)> {
        let mut all: Vec<(u32, u8)> = live
            .get("blue")
            .into_iter()
            .flat_map(|table| table.iter())
            .map(|(key, mapping)| match key.address {
                IpAddr::V4(v4) => (v4.to_bits(), mapping.mac.0[5]),
                IpAddr::V6(_) => unreachable!(),
            })
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_publication_changes_what_changed_in_it_and_leaves_what_was_pushed() {
        let mut live = tables();
        let (numbers, _) = live.bind(&[declared(&[(1, 1), (2, 2)])]);
        let pushed = [put(3, 3), put(2, 9), MappingChange::Remove(key(1))];
        let (_, update) = live.update("blue", &pushed).unwrap();
        assert_eq!(update, MappingUpdate { added: 1, replaced: 1, removed: 1, unchanged: 0 });
        // The same again: nothing comes back that was removed, nothing goes that was pushed.
        let (again, _) = live.bind(&[declared(&[(1, 1), (2, 2)])]);
        live.unbind(&numbers);
        assert_eq!(content(&live), [(2, 9), (3, 3)]);
        let (last, _) = live.bind(&[declared(&[(2, 4), (5, 5)])]);
        live.unbind(&again);
        assert_eq!(content(&live), [(2, 4), (3, 3), (5, 5)]);
        live.unbind(&last);
        assert!(live.get("blue").is_none(), "a table that nobody names goes");
    }

    #[test]
    fn a_created_table_stays_and_is_not_removed_while_in_use() {
        let mut live = tables();
        live.replace(&declared(&[(1, 1)])).unwrap();
        let (numbers, _) = live.bind(&[declared(&[])]);
        assert_eq!(live.remove("blue"), Err(MappingError::InUse));
        live.unbind(&numbers);
        assert_eq!(content(&live), [(1, 1)]);
        let update = live.replace(&declared(&[(2, 2)])).unwrap().update;
        assert_eq!(update, MappingUpdate { added: 1, replaced: 0, removed: 1, unchanged: 0 });
        assert_eq!(live.remove("blue"), Ok(()));
        assert_eq!(live.update("blue", &[]).err(), Some(MappingError::NoSuchTable));
    }

    #[test]
    fn an_answer_notices_changes_of_its_own_entries_only() {
        let mut live = tables();
        let (numbers, _) = live.bind(&[declared(&[(1, 1)])]);
        let of = |live: &LiveMappings, number| {
            let lookup = Lookup { mapping: MappingId(0), key: key(number) };
            Dependencies::new(&[live.dependency(&numbers, &lookup).unwrap()], live)
        };
        let (present, absent) = (of(&live, 1), of(&live, 2));
        live.update("blue", &[put(3, 3), put(1, 1)]).unwrap();
        assert!(present.are_current(&live) && absent.are_current(&live));
        live.update("blue", &[put(2, 2)]).unwrap();
        assert!(present.are_current(&live) && !absent.are_current(&live));
        live.update("blue", &[MappingChange::Remove(key(2)), put(1, 4)]).unwrap();
        assert!(!present.are_current(&live) && absent.are_current(&live));
        live.update("blue", &[put(1, 1)]).unwrap();
        assert!(!present.are_current(&live), "what was and what is again are two entries");
    }

    #[test]
    fn a_full_table_takes_exchanges_and_refuses_more_whole() {
        let mut live = tables();
        let fill: Vec<MappingChange> = (0..MAX_MAPPINGS as u32).map(|number| put(number, 1)).collect();
        live.replace(&declared(&[])).unwrap();
        assert_eq!(live.update("blue", &fill).unwrap().1.added, MAX_MAPPINGS);
        assert_eq!(live.update("blue", &[put(0, 2), put(u32::MAX, 1)]).err(), Some(MappingError::TooMany));
        assert_eq!(live.get("blue").unwrap().lookup(&key(0)), Some(&mapping(1)), "nothing was changed");
        assert!(live.without_room(&[declared(&[(u32::MAX, 1)])]).is_some());
        let exchange = [MappingChange::Remove(key(0)), put(u32::MAX, 1), put(1, 7)];
        let (_, update) = live.update("blue", &exchange).unwrap();
        assert_eq!(update, MappingUpdate { added: 1, replaced: 1, removed: 1, unchanged: 0 });
    }
}
