//! Limits as written: how many packets or bytes pass in a second, and how many at once.

use super::{FieldName, MAX_TABLE};
use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Node, Tree, shortened};
use crate::value::Name;

/// The largest number of packets or bytes per second.
const MAX_PER_SECOND: u64 = 1_000_000_000_000;
/// The largest burst, and the largest that is taken where none is given.
const MAX_BURST: u64 = 1_000_000_000;
const HELP: &str = "write a whole number per second: `20/s`, `100k/s`, `10M/s`";

/// A limit that rules name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Its name.
    pub name: At<Name>,
    /// What distinguishes buckets.
    pub key: Vec<At<FieldName>>,
    /// The most buckets; `None` takes the default.
    pub limit: Option<u32>,
    /// What each bucket lets pass.
    pub rate: Rate,
}

/// What passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// What is counted.
    pub unit: RateUnit,
    /// How many of them in a second.
    pub per_second: u64,
    /// How many of them at once.
    pub burst: u64,
}

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateUnit {
    /// Packets.
    Packets,
    /// Bytes of frames.
    Bytes,
}

/// Whose tokens a rule takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Limiter {
    /// Its own.
    Own(Rate),
    /// Those of a limit that the resources declare.
    Shared(At<Name>),
}

impl Rate {
    /// So many packets per second; as many at once.
    pub(super) fn packets(per_second: u64) -> Rate {
        Rate { unit: RateUnit::Packets, per_second, burst: per_second.min(MAX_BURST) }
    }
}

impl Decoder<'_> {
    /// `tree` as what a limiting rule says: a limit's name, or a rate.
    pub(super) fn limiter(&mut self, tree: &Tree<'_>) -> Option<Limiter> {
        if matches!(tree.node, Node::Scalar { .. }) {
            return self.name(tree).map(Limiter::Shared);
        }
        let fields = self.fields(tree, "a limit", &["packets", "bytes", "burst"])?;
        self.rate_of(&fields).map(Limiter::Own)
    }

    /// `tree` as a limit that rules name.
    pub(crate) fn limit(&mut self, name: At<Name>, tree: &Tree<'_>) -> Option<Limit> {
        let fields = self.fields(tree, "a limit", &["packets", "bytes", "burst", "key", "limit"])?;
        let rate = self.rate_of(&fields);
        let items = fields.optional("key").map(|tree| self.one_or_list(tree)).unwrap_or_default();
        let key = items.iter().filter_map(|item| self.field_name(item)).collect();
        let limit = fields
            .optional("limit")
            .and_then(|tree| self.number(tree, "how many buckets a limit has", 1..=MAX_TABLE))
            .map(|number| number.value as u32);
        Some(Limit { name, key, limit, rate: rate? })
    }

    fn rate_of(&mut self, fields: &crate::decode::Fields<'_>) -> Option<Rate> {
        let (unit, tree) = match (fields.optional("packets"), fields.optional("bytes")) {
            (Some(tree), None) => (RateUnit::Packets, tree),
            (None, Some(tree)) => (RateUnit::Bytes, tree),
            (Some(_), Some(tree)) => {
                let help = "remove `packets` or `bytes`; two rules in two layers limit both";
                self.error(Code::Conflict, tree.span, "a limit counts packets or bytes, not both", help);
                return None;
            }
            (None, None) => {
                let help = "give `packets: 20/s` or `bytes: 10M/s`";
                self.error(Code::MissingField, fields.head(), "the limit does not say what passes", help);
                return None;
            }
        };
        let per_second = self.per_second(tree);
        let burst = fields
            .optional("burst")
            .map(|tree| self.amount(tree, "a burst", MAX_BURST, "write a whole number: `40`, `64k`, `1M`"));
        let per_second = per_second?;
        let burst = burst.unwrap_or(Some(per_second.min(MAX_BURST)))?;
        Some(Rate { unit, per_second, burst })
    }

    /// `tree` as `20/s`.
    pub(super) fn per_second(&mut self, tree: &Tree<'_>) -> Option<u64> {
        let text = self.text(tree, "a rate")?;
        let Some(number) = text.strip_suffix("/s") else {
            let message = format!("`{}` is not a rate", shortened(text));
            self.error(Code::BadValue, tree.span, message, HELP);
            return None;
        };
        self.amount_of(tree, number, "a rate", MAX_PER_SECOND, HELP)
    }

    fn amount(&mut self, tree: &Tree<'_>, what: &str, most: u64, help: &str) -> Option<u64> {
        let text = self.text(tree, what)?;
        self.amount_of(tree, text, what, most, help)
    }

    /// A whole number from 1 to `most`, with `k`, `M` or `G` behind it.
    fn amount_of(&mut self, tree: &Tree<'_>, text: &str, what: &str, most: u64, help: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let factor = match &text[digits..] {
            "" => Some(1),
            "k" => Some(1_000),
            "M" => Some(1_000_000),
            "G" => Some(1_000_000_000),
            _ => None,
        };
        let Some(factor) = factor.filter(|_| digits > 0) else {
            let message = format!("`{}` is not {what}", shortened(text));
            self.error(Code::BadValue, tree.span, message, help);
            return None;
        };
        let number = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        let number = number.filter(|number| (1..=most).contains(number));
        if number.is_none() {
            let message = format!("`{}` is out of range for {what}", shortened(text));
            self.error(Code::OutOfRange, tree.span, message, format!("1 to {most} are possible"));
        }
        number
    }
}
