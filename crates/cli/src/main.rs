//! The `lamina` command.

mod check;
mod daemon;
mod explain;
mod generated;
mod host;
mod lab;
mod policy;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Lamina: a programmable virtual switch. Program a running daemon and ask what it does; check policy, trace packets
/// through it, run labs.
#[derive(Debug, Parser)]
#[command(version, name = "lamina")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(host::apply::ApplyArgs),
    Get(host::get::GetArgs),
    List(host::list::ListArgs),
    Delete(host::delete::DeleteArgs),
    Edit(host::edit::EditArgs),
    Watch(host::watch::WatchArgs),
    Status(host::status::StatusArgs),
    Stats(host::stats::StatsArgs),
    Top(host::top::TopArgs),
    Flows(host::flows::FlowsArgs),
    Drops(host::drops::DropsArgs),
    /// Show what policy does to a packet, layer by layer, and why.
    Trace(Box<trace::TraceArgs>),
    Capture(Box<host::capture::CaptureArgs>),
    Events(host::events::EventsArgs),
    Limits(host::limits::LimitsArgs),
    Audit(host::audit::AuditArgs),
    /// Explain names that other commands print.
    Explain(explain::ExplainArgs),
    /// Check policy files: every mistake with its place and what to do.
    Check(check::CheckArgs),
    Daemon(daemon::DaemonArgs),
    /// Build networks out of namespaces and check policy in them.
    Lab(lab::LabArgs),
    Completion(generated::CompletionArgs),
    Man(generated::ManArgs),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Commands that ask a daemon tell their failures themselves; here are those that work without one.
    let as_json = match &command {
        Command::Trace(args) => args.json,
        Command::Explain(args) => args.json(),
        Command::Check(args) => args.json,
        Command::Lab(args) => args.json(),
        _ => false,
    };
    let result = match command {
        Command::Apply(args) => host::apply::run(&args),
        Command::Get(args) => host::get::run(&args),
        Command::List(args) => host::list::run(&args),
        Command::Delete(args) => host::delete::run(&args),
        Command::Edit(args) => host::edit::run(&args),
        Command::Watch(args) => host::watch::run(&args),
        Command::Status(args) => host::status::run(&args),
        Command::Stats(args) => host::stats::run(&args),
        Command::Top(args) => host::top::run(&args),
        Command::Flows(args) => host::flows::run(&args),
        Command::Drops(args) => host::drops::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => host::capture::run(&args),
        Command::Events(args) => host::events::run(&args),
        Command::Limits(args) => host::limits::run(&args),
        Command::Audit(args) => host::audit::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::Completion(args) => generated::completion(&args, Cli::command()),
        Command::Man(args) => generated::man(&args, Cli::command()),
    };
    result.unwrap_or_else(|error| host::tell(error, as_json))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Every command below `command` with its flags, as `lamina get --port`.
    fn flags(command: &clap::Command, path: &str, out: &mut Vec<(String, String)>) {
        out.push((path.to_string(), path.to_string()));
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            match argument.get_long() {
                Some("help" | "version") => {}
                Some(long) => out.push((path.to_string(), format!("--{long}"))),
                None => {}
            }
        }
        let is_shown = |below: &&clap::Command| below.get_name() != "help" && !below.is_hide_set();
        for below in command.get_subcommands().filter(is_shown) {
            flags(below, &format!("{path} {}", below.get_name()), out);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_on_the_page() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut command = Cli::command();
        command.build();
        let mut all = Vec::new();
        flags(&command, "lamina", &mut all);
        assert!(all.len() > 80, "{}", all.len());
        let mut missing = String::new();
        for (path, wanted) in all.iter().filter(|(path, _)| path != "lamina") {
            // The section of a command runs from its heading to the next one of the same depth.
            let top = path.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let start = page.find(&format!("\n## {top}\n"));
            let section = start.map(|start| {
                let rest = &page[start + 1..];
                &rest[..rest.find("\n## ").unwrap_or(rest.len())]
            });
            let is_there = section.is_some_and(|section| section.contains(&format!("`{wanted}")));
            let is_common =
                matches!(&**wanted, "--socket" | "--json") && page.contains(&format!("`{wanted}"));
            if !is_there && !is_common {
                let _ = writeln!(missing, "{path}: {wanted}");
            }
        }
        assert!(missing.is_empty(), "docs/reference/cli.md does not name\n{missing}");
    }

    /// The pages that name commands, with their texts.
    fn pages() -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pages = vec![root.join("README.md"), root.join("bench/README.md")];
        for folder in ["docs", "docs/guide", "docs/reference", "examples/python"] {
            let files = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
        }
        pages.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
    }

    /// The commands of a line of a shell, each as its words.
    fn commands(line: &str) -> Vec<Vec<String>> {
        let mut commands = vec![Vec::new()];
        let (mut word, mut quote) = (None::<String>, None);
        for character in line.chars().chain([' ']) {
            match (quote, character) {
                (Some(open), _) if open == character => quote = None,
                (Some(_), _) => word.get_or_insert_default().push(character),
                (None, '"' | '\'') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (None, ' ') => commands.last_mut().unwrap().extend(word.take()),
                (None, '|' | '&' | ';') => {
                    commands.last_mut().unwrap().extend(word.take());
                    commands.push(Vec::new());
                }
                (None, _) => word.get_or_insert_default().push(character),
            }
        }
        commands
    }

    /// The arguments of a command, if it is `lamina`: without what stands before it, a redirection and a comment.
    fn arguments(words: &[String]) -> Option<Vec<String>> {
        const BEFORE: &[&str] = &["$", "sudo", "do", "then", "if", "!", "time"];
        let before = |word: &&String| BEFORE.contains(&&***word) || word.contains('=');
        let start = words.iter().take_while(before).count();
        let words = match &words[start..] {
            [first, rest @ ..] if first == "lamina" => rest,
            [cargo, run, release, dashes, rest @ ..]
                if [cargo, run, release, dashes]
                    .iter()
                    .all(|word| "cargo run --release --".contains(&***word)) =>
            {
                rest
            }
            _ => return None,
        };
        let end = words.iter().position(|word| word.starts_with(['#', '>', '<'])).unwrap_or(words.len());
        Some(words[..end].to_vec())
    }

    /// What the parser has against `arguments`; of a mere mention, that nothing is said beside the command is fine.
    fn refusal(arguments: &[String], is_mention: bool) -> Option<String> {
        use clap::error::ErrorKind;
        let stands_for = |word: &String| match word.trim_end_matches("...") {
            "" => word.clone(),
            "KIND" => "port".to_string(),
            "SHELL" => "bash".to_string(),
            "COMMAND" => "apply".to_string(),
            "N" | "NUMBER" | "SECONDS" | "PERCENT" => "1".to_string(),
            other => other.to_string(),
        };
        let arguments = arguments.iter().filter(|word| !word.starts_with('[')).map(stands_for);
        let error = Cli::try_parse_from(["lamina".to_string()].into_iter().chain(arguments)).err()?;
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        let lacks = matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        (!(is_help || is_mention && lacks)).then(|| error.to_string())
    }

    #[test]
    fn every_command_line_on_a_page_is_one() {
        let (mut typed, mut mentioned, mut wrong) = (0, 0, String::new());
        for (path, text) in pages() {
            let mut block = None;
            for (line, number) in text.lines().zip(1..) {
                let mut check = |words: &[String], is_mention: bool| {
                    let Some(arguments) = arguments(words) else { return };
                    if let Some(error) = refusal(&arguments, is_mention) {
                        let _ = writeln!(wrong, "{}:{number}: {error}", path.display());
                    }
                    *(if is_mention { &mut mentioned } else { &mut typed }) += 1;
                };
                match (line.strip_prefix("```"), block) {
                    (Some(_), Some(_)) => block = None,
                    (Some(kind), None) => block = Some(kind.split(' ').next().unwrap_or_default()),
                    (None, Some("sh" | "console")) => {
                        commands(line).iter().for_each(|words| check(words, false));
                    }
                    (None, Some(_)) => {}
                    // A pipe within a table has a backslash.
                    (None, None) => line.split('`').skip(1).step_by(2).for_each(|code| {
                        commands(&code.replace("\\|", "|")).iter().for_each(|words| check(words, true));
                    }),
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        assert!(typed > 60 && mentioned > 60, "{typed} {mentioned}");
        // And what is wrong is found.
        for line in
            ["lamina drops --nonsense", "sleep 1; sudo lamina get nonsense", "A=1 lamina flows --port"]
        {
            let found = commands(line)
                .iter()
                .filter_map(|words| arguments(words))
                .any(|words| refusal(&words, true).is_some());
            assert!(found, "{line}");
        }
    }
}
