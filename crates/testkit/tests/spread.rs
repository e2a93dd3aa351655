//! Ports spread over several switches do what the oracle, which is one, does: random policies, packets and placements.
//!
//! `LAMINA_CASES=100000 cargo test -p lamina-testkit --release --test spread` is the long mode. The seed of a failing
//! case is printed and kept in `tests/spread.proptest-regressions`, which every later run replays first.

use lamina_core::action::Action;
use lamina_testkit::strategy::change::Change;
use lamina_testkit::strategy::{Scenario, Step, scenarios, universe};
use lamina_testkit::{campaign, compare};
use proptest::collection::vec;

#[test]
fn several_switches_do_what_the_oracle_does() {
    let placed = (scenarios(60), 2..5_usize, vec(0..4_usize, 8));
    let cases = campaign::cases(1_000);
    let coverage = campaign::run("spread", cases, &placed, |(mut scenario, switches, places)| {
        same_tables(&mut scenario);
        // Copies of a broadcast that turn round meet again in an order that nobody promises between switches, and the
        // first of them begins the conversation.
        if turns(&scenario) {
            scenario.has_multicast = false;
            scenario.steps.retain(|step| !matches!(step, Step::Multicast(_)));
        }
        compare::run_spread(&scenario, switches, &places)
    });
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

/// Whether a packet may turn round: at a port's rules, or at one that gets such an action.
fn turns(scenario: &Scenario) -> bool {
    let is_turn = |action: &Action| matches!(action, Action::Hairpin(_));
    let layers = scenario.policies.iter().flatten().flat_map(|policy| &policy.layers);
    let groups = layers.flat_map(|layer| layer.inbound.iter().chain(layer.outbound.iter()));
    groups.flat_map(|group| group.rules.iter()).any(|rule| is_turn(&rule.action))
        || scenario.steps.iter().any(
            |step| matches!(step, Step::Change { change: Change::Act(_, action), .. } if is_turn(action)),
        )
}
