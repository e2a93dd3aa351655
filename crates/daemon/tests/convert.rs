//! Conversion: golden tests of every mistake and warning, and what a good policy becomes.
//!
//! `convert/NAME.yaml` holds one or more documents, separated by lines of `---`; `convert/NAME.txt` is the report
//! of merging them. `UPDATE_GOLDEN=1` writes the reports anew; look at the difference before committing it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lamina_api::{Code, Document, Report, parse};
use lamina_core::action::Action;
use lamina_core::layer::{DefaultAction, Selection, ValueRange};
use lamina_core::switch::PortId;
use lamina_daemon::convert::{Converted, PortIds, convert, merge};

fn documents(name: &str, text: &str) -> Vec<Document> {
    let parts: Vec<&str> = text.split("---\n").collect();
    let name =
        |index: usize| if parts.len() == 1 { name.to_owned() } else { format!("{name}#{}", index + 1) };
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| parse(&name(index), part).unwrap_or_else(|r| panic!("{r}")))
        .collect()
}

fn report(result: Result<Converted, Report>) -> (&'static str, Report) {
    match result {
        Ok(converted) => ("accepted", converted.warnings),
        Err(report) => ("refused", report),
    }
}

#[test]
fn every_mistake_has_its_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    assert!(paths.len() >= 12, "only {} files found", paths.len());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let documents = documents(&name, &fs::read_to_string(&path).unwrap());
        let (outcome, report) = report(merge(&documents, &mut PortIds::default()));
        assert!(!report.is_empty(), "{name} has no mistake");
        assert_eq!(outcome == "refused", report.has_errors(), "{name}");
        for diagnostic in report.diagnostics() {
            assert!(diagnostic.help.is_some(), "{name}: \"{}\" does not say what to do", diagnostic.message);
        }
        let rendered = format!("{outcome}\n{}", report.render(false));
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, &rendered).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != rendered {
            wrong.push(format!("--- {name}\n{rendered}"));
        }
    }
    assert!(wrong.is_empty(), "these differ from their golden file:\n{}", wrong.join("\n"));
}

const TWO_PORTS: &str = r#"
version: 1
metadata: [tier]
resources:
  prefixes:
    admins: [10.9.0.0/16]
  targets:
    web: [ { address: 10.1.0.4, port: 8080 } ]
multicast: [vm2, vm1]
ports:
  vm2:
    mac: "02:00:00:00:00:02"
    tenants: [5002, 5001]
    mtu: 1450
    malformed: pass
    limits: { idle: 10s, drop-cache: 0 }
    layers:
      - name: acl
        priority: 20
        default: { inbound: block }
        inbound: &acl
          - group: z
            rules:
              - { name: web, priority: 5, when: { l4.dst: [80, "8000-8999"], ip.src: $admins }, action: allow, stateful: { ttl: 5m } }
              - { name: b, when: { meta.tier: 3 }, action: block, terminating: true }
              - { name: a, when: { eth.type: arp }, action: { mark: { metadata: { tier: 7 } } } }
          - group: a
            match: { longest-prefix: outer.ip.dst }
            rules:
              - { name: net, when: { outer.ip.dst: 10.0.0.0/8, ingress-port: [vm1, uplink] }, action: { load-balance: { targets: web } } }
      - name: meter
        priority: -1
        owner: billing
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: acl
        priority: 20
        inbound: *acl
"#;

#[test]
fn a_good_document_becomes_policy() {
    let converted =
        convert(&parse("two.yaml", TWO_PORTS).unwrap()).unwrap_or_else(|report| panic!("{report}"));
    assert!(converted.warnings.is_empty(), "{}", converted.warnings);
    let policy = converted.policy;
    let names: Vec<_> = policy.ports.iter().map(|port| (&*port.config.name, port.id)).collect();
    assert_eq!(names, [("vm1", PortId(1)), ("vm2", PortId(2))]);
    assert_eq!(policy.multicast, [PortId(2), PortId(1)]);
    let (vm1, vm2) = (policy.port("vm1").unwrap(), policy.port("vm2").unwrap());
    assert_eq!(vm2.config.tenants, [5001, 5002]);
    assert_eq!((vm2.config.mtu, vm1.config.mtu), (1450, 0));
    assert_eq!(vm2.config.limits.drop_cache, 0);
    assert_eq!(vm2.config.limits.idle, lamina_core::time::Duration::from_seconds(10));
    let layers: Vec<_> = vm2.policy.layers.iter().map(|layer| (&*layer.name, &*layer.owner)).collect();
    assert_eq!(layers, [("meter", "billing"), ("acl", "local")]);
    let acl = &vm2.policy.layers[1];
    assert_eq!((acl.default_inbound, acl.default_outbound), (DefaultAction::Block, DefaultAction::Pass));
    assert_eq!(acl.inbound.iter().map(|group| &*group.name).collect::<Vec<_>>(), ["a", "z"]);
    assert!(matches!(acl.inbound[0].selection, Selection::LongestPrefix(_)));
    assert_eq!(acl.inbound[0].rules.iter().next().unwrap().conditions[1].ranges.len(), 2);
    let rules: Vec<_> = acl.inbound[1].rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(rules, ["a", "b", "web"], "by priority, then name");
    let web = acl.inbound[1].rules.get("web").unwrap();
    assert_eq!(
        web.conditions[0].ranges[1],
        ValueRange {
            low: lamina_core::flow::Value::number(8000),
            high: lamina_core::flow::Value::number(8999),
        }
    );
    assert_eq!(web.conditions[1].prefix_sets.len(), 1);
    assert_eq!(web.state.unwrap().time_to_live, lamina_core::time::Duration::from_seconds(300));
    let a = acl.inbound[1].rules.get("a").unwrap();
    let Action::Mark(mark) = &a.action else { panic!("{a:?}") };
    assert_eq!(mark.metadata, [(0, 7)]);
    for (one, other) in vm1.policy.layers[0].inbound.iter().zip(&*acl.inbound) {
        assert!(one.rules.is_same(&other.rules), "equal rule lists are one list");
    }
    assert!(Arc::ptr_eq(&vm1.policy.resources, &vm2.policy.resources));
}

#[test]
fn several_controllers_share_a_port() {
    let vnet = "version: 1\nowner: vnet\nresources: { mappings: { blue: { entries: [ { address: 10.0.0.2, mac: \"02:00:00:00:00:02\", remote: 192.168.1.2 } ] } } }\nports: { vm1: { mac: \"02:00:00:00:00:01\", layers: [ { name: vnet, priority: 50 } ] } }\n";
    let acl = "version: 1\nowner: acl\nports: { vm1: { tenants: [7], layers: [ { name: acl, priority: 10, outbound: [ { group: g, rules: [ { name: r, action: { map-encap: { mapping: blue, kind: vxlan, vni: 7 } } } ] } ] }, { name: admin, owner: admin, priority: 5 } ] } }\n";
    let documents = [parse("vnet.yaml", vnet).unwrap(), parse("acl.yaml", acl).unwrap()];
    let mut ids = PortIds::default();
    ids.assign(&"older".into());
    let converted = merge(&documents, &mut ids).unwrap_or_else(|report| panic!("{report}"));
    let port = converted.policy.port("vm1").unwrap();
    assert_eq!(port.id, PortId(2));
    assert_eq!(port.config.tenants, [7]);
    let layers: Vec<_> = port.policy.layers.iter().map(|layer| (&*layer.name, &*layer.owner)).collect();
    assert_eq!(layers, [("admin", "admin"), ("acl", "acl"), ("vnet", "vnet")]);
    assert_eq!(ids.name(PortId(2)), Some("vm1"));
    assert_eq!(
        merge(&documents, &mut ids).unwrap().policy.port("vm1").unwrap().id,
        PortId(2),
        "numbers stay"
    );
}

/// Processor time that this thread has used. A machine may be busy with other things; what is measured is the work.
fn processor_time() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[test]
fn an_error_in_the_last_of_50000_rules_is_found_and_nothing_is_converted() {
    let mut text = String::from(
        "version: 1\nports:\n  vm1:\n    mac: \"02:00:00:00:00:01\"\n    layers:\n      - name: acl\n        priority: 10\n        inbound:\n          - group: all\n            rules:\n",
    );
    for n in 0..49_999 {
        text += &format!(
            "              - {{ name: r{n}, priority: {n}, when: {{ ip.src: 10.{}.{}.0/24, l4.dst: [80, 443, \"8000-8999\"], ip.proto: tcp }}, action: allow, stateful: true }}\n",
            n / 256 % 256,
            n % 256
        );
    }
    let good = format!("{text}              - {{ name: last, action: allow }}\n");
    let bad =
        format!("{text}              - {{ name: last, action: {{ load-balance: {{ targets: web }} }} }}\n");
    let start = processor_time();
    let report = convert(&parse("large.yaml", &bad).unwrap()).unwrap_err();
    let rendered = report.render(false);
    let elapsed = processor_time().saturating_sub(start);
    eprintln!(
        "50,000 rules, {} bytes: parsed, converted and reported in {elapsed:?} of processor time",
        bad.len()
    );
    assert_eq!(report.diagnostics().len(), 1);
    assert_eq!(report.diagnostics()[0].code, Code::MissingResource);
    assert_eq!(report.diagnostics()[0].place(), "large.yaml:50010:66");
    assert!(rendered.contains("no document declares any target set"), "{rendered}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    let converted = convert(&parse("large.yaml", &good).unwrap()).unwrap();
    assert_eq!(converted.policy.ports[0].policy.layers[0].inbound[0].rules.len(), 50_000);
}
