//! Namespaces, the daemon's process, and its client.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lamina_api::wire::v1;
use lamina_api::wire::v1::host_client::HostClient;
use lamina_backend::namespace::NetNs;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use crate::policy;

/// How long the daemon may take to serve.
const SOON: Duration = Duration::from_secs(10);
const WORKERS: usize = 2;

/// The daemon and the guests that hang on it.
pub struct Network {
    pub daemon: Daemon,
    pub guests: [NetNs; 2],
}

impl Network {
    /// Builds it, with the daemon's folder in `parent`.
    pub fn build(parent: &Path, log: &str, nice: i8) -> Result<Network> {
        let host = namespace()?;
        let guests = [namespace()?, namespace()?];
        for (number, (guest, device)) in guests.iter().zip(policy::PORTS).enumerate() {
            let (path, mac) = (guest.path().display().to_string(), policy::mac(number));
            ip(&host, &format!("link add {device} type veth peer name eth0 address {mac} netns {path}"))?;
            ip(&host, &format!("link set {device} up"))?;
            let [a, b, c, d] = policy::ADDRESSES[number];
            ip(guest, &format!("addr add {a}.{b}.{c}.{d}/24 dev eth0"))?;
            ip(guest, "link set eth0 up")?;
            let [a, b, c, d] = policy::ADDRESSES[1 - number];
            let neighbour = policy::mac(1 - number);
            ip(guest, &format!("neigh add {a}.{b}.{c}.{d} lladdr {neighbour} dev eth0 nud permanent"))?;
        }
        Ok(Network { daemon: Daemon::start(parent, &host, log, nice)?, guests })
    }
}

fn namespace() -> Result<NetNs> {
    let namespace = NetNs::create()?;
    // Packets of its own would be noise.
    let _ = namespace.run(|| {
        ["all", "default"]
            .map(|place| fs::write(format!("/proc/sys/net/ipv6/conf/{place}/disable_ipv6"), "1"))
    });
    Ok(namespace)
}

/// Runs `ip` in `namespace`.
fn ip(namespace: &NetNs, arguments: &str) -> Result<()> {
    let run = || Command::new("ip").args(arguments.split(' ')).output();
    let output = namespace.run(run)?.context("the program `ip` is needed")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A daemon as a process of its own. Its folder goes with it.
pub struct Daemon {
    folder: PathBuf,
    socket: PathBuf,
    child: Child,
}

impl Daemon {
    fn start(parent: &Path, namespace: &NetNs, log: &str, nice: i8) -> Result<Daemon> {
        let folder = parent.join(format!("lamina-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let (socket, config, state) =
            (folder.join("lamina.sock"), folder.join("laminad.toml"), folder.join("state"));
        let text = format!("socket = {socket:?}\nstate = {state:?}\nworkers = {WORKERS}\nlog = {log:?}\n");
        fs::write(&config, text)?;
        let mut command = Command::new("nice");
        command.arg(format!("--adjustment={nice}")).arg(env!("CARGO_BIN_EXE_lamina"));
        command.arg("daemon").arg("--config").arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("NOTIFY_SOCKET");
        let child = namespace.run(move || command.spawn())??;
        let mut daemon = Daemon { folder, socket, child };
        let deadline = Instant::now() + SOON;
        while std::os::unix::net::UnixStream::connect(&daemon.socket).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended with {status}");
            }
            ensure!(Instant::now() < deadline, "the daemon does not serve its socket");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(daemon)
    }

    /// A client of it.
    pub async fn client(&self) -> Result<Client> {
        let path = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://lamina.invalid").connect_with_connector(connector).await?;
        Ok(Client(HostClient::new(channel)))
    }

    /// Has it end, as the service manager would.
    pub fn stop(mut self) -> Result<()> {
        let id = Pid::from_raw(self.child.id() as i32).context("the daemon has a number")?;
        kill_process(id, Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client of the daemon.
pub struct Client(HostClient<Channel>);

impl Client {
    /// Sends a transaction and waits until it is in force. Every operation is a part of the request.
    pub async fn apply(&mut self, operations: Vec<v1::Operation>) -> Result<v1::ApplyReply> {
        let options = v1::ApplyOptions { controller: "bench".into(), ..v1::ApplyOptions::default() };
        let mut options = Some(options);
        let part = move |operation| v1::ApplyRequest { options: options.take(), operations: vec![operation] };
        let parts = futures_util::stream::iter(operations.into_iter().map(part));
        Ok(self.0.apply(parts).await?.into_inner())
    }

    /// What the daemon dropped, by reason.
    pub async fn drops(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut answers = self.0.drops(v1::DropsRequest::default()).await?.into_inner();
        let mut drops = BTreeMap::new();
        while let Some(drop) = answers.message().await? {
            *drops.entry(drop.reason).or_default() += drop.packets;
        }
        Ok(drops)
    }
}
