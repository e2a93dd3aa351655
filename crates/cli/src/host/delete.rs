//! `lamina delete`: removes objects with everything in them, in one transaction.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lamina_api::wire::v1::operation::Operation as Change;
use lamina_api::wire::v1::{Delete, Kind, Operation};

use super::apply::{Transaction, print, send};
use super::name::{KindArg, Within};
use super::{DaemonArgs, Failure, Usage, name};

/// Remove objects with everything in them: all of them, or none.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// What kind of objects.
    #[arg(value_enum)]
    kind: KindArg,
    /// Their names.
    names: Vec<String>,
    #[command(flatten)]
    within: Within,
    /// The controller to act as; needed by who may be several.
    #[arg(long = "as", value_name = "CONTROLLER")]
    controller: Option<String>,
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// It is no mistake when an object is not there.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let kind = args.kind.kind();
        let refs = match (kind, &args.names[..]) {
            (Kind::Unspecified, _) => bail!(Usage("name the kind of what shall be removed".into())),
            (Kind::Multicast, []) => vec![name::plain(kind, "")],
            (Kind::Multicast, _) => bail!(Usage("the multicast set has no name".into())),
            (_, []) => bail!(Usage(format!("name the {} that shall be removed", name::word(kind)))),
            (_, names) => {
                let refs = names.iter().map(|name| args.within.exactly(kind, name));
                refs.collect::<Result<Vec<_>, _>>()?
            }
        };
        let operations = refs.into_iter().map(|object| {
            let delete = Delete { r#ref: Some(object), must_exist: !args.if_exists };
            Operation { operation: Some(Change::Delete(delete)) }
        });
        let transaction = Transaction {
            controller: args.controller.clone().unwrap_or_default(),
            dry_run: args.dry_run,
            operations: operations.collect(),
            ..Transaction::default()
        };
        let mut host = args.daemon.connect().await?;
        let reply = send(&mut host, transaction).await?.map_err(|status| Failure::refused(&status, &[]))?;
        print(&mut host, reply, args.dry_run, &[], args.daemon.json).await?;
        Ok(ExitCode::SUCCESS)
    })
}
