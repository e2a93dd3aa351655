//! Which rule of a group matches (§3.3, §7; VFP §6.5).
//!
//! A [`Classifier`] is compiled from a group's rules and answers one question per packet: which rule is selected.
//! A [`GroupIndex`] answers the same for a layer: which groups' conditions hold. Both are immutable; they hold
//! indexes into the rules or groups they were built from, which the caller passes again at lookup. The linear
//! functions of this file ([`matches`], [`prefix_len`]) are the meaning; everything else here is only faster.
//!
//! It must never decide differently from those functions, and never remember what a prefix set contains: sets
//! change without recompiling.

mod groups;

pub use groups::GroupIndex;

use alloc::vec::Vec;

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
}

impl Classifier {
    /// Compiles `rules`, sorted by (priority, name).
    pub fn build(rules: &[Rule], selection: Selection, _resources: &Resources) -> Classifier {
        Classifier { selection, rules: rules.len() }
    }

    /// The index of the selected rule, as [`Selection`] says, or `None`. `rules` are those it was built from.
    pub fn select(&self, rules: &[Rule], packet: &impl Read, resources: &Resources) -> Option<usize> {
        let mut matching =
            (0..rules.len()).filter(|index| matches(&rules[*index].conditions, packet, resources));
        match self.selection {
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
        Description {
            parts: alloc::vec![PartDescription { kind: Kind::List, field: None, rules: self.rules }],
        }
    }
}

/// The kinds of classifier (VFP §6.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Rules one after the other.
    List,
    /// Exact values.
    Hash,
    /// Prefixes.
    Trie,
    /// Ranges.
    IntervalTree,
}

/// What a classifier is made of, for `show classifier`.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The parts that a lookup asks, in order.
    pub parts: Vec<PartDescription>,
}

/// One part of a classifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartDescription {
    /// How it looks up.
    pub kind: Kind,
    /// What it looks up; `None` for a list.
    pub field: Option<Field>,
    /// How many rules were assigned to it.
    pub rules: usize,
}
