//! Workers that hand packets over, breathing by hand on fake time.

use std::sync::mpsc;

use lamina_backend::Backend;
use lamina_backend::memory::{self, Memory};
use lamina_core::drop_reason::DropReason;
use lamina_core::layer::{Compiler, DefaultAction, Layer, Policy};
use lamina_core::packet::Batch;
use lamina_core::switch::UplinkConfig;
use lamina_core::time::Instant;

use super::super::tests::{add_port, config, datagram, mac, number_of, port_config};
use super::super::{Sender, Worker, WorkerConfig};
use super::*;

const NOW: Instant = Instant(0);
const BUFFERS: usize = 256;
const UPLINK: PortId = PortId(0);

/// Workers with ports 1, 2, ... and the guests' ends of their cables; the uplink is the last worker's.
struct Crew {
    workers: Vec<Worker>,
    _senders: Vec<Sender>,
    flipper: Flipper,
    guests: Vec<Memory>,
    network: Memory,
    pool: PacketPool,
    batch: Batch,
}

fn crew(count: usize, handover: usize) -> Crew {
    let made = (0..count).map(|_| Worker::new(WorkerConfig { buffers: BUFFERS, ..config() }).unwrap());
    let (mut workers, senders): (Vec<_>, Vec<_>) = made.unzip();
    let flipper = connect(&mut workers, handover, BUFFERS);
    let (inner, network) = memory::pair(BUFFERS);
    let mut inner = Some(inner);
    for (number, worker) in workers.iter_mut().enumerate() {
        let (switch, ports) = worker.parts();
        let uplink = UplinkConfig { name: "up".into(), mac: mac(99), addresses: Vec::new(), mtu: 1500 };
        switch.add_uplink(UPLINK, uplink).unwrap();
        if number + 1 == count {
            ports.attach(UPLINK, Box::new(inner.take().unwrap())).unwrap();
        } else {
            ports.set_owner(UPLINK, count - 1);
        }
        for other in (0..count).filter(|other| *other != number) {
            let id = other as u32 + 1;
            switch.add_remote_port(PortId(id), &port_config(id)).unwrap();
            ports.set_owner(PortId(id), other);
        }
        switch.set_multicast((1..=count as u32).map(PortId).collect());
    }
    let mut guests = Vec::new();
    for (number, worker) in workers.iter_mut().enumerate() {
        let (switch, ports) = worker.parts();
        add_port(switch, number as u32 + 1);
        let (inner, guest) = memory::pair(BUFFERS);
        ports.attach(PortId(number as u32 + 1), Box::new(inner)).unwrap();
        guests.push(guest);
    }
    let pool = PacketPool::for_super_frames(4 * BUFFERS);
    Crew { workers, _senders: senders, flipper, guests, network, pool, batch: Batch::new() }
}

impl Crew {
    /// Guest `from` sends datagrams with these numbers to guest `to`.
    fn send(&mut self, from: u32, to: u32, numbers: std::ops::Range<u32>) {
        self.batch.extend(numbers.map(|number| datagram(from, to, number)));
        self.guests[from as usize - 1].transmit(NOW, &mut self.pool, &mut self.batch);
    }

    /// The numbers of what has come to guest `to`.
    fn arrived(&mut self, to: u32) -> Vec<u32> {
        self.guests[to as usize - 1].receive(NOW, &mut self.pool, &mut self.batch, 10_000);
        let numbers = self.batch.iter().map(number_of).collect();
        self.pool.give_all(&mut self.batch);
        numbers
    }

    fn breathe(&mut self, worker: usize) {
        while self.workers[worker].breathe(NOW) {}
    }

    fn breathe_all(&mut self) {
        while self.workers.iter_mut().fold(false, |busy, worker| worker.breathe(NOW) | busy) {}
    }

    /// Everything has come back to where it was taken from.
    fn assert_books(&mut self) {
        for to in 1..=self.guests.len() as u32 {
            self.arrived(to);
        }
        self.network.receive(NOW, &mut self.pool, &mut self.batch, 10_000);
        self.pool.give_all(&mut self.batch);
        self.breathe_all();
        // Once more: what was paid in that breath is collected in the next.
        self.workers.iter_mut().for_each(|worker| _ = worker.breathe(NOW));
        for (number, worker) in self.workers.iter().enumerate() {
            assert_eq!(worker.buffers_in_use(), 0, "worker {number}");
            assert!(worker.ports.peers.links.iter().flatten().all(|link| link.unpaid == 0));
        }
    }

    fn drops(&mut self, port: u32, reason: DropReason) -> u64 {
        self.workers[port as usize - 1].parts().0.drops(PortId(port)).unwrap().of(reason)
    }
}

#[test]
fn packets_cross_in_order_and_every_buffer_comes_back() {
    let mut crew = crew(3, 64);
    for round in 0..20 {
        let numbers = round * 50..(round + 1) * 50;
        crew.send(1, 2, numbers.clone());
        crew.send(2, 3, numbers.clone());
        crew.send(3, 1, numbers.clone());
        crew.breathe_all();
        for to in [1, 2, 3] {
            assert_eq!(crew.arrived(to), numbers.clone().collect::<Vec<_>>(), "guest {to}");
        }
    }
    crew.assert_books();
    let counters = crew.workers[1].parts().0.counters(PortId(2)).unwrap();
    assert_eq!((counters.outbound.packets, counters.inbound.packets), (1000, 1000));
}

#[test]
fn a_full_ring_is_a_counted_drop_and_costs_no_buffer() {
    let mut crew = crew(2, 16);
    crew.send(1, 2, 0..100);
    crew.breathe(0);
    assert_eq!(crew.drops(1, DropReason::HandoverFull), 84);
    assert_eq!(crew.workers[0].buffers_in_use(), 16, "those on their way");
    crew.breathe(1);
    assert_eq!(crew.arrived(2), (0..16).collect::<Vec<_>>());
    crew.send(1, 2, 100..110);
    crew.breathe(0);
    crew.breathe(1);
    assert_eq!(crew.arrived(2), (100..110).collect::<Vec<_>>(), "what was paid for can be sent again");
    crew.assert_books();
}

#[test]
fn all_rings_together_hold_at_most_half_of_the_buffers() {
    let mut crew = crew(3, 100_000);
    crew.send(1, 2, 0..200);
    crew.send(1, 3, 0..56);
    crew.breathe(0);
    assert_eq!(crew.workers[0].buffers_in_use(), BUFFERS / 4 + 56);
    assert_eq!(crew.drops(1, DropReason::HandoverFull), 200 - BUFFERS as u64 / 4);
    crew.breathe_all();
    crew.assert_books();
}

#[test]
fn two_workers_that_flood_each_other_do_not_get_stuck() {
    let mut crew = crew(2, 100_000);
    for round in 0..20 {
        crew.send(1, 2, 0..250);
        crew.send(2, 1, 0..250);
        // Both have filled their rings before either looks at the other's.
        crew.workers.iter_mut().for_each(|worker| _ = worker.breathe(NOW));
        crew.breathe_all();
        assert!(!crew.arrived(1).is_empty() && !crew.arrived(2).is_empty(), "round {round}");
    }
    crew.assert_books();
}

#[test]
fn copies_for_a_multicast_set_cross_too() {
    let mut crew = crew(3, 64);
    for number in 0..30 {
        let mut packet = datagram(1, 2, number);
        packet.frame_mut()[..6].fill(0xff);
        crew.batch.push(packet);
    }
    crew.guests[0].transmit(NOW, &mut crew.pool, &mut crew.batch);
    crew.breathe_all();
    for to in [2, 3] {
        assert_eq!(crew.arrived(to), (0..30).collect::<Vec<_>>());
    }
    assert!(crew.arrived(1).is_empty());
    crew.assert_books();
}

#[test]
fn the_uplink_of_another_worker_sends_what_this_one_decided_and_brings_what_comes() {
    let mut crew = crew(2, 64);
    crew.send(1, 77, 0..10);
    crew.breathe_all();
    assert_eq!(crew.network.receive(NOW, &mut crew.pool, &mut crew.batch, 100), 10);
    assert_eq!(crew.batch.iter().map(number_of).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    crew.pool.give_all(&mut crew.batch);
    crew.batch.extend((0..10).map(|number| datagram(77, 1, number)));
    crew.network.transmit(NOW, &mut crew.pool, &mut crew.batch);
    crew.breathe_all();
    assert_eq!(crew.arrived(1), (0..10).collect::<Vec<_>>());
    // The worker that decides counts what is sent, the one that has the backend what is received.
    let counters = [0, 1].map(|n: usize| crew.workers[n].parts().0.uplink_counters(UPLINK).unwrap().clone());
    assert_eq!(counters.each_ref().map(|counters| counters.transmitted.packets), [10, 0]);
    assert_eq!(counters.each_ref().map(|counters| counters.received.packets), [0, 10]);
    crew.assert_books();
}

#[test]
fn a_packet_for_a_port_that_went_meanwhile_is_counted() {
    let mut crew = crew(2, 64);
    crew.send(1, 2, 0..5);
    crew.breathe(0);
    assert!(crew.workers[1].parts().0.remove_port(PortId(2)));
    crew.breathe(1);
    let rows = crew.workers[1].parts().0.drop_rows(None).unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.reason, row.packets)).collect::<Vec<_>>(),
        [(DropReason::PortNotReady, 5)]
    );
    crew.assert_books();
}

fn program(id: u32, inbound: DefaultAction) -> (PortId, Arc<Program>) {
    let layer = Layer {
        name: "all".into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: inbound,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::default(),
        outbound: Arc::default(),
        flow_limit: 0,
    };
    let policy = Policy { layers: vec![layer], ..Policy::default() };
    (PortId(id), Compiler::new().compile(PortId(id), &policy).unwrap())
}

#[test]
fn a_flip_reaches_each_worker_with_its_next_breath_and_no_packet_before_its_time() {
    let mut crew = crew(2, 64);
    let (done, reports) = mpsc::sync_channel(2);
    let epoch = crew.flipper.next_epoch();
    let programs = [program(1, DefaultAction::Block), program(2, DefaultAction::Block)];
    for (worker, program) in programs.into_iter().enumerate() {
        let done = done.clone();
        crew.flipper.stage(Stage { epoch, programs: vec![program], done, worker });
    }
    crew.send(1, 2, 0..3);
    crew.breathe_all();
    assert_eq!(crew.arrived(2), [0, 1, 2], "staged is not yet in force");
    assert!(reports.try_recv().is_err());
    crew.send(1, 2, 3..6);
    crew.breathe(0);
    crew.flipper.raise(epoch);
    // What worker 0 sent before it flipped is judged by the old policy of port 2; what it sends after by the new.
    crew.breathe(1);
    assert_eq!(crew.arrived(2), [3, 4, 5]);
    assert_eq!(crew.drops(2, DropReason::Blocked), 0);
    let (worker, installed) = reports.try_recv().unwrap();
    assert_eq!((worker, installed.len()), (1, 1));
    assert!(installed[0].1.as_ref().unwrap().retired.is_some(), "to be freed by the host");
    crew.send(1, 2, 6..9);
    crew.breathe_all();
    assert_eq!(reports.try_recv().unwrap().0, 0);
    assert!(crew.arrived(2).is_empty());
    assert_eq!(crew.drops(2, DropReason::Blocked), 3);
    crew.assert_books();
}

#[test]
fn a_packet_of_a_newer_epoch_waits_until_the_receiver_is_there() {
    let mut crew = crew(2, 64);
    let (done, _reports) = mpsc::sync_channel(2);
    let epoch = crew.flipper.next_epoch();
    crew.flipper.stage(Stage { epoch, programs: vec![program(2, DefaultAction::Block)], done, worker: 1 });
    crew.flipper.raise(epoch);
    crew.send(1, 2, 0..3);
    crew.breathe(0);
    // Worker 1 is in the middle of a breath that began before the epoch rose.
    assert!(!crew.workers[1].accept(NOW, 64), "it leaves them in the ring");
    crew.breathe(1);
    assert!(crew.arrived(2).is_empty());
    assert_eq!(crew.drops(2, DropReason::Blocked), 3, "judged by the new policy");
    crew.assert_books();
}

#[test]
fn who_is_awake_is_not_rung() {
    let crew = crew(2, 64);
    let bell = crew.workers[1].mailbox.bell();
    assert!(!bell.is_raised());
    bell.rouse();
    assert!(!bell.is_raised(), "awake");
    crew.workers[1].mailbox.doze();
    bell.rouse();
    assert!(bell.is_raised(), "asleep");
}
