//! Resources as written: mapping tables, target sets, prefix sets, meters; limits and those with names have their own
//! files.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{DnsTable, FieldName, LeaseTable, Limit, MAX_TABLE};
use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::Tree;
use crate::value::{Mac, Name};

/// All resources of a document, in the order written. They are shared with whoever converts them.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Mapping tables.
    pub mappings: Vec<Arc<Mapping>>,
    /// Target sets.
    pub targets: Vec<Arc<TargetSet>>,
    /// Prefix sets.
    pub prefixes: Vec<Arc<PrefixSet>>,
    /// Meters.
    pub meters: Vec<Arc<Meter>>,
    /// Lease tables.
    pub leases: Vec<Arc<LeaseTable>>,
    /// Tables of domain names.
    pub dns: Vec<Arc<DnsTable>>,
    /// Limits.
    pub limits: Vec<Arc<Limit>>,
}

/// A mapping table.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Its name.
    pub name: At<Name>,
    /// What happens to packets that need an entry which is not there.
    pub on_miss: OnMiss,
    /// How long the controller has to answer, in nanoseconds; `None` takes the default.
    pub answer_within: Option<At<u64>>,
    /// Its entries.
    pub entries: Vec<MappingEntry>,
}

/// What happens to packets that need an entry which is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnMiss {
    /// They are dropped.
    #[default]
    Drop,
    /// They are dropped, and the controller is told.
    Event,
    /// They wait until the controller has answered.
    Wait,
}

/// One entry of a mapping table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MappingEntry {
    /// The customer address, part of the key.
    pub address: At<IpAddr>,
    /// The tenant, part of the key; 0 in a table of one tenant.
    pub tenant: u32,
    /// The MAC of the customer address.
    pub mac: Mac,
    /// The physical address; `None` for an address that is only known for ARP and ND answers.
    pub remote: Option<IpAddr>,
    /// The tenant id to put into the tunnel; `None` leaves it to the rule.
    pub vni: Option<At<u32>>,
}

/// A target set.
#[derive(Clone, Debug)]
pub struct TargetSet {
    /// Its name.
    pub name: At<Name>,
    /// Its targets.
    pub targets: Vec<At<Target>>,
}

/// One target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where new conversations go.
    pub address: IpAddr,
    /// The port to rewrite to; `None` leaves it.
    pub port: Option<u16>,
    /// Share of new conversations; 0 takes none.
    pub weight: u32,
}

/// A prefix set (tag).
#[derive(Clone, Debug)]
pub struct PrefixSet {
    /// Its name.
    pub name: At<Name>,
    /// Its prefixes.
    pub prefixes: Vec<At<IpNet>>,
}

/// A meter.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Its name.
    pub name: At<Name>,
    /// What distinguishes cells.
    pub key: Vec<At<FieldName>>,
    /// The most cells; `None` takes the default.
    pub limit: Option<u32>,
    /// Which packets count.
    pub counts: MeterCounts,
}

/// Which packets a meter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MeterCounts {
    /// Every packet that reached the meter.
    #[default]
    Offered,
    /// Only packets that no layer blocked.
    Forwarded,
}

/// The shortest time that a controller can be given to answer, in nanoseconds,
const MIN_ANSWER: u64 = 10_000_000;
/// and the longest.
const MAX_ANSWER: u64 = 60_000_000_000;
/// The most targets of one set (a slot of the lookup table names its target in 16 bits).
const MAX_TARGETS: usize = 65_535;

impl Decoder<'_> {
    pub(super) fn resources(&mut self, tree: &Tree<'_>) -> Resources {
        let mut resources = Resources::default();
        const KNOWN: [&str; 7] = ["mappings", "targets", "prefixes", "meters", "leases", "dns", "limits"];
        let Some(fields) = self.fields(tree, "the resources", &KNOWN) else { return resources };
        if let Some(tree) = fields.optional("mappings") {
            for (name, tree) in self.named(tree, "the mapping tables") {
                resources.mappings.extend(self.mapping(name, tree).map(Arc::new));
            }
        }
        if let Some(tree) = fields.optional("targets") {
            for (name, tree) in self.named(tree, "the target sets") {
                resources.targets.push(Arc::new(self.target_set(name, tree)));
            }
        }
        if let Some(tree) = fields.optional("prefixes") {
            for (name, tree) in self.named(tree, "the prefix sets") {
                resources.prefixes.push(Arc::new(self.prefix_set(name, tree)));
            }
        }
        if let Some(tree) = fields.optional("meters") {
            for (name, tree) in self.named(tree, "the meters") {
                resources.meters.extend(self.meter(name, tree).map(Arc::new));
            }
        }
        if let Some(tree) = fields.optional("leases") {
            for (name, tree) in self.named(tree, "the lease tables") {
                resources.leases.push(Arc::new(self.lease_table(name, tree)));
            }
        }
        if let Some(tree) = fields.optional("dns") {
            for (name, tree) in self.named(tree, "the tables of domain names") {
                resources.dns.extend(self.dns_table(name, tree).map(Arc::new));
            }
        }
        if let Some(tree) = fields.optional("limits") {
            for (name, tree) in self.named(tree, "the limits") {
                resources.limits.extend(self.limit(name, tree).map(Arc::new));
            }
        }
        resources
    }

    pub(crate) fn prefix_set(&mut self, name: At<Name>, tree: &Tree<'_>) -> PrefixSet {
        let items = self.list(tree, "prefixes");
        PrefixSet { name, prefixes: items.iter().filter_map(|item| self.prefix(item)).collect() }
    }

    pub(crate) fn mapping(&mut self, name: At<Name>, tree: &Tree<'_>) -> Option<Mapping> {
        let fields = self.fields(tree, "a mapping table", &["entries", "on-miss", "answer-within"])?;
        let items = fields.optional("entries").map(|tree| self.list(tree, "entries")).unwrap_or_default();
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            entries.extend(self.mapping_entry(item));
        }
        let words = [("drop", OnMiss::Drop), ("event", OnMiss::Event), ("wait", OnMiss::Wait)];
        let on_miss =
            fields.optional("on-miss").and_then(|tree| self.word(tree, "what happens on a miss", &words));
        let on_miss = on_miss.map(|word| word.value).unwrap_or_default();
        let answer_within = fields.optional("answer-within").and_then(|tree| self.answer_within(tree));
        if let (Some(within), OnMiss::Drop) = (answer_within, on_miss) {
            let help = "write `on-miss: wait` or `on-miss: event` beside it, or leave it out";
            self.error(Code::Conflict, within.span, "nobody is asked where a miss drops", help);
        }
        Some(Mapping { name, on_miss, answer_within, entries })
    }

    fn answer_within(&mut self, tree: &Tree<'_>) -> Option<At<u64>> {
        let within = self.duration(tree)?;
        if !(MIN_ANSWER..=MAX_ANSWER).contains(&within.value) {
            self.error(
                Code::OutOfRange,
                within.span,
                "the time to answer is out of range",
                "give 10ms to 60s",
            );
            return None;
        }
        Some(within)
    }

    pub(crate) fn mapping_entry(&mut self, tree: &Tree<'_>) -> Option<MappingEntry> {
        let fields = self.fields(tree, "a mapping entry", &["address", "mac", "remote", "vni", "tenant"])?;
        let address = self.required(&fields, "address", "10.0.0.2").and_then(|tree| self.address(tree));
        let mac = self.required(&fields, "mac", "\"02:00:00:00:00:02\"").and_then(|tree| self.mac(tree));
        let remote = fields.optional("remote").and_then(|tree| self.address(tree));
        let vni = fields.optional("vni").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
        let tenant =
            fields.optional("tenant").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
        Some(MappingEntry {
            address: address?,
            tenant: tenant.map_or(0, |tenant| tenant.value),
            mac: mac?.value,
            remote: remote.map(|remote| remote.value),
            vni,
        })
    }

    pub(crate) fn target_set(&mut self, name: At<Name>, tree: &Tree<'_>) -> TargetSet {
        let items = self.list(tree, "targets");
        if let Some(first_too_many) = items.get(MAX_TARGETS) {
            let message = format!("`{}` has {} targets", name.value, items.len());
            self.error(
                Code::OutOfRange,
                first_too_many.span,
                message,
                format!("at most {MAX_TARGETS} are possible"),
            );
        }
        let targets = items.iter().filter_map(|item| self.target(item)).collect();
        TargetSet { name, targets }
    }

    fn target(&mut self, tree: &Tree<'_>) -> Option<At<Target>> {
        let fields = self.fields(tree, "a target", &["address", "port", "weight"])?;
        let address = self.required(&fields, "address", "10.1.0.4").and_then(|tree| self.address(tree));
        let port = fields.optional("port").and_then(|tree| self.unsigned::<u16>(tree, "a port", 1, u16::MAX));
        let weight =
            fields.optional("weight").and_then(|tree| self.unsigned::<u32>(tree, "a weight", 0, 65_535));
        let address = address?;
        let target = Target {
            address: address.value,
            port: port.map(|port| port.value),
            weight: weight.map_or(1, |weight| weight.value),
        };
        Some(At::new(target, address.span))
    }

    pub(crate) fn meter(&mut self, name: At<Name>, tree: &Tree<'_>) -> Option<Meter> {
        let fields = self.fields(tree, "a meter", &["key", "limit", "counts"])?;
        let items = fields.optional("key").map(|tree| self.one_or_list(tree)).unwrap_or_default();
        let key = items.iter().filter_map(|item| self.field_name(item)).collect();
        let limit = fields
            .optional("limit")
            .and_then(|tree| self.number(tree, "a meter's limit", 1..=MAX_TABLE))
            .map(|number| number.value as u32);
        let words = [("offered", MeterCounts::Offered), ("forwarded", MeterCounts::Forwarded)];
        let counts =
            fields.optional("counts").and_then(|tree| self.word(tree, "what a meter counts", &words));
        Some(Meter { name, key, limit, counts: counts.map(|word| word.value).unwrap_or_default() })
    }
}
