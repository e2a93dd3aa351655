//! Policy compiled and installed: 50,000 rules at once, and one changed rule among them (DESIGN §16).
//!
//! `compile/50000-cold` makes the rule list and compiles it with an empty compiler. The other rows change one rule of
//! 50,000: `change` makes the edited list, compiles and installs it; `compile` and `install` are its parts, the second
//! being what a worker runs between packets. 1,000 flows are cached meanwhile. Lists that are due are rebuilt as a
//! daemon would do it on another thread, and programs that are no longer used are freed, both outside the measured time;
//! `rebuild` measures the former. The
//! percentiles that are printed are of 20,000 changes one after the other.

mod rig;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use lamina_core::action::{Action, Allow, Block};
use lamina_core::layer::{Compiler, Group, Policy, Rule, RuleList, Selection};
use std::sync::Arc;

use rig::{Bench, VM, acl, frame, policy};

const RULES: usize = 50_000;

fn with(policy: &Policy, rules: RuleList) -> Policy {
    let mut policy = policy.clone();
    let layer = policy.layers.iter_mut().find(|layer| &*layer.name == "acl").unwrap();
    let mut groups: Vec<Group> = layer.outbound.to_vec();
    groups[0].rules = rules;
    layer.outbound = groups.into();
    policy
}

/// A switch whose rules are edited.
struct Control {
    bench: Bench,
    compiler: Compiler,
    policy: Policy,
    rules: RuleList,
    n: usize,
}

impl Control {
    fn new() -> Control {
        let policy = policy(10, RULES);
        let rules =
            policy.layers.iter().find(|layer| &*layer.name == "acl").unwrap().outbound[0].rules.clone();
        let mut bench = Bench::new(10, RULES, 1_000);
        let mut compiler = Compiler::new();
        let program = compiler.compile(VM, &policy).unwrap();
        bench.switch.install(VM, program).unwrap();
        let frames: Vec<[u8; 60]> = (0..1_000).map(frame).collect();
        bench.warm(1_000, &frames);
        Control { bench, compiler, policy, rules, n: 0 }
    }

    /// Another rule: mostly replaced, sometimes removed or put back.
    fn edit(&mut self) -> RuleList {
        self.n += 1;
        let n = self.n * 7_919 % (RULES - 1) + 1;
        let name = format!("block-{n:05}");
        match self.rules.get(&name) {
            Some(rule) if !self.n.is_multiple_of(5) => {
                let action = match rule.action {
                    Action::Block(_) => Action::Allow(Allow),
                    _ => Action::Block(Block),
                };
                self.rules.put(Rule { action, ..rule.clone() })
            }
            Some(_) => self.rules.remove(&name),
            None => self.rules.put(acl(n + 2).swap_remove(n - 1)),
        }
    }

    /// What a daemon does beside the edits.
    fn rebuild_if_due(&mut self) {
        if self.rules.should_rebuild() {
            let rebuilt = Compiler::rebuild(&self.rules, Selection::Priority);
            self.rules = self.compiler.adopt(&rebuilt, &self.rules).unwrap();
            self.policy = with(&self.policy, self.rules.clone());
            let program = self.compiler.compile(VM, &self.policy).unwrap();
            self.bench.switch.install(VM, program).unwrap();
        }
    }

    /// One change: how long list and compile took, and how long the install.
    fn change(&mut self) -> (Duration, Duration) {
        self.rebuild_if_due();
        let start = Instant::now();
        let rules = self.edit();
        let policy = with(&self.policy, rules.clone());
        let program = self.compiler.compile(VM, &policy).unwrap();
        let compiled = start.elapsed();
        let start = Instant::now();
        self.bench.switch.install(VM, program).unwrap();
        let installed = start.elapsed();
        (self.policy, self.rules) = (policy, rules);
        self.bench.now = self.bench.now + lamina_core::time::Duration::from_milliseconds(1);
        // After the answer.
        drop(self.compiler.collect());
        if self.n.is_multiple_of(100) {
            self.bench.switch.sweep(self.bench.now);
        }
        (compiled, installed)
    }
}

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(1.0));
    println!("{name}: p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, most {most:?}");
}

fn publish(c: &mut Criterion) {
    let mut control = Control::new();
    let all: Vec<(Duration, Duration)> = (0..20_000).map(|_| control.change()).collect();
    percentiles("list and compile", all.iter().map(|times| times.0).collect());
    percentiles("install", all.iter().map(|times| times.1).collect());
    percentiles("together", all.iter().map(|times| times.0 + times.1).collect());

    let mut group = c.benchmark_group("publish");
    group.sample_size(20);
    let rules = acl(RULES);
    group.bench_function("compile/50000-cold", |b| {
        let base = policy(10, 10);
        b.iter_batched(
            || rules.clone(),
            |rules| {
                let policy = with(&base, RuleList::new(rules));
                (Compiler::new().compile(VM, &policy).unwrap(), policy)
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.bench_function("rebuild/50000", |b| {
        let list = control.rules.put(acl(3).swap_remove(0));
        b.iter(|| Compiler::rebuild(&list, Selection::Priority));
    });
    group.sample_size(100);
    type Part = fn((Duration, Duration)) -> Duration;
    let parts: [(&str, Part); 3] = [
        ("compile/1-of-50000", |times| times.0),
        ("install/1-of-50000", |times| times.1),
        ("change/1-of-50000", |times| times.0 + times.1),
    ];
    for (name, part) in parts {
        group.bench_function(name, |b| {
            b.iter_custom(|times| (0..times).map(|_| part(control.change())).sum());
        });
    }
    group.bench_function("compile/resources-only", |b| {
        b.iter(|| {
            control.policy.resources = Arc::new((*control.policy.resources).clone());
            control.compiler.compile(VM, &control.policy).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
