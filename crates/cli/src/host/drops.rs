//! `lamina drops`: which packets are dropped, why and by whom.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lamina_api::wire::v1::{DropCount, DropsRequest};
use serde_json::{Value, json};

use super::name::way;
use super::output::{Rows, json, or_dash, time};
use super::{DaemonArgs, collect};

/// Show which packets are dropped, why and by whom.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Only of this port or uplink.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only for this reason.
    #[arg(long, value_name = "NAME", value_parser = reason)]
    reason: Option<String>,
    /// Only by this layer.
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// Add up what has the same port, reason, layer, group or rule.
    #[arg(long, value_enum, conflicts_with = "recent")]
    by: Option<By>,
    /// The last dropped packets, newest last.
    #[arg(long)]
    recent: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What drops are added up by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum By {
    Port,
    Reason,
    Layer,
    Group,
    Rule,
}

/// The name of a drop reason that the command line says by name or number.
pub fn reason(text: &str) -> Result<String, String> {
    crate::explain::find(text).map(|reason| reason.name().into())
}

/// Runs the command.
pub fn run(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let port = args.port.clone().unwrap_or_default();
        let mut drops = collect(host.drops(DropsRequest { port, recent: args.recent }).await?).await?;
        drops.retain(|drop| {
            let is_wanted =
                |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
            is_wanted(&args.reason, &drop.reason)
                && is_wanted(&args.layer, &drop.layer)
                && args.recent == (drop.time != 0)
        });
        match args.by {
            Some(by) => sums(&drops, by, args.daemon.json)?,
            None if args.daemon.json => json(&drops.iter().map(to_json).collect())?,
            None if args.recent => recent(&mut drops).print("no dropped packets are remembered")?,
            None => table(&drops).print("nothing was dropped")?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn table(drops: &[DropCount]) -> Rows {
    let headings = ["PORT", "REASON", "LAYER", "DIRECTION", "GROUP", "RULE", ">PACKETS", ">BYTES"];
    let mut rows = Rows::new(&headings);
    for drop in drops {
        let (packets, bytes) = (drop.packets.to_string(), drop.bytes.to_string());
        rows.add([
            or_dash(&drop.port),
            &drop.reason,
            or_dash(&drop.layer),
            or_dash(way(drop.direction)),
            or_dash(&drop.group),
            or_dash(&drop.rule),
            &packets,
            &bytes,
        ]);
    }
    rows
}

fn recent(drops: &mut [DropCount]) -> Rows {
    drops.sort_by_key(|drop| drop.time);
    let mut rows = Rows::new(&["TIME", "PORT", "DIRECTION", "REASON", "BY", "PACKET"]);
    for drop in drops {
        let (when, by) = (time(drop.time), place(drop));
        rows.add([&when, &drop.port, or_dash(way(drop.direction)), &drop.reason, or_dash(&by), &drop.packet]);
    }
    rows
}

/// `layer/group/rule`, as far as it is known.
fn place(drop: &DropCount) -> String {
    let parts = [&drop.layer, &drop.group, &drop.rule];
    parts.iter().filter(|part| !part.is_empty()).map(|part| part.as_str()).collect::<Vec<_>>().join("/")
}

fn sums(drops: &[DropCount], by: By, as_json: bool) -> anyhow::Result<()> {
    let keys: &[&str] = match by {
        By::Port => &["port"],
        By::Reason => &["reason"],
        By::Layer => &["port", "layer"],
        By::Group => &["port", "layer", "direction", "group"],
        By::Rule => &["port", "layer", "direction", "group", "rule"],
    };
    let mut sums: BTreeMap<Vec<&str>, (u64, u64)> = BTreeMap::new();
    for drop in drops {
        let key = keys.iter().map(|key| match *key {
            "port" => &*drop.port,
            "reason" => &drop.reason,
            "layer" => &drop.layer,
            "direction" => way(drop.direction),
            "group" => &drop.group,
            _ => &drop.rule,
        });
        let sum = sums.entry(key.collect()).or_default();
        *sum = (sum.0 + drop.packets, sum.1 + drop.bytes);
    }
    if as_json {
        let values = sums.iter().map(|(key, (packets, bytes))| {
            let mut value = json!({ "packets": packets, "bytes": bytes });
            for (name, text) in keys.iter().zip(key) {
                value[*name] = json!(text);
            }
            value
        });
        json(&values.collect::<Value>())?;
        return Ok(());
    }
    let headings = keys.iter().map(|key| key.to_uppercase()).chain([">PACKETS".into(), ">BYTES".into()]);
    let headings: Vec<String> = headings.collect();
    let mut rows = Rows::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, (packets, _))| std::cmp::Reverse(*packets));
    for (key, (packets, bytes)) in sums {
        let key = key.into_iter().map(|text| or_dash(text).to_string());
        rows.add(key.chain([packets.to_string(), bytes.to_string()]));
    }
    Ok(rows.print("nothing was dropped")?)
}

fn to_json(drop: &DropCount) -> Value {
    let mut value = json!({
        "port": drop.port, "reason": drop.reason, "number": drop.number, "layer": drop.layer,
        "direction": way(drop.direction), "group": drop.group, "rule": drop.rule,
        "packets": drop.packets, "bytes": drop.bytes,
    });
    if drop.time != 0 {
        value["packet"] = json!(drop.packet);
        value["time"] = json!(drop.time);
    }
    value
}
