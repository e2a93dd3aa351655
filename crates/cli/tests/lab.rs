//! The command `lamina lab run`, end to end: the examples pass, a wrong expectation fails, and a wrong file is
//! explained.
//!
//! Every test builds real namespaces. Where the kernel forbids them it prints `skipped, because ...` with the
//! command's own explanation.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
fn containers_behind_one_port() {
    passes("examples/containers-per-group.yaml", 9);
}

#[test]
fn a_load_balancer_in_the_network() {
    passes("examples/load-balancer.yaml", 6);
}

#[test]
fn actions_of_ones_own() {
    passes("examples/custom-action.yaml", 5);
}

#[test]
fn the_gateway_example_passes() {
    passes("examples/gateway.yaml", 5);
}

#[test]
fn vlans_and_guards_of_one_host() {
    passes("examples/vlan-trunk.yaml", 10);
}

#[test]
fn the_mirror_example_passes() {
    passes("examples/mirror.yaml", 5);
}

#[test]
fn ipv6_throughout() {
    passes("examples/ipv6.yaml", 11);
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

/// Processes whose parent is `parent`, with their command lines.
fn children(parent: u32) -> Vec<(u32, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let is_child = status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|of| of.trim().parse() == Ok(parent)));
        let words = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        is_child.then(|| (id, String::from_utf8_lossy(&words).replace('\0', " ")))
    });
    processes.collect()
}

/// True while the process runs: one that nobody has waited for yet does not.
fn runs(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("Z (zombie)"))
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Two hosts, with a policy each.
const TWO: &str = r#"
version: 1
name: two
links: { underlay: { hosts: { h1: 192.168.50.1/24, h2: 192.168.50.2/24 } } }
hosts:
  h1:
    vms: { a: { mac: "02:00:00:00:00:01", address: 10.0.0.1/24 } }
    policies: [{ name: acl, document: { version: 1, ports: { a: { layers: [{ name: acl, priority: 1 }] } } } }]
  h2:
    vms: { b: { mac: "02:00:00:00:00:02", address: 10.0.0.2/24 } }
    policies: [{ name: acl, document: { version: 1, ports: { b: { layers: [{ name: acl, priority: 1 }] } } } }]
"#;

#[test]
fn a_lab_that_is_killed_leaves_no_process_and_no_file() {
    let file = Written::new("killed", TWO);
    let folder = std::env::temp_dir().join(format!("lamina-lab-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut child = command(&["lab", "run", "--keep", file.path()])
        .env("TMPDIR", &folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut is_skipped = false;
    for line in errors {
        is_skipped |= skipped(&line);
        if line.contains("daemon of h2") {
            break;
        }
    }
    let processes = children(child.id());
    let files = || std::fs::read_dir(&folder).unwrap().count();
    let files_before = files();
    child.kill().unwrap();
    child.wait().unwrap();
    if !is_skipped {
        let count = |word: &str| processes.iter().filter(|(_, words)| words.contains(word)).count();
        assert_eq!((count(" daemon "), count(" controller ")), (2, 4), "{processes:?}");
        assert_eq!(files_before, 2, "a folder for each daemon");
        soon("processes outlive the lab", || !processes.iter().any(|(id, _)| runs(*id)));
        soon("files outlive the lab", || files() == 0);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_daemon_or_controller_that_ends_is_told_with_its_host_and_fails_the_lab() {
    for (whom, told) in [
        (" daemon ", "the daemon of h2 has ended (signal: 9 (SIGKILL))"),
        (" controller ", "of h2 has ended (signal: 9 (SIGKILL))"),
    ] {
        let waits = "\nchecks: [{ name: time passes, wait: 3s }, { name: still, wait: 1ms }]\n";
        let file = Written::new(&format!("ends{}", whom.trim()), &format!("{TWO}{waits}"));
        let mut child = command(&["lab", "run", "--json", file.path()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let id = child.id();
        // Of h2: the last that are started. All are there when the last one is.
        let mut found = Vec::new();
        let mut errors = String::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while found.len() < 6 && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            found = children(id);
            found.retain(|(_, words)| words.contains(" daemon ") || words.contains(" controller "));
        }
        found.sort();
        if let Some((victim, _)) = found.iter().rev().find(|(_, words)| words.contains(whom)) {
            // Once the policies are in force, the checks begin.
            std::thread::sleep(Duration::from_millis(1500));
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(*victim as i32).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
        let output = child.wait_with_output().unwrap();
        errors.push_str(&String::from_utf8_lossy(&output.stderr));
        if skipped(&errors) {
            return;
        }
        assert_eq!(found.len(), 6, "{found:?} {errors}");
        assert!(!output.status.success());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["ok"], false);
        assert!(json["ended"][0].as_str().is_some_and(|text| text.contains(told)), "{json:#}");
    }
}

#[test]
fn a_failed_check_says_who_dropped() {
    let file = Written::new(
        "dropped",
        r#"
version: 1
name: dropped
hosts:
  h1:
    vms:
      a: { mac: "02:00:00:00:00:01", address: 10.0.0.1/24, neighbors: { 10.0.0.2: "02:00:00:00:00:02" } }
      b: { mac: "02:00:00:00:00:02", address: 10.0.0.2/24, neighbors: { 10.0.0.1: "02:00:00:00:00:01" } }
    policies:
      - name: acl
        document:
          version: 1
          ports:
            b:
              layers:
                - name: acl
                  priority: 1
                  inbound:
                    - { group: in, rules: [{ name: no-ping, when: { icmp.type: 8 }, action: block }] }
checks:
  - { name: blocked, ping: { from: a, to: b, timeout: 200ms }, expect: blocked }
  - { name: wrongly passing, ping: { from: a, to: b, count: 2, timeout: 200ms } }
"#,
    );
    let Some((json, success)) = run(file.path()) else { return };
    assert!(!success, "{json:#}");
    assert_eq!(json["checks"][0]["dropped"], serde_json::json!([]), "it was as expected: {json:#}");
    let dropped = serde_json::json!([{
        "host": "h1", "port": "b", "direction": "inbound", "reason": "blocked",
        "layer": "acl", "group": "in", "rule": "no-ping", "packets": 2,
    }]);
    assert_eq!(json["checks"][1]["dropped"], dropped, "{json:#}");
    let text = String::from_utf8(lamina(&["lab", "run", file.path()]).stdout).unwrap();
    assert!(text.contains("2 packets blocked by acl/in/no-ping"), "{text}");
}

#[test]
fn policies_are_controllers_that_come_change_and_go() {
    let file = Written::new(
        "changes",
        r#"
version: 1
name: changes
hosts:
  h1:
    vms:
      a: { mac: "02:00:00:00:00:01", address: 10.0.0.1/24, neighbors: { 10.0.0.2: "02:00:00:00:00:02" } }
      b: { mac: "02:00:00:00:00:02", address: 10.0.0.2/24, neighbors: { 10.0.0.1: "02:00:00:00:00:01" } }
    policies:
      # Each names the other's resource.
      - name: first
        document:
          version: 1
          owner: one
          resources: { prefixes: { mine: [10.0.0.1] } }
          ports:
            b:
              layers:
                - name: first
                  priority: 1
                  inbound: [{ group: g, rules: [{ name: r, when: { ip.src: $yours }, action: allow }] }]
      - name: second
        document: &second
          version: 1
          owner: two
          resources: { prefixes: { yours: [10.0.0.1] } }
          ports:
            b:
              layers:
                - name: second
                  priority: 2
                  inbound: [{ group: g, rules: [{ name: r, when: { ip.src: $mine }, action: allow }] }]
      # Of the same owner as the second, and yet it goes alone.
      - name: third
        document:
          version: 1
          owner: two
          ports:
            b:
              layers:
                - { name: third, priority: 3, inbound: [{ group: g, rules: [{ name: block, action: block }] }] }
checks:
  - { name: blocked by the third, ping: { from: a, to: b, timeout: 200ms }, expect: blocked }
  - { name: the third goes, apply: { host: h1, remove: third } }
  - name: the others stay
    ping: { from: a, to: b }
    counts:
      - { port: b, rule: first/g/r, packets: 3 }
      - { port: b, rule: second/g/r, packets: 3 }
  - { name: nobody is called third any more, apply: { host: h1, remove: third }, expect: blocked }
  - { name: what is used cannot go, apply: { host: h1, remove: second }, expect: blocked }
  - { name: nothing to change, apply: { host: h1, policy: { name: second, document: *second } } }
  - name: ports stay as they are
    apply: { host: h1, policy: { name: fourth, document: { version: 1, ports: { b: { tenants: [7] } } } } }
    expect: blocked
  - name: layers that are no more in the policy go
    apply:
      host: h1
      policy:
        name: second
        document:
          version: 1
          owner: two
          resources: { prefixes: { yours: [10.0.0.1] } }
          ports: { a: { layers: [{ name: second, priority: 2, outbound: [{ group: g, rules: [{ name: r, action: allow }] }] }] } }
  - name: and are elsewhere
    ping: { from: a, to: b }
    counts:
      - { port: b, rule: first/g/r, packets: 3 }
      - { port: a, rule: second/g/r, packets: 3 }
"#,
    );
    let Some((json, success)) = run(file.path()) else { return };
    assert!(success, "{json:#}");
    assert_eq!(json["messages"], serde_json::json!([]));
    let seen = |check: usize| json["checks"][check]["lines"][0]["seen"].as_str().unwrap();
    assert!(seen(1).starts_with("in force on 1 port after "), "{}", seen(1));
    assert!(seen(4).contains("yours"), "it says what is missing: {}", seen(4));
    assert_eq!(seen(5), "it was as that already");
    assert!(seen(6).contains("properties of `b`"), "{}", seen(6));
}

#[test]
fn a_file_is_checked_without_being_run() {
    for example in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")).unwrap() {
        let path = example.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let output = lamina(&["lab", "check", "--deny-warnings", path.to_str().unwrap()]);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {errors}", path.display());
        }
    }
    let output = lamina(&["lab", "check", "--json", "examples/paper.yaml"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = serde_json::json!({ "hosts": 2, "machines": 3, "policies": 8, "checks": 6 });
    assert_eq!((&json["ok"], &json["counts"]), (&serde_json::Value::Bool(true), &counts));
    for (name, wrong, told) in [
        (
            "owners",
            "owner: one, ports: { a: { layers: [{ name: acl, owner: two, priority: 1 }] } }",
            "two owners",
        ),
        (
            "resource",
            "ports: { a: { layers: [{ name: n, priority: 2, inbound: [{ group: g, rules: [{ name: r, when: { ip.src: $nobody }, action: allow }] }] }] } }",
            "nobody",
        ),
        ("port", "ports: { a: { mtu: 1400 } }", "properties of `a`"),
    ] {
        let checked = |expect: &str| {
            let policy = format!("policy: {{ name: p, document: {{ version: 1, {wrong} }} }}");
            let check = format!("{{ name: c, apply: {{ host: h1, {policy} }}, expect: {expect} }}");
            let file = Written::new(name, &format!("{TWO}\nchecks: [{check}]\n"));
            let output = lamina(&["lab", "check", file.path()]);
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, errors) = checked("pass");
        assert_eq!(code, Some(1), "{name}");
        assert!(errors.contains(told) && errors.contains("this lab cannot be run"), "{name}: {errors}");
        assert_eq!(checked("blocked").0, Some(0), "{name}: it is expected");
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
  - { name: wrongly shared, stream: { from: a, to: b, bytes: 1kB, connections: 2, shares: { b: 1 } } }
"#,
    );
    let Some((json, success)) = run(file.path()) else { return };
    assert!(!success && json["ok"] == false, "{json:#}");
    let oks: Vec<_> = json["checks"].as_array().unwrap().iter().map(|check| check["ok"] == true).collect();
    assert_eq!(oks, [true, false, false, false, false, false, false, false, false], "{json:#}");
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
