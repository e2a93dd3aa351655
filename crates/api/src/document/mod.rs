//! The policy document: what a person or a controller wrote, checked field by field.
//!
//! These types are policy *as written*: names are not resolved, the lists are in the order of the text, every
//! part knows its place. They know nothing of the switch. What the document means (which resource a name is,
//! whether two ports collide, whether a condition can hold) is decided by whoever converts it.

mod action;
mod condition;
mod field;
mod guard;
mod layer;
mod limit;
mod names;
mod resource;
mod respond;
mod transpose;
mod vlan;

pub use action::{
    Action, Affinity, Dscp, Encap, EncapKind, MapEncap, Mirror, MirrorTarget, Nat, NatTo, Punt, Tunnel,
};
pub use condition::{Condition, Scalar, Value};
pub use field::{FieldName, HeaderField, Scope, ValueKind};
pub use guard::Guard;
pub use layer::{ContextDirection, DefaultAction, Group, Layer, ReverseTunnel, Rule, Selection, Stateful};
pub use limit::{Limit, Limiter, Rate, RateUnit};
pub use names::{DnsData, DnsOwner, DnsRecord, DnsTable, LeaseEntry, LeaseTable, UnknownNames};
pub use resource::{
    Mapping, MappingEntry, Meter, MeterCounts, OnMiss, PrefixSet, Resources, Target, TargetSet,
};
pub use respond::{
    Dhcp, DhcpLease, DhcpOption, Dhcpv6, Dhcpv6Lease, MacSource, Preference, Prefix, Respond, Route,
    RouterAdvertisement,
};
pub use transpose::{HeaderOp, Level, Modify, Push, Ttl, VlanTag};
pub use vlan::{Vlan, VlanAction};

use ipnet::IpNet;

use crate::decode::Decoder;
use crate::diagnostic::{Code, Diagnostic, Report};
use crate::source::{At, Source, Span};
use crate::tree::{Node, Tree};
use crate::value::{Mac, Name};

/// The version of the document format that this build reads.
pub const VERSION: u32 = 1;

/// The most metadata keys that one document may declare.
pub const MAX_METADATA_KEYS: usize = 16;

/// The largest table limit that a document may ask for.
const MAX_TABLE: i64 = 16_777_216;

/// What one or more controllers ask of one host's ports.
#[derive(Clone, Debug)]
pub struct Document {
    /// The text, which every span belongs to.
    pub source: Source,
    /// The owner of layers that name none; `None` means "local".
    pub owner: Option<At<Name>>,
    /// Metadata keys.
    pub metadata: Vec<At<Name>>,
    /// Tables that rules refer to.
    pub resources: Resources,
    /// Ports that get multicast and broadcast which nobody answered; `None` when the document does not say.
    pub multicast: Option<Vec<At<Name>>>,
    /// The ports, in the order written.
    pub ports: Vec<Port>,
}

/// What is asked of one port.
#[derive(Clone, Debug)]
pub struct Port {
    /// The port's name, which also is its place.
    pub name: At<Name>,
    /// The guest's MAC; another document may state it instead.
    pub mac: Option<At<Mac>>,
    /// Tenant ids; another document may state them instead.
    pub tenants: Option<Vec<At<u32>>>,
    /// Largest frame without Ethernet header.
    pub mtu: Option<At<u32>>,
    /// What happens to frames that cannot be parsed.
    pub malformed: Option<At<Malformed>>,
    /// Sizes of the port's tables.
    pub limits: Option<At<Limits>>,
    /// The guest's addresses; another document may state them instead.
    pub addresses: Option<Vec<At<IpNet>>>,
    /// What the guest may not pretend to be.
    pub guard: Option<At<Guard>>,
    /// What the port is among VLANs.
    pub vlan: Option<At<Vlan>>,
    /// The layers, in the order written.
    pub layers: Vec<Layer>,
}

/// What a port does with frames that cannot be parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// They are dropped.
    Drop,
    /// They pass as opaque Ethernet frames.
    Pass,
}

/// Sizes of a port's tables; `None` takes the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Unified flows, both directions together.
    pub unified_flows: Option<u32>,
    /// Entries of the drop cache.
    pub drop_cache: Option<u32>,
    /// An idle unified flow ends after this, in nanoseconds.
    pub idle: Option<u64>,
}

/// Reads a policy document. `name` is what messages call it.
///
/// All mistakes that can be found are reported together, up to [`Report::LIMIT`].
pub fn parse(name: &str, text: &str) -> Result<Document, Report> {
    let source = Source::new(name, text);
    let tree = Tree::read(&source)?;
    let mut decoder = Decoder::new(&source);
    let document = decoder.document(&tree);
    decoder.report.sort();
    match document {
        Some(document) if decoder.report.is_empty() => Ok(document),
        _ => Err(decoder.report),
    }
}

impl Decoder<'_> {
    pub(crate) fn document(&mut self, tree: &Tree<'_>) -> Option<Document> {
        if tree.node == Node::Empty {
            let diagnostic =
                Diagnostic::error(Code::MissingField, self.source, Span::default(), "the document is empty");
            self.report.push(diagnostic.help("a policy starts with `version: 1`, then `ports:`"));
            return None;
        }
        // The other kind of files that people write: one error says so, not one for each of its fields.
        if Self::has_all(tree, &["links", "hosts"]) {
            let help = format!("`lamina lab check {}` checks it", self.source.name);
            let message = "this is a topology of a lab, not a policy document";
            self.error(Code::WrongType, Span::default(), message, help);
            return None;
        }
        const KNOWN: [&str; 6] = ["version", "owner", "metadata", "resources", "multicast", "ports"];
        let fields = self.fields(tree, "a policy document", &KNOWN)?;
        if let Some(version) = self.required(&fields, "version", "1")
            && let Some(number) = self.number(version, "the version", 0..=i64::MAX)
            && number.value != i64::from(VERSION)
        {
            let message = format!("version {} of the document format is not known", number.value);
            self.error(Code::OutOfRange, number.span, message, format!("this build reads version {VERSION}"));
        }
        let owner = fields.optional("owner").and_then(|tree| self.name(tree));
        let metadata = fields.optional("metadata").map(|tree| self.metadata(tree)).unwrap_or_default();
        let resources = fields.optional("resources").map(|tree| self.resources(tree)).unwrap_or_default();
        let multicast = fields.optional("multicast").map(|tree| self.names(tree, "port names"));
        let mut ports = Vec::new();
        if let Some(tree) = fields.optional("ports") {
            for (name, tree) in self.named(tree, "the ports") {
                ports.extend(self.port(name, tree));
            }
        }
        let source = self.source.clone();
        Some(Document { source, owner, metadata, resources, multicast, ports })
    }

    fn metadata(&mut self, tree: &Tree<'_>) -> Vec<At<Name>> {
        let keys = self.names(tree, "metadata keys");
        if let Some(first_too_many) = keys.get(MAX_METADATA_KEYS) {
            let message = format!("{} metadata keys are declared", keys.len());
            let help = format!("at most {MAX_METADATA_KEYS} are possible");
            self.error(Code::OutOfRange, first_too_many.span, message, help);
        }
        keys
    }

    /// A list of names, none twice.
    pub(crate) fn names(&mut self, tree: &Tree<'_>, what: &str) -> Vec<At<Name>> {
        let items = self.list(tree, what);
        let mut names: Vec<At<Name>> = Vec::with_capacity(items.len());
        for item in items {
            let Some(name) = self.name(item) else { continue };
            if let Some(first) = names.iter().find(|first| first.value == name.value) {
                let message = format!("`{}` is listed twice", name.value);
                let diagnostic = Diagnostic::error(Code::Duplicate, self.source, name.span, message);
                self.report
                    .push(diagnostic.also(self.source, first.span, "first listed here").help("remove one"));
                continue;
            }
            names.push(name);
        }
        names
    }

    pub(crate) fn port(&mut self, name: At<Name>, tree: &Tree<'_>) -> Option<Port> {
        const KNOWN: [&str; 9] =
            ["mac", "addresses", "guard", "vlan", "tenants", "mtu", "malformed", "limits", "layers"];
        let fields = self.fields(tree, "a port", &KNOWN)?;
        let mac = fields.optional("mac").and_then(|tree| self.port_mac(tree));
        let tenants = fields.optional("tenants").map(|tree| self.tenants(tree));
        let mtu = fields.optional("mtu").and_then(|tree| self.unsigned::<u32>(tree, "an MTU", 68, 65_535));
        let words = [("drop", Malformed::Drop), ("pass", Malformed::Pass)];
        let malformed = fields
            .optional("malformed")
            .and_then(|tree| self.word(tree, "what happens to malformed frames", &words));
        let limits = fields.optional("limits").and_then(|tree| self.limits(tree));
        let addresses = fields.optional("addresses").map(|tree| self.port_addresses(tree));
        let addresses = addresses.filter(|addresses| !addresses.is_empty());
        let guard = fields.optional("guard").and_then(|tree| self.guard(tree));
        let vlan = fields.optional("vlan").and_then(|tree| self.port_vlan(tree));
        let mut layers = Vec::new();
        if let Some(tree) = fields.optional("layers") {
            for layer in self.list(tree, "layers") {
                layers.extend(self.layer(layer));
            }
        }
        Some(Port { name, mac, tenants, mtu, malformed, limits, addresses, guard, vlan, layers })
    }

    fn port_mac(&mut self, tree: &Tree<'_>) -> Option<At<Mac>> {
        let mac = self.mac(tree)?;
        let problem = match mac.value.0 {
            [0, 0, 0, 0, 0, 0] => "the zero MAC is no address of a port",
            [first, ..] if first & 1 == 1 => "a multicast MAC is no address of a port",
            _ => return Some(mac),
        };
        self.error(
            Code::BadValue,
            mac.span,
            problem,
            "use a unicast address, for example `\"02:00:00:00:00:01\"`",
        );
        None
    }

    fn port_addresses(&mut self, tree: &Tree<'_>) -> Vec<At<IpNet>> {
        let mut addresses: Vec<At<IpNet>> = Vec::new();
        for item in self.one_or_list(tree) {
            let Some(address) = self.prefix(item) else { continue };
            if let Some(first) = addresses.iter().find(|first| first.value == address.value) {
                let message = format!("{} is listed twice", address.value);
                let diagnostic = Diagnostic::error(Code::Duplicate, self.source, address.span, message);
                self.report
                    .push(diagnostic.also(self.source, first.span, "first listed here").help("remove one"));
                continue;
            }
            addresses.push(address);
        }
        addresses
    }

    fn tenants(&mut self, tree: &Tree<'_>) -> Vec<At<u32>> {
        let items = self.list(tree, "tenant ids");
        let mut tenants: Vec<At<u32>> = Vec::new();
        for item in items {
            let Some(tenant) = self.unsigned::<u32>(item, "a tenant id", 0, 0x00ff_ffff) else { continue };
            if let Some(first) = tenants.iter().find(|first| first.value == tenant.value) {
                let message = format!("tenant {} is listed twice", tenant.value);
                let diagnostic = Diagnostic::error(Code::Duplicate, self.source, tenant.span, message);
                self.report
                    .push(diagnostic.also(self.source, first.span, "first listed here").help("remove one"));
                continue;
            }
            tenants.push(tenant);
        }
        tenants
    }

    fn limits(&mut self, tree: &Tree<'_>) -> Option<At<Limits>> {
        let fields = self.fields(tree, "a port's limits", &["unified-flows", "drop-cache", "idle"])?;
        let mut table = |name: &str, what: &str, least: i64| {
            let tree = fields.optional(name)?;
            self.number(tree, what, least..=MAX_TABLE).map(|number| number.value as u32)
        };
        let unified_flows = table("unified-flows", "the limit of unified flows", 2);
        let drop_cache = table("drop-cache", "the limit of the drop cache", 0);
        let idle = fields.optional("idle").and_then(|tree| self.duration(tree)).map(|idle| idle.value);
        Some(At::new(Limits { unified_flows, drop_cache, idle }, fields.head()))
    }
}
