//! `lamina watch`: follows changes of objects.

use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::{ChangeKind, Kind, WatchRequest};
use serde_json::json;

use super::apply::changes::word;
use super::name::{KindArg, Within};
use super::output::{json, line, printable};
use super::{DaemonArgs, name, object};

/// Follow changes of objects, beginning with those that are there.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Kinds of objects; without one, all.
    #[arg(value_enum)]
    kinds: Vec<KindArg>,
    #[command(flatten)]
    within: Within,
    /// Begin with the first change after this revision.
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command; it ends when the daemon ends the call.
pub fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        // The daemon selects one kind; several are chosen from all.
        let kinds: Vec<Kind> = args.kinds.iter().map(|kind| kind.kind()).collect();
        let one = if let [kind] = kinds[..] { kind } else { Kind::Unspecified };
        let is_any = kinds.is_empty() || kinds.contains(&Kind::Unspecified);
        let request = WatchRequest { selector: Some(args.within.selector(one)), after_revision: args.after };
        let mut changes = host.watch(request).await?.into_inner();
        let mut left = args.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(change) = changes.message().await? else { break };
            let kind = change.kind();
            let Some(object) = &change.object else {
                if args.daemon.json {
                    json(&json!({ "change": word(kind), "revision": change.revision }))?;
                } else if kind == ChangeKind::Synced {
                    line(&format!("-- up to date, revision {}", change.revision))?;
                }
                continue;
            };
            let named = object::reference(object);
            if !is_any && !kinds.contains(&named.kind()) {
                continue;
            }
            left -= 1;
            if args.daemon.json {
                let object = object::to_json(object)?;
                json(&json!({ "change": word(kind), "revision": change.revision, "object": object }))?;
            } else {
                let says = printable(&object::line(object)?);
                let says = if kind == ChangeKind::Deleted || says.is_empty() {
                    String::new()
                } else {
                    format!(": {says}")
                };
                let (what, who) = (name::full(&named), printable(&object.owner));
                line(&format!("{} {} {what} ({who}){says}", change.revision, word(kind)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
