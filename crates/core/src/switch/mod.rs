//! The ports of one worker and the forwarding between them (§8.1).

mod underlay;

pub use underlay::{NextHop, Route, Underlay, UnderlayError};

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::layer::{Name, Policy};
use crate::packet::{Batch, Packet};
use crate::time::{Duration, Instant};

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

/// Sizes of a port's tables; all are allocated when the port is made.
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
    /// Buffers of packets that were dropped or consumed, to recycle.
    pub free: Vec<Packet>,
    /// Underlay addresses whose next hop must be resolved (ARP, ND); the daemon asks the kernel.
    pub resolve: Vec<IpAddr>,
}

/// A number of a port's policy; it rises with every change that may alter a resolution (§5.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u64);

/// All ports of one worker, their policy and their state. Single-threaded; owns no socket and reads no clock.
#[derive(Debug)]
pub struct Switch {
    _config: SwitchConfig,
}

impl Switch {
    /// A switch without ports.
    pub fn new(config: SwitchConfig) -> Self {
        Switch { _config: config }
    }

    /// Adds a port. It drops everything (`port-not-ready`) until its first policy is published.
    pub fn add_port(&mut self, id: PortId, config: PortConfig) -> Result<(), AddPortError> {
        let _ = (id, config);
        todo!()
    }

    /// Adds an uplink.
    pub fn add_uplink(&mut self, id: PortId, config: UplinkConfig) -> Result<(), AddPortError> {
        let _ = (id, config);
        todo!()
    }

    /// Names the ports that get a copy of multicast and broadcast frames no responder answered.
    pub fn set_multicast(&mut self, ports: Vec<PortId>) {
        let _ = ports;
        todo!()
    }

    /// Replaces routes and neighbours of the underlay; flows that they change are re-resolved.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        let _ = underlay;
        todo!()
    }

    /// Replaces the policy of a port, all or nothing. Conversations that the new policy still allows go on.
    pub fn publish(&mut self, id: PortId, policy: Policy) -> Result<Generation, PublishError> {
        let _ = (id, policy);
        todo!()
    }

    /// Processes a batch that was received on `from`, draining it into `output`.
    pub fn receive(&mut self, now: Instant, from: PortId, batch: &mut Batch, output: &mut Output) {
        let _ = (now, from, batch, output);
        todo!()
    }

    /// Runs timers: expiry, folding of counters. To be called about once a second.
    pub fn sweep(&mut self, now: Instant) {
        let _ = now;
        todo!()
    }

    /// Counts a packet that the caller (the worker) had to drop.
    pub fn count_drop(&mut self, id: PortId, reason: DropReason) {
        let _ = (id, reason);
        todo!()
    }
}

/// Why a port was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddPortError {
    /// The number is taken by another port; choose a free one.
    DuplicateId,
    /// Another port already has this MAC (and one of these tenants); MACs must be unique for forwarding.
    DuplicateMac,
}

/// Why a policy was not published. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishError {
    /// There is no port with this number; add it first.
    NoSuchPort,
    /// The policy does not compile; the text says where and why.
    Invalid(alloc::string::String),
}
