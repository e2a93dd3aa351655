//! Conversion: policy as written becomes policy as meant.
//!
//! Documents name things; the core numbers them. [`convert`] (one document) and [`merge`] (those of several
//! controllers for one host) resolve every name, sort what has an order, share rule lists that many ports carry
//! (§3.8), and refuse what cannot work: missing resources, two owners of one layer, two ports with one MAC,
//! addresses of the wrong family, header changes that no packet can take. What is legal but cannot be meant comes
//! back as warnings beside the result.
//!
//! It is all or nothing: with one error there is no policy. It changes nothing but the numbers in [`PortIds`],
//! which are never reused.

mod actions;
mod conditions;
mod generated;
mod guard;
mod holds;
mod layers;
mod names;
pub mod pieces;
mod ports;
mod resources;
mod responses;
mod transpositions;
mod vlan;
mod warnings;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lamina_api::{At, Code, Diagnostic, Document, Report, Source, Span};
use lamina_core::layer::{Name, Policy, Rule};
use lamina_core::switch::{PortConfig, PortId};

use layers::SharedRules;
use resources::Tables;

/// The name by which policy refers to the host's uplink (`ingress-port: uplink`).
pub const UPLINK: &str = "uplink";

/// What one host is asked to do: every port, and who gets unanswered multicast.
#[derive(Clone, Debug)]
pub struct HostPolicy {
    /// The ports, in order of their names.
    pub ports: Vec<PortPolicy>,
    /// Ports that get multicast and broadcast frames which no responder answered.
    pub multicast: Vec<PortId>,
}

impl HostPolicy {
    /// The port called `name`.
    pub fn port(&self, name: &str) -> Option<&PortPolicy> {
        let index = self.ports.binary_search_by(|port| (*port.config.name).cmp(name)).ok()?;
        self.ports.get(index)
    }
}

/// What one port is asked to do.
#[derive(Clone, Debug)]
pub struct PortPolicy {
    /// Its number.
    pub id: PortId,
    /// What the switch must know to make the port.
    pub config: PortConfig,
    /// Its layers.
    pub policy: Policy,
}

/// A policy, and what in it is probably not meant.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The policy.
    pub policy: HostPolicy,
    /// Warnings only.
    pub warnings: Report,
}

/// The numbers of ports: chosen when a name is first seen, kept from then on, never reused. The uplink is 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortIds {
    ids: BTreeMap<Arc<str>, PortId>,
    next: u32,
}

impl Default for PortIds {
    fn default() -> Self {
        PortIds { ids: BTreeMap::from([(UPLINK.into(), PortId(0))]), next: 1 }
    }
}

impl PortIds {
    /// The number of the port called `name`, if it has one.
    pub fn id(&self, name: &str) -> Option<PortId> {
        self.ids.get(name).copied()
    }

    /// The name of the port with number `id`.
    pub fn name(&self, id: PortId) -> Option<&str> {
        self.ids.iter().find(|(_, other)| **other == id).map(|(name, _)| &**name)
    }

    /// The names of all ports, the uplink apart.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ids.keys().map(|name| &**name).filter(|name| *name != UPLINK)
    }

    /// Gives the port called `name` the number that it had before a restart.
    pub fn restore(&mut self, name: &Name, id: PortId) {
        self.ids.insert(name.clone(), id);
        self.next = self.next.max(id.0 + 1);
    }

    /// The number of the port called `name`, which it gets now if it has none.
    pub fn assign(&mut self, name: &Name) -> PortId {
        let next = &mut self.next;
        *self.ids.entry(name.clone()).or_insert_with(|| {
            let id = PortId(*next);
            *next += 1;
            id
        })
    }
}

/// Converts one document, numbering its ports anew.
pub fn convert(document: &Document) -> Result<Converted, Report> {
    merge(std::slice::from_ref(document), &mut PortIds::default())
}

/// Converts the documents that several controllers wrote for one host.
///
/// Every document may use every resource and metadata key. A port may be named by several documents: its
/// properties are stated by one of them or equally by all, its layers are put together. `ids` keeps the numbers of
/// ports from one policy to the next; names that only a refused policy had keep theirs, unused.
pub fn merge(documents: &[Document], ids: &mut PortIds) -> Result<Converted, Report> {
    let mut converter = Converter::default();
    let tables = Tables::collect(documents, &mut converter);
    let merged = converter.merge_ports(documents);
    let mut names: Vec<&Name> = merged.iter().map(|port| &port.name.value).collect();
    names.sort();
    names.iter().for_each(|name| {
        ids.assign(name);
    });
    let multicast = converter.multicast(documents, ids);
    converter.unique_macs(&merged);
    let mut shared = SharedRules::default();
    let scope = Scope { tables: &tables, ids };
    let mut ports: Vec<PortPolicy> =
        merged.iter().filter_map(|port| converter.port(port, &scope, &mut shared)).collect();
    ports.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    if converter.report.has_errors() {
        converter.report.sort();
        return Err(converter.report);
    }
    converter.core_warnings(&ports, &merged);
    converter.report.sort();
    Ok(Converted { policy: HostPolicy { ports, multicast }, warnings: converter.report })
}

/// What names can mean.
struct Scope<'s> {
    tables: &'s Tables,
    ids: &'s PortIds,
}

/// The report of one conversion.
#[derive(Default)]
struct Converter {
    report: Report,
    /// What was said: a rule list that many ports share is converted once for each, its mistakes are said once.
    said: HashSet<(Arc<str>, Span, Code)>,
}

impl Converter {
    /// `value`, unless there was an error; warnings are left aside.
    fn finish<T>(mut self, value: T) -> Result<T, Report> {
        if self.report.has_errors() {
            self.report.sort();
            return Err(self.report);
        }
        Ok(value)
    }

    /// Reports `diagnostic`, unless the same kind was reported at the same place.
    fn say(&mut self, diagnostic: Diagnostic) {
        let span = diagnostic.labels.first().map(|label| label.span).unwrap_or_default();
        if self.said.insert((diagnostic.source.name.clone(), span, diagnostic.code)) {
            self.report.push(diagnostic);
        }
    }

    fn error(
        &mut self,
        code: Code,
        source: &Source,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.say(Diagnostic::error(code, source, span, message).help(help));
    }

    fn warn(
        &mut self,
        code: Code,
        source: &Source,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.say(Diagnostic::warning(code, source, span, message).help(help));
    }

    /// Reports that `what` `name` does not exist; `known` are those that do.
    fn missing<'k>(
        &mut self,
        source: &Source,
        name: &At<Name>,
        what: &str,
        known: impl Iterator<Item = &'k str>,
    ) {
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        const SHOWN: usize = 20;
        let more = if known.len() > SHOWN { ", ..." } else { "" };
        let all = format!("{what}s: {}{more}", known[..known.len().min(SHOWN)].join(", "));
        let help = match lamina_api::suggest::nearest(&name.value, known.iter().copied()) {
            _ if known.is_empty() => format!("no document declares any {what}"),
            Some(nearest) => format!("did you mean `{nearest}`? {all}"),
            None => all,
        };
        let message = format!("there is no {what} called `{}`", name.value);
        self.error(Code::MissingResource, source, name.span, message, help);
    }
}

/// A rule list in the order in which rules are asked.
fn sorted(mut rules: Vec<Rule>) -> Vec<Rule> {
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    rules
}
