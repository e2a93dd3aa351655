//! What `Status` says of workers, ports, devices and uplinks, and how many streams a user may have.

use std::collections::BTreeMap;
use std::io;

use lamina_api::wire::v1;
use lamina_backend::Backend;
use lamina_core::address::MacAddr;
use lamina_core::switch::{PortId, UplinkConfig};
use lamina_daemon::control::{self, Devices};
use lamina_daemon::host::Placement;
use lamina_daemon::server::{Bounds, ServerConfig};
use tonic::Code;

use crate::rig::*;

/// A device that cannot be opened, for ports called `broken`.
struct BrokenDevices;

impl Devices for BrokenDevices {
    fn open(&mut self, port: &str) -> io::Result<Option<(control::Device, Box<dyn Backend>)>> {
        match port {
            "broken" => Err(io::Error::other("it has an address")),
            _ => Ok(None),
        }
    }

    fn is_there(&mut self, _: &control::Device) -> bool {
        false
    }
}

const PORTS: &str = r#"{ version: 1, ports: {
    a: { mac: "02:00:00:00:00:01" }, b: { mac: "02:00:00:00:00:02" }, broken: { mac: "02:00:00:00:00:03" } } }"#;

fn layers(action: &str) -> Vec<v1::Operation> {
    let layer = format!(
        "{{ layers: [ {{ name: acl, priority: 10, inbound: [ {{ group: g, rules: [ {{ name: r, action: {action} }} ] }} ] }} ] }}"
    );
    operations(&format!("{{ version: 1, ports: {{ a: {layer}, b: {layer} }} }}"))
}

#[test]
fn ports_have_generations_that_rise_with_a_flip_of_all_workers() {
    let devices = Box::new(BrokenDevices);
    let rig = Rig::start(Setup { workers: 2, devices, ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        let mut status = async || client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        apply(&mut rig.client().await, "x", operations(PORTS)).await.unwrap();
        let first = status().await;
        let workers: Vec<(u32, u32)> =
            first.workers.iter().map(|worker| (worker.number, worker.ports)).collect();
        assert_eq!(workers, [(0, 2), (1, 1)]);
        let places: BTreeMap<&str, u32> = first.ports.iter().map(|port| (&*port.name, port.worker)).collect();
        assert_ne!(places["a"], places["b"]);
        let generations = |reply: &v1::StatusReply| -> BTreeMap<String, u64> {
            reply.ports.iter().map(|port| (port.name.clone(), port.generation)).collect()
        };
        let mut before = generations(&first);
        assert!(before.values().all(|generation| *generation > 0), "{before:?}");
        // One transaction, one flip of both workers, each time.
        for action in ["allow", "block", "allow"] {
            apply(&mut rig.client().await, "x", layers(action)).await.unwrap();
            let now = generations(&status().await);
            assert!(now["a"] > before["a"] && now["b"] > before["b"], "{before:?} {now:?}");
            assert_eq!(now["broken"], before["broken"], "nothing changed there");
            before = now;
        }
    });
}

#[test]
fn a_device_that_cannot_be_used_is_told_from_one_that_is_not_there() {
    let rig = Rig::start(Setup { devices: Box::new(BrokenDevices), ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "x", operations(PORTS)).await.unwrap();
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let said: Vec<(&str, &str)> = status.ports.iter().map(|port| (&*port.state, &*port.device)).collect();
        assert_eq!(
            said,
            [
                ("disconnected", "there is no interface `a`"),
                ("disconnected", "there is no interface `b`"),
                ("disconnected", "its device could not be opened: it has an address"),
            ]
        );
    });
}

#[test]
fn an_uplink_has_its_interface_and_addresses() {
    let rig = Rig::start(Setup { workers: 2, ..Setup::default() });
    let config = UplinkConfig {
        name: "eth7".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        mtu: 1400,
    };
    rig.shared.host.add_uplink(PortId(0), config, Placement::Worker(1), None).unwrap();
    block_on(async {
        let status = rig.client().await.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let [uplink] = &status.uplinks[..] else { panic!("{status:?}") };
        assert_eq!((&*uplink.name, &*uplink.mac, uplink.mtu), ("eth7", "02:00:00:00:00:09", 1400));
        assert_eq!(uplink.addresses, ["192.0.2.1", "2001:db8::1"]);
    });
}

#[test]
fn streams_of_one_user_are_bounded_over_all_its_connections() {
    let server = ServerConfig {
        bounds: Bounds { all: 32, per_user: 32 },
        streams_per_user: 3,
        message_bytes: 4 << 20,
        transaction_bytes: 4 << 20,
    };
    let rig = Rig::start(Setup { server, ..Setup::default() });
    block_on(async {
        let mut clients = [rig.client().await, rig.client().await, rig.client().await];
        apply(&mut clients[0], "x", operations(PORTS)).await.unwrap();
        let events = v1::EventsRequest::default;
        let first = clients[0].events(events()).await.unwrap();
        let second = clients[1].events(events()).await.unwrap();
        let third = clients[2].capture(v1::CaptureRequest::default()).await.unwrap();
        let refusals = [
            clients[0].events(events()).await.map(drop).unwrap_err(),
            clients[1].capture(v1::CaptureRequest::default()).await.map(drop).unwrap_err(),
            clients[2].flows(v1::FlowsRequest::default()).await.map(drop).unwrap_err(),
        ];
        for refused in refusals {
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            assert!(refused.message().contains("streams-per-user"), "{refused}");
            assert_eq!(mistakes(&refused)[0].code, "too-many");
        }
        let status = clients[0].status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.api_counters["refused-streams"], 3);
        drop((first, second, third));
        // Their places are free again when the daemon hears of it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while let Err(refused) = clients[0].flows(v1::FlowsRequest::default()).await.map(drop) {
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            assert!(std::time::Instant::now() < deadline, "places stay taken");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
}
