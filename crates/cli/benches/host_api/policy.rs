//! What is put: two ports, a list of rules of which one lets the packets pass, tables of mappings.

use std::ops::Range;

use lamina_api::wire::v1;
use v1::operation::Operation;

/// The two ports, called like their devices.
pub const PORTS: [&str; 2] = ["sender", "receiver"];
/// The guests' addresses; that of the sender is in the range of the rule [`PASSING`].
pub const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 7, 1], [10, 0, 7, 2]];
/// Where the packets go.
pub const UDP_PORT: u16 = 80;
/// Most rules: each has a range of its own.
pub const MAX_RULES: u32 = 1 << 16;
/// The rule that lets the packets pass, if there are so many; the layer blocks what no rule allows.
const PASSING: u32 = 7;
/// Rules and entries of one operation.
const RULES_PER_OPERATION: u32 = 2_000;
const ENTRIES_PER_OPERATION: u32 = 20_000;

fn operation(operation: Operation) -> v1::Operation {
    v1::Operation { operation: Some(operation) }
}

/// The MAC address of a guest.
pub fn mac(guest: usize) -> String {
    format!("02:00:00:00:00:{:02}", guest + 1)
}

/// The ports and their layers: one port allows what its guest sends, the other is to get the rules.
pub fn ports() -> Vec<v1::Operation> {
    let mut operations = Vec::new();
    for (guest, name) in PORTS.into_iter().enumerate() {
        let port = v1::Port { mac: mac(guest), ..v1::Port::default() };
        operations.push(operation(Operation::PutPort(v1::PutPort { name: name.into(), port: Some(port) })));
        let default = v1::LayerDefault { inbound: Some("block".into()), outbound: Some("pass".into()) };
        let group = v1::Group { group: "in".into(), ..v1::Group::default() };
        let layer = v1::Layer {
            name: "acl".into(),
            priority: Some(10),
            default: Some(default),
            inbound: vec![group],
            ..v1::Layer::default()
        };
        let put = v1::PutLayer { port: name.into(), layer: Some(layer), keep_groups: false };
        operations.push(operation(Operation::PutLayer(put)));
    }
    operations
}

/// These rules, each for its own range of senders and the UDP or TCP port `l4`.
pub fn rules(numbers: Range<u32>, l4: u32) -> Vec<v1::Operation> {
    let starts = numbers.clone().step_by(RULES_PER_OPERATION as usize);
    let put = |start: u32| {
        let end = numbers.end.min(start + RULES_PER_OPERATION);
        operation(Operation::PutRules(v1::PutRules {
            port: PORTS[1].into(),
            layer: "acl".into(),
            direction: v1::Direction::Inbound as i32,
            group: "in".into(),
            rules: (start..end).map(|number| rule(number, l4)).collect(),
        }))
    };
    starts.map(put).collect()
}

fn rule(number: u32, l4: u32) -> v1::Rule {
    let values = |text: String| v1::Values { values: vec![text] };
    let range = format!("10.{}.{}.0/24", number >> 8, number & 255);
    v1::Rule {
        name: format!("r{number}"),
        priority: Some(number as i32),
        when: [("ip.src".into(), values(range)), ("l4.dst".into(), values(l4.to_string()))].into(),
        action: Some(v1::Action { action: Some(v1::action::Action::Allow(v1::Nothing {})) }),
        ..v1::Rule::default()
    }
}

/// The rule of `rules` that change `number` is about: they take turns all over the list.
pub fn changed(number: u32, rules: u32) -> u32 {
    match number.wrapping_mul(37) % rules {
        PASSING => PASSING + 1,
        other => other,
    }
}

/// An empty table.
pub fn mapping_table(name: &str) -> v1::Operation {
    let resource = Some(v1::put_resource::Resource::Mapping(v1::Mapping::default()));
    operation(Operation::PutResource(v1::PutResource {
        name: name.into(),
        resource,
        ..v1::PutResource::default()
    }))
}

/// So many entries for the table, in pseudo-random order, as a directory would have them.
pub fn entries(table: &str, count: u32, transient: bool) -> Vec<v1::Operation> {
    // An odd factor permutes the numbers of any power of two, of which those that are too large are left out.
    let all = 0..count.next_power_of_two();
    let numbers: Vec<u32> = all
        .map(|n| n.wrapping_mul(0x9e37_79b1) & (count.next_power_of_two() - 1))
        .filter(|n| *n < count)
        .collect();
    let put = |numbers: &[u32]| {
        operation(Operation::PutMappingEntries(v1::PutMappingEntries {
            mapping: table.into(),
            entries: numbers.iter().map(|number| entry(*number)).collect(),
            replace: false,
            transient,
        }))
    };
    numbers.chunks(ENTRIES_PER_OPERATION as usize).map(put).collect()
}

fn entry(number: u32) -> v1::MappingEntry {
    let [_, a, b, c] = number.to_be_bytes();
    v1::MappingEntry {
        address: format!("10.{a}.{b}.{c}"),
        mac: "02:00:00:00:00:02".into(),
        remote: Some("192.168.1.2".into()),
        ..v1::MappingEntry::default()
    }
}
