//! `lamina daemon`: runs the switch and serves the host API.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use lamina_daemon::config::Config;
use lamina_daemon::run;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

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
}

/// Runs the command.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let path = args.config.clone().unwrap_or_else(|| DEFAULT.into());
    let config = if args.config.is_none() && !Path::new(DEFAULT).exists() {
        Config::default()
    } else {
        Config::read(&path)?
    };
    let filter =
        EnvFilter::try_new(&config.log).map_err(|error| anyhow!("{}: `log`: {error}", path.display()))?;
    if args.check {
        config.rights(&lamina_daemon::config::Accounts::of_system(), 0)?;
        println!("{}: right", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    let lines = lines.with_timer(Stamp { is_journal: std::env::var_os("JOURNAL_STREAM").is_some() });
    let lines = lines.with_env_filter(filter).with_filter_reloading();
    let reload = lines.reload_handle();
    lines.init();
    let set_log: run::SetLog = Box::new(move |text| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        reload.reload(filter).map_err(|error| error.to_string())
    });
    run::run(&path, config, &set_log).map_err(|error| anyhow!("{error}"))?;
    Ok(ExitCode::SUCCESS)
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
