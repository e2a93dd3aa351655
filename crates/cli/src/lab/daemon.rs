//! The daemon of a host: a process of its own in the host's network namespace, and what the lab asks it.
//!
//! Its configuration, its store and its socket are in a private folder, which the daemon itself removes when it ends,
//! so that nothing stays when the lab is killed. Unix sockets are found by path from any network namespace: the lab
//! and its controllers stay where they are.
//!
//! Everything the lab learns of a switch comes through the host API; nothing here may look into the daemon.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lamina_api::wire::v1::{
    Counter, CountersRequest, DropCount, DropsRequest, Kind, ListRequest, PortStatus, StatusRequest,
};
use lamina_backend::namespace::NetNs;
use tokio::runtime::Runtime;

use super::process::Process;
use crate::host::{DaemonArgs, Host, collect, plain};

/// Workers of each host: more than one, so that every lab shows that it makes no difference where a port lives.
const WORKERS: usize = 2;
/// How long a daemon may take to serve its socket.
const START: Duration = Duration::from_secs(30);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(2);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    // Before the folder: it is the daemon that removes it, unless it was killed.
    process: Mutex<Process>,
    socket: PathBuf,
    runtime: Mutex<Runtime>,
    api: Host,
    _folder: Folder,
}

impl Daemon {
    /// Starts the daemon of `host` inside `ns`, and waits until it serves its socket. `controllers` may program it; the
    /// one called `maker` may make ports.
    pub fn start<'n>(
        ns: &NetNs,
        host: &str,
        uplinks: &[&str],
        maker: &str,
        controllers: impl Iterator<Item = &'n str>,
    ) -> Result<Daemon> {
        let folder = Folder::new(host).context("no folder for the daemon's files could be made")?;
        let socket = folder.0.join("lamina.sock");
        let file = folder.0.join("laminad.toml");
        std::fs::write(&file, configuration(&folder.0, &socket, uplinks, maker, controllers)?)
            .with_context(|| format!("{} could not be written", file.display()))?;
        let words =
            ["daemon".as_ref(), "--config".as_ref(), file.as_os_str(), "--temporary".as_ref(), folder.path()];
        let (mut process, _) = Process::start(format!("the daemon of {host}"), Some(ns), &words)?;
        let deadline = Instant::now() + START;
        while UnixStream::connect(&socket).is_err() {
            process.check()?;
            if Instant::now() > deadline {
                bail!("the daemon of {host} does not serve its socket after {START:?}");
            }
            std::thread::sleep(LOOK);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let api = runtime.block_on(DaemonArgs { socket: socket.clone(), json: false }.connect())?;
        Ok(Daemon { process: process.into(), socket, runtime: runtime.into(), api, _folder: folder })
    }

    /// Where it serves the API.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Counters of the port called `port`; with a layer, only of that.
    pub fn counters(&self, port: &str, layer: &str) -> Result<Vec<Counter>> {
        let request = CountersRequest { port: port.into(), layer: layer.into(), nonzero: false };
        self.ask(async |api| collect(api.counters(request).await?).await)
    }

    /// All drops of ports and uplinks, by reason and place.
    pub fn drops(&self) -> Result<Vec<DropCount>> {
        self.ask(async |api| collect(api.drops(DropsRequest::default()).await?).await)
    }

    /// True where the host has a meter of this name.
    pub fn has_meter(&self, name: &str) -> Result<bool> {
        let selector = plain(Kind::Meter, name);
        let request = ListRequest { selector: Some(selector), owner: String::new() };
        let found = self.ask(async |api| collect(api.list(request).await?).await)?;
        Ok(!found.is_empty())
    }

    /// The ports and their state.
    pub fn ports(&self) -> Result<Vec<PortStatus>> {
        Ok(self.ask(async |api| api.status(StatusRequest {}).await)?.into_inner().ports)
    }

    /// What it logged.
    pub fn said(&self) -> Vec<String> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).said()
    }

    /// Fails where it has ended.
    pub fn check(&self) -> Result<()> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).check()
    }

    /// Tells it to stop, without waiting.
    pub fn hang_up(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).hang_up();
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(&mut Host) -> Result<T, tonic::Status>) -> Result<T> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = runtime.block_on(question(&mut self.api.clone()));
        answer.map_err(|status| {
            // One that is gone says why better than a call that failed.
            self.check().err().unwrap_or_else(|| anyhow!("the daemon refused: {}", status.message()))
        })
    }
}

/// The text of the configuration.
fn configuration<'n>(
    folder: &Path,
    socket: &Path,
    uplinks: &[&str],
    maker: &str,
    controllers: impl Iterator<Item = &'n str>,
) -> Result<String> {
    let path =
        |path: &Path| path.to_str().map(String::from).context("the temporary folder's name is no UTF-8");
    let user = rustix::process::geteuid().as_raw();
    let mut text = format!(
        "socket = {:?}\nsocket-mode = \"0600\"\nstate = {:?}\nworkers = {WORKERS}\nuplinks = {uplinks:?}\nlog = \
         \"warn\"\n",
        path(socket)?,
        path(&folder.join("state"))?,
    );
    for controller in controllers {
        let ports = controller == maker;
        writeln!(text, "\n[controllers.{controller:?}]\nusers = [{user}]\nports = {ports}")?;
    }
    Ok(text)
}

/// A private folder that goes with its value, unless it is gone already.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(host: &str) -> io::Result<Folder> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("lamina-lab-{}-{number}-{host}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Folder(path)),
                // What an earlier process of this number left, or somebody put there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn path(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use lamina_daemon::config::Config;

    use super::*;

    #[test]
    fn the_configuration_is_read_by_the_daemon_and_only_one_controller_makes_ports() {
        let (folder, socket) = (Path::new("/a \"b\"\\c"), Path::new("/a \"b\"\\c/s"));
        let controllers = ["lab", "acl", "a.b"];
        let text = configuration(folder, socket, &["underlay"], "lab", controllers.into_iter()).unwrap();
        let config = Config::parse("laminad.toml", &text).unwrap();
        assert_eq!((config.socket.as_path(), config.workers, config.mode()), (socket, WORKERS, Some(0o600)));
        assert_eq!(config.state, folder.join("state"));
        let may: Vec<_> =
            config.controllers.iter().map(|(name, entry)| (name.as_str(), entry.ports)).collect();
        assert_eq!(may, [("a.b", false), ("acl", false), ("lab", true)]);
    }

    #[test]
    fn folders_are_private_and_never_shared() {
        use std::os::unix::fs::PermissionsExt;
        let (a, b) = (Folder::new("h").unwrap(), Folder::new("h").unwrap());
        assert_ne!(a.0, b.0);
        assert_eq!(std::fs::metadata(&a.0).unwrap().permissions().mode() & 0o777, 0o700);
        let path = a.0.clone();
        drop(a);
        assert!(!path.exists());
    }
}
