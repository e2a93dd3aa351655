//! `lamina explain`: what the names mean that other commands print.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use lamina_core::drop_reason::DropReason;
use serde_json::json;

use crate::host::{print_json, print_line};

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

impl ExplainArgs {
    /// Whether failures are told as JSON.
    pub fn json(&self) -> bool {
        match self.what {
            Some(What::DropReason { json, .. } | What::DropReasons { json }) => json,
            None => self.json,
        }
    }
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    match (&args.what, &args.name) {
        (Some(What::DropReason { name, json }), _) => drop_reason(name, *json)?,
        (None, Some(name)) => drop_reason(name, args.json)?,
        (Some(What::DropReasons { json: true }), _) => {
            print_json(&DropReason::ALL.iter().map(|reason| to_json(*reason)).collect())?;
        }
        (Some(What::DropReasons { json: false }), _) => {
            let longest = DropReason::ALL.iter().map(|reason| reason.name().len()).max().unwrap_or(0);
            for reason in DropReason::ALL {
                let (number, name) = (*reason as u8, reason.name());
                print_line(&format!("{number:3}  {name:longest$}  {}", reason.explanation()))?;
            }
        }
        // The command line's own check says what is missing.
        (None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn drop_reason(name: &str, as_json: bool) -> anyhow::Result<()> {
    let reason = find(name).map_err(anyhow::Error::msg)?;
    if as_json {
        print_json(&to_json(reason))?;
    } else {
        print_line(&format!("{} ({}): {}", reason.name(), reason as u8, reason.explanation()))?;
    }
    Ok(())
}

/// The drop reason of this name or number, or why there is none.
pub fn find(name: &str) -> Result<DropReason, String> {
    let is_meant = |reason: &DropReason| reason.name() == name || (*reason as u8).to_string() == name;
    DropReason::ALL.iter().copied().find(is_meant).ok_or_else(|| {
        let names = DropReason::ALL.iter().map(|reason| reason.name());
        let help = match lamina_api::suggest::nearest(name, names) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "`lamina explain drop-reasons` lists them".into(),
        };
        format!("`{name}` is not a drop reason; {help}")
    })
}

fn to_json(reason: DropReason) -> serde_json::Value {
    json!({ "name": reason.name(), "number": reason as u8, "explanation": reason.explanation() })
}
