//! Which groups of a layer apply to a packet: an index over groups' conditions (§7).
//!
//! A group's conditions are the same thing as a rule's, so the same tree finds them; but here all that hold are
//! wanted, in order. Groups are taken in chunks, each with its own tree, so that what holds fits in a fixed set of
//! bits and a lookup need not allocate.
//!
//! It must never leave out a group whose conditions hold, whatever prefix sets contain at the time.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::build::build;
use super::entries::Entries;
use super::tree::{ENTRY_LIMIT, Tree};
use super::{Read, matches};
use crate::layer::Group;
use crate::resource::Resources;

/// Groups per tree.
const CHUNK: usize = 512;
/// Up to so many groups are asked one after the other.
const FEW: usize = 4;

/// An index over the conditions of a layer's groups of one direction.
#[derive(Clone, Debug, Default)]
pub struct GroupIndex {
    /// Empty for few groups.
    chunks: Vec<Tree>,
}

impl GroupIndex {
    /// Compiles `groups`, in the order in which they are asked.
    pub fn build(groups: &[Group]) -> GroupIndex {
        if groups.len() <= FEW || groups.iter().all(|group| group.conditions.is_empty()) {
            return GroupIndex::default();
        }
        let tree = |groups: &[Group]| {
            let entries = Entries::new(groups.iter().map(|group| &*group.conditions), None);
            (entries.len() < ENTRY_LIMIT).then(|| build(entries, true))
        };
        let chunks: Option<Vec<Tree>> = groups.chunks(CHUNK).map(tree).collect();
        GroupIndex { chunks: chunks.unwrap_or_default() }
    }

    /// Calls `visit` with the index of every group whose conditions hold, in order, until it breaks (a terminating
    /// rule was selected). `groups` are those it was built from.
    pub fn candidates(
        &self,
        groups: &[Group],
        packet: &impl Read,
        resources: &Resources,
        visit: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) {
        if self.chunks.is_empty() {
            for (index, group) in groups.iter().enumerate() {
                if matches(&group.conditions, packet, resources) && visit(index).is_break() {
                    return;
                }
            }
            return;
        }
        for (tree, (chunk, groups)) in self.chunks.iter().zip(groups.chunks(CHUNK).enumerate()) {
            let mut holding = [0u64; CHUNK / 64];
            let point = tree.point(packet);
            tree.search(&point, &mut u32::MAX.clone(), &mut |entry| {
                let group = tree.entries.rules[entry as usize] as usize;
                let verify = tree.entries.verify[entry as usize];
                if !verify || matches(&groups[group].conditions, packet, resources) {
                    holding[group / 64] |= 1 << (group % 64);
                }
                // Never taken: an entry that was would hide those above it.
                false
            });
            for (word, mut bits) in holding.into_iter().enumerate() {
                while bits != 0 {
                    let group = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    if visit(chunk * CHUNK + group).is_break() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ADDRESS, Packet, resources};
    use super::*;
    use crate::flow::{Field, Value};
    use crate::layer::{Condition, Name, RuleList, Selection, ValueRange};
    use crate::resource::PrefixSetId;
    use alloc::vec;
    use proptest::prelude::*;

    fn group(conditions: Vec<Condition>) -> Group {
        let (conditions, rules) = (conditions.into(), RuleList::default());
        Group { name: Name::from(""), priority: 0, selection: Selection::Priority, conditions, rules }
    }

    fn conditions() -> impl Strategy<Value = Vec<Condition>> {
        let range = (0u128..12, 0u128..4).prop_map(|(low, width)| ValueRange {
            low: Value::number(low),
            high: Value::number(low + width),
        });
        let condition = (0u8..3, prop::collection::vec(range, 1..4)).prop_map(|(field, ranges)| Condition {
            field: Field::Metadata(field),
            ranges,
            prefix_sets: vec![],
        });
        let tag = (0u32..2).prop_map(|id| Condition {
            field: ADDRESS,
            ranges: vec![],
            prefix_sets: vec![PrefixSetId(id)],
        });
        prop::collection::vec(prop_oneof![6 => condition, 1 => tag], 0..4)
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let address =
            prop::option::of((0u32..40).prop_map(|bits| Value::ip(core::net::Ipv4Addr::from(bits).into())));
        (prop::collection::vec(prop::option::weighted(0.9, 0u128..14), 3), address).prop_map(
            |(numbers, address)| {
                let numbers = numbers.into_iter().zip(0u8..);
                let numbers =
                    numbers.filter_map(|(bits, key)| Some((Field::Metadata(key), Value::number(bits?))));
                numbers.chain(address.map(|address| (ADDRESS, address))).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn all_groups_that_hold_are_visited_in_order(
            groups in prop_oneof![prop::collection::vec(conditions(), 0..10), prop::collection::vec(conditions(), 0..1_200)],
            packets in prop::collection::vec(packet(), 1..10),
            most in 1usize..50,
        ) {
            let groups: Vec<Group> = groups.into_iter().map(group).collect();
            let index = GroupIndex::build(&groups);
            let resources = resources();
            for packet in &packets {
                let holds = |number: &usize| matches(&groups[*number].conditions, packet, &resources);
                let all: Vec<usize> = (0..groups.len()).filter(holds).collect();
                let mut visited = Vec::new();
                index.candidates(&groups, packet, &resources, &mut |group| {
                    visited.push(group);
                    ControlFlow::Continue(())
                });
                prop_assert_eq!(&visited, &all);
                visited.clear();
                index.candidates(&groups, packet, &resources, &mut |group| {
                    visited.push(group);
                    if visited.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                prop_assert_eq!(&visited, &all[..most.min(all.len())]);
            }
        }
    }
}
