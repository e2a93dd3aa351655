//! What was acknowledged is there after a restart, and ports keep their numbers.

use lamina_api::wire::v1;
use lamina_api::wire::v1::operation::Operation;

use crate::rig::*;

const POLICY: &str = r#"
version: 1
resources:
  prefixes: { admins: [10.9.0.0/16] }
  targets: { web: [ { address: 10.1.0.4, port: 8080 } ] }
  limits: { each: { packets: 100k/s, key: ip.src } }
  leases: { rack: [ { mac: "02:00:00:00:00:01", address: 10.0.0.1 } ] }
  dns: { lan: { records: [ { name: web.lan, address: 10.0.0.9 } ] } }
  mappings: { blue: { entries: [ { address: 10.0.0.2, mac: "02:00:00:00:00:02", remote: 192.168.1.2 } ] } }
multicast: [vm1]
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    tenants: [7]
    layers:
      - name: acl
        priority: 10
        inbound:
          - group: in
            match: { longest-prefix: ip.src }
            when: { eth.type: ipv4 }
            rules:
              - { name: a, when: { ip.src: 10.0.0.0/8, ip.dst: $admins }, action: allow, stateful: true }
              - { name: b, when: { ip.src: 10.1.0.0/16 }, action: { load-balance: { targets: web } }, stateful: true }
      - name: police
        priority: 12
        outbound: [ { group: out, rules: [ { name: each, action: { limit: each } } ] } ]
      - name: answers
        priority: 15
        outbound:
          - group: out
            rules:
              - { name: names, when: { ip.proto: udp, l4.dst: 53 }, action: { respond: { dns: lan } } }
              - { name: leases, when: { ip.proto: udp, l4.dst: 67 }, action: { respond: { dhcp: { mac: "02:00:00:00:00:fe", server: 10.0.0.254, leases: rack, prefix-length: 24 } } } }
      - name: vnet
        priority: 20
        outbound: [ { group: out, rules: [ { name: e, action: { map-encap: { mapping: blue, kind: vxlan, vni: 7 } } } ] } ]
  vm2: { mac: "02:00:00:00:00:02" }
"#;

#[test]
fn a_restart_brings_back_every_object_and_what_runs() {
    let folder = Folder::new("durable");
    let setup = || Setup { store: Some(folder.0.join("policy.redb")), ..Setup::default() };
    let (before, layers, id) = {
        let rig = Rig::start(setup());
        block_on(async {
            let mut client = rig.client().await;
            // Numbers are not used again, and kept by those who have them.
            apply(
                &mut client,
                "x",
                operations("{ version: 1, ports: { old: { mac: \"02:00:00:00:00:09\" } } }"),
            )
            .await
            .unwrap();
            let reference = v1::Ref { kind: v1::Kind::Port as i32, name: "old".into(), ..v1::Ref::default() };
            let delete = v1::Delete { r#ref: Some(reference), must_exist: true };
            apply(&mut client, "x", vec![operation(Operation::Delete(delete))]).await.unwrap();
            apply(&mut client, "x", operations(POLICY)).await.unwrap();
            let put = v1::PutMappingEntries {
                mapping: "blue".into(),
                entries: vec![v1::MappingEntry {
                    address: "10.0.0.3".into(),
                    mac: "02:00:00:00:00:03".into(),
                    ..Default::default()
                }],
                transient: true,
                ..Default::default()
            };
            apply(&mut client, "x", vec![operation(Operation::PutMappingEntries(put))]).await.unwrap();
            let state = rig.shared.state();
            let policy = state.ports["vm1"].policy(&state.names);
            (
                list(&mut client, v1::Ref::default()).await,
                format!("{:?}", policy.layers),
                state.ports["vm1"].id,
            )
        })
    };
    let rig = Rig::start(setup());
    block_on(async {
        let mut client = rig.client().await;
        assert_eq!(list(&mut client, v1::Ref::default()).await, before);
        let state = rig.shared.state();
        assert_eq!(state.ports["vm1"].id, id);
        let policy = state.ports["vm1"].policy(&state.names);
        assert_eq!(format!("{:?}", policy.layers), layers);
        let counters = rig.shared.host.counters(id).unwrap();
        assert_eq!(
            counters.layers.iter().map(|layer| &*layer.name).collect::<Vec<_>>(),
            ["acl", "police", "answers", "vnet"]
        );
        // The entry that an agent would fetch again is not kept, the other is in force.
        let entries =
            rig.shared.host.call(0, |switch, _| switch.mapping("blue").map(|table| table.len())).unwrap();
        assert_eq!(entries, Some(1));
        let again = apply(&mut client, "x", operations(POLICY)).await.unwrap();
        assert_eq!((again.created, again.updated, again.deleted), (0, 0, 0));
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.ports.len(), &*status.ports[0].state), (2, "disconnected"));
        let mut audit = client.audit(v1::AuditRequest::default()).await.unwrap().into_inner();
        while let Some(finding) = audit.message().await.unwrap() {
            assert_eq!(finding.finding, "same", "{finding:?}");
        }
    });
}
