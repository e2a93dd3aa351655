//! Which entries hold a point: the lookup structure over all fields.
//!
//! Theory. A node holds some entries and divides them among *parts*. A part stands for one field: the ends of its
//! entries' runs cut the field's ranks into intervals, and each interval leads to the entries that cover it. Those
//! are few, and the field is settled for them: they become a child, which is a short list or a node that divides
//! them by another field. A packet walks one child of each part, so the depth is at most the number of fields. An
//! entry whose run spans many intervals would be copied into many children; it is left out of that part and goes to
//! the next one, where the runs are coarser, or finally to a part that is a plain list. (This is the idea of
//! assigning each rule to the classifier that suits it, VFP §6.5, applied again at each node.)
//!
//! Numbers order the search: each part knows its lowest entry, parts are asked in that order, and nothing above the
//! best entry found so far is looked at. A list ends at the first entry with nothing left to check.
//!
//! It must never change after it was built ([`super::build`]), and lookups must not allocate.

use alloc::vec::Vec;

use super::Read;
use super::entries::{Entries, FIELD_LIMIT};

/// Part of a node that is a list.
pub(super) const LIST: u8 = u8::MAX;
/// Marks a listed entry with nothing left to check.
pub(super) const SURE: u32 = 1 << 31;
/// Numbers of entries stay below this, so that they fit beside the marks of [`Child`].
pub(super) const ENTRY_LIMIT: usize = 1 << 29;

/// A packet's rank per field.
pub(super) type Point = [u32; FIELD_LIMIT];

/// The structure. See the file's head.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) entries: Entries,
    pub(super) nodes: Vec<Node>,
    pub(super) parts: Vec<Part>,
    /// First ranks of intervals, of the parts that search.
    pub(super) starts: Vec<u32>,
    /// What intervals lead to, of all parts.
    pub(super) children: Vec<Child>,
    /// Each list: its length, then numbers in order, the last one perhaps [`SURE`].
    pub(super) lists: Vec<u32>,
    pub(super) root: Child,
}

/// A run of parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The intervals of one field at one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Lowest entry below it.
    pub(super) lowest: u32,
    /// Place of the field, or [`LIST`].
    pub(super) field: u8,
    /// Children by rank, from `start`; otherwise by interval.
    pub(super) direct: bool,
    /// First rank, or where its starts begin in [`Tree::starts`].
    pub(super) start: u32,
    /// Where its children begin.
    pub(super) child: u32,
    /// How many children it has.
    pub(super) count: u32,
    /// Entries assigned to it, without copies.
    pub(super) entries: u32,
}

/// What an interval leads to, in 32 bits: nothing, one sure or unsure entry, a list or a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Child(u32);

impl Default for Child {
    fn default() -> Self {
        Child::NOTHING
    }
}

impl Child {
    pub(super) const NOTHING: Child = Child(u32::MAX);
    const TAG: u32 = 3 << 30;
    const NODE: u32 = 1 << 30;
    const ONE: u32 = 2 << 30;
    const ONE_SURE: u32 = 3 << 30;
    const MASK: u32 = !Self::TAG;

    pub(super) fn list(offset: u32) -> Child {
        Child(offset & Self::MASK)
    }

    pub(super) fn node(number: u32) -> Child {
        Child(number & Self::MASK | Self::NODE)
    }

    pub(super) fn one(entry: u32, sure: bool) -> Child {
        Child(entry & Self::MASK | if sure { Self::ONE_SURE } else { Self::ONE })
    }
}

impl Tree {
    /// The ranks of `packet`'s fields: each is read once.
    #[inline]
    pub(super) fn point(&self, packet: &impl Read) -> Point {
        let mut point = [0; FIELD_LIMIT];
        for (rank, index) in point.iter_mut().zip(&self.entries.fields) {
            *rank = index.rank(packet.read(index.field));
        }
        point
    }

    /// Offers entries that hold `point` and are numbered below `bound` to `accept`, which says whether the entry is
    /// taken; a taken one lowers the bound to its number.
    #[inline]
    pub(super) fn search(&self, point: &Point, bound: &mut u32, accept: &mut impl FnMut(u32) -> bool) {
        self.follow(self.root, point, bound, accept);
    }

    /// Searches a node's parts, those with the lowest entries first.
    fn visit(&self, node: Node, point: &Point, bound: &mut u32, accept: &mut impl FnMut(u32) -> bool) {
        for part in &self.parts[node.first as usize..][..node.count as usize] {
            if part.lowest >= *bound {
                return;
            }
            self.follow(self.lookup(part, point), point, bound, accept);
        }
    }

    /// Searches what an interval leads to.
    #[inline]
    fn follow(&self, child: Child, point: &Point, bound: &mut u32, accept: &mut impl FnMut(u32) -> bool) {
        let content = child.0 & Child::MASK;
        match child.0 & Child::TAG {
            Child::NODE => self.visit(self.nodes[content as usize], point, bound, accept),
            Child::ONE_SURE if child == Child::NOTHING => {}
            Child::ONE_SURE => self.offer(content | SURE, point, bound, accept),
            Child::ONE => self.offer(content, point, bound, accept),
            _ => {
                let length = self.lists[content as usize] as usize;
                for listed in &self.lists[content as usize + 1..][..length] {
                    if listed & !SURE >= *bound {
                        return;
                    }
                    self.offer(*listed, point, bound, accept);
                }
            }
        }
    }

    /// The parts of the root; `None` when it is a list.
    pub(super) fn root_parts(&self) -> Option<&[Part]> {
        let is_node = self.root.0 & Child::TAG == Child::NODE;
        let node = self.nodes.get((self.root.0 & Child::MASK) as usize).filter(|_| is_node)?;
        Some(&self.parts[node.first as usize..(node.first + node.count) as usize])
    }

    /// The child of `part` for `point`.
    #[inline]
    fn lookup(&self, part: &Part, point: &Point) -> Child {
        let children = &self.children[part.child as usize..][..part.count as usize];
        if part.field == LIST {
            return children[0];
        }
        let rank = point[part.field as usize % FIELD_LIMIT];
        if part.direct {
            return children.get(rank.wrapping_sub(part.start) as usize).copied().unwrap_or_default();
        }
        let starts = &self.starts[part.start as usize..][..part.count as usize];
        let after = if starts.len() <= 16 {
            starts.iter().filter(|start| **start <= rank).count()
        } else {
            starts.partition_point(|start| *start <= rank)
        };
        if after == 0 { Child::NOTHING } else { children[after - 1] }
    }

    /// Offers one listed entry, if it is below the bound and holds the point.
    #[inline]
    fn offer(&self, listed: u32, point: &Point, bound: &mut u32, accept: &mut impl FnMut(u32) -> bool) {
        let entry = listed & !SURE;
        let holds = || {
            let runs = self.entries.runs(entry);
            // Without branches: which field fails cannot be foreseen.
            runs.iter().zip(point).fold(true, |all, ((low, high), rank)| all & (low <= rank) & (rank <= high))
        };
        if entry < *bound && (listed & SURE != 0 || holds()) && accept(entry) {
            *bound = entry;
        }
    }

    /// Bytes of memory behind it, about.
    pub(super) fn bytes(&self) -> usize {
        let fields: usize = self.entries.fields.iter().map(|field| field.bytes()).sum();
        fields
            + self.entries.len() * (5 + 8 * self.entries.fields.len())
            + self.nodes.len() * size_of::<Node>()
            + self.parts.len() * size_of::<Part>()
            + (self.starts.len() + self.children.len() + self.lists.len()) * 4
    }
}
