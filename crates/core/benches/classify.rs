//! Lookups per second and build times of classifiers: synthetic ACLs, ClassBench sets and a full routing table.
//!
//! Every lookup hits a rule, packets come in random order and the trace is longer than any cache of answers. One
//! iteration is one lookup, the reading of fields included. Build iterations build the whole set.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lamina_core::classify::Classifier;
use lamina_core::flow::Value;
use lamina_core::layer::{Rule, Selection, ValueRange};
use lamina_core::resource::Resources;

#[allow(dead_code, reason = "shared with tests")]
mod data;

use data::{FIELDS, FiveTuple, Random, condition, ipv4, rule};

fn lookups(
    criterion: &mut Criterion,
    name: &str,
    rules: &[Rule],
    packets: &[FiveTuple],
    selection: Selection,
) {
    let resources = Resources::default();
    let classifier = Classifier::build(rules, selection, &resources);
    let description = classifier.describe();
    println!(
        "{name}: {} rules, {} entries, {} nodes, {} bytes a rule",
        description.rules,
        description.entries,
        description.nodes,
        description.bytes / description.rules.max(1)
    );
    for part in &description.parts {
        println!("  {:13} {:?} {}", part.kind.name(), part.field, part.entries);
    }
    let mut group = criterion.benchmark_group("select");
    let mut next = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            next = if next + 1 == packets.len() { 0 } else { next + 1 };
            classifier.select(rules, black_box(&packets[next]), &resources)
        })
    });
    group.finish();
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10);
    group.bench_function(name, |bencher| bencher.iter(|| Classifier::build(rules, selection, &resources)));
    group.finish();
}

/// An ACL as controllers write it: a guest's own network and many remote ones, ports of services.
fn acl(count: usize) -> (Vec<Rule>, Vec<FiveTuple>) {
    let mut random = Random(1);
    let mut packets = Vec::new();
    let rules = (0..count).map(|number| {
        let host = (1u32 << [0, 4, 8, 8, 12][random.below(5) as usize]) - 1;
        let source = (random.below(1 << 32) as u32) & !host;
        let subnet = 10 << 24 | (random.below(16) as u32) << 8;
        let port = 1 + random.below(2_000) as u128;
        let last = port + [0, 0, 0, 10, 1_000][random.below(5) as usize];
        let protocol = Value::number([6, 17][random.below(2) as usize]);
        packets.push(FiveTuple([
            ipv4(source | random.below(1 << 32) as u32 & host),
            ipv4(subnet | random.below(256) as u32),
            Value::number(40_000),
            Value::number(port),
            protocol,
        ]));
        let conditions = vec![
            condition(FIELDS[0], ipv4(source), ipv4(source | host)),
            condition(FIELDS[1], ipv4(subnet), ipv4(subnet | 0xff)),
            condition(FIELDS[3], Value::number(port), Value::number(last)),
            condition(FIELDS[4], protocol, protocol),
        ];
        rule(number, conditions)
    });
    let rules = rules.collect();
    for at in (1..packets.len()).rev() {
        packets.swap(at, random.below(at as u64 + 1) as usize);
    }
    (rules, packets)
}

fn synthetic(criterion: &mut Criterion) {
    for (count, name) in [(10, "acl-10"), (1_000, "acl-1k"), (50_000, "acl-50k")] {
        let (rules, packets) = acl(count);
        lookups(criterion, name, &rules, &packets, Selection::Priority);
    }
}

fn classbench(criterion: &mut Criterion) {
    for name in data::SETS {
        match data::classbench(name) {
            Some(set) => lookups(criterion, name, &set.rules, &set.packets, Selection::Priority),
            None => data::missing(name),
        }
    }
}

fn routes(criterion: &mut Criterion) {
    let Some(prefixes) = data::routes() else { return data::missing("the routing table") };
    let field = FIELDS[1];
    let rules = prefixes.iter().enumerate().map(|(number, prefix)| {
        let ValueRange { low, high } = ValueRange::prefix(*prefix);
        rule(number, vec![condition(field, low, high)])
    });
    let rules: Vec<Rule> = rules.collect();
    let mut random = Random(2);
    let packets = (0..200_000).map(|_| {
        let range = rules[random.below(rules.len() as u64) as usize].conditions[0].ranges[0];
        let host = (range.low.bits ^ range.high.bits) as u64;
        let address = Value { bits: range.low.bits | u128::from(random.below(1 << 31) & host), ..range.low };
        FiveTuple([address; 5])
    });
    let packets: Vec<FiveTuple> = packets.collect();
    lookups(criterion, "routes-1M", &rules, &packets, Selection::LongestPrefix(field));
}

criterion_group!(benches, synthetic, classbench, routes);
criterion_main!(benches);
