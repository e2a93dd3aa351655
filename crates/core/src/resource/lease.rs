//! Lease tables: which addresses a client has, by its MAC, for DHCP answers on ports with many clients behind them.

use alloc::boxed::Box;
use core::net::{Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;

use crate::address::MacAddr;
use crate::layer::Name;

/// What one client has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// Its IPv4 address, for DHCP.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, for DHCPv6.
    pub v6: Option<Ipv6Addr>,
    /// Its name.
    pub host_name: Option<Box<str>>,
}

/// A table of leases; a MAC that is absent has none.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    /// Unique on the port.
    pub name: Name,
    entries: HashMap<MacAddr, Lease, rapidhash::fast::RandomState>,
}

impl LeaseTable {
    /// A table of `entries`; of equal MACs the last one stays.
    pub fn new(name: Name, entries: impl IntoIterator<Item = (MacAddr, Lease)>) -> Self {
        LeaseTable { name, entries: entries.into_iter().collect() }
    }

    /// What the client at `mac` has.
    pub fn lookup(&self, mac: MacAddr) -> Option<&Lease> {
        self.entries.get(&mac)
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no client.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
