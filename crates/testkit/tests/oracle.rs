//! The core against the oracle: random policies, packets, replies, time and policy changes (§5.1's invariant).
//!
//! `LAMINA_CASES=100000 cargo test -p lamina-testkit --release --test oracle` is the long mode. The seed of a failing
//! case is printed and kept in `tests/oracle.proptest-regressions`, which every later run replays first.

use lamina_testkit::strategy::scenarios;
use lamina_testkit::{campaign, compare};

#[test]
fn the_core_does_what_the_oracle_does() {
    let cases = campaign::cases(4_000);
    let coverage = campaign::run("oracle", cases, &scenarios(60), |scenario| compare::run(&scenario));
    // A run that reaches nothing proves nothing.
    if cases >= 500 {
        assert!(coverage.sent * 4 > coverage.received, "most packets are dropped: {coverage:?}");
        assert!(coverage.hits > coverage.received / 20, "few packets hit the cache: {coverage:?}");
        assert!(coverage.drop_cache_hits > 0 && coverage.reconciled > 0 && coverage.layer_flows > 0);
        assert!(coverage.listed > 0 && coverage.cleared > 0 && coverage.captured > 0, "{coverage:?}");
        assert!(coverage.punted > 0 && coverage.sent_on > 0, "{coverage:?}");
        assert!(coverage.drops.len() >= 15, "few reasons to drop: {coverage:?}");
    }
}
