//! `lamina limits`: every limit with its present use.

use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::LimitsRequest;
use serde_json::{Value, json};

use super::DaemonArgs;
use super::output::{Rows, json};

/// Show the limits of tables and queues, and how far they are used.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// Only those of this port, or of `host`.
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// Only those that are used to at least so many percent, or were full.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    above: u64,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What the daemon says where only memory is a limit.
const NONE: u64 = u64::MAX;

/// Runs the command.
pub fn run(args: &LimitsArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let mut limits = host.limits(LimitsRequest {}).await?.into_inner().limits;
        limits.retain(|limit| {
            args.scope.as_ref().is_none_or(|scope| *scope == limit.scope)
                && (percent(limit.used, limit.limit) >= args.above
                    || (args.above <= 100 && limit.times_full > 0))
        });
        if args.daemon.json {
            let values = limits.iter().map(|limit| {
                json!({
                    "scope": limit.scope, "name": limit.name, "used": limit.used, "limit": limit.limit,
                    "times-full": limit.times_full,
                })
            });
            json(&values.collect::<Value>())?;
        } else {
            let mut rows = Rows::new(&["SCOPE", "NAME", ">USED", ">LIMIT", ">USE", ">TIMES FULL"]);
            for limit in &limits {
                let (most, share) = match limit.limit {
                    NONE => ("none".to_string(), "-".to_string()),
                    most => (most.to_string(), format!("{}%", percent(limit.used, most))),
                };
                let (used, times_full) = (limit.used.to_string(), limit.times_full.to_string());
                rows.add([&limit.scope, &limit.name, &used, &most, &share, &times_full]);
            }
            rows.print(&match args.above {
                0 => "no limits".to_string(),
                above => format!("no limit is used to {above} % or more"),
            })?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// How much of `limit` is used, in whole percent; all of it where nothing is allowed.
fn percent(used: u64, limit: u64) -> u64 {
    match limit {
        0 => 100,
        _ => (u128::from(used) * 100 / u128::from(limit)) as u64,
    }
}
