//! What a new program changes of the token buckets that rules have of their own (§8.4).
//!
//! Theory. A bucket is found by its rule's slot, which stays with the rule's name, so most buckets need nothing. Only
//! where a rule that stays has another rate, or no limit any more, must its bucket be told. Such rules lie where two
//! lists differ: among the added and the hidden ones, or anywhere when the bases differ.
//!
//! Rules that are gone are not listed here when their group went with them: those slots are retired.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Rule;
use super::rule_list::{Place, RuleList};
use super::slots::GroupSlots;
use crate::action::{Action, Limit, Limiter};
use crate::resource::Rate;
use crate::stats::Slot;

/// The rule of `slot` has this limit of its own from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LimitChange {
    pub(crate) slot: Slot,
    /// `None` when it has none.
    pub(crate) rate: Option<Rate>,
}

impl Rule {
    /// The rate of the bucket that the rule has of its own.
    pub(crate) fn own_rate(&self) -> Option<Rate> {
        match self.action {
            Action::Limit(Limit { by: Limiter::Own(rate) }) => Some(rate),
            _ => None,
        }
    }
}

/// What changes for the buckets of a group, from one list to the other. Buckets that are new are none of it.
pub(super) fn limit_changes(
    (before, old): (&RuleList, &GroupSlots),
    (list, new): (&RuleList, &GroupSlots),
) -> Vec<LimitChange> {
    if before.is_same(list) {
        return Vec::new();
    }
    let (old, new) = (own_rates(before, old, list), own_rates(list, new, before));
    let changes = old.into_iter().filter_map(|(slot, was)| {
        let rate = new.get(&slot).copied();
        (rate != Some(was)).then_some(LimitChange { slot, rate })
    });
    changes.collect()
}

/// The rules of `list` with limits of their own, of those that `other` may not have in the same place.
fn own_rates(list: &RuleList, slots: &GroupSlots, other: &RuleList) -> BTreeMap<Slot, Rate> {
    let added = (0..list.overlay.added.len() as u32).map(Place::Added);
    let rate = |place: Place| Some((slots.of(place), list.rule(place).own_rate()?));
    let mut rates: BTreeMap<Slot, Rate> = added.filter_map(rate).collect();
    let is_shown = |place: &u32| !list.overlay.is_hidden(*place);
    if Arc::ptr_eq(&list.base, &other.base) {
        let hidden_there = other.overlay.hidden.iter().copied();
        rates.extend(hidden_there.filter(is_shown).map(Place::Base).filter_map(rate));
    } else {
        let all = 0..list.base.rules.len() as u32;
        rates.extend(all.filter(is_shown).map(Place::Base).filter_map(rate));
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Allow;
    use crate::layer::slots::SlotPlan;
    use crate::resource::RateUnit;
    use alloc::format;
    use proptest::prelude::*;

    /// A rule that has a limit of its own unless `burst` is 0.
    fn rule(name: u8, burst: u64) -> Rule {
        let rate = Rate { unit: RateUnit::Packets, per_second: 1, burst };
        let limit = Action::Limit(Limit { by: Limiter::Own(rate) });
        let action = if burst == 0 { Action::Allow(Allow) } else { limit };
        let name = format!("{name}").as_str().into();
        Rule { name, priority: 0, conditions: Vec::new(), action, terminating: false, state: None }
    }

    fn all(list: &RuleList, slots: &GroupSlots) -> BTreeMap<Slot, Rate> {
        list.places().filter_map(|(place, rule)| Some((slots.of(place), rule.own_rate()?))).collect()
    }

    proptest! {
        #[test]
        fn changes_make_the_rates_of_before_those_of_now(
            base in prop::collection::btree_map(0u8..12, 0u64..3, 0..12),
            edits in prop::collection::vec((0u8..12, prop::option::of(0u64..3), 0u8..8), 1..30),
        ) {
            let mut versions = Vec::from([RuleList::new(base.into_iter().map(|(n, b)| rule(n, b)).collect())]);
            for (name, burst, way) in edits {
                let last = versions.last().unwrap();
                let edited = match burst {
                    Some(burst) => last.put(rule(name, burst)),
                    None => last.remove(&format!("{name}")),
                };
                let back = usize::from(name) % versions.len();
                versions.push(match way {
                    0 => edited.rebuilt(),
                    1 => versions[back].clone(),
                    _ => edited,
                });
            }
            let mut plan = SlotPlan::new(Arc::default());
            let mut slots = plan.group(&versions[0]);
            let (mut space, _) = plan.finish();
            for pair in versions.windows(2) {
                let mut plan = SlotPlan::new(space);
                let now = plan.successor(&slots, &pair[0], &pair[1]);
                space = plan.finish().0;
                let (mut rates, after) = (all(&pair[0], &slots), all(&pair[1], &now));
                for change in limit_changes((&pair[0], &slots), (&pair[1], &now)) {
                    prop_assert_ne!(rates.remove(&change.slot), change.rate, "only changes");
                    rates.extend(change.rate.map(|rate| (change.slot, rate)));
                }
                // What is left was changed to what is now; all that is missing is new.
                for (slot, rate) in &rates {
                    prop_assert_eq!(after.get(slot), Some(rate));
                }
                let fresh = after.keys().filter(|slot| !rates.contains_key(slot));
                let old = all(&pair[0], &slots);
                prop_assert!(fresh.into_iter().all(|slot| !old.contains_key(slot)));
                slots = now;
            }
        }
    }
}
