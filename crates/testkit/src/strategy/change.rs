//! Small changes of a policy, such as controllers make while traffic flows.

use std::sync::Arc;

use lamina_core::action::{Action, Allow, Block};
use lamina_core::flow::Direction;
use lamina_core::layer::{
    Condition, DefaultAction, Group, Layer, Policy, Rule, RuleList, Selection, Stateful,
};
use proptest::prelude::*;

use super::policy::{actions, conditions, defaults, group, states};
use super::universe::{VARIANTS, resources};

/// A small change of a policy.
#[derive(Clone, Debug)]
pub enum Change {
    /// Nothing but the generation.
    Nothing,
    /// Other contents of the resources.
    Resources(usize),
    /// A layer goes.
    RemoveLayer(usize),
    /// A layer gets another place.
    MoveLayer(usize, i32),
    /// A rule goes.
    RemoveRule(Place),
    /// A rule blocks.
    Block(Place),
    /// A rule becomes allow, stateful or not.
    Allow(Place, Option<Stateful>),
    /// A rule keeps its action and loses or gets state.
    State(Place, Option<Stateful>),
    /// A rule gets an action.
    Act(Place, Action),
    /// A layer's default blocks or passes.
    Default(usize, Direction, DefaultAction),
    /// A rule that blocks is put in front of a layer's rules.
    BlockFirst(usize, Direction, Condition),
}

/// A rule, by indexes that are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index of the layer.
    pub layer: usize,
    /// Direction of the group.
    pub direction: Direction,
    /// Index of the group.
    pub group: usize,
    /// Index of the rule.
    pub rule: usize,
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)]
}

/// Random changes.
pub fn changes() -> impl Strategy<Value = Change> {
    let place = (0usize..20, directions(), 0usize..3, 0usize..4)
        .prop_map(|(layer, direction, group, rule)| Place { layer, direction, group, rule })
        .boxed();
    prop_oneof![
        2 => Just(Change::Nothing),
        2 => (0..VARIANTS).prop_map(Change::Resources),
        1 => (0usize..20).prop_map(Change::RemoveLayer),
        1 => (0usize..20, -1i32..20).prop_map(|(layer, priority)| Change::MoveLayer(layer, priority)),
        2 => place.clone().prop_map(Change::RemoveRule),
        2 => place.clone().prop_map(Change::Block),
        2 => (place.clone(), prop::option::of(states())).prop_map(|(place, state)| Change::Allow(place, state)),
        2 => (place.clone(), prop::option::of(states())).prop_map(|(place, state)| Change::State(place, state)),
        2 => (place, actions()).prop_map(|(place, action)| Change::Act(place, action)),
        1 => (0usize..20, directions(), defaults()).prop_map(|(layer, way, to)| Change::Default(layer, way, to)),
        2 => (0usize..20, directions(), conditions()).prop_map(|(layer, way, when)| Change::BlockFirst(layer, way, when)),
    ]
}

fn groups_mut(layer: &mut Layer, direction: Direction) -> &mut Vec<Group> {
    Arc::make_mut(match direction {
        Direction::Inbound => &mut layer.inbound,
        Direction::Outbound => &mut layer.outbound,
    })
}

impl Change {
    /// Changes `policy`, if it has what is to be changed.
    pub fn apply(&self, policy: &mut Policy) {
        let count = policy.layers.len();
        match self {
            Change::Nothing => {}
            Change::Resources(variant) => policy.resources = resources(*variant),
            _ if count == 0 => {}
            Change::RemoveLayer(layer) => {
                policy.layers.remove(layer % count);
            }
            Change::MoveLayer(layer, priority) => {
                policy.layers[layer % count].priority = (*priority).into();
                policy.layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
            }
            Change::Default(layer, direction, default) => {
                let layer = &mut policy.layers[layer % count];
                match direction {
                    Direction::Inbound => layer.default_inbound = *default,
                    Direction::Outbound => layer.default_outbound = *default,
                }
            }
            Change::BlockFirst(layer, direction, condition) => {
                let groups = groups_mut(&mut policy.layers[layer % count], *direction);
                let rules = std::vec![(0, std::vec![condition.clone()], Action::Block(Block), true, None)];
                groups.retain(|group| &*group.name != "deny");
                groups.insert(0, group("deny", -1, Vec::new(), Selection::Priority, rules));
            }
            Change::RemoveRule(place) => Self::on_rule(place, policy, |rules, rule| rules.remove(&rule.name)),
            Change::Block(place) => Self::on_rule(place, policy, |rules, rule| {
                rules.put(Rule { action: Action::Block(Block), ..rule })
            }),
            Change::Allow(place, state) => Self::on_rule(place, policy, |rules, rule| {
                rules.put(Rule { action: Action::Allow(Allow), state: *state, ..rule })
            }),
            Change::State(place, state) => {
                Self::on_rule(place, policy, |rules, rule| rules.put(Rule { state: *state, ..rule }));
            }
            Change::Act(place, action) => {
                Self::on_rule(place, policy, |rules, rule| rules.put(Rule { action: action.clone(), ..rule }))
            }
        }
    }

    fn on_rule(place: &Place, policy: &mut Policy, change: impl FnOnce(&RuleList, Rule) -> RuleList) {
        let count = policy.layers.len();
        let groups = groups_mut(&mut policy.layers[place.layer % count], place.direction);
        let count = groups.len().max(1);
        let Some(group) = groups.get_mut(place.group % count) else { return };
        if !group.rules.is_empty() {
            let rule = group.rules.iter().nth(place.rule % group.rules.len()).cloned();
            group.rules = rule.map_or_else(RuleList::default, |rule| change(&group.rules, rule));
        }
    }
}
