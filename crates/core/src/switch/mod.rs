//! The ports of one worker and the forwarding between them (§8.1).

mod fabric;
mod handover;
mod inspect;
mod mappings;
mod measure;
mod mirror;
mod misses;
mod punt;
mod receive;
mod resume;
mod tap;
mod underlay;

pub use crate::port::{LayerFlowInfo, MAX_PUNTS_AT_ONCE, MAX_PUNTS_PER_SECOND, Tuple};
pub use crate::port::{MAX_MISSES, MAX_WAITING_BYTES, MAX_WAITING_PACKETS};
pub use fabric::UplinkCounters;
pub use handover::Handover;
pub use resume::{InjectError, MAX_INJECTED, Through};
pub use underlay::{NextHop, Route, Underlay, UnderlayError};

pub(crate) use fabric::{Arrival, Fabric};
pub(crate) use measure::{guest_side, header_len, is_too_big, max_frame};
pub(crate) use mirror::plan_copies;
pub(crate) use misses::Judgement;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::event::{Events, Interests};
use crate::flow::Direction;
use crate::inspect::Captures;
use crate::layer::{Compiler, Name, Policy, Program};
use crate::packet::{Packet, TunnelPorts};
use crate::port::{Port, Resolution};
use crate::resource::LiveMappings;
use crate::stats::{Count, DropCounters, PortCounters};
use crate::time::{Duration, Instant};

use misses::Misses;
use receive::Pending;
use resume::Entering;

/// The number of a port or uplink, chosen by who makes it, never reused while flows may remember it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u32);

/// What a switch needs to know once.
#[derive(Clone, Copy, Debug)]
pub struct SwitchConfig {
    /// Hash choices and table seeds derive from it; random in production, fixed in tests.
    pub seed: u64,
}

/// A virtual NIC.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// For people.
    pub name: Name,
    /// The guest's MAC: what is sent here from other ports.
    pub mac: MacAddr,
    /// Tenant ids under which tunnelled packets for `mac` are this port's.
    pub tenants: Vec<u32>,
    /// The largest frame the guest takes, without Ethernet header, in bytes; 0 for no limit.
    pub mtu: u32,
    /// The tables' limits.
    pub limits: PortLimits,
}

/// Sizes of a port's tables; all are allocated when the port is made, or gets other sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortLimits {
    /// Unified flows, both directions together.
    pub unified_flows: usize,
    /// Entries of the drop cache.
    pub drop_cache: usize,
    /// An idle unified flow ends after this, unless a rule's time to live is shorter.
    pub idle: Duration,
}

impl Default for PortLimits {
    fn default() -> Self {
        PortLimits { unified_flows: 65_536, drop_cache: 4_096, idle: Duration::from_seconds(240) }
    }
}

/// The physical side.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// For people.
    pub name: Name,
    /// The uplink's MAC: outer source of what leaves.
    pub mac: MacAddr,
    /// This host's underlay addresses: tunnels to them end here.
    pub addresses: Vec<IpAddr>,
    /// Largest frame without Ethernet header, in bytes.
    pub mtu: u32,
}

/// What processing a batch produced. Reused between calls; the caller drains it.
#[derive(Debug, Default)]
pub struct Output {
    /// Packets to send, with the port or uplink they leave by, in order.
    pub transmit: Vec<(PortId, Packet)>,
    /// Packets for ports of other workers, in order; the caller brings them to that worker's [`Switch::accept`].
    pub elsewhere: Vec<Handover>,
    /// Buffers of packets that were dropped or consumed, to recycle.
    pub free: Vec<Packet>,
    /// Packets that were made in buffers of their own since the caller last took the number: pools must count them.
    pub made: usize,
    /// Buffers that the caller lends for copies (§3.5); what is left stays here. Without one, and none in `free`, a copy
    /// is a counted drop.
    pub spare: Vec<Packet>,
    /// Underlay addresses whose next hop must be resolved (ARP, ND); the daemon asks the kernel.
    pub resolve: Vec<IpAddr>,
    /// What happened that somebody subscribed to.
    pub events: Events,
}

impl Output {
    /// A copy of `packet`, in a buffer that is free or in one of its own.
    pub(crate) fn copy_of(&mut self, packet: &Packet) -> Packet {
        let mut copy = self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            Packet::with_capacity(packet.len())
        });
        copy.copy_from(packet);
        copy
    }
}

/// A number of a port's policy; it rises with every change that may alter a resolution (§5.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u64);

/// All ports of one worker, their policy and their state. Single-threaded; owns no socket and reads no clock.
#[derive(Debug)]
pub struct Switch {
    config: SwitchConfig,
    ports: HashMap<PortId, Box<Port>, rapidhash::fast::RandomState>,
    fabric: Fabric,
    compiler: Compiler,
    mappings: LiveMappings,
    interests: Interests,
    misses: Misses,
    /// Packets that enter with the next [`Switch::resume`].
    entering: VecDeque<Entering>,
    /// How many of them are injected.
    injected: usize,
    /// Packets on their way to a side of a port; empty between calls.
    pending: Vec<Pending>,
    captures: Captures,
    /// Some port's policy has a mirror.
    has_mirrors: bool,
}

/// Conversations and unified flows that one call of [`Switch::sweep`] looks at per port.
const SWEEP_BUDGET: u32 = 16_384;

impl Switch {
    /// A switch without ports.
    pub fn new(config: SwitchConfig) -> Self {
        Switch {
            config,
            ports: HashMap::default(),
            fabric: Fabric::default(),
            compiler: Compiler::new(),
            mappings: LiveMappings::new(config.seed),
            interests: Interests::default(),
            misses: Misses::default(),
            entering: VecDeque::new(),
            injected: 0,
            pending: Vec::new(),
            captures: Captures::default(),
            has_mirrors: false,
        }
    }

    /// Adds a port. It drops everything (`port-not-ready`) until its first policy is published.
    pub fn add_port(&mut self, id: PortId, config: PortConfig) -> Result<(), AddPortError> {
        self.check_id(id)?;
        self.fabric.add_port(id, &config)?;
        self.ports.insert(id, Box::new(Port::new(config, self.config.seed)));
        self.raise_generations();
        Ok(())
    }

    /// Gives ports and remote ports other MACs, tenants, MTUs and table sizes: all of them or none. Everything that
    /// they hold stays, caches of another size apart, which fill again.
    pub fn set_ports(&mut self, configs: &[(PortId, PortConfig)]) -> Result<(), SetPortError> {
        self.fabric.set_ports(configs)?;
        for (id, config) in configs {
            if let Some(port) = self.ports.get_mut(id) {
                port.set_config(config.clone());
            }
        }
        self.raise_generations();
        Ok(())
    }

    /// Removes a port, remote port or uplink with everything it holds. False when there was none.
    pub fn remove_port(&mut self, id: PortId) -> bool {
        let port = self.ports.remove(&id);
        if let Some(port) = &port {
            self.mappings.unbind(&port.mappings);
        }
        self.answer_orphans();
        let existed = port.is_some() | self.fabric.remove(id);
        self.note_mirrors();
        self.raise_generations();
        existed
    }

    /// Adds an uplink.
    pub fn add_uplink(&mut self, id: PortId, config: UplinkConfig) -> Result<(), AddPortError> {
        self.check_id(id)?;
        self.fabric.add_uplink(id, config);
        self.raise_generations();
        Ok(())
    }

    fn check_id(&self, id: PortId) -> Result<(), AddPortError> {
        let is_taken = self.ports.contains_key(&id)
            || self.fabric.uplink(id).is_some()
            || self.fabric.remotes.contains_key(&id);
        if is_taken { Err(AddPortError::DuplicateId) } else { Ok(()) }
    }

    /// Names the ports that get a copy of multicast and broadcast frames no responder answered.
    pub fn set_multicast(&mut self, ports: Vec<PortId>) {
        self.fabric.multicast = ports;
        self.raise_generations();
    }

    /// Says by which UDP ports tunnels are known. Packets that are cached by other headers are met anew.
    pub fn set_tunnel_ports(&mut self, tunnels: TunnelPorts) {
        self.fabric.tunnels = tunnels;
        self.captures.tunnels = tunnels;
    }

    /// Replaces routes and neighbours of the underlay; flows that they change are re-resolved.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        if *self.fabric.underlay.underlay() != underlay {
            self.fabric.underlay = underlay::UnderlayIndex::new(underlay);
            self.raise_generations();
        }
    }

    /// Replaces an uplink's addresses, MAC and MTU. False when there is no such uplink.
    pub fn set_uplink(&mut self, id: PortId, config: UplinkConfig) -> bool {
        let is_known = self.fabric.set_uplink(id, config);
        self.raise_generations();
        is_known
    }

    /// Replaces the policy of a port, all or nothing. Conversations that the new policy still allows go on.
    ///
    /// Compiles it here and now: for one thread that does everything. A daemon compiles elsewhere, with a
    /// [`Compiler`], and only [installs](Switch::install) here.
    pub fn publish(&mut self, id: PortId, policy: Policy) -> Result<Generation, PublishError> {
        if !self.ports.contains_key(&id) {
            return Err(PublishError::NoSuchPort);
        }
        let program = self.compiler.compile(id, &policy).map_err(|error| PublishError::Invalid(error.0))?;
        let generation = self.install(id, program)?.generation;
        drop(self.compiler.collect());
        Ok(generation)
    }

    /// Makes port `id` run `program`, which was compiled for it. Conversations that it still allows go on.
    pub fn install(&mut self, id: PortId, program: Arc<Program>) -> Result<Installed, PublishError> {
        self.check_install(id, &program)?;
        let port = self.ports.get_mut(&id).ok_or(PublishError::NoSuchPort)?;
        let (retired, changes) = port.install(program, &mut self.mappings);
        let generation = Generation(port.generation);
        for (number, change) in changes {
            self.answer(number, &[change]);
        }
        self.answer_orphans();
        self.note_mirrors();
        Ok(Installed { generation, retired })
    }

    /// What [`Switch::install`] would say.
    pub fn check_install(&self, id: PortId, program: &Program) -> Result<(), PublishError> {
        if !self.ports.contains_key(&id) {
            return Err(PublishError::NoSuchPort);
        }
        Port::check_install(program, &self.mappings).map_err(PublishError::Invalid)
    }

    /// True when policy has a mirror, so that [`Output::spare`] will be used.
    pub fn has_mirrors(&self) -> bool {
        self.has_mirrors
    }

    fn note_mirrors(&mut self) {
        let mut programs = self.ports.values().filter_map(|port| port.program.as_ref());
        self.has_mirrors = programs.any(|program| program.has_mirrors);
    }

    /// Runs timers: frees what has expired, a bounded slice per call. To be called about once a second, more
    /// often with more than a few ten thousand flows.
    pub fn sweep(&mut self, now: Instant) {
        for port in self.ports.values_mut() {
            port.expire(now, SWEEP_BUDGET);
        }
    }

    /// Counts a packet that the caller (the worker) had to drop, since it could not be sent by `id`.
    pub fn count_drop(&mut self, id: PortId, reason: DropReason) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.drops.count(reason);
            let row = port.drop_log.row(reason, Direction::Inbound, None, Instant(0));
            port.drop_log.count_only(row, 1, Count { packets: 1, bytes: 0 });
        } else {
            self.fabric.count_unsent(id, reason);
        }
    }

    /// Everything that port `id` counts, cached hits included, exactly.
    pub fn counters(&mut self, id: PortId) -> Option<PortCounters> {
        self.ports.get_mut(&id).map(|port| port.read_counters())
    }

    /// Drops that port `id` counts, by reason; nothing is folded.
    pub fn drops(&self, id: PortId) -> Option<&DropCounters> {
        self.ports.get(&id).map(|port| &port.drops)
    }

    /// What uplink `id` counts.
    pub fn uplink_counters(&self, id: PortId) -> Option<&UplinkCounters> {
        self.fabric.uplink(id).map(|uplink| &uplink.counters)
    }

    /// How uplink `id` is configured.
    pub fn uplink_config(&self, id: PortId) -> Option<&UplinkConfig> {
        self.fabric.uplink(id).map(|uplink| &uplink.config)
    }

    /// The generation of what decides about the packets of port `id`: its policy, and what the switch knows beside it.
    pub fn generation(&self, id: PortId) -> Option<Generation> {
        self.ports.get(&id).map(|port| Generation(port.generation))
    }

    /// The ports, in no particular order.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &PortConfig)> {
        self.ports.iter().map(|(id, port)| (*id, &port.config))
    }

    /// The layer flows of port `id` that live at `now`.
    pub fn layer_flows(&self, id: PortId, now: Instant) -> Vec<LayerFlowInfo> {
        self.ports.get(&id).map_or(Vec::new(), |port| port.layer_flows(now))
    }

    pub(crate) fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(&id).map(|port| &**port)
    }

    /// What becomes of a packet of `length` bytes whose plan on `port` lacks a mapping that somebody is asked for.
    pub(crate) fn judge_miss(&self, port: &Port, plan: &Resolution, length: usize) -> Option<Judgement> {
        let missing = plan.missing.as_ref()?;
        misses::patience(missing, &self.mappings, &self.interests)?;
        Some(self.misses.judge(missing, &self.mappings, &port.asking, length))
    }

    pub(crate) fn interests(&self) -> &Interests {
        &self.interests
    }

    pub(crate) fn live_mappings(&self) -> &LiveMappings {
        &self.mappings
    }

    pub(crate) fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    fn raise_generations(&mut self) {
        for port in self.ports.values_mut() {
            port.raise_generation();
        }
    }
}

/// What [`Switch::install`] did.
#[derive(Debug)]
pub struct Installed {
    /// The port's new generation.
    pub generation: Generation,
    /// What ran before; to be freed where nobody waits for it.
    pub retired: Option<Arc<Program>>,
}

/// Why a port was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddPortError {
    /// The number is taken by another port; choose a free one.
    DuplicateId,
    /// Another port already has this MAC (and one of these tenants); MACs must be unique for forwarding.
    DuplicateMac,
}

/// Why ports were not changed. Nothing was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetPortError {
    /// There is no port with this number; add it first.
    NoSuchPort(PortId),
    /// Another port would have the MAC of this one; MACs must be unique for forwarding.
    DuplicateMac(PortId),
}

/// Why a policy was not published or a program not installed. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishError {
    /// There is no port with this number; add it first.
    NoSuchPort,
    /// The policy does not compile or does not fit; the text says where and why.
    Invalid(alloc::string::String),
}
