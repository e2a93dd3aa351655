//! The workers of one host as one switch: where each port lives, and what all of them must know (§11).
//!
//! A port or uplink belongs to one worker, which has its state and its backend; the others know it as remote and hand
//! packets for it over. [`Host`] keeps that in step: whoever adds a port, a route or a policy says it once. What was
//! decided for several workers at once ([`Host::flip`]) they all begin to do with the same number, the epoch.
//!
//! | file | is |
//! | --- | --- |
//! | `mod` | the workers, ports and uplinks; what is told to all |
//! | `flip` | policy on one worker or several, all or nothing |
//! | `read` | counters, statistics and traces across workers |
//!
//! Calls wait for workers, never workers for calls; they must not be made on a worker's own thread. A worker that has
//! ended is an error that names it, not a wait without end.

mod flip;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use lamina_backend::Backend;
use lamina_backend::namespace::NetNs;
use lamina_core::address::MacAddr;
use lamina_core::packet::TunnelPorts;
use lamina_core::switch::{
    AddPortError, PortConfig, PortId, SetPortError, Switch, SwitchConfig, Underlay, UplinkConfig,
};
use lamina_core::time::Instant;

use crate::underlay::Snapshot;
use crate::worker::peers::{self, Flipper};
use crate::worker::{
    Command, EventSender, Handle, Polling, PortError, Ports, SendError, Worker, WorkerConfig, thread,
};

pub use flip::FlipError;
pub use read::WorkerReport;

/// Told the underlay addresses whose next hop must be resolved. Must not block.
pub type Resolve = Arc<dyn Fn(IpAddr) + Send + Sync>;

/// What a host needs to know once.
pub struct HostConfig {
    /// Names the threads.
    pub name: String,
    /// How many workers; at least 1.
    pub workers: usize,
    /// The switches'.
    pub switch: SwitchConfig,
    /// Packet buffers of each worker.
    pub buffers: usize,
    /// Packets that may be on their way from one worker to another; half of the buffers is the most that is used for
    /// all others together.
    pub handover: usize,
    /// When the workers sleep.
    pub polling: Polling,
    /// Asked for next hops.
    pub resolve: Option<Resolve>,
    /// By which UDP ports tunnels are known.
    pub tunnels: TunnelPorts,
    /// Where events go, worker by worker; those of workers beyond the last are discarded.
    pub events: Vec<EventSender>,
    /// Where the workers' threads live.
    pub namespace: Option<NetNs>,
}

impl HostConfig {
    /// One worker of this name, with 1024 buffers and adaptive polling.
    pub fn new(name: &str, switch: SwitchConfig) -> Self {
        HostConfig {
            name: name.to_string(),
            workers: 1,
            switch,
            buffers: 1024,
            handover: 512,
            polling: Polling::default(),
            resolve: None,
            tunnels: TunnelPorts::default(),
            events: Vec::new(),
            namespace: None,
        }
    }
}

/// Which worker a port is to live with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Placement {
    /// The one with the fewest ports and uplinks.
    #[default]
    Any,
    /// This one, counted from 0.
    Worker(usize),
}

/// The running workers of a host. May be shared between threads.
pub struct Host {
    workers: Vec<Handle>,
    flipper: Flipper,
    /// What the workers' clocks count from.
    zero: std::time::Instant,
    places: Mutex<BTreeMap<PortId, Place>>,
    /// Held while something is changed on several workers, so that all see changes in one order.
    changing: Mutex<()>,
}

/// Where a port or uplink lives.
#[derive(Clone, Debug)]
struct Place {
    worker: usize,
    /// What must be unique; `None` for an uplink.
    mac: Option<MacAddr>,
}

/// Why a host did not do what it was asked.
#[derive(Debug)]
pub enum HostError {
    /// This worker has ended; the host must be started anew. What was asked for may have been done on others.
    WorkerGone(usize),
    /// There is no worker of this number; workers count from 0.
    NoSuchWorker(usize),
    /// There is no port or uplink of this number.
    NoSuchPort(PortId),
    /// The port or uplink was not added.
    AddPort(PortId, AddPortError),
    /// The ports were not changed.
    SetPorts(SetPortError),
    /// The backend was not attached.
    Attach(PortId, PortError),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::WorkerGone(worker) => {
                write!(f, "worker {worker} has ended by a fault; the host must be started anew")
            }
            HostError::NoSuchWorker(worker) => write!(f, "there is no worker {worker}; they count from 0"),
            HostError::NoSuchPort(id) => write!(f, "there is no port or uplink {}", id.0),
            HostError::AddPort(id, AddPortError::DuplicateId) => {
                write!(f, "port {} was not added: its number is taken; choose a free one", id.0)
            }
            HostError::AddPort(id, AddPortError::DuplicateMac) => {
                write!(f, "port {} was not added: another port has its MAC address", id.0)
            }
            HostError::SetPorts(SetPortError::NoSuchPort(id)) => {
                write!(f, "no port was changed: there is no port {}", id.0)
            }
            HostError::SetPorts(SetPortError::DuplicateMac(id)) => {
                write!(f, "no port was changed: another port has the MAC address of port {}", id.0)
            }
            HostError::Attach(id, error) => write!(f, "port {} got no backend: {error}", id.0),
        }
    }
}

impl std::error::Error for HostError {}

impl Host {
    /// Starts the workers, without ports.
    pub fn start(config: HostConfig) -> io::Result<Host> {
        let HostConfig {
            name,
            workers: count,
            switch,
            buffers,
            handover,
            polling,
            resolve,
            tunnels,
            events,
            namespace,
        } = config;
        let mut events = events.into_iter();
        if count == 0 || buffers / 2 < count {
            let problem = format!(
                "{count} workers with {buffers} buffers each cannot work: there must be a worker, and two buffers for each"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let (mut workers, mut senders) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let resolve = resolve.clone().map(|resolve| {
                let tell: Box<dyn FnMut(IpAddr) + Send> = Box::new(move |address| resolve(address));
                tell
            });
            let (mut worker, sender) = {
                let events = events.next();
                Worker::new(WorkerConfig { switch, buffers, polling, resolve, events })?
            };
            worker.parts().0.set_tunnel_ports(tunnels);
            workers.push(worker);
            senders.push(sender);
        }
        let flipper = peers::connect(&mut workers, handover, buffers);
        let zero = std::time::Instant::now();
        let mut handles = Vec::new();
        for (number, (worker, sender)) in workers.into_iter().zip(senders).enumerate() {
            let name = if count == 1 { name.clone() } else { format!("{name}/{number}") };
            let namespace = namespace.as_ref().map(NetNs::try_clone).transpose()?;
            handles.push(thread::start(&name, worker, sender, namespace, zero)?);
        }
        Ok(Host { workers: handles, flipper, zero, places: Mutex::default(), changing: Mutex::default() })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The workers' time.
    pub fn now(&self) -> Instant {
        thread::since(self.zero)
    }

    /// The worker that port or uplink `id` lives with.
    pub fn worker_of(&self, id: PortId) -> Result<usize, HostError> {
        self.places().get(&id).map(|place| place.worker).ok_or(HostError::NoSuchPort(id))
    }

    /// The ports and uplinks, with their workers.
    pub fn ports(&self) -> Vec<(PortId, usize)> {
        self.places().iter().map(|(id, place)| (*id, place.worker)).collect()
    }

    /// Adds a port, on all workers or none; returns the one that it lives with. It drops everything
    /// (`port-not-ready`) until its first policy is there.
    pub fn add_port(
        &self,
        id: PortId,
        config: PortConfig,
        placement: Placement,
        backend: Option<Box<dyn Backend>>,
    ) -> Result<usize, HostError> {
        let _changing = self.change();
        let worker = self.place(placement)?;
        self.check_new(id, Some(config.mac))?;
        let (mac, remote) = (config.mac, config.clone());
        self.call(worker, move |switch, ports| {
            switch.add_port(id, config).map_err(|error| HostError::AddPort(id, error))?;
            backend.map_or(Ok(()), |backend| ports.attach(id, backend)).map_err(|error| {
                switch.remove_port(id);
                HostError::Attach(id, error)
            })
        })??;
        self.places().insert(id, Place { worker, mac: Some(mac) });
        self.broadcast(move |number, switch, ports| {
            if number == worker {
                return Ok(());
            }
            ports.set_owner(id, worker);
            switch.add_remote_port(id, &remote).map_err(|error| HostError::AddPort(id, error))
        })?
        .into_iter()
        .collect::<Result<(), _>>()?;
        Ok(worker)
    }

    /// Gives ports other MACs, tenants, MTUs and table sizes, on all workers. Their conversations go on.
    pub fn set_ports(&self, configs: Vec<(PortId, PortConfig)>) -> Result<(), HostError> {
        let _changing = self.change();
        let configs: Arc<[(PortId, PortConfig)]> = configs.into();
        let told = configs.clone();
        // All of them know the same ports: what one refuses all refuse.
        self.broadcast(move |_, switch, _| switch.set_ports(&told).map_err(HostError::SetPorts))?
            .into_iter()
            .collect::<Result<(), _>>()?;
        let mut places = self.places();
        for (id, config) in configs.iter() {
            if let Some(place) = places.get_mut(id) {
                place.mac = Some(config.mac);
            }
        }
        Ok(())
    }

    /// Adds an uplink on all workers; returns the one that receives from and sends by its backend.
    pub fn add_uplink(
        &self,
        id: PortId,
        config: UplinkConfig,
        placement: Placement,
        backend: Option<Box<dyn Backend>>,
    ) -> Result<usize, HostError> {
        let _changing = self.change();
        let worker = self.place(placement)?;
        self.check_new(id, None)?;
        self.places().insert(id, Place { worker, mac: None });
        self.broadcast(move |number, switch, ports| {
            if number != worker {
                ports.set_owner(id, worker);
            }
            switch.add_uplink(id, config.clone()).map_err(|error| HostError::AddPort(id, error))
        })?
        .into_iter()
        .collect::<Result<(), _>>()?;
        if let Some(backend) = backend {
            self.attach(id, backend)?;
        }
        Ok(worker)
    }

    /// Removes a port or uplink with everything it holds, and closes its backend. The other workers forget it first,
    /// so that none still sends to a port that is gone.
    pub fn remove_port(&self, id: PortId) -> Result<(), HostError> {
        let _changing = self.change();
        let owner = self.worker_of(id)?;
        self.broadcast(move |number, switch, ports| {
            if number != owner {
                switch.remove_port(id);
                ports.forget_owner(id);
            }
        })?;
        self.places().remove(&id);
        // The backend is closed here, not by the worker.
        let backend = self.call(owner, move |switch, ports| {
            switch.remove_port(id);
            ports.detach(id)
        })?;
        drop(backend);
        Ok(())
    }

    /// Makes `backend` the one that port or uplink `id` receives from and sends by.
    pub fn attach(&self, id: PortId, backend: Box<dyn Backend>) -> Result<(), HostError> {
        let attached = self.call_owner(id, move |_, ports| ports.attach(id, backend))?;
        attached.map_err(|error| HostError::Attach(id, error))
    }

    /// Takes the backend of `id` away; the port keeps its policy and state.
    pub fn detach(&self, id: PortId) -> Result<Option<Box<dyn Backend>>, HostError> {
        self.call_owner(id, move |_, ports| ports.detach(id))
    }

    /// Names the ports that get a copy of multicast and broadcast frames that no responder answered.
    pub fn set_multicast(&self, set: Vec<PortId>) -> Result<(), HostError> {
        let _changing = self.change();
        self.broadcast(move |_, switch, _| switch.set_multicast(set.clone())).map(|_| ())
    }

    /// Replaces an uplink's addresses, MAC and MTU.
    pub fn set_uplink(&self, id: PortId, config: UplinkConfig) -> Result<(), HostError> {
        let _changing = self.change();
        let known = self.broadcast(move |_, switch, _| switch.set_uplink(id, config.clone()))?;
        if known.contains(&true) { Ok(()) } else { Err(HostError::NoSuchPort(id)) }
    }

    /// Replaces routes and neighbours of the underlay.
    pub fn set_underlay(&self, underlay: Underlay) -> Result<(), HostError> {
        let _changing = self.change();
        self.broadcast(move |_, switch, _| switch.set_underlay(underlay.clone())).map(|_| ())
    }

    /// Tells all workers what the kernel says of the underlay. Uplinks that the host does not have are passed over.
    pub fn set_snapshot(&self, snapshot: Snapshot) -> Result<(), HostError> {
        let _changing = self.change();
        self.broadcast(move |_, switch, _| {
            for (id, config) in snapshot.uplinks.clone() {
                switch.set_uplink(id, config);
            }
            switch.set_underlay(snapshot.underlay.clone());
        })
        .map(|_| ())
    }

    /// Has worker `worker` run `body` between two batches, and waits for the answer.
    pub fn call<R, F>(&self, worker: usize, body: F) -> Result<R, HostError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Switch, &mut Ports) -> R + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(worker, body, answer)?;
        answered.recv().map_err(|_| HostError::WorkerGone(worker))
    }

    /// Has the worker that `id` lives with run `body`, and waits for the answer.
    pub fn call_owner<R, F>(&self, id: PortId, body: F) -> Result<R, HostError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Switch, &mut Ports) -> R + Send + 'static,
    {
        self.call(self.worker_of(id)?, body)
    }

    /// Has every worker run `body`, all at the same time, and waits for all answers, in the workers' order.
    pub fn broadcast<R, F>(&self, body: F) -> Result<Vec<R>, HostError>
    where
        R: Send + 'static,
        F: Fn(usize, &mut Switch, &mut Ports) -> R + Clone + Send + 'static,
    {
        let mut answers = Vec::new();
        let mut gone = None;
        for worker in 0..self.workers.len() {
            let (answer, answered) = mpsc::sync_channel(1);
            let body = body.clone();
            match self.send(worker, move |switch, ports| body(worker, switch, ports), answer) {
                Ok(()) => answers.push((worker, answered)),
                Err(error) => gone = Some(error),
            }
        }
        let mut results = Vec::new();
        for (worker, answered) in answers {
            match answered.recv() {
                Ok(result) => results.push(result),
                Err(_) => gone = Some(HostError::WorkerGone(worker)),
            }
        }
        gone.map_or(Ok(results), Err)
    }

    fn send<R, F>(&self, worker: usize, body: F, answer: mpsc::SyncSender<R>) -> Result<(), HostError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Switch, &mut Ports) -> R + Send + 'static,
    {
        let handle = self.workers.get(worker).ok_or(HostError::NoSuchWorker(worker))?;
        let mut command: Command = Box::new(move |switch, ports| {
            // Nobody waits for the answer when the caller's thread has ended.
            let _ = answer.send(body(switch, ports));
        });
        loop {
            command = match handle.offer(command) {
                Ok(()) => return Ok(()),
                Err((SendError::Full, command)) => command,
                Err((SendError::Gone, _)) => return Err(HostError::WorkerGone(worker)),
            };
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn place(&self, placement: Placement) -> Result<usize, HostError> {
        match placement {
            Placement::Worker(worker) if worker < self.workers.len() => Ok(worker),
            Placement::Worker(worker) => Err(HostError::NoSuchWorker(worker)),
            Placement::Any => {
                let places = self.places();
                let load = |worker: &usize| places.values().filter(|place| place.worker == *worker).count();
                Ok((0..self.workers.len()).min_by_key(load).unwrap_or(0))
            }
        }
    }

    /// What every worker's switch would refuse is refused before any is asked.
    fn check_new(&self, id: PortId, mac: Option<MacAddr>) -> Result<(), HostError> {
        let places = self.places();
        if places.contains_key(&id) {
            return Err(HostError::AddPort(id, AddPortError::DuplicateId));
        }
        let is_taken = mac.is_some() && places.values().any(|place| place.mac == mac);
        if is_taken { Err(HostError::AddPort(id, AddPortError::DuplicateMac)) } else { Ok(()) }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<PortId, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the workers and waits until their backends are closed. An error tells that one had ended before.
    pub fn stop(self) -> Result<(), HostError> {
        let mut gone = None;
        for (number, worker) in self.workers.into_iter().enumerate() {
            if worker.stop().is_err() {
                gone = Some(HostError::WorkerGone(number));
            }
        }
        gone.map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("workers", &self.workers.len())
            .field("places", &*self.places())
            .finish_non_exhaustive()
    }
}
