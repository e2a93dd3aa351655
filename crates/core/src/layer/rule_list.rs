//! The rules of a group, as a value that is cheap to clone and cheap to change (§7).
//!
//! Theory. A list is an immutable *base*, shared by everything that carries it, and a small *overlay* of edits: the
//! places of base rules that no longer count, and the rules that were added or put in their stead. Changing one
//! rule copies the overlay, never the base, so its cost does not depend on how many rules there are; what was
//! compiled of the base stays good. The overlay is bounded: where it is full, the next edit folds it into a new
//! base, which costs as much as making the list anew. Who wants no such pause looks at
//! [`RuleList::should_rebuild`] and does it beside the edits (`Compiler::rebuild`).
//!
//! Whatever the division, a list means the same: its rules in order of (priority, name). Nothing may ever be seen
//! of where a rule lies, other than by how fast it is.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use super::Rule;

/// The most edits of an overlay.
pub const OVERLAY_LIMIT: usize = 256;
/// With so many edits a list should be rebuilt, which may be done in the background.
const REBUILD_AT: usize = OVERLAY_LIMIT / 2;

/// Rules in order of (priority, name). See the file's head.
#[derive(Clone, Default)]
pub struct RuleList {
    pub(crate) base: Arc<RuleBase>,
    pub(crate) overlay: Arc<Overlay>,
}

/// Tells values of [`RuleList`] apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RulesIdentity(usize, usize);

/// The shared part of a list.
#[derive(Default)]
pub(crate) struct RuleBase {
    /// Sorted by (priority, name), names unique.
    pub(crate) rules: Vec<Rule>,
    /// Places by the rules' names.
    places: HashTable<u32>,
    hasher: crate::hash::TableHasher,
}

/// Edits of a base.
#[derive(Clone, Default)]
pub(crate) struct Overlay {
    /// Places of base rules that do not count, ascending.
    pub(crate) hidden: Vec<u32>,
    /// Rules beside the base, sorted by (priority, name).
    pub(crate) added: Vec<Added>,
}

/// A rule of an overlay.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) rule: Arc<Rule>,
    /// How many rules of the base, hidden ones included, come before it.
    pub(crate) before: u32,
}

/// Where a rule of a list lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the base.
    Base(u32),
    /// Among those added.
    Added(u32),
}

/// The order of rules in a group.
pub(crate) fn order(a: &Rule, b: &Rule) -> Ordering {
    a.priority
        .cmp(&b.priority)
        .then_with(|| if Arc::ptr_eq(&a.name, &b.name) { Ordering::Equal } else { a.name.cmp(&b.name) })
}

impl RuleBase {
    fn new(mut rules: Vec<Rule>) -> RuleBase {
        if !rules.is_sorted_by(|a, b| order(a, b) != Ordering::Greater) {
            rules.sort_by(order);
        }
        let mut base = RuleBase { rules, ..RuleBase::default() };
        if !base.index() {
            // Rare, and not from the documents of the API, which refuse it.
            let mut seen = hashbrown::HashSet::with_hasher(base.hasher);
            let mut rules = core::mem::take(&mut base.rules);
            rules.retain(|rule| seen.insert(rule.name.clone()));
            base.rules = rules;
            base.index();
        }
        base
    }

    /// Indexes the rules by name; false when one occurs twice.
    fn index(&mut self) -> bool {
        let RuleBase { rules, places, hasher } = self;
        *places = HashTable::with_capacity(rules.len());
        for (place, rule) in rules.iter().enumerate() {
            let hash = hasher.hash_one(&*rule.name);
            if places.find(hash, |other| rules[*other as usize].name == rule.name).is_some() {
                return false;
            }
            places.insert_unique(hash, place as u32, |other| hasher.hash_one(&*rules[*other as usize].name));
        }
        true
    }

    fn place(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.places.find(hash, |place| &*self.rules[*place as usize].name == name).copied()
    }
}

impl Overlay {
    pub(crate) fn is_hidden(&self, place: u32) -> bool {
        !self.hidden.is_empty() && self.hidden.binary_search(&place).is_ok()
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.added.iter().position(|added| &*added.rule.name == name)
    }

    fn len(&self) -> usize {
        self.hidden.len().max(self.added.len())
    }

    /// A copy without the rule `name`, with room for one more edit, and whether there was one.
    fn without(&self, base: &RuleBase, name: &str) -> (Overlay, bool) {
        let mut copy = Overlay {
            hidden: Vec::with_capacity(self.hidden.len() + 1),
            added: Vec::with_capacity(self.added.len() + 1),
        };
        copy.hidden.extend_from_slice(&self.hidden);
        match self.position(name) {
            Some(at) => {
                copy.added.extend_from_slice(&self.added[..at]);
                copy.added.extend_from_slice(&self.added[at + 1..]);
                (copy, true)
            }
            None => {
                copy.added.extend_from_slice(&self.added);
                let Some(place) = base.place(name) else { return (copy, false) };
                let Err(at) = copy.hidden.binary_search(&place) else { return (copy, false) };
                copy.hidden.insert(at, place);
                (copy, true)
            }
        }
    }
}

impl RuleList {
    /// The list of `rules`, in any order. Names must be unique; of several rules with one name the first in order
    /// stays.
    pub fn new(rules: Vec<Rule>) -> RuleList {
        RuleList { base: Arc::new(RuleBase::new(rules)), overlay: Arc::default() }
    }

    /// This list with `rule`, in place of the rule of that name if there is one.
    #[must_use]
    pub fn put(&self, rule: Rule) -> RuleList {
        let (mut overlay, _) = self.overlay.without(&self.base, &rule.name);
        let before = self.base.rules.partition_point(|other| order(other, &rule) == Ordering::Less) as u32;
        let at = overlay.added.partition_point(|other| order(&other.rule, &rule) == Ordering::Less);
        overlay.added.insert(at, Added { rule: Arc::new(rule), before });
        self.with(overlay)
    }

    /// This list without the rule `name`; the same list when there is none.
    #[must_use]
    pub fn remove(&self, name: &str) -> RuleList {
        match self.overlay.without(&self.base, name) {
            (overlay, true) => self.with(overlay),
            (_, false) => self.clone(),
        }
    }

    fn with(&self, overlay: Overlay) -> RuleList {
        let list = RuleList { base: self.base.clone(), overlay: Arc::new(overlay) };
        if list.overlay_len() > OVERLAY_LIMIT { list.rebuilt() } else { list }
    }

    /// The rule of this name.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        if let Some(at) = self.overlay.position(name) {
            return Some(&self.overlay.added[at].rule);
        }
        let place = self.base.place(name).filter(|place| !self.overlay.is_hidden(*place))?;
        Some(&self.base.rules[place as usize])
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.base.rules.len() - self.overlay.hidden.len() + self.overlay.added.len()
    }

    /// True when there is no rule.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rules in order of (priority, name).
    pub fn iter(&self) -> impl Iterator<Item = &Rule> + Clone {
        self.places().map(|(_, rule)| rule)
    }

    /// The same, with where they lie.
    pub(crate) fn places(&self) -> Places<'_> {
        Places { list: self, base: 0, hidden: 0, added: 0 }
    }

    /// Edits beside the base: 0 when the list is new or rebuilt, [`OVERLAY_LIMIT`] at most.
    pub fn overlay_len(&self) -> usize {
        self.overlay.len()
    }

    /// True when there are so many edits that a rebuild is due. It may wait: the list stays right and fast, but
    /// once [`OVERLAY_LIMIT`] is reached, the next edit does it.
    pub fn should_rebuild(&self) -> bool {
        self.overlay_len() >= REBUILD_AT
    }

    /// The same rules as a new base without edits. Costs as much as making the list.
    #[must_use]
    pub fn rebuilt(&self) -> RuleList {
        if self.overlay_len() == 0 {
            return self.clone();
        }
        RuleList::new(self.iter().cloned().collect())
    }

    /// This list on the base of `onto`, which is `from` rebuilt; `from` is an earlier version of this list. `None` when
    /// it is not, or has no such base any more.
    pub(crate) fn rebased(&self, from: &RuleList, onto: &RuleList) -> Option<RuleList> {
        if !Arc::ptr_eq(&self.base, &from.base) || onto.overlay_len() > 0 {
            return None;
        }
        let mut list = onto.clone();
        let is_known = |other: &Overlay, added: &Added| {
            let known = other.position(&added.rule.name).map(|at| &other.added[at]);
            known.is_some_and(|known| Arc::ptr_eq(&known.rule, &added.rule))
        };
        for added in self.overlay.added.iter().filter(|added| !is_known(&from.overlay, added)) {
            list = list.put((*added.rule).clone());
        }
        let old = from.overlay.added.iter().map(|added| &added.rule.name);
        let hidden = self.overlay.hidden.iter().map(|place| &self.base.rules[*place as usize].name);
        for name in old.chain(hidden).filter(|name| self.get(name).is_none()) {
            list = list.remove(name);
        }
        Some(list)
    }

    /// True when both are the same value, not only equal: what was compiled of one is good for the other.
    pub fn is_same(&self, other: &RuleList) -> bool {
        Arc::ptr_eq(&self.base, &other.base) && Arc::ptr_eq(&self.overlay, &other.overlay)
    }

    /// What tells this value from others, as [`RuleList::is_same`] does, while it lives.
    pub fn identity(&self) -> RulesIdentity {
        RulesIdentity(Arc::as_ptr(&self.base).addr(), Arc::as_ptr(&self.overlay).addr())
    }

    pub(crate) fn rule(&self, place: Place) -> &Rule {
        match place {
            Place::Base(place) => &self.base.rules[place as usize],
            Place::Added(at) => &self.overlay.added[at as usize].rule,
        }
    }
}

/// The rules of a list in order, with where they lie.
#[derive(Clone)]
pub(crate) struct Places<'a> {
    list: &'a RuleList,
    base: u32,
    hidden: usize,
    added: usize,
}

impl<'a> Iterator for Places<'a> {
    type Item = (Place, &'a Rule);

    fn next(&mut self) -> Option<Self::Item> {
        let RuleList { base, overlay } = self.list;
        while overlay.hidden.get(self.hidden) == Some(&self.base) {
            // An added rule that comes before a hidden place comes now.
            if overlay.added.get(self.added).is_some_and(|added| added.before <= self.base) {
                break;
            }
            self.hidden += 1;
            self.base += 1;
        }
        match overlay.added.get(self.added) {
            Some(added) if added.before <= self.base => {
                self.added += 1;
                Some((Place::Added(self.added as u32 - 1), &added.rule))
            }
            _ => {
                let rule = base.rules.get(self.base as usize)?;
                self.base += 1;
                Some((Place::Base(self.base - 1), rule))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = self.list.base.rules.len() - self.base as usize;
        let hidden = self.list.overlay.hidden.len() - self.hidden;
        let added = self.list.overlay.added.len() - self.added;
        (rest - hidden + added, Some(rest - hidden + added))
    }
}

impl From<Vec<Rule>> for RuleList {
    fn from(rules: Vec<Rule>) -> RuleList {
        RuleList::new(rules)
    }
}

impl FromIterator<Rule> for RuleList {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> RuleList {
        RuleList::new(rules.into_iter().collect())
    }
}

impl fmt::Debug for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Allow};
    use crate::layer::Name;
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::vec;
    use proptest::prelude::*;

    fn rule(name: &str, priority: i32) -> Rule {
        let action = Action::Allow(Allow);
        Rule { name: name.into(), priority, conditions: vec![], action, terminating: false, state: None }
    }

    fn content(list: &RuleList) -> Vec<(i32, Name)> {
        list.iter().map(|rule| (rule.priority, rule.name.clone())).collect()
    }

    #[test]
    fn of_one_name_the_first_in_order_stays() {
        let list = RuleList::new(vec![rule("a", 2), rule("b", 1), rule("a", 1)]);
        assert_eq!(content(&list), [(1, "a".into()), (1, "b".into())]);
        assert_eq!(list.get("a").map(|rule| rule.priority), Some(1));
    }

    #[test]
    fn a_full_overlay_becomes_a_base() {
        let mut list = RuleList::new((0..1_000).map(|n| rule(&format!("{n}"), n)).collect());
        for n in 0..OVERLAY_LIMIT {
            assert_eq!((list.overlay_len(), list.should_rebuild()), (n, n >= REBUILD_AT));
            list = list.put(rule(&format!("{n}"), 5_000));
        }
        assert_eq!(list.overlay_len(), OVERLAY_LIMIT);
        // An edit of what is edited already needs no room.
        list = list.put(rule("7", 6_000)).remove("8").put(rule("8", 1));
        assert_eq!(list.overlay_len(), OVERLAY_LIMIT);
        list = list.remove("999");
        assert_eq!((list.overlay_len(), list.len()), (0, 999));
        assert_eq!(list.get("7").map(|rule| rule.priority), Some(6_000));
    }

    #[test]
    fn nothing_changes_where_there_is_nothing_to_remove() {
        let list = RuleList::new(vec![rule("a", 1)]);
        assert!(list.remove("b").is_same(&list));
        assert!(list.remove("a").remove("a").is_empty());
    }

    proptest! {
        #[test]
        fn edits_mean_what_they_mean_to_a_map(
            start in prop::collection::vec((0u8..40, 0i32..6), 0..30),
            edits in prop::collection::vec((0u8..40, prop::option::weighted(0.6, 0i32..6)), 0..60),
        ) {
            let mut map: BTreeMap<Name, i32> = BTreeMap::new();
            for (name, priority) in start {
                map.entry(format!("{name}").as_str().into()).or_insert(priority);
            }
            let mut list: RuleList = map.iter().map(|(name, priority)| rule(name, *priority)).collect();
            for (name, priority) in edits {
                let name: Name = format!("{name}").as_str().into();
                match priority {
                    Some(priority) => {
                        list = list.put(rule(&name, priority));
                        map.insert(name, priority);
                    }
                    None => {
                        list = list.remove(&name);
                        map.remove(&name);
                    }
                }
                let mut expected: Vec<(i32, Name)> = map.iter().map(|(name, at)| (*at, name.clone())).collect();
                expected.sort();
                prop_assert_eq!(content(&list), expected.clone());
                prop_assert_eq!((list.len(), list.places().size_hint().0), (expected.len(), expected.len()));
                prop_assert_eq!(content(&list.rebuilt()), expected);
                for name in 0u8..40 {
                    let name = format!("{name}");
                    prop_assert_eq!(list.get(&name).map(|rule| rule.priority), map.get(name.as_str()).copied());
                }
                for (place, rule) in list.places() {
                    prop_assert_eq!(&list.rule(place).name, &rule.name);
                }
            }
        }
    }
}
