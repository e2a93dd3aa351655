//! `lamina edit`: one object in an editor.
//!
//! What is saved is applied only if the object is still as it was when the editor opened. What is refused is not lost:
//! the text stays in a file that the message names, and at a terminal the editor opens again.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use lamina_api::wire::v1::operation::Operation as Change;
use lamina_api::wire::v1::put_resource::Resource;
use lamina_api::wire::v1::{
    Expectation, Group, Kind, Layer, Mapping, MappingEntry, Meter, Multicast, Object, Operation, Port,
    PrefixSet, PutMappingEntries, PutPort, PutResource, PutRules, RateLimit, Ref, Rule, TargetSet,
};
use lamina_api::wire::{Places, read};
use lamina_api::{Code, Diagnostic, Report, Source, Span};
use prost::Message;

use super::apply::{Transaction, of_group, of_layer, of_mapping, print, send};
use super::name::{KindArg, Within};
use super::{DaemonArgs, Failure, Host, Usage, get, name, object, output, tell};

/// Edit one object in $VISUAL or $EDITOR; what is saved is applied.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// What kind of object.
    #[arg(value_enum)]
    kind: KindArg,
    /// Its name; the multicast set has none.
    name: Option<String>,
    #[command(flatten)]
    within: Within,
    /// The controller to act as; without it, the object's owner.
    #[arg(long = "as", value_name = "CONTROLLER")]
    controller: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Runs the command.
pub fn run(args: &EditArgs) -> anyhow::Result<ExitCode> {
    args.daemon.run(async || {
        let kind = args.kind.kind();
        let wanted = match (kind, &args.name) {
            (Kind::Unspecified, _) => bail!(Usage("name the kind of what shall be edited".into())),
            (Kind::Metadata, _) => bail!(Usage("a metadata key says nothing that could be edited".into())),
            (Kind::Multicast, None) => name::plain(kind, ""),
            (Kind::Multicast, Some(_)) => bail!(Usage("the multicast set has no name".into())),
            (_, None) => bail!(Usage(format!("name the {} that shall be edited", name::word(kind)))),
            (_, Some(name)) => args.within.exactly(kind, name)?,
        };
        let mut host = args.daemon.connect().await?;
        let found = object::list(&mut host, wanted.clone(), "").await?.into_iter().next();
        let found = found.with_context(|| format!("there is no {}", name::full(&wanted)))?;
        let found = object::whole(&mut host, found).await?;
        edit(&mut host, args, &wanted, &found).await
    })
}

async fn edit(host: &mut Host, args: &EditArgs, wanted: &Ref, found: &Object) -> anyhow::Result<ExitCode> {
    let before = format!(
        "{}\n# Save and leave the editor to apply it; leave it as it is to change nothing.\n{}",
        get::heading(found),
        object::yaml(found)?
    );
    let path = new_file(&before)?;
    loop {
        open_editor(&path)?;
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if text == before {
            fs::remove_file(&path)?;
            output::line("nothing was changed")?;
            return Ok(ExitCode::SUCCESS);
        }
        let source = Source::new(path.display().to_string(), text);
        let error = match apply(host, args, wanted, found, &source).await {
            Ok(()) => {
                fs::remove_file(&path)?;
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => error,
        };
        let kept = format!("your text is kept in {}", path.display());
        if args.daemon.json {
            return Err(error);
        }
        let code = tell(error, false);
        if !io::stdin().is_terminal() {
            eprintln!("{kept}");
            return Ok(code);
        }
        if !again()? {
            return Err(anyhow!("not applied; {kept}"));
        }
    }
}

/// Asks whether to open the editor again.
fn again() -> anyhow::Result<bool> {
    eprint!("edit it again? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    let is_end = io::stdin().read_line(&mut answer)? == 0;
    Ok(!is_end && !answer.trim().eq_ignore_ascii_case("n"))
}

/// A new file that only the caller can read.
fn new_file(text: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir();
    for attempt in 0..1000 {
        let path = folder.join(format!("lamina-edit-{}-{attempt}.yaml", std::process::id()));
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes())?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
        }
    }
    bail!("cannot make a file in {}", folder.display())
}

fn open_editor(path: &Path) -> anyhow::Result<()> {
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".into());
    // An editor may be a command with arguments; the file's name is no part of what the shell reads.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path).status();
    let status = status.with_context(|| format!("cannot run {editor}"))?;
    if !status.success() {
        bail!("{editor} failed ({status}); nothing was applied, the text is in {}", path.display());
    }
    Ok(())
}

async fn apply(
    host: &mut Host,
    args: &EditArgs,
    wanted: &Ref,
    found: &Object,
    source: &Source,
) -> anyhow::Result<()> {
    let bytes = read::object(wanted, source).map_err(Failure::Policy)?;
    let changes = changes(wanted, found, source, &bytes)?;
    let transaction = Transaction {
        controller: args.controller.clone().unwrap_or_else(|| found.owner.clone()),
        expect: vec![Expectation { r#ref: Some(wanted.clone()), revision: found.revision }],
        operations: changes.into_iter().map(|change| Operation { operation: Some(change) }).collect(),
        ..Transaction::default()
    };
    let places: Vec<Places<'_>> = Places::of_object(source, wanted).into_iter().collect();
    let reply = send(host, transaction).await?.map_err(|status| Failure::refused(&status, &places))?;
    print(host, reply, false, &places, args.daemon.json).await
}

/// The operations that make the object what `bytes` say.
fn changes(wanted: &Ref, found: &Object, source: &Source, bytes: &[u8]) -> anyhow::Result<Vec<Change>> {
    let same_name = |name: &str| -> Result<(), Failure> {
        if name == wanted.name {
            return Ok(());
        }
        let message = format!("the name was changed from `{}` to `{name}`", wanted.name);
        let place = Places::of_object(source, wanted).and_then(|places| {
            let key = if wanted.kind() == Kind::Group { "group" } else { "name" };
            places.find(wanted, key)
        });
        let span = place.unwrap_or_default();
        let diagnostic = Diagnostic::error(Code::Conflict, source, span, message);
        let help = "an object is known by its name: put a new one with `lamina apply`, and delete this one";
        Err(Failure::Policy(Report::from(diagnostic.help(help))))
    };
    let resource = |resource: Resource| {
        vec![Change::PutResource(PutResource {
            name: wanted.name.clone(),
            agents: found.agents.clone(),
            resource: Some(resource),
            keep_entries: false,
        })]
    };
    let (port, layer) = (wanted.port.clone(), wanted.layer.clone());
    Ok(match wanted.kind() {
        Kind::Port => {
            let port = Port::decode(bytes)?;
            if !port.layers.is_empty() {
                let diagnostic = Diagnostic::error(
                    Code::Conflict,
                    source,
                    Span::default(),
                    "a port is edited without its layers",
                );
                let help = "leave `layers` out: each layer is an object of its own";
                return Err(Failure::Policy(Report::from(diagnostic.help(help))).into());
            }
            vec![Change::PutPort(PutPort { name: wanted.name.clone(), port: Some(port) })]
        }
        Kind::Layer => {
            let mut layer = Layer::decode(bytes)?;
            same_name(&layer.name)?;
            layer.owner.clear();
            of_layer(&port, layer)
        }
        Kind::Group => {
            let group = Group::decode(bytes)?;
            same_name(&group.group)?;
            of_group(&port, &layer, wanted.direction(), group)
        }
        Kind::Rule => {
            let rule = Rule::decode(bytes)?;
            same_name(&rule.name)?;
            let (direction, group) = (wanted.direction, wanted.group.clone());
            vec![Change::PutRules(PutRules { port, layer, direction, group, rules: vec![rule] })]
        }
        Kind::Mapping => of_mapping(&wanted.name, Mapping::decode(bytes)?, found.agents.clone()),
        Kind::MappingEntry => {
            let entry = MappingEntry::decode(bytes)?;
            same_name(&name::entry(&entry))?;
            let (mapping, entries) = (wanted.mapping.clone(), vec![entry]);
            vec![Change::PutMappingEntries(PutMappingEntries {
                mapping,
                entries,
                replace: false,
                transient: false,
            })]
        }
        Kind::Targets => resource(Resource::Targets(TargetSet::decode(bytes)?)),
        Kind::Prefixes => resource(Resource::Prefixes(PrefixSet::decode(bytes)?)),
        Kind::Meter => resource(Resource::Meter(Meter::decode(bytes)?)),
        Kind::Limit => resource(Resource::Limit(RateLimit::decode(bytes)?)),
        Kind::Leases => resource(Resource::Leases(lamina_api::wire::v1::LeaseTable::decode(bytes)?)),
        Kind::Dns => resource(Resource::Dns(lamina_api::wire::v1::DnsTable::decode(bytes)?)),
        Kind::Multicast => vec![Change::PutMulticast(Multicast::decode(bytes)?)],
        Kind::Metadata | Kind::Unspecified => Vec::new(),
    })
}
