//! What a lab's checks came to: as a table for a person, as JSON for a program.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

/// The result of one check.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The check's name.
    pub name: String,
    /// What was expected and seen: the probe's own line first, then policy changes and counters.
    pub lines: Vec<Line>,
    /// How long it took.
    pub took: Duration,
}

/// One expectation.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whether it was met.
    pub ok: bool,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// The figures behind `seen`.
    pub figures: Value,
}

impl Outcome {
    /// True when everything was as expected.
    pub fn ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }
}

impl Line {
    /// An expectation that was met or not.
    pub fn new(ok: bool, expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Line { ok, expected: expected.into(), seen: seen.into(), figures: Value::Null }
    }

    /// A check that could not be made.
    pub fn failed(why: impl Into<String>) -> Self {
        Line::new(false, "the check can be made", why)
    }

    /// With figures for programs.
    pub fn with(mut self, figures: Value) -> Self {
        self.figures = figures;
        self
    }
}

/// True when every check was as expected.
pub fn all_ok(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(Outcome::ok)
}

/// The table of expected against seen.
pub fn table(outcomes: &[Outcome], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(["", "check", "expected", "seen"]);
    for outcome in outcomes {
        for (index, line) in outcome.lines.iter().enumerate() {
            let name = if index == 0 { outcome.name.as_str() } else { "" };
            let verdict = if line.ok { "ok" } else { "FAILED" };
            table.add_row([verdict, name, line.expected.as_str(), line.seen.as_str()]);
        }
    }
    table.to_string()
}

/// One sentence: how many checks were as expected.
pub fn summary(outcomes: &[Outcome]) -> String {
    let ok = outcomes.iter().filter(|outcome| outcome.ok()).count();
    let took: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    format!("{ok} of {} checks as expected in {:.1} s", outcomes.len(), took.as_secs_f64())
}

/// The outcomes as JSON; the keys are stable.
pub fn json(name: &str, outcomes: &[Outcome]) -> Value {
    let check = |outcome: &Outcome| {
        let lines: Vec<_> = outcome
            .lines
            .iter()
            .map(|line| json!({ "ok": line.ok, "expected": line.expected, "seen": line.seen, "figures": line.figures }))
            .collect();
        json!({
            "name": outcome.name, "ok": outcome.ok(), "lines": lines,
            "microseconds": outcome.took.as_micros() as u64,
        })
    };
    json!({
        "topology": name,
        "ok": all_ok(outcomes),
        "checks": outcomes.iter().map(check).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_fails_fails_its_check_and_the_lab() {
        let outcome = |oks: &[bool]| Outcome {
            name: "a check".into(),
            lines: oks.iter().map(|ok| Line::new(*ok, "this", "that")).collect(),
            took: Duration::from_millis(5),
        };
        let outcomes = [outcome(&[true, true]), outcome(&[true, false])];
        assert!(outcomes[0].ok() && !outcomes[1].ok() && !all_ok(&outcomes) && all_ok(&outcomes[..1]));
        assert_eq!(summary(&outcomes), "1 of 2 checks as expected in 0.0 s");
        let table = table(&outcomes, Some(80));
        assert_eq!(table.matches("FAILED").count(), 1, "{table}");
        assert_eq!(table.matches("a check").count(), 2, "{table}");
        let json = json("t", &outcomes);
        assert_eq!(json["checks"][1]["lines"][1]["ok"], Value::Bool(false));
        assert_eq!(json["ok"], Value::Bool(false));
    }
}
