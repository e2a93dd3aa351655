//! Mapping tables: customer address to physical address, with MAC and tenant id (VL2's directory, §6): as declared,
//! and what can be changed of the live ones.

use core::fmt;
use core::net::IpAddr;

use hashbrown::HashMap;

use crate::address::MacAddr;
use crate::layer::Name;
use crate::time::Duration;

/// The most entries of one live table.
pub const MAX_MAPPINGS: usize = 1 << 20;
/// What is looked up: an address, within one tenant when the table spans several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MappingKey {
    /// Tenant id; 0 in a table that serves one tenant.
    pub tenant: u32,
    /// The customer address.
    pub address: IpAddr,
}

/// What is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The physical address to tunnel to; `None` for an address that is only known for ARP and ND answers.
    pub remote: Option<IpAddr>,
    /// The MAC of the customer address.
    pub mac: MacAddr,
    /// The tenant id to put into the tunnel; `None` leaves it to the rule.
    pub tenant: Option<u32>,
}

/// What happens to a packet that needs an entry which is not there, while somebody listens; without, it is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnMiss {
    /// It is dropped, and nobody is told.
    #[default]
    Drop,
    /// It is dropped, and the controller is told: once, until it answers or this time is over.
    Event(Duration),
    /// The controller is told so, and the packet waits for the answer, this long at most.
    Wait(Duration),
}

impl OnMiss {
    /// How long the controller has to answer; `None` when it is not asked.
    pub const fn patience(self) -> Option<Duration> {
        match self {
            OnMiss::Drop => None,
            OnMiss::Event(within) | OnMiss::Wait(within) => Some(within),
        }
    }
}

/// A table of mappings as policy declares it; a key that is absent is a miss.
#[derive(Clone, Debug)]
pub struct MappingTable {
    /// Unique on the port.
    pub name: Name,
    /// What happens to packets that miss.
    pub on_miss: OnMiss,
    entries: HashMap<MappingKey, Mapping, rapidhash::fast::RandomState>,
}

impl MappingTable {
    /// A table of `entries`; of equal keys the last one stays.
    pub fn new(name: Name, entries: impl IntoIterator<Item = (MappingKey, Mapping)>) -> Self {
        MappingTable { name, on_miss: OnMiss::Drop, entries: entries.into_iter().collect() }
    }

    /// The same with another [`OnMiss`].
    pub fn on_miss(self, on_miss: OnMiss) -> Self {
        MappingTable { on_miss, ..self }
    }

    /// The mapping of `key`.
    pub fn lookup(&self, key: &MappingKey) -> Option<&Mapping> {
        self.entries.get(key)
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no mapping.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All mappings, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&MappingKey, &Mapping)> {
        self.entries.iter()
    }
}

/// One change of a live table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingChange {
    /// The key maps to this from now on.
    Put(MappingKey, Mapping),
    /// The key is not mapped any more.
    Remove(MappingKey),
}

impl MappingChange {
    /// What is changed.
    pub const fn key(&self) -> &MappingKey {
        match self {
            MappingChange::Put(key, _) | MappingChange::Remove(key) => key,
        }
    }
}

/// What a batch of changes did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MappingUpdate {
    /// Keys that were not mapped before.
    pub added: usize,
    /// Keys that mapped to something else before.
    pub replaced: usize,
    /// Keys that are not mapped any more.
    pub removed: usize,
    /// Changes that found the table as they wanted it.
    pub unchanged: usize,
}

impl MappingUpdate {
    /// True when nothing changed.
    pub const fn is_empty(&self) -> bool {
        self.added + self.replaced + self.removed == 0
    }
}

/// Why a mapping table was not changed. Nothing was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingError {
    /// No table has this name; create it, or publish a policy that names it, first.
    NoSuchTable,
    /// The table would have more than [`MAX_MAPPINGS`] entries; remove some, or use another table for a part of them.
    TooMany,
    /// A port's policy names the table; publish policies without it first.
    InUse,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MappingError::NoSuchTable => f.write_str(
                "there is no mapping table of this name; create it, or publish a policy that names it, first",
            ),
            MappingError::TooMany => write!(
                f,
                "the mapping table would have more than {MAX_MAPPINGS} entries; remove some, or use another table for a part of them"
            ),
            MappingError::InUse => {
                f.write_str("a port's policy names the mapping table; publish policies without it first")
            }
        }
    }
}

impl core::error::Error for MappingError {}
