//! Where packets go between ports and uplinks (§8.1): by MAC, or by tenant and inner MAC. No learning.
//!
//! Of packets from ports, only tunnels that layers put on are the switch's: one that a guest built is the guest's own
//! payload, ends nowhere on this host and is given no way by the underlay. And it is the outermost tunnel whose tenant
//! counts: those inside are what a guest wrote. So no guest names the tenant that it reaches. No destination MAC is how
//! a tunnel of the switch asks the underlay for one; whatever else has none is nobody's.

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use super::underlay::{UnderlayError, UnderlayIndex};
use super::{AddPortError, PortConfig, PortId, SetPortError, UplinkConfig};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{Direction, Fragment, HeaderStack, L3, L4};
use crate::inspect::{DropLog, Lost};
use crate::layer::Name;
use crate::packet::TunnelPorts;
use crate::port::Egress;
use crate::stats::{Count, DropCounters};
use crate::time::Instant;
use crate::transposition::{HeaderOp, Modify, ModifyL2, ModifyL3, Transposition, flow_hash};

/// IP protocol numbers of tunnels without UDP.
const IP_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;

/// An uplink and what it counts.
#[derive(Debug)]
pub(crate) struct UplinkState {
    id: PortId,
    pub(super) config: UplinkConfig,
    pub(super) counters: UplinkCounters,
    pub(super) drop_log: DropLog,
}

/// What an uplink counts.
#[derive(Clone, Debug, Default)]
pub struct UplinkCounters {
    /// Frames from the network.
    pub received: Count,
    /// Frames to the network.
    pub transmitted: Count,
    /// Frames for the host itself, which are left to its kernel; they are among `received`.
    pub host: Count,
    /// Drops of packets that belong to no port.
    pub drops: DropCounters,
}

/// Whose a frame from an uplink is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The switch's: it goes there.
    Forward(Egress),
    /// The host's own: its kernel has it already.
    Host,
}

/// To a port's own side of forwarding: what is sent to it.
fn inbound(to: PortId) -> Egress {
    Egress::Port { to, direction: Direction::Inbound }
}

/// The forwarding state of a switch.
#[derive(Debug, Default)]
pub(crate) struct Fabric {
    uplinks: Vec<UplinkState>,
    by_mac: HashMap<MacAddr, PortId, rapidhash::fast::RandomState>,
    by_tenant: HashMap<(u32, MacAddr), PortId, rapidhash::fast::RandomState>,
    /// The largest packet of each port, without Ethernet header; 0 for no limit.
    mtus: HashMap<PortId, u32, rapidhash::fast::RandomState>,
    /// The ports that belong to other workers, with their names.
    pub(super) remotes: HashMap<PortId, Name, rapidhash::fast::RandomState>,
    pub(super) multicast: Vec<PortId>,
    pub(super) underlay: UnderlayIndex,
    /// By which UDP ports tunnels are known.
    pub(crate) tunnels: TunnelPorts,
    /// Drops of packets that belong to no port or uplink.
    pub(super) ownerless: DropLog,
}

/// Where a packet goes from a port, and what the underlay adds to its headers.
pub(crate) struct Forwarding {
    pub(crate) egress: Egress,
    pub(crate) transposition: Transposition,
    /// An underlay address to resolve, though the packet can leave without.
    pub(crate) wanted: Option<IpAddr>,
}

/// Why a packet goes nowhere.
pub(crate) struct Undeliverable {
    pub(crate) reason: DropReason,
    /// The underlay address that must be resolved before the next try.
    pub(crate) unresolved: Option<IpAddr>,
}

impl From<DropReason> for Undeliverable {
    fn from(reason: DropReason) -> Self {
        Undeliverable { reason, unresolved: None }
    }
}

impl Fabric {
    pub(super) fn uplink(&self, id: PortId) -> Option<&UplinkState> {
        self.uplinks.iter().find(|uplink| uplink.id == id)
    }

    pub(super) fn uplink_count(&self) -> usize {
        self.uplinks.len()
    }

    /// The uplink that was added first.
    pub(super) fn first_uplink(&self) -> Option<PortId> {
        self.uplinks.first().map(|uplink| uplink.id)
    }

    pub(super) fn uplink_mut(&mut self, id: PortId) -> Option<&mut UplinkState> {
        self.uplinks.iter_mut().find(|uplink| uplink.id == id)
    }

    /// The name of a port that belongs to another worker.
    pub(crate) fn remote_name(&self, id: PortId) -> Option<&Name> {
        self.remotes.get(&id)
    }

    pub(crate) fn uplink_name(&self, id: PortId) -> Option<Name> {
        self.uplink(id).map(|uplink| uplink.config.name.clone())
    }

    /// The way to the `direction` side of port `to`, where a packet turns round.
    pub(crate) fn turn(&self, to: PortId, direction: Direction) -> Result<Egress, DropReason> {
        let exists = self.mtus.contains_key(&to);
        exists.then_some(Egress::Port { to, direction }).ok_or(DropReason::NoSuchPort)
    }

    /// Every port of the multicast set but `from`.
    pub(crate) fn multicast_targets(&self, from: PortId) -> impl Iterator<Item = PortId> + '_ {
        self.multicast.iter().copied().filter(move |to| *to != from)
    }

    pub(super) fn add_uplink(&mut self, id: PortId, config: UplinkConfig) {
        self.uplinks.push(UplinkState {
            id,
            config,
            counters: UplinkCounters::default(),
            drop_log: DropLog::default(),
        });
    }

    pub(super) fn set_uplink(&mut self, id: PortId, config: UplinkConfig) -> bool {
        self.uplink_mut(id).map(|uplink| uplink.config = config).is_some()
    }

    /// Counts a packet that could not be sent by uplink `id`, or by a port that is gone.
    pub(super) fn count_unsent(&mut self, id: PortId, reason: DropReason) {
        let log = match self.uplinks.iter_mut().find(|uplink| uplink.id == id) {
            Some(uplink) => {
                uplink.counters.drops.count(reason);
                &mut uplink.drop_log
            }
            None => &mut self.ownerless,
        };
        let row = log.row(reason, Direction::Outbound, None, Instant(0));
        log.count_only(row, 1, Count { packets: 1, bytes: 0 });
    }

    /// Counts and remembers a packet from uplink `id` that is for no port.
    pub(super) fn lose(&mut self, id: PortId, reason: DropReason, lost: &Lost<'_>) {
        if let Some(uplink) = self.uplink_mut(id) {
            uplink.counters.drops.count(reason);
            let row = uplink.drop_log.row(reason, Direction::Inbound, None, lost.now);
            uplink.drop_log.count(row, lost);
        }
    }

    /// Counts and remembers a packet from or for a port that does not exist, or no longer does.
    pub(super) fn lose_ownerless(&mut self, direction: Direction, lost: &Lost<'_>) {
        let row = self.ownerless.row(DropReason::PortNotReady, direction, None, lost.now);
        self.ownerless.count(row, lost);
    }

    pub(super) fn add_port(&mut self, id: PortId, config: &PortConfig) -> Result<(), AddPortError> {
        if self.by_mac.contains_key(&config.mac) {
            return Err(AddPortError::DuplicateMac);
        }
        self.know(id, config);
        Ok(())
    }

    /// Gives ports, of which all are known, other MACs, tenants and MTUs: all of them or none.
    pub(super) fn set_ports(&mut self, configs: &[(PortId, PortConfig)]) -> Result<(), SetPortError> {
        let is_changed = |id: &PortId| configs.iter().any(|(other, _)| other == id);
        for (at, (id, config)) in configs.iter().enumerate() {
            if !self.mtus.contains_key(id) {
                return Err(SetPortError::NoSuchPort(*id));
            }
            let others = configs[..at].iter().any(|(_, other)| other.mac == config.mac);
            if others || self.by_mac.get(&config.mac).is_some_and(|owner| !is_changed(owner)) {
                return Err(SetPortError::DuplicateMac(*id));
            }
        }
        configs.iter().for_each(|(id, _)| self.forget(*id));
        configs.iter().for_each(|(id, config)| self.know(*id, config));
        Ok(())
    }

    fn know(&mut self, id: PortId, config: &PortConfig) {
        self.by_mac.insert(config.mac, id);
        for tenant in &config.tenants {
            self.by_tenant.insert((*tenant, config.mac), id);
        }
        self.mtus.insert(id, config.mtu);
    }

    fn forget(&mut self, id: PortId) {
        self.by_mac.retain(|_, port| *port != id);
        self.by_tenant.retain(|_, port| *port != id);
        self.mtus.remove(&id);
    }

    pub(super) fn remove(&mut self, id: PortId) -> bool {
        self.forget(id);
        self.multicast.retain(|port| *port != id);
        let before = self.uplinks.len() + self.remotes.len();
        self.uplinks.retain(|uplink| uplink.id != id);
        self.remotes.remove(&id);
        self.uplinks.len() + self.remotes.len() < before
    }

    /// The port that a tunnelled packet to this host is for: by the outermost tunnel's tenant and the destination MAC
    /// inside.
    fn tunnel_target(&self, headers: &HeaderStack) -> Option<PortId> {
        let inner = headers.groups().get(1)?.flow_id.l2?;
        let tenant = match headers.outermost().flow_id.l4 {
            Some(L4::Encap(encap)) if encap.kind.has_tenant() => encap.tenant,
            _ => return None,
        };
        self.by_tenant.get(&(tenant, inner.dst)).copied()
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        self.uplinks.iter().any(|uplink| uplink.config.addresses.contains(&address))
    }

    /// The remote end of the outermost tunnel.
    fn tunnel_remote(headers: &HeaderStack) -> Option<IpAddr> {
        let outer = &headers.outermost().flow_id;
        match (outer.l3, outer.l4) {
            (Some(L3::Ip(ip)), Some(L4::Encap(_))) => Some(ip.addresses.dst()),
            _ => None,
        }
    }

    /// Where a packet goes after the outbound layers of port `from`, which did `done` and left it with `headers`.
    pub(crate) fn forward(
        &self,
        from: PortId,
        headers: &HeaderStack,
        done: &Transposition,
    ) -> Result<Forwarding, Undeliverable> {
        let to = |egress| Ok(Forwarding { egress, transposition: Transposition::IDENTITY, wanted: None });
        let dst = headers.outermost().flow_id.l2.map_or(MacAddr::ZERO, |l2| l2.dst);
        if let Some(id) = self.by_mac.get(&dst) {
            return if *id == from { Err(DropReason::SamePort.into()) } else { to(inbound(*id)) };
        }
        let remote = Self::tunnel_remote(headers).filter(|_| done.puts_on_tunnel());
        if remote.is_some_and(|remote| self.is_own_address(remote)) {
            return match self.tunnel_target(headers) {
                Some(id) if id == from => Err(DropReason::SamePort.into()),
                Some(id) => to(inbound(id)),
                None => Err(DropReason::NoSuchDestination.into()),
            };
        }
        if dst.is_multicast() {
            return if self.multicast.iter().any(|id| *id != from) {
                to(Egress::Multicast)
            } else {
                Err(DropReason::MulticastUnanswered.into())
            };
        }
        let Some(uplink) = self.uplinks.first() else {
            return Err(DropReason::NoSuchDestination.into());
        };
        match remote {
            Some(remote) if dst == MacAddr::ZERO => self.tunnel_to(remote, headers),
            None if dst == MacAddr::ZERO => Err(DropReason::NoSuchDestination.into()),
            _ => {
                to(Egress::Uplink { id: uplink.id, max_frame: super::max_frame(uplink.config.mtu, headers) })
            }
        }
    }

    /// The largest packet that port `id` takes, without Ethernet header, 0 for any; `None` when there is no such port.
    pub(super) fn mtu(&self, id: PortId) -> Option<u32> {
        self.mtus.get(&id).copied()
    }

    /// The way of a copy, tunnelled as `headers` say, to a collector; always by an uplink: one on this host is none.
    pub(super) fn collector(
        &self,
        remote: IpAddr,
        headers: &HeaderStack,
    ) -> Result<Forwarding, Undeliverable> {
        if self.is_own_address(remote) {
            return Err(DropReason::MirrorUnreachable.into());
        }
        self.tunnel_to(remote, headers)
    }

    /// The way to the remote end of a tunnel: outer MACs, source address and path MTU from the underlay (§10).
    fn tunnel_to(&self, remote: IpAddr, headers: &HeaderStack) -> Result<Forwarding, Undeliverable> {
        let flow = flow_hash(&headers.innermost().flow_id);
        let hop = self.underlay.next_hop(remote, flow).map_err(|error| match error {
            UnderlayError::NoRoute => Undeliverable::from(DropReason::UnderlayNoRoute),
            UnderlayError::Unresolved(address) => {
                Undeliverable { reason: DropReason::UnderlayNeighborUnresolved, unresolved: Some(address) }
            }
        })?;
        let uplink = self.uplink(hop.uplink).ok_or(Undeliverable::from(DropReason::UnderlayNoRoute))?;
        let source = hop.source.or_else(|| {
            let same_family = |address: &&IpAddr| address.is_ipv4() == remote.is_ipv4();
            uplink.config.addresses.iter().find(same_family).copied()
        });
        let is_unnamed = match headers.outermost().flow_id.l3 {
            Some(L3::Ip(ip)) => ip.addresses.src().is_unspecified(),
            _ => false,
        };
        let l2 = ModifyL2 { src: Some(uplink.config.mac), dst: Some(hop.mac), ..ModifyL2::default() };
        let l3 = ModifyL3 { src: source.filter(|_| is_unnamed), ..ModifyL3::default() };
        let mut ops = alloc::vec![HeaderOp::Modify(Modify::L2(l2))];
        if l3.src.is_some() {
            ops.push(HeaderOp::Modify(Modify::L3(l3)));
        }
        let mtu = if hop.mtu == 0 { uplink.config.mtu } else { hop.mtu.min(uplink.config.mtu) };
        let egress = Egress::Uplink { id: uplink.id, max_frame: super::max_frame(mtu, headers) };
        Ok(Forwarding { egress, transposition: Transposition::new(ops), wanted: hop.wanted })
    }

    /// Whose a packet from uplink `from` is: a port's by its MAC, or by tenant and inner MAC when it is tunnelled to an
    /// address of an uplink; the multicast set's; the host's own, when its MAC is the uplink's or a group's.
    pub(crate) fn target(&self, from: PortId, headers: &HeaderStack) -> Result<Arrival, DropReason> {
        let outer = headers.outermost();
        let dst = outer.flow_id.l2.map_or(MacAddr::ZERO, |l2| l2.dst);
        if let Some(id) = self.by_mac.get(&dst) {
            return Ok(Arrival::Forward(inbound(*id)));
        }
        if let Some(remote) = Self::tunnel_remote(headers) {
            // By whatever uplink: answers need not come the way that questions took.
            let target = if self.is_own_address(remote) { self.tunnel_target(headers) } else { None };
            return target.map(|id| Arrival::Forward(inbound(id))).ok_or(DropReason::NotForThisHost);
        }
        if let Some(L3::Ip(ip)) = outer.flow_id.l3
            && outer.extra.fragment == Fragment::First
            && self.may_be_tunnel(ip.protocol, outer.flow_id.l4)
            && self.is_own_address(ip.addresses.dst())
        {
            return Err(DropReason::TunnelFragmented);
        }
        if dst.is_multicast() && !self.multicast.is_empty() {
            return Ok(Arrival::Forward(Egress::Multicast));
        }
        let is_hosts = dst.is_multicast() || self.uplink(from).is_some_and(|uplink| uplink.config.mac == dst);
        if is_hosts { Ok(Arrival::Host) } else { Err(DropReason::NotForThisHost) }
    }

    /// True for what would open a tunnel if it were no fragment.
    fn may_be_tunnel(&self, protocol: u8, l4: Option<L4>) -> bool {
        match l4 {
            Some(L4::Udp(ports)) => self.tunnels.is_known(ports.dst),
            _ => matches!(protocol, IP_IN_IP | IPV6_IN_IP | GRE),
        }
    }
}
