//! `lamina daemon`: runs the switch and serves the host API.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use lamina_daemon::config::Config;
use lamina_daemon::run;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::host::print_line;

/// Where the configuration is looked for when none is named; it need not be there.
const DEFAULT: &str = "/etc/lamina/laminad.toml";

/// Run the switch, and serve the host API on a Unix socket.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The configuration [default: /etc/lamina/laminad.toml, or the built-in defaults if that is not there].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
    /// For labs: also stop when standard input ends, and then remove this folder, in which the configuration is.
    #[arg(long, value_name = "FOLDER", hide = true)]
    temporary: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let path = args.config.clone().unwrap_or_else(|| DEFAULT.into());
    if let Some(folder) = args.temporary.as_ref().filter(|folder| path.parent() != Some(folder)) {
        bail!("--temporary removes {}, and the configuration is not in it", folder.display());
    }
    let is_default = args.config.is_none() && !Path::new(DEFAULT).exists();
    let config = if is_default { Config::default() } else { Config::read(&path)? };
    let filter = log_filter(&config.log).map_err(|error| anyhow!("{}: `log`: {error}", path.display()))?;
    if args.check {
        config.rights(&lamina_daemon::config::Accounts::of_system(), 0)?;
        print_line(&if is_default {
            format!("there is no {}: the built-in defaults are used", path.display())
        } else {
            format!("{}: right", path.display())
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // Where the log takes nothing more, a file on a full disk, the daemon goes on without.
    let lines = lines.log_internal_errors(false);
    let lines = lines.with_timer(Stamp { is_journal: std::env::var_os("JOURNAL_STREAM").is_some() });
    let lines = lines.with_env_filter(filter).with_filter_reloading();
    let reload = lines.reload_handle();
    lines.init();
    let set_log: run::SetLog =
        Box::new(move |text| reload.reload(log_filter(text)?).map_err(|error| error.to_string()));
    let result = match &args.temporary {
        Some(folder) => {
            let result = run::run(&path, config, &set_log, end_of_input());
            let removed = std::fs::remove_dir_all(folder);
            removed.unwrap_or_else(|error| eprintln!("{} stays: {error}", folder.display()));
            result
        }
        None => run::run(&path, config, &set_log, std::future::pending()),
    };
    result.map_err(|error| anyhow!("{error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What `log` of the configuration says. A word alone that is no level would be the name of a part of the program, and
/// turn off all others: only this program's own parts are taken for that.
fn log_filter(text: &str) -> Result<EnvFilter, String> {
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty() && !part.contains('=')) {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
        if !is_level && !part.starts_with("lamina") {
            return Err(format!("`{part}` is not a level; levels are {}", LEVELS.join(", ")));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

/// Is over when standard input ends: whoever held its other end is gone, however that came.
fn end_of_input() -> impl Future<Output = ()> {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    // It ends with the process.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(ended);
    });
    async move {
        // The sender sends nothing: that it goes is the news.
        let _ = end.await;
    }
}

/// The time of a line of the log; the journal stamps lines itself.
struct Stamp {
    is_journal: bool,
}

impl FormatTime for Stamp {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        if self.is_journal { Ok(()) } else { SystemTime.format_time(writer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_log_is_a_level_or_a_part_of_this_program() {
        for text in
            ["", "info", "WARN", "off", "warn,lamina_daemon=debug", "lamina_backend", "info,tonic=error"]
        {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for (text, help) in [
            ("warning", "`warning` is not a level; levels are off, error, warn, info, debug, trace"),
            ("info,verbose", "`verbose` is not a level"),
            ("lamina_daemon=warning", ""),
        ] {
            let error = log_filter(text).unwrap_err();
            assert!(error.contains(help), "{text}: {error}");
        }
    }
}
