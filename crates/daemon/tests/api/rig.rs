//! A daemon without its process: control thread, workers and API on a socket of its own, and clients of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lamina_api::Source;
use lamina_api::wire::v1::host_client::HostClient;
use lamina_api::wire::{read, v1};
use lamina_backend::memory::{self, Memory};
use lamina_backend::{Backend, PacketPool};
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::SwitchConfig;
use lamina_daemon::control::{self, Devices, Handle, Rights, Shared, Store};
use lamina_daemon::host::{Host, HostConfig};
use lamina_daemon::server::{self, Bounds, ServerConfig};
use tonic::transport::{Channel, Endpoint};

/// Ports without devices.
pub struct NoDevices;

impl Devices for NoDevices {
    fn open(&mut self, _: &str) -> io::Result<Option<(control::Device, Box<dyn Backend>)>> {
        Ok(None)
    }

    fn is_there(&mut self, _: &control::Device) -> bool {
        false
    }
}

/// The guests' sides of devices in memory, by port.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<BTreeMap<String, (Memory, PacketPool)>>>);

/// Devices in memory for ports of every name, and the guests' sides of them.
pub fn memory_devices() -> (Box<dyn Devices>, Guests) {
    let guests = Guests::default();
    (Box::new(guests.clone()), guests)
}

impl Devices for Guests {
    fn open(&mut self, port: &str) -> io::Result<Option<(control::Device, Box<dyn Backend>)>> {
        let (inner, outer) = memory::pair(64);
        let pool = PacketPool::for_super_frames(64);
        self.0.lock().unwrap().insert(port.to_string(), (outer, pool));
        Ok(Some((control::Device { name: port.to_string(), index: 1 }, Box::new(inner))))
    }

    fn is_there(&mut self, _: &control::Device) -> bool {
        true
    }
}

impl Guests {
    /// Has the guest of `port` send `frame`.
    pub fn send(&self, port: &str, frame: &[u8]) {
        let mut guests = self.0.lock().unwrap();
        let (memory, pool) = guests.get_mut(port).unwrap();
        let mut batch: Batch = vec![Packet::from_frame(frame)];
        assert_eq!(memory.transmit(lamina_core::time::Instant(0), pool, &mut batch).sent, 1);
    }

    /// The next frame that the guest of `port` gets.
    pub fn receive(&self, port: &str) -> Option<Vec<u8>> {
        let mut guests = self.0.lock().unwrap();
        let (memory, pool) = guests.get_mut(port).unwrap();
        let mut batch = Batch::new();
        memory.receive(lamina_core::time::Instant(0), pool, &mut batch, 1);
        let frame = batch.first().map(|packet| packet.frame().to_vec());
        pool.give_all(&mut batch);
        frame
    }

    /// The same, waiting for it.
    pub fn wait(&self, port: &str, patience: Duration) -> Vec<u8> {
        let end = Instant::now() + patience;
        loop {
            if let Some(frame) = self.receive(port) {
                return frame;
            }
            assert!(Instant::now() < end, "nothing came to {port}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How a rig is made.
pub struct Setup {
    pub store: Option<PathBuf>,
    pub rights: Rights,
    pub workers: usize,
    pub server: ServerConfig,
    pub devices: Box<dyn Devices>,
}

impl Default for Setup {
    fn default() -> Self {
        let server = ServerConfig {
            bounds: Bounds { all: 64, per_user: 32 },
            streams_per_user: 16,
            message_bytes: 4 << 20,
            transaction_bytes: 64 << 20,
        };
        // Whoever runs the tests may be every controller.
        let own = rustix::process::geteuid().as_raw();
        let rights = Rights { administrators: vec![own], ..Rights::default() };
        Setup { store: None, rights, workers: 1, server, devices: Box::new(NoDevices) }
    }
}

/// A running daemon.
pub struct Rig {
    pub socket: PathBuf,
    pub shared: Arc<Shared>,
    handle: Handle,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    _folder: Folder,
}

/// A folder that goes with its value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lamina-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    pub fn start(setup: Setup) -> Rig {
        let folder = Folder::new("api");
        let socket = folder.0.join("lamina.sock");
        let mut config = HostConfig::new("test", SwitchConfig { seed: 7 });
        config.workers = setup.workers;
        let (senders, rings) = control::event_rings(setup.workers);
        config.events = senders;
        let host = Host::start(config).unwrap();
        let store = match &setup.store {
            Some(path) => Store::open(path).unwrap(),
            None => Store::in_memory().unwrap(),
        };
        let (control, handle, shared) =
            control::start(host, store, setup.rights, setup.devices, rings).unwrap();
        let control = std::thread::spawn(move || control.run());
        let listener = server::listen(&socket, 0o600, None).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (served_handle, served) = (handle.clone(), shared.clone());
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let serving = server::serve(listener, served_handle, served, setup.server, async move {
                    let _ = stopped.await;
                });
                serving.await.unwrap();
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        Rig { socket, shared, handle, threads: vec![control, serving], stop: Some(stop), _folder: folder }
    }

    /// A client on a connection of its own.
    pub async fn client(&self) -> HostClient<Channel> {
        connect(&self.socket).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.stop();
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if !std::thread::panicking() {
                thread.join().unwrap();
            }
        }
    }
}

/// A client of the socket at `path`.
pub async fn connect(path: &Path) -> HostClient<Channel> {
    let path = path.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://lamina.invalid");
    HostClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// Runs `test` on a runtime of its own.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

pub fn operation(operation: v1::operation::Operation) -> v1::Operation {
    v1::Operation { operation: Some(operation) }
}

/// The operations that the policy document `text` stands for, in the order in which they can be carried out.
pub fn operations(text: &str) -> Vec<v1::Operation> {
    use v1::operation::Operation;
    let document = read::document(&Source::new("test", text)).unwrap_or_else(|report| panic!("{report}"));
    let mut operations = Vec::new();
    for name in document.metadata {
        operations.push(operation(Operation::PutMetadata(v1::PutMetadata { name, agents: vec![] })));
    }
    let resources = document.resources.unwrap_or_default();
    let mut put = |name: String, resource| {
        let put = v1::PutResource { name, resource: Some(resource), ..v1::PutResource::default() };
        operations.push(operation(Operation::PutResource(put)));
    };
    use v1::put_resource::Resource;
    resources.mappings.into_iter().for_each(|(name, item)| put(name, Resource::Mapping(item)));
    resources.targets.into_iter().for_each(|(name, item)| put(name, Resource::Targets(item)));
    resources.prefixes.into_iter().for_each(|(name, item)| put(name, Resource::Prefixes(item)));
    resources.meters.into_iter().for_each(|(name, item)| put(name, Resource::Meter(item)));
    resources.limits.into_iter().for_each(|(name, item)| put(name, Resource::Limit(item)));
    resources.leases.into_iter().for_each(|(name, item)| put(name, Resource::Leases(item)));
    resources.dns.into_iter().for_each(|(name, item)| put(name, Resource::Dns(item)));
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
    if !document.multicast.is_empty() {
        operations.push(operation(Operation::PutMulticast(v1::Multicast { ports: document.multicast })));
    }
    operations
}

/// Sends a transaction.
pub async fn apply_with(
    client: &mut HostClient<Channel>,
    options: v1::ApplyOptions,
    operations: Vec<v1::Operation>,
) -> Result<v1::ApplyReply, tonic::Status> {
    let mut parts = vec![v1::ApplyRequest { options: Some(options), operations: vec![] }];
    let mut size = usize::MAX;
    for operation in operations {
        use prost::Message;
        let length = operation.encoded_len();
        if size.saturating_add(length) > 1 << 20 {
            parts.push(v1::ApplyRequest::default());
            size = 0;
        }
        size += length;
        parts.last_mut().unwrap().operations.push(operation);
    }
    client.apply(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner)
}

/// Sends a transaction of `controller`.
pub async fn apply(
    client: &mut HostClient<Channel>,
    controller: &str,
    operations: Vec<v1::Operation>,
) -> Result<v1::ApplyReply, tonic::Status> {
    let options = v1::ApplyOptions { controller: controller.into(), ..v1::ApplyOptions::default() };
    apply_with(client, options, operations).await
}

/// All objects that `selector` names.
pub async fn list(client: &mut HostClient<Channel>, selector: v1::Ref) -> Vec<v1::Object> {
    let request = v1::ListRequest { selector: Some(selector), owner: String::new() };
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut objects = Vec::new();
    while let Some(object) = stream.message().await.unwrap() {
        objects.push(object);
    }
    objects
}

/// The mistakes that a refusal's details name.
pub fn mistakes(status: &tonic::Status) -> Vec<v1::Mistake> {
    lamina_api::wire::refusal(status.details()).map(|refusal| refusal.mistakes).unwrap_or_default()
}
