//! `lamina stats`: counters, exact at the time of the call.

use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::{Counter, CountersRequest};
use serde_json::{Value, json};

use super::name::way;
use super::output::{Rows, json, or_dash};
use super::{DaemonArgs, Host, collect};

/// Show counters of ports, layers, groups, rules and meters.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    which: CounterArgs,
    /// Leave out what counted nothing.
    #[arg(long)]
    nonzero: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// The kinds of counters.
const KINDS: [&str; 8] = ["port", "layer", "group", "rule", "default", "retired", "meter", "uplink"];

/// Which counters.
#[derive(Clone, Debug, Args)]
#[group(id = "counter-filter")]
pub struct CounterArgs {
    /// Only of this port.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only of this layer.
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// Only counters of these kinds.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = KINDS)]
    pub kinds: Vec<String>,
}

/// The counters that `which` names.
pub async fn counters(host: &mut Host, which: &CounterArgs, nonzero: bool) -> anyhow::Result<Vec<Counter>> {
    let request = CountersRequest {
        port: which.port.clone().unwrap_or_default(),
        layer: which.layer.clone().unwrap_or_default(),
        nonzero,
    };
    let mut counters = collect(host.counters(request).await?).await?;
    counters.retain(|counter| which.kinds.is_empty() || which.kinds.contains(&counter.kind));
    Ok(counters)
}

/// Runs the command.
pub fn run(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let counters = counters(&mut host, &args.which, args.nonzero).await?;
        if args.daemon.json {
            json(&counters.iter().map(to_json).collect::<Value>())?;
            return Ok(ExitCode::SUCCESS);
        }
        let headings = ["KIND", "PORT", "LAYER", "DIRECTION", "GROUP", "NAME", "KEY", ">PACKETS", ">BYTES"];
        let mut rows = Rows::new(&headings);
        for counter in &counters {
            let (packets, bytes) = (counter.packets.to_string(), counter.bytes.to_string());
            let key = counter.key.join(" ");
            rows.add([
                &counter.kind,
                or_dash(&counter.port),
                or_dash(&counter.layer),
                or_dash(way(counter.direction)),
                or_dash(&counter.group),
                or_dash(&counter.name),
                or_dash(&key),
                &packets,
                &bytes,
            ]);
        }
        rows.print("nothing was counted")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A counter as JSON.
pub fn to_json(counter: &Counter) -> Value {
    json!({
        "kind": counter.kind, "port": counter.port, "layer": counter.layer,
        "direction": way(counter.direction), "group": counter.group, "name": counter.name,
        "key": counter.key, "packets": counter.packets, "bytes": counter.bytes,
    })
}
