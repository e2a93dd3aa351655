//! `lamina check`: is this policy right, and if not, where and why.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use lamina_api::Report;
use lamina_daemon::convert::{HostPolicy, PortIds};
use serde_json::json;

use crate::host::{print_json, print_line};

/// Check policy files. Several files are taken as the documents of several controllers for one host.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy files; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Fail on warnings too.
    #[arg(long)]
    deny_warnings: bool,
}

/// Runs the command; the exit code is 1 when the policy cannot be used.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let (policy, report) = match crate::policy::load(&args.files, &mut PortIds::default())? {
        Ok(converted) => (Some(converted.policy), converted.warnings),
        Err(report) => (None, report),
    };
    let fails = policy.is_none() || (args.deny_warnings && !report.is_empty());
    if args.json {
        print_json(&result_json(policy.as_ref(), &report))?;
    } else {
        eprint!("{}", report.render(crate::policy::colours(&std::io::stderr())));
        let warnings = match report.diagnostics().len() + report.omitted() {
            0 => String::new(),
            1 => ", 1 warning".into(),
            n => format!(", {n} warnings"),
        };
        match &policy {
            Some(policy) => print_line(&format!("ok: {}{warnings}", size(policy)))?,
            None => eprintln!("this policy cannot be used"),
        }
    }
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn result_json(policy: Option<&HostPolicy>, report: &Report) -> serde_json::Value {
    let mut result = report.to_json();
    result["ok"] = json!(policy.is_some());
    if let Some(policy) = policy {
        let counts = Counts::of(policy);
        result["counts"] = json!({
            "ports": counts.ports, "layers": counts.layers, "groups": counts.groups, "rules": counts.rules,
        });
    }
    result
}

struct Counts {
    ports: usize,
    layers: usize,
    groups: usize,
    rules: usize,
}

impl Counts {
    fn of(policy: &HostPolicy) -> Self {
        let layers = || policy.ports.iter().flat_map(|port| &port.policy.layers);
        let groups = || layers().flat_map(|layer| layer.inbound.iter().chain(&*layer.outbound));
        Counts {
            ports: policy.ports.len(),
            layers: layers().count(),
            groups: groups().count(),
            rules: groups().map(|group| group.rules.len()).sum(),
        }
    }
}

fn size(policy: &HostPolicy) -> String {
    let counts = Counts::of(policy);
    let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    [(counts.ports, "port"), (counts.layers, "layer"), (counts.groups, "group"), (counts.rules, "rule")]
        .map(|(n, what)| count(n, what))
        .join(", ")
}
