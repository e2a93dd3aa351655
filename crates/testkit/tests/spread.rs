//! Ports spread over several switches do what the oracle, which is one, does: random policies, packets and placements.
//!
//! `LAMINA_CASES=100000 cargo test -p lamina-testkit --release --test spread` is the long mode. The seed of a failing
//! case is printed and kept in `tests/spread.proptest-regressions`, which every later run replays first.

use std::cell::RefCell;

use lamina_testkit::compare::{self, Coverage};
use lamina_testkit::strategy::change::Change;
use lamina_testkit::strategy::{Scenario, Step, scenarios, universe};
use proptest::collection::vec;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

const CASES: u32 = 1_000;

fn cases() -> u32 {
    std::env::var("LAMINA_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

#[test]
fn several_switches_do_what_the_oracle_does() {
    let persistence = FileFailurePersistence::Direct("tests/spread.proptest-regressions");
    let config = Config {
        cases: cases(),
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let coverage = RefCell::new(Coverage::default());
    let cases = (scenarios(60), 2..5_usize, vec(0..4_usize, 8));
    let result = TestRunner::new(config).run(&cases, |(mut scenario, switches, places)| {
        same_tables(&mut scenario);
        match compare::run_spread(&scenario, switches, &places) {
            Ok(exercised) => {
                coverage.borrow_mut().add(&exercised);
                Ok(())
            }
            Err(why) => Err(TestCaseError::fail(why)),
        }
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let coverage = coverage.into_inner();
    println!("{coverage:#?}");
    // A run that hands nothing over proves nothing.
    assert!(coverage.handed_over * 10 > coverage.received, "few packets cross: {coverage:?}");
    assert!(coverage.hits > coverage.received / 20, "few packets hit the cache: {coverage:?}");
}

/// Each switch has mapping tables of its own, which the scenario's author, here nobody, must keep the same: all ports
/// declare the same, and nothing changes them.
fn same_tables(scenario: &mut Scenario) {
    let resources = universe::resources(0);
    scenario.policies.iter_mut().flatten().for_each(|policy| policy.resources = resources.clone());
    scenario.steps.retain(|step| {
        let changes = matches!(step, Step::Change { change: Change::Resources(_), .. });
        !changes && !matches!(step, Step::Mappings(_) | Step::Replace(_))
    });
}
