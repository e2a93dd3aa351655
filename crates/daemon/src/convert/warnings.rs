//! Warnings of the core about a policy that is legal but probably not meant: shadowed rules, blocks that a later
//! group overrides (§7). The core names layer, group and rule; here they get their place in the text.

use std::collections::{HashMap, HashSet};

use lamina_api::document;
use lamina_api::{Code, Diagnostic, Source, Span};
use lamina_core::classify::{PolicyWarning, warnings};
use lamina_core::flow::Direction;
use lamina_core::layer::{Layer, RulesIdentity};

use super::ports::MergedPort;
use super::{Converter, PortPolicy};

/// The most warnings about one layer that are given a place; a report keeps fewer.
const MOST: usize = 100;

/// A layer as written.
struct Written<'d> {
    source: &'d Source,
    layer: &'d document::Layer,
    /// Places of rules, by direction and group; made when the first of a group is asked for.
    rules: HashMap<(Direction, &'d str), HashMap<&'d str, Span>>,
}

impl<'d> Written<'d> {
    fn group(&self, direction: Direction, name: &str) -> Option<&'d document::Group> {
        let groups = match direction {
            Direction::Inbound => &self.layer.inbound,
            Direction::Outbound => &self.layer.outbound,
        };
        groups.iter().find(|group| &*group.name.value == name)
    }

    fn rule(&mut self, direction: Direction, group: &str, rule: &str) -> Option<Span> {
        let group = self.group(direction, group)?;
        let places = self
            .rules
            .entry((direction, &group.name.value))
            .or_insert_with(|| group.rules.iter().map(|rule| (&*rule.name.value, rule.name.span)).collect());
        places.get(rule).copied()
    }
}

impl Converter {
    /// Adds what the core says about the policy of each port. Layers of the same content are asked about once.
    pub(super) fn core_warnings(&mut self, ports: &[PortPolicy], merged: &[MergedPort<'_>]) {
        let mut asked: HashSet<Vec<(Option<RulesIdentity>, Span)>> = HashSet::new();
        for port in ports {
            let Some(written) = merged.iter().find(|merged| merged.name.value == port.config.name) else {
                continue;
            };
            for layer in &port.policy.layers {
                let Some(mut written) = find(written, layer) else { continue };
                if asked.insert(content(layer, &written)) {
                    for warning in warnings(layer).into_iter().take(MOST) {
                        self.core_warning(&warning, &mut written);
                    }
                }
            }
        }
    }

    fn core_warning(&mut self, warning: &PolicyWarning, written: &mut Written<'_>) {
        let source = written.source;
        match warning {
            PolicyWarning::OverridableBlock { direction, group, rule, by_group, by_rule } => {
                let Some(span) = written.rule(*direction, group, rule) else { return };
                let message = format!(
                    "the block `{rule}` does not stand: the later group `{by_group}` can pass its packets"
                );
                let mut diagnostic = Diagnostic::warning(Code::Shadowed, source, span, message);
                if let Some(by) = written.rule(*direction, by_group, by_rule) {
                    diagnostic = diagnostic.also(source, by, "by this rule");
                }
                let help = "the last group that matches decides; add `terminating: true` to the block if it is to stand";
                self.say(diagnostic.help(help));
            }
            PolicyWarning::Shadowed { direction, group, rule, by } => {
                let Some(span) = written.rule(*direction, group, rule) else { return };
                let message = format!(
                    "the rule `{rule}` is never selected: `{by}` comes first and takes all its packets"
                );
                let mut diagnostic = Diagnostic::warning(Code::Shadowed, source, span, message);
                if let Some(by) = written.rule(*direction, group, by) {
                    diagnostic = diagnostic.also(source, by, "this one comes first");
                }
                self.say(diagnostic.help("give it a lower `priority`, or remove it"));
            }
            PolicyWarning::Incomplete { direction, group } => {
                let Some(group) = written.group(*direction, group) else { return };
                let message = format!(
                    "the group `{}` was not checked to the end for rules that others hide",
                    group.name.value
                );
                let help = "too many of its rules meet the same packets; it works, but nobody looked for mistakes in it";
                self.warn(Code::Unchecked, source, group.name.span, message, help);
            }
        }
    }
}

fn find<'d>(port: &MergedPort<'d>, layer: &Layer) -> Option<Written<'d>> {
    port.parts.iter().find_map(|(document, part)| {
        let written = part.layers.iter().find(|written| written.name.value == layer.name)?;
        Some(Written { source: &document.source, layer: written, rules: HashMap::new() })
    })
}

/// What tells layers apart whose warnings would differ or be at other places.
fn content(layer: &Layer, written: &Written<'_>) -> Vec<(Option<RulesIdentity>, Span)> {
    let mut content = Vec::new();
    for (direction, groups) in [(Direction::Inbound, &layer.inbound), (Direction::Outbound, &layer.outbound)]
    {
        for group in groups.iter() {
            let span = written.group(direction, &group.name).map_or(Span::default(), |group| group.name.span);
            content.push((Some(group.rules.identity()), span));
        }
        content.push((None, Span::default()));
    }
    content
}
