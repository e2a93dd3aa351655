//! Counters of a port, asked of its host's daemon, and of its machine's interface: by how much they change while a
//! check runs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lamina_api::topology::{Bounds, Count, Counter};
use lamina_core::drop_reason::DropReason;
use serde_json::json;

use crate::lab::Lab;
use crate::lab::report::Line;

/// How long counters may take to show what a check did.
const SETTLE: Duration = Duration::from_millis(500);

/// The value of a counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    packets: u64,
    bytes: u64,
}

/// The counter's present value; `None` where the port has no rule, the host no meter, and nobody a drop reason, of that
/// name.
pub fn read(lab: &Lab, count: &Count) -> Result<Option<Counted>> {
    let daemon = lab.host(&count.host)?.daemon();
    let mut total = Counted::default();
    let mut is_known = false;
    match &count.counter {
        Counter::Rule { layer, group, rule } => {
            for row in daemon.counters(&count.port, layer)? {
                if row.kind == "rule" && *row.group == **group && *row.name == **rule {
                    is_known = true;
                    total.packets += row.packets;
                    total.bytes += row.bytes;
                }
            }
        }
        Counter::Meter { meter, key } => {
            is_known = daemon.has_meter(meter)?;
            for row in daemon.counters(&count.port, "")? {
                if row.kind == "meter" && *row.name == **meter && row.key == *key {
                    total.packets += row.packets;
                    total.bytes += row.bytes;
                }
            }
        }
        Counter::Drops(reason) => {
            is_known = DropReason::ALL.iter().any(|known| known.name() == reason);
            let drops = daemon.drops()?;
            let drops = drops.iter().filter(|drop| *drop.port == *count.port && drop.reason == *reason);
            total.packets = drops.map(|drop| drop.packets).sum();
        }
        Counter::Delivered => {
            if let Some(machine) = lab.fabric.guest(&count.port) {
                is_known = true;
                total = machine.run(received)??;
            }
        }
    }
    Ok(is_known.then_some(total))
}

/// What the interface of the machine in whose namespace this runs has taken.
fn received() -> Result<Counted> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let mut fields = row.context("the machine has no eth0")?.split_whitespace().map(str::parse);
    let (Some(Ok(bytes)), Some(Ok(packets))) = (fields.next(), fields.next()) else {
        bail!("the kernel's table of interfaces is not as it was");
    };
    Ok(Counted { packets, bytes })
}

/// By how much the counter changed since `before`, against what was expected.
pub fn counted(lab: &Lab, count: &Count, before: Result<Option<Counted>>) -> Result<Line> {
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
                Counter::Delivered => "delivered".to_string(),
            };
            let mut expected = Vec::new();
            expected.extend(count.packets.map(|bounds| format!("{bounds} packets")));
            expected.extend(count.bytes.map(|bounds| format!("{bounds} bytes")));
            let expected = format!("{} {what}: {}", count.port, expected.join(", "));
            let seen = match &count.counter {
                Counter::Rule { .. } if !known => format!("{} has no such rule", count.port),
                Counter::Meter { .. } if !known => format!("{} has no such meter", count.host),
                Counter::Drops(_) if !known => {
                    "no such drop reason; see `lamina explain drop-reasons`".into()
                }
                Counter::Delivered if !known => format!("{} has no machine", count.port),
                Counter::Drops(_) => format!("{packets} packets"),
                _ => format!("{packets} packets, {bytes} bytes"),
            };
            return Ok(Line::new(ok, expected, seen).with(json!({ "packets": packets, "bytes": bytes })));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
