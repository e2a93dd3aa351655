//! Rules edited one by one on a running switch, compiled as successors and installed: every packet gets what the
//! rules of that moment say, and every count stays with its name, whatever was cached, removed, put back, swept,
//! compiled for nothing or rebuilt meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamina_core::action::{Action, Allow, Block};
use lamina_core::address::MacAddr;
use lamina_core::flow::{Field, HeaderField, Scope, Value};
use lamina_core::layer::{
    Compiler, Condition, DefaultAction, Group, Layer, Policy, Rule, RuleList, Selection, ValueRange,
};
use lamina_core::packet::Packet;
use lamina_core::switch::{Output, PortConfig, PortId, PortLimits, Switch, SwitchConfig};
use lamina_core::time::{Duration, Instant};
use lamina_testkit::builder::eth;
use proptest::prelude::*;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A rule for source ports from `low`, `width` of them.
fn rule(name: u8, priority: i32, low: u16, width: u16, blocks: bool) -> Rule {
    let ranges =
        vec![ValueRange { low: Value::number(low.into()), high: Value::number((low + width).into()) }];
    let field = Field::Header(Scope::Inner, HeaderField::L4Src);
    let conditions = vec![Condition { field, ranges, prefix_sets: vec![] }];
    let action = if blocks { Action::Block(Block) } else { Action::Allow(Allow) };
    let name = format!("r{name}").as_str().into();
    Rule { name, priority, conditions, action, terminating: false, state: None }
}

fn policy(rules: RuleList, other: bool) -> Policy {
    let group = |name: &str, rules| Group {
        name: name.into(),
        priority: 0,
        selection: Selection::Priority,
        conditions: [].into(),
        rules,
    };
    let layer = |name: &str, priority, groups: Vec<Group>| Layer {
        name: name.into(),
        owner: "test".into(),
        priority,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::default(),
        outbound: groups.into(),
        flow_limit: 1000,
    };
    let mut layers = vec![layer("acl", 1, vec![group("g", rules)])];
    if other {
        layers.push(layer("other", 0, vec![group("o", RuleList::new(vec![rule(0, 0, 0, 0, true)]))]));
    }
    Policy { layers, ..Policy::default() }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, i32, u16, u16, bool),
    Remove(u8),
    /// A packet from this source port.
    Send(u16),
    /// Time passes, with as many sweeps.
    Sweep(u8),
    /// The policy is compiled and dropped.
    DryRun,
    /// The list is made anew, with the same rules.
    Anew,
    /// Background rebuild of the list.
    Rebuild,
    /// A list of earlier comes back.
    Undo,
    /// Another layer comes or goes.
    Other,
    /// Publish instead of compile and install, by the switch's own compiler.
    Publish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..30, 0i32..4, 1000u16..1040, 0u16..6, any::<bool>())
            .prop_map(|(name, priority, low, width, blocks)| Step::Put(name, priority, low, width, blocks)),
        4 => (0u8..30).prop_map(Step::Remove),
        12 => (1000u16..1045).prop_map(Step::Send),
        2 => (1u8..5).prop_map(Step::Sweep),
        1 => Just(Step::DryRun),
        1 => Just(Step::Anew),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Undo),
        1 => Just(Step::Other),
        1 => Just(Step::Publish),
    ]
}

/// What is expected of one group.
#[derive(Default)]
struct Model {
    rules: BTreeMap<String, (i32, u16, u16, bool, u64)>,
    retired: u64,
    default: u64,
}

impl Model {
    /// Takes over the rules of `list`, as an update by name does.
    fn replace(&mut self, list: &RuleList) {
        let mut before = std::mem::take(&mut self.rules);
        for rule in list.iter() {
            let range = rule.conditions[0].ranges[0];
            let (low, width) = (range.low.bits as u16, (range.high.bits - range.low.bits) as u16);
            let count = before.remove(&*rule.name).map_or(0, |known| known.4);
            let blocks = matches!(rule.action, Action::Block(_));
            self.rules.insert(rule.name.to_string(), (rule.priority, low, width, blocks, count));
        }
        self.retired += before.values().map(|rule| rule.4).sum::<u64>();
    }

    /// Counts a packet; true when it passes.
    fn send(&mut self, port: u16) -> bool {
        let matching = self.rules.iter_mut().filter(|(_, rule)| (rule.1..=rule.1 + rule.2).contains(&port));
        match matching.min_by(|a, b| (a.1.0, a.0).cmp(&(b.1.0, b.0))) {
            Some((_, rule)) => {
                rule.4 += 1;
                !rule.3
            }
            None => {
                self.default += 1;
                true
            }
        }
    }
}

struct Bed {
    switch: Switch,
    compiler: Compiler,
    list: RuleList,
    other: bool,
    model: Model,
    now: Instant,
}

impl Bed {
    fn new(rules: RuleList) -> Bed {
        let mut switch = Switch::new(SwitchConfig { seed: 7 });
        let limits = PortLimits { unified_flows: 64, ..PortLimits::default() };
        for (id, name, mac) in [(A, "a", MAC_A), (B, "b", MAC_B)] {
            let config = PortConfig { name: name.into(), mac, tenants: vec![], mtu: 0, limits };
            switch.add_port(id, config).unwrap();
        }
        switch.publish(B, Policy::default()).unwrap();
        let list = rules.clone();
        let (compiler, model) = (Compiler::new(), Model::default());
        let mut bed = Bed { switch, compiler, list, other: false, model, now: Instant(1) };
        bed.install(rules);
        bed
    }

    fn install(&mut self, list: RuleList) {
        self.model.replace(&list);
        let program = self.compiler.compile(A, &policy(list.clone(), self.other)).unwrap();
        self.switch.install(A, program).unwrap();
        self.list = list;
    }

    fn send(&mut self, port: u16) -> bool {
        let frame = eth(MAC_A, MAC_B).ipv4("10.0.0.1", "10.0.0.2").udp(port, 80).payload(b"hello").frame();
        let mut output = Output::default();
        self.switch.receive(self.now, A, &mut vec![Packet::from_frame(&frame)], &mut output);
        !output.transmit.is_empty()
    }

    fn sweep(&mut self, times: u8) {
        for _ in 0..times {
            self.now = self.now + Duration::from_seconds(1);
            self.switch.sweep(self.now);
        }
        drop(self.compiler.collect());
    }

    fn check(&mut self) {
        let counters = self.switch.counters(A).unwrap();
        let layer = counters.layers.iter().find(|layer| &*layer.name == "acl").unwrap();
        let group = &layer.groups[0];
        let counted: BTreeMap<String, u64> =
            group.rules.iter().map(|(name, count)| (name.to_string(), count.packets)).collect();
        let expected: BTreeMap<String, u64> =
            self.model.rules.iter().map(|(name, rule)| (name.clone(), rule.4)).collect();
        assert_eq!(counted, expected);
        assert_eq!(group.retired.packets, self.model.retired, "retired");
        assert_eq!(layer.default_outbound.packets, self.model.default, "default");
    }
}

fn run(initial: Vec<Rule>, steps: Vec<Step>, reads: bool) {
    let mut bed = Bed::new(RuleList::new(initial));
    let mut earlier = vec![bed.list.clone()];
    for step in steps {
        match step {
            Step::Put(name, priority, low, width, blocks) => {
                let list = bed.list.put(rule(name, priority, low, width, blocks));
                bed.install(list);
            }
            Step::Remove(name) => {
                let list = bed.list.remove(&format!("r{name}"));
                bed.install(list);
            }
            Step::Send(port) => {
                let expected = bed.model.send(port);
                assert_eq!(bed.send(port), expected, "port {port}: {:?}", bed.list);
            }
            Step::Sweep(times) => bed.sweep(times),
            Step::DryRun => {
                let list = bed.list.put(rule(99, 0, 1000, 50, true)).remove("r3");
                bed.compiler.compile(A, &policy(list, !bed.other)).unwrap();
            }
            Step::Anew => {
                let list = bed.list.iter().cloned().collect();
                bed.install(list);
            }
            Step::Rebuild => {
                let rebuilt = Compiler::rebuild(&bed.list, Selection::Priority);
                // Edits go on meanwhile.
                let list = bed.list.remove("r5").put(rule(6, 1, 1010, 3, true));
                bed.install(list.clone());
                let list = bed.compiler.adopt(&rebuilt, &list).unwrap();
                assert!(list.overlay_len() <= 2);
                bed.install(list);
            }
            Step::Undo => bed.install(earlier[earlier.len() / 2].clone()),
            Step::Other => {
                bed.other = !bed.other;
                bed.install(bed.list.clone());
            }
            Step::Publish => {
                bed.switch.publish(A, policy(bed.list.clone(), bed.other)).unwrap();
            }
        }
        earlier.push(bed.list.clone());
        if reads {
            bed.check();
        }
    }
    bed.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_packet_and_count_is_that_of_the_rules_of_the_moment(
        initial in prop::collection::vec((0u8..60, 0i32..4, 1000u16..1040, 0u16..6, any::<bool>()), 0..60),
        steps in prop::collection::vec(step(), 0..80),
        reads in prop::bool::weighted(0.3),
    ) {
        let rules = initial.into_iter().map(|(name, priority, low, width, blocks)| {
            rule(name, priority, low, width, blocks)
        });
        run(rules.collect(), steps, reads);
    }
}

#[test]
fn a_slot_is_not_given_away_before_what_was_cached_for_it_is_counted() {
    let mut bed = Bed::new(RuleList::new(vec![rule(1, 0, 1000, 0, false), rule(2, 0, 1001, 0, false)]));
    for round in 0..300u16 {
        for _ in 0..5 {
            let expected = bed.model.send(1000);
            assert_eq!(bed.send(1000), expected);
        }
        let list = bed.list.remove("r1");
        bed.install(list);
        if round % 3 == 0 {
            bed.sweep(4);
        }
        let list =
            bed.list.put(rule(1, 0, 1000, 0, false)).put(rule((round % 7) as u8 + 3, 0, 2000, 0, false));
        bed.install(list);
        if round % 50 == 0 {
            bed.check();
        }
    }
    bed.check();
    assert_eq!(bed.model.retired, 300 * 5);
}
