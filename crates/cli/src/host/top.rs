//! `lamina top`: what passes right now, the busiest first.
//!
//! Counters are read again and again; what they rose by, divided by the time between, is the rate. A counter that is new
//! or has fallen (its object was made anew) has no rate yet.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use lamina_api::wire::v1::Counter;
use serde_json::{Value, json};

use super::DaemonArgs;
use super::name::way;
use super::output::{Rows, json, or_dash, short, text};
use super::stats::{self, CounterArgs};

/// Clears the screen and goes to its first place.
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Kinds of counters that are shown unless others are asked for. The others would count the same packets again.
const KINDS: [&str; 5] = ["port", "rule", "default", "meter", "uplink"];

/// Show what passes right now, the busiest first.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    which: CounterArgs,
    /// Seconds between two readings.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// The most lines.
    #[arg(long, value_name = "N", default_value_t = 30)]
    lines: usize,
    /// Also what is idle.
    #[arg(long)]
    idle: bool,
    /// Print the rates of one interval and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("an interval is 0.05 to 3600 seconds".into()),
    }
}

/// What a counter rose by in a second.
#[derive(Clone, PartialEq, Debug)]
struct Rate {
    counter: Counter,
    packets: f64,
    bytes: f64,
}

/// Runs the command; without `--once` it ends when it is interrupted.
pub fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let mut which = args.which.clone();
        if which.kinds.is_empty() {
            which.kinds = KINDS.map(String::from).to_vec();
        }
        let is_screen = io::stdout().is_terminal() && !args.daemon.json && !args.once;
        let mut before = stats::counters(&mut host, &which, false).await?;
        let mut read_at = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs_f64(args.interval)).await;
            let after = stats::counters(&mut host, &which, false).await?;
            let now = Instant::now();
            let mut rates = rates(&before, &after, (now - read_at).as_secs_f64());
            rates.retain(|rate| args.idle || rate.packets > 0.0);
            let hidden = rates.len().saturating_sub(args.lines);
            rates.truncate(args.lines);
            if args.daemon.json {
                json(&json!({ "interval": (now - read_at).as_secs_f64(), "rates": to_json(&rates), "hidden": hidden }))?;
            } else {
                let clear = if is_screen { CLEAR } else { "" };
                let more = if hidden > 0 { format!("... and {hidden} more\n") } else { String::new() };
                text(&format!("{clear}{}{more}", table(&rates)))?;
            }
            if args.once {
                return Ok(ExitCode::SUCCESS);
            }
            (before, read_at) = (after, now);
        }
    })
}

type Key<'c> = (&'c str, &'c str, &'c str, i32, &'c str, &'c str, &'c [String]);

fn key(counter: &Counter) -> Key<'_> {
    let Counter { kind, port, layer, direction, group, name, key, .. } = counter;
    (kind, port, layer, *direction, group, name, key)
}

/// The rates of `after` against `before`, the busiest first.
fn rates(before: &[Counter], after: &[Counter], seconds: f64) -> Vec<Rate> {
    let before: HashMap<Key<'_>, &Counter> = before.iter().map(|counter| (key(counter), counter)).collect();
    let rates = after.iter().filter_map(|counter| {
        let old = before.get(&key(counter))?;
        let packets = counter.packets.checked_sub(old.packets)? as f64 / seconds;
        let bytes = counter.bytes.checked_sub(old.bytes)? as f64 / seconds;
        Some(Rate { counter: counter.clone(), packets, bytes })
    });
    let mut rates: Vec<Rate> = rates.collect();
    rates.sort_by(|a, b| b.bytes.total_cmp(&a.bytes).then_with(|| key(&a.counter).cmp(&key(&b.counter))));
    rates
}

fn table(rates: &[Rate]) -> String {
    let mut rows = Rows::new(&["KIND", "PORT", "DIRECTION", "NAME", ">PACKETS/S", ">BITS/S"]);
    for Rate { counter, packets, bytes } in rates {
        let parts = [&counter.layer, &counter.group, &counter.name].into_iter().chain(&counter.key);
        let name = parts.filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/");
        let (packets, bits) = (short(*packets), short(bytes * 8.0));
        let way = or_dash(way(counter.direction));
        rows.add([&counter.kind, or_dash(&counter.port), way, or_dash(&name), &packets, &bits]);
    }
    if rates.is_empty() { "nothing passes\n".into() } else { rows.text() }
}

fn to_json(rates: &[Rate]) -> Value {
    let values = rates.iter().map(|rate| {
        let mut value = stats::to_json(&rate.counter);
        value["packets-per-second"] = json!(rate.packets);
        value["bytes-per-second"] = json!(rate.bytes);
        value
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, packets: u64, bytes: u64) -> Counter {
        Counter { kind: "rule".into(), name: name.into(), packets, bytes, ..Counter::default() }
    }

    #[test]
    fn rates_are_what_counters_rose_by() {
        let before = [counter("a", 10, 1000), counter("b", 5, 100), counter("remade", 9, 9)];
        let after = [
            counter("a", 20, 2000),
            counter("b", 505, 60_100),
            counter("remade", 1, 1),
            counter("new", 4, 4),
        ];
        let rates = rates(&before, &after, 2.0);
        let names: Vec<&str> = rates.iter().map(|rate| &*rate.counter.name).collect();
        assert_eq!(names, ["b", "a"], "the busiest first; what has no rate yet is left out");
        assert_eq!((rates[0].packets, rates[0].bytes), (250.0, 30_000.0));
        let wanted = "KIND  PORT  DIRECTION  NAME  PACKETS/S  BITS/S\nrule  -     -          b           250    240k\nrule  -     -          a             5    4.0k\n";
        assert_eq!(table(&rates), wanted);
        assert_eq!(table(&[]), "nothing passes\n");
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(interval("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "3601", "x"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
