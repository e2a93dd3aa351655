//! `lamina list`: how many objects there are and whose; or the names of one kind, one in a line, for scripts.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use lamina_api::wire::v1::{Kind, Ref};
use serde_json::{Value, json};

use super::name::{KINDS, KindArg, Within};
use super::output::{Rows, json, line};
use super::{DaemonArgs, name, object};

/// Count objects by kind and owner, or list the names of one kind.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// List the names of this kind.
    #[arg(value_enum)]
    kind: Option<KindArg>,
    #[command(flatten)]
    within: Within,
    /// Only what belongs to this controller.
    #[arg(long, value_name = "CONTROLLER")]
    owner: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let mut host = args.daemon.connect().await?;
        let kind = args.kind.map_or(Kind::Unspecified, KindArg::kind);
        let owner = args.owner.as_deref().unwrap_or_default();
        let objects = object::list(&mut host, args.within.selector(kind), owner).await?;
        if args.kind.is_some() {
            let refs: Vec<Ref> = objects.iter().map(object::reference).collect();
            if args.daemon.json {
                json(&refs.iter().map(name::to_json).collect())?;
            } else {
                for named in &refs {
                    let text = if kind == Kind::Unspecified { name::full(named) } else { name::path(named) };
                    line(&super::output::printable(&text))?;
                }
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut counts: BTreeMap<i32, BTreeMap<&str, u64>> = BTreeMap::new();
        for object in &objects {
            *counts.entry(object::reference(object).kind).or_default().entry(&object.owner).or_insert(0) += 1;
        }
        let none = BTreeMap::new();
        let by_kind = KINDS.iter().map(|kind| (*kind, counts.get(&i32::from(*kind)).unwrap_or(&none)));
        if args.daemon.json {
            let values = by_kind.map(|(kind, owners)| {
                json!({ "kind": name::word(kind), "count": owners.values().sum::<u64>(), "owners": owners })
            });
            json(&values.collect::<Value>())?;
        } else {
            let mut rows = Rows::new(&["KIND", ">COUNT", "OWNERS"]);
            for (kind, owners) in by_kind {
                let total: u64 = owners.values().sum();
                let owners: Vec<_> = owners.iter().map(|(owner, count)| format!("{owner} {count}")).collect();
                rows.add([name::word(kind).to_string(), total.to_string(), owners.join(", ")]);
            }
            rows.print("nothing")?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
