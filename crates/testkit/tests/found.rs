//! What comparing the core with the oracle has found, each as the smallest scenario that shows it; and one long way
//! through a usual policy.

use std::sync::Arc;

use lamina_core::action::*;
use lamina_core::flow::{Direction, EncapKind, Field, HeaderField, Level, Scope, Value};
use lamina_core::layer::*;
use lamina_core::resource::{MappingId, MeterId};
use lamina_core::time::Duration;
use lamina_core::transposition::{HeaderOp, Modify, ModifyL3, PushDscp, Transposition, Ttl, VXLAN_PORT};
use lamina_testkit::compare;
use lamina_testkit::strategy::change::{Change, Place};
use lamina_testkit::strategy::packet::{Content, PacketSpec, TunnelAround, Tweak};
use lamina_testkit::strategy::universe::resources;
use lamina_testkit::strategy::{Scenario, Step};

fn rule(action: Action, time_to_live_ms: Option<u64>) -> Rule {
    let state = time_to_live_ms
        .map(|ms| Stateful { time_to_live: Duration::from_milliseconds(ms), ..Stateful::default() });
    Rule { name: "r0".into(), priority: 0, conditions: Vec::new(), action, terminating: false, state }
}

fn groups(rule: Rule) -> Vec<Group> {
    let (name, selection) = ("g".into(), Selection::Priority);
    vec![Group { name, priority: 0, selection, conditions: [].into(), rules: vec![rule].into() }]
}

fn layer(name: &str, outbound: Option<Rule>, inbound: Option<Rule>) -> Layer {
    Layer {
        name: name.into(),
        owner: "tests".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        outbound: outbound.map_or(Vec::new(), groups).into(),
        inbound: inbound.map_or(Vec::new(), groups).into(),
        flow_limit: 1 << 16,
    }
}

fn firewall(name: &str, time_to_live_ms: u64) -> Layer {
    let mut layer = layer(name, Some(rule(Action::Allow(Allow), Some(time_to_live_ms))), None);
    layer.default_inbound = DefaultAction::Block;
    layer
}

fn source_nat(last: &str, time_to_live_ms: u64) -> Layer {
    let to = NatTo { address: Some(last.parse().unwrap()), port: None };
    let action = Action::Nat(Nat { source: Some(to), destination: None });
    layer("nat", Some(rule(action, Some(time_to_live_ms))), None)
}

/// Runs `steps` with `layers` on the first port; the others pass everything.
fn agree(layers: Vec<Layer>, steps: Vec<Step>) {
    let policy = |mut layers: Vec<Layer>| {
        for (index, layer) in layers.iter_mut().enumerate() {
            layer.priority = index as i64;
        }
        let metadata_keys = vec!["mark".to_string()];
        Some(Policy { layers, resources: resources(0), metadata_keys, malformed: MalformedPolicy::Drop })
    };
    let policies = vec![policy(layers), policy(Vec::new()), policy(Vec::new())];
    let scenario = Scenario { policies, has_multicast: false, steps };
    if let Err(why) = compare::run(&scenario) {
        panic!("{why}");
    }
}

/// TCP from address `src` to `dst`, sent by station `from` (3 is the uplink) to the MAC of index `dst_mac`.
fn tcp(from: usize, src: usize, dst: usize, dst_mac: usize) -> Step {
    Step::Packet { from, packet: plain(src, dst, dst_mac) }
}

fn plain(src: usize, dst: usize, dst_mac: usize) -> PacketSpec {
    PacketSpec {
        is_v6: false,
        src,
        dst,
        dst_mac,
        ports: (2, 0),
        content: Content::Tcp(0x10),
        class: (0, 0),
        ttl: 64,
        vlan: None,
        has_options: false,
        payload: 5,
        fragment: None,
        tunnel: None,
        damage: None,
    }
}

fn reply() -> Step {
    Step::Reply { back: 0, tweak: Tweak::Same }
}

fn again(back: usize) -> Step {
    Step::Again { back, tweak: Tweak::Same }
}

fn only(field: HeaderField, value: u128) -> Condition {
    let ranges = vec![ValueRange::single(Value::number(value))];
    Condition { field: Field::Header(Scope::Inner, field), ranges, prefix_sets: Vec::new() }
}

/// The first rule of layer `layer`.
fn first_rule(layer: usize, direction: Direction) -> Place {
    Place { layer, direction, group: 0, rule: 0 }
}

#[test]
fn offered_meters_count_packets_that_cannot_leave() {
    let meter = layer("meter", Some(rule(Action::Meter(Meter { meter: MeterId(0) }), None)), None);
    agree(vec![meter], vec![tcp(0, 0, 1, 0), again(0)]);
}

#[test]
fn a_cached_flow_counts_what_ttl_drops_as_the_slow_path_does() {
    let ttl = ModifyL3 { ttl: Some(Ttl::Decrement(2)), ..ModifyL3::default() };
    let ops = vec![HeaderOp::Ignore(Level::L2), HeaderOp::Modify(Modify::L3(ttl))];
    let router = Action::Transpose(Transpose { transposition: Transposition::new(ops) });
    let meter = layer("meter", Some(rule(Action::Meter(Meter { meter: MeterId(0) }), None)), None);
    let layers = vec![meter, layer("router", Some(rule(router, None)), None)];
    let dying = Step::Again { back: 0, tweak: Tweak::Ttl(2) };
    agree(layers, vec![tcp(0, 0, 1, 1), dying, Step::Again { back: 1, tweak: Tweak::Same }]);
}

#[test]
fn expired_pairs_are_not_brought_back_by_their_conversation() {
    let layers = vec![
        firewall("long", 5_000),
        layer("way", Some(rule(Action::Allow(Allow), None)), None),
        firewall("short", 1_000),
    ];
    // From here on the packet passes the last layer under another tuple, and does not meet its old pair.
    let to = NatTo { address: Some("10.0.0.3".parse().unwrap()), port: None };
    let nat = Action::Nat(Nat { source: None, destination: Some(to) });
    let change = Change::Act(first_rule(1, Direction::Outbound), nat);
    let steps = vec![tcp(0, 0, 1, 3), Step::Change { port: 0, change }, Step::Advance(1_500), again(0)];
    agree(layers, steps);
}

#[test]
fn a_pair_ended_by_its_recheck_does_not_own_its_keys() {
    let inbound = rule(Action::Allow(Allow), Some(1_000));
    let acl = layer("acl", Some(rule(Action::Allow(Allow), Some(1_000))), Some(inbound));
    let change = Change::Block(first_rule(0, Direction::Outbound));
    agree(vec![acl], vec![tcp(0, 0, 1, 3), Step::Change { port: 0, change }, reply()]);
}

#[test]
fn a_cached_drop_does_not_outlive_the_pair_it_met() {
    let service = NatTo { address: Some("fd00::1".parse().unwrap()), port: None };
    let misfit = Action::Nat(Nat { source: Some(service), destination: None });
    let allow_in = rule(Action::Allow(Allow), Some(1_000));
    let block = layer("block", Some(rule(Action::Block(Block), None)), None);
    let layers = vec![layer("nat", Some(rule(misfit, None)), Some(allow_in)), block];
    agree(layers, vec![tcp(1, 1, 0, 0), reply(), again(0), Step::Advance(1_001), again(0)]);
}

#[test]
fn a_cached_drop_does_not_hide_a_congested_tunnel() {
    let decap = Action::Decap(Decap { kind: None });
    let layers = vec![firewall("acl", 1_000), layer("vnet", None, Some(rule(decap, None)))];
    let around = |ecn| TunnelAround {
        kind: EncapKind::Vxlan,
        tenant: 5001,
        ends: (1, 0),
        is_v6: false,
        class: (0, ecn),
        is_to_uplink: true,
    };
    let tunnelled =
        |ecn| Step::Packet { from: 3, packet: PacketSpec { tunnel: Some(around(ecn)), ..plain(2, 0, 0) } };
    agree(layers, vec![tunnelled(0), tunnelled(0), tunnelled(3), tunnelled(0)]);
}

#[test]
fn a_blocked_reply_ends_the_conversation_also_where_it_never_came_before() {
    let inner = firewall("inner", 5_000);
    let outer = firewall("outer", 5_000);
    let change = Change::State(first_rule(1, Direction::Outbound), None);
    agree(vec![inner, outer], vec![tcp(0, 0, 1, 3), Step::Change { port: 0, change }, reply()]);
}

#[test]
fn a_packet_that_uses_no_state_keeps_none_alive() {
    let to = NatTo { address: Some("10.0.0.3".parse().unwrap()), port: None };
    let nat = Action::Nat(Nat { source: None, destination: Some(to) });
    let layers = vec![layer("nat", Some(rule(nat, Some(1_000))), None)];
    // Cached, then on the slow path: neither may keep the pair alive.
    let anew = Step::Change { port: 0, change: Change::Nothing };
    let mut steps = vec![tcp(1, 1, 0, 0), reply(), Step::Advance(700), again(1), Step::Advance(700)];
    agree(layers.clone(), steps.clone());
    steps.insert(3, anew);
    agree(layers, steps);
}

#[test]
fn a_full_layer_answers_before_a_cached_drop_behind_it() {
    let mut acl = firewall("acl", 5_000);
    acl.flow_limit = 1;
    let mut block = layer("block", Some(rule(Action::Block(Block), None)), None);
    let outbound = &mut Arc::make_mut(&mut block.outbound)[0];
    let mut rules: Vec<Rule> = outbound.rules.iter().cloned().collect();
    rules[0].conditions = vec![only(HeaderField::L4Dst, 80)];
    outbound.rules = rules.into();
    let other = Step::Packet { from: 0, packet: PacketSpec { ports: (3, 1), ..plain(0, 2, 3) } };
    agree(vec![acl, block], vec![tcp(0, 0, 1, 3), again(0), other, again(1), again(2)]);
}

#[test]
fn what_goes_into_a_tunnel_comes_out_of_it() {
    let tunnel = Tunnel { kind: EncapKind::Vxlan, local: None, udp_port: VXLAN_PORT, dscp: PushDscp::Copy };
    let encap = MapEncap { tunnel, mapping: MappingId(0), key_tenant: 0, tenant: 5001, rewrite_mac: true };
    let out = rule(Action::MapEncap(encap), None);
    let back = rule(Action::Decap(Decap { kind: Some(EncapKind::Vxlan) }), None);
    let layers =
        vec![firewall("acl", 1_000), source_nat("10.0.0.2", 1_000), layer("vnet", Some(out), Some(back))];
    let marked = Step::Again { back: 0, tweak: Tweak::Class(46, 1) };
    agree(layers, vec![tcp(0, 0, 2, 3), reply(), marked, again(1), reply(), Step::Advance(1_001), again(1)]);
}

#[test]
fn a_cached_drop_behind_a_stateful_rule_gives_way_to_a_taken_key() {
    let to = NatTo { address: Some("10.0.0.3".parse().unwrap()), port: None };
    let inward = Action::Nat(Nat { source: None, destination: Some(to) });
    let outward = Action::Nat(Nat { source: None, destination: None });
    let layers = vec![
        layer("nat", Some(rule(outward, Some(1_000))), Some(rule(inward, Some(2_000)))),
        layer("meter", Some(rule(Action::Meter(Meter { meter: MeterId(0) }), None)), None),
    ];
    let change = Change::Block(first_rule(1, Direction::Outbound));
    let out = Step::Packet { from: 0, packet: PacketSpec { ports: (0, 0), ..plain(0, 0, 3) } };
    let steps = vec![
        out,
        Step::Change { port: 0, change },
        reply(),
        again(1),
        again(0),
        Step::Reply { back: 1, tweak: Tweak::SrcMac(0) },
        Step::Reply { back: 1, tweak: Tweak::Same },
    ];
    agree(layers, steps);
}
