//! `lamina audit`: what each controller asked for against what runs.

use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::AuditRequest;
use serde_json::{Value, json};

use super::output::{Rows, json, or_dash};
use super::{DaemonArgs, collect};

/// Compare what controllers asked for with what runs.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only layers of this controller.
    #[arg(long, value_name = "CONTROLLER")]
    owner: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command; the exit code is 1 when something does not run as it was asked for.
pub fn run(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let request = AuditRequest { controller: args.owner.clone().unwrap_or_default() };
        let findings = collect(host.audit(request).await?).await?;
        if args.daemon.json {
            let values = findings.iter().map(|finding| {
                json!({
                    "port": finding.port, "layer": finding.layer, "owner": finding.owner,
                    "finding": finding.finding, "detail": finding.detail, "groups": finding.groups,
                    "rules": finding.rules, "running-rules": finding.running_rules,
                    "generation": finding.generation,
                })
            });
            json(&values.collect::<Value>())?;
        } else {
            let headings = [
                "PORT",
                "LAYER",
                "OWNER",
                "FINDING",
                ">GROUPS",
                ">RULES",
                ">RUNNING",
                ">GENERATION",
                "DETAIL",
            ];
            let mut rows = Rows::new(&headings);
            for finding in &findings {
                rows.add([
                    finding.port.clone(),
                    or_dash(&finding.layer).to_string(),
                    or_dash(&finding.owner).to_string(),
                    finding.finding.clone(),
                    finding.groups.to_string(),
                    finding.rules.to_string(),
                    finding.running_rules.to_string(),
                    finding.generation.to_string(),
                    or_dash(&finding.detail).to_string(),
                ]);
            }
            rows.print("no layers")?;
        }
        let is_same = findings.iter().all(|finding| finding.finding == "same");
        Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
