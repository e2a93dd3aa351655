//! Several workers on threads: ports come and go, policy flips under traffic, a worker dies.

use std::sync::Arc;
use std::time::{Duration as RealDuration, Instant as Clock};

use lamina_api::parse;
use lamina_backend::memory::{self, Memory};
use lamina_backend::{Backend, PacketPool};
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::layer::{Compiler, Policy, Program};
use lamina_core::packet::{Batch, Packet, checksum};
use lamina_core::simulate::TraceOutcome;
use lamina_core::switch::{PortConfig, PortId, PortLimits, SwitchConfig};
use lamina_core::time::Instant;
use lamina_daemon::convert::{PortIds, merge};
use lamina_daemon::host::{FlipError, Host, HostConfig, HostError, Placement};
use lamina_daemon::worker::Polling;

const NOW: Instant = Instant(0);
const PATIENCE: RealDuration = RealDuration::from_secs(20);

fn mac(number: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number as u8])
}

fn port(number: u32) -> PortConfig {
    let limits = PortLimits { unified_flows: 1024, drop_cache: 64, ..PortLimits::default() };
    PortConfig { name: format!("p{number}").into(), mac: mac(number), tenants: Vec::new(), mtu: 0, limits }
}

/// UDP from guest `from` to guest `to`, numbered.
fn datagram(from: u32, to: u32, number: u32) -> Packet {
    let udp = [&[0x30, 0x39, 0, 53, 0, 12, 0, 0][..], &number.to_be_bytes()].concat();
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, from as u8, 10, 0, 0, to as u8];
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    Packet::from_frame(&[&mac(to).0[..], &mac(from).0, &[8, 0], &ip, &udp].concat())
}

fn number_of(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.frame()[42..46].try_into().unwrap())
}

fn host(workers: usize, polling: Polling) -> Host {
    let config = HostConfig::new("test", SwitchConfig { seed: 1 });
    Host::start(HostConfig { workers, polling, buffers: 2048, ..config }).unwrap()
}

fn program(number: u32, policy: &Policy) -> (PortId, Arc<Program>) {
    let id = PortId(number);
    (id, Compiler::new().compile(id, policy).unwrap())
}

/// Port `number` on worker `worker`, with an empty policy; the guest's end of its cable.
fn add(host: &Host, number: u32, worker: usize) -> Memory {
    let (inner, guest) = memory::pair(1024);
    let added = host.add_port(PortId(number), port(number), Placement::Worker(worker), Some(Box::new(inner)));
    assert_eq!(added.unwrap(), worker);
    host.flip(vec![program(number, &Policy::default())]).unwrap();
    guest
}

/// Sends `count` numbered datagrams from guest 1 to guest 2, never more than fit, and calls `between` now and then;
/// the frames that arrived, in order.
fn stream(
    [one, two]: [&mut Memory; 2],
    count: u32,
    mut between: impl FnMut(u32),
) -> Result<Vec<Vec<u8>>, String> {
    let mut pool = PacketPool::for_super_frames(4096);
    let (mut batch, mut frames) = (Batch::new(), Vec::new());
    let (mut sent, mut last) = (0, Clock::now());
    while frames.len() < count as usize {
        if sent < count && (sent as usize) < frames.len() + 200 {
            batch.extend((sent..sent + 10).map(|number| datagram(1, 2, number)));
            sent += one.transmit(NOW, &mut pool, &mut batch).sent as u32;
            between(sent);
        }
        if two.receive(NOW, &mut pool, &mut batch, 100) > 0 {
            last = Clock::now();
            frames.extend(batch.iter().map(|packet| packet.frame().to_vec()));
            pool.give_all(&mut batch);
        } else if last.elapsed() > PATIENCE {
            return Err(format!("{sent} sent, {} arrived", frames.len()));
        } else {
            std::thread::yield_now();
        }
    }
    Ok(frames)
}

#[test]
fn what_crosses_workers_arrives_whole_and_in_order_however_they_wait() {
    for polling in [Polling::Busy, Polling::default(), Polling::Adaptive(0)] {
        let host = host(2, polling);
        let (mut one, mut two) = (add(&host, 1, 0), add(&host, 2, 1));
        let frames = stream([&mut one, &mut two], 5_000, |_| ()).unwrap();
        let numbers: Vec<u32> = frames.iter().map(|frame| number_of(&Packet::from_frame(frame))).collect();
        assert_eq!(numbers, (0..5_000).collect::<Vec<_>>(), "{polling:?}");
        assert_eq!(host.counters(PortId(1)).unwrap().outbound.packets, 5_000);
        assert_eq!(host.counters(PortId(2)).unwrap().inbound.packets, 5_000);
        assert!(host.ownerless_drops().unwrap().is_empty());
        host.stop().unwrap();
    }
}

/// Port 1 marks what its guest sends in two layers, each of which must agree with the other; port 2 takes what is
/// marked with `generation` or earlier, again in two layers.
fn generation(generation: u32) -> Vec<(PortId, Arc<Program>)> {
    let text = format!(
        r#"
version: 1
owner: test
metadata: [half]
ports:
  p1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: first
        priority: 1
        outbound:
          - group: mark
            rules: [{{ name: mark, action: {{ mark: {{ dscp: {generation}, metadata: {{ half: {generation} }} }} }} }}]
      - name: second
        priority: 2
        default: {{ outbound: block }}
        outbound:
          - group: agree
            rules: [{{ name: agree, when: {{ meta.half: {generation}, ip.dscp: {generation} }}, action: allow }}]
  p2:
    mac: "02:00:00:00:00:02"
    layers:
      - name: not-newer
        priority: 1
        default: {{ inbound: block }}
        inbound:
          - group: marked
            rules: [{{ name: known, when: {{ ip.dscp: 0-{generation} }}, action: allow }}]
"#
    );
    let document = parse("generation", &text).unwrap_or_else(|report| panic!("{report}"));
    let converted = merge(&[document], &mut PortIds::default()).unwrap_or_else(|report| panic!("{report}"));
    let mut compiler = Compiler::new();
    let ports = converted.policy.ports.into_iter().enumerate();
    ports
        .map(|(index, port)| {
            let id = PortId(index as u32 + 1);
            (id, compiler.compile(id, &port.policy).unwrap())
        })
        .collect()
}

#[test]
fn a_flip_under_traffic_loses_nothing_and_no_packet_meets_the_new_policy_first_and_the_old_one_then() {
    let host = host(2, Polling::default());
    let (mut one, mut two) = (add(&host, 1, 0), add(&host, 2, 1));
    host.flip(generation(1)).unwrap();
    let mut at = 1;
    let frames = stream([&mut one, &mut two], 20_000, |sent| {
        if sent % 500 == 0 && at < 40 {
            at += 1;
            let flipped = host.flip(generation(at)).unwrap();
            assert_eq!(flipped.len(), 2);
        }
    });
    // What was lost would be here.
    let drops = [1, 2].map(|number| host.counters(PortId(number)).unwrap().drops.iter().collect::<Vec<_>>());
    assert_eq!(drops, [vec![], vec![]]);
    let frames = frames.unwrap();
    let marks: Vec<u8> = frames.iter().map(|frame| frame[15] >> 2).collect();
    assert!(marks.is_sorted(), "no packet is marked by an older policy after a newer one");
    assert_eq!((marks[0], marks[marks.len() - 1]), (1, 40));
}

/// Port 1 copies what its guest sends to port 3.
fn mirror_to_port_3() -> (PortId, Arc<Program>) {
    let text = r#"
version: 1
owner: test
ports:
  p1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: copy
        priority: 1
        outbound:
          - group: all
            rules: [{ name: watch, action: { mirror: { port: p3 } } }]
  p2: { mac: "02:00:00:00:00:02" }
  p3: { mac: "02:00:00:00:00:03" }
"#;
    let document = parse("mirror", text).unwrap_or_else(|report| panic!("{report}"));
    let mut ids = PortIds::default();
    let converted = merge(&[document], &mut ids).unwrap_or_else(|report| panic!("{report}"));
    program(1, &converted.policy.ports[0].policy)
}

#[test]
fn a_mirror_reaches_a_port_of_another_worker() {
    const SENT: u32 = 2_000;
    let host = host(3, Polling::default());
    let (mut one, mut two, mut watch) = (add(&host, 1, 0), add(&host, 2, 1), add(&host, 3, 2));
    host.flip(vec![mirror_to_port_3()]).unwrap();
    let mut pool = PacketPool::for_super_frames(4096);
    let (mut copies, mut batch) = (Vec::new(), Batch::new());
    let frames = stream([&mut one, &mut two], SENT, |sent| {
        // Never more on their way than the ring between the workers holds.
        let start = Clock::now();
        while copies.len() + 200 < sent as usize && start.elapsed() < PATIENCE {
            watch.receive(NOW, &mut pool, &mut batch, 1024);
            copies.extend(batch.iter().map(number_of));
            pool.give_all(&mut batch);
        }
    });
    assert_eq!(frames.unwrap().len(), SENT as usize, "the packets themselves");
    let start = Clock::now();
    while copies.len() < SENT as usize && start.elapsed() < PATIENCE {
        watch.receive(NOW, &mut pool, &mut batch, 1024);
        copies.extend(batch.iter().map(number_of));
        pool.give_all(&mut batch);
    }
    assert_eq!(copies, (0..SENT).collect::<Vec<_>>(), "every copy, in order");
    assert_eq!(host.counters(PortId(1)).unwrap().drops.iter().next(), None);
    assert!(host.ownerless_drops().unwrap().is_empty());
    assert_eq!(host.counters(PortId(3)).unwrap().inbound.packets, 0, "copies cross no layer");
    host.stop().unwrap();
}

#[test]
fn a_flip_that_names_what_is_not_there_changes_nothing() {
    let host = host(2, Polling::default());
    let (mut one, mut two) = (add(&host, 1, 0), add(&host, 2, 1));
    let mut programs = generation(3);
    programs.push(program(77, &Policy::default()));
    let refusal = host.flip(programs).unwrap_err();
    assert!(matches!(refusal, FlipError::Refused(HostError::NoSuchPort(PortId(77)))), "{refusal}");
    let frames = stream([&mut one, &mut two], 100, |_| ()).unwrap();
    assert!(frames.iter().all(|frame| frame[15] == 0), "unmarked: the empty policy is still in force");
    assert!(host.flip(Vec::new()).unwrap().is_empty());
}

#[test]
fn ports_come_and_go_on_all_workers() {
    let host = host(3, Polling::default());
    let (mut one, two) = (add(&host, 1, 0), add(&host, 2, 1));
    let duplicate = |number, mac_of| {
        let config = PortConfig { mac: mac(mac_of), ..port(number) };
        host.add_port(PortId(number), config, Placement::Any, None).unwrap_err().to_string()
    };
    assert!(duplicate(2, 9).contains("number is taken"));
    assert!(duplicate(3, 2).contains("MAC"), "on whichever worker the other is");
    assert!(matches!(
        host.add_port(PortId(3), port(3), Placement::Worker(3), None),
        Err(HostError::NoSuchWorker(3))
    ));
    assert_eq!(host.add_port(PortId(3), port(3), Placement::Any, None).unwrap(), 2, "the emptiest worker");
    assert_eq!(host.ports(), [(PortId(1), 0), (PortId(2), 1), (PortId(3), 2)]);
    host.remove_port(PortId(2)).unwrap();
    assert!(matches!(host.counters(PortId(2)), Err(HostError::NoSuchPort(PortId(2)))));
    assert!(matches!(host.remove_port(PortId(2)), Err(HostError::NoSuchPort(PortId(2)))));
    let (mut pool, mut batch) = (PacketPool::for_super_frames(16), vec![datagram(1, 2, 0)]);
    one.transmit(NOW, &mut pool, &mut batch);
    let start = Clock::now();
    while host.counters(PortId(1)).unwrap().drops.of(DropReason::NoSuchDestination) == 0 {
        assert!(start.elapsed() < PATIENCE);
    }
    drop(two);
    // On another worker this time; the backend is taken away and given back.
    let mut two = add(&host, 2, 2);
    let backend = host.detach(PortId(2)).unwrap().unwrap();
    assert!(host.detach(PortId(2)).unwrap().is_none());
    host.attach(PortId(2), backend).unwrap();
    assert_eq!(stream([&mut one, &mut two], 100, |_| ()).unwrap().len(), 100);
    assert_eq!(host.statistics(PortId(2)).unwrap().unwrap().transmitted.frames, 100);
}

#[test]
fn a_trace_goes_on_at_the_next_worker() {
    let host = host(2, Polling::default());
    let _guests = [add(&host, 1, 0), add(&host, 2, 1)];
    host.flip(generation(5)).unwrap();
    let trace = host.trace(PortId(1), &datagram(1, 2, 0)).unwrap();
    assert_eq!(trace.outcome, TraceOutcome::Ports(vec!["p2".into()]));
    assert!(trace.onward.is_empty());
    let [next] = trace.next.as_slice() else { panic!("{trace:?}") };
    assert_eq!((&*next.port, &next.outcome), ("p2", &TraceOutcome::Deliver));
    assert_eq!(next.frame[15] >> 2, 5, "as the first worker left it");
    assert_eq!(host.counters(PortId(2)).unwrap().inbound.packets, 0, "and nothing happened");
    // One switch alone says where it ends.
    let packet = datagram(1, 2, 0);
    let alone = host.call(0, move |switch, _| switch.trace_packet(NOW, PortId(1), &packet)).unwrap().unwrap();
    assert_eq!(alone.onward.iter().map(|onward| onward.to).collect::<Vec<_>>(), [PortId(2)]);
    assert!(matches!(host.trace(PortId(9), &datagram(1, 2, 0)), Err(HostError::NoSuchPort(PortId(9)))));
}

#[test]
fn a_dead_worker_is_an_error_and_no_wait_without_end() {
    let host = host(2, Polling::default());
    let (mut one, _two) = (add(&host, 1, 0), add(&host, 2, 1));
    let died = host.call(1, |_, _| -> u32 { panic!("on purpose") });
    assert!(matches!(died, Err(HostError::WorkerGone(1))));
    let start = Clock::now();
    while host.broadcast(|_, _, _| ()).is_ok() {
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(matches!(host.counters(PortId(2)), Err(HostError::WorkerGone(1))));
    assert!(matches!(host.set_multicast(vec![PortId(1)]), Err(HostError::WorkerGone(1))));
    assert!(matches!(host.flip(generation(1)), Err(FlipError::Refused(HostError::WorkerGone(1)))));
    assert!(matches!(
        host.add_port(PortId(3), port(3), Placement::Worker(0), None),
        Err(HostError::WorkerGone(1))
    ));
    // The other goes on; what it sends to the dead one is dropped and counted.
    host.flip(vec![program(1, &Policy::default())]).unwrap();
    let mut pool = PacketPool::for_super_frames(2048);
    let mut batch: Batch = (0..1_000).map(|number| datagram(1, 2, number)).collect();
    one.transmit(NOW, &mut pool, &mut batch);
    let start = Clock::now();
    while host.counters(PortId(1)).unwrap().drops.of(DropReason::HandoverFull) != 1_000 - 512 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(matches!(host.stop(), Err(HostError::WorkerGone(1))));
}

#[test]
fn workers_that_cannot_work_are_refused() {
    for (workers, buffers) in [(0, 1024), (4, 7)] {
        let config = HostConfig::new("test", SwitchConfig { seed: 1 });
        let refusal = Host::start(HostConfig { workers, buffers, ..config }).unwrap_err();
        assert!(refusal.to_string().contains("workers"), "{refusal}");
    }
}
