//! `lamina lab`: networks of hosts and virtual machines out of namespaces, and checks that run in them.
//!
//! The lab needs no root and no tool of the host: an unprivileged process moves into a user namespace of its own,
//! and devices, addresses, routes, pings and streams are made with system calls. On every host runs what runs on a
//! real one: a daemon, programmed through its socket by one controller for each policy. Those are processes of this
//! binary; they and everything else are gone when the lab ends, however it ends.
//!
//! Files: `fabric` builds the network, `plan` says who puts what, `process` starts what the lab outlives, `daemon` and
//! `controller` are the two kinds of processes, `host` puts them together, `checks` does what the topology asks and
//! `report` says what came of it. The topology's format is `docs/reference/lab.md`.
//!
//! The lab must never touch the network it was started in: every device is made inside a namespace that it made. Nor
//! may it know of a switch what the host API does not tell.

mod checks;
mod controller;
mod daemon;
mod fabric;
mod host;
mod plan;
mod process;
mod report;

use std::collections::BTreeMap;
use std::io::stderr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use lamina_api::Report;
use lamina_api::topology::{self, HostKind, Link, Topology};
use lamina_backend::namespace;
use serde_json::json;

use crate::host::{print_json, print_line, print_text};
use fabric::Fabric;
use host::LabHost;
use plan::HostPlan;
use report::Said;

/// Build networks out of namespaces and check policy in them.
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build the network of a topology file, run its checks, print expected against seen.
    Run(RunArgs),
    /// Say whether a topology file and its policies are right, without building anything.
    Check(CheckArgs),
    #[command(hide = true)]
    Controller(controller::ControllerArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The topology file; its format is docs/reference/lab.md.
    file: PathBuf,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    /// Leave the network standing after the checks until interrupted, and say how to look inside.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The topology file; its format is docs/reference/lab.md.
    file: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Fail on warnings too.
    #[arg(long)]
    deny_warnings: bool,
}

impl LabArgs {
    /// Whether failures are told as JSON.
    pub fn json(&self) -> bool {
        match &self.command {
            LabCommand::Run(args) => args.json,
            LabCommand::Check(args) => args.json,
            LabCommand::Controller(_) => false,
        }
    }
}

/// Runs the command. It must be called before the process has a second thread, because a process with threads
/// cannot enter a user namespace. The exit code is 1 when a check was not as expected.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    match args.command {
        LabCommand::Run(args) => run_checks(&args),
        LabCommand::Check(args) => check_file(&args),
        LabCommand::Controller(args) => controller::run(&args),
    }
}

fn run_checks(args: &RunArgs) -> Result<ExitCode> {
    let (topology, warnings) = match read(&args.file)? {
        Ok(checked) => checked,
        Err(report) if args.json => {
            print_line(&format!("{:#}", report.to_json()))?;
            return Ok(ExitCode::FAILURE);
        }
        Err(report) => {
            eprint!("{}", report.render(crate::policy::colours(&stderr())));
            return Ok(ExitCode::FAILURE);
        }
    };
    eprint!("{}", warnings.render(crate::policy::colours(&stderr())));
    let unshared = !namespace::may_make_namespaces();
    if unshared {
        namespace::unshare_user_and_net().context("a lab is made of network namespaces")?;
    }
    let lab = Lab::build(&topology)?;
    let mut outcomes = Vec::new();
    for (number, check) in topology.checks.iter().enumerate() {
        outcomes.push(checks::run(&lab, check, number));
    }
    let said = lab.said();
    let ended = lab.ended();
    if args.json {
        print_line(&format!("{:#}", report::json(&topology.name, &outcomes, &said, &ended)))?;
    } else {
        if let Some(description) = &topology.description {
            print_line(&format!("{}: {description}", topology.name))?;
        }
        print_line(&report::table(&outcomes, terminal_width()))?;
        print_text(&report::messages(&said, &ended))?;
        print_line(&report::summary(&outcomes))?;
    }
    if args.keep {
        keep(&lab, unshared);
    }
    let ok = report::all_ok(&outcomes) && ended.is_empty();
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_file(args: &CheckArgs) -> Result<ExitCode> {
    let (topology, report) = match read(&args.file)? {
        Ok((topology, warnings)) => (Some(topology), warnings),
        Err(report) => (None, report),
    };
    let fails = topology.is_none() || (args.deny_warnings && !report.is_empty());
    if args.json {
        let mut result = report.to_json();
        result["ok"] = json!(topology.is_some());
        if let Some(topology) = &topology {
            let [hosts, machines, policies, checks] = sizes(topology);
            result["counts"] =
                json!({ "hosts": hosts, "machines": machines, "policies": policies, "checks": checks });
        }
        print_json(&result)?;
    } else {
        eprint!("{}", report.render(crate::policy::colours(&stderr())));
        match &topology {
            Some(topology) => {
                let count =
                    |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
                let [hosts, machines, policies, checks] = sizes(topology);
                let mut parts = vec![
                    count(hosts, "host", "hosts"),
                    count(machines, "virtual machine", "virtual machines"),
                    count(policies, "policy", "policies"),
                    count(checks, "check", "checks"),
                ];
                let warnings = report.diagnostics().len() + report.omitted();
                parts.extend((warnings > 0).then(|| count(warnings, "warning", "warnings")));
                print_line(&format!("ok: {}", parts.join(", ")))?;
            }
            None => eprintln!("this lab cannot be run"),
        }
    }
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How many hosts, virtual machines, policies and checks there are.
fn sizes(topology: &Topology) -> [usize; 4] {
    let (mut machines, mut policies) = (0, 0);
    for host in &topology.hosts {
        if let HostKind::Lamina { vms, policies: stated, .. } = &host.kind {
            machines += vms.len();
            policies += stated.len();
        }
    }
    [topology.hosts.len(), machines, policies, topology.checks.len()]
}

/// The running lab.
#[derive(Debug)]
pub struct Lab {
    // Before the fabric, so that daemons let go of their sockets before the namespaces go.
    hosts: BTreeMap<String, LabHost>,
    fabric: Fabric,
}

impl Lab {
    /// Builds the network, and on every host that has one starts a daemon with its controllers.
    fn build(topology: &Topology) -> Result<Lab> {
        let fabric = Fabric::build(topology)?;
        for host in &topology.hosts {
            if matches!(host.kind, HostKind::Lamina { .. }) {
                fabric.meet(&host.name, &neighbors(topology, &host.name))?;
            }
        }
        let mut hosts = BTreeMap::new();
        for host in &topology.hosts {
            let Some(plan) = HostPlan::of(topology, host)? else { continue };
            let ns = fabric.host(&host.name).with_context(|| format!("there is no host {}", host.name))?;
            let started = LabHost::start(ns, topology, host, plan)
                .with_context(|| format!("the switch of {} could not be started", host.name))?;
            hosts.insert(host.name.to_string(), started);
        }
        Ok(Lab { hosts, fabric })
    }

    fn host(&self, name: &str) -> Result<&LabHost> {
        self.hosts.get(name).with_context(|| format!("no switch runs on {name}"))
    }

    /// What daemons and controllers wrote to standard error.
    fn said(&self) -> Vec<Said> {
        self.hosts.values().flat_map(LabHost::said).collect()
    }

    /// Which of them ended before they were told to, and why.
    fn ended(&self) -> Vec<String> {
        self.hosts.values().filter_map(|host| host.check().err()).map(|error| error.to_string()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        self.hosts.values().for_each(LabHost::hang_up);
    }
}

/// The underlay addresses of the hosts that share a link with `host`.
fn neighbors(topology: &Topology, host: &str) -> Vec<IpAddr> {
    let is_on = |link: &&Link| link.attachments.iter().any(|(name, _)| &**name == host);
    let others = topology.links.iter().filter(is_on).flat_map(|link| &link.attachments);
    let others = others.filter(|(name, _)| &**name != host);
    others.flat_map(|(_, addresses)| addresses).map(|address| address.addr()).collect()
}

/// Reads a topology file, with warnings; the inner error is the report of what is wrong in it or in its policies.
fn read(file: &Path) -> Result<Result<(Topology, Report), Report>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let parsed = topology::parse(&name, &text, |path| {
        std::fs::read_to_string(folder.join(path)).map_err(|error| error.to_string())
    });
    Ok(parsed.and_then(|topology| plan::check(&topology).map(|warnings| (topology, warnings))))
}

fn keep(lab: &Lab, unshared: bool) {
    eprintln!("The lab stands until this process ends (Ctrl-C). To look inside:");
    let user = if unshared {
        format!(" --user=/proc/{}/ns/user --preserve-credentials", std::process::id())
    } else {
        String::new()
    };
    for (name, what, ns) in lab.fabric.places() {
        eprintln!("  {what} {name}: nsenter{user} --net={}", ns.path().display());
    }
    for (name, host) in &lab.hosts {
        eprintln!("  daemon of {name}: lamina status --socket {}", host.daemon().socket().display());
    }
    loop {
        std::thread::park();
    }
}

/// The width of the terminal that standard output is; `None` when it is none.
fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}
