//! Lease tables and tables of domain names: what is given twice or contradicts itself is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lamina_api::document::{self, DnsOwner, UnknownNames};
use lamina_api::{Code, Diagnostic, Source};
use lamina_core::address::MacAddr;
use lamina_core::packet::{DnsData, DnsName, DnsRecord, Unknown};
use lamina_core::resource::{DnsTable, Lease, LeaseTable};

use super::Converter;

impl Converter {
    pub(super) fn leases(&mut self, source: &Source, table: &document::LeaseTable) -> LeaseTable {
        let name = &table.name.value;
        self.repeated(
            source,
            table.entries.iter(),
            |entry| entry.mac,
            |entry| format!("`{name}` has two leases of {}", entry.mac),
        );
        let families: [fn(&document::LeaseEntry) -> Option<IpAddr>; 2] =
            [|entry| entry.v4.map(IpAddr::V4), |entry| entry.v6.map(IpAddr::V6)];
        for family in families {
            self.repeated(
                source,
                table.entries.iter().filter(|entry| family(&entry.value).is_some()),
                family,
                |entry| {
                    let address = family(entry).map(|address| address.to_string()).unwrap_or_default();
                    format!("`{name}` gives {address} to two clients")
                },
            );
        }
        let entries = table.entries.iter().map(|entry| {
            let entry = &entry.value;
            let host_name = entry.host_name.as_deref().map(Box::from);
            (MacAddr(entry.mac.0), Lease { v4: entry.v4, v6: entry.v6, host_name })
        });
        LeaseTable::new(name.clone(), entries)
    }

    pub(super) fn dns_table(&mut self, source: &Source, table: &document::DnsTable) -> DnsTable {
        // A name that is another name has no other records (RFC 1034 §3.6.2).
        let mut aliases = BTreeMap::new();
        for record in &table.records {
            if matches!(record.value.data, document::DnsData::Cname(_)) {
                aliases.entry(&record.value.owner).or_insert(record.span);
            }
        }
        let mut first = BTreeMap::new();
        for record in &table.records {
            let owner = &record.value.owner;
            let Some(earlier) = first.insert(owner, record.span) else { continue };
            if aliases.contains_key(owner) {
                let message = format!("`{}` is another name and has other records too", owner_text(owner));
                let diagnostic = Diagnostic::error(Code::Conflict, source, record.span, message);
                self.say(
                    diagnostic
                        .also(source, earlier, "first given here")
                        .help("keep the `cname` alone, or the others"),
                );
                break;
            }
        }
        let records = table.records.iter().filter_map(|record| {
            let record = &record.value;
            let owner = match &record.owner {
                DnsOwner::Name(name) => DnsName::from_text(name)?,
                DnsOwner::Address(address) => DnsName::reverse(*address),
            };
            let data = match &record.data {
                document::DnsData::Address(IpAddr::V4(address)) => DnsData::A(*address),
                document::DnsData::Address(IpAddr::V6(address)) => DnsData::Aaaa(*address),
                document::DnsData::Cname(name) => DnsData::Cname(DnsName::from_text(name)?),
                document::DnsData::Ptr(name) => DnsData::Ptr(DnsName::from_text(name)?),
                document::DnsData::Txt(text) => DnsData::Txt(text.as_str().into()),
            };
            Some((owner, DnsRecord { ttl_seconds: record.ttl, data }))
        });
        let unknown = match table.unknown {
            UnknownNames::NxDomain => Unknown::NxDomain,
            UnknownNames::Pass => Unknown::Pass,
        };
        DnsTable::new(table.name.value.clone(), unknown, records)
    }
}

fn owner_text(owner: &DnsOwner) -> String {
    match owner {
        DnsOwner::Name(name) => name.clone(),
        DnsOwner::Address(address) => address.to_string(),
    }
}
