//! Transactions: idempotent, all or nothing, dry runs, expectations, watches.

use lamina_api::wire::v1;
use lamina_api::wire::v1::operation::Operation;

use crate::rig::*;

const POLICY: &str = r#"
version: 1
metadata: [tier]
resources:
  prefixes: { admins: [10.9.0.0/16] }
  mappings: { blue: { entries: [ { address: 10.0.0.2, mac: "02:00:00:00:00:02", remote: 192.168.1.2 } ] } }
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: acl
        priority: 10
        default: { inbound: block }
        outbound: [ { group: out, rules: [ { name: all, action: allow, stateful: true } ] } ]
        inbound:
          - group: in
            rules:
              - { name: ssh, when: { ip.proto: tcp, l4.dst: 22, ip.src: $admins }, action: allow, stateful: true }
              - { name: web, priority: 5, when: { ip.proto: tcp, l4.dst: [80, 443] }, action: allow, stateful: true }
"#;

fn port_of_name(name: &str) -> v1::Ref {
    v1::Ref { port: name.into(), ..v1::Ref::default() }
}

fn rule_reference(name: &str) -> v1::Ref {
    v1::Ref {
        kind: v1::Kind::Rule as i32,
        port: "vm1".into(),
        layer: "acl".into(),
        direction: v1::Direction::Inbound as i32,
        group: "in".into(),
        name: name.into(),
        ..v1::Ref::default()
    }
}

fn put_rules(rules: Vec<v1::Rule>) -> v1::Operation {
    operation(Operation::PutRules(v1::PutRules {
        port: "vm1".into(),
        layer: "acl".into(),
        direction: v1::Direction::Inbound as i32,
        group: "in".into(),
        rules,
    }))
}

fn rule(name: &str, port: &str) -> v1::Rule {
    v1::Rule {
        name: name.into(),
        when: [("l4.dst".to_string(), v1::Values { values: vec![port.into()] })].into(),
        action: Some(v1::Action { action: Some(v1::action::Action::Allow(v1::Nothing {})) }),
        ..v1::Rule::default()
    }
}

#[test]
fn a_document_is_applied_once_and_again_without_effect() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        let first = apply(&mut client, "security", operations(POLICY)).await.unwrap();
        // Key, set, table, entry, port, layer, two groups, three rules.
        assert_eq!((first.created, first.updated, first.deleted, first.unchanged), (11, 0, 0, 0));
        assert_eq!((first.revision, first.changes.len()), (1, 11));
        assert!(first.effective_after > 0);
        let again = apply(&mut client, "security", operations(POLICY)).await.unwrap();
        assert_eq!((again.created, again.updated, again.deleted, again.unchanged), (0, 0, 0, 11));
        assert_eq!((again.revision, again.changes.len()), (1, 0));
        // What runs is what was asked for.
        let counters = rig.shared.host.counters(rig.shared.state().ports["vm1"].id).unwrap();
        assert_eq!(counters.layers.len(), 1);
        let mut rules: Vec<_> = counters.layers[0]
            .groups
            .iter()
            .flat_map(|group| &group.rules)
            .map(|(name, _)| &**name)
            .collect();
        rules.sort_unstable();
        assert_eq!(rules, ["all", "ssh", "web"]);
        let objects = list(&mut client, port_of_name("vm1")).await;
        let kinds: Vec<v1::Kind> =
            objects.iter().map(|object| object.r#ref.as_ref().unwrap().kind()).collect();
        use v1::Kind::{Group, Layer, Port, Rule};
        assert_eq!(kinds, [Port, Layer, Group, Group, Rule, Rule, Rule]);
        assert!(objects.iter().all(|object| object.owner == "security" && object.revision == 1));
    });
}

#[test]
fn what_a_layer_no_longer_has_is_removed_and_what_it_keeps_is_not_told() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let without =
            POLICY.lines().filter(|line| !line.contains("name: web")).collect::<Vec<_>>().join("\n");
        let reply = apply(&mut client, "security", operations(&without)).await.unwrap();
        assert_eq!((reply.created, reply.updated, reply.deleted, reply.unchanged), (0, 0, 1, 10));
        let gone = reply.changes[0].object.as_ref().unwrap().r#ref.clone().unwrap();
        assert_eq!((reply.changes[0].kind(), gone.name), (v1::ChangeKind::Deleted, "web".into()));
        let changed = without.replace("l4.dst: 22", "l4.dst: 2222");
        let reply = apply(&mut client, "security", operations(&changed)).await.unwrap();
        assert_eq!((reply.created, reply.updated, reply.deleted, reply.unchanged), (0, 1, 0, 9));
    });
}

#[test]
fn an_error_in_the_last_operation_applies_nothing_and_all_errors_are_told() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let mut bad = rule("odd", "70000");
        bad.priority = Some(3);
        let operations = vec![
            put_rules(vec![rule("good", "25")]),
            put_rules(vec![bad, rule("bad name", "1")]),
            operation(Operation::Delete(v1::Delete {
                r#ref: Some(rule_reference("nobody")),
                must_exist: true,
            })),
        ];
        let refused = apply(&mut client, "security", operations).await.unwrap_err();
        let found = mistakes(&refused);
        let told: Vec<_> = found.iter().map(|m| (&*m.code, &*m.field, m.operation)).collect();
        assert_eq!(
            told,
            [("out-of-range", "when.l4.dst.0", 1), ("bad-value", "", 1), ("missing-object", "", 2)]
        );
        assert_eq!(found[0].r#ref.as_ref().unwrap().name, "odd");
        let rules = list(&mut client, v1::Ref { kind: v1::Kind::Rule as i32, ..v1::Ref::default() }).await;
        assert!(rules.iter().all(|object| object.r#ref.as_ref().unwrap().name != "good"));
        assert_eq!(rig.shared.state().ports["vm1"].layers["acl"].layer.inbound[0].rules.len(), 2);
    });
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        let options =
            || v1::ApplyOptions { controller: "security".into(), dry_run: true, ..Default::default() };
        let reply = apply_with(&mut client, options(), operations(POLICY)).await.unwrap();
        assert_eq!((reply.created, reply.revision), (11, 0));
        assert!(list(&mut client, v1::Ref::default()).await.is_empty());
        assert!(rig.shared.state().ports.is_empty());
        let missing = POLICY.replace("$admins", "$nobody");
        let refused = apply_with(&mut client, options(), operations(&missing)).await.unwrap_err();
        assert_eq!(mistakes(&refused)[0].code, "missing-resource");
        assert_eq!(mistakes(&refused)[0].field, "when.ip.src.0");
    });
}

#[test]
fn an_expectation_that_no_longer_holds_refuses_the_whole() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        apply(&mut client, "security", vec![put_rules(vec![rule("web", "81")])]).await.unwrap();
        let expecting = |revision| v1::ApplyOptions {
            controller: "security".into(),
            expect: vec![v1::Expectation { r#ref: Some(rule_reference("web")), revision }],
            ..Default::default()
        };
        let change = || vec![put_rules(vec![rule("web", "82")])];
        let refused = apply_with(&mut client, expecting(1), change()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Aborted);
        assert_eq!(mistakes(&refused)[0].code, "changed");
        let done = apply_with(&mut client, expecting(2), change()).await.unwrap();
        assert_eq!((done.updated, done.revision), (1, 3));
    });
}

#[test]
fn a_resource_that_rules_name_is_not_removed() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let delete = |kind: v1::Kind, name: &str| {
            let reference = v1::Ref { kind: kind as i32, name: name.into(), ..v1::Ref::default() };
            operation(Operation::Delete(v1::Delete { r#ref: Some(reference), must_exist: true }))
        };
        let refused =
            apply(&mut client, "security", vec![delete(v1::Kind::Prefixes, "admins")]).await.unwrap_err();
        assert_eq!(mistakes(&refused)[0].code, "missing-resource", "{refused}");
        // A table that nobody names goes, with its entries.
        let reply = apply(&mut client, "security", vec![delete(v1::Kind::Mapping, "blue")]).await.unwrap();
        assert_eq!(reply.deleted, 2);
        // Its name can be used again, and rules still mean what they meant.
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let reply = apply(&mut client, "security", vec![delete(v1::Kind::Port, "vm1")]).await.unwrap();
        assert_eq!(reply.deleted, 7);
        assert!(rig.shared.state().ports.is_empty() && rig.shared.host.ports().is_empty());
        apply(&mut client, "security", vec![delete(v1::Kind::Prefixes, "admins")]).await.unwrap();
    });
}

#[test]
fn a_watch_tells_what_is_there_then_what_changes_and_resumes() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let selector = v1::Ref { kind: v1::Kind::Rule as i32, ..v1::Ref::default() };
        let request = |after_revision| v1::WatchRequest { selector: Some(selector.clone()), after_revision };
        let mut watch = client.watch(request(0)).await.unwrap().into_inner();
        let mut seen = Vec::new();
        loop {
            let change = watch.message().await.unwrap().unwrap();
            if change.kind() == v1::ChangeKind::Synced {
                assert_eq!(change.revision, 1);
                break;
            }
            assert_eq!(change.kind(), v1::ChangeKind::Existing);
            seen.push(change.object.unwrap().r#ref.unwrap().name);
        }
        assert_eq!(seen, ["ssh", "web", "all"]);
        let mut other = rig.client().await;
        for (name, port) in [("a", "1"), ("b", "2"), ("a", "3")] {
            apply(&mut other, "security", vec![put_rules(vec![rule(name, port)])]).await.unwrap();
        }
        let expected = [
            (v1::ChangeKind::Created, "a", 2),
            (v1::ChangeKind::Created, "b", 3),
            (v1::ChangeKind::Updated, "a", 4),
        ];
        for (kind, name, revision) in expected {
            let change = watch.message().await.unwrap().unwrap();
            let object = change.object.clone().unwrap();
            assert_eq!(
                (change.kind(), &*object.r#ref.unwrap().name, change.revision),
                (kind, name, revision)
            );
        }
        let mut resumed = client.watch(request(3)).await.unwrap().into_inner();
        assert_eq!(resumed.message().await.unwrap().unwrap().revision, 4);
    });
}

#[test]
fn fifty_thousand_rules_are_one_transaction_and_their_last_mistake_undoes_all() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let rules = |last: &str| -> Vec<v1::Operation> {
            let mut rules: Vec<v1::Rule> =
                (0..50_000u32).map(|n| rule(&format!("r{n}"), &(n % 65_536).to_string())).collect();
            rules[49_999] = rule("last", last);
            rules.chunks(1000).map(|chunk| put_rules(chunk.to_vec())).collect()
        };
        let refused = apply(&mut client, "security", rules("nonsense")).await.unwrap_err();
        let found = mistakes(&refused);
        assert_eq!((found.len(), &*found[0].r#ref.as_ref().unwrap().name), (1, "last"));
        assert_eq!(rig.shared.state().ports["vm1"].layers["acl"].layer.inbound[0].rules.len(), 2);
        let reply = apply(&mut client, "security", rules("7")).await.unwrap();
        assert_eq!((reply.created, reply.changes.len()), (50_000, 1000));
        let id = rig.shared.state().ports["vm1"].id;
        let counters = rig.shared.host.counters(id).unwrap();
        let running: usize = counters.layers[0].groups.iter().map(|group| group.rules.len()).sum();
        assert_eq!(running, 50_003);
        let again = apply(&mut client, "security", rules("7")).await.unwrap();
        assert_eq!(again.unchanged, 50_000);
        let one = apply(&mut client, "security", vec![put_rules(vec![rule("r77", "9")])]).await.unwrap();
        assert_eq!(one.updated, 1);
    });
}

#[test]
fn what_is_probably_not_meant_is_told_to_who_asks() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "security", operations(POLICY)).await.unwrap();
        let shadowed = || {
            let all = v1::Rule { name: "all".into(), when: Default::default(), ..rule("all", "1") };
            vec![put_rules(vec![all, v1::Rule { priority: Some(9), ..rule("never", "25") }])]
        };
        let options = |warnings| v1::ApplyOptions {
            controller: "security".into(),
            dry_run: true,
            warnings,
            ..Default::default()
        };
        let told = apply_with(&mut client, options(true), shadowed()).await.unwrap().warnings;
        let never =
            told.iter().find(|warning| warning.r#ref.as_ref().is_some_and(|place| place.name == "never"));
        let never = never.unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!((&*never.code, never.help.is_empty()), ("shadowed", false));
        assert!(apply_with(&mut client, options(false), shadowed()).await.unwrap().warnings.is_empty());
    });
}
