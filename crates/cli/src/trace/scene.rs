//! The switch in memory that a trace runs in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{anyhow, bail};
use lamina_api::Mac;
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::Direction;
use lamina_core::layer::{Name, Policy};
use lamina_core::packet::Packet;
use lamina_core::simulate::Trace;
use lamina_core::switch::{Output, PortId, PortLimits, Route, Switch, SwitchConfig, Underlay, UplinkConfig};
use lamina_core::time::{Duration, Instant};
use lamina_daemon::convert::{HostPolicy, PortIds, UPLINK};
use lamina_daemon::explain::PortPolicies;

use super::frame::{DefaultMacs, ELSEWHERE};

/// The uplink's own MAC.
const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfd]);
/// The most unified flows of a port here: a trace needs few, and a table is allocated whole.
const FEW_FLOWS: usize = 1024;
/// Copies that mirrors may make of one packet.
const COPIES: usize = 64;
/// Choices of balancers derive from it: fixed, so that a trace says the same each time.
const SEED: u64 = 1;

/// A switch with the policy's ports and an uplink.
pub struct Scene {
    switch: Switch,
    now: Instant,
    /// The policy.
    pub policy: HostPolicy,
    /// Its ports' numbers.
    pub ids: PortIds,
}

/// What became of a packet that was sent for real.
#[derive(Debug)]
pub enum Sent {
    /// It left by these ports or uplinks, as these frames.
    Left(Vec<(Name, Vec<u8>)>),
    /// It was dropped, for one of these reasons.
    Dropped(Vec<DropReason>),
}

impl Scene {
    /// A switch that runs `policy`. Every underlay address is reachable by one gateway.
    pub fn new(policy: HostPolicy, ids: PortIds, addresses: &[IpAddr], mtu: u32) -> anyhow::Result<Scene> {
        let mut switch = Switch::new(SwitchConfig { seed: SEED });
        let uplink = ids.id(UPLINK).unwrap_or(PortId(0));
        let config = UplinkConfig {
            name: UPLINK.into(),
            mac: MacAddr(UPLINK_MAC.0),
            addresses: addresses.to_vec(),
            mtu,
        };
        switch.add_uplink(uplink, config).map_err(|error| anyhow!("the uplink was refused: {error:?}"))?;
        switch.set_underlay(underlay(uplink, addresses)?);
        for port in &policy.ports {
            let mut config = port.config.clone();
            let unified_flows = config.limits.unified_flows.min(FEW_FLOWS);
            config.limits = PortLimits { unified_flows, ..config.limits };
            let name = &port.config.name;
            switch
                .add_port(port.id, config)
                .map_err(|error| anyhow!("port `{name}` was refused: {error:?}"))?;
            switch
                .publish(port.id, port.policy.clone())
                .map_err(|error| anyhow!("the policy of port `{name}` was refused: {error:?}"))?;
        }
        switch.set_multicast(policy.multicast.clone());
        Ok(Scene { switch, now: Instant(0) + Duration::from_seconds(1), policy, ids })
    }

    /// The number of the port called `name`.
    pub fn port(&self, name: &str) -> anyhow::Result<PortId> {
        if let Some(id) = self.ids.id(name) {
            return Ok(id);
        }
        let names = self.policy.ports.iter().map(|port| &*port.config.name).chain([UPLINK]);
        bail!(
            "there is no port `{name}`; {}",
            lamina_api::suggest::did_you_mean(name, names.collect::<Vec<_>>(), "ports are")
        )
    }

    /// The Ethernet addresses of a packet that names none, crossing port `id` in `direction`.
    pub fn macs(&self, id: PortId, direction: Direction) -> DefaultMacs {
        let port = self.policy.ports.iter().find(|port| port.id == id);
        let mac = port.map_or(UPLINK_MAC, |port| Mac(port.config.mac.0));
        match direction {
            Direction::Outbound if port.is_some() => DefaultMacs { src: mac, dst: ELSEWHERE },
            _ => DefaultMacs { src: ELSEWHERE, dst: mac },
        }
    }

    /// Sends `frame` for real, from the NIC of a port or from the network.
    pub fn send(&mut self, from: PortId, frame: &[u8]) -> Sent {
        let before = self.drops();
        let spare = (0..COPIES).map(|_| Packet::with_capacity(frame.len())).collect();
        let mut output = Output { spare, ..Output::default() };
        let mut batch = vec![Packet::from_frame(frame)];
        self.switch.receive(self.now, from, &mut batch, &mut output);
        self.now = self.now + Duration::from_milliseconds(1);
        let left: Vec<_> = output
            .transmit
            .iter()
            .map(|(id, packet)| (self.ids.name(*id).unwrap_or("?").into(), packet.frame().to_vec()))
            .collect();
        if !left.is_empty() {
            return Sent::Left(left);
        }
        let after = self.drops();
        let risen = |(reason, count): (DropReason, u64)| {
            (count > before.get(&reason).copied().unwrap_or(0)).then_some(reason)
        };
        Sent::Dropped(after.into_iter().filter_map(risen).collect())
    }

    /// Traces `frame` through port `id`, or from the network where it is the uplink.
    pub fn trace(&self, id: PortId, direction: Direction, from: PortId, frame: &[u8]) -> Option<Trace> {
        let is_uplink = self.policy.ports.iter().all(|port| port.id != id);
        match direction {
            Direction::Inbound if !is_uplink => {
                self.switch.trace_crossing(self.now, id, direction, from, frame)
            }
            _ => self.switch.trace(self.now, id, frame),
        }
    }
}

impl PortPolicies for Scene {
    fn policy_of(&self, name: &str) -> Option<&Policy> {
        self.policy.port(name).map(|port| &port.policy)
    }

    fn ids(&self) -> &PortIds {
        &self.ids
    }
}

/// An underlay in which one gateway leads everywhere.
fn underlay(uplink: PortId, addresses: &[IpAddr]) -> anyhow::Result<Underlay> {
    let mut underlay = Underlay::default();
    for (everywhere, gateway) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "2001:db8::fe")] {
        let gateway: IpAddr = gateway.parse()?;
        underlay.routes.push(Route {
            destination: everywhere.parse()?,
            gateway: Some(gateway),
            uplink,
            source: addresses.iter().copied().find(|address| address.is_ipv4() == gateway.is_ipv4()),
            mtu: None,
            metric: 0,
        });
        underlay.neighbors.push((gateway, MacAddr(ELSEWHERE.0)));
    }
    Ok(underlay)
}

impl Scene {
    /// Drops so far, of all ports and the uplink.
    fn drops(&mut self) -> BTreeMap<DropReason, u64> {
        let mut drops = BTreeMap::new();
        let ids: Vec<PortId> = self.policy.ports.iter().map(|port| port.id).collect();
        let ports: Vec<_> =
            ids.into_iter().filter_map(|id| self.switch.counters(id)).map(|port| port.drops).collect();
        let uplink =
            self.ids.id(UPLINK).and_then(|id| self.switch.uplink_counters(id)).map(|uplink| &uplink.drops);
        for (reason, count) in ports.iter().chain(uplink).flat_map(|counters| counters.iter()) {
            *drops.entry(reason).or_insert(0) += count;
        }
        drops
    }
}
