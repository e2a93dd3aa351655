//! Where rules are counted, from one program to the next (§5.6).
//!
//! Theory. A count belongs to a name: the rule `r` of a group of a layer keeps its slot in the port's counter table
//! while it exists, whatever else is published. So a new program has nothing to carry: what its predecessor counted
//! lies where it counts on. A rule that is gone leaves its slot behind. Cached flows may still have packets to add
//! to it, so the port waits until all of them were folded, moves the count to the group's slot for removed rules, and
//! only then lets go of the program's [`Retirement`]; by that the compiler, on another thread, sees that the slot may
//! be given to another rule.
//!
//! Slots are a plan of one chain of programs. A port that is handed a program whose predecessor it does not run
//! carries its counts by name instead.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cmp::Ordering;

use hashbrown::HashMap;

use super::rule_list::{Place, RuleList, order};
use super::{Name, Rule};
use crate::stats::Slot;

/// The slots of a group.
#[derive(Clone, Debug)]
pub(crate) struct GroupSlots {
    /// Counts of rules that are gone.
    pub(crate) retired: Slot,
    /// By place in the base.
    base: Arc<[Slot]>,
    /// By place among the added rules.
    added: Arc<[Slot]>,
}

/// Slots whose rules are gone, each with the slot that takes its count, if any.
type GoneSlots = Arc<[(Slot, Option<Slot>)]>;

/// What a program retires.
#[derive(Clone, Debug)]
pub(crate) struct Retirement {
    pub(crate) slots: GoneSlots,
    /// Held while the slots may not be used for anything else.
    lease: Arc<()>,
}

/// Which slots are in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotSpace {
    /// No slot so far has this number or a higher one.
    pub(crate) bound: usize,
    free: Vec<Slot>,
    retiring: Vec<(Weak<()>, GoneSlots)>,
}

/// Gives out slots for one program.
#[derive(Debug)]
pub(crate) struct SlotPlan {
    space: Arc<SlotSpace>,
    has_collected: bool,
    gone: Vec<(Slot, Option<Slot>)>,
}

impl SlotPlan {
    /// The successor of a program with `space`.
    pub(crate) fn new(space: Arc<SlotSpace>) -> SlotPlan {
        SlotPlan { space, has_collected: false, gone: Vec::new() }
    }

    /// A slot that counts nothing yet.
    pub(crate) fn take(&mut self) -> Slot {
        let space = Arc::make_mut(&mut self.space);
        if space.free.is_empty() && !self.has_collected {
            self.has_collected = true;
            let SlotSpace { free, retiring, .. } = space;
            retiring.retain(|(lease, slots)| {
                let is_held = lease.strong_count() > 0;
                if !is_held {
                    free.extend(slots.iter().map(|(slot, _)| *slot));
                }
                is_held
            });
        }
        space.free.pop().unwrap_or_else(|| {
            space.bound += 1;
            Slot::rule(space.bound - 1)
        })
    }

    /// `slot` is no longer used; `heir` takes its count.
    pub(crate) fn leave(&mut self, slot: Slot, heir: Option<Slot>) {
        self.gone.push((slot, heir));
    }

    /// Everything of a group is no longer used.
    pub(crate) fn leave_group(&mut self, slots: &GroupSlots, list: &RuleList) {
        let rules: Vec<Slot> = list.places().map(|(place, _)| slots.of(place)).collect();
        rules.into_iter().chain([slots.retired]).for_each(|slot| self.leave(slot, None));
    }

    /// The slots of a group that is new.
    pub(crate) fn group(&mut self, list: &RuleList) -> GroupSlots {
        let retired = self.take();
        let mut hidden = list.overlay.hidden.iter().peekable();
        let base = (0..list.base.rules.len() as u32).map(|place| match hidden.next_if_eq(&&place) {
            // It needs none, and is never asked for.
            Some(_) => retired,
            None => self.take(),
        });
        let base = base.collect();
        let added = (0..list.overlay.added.len()).map(|_| self.take()).collect();
        GroupSlots { retired, base, added }
    }

    /// The slots of a group whose rules were `before` and are `list`.
    pub(crate) fn successor(&mut self, slots: &GroupSlots, before: &RuleList, list: &RuleList) -> GroupSlots {
        if before.is_same(list) {
            return slots.clone();
        }
        // A hidden place may have lost its slot: where one is hidden no longer, slots are given out anew.
        let is_extended = Arc::ptr_eq(&before.base, &list.base)
            && before.overlay.hidden.iter().all(|place| list.overlay.is_hidden(*place));
        if is_extended { self.extend(slots, before, list) } else { self.rematch(slots, before, list) }
    }

    /// The base is the same, and what was hidden is.
    fn extend(&mut self, slots: &GroupSlots, before: &RuleList, list: &RuleList) -> GroupSlots {
        // In order of names, so that both sides can be walked together.
        let by_name = |list: &RuleList| {
            let mut added: Vec<(Arc<Rule>, u32)> =
                list.overlay.added.iter().map(|added| added.rule.clone()).zip(0..).collect();
            added.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
            added
        };
        let (old, new) = (by_name(before), by_name(list));
        let mut added: Vec<Option<Slot>> = alloc::vec![None; new.len()];
        let mut next = old.iter().peekable();
        for (rule, at) in &new {
            while let Some((_, place)) = next.next_if(|(other, _)| other.name < rule.name) {
                self.leave(slots.of(Place::Added(*place)), Some(slots.retired));
            }
            if let Some((_, place)) = next.next_if(|(other, _)| other.name == rule.name) {
                added[*at as usize] = Some(slots.of(Place::Added(*place)));
            }
        }
        for (_, place) in next {
            self.leave(slots.of(Place::Added(*place)), Some(slots.retired));
        }
        for place in list.overlay.hidden.iter().filter(|place| !before.overlay.is_hidden(**place)) {
            let name = &list.base.rules[*place as usize].name;
            let slot = slots.of(Place::Base(*place));
            match new.binary_search_by(|(rule, _)| rule.name.cmp(name)) {
                Ok(at) if added[new[at].1 as usize].is_none() => added[new[at].1 as usize] = Some(slot),
                _ => self.leave(slot, Some(slots.retired)),
            }
        }
        let added = added.into_iter().map(|slot| slot.unwrap_or_else(|| self.take())).collect();
        GroupSlots { retired: slots.retired, base: slots.base.clone(), added }
    }

    /// Nothing is known of how the lists came about: rules are matched by name.
    fn rematch(&mut self, slots: &GroupSlots, before: &RuleList, list: &RuleList) -> GroupSlots {
        let mut base: Vec<Option<Slot>> = alloc::vec![None; list.base.rules.len()];
        let mut added: Vec<Option<Slot>> = alloc::vec![None; list.overlay.added.len()];
        let mut set = |place: Place, slot: Slot| match place {
            Place::Base(place) => base[place as usize] = Some(slot),
            Place::Added(place) => added[place as usize] = Some(slot),
        };
        // Most rules stay where they are in the order; the others are looked up.
        let mut lost: HashMap<Name, Slot, crate::hash::TableHasher> = HashMap::default();
        let mut found: Vec<(Place, Name)> = Vec::new();
        let (mut old, mut new) = (before.places().peekable(), list.places().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, old)), Some((_, new))) => order(old, new),
            };
            let old = if next == Ordering::Greater { None } else { old.next() };
            let new = if next == Ordering::Less { None } else { new.next() };
            match (old, new) {
                (Some((old, _)), Some((new, _))) => set(new, slots.of(old)),
                (Some((old, rule)), None) => {
                    lost.insert(rule.name.clone(), slots.of(old));
                }
                (None, Some((new, rule))) => found.push((new, rule.name.clone())),
                (None, None) => {}
            }
        }
        for (place, name) in found {
            if let Some(slot) = lost.remove(&name) {
                set(place, slot);
            }
        }
        lost.into_values().for_each(|slot| self.leave(slot, Some(slots.retired)));
        // Hidden places of the base have no slot and need none.
        let mut hidden = list.overlay.hidden.iter().peekable();
        let base = base.into_iter().zip(0u32..).map(|(slot, place)| {
            let is_hidden = hidden.next_if_eq(&&place).is_some();
            slot.unwrap_or_else(|| if is_hidden { slots.retired } else { self.take() })
        });
        let base = base.collect();
        let added = added.into_iter().map(|slot| slot.unwrap_or_else(|| self.take())).collect();
        GroupSlots { retired: slots.retired, base, added }
    }

    /// The space of the program, and what it retires.
    pub(crate) fn finish(mut self) -> (Arc<SlotSpace>, Option<Retirement>) {
        if self.gone.is_empty() {
            return (self.space, None);
        }
        let retirement = Retirement { slots: self.gone.into(), lease: Arc::default() };
        let retiring = (Arc::downgrade(&retirement.lease), retirement.slots.clone());
        Arc::make_mut(&mut self.space).retiring.push(retiring);
        (self.space, Some(retirement))
    }
}

impl GroupSlots {
    /// Where the rule at `place` is counted.
    pub(crate) fn of(&self, place: Place) -> Slot {
        match place {
            Place::Base(place) => self.base[place as usize],
            Place::Added(place) => self.added[place as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Allow};
    use alloc::format;
    use alloc::vec;

    fn rule(name: usize, priority: i32) -> Rule {
        let (name, action) = (format!("{name}").as_str().into(), Action::Allow(Allow));
        Rule { name, priority, conditions: vec![], action, terminating: false, state: None }
    }

    fn by_name(slots: &GroupSlots, list: &RuleList) -> Vec<(Name, Slot)> {
        let mut all: Vec<_> =
            list.places().map(|(place, rule)| (rule.name.clone(), slots.of(place))).collect();
        all.sort();
        all
    }

    /// The successor of a group, and what its program has.
    fn next(
        space: &Arc<SlotSpace>,
        slots: &GroupSlots,
        (before, list): (&RuleList, &RuleList),
    ) -> (GroupSlots, Arc<SlotSpace>, Option<Retirement>) {
        let mut plan = SlotPlan::new(space.clone());
        let slots = plan.successor(slots, before, list);
        let (space, retirement) = plan.finish();
        (slots, space, retirement)
    }

    #[test]
    fn a_name_keeps_its_slot_however_the_list_changed() {
        let list = RuleList::new((0..20).map(|n| rule(n, n as i32)).collect());
        let mut plan = SlotPlan::new(Arc::default());
        let slots = plan.group(&list);
        let (space, _) = plan.finish();
        assert_eq!(space.bound, 21);
        let put = list.put(rule(7, 99)).put(rule(30, 1));
        let anew: RuleList = put.iter().cloned().collect();
        for (from, list) in [(&list, &put), (&list, &anew), (&list, &put.rebuilt())] {
            let (after, space, retirement) = next(&space, &slots, (from, list));
            assert!(retirement.is_none());
            assert_eq!(space.bound, 22, "one rule is new");
            let known = by_name(&slots, from);
            let kept = by_name(&after, list).into_iter().filter(|(name, _)| **name != *"30");
            assert!(kept.eq(known));
        }
    }

    #[test]
    fn a_slot_is_given_away_when_nobody_holds_its_lease() {
        let list = RuleList::new((0..3).map(|n| rule(n, 0)).collect());
        let mut plan = SlotPlan::new(Arc::default());
        let slots = plan.group(&list);
        let (space, _) = plan.finish();
        let gone = slots.of(Place::Base(1));
        let without = list.remove("1");
        let (slots, space, retirement) = next(&space, &slots, (&list, &without));
        let retirement = retirement.unwrap();
        assert_eq!(*retirement.slots, [(gone, Some(slots.retired))]);
        let more = without.put(rule(1, 0));
        let (held, held_space, _) = next(&space, &slots, (&without, &more));
        assert_eq!((held.of(Place::Added(0)) == gone, held_space.bound), (false, 5));
        drop(retirement);
        let (free, free_space, _) = next(&space, &slots, (&without, &more));
        assert_eq!((free.of(Place::Added(0)), free_space.bound), (gone, 4));
        // An earlier version comes back: the place that was hidden has no slot of its own any more.
        let (back, back_space, retirement) = next(&free_space, &free, (&more, &list));
        assert!(retirement.is_none(), "the names are the same");
        assert_eq!(by_name(&back, &list), by_name(&free, &more));
        let mut plan = SlotPlan::new(back_space);
        plan.leave_group(&back, &list);
        assert_eq!(plan.finish().1.unwrap().slots.len(), 4);
    }
}
