//! Which rule of a group matches (§3.3, §7; VFP §6.5).
//!
//! A [`Classifier`] is compiled from a group's rules and answers one question per packet: which rule is selected.
//! A [`GroupIndex`] answers the same for a layer: which groups' conditions hold. Both are immutable; they hold
//! indexes into the rules or groups they were built from, which the caller passes again at lookup. The linear
//! functions of this file ([`matches()`], [`prefix_len`]) are the meaning; everything else here is only faster.
//!
//! It must never decide differently from those functions, and never remember what a prefix set contains: sets
//! change without recompiling.

mod build;
mod describe;
mod entries;
mod field_index;
mod groups;
mod hash;
mod interval_tree;
mod key;
mod list;
mod tree;
mod trie;
mod warnings;

pub use describe::{Description, FieldDescription, Kind, PartDescription};
pub use groups::GroupIndex;
pub(crate) use list::{AddedClassifier, BaseClassifier};
pub use warnings::{PolicyWarning, warnings};

use build::build;
use entries::Entries;
use tree::{ENTRY_LIMIT, Tree};

use crate::flow::{Family, Field, Value};
use crate::layer::{Condition, Rule, Selection, ValueRange};
use crate::resource::Resources;

/// The packet as a layer sees it: headers, direction, ingress port, metadata.
pub trait Read {
    /// The value of `field`; `None` when the packet lacks it.
    fn read(&self, field: Field) -> Option<Value>;
}

/// True when all `conditions` hold for `packet`; no conditions hold for every packet.
pub fn matches(conditions: &[Condition], packet: &impl Read, resources: &Resources) -> bool {
    conditions.iter().all(|condition| condition.holds(packet.read(condition.field), resources))
}

/// The length of the longest prefix on `field` that `value` matches among `conditions`. A rule without a condition
/// on the field, a range that is no prefix and a match through a prefix set count as length 0.
pub fn prefix_len(conditions: &[Condition], field: Field, value: Option<Value>) -> u32 {
    let Some(value) = value else { return 0 };
    conditions
        .iter()
        .filter(|condition| condition.field == field)
        .flat_map(|condition| &condition.ranges)
        .filter(|range| range.contains(value))
        .map(|range| range_prefix_len(field, range))
        .max()
        .unwrap_or(0)
}

/// The length of the prefix that `range` is on `field`; 0 when it is none.
fn range_prefix_len(field: Field, range: &ValueRange) -> u32 {
    let bits = match range.low.family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
        Family::Number => number_bits(field),
    };
    range.prefix_len(bits).unwrap_or(0)
}

/// Width of `field` where its value is a plain number.
fn number_bits(field: Field) -> u32 {
    match field {
        Field::Header(_, field) => field.bits(),
        Field::Direction => 1,
        Field::Tenant | Field::IngressPort | Field::Metadata(_) => 32,
    }
}

/// Rules in, matching rule out.
#[derive(Clone, Debug)]
pub struct Classifier {
    selection: Selection,
    rules: usize,
    /// `None` where asking the rules one after the other is at least as fast.
    tree: Option<Tree>,
}

/// Up to so many rules are asked one after the other.
const FEW: usize = 2;

impl Classifier {
    /// Compiles `rules`, sorted by (priority, name). It does not depend on what `resources` hold.
    pub fn build(rules: &[Rule], selection: Selection, _resources: &Resources) -> Classifier {
        let longest = match selection {
            Selection::Priority => None,
            Selection::LongestPrefix(field) => Some(field),
        };
        let tree = (rules.len() > FEW)
            .then(|| Entries::new(rules.iter().map(|rule| rule.conditions.as_slice()), longest))
            .filter(|entries| entries.len() < ENTRY_LIMIT)
            .map(|entries| build(entries, false));
        Classifier { selection, rules: rules.len(), tree }
    }

    /// The index of the selected rule, as [`Selection`] says, or `None`. `rules` are those it was built from.
    pub fn select(&self, rules: &[Rule], packet: &impl Read, resources: &Resources) -> Option<usize> {
        let Some(tree) = &self.tree else { return select_linear(rules, self.selection, packet, resources) };
        let entries = &tree.entries;
        let mut best = u32::MAX;
        tree.search(&tree.point(packet), &mut best, &mut |entry| {
            !entries.verify[entry as usize]
                || matches(&rules[entries.rules[entry as usize] as usize].conditions, packet, resources)
        });
        entries.rules.get(best as usize).map(|rule| *rule as usize)
    }

    /// Every rule whose conditions hold, in order: for traces, one rule after the other.
    pub fn all_matching<'a>(
        &self,
        rules: &'a [Rule],
        packet: &'a impl Read,
        resources: &'a Resources,
    ) -> impl Iterator<Item = usize> + 'a {
        (0..rules.len()).filter(move |index| matches(&rules[*index].conditions, packet, resources))
    }

    /// What was built and why.
    pub fn describe(&self) -> Description {
        describe::describe(self.tree.as_ref(), self.rules)
    }
}

/// The meaning of [`Classifier::select`]: every rule is asked.
fn select_linear(
    rules: &[Rule],
    selection: Selection,
    packet: &impl Read,
    resources: &Resources,
) -> Option<usize> {
    let mut matching = (0..rules.len()).filter(|index| matches(&rules[*index].conditions, packet, resources));
    match selection {
        Selection::Priority => matching.next(),
        Selection::LongestPrefix(field) => {
            let value = packet.read(field);
            // Of equal lengths the first is kept: rules are in order of (priority, name).
            matching
                .map(|index| (index, prefix_len(&rules[index].conditions, field, value)))
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
                .map(|(index, _)| index)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::action::{Action, Allow};
    use crate::flow::{HeaderField, Scope};
    use crate::layer::Name;
    use crate::resource::{PrefixSet, PrefixSetId};
    use alloc::collections::BTreeMap;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// A packet as a table of its fields.
    pub(in crate::classify) type Packet = BTreeMap<Field, Value>;

    impl Read for Packet {
        fn read(&self, field: Field) -> Option<Value> {
            self.get(&field).copied()
        }
    }

    pub(in crate::classify) fn rule(conditions: Vec<Condition>) -> Rule {
        let action = Action::Allow(Allow);
        Rule { name: Name::from(""), priority: 0, conditions, action, terminating: false, state: None }
    }

    pub(in crate::classify) const ADDRESS: Field = Field::Header(Scope::Inner, HeaderField::IpDst);

    /// Six fields with many conditions on them and a tail of rare ones, more than are indexed.
    fn field() -> impl Strategy<Value = Field> {
        prop_oneof![
            8 => Just(ADDRESS),
            4 => Just(Field::Header(Scope::Outer, HeaderField::IpSrc)),
            4 => Just(Field::Header(Scope::Inner, HeaderField::L4Dst)),
            2 => Just(Field::Tenant),
            1 => Just(Field::Direction),
            1 => (0u8..18).prop_map(Field::Metadata),
        ]
    }

    /// Few values, so that they meet: near zero and near the top of a family.
    fn value() -> impl Strategy<Value = Value> {
        let family = prop_oneof![Just(Family::Number), Just(Family::Ipv4), Just(Family::Ipv6)];
        (family, 0u128..24, 0..8).prop_map(|(family, bits, place)| {
            let top = match family {
                Family::Number => 0xffff,
                Family::Ipv4 => u32::MAX as u128,
                Family::Ipv6 => u128::MAX,
            };
            Value { family, bits: if place == 0 { top - bits } else { bits } }
        })
    }

    fn range() -> impl Strategy<Value = ValueRange> {
        prop_oneof![
            2 => value().prop_map(ValueRange::single),
            2 => (value(), prop_oneof![0u32..6, Just(32), Just(128)]).prop_map(|(value, host)| {
                let host = if host == 128 { u128::MAX } else { (1 << host) - 1 };
                let limit = if value.family == Family::Ipv4 { u32::MAX as u128 } else { u128::MAX };
                let (low, high) = (value.bits & !host, (value.bits | host) & limit);
                ValueRange { low: Value { bits: low, ..value }, high: Value { bits: high, ..value } }
            }),
            1 => (value(), 0u128..20).prop_map(|(low, width)| {
                let high = Value { bits: low.bits.saturating_add(width), ..low };
                ValueRange { low, high }
            }),
        ]
    }

    pub(in crate::classify) fn conditions() -> impl Strategy<Value = Vec<Condition>> {
        let sets = prop_oneof![6 => Just(vec![]), 1 => (0u32..2).prop_map(|id| vec![PrefixSetId(id)])];
        let ranges = prop_oneof![20 => prop::collection::vec(range(), 1..5), 1 => Just(vec![])];
        let condition = (field(), ranges, sets).prop_map(|(field, ranges, prefix_sets)| Condition {
            field,
            ranges,
            prefix_sets,
        });
        prop::collection::vec(condition, 0..5)
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let size = prop_oneof![0usize..12, 0usize..150];
        size.prop_flat_map(|size| prop::collection::vec(conditions().prop_map(rule), size))
    }

    pub(in crate::classify) fn packets() -> impl Strategy<Value = Vec<Packet>> {
        let fields = [
            ADDRESS,
            Field::Header(Scope::Outer, HeaderField::IpSrc),
            Field::Header(Scope::Inner, HeaderField::L4Dst),
            Field::Tenant,
            Field::Direction,
        ];
        let fields: Vec<Field> = fields.into_iter().chain((0..18).map(Field::Metadata)).collect();
        let packet = prop::collection::vec(prop::option::weighted(0.9, value()), fields.len()).prop_map(
            move |values| {
                fields.iter().zip(values).filter_map(|(field, value)| Some((*field, value?))).collect()
            },
        );
        prop::collection::vec(packet, 1..40)
    }

    pub(in crate::classify) fn resources() -> Resources {
        let set = |name: &str, prefixes: &[&str]| {
            Arc::new(PrefixSet::new(name.into(), prefixes.iter().map(|prefix| prefix.parse().unwrap())))
        };
        let prefix_sets = vec![set("a", &["0.0.0.4/30", "::8/125"]), set("b", &["0.0.0.0/27"])];
        Resources { prefix_sets, ..Resources::default() }
    }

    /// The slow twin: [`Selection`]'s words, one by one.
    pub(in crate::classify) fn oracle(
        rules: &[Rule],
        selection: Selection,
        packet: &Packet,
        resources: &Resources,
    ) -> Option<usize> {
        let holds = |condition: &Condition| match packet.get(&condition.field) {
            None => false,
            Some(value) => {
                condition.ranges.iter().any(|range| range.low <= *value && *value <= range.high)
                    || condition.prefix_sets.iter().any(|id| resources.prefix_set(*id).contains(*value))
            }
        };
        let mut best: Option<(u32, usize)> = None;
        for (index, rule) in rules.iter().enumerate() {
            if !rule.conditions.iter().all(holds) {
                continue;
            }
            let mut length = 0;
            if let (Selection::LongestPrefix(field), true) = (selection, true) {
                for condition in rule.conditions.iter().filter(|condition| condition.field == field) {
                    for range in &condition.ranges {
                        let value = packet[&field];
                        let bits = match value.family {
                            Family::Number => number_bits(field),
                            Family::Ipv4 => 32,
                            Family::Ipv6 => 128,
                        };
                        if range.contains(value) {
                            length = length.max(range.prefix_len(bits).unwrap_or(0));
                        }
                    }
                }
            }
            if best.is_none_or(|(longest, _)| length > longest) {
                best = Some((length, index));
            }
        }
        best.map(|(_, index)| index)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn it_selects_what_the_slow_twin_selects(
            rules in rules(),
            packets in packets(),
            selection in prop_oneof![
                Just(Selection::Priority),
                Just(Selection::LongestPrefix(ADDRESS)),
                Just(Selection::LongestPrefix(Field::Tenant)),
            ],
        ) {
            let resources = resources();
            let classifier = Classifier::build(&rules, selection, &resources);
            // Sets change without a rebuild.
            let emptied = Resources { prefix_sets: vec![resources.prefix_sets[1].clone(); 2], ..Resources::default() };
            for resources in [&resources, &emptied] {
                for packet in &packets {
                    let selected = classifier.select(&rules, packet, resources);
                    prop_assert_eq!(selected, oracle(&rules, selection, packet, resources));
                    prop_assert_eq!(selected, select_linear(&rules, selection, packet, resources));
                    let matching: Vec<usize> = classifier.all_matching(&rules, packet, resources).collect();
                    prop_assert!(matching.is_sorted());
                    prop_assert_eq!(matching.is_empty(), selected.is_none());
                }
            }
        }
    }

    /// Many rules of the forms that policies have, where nodes have several levels and parts.
    #[test]
    fn it_selects_what_the_slow_twin_selects_among_thousands_of_rules() {
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let [src, dst, port, protocol] =
            [HeaderField::IpSrc, HeaderField::IpDst, HeaderField::L4Dst, HeaderField::IpProtocol]
                .map(|field| Field::Header(Scope::Inner, field));
        let ip = |bits: u64| Value { family: Family::Ipv4, bits: bits as u128 };
        let number = |bits: u64| Value::number(bits as u128);
        let mut rules = Vec::new();
        for _ in 0..3_000 {
            let mut conditions = Vec::new();
            for field in [src, dst] {
                let length = [0, 16, 20, 24, 28, 28, 32, 32][random(8) as usize];
                if length > 0 {
                    let host = (1u64 << (32 - length)) - 1;
                    let low = (10 << 24 | random(4) << 16 | random(64) << 8 | random(8)) & !host;
                    let ranges = vec![ValueRange { low: ip(low), high: ip(low | host) }];
                    conditions.push(Condition { field, ranges, prefix_sets: vec![] });
                }
            }
            if random(2) == 0 {
                let low = random(2_000);
                let high = if random(2) == 0 { low } else { low + random(3_000) };
                let ranges = vec![ValueRange { low: number(low), high: number(high) }];
                conditions.push(Condition { field: port, ranges, prefix_sets: vec![] });
            }
            if random(3) > 0 {
                let ranges =
                    (0..=random(2)).map(|_| ValueRange::single(number([6, 17, 1][random(3) as usize])));
                conditions.push(Condition { field: protocol, ranges: ranges.collect(), prefix_sets: vec![] });
            }
            if conditions.len() > 2 {
                rules.push(rule(conditions));
            }
        }
        let resources = Resources::default();
        for selection in [Selection::Priority, Selection::LongestPrefix(dst)] {
            let classifier = Classifier::build(&rules, selection, &resources);
            let description = classifier.describe();
            assert!(description.parts.len() > 1 && description.nodes > 30, "{description:?}");
            assert!(description.bytes < rules.len() * 1_024, "{description:?}");
            let mut hits = 0;
            for _ in 0..5_000 {
                let mut address = || ip(10 << 24 | random(5) << 16 | random(64) << 8 | random(8));
                let mut packet = Packet::from([(src, address()), (dst, address())]);
                packet.insert(port, number(random(5_000)));
                packet.insert(protocol, number([6, 17, 1, 47][random(4) as usize]));
                let selected = classifier.select(&rules, &packet, &resources);
                assert_eq!(selected, oracle(&rules, selection, &packet, &resources));
                hits += usize::from(selected.is_some());
            }
            assert!((500..4_900).contains(&hits), "{hits}");
        }
    }

    #[test]
    fn the_description_names_kinds_and_fields() {
        let port = Field::Header(Scope::Inner, HeaderField::L4Dst);
        let exact = |n: u128| Condition {
            field: port,
            ranges: vec![ValueRange::single(Value::number(n))],
            prefix_sets: vec![],
        };
        let rules: Vec<Rule> = (0..100).map(|n| rule(vec![exact(n)])).chain([rule(vec![])]).collect();
        let description = Classifier::build(&rules, Selection::Priority, &resources()).describe();
        assert_eq!((description.rules, description.entries, description.verified), (101, 101, 0));
        let hash = PartDescription { kind: Kind::Hash, field: Some(port), entries: 100 };
        let list = PartDescription { kind: Kind::List, field: None, entries: 1 };
        assert_eq!(description.parts, [hash, list]);
        let description = Classifier::build(&rules[..2], Selection::Priority, &resources()).describe();
        assert_eq!(description.parts, [PartDescription { entries: 2, ..list }]);
        let wide = |n: u128| Condition {
            field: port,
            ranges: vec![ValueRange { low: Value::number(n * 600), high: Value::number(n * 600 + 400) }],
            prefix_sets: vec![],
        };
        let rules: Vec<Rule> = (0..100).map(|n| rule(vec![wide(n)])).collect();
        let description = Classifier::build(&rules, Selection::Priority, &resources()).describe();
        assert_eq!(description.parts, [PartDescription { kind: Kind::IntervalTree, ..hash }]);
    }
}
