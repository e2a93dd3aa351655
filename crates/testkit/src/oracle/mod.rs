//! The oracle: a slow, simple switch that the fast one must agree with.
//!
//! Theory. The core promises that a cached flow answers exactly what the slow path would answer for every packet
//! that hits it (§5.1). To test that, somebody must know the right answer without any cache, index, composition or
//! incremental update. The oracle walks every layer for every packet, judges every condition of every rule, changes
//! a list of headers, and writes the frame anew with checksums computed whole. It shares no code with the core: it
//! reads the same policy values and nothing else.
//!
//! What it takes the design to mean, where the design leaves room:
//!
//! - A pair of layer flows lives while its *conversation's* last forwarded packet, of either direction, is not
//!   longer ago than the pair's time to live. It is gone at that moment, whether or not a sweep ran.
//! - A conversation is known by the guest-side innermost tuple of its outbound packets: of an outbound packet as it
//!   entered, of an inbound one as delivered, reversed. A packet whose plan creates pairs puts them into the
//!   conversation of its key. A packet that merely meets a pair keeps the pair's conversation alive, too; one that
//!   used no state belongs to no conversation and keeps none alive.
//! - "Blocked" ends a conversation only for the drop reason `blocked`: of pairs that the packet met under an older
//!   generation (re-checked, valid or not), and of its own flow as last forwarded under an older generation. The
//!   same flow is: the same base fields, and the same values of the fields that the policy of the time declares
//!   (§5.1). A packet that met pairs of several conversations is no flow's. Pairs whose re-check failed end with
//!   every outcome.
//! - A packet that passed all layers and cannot leave (no destination, too big, no answer possible) is dropped
//!   without trace like a blocked one: its rules do not count it, meters that count `offered` do.
//! - A limit is asked when all else is certain; one that has no tokens drops the packet at its rule, for the reason
//!   `limited`, without trace: that rule counts it, and meters that it passed before it and that count `offered`. A
//!   packet takes the tokens of all its limits or of none; a bucket that it meets twice counts it once.
//! - Bytes of a packet that goes on are those of the guest's side; those of a dropped one are its length as it
//!   entered the port.
//! - A later fragment is dropped where a layer's direction needs ports: a condition of any rule or group there
//!   reads them, or any action there rewrites ports or chooses by them, or the selected rule is stateful.
//! - What a packet's flow relies on of a live mapping table are the entries that its walk read, those that its pairs
//!   read included. A change of one of them makes a pair, and a remembered flow, of "an older generation".
//! - Copies for mirrors are made of packets that go on, in buffers with all their headroom; one that cannot be made is a
//!   drop of the port. A packet that turns round goes on, and is a new packet to the walk that starts.
//! - An answer (`respond`) leaves by the ordinary forwarding after the layers it crossed. The request counts as a
//!   packet that went on, and so does the answer.
//! - Of packets from a port, a tunnel ends at this host, or is given its way by the underlay, when its header was
//!   pushed on this walk, whatever became of its fields later; one that came with the packet is payload.
//! - A pushed IPv4 header has identification 0, a pushed UDP header no checksum; entropy is left blank
//!   ([`BLANK_ENTROPY`]).

mod action;
mod counters;
mod dns;
mod forward;
mod limits;
mod mapping;
mod port;
mod read;
mod reply;
mod transpose;
mod tuple;

pub use counters::{Counters, DropSite, MeterTally, RuleName, Tally};
pub use transpose::BLANK_ENTROPY;
pub use tuple::{LayerKey, Tuple};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lamina_core::drop_reason::DropReason;
use lamina_core::flow::Direction;
use lamina_core::layer::{Name, Policy};
use lamina_core::resource::{MappingChange, MappingTable};
use lamina_core::switch::{PortConfig, PortId, Underlay, UplinkConfig};
use lamina_core::time::Instant;

use mapping::Tables;
use port::Port;

/// The slow switch. It has the core switch's operations; what the core refuses (duplicate MACs, policies that do
/// not compile) must not be asked of it.
#[derive(Clone, Debug)]
pub struct Oracle {
    seed: u64,
    ports: BTreeMap<PortId, Port>,
    uplinks: Vec<Uplink>,
    multicast: Vec<PortId>,
    underlay: Underlay,
    tables: Tables,
    /// Controllers listen to punted packets.
    is_heard: bool,
}

#[derive(Clone, Debug)]
struct Uplink {
    id: PortId,
    config: UplinkConfig,
    drops: BTreeMap<DropReason, u64>,
    drop_sites: BTreeMap<DropSite, Tally>,
}

/// What came of one received frame.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Frames sent, with the port or uplink they leave by. Their order says nothing.
    pub transmit: Vec<(PortId, Vec<u8>)>,
    /// Copies that were cut, each with what it was before.
    pub cut: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Packets that controllers get.
    pub punted: Vec<Punted>,
    /// Drops, with the port or uplink that counts them.
    pub drops: Vec<(PortId, DropReason)>,
    /// Underlay addresses that must be resolved.
    pub resolve: Vec<IpAddr>,
}

/// A packet for a controller.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Punted {
    /// The port.
    pub port: PortId,
    /// Which way it goes.
    pub direction: Direction,
    /// The rule.
    pub rule: RuleName,
    /// The frame as it stands, as far as the rule sends it.
    pub frame: Vec<u8>,
    /// The length of all of it.
    pub length: usize,
}

/// A pair of layer flows that lives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LayerFlow {
    /// The layer.
    pub layer: Name,
    /// The key of packets in the direction that created it.
    pub forward: LayerKey,
    /// The key of replies.
    pub reverse: LayerKey,
    /// The rule it belongs to.
    pub rule: RuleName,
}

impl Oracle {
    /// A switch without ports; `seed` is that of the core's `SwitchConfig`.
    pub fn new(seed: u64) -> Self {
        let (ports, uplinks) = (BTreeMap::new(), Vec::new());
        let (multicast, underlay, tables) = (Vec::new(), Underlay::default(), Tables::default());
        Oracle { seed, ports, uplinks, multicast, underlay, tables, is_heard: false }
    }

    /// Adds a port, which drops everything until its first policy is published.
    pub fn add_port(&mut self, id: PortId, config: PortConfig) {
        self.ports.insert(id, Port::new(config, self.seed));
        self.raise_generations();
    }

    /// Adds an uplink.
    pub fn add_uplink(&mut self, id: PortId, config: UplinkConfig) {
        self.uplinks.push(Uplink { id, config, drops: BTreeMap::new(), drop_sites: BTreeMap::new() });
        self.raise_generations();
    }

    /// Names the ports that get a copy of multicast and broadcast frames.
    pub fn set_multicast(&mut self, ports: Vec<PortId>) {
        self.multicast = ports;
        self.raise_generations();
    }

    /// Replaces routes and neighbours.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        if self.underlay != underlay {
            self.underlay = underlay;
            self.raise_generations();
        }
    }

    /// Replaces the policy of a port and returns its new generation; `None` when there is no such port.
    pub fn publish(&mut self, id: PortId, policy: Policy) -> Option<u64> {
        let port = self.ports.get_mut(&id)?;
        self.tables.declare(&policy.resources);
        let generation = port.publish(policy);
        let ports = &self.ports;
        self.tables.retain(|name| {
            let policies = ports.values().filter_map(|port| port.policy.as_ref());
            policies.flat_map(|policy| &policy.resources.mappings).any(|table| table.name == *name)
        });
        Some(generation)
    }

    /// Changes entries of a mapping table that exists.
    pub fn update_mapping(&mut self, name: &Name, changes: &[MappingChange]) {
        changes.iter().for_each(|change| self.tables.change(name, change));
    }

    /// Gives a mapping table this content, whether it exists or not; it stays.
    pub fn replace_mapping(&mut self, content: &MappingTable) {
        self.tables.replace(content);
    }

    /// Removes what has expired. It changes nothing that can be seen: expiry does not wait for it.
    pub fn sweep(&mut self, now: Instant) {
        self.ports.values_mut().for_each(|port| port.purge(now));
    }

    /// What port `id` has counted.
    pub fn counters(&self, id: PortId) -> Option<&Counters> {
        self.ports.get(&id).map(|port| &port.counters)
    }

    /// Drops of packets that uplink `id` brought for no port.
    pub fn uplink_drops(&self, id: PortId) -> BTreeMap<DropReason, u64> {
        let uplink = self.uplinks.iter().find(|uplink| uplink.id == id);
        uplink.map_or(BTreeMap::new(), |uplink| uplink.drops.clone())
    }

    /// Drops of a port or uplink by place, as packets and bytes.
    pub fn drop_sites(&self, id: PortId) -> BTreeMap<DropSite, (u64, u64)> {
        let uplink = self.uplinks.iter().find(|uplink| uplink.id == id).map(|uplink| &uplink.drop_sites);
        let sites = self.ports.get(&id).map(|port| &port.drop_sites).or(uplink);
        let plain = |(site, tally): (&DropSite, &Tally)| (site.clone(), (tally.packets, tally.bytes));
        sites.map_or(BTreeMap::new(), |sites| sites.iter().map(plain).collect())
    }

    /// Ends the conversations of port `id` that have these keys, with all their state.
    pub fn end_conversations(&mut self, id: PortId, keys: &BTreeSet<Tuple>) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.end_conversations(keys);
        }
    }

    /// The layer flows of port `id` that live at `now`, sorted.
    pub fn layer_flows(&self, id: PortId, now: Instant) -> Vec<LayerFlow> {
        let Some(port) = self.ports.get(&id) else { return Vec::new() };
        let mut port = port.clone();
        port.purge(now);
        let mut flows: Vec<LayerFlow> = port
            .pairs
            .into_values()
            .map(|pair| LayerFlow {
                layer: pair.layer,
                forward: pair.forward_key,
                reverse: pair.reverse_key,
                rule: pair.rule.name,
            })
            .collect();
        flows.sort();
        flows
    }

    fn raise_generations(&mut self) {
        self.ports.values_mut().for_each(|port| port.generation += 1);
    }
}
