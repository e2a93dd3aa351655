//! Missing mappings at their limits: every queue is bounded, every drop has its reason, every buffer comes back (§6).

use std::net::IpAddr;
use std::sync::Arc;

use lamina_core::action::{Action, MacSource, Respond};
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::event::{Audience, Event, Interests, MAX_EVENTS};
use lamina_core::flow::Direction;
use lamina_core::layer::{DefaultAction, Group, Layer, Policy, Rule, Selection};
use lamina_core::packet::Packet;
use lamina_core::resource::{Mapping, MappingChange, MappingId, MappingKey, MappingTable, OnMiss, Resources};
use lamina_core::switch::{
    InjectError, MAX_INJECTED, MAX_MISSES, MAX_WAITING_BYTES, MAX_WAITING_PACKETS, Output, PortConfig,
    PortId, PortLimits, Switch, SwitchConfig, Through,
};
use lamina_core::time::{Duration, Instant};
use lamina_testkit::builder::{eth, mac};

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const WITHIN: Duration = Duration::from_seconds(1);

/// ARP is answered from the table `blue`.
fn policy(on_miss: OnMiss) -> Policy {
    let source = MacSource::Mapping { mapping: MappingId(0), key_tenant: 0 };
    let rule = Rule {
        name: "arp".into(),
        priority: 0,
        conditions: vec![],
        action: Action::Respond(Respond::Arp(source)),
        terminating: false,
        state: None,
    };
    let group = Group {
        name: "g".into(),
        priority: 0,
        selection: Selection::Priority,
        conditions: Arc::default(),
        rules: vec![rule].into(),
    };
    let layer = Layer {
        name: "vnet".into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::default(),
        outbound: vec![group].into(),
        flow_limit: 10,
    };
    let blue = Arc::new(MappingTable::new("blue".into(), []).on_miss(on_miss));
    let resources = Arc::new(Resources { mappings: vec![blue], ..Resources::default() });
    Policy { layers: vec![layer], resources, ..Policy::default() }
}

fn switch(on_miss: OnMiss, misses: Audience) -> Switch {
    let mut switch = Switch::new(SwitchConfig { seed: 1 });
    for (id, last) in [(A, 1), (B, 2)] {
        let (name, tenants) = (format!("port{last}").as_str().into(), vec![]);
        let config = PortConfig { name, mac: mac(last), tenants, mtu: 0, limits: PortLimits::default() };
        switch.add_port(id, config).unwrap();
        switch.publish(id, policy(on_miss)).unwrap();
    }
    switch.set_interests(Interests { misses, ..Interests::default() });
    switch
}

/// An ARP request for the `number`th address, padded to `length` bytes.
fn request(number: u16, length: usize) -> Packet {
    let target = format!("10.0.{}.{}", number / 256, number % 256);
    let arp = eth(mac(1), MacAddr::BROADCAST).arp(1, (mac(1), "10.1.0.1"), (MacAddr::ZERO, target.as_str()));
    Packet::from_frame(&arp.pad_to(length).frame())
}

fn put(number: u16) -> MappingChange {
    let address = IpAddr::from([10, 0, (number / 256) as u8, number as u8]);
    let to = Mapping { remote: None, mac: mac(9), tenant: None };
    MappingChange::Put(MappingKey { tenant: 0, address }, to)
}

struct Bench {
    switch: Switch,
    output: Output,
    now: Instant,
    received: usize,
}

impl Bench {
    fn new(switch: Switch) -> Self {
        Bench { switch, output: Output::default(), now: Instant(1), received: 0 }
    }

    fn receive(&mut self, from: PortId, packets: Vec<Packet>) {
        self.received += packets.len();
        let mut batch = packets;
        self.switch.receive(self.now, from, &mut batch, &mut self.output);
    }

    fn resume(&mut self) {
        while self.switch.resume(self.now, &mut self.output) {}
    }

    fn events(&mut self) -> Vec<Event> {
        self.output.events.drain().collect()
    }

    fn drops(&self, id: PortId, reason: DropReason) -> u64 {
        self.switch.drops(id).unwrap().of(reason)
    }

    fn used(&self, id: PortId, table: &str) -> u64 {
        let limits = self.switch.limits(Some(id)).unwrap();
        limits.iter().find(|limit| limit.table == table).unwrap().used
    }

    /// Every packet received or made has come out once.
    fn check_buffers(&self) {
        let out = self.output.transmit.len() + self.output.free.len();
        assert_eq!(out, self.received + self.output.made);
        for id in [A, B] {
            for table in ["mapping-misses", "waiting-packets", "waiting-bytes"] {
                assert_eq!(self.used(id, table), 0, "{table} of {id:?}");
            }
        }
    }
}

#[test]
fn packets_that_wait_are_bounded_by_number_and_all_come_out() {
    let mut bench = Bench::new(switch(OnMiss::Wait(WITHIN), Audience::Everybody));
    bench.receive(A, (0..MAX_WAITING_PACKETS + 3).map(|_| request(7, 60)).collect());
    assert_eq!(
        bench.output.free.len(),
        bench.received,
        "what waits is a copy; the buffers come back at once"
    );
    assert_eq!(bench.drops(A, DropReason::WaitQueueFull), 3);
    assert_eq!(bench.used(A, "waiting-packets"), MAX_WAITING_PACKETS as u64);
    // Another port has its own queue, and the key is asked for once.
    bench.receive(B, vec![request(7, 60)]);
    assert_eq!(bench.drops(B, DropReason::WaitQueueFull), 0);
    assert_eq!(bench.events().len(), 1);
    bench.switch.update_mapping("blue", &[put(7)]).unwrap();
    bench.resume();
    assert_eq!(bench.output.transmit.len(), MAX_WAITING_PACKETS + 1);
    bench.check_buffers();
}

#[test]
fn packets_that_wait_are_bounded_by_bytes() {
    let mut bench = Bench::new(switch(OnMiss::Wait(WITHIN), Audience::Everybody));
    let fit = MAX_WAITING_BYTES / 60_000;
    bench.receive(A, (0..fit + 2).map(|_| request(7, 60_000)).collect());
    assert_eq!(bench.drops(A, DropReason::WaitQueueFull), 2);
    bench.now = bench.now + WITHIN;
    bench.resume();
    assert_eq!(bench.drops(A, DropReason::MappingTimedOut), fit as u64);
    bench.check_buffers();
}

#[test]
fn a_port_that_scans_fills_its_own_share_of_questions_only() {
    let mut bench = Bench::new(switch(OnMiss::Wait(WITHIN), Audience::Everybody));
    bench.receive(A, (0..MAX_MISSES as u16 + 5).map(|number| request(number, 60)).collect());
    assert_eq!(bench.drops(A, DropReason::TooManyMisses), 5);
    bench.receive(B, vec![request(9_999, 60)]);
    assert_eq!(bench.drops(B, DropReason::TooManyMisses), 0);
    assert_eq!(bench.events().len(), MAX_MISSES + 1);
    assert_eq!(bench.switch.deadline(), Some(bench.now + WITHIN));
    bench.now = bench.now + WITHIN;
    bench.resume();
    assert_eq!(bench.drops(A, DropReason::MappingTimedOut), MAX_MISSES as u64);
    assert_eq!(bench.switch.deadline(), None);
    bench.check_buffers();
    // And may ask again.
    bench.receive(A, vec![request(0, 60)]);
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn events_that_nobody_drains_are_lost_and_drop_what_they_were_for() {
    let mut bench = Bench::new(switch(OnMiss::Event(WITHIN), Audience::Everybody));
    let mut raised = 0;
    for _ in 0..MAX_EVENTS / MAX_MISSES + 1 {
        bench.receive(A, (0..MAX_MISSES as u16).map(|number| request(number, 60)).collect());
        raised += MAX_MISSES;
        bench.now = bench.now + WITHIN;
        bench.resume();
    }
    assert_eq!(bench.output.events.len(), MAX_EVENTS);
    assert_eq!(bench.output.events.lost(), (raised - MAX_EVENTS) as u64);
    assert_eq!(bench.drops(A, DropReason::TooManyMisses), (raised - MAX_EVENTS) as u64);
    assert_eq!(bench.drops(A, DropReason::MappingMiss), MAX_EVENTS as u64);
    bench.check_buffers();
}

#[test]
fn nobody_is_asked_for_a_table_that_nobody_listens_to() {
    let mut bench = Bench::new(switch(OnMiss::Wait(WITHIN), Audience::Of(["red".into()].into())));
    bench.receive(A, vec![request(7, 60), request(7, 60)]);
    assert_eq!(bench.drops(A, DropReason::MappingMiss), 2);
    assert!(bench.events().is_empty());
    let counters = bench.switch.counters(A).unwrap();
    assert_eq!(counters.flows.drop_cache_hits, 1, "such a drop is cached");
    // Somebody comes: the cached drop does not hide the miss.
    bench.switch.set_interests(Interests { misses: Audience::Everybody, ..Interests::default() });
    bench.receive(A, vec![request(7, 60)]);
    assert_eq!(bench.events().len(), 1);
    bench.switch.remove_port(A);
    bench.now = bench.now + WITHIN;
    bench.resume();
    assert_eq!(bench.output.free.len(), bench.received + bench.output.made, "a removed port's packets go");
}

#[test]
fn a_simulated_packet_waits_as_the_real_one_would_and_asks_nobody() {
    use lamina_core::simulate::TraceOutcome;
    let mut bench = Bench::new(switch(OnMiss::Wait(WITHIN), Audience::Everybody));
    let outcome = |bench: &Bench| {
        bench.switch.trace_packet(bench.now, A, &request(7, 60)).map(|trace| trace.outcome).unwrap()
    };
    assert!(matches!(outcome(&bench), TraceOutcome::Wait { .. }));
    bench.check_buffers();
    bench.receive(A, (0..MAX_WAITING_PACKETS).map(|_| request(7, 60)).collect());
    assert_eq!(outcome(&bench), TraceOutcome::Drop(DropReason::WaitQueueFull));
}

#[test]
fn injected_packets_enter_where_they_are_told_and_are_bounded() {
    let mut bench = Bench::new(switch(OnMiss::Drop, Audience::Nobody));
    let to_b = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).frame();
    // Outbound past the layers, and inbound with and without them: all reach the guest of B.
    bench.switch.inject(A, Direction::Outbound, Through::NoLayer, &to_b).unwrap();
    bench.switch.inject(B, Direction::Inbound, Through::AllLayers, &to_b).unwrap();
    bench.switch.inject(B, Direction::Inbound, Through::NoLayer, &to_b).unwrap();
    bench.resume();
    let to: Vec<PortId> = bench.output.transmit.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [B, B, B]);
    // Outbound through the layers: the responder cannot answer it.
    bench.switch.inject(A, Direction::Outbound, Through::AllLayers, &to_b).unwrap();
    bench.resume();
    assert_eq!(bench.drops(A, DropReason::CannotRespond), 1);
    bench.check_buffers();
    for _ in 0..MAX_INJECTED {
        bench.switch.inject(A, Direction::Outbound, Through::NoLayer, &to_b).unwrap();
    }
    assert_eq!(
        bench.switch.inject(A, Direction::Outbound, Through::NoLayer, &to_b),
        Err(InjectError::QueueFull)
    );
    let nobody = PortId(99);
    assert_eq!(
        bench.switch.inject(nobody, Direction::Outbound, Through::NoLayer, &to_b),
        Err(InjectError::NoSuchPort)
    );
    let long = vec![0; lamina_core::packet::MAX_FRAME + 1];
    assert_eq!(
        bench.switch.inject(A, Direction::Outbound, Through::NoLayer, &long),
        Err(InjectError::TooLong)
    );
    bench.resume();
    bench.check_buffers();
    bench.switch.inject(A, Direction::Outbound, Through::NoLayer, &to_b).unwrap();
}
