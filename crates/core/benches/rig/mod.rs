//! The switch that `switch` times and `hit_cost` counts: one port, `layers` layers, `rules` rules.
//!
//! The layers: a stateful ACL of `rules` rules whose last one admits the packet, a destination NAT, layers that
//! match nothing, and a VXLAN encapsulation next to the network. Frames are 60 bytes of UDP (64 on the wire).

#![allow(dead_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

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

pub const VM: PortId = PortId(1);
const UPLINK: PortId = PortId(2);
pub const BATCH: usize = 32;
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
            conditions: [].into(),
            rules: rules.into(),
        }]
    };
    Layer {
        name: name.into(),
        owner: "bench".into(),
        priority: priority.into(),
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::default(),
        outbound: outbound.into(),
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
pub fn acl(rules: usize) -> Vec<Rule> {
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

pub fn policy(layers: usize, rules: usize) -> Policy {
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
pub fn frame(n: u32) -> [u8; 60] {
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

/// A switch with one port, and the packets that go through it.
pub struct Bench {
    pub switch: Switch,
    output: Output,
    batch: Batch,
    pub pool: Vec<Packet>,
    pub now: Instant,
    pub next: u32,
}

impl Bench {
    pub fn new(layers: usize, rules: usize, flows: usize) -> Self {
        let pool = (0..BATCH).map(|_| Packet::with_capacity(2048)).collect();
        let (output, batch) = (Output::default(), Batch::new());
        Bench { switch: switch(layers, rules, flows), output, batch, pool, now: Instant(1), next: 0 }
    }

    /// Sends one batch of the flows `self.next..`, wrapping at `wrap`.
    pub fn send(&mut self, wrap: u32, frames: &[[u8; 60]]) {
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

    pub fn warm(&mut self, flows: u32, frames: &[[u8; 60]]) {
        for _ in 0..flows.div_ceil(BATCH as u32) {
            self.send(flows, frames);
        }
        self.next = 0;
    }
    /// Packets that a unified flow answered so far.
    pub fn hits(&mut self) -> u64 {
        self.switch.counters(VM).map_or(0, |counters| counters.flows.hits)
    }
}
