//! What a classifier is made of and why, for `show classifier` (§7).
//!
//! It must be true to what lookups do: it reads the structure itself, not the wish that made it.

use alloc::vec::Vec;

use super::tree::{LIST, Part, Tree};
use crate::flow::Field;

/// The kinds of classifier (VFP §6.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Rules one after the other: too few to index, or nothing tells them apart well.
    List,
    /// Exact values; numbers of 16 bits are found by themselves, which is a hash without collisions.
    Hash,
    /// Prefixes.
    Trie,
    /// Ranges, or few values of any form.
    IntervalTree,
}

impl Kind {
    /// The name used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::List => "list",
            Kind::Hash => "hash",
            Kind::Trie => "trie",
            Kind::IntervalTree => "interval-tree",
        }
    }

    /// Why a field, or what is left over, is looked up like this.
    pub const fn reason(self) -> &'static str {
        match self {
            Kind::List => "no field tells these entries apart for less than asking them one after the other",
            Kind::Hash => "all values are single ones, or small numbers whose ranges lie close together",
            Kind::Trie => "all values are prefixes, and there are many",
            Kind::IntervalTree => "there are ranges that are no prefixes, or few values",
        }
    }
}

/// What a classifier is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Description {
    /// The rules it was built from.
    pub rules: usize,
    /// Rules after every combination of their values was made an entry of its own.
    pub entries: usize,
    /// Entries whose rule is asked as well, since prefix sets, many fields or many combinations are not indexed.
    pub verified: usize,
    /// The indexed fields, each looked up once per packet.
    pub fields: Vec<FieldDescription>,
    /// The parts that a lookup asks first, in order; below each, further parts may divide its entries.
    pub parts: Vec<PartDescription>,
    /// Nodes of the whole structure.
    pub nodes: usize,
    /// Bytes of memory behind it, about.
    pub bytes: usize,
}

/// How one field is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldDescription {
    /// The field.
    pub field: Field,
    /// By what.
    pub kind: Kind,
    /// How many classes of values are told apart.
    pub classes: usize,
}

/// One part of a classifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartDescription {
    /// How it looks up.
    pub kind: Kind,
    /// What it looks up; `None` for a list.
    pub field: Option<Field>,
    /// How many entries were assigned to it.
    pub entries: usize,
}

impl Description {
    /// Why the classifier is made like this: one sentence about the whole, to be read with [`Kind::reason`] of its
    /// fields and parts.
    pub const fn reason(&self) -> &'static str {
        if self.fields.is_empty() {
            if self.entries > super::FEW {
                "no rule has a condition that an index can use, so they are asked one after the other"
            } else {
                "so few rules are asked one after the other: an index would cost more than it saves"
            }
        } else if self.nodes == 0 {
            "the rules fit one short list behind the indexed fields"
        } else {
            "each part looks up the field that leaves the fewest entries to ask for the copies it costs"
        }
    }
}

/// Describes `tree`, or the list of `rules` rules that stands for it.
pub(super) fn describe(tree: Option<&Tree>, rules: usize) -> Description {
    let list = |entries| PartDescription { kind: Kind::List, field: None, entries };
    let Some(tree) = tree else {
        return Description {
            rules,
            entries: rules,
            parts: alloc::vec![list(rules)],
            ..Description::default()
        };
    };
    let fields: Vec<FieldDescription> = tree
        .entries
        .fields
        .iter()
        .map(|index| FieldDescription {
            field: index.field,
            kind: index.kind(),
            classes: index.ranks as usize,
        })
        .collect();
    let part = |part: &Part| match tree.entries.fields.get(part.field as usize) {
        Some(index) if part.field != LIST => {
            // Where values are their own ranks, it is the part that searches, if its intervals are far apart.
            let kind = if index.is_small() && !part.direct { Kind::IntervalTree } else { index.kind() };
            PartDescription { kind, field: Some(index.field), entries: part.entries as usize }
        }
        _ => list(part.entries as usize),
    };
    let parts = match tree.root_parts() {
        Some(parts) => parts.iter().map(part).collect(),
        None => alloc::vec![list(tree.entries.len())],
    };
    Description {
        rules,
        entries: tree.entries.len(),
        verified: tree.entries.verify.iter().filter(|verify| **verify).count(),
        parts,
        fields,
        nodes: tree.nodes.len(),
        bytes: tree.bytes(),
    }
}
