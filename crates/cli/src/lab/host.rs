//! Lamina on a host of the lab: its switch, its ports, its uplinks, and the policies in force.
//!
//! What runs here is what the daemon runs: the same conversion of documents, the same underlay synchroniser, the
//! same backends. Only who asks differs: a topology file instead of controllers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lamina_api::Document;
use lamina_api::topology::{Host, NamedPolicy, PolicyChange, Topology};
use lamina_backend::Backend;
use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::NetNs;
use lamina_core::stats::PortCounters;
use lamina_core::switch::{PortConfig, PortId, Switch, SwitchConfig, Underlay};
use lamina_daemon::convert::{self, HostPolicy, PortIds};
use lamina_daemon::underlay::sink::{Sink, TUNNEL_UDP_PORTS};
use lamina_daemon::underlay::{Snapshot, Synchroniser, UplinkInterface};

use super::driver::Driver;

/// Numbers of uplinks beyond the first, far from those of ports.
const FURTHER_UPLINKS: u32 = 1 << 30;
/// How long the underlay's neighbours may take to answer before the checks start.
const RESOLVE: Duration = Duration::from_secs(1);

/// A running switch.
#[derive(Debug)]
pub struct HostSwitch {
    // In this order: the synchroniser tells the driver, which sends by sockets that the sink protects.
    synchroniser: Option<Synchroniser>,
    driver: Driver,
    _sink: Option<Sink>,
    underlay: Arc<Mutex<Underlay>>,
    state: Mutex<State>,
}

/// What is in force.
#[derive(Debug)]
struct State {
    base: Document,
    policies: Vec<NamedPolicy>,
    ids: PortIds,
    configs: BTreeMap<PortId, PortConfig>,
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
        let attached =
            topology.links.iter().filter(|link| link.attachments.iter().any(|(name, _)| *name == host.name));
        let uplinks: Vec<_> = attached
            .enumerate()
            .map(|(index, link)| UplinkInterface { id: uplink_id(index), interface: link.name.to_string() })
            .collect();
        let mut switch = Switch::new(SwitchConfig { seed: seed(&host.name) });
        for port in &wanted.ports {
            switch
                .add_port(port.id, port.config.clone())
                .map_err(|error| anyhow!("the port {} could not be added: {error:?}", port.config.name))?;
            switch
                .publish(port.id, port.policy.clone())
                .map_err(|error| anyhow!("the policy of {} was refused: {error:?}", port.config.name))?;
        }
        switch.set_multicast(wanted.multicast.clone());
        let backends = ns.run(|| backends(&wanted, &uplinks))??;
        let sink = if uplinks.is_empty() { None } else { Some(ns.run(|| Sink::open(&TUNNEL_UDP_PORTS))??) };
        let configs = wanted.ports.iter().map(|port| (port.id, port.config.clone())).collect();
        let state = Mutex::new(State { base: base.clone(), policies: policies.to_vec(), ids, configs });
        if uplinks.is_empty() {
            let driver = Driver::start(switch, backends, None)?;
            return Ok(HostSwitch {
                synchroniser: None,
                driver,
                _sink: sink,
                underlay: Arc::default(),
                state,
            });
        }
        let (updates, pending) = std::sync::mpsc::channel::<Snapshot>();
        let underlay = Arc::new(Mutex::new(Underlay::default()));
        let latest = Arc::clone(&underlay);
        let publish = move |snapshot: Snapshot| {
            latest.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&snapshot.underlay);
            let _ = updates.send(snapshot);
        };
        let (synchroniser, first) = ns.run(|| Synchroniser::start(uplinks, publish))??;
        for (id, config) in &first.uplinks {
            switch
                .add_uplink(*id, config.clone())
                .map_err(|error| anyhow!("the uplink {} could not be added: {error:?}", config.name))?;
        }
        switch.set_underlay(first.underlay);
        let driver = Driver::start(switch, backends, Some(synchroniser.resolver()))?;
        let tell = driver.tell();
        std::thread::Builder::new().name("underlay-updates".into()).spawn(move || {
            for snapshot in pending {
                tell(Box::new(move |switch| {
                    for (id, config) in snapshot.uplinks {
                        switch.set_uplink(id, config);
                    }
                    switch.set_underlay(snapshot.underlay);
                }));
            }
        })?;
        Ok(HostSwitch { synchroniser: Some(synchroniser), driver, _sink: sink, underlay, state })
    }

    /// Has the kernel resolve `neighbors`, the other hosts on this one's links, and waits a moment for them: without
    /// it the first packet to each would be lost to ARP, and no ping could be expected to pass whole.
    pub fn meet(&self, neighbors: &[IpAddr]) {
        let Some(synchroniser) = &self.synchroniser else { return };
        let deadline = Instant::now() + RESOLVE;
        let is_missing = |address: &&IpAddr| {
            let underlay = self.underlay.lock().unwrap_or_else(PoisonError::into_inner);
            !underlay.neighbors.iter().any(|(known, _)| known == *address)
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
        let State { base, ids, configs, .. } = &mut *state;
        let wanted = merged(base, &policies, ids)?;
        for port in &wanted.ports {
            let known =
                configs.get(&port.id).with_context(|| format!("there is no port {}", port.config.name))?;
            if !same(known, &port.config) {
                bail!("the tenants, MTU and limits of {} cannot change while it runs", port.config.name);
            }
        }
        let ports = wanted.ports.len();
        self.driver.ask(move |switch| {
            for port in wanted.ports {
                switch
                    .publish(port.id, port.policy)
                    .map_err(|error| anyhow!("the policy of {} was refused: {error:?}", port.config.name))?;
            }
            switch.set_multicast(wanted.multicast);
            Ok::<_, anyhow::Error>(())
        })??;
        state.policies = policies;
        Ok(ports)
    }

    /// Everything that the port called `port` counts.
    pub fn counters(&self, port: &str) -> Result<PortCounters> {
        let id = self.state.lock().unwrap_or_else(PoisonError::into_inner).ids.id(port);
        let id = id.with_context(|| format!("there is no port {port}"))?;
        self.driver
            .ask(move |switch| switch.counters(id))?
            .with_context(|| format!("there is no port {port}"))
    }
}

/// The policy of a host out of what its virtual machines and its controllers say.
fn merged(base: &Document, policies: &[NamedPolicy], ids: &mut PortIds) -> Result<HostPolicy> {
    let documents: Vec<_> =
        std::iter::once(base.clone()).chain(policies.iter().map(|policy| policy.document.clone())).collect();
    let converted = convert::merge(&documents, ids)?;
    Ok(converted.policy)
}

fn backends(policy: &HostPolicy, uplinks: &[UplinkInterface]) -> Result<BTreeMap<PortId, Box<dyn Backend>>> {
    let mut backends: BTreeMap<PortId, Box<dyn Backend>> = BTreeMap::new();
    let ports = policy.ports.iter().map(|port| (port.id, AfPacketConfig::guest(&*port.config.name)));
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
