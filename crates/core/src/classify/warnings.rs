//! What a controller probably did not mean: blocks that a later group can override, rules that can never be selected
//! (§3.3, §7).
//!
//! Theory. In a priority group, a rule is shadowed when an earlier rule takes all its packets. Asking every pair of
//! 50,000 rules is out of reach, so each rule is asked for one packet that it matches, the *witness*: the lowest value
//! of each of its conditions and nothing else. An earlier rule that takes all its packets takes the witness, and an
//! index over the rules finds those that do; only they are compared, condition by condition. A rule is reported only
//! when one earlier rule alone shadows it; several that do so together are not looked for.
//!
//! Effort is bounded, and where the bound is met that is said ([`PolicyWarning::Incomplete`]). It must never call a rule
//! shadowed that could be selected. A block is called overridable where the conditions of both rules can hold for one
//! packet; prefix sets, which change, are taken to hold any address. A warning changes nothing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use super::Read;
use super::build::build;
use super::entries::Entries;
use super::tree::{ENTRY_LIMIT, Tree};
use crate::action::Action;
use crate::flow::{Direction, Field, Value};
use crate::layer::{Condition, Group, Layer, Name, Rule, Selection, ValueRange};

/// The most earlier rules that a rule is compared with.
const CANDIDATES: usize = 64;
/// The most comparisons of ranges, per direction of a layer, in the search for overridable blocks.
const COMPARISONS: usize = 4_000_000;

/// Something that policy says and probably does not mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyWarning {
    /// The rule blocks without terminating, and a later group passes some of its packets.
    OverridableBlock {
        /// Of the group.
        direction: Direction,
        /// The group of the rule that blocks.
        group: Name,
        /// The rule that blocks.
        rule: Name,
        /// The later group.
        by_group: Name,
        /// A rule of the later group that passes packets which the block means.
        by_rule: Name,
    },
    /// The rule is never selected: an earlier one of its group takes all its packets.
    Shadowed {
        /// Of the group.
        direction: Direction,
        /// The group of both rules.
        group: Name,
        /// The rule that is never selected.
        rule: Name,
        /// The earlier rule.
        by: Name,
    },
    /// The group is too large or its rules overlap too much for all of them to be checked.
    Incomplete {
        /// Of the group.
        direction: Direction,
        /// The group.
        group: Name,
    },
}

impl fmt::Display for PolicyWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyWarning::OverridableBlock { group, rule, by_group, by_rule, .. } => write!(
                f,
                "block '{rule}' of group '{group}' is not terminating: rule '{by_rule}' of the later group \
                 '{by_group}' can pass its packets; make the block terminating if it is to stand"
            ),
            PolicyWarning::Shadowed { group, rule, by, .. } => write!(
                f,
                "rule '{rule}' of group '{group}' is never selected: rule '{by}' comes first and takes all its \
                 packets; give it a lower priority number or remove it"
            ),
            PolicyWarning::Incomplete { group, .. } => {
                write!(f, "group '{group}' was not checked to the end: too many rules meet the same packets")
            }
        }
    }
}

/// All warnings about `layer`, inbound groups first, in order of groups and rules.
pub fn warnings(layer: &Layer) -> Vec<PolicyWarning> {
    let mut found = Vec::new();
    for (direction, groups) in [(Direction::Inbound, &layer.inbound), (Direction::Outbound, &layer.outbound)]
    {
        overridable_blocks(direction, groups, &mut found);
        for group in groups.iter().filter(|group| group.selection == Selection::Priority) {
            shadowed_rules(direction, group, &mut found);
        }
    }
    found
}

fn overridable_blocks(direction: Direction, groups: &[Group], found: &mut Vec<PolicyWarning>) {
    let mut left = COMPARISONS;
    for (place, group) in groups.iter().enumerate() {
        let blocks = |rule: &&Rule| matches!(rule.action, Action::Block(_)) && !rule.terminating;
        for rule in group.rules.iter().filter(blocks) {
            let here = [&group.conditions[..], &rule.conditions[..]];
            let later = groups[place + 1..]
                .iter()
                .flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
            let passes = later.filter(|(_, rule)| !matches!(rule.action, Action::Block(_)));
            for (by_group, by_rule) in passes {
                let there = [&by_group.conditions[..], &by_rule.conditions[..]];
                if left == 0 {
                    found.push(PolicyWarning::Incomplete { direction, group: group.name.clone() });
                    return;
                }
                if can_meet(here, there, &mut left) {
                    found.push(PolicyWarning::OverridableBlock {
                        direction,
                        group: group.name.clone(),
                        rule: rule.name.clone(),
                        by_group: by_group.name.clone(),
                        by_rule: by_rule.name.clone(),
                    });
                    break;
                }
            }
        }
    }
}

/// False when no packet meets all conditions of both, as far as their ranges tell: a prefix set may hold anything.
fn can_meet(a: [&[Condition]; 2], b: [&[Condition]; 2], left: &mut usize) -> bool {
    let b = || b.into_iter().flatten();
    let pairs = a.into_iter().flatten().flat_map(|a| b().map(move |b| (a, b)));
    let mut ranges = pairs.filter(|(a, b)| a.field == b.field);
    *left = left.saturating_sub(1);
    ranges.all(|(a, b)| {
        *left = left.saturating_sub(a.ranges.len() * b.ranges.len());
        !a.prefix_sets.is_empty() || !b.prefix_sets.is_empty() || {
            a.ranges.iter().any(|a| b.ranges.iter().any(|b| a.low <= b.high && b.low <= a.high))
        }
    })
}

/// A packet with nothing but the lowest value of each condition.
struct Witness(BTreeMap<Field, Value>);

impl Read for Witness {
    fn read(&self, field: Field) -> Option<Value> {
        self.0.get(&field).copied()
    }
}

fn shadowed_rules(direction: Direction, group: &Group, found: &mut Vec<PolicyWarning>) {
    let rules: Vec<&Rule> = group.rules.iter().collect();
    if rules.len() < 2 {
        return;
    }
    let entries = Entries::new(rules.iter().map(|rule| rule.conditions.as_slice()), None);
    if entries.len() >= ENTRY_LIMIT {
        return found.push(PolicyWarning::Incomplete { direction, group: group.name.clone() });
    }
    let tree = build(entries, true);
    let mut complete = true;
    for (place, rule) in rules.iter().enumerate() {
        match shadow(&tree, &rules, place) {
            Shadow::None => {}
            Shadow::Unknown => complete = false,
            Shadow::By(by) => found.push(PolicyWarning::Shadowed {
                direction,
                group: group.name.clone(),
                rule: rule.name.clone(),
                by: rules[by].name.clone(),
            }),
        }
    }
    if !complete {
        found.push(PolicyWarning::Incomplete { direction, group: group.name.clone() });
    }
}

enum Shadow {
    None,
    By(usize),
    Unknown,
}

/// Which rule before `place` shadows that one.
fn shadow(tree: &Tree, rules: &[&Rule], place: usize) -> Shadow {
    let conditions = &rules[place].conditions;
    let values =
        conditions.iter().filter_map(|condition| Some((condition.field, condition.ranges.iter().min()?.low)));
    let point = tree.point(&Witness(values.collect()));
    // Entries are in order of rules here: only those of earlier rules are wanted.
    let mut bound = tree.entries.rules.partition_point(|rule| (*rule as usize) < place) as u32;
    let before = bound;
    let mut asked = 0;
    tree.search(&point, &mut bound, &mut |entry| {
        asked += 1;
        let earlier = &rules[tree.entries.rules[entry as usize] as usize].conditions;
        asked <= CANDIDATES && takes_all(earlier, conditions)
    });
    match bound {
        bound if bound < before => Shadow::By(tree.entries.rules[bound as usize] as usize),
        _ if asked > CANDIDATES => Shadow::Unknown,
        _ => Shadow::None,
    }
}

/// True when every packet that meets all of `conditions` meets all of `earlier`: each of those holds all values of
/// some condition on its field.
fn takes_all(earlier: &[Condition], conditions: &[Condition]) -> bool {
    earlier.iter().all(|wide| {
        conditions.iter().filter(|narrow| narrow.field == wide.field).any(|narrow| {
            narrow.prefix_sets.iter().all(|set| wide.prefix_sets.contains(set))
                && narrow.ranges.iter().all(|range| covers(&wide.ranges, range))
        })
    })
}

/// True when every value of `range` lies in one of `ranges`.
fn covers(ranges: &[ValueRange], range: &ValueRange) -> bool {
    let contains = |wide: &ValueRange| wide.low <= range.low && range.high <= wide.high;
    if range.low > range.high || ranges.iter().any(contains) {
        return true;
    }
    if ranges.len() < 2 || range.low.family != range.high.family {
        return false;
    }
    // Several together: walk up through those that hold the lowest value not yet covered.
    let mut sorted: Vec<&ValueRange> = ranges.iter().collect();
    sorted.sort_unstable();
    let mut lowest = range.low;
    for wide in sorted.into_iter().filter(|wide| wide.high.family == range.low.family) {
        if wide.contains(lowest) {
            match wide.high.bits.checked_add(1) {
                Some(bits) if wide.high < range.high => lowest.bits = bits,
                _ => return true,
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Allow, Block};
    use crate::classify::matches;
    use crate::classify::tests::{ADDRESS, Packet, rule};
    use crate::layer::DefaultAction;
    use crate::resource::{PrefixSetId, Resources};
    use alloc::format;
    use alloc::string::ToString;
    use alloc::sync::Arc;
    use alloc::vec;
    use proptest::prelude::*;

    fn condition(field: u8, ranges: &[(u128, u128)]) -> Condition {
        let range =
            |(low, high): &(u128, u128)| ValueRange { low: Value::number(*low), high: Value::number(*high) };
        Condition {
            field: Field::Metadata(field),
            ranges: ranges.iter().map(range).collect(),
            prefix_sets: vec![],
        }
    }

    fn group(name: &str, rules: Vec<Rule>) -> Group {
        let named = |(number, rule): (usize, Rule)| Rule {
            name: format!("r{number}").into(),
            priority: number as i32,
            ..rule
        };
        let rules = rules.into_iter().enumerate().map(named).collect();
        Group { name: name.into(), priority: 0, selection: Selection::Priority, conditions: [].into(), rules }
    }

    fn layer(inbound: Vec<Group>) -> Layer {
        Layer {
            name: "l".into(),
            owner: "o".into(),
            priority: 0,
            default_inbound: DefaultAction::Pass,
            default_outbound: DefaultAction::Pass,
            inbound: inbound.into(),
            outbound: Arc::default(),
            flow_limit: 0,
        }
    }

    fn block(conditions: Vec<Condition>, terminating: bool) -> Rule {
        Rule { action: Action::Block(Block), terminating, ..rule(conditions) }
    }

    fn shadows(rules: Vec<Rule>) -> Vec<(Name, Name)> {
        let pair = |warning| match warning {
            PolicyWarning::Shadowed { rule, by, .. } => (rule, by),
            other => panic!("{other}"),
        };
        warnings(&layer(vec![group("g", rules)])).into_iter().map(pair).collect()
    }

    #[test]
    fn a_rule_behind_a_wider_one_is_shadowed() {
        let wide = rule(vec![condition(0, &[(0, 10), (11, 20)])]);
        let narrow = rule(vec![condition(0, &[(5, 15)]), condition(1, &[(1, 1)])]);
        let beyond = rule(vec![condition(0, &[(5, 21)])]);
        assert_eq!(shadows(vec![wide, beyond, narrow]), [("r2".into(), "r0".into())]);
    }

    #[test]
    fn equal_tags_shadow_and_others_do_not() {
        let tag = |ids: &[u32]| {
            let prefix_sets = ids.iter().map(|id| PrefixSetId(*id)).collect();
            rule(vec![Condition { field: ADDRESS, ranges: vec![], prefix_sets }])
        };
        assert_eq!(shadows(vec![tag(&[0]), tag(&[1]), tag(&[1, 0])]), []);
        assert_eq!(shadows(vec![tag(&[0, 1]), tag(&[1])]), [("r1".into(), "r0".into())]);
    }

    #[test]
    fn groups_by_longest_prefix_are_not_about_order() {
        let mut group = group("g", vec![rule(vec![]), rule(vec![])]);
        group.selection = Selection::LongestPrefix(ADDRESS);
        assert_eq!(warnings(&layer(vec![group])), []);
    }

    #[test]
    fn a_block_that_a_later_group_can_pass_is_reported() {
        let ports = |low, high| vec![condition(0, &[(low, high)])];
        let first =
            group("first", vec![block(ports(1, 9), false), block(ports(20, 29), false), block(vec![], true)]);
        let later = group("later", vec![block(vec![], false), rule(ports(5, 15))]);
        let found = warnings(&layer(vec![first, later.clone()]));
        let expected = PolicyWarning::OverridableBlock {
            direction: Direction::Inbound,
            group: "first".into(),
            rule: "r0".into(),
            by_group: "later".into(),
            by_rule: "r1".into(),
        };
        let overridable =
            |warning: &&PolicyWarning| matches!(warning, PolicyWarning::OverridableBlock { .. });
        assert_eq!(found.iter().filter(overridable).collect::<Vec<_>>(), [&expected]);
        assert!(expected.to_string().contains("'r0'") && expected.to_string().contains("'later'"));
        // Where the later group's own conditions keep it away, it overrides nothing.
        let apart = Group { conditions: ports(50, 60).into(), ..later };
        let found = warnings(&layer(vec![group("first", vec![block(ports(1, 9), false)]), apart]));
        assert_eq!(found.iter().filter(overridable).count(), 0);
    }

    #[test]
    fn many_rules_on_the_same_packets_are_said_to_be_unchecked() {
        // Each takes value 0 of metadata 1, so each is a candidate for the last, and none takes all of it.
        let rules =
            (0..200).map(|n| rule(vec![condition(1, &[(0, 0)]), condition(0, &[(0, n), (n + 2, 900)])]));
        let last = rule(vec![condition(1, &[(0, 0)]), condition(0, &[(0, 1_000)])]);
        let found = warnings(&layer(vec![group("g", rules.chain([last]).collect())]));
        assert!(matches!(found.last(), Some(PolicyWarning::Incomplete { .. })), "{found:?}");
    }

    proptest! {
        #[test]
        fn shadowed_rules_are_never_selected(
            rules in prop::collection::vec(
                prop::collection::vec((0u8..2, prop::collection::vec((0u128..6, 0u128..4), 1..3)), 0..3), 2..20),
        ) {
            let conditions = |rule: &Vec<(u8, Vec<(u128, u128)>)>| {
                let ends = |ranges: &[(u128, u128)]| {
                    ranges.iter().map(|(low, width)| (*low, low + width)).collect::<Vec<_>>()
                };
                rule.iter().map(|(field, ranges)| condition(*field, &ends(ranges))).collect::<Vec<_>>()
            };
            let rules: Vec<Rule> = rules.iter().map(|one| rule(conditions(one))).collect();
            let found = shadows(rules.clone());
            let resources = Resources::default();
            // Every packet there is: each field absent or one of ten values.
            let values = || core::iter::once(None).chain((0..10).map(|bits| Some(Value::number(bits))));
            let mut selected = vec![false; rules.len()];
            for (a, b) in values().flat_map(|a| values().map(move |b| (a, b))) {
                let fields = [(Field::Metadata(0), a), (Field::Metadata(1), b)];
                let packet: Packet = fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect();
                if let Some(first) = rules.iter().position(|rule| matches(&rule.conditions, &packet, &resources)) {
                    selected[first] = true;
                }
            }
            for (rule, _) in &found {
                let number: usize = rule[1..].parse().unwrap();
                prop_assert!(!selected[number], "{rule}");
            }
            // And one rule that alone takes all of another's packets is found, conditions on a field being single.
            for (number, rule) in rules.iter().enumerate() {
                let mut fields: Vec<Field> = rule.conditions.iter().map(|condition| condition.field).collect();
                fields.dedup();
                let alone = rules[..number].iter().any(|earlier| takes_all(&earlier.conditions, &rule.conditions));
                if alone && fields.len() == rule.conditions.len() {
                    prop_assert!(found.iter().any(|(name, _)| **name == *format!("r{number}")), "{number}");
                }
            }
        }
    }

    #[test]
    fn the_first_shadow_is_named() {
        let any = || rule(vec![]);
        let allow = Rule { action: Action::Allow(Allow), ..any() };
        assert_eq!(
            shadows(vec![any(), allow, any()]),
            [("r1".into(), "r0".into()), ("r2".into(), "r0".into())]
        );
    }
}
