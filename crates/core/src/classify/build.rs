//! Building the tree: which entries go to which part of a node.
//!
//! Theory. For every field, a node asks what it would gain by it: cut the ranks where entries' runs end, leave out
//! the entries that would be copied into too many intervals (unless nothing would be left to check of them: such an
//! entry ends its list, so it adds at most one to each), and estimate the work of a packet that hits a listed entry:
//! the length of its list, plus the entries left out, which some other part must find, plus a charge for copies. Work
//! below a node grows like the logarithm of its entries, so the logarithms are added. The cheapest field becomes a
//! part; the entries left out are asked the same question again, and at last become a list.
//!
//! Memory is bounded by an allowance: a node may copy each of its entries so many times on average, and what a part
//! uses up its children no longer have. All children together thus hold at most [`COPIES`] numbers per entry. Equal
//! children are built once.

use alloc::vec::Vec;

use hashbrown::HashMap;

use super::entries::{Entries, FIELD_LIMIT, Run};
use super::tree::{Child, LIST, Node, Part, SURE, Tree};

/// A list of up to so many entries is not divided.
const LEAF: usize = 8;
/// The most parts of a node, a list of leftovers apart.
const PARTS: usize = 12;
/// Copies of an entry, on average, that a tree may hold.
const COPIES: usize = 64;
/// The most intervals of one part that an entry is copied into.
const SPREAD: usize = 64;
/// Unit of allowances, to divide them with some precision.
const UNIT: usize = 16;

type Lists =
    HashMap<(u16, Vec<u32>), Child, core::hash::BuildHasherDefault<rapidhash::fast::RapidHasher<'static>>>;

/// Builds the tree of `entries`. With `find_all` a search offers every entry that holds the point; otherwise it may
/// leave out those above one that surely holds it.
pub(super) fn build(entries: Entries, find_all: bool) -> Tree {
    let fields = |number| entries.runs(number).iter().enumerate();
    let open =
        |number| fields(number).filter(|(_, run)| **run != (0, u32::MAX)).map(|(place, _)| 1u16 << place);
    let masks =
        (0..entries.len() as u32).map(|number| open(number).fold(0, |mask, bit| mask | bit)).collect();
    let all: Vec<u32> = (0..entries.len() as u32).collect();
    let tree = Tree { entries, ..Tree::default() };
    let mut builder = Builder { tree, masks, find_all, lists: Lists::default(), table: Vec::new() };
    builder.tree.root = builder.child(&all, 0, COPIES * UNIT);
    builder.tree
}

struct Builder {
    tree: Tree,
    /// The fields that each entry has runs on.
    masks: Vec<u16>,
    find_all: bool,
    /// Children already built, by settled fields and entries.
    lists: Lists,
    /// Memory of [`Builder::cut`].
    table: Vec<u32>,
}

/// How one field would divide a node's entries.
struct Plan {
    place: usize,
    /// First rank of each interval, and behind the last one.
    starts: Vec<u32>,
    /// Intervals from, to (not included), and entry, in order of entries.
    spans: Vec<(u32, u32, u32)>,
    left_out: Vec<u32>,
    /// Numbers in all intervals together.
    copies: usize,
    cost: u32,
}

impl Builder {
    /// True where nothing is left to check of `entry` once the `settled` fields are.
    fn sure(&self, entry: u32, settled: u16) -> bool {
        self.masks[entry as usize] & !settled == 0 && !self.tree.entries.verify[entry as usize]
    }

    /// The child of `entries`, sorted, all of which hold a packet as far as the `settled` fields go.
    fn child(&mut self, entries: &[u32], settled: u16, allowance: usize) -> Child {
        let last = entries.iter().position(|entry| !self.find_all && self.sure(*entry, settled));
        let entries = last.map_or(entries, |last| &entries[..=last]);
        match entries {
            [] => return Child::NOTHING,
            [one] => return Child::one(*one, self.sure(*one, settled)),
            _ => {}
        }
        let key = (settled, entries.to_vec());
        if let Some(child) = self.lists.get(&key) {
            return *child;
        }
        let node = if entries.len() > LEAF { self.node(entries, settled, allowance) } else { None };
        let child = node.unwrap_or_else(|| self.list(entries, settled));
        self.lists.insert(key, child);
        child
    }

    fn list(&mut self, entries: &[u32], settled: u16) -> Child {
        let offset = self.tree.lists.len() as u32;
        self.tree.lists.push(entries.len() as u32);
        for entry in entries {
            let mark = if self.sure(*entry, settled) { SURE } else { 0 };
            self.tree.lists.push(entry | mark);
        }
        Child::list(offset)
    }

    /// A node that divides `entries`; `None` when no field does.
    fn node(&mut self, entries: &[u32], settled: u16, allowance: usize) -> Option<Child> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = entries.to_vec();
        while rest.len() > LEAF && parts.len() < PARTS {
            let plans = (0..self.tree.entries.fields.len()).filter(|place| settled & (1 << place) == 0);
            let plans: Vec<usize> = plans.collect();
            let plans = plans.into_iter().filter_map(|place| self.plan(place, &rest, settled, allowance));
            let Some(mut plan) = plans.min_by_key(|plan| plan.cost) else { break };
            rest = core::mem::take(&mut plan.left_out);
            parts.push(self.part(&plan, settled, allowance));
        }
        if parts.is_empty() {
            return None;
        }
        if let Some(lowest) = rest.first().copied() {
            let child = self.tree.children.len() as u32;
            let list = self.list(&rest, settled);
            self.tree.children.push(list);
            let entries = rest.len() as u32;
            parts.push(Part { lowest, field: LIST, direct: false, start: 0, child, count: 1, entries });
        }
        parts.sort_unstable_by_key(|part| part.lowest);
        let node = Node { first: self.tree.parts.len() as u32, count: parts.len() as u32 };
        self.tree.parts.extend_from_slice(&parts);
        self.tree.nodes.push(node);
        Some(Child::node(self.tree.nodes.len() as u32 - 1))
    }

    /// How the field at `place` would divide `entries`; `None` when it would not help.
    fn plan(&mut self, place: usize, entries: &[u32], settled: u16, allowance: usize) -> Option<Plan> {
        let bit = 1u16 << place;
        let (has, mut left_out): (Vec<u32>, Vec<u32>) =
            entries.iter().partition(|entry| self.masks[**entry as usize] & bit != 0);
        if has.len() < LEAF / 2 {
            return None;
        }
        let (_, spans) = self.cut(place, &has);
        let spread = (allowance / UNIT).clamp(1, SPREAD) as u32;
        let ends_lists = |entry| !self.find_all && self.sure(entry, settled | bit);
        let fits = |(from, to, entry): &(u32, u32, u32)| to - from <= spread || ends_lists(*entry);
        let (narrow, wide): (Vec<_>, Vec<_>) = spans.into_iter().partition(fits);
        if narrow.len() < LEAF / 2 {
            return None;
        }
        let narrow: Vec<u32> = narrow.into_iter().map(|(_, _, entry)| entry).collect();
        left_out.extend(wide.into_iter().map(|(_, _, entry)| entry));
        left_out.sort_unstable();
        let (starts, spans) = self.cut(place, &narrow);

        // List lengths, from where runs begin and end.
        let mut change = alloc::vec![0i64; starts.len()];
        for (from, to, _) in &spans {
            change[*from as usize] += 1;
            change[*to as usize] -= 1;
        }
        let (mut length, mut copies, mut squares) = (0i64, 0u64, 0u64);
        for change in change {
            length += change;
            copies += length as u64;
            squares += (length * length) as u64;
        }
        let expected = squares / copies.max(1);
        if expected as usize * 4 > entries.len() * 3 {
            return None;
        }
        let cost = logarithm(expected)
            + logarithm(left_out.len() as u64)
            + logarithm(copies / spans.len() as u64) / 2;
        Some(Plan { place, starts, spans, left_out, copies: copies as usize, cost })
    }

    /// Cuts the ranks of the field at `place` where runs of `entries` end: the intervals' first ranks and the end
    /// of the last one, and which intervals each entry covers.
    fn cut(&mut self, place: usize, entries: &[u32]) -> (Vec<u32>, Vec<(u32, u32, u32)>) {
        let ranks = self.tree.entries.fields[place].ranks as usize;
        let run = |tree: &Tree, entry: u32| -> Run { tree.entries.runs(entry)[place] };
        let mut starts = Vec::new();
        let mut spans = Vec::with_capacity(entries.len());
        if entries.len() * 8 > ranks {
            // Many entries: mark their ends in a table of all ranks, then number the marks.
            self.table.clear();
            self.table.resize(ranks + 1, 0);
            for entry in entries {
                let (low, high) = run(&self.tree, *entry);
                self.table[low as usize] = 1;
                self.table[high as usize + 1] = 1;
            }
            for (rank, mark) in self.table.iter_mut().enumerate() {
                if *mark != 0 {
                    *mark = starts.len() as u32;
                    starts.push(rank as u32);
                }
            }
            for entry in entries {
                let (low, high) = run(&self.tree, *entry);
                spans.push((self.table[low as usize], self.table[high as usize + 1], *entry));
            }
            return (starts, spans);
        }
        for entry in entries {
            let (low, high) = run(&self.tree, *entry);
            starts.extend([low, high + 1]);
        }
        starts.sort_unstable();
        starts.dedup();
        let at = |rank: u32| starts.partition_point(|start| *start < rank) as u32;
        for entry in entries {
            let (low, high) = run(&self.tree, *entry);
            spans.push((at(low), at(high + 1), *entry));
        }
        (starts, spans)
    }

    /// Builds the part that `plan` describes and everything below it.
    fn part(&mut self, plan: &Plan, settled: u16, allowance: usize) -> Part {
        let settled = settled | 1 << plan.place;
        let allowance = (allowance * plan.spans.len() / plan.copies.max(1)).max(UNIT);
        let mut events: Vec<(u32, u32)> = Vec::with_capacity(plan.spans.len() * 2);
        for (from, to, entry) in &plan.spans {
            events.extend([(*from, *entry), (*to, *entry)]);
        }
        events.sort_unstable();
        // Sweep over the intervals with the entries that cover the current one. Each has two events: it comes, it goes.
        let mut active: Vec<u32> = Vec::new();
        let mut before: Vec<u32> = Vec::new();
        let mut list: Vec<u32> = Vec::new();
        let mut found: Vec<(u32, Child)> = Vec::new();
        let mut events = events.into_iter().peekable();
        for (interval, start) in plan.starts.iter().enumerate() {
            while let Some((_, entry)) = events.next_if(|(at, _)| *at as usize == interval) {
                match active.binary_search(&entry) {
                    Ok(at) => drop(active.remove(at)),
                    Err(at) => active.insert(at, entry),
                }
            }
            list.clear();
            for entry in &active {
                list.push(*entry);
                if !self.find_all && self.sure(*entry, settled) {
                    break;
                }
            }
            if interval == 0 || list != before {
                let child = self.child(&list, settled, allowance);
                found.push((*start, child));
                core::mem::swap(&mut before, &mut list);
            }
        }
        self.store(plan, &found)
    }

    /// Stores the children `found`, each from its first rank on; the last one is nothing.
    fn store(&mut self, plan: &Plan, found: &[(u32, Child)]) -> Part {
        let tree = &mut self.tree;
        let lowest = plan.spans.iter().map(|(_, _, entry)| *entry).min().unwrap_or(u32::MAX);
        let (first, last) = (found.first().map_or(0, |one| one.0), found.last().map_or(0, |one| one.0));
        let child = tree.children.len() as u32;
        let direct = found.len() > LEAF && (last - first) as usize <= found.len() * 8;
        let start = if direct { first } else { tree.starts.len() as u32 };
        if direct {
            for pair in found.windows(2) {
                let width = (pair[1].0 - pair[0].0) as usize;
                tree.children.extend(core::iter::repeat_n(pair[0].1, width));
            }
        } else {
            tree.starts.extend(found.iter().map(|one| one.0));
            tree.children.extend(found.iter().map(|one| one.1));
        }
        let count = tree.children.len() as u32 - child;
        let entries = plan.spans.len() as u32;
        Part { lowest, field: (plan.place % FIELD_LIMIT) as u8, direct, start, child, count, entries }
    }
}

/// 16 times the binary logarithm of `x + 1`, about.
fn logarithm(x: u64) -> u32 {
    let x = x + 1;
    let whole = x.ilog2();
    let fraction = if whole >= 4 { x >> (whole - 4) } else { x << (4 - whole) };
    whole * 16 + (fraction as u32 & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_grows() {
        assert_eq!([0, 1, 3, 1023].map(logarithm), [0, 16, 32, 160]);
        assert!((0..5_000).all(|x| logarithm(x) <= logarithm(x + 1)));
    }
}
