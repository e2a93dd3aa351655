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
    /// What was dropped meanwhile, by cause, where the check was not as expected.
    pub dropped: Vec<Dropped>,
    /// How long it took.
    pub took: Duration,
}

/// Packets that were dropped for one cause.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Dropped {
    /// The host.
    pub host: String,
    /// The port or uplink.
    pub port: String,
    /// `inbound` or `outbound`, seen from the guest; may be empty.
    pub direction: String,
    /// The reason, as `lamina explain` lists them.
    pub reason: String,
    /// The layer, where one dropped them.
    pub layer: String,
    /// The group.
    pub group: String,
    /// The rule; empty for the layer's default.
    pub rule: String,
    /// How many.
    pub packets: u64,
}

/// A line that a process of the lab wrote to standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// The host that it belongs to.
    pub host: String,
    /// `daemon`, or `controller` with the name of its policy.
    pub process: String,
    /// The line.
    pub text: String,
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

impl Dropped {
    fn text(&self) -> String {
        let parts = [&self.layer, &self.group, &self.rule].map(String::as_str);
        let place = match parts {
            ["", ..] => String::new(),
            [layer, "", _] | [layer, _, ""] => format!(" by the default of {layer}"),
            parts => format!(" by {}", parts.join("/")),
        };
        let packets = if self.packets == 1 { "packet" } else { "packets" };
        let way = if self.direction.is_empty() { String::new() } else { format!(" {}", self.direction) };
        format!("{} {packets} {}{place}, on {}{way} of {}", self.packets, self.reason, self.port, self.host)
    }

    fn to_json(&self) -> Value {
        json!({
            "host": self.host, "port": self.port, "direction": self.direction, "reason": self.reason,
            "layer": self.layer, "group": self.group, "rule": self.rule, "packets": self.packets,
        })
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
        if !outcome.ok() {
            let seen: Vec<_> = outcome.dropped.iter().map(Dropped::text).collect();
            let seen = if seen.is_empty() { "nothing was dropped".into() } else { seen.join("\n") };
            table.add_row(["", "", "dropped meanwhile", &seen]);
        }
    }
    table.to_string()
}

/// What processes said, and which ended before they were told to: a line for each.
pub fn messages(said: &[Said], ended: &[String]) -> String {
    let said = said.iter().map(|said| format!("{} {}: {}\n", said.host, said.process, said.text));
    said.chain(ended.iter().map(|text| format!("FAILED: {text}\n"))).collect()
}

/// One sentence: how many checks were as expected.
pub fn summary(outcomes: &[Outcome]) -> String {
    let ok = outcomes.iter().filter(|outcome| outcome.ok()).count();
    let took: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    format!("{ok} of {} checks as expected in {:.1} s", outcomes.len(), took.as_secs_f64())
}

/// The outcomes as JSON; the keys are stable.
pub fn json(name: &str, outcomes: &[Outcome], said: &[Said], ended: &[String]) -> Value {
    let check = |outcome: &Outcome| {
        let lines: Vec<_> = outcome
            .lines
            .iter()
            .map(|line| json!({ "ok": line.ok, "expected": line.expected, "seen": line.seen, "figures": line.figures }))
            .collect();
        json!({
            "name": outcome.name, "ok": outcome.ok(), "lines": lines,
            "dropped": outcome.dropped.iter().map(Dropped::to_json).collect::<Vec<_>>(),
            "microseconds": outcome.took.as_micros() as u64,
        })
    };
    let message = |said: &Said| json!({ "host": said.host, "process": said.process, "text": said.text });
    json!({
        "topology": name,
        "ok": all_ok(outcomes) && ended.is_empty(),
        "checks": outcomes.iter().map(check).collect::<Vec<_>>(),
        "messages": said.iter().map(message).collect::<Vec<_>>(),
        "ended": ended,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(oks: &[bool], dropped: Vec<Dropped>) -> Outcome {
        Outcome {
            name: "a check".into(),
            lines: oks.iter().map(|ok| Line::new(*ok, "this", "that")).collect(),
            dropped,
            took: Duration::from_millis(5),
        }
    }

    fn dropped(layer: &str, group: &str, rule: &str, packets: u64) -> Dropped {
        Dropped {
            host: "h1".into(),
            port: "vm1".into(),
            direction: "inbound".into(),
            reason: "blocked".into(),
            layer: layer.into(),
            group: group.into(),
            rule: rule.into(),
            packets,
        }
    }

    #[test]
    fn one_line_that_fails_fails_its_check_and_the_lab() {
        let outcomes = [outcome(&[true, true], Vec::new()), outcome(&[true, false], Vec::new())];
        assert!(outcomes[0].ok() && !outcomes[1].ok() && !all_ok(&outcomes) && all_ok(&outcomes[..1]));
        assert_eq!(summary(&outcomes), "1 of 2 checks as expected in 0.0 s");
        let table = table(&outcomes, Some(80));
        assert_eq!(table.matches("FAILED").count(), 1, "{table}");
        assert_eq!(table.matches("a check").count(), 2, "{table}");
        assert_eq!(table.matches("nothing was dropped").count(), 1, "{table}");
        let json = json("t", &outcomes, &[], &[]);
        assert_eq!(json["checks"][1]["lines"][1]["ok"], Value::Bool(false));
        assert_eq!(json["ok"], Value::Bool(false));
    }

    #[test]
    fn a_process_that_ended_fails_the_lab() {
        let outcomes = [outcome(&[true], Vec::new())];
        let said = [Said { host: "h1".into(), process: "daemon".into(), text: "WARN of something".into() }];
        let ended = ["the daemon of h1 has ended".to_string()];
        assert_eq!(json("t", &outcomes, &said, &[])["ok"], true);
        let json = json("t", &outcomes, &said, &ended);
        assert_eq!((&json["ok"], &json["messages"][0]["host"]), (&Value::Bool(false), &Value::from("h1")));
        let text = messages(&said, &ended);
        assert_eq!(text, "h1 daemon: WARN of something\nFAILED: the daemon of h1 has ended\n");
    }

    #[test]
    fn drops_are_told_with_who_dropped() {
        let texts = [dropped("acl", "in", "deny", 3), dropped("acl", "", "", 1), dropped("", "", "", 2)]
            .map(|dropped| dropped.text());
        assert_eq!(texts[0], "3 packets blocked by acl/in/deny, on vm1 inbound of h1");
        assert_eq!(texts[1], "1 packet blocked by the default of acl, on vm1 inbound of h1");
        assert_eq!(texts[2], "2 packets blocked, on vm1 inbound of h1");
        let failed = [outcome(&[false], vec![dropped("acl", "in", "deny", 3)])];
        assert!(table(&failed, None).contains("by acl/in/deny"));
        assert_eq!(json("t", &failed, &[], &[])["checks"][0]["dropped"][0]["rule"], "deny");
    }
}
