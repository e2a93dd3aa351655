//! `lamina explain`: what the names mean that other commands print.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use lamina_core::drop_reason::DropReason;
use serde_json::json;

/// Explain names.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(subcommand)]
    what: What,
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
    match &args.what {
        What::DropReason { name, json } => {
            let Some(reason) = find(name) else {
                let names = DropReason::ALL.iter().map(|reason| reason.name());
                let help = match lamina_api::suggest::nearest(name, names) {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => "`lamina explain drop-reasons` lists them".into(),
                };
                anyhow::bail!("`{name}` is not a drop reason; {help}");
            };
            if *json {
                println!("{}", to_json(reason));
            } else {
                println!("{} ({}): {}", reason.name(), reason as u8, reason.explanation());
            }
        }
        What::DropReasons { json: true } => {
            println!(
                "{}",
                DropReason::ALL.iter().map(|reason| to_json(*reason)).collect::<serde_json::Value>()
            );
        }
        What::DropReasons { json: false } => {
            let longest = DropReason::ALL.iter().map(|reason| reason.name().len()).max().unwrap_or(0);
            for reason in DropReason::ALL {
                println!("{:3}  {:longest$}  {}", *reason as u8, reason.name(), reason.explanation());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
