//! Owners: nobody changes what is another's, and agents change what they are let.

use std::collections::BTreeMap;

use lamina_api::wire::v1;
use lamina_api::wire::v1::operation::Operation;
use lamina_daemon::control::{Controller, Rights};

use crate::rig::*;

const PORT: &str = "{ version: 1, ports: { vm1: { mac: \"02:00:00:00:00:01\" } } }";

fn layer(name: &str) -> Vec<v1::Operation> {
    operations(&format!(
        "{{ version: 1, ports: {{ vm1: {{ layers: [ {{ name: {name}, priority: 10, inbound: [ {{ group: g, rules: [ {{ name: r, action: allow }} ] }} ] }} ] }} }} }}"
    ))
}

fn delete(reference: v1::Ref) -> Vec<v1::Operation> {
    vec![operation(Operation::Delete(v1::Delete { r#ref: Some(reference), must_exist: true }))]
}

fn code(result: Result<v1::ApplyReply, tonic::Status>) -> String {
    let status = result.unwrap_err();
    assert!(status.message().contains(';'), "says what to do: {status}");
    mistakes(&status)[0].code.clone()
}

#[test]
fn a_layer_is_its_owners_alone() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        assert_eq!(code(apply(&mut client, "acl", layer("acl")).await), "missing-object", "no port yet");
        apply(&mut client, "platform", operations(PORT)).await.unwrap();
        apply(&mut client, "acl", layer("acl")).await.unwrap();
        let refused = apply(&mut client, "vnet", layer("acl")).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains("`acl`"), "names the owner: {refused}");
        let place = v1::Ref { port: "vm1".into(), layer: "acl".into(), ..v1::Ref::default() };
        let group = v1::Ref {
            kind: v1::Kind::Group as i32,
            direction: v1::Direction::Inbound as i32,
            name: "g".into(),
            ..place.clone()
        };
        let rule =
            v1::Ref { kind: v1::Kind::Rule as i32, group: "g".into(), name: "r".into(), ..group.clone() };
        let own = v1::Ref {
            kind: v1::Kind::Layer as i32,
            port: "vm1".into(),
            name: "acl".into(),
            ..v1::Ref::default()
        };
        let port = v1::Ref { kind: v1::Kind::Port as i32, name: "vm1".into(), ..v1::Ref::default() };
        for reference in [group, rule, own.clone(), port] {
            assert_eq!(code(apply(&mut client, "vnet", delete(reference)).await), "not-owner");
        }
        let put = v1::PutRules {
            port: "vm1".into(),
            layer: "acl".into(),
            direction: v1::Direction::Inbound as i32,
            group: "g".into(),
            rules: vec![v1::Rule { name: "mine".into(), ..v1::Rule::default() }],
        };
        let put = vec![operation(Operation::PutRules(put))];
        assert_eq!(code(apply(&mut client, "vnet", put).await), "not-owner");
        assert_eq!(code(apply(&mut client, "vnet", operations(PORT)).await), "not-owner");
        // Its owner can, and the others' layers are untouched by it.
        apply(&mut client, "vnet", layer("vnet")).await.unwrap();
        apply(&mut client, "acl", delete(own)).await.unwrap();
        assert_eq!(
            rig.shared.state().ports["vm1"].layers.keys().map(|name| &**name).collect::<Vec<_>>(),
            ["vnet"]
        );
    });
}

#[test]
fn an_agent_fills_a_table_that_is_anothers() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        let table = |agents: &[&str]| {
            let put = v1::PutResource {
                name: "blue".into(),
                agents: agents.iter().map(|agent| agent.to_string()).collect(),
                resource: Some(v1::put_resource::Resource::Mapping(v1::Mapping::default())),
                keep_entries: true,
            };
            vec![operation(Operation::PutResource(put))]
        };
        let entries = |address: &str| {
            let entry = v1::MappingEntry {
                address: address.into(),
                mac: "02:00:00:00:00:02".into(),
                remote: Some("192.168.1.2".into()),
                ..v1::MappingEntry::default()
            };
            let put =
                v1::PutMappingEntries { mapping: "blue".into(), entries: vec![entry], ..Default::default() };
            vec![operation(Operation::PutMappingEntries(put))]
        };
        apply(&mut client, "vnet", table(&["directory"])).await.unwrap();
        apply(&mut client, "directory", entries("10.0.0.2")).await.unwrap();
        assert_eq!(code(apply(&mut client, "acl", entries("10.0.0.3")).await), "not-owner");
        let entry = v1::Ref {
            kind: v1::Kind::MappingEntry as i32,
            mapping: "blue".into(),
            name: "10.0.0.2".into(),
            ..v1::Ref::default()
        };
        assert_eq!(code(apply(&mut client, "acl", delete(entry.clone())).await), "not-owner");
        apply(&mut client, "directory", delete(entry)).await.unwrap();
        // An agent cannot make itself more than that.
        apply(&mut client, "directory", table(&["directory", "acl"])).await.unwrap();
        assert_eq!(code(apply(&mut client, "acl", entries("10.0.0.3")).await), "not-owner");
        apply(&mut client, "vnet", table(&[])).await.unwrap();
        assert_eq!(code(apply(&mut client, "directory", entries("10.0.0.3")).await), "not-owner");
    });
}

#[test]
fn a_user_is_only_the_controllers_that_the_configuration_names() {
    let own = rustix::process::geteuid().as_raw();
    let listed = |uid, may_ports| Controller { uids: vec![uid], gids: vec![], may_ports };
    let rights = Rights {
        controllers: BTreeMap::from([
            ("acl".into(), listed(own, false)),
            ("vnet".into(), listed(own.wrapping_add(1), true)),
        ]),
        ..Rights::default()
    };
    let rig = Rig::start(Setup { rights, ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        assert_eq!(code(apply(&mut client, "vnet", operations(PORT)).await), "not-that-controller");
        assert_eq!(code(apply(&mut client, "new", operations(PORT)).await), "not-that-controller");
        // The only one that it may be needs no name; it may make no ports.
        assert_eq!(code(apply(&mut client, "", operations(PORT)).await), "no-ports");
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.controllers, ["acl"]);
        assert_eq!(status.api_counters["refused-requests"], 3);
        // The rights of running daemons change.
        let nobody = Rights { reader_uids: vec![own.wrapping_add(1)], ..Rights::default() };
        rig.shared.set_rights(nobody);
        let refused = client.status(v1::StatusRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(code(apply(&mut client, "", operations(PORT)).await), "not-a-controller");
    });
}
