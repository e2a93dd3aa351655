//! Classifiers against asking every rule: the first bytes make the rules, the rest the packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use lamina_core::action::{Action, Allow};
use lamina_core::classify::{Classifier, Read};
use lamina_core::flow::{Field, HeaderField, Scope, Value};
use lamina_core::layer::{Condition, Rule, Selection, ValueRange};
use lamina_core::resource::Resources;

use super::input::Input;

const FIELDS: [Field; 5] = [
    Field::Header(Scope::Inner, HeaderField::IpDst),
    Field::Header(Scope::Inner, HeaderField::L4Dst),
    Field::Header(Scope::Inner, HeaderField::IpProtocol),
    Field::Tenant,
    Field::Metadata(0),
];

/// A packet as values; `None` is a field that it lacks.
struct Values([Option<Value>; FIELDS.len()]);

impl Read for Values {
    fn read(&self, field: Field) -> Option<Value> {
        FIELDS.iter().position(|known| *known == field).and_then(|index| self.0[index])
    }
}

/// Builds a classifier of rules that `bytes` describe, and compares what it selects with a scan of the rules.
pub fn classify_any(bytes: &[u8]) {
    let mut input = Input(bytes);
    let resources = Resources::default();
    let selection = match input.below(3) {
        0 => Selection::LongestPrefix(FIELDS[0]),
        _ => Selection::Priority,
    };
    let count = input.below(60);
    let mut rules: Vec<Rule> = (0..count).map(|index| rule(&mut input, index)).collect();
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    let classifier = Classifier::build(&rules, selection, &resources);
    for _ in 0..16 {
        let packet = Values(std::array::from_fn(|field| input.maybe(|input| value(input, field))));
        let selected = classifier.select(&rules, &packet, &resources);
        assert_eq!(
            selected,
            scan(&rules, selection, &packet),
            "{selection:?} of {rules:#?} for {:?}",
            packet.0
        );
    }
}

fn rule(input: &mut Input<'_>, index: u8) -> Rule {
    let conditions = (0..input.below(4)).map(|_| condition(input)).collect();
    Rule {
        name: format!("r{index}").into(),
        priority: i32::from(input.below(4)),
        conditions,
        action: Action::Allow(Allow),
        terminating: false,
        state: None,
    }
}

fn condition(input: &mut Input<'_>) -> Condition {
    let field = usize::from(input.below(FIELDS.len() as u8));
    let ranges = (0..1 + input.below(3)).map(|_| range(input, field)).collect();
    Condition { field: FIELDS[field], ranges, prefix_sets: Vec::new() }
}

/// A single value, a prefix or any range, of one family.
fn range(input: &mut Input<'_>, field: usize) -> ValueRange {
    let low = value(input, field);
    match input.below(3) {
        0 => ValueRange::single(low),
        1 => {
            let host = input.below(33);
            let mask = (1u128 << host) - 1;
            let bits = |bits| Value { family: low.family, bits };
            let width = width(field, low);
            ValueRange { low: bits(low.bits & !mask), high: bits((low.bits | mask) & width) }
        }
        _ => {
            let high = Value { family: low.family, bits: value(input, field).bits & width(field, low) };
            if low <= high { ValueRange { low, high } } else { ValueRange { low: high, high: low } }
        }
    }
}

/// All bits that a value of the field can have.
fn width(field: usize, value: Value) -> u128 {
    match (field, value.family) {
        (0, lamina_core::flow::Family::Ipv6) => u128::MAX,
        (1, _) => 0xffff,
        (2, _) => 0xff,
        _ => 0xffff_ffff,
    }
}

/// Few different values, so that rules overlap and packets match.
fn value(input: &mut Input<'_>, field: usize) -> Value {
    match field {
        0 if input.byte() & 3 == 0 => Value::ip(
            Ipv6Addr::new(0xfd00, 0, 0, 0, u16::from(input.byte()), 0, 0, input.u16() & 0x101).into(),
        ),
        0 => Value::ip(Ipv4Addr::new(10, input.byte() & 3, input.byte() & 129, input.byte()).into()),
        1 => Value::number(u128::from(input.u16() & 0x83ff)),
        2 => Value::number(u128::from(input.below(20))),
        _ => Value::number(u128::from(u32::from_be_bytes(input.number()) & 0x8000_00ff)),
    }
}

/// What [`Selection`] says, rule by rule.
fn scan(rules: &[Rule], selection: Selection, packet: &Values) -> Option<usize> {
    let holds = |condition: &Condition| {
        packet
            .read(condition.field)
            .is_some_and(|value| condition.ranges.iter().any(|range| range.contains(value)))
    };
    let matching = (0..rules.len()).filter(|index| rules[*index].conditions.iter().all(holds));
    match selection {
        Selection::Priority => matching.into_iter().next(),
        Selection::LongestPrefix(field) => {
            // Of equal lengths the first one stays: rules are sorted by priority and name.
            matching.max_by_key(|index| (length(&rules[*index], field, packet), std::cmp::Reverse(*index)))
        }
    }
}

/// The longest prefix on `field` by which `rule` matches; 0 without one.
fn length(rule: &Rule, field: Field, packet: &Values) -> u32 {
    let Some(value) = packet.read(field) else { return 0 };
    let bits = if value.family == lamina_core::flow::Family::Ipv6 { 128 } else { 32 };
    let on_field = rule.conditions.iter().filter(|condition| condition.field == field);
    let ranges = on_field.flat_map(|condition| &condition.ranges).filter(|range| range.contains(value));
    ranges
        .filter_map(|range| {
            let host = range.high.bits - range.low.bits;
            let is_prefix = (host & (host + 1)) == 0 && range.low.bits & host == 0;
            is_prefix.then(|| bits - host.count_ones())
        })
        .max()
        .unwrap_or(0)
}
