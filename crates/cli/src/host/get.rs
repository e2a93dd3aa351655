//! `lamina get`: objects as controllers asked for them.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use lamina_api::wire::to_yaml;
use lamina_api::wire::v1::{Kind, Object};
use prost::Message;
use serde_json::Value;

use super::name::{KindArg, Within};
use super::output::{Rows, json, text};
use super::{DaemonArgs, Host, Usage, name, object};

/// Longer lines in tables are cut; `-o yaml` shows the whole.
const LONGEST_LINE: usize = 100;

/// Show objects as controllers asked for them.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// What kind of objects.
    #[arg(value_enum)]
    kind: KindArg,
    /// Their names; without one, all of the kind.
    names: Vec<String>,
    #[command(flatten)]
    within: Within,
    /// Only what belongs to this controller.
    #[arg(long, value_name = "CONTROLLER")]
    owner: Option<String>,
    /// In which form. `yaml` shows each object with everything in it; of `all` it is one owner's policy document.
    #[arg(short, long, value_enum, default_value = "table", conflicts_with = "json")]
    output: Form,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// A form of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Form {
    Table,
    Yaml,
    Json,
}

/// Runs the command; the exit code is 1 when an object that was named is not there.
pub fn run(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let daemon = DaemonArgs { json: args.daemon.json || args.output == Form::Json, ..args.daemon.clone() };
    daemon.run(async || {
        let mut host = daemon.connect().await?;
        let objects = find(&mut host, args).await?;
        match args.output {
            _ if daemon.json => {
                let values: anyhow::Result<Vec<Value>> = objects.iter().map(object::to_json).collect();
                json(&Value::Array(values?))?;
            }
            Form::Yaml if args.kind == KindArg::All => {
                let owners: BTreeSet<&str> = objects.iter().map(|object| &*object.owner).collect();
                if owners.len() > 1 {
                    let owners: Vec<&str> = owners.into_iter().collect();
                    bail!(Usage(format!(
                        "these are of several owners ({}), and a policy document that can be applied is of one: name \
                         it with --owner",
                        owners.join(", ")
                    )));
                }
                let document = object::document(objects).encode_to_vec();
                text(&to_yaml("Document", &document)?)?;
            }
            Form::Yaml => {
                for (index, object) in objects.into_iter().enumerate() {
                    let whole = object::whole(&mut host, object).await?;
                    let separator = if index == 0 { "" } else { "---\n" };
                    text(&format!("{separator}{}\n{}", heading(&whole), object::yaml(&whole)?))?;
                }
            }
            Form::Table | Form::Json => table(args.kind.kind(), &objects)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn find(host: &mut Host, args: &GetArgs) -> anyhow::Result<Vec<Object>> {
    let kind = args.kind.kind();
    let owner = args.owner.as_deref().unwrap_or_default();
    if args.names.is_empty() {
        return object::list(host, args.within.selector(kind), owner).await;
    }
    let mut found = Vec::new();
    for wanted in &args.names {
        let selector = args.within.named(kind, wanted)?;
        let objects = object::list(host, selector.clone(), owner).await?;
        if objects.is_empty() {
            return Err(missing(host, args, wanted).await?);
        }
        found.extend(objects);
    }
    Ok(found)
}

/// Says that there is no such object, and which one may have been meant.
async fn missing(host: &mut Host, args: &GetArgs, wanted: &str) -> anyhow::Result<anyhow::Error> {
    let kind = args.kind.kind();
    let owner = args.owner.as_deref().unwrap_or_default();
    let all = object::list(host, args.within.selector(kind), owner).await?;
    let is_path = wanted.contains('/');
    let names = all.iter().map(|object| {
        let named = object::reference(object);
        if is_path { name::path(&named) } else { named.name }
    });
    let names: Vec<String> = names.collect();
    let help = match lamina_api::suggest::nearest(wanted, names.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("`lamina get {}` lists those that there are", name::word(kind)),
    };
    Ok(anyhow::anyhow!("there is no {} `{wanted}`; {help}", name::word(kind)))
}

/// The comment above an object's YAML form.
pub fn heading(object: &Object) -> String {
    let agents = if object.agents.is_empty() {
        String::new()
    } else {
        format!(", agents {}", object.agents.join(" "))
    };
    let named = name::full(&object::reference(object));
    format!("# {named}, owner {}{agents}, revision {}", object.owner, object.revision)
}

fn table(kind: Kind, objects: &[Object]) -> anyhow::Result<()> {
    let mut headings =
        if kind == Kind::Unspecified { vec!["KIND".into(), "NAME".into()] } else { name::headings(kind) };
    headings.extend(["OWNER", ">REVISION", "SAYS"].map(String::from));
    let mut rows = Rows::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for object in objects {
        let named = object::reference(object);
        let mut cells = match kind {
            Kind::Unspecified => vec![name::word(named.kind()).to_string(), name::path(&named)],
            _ => name::cells(&named),
        };
        cells.extend([object.owner.clone(), object.revision.to_string(), shortened(&object::line(object)?)]);
        rows.add(cells);
    }
    Ok(rows.print("nothing")?)
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.into(),
    }
}
