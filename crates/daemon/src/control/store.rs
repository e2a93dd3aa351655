//! Where policy is kept: an embedded database, so that what was acknowledged is there after any crash.
//!
//! It holds objects as controllers asked for them, by [`Key`], and nothing that can be made from them. A transaction
//! of the API is one transaction here: it is written while it is checked, and committed (with the disk's word that it
//! is there) or given up whole. What lasts of a small one is first its record in the [`Journal`], of a large one the
//! database itself.

use std::cell::RefCell;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lamina_api::wire::v1;
use prost::Message;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use tracing::warn;

use super::batch::Batch;
use super::journal::{Edit, Edits, Journal, JournalError};
use super::key::Key;

const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const PORT_IDS: TableDefinition<'_, &str, u32> = TableDefinition::new("port-ids");

/// The number under which the revision is kept.
const REVISION: &str = "revision";
/// The number under which the version of the store's form is kept.
const FORM: &str = "form";
/// The form that this build writes. A build refuses a form that it does not know.
const CURRENT_FORM: u64 = 2;
/// The form before, and of one whose journal could not be made yet; it is taken over.
const FORM_WITHOUT_JOURNAL: u64 = 1;

/// New objects between two that are there, below which a walk from one place to the next is not worth it;
const SHORT_RUN: usize = 16;
/// after so many in a row,
const SHORT_RUNS: usize = 4;
/// so many objects are put one by one.
const SINGLES: usize = 512;

/// The database.
pub struct Store {
    database: Database,
    /// None when nothing is to last.
    journal: Option<Mutex<Journal>>,
}

/// A transaction that is being made. Dropped without [`Write::commit`] it leaves nothing.
pub struct Write<'s> {
    transaction: WriteTransaction,
    store: &'s Store,
    edits: RefCell<Edits>,
}

/// The objects within a transaction.
pub struct Objects<'w> {
    table: Table<'w, &'static [u8], &'static [u8]>,
    edits: &'w RefCell<Edits>,
}

/// Why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The database says so; the disk may be full or broken.
    Database(Box<redb::Error>),
    /// Its journal cannot be used.
    Journal(JournalError),
    /// A transaction failed, and its record in the journal could not be voided: the next start may carry it out.
    Unknown(Box<StoreError>, std::io::Error),
    /// It was written by another build, in this form.
    Form(u64),
    /// An object is not readable.
    Object(Key),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Database(error) => write!(f, "the policy store failed: {error}"),
            StoreError::Journal(error) => write!(f, "the journal of the policy store failed: {error}"),
            StoreError::Unknown(error, void) => write!(
                f,
                "{error}; its record in the journal could not be voided either ({void}), so whether it is in force after the next \
                 start of the daemon is unknown: look then, and say it again"
            ),
            StoreError::Form(form) => write!(
                f,
                "the policy store has form {form}, this build knows {CURRENT_FORM}: use the build that wrote it, or begin \
                 with an empty state directory"
            ),
            StoreError::Object(key) => write!(
                f,
                "{} in the policy store is not readable: restore the state directory from a copy",
                super::key::display(&key.reference())
            ),
        }
    }
}

impl std::error::Error for StoreError {}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        StoreError::Database(Box::new(error.into()))
    }
}

/// What goes wrong while the journal is opened.
struct Redo(StoreError);

impl From<JournalError> for Redo {
    fn from(error: JournalError) -> Self {
        Redo(StoreError::Journal(error))
    }
}

impl Store {
    /// Opens the store in `path`, or makes it.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let mut store = Store::prepare(Database::create(path)?)?;
        let known = store.revision()?;
        let mut redone = 0;
        let redo = |revision, edits: &[Edit<'_>]| {
            redone += 1;
            store.redo(revision, edits).map_err(Redo)
        };
        let opened = Journal::open(&path.with_extension("journal"), known, redo);
        if let Some(journal) = opened.map_err(|Redo(error)| error)? {
            store.journal = Some(Mutex::new(journal));
            store.set_current_form()?;
        }
        if redone > 0 {
            store.checkpoint()?;
        }
        Ok(store)
    }

    /// There is a journal: from now on a build that does not know of it must not open this.
    fn set_current_form(&self) -> Result<(), StoreError> {
        let write = self.database.begin_write()?;
        let before = write.open_table(NUMBERS)?.insert(FORM, CURRENT_FORM)?.map(|form| form.value());
        match before {
            Some(CURRENT_FORM) => write.abort()?,
            _ => write.commit()?,
        }
        Ok(())
    }

    /// Carries a transaction of the journal out again.
    fn redo(&self, revision: u64, edits: &[Edit<'_>]) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut port_ids = transaction.open_table(PORT_IDS)?;
            for edit in edits {
                match edit {
                    Edit::Put(key, value) => drop(objects.insert(*key, *value)?),
                    Edit::Remove(key) => drop(objects.remove(*key)?),
                    Edit::PortId(name, id) => {
                        port_ids.insert(&*String::from_utf8_lossy(name), *id)?;
                    }
                }
            }
            transaction.open_table(NUMBERS)?.insert(REVISION, revision)?;
        }
        transaction.set_durability(Durability::None)?;
        transaction.commit()?;
        Ok(())
    }

    /// Has the database write to the disk what only the journal has there. Good to do when nobody waits.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let Some(mut journal) = self.journal() else { return Ok(()) };
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.commit()?;
        journal.begin_anew();
        Ok(())
    }

    /// True when it takes no transaction any more, until it is opened again: it failed to write. To be called without a
    /// transaction.
    pub fn is_broken(&self) -> bool {
        self.database.begin_write().is_err()
    }

    /// True when a [checkpoint](Store::checkpoint) would do something.
    pub fn needs_checkpoint(&self) -> bool {
        self.journal().is_some_and(|journal| journal.is_needed())
    }

    fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        self.journal.as_ref().map(|journal| journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A store that ends with the process: for labs and tests.
    pub fn in_memory() -> Result<Store, StoreError> {
        Store::prepare(Database::builder().create_with_backend(InMemoryBackend::new())?)
    }

    fn prepare(database: Database) -> Result<Store, StoreError> {
        let write = database.begin_write()?;
        {
            write.open_table(OBJECTS)?;
            write.open_table(PORT_IDS)?;
            let mut numbers = write.open_table(NUMBERS)?;
            let form = numbers.get(FORM)?.map(|form| form.value());
            match form {
                Some(CURRENT_FORM | FORM_WITHOUT_JOURNAL) => {}
                Some(other) => return Err(StoreError::Form(other)),
                None => {
                    numbers.insert(FORM, FORM_WITHOUT_JOURNAL)?;
                }
            }
        }
        write.commit()?;
        Ok(Store { database, journal: None })
    }

    /// The revision of the last transaction that changed something.
    pub fn revision(&self) -> Result<u64, StoreError> {
        let numbers = self.database.begin_read()?.open_table(NUMBERS)?;
        Ok(numbers.get(REVISION)?.map_or(0, |revision| revision.value()))
    }

    /// The ports' numbers, by name.
    pub fn port_ids(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let ids = self.database.begin_read()?.open_table(PORT_IDS)?;
        let ids = ids.iter()?.map(|entry| {
            let (name, id) = entry?;
            Ok((name.value().to_string(), id.value()))
        });
        ids.collect()
    }

    /// Calls `visit` with every object whose key starts with `prefix`, in the order of keys, until it returns false.
    pub fn scan(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(Key, v1::Object) -> bool,
    ) -> Result<(), StoreError> {
        let objects = self.database.begin_read()?.open_table(OBJECTS)?;
        for entry in objects.range(prefix..)? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let key = Key::from_bytes(key.value());
            let object = decode(&key, value.value())?;
            if !visit(key, object) {
                break;
            }
        }
        Ok(())
    }

    /// Up to `limit` objects whose keys start with `prefix` and come after `after`, in the order of keys.
    pub fn slice(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, v1::Object)>, StoreError> {
        let objects = self.database.begin_read()?.open_table(OBJECTS)?;
        let start = after.map_or(Bound::Included(prefix), |after| Bound::Excluded(after.bytes()));
        let mut found = Vec::new();
        for entry in objects.range::<&[u8]>((start, Bound::Unbounded))? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) || found.len() == limit {
                break;
            }
            let key = Key::from_bytes(key.value());
            let object = decode(&key, value.value())?;
            found.push((key, object));
        }
        Ok(found)
    }

    /// Begins a transaction.
    pub fn write(&self) -> Result<Write<'_>, StoreError> {
        Ok(Write { transaction: self.database.begin_write()?, store: self, edits: RefCell::default() })
    }
}

impl Write<'_> {
    /// The objects, to read and change.
    pub fn objects(&self) -> Result<Objects<'_>, StoreError> {
        Ok(Objects { table: self.transaction.open_table(OBJECTS)?, edits: &self.edits })
    }

    /// Keeps the number of a port.
    pub fn put_port_id(&self, name: &str, id: u32) -> Result<(), StoreError> {
        self.transaction.open_table(PORT_IDS)?.insert(name, id)?;
        self.edits.borrow_mut().add(Edit::PortId(name.as_bytes(), id));
        Ok(())
    }

    /// Makes it last; when this returns, it is on the disk. After an error it is not, unless that says otherwise.
    pub fn commit(self, revision: u64) -> Result<(), StoreError> {
        let store = self.store;
        let mut journal = store.journal();
        let Err(error) = self.commit_with(journal.as_deref_mut(), revision) else { return Ok(()) };
        match journal.map_or(Ok(()), |mut journal| journal.void()) {
            Ok(()) => Err(error),
            Err(void) => Err(StoreError::Unknown(Box::new(error), void)),
        }
    }

    /// Does so with `journal`, in which its record may be left after an error.
    fn commit_with(mut self, mut journal: Option<&mut Journal>, revision: u64) -> Result<(), StoreError> {
        self.transaction.open_table(NUMBERS)?.insert(REVISION, revision)?;
        if let Some(journal) = &mut journal {
            match journal.write(revision, &self.edits.borrow()) {
                Ok(true) => {
                    self.transaction.set_durability(Durability::None)?;
                    self.transaction.commit()?;
                    journal.keep();
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => warn!("the journal of the policy store failed, it does without: {error}"),
            }
        }
        self.transaction.set_durability(Durability::Immediate)?;
        self.transaction.commit()?;
        if let Some(journal) = journal {
            journal.begin_anew();
        }
        Ok(())
    }

    /// Gives it up.
    pub fn abort(self) -> Result<(), StoreError> {
        self.transaction.abort()?;
        Ok(())
    }
}

impl Objects<'_> {
    /// The object with `key`.
    pub fn get(&self, key: &Key) -> Result<Option<v1::Object>, StoreError> {
        self.table.get(key.bytes())?.map(|value| decode(key, value.value())).transpose()
    }

    /// Puts `object`, whose reference is `key`.
    pub fn put(&mut self, key: &Key, object: &v1::Object) -> Result<(), StoreError> {
        let value = object.encode_to_vec();
        self.table.insert(key.bytes(), value.as_slice())?;
        self.edits.borrow_mut().add(Edit::Put(key.bytes(), &value));
        Ok(())
    }

    /// Puts what `batch` has at `place`, in the stead of what may be there.
    pub fn put_of(&mut self, batch: &Batch, place: usize) -> Result<(), StoreError> {
        let (key, value) = batch.entry(place);
        self.table.insert(key, value)?;
        self.edits.borrow_mut().add(Edit::Put(key, value));
        Ok(())
    }

    /// Puts those objects of `batch` whose keys are not there yet, the first of several with one key, and tells for each
    /// whether it was put. Does so in the order of keys, with one walk through the table.
    pub fn put_new(&mut self, batch: &Batch) -> Result<Vec<bool>, StoreError> {
        let mut is_new = vec![false; batch.len()];
        let order = batch.order();
        let mut rest = &order[..];
        let mut bound: Vec<u8> = Vec::new();
        let mut edits = self.edits.borrow_mut();
        let mut short_runs = 0;
        while let Some(first) = rest.first() {
            if short_runs == SHORT_RUNS {
                // Between so many that are there a walk costs more than it saves.
                let (now, later) = rest.split_at(rest.len().min(SINGLES));
                for at in now {
                    let (key, value) = batch.entry(*at);
                    if self.table.get(key)?.is_none() {
                        self.table.insert(key, value)?;
                        edits.add(Edit::Put(key, value));
                        is_new[*at] = true;
                    }
                }
                (rest, short_runs) = (later, SHORT_RUNS - 1);
                continue;
            }
            let mut cursor = self.table.lower_bound_mut(Bound::Included(batch.key(*first)))?;
            // What fits before the next key that is there goes in without looking again.
            bound.clear();
            let is_bounded = match cursor.peek_next()? {
                Some((key, _)) => {
                    bound.extend_from_slice(key.value());
                    true
                }
                None => false,
            };
            let run = match is_bounded {
                true => rest.partition_point(|at| batch.key(*at) < &bound[..]),
                false => rest.len(),
            };
            for at in &rest[..run] {
                let (key, value) = batch.entry(*at);
                cursor.insert_before(key, value)?;
                edits.add(Edit::Put(key, value));
                is_new[*at] = true;
            }
            cursor.close()?;
            short_runs = if run < SHORT_RUN { short_runs + 1 } else { 0 };
            rest = &rest[run..];
            if rest.first().is_some_and(|at| batch.key(*at) == bound) {
                rest = &rest[1..];
            }
        }
        Ok(is_new)
    }

    /// Removes the object with `key`.
    pub fn remove(&mut self, key: &Key) -> Result<(), StoreError> {
        self.table.remove(key.bytes())?;
        self.edits.borrow_mut().add(Edit::Remove(key.bytes()));
        Ok(())
    }

    /// The objects whose keys start with `prefix`, in the order of keys.
    pub fn range(&self, prefix: &[u8]) -> Result<Vec<(Key, v1::Object)>, StoreError> {
        let mut found = Vec::new();
        for entry in self.table.range(prefix..)? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let key = Key::from_bytes(key.value());
            let object = decode(&key, value.value())?;
            found.push((key, object));
        }
        Ok(found)
    }

    /// The keys that start with `prefix`, in order.
    pub fn keys(&self, prefix: &[u8]) -> Result<Vec<Key>, StoreError> {
        let mut found = Vec::new();
        for entry in self.table.range(prefix..)? {
            let (key, _) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push(Key::from_bytes(key.value()));
        }
        Ok(found)
    }
}

/// The object in `bytes`. Its reference is its key and is not kept twice.
fn decode(key: &Key, bytes: &[u8]) -> Result<v1::Object, StoreError> {
    v1::Object::decode(bytes).map_err(|_| StoreError::Object(key.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn object(revision: u64) -> v1::Object {
        v1::Object { revision, ..v1::Object::default() }
    }

    fn batch(objects: &[(Key, v1::Object)]) -> Batch {
        let mut batch = Batch::default();
        objects.iter().for_each(|(key, object)| batch.add(key, object));
        batch
    }

    /// Numbers below a bound.
    fn dice() -> impl FnMut(u64) -> u64 {
        let mut seed = 7_u64;
        move |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        }
    }

    fn all(store: &Store) -> BTreeMap<Key, u64> {
        let mut found = BTreeMap::new();
        store
            .scan(b"", |key, object| {
                found.insert(key, object.revision);
                true
            })
            .unwrap();
        found
    }

    #[test]
    fn a_store_that_ends_at_any_moment_has_every_transaction_again() {
        let parent = std::env::temp_dir().join(format!("lamina-store-{}", std::process::id()));
        let folder = |name: &str| {
            let folder = parent.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let (lives, copied) = (folder("lives"), folder("copied"));
        let mut store = Store::open(&lives.join("policy.redb")).unwrap();
        let (mut known, mut random) = (BTreeMap::new(), dice());
        for revision in 1..=120 {
            let write = store.write().unwrap();
            {
                let mut objects = write.objects().unwrap();
                // Mostly small ones; a large one is not for the journal.
                let count = if random(20) == 0 { 3_000 } else { random(30) };
                let put: Vec<(Key, v1::Object)> = (0..count)
                    .map(|_| (Key::from_bytes(&random(5_000).to_be_bytes()), object(revision)))
                    .collect();
                let (bulk, single) = put.split_at(put.len() / 2);
                let bulk_batch = batch(bulk);
                let is_new = objects.put_new(&bulk_batch).unwrap();
                for (place, ((key, object), is_new)) in bulk.iter().zip(is_new).enumerate() {
                    if is_new || place % 3 == 0 {
                        known.insert(key.clone(), object.revision);
                    }
                    if place % 3 == 0 {
                        objects.put_of(&bulk_batch, place).unwrap();
                    }
                }
                for (key, object) in single {
                    objects.put(key, object).unwrap();
                    known.insert(key.clone(), object.revision);
                }
                for _ in 0..random(5) {
                    let key = Key::from_bytes(&random(5_000).to_be_bytes());
                    objects.remove(&key).unwrap();
                    known.remove(&key);
                }
            }
            write.put_port_id("vm", revision as u32).unwrap();
            write.commit(revision).unwrap();
            if random(40) == 0 {
                store.checkpoint().unwrap();
                assert!(!store.needs_checkpoint());
            }
            if random(8) == 0 {
                // As the disk is when the process is killed now.
                for file in ["policy.redb", "policy.journal"] {
                    std::fs::copy(lives.join(file), copied.join(file)).unwrap();
                }
                let copy = Store::open(&copied.join("policy.redb")).unwrap();
                assert_eq!(copy.revision().unwrap(), revision);
                assert_eq!(copy.port_ids().unwrap(), [("vm".to_string(), revision as u32)]);
                assert_eq!(all(&copy), known);
                assert!(!copy.needs_checkpoint(), "a second crash finds it done");
            }
            if random(20) == 0 {
                drop(store);
                store = Store::open(&lives.join("policy.redb")).unwrap();
                assert_eq!((store.revision().unwrap(), all(&store)), (revision, known.clone()));
            }
        }
        drop(store);
        std::fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn a_store_of_the_form_before_is_taken_over_and_a_later_one_refused() {
        let folder = std::env::temp_dir().join(format!("lamina-forms-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("policy.redb");
        let set_form = |form: u64| {
            let database = Database::create(&path).unwrap();
            let write = database.begin_write().unwrap();
            write.open_table(NUMBERS).unwrap().insert(FORM, form).unwrap();
            write.commit().unwrap();
        };
        set_form(FORM_WITHOUT_JOURNAL);
        assert_eq!(Store::open(&path).unwrap().revision().unwrap(), 0);
        set_form(CURRENT_FORM);
        assert!(Store::open(&path).is_ok());
        set_form(CURRENT_FORM + 1);
        assert!(matches!(Store::open(&path), Err(StoreError::Form(form)) if form == CURRENT_FORM + 1));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_store_does_without_a_journal_until_one_can_be_made() {
        let folder = std::env::temp_dir().join(format!("lamina-without-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("policy.redb");
        let form = |store: &Store| {
            let numbers = store.database.begin_read().unwrap().open_table(NUMBERS).unwrap();
            numbers.get(FORM).unwrap().map(|form| form.value())
        };
        let commit = |store: &Store, revision| store.write().unwrap().commit(revision).unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.join("policy.journal")).unwrap();
        let store = Store::open(&path).unwrap();
        assert!(store.journal.is_none());
        assert_eq!(form(&store), Some(FORM_WITHOUT_JOURNAL), "a build before this one could open it");
        commit(&store, 1);
        drop(store);
        std::fs::remove_file(folder.join("policy.journal")).unwrap();
        let store = Store::open(&path).unwrap();
        commit(&store, 2);
        assert!(store.needs_checkpoint());
        assert_eq!((store.revision().unwrap(), form(&store)), (2, Some(CURRENT_FORM)));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_new_is_put_in_one_walk_and_what_is_there_stays() {
        let store = Store::in_memory().unwrap();
        let mut known: BTreeMap<Key, u64> = BTreeMap::new();
        let mut random = dice();
        for round in 1..=60 {
            let write = store.write().unwrap();
            {
                let mut objects = write.objects().unwrap();
                // Dense and sparse, with some that are there and some that come twice.
                let range = [20, 3_000, 1_000_000][round as usize % 3];
                let put: Vec<(Key, v1::Object)> = (0..random(400))
                    .map(|number| {
                        let key = format!("a long name in front of {}", random(range)).into_bytes();
                        (Key::from_bytes(&key), object(round * 1_000 + number))
                    })
                    .collect();
                let is_new = objects.put_new(&batch(&put)).unwrap();
                for ((key, object), is_new) in put.iter().zip(is_new) {
                    assert_eq!(is_new, !known.contains_key(key), "{key:?}");
                    known.entry(key.clone()).or_insert(object.revision);
                }
                // As single operations of the same transaction do.
                for _ in 0..random(20) {
                    let key = format!("a long name in front of {}", random(3_000));
                    let key = Key::from_bytes(key.as_bytes());
                    objects.remove(&key).unwrap();
                    known.remove(&key);
                }
            }
            write.commit(round).unwrap();
        }
        let found = all(&store);
        assert!(found.len() > 1_000, "{}", found.len());
        assert_eq!(found, known);
    }
}
