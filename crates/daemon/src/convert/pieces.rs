//! Conversion piece by piece: what a running host needs, where one rule changes and everything else stays.
//!
//! [`super::merge`] converts whole documents. Here the same code converts a port, a layer, a group or a single rule
//! against [`Names`], which is kept from one change to the next. A rule's meaning depends on its group (conditions and
//! selection), on the names of resources, metadata keys and ports, and on nothing else, so a changed rule costs no look
//! at its neighbours.

use std::sync::Arc;

use lamina_api::{Document, Report, Source, document};
use lamina_core::flow::Direction;
use lamina_core::layer::{Group, Layer, Name, Rule, Selection};
use lamina_core::resource::Resources;
use lamina_core::switch::PortId;

use super::holds::Possible;
use super::layers::SharedRules;
use super::resources::Tables;
use super::{Converter, PortIds, PortPolicy, Scope};

/// What names mean on a host: resources, metadata keys and ports. The number of a resource is its place in its kind's
/// list, so lists may only grow while rules that were converted against them are in use.
pub struct Names {
    tables: Arc<Tables>,
    ids: PortIds,
}

impl Names {
    /// The names that `catalog` declares; `ids` has the ports.
    pub fn new(catalog: &Document, ids: PortIds) -> Result<Names, Report> {
        let mut converter = Converter::default();
        let tables = Tables::collect(std::slice::from_ref(catalog), &mut converter);
        converter.finish(Names { tables: Arc::new(tables), ids })
    }

    /// The ports' numbers.
    pub fn ids(&self) -> &PortIds {
        &self.ids
    }

    /// Gives the port called `name` a number, unless it has one.
    pub fn assign(&mut self, name: &Name) -> PortId {
        self.ids.assign(name)
    }

    /// The same names for a transaction to try.
    pub fn draft(&self) -> Names {
        Names { tables: self.tables.clone(), ids: self.ids.clone() }
    }

    /// The converted resources.
    pub fn resources(&self) -> &Arc<Resources> {
        &self.tables.resources
    }

    /// The metadata keys, in the order of their numbers.
    pub fn metadata(&self) -> Vec<String> {
        self.tables.metadata.iter().map(|key| key.to_string()).collect()
    }

    fn scope(&self) -> Scope<'_> {
        Scope { tables: &self.tables, ids: &self.ids }
    }

    /// The one port of `document`, which must have a number.
    pub fn port(&self, document: &Document) -> Result<Option<PortPolicy>, Report> {
        let mut converter = Converter::default();
        let merged = converter.merge_ports(std::slice::from_ref(document));
        let mut shared = SharedRules::default();
        let port = merged.first().and_then(|port| converter.port(port, &self.scope(), &mut shared));
        converter.finish(port)
    }

    /// A layer with its groups.
    pub fn layer(&self, source: &Source, layer: &document::Layer, owner: Name) -> Result<Layer, Report> {
        let mut converter = Converter::default();
        let layer = converter.layer(source, layer, owner, &self.scope(), &mut SharedRules::default());
        converter.finish(layer)
    }

    /// A group with its rules.
    pub fn group(
        &self,
        source: &Source,
        direction: Direction,
        group: &document::Group,
    ) -> Result<Option<Group>, Report> {
        let mut converter = Converter::default();
        let group = converter.group(source, direction, group, &self.scope(), &mut SharedRules::default());
        converter.finish(group)
    }

    /// How rules are converted that belong to `group`, of which only the head is looked at.
    pub fn rules_of<'n>(&'n self, direction: Direction, group: &'n document::Group) -> RulesOf<'n> {
        let mut possible = Possible::new(direction);
        let mut converter = Converter::default();
        let scope = self.scope();
        let source = Source::new("", "");
        possible.restrict(&source, &group.conditions, &scope, &mut converter);
        let selection = converter.selection(&source, &group.selection, &scope);
        RulesOf { names: self, possible, selection: selection.unwrap_or_default() }
    }
}

/// Converts the rules of one group.
pub struct RulesOf<'n> {
    names: &'n Names,
    possible: Possible,
    selection: Selection,
}

impl RulesOf<'_> {
    /// A rule; a mistake in it costs the rule, warnings do not.
    pub fn rule(&self, source: &Source, rule: &document::Rule) -> Result<Option<Rule>, Report> {
        let mut converter = Converter::default();
        let converted = converter.rule(source, rule, &self.possible, &self.names.scope());
        if let (Selection::LongestPrefix(field), Some(converted)) = (self.selection, &converted) {
            converter.only_prefixes(source, rule, converted, field);
        }
        converter.finish(converted)
    }
}
