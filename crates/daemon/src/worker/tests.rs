//! The worker on memory backends: by hand on fake time, and on its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration as RealDuration, Instant as Clock};

use lamina_backend::fault::{Faults, Faulty, MILLION};
use lamina_backend::memory::{self, Memory};
use lamina_backend::{Backend, PacketPool};
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::event::{Event, Interests};
use lamina_core::flow::Direction;
use lamina_core::layer::Policy;
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{PortConfig, PortId, PortLimits, Switch, SwitchConfig, Through};
use lamina_core::time::{Duration, Instant};

use super::{
    CallError, Handle, Polling, PortError, Ports, SendError, Worker, WorkerConfig, event_ring, mailbox, spawn,
};

const MS: u64 = 1_000_000;

pub(super) fn mac(number: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number as u8])
}

pub(super) fn port_config(number: u32) -> PortConfig {
    let limits = PortLimits { unified_flows: 1024, drop_cache: 64, ..PortLimits::default() };
    PortConfig { name: format!("p{number}").into(), mac: mac(number), tenants: Vec::new(), mtu: 0, limits }
}

pub(super) fn add_port(switch: &mut Switch, number: u32) {
    switch.add_port(PortId(number), port_config(number)).unwrap();
    switch.publish(PortId(number), Policy::default()).unwrap();
}

/// UDP from guest `from` to guest `to`, numbered.
pub(super) fn datagram(from: u32, to: u32, number: u32) -> Packet {
    let udp = [&[0x30, 0x39, 0, 53, 0, 12, 0, 0][..], &number.to_be_bytes()].concat();
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, from as u8, 10, 0, 0, to as u8];
    let checksum = lamina_core::packet::checksum::finish(lamina_core::packet::checksum::sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    Packet::from_frame(&[&mac(to).0[..], &mac(from).0, &[8, 0], &ip, &udp].concat())
}

pub(super) fn number_of(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.frame()[42..46].try_into().unwrap())
}

pub(super) fn config() -> WorkerConfig {
    WorkerConfig { buffers: 256, ..WorkerConfig::new(SwitchConfig { seed: 1 }) }
}

/// A worker with ports 1 and 2, the guests' ends of their cables, and the guests' pool.
fn two_ports(capacity: usize) -> (Worker, mailbox::Sender, [Memory; 2], PacketPool) {
    let (mut worker, sender) = Worker::new(config()).unwrap();
    let (switch, ports) = worker.parts();
    let guests = [1, 2].map(|number| {
        add_port(switch, number);
        let (inner, outer) = memory::pair(capacity);
        ports.attach(PortId(number), Box::new(inner)).unwrap();
        outer
    });
    (worker, sender, guests, PacketPool::for_super_frames(256))
}

fn drops(worker: &mut Worker, port: u32, reason: DropReason) -> u64 {
    worker.parts().0.counters(PortId(port)).unwrap().drops.of(reason)
}

#[test]
fn packets_cross_in_order_and_every_buffer_comes_back() {
    let (mut worker, _sender, [mut one, mut two], mut pool) = two_ports(256);
    let mut batch = Batch::new();
    for round in 0..50u32 {
        let now = Instant(u64::from(round) * MS);
        batch.extend((0..100).map(|i| datagram(1, 2, round * 100 + i)));
        one.transmit(now, &mut pool, &mut batch);
        batch.extend((0..10).map(|i| datagram(2, 1, i)));
        two.transmit(now, &mut pool, &mut batch);
        while worker.breathe(now) {}
        assert_eq!(two.receive(now, &mut pool, &mut batch, 1000), 100);
        assert_eq!(
            batch.iter().map(number_of).collect::<Vec<_>>(),
            (round * 100..).take(100).collect::<Vec<_>>()
        );
        pool.give_all(&mut batch);
        assert_eq!(one.receive(now, &mut pool, &mut batch, 1000), 10);
        pool.give_all(&mut batch);
    }
    assert!(!worker.breathe(Instant(60 * MS)), "nothing is left to do");
    worker.breathe(Instant(61 * MS));
    assert_eq!(worker.buffers_in_use(), 0);
    let (switch, ports) = worker.parts();
    assert_eq!(switch.counters(PortId(1)).unwrap().outbound.packets, 5000);
    assert_eq!(ports.statistics(PortId(2)).unwrap().transmitted.frames, 5000);
}

#[test]
fn a_full_transmit_queue_is_counted_at_the_port_and_loses_no_buffer() {
    let (mut worker, _sender, [mut one, mut two], mut pool) = two_ports(8);
    let mut batch = Batch::new();
    let mut offered = 0;
    for round in 0..10 {
        batch.extend((0..8).map(|i| datagram(1, 2, i)));
        offered += one.transmit(Instant(round), &mut pool, &mut batch).sent as u64;
        while worker.breathe(Instant(round)) {}
    }
    assert_eq!(offered, 80);
    assert_eq!(drops(&mut worker, 2, DropReason::TransmitQueueFull), 72);
    assert_eq!(two.receive(Instant(0), &mut pool, &mut batch, 100), 8);
    worker.breathe(Instant(20));
    worker.breathe(Instant(20));
    assert_eq!(worker.buffers_in_use(), 0);
}

#[test]
fn a_port_without_backend_is_not_ready_and_can_be_attached_again() {
    let (mut worker, _sender, [mut one, _two], mut pool) = two_ports(8);
    let backend = worker.parts().1.detach(PortId(2)).unwrap();
    assert!(worker.parts().1.detach(PortId(2)).is_none());
    let mut batch = vec![datagram(1, 2, 0)];
    one.transmit(Instant(0), &mut pool, &mut batch);
    worker.breathe(Instant(0));
    assert_eq!(drops(&mut worker, 2, DropReason::PortNotReady), 1);
    worker.parts().1.attach(PortId(2), backend).unwrap();
    assert_eq!(worker.parts().1.ids().collect::<Vec<_>>(), [PortId(1), PortId(2)]);
    let (spare, _) = memory::pair(1);
    assert_eq!(worker.parts().1.attach(PortId(2), Box::new(spare)).unwrap_err(), PortError::AlreadyAttached);
    batch.push(datagram(1, 2, 0));
    one.transmit(Instant(0), &mut pool, &mut batch);
    worker.breathe(Instant(1));
    assert_eq!(worker.parts().1.statistics(PortId(2)).unwrap().transmitted.frames, 1);
}

#[test]
fn garbage_and_faults_neither_stop_the_worker_nor_cost_buffers() {
    let (mut worker, _sender) = Worker::new(config()).unwrap();
    let faults = Faults {
        loss: MILLION / 20,
        duplicate: MILLION / 20,
        corrupt: MILLION / 4,
        reorder: MILLION / 10,
        reorder_by: Duration(3 * MS),
        delay: Duration(MS),
        jitter: Duration(2 * MS),
    };
    let (switch, ports) = worker.parts();
    let mut guests = [1, 2].map(|number| {
        add_port(switch, number);
        let (inner, outer) = memory::pair(64);
        let faulty = Faulty::new(inner, u64::from(number), faults, faults, 32);
        ports.attach(PortId(number), Box::new(faulty)).unwrap();
        outer
    });
    let (mut pool, mut batch, mut arrived) = (PacketPool::for_super_frames(256), Batch::new(), 0);
    let mut state = 7u64;
    for tick in 0..4_000u32 {
        let now = Instant(u64::from(tick) * MS / 4);
        for (from, guest) in guests.iter_mut().enumerate() {
            let mut packet = datagram(from as u32 + 1, 2 - from as u32, tick);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if state >> 62 == 0 {
                let length = packet.len() as u64;
                packet.set_len((state >> 20) as usize % packet.len());
                packet.frame_mut().iter_mut().for_each(|byte| *byte ^= (state >> (length % 60)) as u8);
            }
            batch.push(packet);
            guest.transmit(now, &mut pool, &mut batch);
        }
        worker.breathe(now);
        for guest in &mut guests {
            arrived += guest.receive(now, &mut pool, &mut batch, 100);
            pool.give_all(&mut batch);
        }
    }
    for tick in 0..20 {
        worker.breathe(Instant(1_000 * MS + tick * MS));
        for guest in &mut guests {
            guest.receive(Instant(0), &mut pool, &mut batch, 100);
            pool.give_all(&mut batch);
        }
    }
    worker.breathe(Instant(2_000 * MS));
    assert!(arrived > 3_000, "{arrived} of 8000 packets arrived");
    assert_eq!(worker.buffers_in_use(), 0);
}

#[test]
fn commands_are_bounded_run_in_order_and_end_with_the_worker() {
    let (mut worker, sender) = Worker::new(config()).unwrap();
    let sum = Arc::new(AtomicU64::new(0));
    let mut accepted = 0;
    let refusal = loop {
        let (sum, number) = (sum.clone(), accepted + 1);
        let command = move |_: &mut Switch, _: &mut Ports| {
            assert_eq!(sum.swap(number, Ordering::Relaxed), number - 1, "order");
        };
        match sender.send(Box::new(command)) {
            Ok(()) => accepted += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal, accepted), (SendError::Full, 256));
    assert!(worker.breathe(Instant(0)));
    assert_eq!(sum.load(Ordering::Relaxed), 16, "a burst of commands does not hold up packets");
    while worker.breathe(Instant(0)) {}
    assert_eq!(sum.load(Ordering::Relaxed), 256);
    drop(worker);
    assert_eq!(sender.send(Box::new(|_, _| ())), Err(SendError::Gone));
}

/// A running worker with guests 1 and 2, whose ends are returned.
fn running(polling: Polling) -> (Handle, [Memory; 2]) {
    let handle = spawn("test-worker", WorkerConfig { polling, ..config() }, None).unwrap();
    let guests = handle
        .call(|switch, ports| {
            [1, 2].map(|number| {
                add_port(switch, number);
                let (inner, outer) = memory::pair(64);
                ports.attach(PortId(number), Box::new(inner)).unwrap();
                outer
            })
        })
        .unwrap();
    (handle, guests)
}

#[test]
fn a_thread_forwards_answers_calls_and_stops() {
    for polling in [Polling::Busy, Polling::default(), Polling::Adaptive(0)] {
        let (handle, [mut one, mut two]) = running(polling);
        let mut pool = PacketPool::for_super_frames(64);
        let mut batch = Batch::new();
        for number in 0..20 {
            batch.push(datagram(1, 2, number));
            one.transmit(Instant(0), &mut pool, &mut batch);
            let start = Clock::now();
            while two.receive(Instant(0), &mut pool, &mut batch, 1) == 0 {
                assert!(start.elapsed() < RealDuration::from_secs(5), "{polling:?}");
                std::thread::yield_now();
            }
            assert_eq!(number_of(&batch[0]), number);
            pool.give_all(&mut batch);
        }
        let counted = handle.call(|switch, _| switch.counters(PortId(2)).unwrap().inbound.packets).unwrap();
        assert_eq!(counted, 20);
        handle.stop().unwrap();
        batch.push(datagram(1, 2, 99));
        one.transmit(Instant(0), &mut pool, &mut batch);
        std::thread::sleep(RealDuration::from_millis(5));
        assert_eq!(two.receive(Instant(0), &mut pool, &mut batch, 1), 0, "it has ended");
    }
}

#[test]
fn an_idle_worker_sleeps_and_a_command_wakes_it() {
    let reads = Arc::new(AtomicU64::new(0));
    let (mut worker, sender) = Worker::new(config()).unwrap();
    let counted = reads.clone();
    let thread = std::thread::spawn(move || {
        let start = Clock::now();
        worker.run(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Instant(start.elapsed().as_nanos() as u64)
        });
    });
    std::thread::sleep(RealDuration::from_millis(300));
    let idle = reads.load(Ordering::Relaxed);
    // At most four timers in 300 ms, each with its few empty breaths.
    assert!((1..=50).contains(&idle), "{idle} breaths in 300 ms without traffic");
    let (answer, answered) = std::sync::mpsc::channel();
    let start = Clock::now();
    sender.send(Box::new(move |_, _| answer.send(()).unwrap())).unwrap();
    answered.recv_timeout(RealDuration::from_secs(5)).unwrap();
    assert!(start.elapsed() < RealDuration::from_millis(500), "woken by the command, not by a timer");
    sender.stop();
    thread.join().unwrap();
}

#[test]
fn a_command_that_panics_ends_the_worker_and_callers_are_told() {
    let (handle, _guests) = running(Polling::default());
    let answer = handle.call(|_, _| -> u32 { panic!("on purpose") });
    assert_eq!(answer, Err(CallError::Gone));
    while handle.send(Box::new(|_, _| ())) != Err(SendError::Gone) {
        std::thread::yield_now();
    }
    assert!(handle.stop().is_err());
}

#[test]
fn a_reader_that_never_reads_loses_events_and_costs_nothing_else() {
    let (sender, mut reader) = event_ring(1, || {});
    let (mut worker, _sender) = Worker::new(WorkerConfig { events: Some(sender), ..config() }).unwrap();
    let (switch, ports) = worker.parts();
    switch.set_interests(Interests { limits: true, ..Interests::default() });
    let mut guests: Vec<Memory> = Vec::new();
    for number in [1, 2] {
        add_port(switch, number);
        let (inner, outer) = memory::pair(64);
        ports.attach(PortId(number), Box::new(inner)).unwrap();
        guests.push(outer);
    }
    let mut pool = PacketPool::for_super_frames(256);
    let mut batch = Batch::new();
    // More flows than the table of either port takes: each tells so once.
    for flow in 0..1_100u32 {
        let mut packet = datagram(1, 2, flow);
        packet.frame_mut()[34..36].copy_from_slice(&(flow as u16).to_be_bytes());
        batch.push(packet);
        guests[0].transmit(Instant(1), &mut pool, &mut batch);
        while worker.breathe(Instant(1)) {}
        assert_eq!(guests[1].receive(Instant(1), &mut pool, &mut batch, 10), 1);
        pool.give_all(&mut batch);
    }
    assert!(matches!(reader.take(), Some(Event::Limit(reached)) if reached.table == "unified-flows"));
    assert!(reader.take().is_none());
    assert_eq!(reader.lost(), 1);
    // Packets that the switch made come from no pool, and leave its books right.
    let frame = datagram(1, 2, 7).frame().to_vec();
    worker.parts().0.inject(PortId(1), Direction::Outbound, Through::AllLayers, &frame).unwrap();
    worker.breathe(Instant(2));
    assert_eq!(guests[1].receive(Instant(2), &mut pool, &mut batch, 10), 1);
    pool.give_all(&mut batch);
    worker.breathe(Instant(3));
    assert_eq!(worker.buffers_in_use(), 0);
}
