//! A daemon that is a process of its own, on a socket and a state directory that go with it, and clients of it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lamina_api::Source;
use lamina_api::wire::v1::host_client::HostClient;
use lamina_api::wire::{read, v1};
use lamina_backend::namespace::NetNs;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

/// How long anything that must happen may take; builds may be running beside the tests.
pub const SOON: Duration = Duration::from_secs(30);

/// A folder that goes with its value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lamina-process-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A daemon: where it is, and its process while there is one.
pub struct Daemon {
    pub folder: Folder,
    pub socket: PathBuf,
    pub config: PathBuf,
    namespace: Option<NetNs>,
    child: Option<Child>,
    ignores_file_limits: bool,
}

impl Daemon {
    /// A daemon that is not started yet. `keys` are lines of its configuration, and then tables.
    pub fn new(keys: &str) -> Daemon {
        let folder = Folder::new();
        let socket = folder.0.join("lamina.sock");
        let config = folder.0.join("laminad.toml");
        let daemon =
            Daemon { folder, socket, config, namespace: None, child: None, ignores_file_limits: false };
        daemon.configure(keys);
        daemon
    }

    /// It will run in `namespace`.
    pub fn within(mut self, namespace: &NetNs) -> Daemon {
        self.namespace = Some(namespace.try_clone().unwrap());
        self
    }

    /// A write beyond the limit of its files' length will be an error and no signal.
    pub fn ignoring_file_limits(mut self) -> Daemon {
        self.ignores_file_limits = true;
        self
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Writes its configuration.
    pub fn configure(&self, keys: &str) {
        let state = self.folder.0.join("state");
        let text = format!("socket = {:?}\nstate = {state:?}\n{keys}\n", self.socket);
        fs::write(&self.config, text).unwrap();
    }

    /// Starts the process, without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = self.process(&self.config);
        self.child = Some(match &self.namespace {
            Some(namespace) => namespace.run(move || command.spawn()).unwrap().unwrap(),
            None => command.spawn().unwrap(),
        });
    }

    /// Starts the process and waits until it serves its socket.
    pub fn start(&mut self) {
        self.spawn();
        let child = self.child.as_mut().unwrap();
        let deadline = Instant::now() + SOON;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon ended with {status}: {}", fs::read_to_string(self.log_path()).unwrap());
            }
            assert!(Instant::now() < deadline, "the daemon does not serve its socket: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Another process with the configuration at `config`, until it ends by itself.
    pub fn other(&self, config: &Path) -> Output {
        self.process(config).stderr(Stdio::piped()).output().unwrap()
    }

    fn process(&self, config: &Path) -> Command {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let program = env!("CARGO_BIN_EXE_lamina");
        let mut command = Command::new(if self.ignores_file_limits { "sh" } else { program });
        if self.ignores_file_limits {
            command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", program]);
        }
        command.arg("daemon").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log).env_remove("NOTIFY_SOCKET");
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.0.join("log")
    }

    /// What it logged so far, over all its processes.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.id() as i32).unwrap(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// The command `lamina` as a client.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
        command.env("LAMINA_SOCKET", &self.socket).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the command `lamina` as a client, which must succeed, and returns what it printed.
    pub fn lamina(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {printed}{errors}");
        printed
    }

    /// The same with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = self.lamina(&[arguments, &["--json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        }
    }
}

/// A client of the socket at `path`.
pub async fn connect(path: &Path) -> Result<HostClient<Channel>, tonic::transport::Error> {
    let path = path.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://lamina.invalid");
    Ok(HostClient::new(endpoint.connect_with_connector(connector).await?))
}

/// Runs `test` on a runtime of its own.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

pub fn operation(operation: v1::operation::Operation) -> v1::Operation {
    v1::Operation { operation: Some(operation) }
}

/// The ports, layers and prefix sets of the policy document `text` as operations.
pub fn operations(text: &str) -> Vec<v1::Operation> {
    use v1::operation::Operation;
    let document = read::document(&Source::new("test", text)).unwrap_or_else(|report| panic!("{report}"));
    let mut operations = Vec::new();
    for (name, prefixes) in document.resources.unwrap_or_default().prefixes {
        let resource = Some(v1::put_resource::Resource::Prefixes(prefixes));
        let put = v1::PutResource { name, resource, ..v1::PutResource::default() };
        operations.push(operation(Operation::PutResource(put)));
    }
    for (name, mut port) in document.ports {
        let layers = std::mem::take(&mut port.layers);
        if !port.mac.is_empty() {
            let put = v1::PutPort { name: name.clone(), port: Some(port) };
            operations.push(operation(Operation::PutPort(put)));
        }
        for layer in layers {
            let put = v1::PutLayer { port: name.clone(), layer: Some(layer), keep_groups: false };
            operations.push(operation(Operation::PutLayer(put)));
        }
    }
    operations
}

/// Sends a transaction of `controller`.
pub async fn apply(
    client: &mut HostClient<Channel>,
    controller: &str,
    operations: Vec<v1::Operation>,
) -> Result<v1::ApplyReply, tonic::Status> {
    let options = v1::ApplyOptions { controller: controller.into(), ..v1::ApplyOptions::default() };
    let request = v1::ApplyRequest { options: Some(options), operations };
    client.apply(tokio_stream::once(request)).await.map(tonic::Response::into_inner)
}

/// Everything that there is.
pub async fn list(client: &mut HostClient<Channel>) -> Vec<v1::Object> {
    let request = v1::ListRequest { selector: Some(v1::Ref::default()), owner: String::new() };
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut objects = Vec::new();
    while let Some(object) = stream.message().await.unwrap() {
        objects.push(object);
    }
    objects
}

/// Waits until `is_so`.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: it took too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `ip` in `namespace`.
pub fn ip(namespace: &NetNs, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split(' ')).output();
    let output = namespace.run(run).unwrap().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tests that change users or make namespaces need root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// True when there is a `program` to start.
pub fn has(program: &str) -> bool {
    let tried =
        Command::new(program).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
    match tried {
        Ok(mut child) => child.wait().is_ok(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
