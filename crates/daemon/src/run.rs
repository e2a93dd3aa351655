//! The daemon as a process: configuration, workers, control thread, API, signals, and word to the service manager.
//!
//! It starts closed: ports drop everything until their policy is restored, and the API answers only then. It stops
//! cleanly on SIGTERM and SIGINT: the transaction that is being carried out ends, and nothing is left half done. On SIGHUP it
//! reads its configuration again; what can change while it runs changes (rights, what is logged), the rest is named.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::schedule::take_short_slices;
use lamina_core::switch::{PortId, SwitchConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, error, info, warn};

use crate::config::{Accounts, Config, PollingMode};
use crate::control::{self, Interfaces, Shared, Store};
use crate::host::{Host, HostConfig, Placement, Resolve};
use crate::server::{self, Bounds, ServerConfig, SocketFile};
use crate::underlay::sink::{Sink, TUNNEL_UDP_PORTS};
use crate::underlay::{Snapshot, Synchroniser, UplinkInterface};
use crate::worker::Polling;

/// Numbers of uplinks beyond the first, far from those of ports.
const FURTHER_UPLINKS: u32 = 1 << 30;
/// The policy store within the state directory.
const STORE: &str = "policy.redb";

/// Why the daemon did not start, or ended: one text for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Changes what is logged while the daemon runs; the text is a filter.
pub type SetLog = Box<dyn Fn(&str) -> Result<(), String>>;

/// Runs the daemon with the configuration at `path` until a signal tells it to stop, or `stop` is over.
pub fn run(
    path: &Path,
    config: Config,
    set_log: &SetLog,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(path, config, set_log, stop))
}

async fn serve(
    path: &Path,
    config: Config,
    set_log: &SetLog,
    told: impl Future<Output = ()>,
) -> Result<(), Error> {
    let begin = Instant::now();
    raise_file_limit();
    let accounts = Accounts::of_system();
    let own_uid = rustix::process::geteuid().as_raw();
    let rights = config.rights(&accounts, own_uid)?;
    let group = match &*config.socket_group {
        "" => None,
        name => Some(accounts.group(name)?),
    };
    // Signals are caught before anything is there that a signal would leave half done.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let store = open_store(&config.state)?;
    let uplinks = Uplinks::prepare(&config.uplinks, &config.vxlan_ports)?;
    let (events, rings) = control::event_rings(config.workers);
    let host = Host::start(HostConfig { events, ..host_config(&config, uplinks.resolver())? })?;
    let uplinks = uplinks.attach(&host)?;
    let (control, handle, shared) = control::start(host, store, rights, Box::new(Interfaces), rings)
        .map_err(|error| match error {
            control::ApplyError::Store(error) => Error::from(error),
            other => Error::from(format!("{other:?}")),
        })?;
    uplinks.follow(&shared);
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || control.run())?;
    let listener = server::listen(&config.socket, config.mode().unwrap_or(0o660), group)
        .map_err(|error| format!("the socket {} cannot be served: {error}", config.socket.display()))?;
    let file = SocketFile::at(&config.socket)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server_config = ServerConfig {
        bounds: Bounds { all: config.limits.connections, per_user: config.limits.connections_per_user },
        streams_per_user: config.limits.streams_per_user,
        message_bytes: config.limits.message_bytes,
        transaction_bytes: config.limits.transaction_bytes,
    };
    let serving = server::serve(listener, handle.clone(), shared.clone(), server_config, async move {
        // The sender is dropped only at the end, too.
        let _ = stopped.await;
    });
    tokio::pin!(serving, told);
    notify(&format!("READY=1\nSTATUS=serving {}", config.socket.display()));
    // This thread serves the API from here on; threads that it started before keep theirs.
    if let Err(error) = take_short_slices(control::SLICE) {
        debug!("requests may have to wait for the processor: {error}");
    }
    info!(socket = %config.socket.display(), after = ?begin.elapsed(), "ready");
    let mut config = config;
    let ended = loop {
        tokio::select! {
            ended = &mut serving => break ended,
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            () = &mut told => break Ok(()),
            _ = hang_up.recv() => {
                notify("RELOADING=1");
                reload(path, &mut config, &shared, set_log);
                notify("READY=1");
            }
        }
    };
    notify("STOPPING=1");
    info!("stopping");
    handle.stop();
    if thread.join().is_err() {
        error!("the control thread had ended by a fault");
    }
    drop(stop);
    // Open calls end with their connections; they are not waited for.
    match file.remove() {
        Ok(true) => {}
        Ok(false) => warn!("the socket is no longer this daemon's and stays"),
        Err(error) => warn!("the socket could not be removed: {error}"),
    }
    ended
}

fn open_store(state: &Path) -> Result<Store, Error> {
    if state.as_os_str().is_empty() {
        warn!("policy is kept in memory only: `state` is empty");
        return Ok(Store::in_memory()?);
    }
    std::fs::create_dir_all(state)
        .map_err(|error| format!("the state directory {} cannot be made: {error}", state.display()))?;
    let file: PathBuf = state.join(STORE);
    Store::open(&file).map_err(|error| format!("{}: {error}", file.display()).into())
}

fn host_config(config: &Config, resolve: Option<Resolve>) -> Result<HostConfig, Error> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    let switch = SwitchConfig { seed: u64::from_ne_bytes(seed) };
    let mut host = HostConfig::new("lamina", switch);
    host.workers = config.workers;
    host.buffers = config.buffers / config.workers;
    host.handover = host.buffers / 2;
    host.resolve = resolve;
    host.tunnels = config.tunnels().unwrap_or_default();
    host.polling = match config.polling {
        PollingMode::Adaptive => Polling::default(),
        PollingMode::Busy => Polling::Busy,
    };
    Ok(host)
}

/// Reads the configuration again. One that is wrong changes nothing.
fn reload(path: &Path, config: &mut Config, shared: &Shared, set_log: &SetLog) {
    let own_uid = rustix::process::geteuid().as_raw();
    let read = Config::read(path).and_then(|new| Ok((new.rights(&Accounts::of_system(), own_uid)?, new)));
    let (rights, new) = match read {
        Ok(read) => read,
        Err(error) => {
            error!("the configuration is not reloaded, the old one stays: {error}");
            return;
        }
    };
    if let Err(error) = set_log(&new.log) {
        error!("the configuration is not reloaded, the old one stays: `log`: {error}");
        return;
    }
    shared.set_rights(rights);
    let now = Config {
        access: new.access.clone(),
        controllers: new.controllers.clone(),
        log: new.log.clone(),
        ..config.clone()
    };
    if now != new {
        warn!("only `access`, `controllers` and `log` change while the daemon runs: restart it for the rest");
    }
    *config = now;
    info!("the configuration is reloaded");
}

/// Many connections and devices need many files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        warn!("the limit of open files stays as it is: {error}");
    }
}

/// Tells the service manager, if there is one (sd_notify(3)).
fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = (|| -> io::Result<usize> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    })();
    if let Err(error) = sent {
        warn!("the service manager was not told: {error}");
    }
}

/// Uplinks, before there are workers.
struct Uplinks {
    interfaces: Vec<UplinkInterface>,
    parts: Option<Parts>,
}

struct Parts {
    synchroniser: Synchroniser,
    /// Swallows tunnel packets that the kernel, too, gets.
    sink: Sink,
    latest: Arc<Latest>,
}

/// The last snapshot, and who hears of the next.
#[derive(Default)]
struct Latest {
    snapshot: RwLock<Option<Snapshot>>,
    shared: OnceLock<Arc<Shared>>,
}

impl Latest {
    fn tell(&self) {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(shared), Some(snapshot)) = (self.shared.get(), snapshot) else { return };
        if let Err(error) = shared.host.set_snapshot(snapshot) {
            error!("a change of the underlay is not in force: {error}");
        }
    }
}

impl Uplinks {
    fn prepare(names: &[String], vxlan_ports: &[u16]) -> Result<Uplinks, Error> {
        let interfaces: Vec<UplinkInterface> = names
            .iter()
            .enumerate()
            .map(|(index, name)| UplinkInterface { id: uplink_id(index), interface: name.clone() })
            .collect();
        if interfaces.is_empty() {
            return Ok(Uplinks { interfaces, parts: None });
        }
        let latest = Arc::new(Latest::default());
        let sink = Sink::open(&[&TUNNEL_UDP_PORTS[..], vxlan_ports].concat())?;
        let told = latest.clone();
        let (synchroniser, first) = Synchroniser::start(interfaces.clone(), move |snapshot| {
            *told.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
            told.tell();
        })
        .map_err(|error| format!("the uplinks {} cannot be used: {error}", names.join(", ")))?;
        // A later one may already be there.
        latest.snapshot.write().unwrap_or_else(PoisonError::into_inner).get_or_insert(first);
        Ok(Uplinks { interfaces, parts: Some(Parts { synchroniser, sink, latest }) })
    }

    fn resolver(&self) -> Option<Resolve> {
        let resolver = self.parts.as_ref()?.synchroniser.resolver();
        Some(Arc::new(move |next_hop: IpAddr| resolver.resolve(next_hop)))
    }

    /// Gives the uplinks to `host`.
    fn attach(self, host: &Host) -> Result<Attached, Error> {
        let Some(parts) = self.parts else { return Ok(Attached { parts: None }) };
        let snapshot = parts.latest.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(snapshot) = snapshot else { return Err("the underlay is not known".into()) };
        for (id, config) in snapshot.uplinks.clone() {
            let interface = self.interfaces.iter().find(|uplink| uplink.id == id);
            let Some(interface) = interface else { continue };
            let backend = AfPacket::open(&AfPacketConfig::uplink(interface.interface.as_str()))
                .map_err(|error| format!("the uplink {} cannot be opened: {error}", interface.interface))?;
            host.add_uplink(id, config, Placement::Any, Some(Box::new(backend)))?;
        }
        host.set_snapshot(snapshot)?;
        Ok(Attached { parts: Some(parts) })
    }
}

/// Uplinks that workers have. They are kept up to date as long as this lives.
struct Attached {
    parts: Option<Parts>,
}

impl Attached {
    /// Has the host of `shared` hear of changes from now on.
    fn follow(&self, shared: &Arc<Shared>) {
        if let Some(Parts { latest, .. }) = &self.parts {
            // It is set once.
            let _ = latest.shared.set(shared.clone());
            latest.tell();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(Parts { synchroniser, sink, .. }) = self.parts.take() {
            drop(synchroniser);
            drop(sink);
        }
    }
}

fn uplink_id(index: usize) -> PortId {
    // The first uplink has the number that policy calls `uplink`.
    if index == 0 { PortId(0) } else { PortId(FURTHER_UPLINKS + index as u32) }
}
