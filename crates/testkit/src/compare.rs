//! The same scenario through the core's switch and the oracle: everything that can be seen must be the same.
//!
//! After each step: the frames sent (port and every byte, entropy of new tunnels excepted), the drops by reason and
//! port, the underlay addresses to resolve. At the end, and after sweeps and policy changes: all counters and the
//! layer flows that live.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use lamina_core::drop_reason::DropReason;
use lamina_core::event::{Audience, Event, Interests};
use lamina_core::flow::EncapKind;
use lamina_core::layer::MAX_MIRROR_LAYERS;
use lamina_core::packet::Packet;
use lamina_core::stats::Count;
use lamina_core::switch::{InjectError, Output, PortId, PublishError, SwitchConfig, Through};
use lamina_core::time::{Duration, Instant};

use crate::oracle::{
    BLANK_ENTROPY, Counters, LayerFlow, LayerKey, MeterTally, Oracle, Punted, Received, RuleName, Tally,
    Tuple,
};
use crate::spread::Spread;
use crate::strategy::packet::reply_to;
use crate::strategy::universe::{self, PORTS, SEED, UPLINK};
use crate::strategy::{Scenario, Step};
use crate::wire::{decode, tunnel_offsets};

use told::Watcher;

/// Copies that mirrors may make of the packets that one packet becomes.
const COPIES: usize = 256;

/// What a scenario exercised, for judging whether the random tests reach what they should.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Packets that the core answered from its unified flows.
    pub hits: u64,
    /// Packets that the core's drop cache answered.
    pub drop_cache_hits: u64,
    /// Unified flows reconciled.
    pub reconciled: u64,
    /// Pairs of layer flows alive at the end.
    pub layer_flows: u64,
    /// Unified flows that lists showed.
    pub listed: u64,
    /// Conversations that were cleared.
    pub cleared: u64,
    /// Packets captured at layers.
    pub captured: u64,
    /// Packets that controllers got.
    pub punted: u64,
    /// Packets that they sent on.
    pub sent_on: u64,
    /// Packets handed over between switches.
    pub handed_over: u64,
    /// Drops by reason.
    pub drops: BTreeMap<DropReason, u64>,
}

impl Coverage {
    /// Adds `other`.
    pub fn add(&mut self, other: &Coverage) {
        self.received += other.received;
        self.sent += other.sent;
        self.hits += other.hits;
        self.drop_cache_hits += other.drop_cache_hits;
        self.reconciled += other.reconciled;
        self.layer_flows += other.layer_flows;
        self.listed += other.listed;
        self.cleared += other.cleared;
        self.captured += other.captured;
        self.punted += other.punted;
        self.sent_on += other.sent_on;
        self.handed_over += other.handed_over;
        for (reason, count) in &other.drops {
            *self.drops.entry(*reason).or_default() += count;
        }
    }
}

/// Runs `scenario` through both; the error says where they differ first.
pub fn run(scenario: &Scenario) -> Result<Coverage, String> {
    run_spread(scenario, 1, &[])
}

/// Like [`run`], with the core's ports, and after them the uplink, spread over so many switches: each lives with the
/// one that `places` says, counted round; those that it does not name with the first.
pub fn run_spread(scenario: &Scenario, switches: usize, places: &[usize]) -> Result<Coverage, String> {
    let mut pair = Pair::new(scenario, switches, places)?;
    for (index, step) in scenario.steps.iter().enumerate() {
        pair.step(step).map_err(|why| format!("step {index}, {step:?}\n{why}"))?;
    }
    pair.compare_state()?;
    pair.finish()
}

struct Pair {
    core: Spread,
    oracle: Oracle,
    policies: Vec<Option<lamina_core::layer::Policy>>,
    now: Instant,
    received: Vec<(PortId, Vec<u8>)>,
    sent: Vec<(PortId, Vec<u8>)>,
    /// What controllers got.
    punted: Vec<Punted>,
    output: Output,
    /// While the scenario captures.
    watcher: Option<Watcher>,
    /// Ports of which some policy sent copies to their own NIC.
    own_mirrors: BTreeSet<PortId>,
    coverage: Coverage,
}

impl Pair {
    fn new(scenario: &Scenario, switches: usize, places: &[usize]) -> Result<Self, String> {
        let place = |index: usize| places.get(index).copied().unwrap_or(0);
        let mut core = Spread::new(switches, SwitchConfig { seed: SEED });
        let mut oracle = Oracle::new(SEED);
        for (index, id) in PORTS.into_iter().enumerate() {
            core.add_port(id, universe::port_config(index), place(index))
                .map_err(|error| format!("{error:?}"))?;
            oracle.add_port(id, universe::port_config(index));
        }
        core.add_uplink(UPLINK, universe::uplink_config(), place(PORTS.len()))
            .map_err(|error| format!("{error:?}"))?;
        oracle.add_uplink(UPLINK, universe::uplink_config());
        let mut pair = Pair {
            core,
            oracle,
            policies: scenario.policies.clone(),
            now: Instant(1_000_000_000),
            received: Vec::new(),
            sent: Vec::new(),
            punted: Vec::new(),
            output: Output::default(),
            watcher: None,
            own_mirrors: BTreeSet::new(),
            coverage: Coverage::default(),
        };
        pair.set_multicast(scenario.has_multicast);
        pair.set_underlay(0);
        for index in 0..PORTS.len() {
            pair.publish(index)?;
        }
        Ok(pair)
    }

    fn set_multicast(&mut self, is_named: bool) {
        let ports = if is_named { PORTS.to_vec() } else { Vec::new() };
        self.core.set_multicast(&ports);
        self.oracle.set_multicast(ports);
    }

    fn set_underlay(&mut self, variant: usize) {
        self.core.set_underlay(&universe::underlay(variant));
        self.oracle.set_underlay(universe::underlay(variant));
    }

    fn publish(&mut self, index: usize) -> Result<(), String> {
        let Some(policy) = self.policies.get(index).cloned().flatten() else { return Ok(()) };
        let published = self.core.publish(PORTS[index], policy.clone());
        if told::mirror_layers(&policy) > MAX_MIRROR_LAYERS {
            // It is refused whole, and what ran before runs.
            return match published {
                Err(PublishError::Invalid(_)) => Ok(()),
                other => Err(format!("more mirrors than a port may have: {other:?}")),
            };
        }
        published.map_err(|error| format!("not published: {error:?}"))?;
        if told::has_mirror_to(PORTS[index], &policy) {
            self.own_mirrors.insert(PORTS[index]);
        }
        self.oracle.publish(PORTS[index], policy);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Packet { from, packet } => {
                let (id, frame) = match PORTS.get(*from) {
                    Some(id) => (*id, packet.frame(*from)),
                    None => (UPLINK, packet.frame(3)),
                };
                self.receive(id, frame)
            }
            Step::Again { back, tweak } => {
                let Some((from, frame)) = from_back(&self.received, *back) else { return Ok(()) };
                let Ok(mut frame) = decode(&frame) else { return self.receive(from, frame) };
                tweak.apply(&mut frame);
                self.receive(from, frame.encode())
            }
            Step::Reply { back, tweak } => {
                let Some((from, frame)) = from_back(&self.sent, *back) else { return Ok(()) };
                let Ok(frame) = decode(&frame) else { return Ok(()) };
                let mut reply = reply_to(&frame);
                tweak.apply(&mut reply);
                self.receive(from, reply.encode())
            }
            Step::Advance(milliseconds) => {
                self.now = self.now + Duration::from_milliseconds(*milliseconds);
                Ok(())
            }
            Step::Sweep => {
                self.core.sweep(self.now);
                self.oracle.sweep(self.now);
                self.compare_state()
            }
            Step::Change { port, change } => {
                if let Some(Some(policy)) = self.policies.get_mut(*port) {
                    change.apply(policy);
                }
                self.publish(*port)?;
                self.compare_state()
            }
            Step::Mappings(changes) => {
                let name: lamina_core::layer::Name = "blue".into();
                // No port may name the table at the moment.
                if self.core.mapping(&name).is_some() {
                    self.core.update_mapping(&name, changes).map_err(|error| error.to_string())?;
                }
                self.oracle.update_mapping(&name, changes);
                Ok(())
            }
            Step::Replace(variant) => {
                let content = &universe::resources(*variant).mappings[0];
                self.core.replace_mapping(content).map_err(|error| error.to_string())?;
                self.oracle.replace_mapping(content);
                Ok(())
            }
            Step::List { port, filter, budget } => self.list(PORTS[*port], filter, *budget).map(|_| ()),
            Step::Clear { port, filter, budget } => self.clear(PORTS[*port], filter, *budget),
            Step::Captures(wanted) => {
                match (self.watcher.take(), wanted) {
                    (Some(watcher), false) => watcher.stop(&mut self.core),
                    (None, true) => self.watcher = Some(Watcher::start(&mut self.core)?),
                    (watcher, _) => self.watcher = watcher,
                }
                Ok(())
            }
            Step::Hear(is_heard) => {
                let punts = if *is_heard { Audience::Everybody } else { Audience::Nobody };
                self.core.set_interests(&Interests { punts, ..Interests::default() });
                self.oracle.set_heard(*is_heard);
                Ok(())
            }
            Step::SendOn { back, tweak } => {
                let index = self.punted.len().checked_sub(back + 1);
                let Some(punted) = index.and_then(|index| self.punted.get(index)).cloned() else {
                    return Ok(());
                };
                let frame = decode(&punted.frame).map(|mut frame| {
                    tweak.apply(&mut frame);
                    frame.encode()
                });
                self.send_on(&punted, frame.unwrap_or_else(|_| punted.frame.clone()))
            }
            Step::Multicast(is_named) => {
                self.set_multicast(*is_named);
                Ok(())
            }
            Step::Underlay(variant) => {
                self.set_underlay(*variant);
                Ok(())
            }
        }
    }

    fn receive(&mut self, from: PortId, frame: Vec<u8>) -> Result<(), String> {
        self.coverage.received += 1;
        let drops_before = self.core_drops();
        let mut batch = vec![Packet::from_frame(&frame)];
        self.lend();
        self.core.receive(self.now, from, &mut batch, &mut self.output);
        let wanted = self.oracle.receive(self.now, from, &frame);
        self.judge((from, &frame), true, &drops_before, &wanted)?;
        self.received.push((from, frame));
        Ok(())
    }

    /// A controller sends `frame` on behind the layer that gave it `punted`.
    fn send_on(&mut self, punted: &Punted, frame: Vec<u8>) -> Result<(), String> {
        let drops_before = self.core_drops();
        let (place, layer) = ((punted.port, punted.direction), &punted.rule.layer);
        self.lend();
        let through = Through::LayersBehind(layer.clone());
        match self.core.inject(self.now, place, through, &frame, &mut self.output) {
            Ok(()) => self.coverage.sent_on += 1,
            // The layer went with a change of policy.
            Err(InjectError::NoSuchLayer) => return Ok(()),
            Err(error) => return Err(format!("not injected: {error}")),
        }
        let wanted = self.oracle.send_on(self.now, place, layer, &frame);
        self.judge((punted.port, &frame), false, &drops_before, &wanted)
    }

    fn lend(&mut self) {
        let missing = COPIES - self.output.spare.len().min(COPIES);
        self.output.spare.extend((0..missing).map(|_| Packet::with_capacity(2048)));
    }

    /// Holds what the core made of a frame against what the oracle did.
    fn judge(
        &mut self,
        (from, frame): (PortId, &[u8]),
        is_received: bool,
        drops_before: &BTreeMap<(PortId, DropReason), u64>,
        wanted: &Received,
    ) -> Result<(), String> {
        let punted: Vec<Punted> = self.output.events.drain().filter_map(as_punted).collect();
        let sent: Vec<(PortId, Vec<u8>)> =
            self.output.transmit.drain(..).map(|(id, packet)| (id, packet.frame().to_vec())).collect();
        self.output.free.clear();
        let mut to_resolve: Vec<IpAddr> = std::mem::take(&mut self.output.resolve);
        let mut drops: Vec<(PortId, DropReason)> = Vec::new();
        for (key, count) in self.core_drops() {
            let new = count - drops_before.get(&key).copied().unwrap_or(0);
            drops.extend((0..new).map(|_| key));
        }
        let mut wanted_drops = wanted.drops.clone();
        wanted_drops.sort();
        let mut wanted_resolve = wanted.resolve.clone();
        to_resolve.sort();
        wanted_resolve.sort();
        let is_same = same_frames(&sent, &wanted.transmit, &wanted.cut)
            && same_punted(&punted, wanted)
            && drops == wanted_drops
            && to_resolve == wanted_resolve;
        if !is_same {
            let mut why = String::new();
            let _ = writeln!(why, "at {:?} from {from:?}: {}", self.now, shown(frame));
            for (who, frames, drops) in [("core", &sent, &drops), ("oracle", &wanted.transmit, &wanted_drops)]
            {
                let _ = writeln!(why, "{who} drops {drops:?}, sends:");
                for (id, frame) in frames {
                    let _ = writeln!(why, "  {id:?} {}", shown(frame));
                }
            }
            for (who, punted) in [("core", &punted), ("oracle", &wanted.punted)] {
                let _ = writeln!(why, "{who} punts {punted:?}");
            }
            return Err(why);
        }
        // A copy that could not be made is a drop, but no packet that was dropped.
        let of_packets = drops.iter().filter(|(_, reason)| !reason.name().starts_with("mirror-")).count();
        if let Some(watcher) = &self.watcher {
            let received = is_received.then_some((from, frame));
            self.coverage.captured += watcher.check(received, &sent, of_packets, &self.own_mirrors)?;
        }
        for (_, reason) in drops {
            *self.coverage.drops.entry(reason).or_default() += 1;
        }
        self.coverage.sent += sent.len() as u64;
        self.coverage.punted += punted.len() as u64;
        self.sent.extend(sent);
        self.punted.extend(punted);
        Ok(())
    }

    fn core_drops(&self) -> BTreeMap<(PortId, DropReason), u64> {
        let mut drops = BTreeMap::new();
        for id in PORTS.into_iter().chain([UPLINK]) {
            drops.extend(self.core.drops(id).iter().map(|(reason, count)| ((id, reason), count)));
        }
        drops
    }

    fn compare_state(&mut self) -> Result<(), String> {
        for id in PORTS {
            let core = core_counters(&mut self.core, id);
            let oracle = without_zeroes(self.oracle.counters(id).cloned().unwrap_or_default());
            if core != oracle {
                return Err(format!(
                    "{id:?} at {:?}: counters differ\ncore   {core:#?}\noracle {oracle:#?}",
                    self.now
                ));
            }
            let core = core_layer_flows(&self.core, id, self.now);
            let oracle = self.oracle.layer_flows(id, self.now);
            if core != oracle {
                return Err(format!(
                    "{id:?} at {:?}: layer flows differ\ncore   {core:#?}\noracle {oracle:#?}",
                    self.now
                ));
            }
        }
        self.compare_drops()
    }

    fn finish(mut self) -> Result<Coverage, String> {
        self.coverage.handed_over = self.core.handed_over;
        for id in PORTS {
            if let Some(counters) = self.core.counters(id) {
                self.coverage.hits += counters.flows.hits;
                self.coverage.drop_cache_hits += counters.flows.drop_cache_hits;
                self.coverage.reconciled += counters.flows.reconciled;
            }
            self.coverage.layer_flows += self.oracle.layer_flows(id, self.now).len() as u64;
        }
        Ok(self.coverage)
    }
}

fn from_back(frames: &[(PortId, Vec<u8>)], back: usize) -> Option<(PortId, Vec<u8>)> {
    frames.len().checked_sub(back + 1).and_then(|index| frames.get(index)).cloned()
}

/// A frame in words.
pub fn shown(frame: &[u8]) -> String {
    match decode(frame) {
        Ok(decoded) => {
            format!("{} bytes {:?} payload {}", frame.len(), decoded.headers, decoded.payload.len())
        }
        Err(reason) => format!("{} bytes, {}: {frame:02x?}", frame.len(), reason.name()),
    }
}

/// What an event says of a packet that a controller gets.
fn as_punted(event: Event) -> Option<Punted> {
    let Event::Punt(punted) = event else { return None };
    let lamina_core::event::Punted { port, direction, layer, group, rule, frame, length, .. } = *punted;
    Some(Punted { port, direction, rule: RuleName { layer, direction, group, rule }, frame, length })
}

/// True when controllers get the same packets of both, in the same order.
fn same_punted(core: &[Punted], oracle: &Received) -> bool {
    let is_same = |(core, wanted): (&Punted, &Punted)| {
        let whole = oracle.cut.get(&wanted.frame).unwrap_or(&wanted.frame);
        let says_the_same =
            Punted { frame: Vec::new(), ..core.clone() } == Punted { frame: Vec::new(), ..wanted.clone() };
        says_the_same && is_same_frame(&core.frame, &wanted.frame, whole)
    };
    core.len() == oracle.punted.len() && core.iter().zip(&oracle.punted).all(is_same)
}

/// True when `core` holds the frames of `oracle`, in any order; `cut` says what frames that were cut had been.
fn same_frames(
    core: &[(PortId, Vec<u8>)],
    oracle: &[(PortId, Vec<u8>)],
    cut: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> bool {
    let mut rest: Vec<&(PortId, Vec<u8>)> = core.iter().collect();
    let found = oracle.iter().all(|(id, wanted)| {
        let whole = cut.get(wanted).unwrap_or(wanted);
        let at = rest.iter().position(|(other, frame)| other == id && is_same_frame(frame, wanted, whole));
        at.map(|at| rest.swap_remove(at)).is_some()
    });
    found && rest.is_empty()
}

/// True when the frames are equal but for entropy that the oracle left blank, which must be in range. `whole` is the
/// oracle's frame before anything was cut off, which tells where the entropy stands.
fn is_same_frame(core: &[u8], oracle: &[u8], whole: &[u8]) -> bool {
    let mut core = core.to_vec();
    for (at, kind) in tunnel_offsets(whole) {
        let end = (at + 2).min(oracle.len().min(core.len()));
        if kind.over_udp() && at < end && oracle[at..end].iter().all(|byte| *byte == BLANK_ENTROPY as u8) {
            if core[at] < 0xc0 {
                return false;
            }
            core[at..end].copy_from_slice(&oracle[at..end]);
        }
        if let (EncapKind::Nvgre, Some(0), Some(flow)) = (kind, oracle.get(at + 7), core.get_mut(at + 7)) {
            *flow = 0;
        }
    }
    core == oracle
}

fn tally(count: Count) -> Tally {
    Tally { packets: count.packets, bytes: count.bytes }
}

fn core_counters(core: &mut Spread, id: PortId) -> Counters {
    let Some(read) = core.counters(id) else { return Counters::default() };
    let mut counters = Counters {
        outbound: tally(read.outbound),
        inbound: tally(read.inbound),
        drops: read.drops.iter().collect(),
        ..Counters::default()
    };
    use lamina_core::flow::Direction::{Inbound, Outbound};
    for layer in read.layers {
        counters.defaults.insert((layer.name.clone(), Inbound), tally(layer.default_inbound));
        counters.defaults.insert((layer.name.clone(), Outbound), tally(layer.default_outbound));
        for group in layer.groups {
            let (layer, direction) = (layer.name.clone(), group.direction);
            let key = (layer.clone(), direction, group.name.clone());
            counters.retired.insert(key, tally(group.retired));
            for (rule, count) in group.rules {
                let (layer, group) = (layer.clone(), group.name.clone());
                counters.rules.insert(RuleName { layer, direction, group, rule }, tally(count));
            }
        }
    }
    for meter in read.meters {
        let cells = meter.cells.into_iter().map(|(key, count)| (key, tally(count))).collect();
        counters.meters.insert(meter.name, MeterTally { cells, other: tally(meter.other) });
    }
    without_zeroes(counters)
}

fn without_zeroes(mut counters: Counters) -> Counters {
    let counted = |tally: &Tally| *tally != Tally::default();
    counters.rules.retain(|_, tally| counted(tally));
    counters.retired.retain(|_, tally| counted(tally));
    counters.defaults.retain(|_, tally| counted(tally));
    counters.meters.retain(|_, meter| {
        meter.cells.retain(|_, tally| counted(tally));
        counted(&meter.other) || !meter.cells.is_empty()
    });
    counters
}

fn core_layer_flows(core: &Spread, id: PortId, now: Instant) -> Vec<LayerFlow> {
    let key = |direction, tuple: lamina_core::switch::Tuple| LayerKey {
        direction,
        tuple: Tuple {
            src: tuple.src,
            dst: tuple.dst,
            protocol: tuple.protocol,
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
            tenant: tuple.tenant,
        },
    };
    let mut flows: Vec<LayerFlow> = core
        .layer_flows(id, now)
        .into_iter()
        .map(|info| LayerFlow {
            forward: key(info.direction, info.forward),
            reverse: key(info.direction.opposite(), info.reverse),
            rule: RuleName {
                layer: info.layer.clone(),
                direction: info.direction,
                group: info.group,
                rule: info.rule,
            },
            layer: info.layer,
        })
        .collect();
    flows.sort();
    flows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{eth, mac};

    /// A frame in a VXLAN tunnel, whose source port is `entropy`.
    fn tunnelled(entropy: u16) -> Vec<u8> {
        let inner = eth(mac(1), mac(2)).ipv4("10.0.0.1", "10.0.0.2").udp(1000, 80).frame();
        let outer = eth(mac(3), mac(4)).ipv4("192.168.1.1", "192.168.1.2");
        let mut frame = outer.udp(0, 4789).payload(&[&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat()).frame();
        frame[34..36].copy_from_slice(&entropy.to_be_bytes());
        frame
    }

    #[test]
    fn entropy_is_found_where_a_copy_is_cut_within_its_ports() {
        let (whole, core, wrong) = (tunnelled(BLANK_ENTROPY), tunnelled(0xc1d2), tunnelled(0x0102));
        assert_eq!(tunnel_offsets(&whole).len(), 1);
        for length in 35..whole.len() {
            let cut = &whole[..length];
            assert!(is_same_frame(&core[..length], cut, &whole), "{length}");
            assert!(!is_same_frame(&wrong[..length], cut, &whole), "{length}: out of range");
        }
        // Only the entropy may differ.
        let mut other = core.clone();
        other[36] ^= 1;
        assert!(!is_same_frame(&other[..38], &whole[..38], &whole));
        assert!(
            !is_same_frame(&core[..38], &whole[..38], &whole[..38]),
            "a frame that is no tunnel's has none"
        );
    }
}
