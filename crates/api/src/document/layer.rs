//! Layers, groups and rules as written.

use super::{Action, Condition, FieldName, MAX_TABLE};
use crate::decode::Decoder;
use crate::diagnostic::{Code, Diagnostic};
use crate::source::{At, Span};
use crate::tree::{Node, Tree};
use crate::value::Name;

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Unique on the port.
    pub name: At<Name>,
    /// The controller that made it; `None` takes the document's.
    pub owner: Option<At<Name>>,
    /// Lower is nearer the guest.
    pub priority: At<i32>,
    /// Answer where no rule matches an inbound packet.
    pub default_inbound: DefaultAction,
    /// Answer where no rule matches an outbound packet.
    pub default_outbound: DefaultAction,
    /// The most conversations with state in this layer.
    pub flow_limit: Option<u32>,
    /// Groups for inbound packets.
    pub inbound: Vec<Group>,
    /// Groups for outbound packets.
    pub outbound: Vec<Group>,
}

/// A layer's answer where no rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultAction {
    /// The packet goes on.
    #[default]
    Pass,
    /// The packet is dropped.
    Block,
}

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Unique within its layer and direction.
    pub name: At<Name>,
    /// Lower first.
    pub priority: i32,
    /// How the one rule is selected.
    pub selection: Selection,
    /// When they do not all hold, the group is skipped.
    pub conditions: Vec<Condition>,
    /// The rules, in the order written.
    pub rules: Vec<Rule>,
}

/// How a group selects its rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// The matching rule with the lowest priority number.
    Priority,
    /// The rule with the longest matching prefix on this field.
    LongestPrefix(At<FieldName>),
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique within its group.
    pub name: At<Name>,
    /// Lower wins.
    pub priority: i32,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What the packet gets.
    pub action: At<Action>,
    /// Wins at once.
    pub terminating: bool,
    /// State that a match creates.
    pub stateful: Option<Stateful>,
}

/// State that a rule creates; `None` takes the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stateful {
    /// Time to live in nanoseconds.
    pub time_to_live: Option<u64>,
    /// What the reverse flow does with tunnels.
    pub reverse_tunnel: ReverseTunnel,
    /// Which flows run the rule's meters.
    pub contexts: ContextDirection,
}

/// Whether the reverse flow puts replies back into the tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReverseTunnel {
    /// Yes.
    #[default]
    Restore,
    /// No: direct server return.
    None,
}

/// Which flows of a pair run the rule's meters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ContextDirection {
    /// The one that matched.
    #[default]
    Forward,
    /// Both.
    Both,
}

const PASS_OR_BLOCK: [(&str, DefaultAction); 2] =
    [("pass", DefaultAction::Pass), ("block", DefaultAction::Block)];

impl Decoder<'_> {
    pub(crate) fn layer(&mut self, tree: &Tree<'_>) -> Option<Layer> {
        const KNOWN: [&str; 7] =
            ["name", "owner", "priority", "default", "flow-limit", "inbound", "outbound"];
        let fields = self.fields(tree, "a layer", &KNOWN)?;
        let name = self.required(&fields, "name", "acl").and_then(|tree| self.name(tree));
        let owner = fields.optional("owner").and_then(|tree| self.name(tree));
        let priority = self.required(&fields, "priority", "10").and_then(|tree| self.priority(tree));
        let (default_inbound, default_outbound) =
            fields.optional("default").map(|tree| self.defaults(tree)).unwrap_or_default();
        let flow_limit = fields
            .optional("flow-limit")
            .and_then(|tree| self.number(tree, "a layer's flow limit", 1..=MAX_TABLE))
            .map(|number| number.value as u32);
        let inbound = fields.optional("inbound").map(|tree| self.groups(tree)).unwrap_or_default();
        let outbound = fields.optional("outbound").map(|tree| self.groups(tree)).unwrap_or_default();
        Some(Layer {
            name: name?,
            owner,
            priority: priority?,
            default_inbound,
            default_outbound,
            flow_limit,
            inbound,
            outbound,
        })
    }

    fn priority(&mut self, tree: &Tree<'_>) -> Option<At<i32>> {
        let number = self.number(tree, "a priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
        Some(At::new(number.value as i32, number.span))
    }

    fn optional_priority(&mut self, tree: Option<&Tree<'_>>) -> i32 {
        tree.and_then(|tree| self.priority(tree)).map_or(0, |priority| priority.value)
    }

    fn defaults(&mut self, tree: &Tree<'_>) -> (DefaultAction, DefaultAction) {
        const WHAT: &str = "a layer's default";
        if matches!(tree.node, Node::Scalar { .. }) {
            let both = self.word(tree, WHAT, &PASS_OR_BLOCK).map(|word| word.value).unwrap_or_default();
            return (both, both);
        }
        let Some(fields) = self.fields(tree, WHAT, &["inbound", "outbound"]) else {
            return Default::default();
        };
        let mut one = |name| {
            let word = fields.optional(name).and_then(|tree| self.word(tree, WHAT, &PASS_OR_BLOCK));
            word.map(|word| word.value).unwrap_or_default()
        };
        (one("inbound"), one("outbound"))
    }

    fn groups(&mut self, tree: &Tree<'_>) -> Vec<Group> {
        self.list(tree, "groups").iter().filter_map(|tree| self.group(tree)).collect()
    }

    pub(crate) fn group(&mut self, tree: &Tree<'_>) -> Option<Group> {
        let fields = self.fields(tree, "a group", &["group", "priority", "match", "when", "rules"])?;
        let name = self.required(&fields, "group", "all").and_then(|tree| self.name(tree));
        let priority = self.optional_priority(fields.optional("priority"));
        let selection = fields.optional("match").map(|tree| self.selection(tree));
        let conditions = fields.optional("when").map(|tree| self.conditions(tree)).unwrap_or_default();
        let mut rules = Vec::new();
        if let Some(tree) = fields.optional("rules") {
            let items = self.list(tree, "rules");
            rules.reserve_exact(items.len());
            for item in items {
                rules.extend(self.rule(item));
            }
            self.unique_rule_names(&rules);
        }
        let selection = selection.unwrap_or(Some(Selection::Priority))?;
        Some(Group { name: name?, priority, selection, conditions, rules })
    }

    fn unique_rule_names(&mut self, rules: &[Rule]) {
        let mut seen = std::collections::HashMap::with_capacity(rules.len());
        for rule in rules {
            if let Some(first) = seen.insert(&*rule.name.value, rule.name.span) {
                self.duplicate("rule", &rule.name, first, "a rule's name is unique within its group");
            }
        }
    }

    /// Reports that `what` `name` was already given at `first`.
    pub(super) fn duplicate(&mut self, what: &str, name: &At<Name>, first: Span, help: &str) {
        let message = format!("there are two {what}s called `{}`", name.value);
        let diagnostic =
            Diagnostic::error(Code::Duplicate, self.source, name.span, message).label("the second one");
        self.report.push(diagnostic.also(self.source, first, "the first one").help(help));
    }

    fn selection(&mut self, tree: &Tree<'_>) -> Option<Selection> {
        if let Node::Scalar { text, .. } = &tree.node {
            if text == "priority" {
                return Some(Selection::Priority);
            }
            self.bad_value(tree, "a way to match", "write `priority` or `{ longest-prefix: ip.dst }`");
            return None;
        }
        let fields = self.fields(tree, "a way to match", &["longest-prefix"])?;
        let field = self.required(&fields, "longest-prefix", "ip.dst")?;
        self.field_name(field).map(Selection::LongestPrefix)
    }

    pub(crate) fn rule(&mut self, tree: &Tree<'_>) -> Option<Rule> {
        const KNOWN: [&str; 6] = ["name", "priority", "when", "action", "terminating", "stateful"];
        let fields = self.fields(tree, "a rule", &KNOWN)?;
        let name = self.required(&fields, "name", "allow-web").and_then(|tree| self.name(tree));
        let priority = self.optional_priority(fields.optional("priority"));
        let conditions = fields.optional("when").map(|tree| self.conditions(tree)).unwrap_or_default();
        let action = self.required(&fields, "action", "allow").and_then(|tree| self.action(tree));
        let terminating = fields.optional("terminating").and_then(|tree| self.boolean(tree));
        let stateful = fields.optional("stateful").and_then(|tree| self.stateful(tree));
        Some(Rule {
            name: name?,
            priority,
            conditions,
            action: action?,
            terminating: terminating.is_some_and(|value| value.value),
            stateful,
        })
    }

    fn stateful(&mut self, tree: &Tree<'_>) -> Option<Stateful> {
        if matches!(tree.node, Node::Scalar { .. }) {
            return self.boolean(tree)?.value.then(Stateful::default);
        }
        let fields = self.fields(tree, "a rule's state", &["ttl", "reverse-tunnel", "contexts"])?;
        let time_to_live = fields.optional("ttl").and_then(|tree| self.duration(tree)).map(|ttl| ttl.value);
        let tunnels = [("restore", ReverseTunnel::Restore), ("none", ReverseTunnel::None)];
        let reverse_tunnel =
            fields.optional("reverse-tunnel").and_then(|tree| self.word(tree, "a reverse tunnel", &tunnels));
        let directions = [("forward", ContextDirection::Forward), ("both", ContextDirection::Both)];
        let contexts = fields
            .optional("contexts")
            .and_then(|tree| self.word(tree, "a direction of contexts", &directions));
        Some(Stateful {
            time_to_live,
            reverse_tunnel: reverse_tunnel.map(|word| word.value).unwrap_or_default(),
            contexts: contexts.map(|word| word.value).unwrap_or_default(),
        })
    }
}
