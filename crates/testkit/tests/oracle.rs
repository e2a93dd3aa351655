//! The core against the oracle: random policies, packets, replies, time and policy changes (§5.1's invariant).
//!
//! `LAMINA_CASES=100000 cargo test -p lamina-testkit --release --test oracle` is the long mode. The seed of a failing
//! case is printed and kept in `tests/oracle.proptest-regressions`, which every later run replays first.

use std::cell::RefCell;

use lamina_testkit::compare::{self, Coverage};
use lamina_testkit::strategy::scenarios;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

const CASES: u32 = 4_000;

fn cases() -> u32 {
    std::env::var("LAMINA_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

#[test]
fn the_core_does_what_the_oracle_does() {
    let persistence = FileFailurePersistence::Direct("tests/oracle.proptest-regressions");
    let config = Config {
        cases: cases(),
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let coverage = RefCell::new(Coverage::default());
    let result = TestRunner::new(config).run(&scenarios(60), |scenario| match compare::run(&scenario) {
        Ok(exercised) => {
            coverage.borrow_mut().add(&exercised);
            Ok(())
        }
        Err(why) => Err(TestCaseError::fail(why)),
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let coverage = coverage.into_inner();
    println!("{coverage:#?}");
    // A run that reaches nothing proves nothing.
    if cases() >= 500 {
        assert!(coverage.sent * 4 > coverage.received, "most packets are dropped: {coverage:?}");
        assert!(coverage.hits > coverage.received / 20, "few packets hit the cache: {coverage:?}");
        assert!(coverage.drop_cache_hits > 0 && coverage.reconciled > 0 && coverage.layer_flows > 0);
        assert!(coverage.listed > 0 && coverage.cleared > 0 && coverage.captured > 0, "{coverage:?}");
        assert!(coverage.drops.len() >= 15, "few reasons to drop: {coverage:?}");
    }
}
