//! The `lamina` command.

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Lamina: trace packets through policy, run labs.
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
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
