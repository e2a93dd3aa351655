//! The policy of a guest's port, in variants that all let the same conversations through.
//!
//! Layers, nearest the guest first: a stateful ACL that blocks inbound what no rule admits, a virtual address for
//! every server, the tenant's network (VXLAN); and now and then a layer that passes everything.

use lamina_core::action::{Action, Allow, Block, Decap, Encap, Nat, NatTo, Tunnel};
use lamina_core::flow::{EncapKind, Field, HeaderField, Scope, Value};
use lamina_core::layer::{
    Condition, DefaultAction, Group, Layer, Policy, Rule, Selection, Stateful, ValueRange,
};
use lamina_core::time::Duration;
use lamina_core::transposition::{PushDscp, VXLAN_PORT};
use lamina_testkit::builder::mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{GUESTS, HOSTS};

/// Virtual addresses listen here, and servers behind them on [`SERVER_PORT`].
pub const VIRTUAL_PORT: u16 = 80;
/// What servers listen on.
pub const SERVER_PORT: u16 = 8080;
/// Inbound to this port is always blocked.
pub const BLOCKED_IN: u16 = 666;
/// Outbound to this port is always blocked.
pub const BLOCKED_OUT: u16 = 999;
/// Inbound to this port is blocked while a port is strict.
pub const SOMETIMES: u16 = 700;
/// State lives so long after the last packet.
pub const TIME_TO_LIVE: Duration = Duration::from_seconds(5);
/// The most conversations of one layer.
pub const FLOW_LIMIT: usize = 512;

/// Which variant of the policy a port has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Variant {
    /// Admit by protocol instead of everything with one rule, and have rules that match nothing.
    pub is_detailed: bool,
    /// Where a layer that passes everything stands.
    pub pass_layer: Option<i32>,
    /// [`SOMETIMES`] is blocked.
    pub is_strict: bool,
}

pub fn guest_address(guest: usize, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 10 + guest as u16).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 10 + guest as u8).into()
    }
}

pub fn virtual_address(guest: usize, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 99, 0, 0, 0, 10 + guest as u16).into()
    } else {
        Ipv4Addr::new(10, 99, 0, 10 + guest as u8).into()
    }
}

pub fn host_address(host: usize) -> IpAddr {
    Ipv4Addr::new(172, 16, 0, 1 + host as u8).into()
}

pub fn tenant_id(tenant: usize) -> u32 {
    5001 + tenant as u32
}

/// Both tenants use the same addresses and MACs; guests of one number are on different hosts.
pub fn host_of(tenant: usize, guest: usize) -> usize {
    (tenant + guest) % HOSTS
}

fn is(field: HeaderField, value: Value) -> Condition {
    Condition {
        field: Field::Header(Scope::Inner, field),
        ranges: vec![ValueRange::single(value)],
        prefix_sets: vec![],
    }
}

fn rule(name: String, priority: i32, conditions: Vec<Condition>, action: Action) -> Rule {
    Rule { name: name.into(), priority, conditions, action, terminating: false, state: None }
}

fn stateful(rule: Rule) -> Rule {
    Rule { state: Some(Stateful { time_to_live: TIME_TO_LIVE, ..Stateful::default() }), ..rule }
}

fn group(mut rules: Vec<Rule>) -> Vec<Group> {
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    vec![Group {
        name: "rules".into(),
        priority: 0,
        selection: Selection::Priority,
        conditions: [].into(),
        rules: rules.into(),
    }]
}

fn layer(name: &str, priority: i32, inbound: Vec<Rule>, outbound: Vec<Rule>) -> Layer {
    Layer {
        name: name.into(),
        owner: "test".into(),
        priority: priority.into(),
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: group(inbound).into(),
        outbound: group(outbound).into(),
        flow_limit: FLOW_LIMIT,
    }
}

fn block(name: &str, port: u16) -> Rule {
    let port = is(HeaderField::L4Dst, Value::number(u128::from(port)));
    rule(name.into(), 0, vec![port], Action::Block(Block))
}

/// Stateful rules that admit packets for which `conditions` hold.
fn admit(variant: Variant, name: &str, conditions: &[Condition]) -> Vec<Rule> {
    let allow = |name: String, conditions| stateful(rule(name, 10, conditions, Action::Allow(Allow)));
    if !variant.is_detailed {
        return vec![allow(name.into(), conditions.to_vec())];
    }
    let by_protocol = |protocol: u128| {
        let protocol_is = is(HeaderField::IpProtocol, Value::number(protocol));
        allow(format!("{name}-{protocol}"), [conditions, &[protocol_is]].concat())
    };
    vec![by_protocol(6), by_protocol(17)]
}

fn acl(variant: Variant) -> Layer {
    let mut inbound = vec![block("never", BLOCKED_IN)];
    if variant.is_strict {
        inbound.push(block("strict", SOMETIMES));
    }
    let ports = [VIRTUAL_PORT, SERVER_PORT, SOMETIMES, BLOCKED_IN, BLOCKED_OUT];
    let ranges = ports.iter().map(|port| ValueRange::single(Value::number(u128::from(*port)))).collect();
    let field = Field::Header(Scope::Inner, HeaderField::L4Dst);
    let served = Condition { field, ranges, prefix_sets: vec![] };
    inbound.extend(admit(variant, "serve", &[served]));
    let mut outbound = vec![block("never", BLOCKED_OUT)];
    if variant.is_detailed {
        outbound.extend((0..20).map(|n| block(&format!("unused-{n}"), 40_000 + n)));
    }
    outbound.extend(admit(variant, "out", &[]));
    Layer { default_inbound: DefaultAction::Block, ..layer("acl", 0, inbound, outbound) }
}

fn virtual_addresses() -> Layer {
    let mut rules = Vec::new();
    for (guest, is_v6) in (0..GUESTS).flat_map(|guest| [(guest, false), (guest, true)]) {
        let conditions = vec![
            is(HeaderField::IpDst, Value::ip(virtual_address(guest, is_v6))),
            is(HeaderField::L4Dst, Value::number(u128::from(VIRTUAL_PORT))),
        ];
        let server = NatTo { address: Some(guest_address(guest, is_v6)), port: Some(SERVER_PORT) };
        let nat = Action::Nat(Nat { source: None, destination: Some(server) });
        rules.push(stateful(rule(format!("server-{guest}-{is_v6}"), 0, conditions, nat)));
    }
    layer("virtual", 10, vec![], rules)
}

fn network(tenant: usize) -> Layer {
    let tunnel =
        Tunnel { kind: EncapKind::Vxlan, local: None, udp_port: VXLAN_PORT, dscp: PushDscp::Fixed(0) };
    let mut rules = Vec::new();
    for (guest, is_v6) in (0..GUESTS).flat_map(|guest| [(guest, false), (guest, true)]) {
        let encap = Encap {
            tunnel,
            tenant: tenant_id(tenant),
            remotes: vec![host_address(host_of(tenant, guest))],
            inner_dst_mac: Some(mac(guest as u8 + 1)),
        };
        let conditions = vec![is(HeaderField::IpDst, Value::ip(guest_address(guest, is_v6)))];
        rules.push(rule(format!("to-{guest}-{is_v6}"), 0, conditions, Action::Encap(encap)));
    }
    let own = ValueRange::single(Value::number(u128::from(tenant_id(tenant))));
    let conditions = vec![Condition { field: Field::Tenant, ranges: vec![own], prefix_sets: vec![] }];
    let decap =
        rule("from-tenant".into(), 0, conditions, Action::Decap(Decap { kind: Some(EncapKind::Vxlan) }));
    Layer {
        default_inbound: DefaultAction::Block,
        default_outbound: DefaultAction::Block,
        ..layer("network", 100, vec![decap], rules)
    }
}

/// The policy of a port of `tenant`.
pub fn policy(tenant: usize, variant: Variant) -> Policy {
    let mut layers = vec![acl(variant), virtual_addresses(), network(tenant)];
    if let Some(priority) = variant.pass_layer {
        let nothing = |name| block(name, 4444);
        layers.push(layer("pass", priority, vec![nothing("in")], vec![nothing("out")]));
    }
    layers.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    Policy { layers, ..Policy::default() }
}
