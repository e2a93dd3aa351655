//! `lamina explain`: what the names mean that other commands print.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use lamina_core::drop_reason::DropReason;
use serde_json::json;

/// Explain names.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ExplainArgs {
    /// The name or number of a drop reason, as in `explain drop-reason NAME`.
    #[arg(required = true)]
    name: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One reason for which packets are dropped, by name or number.
    DropReason {
        /// For example `cannot-transpose`, or its number.
        name: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Every reason for which packets are dropped.
    DropReasons {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    match (&args.what, &args.name) {
        (Some(What::DropReason { name, json }), _) => drop_reason(name, *json)?,
        (None, Some(name)) => drop_reason(name, args.json)?,
        (Some(What::DropReasons { json: true }), _) => {
            println!(
                "{}",
                DropReason::ALL.iter().map(|reason| to_json(*reason)).collect::<serde_json::Value>()
            );
        }
        (Some(What::DropReasons { json: false }), _) => {
            let longest = DropReason::ALL.iter().map(|reason| reason.name().len()).max().unwrap_or(0);
            for reason in DropReason::ALL {
                println!("{:3}  {:longest$}  {}", *reason as u8, reason.name(), reason.explanation());
            }
        }
        // The command line's own check says what is missing.
        (None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn drop_reason(name: &str, as_json: bool) -> anyhow::Result<()> {
    let Some(reason) = find(name) else {
        let names = DropReason::ALL.iter().map(|reason| reason.name());
        let help = match lamina_api::suggest::nearest(name, names) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "`lamina explain drop-reasons` lists them".into(),
        };
        anyhow::bail!("`{name}` is not a drop reason; {help}");
    };
    if as_json {
        println!("{}", to_json(reason));
    } else {
        println!("{} ({}): {}", reason.name(), reason as u8, reason.explanation());
    }
    Ok(())
}

fn find(name: &str) -> Option<DropReason> {
    DropReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.name() == name || (*reason as u8).to_string() == name)
}

fn to_json(reason: DropReason) -> serde_json::Value {
    json!({ "name": reason.name(), "number": reason as u8, "explanation": reason.explanation() })
}
