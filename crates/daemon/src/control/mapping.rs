//! Entries of mapping tables: they come by the hundred thousand and are read without detours.

use std::fmt;
use std::net::IpAddr;

use lamina_api::Mac;
use lamina_api::wire::{read as wire, v1};
use lamina_core::address::MacAddr;
use lamina_core::resource::{Mapping, MappingKey};

use super::mistake::{Mistakes, mistake};

/// An entry as meant.
pub fn read(entry: &v1::MappingEntry) -> Result<(MappingKey, Mapping), Mistakes> {
    match quick(entry) {
        Some(meant) => Ok(meant),
        // The document's decoder says what is wrong with it.
        None => match wire::mapping_entry(entry) {
            Err(error) => Err(error.into()),
            Ok(_) => Err(mistake("bad-value", "the entry is not readable", "see its address and MAC").into()),
        },
    }
}

/// The name of the entry with `key` in references: its address, with its tenant where that is not 0.
pub struct EntryName<'a>(pub &'a MappingKey);

impl fmt::Display for EntryName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MappingKey { tenant, address } = self.0;
        match tenant {
            0 => write!(f, "{address}"),
            tenant => write!(f, "{address}@{tenant}"),
        }
    }
}

/// The key of the entry that references call `name`.
pub fn key_of(name: &str) -> Option<MappingKey> {
    let (address, tenant) = match name.split_once('@') {
        Some((address, tenant)) => (address, tenant.parse().ok()?),
        None => (name, 0),
    };
    Some(MappingKey { tenant, address: address.parse().ok()? })
}

fn quick(entry: &v1::MappingEntry) -> Option<(MappingKey, Mapping)> {
    let address: IpAddr = entry.address.parse().ok()?;
    let mac: Mac = entry.mac.parse().ok()?;
    let remote = match &entry.remote {
        Some(remote) => Some(remote.parse().ok()?),
        None => None,
    };
    let key = MappingKey { tenant: entry.tenant.unwrap_or(0), address };
    Some((key, Mapping { remote, mac: MacAddr(mac.0), tenant: entry.vni }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_way_reads_what_the_decoder_reads() {
        let entry = |address: &str, mac: &str, remote: Option<&str>, tenant: Option<u32>| v1::MappingEntry {
            address: address.into(),
            mac: mac.into(),
            remote: remote.map(str::to_string),
            tenant,
            vni: Some(7),
        };
        for good in [
            entry("10.0.0.2", "02:00:00:00:00:02", Some("192.168.1.2"), None),
            entry("fd00::2", "02:00:00:00:00:02", None, Some(9)),
        ] {
            let (key, mapping) = read(&good).unwrap();
            let name = EntryName(&key).to_string();
            let decoded = wire::mapping_entry(&good).unwrap().value;
            assert_eq!((key.tenant, key.address), (decoded.tenant, decoded.address.value));
            assert_eq!((mapping.mac.0, mapping.remote), (decoded.mac.0, decoded.remote));
            assert!(name.starts_with(&*good.address), "{name}");
            assert_eq!(key_of(&name), Some(key));
        }
        for bad in [
            entry("10.0.0", "02:00:00:00:00:02", None, None),
            entry("10.0.0.2", "", None, None),
            entry("10.0.0.2", "02:00:00:00:00:02", Some("x"), None),
        ] {
            assert!(!read(&bad).unwrap_err().is_empty(), "{bad:?}");
        }
    }
}
