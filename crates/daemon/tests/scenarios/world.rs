//! The world of a scenario: one real switch on fake time, its ports from the document, one uplink, and the
//! usual neighbours beyond it.
//!
//! Every packet is traced before it is received; the trace must foretell what the switch then does, to the byte
//! ("simulation is exact"). Every frame that leaves is taken apart by the test codec, which recomputes all lengths
//! and checksums.

use std::collections::BTreeMap;

use lamina_core::drop_reason::DropReason;
use lamina_core::event::{Audience, Event, Interests};
use lamina_core::flow::Direction;
use lamina_core::packet::{MAX_FRAME, Packet, PartialChecksum, Segmentation, SegmentationKind, TunnelPorts};
use lamina_core::resource::{Mapping, MappingChange, MappingKey};
use lamina_core::simulate::{CacheState, Trace, TraceDecision, TraceOutcome};
use lamina_core::stats::PortCounters;
use lamina_core::switch::{Output, PortId, Route, Switch, SwitchConfig, Through, Underlay, UplinkConfig};
use lamina_core::time::{Duration, Instant};
use lamina_daemon::convert::{self, HostPolicy, PortIds};
use lamina_testkit::wire::{self, Checksum, Frame, Header};
use serde_json::Value;

use crate::packet_text::{self, Macs, TextHeader};
use crate::scenario::{Answer, Inject, Offload, Send, Subscribe, Verdict, Way};

/// The uplink's largest packet: room for a guest's 1,500 bytes in any tunnel.
const UPLINK_MTU: u32 = 1600;

/// MACs that every scenario may name: the guests' gateway, the uplink, two other hosts and the router.
const NEIGHBOURS: [(&str, &str); 5] = [
    ("gw", "02:00:00:00:00:fe"),
    ("uplink", "02:00:00:00:ff:01"),
    ("host2", "02:00:00:00:ff:02"),
    ("host3", "02:00:00:00:ff:03"),
    ("router", "02:00:00:00:ff:fe"),
];

/// A switch and what surrounds it.
pub struct World {
    switch: Switch,
    now: Instant,
    /// Names of MACs.
    pub macs: Macs,
    ports: BTreeMap<String, PortId>,
    ids: PortIds,
    /// Events that were not looked at yet, as text.
    events: Vec<String>,
}

/// What went on after it had waited.
pub struct Later {
    /// What left, and where, in order.
    pub left: Vec<(String, Left)>,
    /// Why others were dropped.
    pub dropped: Vec<DropReason>,
}

/// What became of a packet.
pub struct Outcome {
    /// Forwarded, dropped or answered.
    pub verdict: Verdict,
    /// What left, and where.
    pub left: Vec<(String, Left)>,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
    /// The answers of the layers it met, in order.
    pub rules: Vec<String>,
    /// What the caches would have said.
    pub cache: &'static str,
}

/// A frame that left the switch.
pub struct Left {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its headers as text.
    pub headers: Vec<TextHeader>,
    /// Work left undone.
    pub offload: Offload,
}

impl World {
    /// The world in which `document` is published, except to `unpublished` ports.
    pub fn new(
        document: &Value,
        named: &BTreeMap<String, String>,
        unpublished: &[String],
    ) -> Result<World, String> {
        let mut macs = Macs::new();
        for (name, mac) in
            NEIGHBOURS.iter().map(|(n, m)| (*n, *m)).chain(named.iter().map(|(n, m)| (&**n, &**m)))
        {
            macs.insert(name.into(), mac.parse().map_err(|_| format!("{mac} is no MAC"))?);
        }
        let mut ids = PortIds::default();
        let uplink = ids.assign(&convert::UPLINK.into());
        let mut switch = Switch::new(SwitchConfig { seed: 7 });
        let config = UplinkConfig {
            name: convert::UPLINK.into(),
            mac: macs[convert::UPLINK],
            addresses: vec![address("192.168.1.1"), address("fc00::1")],
            mtu: UPLINK_MTU,
        };
        switch.add_uplink(uplink, config).map_err(|error| format!("{error:?}"))?;
        switch.set_underlay(underlay(uplink, &macs));
        let ports = BTreeMap::from([(convert::UPLINK.to_string(), uplink)]);
        let mut world = World { switch, now: Instant(1 << 40), macs, ports, ids, events: Vec::new() };
        let host = world.convert(document)?;
        for port in &host.ports {
            let name = port.config.name.to_string();
            world
                .switch
                .add_port(port.id, port.config.clone())
                .map_err(|error| format!("{name}: {error:?}"))?;
            world.macs.insert(name.clone(), port.config.mac);
            world.ports.insert(name, port.id);
        }
        world.publish_to(host, unpublished)?;
        Ok(world)
    }

    /// Has VXLAN known by `further` UDP ports, too.
    pub fn know_vxlan_by(&mut self, further: &[u16]) -> Result<(), String> {
        let ports = TunnelPorts::with_vxlan(further).ok_or("these are no further ports of VXLAN")?;
        self.switch.set_tunnel_ports(ports);
        Ok(())
    }

    /// Publishes `document` to every port that it names.
    pub fn publish(&mut self, document: &Value) -> Result<(), String> {
        let host = self.convert(document)?;
        self.publish_to(host, &[])
    }

    fn convert(&mut self, document: &Value) -> Result<HostPolicy, String> {
        let text = document.to_string();
        let document = lamina_api::parse("scenario", &text).map_err(|report| report.render(false))?;
        let converted = convert::merge(&[document], &mut self.ids).map_err(|report| report.render(false))?;
        Ok(converted.policy)
    }

    fn publish_to(&mut self, host: HostPolicy, except: &[String]) -> Result<(), String> {
        for port in
            host.ports.into_iter().filter(|port| !except.iter().any(|name| **name == *port.config.name))
        {
            let name = port.config.name;
            self.switch.publish(port.id, port.policy).map_err(|error| format!("{name}: {error:?}"))?;
        }
        self.switch.set_multicast(host.multicast);
        Ok(())
    }

    /// Lets `length` pass, with a sweep each second.
    pub fn wait(&mut self, length: Duration) -> Result<Later, String> {
        let mut later = Later { left: Vec::new(), dropped: Vec::new() };
        let end = self.now + length;
        while self.now < end {
            self.now = (self.now + Duration::from_seconds(1)).min(end);
            self.switch.sweep(self.now);
            let Later { left, dropped } = self.resume()?;
            later.left.extend(left);
            later.dropped.extend(dropped);
        }
        Ok(later)
    }

    /// Says what somebody listens to.
    pub fn subscribe(&mut self, subscribe: &Subscribe) {
        let names = |names: &[String]| Audience::Of(names.iter().map(|name| name.as_str().into()).collect());
        let (misses, punts) = (names(&subscribe.misses), names(&subscribe.punts));
        let interests = Interests { misses, punts, limits: subscribe.limits, rates: subscribe.rates };
        self.switch.set_interests(interests);
    }

    /// Changes entries of a live mapping table.
    pub fn answer(&mut self, answer: &Answer) -> Result<Later, String> {
        let key = |text: &str| -> Result<MappingKey, String> {
            let address = text.parse().map_err(|_| format!("{text} is no address"))?;
            Ok(MappingKey { tenant: 0, address })
        };
        let mut changes = Vec::new();
        for entry in &answer.put {
            let mac = match self.macs.get(&entry.mac) {
                Some(mac) => *mac,
                None => entry.mac.parse().map_err(|_| format!("{} is no MAC", entry.mac))?,
            };
            let remote = entry.remote.as_deref().map(address);
            changes.push(MappingChange::Put(key(&entry.address)?, Mapping { remote, mac, tenant: None }));
        }
        for address in &answer.remove {
            changes.push(MappingChange::Remove(key(address)?));
        }
        self.switch.update_mapping(&answer.mapping, &changes).map_err(|error| error.to_string())?;
        self.resume()
    }

    /// Lets a controller send a packet.
    pub fn inject(&mut self, inject: &Inject) -> Result<Later, String> {
        let id = *self.ports.get(&inject.port).ok_or_else(|| format!("there is no port {}", inject.port))?;
        let headers = packet_text::parse(&inject.packet, &self.macs)?;
        let bytes = packet_text::build(&headers, &self.macs, &inject.port)?.encode();
        let direction = match inject.direction {
            Way::Outbound => Direction::Outbound,
            Way::Inbound => Direction::Inbound,
        };
        let through = match (inject.skip_layers, &inject.behind) {
            (true, _) => Through::NoLayer,
            (false, Some(layer)) => Through::LayersBehind(layer.as_str().into()),
            (false, None) => Through::AllLayers,
        };
        self.switch.inject(id, direction, through, &bytes).map_err(|error| error.to_string())?;
        self.resume()
    }

    /// The events since the last call, as text.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Lets packets go on that waited.
    fn resume(&mut self) -> Result<Later, String> {
        let before = self.drops();
        let mut output = Output::default();
        while self.switch.resume(self.now, &mut output) {}
        let left = self.take_output(&mut output)?;
        let dropped = self.new_drops(&before);
        if left.len() + output.free.len() != output.made {
            return Err("a buffer is lost or came from nowhere".into());
        }
        Ok(Later { left, dropped })
    }

    /// What left, and where; events are kept.
    fn take_output(&mut self, output: &mut Output) -> Result<Vec<(String, Left)>, String> {
        let name = |id: &PortId| {
            let found = self.ports.iter().find(|(_, known)| *known == id);
            found.map_or("?".to_string(), |(name, _)| name.clone())
        };
        let events: Vec<String> = output.events.drain().map(|event| event_text(&event, &name)).collect();
        let left = output
            .transmit
            .iter()
            .map(|(to, packet)| Ok((name(to), read_frame(packet)?)))
            .collect::<Result<_, String>>();
        self.events.extend(events);
        left
    }

    /// Every drop that was counted since `before`.
    fn new_drops(&mut self, before: &BTreeMap<(PortId, DropReason), u64>) -> Vec<DropReason> {
        let mut dropped = Vec::new();
        for ((id, reason), count) in self.drops() {
            let new = count - before.get(&(id, reason)).copied().unwrap_or(0);
            dropped.extend((0..new).map(|_| reason));
        }
        dropped
    }

    /// What a port has counted.
    pub fn counters(&mut self, port: &str) -> Result<PortCounters, String> {
        let id = *self.ports.get(port).ok_or_else(|| format!("there is no port {port}"))?;
        self.switch.counters(id).ok_or_else(|| format!("{port} is no port"))
    }

    /// The packet of `send` as a frame.
    pub fn frame(&self, send: &Send) -> Result<(Vec<u8>, Packet), String> {
        let headers = packet_text::parse(&send.packet, &self.macs)?;
        let frame = packet_text::build(&headers, &self.macs, &send.from)?;
        let bytes = frame.encode();
        let mut packet = Packet::from_frame(&bytes);
        leave_undone(&frame, send.offload, &mut packet)?;
        Ok((bytes, packet))
    }

    /// What the switch says would become of a packet.
    pub fn simulate(&self, from: &str, packet: &Packet) -> Result<Outcome, String> {
        let id = *self.ports.get(from).ok_or_else(|| format!("there is no port {from}"))?;
        let trace = self
            .switch
            .trace_packet(self.now, id, packet)
            .ok_or_else(|| format!("{from} cannot be traced"))?;
        let mut outcome = Outcome {
            verdict: Verdict::Forward,
            left: Vec::new(),
            reason: None,
            rules: Vec::new(),
            // An uplink has no cache: the port behind it is meant.
            cache: cache_word(trace.next.first().filter(|_| from == convert::UPLINK).unwrap_or(&trace).cache),
        };
        read_trace(&trace, &mut outcome)?;
        // Copies leave in no particular order.
        outcome.left.sort_by(|a, b| a.0.cmp(&b.0));
        if outcome.left.is_empty()
            && !matches!(outcome.verdict, Verdict::Consumed | Verdict::Wait | Verdict::Punt | Verdict::Host)
        {
            outcome.verdict = Verdict::Drop;
        }
        Ok(outcome)
    }

    /// Lets the switch receive `packet`, and says what became of it.
    pub fn receive(&mut self, from: &str, packet: Packet) -> Result<Outcome, String> {
        let id = *self.ports.get(from).ok_or_else(|| format!("there is no port {from}"))?;
        let foretold = self.simulate(from, &packet)?;
        let before = self.drops();
        let spare = (0..16).map(|_| Packet::with_capacity(MAX_FRAME)).collect();
        let (mut batch, mut output) = (vec![packet], Output { spare, ..Output::default() });
        self.switch.receive(self.now, id, &mut batch, &mut output);
        let dropped = self.new_drops(&before);
        let mut left = self.take_output(&mut output)?;
        left.sort_by(|a, b| a.0.cmp(&b.0));
        let verdict = match (left.is_empty(), foretold.verdict) {
            (true, Verdict::Consumed) if dropped.is_empty() => Verdict::Consumed,
            (true, verdict @ (Verdict::Wait | Verdict::Punt | Verdict::Host)) if dropped.is_empty() => {
                verdict
            }
            (true, _) => Verdict::Drop,
            (false, Verdict::Drop) => Verdict::Forward,
            (false, verdict) => verdict,
        };
        let outcome = Outcome {
            verdict,
            left,
            reason: dropped.first().copied(),
            rules: foretold.rules.clone(),
            cache: foretold.cache,
        };
        if verdict == Verdict::Drop && dropped.len() != 1 {
            return Err(format!("a dropped packet counts one reason, not {dropped:?}"));
        }
        same(&foretold, &outcome)?;
        Ok(outcome)
    }

    /// All drop counters of ports and uplinks.
    fn drops(&mut self) -> BTreeMap<(PortId, DropReason), u64> {
        let mut drops = BTreeMap::new();
        for id in self.ports.values() {
            let counters = self.switch.counters(*id).map(|counters| counters.drops);
            let counters =
                counters.or_else(|| self.switch.uplink_counters(*id).map(|counters| counters.drops.clone()));
            for (reason, count) in counters.iter().flat_map(|drops| drops.iter()) {
                drops.insert((*id, reason), count);
            }
        }
        drops
    }
}

/// The trace foretold what then happened.
fn same(foretold: &Outcome, outcome: &Outcome) -> Result<(), String> {
    if foretold.verdict != outcome.verdict || foretold.reason != outcome.reason {
        return Err(format!(
            "the simulation says {:?} {:?}, the switch does {:?} {:?}",
            foretold.verdict, foretold.reason, outcome.verdict, outcome.reason
        ));
    }
    let is_same = foretold.left.len() == outcome.left.len()
        && foretold.left.iter().zip(&outcome.left).all(|(a, b)| a.0 == b.0 && a.1.headers == b.1.headers);
    if is_same {
        return Ok(());
    }
    let show = |outcome: &Outcome| {
        outcome.left.iter().map(|(to, left)| format!("{to}: {:?}", left.headers)).collect::<Vec<_>>()
    };
    Err(format!("the simulation foretells {:?}, the switch sends {:?}", show(foretold), show(outcome)))
}

fn read_trace(trace: &Trace, outcome: &mut Outcome) -> Result<(), String> {
    for node in &trace.layers {
        outcome.rules.push(match &node.decision {
            TraceDecision::Rule { group, rule, .. } | TraceDecision::Flow { group, rule, .. } => {
                format!("{}/{group}/{rule}", node.layer)
            }
            TraceDecision::Default(_) => format!("{}/default", node.layer),
            TraceDecision::Fragment => format!("{}/fragment", node.layer),
        });
    }
    for copy in &trace.copies {
        match &copy.result {
            Ok((to, frame)) => outcome.left.push((to.to_string(), foretold_frame(frame)?)),
            Err(reason) => outcome.reason = Some(*reason),
        }
    }
    match &trace.outcome {
        TraceOutcome::Wait { .. } => outcome.verdict = Verdict::Wait,
        TraceOutcome::Punt { .. } => outcome.verdict = Verdict::Punt,
        TraceOutcome::Drop(reason) => outcome.reason = Some(*reason),
        TraceOutcome::Reply(_) => outcome.verdict = Verdict::Reply,
        TraceOutcome::Consumed => outcome.verdict = Verdict::Consumed,
        TraceOutcome::Host => outcome.verdict = Verdict::Host,
        TraceOutcome::Deliver => outcome.left.push((trace.port.to_string(), foretold_frame(&trace.frame)?)),
        TraceOutcome::Uplink(name) => outcome.left.push((name.to_string(), foretold_frame(&trace.frame)?)),
        TraceOutcome::Ports(_) | TraceOutcome::Turn(_) => {}
    }
    trace.next.iter().try_for_each(|next| read_trace(next, outcome))
}

/// An event as scenarios write it.
fn event_text(event: &Event, name: &impl Fn(&PortId) -> String) -> String {
    match event {
        Event::MappingMiss(miss) => {
            let port = name(&miss.port);
            let (mapping, address, direction) = (&miss.mapping, miss.key.address, miss.direction.name());
            let waits = if miss.waits { ", waits" } else { "" };
            format!("mapping-miss {port} {direction} {mapping} {address}{waits}")
        }
        Event::Limit(reached) => format!("limit {} {} {}", name(&reached.port), reached.table, reached.limit),
        Event::Punt(punted) => {
            let (port, direction) = (name(&punted.port), punted.direction.name());
            let place = format!("{}/{}/{}", punted.layer, punted.group, punted.rule);
            let whole = wire::decode(&punted.frame).ok().filter(|_| punted.frame.len() == punted.length);
            let headers = whole.map_or_else(
                || format!("{} of {} bytes", punted.frame.len(), punted.length),
                |frame| format!("{}, {} bytes", addresses_text(&frame), punted.length),
            );
            format!("punt {port} {direction} {place} {} {headers}", punted.queue)
        }
        Event::Rate(reached) => {
            let (port, direction) = (name(&reached.port), reached.direction.name());
            let (group, rule) = reached.rule.clone().unwrap_or_else(|| ("".into(), "".into()));
            let by = reached.limit.as_deref().unwrap_or("its own");
            let key = match &reached.key {
                Some(key) => {
                    key.iter().map(|value| format!(" {:x}", value.map_or(0, |value| value.bits))).collect()
                }
                None => " other".to_string(),
            };
            let rate = reached.rate.per_second;
            format!("rate {port} {direction} {}/{group}/{rule} {by}{key} {rate}", reached.layer)
        }
        other => format!("{other:?}"),
    }
}

/// The IP addresses of a frame, outermost first.
fn addresses_text(frame: &Frame) -> String {
    let pairs = frame.headers.iter().filter_map(|header| header.addresses());
    pairs.map(|(src, dst)| format!("{src} > {dst}")).collect::<Vec<_>>().join(" / ")
}

fn cache_word(state: CacheState) -> &'static str {
    match state {
        CacheState::Miss => "miss",
        CacheState::Hit => "hit",
        CacheState::Stale => "stale",
        CacheState::Blocked => "blocked",
    }
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().expect("addresses of this file are addresses")
}

/// Two links and a default route; everybody on them has answered.
fn underlay(uplink: PortId, macs: &Macs) -> Underlay {
    let route = |destination: &str, gateway: Option<&str>, source: &str| Route {
        destination: destination.parse().expect("prefixes of this file are prefixes"),
        gateway: gateway.map(address),
        uplink,
        source: Some(address(source)),
        mtu: None,
        metric: 0,
    };
    let neighbor = |text: &str, name: &str| (address(text), macs[name]);
    Underlay {
        routes: vec![
            route("192.168.1.0/24", None, "192.168.1.1"),
            route("0.0.0.0/0", Some("192.168.1.254"), "192.168.1.1"),
            route("fc00::/64", None, "fc00::1"),
        ],
        neighbors: vec![
            neighbor("192.168.1.2", "host2"),
            neighbor("192.168.1.3", "host3"),
            neighbor("192.168.1.254", "router"),
            neighbor("fc00::2", "host2"),
        ],
    }
}

/// Leaves the innermost transport checksum of `packet` undone, as `offload` says.
fn leave_undone(frame: &Frame, offload: Offload, packet: &mut Packet) -> Result<(), String> {
    if offload == Offload::default() {
        return Ok(());
    }
    let (protocol, header_length, offset) = match frame.headers.last() {
        Some(Header::Tcp(tcp)) => (6u8, 20 + tcp.options.len(), 16u16),
        Some(Header::Udp(_)) => (17, 8, 6),
        _ => return Err("only TCP and UDP have work to leave undone".into()),
    };
    let addresses = frame.headers.iter().rev().find_map(Header::addresses).ok_or("there is no IP header")?;
    let length = header_length + frame.payload.len();
    let start = packet.len() - length;
    let mut pseudo = Vec::new();
    let is_v4 = match addresses {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            pseudo.extend(src.octets().into_iter().chain(dst.octets()));
            true
        }
        (src, dst) => {
            for address in [src, dst] {
                if let std::net::IpAddr::V6(v6) = address {
                    pseudo.extend(v6.octets());
                }
            }
            false
        }
    };
    pseudo.extend((length as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    let sum = !wire::internet_checksum(&pseudo);
    let at = start + usize::from(offset);
    packet.frame_mut()[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    packet.offload.checksum = Some(PartialChecksum { start: start as u16, offset });
    if let Some(size) = offload.segment {
        let kind = match (protocol, is_v4) {
            (6, true) => SegmentationKind::TcpV4,
            (6, false) => SegmentationKind::TcpV6,
            _ => SegmentationKind::UdpL4,
        };
        packet.offload.segmentation = Some(Segmentation { kind, size, ecn: false });
    }
    Ok(())
}

/// Takes a packet apart, after finishing a copy of it; every checksum must then be right.
fn read_frame(packet: &Packet) -> Result<Left, String> {
    let mut bytes = packet.frame().to_vec();
    if let Some(partial) = packet.offload.checksum {
        let start = usize::from(partial.start);
        let at = start + usize::from(partial.offset);
        if at + 2 > bytes.len() {
            return Err(format!("the partial checksum lies outside the frame: {partial:?}"));
        }
        let sum = match wire::internet_checksum(&bytes[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let frame = decode(&bytes)?;
    for header in &frame.headers {
        let checksum = match header {
            Header::Tcp(tcp) => tcp.checksum,
            Header::Udp(udp) => udp.checksum,
            Header::Icmp(icmp) => icmp.checksum,
            Header::Tunnel(tunnel) => tunnel.udp.as_ref().map_or(Checksum::Right, |udp| udp.checksum),
            _ => Checksum::Right,
        };
        if matches!(checksum, Checksum::Off(_)) {
            return Err(format!("a checksum is wrong ({checksum:?}) in {header:?}"));
        }
    }
    let offload = Offload {
        segment: packet.offload.segmentation.map(|segmentation| segmentation.size),
        checksum: packet.offload.checksum.map(|_| crate::scenario::Partial::Partial),
    };
    Ok(Left { headers: packet_text::describe(&frame), bytes: packet.frame().to_vec(), offload })
}

/// A frame that a trace foretells; its checksums may be those of work left undone.
fn foretold_frame(bytes: &[u8]) -> Result<Left, String> {
    Ok(Left {
        headers: packet_text::describe(&decode(bytes)?),
        bytes: bytes.to_vec(),
        offload: Offload::default(),
    })
}

fn decode(bytes: &[u8]) -> Result<Frame, String> {
    let frame = wire::decode(bytes).map_err(|reason| format!("what left is malformed: {}", reason.name()))?;
    if frame.encode() != bytes {
        return Err(format!("what left has a wrong length or checksum: {frame:?}"));
    }
    Ok(frame)
}
