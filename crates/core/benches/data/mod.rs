//! Rule sets and routing tables from the optional data folder, for benches and for the testkit's tests.
//!
//! ClassBench: IPv4 five-tuple rules, header traces and the first match of each header. FIB: the prefixes of a full
//! routing table. Both are read from `../shared/data` beside the repository; [`missing`] says so when they are not
//! there.

use std::io::Read as _;
use std::path::PathBuf;

use ipnet::IpNet;
use lamina_core::action::{Action, Allow};
use lamina_core::classify::Read;
use lamina_core::flow::{Family, Field, HeaderField, Scope, Value};
use lamina_core::layer::{Condition, Name, Rule, ValueRange};

/// The ClassBench sets, by the size they are called by.
pub const SETS: [&str; 7] = ["acl2_1k", "fw2_1k", "ipc2_1k", "acl3_10k", "fw3_10k", "ipc2_10k", "acl4_100k"];

/// Source, destination, source port, destination port, protocol of the innermost group.
pub const FIELDS: [Field; 5] = [
    Field::Header(Scope::Inner, HeaderField::IpSrc),
    Field::Header(Scope::Inner, HeaderField::IpDst),
    Field::Header(Scope::Inner, HeaderField::L4Src),
    Field::Header(Scope::Inner, HeaderField::L4Dst),
    Field::Header(Scope::Inner, HeaderField::IpProtocol),
];

/// A rule set with its trace.
pub struct Set {
    pub rules: Vec<Rule>,
    pub packets: Vec<FiveTuple>,
    /// First matching rule of each packet.
    pub truth: Vec<usize>,
}

/// A packet that has all five fields, whatever its protocol.
#[derive(Clone, Copy, Debug)]
pub struct FiveTuple(pub [Value; 5]);

impl Read for FiveTuple {
    fn read(&self, field: Field) -> Option<Value> {
        Some(match field {
            Field::Header(_, HeaderField::IpSrc) => self.0[0],
            Field::Header(_, HeaderField::IpDst) => self.0[1],
            Field::Header(_, HeaderField::L4Src) => self.0[2],
            Field::Header(_, HeaderField::L4Dst) => self.0[3],
            Field::Header(_, HeaderField::IpProtocol) => self.0[4],
            _ => return None,
        })
    }
}

/// A rule with `conditions`, numbered so that names sort like numbers.
pub fn rule(number: usize, conditions: Vec<Condition>) -> Rule {
    let name = Name::from(format!("{number:07}"));
    Rule { name, priority: 0, conditions, action: Action::Allow(Allow), terminating: false, state: None }
}

/// A condition that `field` lies in `low..=high`.
pub fn condition(field: Field, low: Value, high: Value) -> Condition {
    Condition { field, ranges: vec![ValueRange { low, high }], prefix_sets: Vec::new() }
}

/// An IPv4 address as a value.
pub fn ipv4(bits: u32) -> Value {
    Value { family: Family::Ipv4, bits: bits.into() }
}

/// Prints why something is skipped.
pub fn missing(what: &str) {
    println!("skipped, because {} is missing: {what}", folder().display());
}

/// The ClassBench set `name`; `None` when it is not there.
pub fn classbench(name: &str) -> Option<Set> {
    let read = |suffix: &str| unpack_zstd(&folder().join("classbench").join(format!("{name}{suffix}.zst")));
    let (rules, trace, truth) = (read("")?, read("_trace")?, read("_truth")?);
    let rules = rules.lines().enumerate().map(|(number, line)| parse_rule(number, line));
    let packets = trace.lines().map(|line| {
        let columns: Vec<u32> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
        let number = |at: usize| Value::number(columns[at].into());
        FiveTuple([ipv4(columns[0]), ipv4(columns[1]), number(2), number(3), number(4)])
    });
    let truth = truth.lines().map(|line| line.trim().parse().unwrap());
    Some(Set { rules: rules.collect(), packets: packets.collect(), truth: truth.collect() })
}

/// `@source/length destination/length low : high low : high protocol/mask flags/mask`. What is any is no condition.
fn parse_rule(number: usize, line: &str) -> Rule {
    let columns: Vec<&str> = line.trim_start_matches('@').split_whitespace().collect();
    let mut conditions = Vec::new();
    for (field, prefix) in FIELDS.into_iter().zip(&columns[..2]) {
        let prefix: IpNet = prefix.parse().unwrap();
        if prefix.prefix_len() > 0 {
            let ValueRange { low, high } = ValueRange::prefix(prefix);
            conditions.push(condition(field, low, high));
        }
    }
    for (field, at) in [(FIELDS[2], 2), (FIELDS[3], 5)] {
        let end = |at: usize| Value::number(columns[at].parse().unwrap());
        let (low, high) = (end(at), end(at + 2));
        if (low.bits, high.bits) != (0, 65_535) {
            conditions.push(condition(field, low, high));
        }
    }
    let (protocol, mask) = columns[8].split_once('/').unwrap();
    if mask == "0xFF" {
        let protocol = Value::number(u128::from_str_radix(protocol.trim_start_matches("0x"), 16).unwrap());
        conditions.push(condition(FIELDS[4], protocol, protocol));
    }
    rule(number, conditions)
}

/// The prefixes of a full routing table; `None` when they are not there.
pub fn routes() -> Option<Vec<IpNet>> {
    let packed = std::fs::read(folder().join("fib").join("prefixes.txt.gz")).ok()?;
    // A gzip header (RFC 1952): ten bytes, then the file's name, ended by a zero, when flag 3 is set.
    let name =
        if packed[3] & 8 != 0 { packed[10..].iter().position(|byte| *byte == 0).unwrap() + 1 } else { 0 };
    let text = miniz_oxide::inflate::decompress_to_vec(&packed[10 + name..]).unwrap();
    Some(String::from_utf8(text).unwrap().lines().map(|line| line.trim().parse().unwrap()).collect())
}

fn unpack_zstd(path: &std::path::Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_string(&mut text).unwrap();
    Some(text)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data")
}

/// A number generator for tests and benches: the same numbers from the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
