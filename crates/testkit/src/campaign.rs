//! A campaign: one property over many random cases, and what they reached together.
//!
//! It says how many cases there are (`LAMINA_CASES`, the long mode), where the seeds of failing ones are kept and
//! replayed from, and adds up what was exercised, since a run that reaches nothing proves nothing. It judges no case.

use std::cell::RefCell;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use crate::compare::Coverage;

/// How often a failing case is made smaller before it is printed.
const SHRINKS: u32 = 20_000;

/// How many cases a run has: what `LAMINA_CASES` says, else `ordinary`.
pub fn cases(ordinary: u32) -> u32 {
    std::env::var("LAMINA_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(ordinary)
}

/// Runs `check` on that many values of `strategy`. The seed of a failing one is kept in
/// `tests/NAME.proptest-regressions` of this crate, which every later run replays first.
///
/// # Panics
/// When a case fails: with the smallest one that does, and why.
pub fn run<S: Strategy>(
    name: &str,
    cases: u32,
    strategy: &S,
    check: impl Fn(S::Value) -> Result<Coverage, String>,
) -> Coverage {
    // The runner wants a path that lives as long as the program; there is one for each campaign.
    let seeds = format!("tests/{name}.proptest-regressions").leak();
    let persistence = FileFailurePersistence::Direct(seeds);
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: SHRINKS,
        ..Config::default()
    };
    let coverage = RefCell::new(Coverage::default());
    let result = TestRunner::new(config).run(strategy, |case| {
        coverage.borrow_mut().add(&check(case).map_err(TestCaseError::fail)?);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let coverage = coverage.into_inner();
    println!("{coverage:#?}");
    coverage
}
