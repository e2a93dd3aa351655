//! Checks: each is run, watched and judged here; how a probe works is its own file.
//!
//! A check's counters are read before and after it. Afterwards they are read until they are as expected or
//! [`SETTLE`] is over: the last packets of a conversation may still be on their way when the probe has seen enough.

mod datagrams;
mod pattern;
mod ping;
mod stream;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lamina_api::topology::{
    Amount, Apply, Bounds, Check, Count, Counter, Datagrams, Expect, Ping, PolicyChange, Probe, Server,
    Stream,
};
use lamina_backend::namespace::NetNs;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Family, Value};
use lamina_core::stats;
use serde_json::json;

use super::Lab;
use super::report::{Line, Outcome};
use stream::Refusal;

/// How long counters may take to show what a check did.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs `check`, the `number`th of the lab.
pub fn run(lab: &Lab, check: &Check, number: usize) -> Outcome {
    let started = Instant::now();
    let before: Vec<_> = check.counts.iter().map(|count| read(lab, count)).collect();
    let mut lines =
        probe(lab, check, number).unwrap_or_else(|error| vec![Line::failed(format!("{error:#}"))]);
    for (count, before) in check.counts.iter().zip(before) {
        lines.push(counted(lab, count, before).unwrap_or_else(|error| Line::failed(format!("{error:#}"))));
    }
    Outcome { name: check.name.to_string(), lines, took: started.elapsed() }
}

fn probe(lab: &Lab, check: &Check, number: usize) -> Result<Vec<Line>> {
    // Contents differ from check to check, so that an answer to an earlier one is never taken for this one's.
    let seed = 0x6c61_6d69_6e61_0000 ^ number as u64;
    match &check.probe {
        Probe::Ping(probe) => {
            let id = (std::process::id() as u16).rotate_left(5) ^ number as u16;
            let seen =
                ping::run(guest(lab, &probe.from)?, probe, id).context("the ping could not be sent")?;
            Ok(vec![pinged(probe, check.expect, &seen)])
        }
        Probe::Stream(probe) => streamed(lab, check, probe, seed),
        Probe::Datagrams(probe) => {
            let servers = servers(lab, &probe.served_by)?;
            let seen = datagrams::run(guest(lab, &probe.from)?, &servers, probe, seed)
                .context("the datagrams could not be sent")?;
            Ok(vec![exchanged(probe, check.expect, &seen)])
        }
        Probe::Apply(change) => Ok(vec![applied(lab, change, check.expect)]),
        Probe::Wait(time) => {
            std::thread::sleep(*time);
            Ok(vec![Line::new(true, format!("{} pass", duration(*time)), "they passed")])
        }
    }
}

fn guest<'l>(lab: &'l Lab, name: &str) -> Result<&'l NetNs> {
    lab.fabric.guest(name).with_context(|| format!("there is no guest {name}"))
}

fn servers<'l>(lab: &'l Lab, servers: &[Server]) -> Result<Vec<&'l NetNs>> {
    servers.iter().map(|server| guest(lab, &server.guest)).collect()
}

fn pinged(probe: &Ping, expect: Expect, seen: &ping::Pinged) -> Line {
    let answered = seen.answered.len();
    let expected = match expect {
        Expect::Pass => format!("{} echo replies from {}", probe.count, probe.to),
        Expect::Blocked => format!("no echo reply from {}", probe.to),
    };
    let mut text = format!("{answered} of {} answered", probe.count);
    if let Some(shortest) = seen.answered.iter().min() {
        text += &format!(", fastest {}", duration(*shortest));
    }
    if let Some((count, reason)) = &seen.refused {
        text += &format!(", {count} refused by the guest's own stack: {reason}");
    }
    if seen.duplicates > 0 {
        text += &format!(", {} answered twice", seen.duplicates);
    }
    let ok = match expect {
        Expect::Pass => answered == usize::from(probe.count) && seen.duplicates == 0,
        Expect::Blocked => answered == 0 && seen.refused.is_none(),
    };
    Line::new(ok, expected, text).with(json!({
        "sent": seen.sent, "answered": answered, "duplicates": seen.duplicates,
        "round-trip-microseconds": seen.answered.iter().map(Duration::as_micros).collect::<Vec<_>>(),
    }))
}

fn streamed(lab: &Lab, check: &Check, probe: &Stream, seed: u64) -> Result<Vec<Line>> {
    let servers = servers(lab, &probe.served_by)?;
    let client = guest(lab, &probe.from)?;
    let (seen, changes) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| meanwhile(lab, &check.meanwhile, probe.amount));
        let seen = stream::run(client, &servers, probe, seed);
        (seen, changes.join())
    });
    let seen = seen.context("the stream could not be started")?;
    let mut lines = vec![judged(probe, check.expect, &seen)];
    match changes {
        Ok(changes) => lines.extend(changes),
        Err(_) => lines.push(Line::failed("the thread that changes policy panicked")),
    }
    Ok(lines)
}

/// Makes the changes, evenly spread over the stream's time.
fn meanwhile(lab: &Lab, changes: &[Apply], amount: Amount) -> Vec<Line> {
    let Amount::Time(time) = amount else { return Vec::new() };
    let pause = time / (changes.len() as u32 + 1);
    let made = changes.iter().map(|change| {
        std::thread::sleep(pause);
        applied(lab, change, Expect::Pass)
    });
    made.collect()
}

fn judged(probe: &Stream, expect: Expect, seen: &stream::Streamed) -> Line {
    let amount = match probe.amount {
        Amount::Bytes(bytes) => format!("{} each way", bytes_text(bytes)),
        Amount::Time(time) => format!("{} both ways", duration(time)),
    };
    let to = endpoint(probe.to, probe.port);
    let expected = match (expect, probe.connections) {
        (Expect::Pass, 1) => format!("TCP to {to}, {amount}"),
        (Expect::Pass, connections) => format!("{connections} TCP connections to {to}, {amount}"),
        (Expect::Blocked, _) => format!("no TCP connection to {to}"),
    };
    let mut parts = Vec::new();
    if seen.connected > 0 {
        let rate = seen.bytes as f64 * 8.0 / seen.took.as_secs_f64().max(1e-9) / 1e6;
        parts.push(format!("{} intact, {rate:.0} Mbit/s", bytes_text(seen.bytes)));
        parts.push(format!("longest pause {}", duration(seen.longest_gap)));
        if probe.served_by.len() > 1 {
            let shares = probe.served_by.iter().zip(&seen.served);
            let shares: Vec<_> =
                shares.map(|(server, served)| format!("{} {served}", server.guest)).collect();
            parts.push(shares.join(", "));
        }
    }
    parts.extend(seen.refusal.map(|refusal| {
        let text = match refusal {
            Refusal::Silence => format!("no answer within {}", duration(probe.timeout)),
            Refusal::Reset => "connection refused".into(),
            Refusal::Unreachable => "destination unreachable".into(),
        };
        if probe.connections > 1 {
            format!("{} not connected: {text}", probe.connections.saturating_sub(seen.connected))
        } else {
            text
        }
    }));
    parts.extend(seen.failures.iter().take(3).cloned());
    let ok = match expect {
        Expect::Pass => {
            seen.connected == probe.connections && seen.refusal.is_none() && seen.failures.is_empty()
        }
        Expect::Blocked => seen.connected == 0 && seen.refusal == Some(Refusal::Silence),
    };
    Line::new(ok, expected, parts.join("; ")).with(json!({
        "connected": seen.connected, "bytes": seen.bytes, "microseconds": seen.took.as_micros(),
        "longest-pause-microseconds": seen.longest_gap.as_micros(), "failures": seen.failures,
        "served": probe.served_by.iter().zip(&seen.served)
            .map(|(server, served)| (server.guest.to_string(), json!(served)))
            .collect::<serde_json::Map<_, _>>(),
    }))
}

fn exchanged(probe: &Datagrams, expect: Expect, seen: &datagrams::Exchanged) -> Line {
    let to = endpoint(probe.to, probe.port);
    let expected = match expect {
        Expect::Pass => format!("{} UDP datagrams echoed by {to}", probe.count),
        Expect::Blocked => format!("no UDP datagram echoed by {to}"),
    };
    let mut text = format!("{} of {} echoed", seen.answered, seen.sent);
    if seen.wrong > 0 {
        text += &format!(", {} wrong", seen.wrong);
    }
    if seen.unreachable {
        text += ", destination unreachable";
    }
    let ok = match expect {
        Expect::Pass => seen.answered == probe.count && seen.wrong == 0,
        Expect::Blocked => seen.sent > 0 && seen.answered == 0 && seen.wrong == 0 && !seen.unreachable,
    };
    Line::new(ok, expected, text).with(json!({
        "sent": seen.sent, "echoed": seen.answered, "wrong": seen.wrong, "unreachable": seen.unreachable,
    }))
}

fn applied(lab: &Lab, apply: &Apply, expect: Expect) -> Line {
    let what = match &apply.change {
        PolicyChange::Set(policy) => format!("policy {} set on {}", policy.name, apply.host),
        PolicyChange::Remove(name) => format!("policy {name} removed from {}", apply.host),
    };
    let started = Instant::now();
    let result = lab.switch(&apply.host).and_then(|switch| switch.apply(&apply.change));
    let ok = result.is_ok() == (expect == Expect::Pass);
    let expected = if expect == Expect::Pass { what } else { format!("{what} is refused") };
    match result {
        Ok(ports) => {
            let text =
                format!("in force on {ports} port{} after {}", plural(ports), duration(started.elapsed()));
            Line::new(ok, expected, text)
        }
        Err(error) => Line::new(ok, expected, format!("refused: {error:#}")),
    }
}

/// The counter's present value; `None` where the port has no rule or meter, and nobody a drop reason, of that name.
fn read(lab: &Lab, count: &Count) -> Result<Option<stats::Count>> {
    let counters = lab.switch(&count.host)?.counters(&count.port)?;
    let mut total = stats::Count::default();
    let mut known = false;
    match &count.counter {
        Counter::Rule { layer, group, rule } => {
            let layers = counters.layers.iter().filter(|counted| counted.name == *layer);
            let groups = layers.flat_map(|layer| &layer.groups).filter(|counted| counted.name == *group);
            for (_, count) in groups.flat_map(|group| &group.rules).filter(|(name, _)| name == rule) {
                known = true;
                total.add(*count);
            }
        }
        Counter::Meter { meter, key } => {
            for counted in counters.meters.iter().filter(|counted| counted.name == *meter) {
                known = true;
                let cells = counted.cells.iter().filter(|(values, _)| same_key(values, key));
                cells.for_each(|(_, count)| total.add(*count));
            }
        }
        Counter::Drops(reason) => {
            known = DropReason::ALL.iter().any(|known| known.name() == reason);
            let drops = counters.drops.iter().filter(|(counted, _)| counted.name() == reason);
            total.packets = drops.map(|(_, packets)| packets).sum();
        }
    }
    Ok(known.then_some(total))
}

fn same_key(values: &[Option<Value>], key: &[String]) -> bool {
    let shown = |value: &Option<Value>| value.map_or_else(|| "-".to_string(), value_text);
    values.len() == key.len() && values.iter().map(shown).eq(key.iter().cloned())
}

/// A value of a meter's key, as written in a topology.
fn value_text(value: Value) -> String {
    match value.family {
        Family::Ipv4 => Ipv4Addr::from_bits(value.bits as u32).to_string(),
        Family::Ipv6 => Ipv6Addr::from_bits(value.bits).to_string(),
        Family::Number => value.bits.to_string(),
    }
}

fn counted(lab: &Lab, count: &Count, before: Result<Option<stats::Count>>) -> Result<Line> {
    let before = before?;
    let deadline = Instant::now() + SETTLE;
    let within = |bounds: &Option<Bounds>, number| bounds.is_none_or(|bounds| bounds.contains(number));
    loop {
        let now = read(lab, count)?;
        // A name that exists neither before nor after is a mistake, which "0 packets" would hide.
        let known = before.is_some() || now.is_some();
        let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
        let packets = now.packets.saturating_sub(before.packets);
        let bytes = now.bytes.saturating_sub(before.bytes);
        let ok = known && within(&count.packets, packets) && within(&count.bytes, bytes);
        if ok || !known || Instant::now() >= deadline {
            let what = match &count.counter {
                Counter::Rule { layer, group, rule } => format!("rule {layer}/{group}/{rule}"),
                Counter::Meter { meter, key } => format!("meter {meter} {}", key.join(" ")),
                Counter::Drops(reason) => format!("drops {reason}"),
            };
            let mut expected = Vec::new();
            expected.extend(count.packets.map(|bounds| format!("{bounds} packets")));
            expected.extend(count.bytes.map(|bounds| format!("{bounds} bytes")));
            let expected = format!("{} {what}: {}", count.port, expected.join(", "));
            let seen = match &count.counter {
                Counter::Rule { .. } if !known => format!("{} has no such rule", count.port),
                Counter::Meter { .. } if !known => format!("{} has no such meter", count.port),
                Counter::Drops(_) if !known => {
                    "no such drop reason; see `lamina explain drop-reasons`".into()
                }
                Counter::Drops(_) => format!("{packets} packets"),
                _ => format!("{packets} packets, {bytes} bytes"),
            };
            return Ok(Line::new(ok, expected, seen).with(json!({ "packets": packets, "bytes": bytes })));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn endpoint(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn duration(time: Duration) -> String {
    match time.as_micros() {
        0..1_000 => format!("{} µs", time.as_micros()),
        1_000..1_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
