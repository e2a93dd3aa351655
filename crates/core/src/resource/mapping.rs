//! Mapping tables: customer address to physical address, with MAC and tenant id (VL2's directory, §6).

use core::net::IpAddr;

use hashbrown::HashMap;

use crate::address::MacAddr;
use crate::layer::Name;

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

/// A table of mappings; a key that is absent is a miss.
#[derive(Clone, Debug)]
pub struct MappingTable {
    /// Unique on the port.
    pub name: Name,
    entries: HashMap<MappingKey, Mapping, rapidhash::fast::RandomState>,
}

impl MappingTable {
    /// A table of `entries`; of equal keys the last one stays.
    pub fn new(name: Name, entries: impl IntoIterator<Item = (MappingKey, Mapping)>) -> Self {
        MappingTable { name, entries: entries.into_iter().collect() }
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
