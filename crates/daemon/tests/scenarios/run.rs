//! Runs one scenario file: every step, every statement, all failures reported with the step's number.

use std::collections::BTreeMap;
use std::path::Path;

use lamina_core::flow::{Family, Value as FieldValue};
use lamina_core::stats::PortCounters;
use lamina_core::time::Duration;

use crate::design;
use crate::packet_text::{self, Captures};
use crate::scenario::{Counters, Expect, Flows, Scenario, Send, Spread, Spreading, Step, Verdict};
use crate::world::{Later, Outcome, World};

/// The failures of the scenario in `path`.
pub fn file(path: &Path, name: &str, page: &str) -> Result<(), Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| vec![error.to_string()])?;
    let scenario = Scenario::read(&text).map_err(|error| vec![error])?;
    let mut failures = Vec::new();
    if scenario.name != name {
        failures.push(format!("the file is named {name}, the scenario {}", scenario.name));
    }
    if scenario.proves.is_empty() {
        failures.push("it proves nothing".into());
    }
    failures.extend(
        scenario.proves.iter().filter_map(|quotation| design::check_quotation(page, quotation).err()),
    );
    match World::new(&scenario.policy, &scenario.macs, &scenario.unpublished) {
        Err(error) => failures.push(format!("the first policy: {error}")),
        Ok(mut world) => {
            failures.extend(world.know_vxlan_by(&scenario.vxlan_ports).err());
            let mut captures = Captures::new();
            for (index, step) in scenario.steps.iter().enumerate() {
                let found = run_step(&mut world, step, &mut captures).unwrap_or_else(|error| vec![error]);
                failures.extend(found.into_iter().map(|failure| format!("step {}: {failure}", index + 1)));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn run_step(world: &mut World, step: &Step, captures: &mut Captures) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    if let (Some(send), Some(expect)) = (&step.send, &step.expect) {
        for _ in 0..send.times {
            let (sent, packet) = world.frame(send)?;
            let outcome = world.receive(&send.from, packet)?;
            failures.extend(judge(world, send, expect, &sent, &outcome, captures)?);
        }
    }
    if let (Some(send), Some(expect)) = (&step.simulate, &step.expect) {
        for _ in 0..send.times {
            let (sent, packet) = world.frame(send)?;
            let outcome = world.simulate(&send.from, &packet)?;
            failures.extend(judge(world, send, expect, &sent, &outcome, captures)?);
        }
    }
    if let (Some(spread), Some(expect)) = (&step.spread, &step.expect) {
        failures.extend(run_spread(world, spread, expect, &step.values)?);
    }
    if let Some(length) = &step.wait {
        let later = world.wait(duration(length)?)?;
        failures.extend(judge_later(world, step, &later, captures)?);
    }
    if let Some(subscribe) = &step.subscribe {
        world.subscribe(subscribe);
    }
    if let Some(answer) = &step.answer {
        let later = world.answer(answer)?;
        failures.extend(judge_later(world, step, &later, captures)?);
    }
    if let Some(inject) = &step.inject {
        let later = world.inject(inject)?;
        failures.extend(judge_later(world, step, &later, captures)?);
    }
    if let Some(expected) = &step.expect_events {
        let events = world.take_events();
        if events != *expected {
            failures.push(format!("events are {events:?}, expected {expected:?}"));
        }
    }
    if let Some(document) = &step.publish {
        world.publish(document)?;
    }
    if let Some(refuse) = &step.refuse {
        match world.publish(&refuse.policy) {
            Ok(()) => failures.push("the document was not refused".into()),
            Err(message) if message.contains(&refuse.because) => {}
            Err(message) => {
                failures.push(format!("refused, but not because of {}: {message}", refuse.because))
            }
        }
    }
    for (port, expected) in step.expect_counters.iter().flatten() {
        let counters = world.counters(port)?;
        failures.extend(
            compare_counters(expected, &counters).into_iter().map(|failure| format!("{port}: {failure}")),
        );
    }
    for (port, expected) in step.expect_flows.iter().flatten() {
        let counters = world.counters(port)?;
        failures.extend(
            compare_flows(expected, &counters).into_iter().map(|failure| format!("{port}: {failure}")),
        );
    }
    Ok(failures)
}

/// What is wrong with the packets that went on later.
fn judge_later(
    world: &World,
    step: &Step,
    later: &Later,
    captures: &mut Captures,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let dropped: Vec<&str> = later.dropped.iter().map(|reason| reason.name()).collect();
    if dropped != step.drops {
        failures.push(format!("dropped are {dropped:?}, expected {:?}", step.drops));
    }
    if later.left.len() != step.leaves.len() {
        failures.push(format!("{} packets left, expected {}", later.left.len(), step.leaves.len()));
    }
    for ((to, left), expected) in later.left.iter().zip(&step.leaves) {
        if *to != expected.to {
            failures.push(format!("it left by {to}, expected {}", expected.to));
        }
        let pattern = packet_text::parse(&expected.packet, &world.macs)?;
        failures.extend(packet_text::mismatches(&pattern, &left.headers, captures));
    }
    Ok(failures)
}

/// What is wrong with `outcome`.
fn judge(
    world: &World,
    send: &Send,
    expect: &Expect,
    sent: &[u8],
    outcome: &Outcome,
    captures: &mut Captures,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let mut differ = |what: &str, is: String, expected: String| {
        if is != expected {
            failures.push(format!("{what} is {is}, expected {expected}"));
        }
    };
    differ("verdict", format!("{:?}", outcome.verdict), format!("{:?}", expect.verdict));
    if let Some(expected) = &expect.reason {
        differ("reason", outcome.reason.map_or("none", |reason| reason.name()).into(), expected.clone());
    }
    let to: Vec<&str> = outcome.left.iter().map(|(to, _)| to.as_str()).collect();
    differ("destination", to.join(", "), expect.to.names().join(", "));
    if let Some(expected) = &expect.rule {
        differ("rule", outcome.rules.last().cloned().unwrap_or_else(|| "none".into()), expected.clone());
    }
    if let Some(expected) = &expect.rules {
        differ("the walk", outcome.rules.join(", "), expected.join(", "));
    }
    if let Some(expected) = &expect.cache {
        differ("cache", outcome.cache.into(), expected.clone());
    }
    if matches!(expect.verdict, Verdict::Wait | Verdict::Punt) {
        if expect.packet.is_some() || expect.reason.is_some() {
            return Err(
                "a packet that waits, or that a controller gets, has left nothing, and has no reason".into(),
            );
        }
        return Ok(failures);
    }
    if expect.verdict == Verdict::Drop {
        if expect.packet.is_some() || expect.reason.is_none() {
            return Err("a drop is expected with its reason, and without a packet".into());
        }
        return Ok(failures);
    }
    if matches!(expect.verdict, Verdict::Consumed | Verdict::Host) {
        return Ok(failures);
    }
    let headers = packet_text::parse(&send.packet, &world.macs)?;
    for (_, left) in &outcome.left {
        match expect.packet.as_deref() {
            None => {}
            Some("unchanged") if left.bytes == sent => {}
            Some("unchanged") => failures.push(format!("the packet changed: {:?}", left.headers)),
            Some(pattern) => {
                let pattern = packet_text::parse(pattern, &world.macs)?;
                failures.extend(packet_text::mismatches(&pattern, &left.headers, captures));
            }
        }
        if let Some(expected) = &expect.offload
            && left.offload != *expected
            && !(expected.segment.is_some() && left.offload.segment == expected.segment)
        {
            failures.push(format!("left undone is {:?}, expected {expected:?}", left.offload));
        }
        // Whatever happened to the headers, the payload is what it was.
        if let Some(length) = packet_text::stated_payload(&headers)
            && !left.bytes.ends_with(&packet_text::payload_bytes(length))
        {
            failures.push("the payload changed".into());
        }
    }
    Ok(failures)
}

fn run_spread(
    world: &mut World,
    spread: &Spread,
    expect: &Expect,
    values: &BTreeMap<String, Spreading>,
) -> Result<Vec<String>, String> {
    let mut failures = Vec::new();
    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for number in 1..=spread.count {
        let mut captures = Captures::from([("n".into(), number.to_string())]);
        let packet = spread.packet.replace("$n", &number.to_string());
        let send = Send { from: spread.from.clone(), packet, times: 1, offload: Default::default() };
        let (sent, packet) = world.frame(&send)?;
        let outcome = world.receive(&send.from, packet)?;
        let found = judge(world, &send, expect, &sent, &outcome, &mut captures)?;
        failures.extend(found.into_iter().map(|failure| format!("$n = {number}: {failure}")));
        for name in values.keys() {
            seen.entry(name).or_default().extend(captures.get(name).cloned());
        }
    }
    for (name, expected) in values {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for value in seen.get(name.as_str()).into_iter().flatten() {
            *counts.entry(value).or_default() += 1;
        }
        for value in &expected.among {
            let times = counts.get(value.as_str()).copied().unwrap_or(0);
            if times < expected.each_at_least {
                failures
                    .push(format!("${name} was {value} {times} times, expected {}", expected.each_at_least));
            }
        }
        for value in counts.keys() {
            let is_strange = !expected.among.is_empty() && !expected.among.iter().any(|known| known == value);
            let is_outside = expected.between.is_some_and(|(low, high)| {
                !value.parse().is_ok_and(|number: u64| (low..=high).contains(&number))
            });
            if is_strange || is_outside {
                failures.push(format!("${name} was {value}"));
            }
        }
        if counts.len() < expected.distinct_at_least {
            failures.push(format!(
                "${name} had {} values, expected {}",
                counts.len(),
                expected.distinct_at_least
            ));
        }
    }
    failures.truncate(10);
    Ok(failures)
}

fn compare_counters(expected: &Counters, counters: &PortCounters) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |what: &str, is: Option<u64>, expected: u64| match is {
        None => failures.push(format!("there is no {what}")),
        Some(is) if is != expected => failures.push(format!("{what} counted {is}, expected {expected}")),
        Some(_) => {}
    };
    let mut rules: BTreeMap<String, u64> = BTreeMap::new();
    for layer in &counters.layers {
        let default = layer.default_inbound.packets + layer.default_outbound.packets;
        rules.insert(format!("{}/default", layer.name), default);
        for group in &layer.groups {
            for (rule, count) in &group.rules {
                *rules.entry(format!("{}/{}/{rule}", layer.name, group.name)).or_default() += count.packets;
            }
        }
    }
    for (path, packets) in &expected.rules {
        check(path, rules.get(path).copied(), *packets);
    }
    for (reason, packets) in &expected.drops {
        let known = lamina_core::drop_reason::DropReason::ALL.iter().find(|known| known.name() == reason);
        check(reason, known.map(|reason| counters.drops.of(*reason)), *packets);
    }
    for (name, cells) in &expected.meters {
        let Some(meter) = counters.meters.iter().find(|meter| &*meter.name == name.as_str()) else {
            check(name, None, 0);
            continue;
        };
        for (key, cell) in cells {
            let is = match key.as_str() {
                "other" => meter.other,
                "all" => meter.total(),
                key => {
                    let found = meter.cells.iter().find(|(values, _)| key_text(values) == key);
                    found.map(|(_, count)| *count).unwrap_or_default()
                }
            };
            check(&format!("meter {name} {key}"), Some(is.packets), cell.packets);
            if let Some(bytes) = cell.bytes {
                check(&format!("meter {name} {key}, bytes,"), Some(is.bytes), bytes);
            }
        }
    }
    failures
}

fn key_text(values: &[Option<FieldValue>]) -> String {
    let texts: Vec<String> = values
        .iter()
        .map(|value| match value {
            None => "-".into(),
            Some(value) => match value.family {
                Family::Number => value.bits.to_string(),
                Family::Ipv4 => std::net::Ipv4Addr::from_bits(value.bits as u32).to_string(),
                Family::Ipv6 => std::net::Ipv6Addr::from_bits(value.bits).to_string(),
            },
        })
        .collect();
    texts.join(",")
}

fn compare_flows(expected: &Flows, counters: &PortCounters) -> Vec<String> {
    let flows = &counters.flows;
    let mut pairs: Vec<(String, u64, u64)> = Vec::new();
    let mut add = |what: &str, expected: Option<u64>, is: u64| {
        pairs.extend(expected.map(|expected| (what.to_string(), expected, is)));
    };
    add("unified flows", expected.unified.map(|n| n as u64), flows.unified as u64);
    add("conversations", expected.conversations.map(|n| n as u64), flows.conversations as u64);
    add("hits", expected.hits, flows.hits);
    add("misses", expected.misses, flows.misses);
    add("drop cache hits", expected.drop_cache_hits, flows.drop_cache_hits);
    for (name, count) in &expected.layers {
        let layer = counters.layers.iter().find(|layer| &*layer.name == name.as_str());
        let is = layer.map_or(u64::MAX, |layer| layer.layer_flows as u64);
        add(&format!("layer flows of {name}"), Some(*count as u64), is);
    }
    pairs
        .into_iter()
        .filter(|(_, expected, is)| expected != is)
        .map(|(what, expected, is)| format!("{what}: {is}, expected {expected}"))
        .collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no duration"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_milliseconds(number)),
        "s" => Ok(Duration::from_seconds(number)),
        "m" => Ok(Duration::from_seconds(number * 60)),
        _ => Err(format!("{text} is no duration")),
    }
}
