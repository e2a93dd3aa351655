//! Lamina on a host of the lab: its switch, its ports, its uplinks, and the policies in force.
//!
//! What runs here is what the daemon runs: the same conversion of documents, the same underlay synchroniser, the
//! same backends. Only who asks differs: a topology file instead of controllers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lamina_api::topology::{Host, HostKind, Link, NamedPolicy, PolicyChange, Topology};
use lamina_api::{Document, Report};
use lamina_backend::Backend;
use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::NetNs;
use lamina_core::layer::{Compiler, Name, Policy, Program};
use lamina_core::stats::PortCounters;
use lamina_core::switch::{PortConfig, PortId, SwitchConfig};
use lamina_daemon::convert::{self, HostPolicy, PortIds};
use lamina_daemon::host::{self, HostConfig, Placement};
use lamina_daemon::underlay::sink::{Sink, TUNNEL_UDP_PORTS};
use lamina_daemon::underlay::{Snapshot, Synchroniser, UplinkInterface};

/// Numbers of uplinks beyond the first, far from those of ports.
const FURTHER_UPLINKS: u32 = 1 << 30;
/// Workers of each host: more than one, so that every lab shows that it makes no difference where a port lives.
const WORKERS: usize = 2;
/// How long the underlay's neighbours may take to answer before the checks start.
const RESOLVE: Duration = Duration::from_secs(1);

/// A running switch.
#[derive(Debug)]
pub struct HostSwitch {
    // Before the workers, which its thread tells of changes.
    synchroniser: Option<Synchroniser>,
    shared: Arc<Shared>,
    _sink: Option<Sink>,
    state: Mutex<State>,
}

/// What the synchroniser's thread and the lab's both use.
#[derive(Debug, Default)]
struct Shared {
    host: OnceLock<host::Host>,
    /// The last snapshot.
    latest: Mutex<Option<Snapshot>>,
}

/// What is in force.
#[derive(Debug)]
struct State {
    base: Document,
    policies: Vec<NamedPolicy>,
    ids: PortIds,
    configs: BTreeMap<PortId, PortConfig>,
    compiler: Compiler,
}

impl HostSwitch {
    /// Starts the switch of `host` in its namespace, with its policies in force.
    pub fn start(
        ns: &NetNs,
        topology: &Topology,
        host: &Host,
        base: &Document,
        policies: &[NamedPolicy],
    ) -> Result<HostSwitch> {
        let mut ids = PortIds::default();
        let wanted = merged(base, policies, &mut ids)?;
        let is_attached = |link: &&Link| link.attachments.iter().any(|(name, _)| *name == host.name);
        let attached = topology.links.iter().filter(is_attached).enumerate();
        let uplinks: Vec<_> = attached
            .map(|(index, link)| UplinkInterface { id: uplink_id(index), interface: link.name.to_string() })
            .collect();
        let backends = ns.run(|| backends(base, &wanted, &uplinks))??;
        let shared = Arc::new(Shared::default());
        let mut config = HostConfig::new(&host.name, SwitchConfig { seed: seed(&host.name) });
        config.workers = WORKERS;
        let (mut synchroniser, mut sink) = (None, None);
        if !uplinks.is_empty() {
            sink = Some(ns.run(|| Sink::open(&TUNNEL_UDP_PORTS))??);
            let told = Arc::clone(&shared);
            let (started, first) =
                ns.run(|| Synchroniser::start(uplinks, move |snapshot| told.set(snapshot)))??;
            let resolver = started.resolver();
            config.resolve = Some(Arc::new(move |next_hop| resolver.resolve(next_hop)));
            // A later one may already be there.
            shared.latest().get_or_insert(first);
            synchroniser = Some(started);
        }
        let running = host::Host::start(config).context("the workers could not be started")?;
        let configs = wanted.ports.iter().map(|port| (port.id, port.config.clone())).collect();
        let mut compiler = Compiler::new();
        let snapshot = shared.latest().clone();
        populate(&running, &mut compiler, wanted, snapshot, backends)?;
        // From here on the workers hear of changes; one that came in between is told now.
        let _ = shared.host.set(running);
        shared.tell();
        let state = State { base: base.clone(), policies: policies.to_vec(), ids, configs, compiler };
        Ok(HostSwitch { synchroniser, shared, _sink: sink, state: Mutex::new(state) })
    }

    /// Has the kernel resolve `neighbors`, the other hosts on this one's links, and waits a moment for them: without
    /// it the first packet to each would be lost to ARP, and no ping could be expected to pass whole.
    pub fn meet(&self, neighbors: &[IpAddr]) {
        let Some(synchroniser) = &self.synchroniser else { return };
        let deadline = Instant::now() + RESOLVE;
        let is_missing = |address: &&IpAddr| {
            let latest = self.shared.latest();
            let mut neighbors = latest.iter().flat_map(|snapshot| &snapshot.underlay.neighbors);
            !neighbors.any(|(known, _)| known == *address)
        };
        while Instant::now() < deadline {
            let missing: Vec<_> = neighbors.iter().filter(is_missing).collect();
            if missing.is_empty() {
                return;
            }
            missing.into_iter().for_each(|address| synchroniser.resolver().resolve(*address));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes a policy, all or nothing; returns how many ports it is in force on.
    pub fn apply(&self, change: &PolicyChange) -> Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut policies = state.policies.clone();
        match change {
            PolicyChange::Set(policy) => match policies.iter_mut().find(|known| known.name == policy.name) {
                Some(known) => *known = (**policy).clone(),
                None => policies.push((**policy).clone()),
            },
            PolicyChange::Remove(name) => {
                let place = policies.iter().position(|known| known.name == *name);
                policies.remove(place.with_context(|| format!("no policy is called {name}"))?);
            }
        }
        let State { base, ids, configs, compiler, .. } = &mut *state;
        let wanted = merged(base, &policies, ids)?;
        for port in &wanted.ports {
            let known =
                configs.get(&port.id).with_context(|| format!("there is no port {}", port.config.name))?;
            if !same(known, &port.config) {
                bail!("the tenants, MTU and limits of {} cannot change while it runs", port.config.name);
            }
        }
        let ports = wanted.ports.len();
        let policies_by_port = wanted.ports.into_iter().map(|port| (port.id, port.config.name, port.policy));
        let programs = compiled(compiler, policies_by_port)?;
        let host = self.shared.host()?;
        host.flip(programs)?;
        host.set_multicast(wanted.multicast)?;
        state.policies = policies;
        Ok(ports)
    }

    /// Everything that the port called `port` counts.
    pub fn counters(&self, port: &str) -> Result<PortCounters> {
        let id = self.state.lock().unwrap_or_else(PoisonError::into_inner).ids.id(port);
        let id = id.with_context(|| format!("there is no port {port}"))?;
        Ok(self.shared.host()?.counters(id)?)
    }
}

impl Shared {
    fn latest(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> Result<&host::Host> {
        self.host.get().context("the workers are not running")
    }

    fn set(&self, snapshot: Snapshot) {
        *self.latest() = Some(snapshot);
        self.tell();
    }

    /// Tells the workers the last snapshot, unless they are not running yet.
    fn tell(&self) {
        let (Some(host), Some(snapshot)) = (self.host.get(), self.latest().clone()) else { return };
        // It fails when a worker has ended, and then whoever next asks the host for something is told.
        let _ = host.set_snapshot(snapshot);
    }
}

/// Adds a host's ports and uplinks to its new workers.
fn populate(
    host: &host::Host,
    compiler: &mut Compiler,
    wanted: HostPolicy,
    snapshot: Option<Snapshot>,
    mut backends: BTreeMap<PortId, Box<dyn Backend>>,
) -> Result<()> {
    if let Some(snapshot) = &snapshot {
        for (id, config) in snapshot.uplinks.clone() {
            host.add_uplink(id, config, Placement::Any, backends.remove(&id))?;
        }
    }
    let mut policies = Vec::new();
    for port in wanted.ports {
        policies.push((port.id, port.config.name.clone(), port.policy));
        host.add_port(port.id, port.config, Placement::Any, backends.remove(&port.id))?;
    }
    host.flip(compiled(compiler, policies)?)?;
    host.set_multicast(wanted.multicast)?;
    snapshot.map_or(Ok(()), |snapshot| host.set_snapshot(snapshot))?;
    Ok(())
}

/// The programs of ports, by number, name and policy.
fn compiled(
    compiler: &mut Compiler,
    policies: impl IntoIterator<Item = (PortId, Name, Policy)>,
) -> Result<Vec<(PortId, Arc<Program>)>> {
    let compile = |(id, name, policy)| {
        let program = compiler.compile(id, &policy);
        let program = program.map_err(|error| anyhow!("the policy of {name} was refused: {error}"))?;
        Ok((id, program))
    };
    policies.into_iter().map(compile).collect()
}

/// What is probably not meant in the policies that are in force at the start, or why they cannot be used.
pub fn warnings(topology: &Topology) -> Result<Report, Report> {
    let mut found = Report::new();
    for host in &topology.hosts {
        if let HostKind::Lamina { base, policies, .. } = &host.kind {
            found.append(convert::merge(&documents(base, policies), &mut PortIds::default())?.warnings);
        }
    }
    Ok(found)
}

fn documents(base: &Document, policies: &[NamedPolicy]) -> Vec<Document> {
    let policies = policies.iter().map(|policy| policy.document.clone());
    std::iter::once(base.clone()).chain(policies).collect()
}

/// The policy of a host out of what its virtual machines and its controllers say.
fn merged(base: &Document, policies: &[NamedPolicy], ids: &mut PortIds) -> Result<HostPolicy> {
    let converted = convert::merge(&documents(base, policies), ids)?;
    Ok(converted.policy)
}

/// The devices of the ports that have a machine (those of `base`) and of the uplinks.
fn backends(
    base: &Document,
    policy: &HostPolicy,
    uplinks: &[UplinkInterface],
) -> Result<BTreeMap<PortId, Box<dyn Backend>>> {
    let mut backends: BTreeMap<PortId, Box<dyn Backend>> = BTreeMap::new();
    let has_machine = |name: &str| base.ports.iter().any(|port| &*port.name.value == name);
    let ports = policy.ports.iter().filter(|port| has_machine(&port.config.name));
    let ports = ports.map(|port| (port.id, AfPacketConfig::guest(&*port.config.name)));
    let uplinks = uplinks.iter().map(|uplink| (uplink.id, AfPacketConfig::uplink(uplink.interface.as_str())));
    for (id, config) in ports.chain(uplinks) {
        let opened = AfPacket::open(&config);
        let backend =
            opened.with_context(|| format!("the interface {} could not be opened", config.interface))?;
        backends.insert(id, Box::new(backend));
    }
    Ok(backends)
}

fn uplink_id(index: usize) -> PortId {
    // The first uplink has the number that policy calls `uplink`.
    if index == 0 { PortId(0) } else { PortId(FURTHER_UPLINKS + index as u32) }
}

/// A seed that a host keeps from run to run, so that a lab's load balancing is repeatable.
fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn same(a: &PortConfig, b: &PortConfig) -> bool {
    (a.mac, &a.tenants, a.mtu, a.limits) == (b.mac, &b.tenants, b.mtu, b.limits)
}
