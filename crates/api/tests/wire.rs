//! Documents and messages are one thing: what a policy file says, its message says, and back.

use std::fs;
use std::path::Path;

use lamina_api::document::Action;
use lamina_api::wire::{read, to_json, to_yaml, v1};
use lamina_api::{Document, Source, parse};
use prost::Message;

/// The document without its places and without the order of its maps, which differ between a text and a message.
fn meaning(document: &Document) -> String {
    let mut document = document.clone();
    document.ports.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    let resources = &mut document.resources;
    resources.mappings.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.targets.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.prefixes.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.meters.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.leases.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.dns.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    resources.limits.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    let layers = document.ports.iter_mut().flat_map(|port| &mut port.layers);
    for group in layers.flat_map(|layer| layer.inbound.iter_mut().chain(&mut layer.outbound)) {
        group.conditions.sort_by_key(|condition| condition.field.to_string());
        for rule in &mut group.rules {
            rule.conditions.sort_by_key(|condition| condition.field.to_string());
            if let Action::Mark { metadata, .. } = &mut rule.action.value {
                metadata.sort_by(|a, b| a.0.value.cmp(&b.0.value));
            }
        }
    }
    let debug = format!("{:?}", (&document.owner, &document.metadata, &document.resources))
        + &format!("{:?}{:?}", document.multicast, document.ports);
    let mut out = String::with_capacity(debug.len());
    let mut rest = &*debug;
    while let Some(at) = rest.find("Span {") {
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The message of the document in `text`, after the message was found to mean the same.
fn same_meaning(place: &str, text: &str) -> Option<v1::Document> {
    let document = parse(place, text).ok()?;
    let message =
        read::document(&Source::new(place, text)).unwrap_or_else(|report| panic!("{place}: {report:?}"));
    let back = read::whole(&message).unwrap_or_else(|error| panic!("{place}: {error:?}"));
    assert_eq!(meaning(&document), meaning(&back.value), "{place}");
    // The JSON form is a document too.
    let json = to_json("Document", &message.encode_to_vec()).unwrap().to_string();
    let again = parse(place, &json).unwrap_or_else(|report| panic!("{place}: {report:?}\n{json}"));
    assert_eq!(meaning(&document), meaning(&again), "{place}");
    // So is the YAML form.
    let yaml = to_yaml("Document", &message.encode_to_vec()).unwrap();
    let again = parse(place, &yaml).unwrap_or_else(|report| panic!("{place}: {report:?}\n{yaml}"));
    assert_eq!(meaning(&document), meaning(&again), "{place}\n{yaml}");
    Some(message)
}

/// Every YAML value below `key` of the files in `folder`, as texts of their own.
fn blocks_below(folder: &str, key: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    let mut blocks = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start().trim_start_matches("- ");
            if trimmed.trim_end() != format!("{key}:") {
                continue;
            }
            let indent = line.len() - trimmed.len();
            let below = lines[index + 1..]
                .iter()
                .take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > indent);
            let block: String = below.map(|line| format!("{line}\n")).collect();
            blocks.push((format!("{}:{}", path.display(), index + 1), block));
        }
    }
    blocks
}

#[test]
fn every_policy_of_the_scenarios_and_examples_means_the_same_as_a_message() {
    let scenarios = blocks_below("tests/scenarios", "policy");
    let examples = blocks_below("examples", "document");
    assert!(scenarios.len() > 50 && examples.len() > 5, "{} {}", scenarios.len(), examples.len());
    let (mut same, mut refused) = (0, 0);
    for (place, text) in scenarios.iter().chain(&examples) {
        match same_meaning(place, text) {
            Some(_) => same += 1,
            // Aliases of anchors elsewhere in the file, and policies that are wrong on purpose.
            None => refused += 1,
        }
    }
    assert!(same > 50 && refused < same / 4, "{same} {refused}");
}

#[test]
fn mistakes_in_messages_are_named_by_their_path() {
    let rule = v1::Rule {
        name: "web".into(),
        when: [("ip.src".to_string(), v1::Values { values: vec!["10.0.0.0/8".into(), "10.0.0.5/8".into()] })]
            .into(),
        action: Some(v1::Action { action: Some(v1::action::Action::Allow(v1::Nothing {})) }),
        ..v1::Rule::default()
    };
    let Err(read::ReadError::Content(problems)) = read::rule(&rule) else { panic!("it is wrong") };
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].code, &*problems[0].field), ("bad-value", "when.ip.src.1"));
    let nameless = v1::Rule { name: String::new(), ..rule };
    let Err(read::ReadError::Content(problems)) = read::rule(&nameless) else { panic!("it is wrong") };
    assert!(problems.iter().any(|problem| problem.code == "missing-field"), "{problems:?}");
}

#[test]
fn any_bytes_are_read_or_refused() {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let text = "version: 1\nports: { a: { mac: \"02:00:00:00:00:01\", layers: [{ name: l, priority: -1, inbound: [{ group: g, rules: [{ name: r, when: { ip.src: [10.0.0.0/8] }, action: { nat: { source: { port: 7 } } }, stateful: true }] }] }] } }\n";
    let message = same_meaning("text", text).unwrap().encode_to_vec();
    for _ in 0..20_000 {
        let mut bytes = message.clone();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, next() as u8),
            }
        }
        // Neither may panic, and what is read must be well-formed JSON.
        if let Ok(json) = to_json("Document", &bytes) {
            let _ = parse("mutated", &json.to_string());
        }
    }
}

#[test]
fn a_field_that_this_build_does_not_know_is_refused() {
    let mut bytes = v1::Rule { name: "r".into(), ..v1::Rule::default() }.encode_to_vec();
    bytes.extend([0xf8, 0x3f, 1]);
    let error = to_json("Rule", &bytes).unwrap_err();
    assert!(error.message.contains("no field 1023"), "{error}");
}
