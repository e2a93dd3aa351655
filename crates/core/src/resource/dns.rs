//! Tables of domain names, from which DNS queries are answered.
//!
//! Theory. A name is answered by its own records; a name that does not exist, by the wildcard of the nearest name
//! above it that exists (RFC 4592 §3.3.1: the closest encloser). Names are bytes as they stand in a message, where a
//! name's ancestors are its own suffixes, so each step up is a shorter slice and nothing is copied. Where the table
//! says that unknown names do not exist, a name above a known one exists without records of its own (RFC 8020); where
//! unknown names pass, it is unknown like any other, since somebody else may know it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::layer::Name;
use crate::packet::{DnsName, DnsRecord, DnsSource, Unknown};

type Names = HashMap<Box<[u8]>, Vec<DnsRecord>, rapidhash::fast::RandomState>;

/// A table of names.
#[derive(Clone, Debug)]
pub struct DnsTable {
    /// Unique on the port.
    pub name: Name,
    unknown: Unknown,
    names: Names,
    /// The records of `*.NAME`, by NAME.
    wildcards: Names,
}

/// The label of a wildcard, as it stands in a message.
const STAR: &[u8] = b"\x01*";

impl DnsTable {
    /// A table of `records`. A name whose first label is `*` stands for every name below what follows it that does not
    /// exist.
    pub fn new(
        name: Name,
        unknown: Unknown,
        records: impl IntoIterator<Item = (DnsName, DnsRecord)>,
    ) -> Self {
        let mut table = DnsTable { name, unknown, names: Names::default(), wildcards: Names::default() };
        for (name, record) in records {
            let wire = name.as_wire();
            if unknown == Unknown::NxDomain {
                for above in ancestors(wire) {
                    table.names.entry(above.into()).or_default();
                }
            }
            let (names, wire) = match wire.strip_prefix(STAR) {
                Some(above) => (&mut table.wildcards, above),
                None => (&mut table.names, wire),
            };
            names.entry(wire.into()).or_default().push(record);
        }
        table
    }

    /// How many names have records of their own, wildcards included.
    pub fn len(&self) -> usize {
        self.names.values().chain(self.wildcards.values()).filter(|records| !records.is_empty()).count()
    }

    /// True when no name has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl DnsSource for DnsTable {
    fn records(&self, name: &[u8]) -> Option<&[DnsRecord]> {
        if let Some(records) = self.names.get(name) {
            return Some(records);
        }
        for above in ancestors(name) {
            if let Some(records) = self.wildcards.get(above) {
                return Some(records);
            }
            if self.names.contains_key(above) {
                return None;
            }
        }
        None
    }

    fn unknown(&self) -> Unknown {
        self.unknown
    }
}

/// The names above `name`, nearest first, the root apart.
fn ancestors(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let up = |name: &&'_ [u8]| -> Option<usize> { Some(1 + *name.first()? as usize) };
    let mut rest = name;
    core::iter::from_fn(move || {
        rest = rest.get(up(&rest)?..).filter(|above| above.len() > 1)?;
        Some(rest)
    })
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::{String, ToString};
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::DnsData;

    fn record(number: u8) -> DnsRecord {
        DnsRecord { ttl_seconds: 60, data: DnsData::A([10, 0, 0, number].into()) }
    }

    fn table(unknown: Unknown, names: &[&str]) -> DnsTable {
        let records = names.iter().zip(1..).map(|(name, n)| (DnsName::from_text(name).unwrap(), record(n)));
        DnsTable::new("t".into(), unknown, records)
    }

    fn ask(table: &DnsTable, name: &str) -> Option<Vec<DnsRecord>> {
        table.records(DnsName::from_text(name).unwrap().as_wire()).map(<[_]>::to_vec)
    }

    #[test]
    fn a_wildcard_answers_for_names_that_do_not_exist_below_its_own() {
        let table = table(Unknown::NxDomain, &["*.lan", "a.lan", "c.b.lan", "*.x.y.lan"]);
        assert_eq!(table.len(), 4);
        assert_eq!(ask(&table, "A.LAN"), Some(vec![record(2)]));
        assert_eq!(ask(&table, "z.lan"), Some(vec![record(1)]), "by the wildcard");
        assert_eq!(ask(&table, "z.z.lan"), Some(vec![record(1)]), "at any depth");
        assert_eq!(ask(&table, "z.a.lan"), None, "a.lan exists and has no wildcard");
        assert_eq!(ask(&table, "b.lan"), Some(vec![]), "above c.b.lan");
        assert_eq!(ask(&table, "z.x.y.lan"), Some(vec![record(4)]));
        assert_eq!(ask(&table, "lan"), Some(vec![]));
        assert_eq!(ask(&table, "com"), None);
    }

    #[test]
    fn a_name_above_a_known_one_is_somebody_elses_where_unknown_names_pass() {
        let table = table(Unknown::Pass, &["a.example.com", "*.apps.lan"]);
        assert_eq!(ask(&table, "example.com"), None);
        assert_eq!(ask(&table, "x.apps.lan"), Some(vec![record(2)]));
        assert_eq!(ask(&table, "apps.lan"), None);
    }

    /// RFC 4592 by lists of labels: every name that exists is written down, the longest existing ancestor is searched.
    fn slow(names: &[String], asked: &str) -> Option<Vec<DnsRecord>> {
        let mut existing: BTreeMap<String, Vec<DnsRecord>> = BTreeMap::new();
        for (name, number) in names.iter().zip(1..) {
            let labels: Vec<&str> = name.split('.').collect();
            for skip in 0..labels.len() {
                existing.entry(labels[skip..].join(".")).or_default();
            }
            existing.get_mut(name).unwrap().push(record(number));
        }
        if let Some(found) = existing.get(asked) {
            return Some(found.clone());
        }
        let labels: Vec<&str> = asked.split('.').collect();
        let encloser =
            (1..labels.len()).map(|skip| labels[skip..].join(".")).find(|n| existing.contains_key(n))?;
        existing.get(&["*", &encloser].join(".")).cloned()
    }

    proptest! {
        #[test]
        fn lookup_is_that_of_the_closest_encloser(
            names in proptest::collection::vec("([ab*]\\.)?([ab]\\.){0,2}[ab]", 0..6),
            asked in "([abc]\\.){0,3}[ab]",
        ) {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let references: Vec<&str> = names.iter().map(String::as_str).collect();
            let table = table(Unknown::NxDomain, &references);
            prop_assert_eq!(ask(&table, &asked), slow(&names, &asked));
        }
    }
}
