//! Whatever a document says, reading and converting it never panics, and what conversion accepts the switch takes.
//!
//! The examples of the reference page are changed at random, from fixed seeds: words are replaced by words from
//! elsewhere in the page and by odd values, lines are removed and repeated. A failure names its seed.

use std::fs;
use std::path::Path;

use lamina_api::parse;
use lamina_core::flow::Direction;
use lamina_core::switch::{PortLimits, Switch, SwitchConfig};
use lamina_core::time::{Duration, Instant};
use lamina_daemon::convert::convert;

const ROUNDS: u64 = 5_000;

const ODD: &[&str] = &[
    "0",
    "-1",
    "255",
    "256",
    "65535",
    "65536",
    "16777215",
    "16777216",
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "0x",
    "0xff",
    "1-0",
    "0-65535",
    "\"\"",
    "~",
    "[]",
    "{}",
    "[[]]",
    "true",
    "*acl",
    "&acl",
    "10.0.0.0/0",
    "0.0.0.0",
    "255.255.255.255",
    "\"::\"",
    "\"::/0\"",
    "\"fd00::1\"",
    "10.0.0.1-10.0.0.9",
    "\"00:00:00:00:00:00\"",
    "\"ff:ff:ff:ff:ff:ff\"",
    "$admins",
    "$",
    "none",
    "copy",
    "decap",
    "block",
    "arp",
    "ipv6",
    "gre",
    "gre-keyed",
    "ip-in-ip",
    "geneve",
    "nvgre",
    "+syn-ack",
    "uplink",
    "vm1",
    "tier",
    "1ns",
    "99999h",
    "ä",
];

/// TCP in IPv4, an ARP request, a neighbour solicitation, TCP in VXLAN, and half a header.
const FRAMES: [&str; 5] = [
    "0200000000fe020000000001080045000028000140004006c2cb0a0000010a00630104d20050000003e8000000005002ffff0e5e0000",
    "ffffffffffff02000000000108060001080006040001020000000001\
     0a0000010000000000000a000002",
    "3333ff00000202000000000186dd6000000000203afffd000000000000000000000000000001\
     ff0200000000000000000001ff0000028700a0ff00000000fd0000000000000000000000000000020101020000000001",
    "0200000000fd0200000000fe08004500005a00014000401176bec0a80102c0000201c00012b500460000080000000013890002000000000102\
     00000000fe080045000028000140004006266e0a0000020a0000011f900016000003e8000000005002ffff00000000",
    "0200000000020200000000010800450000",
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}

/// A small generator of numbers (SplitMix64), so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}

/// The whole documents of the page, and the rules of its other examples in one document.
fn documents() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policy.md");
    let page = fs::read_to_string(path).unwrap();
    let mut whole = Vec::new();
    let mut rules = String::new();
    for block in page.split("\n```yaml").skip(1) {
        let Some((kind, rest)) = block.split_once('\n') else { continue };
        let text = rest.split("\n```").next().unwrap_or_default();
        match kind.trim() {
            "" => whole.push(format!("{text}\n")),
            "rule" => {
                for (group, line) in text.lines().enumerate() {
                    if line.starts_with('-') {
                        rules.push_str(&format!(
                            "          - group: g{}-{group}\n            rules:\n",
                            rules.len()
                        ));
                    }
                    rules.push_str(&format!("              {line}\n"));
                }
            }
            _ => {}
        }
    }
    // The page declares resources in several blocks; the rules name those of all.
    let declared = whole.iter().filter(|text| !text.contains("\nports:"));
    let resources: String = declared.filter_map(|text| Some(text.split_once("\nresources:\n")?.1)).collect();
    let base = format!("version: 1\nresources:\n{resources}");
    whole.push(format!(
        "{base}metadata: [tier]\nports:\n  ids: {{ mac: \"02:00:00:00:00:99\" }}\n  vm1:\n    mac: \"02:00:00:00:00:01\"\n    layers:\n      - name: l\n        priority: 1\n        outbound:\n{rules}"
    ));
    whole
}

/// Pieces of `text`: words, and what stands between them.
fn pieces(text: &str) -> Vec<&str> {
    let is_word = |c: char| !c.is_whitespace() && !matches!(c, ',' | '{' | '}' | '[' | ']');
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut before = None;
    for (index, c) in text.char_indices() {
        if before.is_some_and(|before| before != is_word(c)) {
            pieces.push(&text[start..index]);
            start = index;
        }
        before = Some(is_word(c));
    }
    pieces.push(&text[start..]);
    pieces
}

fn changed(text: &str, vocabulary: &[&str], dice: &mut Dice) -> String {
    let mut pieces = pieces(text);
    for _ in 0..=dice.below(3) {
        let at = dice.below(pieces.len());
        if pieces[at].trim().is_empty() && dice.below(10) > 0 {
            continue;
        }
        match dice.below(8) {
            0 => {
                pieces.remove(at);
            }
            1 => pieces.insert(at, vocabulary[dice.below(vocabulary.len())]),
            2..4 => pieces[at] = vocabulary[dice.below(vocabulary.len())],
            _ => pieces[at] = ODD[dice.below(ODD.len())],
        }
        if pieces.is_empty() {
            break;
        }
    }
    pieces.concat()
}

/// Makes the ports that were accepted, with small tables; the switch must take them.
fn publish(seed: u64, text: &str) -> bool {
    let Ok(document) = parse("mutated", text).map_err(|report| drop(report.render(false))) else {
        return false;
    };
    let converted = match convert(&document) {
        Ok(converted) => converted,
        Err(report) => {
            assert!(report.has_errors(), "seed {seed}");
            drop(report.render(false));
            return false;
        }
    };
    assert!(!converted.warnings.has_errors(), "seed {seed}");
    let mut switch = Switch::new(SwitchConfig { seed });
    for port in converted.policy.ports {
        let mut config = port.config.clone();
        config.limits = PortLimits { unified_flows: 16, drop_cache: 16, idle: Duration::from_seconds(1) };
        switch.add_port(port.id, config).unwrap_or_else(|error| panic!("seed {seed}: {error:?}\n{text}"));
        let published = switch.publish(port.id, port.policy);
        assert!(published.is_ok(), "seed {seed}: {published:?}\n{text}");
        for frame in FRAMES {
            for direction in [Direction::Outbound, Direction::Inbound] {
                let trace = switch.trace_crossing(Instant(0), port.id, direction, port.id, &bytes(frame));
                assert!(trace.is_some(), "seed {seed}");
            }
        }
    }
    true
}

#[test]
fn changed_documents_are_refused_or_run() {
    let documents = documents();
    assert!(documents.len() >= 5);
    for text in &documents {
        assert!(publish(0, text), "an unchanged document is refused:\n{text}");
    }
    let all = documents.concat();
    let vocabulary: Vec<&str> = pieces(&all).into_iter().filter(|piece| !piece.trim().is_empty()).collect();
    let mut accepted = 0;
    for seed in 1..=ROUNDS {
        let mut dice = Dice(seed);
        let text = changed(&documents[dice.below(documents.len())], &vocabulary, &mut dice);
        accepted += u64::from(publish(seed, &text));
    }
    assert!(accepted > ROUNDS / 50, "only {accepted} of {ROUNDS} changed documents were accepted");
    assert!(accepted < ROUNDS, "nothing was refused");
    eprintln!("{accepted} of {ROUNDS} changed documents were accepted");
}
