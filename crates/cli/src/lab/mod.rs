//! `lamina lab run`: a network of hosts and virtual machines out of namespaces, and checks that run in it.
//!
//! The lab needs no root and no tool of the host: an unprivileged process moves into a user namespace of its own,
//! and devices, addresses, routes, pings and streams are made with system calls. One process holds everything, so
//! that everything is gone when it ends, however it ends.
//!
//! Files: `fabric` builds the network, `host` runs Lamina on a host, `checks` does what the topology asks and
//! `report` says what came of it. The topology's format is `docs/reference/lab.md`.
//!
//! The lab must never touch the network it was started in: every device is made inside a namespace that it made.

mod checks;
mod fabric;
mod host;
mod report;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use lamina_api::topology::{self, HostKind, Link, Topology};
use lamina_backend::namespace;

use fabric::Fabric;
use host::HostSwitch;

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

/// Runs the command. It must be called before the process has a second thread, because a process with threads
/// cannot enter a user namespace. The exit code is 1 when a check was not as expected.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    let LabCommand::Run(args) = args.command;
    let checked =
        read(&args.file)?.and_then(|topology| host::warnings(&topology).map(|found| (topology, found)));
    let (topology, warnings) = match checked {
        Ok(checked) => checked,
        Err(report) if args.json => {
            println!("{:#}", report.to_json());
            return Ok(ExitCode::FAILURE);
        }
        Err(report) => {
            eprint!("{}", report.render(crate::policy::colours(&std::io::stderr())));
            return Ok(ExitCode::FAILURE);
        }
    };
    eprint!("{}", warnings.render(crate::policy::colours(&std::io::stderr())));
    let unshared = !namespace::may_make_namespaces();
    if unshared {
        namespace::unshare_user_and_net().context("a lab is made of network namespaces")?;
    }
    let lab = Lab::build(&topology)?;
    let mut outcomes = Vec::new();
    for (number, check) in topology.checks.iter().enumerate() {
        outcomes.push(checks::run(&lab, check, number));
    }
    if args.json {
        println!("{:#}", report::json(&topology.name, &outcomes));
    } else {
        if let Some(description) = &topology.description {
            println!("{}: {description}", topology.name);
        }
        println!("{}", report::table(&outcomes, terminal_width()));
        println!("{}", report::summary(&outcomes));
    }
    if args.keep {
        keep(&lab, unshared);
    }
    Ok(if report::all_ok(&outcomes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The running lab.
#[derive(Debug)]
pub struct Lab {
    // Before the fabric, so that switches let go of their sockets before the namespaces go.
    switches: BTreeMap<String, HostSwitch>,
    fabric: Fabric,
}

impl Lab {
    /// Builds the network and starts a switch on every host that has one.
    fn build(topology: &Topology) -> Result<Lab> {
        let fabric = Fabric::build(topology)?;
        let mut switches = BTreeMap::new();
        for host in &topology.hosts {
            let HostKind::Lamina { base, policies, .. } = &host.kind else { continue };
            let ns = fabric.host(&host.name).with_context(|| format!("there is no host {}", host.name))?;
            let switch = HostSwitch::start(ns, topology, host, base, policies)
                .with_context(|| format!("the switch of {} could not be started", host.name))?;
            switches.insert(host.name.to_string(), switch);
        }
        for (host, switch) in &switches {
            switch.meet(&neighbors(topology, host));
        }
        Ok(Lab { switches, fabric })
    }

    fn switch(&self, host: &str) -> Result<&HostSwitch> {
        self.switches.get(host).with_context(|| format!("no switch runs on {host}"))
    }
}

/// The underlay addresses of the hosts that share a link with `host`.
fn neighbors(topology: &Topology, host: &str) -> Vec<IpAddr> {
    let is_on = |link: &&Link| link.attachments.iter().any(|(name, _)| &**name == host);
    let others = topology.links.iter().filter(is_on).flat_map(|link| &link.attachments);
    let others = others.filter(|(name, _)| &**name != host);
    others.flat_map(|(_, addresses)| addresses).map(|address| address.addr()).collect()
}

/// Reads a topology file; the inner error is the report of what is wrong in it.
fn read(file: &Path) -> Result<Result<Topology, lamina_api::Report>> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    Ok(topology::parse(&name, &text, |path| {
        std::fs::read_to_string(folder.join(path)).map_err(|error| error.to_string())
    }))
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
    loop {
        std::thread::park();
    }
}

/// The width of the terminal that standard output is; `None` when it is none.
fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}
