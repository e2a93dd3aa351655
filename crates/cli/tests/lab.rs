//! The command `lamina lab run`, end to end: the examples pass, a wrong expectation fails, and a wrong file is
//! explained.
//!
//! Every test builds real namespaces. Where the kernel forbids them it prints `skipped, because ...` with the
//! command's own explanation.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn lamina(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

/// Says why the lab did not run, when it was for want of namespaces.
fn skipped(errors: &str) -> bool {
    let skipped = errors.contains("a lab is made of network namespaces");
    if skipped {
        println!("skipped, because {}", errors.trim());
    }
    skipped
}

/// The JSON that the lab printed; `None` where labs cannot be built.
fn run(file: &str) -> Option<(serde_json::Value, bool)> {
    let output = lamina(&["lab", "run", "--json", file]);
    let errors = String::from_utf8_lossy(&output.stderr);
    if skipped(&errors) {
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
fn the_gateway_example_passes() {
    passes("examples/gateway.yaml", 5);
}

#[test]
fn vlans_and_guards_of_one_host() {
    passes("examples/vlan-trunk.yaml", 6);
}

#[test]
fn three_hosts_on_a_bridge_and_an_ipv6_underlay() {
    let vm = |n: u8, host: &str| {
        format!(
            r#"
  h{n}:
    vms: {{ vm{n}: {{ mac: "02:00:00:00:00:0{n}", address: 10.0.0.{n}/24, mtu: 1430 }} }}
    policies: [{{ name: vnet, document: {{ version: 1, resources: {host}, ports: {{ vm{n}: *port }} }} }}]
"#
        )
    };
    let text = r#"
version: 1
name: three
links:
  underlay: { hosts: { h1: "fd00:50::1/64", h2: "fd00:50::2/64", kernel: "fd00:50::3/64" } }
hosts:
  kernel:
    kernel-vxlan:
      vni: 7
      mac: "02:00:00:00:00:03"
      address: 10.0.0.3/24
      mtu: 1430
      peers:
        - { address: 10.0.0.1, mac: "02:00:00:00:00:01", remote: "fd00:50::1" }
        - { address: 10.0.0.2, mac: "02:00:00:00:00:02", remote: "fd00:50::2" }
  h0:
    policies:
      - name: shared
        document:
          version: 1
          resources: &directory
            mappings:
              blue:
                entries:
                  - { address: 10.0.0.1, mac: "02:00:00:00:00:01", remote: "fd00:50::1" }
                  - { address: 10.0.0.2, mac: "02:00:00:00:00:02", remote: "fd00:50::2" }
                  - { address: 10.0.0.3, mac: "02:00:00:00:00:03", remote: "fd00:50::3" }
          ports:
            nobody: &port
              tenants: [7]
              layers:
                - name: vnet
                  priority: 10
                  default: { inbound: block, outbound: block }
                  outbound:
                    - group: directory
                      rules:
                        - { name: arp, priority: 1, when: { arp.op: 1 }, action: { respond: { arp: { mapping: blue } } } }
                        - { name: encap, priority: 2, when: { eth.type: ipv4 }, action: { map-encap: { mapping: blue, kind: vxlan, vni: 7 } } }
                  inbound:
                    - group: tunnel
                      rules: [{ name: decap, when: { outer.encap.kind: vxlan, tenant: 7 }, action: decap }]
    vms: { nobody: { mac: "02:00:00:00:00:0f" } }
"#;
    let checks = r#"
checks:
  - { name: 1-2, ping: { from: vm1, to: vm2, size: 1402, dont-fragment: true } }
  - { name: 1-kernel, ping: { from: vm1, to: kernel, size: 1402, dont-fragment: true } }
  - { name: kernel-2, stream: { from: kernel, to: vm2, bytes: 5MB } }
  - { name: 2-1, stream: { from: vm2, to: vm1, bytes: 5MB } }
  - { name: 2-kernel, stream: { from: vm2, to: kernel, bytes: 5MB } }
"#;
    let file =
        Written::new("three", &format!("{text}{}{}{checks}", vm(1, "*directory"), vm(2, "*directory")));
    passes(file.path(), 5);
}

#[test]
fn no_root_is_needed() {
    const NOBODY: u32 = 65_534;
    let outcome =
        command(&["lab", "run", "--json", "examples/two-vms.yaml"]).uid(NOBODY).gid(NOBODY).output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) => {
            println!("skipped, because the command cannot be run as another user here: {error}");
            return;
        }
    };
    if skipped(&String::from_utf8_lossy(&output.stderr)) {
        return;
    }
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_kept_lab_stands_and_says_how_to_look_inside() {
    let file = Written::new(
        "kept",
        "version: 1\nname: kept\nhosts: { h1: { vms: { a: { mac: \"02:00:00:00:00:01\", address: 10.0.0.1/24 } } } }\n",
    );
    let mut child = command(&["lab", "run", "--keep", file.path()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (mut places, mut is_skipped) = (Vec::new(), false);
    for line in errors {
        is_skipped |= skipped(&line);
        if let Some((_, path)) = line.split_once("--net=") {
            places.push(std::fs::read_link(path).unwrap_or_else(|error| panic!("{line}: {error}")));
        }
        if places.len() == 2 {
            break;
        }
    }
    let stands = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    if !is_skipped {
        let [host, guest] = places.as_slice() else { panic!("two places: {places:?}") };
        assert!(stands && host.to_string_lossy().starts_with("net:["), "{places:?}");
        assert_ne!(host, guest, "the host and the guest are two namespaces");
    }
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
  - { name: no such rule, ping: { from: a, to: b }, counts: [{ port: a, rule: acl/in/nobody, packets: 0 }] }
  - { name: no such meter, ping: { from: a, to: b }, counts: [{ port: a, meter: nobody, packets: 0 }] }
  - { name: no such reason, ping: { from: a, to: b }, counts: [{ port: a, drops: nothing, packets: 0 }] }
  - { name: wrongly connected, stream: { from: a, to: b, bytes: 1kB }, expect: blocked }
"#,
    );
    let Some((json, success)) = run(file.path()) else { return };
    assert!(!success && json["ok"] == false, "{json:#}");
    let oks: Vec<_> = json["checks"].as_array().unwrap().iter().map(|check| check["ok"] == true).collect();
    assert_eq!(oks, [true, false, false, false, false, false, false, false], "{json:#}");
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
