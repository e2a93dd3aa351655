//! A port's guard and VLANs over the API: one line each, in force with the acknowledgement, and every drop has a name.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_api::wire::v1::host_client::HostClient;
use tonic::transport::Channel;

use crate::rig::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([next, 255]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(payload);
    header
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), 8u16.to_be_bytes(), [0, 0]].concat()
}

fn arp_reply(sender: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend(sender);
    packet.extend(address.octets());
    packet.extend(mac(2));
    packet.extend([10, 0, 0, 2]);
    packet
}

/// An advertisement that `target` is at `link` (RFC 4861 §4.4).
fn advertisement(target: Ipv6Addr, link: [u8; 6]) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(link);
    message
}

/// A daemon with guests. It must outlive the clients' runtime, on which it waits for their connections to end.
fn start() -> (Rig, Guests) {
    let (devices, guests) = memory_devices();
    (Rig::start(Setup { devices, ..Setup::default() }), guests)
}

/// The drops of `port`: packets by reason, layer, group and rule, as `lamina drops` names them.
async fn drops(client: &mut HostClient<Channel>, port: &str) -> BTreeMap<String, u64> {
    let request = v1::DropsRequest { port: port.into(), ..v1::DropsRequest::default() };
    let mut stream = client.drops(request).await.unwrap().into_inner();
    let mut rows = BTreeMap::new();
    while let Some(row) = stream.message().await.unwrap() {
        rows.insert(format!("{} {}/{}/{}", row.reason, row.layer, row.group, row.rule), row.packets);
    }
    rows
}

/// Waits until `port` has dropped `packets` in all.
async fn dropped(client: &mut HostClient<Channel>, port: &str, packets: u64) -> BTreeMap<String, u64> {
    let end = Instant::now() + PATIENCE;
    loop {
        let rows = drops(client, port).await;
        if rows.values().sum::<u64>() >= packets || Instant::now() > end {
            return rows;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_a_guest_pretends_to_be_is_dropped_and_named() {
    const POLICY: &str = r#"
version: 1
ports:
  vm1: { mac: "02:00:00:00:00:01", addresses: [10.0.0.1, "fd00::1"], guard: strict }
  vm2: { mac: "02:00:00:00:00:02" }
"#;
    let (rig, guests) = start();
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "host", operations(POLICY)).await.unwrap();
        // The message has what the document says, and says it again.
        let port = v1::Ref { kind: v1::Kind::Port as i32, ..v1::Ref::default() };
        let objects = list(&mut client, port).await;
        let Some(v1::object::Content::Port(port)) = &objects[0].content else { panic!("{objects:?}") };
        assert_eq!(port.addresses, ["10.0.0.1", "fd00::1"]);
        assert!(port.guard.is_some());
        let again = apply(&mut client, "host", operations(POLICY)).await.unwrap();
        assert_eq!((again.created, again.updated, again.unchanged), (0, 0, 2));

        let (own, other, gateway) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), [10, 0, 0, 254]);
        let (own6, other6) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let (to, from) = (mac(2), mac(1));
        let honest = ethernet(to, from, 0x0800, &ipv4(own, other, 17, &udp(1, 2)));
        guests.send("vm1", &honest);
        assert_eq!(guests.wait("vm2", PATIENCE), honest);

        let gateway = Ipv4Addr::from(gateway);
        let spoofs = [
            ("guard/mac/spoofed", ethernet(to, mac(7), 0x0800, &ipv4(own, other, 17, &udp(1, 2)))),
            ("guard/ipv4/spoofed", ethernet(to, from, 0x0800, &ipv4(gateway, other, 17, &udp(1, 2)))),
            ("guard/ipv6/spoofed", ethernet(to, from, 0x86dd, &ipv6(other6, other6, 17, &udp(1, 2)))),
            ("guard/arp/spoofed-address", ethernet(to, from, 0x0806, &arp_reply(from, gateway))),
            ("guard/arp/spoofed-mac", ethernet(to, from, 0x0806, &arp_reply(mac(7), own))),
            (
                "guard/nd-advertised/spoofed",
                ethernet(to, from, 0x86dd, &ipv6(own6, other6, 58, &advertisement(other6, from))),
            ),
            (
                "guard/nd-link-address/spoofed",
                ethernet(to, from, 0x86dd, &ipv6(own6, other6, 58, &advertisement(own6, mac(7)))),
            ),
            ("guard/dhcp/server", ethernet(to, from, 0x0800, &ipv4(own, other, 17, &udp(67, 68)))),
            ("guard/dhcp/server-v6", ethernet(to, from, 0x86dd, &ipv6(own6, other6, 17, &udp(547, 546)))),
            (
                "guard/router/advertisement",
                ethernet(
                    to,
                    from,
                    0x86dd,
                    &ipv6(own6, other6, 58, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
                ),
            ),
            ("guard/non-ip/other", ethernet(to, from, 0x88cc, &[0; 46])),
        ];
        // Again and again: what the cache answers is counted like what the rules say.
        const TIMES: u64 = 3;
        for (_, frame) in &spoofs {
            (0..TIMES).for_each(|_| guests.send("vm1", frame));
        }
        let expected: BTreeMap<String, u64> =
            spoofs.iter().map(|(rule, _)| (format!("blocked {rule}"), TIMES)).collect();
        let rows = dropped(&mut client, "vm1", TIMES * spoofs.len() as u64).await;
        assert_eq!(rows, expected);
        // The last packets are kept, with their headers.
        let request = v1::DropsRequest { port: "vm1".into(), recent: true };
        let mut recent = client.drops(request).await.unwrap().into_inner();
        let mut is_shown = false;
        while let Some(row) = recent.message().await.unwrap() {
            is_shown |=
                row.rule == "spoofed" && row.group == "mac" && row.packet.contains("02:00:00:00:00:07");
        }
        assert!(is_shown, "the spoofed MAC is among the last dropped packets");
        assert!(guests.receive("vm2").is_none(), "nothing of it came through");
    });
}

#[test]
fn a_guard_bounds_what_goes_to_everybody() {
    const POLICY: &str = r#"
version: 1
multicast: [vm2]
ports:
  vm1: { mac: "02:00:00:00:00:01", addresses: [10.0.0.1], guard: { broadcast: 1/s, arp-rate: 1/s } }
  vm2: { mac: "02:00:00:00:00:02" }
"#;
    let (rig, guests) = start();
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "host", operations(POLICY)).await.unwrap();
        let all = [0xff; 6];
        let own = Ipv4Addr::new(10, 0, 0, 1);
        let broadcast = ethernet(all, mac(1), 0x0800, &ipv4(own, Ipv4Addr::BROADCAST, 17, &udp(1, 2)));
        let arp = ethernet(all, mac(1), 0x0806, &arp_reply(mac(1), own));
        const SENT: u64 = 20;
        for frame in [&broadcast, &arp] {
            (0..SENT).for_each(|_| guests.send("vm1", frame));
        }
        // A token may have come in meanwhile, for each second.
        let begin = Instant::now();
        let rows = dropped(&mut client, "vm1", 2 * (SENT - 1)).await;
        let most = SENT - 1;
        let least = most - begin.elapsed().as_secs() - 1;
        for rule in ["limited guard/rate/broadcast", "limited guard/rate/arp"] {
            let packets = rows.get(rule).copied().unwrap_or_default();
            assert!((least..=most).contains(&packets), "{rule}: {rows:?}");
        }
        assert_eq!(rows.len(), 2, "{rows:?}");
    });
}

#[test]
fn a_rate_that_is_exceeded_is_told_once_for_each_key() {
    const POLICY: &str = r#"
version: 1
resources:
  limits: { each: { packets: 1/s, burst: 2, key: ip.src, limit: 2 } }
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: police
        priority: 10
        outbound: [ { group: all, rules: [ { name: each, action: { limit: each } } ] } ]
  vm2: { mac: "02:00:00:00:00:02" }
"#;
    let (rig, guests) = start();
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "host", operations(POLICY)).await.unwrap();
        let kinds = vec![v1::EventKind::Rate as i32, v1::EventKind::Limit as i32];
        let request = v1::EventsRequest { controller: "qos".into(), kinds, after_sequence: 0 };
        let mut events = client.events(request).await.unwrap().into_inner();
        let other = Ipv4Addr::new(10, 0, 0, 2);
        let frame = |from: u8| {
            let packet = ipv4(Ipv4Addr::new(10, 0, 1, from), other, 17, &udp(1, 2));
            ethernet(mac(2), mac(1), 0x0800, &packet)
        };
        // Two sources have a bucket each; the others share one, and that there is no room for theirs is told, too.
        let mut told = Vec::new();
        for source in [1, 2, 3] {
            (0..10).for_each(|_| guests.send("vm1", &frame(source)));
            let count = if source == 3 { 2 } else { 1 };
            for _ in 0..count {
                let event = tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap();
                assert_eq!(event.port, "vm1");
                if event.kind() == v1::EventKind::Rate {
                    assert_eq!(event.direction(), v1::Direction::Outbound);
                    let place = [event.layer, event.group, event.rule].join("/");
                    told.push(format!("{place} {} {} {}", event.table, event.key.join(","), event.limit));
                } else {
                    told.push(format!("{} {}", event.table, event.limit));
                }
            }
        }
        told.sort();
        let expected = [
            "limit each 2",
            "police/all/each each 10.0.1.1 1",
            "police/all/each each 10.0.1.2 1",
            "police/all/each each other 1",
        ];
        assert_eq!(told, expected);
        // More of the same is no news.
        [1, 2, 3].iter().for_each(|source| guests.send("vm1", &frame(*source)));
        let more = tokio::time::timeout(Duration::from_millis(300), events.message()).await;
        assert!(more.is_err(), "{more:?}");
    });
}

#[test]
fn access_and_trunk_ports_share_vlans_and_nothing_else() {
    const POLICY: &str = r#"
version: 1
ports:
  web: { mac: "02:00:00:00:00:01", vlan: { access: 10 } }
  db: { mac: "02:00:00:00:00:02", vlan: { access: 20 } }
  router: { mac: "02:00:00:00:00:03", vlan: { trunk: [10, 20] } }
"#;
    let (rig, guests) = start();
    block_on(async {
        let mut client = rig.client().await;
        apply(&mut client, "host", operations(POLICY)).await.unwrap();
        let packet = ipv4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 3), 17, &udp(1, 2));
        let plain = |to, from| ethernet(mac(to), mac(from), 0x0800, &packet);
        let tagged = |to, from, vlan: u16| {
            let tag = [&vlan.to_be_bytes()[..], &[8, 0], &packet].concat();
            ethernet(mac(to), mac(from), 0x8100, &tag)
        };
        guests.send("web", &plain(3, 1));
        assert_eq!(guests.wait("router", PATIENCE), tagged(3, 1, 10));
        guests.send("router", &tagged(1, 3, 10));
        assert_eq!(guests.wait("web", PATIENCE), plain(1, 3));
        guests.send("router", &tagged(2, 3, 20));
        assert_eq!(guests.wait("db", PATIENCE), plain(2, 3));
        // From VLAN to VLAN, without tag on a trunk, with a tag on an access port, of a VLAN that is not carried.
        guests.send("web", &plain(2, 1));
        guests.send("router", &plain(1, 3));
        guests.send("web", &tagged(3, 1, 10));
        guests.send("router", &tagged(1, 3, 30));
        for (port, count) in [("db", 1), ("router", 2), ("web", 1)] {
            let rows = dropped(&mut client, port, count).await;
            let named: u64 = rows
                .iter()
                .filter(|(row, _)| row.starts_with("vlan-not-carried vlan/"))
                .map(|(_, n)| n)
                .sum();
            assert_eq!((named, rows.values().sum::<u64>()), (count, count), "{port}: {rows:?}");
        }
        for port in ["web", "db", "router"] {
            assert!(guests.receive(port).is_none(), "{port}");
        }
    });
}

#[test]
fn a_limit_is_an_object_of_its_own() {
    const LIMIT: &str =
        "{ version: 1, resources: { limits: { each: { packets: 2/s, burst: 3, key: ip.src } } } }";
    const POLICY: &str = r#"
version: 1
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: police
        priority: 10
        outbound: [ { group: all, rules: [ { name: each, action: { limit: each } } ] } ]
  vm2: { mac: "02:00:00:00:00:02" }
"#;
    let (rig, guests) = start();
    block_on(async {
        let mut client = rig.client().await;
        // A rule cannot name what is not there.
        let error = apply(&mut client, "host", operations(POLICY)).await.unwrap_err();
        assert!(mistakes(&error).iter().any(|one| one.message.contains("each")), "{error:?}");
        apply(&mut client, "qos", operations(LIMIT)).await.unwrap();
        apply(&mut client, "host", operations(POLICY)).await.unwrap();
        let reference = v1::Ref { kind: v1::Kind::Limit as i32, name: "each".into(), ..v1::Ref::default() };
        let objects = list(&mut client, reference.clone()).await;
        let Some(v1::object::Content::Limit(limit)) = &objects[0].content else { panic!("{objects:?}") };
        assert_eq!((limit.packets.as_deref(), &*objects[0].owner), (Some("2/s"), "qos"));

        let packet = ipv4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 17, &udp(1, 2));
        let frame = ethernet(mac(2), mac(1), 0x0800, &packet);
        (0..20).for_each(|_| guests.send("vm1", &frame));
        let rows = dropped(&mut client, "vm1", 17).await;
        assert!(rows["limited police/all/each"] >= 10, "{rows:?}");
        // A higher rate runs at once, with the rules that name it as they are.
        let raised = "{ version: 1, resources: { limits: { each: { packets: 1M/s, key: ip.src } } } }";
        assert_eq!(
            apply(&mut client, "host", operations(raised)).await.unwrap_err().code(),
            tonic::Code::PermissionDenied
        );
        apply(&mut client, "qos", operations(raised)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = drops(&mut client, "vm1").await;
        while guests.receive("vm2").is_some() {}
        for _ in 0..50 {
            guests.send("vm1", &frame);
            guests.wait("vm2", PATIENCE);
        }
        assert_eq!(drops(&mut client, "vm1").await, before);
        // What rules name cannot go.
        let delete = v1::Delete { r#ref: Some(reference), must_exist: true };
        let delete = vec![operation(v1::operation::Operation::Delete(delete))];
        let error = apply(&mut client, "qos", delete.clone()).await.unwrap_err();
        assert!(!mistakes(&error).is_empty(), "{error:?}");
        let layer = v1::Ref {
            kind: v1::Kind::Layer as i32,
            port: "vm1".into(),
            name: "police".into(),
            ..v1::Ref::default()
        };
        let layer = v1::Delete { r#ref: Some(layer), must_exist: true };
        apply(&mut client, "host", vec![operation(v1::operation::Operation::Delete(layer))]).await.unwrap();
        apply(&mut client, "qos", delete).await.unwrap();
    });
}

/// A guest with a conversation that only its layer flow lets the peer answer in, and what is to be changed of it.
fn guest(properties: &str, peer: &str) -> Vec<v1::Operation> {
    operations(&format!(
        r#"
version: 1
ports:
  vm1: {{ {properties} }}
  vm2: {{ {peer} }}
"#
    ))
}

#[test]
fn a_conversation_survives_changes_of_its_port_under_traffic() {
    const FIREWALL: &str = r#"
version: 1
ports:
  vm1:
    layers:
      - name: acl
        priority: 10
        default: { inbound: block }
        outbound: [ { group: all, rules: [ { name: any, action: allow, stateful: { ttl: 600s } } ] } ]
"#;
    let (devices, guests) = memory_devices();
    let rig = Rig::start(Setup { devices, ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        let peer = r#"mac: "02:00:00:00:00:02""#;
        apply(&mut client, "host", guest(r#"mac: "02:00:00:00:00:01""#, peer)).await.unwrap();
        apply(&mut client, "acl", operations(FIREWALL)).await.unwrap();
        let (own, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let request = |number| ethernet(mac(2), mac(number), 0x0800, &ipv4(own, other, 17, &udp(1000, 53)));
        let answer = |number| ethernet(mac(number), mac(2), 0x0800, &ipv4(other, own, 17, &udp(53, 1000)));
        guests.send("vm2", &answer(1));
        assert_eq!(dropped(&mut client, "vm1", 1).await.into_values().sum::<u64>(), 1, "nobody asked");
        guests.send("vm1", &request(1));
        assert_eq!(guests.wait("vm2", PATIENCE), request(1));

        // Answers come all the time; each must arrive, and after each change one does before anything is asked again.
        let changes = [
            ("guard", "addresses: [10.0.0.1], guard: strict", peer),
            ("vlan", "vlan: { access: 10 }", r#"mac: "02:00:00:00:00:02", vlan: { access: 10 }"#),
            ("mtu", "mtu: 1400", peer),
            ("tenants", "tenants: [7, 8]", peer),
            ("small tables", "limits: { unified-flows: 16, drop-cache: 0, idle: 10s }", peer),
            ("large tables", "limits: { unified-flows: 100000, drop-cache: 4096 }", peer),
            (
                "all",
                "mtu: 1300, tenants: [9], limits: { unified-flows: 64 }, addresses: [10.0.0.1], guard: strict",
                peer,
            ),
        ];
        for (what, properties, peer) in changes {
            let stop = Arc::new(AtomicBool::new(false));
            let (begun, has_begun) = std::sync::mpsc::channel();
            let (frame, is_over, guests_of_thread) = (answer(1), stop.clone(), guests.clone());
            let traffic = std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    guests_of_thread.send("vm2", &frame);
                    assert_eq!(guests_of_thread.wait("vm1", PATIENCE), frame, "{what}");
                    // Nobody listens any more after the first one.
                    let _ = begun.send(());
                }
            });
            // A change may be over before a thread has begun: it is made once the traffic flows.
            has_begun.recv_timeout(PATIENCE).expect("traffic flows");
            let properties = format!("mac: \"02:00:00:00:00:01\", {properties}");
            let applied = apply(&mut client, "host", guest(&properties, peer)).await.unwrap();
            stop.store(true, Ordering::Relaxed);
            traffic.join().unwrap();
            assert!(applied.updated > 0, "{what}");
            guests.send("vm2", &answer(1));
            assert_eq!(guests.wait("vm1", PATIENCE), answer(1), "{what}");
            guests.send("vm1", &request(1));
            assert_eq!(guests.wait("vm2", PATIENCE), request(1), "{what}");
        }

        // Another MAC is another address of the same guest; two ports may exchange theirs.
        apply(&mut client, "host", guest(r#"mac: "02:00:00:00:00:02""#, r#"mac: "02:00:00:00:00:01""#))
            .await
            .unwrap();
        let back = ethernet(mac(2), mac(1), 0x0800, &ipv4(other, own, 17, &udp(53, 1000)));
        guests.send("vm2", &back);
        assert_eq!(guests.wait("vm1", PATIENCE), back);
        let rows = drops(&mut client, "vm1").await;
        assert_eq!(rows.values().sum::<u64>(), 1, "nothing was dropped but the first answer: {rows:?}");

        // What the guard no longer allows ends.
        let honest = "mac: \"02:00:00:00:00:01\", addresses: [10.0.0.1], guard: strict";
        apply(&mut client, "host", guest(honest, peer)).await.unwrap();
        guests.send("vm1", &request(1));
        assert_eq!(guests.wait("vm2", PATIENCE), request(1));
        let spoofing = r#"mac: "02:00:00:00:00:01", addresses: [10.0.0.9], guard: strict"#;
        apply(&mut client, "host", guest(spoofing, peer)).await.unwrap();
        guests.send("vm1", &request(1));
        dropped(&mut client, "vm1", 2).await;
        guests.send("vm2", &answer(1));
        let rows = dropped(&mut client, "vm1", 3).await;
        assert_eq!(rows.get("blocked guard/ipv4/spoofed"), Some(&1), "{rows:?}");
        assert_eq!(rows.values().sum::<u64>(), 3, "the answer came to nobody: {rows:?}");
    });
}
