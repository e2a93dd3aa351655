//! Resources of all documents: what each name is, and its number.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use lamina_api::document::{self, MAX_METADATA_KEYS, MeterCounts as WrittenCounts};
use lamina_api::{At, Code, Diagnostic, Document, Source};
use lamina_core::address::MacAddr;
use lamina_core::flow::Field;
use lamina_core::layer::Name;
use lamina_core::resource as core;
use lamina_core::time::Duration;

use super::{Converter, conditions};

/// The core's limit of a meter's cells where the document names none.
const DEFAULT_METER_LIMIT: usize = 4096;
/// How long a controller has to answer for a missing entry where the document does not say.
const DEFAULT_ANSWER: Duration = Duration::from_seconds(1);
/// The most buckets of a limit where the document names none.
const DEFAULT_BUCKETS: usize = 4096;

/// Every resource and metadata key, by name.
pub(super) struct Tables {
    pub(super) resources: Arc<core::Resources>,
    pub(super) metadata: Vec<Name>,
    pub(super) mappings: Named<document::Mapping>,
    pub(super) targets: Named<document::TargetSet>,
    pub(super) prefixes: Named<document::PrefixSet>,
    pub(super) meters: Named<document::Meter>,
    pub(super) leases: Named<document::LeaseTable>,
    pub(super) dns: Named<document::DnsTable>,
    pub(super) limits: Named<document::Limit>,
}

/// The resources of one kind: number, document and text of each, in the order of their numbers.
pub(super) struct Named<T> {
    numbers: HashMap<Name, u32>,
    written: Vec<(Source, Arc<T>)>,
}

impl<T> Named<T> {
    /// The number of `name`.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// What was written under number `number`.
    pub(super) fn written(&self, number: u32) -> Option<(&Source, &T)> {
        self.written.get(number as usize).map(|(source, item)| (source, &**item))
    }

    /// Every name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.numbers.keys().map(|name| &**name)
    }

    /// Collects the resources of one kind. Equal names in two documents are one resource if they are the same.
    fn collect(
        documents: &[Document],
        converter: &mut Converter,
        what: &str,
        read: impl Fn(&Document) -> &[Arc<T>],
        name: impl Fn(&T) -> &At<Name>,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut named = Named { numbers: HashMap::new(), written: Vec::new() };
        for document in documents {
            for item in read(document) {
                let at = name(item);
                let Some(number) = named.numbers.get(&at.value) else {
                    named.numbers.insert(at.value.clone(), named.written.len() as u32);
                    named.written.push((document.source.clone(), item.clone()));
                    continue;
                };
                let (source, first) = &named.written[*number as usize];
                if !Arc::ptr_eq(first, item) && !same(first, item) {
                    let message = format!("two documents declare different {what}s called `{}`", at.value);
                    let diagnostic = Diagnostic::error(Code::Conflict, &document.source, at.span, message);
                    let diagnostic = diagnostic.also(source, name(first).span, "also declared here");
                    converter.say(
                        diagnostic.help("rename one, or declare it in one document only: all can use it"),
                    );
                }
            }
        }
        named
    }
}

impl Tables {
    pub(super) fn collect(documents: &[Document], converter: &mut Converter) -> Self {
        let metadata = converter.metadata(documents);
        let mappings = Named::collect(
            documents,
            converter,
            "mapping table",
            |document| &document.resources.mappings,
            |mapping| &mapping.name,
            |a, b| {
                let on_miss = |mapping: &document::Mapping| {
                    (mapping.on_miss, mapping.answer_within.map(|within| within.value))
                };
                on_miss(a) == on_miss(b)
                    && same_items(&a.entries, &b.entries, |e| {
                        (e.tenant, e.address.value, e.mac, e.remote, e.vni.map(|v| v.value))
                    })
            },
        );
        let targets = Named::collect(
            documents,
            converter,
            "target set",
            |document| &document.resources.targets,
            |set| &set.name,
            |a, b| same_items(&a.targets, &b.targets, |t| (t.value.address, t.value.port, t.value.weight)),
        );
        let prefixes = Named::collect(
            documents,
            converter,
            "prefix set",
            |document| &document.resources.prefixes,
            |set| &set.name,
            |a, b| same_items(&a.prefixes, &b.prefixes, |p| p.value),
        );
        let meters = Named::collect(
            documents,
            converter,
            "meter",
            |document| &document.resources.meters,
            |meter| &meter.name,
            |a, b| {
                let key = |meter: &document::Meter| -> Vec<_> {
                    meter.key.iter().map(|f| f.value.clone()).collect()
                };
                a.limit == b.limit && a.counts == b.counts && key(a) == key(b)
            },
        );
        let leases = Named::collect(
            documents,
            converter,
            "lease table",
            |document| &document.resources.leases,
            |table| &table.name,
            |a, b| same_items(&a.entries, &b.entries, |entry| entry.value.clone()),
        );
        let dns = Named::collect(
            documents,
            converter,
            "table of domain names",
            |document| &document.resources.dns,
            |table| &table.name,
            |a, b| {
                a.unknown == b.unknown && same_items(&a.records, &b.records, |record| record.value.clone())
            },
        );
        let limits = Named::collect(
            documents,
            converter,
            "limit",
            |document| &document.resources.limits,
            |limit| &limit.name,
            |a, b| a.limit == b.limit && a.rate == b.rate && same_items(&a.key, &b.key, |f| f.value.clone()),
        );
        let mut resources = core::Resources::default();
        for (source, mapping) in &mappings.written {
            resources.mappings.push(Arc::new(converter.mapping_table(source, mapping)));
        }
        for (source, set) in &targets.written {
            resources.target_sets.push(Arc::new(converter.target_set(source, set)));
        }
        for (source, set) in &prefixes.written {
            resources.prefix_sets.push(Arc::new(converter.prefix_set(source, set)));
        }
        for (source, meter) in &meters.written {
            resources.meters.push(converter.meter(source, meter, &metadata));
        }
        for (source, table) in &leases.written {
            resources.lease_tables.push(Arc::new(converter.leases(source, table)));
        }
        for (source, table) in &dns.written {
            resources.dns_tables.push(Arc::new(converter.dns_table(source, table)));
        }
        for (source, limit) in &limits.written {
            resources.limits.push(converter.limit(source, limit, &metadata));
        }
        let resources = Arc::new(resources);
        Tables { resources, metadata, mappings, targets, prefixes, meters, leases, dns, limits }
    }
}

/// A rate as meant.
pub(super) fn rate(written: &document::Rate) -> core::Rate {
    let unit = match written.unit {
        document::RateUnit::Packets => core::RateUnit::Packets,
        document::RateUnit::Bytes => core::RateUnit::Bytes,
    };
    core::Rate { unit, per_second: written.per_second, burst: written.burst }
}

fn same_items<T, K: PartialEq>(a: &[T], b: &[T], key: impl Fn(&T) -> K) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

impl Converter {
    /// The metadata keys of all documents; a key that several declare is one key.
    fn metadata(&mut self, documents: &[Document]) -> Vec<Name> {
        let mut keys: Vec<Name> = Vec::new();
        for document in documents {
            for key in &document.metadata {
                if keys.contains(&key.value) {
                    continue;
                }
                if keys.len() == MAX_METADATA_KEYS {
                    let message =
                        format!("all documents together declare more than {MAX_METADATA_KEYS} metadata keys");
                    let help = "share keys between controllers, or do without some";
                    self.error(Code::OutOfRange, &document.source, key.span, message, help);
                    return keys;
                }
                keys.push(key.value.clone());
            }
        }
        keys
    }

    /// Reports the first repetition among `items`, for each key.
    pub(super) fn repeated<'i, T: 'i, K: Hash + Eq>(
        &mut self,
        source: &Source,
        items: impl Iterator<Item = &'i At<T>>,
        key: impl Fn(&T) -> K,
        message: impl Fn(&T) -> String,
    ) {
        let mut seen = HashMap::new();
        for item in items {
            if let Some(first) = seen.insert(key(&item.value), item.span) {
                let diagnostic = Diagnostic::error(Code::Duplicate, source, item.span, message(&item.value));
                self.say(diagnostic.also(source, first, "first given here").help("keep one of them"));
            }
        }
    }

    fn mapping_table(&mut self, source: &Source, mapping: &document::Mapping) -> core::MappingTable {
        let mut seen: HashMap<(u32, IpAddr), lamina_api::Span> =
            HashMap::with_capacity(mapping.entries.len());
        for entry in &mapping.entries {
            if let Some(first) = seen.insert((entry.tenant, entry.address.value), entry.address.span) {
                let message = match entry.tenant {
                    0 => format!("`{}` maps {} twice", mapping.name.value, entry.address.value),
                    tenant => format!(
                        "`{}` maps {} of tenant {tenant} twice",
                        mapping.name.value, entry.address.value
                    ),
                };
                let diagnostic = Diagnostic::error(Code::Duplicate, source, entry.address.span, message);
                self.say(diagnostic.also(source, first, "first mapped here").help("keep one of them"));
            }
        }
        let entries = mapping.entries.iter().map(|entry| {
            let key = core::MappingKey { tenant: entry.tenant, address: entry.address.value };
            let tenant = entry.vni.map(|vni| vni.value);
            (key, core::Mapping { remote: entry.remote, mac: MacAddr(entry.mac.0), tenant })
        });
        let within = mapping.answer_within.map_or(DEFAULT_ANSWER, |within| Duration(within.value));
        let on_miss = match mapping.on_miss {
            document::OnMiss::Drop => core::OnMiss::Drop,
            document::OnMiss::Event => core::OnMiss::Event(within),
            document::OnMiss::Wait => core::OnMiss::Wait(within),
        };
        core::MappingTable::new(mapping.name.value.clone(), entries).on_miss(on_miss)
    }

    fn target_set(&mut self, source: &Source, set: &document::TargetSet) -> core::TargetSet {
        let name = &set.name.value;
        self.repeated(
            source,
            set.targets.iter(),
            |t| (t.address, t.port),
            |target| match target.port {
                Some(port) => format!("`{name}` has the target {} port {port} twice", target.address),
                None => format!("`{name}` has the target {} twice", target.address),
            },
        );
        let other = set
            .targets
            .iter()
            .find(|target| target.value.address.is_ipv4() != set.targets[0].value.address.is_ipv4());
        if let Some(other) = other {
            let message = format!("`{name}` mixes IPv4 and IPv6 targets");
            let help = "a packet cannot change its family, so part of each family's packets would be dropped; use two sets";
            self.warn(Code::Conflict, source, other.span, message, help);
        }
        let targets = set.targets.iter().map(|target| core::Target {
            address: target.value.address,
            port: target.value.port,
            weight: target.value.weight,
        });
        core::TargetSet::new(name.clone(), targets.collect())
    }

    fn prefix_set(&mut self, source: &Source, set: &document::PrefixSet) -> core::PrefixSet {
        let name = &set.name.value;
        self.repeated(
            source,
            set.prefixes.iter(),
            |prefix| *prefix,
            |prefix| format!("`{name}` has {prefix} twice"),
        );
        core::PrefixSet::new(name.clone(), set.prefixes.iter().map(|prefix| prefix.value))
    }

    fn limit(&mut self, source: &Source, limit: &document::Limit, metadata: &[Name]) -> core::LimitSpec {
        core::LimitSpec {
            key: self.key(source, &limit.name, &limit.key, metadata),
            name: limit.name.value.clone(),
            buckets: limit.limit.map_or(DEFAULT_BUCKETS, |limit| limit as usize),
            rate: rate(&limit.rate),
        }
    }

    /// The key of the meter or limit called `name`.
    fn key(
        &mut self,
        source: &Source,
        name: &At<Name>,
        written: &[At<document::FieldName>],
        metadata: &[Name],
    ) -> Vec<Field> {
        self.repeated(
            source,
            written.iter(),
            |field| field.to_string(),
            |field| format!("the key of `{}` names `{field}` twice", name.value),
        );
        let key = written.iter().filter_map(|field| {
            let converted = conditions::field(&field.value, metadata);
            if converted.is_none() {
                self.missing_metadata(source, field, metadata);
            }
            converted
        });
        key.collect()
    }

    fn meter(&mut self, source: &Source, meter: &document::Meter, metadata: &[Name]) -> core::MeterSpec {
        core::MeterSpec {
            key: self.key(source, &meter.name, &meter.key, metadata),
            name: meter.name.value.clone(),
            limit: meter.limit.map_or(DEFAULT_METER_LIMIT, |limit| limit as usize),
            counts: match meter.counts {
                WrittenCounts::Offered => core::MeterCounts::Offered,
                WrittenCounts::Forwarded => core::MeterCounts::Forwarded,
            },
        }
    }
}
