//! `lamina apply`: makes the daemon have what policy files say, in one transaction.
//!
//! The files together are desired state: a port, layer or resource that they name is afterwards as they say, groups and
//! rules included. What they do not name stays, unless `--prune` is given. Everything takes effect at once or nothing
//! does. Mistakes that the daemon finds are shown at their places in the files.

pub mod changes;
mod difference;
mod operations;
mod prune;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lamina_api::wire::v1::operation::Operation as Change;
use lamina_api::wire::v1::{Document, Kind, Operation, Ref, StatusRequest};
use lamina_api::wire::{Places, read};
use lamina_api::{Report, Source};

use super::{DaemonArgs, Failure, Host, Usage, object};

pub use changes::print;
use operations::agents_of;
pub use operations::{of_files, of_group, of_layer, of_mapping};
pub use prune::{names, removal_of};
pub use transaction::{Transaction, send};

/// Make the daemon have what policy files say: all of it at once, or nothing.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A policy file; given several times, they are applied together. `-` is standard input.
    #[arg(short, long = "file", required = true, value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// The controller to act as; without it, the owner that the files name.
    #[arg(long = "as", value_name = "CONTROLLER")]
    controller: Option<String>,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Also remove what belongs to the controller and is not in the files.
    #[arg(long)]
    prune: bool,
    /// Also look for rules that cannot match or are hidden.
    #[arg(long)]
    warnings: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// A policy file that was read.
pub struct File {
    /// The text.
    pub source: Source,
    /// What it says.
    pub document: Document,
}

/// Runs the command.
pub fn run(args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let files = read_files(&args.files)?;
        let owner = match &args.controller {
            Some(controller) => controller.clone(),
            None => owner(&files)?.unwrap_or_default(),
        };
        let mut operations = operations::of_files(&files).map_err(Failure::Policy)?;
        let mut host = args.daemon.connect().await?;
        operations = fit(&mut host, operations).await?;
        if args.prune {
            let owner = match &*owner {
                "" => only_controller(&mut host).await?,
                owner => owner.to_string(),
            };
            let removals = prune::removals(&mut host, &files, &owner).await?;
            operations.extend(removals);
        }
        let transaction = Transaction {
            controller: owner,
            dry_run: args.dry_run,
            warnings: args.warnings,
            expect: Vec::new(),
            operations,
        };
        let sources: Vec<Source> = files.into_iter().map(|file| file.source).collect();
        let places = || sources.iter().filter_map(Places::of_document).collect::<Vec<_>>();
        let reply =
            send(&mut host, transaction).await?.map_err(|status| Failure::refused(&status, &places()))?;
        // Reading the files again is for mistakes only: without warnings nothing is looked for.
        let places = if reply.warnings.is_empty() { Vec::new() } else { places() };
        print(&mut host, reply, args.dry_run, &places, args.daemon.json).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn read_files(paths: &[PathBuf]) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    let mut report = Report::new();
    let standard_input = |path: &&PathBuf| path.as_path() == Path::new("-");
    if paths.iter().filter(standard_input).count() > 1 {
        bail!(Usage("standard input can be read only once".into()));
    }
    for path in paths {
        let (name, text) = crate::policy::read(path)?;
        let source = Source::new(name, text);
        match read::document(&source) {
            Ok(document) => files.push(File { source, document }),
            Err(mistakes) => report.append(mistakes),
        }
    }
    if report.has_errors() { Err(Failure::Policy(report).into()) } else { Ok(files) }
}

/// The one owner that the files name; none where they name none.
fn owner(files: &[File]) -> Result<Option<String>, Usage> {
    let mut owners: BTreeSet<&str> = BTreeSet::new();
    for File { document, .. } in files {
        let layers = || document.ports.values().flat_map(|port| &port.layers);
        owners.extend(layers().map(|layer| &*layer.owner).filter(|owner| !owner.is_empty()));
        let all_name_one = layers().count() > 0 && layers().all(|layer| !layer.owner.is_empty());
        if !document.owner.is_empty() && !all_name_one {
            owners.insert(&document.owner);
        }
    }
    let owners: Vec<&str> = owners.into_iter().collect();
    match owners[..] {
        [] => Ok(None),
        [owner] => Ok(Some(owner.into())),
        _ => Err(Usage(format!(
            "the files are of several owners ({}), and a transaction is of one: apply them one by one, or name one \
             with --as",
            owners.join(", ")
        ))),
    }
}

/// Fits `operations` to what is there. Documents have no word for a resource's agents: those that it has stay. A metadata
/// key is declared by every document that uses it, and made by one: it is not put where it is there already.
pub async fn fit(host: &mut Host, mut operations: Vec<Operation>) -> anyhow::Result<Vec<Operation>> {
    let put: Vec<(Ref, &mut Vec<String>)> =
        operations.iter_mut().filter_map(|operation| agents_of(operation.operation.as_mut()?)).collect();
    let kinds: BTreeSet<i32> = put.iter().map(|(resource, _)| resource.kind).collect();
    let mut known = BTreeMap::new();
    for kind in kinds {
        let selector = Ref { kind, ..Ref::default() };
        for found in object::list(host, selector, "").await? {
            known.insert((kind, object::reference(&found).name), found.agents);
        }
    }
    for (resource, agents) in put {
        if let Some(found) = known.get(&(resource.kind, resource.name)) {
            agents.clone_from(found);
        }
    }
    operations.retain(|operation| match &operation.operation {
        Some(Change::PutMetadata(put)) => !known.contains_key(&(Kind::Metadata.into(), put.name.clone())),
        _ => true,
    });
    Ok(operations)
}

/// The controller that the caller is when it does not say.
async fn only_controller(host: &mut Host) -> anyhow::Result<String> {
    let controllers = host.status(StatusRequest {}).await?.into_inner().controllers;
    match &controllers[..] {
        [only] => Ok(only.clone()),
        [] => {
            bail!("--prune needs a controller, and you may be none; ask for it in the daemon's configuration")
        }
        several => bail!(Usage(format!(
            "--prune needs one controller, and you may be several ({}): name one with --as",
            several.join(", ")
        ))),
    }
}
