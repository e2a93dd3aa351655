//! Hit and miss of the unified flow table: layers x rules x flows (DESIGN §16).
//!
//! One port, outbound, 60-byte UDP frames (64 on the wire). The layers: a stateful ACL of `rules` rules whose
//! last one admits the packet, a destination NAT, layers that match nothing, and a VXLAN encapsulation next to
//! the network. Packets come from memory; copying the frame into its buffer is part of every figure (`copy`
//! measures it alone). A hit is a packet of a flow that is cached; flows are walked in order, so every packet
//! belongs to another flow than the one before. A miss is the first packet of a new flow, which creates one
//! conversation with two layer flows; old ones are expired as they would be in operation.
//!
//! `LAMINA_BENCH_FLOWS=1000000` adds the largest table (needs about 2 GiB).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lamina_core::action::{Action, Allow, Block, Encap, Nat, NatTo, Tunnel};
use lamina_core::address::MacAddr;
use lamina_core::flow::{EncapKind, Field, HeaderField, Scope, Value};
use lamina_core::layer::{
    Condition, DefaultAction, Group, Layer, Policy, Rule, Selection, Stateful, ValueRange,
};
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{
    Output, PortConfig, PortId, PortLimits, Route, Switch, SwitchConfig, Underlay, UplinkConfig,
};
use lamina_core::time::{Duration, Instant};
use lamina_core::transposition::{PushDscp, VXLAN_PORT};

const VM: PortId = PortId(1);
const UPLINK: PortId = PortId(2);
const BATCH: usize = 32;
const REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

fn field(field: HeaderField) -> Field {
    Field::Header(Scope::Inner, field)
}

fn condition(of: HeaderField, low: Value, high: Value) -> Condition {
    Condition { field: field(of), ranges: vec![ValueRange { low, high }], prefix_sets: vec![] }
}

fn layer(name: &str, priority: i32, rules: Vec<Rule>) -> Layer {
    let outbound = if rules.is_empty() {
        vec![]
    } else {
        vec![Group {
            name: "group".into(),
            priority: 0,
            selection: Selection::Priority,
            conditions: vec![],
            rules: Arc::new(rules),
        }]
    };
    Layer {
        name: name.into(),
        owner: "bench".into(),
        priority,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: vec![],
        outbound,
        flow_limit: 4_000_000,
    }
}

fn rule(
    name: String,
    priority: i32,
    conditions: Vec<Condition>,
    action: Action,
    state: Option<Stateful>,
) -> Rule {
    Rule { name: name.into(), priority, conditions, action, terminating: false, state }
}

/// `rules` rules, the last of which admits everything.
fn acl(rules: usize) -> Vec<Rule> {
    let mut list: Vec<Rule> = (1..rules)
        .map(|n| {
            let source = Value::ip(IpAddr::V4(Ipv4Addr::from_bits(0x0ac8_0000 + n as u32 * 16)));
            let source_end = Value { bits: source.bits + 15, ..source };
            let port = Value::number(2000 + n as u128 % 40_000);
            let conditions = vec![
                condition(HeaderField::IpSrc, source, source_end),
                condition(HeaderField::L4Dst, port, port),
            ];
            rule(format!("block-{n:05}"), n as i32, conditions, Action::Block(Block), None)
        })
        .collect();
    let state = Stateful { time_to_live: Duration::from_seconds(1), ..Stateful::default() };
    list.push(rule("admit".into(), i32::MAX, vec![], Action::Allow(Allow), Some(state)));
    list
}

fn policy(layers: usize, rules: usize) -> Policy {
    let nat = Action::Nat(Nat {
        source: None,
        destination: Some(NatTo { address: Some(IpAddr::V4(Ipv4Addr::new(10, 3, 0, 5))), port: Some(8080) }),
    });
    let tunnel =
        Tunnel { kind: EncapKind::Vxlan, local: None, udp_port: VXLAN_PORT, dscp: PushDscp::Fixed(0) };
    let encap =
        Action::Encap(Encap { tunnel, tenant: 5001, remotes: vec![IpAddr::V4(REMOTE)], inner_dst_mac: None });
    let state = Stateful { time_to_live: Duration::from_seconds(1), ..Stateful::default() };
    let mut all = vec![layer("acl", 0, acl(rules))];
    if layers > 1 {
        all.push(layer("nat", 1, vec![rule("dnat".into(), 0, vec![], nat, Some(state))]));
        all.push(layer("encap", 1000, vec![rule("vxlan".into(), 0, vec![], encap, None)]));
        for n in 3..layers {
            let other = Value::ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n as u8)));
            let conditions = vec![condition(HeaderField::IpDst, other, other)];
            all.push(layer(
                &format!("other-{n:02}"),
                n as i32,
                vec![rule("none".into(), 0, conditions, Action::Block(Block), None)],
            ));
        }
    }
    Policy { layers: all, ..Policy::default() }
}

fn switch(layers: usize, rules: usize, flows: usize) -> Switch {
    let mut switch = Switch::new(SwitchConfig { seed: 1 });
    let limits =
        PortLimits { unified_flows: flows.max(1024) * 2, drop_cache: 4096, idle: Duration::from_seconds(1) };
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let port = PortConfig { name: "vm".into(), mac, tenants: vec![5001], mtu: 0, limits };
    switch.add_port(VM, port).unwrap();
    let uplink = UplinkConfig {
        name: "uplink".into(),
        mac: MacAddr([2, 0, 0, 0, 1, 1]),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1))],
        mtu: 1500,
    };
    switch.add_uplink(UPLINK, uplink).unwrap();
    let route = Route {
        destination: "172.16.0.0/24".parse().unwrap(),
        gateway: None,
        uplink: UPLINK,
        source: None,
        mtu: None,
        metric: 0,
    };
    let neighbors = vec![(IpAddr::V4(REMOTE), MacAddr([2, 0, 0, 0, 1, 2]))];
    switch.set_underlay(Underlay { routes: vec![route], neighbors });
    switch.publish(VM, policy(layers, rules)).unwrap();
    switch
}

/// A 60-byte frame of flow `n`: UDP from 10.1.x.y:port to 10.2.0.1:80.
fn frame(n: u32) -> [u8; 60] {
    let mut f = [0u8; 60];
    f[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    let source = 0x0a01_0000u32 + (n >> 15);
    f[26..30].copy_from_slice(&source.to_be_bytes());
    f[30..34].copy_from_slice(&[10, 2, 0, 1]);
    let sum: u32 = f[14..34].chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]]) as u32).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    f[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    f[34..36].copy_from_slice(&((n & 0x7fff) as u16 + 1024).to_be_bytes());
    f[36..38].copy_from_slice(&80u16.to_be_bytes());
    f[38..40].copy_from_slice(&26u16.to_be_bytes());
    f
}

struct Bench {
    switch: Switch,
    output: Output,
    batch: Batch,
    pool: Vec<Packet>,
    now: Instant,
    next: u32,
}

impl Bench {
    fn new(layers: usize, rules: usize, flows: usize) -> Self {
        let pool = (0..BATCH).map(|_| Packet::with_capacity(2048)).collect();
        let (output, batch) = (Output::default(), Batch::new());
        Bench { switch: switch(layers, rules, flows), output, batch, pool, now: Instant(1), next: 0 }
    }

    /// Sends one batch of the flows `self.next..`, wrapping at `wrap`.
    fn send(&mut self, wrap: u32, frames: &[[u8; 60]]) {
        for _ in 0..BATCH {
            let mut packet = self.pool.pop().unwrap();
            packet.reset()[..60].copy_from_slice(&frames[(self.next % frames.len() as u32) as usize]);
            packet.set_len(60);
            self.batch.push(packet);
            self.next += 1;
            if self.next == wrap {
                self.next = 0;
            }
        }
        self.switch.receive(self.now, VM, &mut self.batch, &mut self.output);
        assert!(self.output.free.is_empty(), "a packet was dropped");
        self.pool.extend(self.output.transmit.drain(..).map(|(_, packet)| packet));
    }

    fn warm(&mut self, flows: u32, frames: &[[u8; 60]]) {
        for _ in 0..flows.div_ceil(BATCH as u32) {
            self.send(flows, frames);
        }
        self.next = 0;
    }
}

fn flow_counts() -> Vec<u32> {
    let mut counts = vec![1, 1_000, 100_000];
    counts.extend(std::env::var("LAMINA_BENCH_FLOWS").ok().and_then(|flows| flows.parse::<u32>().ok()));
    counts
}

fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit");
    group.throughput(Throughput::Elements(BATCH as u64));
    for layers in [1, 10, 20] {
        for rules in [10, 1_000, 50_000] {
            for flows in flow_counts() {
                if flows > 1_000 && rules != 1_000 {
                    continue;
                }
                let frames: Vec<[u8; 60]> = (0..flows).map(frame).collect();
                let mut bench = Bench::new(layers, rules, flows as usize);
                bench.warm(flows, &frames);
                group.bench_function(
                    BenchmarkId::from_parameter(format!("{layers}-layers/{rules}-rules/{flows}-flows")),
                    |b| {
                        b.iter(|| bench.send(flows, &frames));
                    },
                );
            }
        }
    }
    let mut bench = Bench::new(1, 10, 1);
    group.bench_function("copy", |b| {
        let frames = [frame(0)];
        b.iter(|| {
            let mut packet = bench.pool.pop().unwrap();
            for _ in 0..BATCH {
                packet.reset()[..60].copy_from_slice(&black_box(frames[0]));
                packet.set_len(60);
            }
            bench.pool.push(black_box(packet));
        });
    });
    group.finish();
}

fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(BATCH as u64));
    for layers in [1, 10, 20] {
        for rules in [10, 1_000, 50_000] {
            let mut bench = Bench::new(layers, rules, 65_536);
            let frames: Vec<[u8; 60]> = (0..2_000_000).map(frame).collect();
            group.bench_function(
                BenchmarkId::from_parameter(format!("{layers}-layers/{rules}-rules")),
                |b| {
                    b.iter(|| {
                        bench.send(u32::MAX, &frames);
                        // A flow lives one second: at 64 flows per millisecond about 64,000 are alive.
                        bench.now = bench.now + Duration(BATCH as u64 * 15_625);
                        if (bench.next as usize / BATCH).is_multiple_of(128) {
                            bench.switch.sweep(bench.now);
                        }
                    });
                },
            );
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(1));
    targets = hit, miss
}
criterion_main!(benches);
