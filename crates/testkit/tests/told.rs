//! What a switch tells about itself: flows, drops by place, limits in use, captures, classifiers (§5.6, §12, §14).

use std::sync::{Arc, Mutex};

use lamina_core::action::{Action, Allow};
use lamina_core::address::MacAddr;
use lamina_core::classify::Kind;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::Direction;
use lamina_core::inspect::*;
use lamina_core::layer::{DefaultAction, Group, Layer, Policy, Rule, Selection, Stateful};
use lamina_core::packet::Packet;
use lamina_core::switch::{Output, PortConfig, PortId, PortLimits, Switch, SwitchConfig};
use lamina_core::time::{Duration, Instant};
use lamina_testkit::builder::eth;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ALL: u32 = u32::MAX;

/// Two ports on one switch. The first admits what its guest begins, up to so many conversations.
struct Bed {
    switch: Switch,
    now: Instant,
}

impl Bed {
    fn new(limits: PortLimits, flow_limit: usize) -> Self {
        let mut switch = Switch::new(SwitchConfig { seed: 7 });
        for (id, name, mac) in [(A, "a", MAC_A), (B, "b", MAC_B)] {
            let config = PortConfig { name: name.into(), mac, tenants: vec![], mtu: 0, limits };
            switch.add_port(id, config).unwrap();
        }
        let state = Stateful { time_to_live: Duration::from_seconds(10), ..Stateful::default() };
        let out = Rule {
            name: "out".into(),
            priority: 0,
            conditions: Default::default(),
            action: Action::Allow(Allow),
            terminating: false,
            state: Some(state),
        };
        let group = Group {
            name: "guest".into(),
            priority: 0,
            selection: Selection::Priority,
            conditions: Default::default(),
            rules: vec![out].into(),
        };
        let acl = Layer {
            name: "acl".into(),
            owner: "security".into(),
            priority: 0,
            default_inbound: DefaultAction::Block,
            default_outbound: DefaultAction::Pass,
            inbound: vec![].into(),
            outbound: vec![group].into(),
            flow_limit,
        };
        switch.publish(A, Policy { layers: vec![acl], ..Policy::default() }).unwrap();
        switch.publish(B, Policy::default()).unwrap();
        Bed { switch, now: Instant(1_000) }
    }

    fn send(&mut self, from: PortId, frame: Vec<u8>) -> bool {
        let mut output = Output::default();
        self.now = self.now + Duration(1);
        self.switch.receive(self.now, from, &mut vec![Packet::from_frame(&frame)], &mut output);
        !output.transmit.is_empty()
    }

    fn out(&mut self, port: u16) -> bool {
        self.send(A, eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").udp(port, 80).payload(b"hello").frame())
    }

    fn back(&mut self, port: u16) -> bool {
        self.send(B, eth(MAC_B, MAC_A).ipv4("10.0.0.2", "10.0.0.1").udp(80, port).payload(b"hello").frame())
    }

    fn list(&self, filter: &FlowFilter) -> FlowPage {
        self.switch.flows(A, filter, FlowCursor::default(), ALL, self.now).unwrap()
    }

    fn limit(&self, table: &str) -> LimitUse {
        let limits = self.switch.limits(Some(A)).unwrap();
        limits.into_iter().find(|limit| limit.table == table).unwrap()
    }
}

#[test]
fn a_flow_tells_its_pair_its_path_and_its_exact_counts() {
    let mut bed = Bed::new(PortLimits::default(), 10);
    let first = bed.now + Duration(1);
    (0..5).for_each(|_| assert!(bed.out(1000)));
    (0..3).for_each(|_| assert!(bed.back(1000)));
    assert!(bed.out(2000));
    // Folding moves counts to the rules and must not take them from the flow.
    bed.switch.counters(A);
    assert!(bed.out(1000));
    let ports = Some((1000, 1000));
    let both =
        FlowFilter { packet: PacketFilter { l4_port: ports, ..Default::default() }, ..Default::default() };
    let page = bed.list(&both);
    assert_eq!((page.next, page.idle.len()), (None, 0));
    let [out, back] = page.flows.as_slice() else { panic!("{page:#?}") };
    assert_eq!((out.direction, out.count.packets, out.count.bytes), (Direction::Outbound, 6, 6 * 47));
    assert_eq!((back.direction, back.count.packets), (Direction::Inbound, 3));
    assert_eq!((out.created, out.last_seen), (first, bed.now));
    assert_eq!((out.partners.as_slice(), back.partners.as_slice()), (&[back.id][..], &[out.id][..]));
    assert_eq!(out.pair_key, back.pair_key);
    assert_eq!(
        (&out.egress, &back.egress),
        (&FlowEgress::Port { to: B, direction: Direction::Inbound }, &FlowEgress::Nic,)
    );
    assert_eq!(out.conversation, back.conversation);
    let state = &out.conversation.as_ref().unwrap().layer_flows;
    assert_eq!((state.len(), &*state[0].layer, &*state[0].rule), (1, "acl", "out"));
    for (flow, by) in [(out, StepDecision::FlowForward), (back, StepDecision::FlowReverse)] {
        let [step] = flow.path.as_slice() else { panic!("{flow:#?}") };
        assert_eq!((&*step.layer, &*step.owner, step.by), ("acl", "security", by));
        assert_eq!(step.rule, Some(("guest".into(), "out".into())));
    }
    let inbound = PacketFilter { dst_port: ports, ..Default::default() };
    let alone = FlowFilter { packet: inbound.clone(), ..Default::default() };
    let pair = FlowFilter { packet: inbound, pair: true, ..Default::default() };
    assert_eq!((bed.list(&alone).flows.len(), bed.list(&pair).flows.len()), (1, 2));
    let busy = FlowFilter { min_packets: 4, ..Default::default() };
    assert_eq!(bed.list(&busy).flows.len(), 1);
    let other = FlowFilter { rule: Some("another".into()), ..Default::default() };
    assert_eq!(bed.list(&other).flows.len(), 0);
}

#[test]
fn clearing_ends_conversations_and_keeps_what_they_counted() {
    let mut bed = Bed::new(PortLimits::default(), 10);
    (0..4).for_each(|_| assert!(bed.out(1000) && bed.back(1000)));
    assert!(bed.out(2000));
    let port = PacketFilter { l4_port: Some((1000, 1000)), ..Default::default() };
    let filter = FlowFilter { packet: port, ..Default::default() };
    let page = bed.switch.clear_flows(A, &filter, FlowCursor::default(), ALL, bed.now).unwrap();
    assert_eq!((page.flows, page.conversations, page.next), (2, 1, None));
    assert!(!bed.back(1000), "the state is gone, too");
    assert!(bed.back(2000), "others go on");
    let layer = &bed.switch.counters(A).unwrap().layers[0];
    // Four each way of the first, one each way of the second.
    assert_eq!(layer.groups[0].rules[0].1.packets, 10);
    assert!(bed.out(1000) && bed.back(1000), "it begins anew");
}

#[test]
fn a_conversation_whose_flows_gave_way_is_listed_by_itself() {
    let mut bed = Bed::new(PortLimits { unified_flows: 1, ..PortLimits::default() }, 10);
    assert!(bed.out(1000) && bed.out(2000));
    let page = bed.list(&FlowFilter::default());
    assert_eq!((page.flows.len(), page.idle.len()), (1, 1));
    assert_eq!(page.idle[0].key.src_port, 1000);
    let unified = bed.limit("unified-flows");
    assert_eq!((unified.used, unified.limit, unified.times_full), (1, Some(1), 1));
    assert_eq!(unified.last_full, Some(bed.now));
}

#[test]
fn a_full_layer_tells_how_often_and_when() {
    let mut bed = Bed::new(PortLimits::default(), 2);
    assert!(bed.out(1) && bed.out(2) && !bed.out(3) && !bed.out(4));
    let limit = bed.limit("layer-flows acl");
    assert_eq!((limit.used, limit.limit, limit.times_full, limit.last_full), (2, Some(2), 2, Some(bed.now)));
    let rows = bed.switch.drop_rows(Some(A)).unwrap();
    assert_eq!((rows.len(), rows[0].reason, rows[0].frames), (1, DropReason::LayerFlowTableFull, 2));
    assert_eq!(rows[0].rule.as_deref(), Some("out"));
}

#[test]
fn drops_count_at_their_place_also_from_the_drop_cache() {
    let mut bed = Bed::new(PortLimits::default(), 10);
    (0..3).for_each(|_| assert!(!bed.back(7)));
    assert_eq!(bed.switch.counters(A).unwrap().flows.drop_cache_hits, 2);
    let rows = bed.switch.drop_rows(Some(A)).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:#?}") };
    assert_eq!((row.reason, row.direction), (DropReason::Blocked, Direction::Inbound));
    assert_eq!((row.layer.as_deref(), &row.group, &row.rule), (Some("acl"), &None, &None));
    assert_eq!((row.frames, row.packets, row.bytes), (3, 3, 3 * 47));
    let recent = bed.switch.recent_drops(Some(A)).unwrap();
    assert_eq!((recent.len(), recent[0].time, recent[0].length), (3, bed.now, 47));
    assert!(recent.iter().all(|drop| drop.headers.is_some() && drop.layer.as_deref() == Some("acl")));
    // A port that does not exist has no counters of its own.
    assert!(bed.switch.drop_rows(Some(PortId(99))).is_none());
    bed.send(PortId(99), vec![0; 60]);
    assert_eq!(bed.switch.drop_rows(None).unwrap()[0].frames, 1);
}

/// Point, length and rule of a captured packet.
type Copied = (&'static str, usize, Option<String>);

/// Keeps those of up to so many packets.
#[derive(Clone, Debug)]
struct Sink(Arc<Mutex<Vec<Copied>>>, usize);

impl Sink {
    fn new(room: usize) -> Sink {
        Sink(Arc::default(), room)
    }

    fn points(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().iter().map(|(point, ..)| *point).collect()
    }
}

impl CaptureSink for Sink {
    fn take(&mut self, record: &CaptureRecord<'_>) -> bool {
        let mut copies = self.0.lock().unwrap();
        let rule = record.place.rule.as_deref().map(str::to_owned);
        let has_room = copies.len() < self.1;
        if has_room {
            copies.push((record.point.name(), record.frame.len(), rule));
        }
        has_room
    }
}

#[test]
fn cached_packets_are_captured_at_layers_and_stay_cached() {
    let mut bed = Bed::new(PortLimits::default(), 10);
    assert!(bed.out(1000) && bed.out(1000));
    let before = bed.switch.counters(A).unwrap().flows;
    let sink = Sink::new(100);
    let spec =
        CaptureSpec { ports: vec![A], at_nic: true, at_layers: vec!["acl".into()], ..Default::default() };
    let id = bed.switch.start_capture(spec, Box::new(sink.clone())).unwrap();
    assert!(bed.out(1000));
    assert_eq!(sink.points(), ["layer-before", "layer-after", "nic-received"]);
    assert_eq!(sink.0.lock().unwrap()[0].2.as_deref(), Some("out"));
    let after = bed.switch.counters(A).unwrap().flows;
    assert_eq!((after.hits, after.misses), (before.hits + 1, before.misses));
    let status = bed.switch.stop_capture(id).unwrap();
    assert_eq!((status.packets, status.bytes, status.lost, status.is_done), (3, 3 * 47, 0, false));
    assert!(bed.switch.stop_capture(id).is_none());
    assert!(bed.out(1000));
    assert_eq!(sink.points().len(), 3, "stopped is stopped");
}

#[test]
fn a_capture_keeps_to_its_limits_its_filter_and_its_verdict() {
    let mut bed = Bed::new(PortLimits::default(), 10);
    let start = |bed: &mut Bed, spec: CaptureSpec, room| {
        let sink = Sink::new(room);
        let id = bed.switch.start_capture(spec, Box::new(sink.clone())).unwrap();
        (id, sink)
    };
    let nic = CaptureSpec { at_nic: true, ..Default::default() };
    let port = PacketFilter { dst_port: Some((1000, 1000)), ..Default::default() };
    let (three, _) = start(&mut bed, CaptureSpec { max_packets: 3, ports: vec![A], ..nic.clone() }, 100);
    let (bytes, _) = start(&mut bed, CaptureSpec { max_bytes: 100, snap_length: 40, ..nic.clone() }, 100);
    let (tight, _) = start(&mut bed, CaptureSpec { ports: vec![A], ..nic.clone() }, 2);
    let (replies, _) = start(&mut bed, CaptureSpec { filter: port, ports: vec![A], ..nic.clone() }, 100);
    let dropped = Some(VerdictFilter::DroppedFor(DropReason::Blocked));
    let drops = CaptureSpec { verdict: dropped, at_drop: true, ..nic.clone() };
    let (blocked, blocked_sink) = start(&mut bed, drops, 100);
    assert!(bed.out(1000) && bed.back(1000) && !bed.back(5) && bed.out(1000) && bed.out(1000));
    let status = |bed: &Bed, id| bed.switch.captures().into_iter().find(|status| status.id == id).unwrap();
    let three = status(&bed, three);
    assert_eq!((three.packets, three.is_done), (3, true));
    let bytes = status(&bed, bytes);
    assert_eq!((bytes.packets, bytes.bytes, bytes.is_done), (2, 80, true));
    // Received and delivered at port A: three, and one reply.
    let tight = status(&bed, tight);
    assert_eq!((tight.packets, tight.lost, tight.is_done), (2, 2, false));
    assert_eq!(status(&bed, replies).packets, 1);
    assert_eq!(status(&bed, blocked).packets, 1);
    assert_eq!(blocked_sink.points(), ["drop"], "the packet passed the port that received it");
    let more = |bed: &mut Bed| bed.switch.start_capture(nic.clone(), Box::new(Sink::new(1)));
    assert!((5..MAX_CAPTURES).all(|_| more(&mut bed).is_ok()));
    assert_eq!(more(&mut bed), Err(CaptureError::TooMany));
    let nowhere = bed.switch.start_capture(CaptureSpec::default(), Box::new(Sink::new(1)));
    assert_eq!(nowhere, Err(CaptureError::TooMany));
    bed.switch.stop_capture(blocked);
    let nowhere = bed.switch.start_capture(CaptureSpec::default(), Box::new(Sink::new(1)));
    assert_eq!(nowhere, Err(CaptureError::NoPoint));
}

#[test]
fn a_classifier_tells_what_it_is_and_why() {
    let bed = Bed::new(PortLimits::default(), 10);
    let classifiers = bed.switch.classifiers(A).unwrap();
    let [classifier] = classifiers.as_slice() else { panic!("{classifiers:#?}") };
    assert_eq!((&*classifier.layer, &*classifier.group), ("acl", "guest"));
    assert_eq!(classifier.direction, Direction::Outbound);
    assert_eq!(classifier.description.parts[0].kind, Kind::List);
    assert!(classifier.reason.contains("few rules"), "{}", classifier.reason);
}
