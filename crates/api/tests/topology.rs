//! Topology files: the examples are read, and every kind of mistake is reported at its place.

use lamina_api::topology::{Amount, Expect, HostKind, Probe, Topology, parse};
use lamina_api::{Code, Report};

fn read(text: &str) -> Result<Topology, Report> {
    parse("test.yaml", text, |path| match path {
        "acl.yaml" => Ok("version: 1\nports: { vm1: { layers: [] } }\n".into()),
        "wrong.yaml" => Ok("version: 1\nports: { vm9: {} }\nfoo: 1\n".into()),
        _ => Err("there is no such file".into()),
    })
}

const HOSTS: &str = r#"
version: 1
name: test
links:
  underlay: { hosts: { h1: 192.168.50.1/24, k: ["fd00:50::2/64", 192.168.50.2/24] } }
hosts:
  h1:
    vms:
      vm1: { mac: "02:00:00:00:00:01", address: 10.0.0.1/24, gateway: 10.0.0.254, mtu: 1450 }
      vm2: { mac: "02:00:00:00:00:02", addresses: [10.0.0.2/24, "fd00::2/64"] }
    policies: [{ name: acl, file: acl.yaml }]
  k:
    kernel-vxlan: { vni: 7, mac: "02:00:00:00:00:09", address: 10.0.0.9/24 }
"#;

fn with_checks(checks: &str) -> Result<Topology, Report> {
    read(&format!("{HOSTS}checks:\n{checks}"))
}

/// The codes of what is wrong, and the text underlined first.
fn mistakes(result: Result<Topology, Report>) -> Vec<(Code, String)> {
    let report = result.expect_err("there is a mistake");
    let found = report.diagnostics().iter();
    found.map(|found| (found.code, found.source.slice(found.labels[0].span).to_string())).collect()
}

#[test]
fn the_examples_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for name in [
        "two-vms",
        "security-groups",
        "paper",
        "kernel-vxlan",
        "vlan-trunk",
        "gateway",
        "containers-per-group",
        "load-balancer",
        "custom-action",
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
        let topology =
            parse(name, &text, |_| Err("no files".into())).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(&*topology.name, name);
        assert!(!topology.checks.is_empty() && topology.description.is_some());
    }
}

#[test]
fn defaults_and_names_are_resolved() {
    let topology = with_checks(
        r#"
  - { name: by name, ping: { from: vm1, to: vm2 } }
  - { name: by address, stream: { from: vm2, to: 10.0.0.9, time: 2s }, expect: blocked }
  - { name: virtual, stream: { from: vm1, to: 10.1.1.1, port: 80, served-by: vm2, served-port: 8080, bytes: 2MiB } }
"#,
    )
    .unwrap_or_else(|report| panic!("{report}"));
    let Probe::Ping(ping) = &topology.checks[0].probe else { panic!("{topology:?}") };
    assert_eq!((ping.to.to_string().as_str(), ping.count, ping.size), ("10.0.0.2", 3, 56));
    let Probe::Stream(stream) = &topology.checks[1].probe else { panic!("{topology:?}") };
    assert_eq!((&*stream.served_by[0].guest, stream.served_by[0].port), ("k", 5001));
    assert!(matches!(stream.amount, Amount::Time(time) if time.as_secs() == 2));
    assert_eq!(topology.checks[1].expect, Expect::Blocked);
    let Probe::Stream(stream) = &topology.checks[2].probe else { panic!("{topology:?}") };
    assert_eq!((stream.served_by[0].port, stream.amount), (8080, Amount::Bytes(2 << 20)));

    let HostKind::Lamina { vms, base, policies, .. } = &topology.hosts[0].kind else {
        panic!("{topology:?}")
    };
    assert_eq!(vms[0].routes[0].destination.to_string(), "0.0.0.0/0");
    assert_eq!((vms[0].mtu, vms[1].mtu, vms[1].addresses.len()), (1450, 1500, 2));
    assert_eq!(
        base.ports.iter().map(|port| port.mtu.map(|mtu| mtu.value)).collect::<Vec<_>>(),
        [Some(1450), None]
    );
    assert_eq!(policies[0].document.ports.len(), 1);
    let HostKind::KernelVxlan(vxlan) = &topology.hosts[1].kind else { panic!("{topology:?}") };
    assert_eq!((vxlan.local.to_string().as_str(), vxlan.udp_port, vxlan.mtu), ("fd00:50::2", 4789, 1450));
}

#[test]
fn frames_are_between_devices() {
    let checks = "  - { name: tagged, frames: { from: vm2, to: vm1, tags: [100, 20], count: 1 } }\n";
    let topology = with_checks(checks).unwrap_or_else(|report| panic!("{report}"));
    let Probe::Frames(frames) = &topology.checks[0].probe else { panic!("{:?}", topology.checks) };
    assert_eq!((&frames.tags[..], &frames.arrives[..], frames.count), (&[100, 20][..], &[][..], 1));
    assert_eq!(frames.macs.map(|mac| mac.0[5]), [2, 1]);
    assert_eq!(frames.addresses.map(|address| address.to_string()), ["10.0.0.2", "10.0.0.1"]);
}

#[test]
fn mistakes_in_checks_are_underlined() {
    let one = |check: &str| {
        let mut found = mistakes(with_checks(&format!("  - {check}\n")));
        assert_eq!(found.len(), 1, "{check}: {found:?}");
        found.remove(0)
    };
    let at = |code: Code, text: &str| (code, text.to_string());
    assert_eq!(one("{ name: a, ping: { from: vm7, to: vm2 } }"), at(Code::MissingResource, "vm7"));
    assert_eq!(one("{ name: a, ping: { from: vm1, to: vm2, cuont: 1 } }"), at(Code::UnknownField, "cuont"));
    assert_eq!(one("{ name: a, ping: { from: vm1 } }"), at(Code::MissingField, "from"));
    assert_eq!(one("{ name: a, wait: 1s, ping: { from: vm1, to: vm2 } }"), at(Code::MissingField, "name"));
    assert_eq!(one("{ name: a, wait: soon }"), at(Code::BadValue, "soon"));
    assert_eq!(one("{ name: a, stream: { from: vm1, to: 10.1.1.1 } }"), at(Code::MissingField, "from"));
    assert_eq!(
        one("{ name: a, stream: { from: vm1, to: vm2, bytes: 1, time: 1s } }"),
        at(Code::Conflict, "1s")
    );
    let shares =
        |shares: &str| one(&format!("{{ name: a, stream: {{ from: vm1, to: vm2, shares: {shares} }} }}"));
    assert_eq!(shares("{ vm1: 1 }"), at(Code::MissingResource, "vm1"), "it serves nothing");
    assert_eq!(shares("{ vm2: half }"), at(Code::BadValue, "half"));
    assert_eq!(one("{ name: a, apply: { host: k, remove: acl } }"), at(Code::MissingResource, "k"));
    assert_eq!(one("{ name: a, wait: 1s, meanwhile: [] }"), at(Code::Conflict, "[]"));
    let frames = |fields: &str| one(&format!("{{ name: a, frames: {{ from: vm1, {fields} }} }}"));
    assert_eq!(frames("to: k"), at(Code::MissingResource, "k"));
    assert_eq!(frames("to: vm2, tags: [4095]"), at(Code::OutOfRange, "4095"));
    assert_eq!(frames("to: vm2, arrives: [1, 2, 3]"), at(Code::OutOfRange, "[1, 2, 3]"));
    assert_eq!(frames("to: 10.0.0.2"), at(Code::MissingResource, "10.0.0.2"));
    let counts = |count: &str| one(&format!("{{ name: a, wait: 1s, counts: [{count}] }}"));
    assert_eq!(counts("{ port: k, drops: blocked, packets: 1 }"), at(Code::MissingResource, "k"));
    assert_eq!(counts("{ port: vm1, drops: blocked }"), at(Code::MissingField, "port"));
    assert_eq!(counts("{ port: vm1, rule: acl/in, packets: 1 }"), at(Code::BadValue, "acl/in"));
    assert_eq!(counts("{ port: vm1, drops: blocked, packets: 5-3 }"), at(Code::BadValue, "5-3"));
    let twice = mistakes(with_checks("  - { name: a, wait: 1s }\n  - { name: a, wait: 1s }\n"));
    assert_eq!(twice, [at(Code::Duplicate, "a")]);
}

#[test]
fn mistakes_in_hosts_and_links_are_reported_together() {
    let found = mistakes(read(
        r#"
version: 2
name: test
links:
  a-name-that-is-too-long: { hosts: { h1: 192.168.50.1/24, h9: 192.168.50.2 } }
  lonely: { hosts: { h1: 192.168.51.1/24 } }
hosts:
  h1:
    vms:
      vm1: { mac: "02:00:00:00:00:01", mtu: 12 }
      lonely: { mac: "02:00:00:00:00:02", routes: [{ to: 10.0.0.0/8, via: "fd00::1" }] }
    policies:
      - { name: one, file: missing.yaml }
      - { name: two, file: wrong.yaml }
      - { name: three }
  h2:
    kernel-vxlan: { vni: 16777216, mac: "02:00:00:00:00:09" }
    vms: {}
"#,
    ));
    let texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
    for text in [
        "2",
        "a-name-that-is-too-long",
        "h9",
        "192.168.50.2",
        "12",
        "lonely",
        "\"fd00::1\"",
        "missing.yaml",
        "foo",
        "name",
        "16777216",
        "vms",
    ] {
        assert!(texts.contains(&text), "{text} is not among {texts:?}");
    }
}

#[test]
fn nothing_read_is_a_panic() {
    for text in
        ["", "[]", "1", "version: 1", "hosts: 3", "checks: {a: b}", "links: {a: {hosts: 1}}\nhosts: {h: 1}"]
    {
        assert!(read(text).is_err(), "{text}");
    }
    // Cut anywhere, a topology is read or refused.
    let whole =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/paper.yaml")).unwrap();
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)).step_by(17) {
        let _ = parse("cut.yaml", &whole[..end], |_| Err("no files".into()));
    }
}
