//! Where policy is kept: an embedded database, so that what was acknowledged is there after any crash.
//!
//! It holds objects as controllers asked for them, by [`Key`], and nothing that can be made from them. A transaction
//! of the API is one transaction here: it is written while it is checked, and committed (with the disk's word that it
//! is there) or given up whole.

use std::ops::Bound;
use std::path::Path;

use lamina_api::wire::v1;
use prost::Message;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::key::Key;

const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const PORT_IDS: TableDefinition<'_, &str, u32> = TableDefinition::new("port-ids");

/// The number under which the revision is kept.
const REVISION: &str = "revision";
/// The number under which the version of the store's form is kept.
const FORM: &str = "form";
/// The form that this build writes. A build refuses a form that it does not know.
const CURRENT_FORM: u64 = 1;

/// The database.
pub struct Store {
    database: Database,
}

/// A transaction that is being made. Dropped without [`Write::commit`] it leaves nothing.
pub struct Write {
    transaction: WriteTransaction,
}

/// The objects within a transaction.
pub struct Objects<'w> {
    table: Table<'w, &'static [u8], &'static [u8]>,
}

/// Why the store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// The database says so; the disk may be full or broken.
    Database(Box<redb::Error>),
    /// It was written by another build, in this form.
    Form(u64),
    /// An object is not readable.
    Object(Key),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Database(error) => write!(f, "the policy store failed: {error}"),
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

impl Store {
    /// Opens the store in `path`, or makes it.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        Store::prepare(Database::create(path)?)
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
                Some(CURRENT_FORM) => {}
                Some(other) => return Err(StoreError::Form(other)),
                None => {
                    numbers.insert(FORM, CURRENT_FORM)?;
                }
            }
        }
        write.commit()?;
        Ok(Store { database })
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
    pub fn write(&self) -> Result<Write, StoreError> {
        Ok(Write { transaction: self.database.begin_write()? })
    }
}

impl Write {
    /// The objects, to read and change.
    pub fn objects(&self) -> Result<Objects<'_>, StoreError> {
        Ok(Objects { table: self.transaction.open_table(OBJECTS)? })
    }

    /// Keeps the number of a port.
    pub fn put_port_id(&self, name: &str, id: u32) -> Result<(), StoreError> {
        self.transaction.open_table(PORT_IDS)?.insert(name, id)?;
        Ok(())
    }

    /// Makes it last; when this returns, it is on the disk.
    pub fn commit(mut self, revision: u64) -> Result<(), StoreError> {
        self.transaction.open_table(NUMBERS)?.insert(REVISION, revision)?;
        self.transaction.set_durability(Durability::Immediate)?;
        self.transaction.commit()?;
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
        self.table.insert(key.bytes(), object.encode_to_vec().as_slice())?;
        Ok(())
    }

    /// Removes the object with `key`.
    pub fn remove(&mut self, key: &Key) -> Result<(), StoreError> {
        self.table.remove(key.bytes())?;
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
