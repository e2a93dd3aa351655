//! A packet that the caches answer allocates nothing: an allocator that counts stands under the whole switch.
//!
//! The switch is warmed first, so that the vectors between caller and switch have their size; then several
//! batches go through, and the counter of this thread must not move. It lies in this crate because an allocator
//! is `unsafe` to write.

#[path = "../../core/benches/rig/mod.rs"]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use lamina_core::action::{Action, Mirror, MirrorTarget};
use lamina_core::drop_reason::DropReason;
use lamina_core::layer::{DefaultAction, Group, Layer, Policy, Rule, Selection};
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{Output, PortConfig, PortId, PortLimits, Switch, SwitchConfig};
use lamina_core::time::Instant;
use lamina_testkit::builder::{eth, mac};

use rig::{BATCH, Bench, frame};

/// The system's allocator, and a count of what this thread asked of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // A thread that is ending has no counter any more; it is not one that a test looks at.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator with the arguments it came with, so that one's guarantees
// are these. Counting is a store to a thread-local that is initialised by a constant and so allocates nothing.
// Rust offers no safe way to observe allocations.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are passed on; every pointer came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `run` asks for memory.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn hits_through_nat_and_encapsulation_allocate_nothing() {
    for (layers, rules) in [(1, 10), (10, 100), (20, 1_000)] {
        const FLOWS: u32 = 200;
        const BATCHES: usize = 50;
        let frames: Vec<[u8; 60]> = (0..FLOWS).map(frame).collect();
        let mut bench = Bench::new(layers, rules, FLOWS as usize);
        bench.warm(FLOWS, &frames);
        bench.warm(FLOWS, &frames);
        let before = bench.hits();
        let count = allocations(|| {
            for _ in 0..BATCHES {
                bench.send(FLOWS, &frames);
            }
        });
        assert_eq!(bench.hits() - before, (BATCHES * BATCH) as u64, "every packet was a hit");
        assert_eq!(count, 0, "{layers} layers, {rules} rules");
    }
}

const A: PortId = PortId(1);
const B: PortId = PortId(2);

/// Two ports of one switch; what enters `B` is treated as `inbound` says.
fn pair(inbound: DefaultAction) -> Switch {
    let mut switch = Switch::new(SwitchConfig { seed: 3 });
    for (id, last) in [(A, 1), (B, 2)] {
        let limits = PortLimits { unified_flows: 64, drop_cache: 64, ..PortLimits::default() };
        let config = PortConfig { name: "vm".into(), mac: mac(last), tenants: vec![], mtu: 0, limits };
        switch.add_port(id, config).unwrap();
    }
    let layer = Layer {
        name: "acl".into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: inbound,
        default_outbound: DefaultAction::Pass,
        inbound: Default::default(),
        outbound: Default::default(),
        flow_limit: 16,
    };
    switch.publish(A, Policy::default()).unwrap();
    switch.publish(B, Policy { layers: vec![layer], ..Policy::default() }).unwrap();
    switch
}

/// Sends `frame` once in every buffer of `batch`, and takes the buffers back; how many were sent and dropped.
fn turn(switch: &mut Switch, batch: &mut Batch, output: &mut Output, frame: &[u8]) -> (usize, usize) {
    for packet in batch.iter_mut() {
        packet.reset()[..frame.len()].copy_from_slice(frame);
        packet.set_len(frame.len());
    }
    switch.receive(Instant(1), A, batch, output);
    let result = (output.transmit.len(), output.free.len());
    batch.extend(output.transmit.drain(..).map(|(_, packet)| packet));
    batch.append(&mut output.free);
    result
}

#[test]
fn neither_delivery_between_ports_nor_a_remembered_block_allocates() {
    let frame = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 80).payload(b"hello").frame();
    for (inbound, expected) in [(DefaultAction::Pass, (BATCH, 0)), (DefaultAction::Block, (0, BATCH))] {
        let mut switch = pair(inbound);
        let mut batch: Batch = (0..BATCH).map(|_| Packet::with_capacity(2048)).collect();
        let mut output = Output::default();
        for _ in 0..2 {
            turn(&mut switch, &mut batch, &mut output, &frame);
        }
        let mut sums = (0, 0);
        let count = allocations(|| {
            for _ in 0..50 {
                let (sent, freed) = turn(&mut switch, &mut batch, &mut output, &frame);
                sums = (sums.0 + sent, sums.1 + freed);
            }
        });
        assert_eq!(sums, (expected.0 * 50, expected.1 * 50));
        assert_eq!(count, 0, "inbound {inbound:?}");
        let counters = switch.counters(B).unwrap().flows;
        let cached = counters.hits + counters.drop_cache_hits;
        assert_eq!(cached, (BATCH * 52 - 1) as u64, "all but the first packet were answered by a cache");
    }
}

#[test]
fn copies_of_mirrored_hits_are_made_in_lent_buffers() {
    let frame = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 80).payload(&[7; 200]).frame();
    let mut switch = pair(DefaultAction::Pass);
    let mirror = Mirror { to: MirrorTarget::Port(B), truncate: Some(64), sample: 1 };
    let rule = Rule {
        name: "copy".into(),
        priority: 0,
        conditions: Default::default(),
        action: Action::Mirror(mirror),
        terminating: false,
        state: None,
    };
    let group = Group {
        name: "all".into(),
        priority: 0,
        selection: Selection::Priority,
        conditions: Default::default(),
        rules: vec![rule].into(),
    };
    let layer = Layer {
        name: "mirror".into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Default::default(),
        outbound: vec![group].into(),
        flow_limit: 16,
    };
    switch.publish(A, Policy { layers: vec![layer], ..Policy::default() }).unwrap();
    let buffers = |count: usize| (0..count).map(|_| Packet::with_capacity(2048)).collect::<Vec<_>>();
    let (mut batch, mut output) = (buffers(BATCH), Output { spare: buffers(BATCH), ..Output::default() });
    let mut cut = 0;
    let mut run = |switch: &mut Switch| {
        let (sent, _) = turn(switch, &mut batch, &mut output, &frame);
        cut += batch.iter().filter(|packet| packet.len() == 64).count();
        output.spare.extend(batch.drain(BATCH..));
        sent
    };
    (0..3).for_each(|_| assert_eq!(run(&mut switch), 2 * BATCH));
    let mut sent = 0;
    let count = allocations(|| (0..50).for_each(|_| sent += run(&mut switch)));
    assert_eq!((sent, count), (100 * BATCH, 0), "a packet and its copy, and no allocation");
    assert_eq!(cut, 53 * BATCH);
    // Without a buffer the packet goes on, and the copy is a counted drop.
    let mut output = Output::default();
    assert_eq!(turn(&mut switch, &mut buffers(BATCH), &mut output, &frame).0, BATCH);
    assert_eq!(switch.drops(A).unwrap().of(DropReason::MirrorNoBuffer), BATCH as u64);
}
