//! Conditions turned into boxes of ranks, in the order in which they win.
//!
//! Theory. Seen through its field indexes, a packet is a point: one rank per field. A rule whose conditions have one
//! range each is a box: a run of ranks per field. A rule with several values per condition is several boxes, one for
//! each combination. Each box is an *entry*; its number is its place in the order of selection, so "the selected
//! rule" is the lowest numbered entry that holds the point. That covers longest prefix match too: there every range
//! of a rule is an entry of its own, and entries are ordered by its prefix length before the rule's place.
//!
//! What ranks cannot say is left to the rule itself: an entry that stands for a prefix set, for a field beyond the
//! limit or for combinations beyond the limit holds at least the rule's packets and is marked to be verified.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::field_index::FieldIndex;
use super::range_prefix_len;
use crate::flow::Field;
use crate::layer::{Condition, ValueRange};

/// The most fields that are indexed; conditions on further fields are verified.
pub(super) const FIELD_LIMIT: usize = 16;
/// The most entries that the combinations of one rule make, unless one condition alone has more values.
const COMBINATION_LIMIT: usize = 64;
/// Every rank.
const ANY: Run = (0, u32::MAX);

/// A run of ranks, ends included.
pub(super) type Run = (u32, u32);

/// All entries of a classifier, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    /// The indexed fields.
    pub(super) fields: Vec<FieldIndex>,
    /// A run per entry and field.
    pub(super) runs: Vec<Run>,
    /// The rule of each entry.
    pub(super) rules: Vec<u32>,
    /// Whether the rule's conditions must be asked as well.
    pub(super) verify: Vec<bool>,
}

impl Entries {
    /// The entries of the rules whose conditions are `rules`, in order; by longest prefix on `longest` first.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a [Condition]> + Clone,
        longest: Option<Field>,
    ) -> Entries {
        let mut entries = Entries { fields: fields(rules.clone(), longest), ..Entries::default() };
        let mut builder = RuleBoxes::default();
        let mut lengths = Vec::new();
        for (rule, conditions) in rules.enumerate() {
            if builder.read(conditions, &entries.fields, longest) {
                builder.emit(rule as u32, &mut entries, &mut lengths);
            }
        }
        if longest.is_some() {
            entries.sort_by_length(&lengths);
        }
        entries
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// The runs of entry `number`, by field.
    pub(super) fn runs(&self, number: u32) -> &[Run] {
        let width = self.fields.len();
        &self.runs[number as usize * width..][..width]
    }

    /// Orders entries by prefix length, the longest first; equal ones stay in the order of their rules.
    fn sort_by_length(&mut self, lengths: &[u32]) {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by_key(|number| Reverse(lengths[*number as usize]));
        let runs = order.iter().flat_map(|number| self.runs(*number)).copied().collect();
        self.rules = order.iter().map(|number| self.rules[*number as usize]).collect();
        self.verify = order.iter().map(|number| self.verify[*number as usize]).collect();
        self.runs = runs;
    }
}

/// The indexes of the fields that most rules have conditions on.
fn fields<'a>(
    rules: impl Iterator<Item = &'a [Condition]> + Clone,
    longest: Option<Field>,
) -> Vec<FieldIndex> {
    let mut uses: BTreeMap<Field, Vec<&ValueRange>> = BTreeMap::new();
    for condition in rules.flatten() {
        if condition.prefix_sets.is_empty() || Some(condition.field) == longest {
            uses.entry(condition.field).or_default().extend(&condition.ranges);
        }
    }
    let mut uses: Vec<(Field, Vec<&ValueRange>)> = uses.into_iter().collect();
    uses.sort_by_key(|(field, ranges)| (Some(*field) != longest, Reverse(ranges.len())));
    uses.truncate(FIELD_LIMIT);
    uses.into_iter().map(|(field, ranges)| FieldIndex::new(field, ranges.into_iter())).collect()
}

/// The boxes of one rule. Kept between rules for its memory.
#[derive(Default)]
struct RuleBoxes {
    /// Per field: sorted, disjoint runs; empty means every rank.
    runs: Vec<Vec<Run>>,
    /// Alternatives on the field of longest prefix match, with their prefix lengths.
    prefixes: Vec<(Run, u32)>,
    verify: bool,
    scratch: Vec<Run>,
    merged: Vec<Run>,
}

impl RuleBoxes {
    /// Reads a rule's conditions; false when no packet can match them.
    fn read(&mut self, conditions: &[Condition], fields: &[FieldIndex], longest: Option<Field>) -> bool {
        self.runs.resize(fields.len(), Vec::new());
        self.runs.iter_mut().for_each(Vec::clear);
        self.prefixes.clear();
        self.verify = false;
        for condition in conditions {
            if condition.ranges.is_empty() && condition.prefix_sets.is_empty() {
                return false;
            }
            let indexed = fields.iter().position(|index| index.field == condition.field);
            let done = match indexed {
                Some(0) if Some(condition.field) == longest => self.read_prefixes(condition, &fields[0]),
                Some(place) if condition.prefix_sets.is_empty() => {
                    self.narrow(place, condition, &fields[place])
                }
                _ => {
                    self.verify = true;
                    true
                }
            };
            if !done {
                return false;
            }
        }
        if self.prefixes.is_empty() {
            self.prefixes.push((ANY, 0));
        }
        true
    }

    /// Adds the alternatives of a condition on the field of longest prefix match.
    fn read_prefixes(&mut self, condition: &Condition, index: &FieldIndex) -> bool {
        // With a second condition on the field each alternative is longest for some packets, but both must hold.
        self.verify |= !self.prefixes.is_empty() || !condition.prefix_sets.is_empty();
        for range in &condition.ranges {
            let length = range_prefix_len(condition.field, range);
            self.prefixes.extend(index.ranks_of(range).map(|run| (run, length)));
        }
        if !condition.prefix_sets.is_empty() {
            self.prefixes.push((ANY, 0));
        }
        !self.prefixes.is_empty()
    }

    /// Narrows the runs of field `place` to those of `condition`; false when nothing is left.
    fn narrow(&mut self, place: usize, condition: &Condition, index: &FieldIndex) -> bool {
        self.scratch.clear();
        self.scratch.extend(condition.ranges.iter().flat_map(|range| index.ranks_of(range)));
        self.scratch.sort_unstable();
        self.merged.clear();
        for run in &self.scratch {
            match self.merged.last_mut() {
                Some(last) if run.0 <= last.1.saturating_add(1) => last.1 = last.1.max(run.1),
                _ => self.merged.push(*run),
            }
        }
        let runs = &mut self.runs[place];
        if runs.is_empty() {
            runs.extend_from_slice(&self.merged);
        } else {
            let both = runs.iter().flat_map(|a| {
                self.merged.iter().map(|b| (a.0.max(b.0), a.1.min(b.1))).filter(|run| run.0 <= run.1)
            });
            *runs = both.collect();
        }
        !runs.is_empty()
    }

    /// Adds the rule's entries.
    fn emit(&mut self, rule: u32, entries: &mut Entries, lengths: &mut Vec<u32>) {
        self.limit_combinations();
        let mut choice = alloc::vec![0usize; self.runs.len()];
        loop {
            for (run, length) in &self.prefixes {
                let start = entries.runs.len();
                entries.runs.extend(
                    self.runs.iter().zip(&choice).map(|(runs, at)| runs.get(*at).copied().unwrap_or(ANY)),
                );
                if *run != ANY {
                    // The field of longest prefix match is the first.
                    entries.runs[start] = *run;
                }
                entries.rules.push(rule);
                entries.verify.push(self.verify);
                lengths.push(*length);
            }
            // The next combination: count up, the first field fastest.
            let Some(place) = (0..choice.len()).find(|place| choice[*place] + 1 < self.runs[*place].len())
            else {
                return;
            };
            choice[..place].fill(0);
            choice[place] += 1;
        }
    }

    /// Where there are too many combinations, the fields with the most values keep them and the others become one
    /// run that spans their values, to be verified.
    fn limit_combinations(&mut self) {
        let mut places: Vec<usize> =
            (0..self.runs.len()).filter(|place| self.runs[*place].len() > 1).collect();
        places.sort_by_key(|place| Reverse(self.runs[*place].len()));
        let largest = places.first().map_or(1, |place| self.runs[*place].len()).max(self.prefixes.len());
        let limit = largest.max(COMBINATION_LIMIT);
        let mut combinations = self.prefixes.len();
        for place in places {
            let runs = &mut self.runs[place];
            if combinations.saturating_mul(runs.len()) <= limit {
                combinations *= runs.len();
            } else if let (Some(first), Some(last)) = (runs.first(), runs.last()) {
                let hull = (first.0, last.1);
                runs.clear();
                runs.push(hull);
                self.verify = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Value;
    use alloc::vec;

    fn condition(field: u8, values: impl IntoIterator<Item = u128>) -> Condition {
        let ranges = values.into_iter().map(|value| ValueRange::single(Value::number(value))).collect();
        Condition { field: Field::Metadata(field), ranges, prefix_sets: Vec::new() }
    }

    fn entries(rules: &[Vec<Condition>], longest: Option<Field>) -> Entries {
        Entries::new(rules.iter().map(Vec::as_slice), longest)
    }

    #[test]
    fn a_rule_is_an_entry_per_combination_of_its_values() {
        let entries = entries(&[vec![condition(0, [1, 5]), condition(1, [2, 8, 20])], vec![]], None);
        assert_eq!(entries.rules, [0, 0, 0, 0, 0, 0, 1]);
        assert!(!entries.verify.contains(&true));
    }

    #[test]
    fn neighbouring_values_are_one_run() {
        assert_eq!(entries(&[vec![condition(0, [3, 1, 2])]], None).len(), 1);
    }

    #[test]
    fn too_many_combinations_are_verified_instead() {
        let many = |field| condition(field, (0..100).map(|n| n * 3));
        // Without other values between them, a hundred values would be one class.
        let between = (0..3).map(|field| vec![condition(field, (0..100).map(|n| n * 3 + 1))]);
        let rules: Vec<_> = [vec![many(0), many(1), many(2)]].into_iter().chain(between).collect();
        let entries = entries(&rules, None);
        assert_eq!(entries.rules.iter().filter(|rule| **rule == 0).count(), 100);
        assert!(entries.verify[..100].iter().all(|verify| *verify));
    }

    #[test]
    fn contradictions_make_no_entry() {
        assert_eq!(
            entries(&[vec![condition(0, [1]), condition(0, [2])], vec![condition(0, [])]], None).len(),
            0
        );
    }

    #[test]
    fn two_conditions_on_a_field_leave_what_both_hold() {
        let entries = entries(&[vec![condition(0, [1, 5, 9]), condition(0, [5, 9, 11])]], None);
        assert_eq!((entries.len(), entries.verify[0]), (2, false));
    }

    #[test]
    fn longest_prefix_first_then_the_rules_order() {
        let prefix = |low: u128, bits: u32| Condition {
            field: Field::Metadata(0),
            ranges: vec![ValueRange {
                low: Value::number(low),
                high: Value::number(low | ((1 << bits) - 1)),
            }],
            prefix_sets: Vec::new(),
        };
        let rules = [vec![prefix(0, 8)], vec![prefix(0, 4)], vec![], vec![prefix(16, 4)], vec![prefix(3, 0)]];
        assert_eq!(entries(&rules, Some(Field::Metadata(0))).rules, [4, 1, 3, 0, 2]);
    }

    #[test]
    fn fields_beyond_the_limit_are_verified() {
        let rule: Vec<Condition> = (0..20).map(|field| condition(field, [1])).collect();
        let entries = entries(&[rule], None);
        assert_eq!((entries.len(), entries.fields.len()), (1, FIELD_LIMIT));
        assert!(entries.verify[0]);
    }
}
