//! Events and injected packets: a controller hears what it must answer, its answer releases what waits, and what it
//! sends arrives.

use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_api::wire::v1::host_client::HostClient;
use lamina_api::wire::v1::operation::Operation;
use lamina_core::drop_reason::DropReason;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::rig::*;

/// Guests ask by ARP for addresses of a table whose misses wait; everything else passes.
const POLICY: &str = r#"
version: 1
resources:
  mappings: { blue: { on-miss: wait, answer-within: 20s } }
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: vnet
        priority: 10
        outbound:
          - group: g
            rules: [{ name: arp, when: { arp.op: request }, action: { respond: { arp: { mapping: blue } } } }]
  vm2:
    mac: "02:00:00:00:00:02"
    layers:
      - name: vnet
        priority: 10
        outbound:
          - group: g
            rules: [{ name: arp, when: { arp.op: request }, action: { respond: { arp: { mapping: blue } } } }]
      - name: acl
        priority: 20
        inbound:
          - group: g
            rules: [{ name: no-udp, when: { ip.proto: udp }, action: block }]
"#;

const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon with guests. It must outlive the clients' runtime, on which it waits for their connections to end.
fn start(workers: usize) -> (Rig, Guests) {
    let (devices, guests) = memory_devices();
    (Rig::start(Setup { workers, devices, ..Setup::default() }), guests)
}

/// A client, after the policy was put by the controller `vnet`.
async fn client(rig: &Rig) -> HostClient<Channel> {
    let mut client = rig.client().await;
    apply(&mut client, "vnet", operations(POLICY)).await.unwrap();
    client
}

async fn subscribe(client: &mut HostClient<Channel>, controller: &str) -> Streaming<v1::Event> {
    subscribe_to(client, controller, v1::EventKind::MappingMiss).await
}

async fn subscribe_to(
    client: &mut HostClient<Channel>,
    controller: &str,
    kind: v1::EventKind,
) -> Streaming<v1::Event> {
    let kinds = vec![kind as i32];
    let request = v1::EventsRequest { controller: controller.into(), kinds, after_sequence: 0 };
    client.events(request).await.unwrap().into_inner()
}

async fn next(events: &mut Streaming<v1::Event>) -> v1::Event {
    tokio::time::timeout(PATIENCE, events.message()).await.expect("an event").unwrap().expect("an event")
}

/// Nothing comes for a while.
async fn expect_none(events: &mut Streaming<v1::Event>) {
    let event = tokio::time::timeout(Duration::from_millis(150), events.message()).await;
    assert!(event.is_err(), "{event:?}");
}

fn answer(address: &str, mac: &str) -> v1::Operation {
    let entry = v1::MappingEntry {
        address: address.into(),
        mac: mac.into(),
        remote: Some("192.168.1.3".into()),
        ..v1::MappingEntry::default()
    };
    operation(Operation::PutMappingEntries(v1::PutMappingEntries {
        mapping: "blue".into(),
        entries: vec![entry],
        ..v1::PutMappingEntries::default()
    }))
}

fn arp_request(guest: u8, wanted: [u8; 4]) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 0, guest];
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend([10, 0, 0, guest]);
    frame.extend([0; 6]);
    frame.extend(wanted);
    frame
}

/// A UDP datagram without payload from `vm1` to `vm2`, with this source port.
fn datagram(port: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, port, 0, 80, 0, 8, 0, 0]);
    frame
}

/// What `port` dropped for `reason`.
async fn drops(client: &mut HostClient<Channel>, port: &str, reason: DropReason) -> u64 {
    let request = v1::DropsRequest { port: port.into(), ..v1::DropsRequest::default() };
    let mut stream = client.drops(request).await.unwrap().into_inner();
    let mut packets = 0;
    while let Some(row) = stream.message().await.unwrap() {
        packets += if row.reason == reason.name() { row.packets } else { 0 };
    }
    packets
}

async fn expect_drops(client: &mut HostClient<Channel>, port: &str, reason: DropReason, packets: u64) {
    let end = Instant::now() + PATIENCE;
    while drops(client, port, reason).await != packets && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(drops(client, port, reason).await, packets, "{port} {reason:?}");
}

#[test]
fn the_answer_to_a_miss_releases_what_waits_on_every_worker() {
    let (rig, guests) = start(2);
    block_on(async {
        let mut client = client(&rig).await;
        let mut events = subscribe(&mut client, "vnet").await;
        let mut others = subscribe(&mut client, "acl").await;
        // Both guests need the same: one worker each, one event in all.
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        let event = next(&mut events).await;
        assert_eq!((&*event.port, &*event.table, &*event.address), ("vm1", "blue", "10.0.0.9"));
        assert_eq!((event.direction(), event.tenant), (v1::Direction::Outbound, 0));
        guests.send("vm2", &arp_request(2, [10, 0, 0, 9]));
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        expect_none(&mut events).await;
        assert!(guests.receive("vm1").is_none() && guests.receive("vm2").is_none());
        apply(&mut client, "vnet", vec![answer("10.0.0.9", "02:00:00:00:bb:09")]).await.unwrap();
        for (port, number) in [("vm1", 1), ("vm1", 1), ("vm2", 2)] {
            let reply = guests.wait(port, PATIENCE);
            assert_eq!((&reply[..6], reply[21]), (&[2, 0, 0, 0, 0, number][..], 2), "{port}");
            assert_eq!(reply[22..32], [2, 0, 0, 0, 0xbb, 9, 10, 0, 0, 9]);
        }
        // What is answered is answered; another key, from the other worker, is news.
        guests.send("vm2", &arp_request(2, [10, 0, 0, 8]));
        let event = next(&mut events).await;
        assert_eq!((&*event.port, &*event.address), ("vm2", "10.0.0.8"));
        expect_none(&mut others).await;
        assert_eq!(drops(&mut client, "vm1", DropReason::MappingMiss).await, 0);
    });
}

#[test]
fn nobody_waits_while_nobody_who_answers_listens() {
    let (rig, guests) = start(1);
    block_on(async {
        let mut client = client(&rig).await;
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        expect_drops(&mut client, "vm1", DropReason::MappingMiss, 1).await;
        // Neither another controller nor an administrator who looks on is who answers.
        let _other = subscribe(&mut client, "acl").await;
        let _administrator = subscribe(&mut client, "").await;
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        expect_drops(&mut client, "vm1", DropReason::MappingMiss, 2).await;
        let mut events = subscribe(&mut client, "vnet").await;
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        assert_eq!(next(&mut events).await.address, "10.0.0.9");
        // When it leaves, what comes from then on is dropped again.
        drop(events);
        let end = Instant::now() + PATIENCE;
        while drops(&mut client, "vm1", DropReason::MappingMiss).await == 2 && Instant::now() < end {
            guests.send("vm1", &arp_request(1, [10, 0, 0, 7]));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(drops(&mut client, "vm1", DropReason::MappingMiss).await > 2);
    });
}

#[test]
fn to_delete_an_entry_that_is_not_there_says_that_there_is_none() {
    let (rig, guests) = start(2);
    block_on(async {
        let mut client = client(&rig).await;
        let mut events = subscribe(&mut client, "vnet").await;
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        assert_eq!(next(&mut events).await.address, "10.0.0.9");
        let entry = v1::Ref {
            kind: v1::Kind::MappingEntry as i32,
            mapping: "blue".into(),
            name: "10.0.0.9".into(),
            ..v1::Ref::default()
        };
        let delete =
            || operation(Operation::Delete(v1::Delete { r#ref: Some(entry.clone()), must_exist: false }));
        let refused = apply(&mut client, "acl", vec![delete()]).await.unwrap_err();
        assert_eq!(mistakes(&refused)[0].code, "not-owner");
        assert_eq!(drops(&mut client, "vm1", DropReason::MappingMiss).await, 0);
        let reply = apply(&mut client, "vnet", vec![delete()]).await.unwrap();
        assert_eq!((reply.deleted, reply.unchanged), (0, 1));
        expect_drops(&mut client, "vm1", DropReason::MappingMiss, 1).await;
        // The next one asks again.
        guests.send("vm2", &arp_request(2, [10, 0, 0, 9]));
        assert_eq!(next(&mut events).await.port, "vm2");
    });
}

#[test]
fn an_agent_that_is_made_one_is_asked_as_the_owner_is() {
    let (rig, guests) = start(1);
    block_on(async {
        let mut client = client(&rig).await;
        let mut events = subscribe(&mut client, "directory").await;
        guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
        expect_drops(&mut client, "vm1", DropReason::MappingMiss, 1).await;
        let mapping = v1::Mapping {
            on_miss: Some("wait".into()),
            answer_within: Some("20s".into()),
            ..v1::Mapping::default()
        };
        let put = v1::PutResource {
            name: "blue".into(),
            resource: Some(v1::put_resource::Resource::Mapping(mapping)),
            agents: vec!["directory".into()],
            keep_entries: true,
        };
        apply(&mut client, "vnet", vec![operation(Operation::PutResource(put))]).await.unwrap();
        // The workers hear of it shortly after.
        let end = Instant::now() + PATIENCE;
        let event = loop {
            guests.send("vm1", &arp_request(1, [10, 0, 0, 9]));
            match tokio::time::timeout(Duration::from_millis(50), events.message()).await {
                Ok(event) => break event.unwrap().unwrap(),
                Err(_) => assert!(Instant::now() < end, "the agent is not asked"),
            }
        };
        assert_eq!(event.address, "10.0.0.9");
        // Its own entries take the place of all: that, too, is the answer, and misses still wait.
        let replace = v1::PutMappingEntries {
            mapping: "blue".into(),
            replace: true,
            entries: vec![v1::MappingEntry {
                address: "10.0.0.9".into(),
                mac: "02:00:00:00:bb:09".into(),
                ..v1::MappingEntry::default()
            }],
            ..v1::PutMappingEntries::default()
        };
        apply(&mut client, "directory", vec![operation(Operation::PutMappingEntries(replace))])
            .await
            .unwrap();
        assert_eq!(guests.wait("vm1", PATIENCE)[22..28], [2, 0, 0, 0, 0xbb, 9]);
        guests.send("vm1", &arp_request(1, [10, 0, 0, 8]));
        assert_eq!(next(&mut events).await.address, "10.0.0.8");
    });
}

#[test]
fn injected_packets_cross_the_layers_or_skip_them() {
    let (rig, guests) = start(2);
    block_on(async {
        let mut client = client(&rig).await;
        let inject =
            |port: &str, direction: v1::Direction, skip_layers: bool, packet: Vec<u8>| v1::InjectRequest {
                controller: "vnet".into(),
                port: port.into(),
                direction: direction as i32,
                packet,
                skip_layers,
                behind_layer: String::new(),
            };
        use v1::Direction::{Inbound, Outbound};
        client.inject(inject("vm2", Inbound, true, datagram(1))).await.unwrap();
        assert_eq!(guests.wait("vm2", PATIENCE), datagram(1));
        // The layers of both ports: those of the second block it.
        client.inject(inject("vm1", Outbound, false, datagram(2))).await.unwrap();
        client.inject(inject("vm2", Inbound, false, datagram(3))).await.unwrap();
        expect_drops(&mut client, "vm2", DropReason::Blocked, 2).await;
        assert!(guests.receive("vm2").is_none());
        // A responder answers what is injected as from the guest.
        apply(&mut client, "vnet", vec![answer("10.0.0.9", "02:00:00:00:bb:09")]).await.unwrap();
        client.inject(inject("vm1", Outbound, false, arp_request(1, [10, 0, 0, 9]))).await.unwrap();
        assert_eq!(guests.wait("vm1", PATIENCE)[22..28], [2, 0, 0, 0, 0xbb, 9]);

        for (wrong, code, place) in [
            (inject("vm3", Inbound, false, datagram(1)), Code::NotFound, "missing-object"),
            (inject("", Inbound, false, datagram(1)), Code::InvalidArgument, "missing-field"),
            (
                inject("vm1", v1::Direction::Unspecified, false, datagram(1)),
                Code::InvalidArgument,
                "missing-field",
            ),
            (inject("vm1", Inbound, false, vec![0; 13]), Code::InvalidArgument, "out-of-range"),
            (inject("vm1", Inbound, false, vec![0; 65_537]), Code::InvalidArgument, "out-of-range"),
        ] {
            let status = client.inject(wrong).await.unwrap_err();
            assert_eq!((status.code(), &*mistakes(&status)[0].code), (code, place), "{status}");
        }
    });
}

/// A controller decides about what `vm1` sends to port 80 of `vm2`, behind a firewall that lets only answers in.
const PUNTS: &str = r#"
version: 1
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: firewall
        priority: 10
        default: { inbound: block }
        outbound: [{ group: g, rules: [{ name: open, action: allow, stateful: true }] }]
      - name: decide
        priority: 20
        outbound: [{ group: g, rules: [{ name: ask, when: { l4.dst: 80 }, action: { punt: { queue: web } } }] }]
      - name: last
        priority: 30
        outbound: [{ group: g, rules: [{ name: never, when: { l4.src: 9 }, action: block }] }]
  vm2: { mac: "02:00:00:00:00:02" }
"#;

/// The answer to [`datagram`].
fn answer_to_datagram(port: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 2, 10, 0, 0, 1]);
    frame.extend([0, 80, 0, port, 0, 8, 0, 0]);
    frame
}

#[test]
fn a_punted_packet_comes_back_behind_its_layer_and_the_guest_gets_the_answer() {
    let (rig, guests) = start(2);
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "web", operations(PUNTS)).await.unwrap();
        // Who does not own the layer does not decide, an administrator who looks on included.
        let mut other = subscribe_to(&mut client, "acl", v1::EventKind::Punt).await;
        let mut administrator = subscribe_to(&mut client, "", v1::EventKind::Punt).await;
        guests.send("vm1", &datagram(1));
        expect_drops(&mut client, "vm1", DropReason::PuntWithoutController, 1).await;
        let mut events = subscribe_to(&mut client, "web", v1::EventKind::Punt).await;
        let send_on = |event: &v1::Event| v1::InjectRequest {
            controller: "web".into(),
            port: event.port.clone(),
            direction: event.direction,
            packet: event.packet.clone(),
            skip_layers: false,
            behind_layer: event.layer.clone(),
        };
        guests.send("vm1", &datagram(7));
        let event = next(&mut events).await;
        assert_eq!((&*event.port, event.direction()), ("vm1", v1::Direction::Outbound));
        assert_eq!((&*event.layer, &*event.group, &*event.rule), ("decide", "g", "ask"));
        assert_eq!((&*event.queue, &event.packet, event.length), ("web", &datagram(7), 42));
        assert_eq!(next(&mut administrator).await.packet, datagram(7));
        assert!(guests.receive("vm2").is_none());
        client.inject(send_on(&event)).await.unwrap();
        assert_eq!(guests.wait("vm2", PATIENCE), datagram(7));
        guests.send("vm2", &answer_to_datagram(7));
        assert_eq!(guests.wait("vm1", PATIENCE), answer_to_datagram(7));
        // What nobody asked for is still not let in.
        guests.send("vm2", &answer_to_datagram(8));
        expect_drops(&mut client, "vm1", DropReason::Blocked, 1).await;
        // The layers behind are asked, and nobody is asked twice.
        guests.send("vm1", &datagram(9));
        let event = next(&mut events).await;
        client.inject(send_on(&event)).await.unwrap();
        expect_drops(&mut client, "vm1", DropReason::Blocked, 2).await;
        expect_none(&mut events).await;
        expect_none(&mut other).await;
        let lost_layer = v1::InjectRequest { behind_layer: "gone".into(), ..send_on(&event) };
        let both = v1::InjectRequest { skip_layers: true, ..send_on(&event) };
        for (wrong, code, place) in
            [(lost_layer, Code::NotFound, "missing-object"), (both, Code::InvalidArgument, "conflict")]
        {
            let status = client.inject(wrong).await.unwrap_err();
            assert_eq!((status.code(), &*mistakes(&status)[0].code), (code, place), "{status}");
        }
        assert_eq!(drops(&mut client, "vm1", DropReason::PuntWithoutController).await, 1);
    });
}
