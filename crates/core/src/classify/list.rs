//! The classifier of a [`RuleList`]: that of its base, and what its overlay changes (§7).
//!
//! Theory. A hidden rule must not be selected, and must not hide what it used to take: the next rule that matches
//! comes forward. The classifier of a base leaves out whatever stands behind a rule that surely matches, so it cannot
//! tell. Beside it lies a second one that leaves nothing out; only packets whose rule is hidden ask it. Added rules
//! are few and asked one after the other, most of them by one comparison with a value that was read once. What the
//! base selects and what the overlay selects then meet like any two rules.
//!
//! It must always select what a classifier built of the list's rules would select.

use alloc::vec::Vec;

use super::build::build;
use super::entries::Entries;
use super::tree::{ENTRY_LIMIT, Tree};
use super::{Classifier, Read, matches, prefix_len};
use crate::flow::{Field, Value};
use crate::layer::{Added, Place, Rule, RuleList, Selection};
use crate::resource::Resources;

/// Up to so many rules are asked one after the other when a hidden one is met.
const FEW: usize = 32;
/// The most fields whose values are compared beforehand.
const PROBE_FIELDS: usize = 8;

/// What is compiled of a base.
#[derive(Debug)]
pub(crate) struct BaseClassifier {
    classifier: Classifier,
    /// Leaves nothing out; `None` where asking every rule is as good.
    full: Option<Tree>,
    selection: Selection,
}

/// What is compiled of the rules beside a base.
#[derive(Debug, Default)]
pub(crate) struct AddedClassifier {
    fields: Vec<Field>,
    /// One per rule.
    probes: Vec<Probe>,
}

/// The narrowest single range that a rule's packets lie in.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Place of the field; [`NO_PROBE`] when nothing is compared.
    field: u8,
    low: Value,
    high: Value,
}

const NO_PROBE: u8 = PROBE_FIELDS as u8;

impl BaseClassifier {
    pub(crate) fn build(rules: &[Rule], selection: Selection, resources: &Resources) -> BaseClassifier {
        let classifier = Classifier::build(rules, selection, resources);
        let longest = longest(selection);
        let full = (rules.len() > FEW)
            .then(|| Entries::new(rules.iter().map(|rule| rule.conditions.as_slice()), longest))
            .filter(|entries| entries.len() < ENTRY_LIMIT)
            .map(|entries| build(entries, true));
        BaseClassifier { classifier, full, selection }
    }

    /// The classifier of the base alone.
    pub(crate) fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// The rule of `list`, whose base this was built from and whose added rules `added` was, that is selected.
    pub(crate) fn select(
        &self,
        added: &AddedClassifier,
        list: &RuleList,
        packet: &impl Read,
        resources: &Resources,
    ) -> Option<Place> {
        let rules = &list.base.rules;
        let mut base = self.classifier.select(rules, packet, resources);
        if let Some(place) = base
            && list.overlay.is_hidden(place as u32)
        {
            base = self.behind(list, packet, resources);
        }
        if list.overlay.added.is_empty() {
            return base.map(|place| Place::Base(place as u32));
        }
        let Some(beside) = added.select(&list.overlay.added, self.selection, packet, resources) else {
            return base.map(|place| Place::Base(place as u32));
        };
        let Some(base) = base else { return Some(Place::Added(beside as u32)) };
        let rule = &list.overlay.added[beside];
        let mut added_wins = rule.before as usize <= base;
        if let Selection::LongestPrefix(field) = self.selection {
            let value = packet.read(field);
            let of_base = prefix_len(&rules[base].conditions, field, value);
            let of_added = prefix_len(&rule.rule.conditions, field, value);
            if of_base != of_added {
                added_wins = of_added > of_base;
            }
        }
        Some(if added_wins { Place::Added(beside as u32) } else { Place::Base(base as u32) })
    }

    /// What the base selects among the rules that are not hidden.
    #[cold]
    fn behind(&self, list: &RuleList, packet: &impl Read, resources: &Resources) -> Option<usize> {
        let rules = &list.base.rules;
        let Some(tree) = &self.full else {
            let places = (0..rules.len()).filter(|place| !list.overlay.is_hidden(*place as u32));
            let rules = places.map(|place| (place, &rules[place]));
            return select_linear(rules, self.selection, packet, resources);
        };
        let entries = &tree.entries;
        let mut best = u32::MAX;
        tree.search(&tree.point(packet), &mut best, &mut |entry| {
            let rule = entries.rules[entry as usize];
            !list.overlay.is_hidden(rule)
                && (!entries.verify[entry as usize]
                    || matches(&rules[rule as usize].conditions, packet, resources))
        });
        entries.rules.get(best as usize).map(|rule| *rule as usize)
    }
}

impl AddedClassifier {
    pub(crate) fn build(added: &[Added]) -> AddedClassifier {
        let mut classifier = AddedClassifier::default();
        for added in added {
            let probe = classifier.probe(&added.rule);
            classifier.probes.push(probe);
        }
        classifier
    }

    fn probe(&mut self, rule: &Rule) -> Probe {
        let single = rule.conditions.iter().filter(|condition| condition.prefix_sets.is_empty());
        let single = single.filter_map(|condition| match &condition.ranges[..] {
            [range] if range.low.family == range.high.family => Some((condition.field, *range)),
            _ => None,
        });
        let narrowest = single.min_by_key(|(_, range)| range.high.bits.wrapping_sub(range.low.bits));
        let nothing = Probe { field: NO_PROBE, low: Value::number(0), high: Value::number(0) };
        let Some((field, range)) = narrowest else { return nothing };
        let place = self.fields.iter().position(|other| *other == field);
        let place = match place {
            Some(place) => place,
            None if self.fields.len() < PROBE_FIELDS => {
                self.fields.push(field);
                self.fields.len() - 1
            }
            None => return nothing,
        };
        Probe { field: place as u8, low: range.low, high: range.high }
    }

    /// The index of the selected rule of `added`, from which this was built.
    fn select(
        &self,
        added: &[Added],
        selection: Selection,
        packet: &impl Read,
        resources: &Resources,
    ) -> Option<usize> {
        let mut values = [None; PROBE_FIELDS];
        for (value, field) in values.iter_mut().zip(&self.fields) {
            *value = packet.read(*field);
        }
        let may_match = |probe: &Probe| match values.get(probe.field as usize) {
            Some(value) => value.is_some_and(|value| probe.low <= value && value <= probe.high),
            None => true,
        };
        let candidates = added.iter().enumerate().zip(&self.probes).filter(|(_, probe)| may_match(probe));
        let rules = candidates.map(|((place, added), _)| (place, &*added.rule));
        select_linear(rules, selection, packet, resources)
    }
}

fn longest(selection: Selection) -> Option<Field> {
    match selection {
        Selection::Priority => None,
        Selection::LongestPrefix(field) => Some(field),
    }
}

/// What `selection` selects of `rules`, in order, by asking every one.
fn select_linear<'a>(
    rules: impl Iterator<Item = (usize, &'a Rule)>,
    selection: Selection,
    packet: &impl Read,
    resources: &Resources,
) -> Option<usize> {
    let mut matching = rules.filter(|(_, rule)| matches(&rule.conditions, packet, resources));
    match longest(selection) {
        None => matching.next().map(|(place, _)| place),
        Some(field) => {
            let value = packet.read(field);
            // Of equal lengths the first is kept.
            matching
                .map(|(place, rule)| (place, prefix_len(&rule.conditions, field, value)))
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
                .map(|(place, _)| place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ADDRESS, Packet, conditions, oracle, packets, resources, rule};
    use super::*;
    use crate::layer::Name;
    use alloc::format;
    use proptest::prelude::*;

    fn named(number: usize, priority: i32, conditions: Vec<crate::layer::Condition>) -> Rule {
        Rule { name: Name::from(format!("{number}")), priority, ..rule(conditions) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn an_edited_list_selects_what_its_rules_select(
            base in prop_oneof![
                prop::collection::vec((0i32..4, conditions()), 0..12),
                prop::collection::vec((0i32..4, conditions()), 0..150),
            ],
            edits in prop::collection::vec((0usize..180, prop::option::of((0i32..4, conditions()))), 0..60),
            packets in packets(),
            selection in prop_oneof![
                Just(Selection::Priority),
                Just(Selection::LongestPrefix(ADDRESS)),
                Just(Selection::LongestPrefix(Field::Tenant)),
            ],
        ) {
            let resources = resources();
            let rules = base.into_iter().enumerate();
            let mut list: RuleList =
                rules.map(|(number, (priority, conditions))| named(number, priority, conditions)).collect();
            let classifier = BaseClassifier::build(&list.base.rules, selection, &resources);
            for (number, edit) in edits {
                list = match edit {
                    Some((priority, conditions)) => list.put(named(number, priority, conditions)),
                    None => list.remove(&format!("{number}")),
                };
            }
            let added = AddedClassifier::build(&list.overlay.added);
            let rules: Vec<Rule> = list.iter().cloned().collect();
            for packet in &packets {
                let selected = classifier.select(&added, &list, packet, &resources);
                let expected = oracle(&rules, selection, packet, &resources);
                prop_assert_eq!(
                    selected.map(|place| &list.rule(place).name),
                    expected.map(|place| &rules[place].name)
                );
            }
        }
    }

    /// Enough of one kind that each kind of index is built, with a catch-all behind them that removals uncover.
    #[test]
    fn what_a_removed_rule_hid_comes_forward_in_every_kind() {
        use crate::flow::{HeaderField, Scope};
        use crate::layer::{Condition, ValueRange};
        let port = Field::Header(Scope::Inner, HeaderField::L4Dst);
        let single = |n: u128| ValueRange::single(Value::number(n));
        let wide = |n: u128| ValueRange { low: Value::number(n * 60), high: Value::number(n * 60 + 40) };
        let prefix = |n: u128| {
            let ip = |bits: u128| Value { family: crate::flow::Family::Ipv4, bits };
            ValueRange { low: ip(n << 8), high: ip(n << 8 | 255) }
        };
        let kinds: [(Field, &dyn Fn(u128) -> ValueRange); 3] =
            [(port, &single), (port, &wide), (ADDRESS, &prefix)];
        for (field, range) in kinds {
            let condition =
                |n| Condition { field, ranges: alloc::vec![range(n)], prefix_sets: alloc::vec![] };
            for count in [3, 20, 500] {
                // Two layers of the same boxes, then everything.
                let rules = (0..count).flat_map(|n| {
                    (0..2).map(move |row| (row * 1_000 + n, row as i32, n)).collect::<Vec<_>>()
                });
                let rules =
                    rules.map(|(number, row, n)| named(number, row, alloc::vec![condition(n as u128)]));
                let all = named(9_999, 9, alloc::vec![]);
                let list: RuleList = rules.chain([all]).collect();
                let resources = Resources::default();
                let classifier = BaseClassifier::build(&list.base.rules, Selection::Priority, &resources);
                let added = AddedClassifier::default();
                for n in (0..count).step_by(7) {
                    let packet = Packet::from([(field, range(n as u128).low)]);
                    let mut list = list.clone();
                    for name in [n, 1_000 + n, 9_999] {
                        let selected = classifier.select(&added, &list, &packet, &resources);
                        assert_eq!(selected.map(|place| &*list.rule(place).name), Some(&*format!("{name}")));
                        list = list.remove(&format!("{name}"));
                    }
                    assert_eq!(classifier.select(&added, &list, &packet, &resources), None);
                }
            }
        }
    }
}
