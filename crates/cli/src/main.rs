//! The `lamina` command.

mod check;
mod explain;
mod lab;
mod policy;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Lamina: a programmable virtual switch. Check policy, trace packets through it, run labs.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build networks out of namespaces and check policy in them.
    Lab(lab::LabArgs),
    /// Check policy files: every mistake with its place and what to do.
    Check(check::CheckArgs),
    /// Show what policy does to a packet, layer by layer, and why.
    Trace(Box<trace::TraceArgs>),
    /// Explain names that other commands print.
    Explain(explain::ExplainArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
        Command::Check(args) => check::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Explain(args) => explain::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
