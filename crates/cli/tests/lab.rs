//! The command `lamina lab run`, end to end: the examples pass, a wrong expectation fails, and a wrong file is
//! explained.
//!
//! Every test builds real namespaces. Where the kernel forbids them it prints `skipped, because ...` with the
//! command's own explanation.

use std::path::Path;
use std::process::{Command, Output};

fn lamina(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_lamina")).args(arguments).current_dir(root).output().unwrap()
}

/// The JSON that the lab printed; `None` where labs cannot be built.
fn run(file: &str) -> Option<(serde_json::Value, bool)> {
    let output = lamina(&["lab", "run", "--json", file]);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("a lab is made of network namespaces") {
        println!("skipped, because {}", errors.trim());
        return None;
    }
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    Some((json, output.status.success()))
}

fn passes(file: &str, at_least: usize) {
    let Some((json, success)) = run(file) else { return };
    assert!(success && json["ok"] == true, "{json:#}");
    assert!(json["checks"].as_array().unwrap().len() >= at_least, "{json:#}");
}

/// A topology in a file of its own, removed afterwards.
struct Written(std::path::PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lamina-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Written(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn two_vms() {
    passes("examples/two-vms.yaml", 5);
}

#[test]
fn security_groups() {
    passes("examples/security-groups.yaml", 9);
}

#[test]
fn the_papers_four_policies_and_a_fifth_while_traffic_flows() {
    passes("examples/paper.yaml", 6);
}

#[test]
fn the_kernels_vxlan_device() {
    passes("examples/kernel-vxlan.yaml", 9);
}

#[test]
fn what_is_not_as_expected_fails_the_lab() {
    let file = Written::new(
        "wrong",
        r#"
version: 1
name: wrong
hosts:
  h1:
    vms:
      a: { mac: "02:00:00:00:00:01", address: 10.0.0.1/24, neighbors: { 10.0.0.2: "02:00:00:00:00:02" } }
      b: { mac: "02:00:00:00:00:02", address: 10.0.0.2/24, neighbors: { 10.0.0.1: "02:00:00:00:00:01" } }
checks:
  - { name: as it is, ping: { from: a, to: b } }
  - { name: wrongly blocked, ping: { from: a, to: b, timeout: 200ms }, expect: blocked }
  - { name: wrongly passing, ping: { from: a, to: 10.0.0.3, timeout: 200ms } }
  - { name: wrongly counted, ping: { from: a, to: b }, counts: [{ port: a, drops: blocked, packets: 1 }] }
  - { name: wrongly connected, stream: { from: a, to: b, bytes: 1kB }, expect: blocked }
"#,
    );
    let Some((json, success)) = run(file.path()) else { return };
    assert!(!success && json["ok"] == false, "{json:#}");
    let oks: Vec<_> = json["checks"].as_array().unwrap().iter().map(|check| check["ok"] == true).collect();
    assert_eq!(oks, [true, false, false, false, false], "{json:#}");
}

#[test]
fn a_wrong_file_is_explained_before_anything_is_built() {
    let file = Written::new(
        "mistakes",
        r#"
version: 1
name: mistakes
links:
  underlay: { hosts: { h1: 192.168.50.1/24, h9: 192.168.50.2/24 } }
hosts:
  h1:
    vms:
      vm1: { mac: "02:00:00:00:00", address: 10.0.0.1 }
      vm2: { mac: "02:00:00:00:00:02", address: 10.0.0.2/24, neighbours: {} }
    policies:
      - { name: acl, document: { version: 1, ports: { vm3: { layers: [] } } } }
checks:
  - { name: one, ping: { from: vm7, to: vm2 }, expect: maybe }
  - { name: one, wait: 1ms, ping: { from: vm2, to: vm2 } }
"#,
    );
    let output = lamina(&["lab", "run", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    for mistake in ["`h9`", "02:00:00:00:00", "neighbours", "vm3", "vm7", "maybe", "exactly one thing"] {
        assert!(text.contains(mistake), "{mistake} is not explained in\n{text}");
    }
    assert!(lamina(&["lab", "run", "no-such-file.yaml"]).status.code() == Some(1));
}
