//! Layers, groups and rules: owners, order, and the sharing of equal rule lists (§3.8).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lamina_api::document::{self, ContextDirection as WrittenContexts, DefaultAction as WrittenDefault};
use lamina_api::document::{ReverseTunnel as WrittenTunnel, Selection as WrittenSelection};
use lamina_api::{At, Code, Diagnostic, Source};
use lamina_core::flow::{Direction, Family, Field, HeaderField};
use lamina_core::layer::{
    Condition, ContextDirection, DefaultAction, Group, Layer, Name, ReverseTunnel, Rule, RuleList, Selection,
    Stateful,
};
use lamina_core::time::Duration;

use super::holds::Possible;
use super::ports::MergedPort;
use super::{Converter, Scope, sorted};

/// The owner of layers of which nobody says otherwise.
const LOCAL: &str = "local";
/// The core's limit of a layer's conversations where the document names none.
const DEFAULT_FLOW_LIMIT: usize = 65_536;
/// The most layers that one port can have.
const MAX_LAYERS: usize = 64;

/// Rule lists seen so far, so that ports with the same rules share one.
#[derive(Default)]
pub(super) struct SharedRules {
    lists: HashMap<u64, Vec<RuleList>>,
}

impl SharedRules {
    /// `rules`, shared with an equal list if there is one.
    pub(super) fn share(&mut self, rules: Vec<Rule>) -> RuleList {
        let mut hasher = DefaultHasher::new();
        for rule in &rules {
            (&rule.name, rule.priority, rule.terminating, rule.action.name()).hash(&mut hasher);
        }
        let candidates = self.lists.entry(hasher.finish()).or_default();
        let equal =
            candidates.iter().find(|list| list.len() == rules.len() && list.iter().zip(&rules).all(same));
        if let Some(equal) = equal {
            return equal.clone();
        }
        let list = RuleList::new(rules);
        candidates.push(list.clone());
        list
    }
}

fn same((a, b): (&Rule, &Rule)) -> bool {
    a.name == b.name
        && a.priority == b.priority
        && a.conditions == b.conditions
        && a.action == b.action
        && a.terminating == b.terminating
        && a.state == b.state
}

impl Converter {
    /// The layers that all documents put on `port`, nearest the guest first.
    pub(super) fn layers(
        &mut self,
        port: &MergedPort<'_>,
        scope: &Scope<'_>,
        shared: &mut SharedRules,
    ) -> Vec<Layer> {
        let mut seen: HashMap<&str, (&Source, &document::Layer, Name)> = HashMap::new();
        let mut layers = Vec::new();
        for (document, part) in &port.parts {
            let source = &document.source;
            for layer in &part.layers {
                let owner = layer.owner.as_ref().or(document.owner.as_ref());
                let owner: Name = owner.map_or_else(|| LOCAL.into(), |owner| owner.value.clone());
                if let Some((first_source, first, first_owner)) = seen.get(&*layer.name.value) {
                    self.duplicate_layer(port, (source, layer, &owner), (first_source, first, first_owner));
                    continue;
                }
                seen.insert(&layer.name.value, (source, layer, owner.clone()));
                layers.push(self.layer(source, layer, owner, scope, shared));
            }
        }
        layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        layers
    }

    /// Reports a port with more layers than it can have.
    pub(super) fn check_layer_count(&mut self, port: &MergedPort<'_>, layers: &[Layer]) {
        if layers.len() > MAX_LAYERS
            && let Some((document, _)) = port.parts.first()
        {
            let message = format!("port `{}` has {} layers", port.name.value, layers.len());
            let help = format!("a port has at most {MAX_LAYERS}");
            self.error(Code::OutOfRange, &document.source, port.name.span, message, help);
        }
    }

    fn duplicate_layer(
        &mut self,
        port: &MergedPort<'_>,
        (source, second, owner): (&Source, &document::Layer, &Name),
        (first_source, first, first_owner): (&Source, &document::Layer, &Name),
    ) {
        let name = &second.name.value;
        let (code, message) = if owner == first_owner {
            (Code::Duplicate, format!("port `{}` has two layers called `{name}`", port.name.value))
        } else {
            let message = format!(
                "`{first_owner}` and `{owner}` both own a layer called `{name}` on port `{}`",
                port.name.value
            );
            (Code::Conflict, message)
        };
        let diagnostic = Diagnostic::error(code, source, second.name.span, message).label("the second one");
        let diagnostic = diagnostic.also(first_source, first.name.span, "the first one");
        self.say(
            diagnostic
                .help("a layer's name is unique on its port, across all owners: call one of them otherwise"),
        );
    }

    pub(super) fn layer(
        &mut self,
        source: &Source,
        layer: &document::Layer,
        owner: Name,
        scope: &Scope<'_>,
        shared: &mut SharedRules,
    ) -> Layer {
        let default = |written| match written {
            WrittenDefault::Pass => DefaultAction::Pass,
            WrittenDefault::Block => DefaultAction::Block,
        };
        Layer {
            name: layer.name.value.clone(),
            owner,
            priority: layer.priority.value.into(),
            default_inbound: default(layer.default_inbound),
            default_outbound: default(layer.default_outbound),
            inbound: self.groups(source, Direction::Inbound, &layer.inbound, scope, shared).into(),
            outbound: self.groups(source, Direction::Outbound, &layer.outbound, scope, shared).into(),
            flow_limit: layer.flow_limit.map_or(DEFAULT_FLOW_LIMIT, |limit| limit as usize),
        }
    }

    fn groups(
        &mut self,
        source: &Source,
        direction: Direction,
        written: &[document::Group],
        scope: &Scope<'_>,
        shared: &mut SharedRules,
    ) -> Vec<Group> {
        let mut seen: HashMap<&str, &document::Group> = HashMap::new();
        let mut groups = Vec::with_capacity(written.len());
        for group in written {
            if let Some(first) = seen.insert(&group.name.value, group) {
                let message =
                    format!("the layer has two {} groups called `{}`", direction.name(), group.name.value);
                let diagnostic = Diagnostic::error(Code::Duplicate, source, group.name.span, message);
                let diagnostic =
                    diagnostic.label("the second one").also(source, first.name.span, "the first one");
                self.say(diagnostic.help("a group's name is unique in its layer and direction"));
                continue;
            }
            groups.extend(self.group(source, direction, group, scope, shared));
        }
        groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        groups
    }

    pub(super) fn group(
        &mut self,
        source: &Source,
        direction: Direction,
        group: &document::Group,
        scope: &Scope<'_>,
        shared: &mut SharedRules,
    ) -> Option<Group> {
        let conditions = self.conditions(source, &group.conditions, scope);
        let mut possible = Possible::new(direction);
        possible.restrict(source, &group.conditions, scope, self);
        let selection = self.selection(source, &group.selection, scope)?;
        let mut rules = Vec::with_capacity(group.rules.len());
        for rule in &group.rules {
            let converted = self.rule(source, rule, &possible, scope);
            if let (Selection::LongestPrefix(field), Some(converted)) = (selection, &converted) {
                self.only_prefixes(source, rule, converted, field);
            }
            rules.extend(converted);
        }
        Some(Group {
            name: group.name.value.clone(),
            priority: group.priority,
            selection,
            conditions: conditions.into(),
            rules: shared.share(sorted(rules)),
        })
    }

    pub(super) fn selection(
        &mut self,
        source: &Source,
        written: &WrittenSelection,
        scope: &Scope<'_>,
    ) -> Option<Selection> {
        let WrittenSelection::LongestPrefix(at) = written else { return Some(Selection::Priority) };
        match super::conditions::field(&at.value, &scope.tables.metadata) {
            Some(
                field @ Field::Header(_, HeaderField::IpSrc | HeaderField::IpDst | HeaderField::NdTarget),
            ) => Some(Selection::LongestPrefix(field)),
            _ => {
                let message = format!("`{}` has no prefixes", at.value);
                let help = "the longest prefix is looked for on `ip.src`, `ip.dst` or `nd.target`";
                self.error(Code::BadValue, source, at.span, message, help);
                None
            }
        }
    }

    /// In a longest-prefix group, what is said about the field must be prefixes: of a range or a set nobody could
    /// tell the length.
    pub(super) fn only_prefixes(
        &mut self,
        source: &Source,
        rule: &document::Rule,
        converted: &Rule,
        field: Field,
    ) {
        let Some(index) = converted.conditions.iter().position(|condition| condition.field == field) else {
            return;
        };
        let (condition, written) = (&converted.conditions[index], &rule.conditions[index]);
        let is_prefix = |range: &lamina_core::layer::ValueRange| {
            let bits = if range.low.family == Family::Ipv4 { 32 } else { 128 };
            range.prefix_len(bits).is_some()
        };
        if condition.prefix_sets.is_empty() && condition.ranges.iter().all(is_prefix) {
            return;
        }
        let culprit = written.values.iter().find(|value| match &value.value {
            document::Value::PrefixSet(_) => true,
            document::Value::Range(..) => {
                let text = source.slice(value.span);
                text.contains('-')
            }
            _ => false,
        });
        let span = culprit.map_or(written.field.span, |value| value.span);
        let message =
            format!("`{}` is not a prefix, in a group that looks for the longest", source.slice(span));
        let help =
            format!("write prefixes of `{}` here, or make the group `match: priority`", written.field.value);
        self.error(Code::BadValue, source, span, message, help);
    }

    pub(super) fn rule(
        &mut self,
        source: &Source,
        rule: &document::Rule,
        group: &Possible,
        scope: &Scope<'_>,
    ) -> Option<Rule> {
        let conditions: Vec<Condition> = self.conditions(source, &rule.conditions, scope);
        let mut possible = group.clone();
        possible.restrict(source, &rule.conditions, scope, self);
        let action = self.action(source, &rule.action, &possible, scope);
        let state = rule.stateful.map(|written| {
            self.check_state(source, &rule.action);
            let default = Stateful::default();
            Stateful {
                time_to_live: written.time_to_live.map_or(default.time_to_live, Duration),
                reverse_tunnel: match written.reverse_tunnel {
                    WrittenTunnel::Restore => ReverseTunnel::Restore,
                    WrittenTunnel::None => ReverseTunnel::None,
                },
                contexts: match written.contexts {
                    WrittenContexts::Forward => ContextDirection::Forward,
                    WrittenContexts::Both => ContextDirection::Both,
                },
            }
        });
        Some(Rule {
            name: rule.name.value.clone(),
            priority: rule.priority,
            conditions,
            action: action?,
            terminating: rule.terminating,
            state,
        })
    }

    /// State for a packet that goes nowhere is a mistake (§3.7).
    fn check_state(&mut self, source: &Source, action: &At<document::Action>) {
        let message = match action.value {
            document::Action::Block => "a blocked packet leaves no state behind",
            document::Action::Respond(_) => "a packet that is answered here leaves no state behind",
            document::Action::Punt(_) => "a packet that goes to a controller leaves no state here",
            document::Action::Hairpin(_) => "a packet that turns round here leaves no state behind",
            _ => return,
        };
        self.error(Code::Impossible, source, action.span, message, "remove `stateful`");
    }
}
