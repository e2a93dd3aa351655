//! `lamina flows`: cached flows, listed or ended.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lamina_api::wire::v1::{ClearFlowsRequest, Flow, FlowFilter, FlowsRequest};
use serde_json::{Value, json};

use super::name::way;
use super::output::{Rows, count, duration, json, line};
use super::{DaemonArgs, DirectionArg, Usage, collect, direction};

/// Which flows.
#[derive(Clone, Debug, Args)]
#[group(id = "flow-filter")]
pub struct FilterArgs {
    /// Only in this direction.
    #[arg(long, value_enum)]
    direction: Option<DirectionArg>,
    /// An address or prefix that the innermost source or destination is in.
    #[arg(long, value_name = "PREFIX")]
    address: Option<String>,
    /// A TCP or UDP port on either side.
    #[arg(long, value_name = "PORT")]
    l4_port: Option<u16>,
    /// The IP protocol: a number, or a word such as tcp.
    #[arg(long)]
    protocol: Option<String>,
    /// The tenant of tunnelled packets.
    #[arg(long, value_name = "ID")]
    tenant: Option<u32>,
    /// A layer that the path goes through with a matched rule.
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// A rule of the path: its name, or layer/group/rule as it is printed.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// At least so many packets.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_packets: u64,
    /// Only what must be resolved again before it is used.
    #[arg(long)]
    stale: bool,
    /// Only IPv4 (4) or IPv6 (6).
    #[arg(long, value_name = "4|6", value_parser = clap::value_parser!(u32).range(4..=6))]
    family: Option<u32>,
}

impl FilterArgs {
    /// The filter, of flows of `port`.
    pub fn filter(&self, port: Option<&str>, pair: bool) -> Result<FlowFilter, Usage> {
        if self.family == Some(5) {
            return Err(Usage("--family is 4 or 6".into()));
        }
        Ok(FlowFilter {
            port: port.unwrap_or_default().into(),
            direction: direction(self.direction),
            address: self.address.clone().unwrap_or_default(),
            l4_port: self.l4_port.map_or(0, u32::from),
            protocol: self.protocol.clone().unwrap_or_default(),
            tenant: self.tenant,
            layer: self.layer.clone().unwrap_or_default(),
            rule: self.rule.clone().unwrap_or_default(),
            min_packets: self.min_packets,
            stale: self.stale,
            pair,
            family: self.family.unwrap_or(0),
        })
    }
}

/// List cached flows, or end them so that their next packets resolve anew.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only of this port.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Also the other direction of each match.
    #[arg(long)]
    pair: bool,
    /// Only every so many-th match.
    #[arg(long, value_name = "N", default_value_t = 1)]
    sample: u64,
    /// The most flows to list.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
    /// End the flows that match.
    #[arg(long, conflicts_with_all = ["sample", "limit"])]
    clear: bool,
    /// With --clear and without a filter: really all.
    #[arg(long, requires = "clear")]
    all: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &FlowsArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let filter = args.filter.filter(args.port.as_deref(), args.pair)?;
        if args.clear {
            let names_nothing = FlowFilter { pair: false, ..filter.clone() } == FlowFilter::default();
            if names_nothing && !args.all {
                bail!(Usage(
                    "--clear without a filter ends every flow of the host: add --all if that is meant".into()
                ));
            }
            let mut host = args.daemon.connect().await?;
            let request = ClearFlowsRequest { filter: Some(filter), all: args.all };
            let flows = host.clear_flows(request).await?.into_inner().flows;
            if args.daemon.json {
                json(&json!({ "cleared": flows }))?;
            } else {
                line(&format!("ended {}", count(flows, "flow")))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut host = args.daemon.connect().await?;
        let request = FlowsRequest { filter: Some(filter), limit: args.limit, sample: args.sample };
        let flows = collect(host.flows(request).await?).await?;
        if args.daemon.json {
            json(&flows.iter().map(to_json).collect::<Value>())?;
        } else {
            table(&flows).print("no flows")?;
            if flows.len() as u64 == args.limit {
                eprintln!("note: {} are listed; there may be more, see --limit and --sample", flows.len());
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn table(flows: &[Flow]) -> Rows {
    let headings = ["PORT", "DIRECTION", "KEY", "CHANGE", "TO", ">PACKETS", ">BYTES", ">IDLE", "PATH"];
    let mut rows = Rows::new(&headings);
    for flow in flows {
        let stale = if flow.stale { " (stale)" } else { "" };
        rows.add([
            flow.port.clone(),
            way(flow.direction).to_string(),
            flow.key.clone(),
            flow.transposition.clone(),
            flow.egress.clone(),
            flow.packets.to_string(),
            flow.bytes.to_string(),
            duration(flow.idle),
            format!("{}{stale}", flow.path.join(" ")),
        ]);
    }
    rows
}

fn to_json(flow: &Flow) -> Value {
    json!({
        "port": flow.port, "direction": way(flow.direction), "key": flow.key,
        "source": flow.source, "destination": flow.destination, "protocol": flow.protocol,
        "source-port": flow.source_port, "destination-port": flow.destination_port, "tenant": flow.tenant,
        "transposition": flow.transposition, "egress": flow.egress, "path": flow.path,
        "packets": flow.packets, "bytes": flow.bytes, "idle": flow.idle, "generation": flow.generation,
        "stale": flow.stale, "conversation": flow.conversation,
    })
}
