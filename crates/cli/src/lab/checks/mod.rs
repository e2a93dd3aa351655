//! Checks: each is run, watched and judged here; how a probe works is its own file.
//!
//! A check's counters are read before and after it. Afterwards they are read until they are as expected or
//! a short time is over: the last packets of a conversation may still be on their way when the probe has seen enough.

mod counters;
mod datagrams;
mod drops;
mod frames;
mod pattern;
mod ping;
mod stream;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lamina_api::topology::{
    Amount, Apply, Bounds, Check, Datagrams, Expect, Frames, Ping, PolicyChange, Probe, Server, Stream,
};
use lamina_backend::namespace::NetNs;
use serde_json::json;

use super::Lab;
use super::report::{Line, Outcome};
use stream::Refusal;

/// Runs `check`, the `number`th of the lab.
pub fn run(lab: &Lab, check: &Check, number: usize) -> Outcome {
    let started = Instant::now();
    let drops_before = drops::read(lab);
    let before: Vec<_> = check.counts.iter().map(|count| counters::read(lab, count)).collect();
    let mut lines =
        probe(lab, check, number).unwrap_or_else(|error| vec![Line::failed(format!("{error:#}"))]);
    for (count, before) in check.counts.iter().zip(before) {
        let counted = counters::counted(lab, count, before);
        lines.push(counted.unwrap_or_else(|error| Line::failed(format!("{error:#}"))));
    }
    let took = started.elapsed();
    let mut dropped = Vec::new();
    if lines.iter().any(|line| !line.ok) {
        match drops_before.and_then(|before| Ok(drops::since(&before, &drops::read(lab)?))) {
            Ok(since) => dropped = since,
            Err(error) => lines.push(Line::failed(format!("{error:#}"))),
        }
    }
    Outcome { name: check.name.to_string(), lines, dropped, took }
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
        Probe::Frames(probe) => {
            let seen = frames::run([guest(lab, &probe.from)?, guest(lab, &probe.to)?], probe, seed)
                .context("the frames could not be sent")?;
            Ok(vec![heard(probe, check.expect, &seen)])
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
    lines.extend(probe.shares.iter().map(|(server, bounds)| shared(probe, server, *bounds, &seen)));
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

/// The part of the connections that `server` had.
fn shared(probe: &Stream, server: &str, bounds: Bounds, seen: &stream::Streamed) -> Line {
    let served = probe.served_by.iter().zip(&seen.served).filter(|(known, _)| *known.guest == *server);
    let served: u64 = served.map(|(_, served)| u64::from(*served)).sum();
    let expected = format!("{server} serves {bounds} of {}", probe.connections);
    Line::new(bounds.contains(served), expected, served.to_string())
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

fn heard(probe: &Frames, expect: Expect, seen: &frames::Heard) -> Line {
    let Frames { from, to, count, .. } = probe;
    let (sent, arrives) = (tagged(&probe.tags), tagged(&probe.arrives));
    let expected = match expect {
        Expect::Pass => format!("{count} frames {sent} from {from} reach {to} {arrives}"),
        Expect::Blocked => format!("no frame {sent} from {from} reaches {to}"),
    };
    let mut text = format!("{} of {} arrived {arrives}", seen.arrived, seen.sent);
    for (tags, frames) in &seen.otherwise {
        text += &format!(", {frames} {}", tagged(tags));
    }
    if seen.duplicates > 0 {
        text += &format!(", {} more than once", seen.duplicates);
    }
    let ok = match expect {
        Expect::Pass => seen.arrived == *count && seen.otherwise.is_empty() && seen.duplicates == 0,
        Expect::Blocked => seen.sent == *count && seen.arrived == 0 && seen.otherwise.is_empty(),
    };
    let otherwise: Vec<_> =
        seen.otherwise.iter().map(|(tags, frames)| json!({ "tags": tags, "frames": frames })).collect();
    Line::new(ok, expected, text).with(json!({
        "sent": seen.sent, "arrived": seen.arrived, "otherwise": otherwise, "duplicates": seen.duplicates,
    }))
}

/// What tags frames bear, in words.
fn tagged(tags: &[u16]) -> String {
    match tags {
        [] => "without tag".into(),
        [tag] => format!("with tag {tag}"),
        tags => {
            format!("with tags {}", tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))
        }
    }
}

fn applied(lab: &Lab, apply: &Apply, expect: Expect) -> Line {
    let what = match &apply.change {
        PolicyChange::Set(policy) => format!("policy {} set on {}", policy.name, apply.host),
        PolicyChange::Remove(name) => format!("policy {name} removed from {}", apply.host),
    };
    let expected = if expect == Expect::Pass { what } else { format!("{what} is refused") };
    match lab.host(&apply.host).and_then(|host| host.apply(&apply.change)) {
        Ok(Ok(applied)) => {
            let ports = match applied.ports {
                0 => String::new(),
                ports => format!(" on {ports} port{}", plural(ports)),
            };
            let text = match applied.changes {
                0 => "it was as that already".into(),
                _ => format!("in force{ports} after {}", duration(applied.effective_after)),
            };
            Line::new(expect == Expect::Pass, expected, text).with(json!({
                "ports": applied.ports, "changes": applied.changes,
                "microseconds": applied.effective_after.as_micros(),
                "call-microseconds": applied.took.as_micros(),
            }))
        }
        Ok(Err(why)) => Line::new(expect == Expect::Blocked, expected, format!("refused: {why}")),
        // Nobody said that it is refused: something does not work.
        Err(error) => Line::new(false, expected, format!("{error:#}")),
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
