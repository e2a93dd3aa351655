//! The reference page stays true: every YAML block of `docs/reference/policy.md` is read and converted.
//!
//! A block marked `yaml` is a whole document; `yaml port`, `yaml layer` and `yaml rule` are parts that are put into a
//! document which declares what the page's examples refer to.

use std::fs;
use std::path::Path;

use lamina_api::document::HeaderField;
use lamina_api::{Code, parse};
use lamina_daemon::convert::convert;

const RESOURCES: &str = r#"version: 1
metadata: [tier]
resources:
  mappings: { blue: { entries: [ { address: 10.0.0.2, mac: "02:00:00:00:00:02", remote: 192.168.1.2 } ] } }
  targets: { web: [ { address: 10.1.0.4, port: 8080 } ] }
  prefixes: { admins: [10.9.0.0/16] }
  meters: { bytes-by-destination: { key: ip.dst } }
  leases: { rack: [ { mac: "02:00:00:00:00:01", address: 10.0.0.1 } ] }
  dns: { lan: { records: [ { name: web.lan, address: 10.0.0.9 } ] } }
  limits: { each-source: { packets: 1k/s, key: ip.src } }
ports:
  ids: { mac: "02:00:00:00:00:99" }
  vm1:
"#;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policy.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Line number, kind and text of every YAML block.
fn blocks(page: &str) -> Vec<(usize, String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, _, text)), None) => text.push_str(&format!("{line}\n")),
            (None, Some(kind)) => open = Some((index + 1, kind.to_owned(), String::new())),
            (None, None) => {}
        }
    }
    blocks.retain(|(_, kind, _)| kind.starts_with("yaml"));
    blocks
}

fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(spaces))).collect()
}

/// The whole document that `block` is, or is part of.
fn document(kind: &str, block: &str) -> String {
    let port = r#"    mac: "02:00:00:00:00:01""#;
    match kind {
        "yaml" => block.to_owned(),
        "yaml port" => format!("{RESOURCES}{}", indented(block, 4)),
        "yaml layer" => {
            let layer = indented(block, 8);
            format!("{RESOURCES}{port}\n    layers:\n      - {}", &layer[8..])
        }
        "yaml rule" => format!(
            "{RESOURCES}{port}\n    layers:\n      - name: l\n        priority: 1\n        outbound:\n          - group: g\n            rules:\n{}",
            indented(block, 14)
        ),
        other => panic!("`{other}` is no kind of block"),
    }
}

#[test]
fn every_example_of_the_page_is_valid() {
    let page = page();
    let blocks = blocks(&page);
    assert!(blocks.len() >= 18, "only {} blocks found", blocks.len());
    for (line, kind, block) in blocks {
        let text = document(&kind, &block);
        let name = format!("policy.md:{line}");
        let document = parse(&name, &text).unwrap_or_else(|report| panic!("{report}"));
        let converted = convert(&document).unwrap_or_else(|report| panic!("{report}"));
        assert!(converted.warnings.is_empty(), "{}", converted.warnings);
    }
}

#[test]
fn the_page_names_every_field_and_every_code() {
    let page = page();
    for field in HeaderField::ALL {
        assert!(page.contains(&format!("`{}`", field.name())), "{} is not on the page", field.name());
    }
    for code in Code::ALL {
        assert!(page.contains(&format!("`{}`", code.name())), "{} is not on the page", code.name());
    }
}
