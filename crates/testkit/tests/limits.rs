//! Every table at its limit: what gives way, what does not, and what is counted (§3.7, §5.6, §5.7).

use std::net::IpAddr;
use std::sync::Arc;

use lamina_core::action::{Action, Allow, Block, Decap, Meter, Nat, NatTo, Respond, Transpose};
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Field, HeaderField, Level, Scope, Value};
use lamina_core::layer::{
    Condition, DefaultAction, Group, Layer, Policy, Rule, Selection, Stateful, ValueRange,
};
use lamina_core::packet::Packet;
use lamina_core::resource::{MeterCounts, MeterId, MeterSpec, Resources};
use lamina_core::simulate::TraceOutcome;
use lamina_core::switch::{
    Output, PortConfig, PortId, PortLimits, PublishError, SetPortError, Switch, SwitchConfig,
};
use lamina_core::time::{Duration, Instant};
use lamina_core::transposition::{HeaderOp, Modify, ModifyL3, ModifyL4, Transposition, Ttl};
use lamina_testkit::builder::eth;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn rule(
    name: &str,
    priority: i32,
    conditions: Vec<Condition>,
    action: Action,
    state: Option<Stateful>,
) -> Rule {
    Rule { name: name.into(), priority, conditions, action, terminating: false, state }
}

fn is(field: HeaderField, value: Value) -> Condition {
    let ranges = vec![ValueRange::single(value)];
    Condition { field: Field::Header(Scope::Inner, field), ranges, prefix_sets: vec![] }
}

fn group(rules: Vec<Rule>) -> Vec<Group> {
    vec![Group {
        name: "g".into(),
        priority: 0,
        selection: Selection::Priority,
        conditions: [].into(),
        rules: rules.into(),
    }]
}

fn layer(name: &str, outbound: Vec<Rule>, inbound: Vec<Rule>) -> Layer {
    Layer {
        name: name.into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: group(inbound).into(),
        outbound: group(outbound).into(),
        flow_limit: 1000,
    }
}

fn stateful(seconds: u64) -> Option<Stateful> {
    Some(Stateful { time_to_live: Duration::from_seconds(seconds), ..Stateful::default() })
}

/// Two ports on one switch; the second passes everything.
struct Bed {
    switch: Switch,
    now: Instant,
}

impl Bed {
    fn new(limits: PortLimits, policy: Policy) -> Self {
        let mut switch = Switch::new(SwitchConfig { seed: 7 });
        for (id, name, mac) in [(A, "a", MAC_A), (B, "b", MAC_B)] {
            switch
                .add_port(id, PortConfig { name: name.into(), mac, tenants: vec![], mtu: 0, limits })
                .unwrap();
        }
        switch.publish(A, policy).unwrap();
        switch.publish(B, Policy::default()).unwrap();
        Bed { switch, now: Instant(1) }
    }

    /// Sends one frame from `from`; the frames that came out, with the port they came out of.
    fn send(&mut self, from: PortId, frame: Vec<u8>) -> Vec<(PortId, Vec<u8>)> {
        let mut output = Output::default();
        self.switch.receive(self.now, from, &mut vec![Packet::from_frame(&frame)], &mut output);
        output.transmit.iter().map(|(to, packet)| (*to, packet.frame().to_vec())).collect()
    }

    fn out(&mut self, n: u16) -> bool {
        !self.send(A, udp(MAC_A, MAC_B, n)).is_empty()
    }

    fn drops(&mut self, reason: DropReason) -> u64 {
        self.switch.counters(A).unwrap().drops.of(reason)
    }
}

fn udp(src: MacAddr, dst: MacAddr, port: u16) -> Vec<u8> {
    eth(src, dst).ipv4("10.0.0.1", "10.0.0.2").udp(port, 80).payload(b"hello").frame()
}

fn udp_reply(port: u16) -> Vec<u8> {
    eth(MAC_B, MAC_A).ipv4("10.0.0.2", "10.0.0.1").udp(80, port).payload(b"hello").frame()
}

fn admit(seconds: u64, flow_limit: usize) -> Policy {
    let out = rule("out", 0, vec![], Action::Allow(Allow), stateful(seconds));
    let acl = Layer { default_inbound: DefaultAction::Block, flow_limit, ..layer("acl", vec![out], vec![]) };
    Policy { layers: vec![acl], ..Policy::default() }
}

#[test]
fn a_full_layer_flow_table_refuses_new_conversations_and_keeps_the_old() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 4));
    for n in 0..4 {
        assert!(bed.out(1000 + n));
    }
    assert!(!bed.out(2000));
    assert_eq!(bed.drops(DropReason::LayerFlowTableFull), 1);
    for n in 0..4 {
        assert_eq!(bed.send(B, udp_reply(1000 + n)).len(), 1, "an established conversation never gives way");
    }
    assert!(bed.send(B, udp_reply(2000)).is_empty(), "a refused packet left no state");
    bed.now = bed.now + Duration::from_seconds(10);
    assert!(!bed.out(2000), "the time to live is inclusive");
    bed.now = bed.now + Duration(1);
    assert!(bed.out(2000), "what has expired gives way without a sweep");
    assert_eq!(bed.switch.layer_flows(A, bed.now).len(), 1);
}

#[test]
fn a_time_to_live_runs_from_the_last_packet_of_either_direction_cached_hits_included() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 4));
    assert!(bed.out(1000));
    for _ in 0..5 {
        bed.now = bed.now + Duration::from_seconds(6);
        assert_eq!(bed.send(B, udp_reply(1000)).len(), 1, "only replies keep it alive");
    }
    for _ in 0..5 {
        bed.now = bed.now + Duration::from_seconds(10);
        assert!(bed.out(1000));
    }
    assert_eq!(bed.send(B, udp_reply(1000)).len(), 1);
    bed.now = bed.now + Duration::from_seconds(10) + Duration(1);
    assert!(bed.send(B, udp_reply(1000)).is_empty(), "the cached answer must not outlive its layer flow");
    assert_eq!(bed.drops(DropReason::Blocked), 1);
}

#[test]
fn a_full_unified_flow_table_evicts_and_stays_exact() {
    let limits = PortLimits { unified_flows: 16, ..PortLimits::default() };
    let mut bed = Bed::new(limits, admit(100, 10_000));
    for round in 0..3 {
        for n in 0..200 {
            assert!(bed.out(1000 + n), "round {round}");
            assert_eq!(bed.send(B, udp_reply(1000 + n)).len(), 1);
        }
    }
    let counters = bed.switch.counters(A).unwrap();
    assert_eq!(counters.flows.unified, 16);
    assert!(counters.flows.evicted > 1000);
    assert_eq!(counters.flows.conversations, 200);
    assert_eq!(
        counters.layers[0].groups[1].rules[0].1.packets,
        3 * 200 * 2,
        "both directions, evicted flows included"
    );
}

#[test]
fn tables_of_another_size_keep_conversations_and_counts() {
    let mut bed = Bed::new(PortLimits::default(), admit(100, 10_000));
    let config = |name: &str, mac, unified_flows| {
        let limits = PortLimits { unified_flows, drop_cache: 0, ..PortLimits::default() };
        PortConfig { name: name.into(), mac, tenants: vec![], mtu: 0, limits }
    };
    let mut sent = 0;
    for (round, size) in [65_536, 16, 2, 300, 65_536].into_iter().enumerate() {
        bed.switch.set_ports(&[(A, config("a", MAC_A, size))]).unwrap();
        let counters = bed.switch.counters(A).unwrap();
        let is_first = round == 0;
        assert_eq!(
            (counters.flows.unified, counters.flows.conversations),
            (0, if is_first { 0 } else { 200 })
        );
        for n in 0..200 {
            // Only the first time anything is asked before it is answered.
            if is_first {
                assert!(bed.out(1000 + n));
                sent += 1;
            }
            assert_eq!(bed.send(B, udp_reply(1000 + n)).len(), 1, "round {round}");
            assert!(bed.out(1000 + n));
            sent += 2;
        }
        let counters = bed.switch.counters(A).unwrap();
        assert_eq!(counters.flows.unified, size.min(400));
        assert_eq!(counters.layers[0].groups[1].rules[0].1.packets, sent, "no packet is forgotten");
    }
    let drops = bed.switch.counters(A).unwrap().drops;
    assert_eq!(drops.iter().map(|(_, packets)| packets).sum::<u64>(), 0);
}

#[test]
fn ports_change_all_at_once_or_not_at_all() {
    let mut bed = Bed::new(PortLimits::default(), admit(100, 10));
    let config = |name: &str, mac, mtu| PortConfig {
        name: name.into(),
        mac,
        tenants: vec![],
        mtu,
        limits: PortLimits::default(),
    };
    assert!(bed.out(1000));
    let unknown = PortId(9);
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    for (changes, error) in [
        (
            vec![(A, config("a", other, 0)), (unknown, config("x", MAC_A, 0))],
            SetPortError::NoSuchPort(unknown),
        ),
        (vec![(A, config("a", MAC_B, 0))], SetPortError::DuplicateMac(A)),
        (vec![(A, config("a", other, 0)), (B, config("b", other, 0))], SetPortError::DuplicateMac(B)),
    ] {
        assert_eq!(bed.switch.set_ports(&changes), Err(error));
        assert_eq!(bed.send(B, udp_reply(1000)).len(), 1, "nothing has changed");
    }
    // They exchange their MACs; a frame that is too long for the other one's new MTU goes nowhere.
    bed.switch.set_ports(&[(A, config("a", MAC_B, 0)), (B, config("b", MAC_A, 33))]).unwrap();
    assert!(bed.send(B, udp_reply(1000)).is_empty(), "the MAC that is now its own");
    let answer = eth(MAC_A, MAC_B).ipv4("10.0.0.2", "10.0.0.1").udp(80, 1000).payload(b"hello").frame();
    assert_eq!(bed.send(B, answer)[0].0, A);
    assert!(bed.send(A, udp(MAC_B, MAC_A, 1000)).len() == 1);
    bed.switch.set_ports(&[(B, config("b", MAC_A, 32))]).unwrap();
    assert!(bed.send(A, udp(MAC_B, MAC_A, 1000)).is_empty());
    assert_eq!(bed.switch.counters(B).unwrap().drops.of(DropReason::TooBig), 1);
}

#[test]
fn blocked_flows_are_answered_by_the_drop_cache_and_credit_the_rule() {
    let block =
        rule("no-dns", 0, vec![is(HeaderField::L4Dst, Value::number(80))], Action::Block(Block), None);
    let policy = Policy { layers: vec![layer("acl", vec![block], vec![])], ..Policy::default() };
    let mut bed = Bed::new(PortLimits::default(), policy);
    for _ in 0..50 {
        assert!(!bed.out(1000));
    }
    let counters = bed.switch.counters(A).unwrap();
    assert_eq!(counters.flows.drop_cache_hits, 49);
    assert_eq!(counters.flows.unified, 0);
    assert_eq!(counters.drops.of(DropReason::Blocked), 50);
    let (name, count) = &counters.layers[0].groups[1].rules[0];
    assert_eq!((&**name, count.packets), ("no-dns", 50));
}

#[test]
fn a_cached_block_ends_when_the_guest_opens_the_conversation() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 1000));
    for _ in 0..3 {
        assert!(bed.send(B, udp_reply(1000)).is_empty());
    }
    assert!(bed.out(1000));
    assert_eq!(bed.send(B, udp_reply(1000)).len(), 1, "the drop cache must not hide the new layer flow");
}

#[test]
fn a_cached_pass_ends_when_state_that_it_would_meet_is_created() {
    // Outbound packets pass unchanged until an inbound conversation has been translated on its way in.
    let to = NatTo { address: Some("10.0.0.1".parse::<IpAddr>().unwrap()), port: Some(9000) };
    let nat = Action::Nat(Nat { source: None, destination: Some(to) });
    let dnat = rule("dnat", 0, vec![is(HeaderField::L4Dst, Value::number(1000))], nat, stateful(10));
    let policy = Policy { layers: vec![layer("nat", vec![], vec![dnat])], ..Policy::default() };
    let mut bed = Bed::new(PortLimits::default(), policy);
    let answer = eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").udp(9000, 80).payload(b"hello").frame();
    for _ in 0..2 {
        assert_eq!(bed.send(A, answer.clone()), vec![(B, answer.clone())]);
    }
    assert_eq!(bed.send(B, udp_reply(1000)).len(), 1);
    let translated = eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 80).payload(b"hello").frame();
    assert_eq!(bed.send(A, answer), vec![(B, translated)]);
}

#[test]
fn a_meter_counts_further_keys_in_one_cell_beyond_its_limit() {
    let key = vec![Field::Header(Scope::Inner, HeaderField::L4Src)];
    let spec = MeterSpec { name: "by-port".into(), key, limit: 3, counts: MeterCounts::Offered };
    let meter = rule("count", 0, vec![], Action::Meter(Meter { meter: MeterId(0) }), None);
    let resources = Arc::new(Resources { meters: vec![spec], ..Resources::default() });
    let policy = Policy { layers: vec![layer("meter", vec![meter], vec![])], resources, ..Policy::default() };
    let mut bed = Bed::new(PortLimits::default(), policy.clone());
    for n in 0..10 {
        assert!(bed.out(n) && bed.out(n));
    }
    let read = |bed: &mut Bed| {
        let meter = bed.switch.counters(A).unwrap().meters[0].clone();
        (meter.cells.iter().map(|(_, count)| count.packets).collect::<Vec<_>>(), meter.other.packets)
    };
    assert_eq!(read(&mut bed), (vec![2, 2, 2], 14));
    bed.switch.publish(A, policy).unwrap();
    assert!(bed.out(0));
    assert_eq!(read(&mut bed), (vec![3, 2, 2], 14), "counters belong to the meter's name across updates");
}

#[test]
fn a_refused_policy_changes_nothing() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 10));
    assert!(bed.out(1));
    let before = bed.switch.layer_flows(A, bed.now);
    let meter = rule("count", 0, vec![], Action::Meter(Meter { meter: MeterId(3) }), None);
    let bad = Policy { layers: vec![layer("acl", vec![meter], vec![])], ..Policy::default() };
    let Err(PublishError::Invalid(why)) = bed.switch.publish(A, bad) else { panic!("accepted") };
    assert_eq!(why, "layer acl, group g, rule count: meter 3 does not exist");
    assert_eq!(bed.switch.layer_flows(A, bed.now), before);
    assert_eq!(bed.send(B, udp_reply(1)).len(), 1);
}

#[test]
fn an_update_ends_what_it_no_longer_allows_and_keeps_the_rest() {
    let allow = |ports: &[u16]| {
        let rules = ports
            .iter()
            .map(|port| {
                let name = format!("allow-{port}");
                rule(
                    &name,
                    0,
                    vec![is(HeaderField::L4Src, Value::number(*port as u128))],
                    Action::Allow(Allow),
                    stateful(100),
                )
            })
            .collect();
        let acl = Layer {
            default_inbound: DefaultAction::Block,
            default_outbound: DefaultAction::Block,
            ..layer("acl", rules, vec![])
        };
        Policy { layers: vec![acl], ..Policy::default() }
    };
    let mut bed = Bed::new(PortLimits::default(), allow(&[1, 2]));
    assert!(bed.out(1) && bed.out(2));
    bed.switch.publish(A, allow(&[2, 3])).unwrap();
    assert!(bed.send(B, udp_reply(1)).is_empty());
    assert_eq!(bed.send(B, udp_reply(2)).len(), 1);
    assert!(!bed.out(1));
    let left = bed.switch.layer_flows(A, bed.now);
    assert_eq!(left.iter().map(|flow| &*flow.rule).collect::<Vec<_>>(), ["allow-2"]);
}

#[test]
fn what_nobody_asked_for_any_more_is_freed_by_sweeps() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 100_000));
    for n in 0..20_000 {
        assert!(bed.out(n));
    }
    bed.now = bed.now + Duration::from_seconds(1000);
    for _ in 0..4 {
        bed.switch.sweep(bed.now);
    }
    let counters = bed.switch.counters(A).unwrap();
    assert_eq!((counters.flows.unified, counters.flows.conversations), (0, 0));
    assert_eq!(counters.layers[0].layer_flows, 0);
    assert_eq!(counters.layers[0].groups[1].rules[0].1.packets, 20_000, "counts outlive the flows");
}

/// A blocked packet makes no layer flow; when another packet makes the one that it would have met, the drop cache
/// must not go on answering.
#[test]
fn a_cached_drop_ends_when_another_packet_makes_the_layer_flow_that_it_planned() {
    let masquerade = Nat { source: Some(NatTo { address: ip("192.0.2.1"), port: None }), destination: None };
    let nat = layer(
        "nat",
        vec![rule("masquerade", 0, vec![], Action::Nat(masquerade), stateful(10))],
        vec![rule("admit", 0, vec![], Action::Allow(Allow), stateful(10))],
    );
    let translated = is(HeaderField::IpSrc, Value::ip("192.0.2.1".parse().unwrap()));
    let no_masquerade = rule("no", 0, vec![translated], Action::Block(Block), None);
    let acl = Layer { priority: 1, ..layer("acl", vec![no_masquerade], vec![]) };
    let mut bed = Bed::new(PortLimits::default(), Policy { layers: vec![nat, acl], ..Policy::default() });
    assert!(!bed.out(1000) && !bed.out(1000), "translated, and so blocked");
    assert_eq!(bed.switch.counters(A).unwrap().flows.drop_cache_hits, 1);
    assert_eq!(bed.send(B, udp_reply(1000)).len(), 1);
    assert!(bed.out(1000), "the answer to an admitted packet is not translated, and passes");

    assert!(!bed.out(2000));
    let to_translated = eth(MAC_B, MAC_A).ipv4("10.0.0.2", "192.0.2.1").udp(80, 2000).frame();
    assert_eq!(bed.send(B, to_translated).len(), 1);
    assert!(!bed.out(2000));
    assert_eq!(bed.drops(DropReason::FlowKeyTaken), 1, "the translation's reverse key is another's now");
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// Counting down a tunnel's time to live and then taking the tunnel off leaves nothing of the countdown in the composed
/// change: such packets must go on asking the layers.
#[test]
fn a_countdown_that_a_decap_removes_still_drops() {
    let hop = ModifyL3 { ttl: Some(Ttl::Decrement(1)), ..ModifyL3::default() };
    let transposition =
        Transposition::new(vec![HeaderOp::Ignore(Level::L2), HeaderOp::Modify(Modify::L3(hop))]);
    let count_down = rule("hop", 0, vec![], Action::Transpose(Transpose { transposition }), None);
    let router = Layer { priority: 1, ..layer("router", vec![], vec![count_down]) };
    let decap = layer("decap", vec![], vec![rule("decap", 0, vec![], Action::Decap(Decap::default()), None)]);
    let mut bed =
        Bed::new(PortLimits::default(), Policy { layers: vec![decap, router], ..Policy::default() });
    let tunnelled = |ttl| {
        let inner = eth(MAC_B, MAC_A).ipv4("10.0.0.2", "10.0.0.1").udp(80, 1000).payload(b"hello");
        let outer = eth(MAC_B, MAC_A).ipv4("172.16.0.2", "172.16.0.1").ttl(ttl);
        outer.vxlan(5).wrap(&inner).frame()
    };
    for _ in 0..2 {
        assert_eq!(bed.send(B, tunnelled(2)).len(), 1);
        assert!(bed.send(B, tunnelled(1)).is_empty());
    }
    assert_eq!(bed.drops(DropReason::TtlExceeded), 2);
}

#[test]
fn a_conversation_under_many_macs_has_a_bounded_number_of_unified_flows() {
    let mut bed = Bed::new(PortLimits::default(), admit(10, 4));
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        assert_eq!(bed.send(A, udp(MacAddr([2, 1, 0, 0, high, low]), MAC_B, 1000)).len(), 1);
    }
    let flows = bed.switch.counters(A).unwrap().flows;
    assert_eq!((flows.conversations, flows.unified), (1, 64));
}

/// Policy that turns an echo reply back into a request: the packet path does not answer answers, and neither may a
/// trace, which would go on for ever.
#[test]
fn a_trace_does_not_answer_answers() {
    let answer = || rule("answer", 0, vec![], Action::Respond(Respond::Echo), None);
    let ask_again = || {
        let icmp = ModifyL4 { icmp_type: Some(8), ..ModifyL4::default() };
        let ops = [HeaderOp::Ignore(Level::L2), HeaderOp::Ignore(Level::L3)];
        let ops = ops.into_iter().chain([HeaderOp::Modify(Modify::L4(icmp))]).collect();
        let transposition = Transposition::new(ops);
        rule("again", 0, vec![], Action::Transpose(Transpose { transposition }), None)
    };
    let near = layer("near", vec![], vec![answer()]);
    let turn = Layer { priority: 1, ..layer("turn", vec![ask_again()], vec![ask_again()]) };
    let far = Layer { priority: 2, ..layer("far", vec![answer()], vec![]) };
    let mut bed =
        Bed::new(PortLimits::default(), Policy { layers: vec![near, turn, far], ..Policy::default() });
    let request = eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").echo_request(1, 1).frame();
    let trace = bed.switch.trace(bed.now, A, &request).unwrap();
    assert_eq!(trace.next[0].outcome, TraceOutcome::Drop(DropReason::CannotRespond));
    assert!(bed.send(A, request).is_empty());
    assert_eq!(bed.drops(DropReason::CannotRespond), 1);
}

#[test]
fn ports_that_answer_each_others_answers_do_not_hold_the_worker() {
    let again = Modify::L4(ModifyL4 { icmp_type: Some(8), ..ModifyL4::default() });
    let ops = vec![HeaderOp::Ignore(Level::L2), HeaderOp::Ignore(Level::L3), HeaderOp::Modify(again)];
    let ask_again = Action::Transpose(Transpose { transposition: Transposition::new(ops) });
    let is_reply = vec![is(HeaderField::IcmpType, Value::number(0))];
    let is_request = vec![is(HeaderField::IcmpType, Value::number(8))];
    let answer = rule("answer", 0, is_request, Action::Respond(Respond::Echo), None);
    let turn = rule("turn", 0, is_reply, ask_again, None);
    let guest = layer("a-answer", vec![], vec![answer]);
    let network = layer("b-turn", vec![], vec![turn]);
    let policy = Policy { layers: vec![guest, network], ..Policy::default() };
    let mut bed = Bed::new(PortLimits::default(), policy.clone());
    bed.switch.publish(B, policy).unwrap();
    let request = eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").echo_request(1, 1).frame();
    assert!(bed.send(A, request.clone()).is_empty());
    let drops = |bed: &mut Bed, id| bed.switch.counters(id).unwrap().drops.of(DropReason::TooManyTurns);
    assert_eq!(drops(&mut bed, A) + drops(&mut bed, B), 1);
    let mut trace = &bed.switch.trace(bed.now, A, &request).unwrap();
    while let Some(next) = trace.next.last() {
        trace = next;
    }
    assert_eq!(trace.outcome, TraceOutcome::Drop(DropReason::TooManyTurns));
}
