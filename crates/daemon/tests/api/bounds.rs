//! What a hostile or clumsy caller can do: be refused, with a clear error and a counter.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_api::wire::v1::operation::Operation;
use lamina_daemon::server::{Bounds, ServerConfig};

use crate::rig::*;

const PORT: &str = "{ version: 1, ports: { vm1: { mac: \"02:00:00:00:00:01\" } } }";

fn entries(count: u32) -> Vec<v1::Operation> {
    let entry = |n: u32| v1::MappingEntry {
        address: std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string(),
        mac: "02:00:00:00:00:02".into(),
        ..Default::default()
    };
    let put = v1::PutMappingEntries {
        mapping: "blue".into(),
        entries: (0..count).map(entry).collect(),
        ..Default::default()
    };
    vec![operation(Operation::PutMappingEntries(put))]
}

#[test]
fn oversize_messages_and_transactions_are_refused() {
    let server = ServerConfig {
        bounds: Bounds { all: 8, per_user: 8 },
        streams_per_user: 8,
        message_bytes: 64 << 10,
        transaction_bytes: 128 << 10,
    };
    let rig = Rig::start(Setup { server, ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        let refused = apply(&mut client, "x", entries(10_000)).await.unwrap_err();
        assert!(refused.message().contains("message length too large"), "{refused}");
        // Many messages, each small enough.
        let many: Vec<v1::Operation> = (0..8).flat_map(|_| entries(1000)).collect();
        let parts: Vec<v1::ApplyRequest> = many
            .chunks(1)
            .map(|chunk| v1::ApplyRequest { options: None, operations: chunk.to_vec() })
            .collect();
        let refused = client.apply(tokio_stream::iter(parts)).await.unwrap_err();
        assert_eq!(mistakes(&refused)[0].code, "too-large", "{refused}");
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.api_counters["oversize-transactions"], 1);
        assert_eq!(status.api_counters["broken-requests"], 1);
    });
}

#[test]
fn connections_beyond_the_bound_are_closed_and_the_others_served() {
    let server = ServerConfig {
        bounds: Bounds { all: 1000, per_user: 100 },
        streams_per_user: 8,
        message_bytes: 4 << 20,
        transaction_bytes: 4 << 20,
    };
    let rig = Rig::start(Setup { server, ..Setup::default() });
    block_on(async {
        let mut client = rig.client().await;
        client.status(v1::StatusRequest {}).await.unwrap();
        let idle: Vec<UnixStream> = (0..1000).map(|_| UnixStream::connect(&rig.socket).unwrap()).collect();
        let start = Instant::now();
        apply(&mut client, "x", operations(PORT)).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(5));
        // 99 are open, the rest was closed.
        let mut closed = 0;
        for stream in &idle {
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut stream = stream;
            match stream.read(&mut [0; 64]) {
                Ok(0) => closed += 1,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => closed += 1,
                Err(_) => {}
            }
        }
        assert_eq!(closed, 901);
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.api_counters["connections-refused"], 901);
        drop(idle);
        // Their places are free again.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut other = UnixStream::connect(&rig.socket).unwrap();
            other.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
            other.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            if matches!(other.read(&mut [0; 8]), Ok(1..)) {
                break;
            }
            assert!(Instant::now() < deadline, "places stay taken");
        }
    });
}

#[test]
fn garbage_on_the_socket_ends_its_own_connection_only() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0xff; 4096][..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff",
        ] {
            let mut stream = UnixStream::connect(&rig.socket).unwrap();
            let _ = stream.write_all(garbage);
        }
        apply(&mut client, "x", operations(PORT)).await.unwrap();
    });
}

#[test]
fn a_subscriber_that_never_reads_costs_nobody_else() {
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut lazy = rig.client().await;
        let watch = lazy.watch(v1::WatchRequest::default()).await.unwrap();
        let events = lazy.events(v1::EventsRequest::default()).await.unwrap();
        let mut client = rig.client().await;
        let mut quick = rig.client().await.events(v1::EventsRequest::default()).await.unwrap().into_inner();
        apply(&mut client, "x", operations(PORT)).await.unwrap();
        for n in 0..20_000u64 {
            let kind = v1::EventKind::PortUp as i32;
            let event = v1::Event { kind, packet: vec![0; 1000], ..Default::default() };
            rig.shared.events.publish(event, None);
            let told = quick.message().await.unwrap().unwrap();
            assert_eq!(told.sequence, n + 1);
        }
        let table = v1::PutResource {
            name: "blue".into(),
            resource: Some(v1::put_resource::Resource::Mapping(v1::Mapping::default())),
            ..Default::default()
        };
        apply(&mut client, "x", vec![operation(Operation::PutResource(table))]).await.unwrap();
        for _ in 0..5 {
            apply(&mut client, "x", entries(20_000)).await.unwrap();
        }
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert!(status.api_counters["events-lost"] > 1000, "{:?}", status.api_counters);
        drop((watch, events));
    });
}

#[test]
fn mutated_requests_never_half_apply() {
    use prost::Message;
    let rig = Rig::start(Setup::default());
    block_on(async {
        let mut client = rig.client().await;
        let policy = "{ version: 1, resources: { prefixes: { s: [10.0.0.0/8] } }, ports: { vm1: { mac: \"02:00:00:00:00:01\", layers: [ { name: l, priority: 1, inbound: [ { group: g, rules: [ { name: a, when: { ip.src: $s }, action: allow }, { name: b, action: block } ] } ] } ] } } }";
        let whole = v1::ApplyRequest {
            options: Some(v1::ApplyOptions { controller: "x".into(), ..Default::default() }),
            operations: operations(policy),
        };
        let bytes = whole.encode_to_vec();
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        let (mut applied, mut refused) = (0, 0);
        for _ in 0..2000 {
            let mut mutated = bytes.clone();
            for _ in 0..1 + next() % 3 {
                let at = next() % mutated.len();
                match next() % 3 {
                    0 => mutated[at] ^= 1 << (next() % 8),
                    1 => mutated[at] = next() as u8,
                    _ => drop(mutated.remove(at)),
                }
            }
            let Ok(request) = v1::ApplyRequest::decode(&*mutated) else { continue };
            let before = rig.shared.store.revision().unwrap();
            match client.apply(tokio_stream::iter([request])).await {
                Ok(_) => applied += 1,
                Err(status) => {
                    refused += 1;
                    assert_ne!(status.code(), tonic::Code::Internal, "{status}");
                    assert_eq!(rig.shared.store.revision().unwrap(), before, "{status}");
                }
            }
        }
        assert!(applied > 5 && refused > 100, "{applied} {refused}");
        // What is kept can be restored.
        let mut audit = client.audit(v1::AuditRequest::default()).await.unwrap().into_inner();
        while let Some(finding) = audit.message().await.unwrap() {
            assert_eq!(finding.finding, "same", "{finding:?}");
        }
    });
}
