//! Why: which rules a packet missed and by which condition, and which layer dropped it.
//!
//! The core says that no rule of a group matches; a person asks what would have been needed. The rules are read
//! again here, one after the other, with the packet as the trace shows it at that layer. What only the switch knows
//! (metadata, the port a packet entered by) is not guessed: a rule that fails by nothing else is left out.

use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Direction, Field, Value};
use lamina_core::layer::{Condition, Group, Policy};
use lamina_core::simulate::{Trace, TraceDecision, TraceNode, TraceOutcome};

/// A rule that did not match, and its first condition that does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Missed<'p> {
    /// The rule.
    pub rule: &'p str,
    /// The condition.
    pub condition: &'p Condition,
}

/// The rules of `group` in the layer of `node` that the packet missed: the first `most` of them, and how many more
/// rules there are.
pub fn missed<'p>(
    policy: &'p Policy,
    node: &TraceNode,
    group: &str,
    direction: Direction,
    most: usize,
) -> (Vec<Missed<'p>>, usize) {
    let Some(group) = find(policy, node, group, direction) else { return (Vec::new(), 0) };
    let mut missed = Vec::new();
    for rule in group.rules.iter().take(most) {
        let failed = rule.conditions.iter().find(|condition| fails(policy, node, condition, direction));
        missed.extend(failed.map(|condition| Missed { rule: &rule.name, condition }));
    }
    (missed, group.rules.len().saturating_sub(most))
}

fn find<'p>(policy: &'p Policy, node: &TraceNode, group: &str, direction: Direction) -> Option<&'p Group> {
    let layer = policy.layers.iter().find(|layer| layer.name == node.layer)?;
    let groups = match direction {
        Direction::Inbound => &layer.inbound,
        Direction::Outbound => &layer.outbound,
    };
    groups.iter().find(|other| &*other.name == group)
}

fn fails(policy: &Policy, node: &TraceNode, condition: &Condition, direction: Direction) -> bool {
    let value = match condition.field {
        Field::Metadata(_) | Field::IngressPort => return false,
        Field::Direction => Some(Value::from(direction)),
        field => field.read_header(&node.headers),
    };
    !condition.holds(value, &policy.resources)
}

/// Where a packet was dropped.
#[derive(Clone, Copy, Debug)]
pub struct Place<'t> {
    /// The layer.
    pub layer: &'t str,
    /// Its owner.
    pub owner: &'t str,
    /// The group and the rule; `None` for the layer's default.
    pub rule: Option<(&'t str, &'t str)>,
}

/// The layer and rule that dropped the packet; `None` when it was not dropped, or not by a layer.
pub fn dropped_by(trace: &Trace) -> Option<Place<'_>> {
    let TraceOutcome::Drop(reason) = &trace.outcome else { return None };
    let is_of_layers = matches!(
        reason,
        DropReason::Blocked
            | DropReason::FragmentWithoutPorts
            | DropReason::MappingMiss
            | DropReason::NoTarget
            | DropReason::FlowKeyTaken
            | DropReason::LayerFlowTableFull
            | DropReason::CannotTranspose
            | DropReason::CannotRespond
            | DropReason::BadDhcp
            | DropReason::NoLease
            | DropReason::BadDns
            | DropReason::AnswerTooLong
            | DropReason::MeterTableFull
            | DropReason::NoSuchPort
            | DropReason::Limited
            | DropReason::VlanNotCarried
    );
    let node = trace.layers.last().filter(|_| is_of_layers)?;
    let rule = match &node.decision {
        TraceDecision::Flow { group, rule, .. } | TraceDecision::Rule { group, rule, .. } => {
            Some((&**group, &**rule))
        }
        TraceDecision::Default(_) | TraceDecision::Fragment => None,
    };
    Some(Place { layer: &node.layer, owner: &node.owner, rule })
}
