//! Questions to the workers: counters, drops, flows, limits, status, audit.
//!
//! A question that may be long is asked slice by slice, so that a worker goes on forwarding between two of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures_util::stream;
use ipnet::IpNet;
use lamina_api::wire::v1;
use lamina_core::flow::{Direction, HeaderGroup, HeaderStack, L3, L4};
use lamina_core::inspect::{DropRow, FlowCursor, FlowEgress, FlowFilter, FlowInfo, PacketFilter};
use lamina_core::layer::Name;
use lamina_core::stats::{Count, PortCounters, rule_path};
use lamina_core::switch::PortId;
use tonic::Status;

use super::{Answers, Service};
use crate::control::key::{direction, written};
use crate::control::{Caller, Shared, mistake, value_text, wall_clock};
use crate::convert::UPLINK;
use crate::host::{HostError, WorkerReport};

/// Entries that a worker looks at for one slice of a list.
const SLICE: u32 = 1024;
/// Flows that are listed where the caller names no limit.
const FLOWS: u64 = 1000;

/// All answers at once: they are few.
fn answers<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    Box::pin(stream::iter(items.into_iter().map(Ok)))
}

/// Runs `ask`, which waits for workers, without holding up other calls.
pub(super) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
        Err(error) => Err(Status::internal(format!("the question failed: {error}"))),
    }
}

impl Service {
    /// The ports that a question is about: the one called `name`, or all.
    fn ports(&self, name: &str) -> Result<Vec<(Name, PortId)>, Status> {
        let state = self.shared.state();
        if name.is_empty() {
            return Ok(state.ports.iter().map(|(name, port)| (name.clone(), port.id)).collect());
        }
        match state.ports.get_key_value(name) {
            Some((name, port)) => Ok(vec![(name.clone(), port.id)]),
            None => {
                let known: Vec<&str> = state.ports.keys().map(|name| &**name).collect();
                let help = lamina_api::suggest::did_you_mean(name, known, "ports are");
                let message = format!("there is no port `{name}`");
                Err(self.refused(&mistake("missing-object", message, help).into()))
            }
        }
    }

    /// The port or uplink called `name`. An uplink goes by the name that policy has for it, and by its interface's.
    pub(super) async fn place_called(&self, name: &str) -> Result<PortId, Status> {
        let state = self.shared.state();
        if let Some(port) = state.ports.get(name) {
            return Ok(port.id);
        }
        let (host, wanted) = (self.shared.clone(), name.to_string());
        let uplink = blocking(move || {
            let ports: Vec<PortId> = state.ports.values().map(|port| port.id).collect();
            let mut uplinks =
                host.host.ports().into_iter().map(|(id, _)| id).filter(|id| !ports.contains(id));
            Ok(uplinks.find(|id| {
                let interface = host.host.uplink_config(*id).map(|config| config.name);
                *uplink_name(*id) == *wanted || interface.is_ok_and(|interface| *interface == *wanted)
            }))
        })
        .await?;
        uplink.map_or_else(|| self.one_port(name), Ok)
    }

    /// The port called `name`, which must be given.
    pub(super) fn one_port(&self, name: &str) -> Result<PortId, Status> {
        if name.is_empty() {
            return Err(self.refused(&mistake("missing-field", "no port is named", "set `port`").into()));
        }
        let found = self.ports(name)?;
        found
            .first()
            .map(|(_, id)| *id)
            .ok_or_else(|| Status::not_found(format!("there is no port `{name}`")))
    }

    pub(super) async fn read_counters(
        &self,
        request: v1::CountersRequest,
    ) -> Result<Answers<v1::Counter>, Status> {
        let ports = self.ports(&request.port)?;
        let shared = self.shared.clone();
        let with_uplinks = request.port.is_empty() && request.layer.is_empty();
        let rows = blocking(move || {
            let mut rows = Vec::new();
            for (name, id) in ports {
                let Ok(counters) = shared.host.counters(id) else { continue };
                counter_rows(&name, &counters, &request.layer, &mut rows);
            }
            if with_uplinks {
                rows.extend(uplink_rows(&shared));
            }
            rows.retain(|row: &v1::Counter| !request.nonzero || row.packets > 0);
            Ok(rows)
        });
        Ok(answers(rows.await?))
    }

    pub(super) async fn read_drops(
        &self,
        request: v1::DropsRequest,
    ) -> Result<Answers<v1::DropCount>, Status> {
        let mut places: Vec<(Name, Option<PortId>)> = match &*request.port {
            "" => self.ports("")?.into_iter().map(|(name, id)| (name, Some(id))).collect(),
            place => vec![(place.into(), Some(self.place_called(place).await?))],
        };
        if request.port.is_empty() {
            let ports: Vec<PortId> = places.iter().filter_map(|(_, id)| *id).collect();
            let others = self.shared.host.ports().into_iter().map(|(id, _)| id);
            let uplinks = others.filter(|id| !ports.contains(id)).map(|id| (uplink_name(id), Some(id)));
            places.extend(uplinks.collect::<Vec<_>>());
        }
        let shared = self.shared.clone();
        let rows = blocking(move || {
            let mut rows = Vec::new();
            for (name, id) in places {
                let Some(id) = id else { continue };
                let recent = request.recent;
                let (drops, last) = shared.host.call_owner(id, move |switch, _| {
                    let last = if recent { switch.recent_drops(Some(id)) } else { None };
                    (switch.drop_rows(Some(id)).unwrap_or_default(), last.unwrap_or_default())
                })?;
                rows.extend(drops.iter().map(|row| drop_row(&name, row)));
                let (clock, now) = (wall_clock(), shared.host.now());
                rows.extend(last.iter().map(|last| v1::DropCount {
                    port: name.to_string(),
                    reason: last.reason.name().into(),
                    number: last.reason as u32,
                    layer: text(&last.layer),
                    direction: written(last.direction) as i32,
                    group: text(&last.group),
                    rule: text(&last.rule),
                    packets: 1,
                    bytes: u64::from(last.length),
                    packet:
                        last.headers.map_or_else(|| "unreadable".into(), |headers| headers_text(&headers)),
                    time: clock.saturating_sub((now - last.time).0),
                }));
            }
            Ok(rows)
        });
        Ok(answers(rows.await?))
    }

    pub(super) fn read_flows(&self, request: v1::FlowsRequest) -> Result<Answers<v1::Flow>, Status> {
        let wanted = request.filter.unwrap_or_default();
        let sample = u32::try_from(request.sample).unwrap_or(u32::MAX);
        let filter = self.flow_filter(&wanted, sample)?;
        let ports = self.ports(&wanted.port)?;
        let left = if request.limit == 0 { FLOWS } else { request.limit };
        let walk = FlowsWalk {
            shared: self.shared.clone(),
            ports,
            filter,
            cursor: FlowCursor::default(),
            found: Vec::new(),
            left,
        };
        Ok(Box::pin(stream::unfold(Some(walk), |walk| async move {
            let mut walk = walk?;
            match walk.next().await {
                Ok(Some(flow)) => Some((Ok(flow), Some(walk))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })))
    }

    pub(super) async fn end_flows(
        &self,
        request: v1::ClearFlowsRequest,
    ) -> Result<v1::ClearFlowsReply, Status> {
        let wanted = request.filter.unwrap_or_default();
        if wanted == v1::FlowFilter::default() && !request.all {
            let help = "name some with a filter, or set `all`";
            let message = "the filter is empty: every flow of every port would end";
            return Err(self.refused(&mistake("wrong-form", message, help).into()));
        }
        let filter = self.flow_filter(&wanted, 0)?;
        let ports = self.ports(&wanted.port)?;
        let shared = self.shared.clone();
        let flows = blocking(move || {
            let mut ended = 0;
            for (_, id) in ports {
                let mut cursor = Some(FlowCursor::default());
                while let Some(from) = cursor {
                    let (filter, now) = (filter.clone(), shared.host.now());
                    let page = shared
                        .host
                        .call_owner(id, move |switch, _| switch.clear_flows(id, &filter, from, SLICE, now))?;
                    ended += page.as_ref().map_or(0, |page| page.flows);
                    cursor = page.and_then(|page| page.next);
                }
            }
            Ok(ended)
        });
        Ok(v1::ClearFlowsReply { flows: flows.await? })
    }

    /// The filter as the switch knows it.
    pub(super) fn flow_filter(&self, wanted: &v1::FlowFilter, sample: u32) -> Result<FlowFilter, Status> {
        let bad = |what: &str, help: &str| {
            Err(self.refused(&mistake("bad-value", what.to_string(), help.to_string()).into()))
        };
        let address = match &*wanted.address {
            "" => match wanted.family {
                0 => None,
                4 => Some(IpNet::V4(Default::default())),
                6 => Some(IpNet::V6(Default::default())),
                other => return bad(&format!("there is no family {other}"), "write 4 or 6"),
            },
            text => match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(prefix) => Some(prefix),
                Err(_) => {
                    return bad(&format!("`{text}` is no address or prefix"), "write it like `10.0.0.0/8`");
                }
            },
        };
        let protocol = match &*wanted.protocol {
            "" => None,
            "icmp" => Some(1),
            "tcp" => Some(6),
            "udp" => Some(17),
            "icmpv6" => Some(58),
            "sctp" => Some(132),
            text => match text.parse() {
                Ok(number) => Some(number),
                Err(_) => {
                    return bad(
                        &format!("`{text}` is no protocol"),
                        "write `tcp`, `udp`, or a number to 255",
                    );
                }
            },
        };
        let port = match wanted.l4_port {
            0 => None,
            port => match u16::try_from(port) {
                Ok(port) => Some(port),
                Err(_) => return bad(&format!("{port} is no port"), "ports end at 65535"),
            },
        };
        let packet = PacketFilter {
            direction: direction(wanted.direction),
            address,
            l4_port: port.map(|port| (port, port)),
            protocol,
            tenant: wanted.tenant,
            ..PacketFilter::default()
        };
        // A rule is named alone, or with its place as answers print it.
        let parts: Vec<&str> = wanted.rule.split('/').collect();
        let (layer, group, rule) = match parts[..] {
            [layer, group, rule] => (layer, group, rule),
            _ => (&*wanted.layer, "", &*wanted.rule),
        };
        if !wanted.layer.is_empty() && layer != wanted.layer {
            return bad(
                &format!("the rule `{}` is not in the layer `{}`", wanted.rule, wanted.layer),
                "leave out the layer, or name the rule alone",
            );
        }
        let name = |text: &str| (!text.is_empty()).then(|| Name::from(text));
        Ok(FlowFilter {
            packet,
            pair: wanted.pair,
            layer: name(layer),
            group: name(group),
            rule: name(rule),
            min_packets: wanted.min_packets,
            stale: wanted.stale.then_some(true),
            sample,
        })
    }

    pub(super) async fn read_limits(&self) -> Result<v1::LimitsReply, Status> {
        let ports = self.ports("")?;
        let shared = self.shared.clone();
        let mut limits = blocking(move || {
            let mut limits = Vec::new();
            for (name, id) in ports {
                let uses = shared.host.call_owner(id, move |switch, _| switch.limits(Some(id)));
                for use_ in uses.ok().flatten().into_iter().flatten() {
                    limits.push(v1::Limit {
                        scope: name.to_string(),
                        name: use_.table,
                        used: use_.used,
                        limit: use_.limit.unwrap_or(u64::MAX),
                        times_full: use_.times_full,
                    });
                }
            }
            Ok(limits)
        })
        .await?;
        let (used, limit) = self.shared.changes.occupancy();
        limits.push(v1::Limit {
            scope: "host".into(),
            name: "changes kept for watches".into(),
            used: used as u64,
            limit: limit as u64,
            times_full: 0,
        });
        Ok(v1::LimitsReply { limits })
    }

    pub(super) async fn audit_layers(
        &self,
        request: v1::AuditRequest,
    ) -> Result<Answers<v1::AuditFinding>, Status> {
        let shared = self.shared.clone();
        let findings = blocking(move || {
            let state = shared.state();
            let generations = WorkerReport::all_generations(&shared.host.report()?);
            let mut findings = Vec::new();
            for (name, port) in &state.ports {
                let id = port.id;
                let generation = generations.get(&id).copied().unwrap_or_default();
                let counters = shared.host.counters(id).ok();
                let running = counters.as_ref().map(running_layers).unwrap_or_default();
                for (layer_name, layer) in &port.layers {
                    let asked = &layer.layer;
                    let groups = asked.inbound.iter().chain(asked.outbound.iter());
                    let rules: u64 = groups.clone().map(|group| group.rules.len() as u64).sum();
                    let mut finding = v1::AuditFinding {
                        port: name.to_string(),
                        layer: layer_name.to_string(),
                        owner: asked.owner.to_string(),
                        groups: groups.count() as u64,
                        rules,
                        generation,
                        ..v1::AuditFinding::default()
                    };
                    match running.get(&**layer_name) {
                        Some((groups, rules)) if (*groups, *rules) == (finding.groups, finding.rules) => {
                            finding.finding = "same".into();
                            finding.running_rules = *rules;
                        }
                        Some((groups, rules)) => {
                            finding.finding = "different".into();
                            finding.detail = format!("{groups} groups and {rules} rules run");
                            finding.running_rules = *rules;
                        }
                        None => {
                            finding.finding = "missing".into();
                            finding.detail = match &counters {
                                Some(_) => "the port's worker does not run it".into(),
                                None => "the port does not run: see the daemon's log".into(),
                            };
                        }
                    }
                    findings.push(finding);
                }
                let known = |layer: &str| {
                    port.layers.contains_key(layer) || port.generated.iter().any(|own| *own.name == *layer)
                };
                for (layer, (groups, rules)) in running.iter().filter(|(layer, _)| !known(layer)) {
                    findings.push(v1::AuditFinding {
                        port: name.to_string(),
                        layer: layer.to_string(),
                        finding: "unexpected".into(),
                        detail: format!("{groups} groups and {rules} rules run and nobody asked for them"),
                        running_rules: *rules,
                        generation,
                        ..v1::AuditFinding::default()
                    });
                }
            }
            findings.retain(|finding| request.controller.is_empty() || finding.owner == request.controller);
            Ok(findings)
        });
        Ok(answers(findings.await?))
    }

    pub(super) async fn read_status(&self, caller: Caller) -> Result<v1::StatusReply, Status> {
        let shared = self.shared.clone();
        let state = shared.state();
        let devices = shared.devices();
        let revision = *shared.changes.newest().borrow();
        let controllers = shared.rights().controllers_of(&caller);
        let mut reply = v1::StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            revision,
            controllers: controllers.iter().map(|name| name.to_string()).collect(),
            administrator: shared.rights().is_administrator(&caller),
            started: self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
            api_counters: self.counters.all(),
            ..v1::StatusReply::default()
        };
        reply.api_counters.insert("events-lost".into(), shared.events.lost());
        let places: BTreeMap<PortId, usize> = shared.host.ports().into_iter().collect();
        let asked = shared.clone();
        let reports = blocking(move || asked.host.report()).await?;
        let generations = WorkerReport::all_generations(&reports);
        for (number, report) in reports.iter().enumerate() {
            let ports = places.values().filter(|worker| **worker == number).count();
            reply.workers.push(v1::WorkerStatus {
                number: number as u32,
                ports: ports as u32,
                buffers_in_use: report.buffers_in_use as u64,
            });
        }
        for (name, port) in &state.ports {
            let (state, device) = match (port.is_broken, devices.get(name)) {
                (true, _) => ("ready", "its policy could not be restored: see the log".to_string()),
                (false, Some(Ok(device))) => ("running", device.clone()),
                (false, Some(Err(failure))) => ("disconnected", failure.clone()),
                (false, None) => ("disconnected", format!("there is no interface `{name}`")),
            };
            reply.ports.push(v1::PortStatus {
                name: name.to_string(),
                state: state.into(),
                device,
                worker: places.get(&port.id).map_or(0, |worker| *worker as u32),
                generation: generations.get(&port.id).copied().unwrap_or_default(),
            });
        }
        let known: Vec<PortId> = state.ports.values().map(|port| port.id).collect();
        let uplinks: Vec<PortId> = places.keys().copied().filter(|id| !known.contains(id)).collect();
        reply.uplinks = blocking(move || {
            let mut found = Vec::new();
            for id in uplinks {
                let (Ok(counters), Ok(config)) =
                    (shared.host.uplink_counters(id), shared.host.uplink_config(id))
                else {
                    continue;
                };
                found.push(v1::UplinkStatus {
                    name: config.name.to_string(),
                    mac: config.mac.to_string(),
                    addresses: config.addresses.iter().map(|address| address.to_string()).collect(),
                    mtu: config.mtu,
                    received_packets: counters.received.packets,
                    received_bytes: counters.received.bytes,
                    transmitted_packets: counters.transmitted.packets,
                    transmitted_bytes: counters.transmitted.bytes,
                });
            }
            Ok(found)
        })
        .await?;
        Ok(reply)
    }
}

/// What policy and people call the uplink with number `id`.
pub(super) fn uplink_name(id: PortId) -> Name {
    if id == PortId(0) { UPLINK.into() } else { format!("{UPLINK}-{}", id.0 & 0xffff).into() }
}

fn text(name: &Option<Name>) -> String {
    name.as_ref().map(|name| name.to_string()).unwrap_or_default()
}

fn uplink_rows(shared: &Shared) -> Vec<v1::Counter> {
    let state = shared.state();
    let ports: Vec<PortId> = state.ports.values().map(|port| port.id).collect();
    let mut rows = Vec::new();
    for (id, _) in shared.host.ports().into_iter().filter(|(id, _)| !ports.contains(id)) {
        let Ok(counters) = shared.host.uplink_counters(id) else { continue };
        for (direction, name, count) in [
            (v1::Direction::Inbound, "", counters.received),
            (v1::Direction::Inbound, "host", counters.host),
            (v1::Direction::Outbound, "", counters.transmitted),
        ] {
            rows.push(v1::Counter {
                kind: "uplink".into(),
                port: uplink_name(id).to_string(),
                direction: direction as i32,
                name: name.into(),
                packets: count.packets,
                bytes: count.bytes,
                ..v1::Counter::default()
            });
        }
    }
    rows
}

/// Every counter of a port as a row.
fn counter_rows(port: &Name, counters: &PortCounters, only: &str, rows: &mut Vec<v1::Counter>) {
    let row =
        |kind: &str, layer: &str, direction: Option<Direction>, group: &str, name: &str, count: Count| {
            v1::Counter {
                kind: kind.into(),
                port: port.to_string(),
                layer: layer.into(),
                direction: direction.map_or(0, |direction| written(direction) as i32),
                group: group.into(),
                name: name.into(),
                key: Vec::new(),
                packets: count.packets,
                bytes: count.bytes,
            }
        };
    if only.is_empty() {
        rows.push(row("port", "", Some(Direction::Outbound), "", "", counters.outbound));
        rows.push(row("port", "", Some(Direction::Inbound), "", "", counters.inbound));
    }
    for layer in counters.layers.iter().filter(|layer| only.is_empty() || *layer.name == *only) {
        rows.push(row("layer", &layer.name, None, "", "", layer.total()));
        for (direction, count) in
            [(Direction::Inbound, layer.default_inbound), (Direction::Outbound, layer.default_outbound)]
        {
            rows.push(row("default", &layer.name, Some(direction), "", "", count));
        }
        for group in &layer.groups {
            let direction = Some(group.direction);
            rows.push(row("group", &layer.name, direction, &group.name, "", group.total()));
            for (name, count) in &group.rules {
                rows.push(row("rule", &layer.name, direction, &group.name, name, *count));
            }
            if group.retired != Count::default() {
                rows.push(row("retired", &layer.name, direction, &group.name, "", group.retired));
            }
        }
    }
    if !only.is_empty() {
        return;
    }
    for meter in &counters.meters {
        for (key, count) in &meter.cells {
            let key = key.iter().map(|value| value.map_or_else(|| "-".into(), value_text)).collect();
            rows.push(v1::Counter { key, ..row("meter", "", None, "", &meter.name, *count) });
        }
        if meter.other != Count::default() {
            rows.push(v1::Counter {
                key: vec!["other".into()],
                ..row("meter", "", None, "", &meter.name, meter.other)
            });
        }
    }
}

/// Groups and rules of each layer that runs.
fn running_layers(counters: &PortCounters) -> BTreeMap<String, (u64, u64)> {
    let layers = counters.layers.iter().map(|layer| {
        let rules = layer.groups.iter().map(|group| group.rules.len() as u64).sum();
        (layer.name.to_string(), (layer.groups.len() as u64, rules))
    });
    layers.collect()
}

fn drop_row(port: &Name, row: &DropRow) -> v1::DropCount {
    v1::DropCount {
        port: port.to_string(),
        reason: row.reason.name().into(),
        number: row.reason as u32,
        layer: text(&row.layer),
        direction: written(row.direction) as i32,
        group: text(&row.group),
        rule: text(&row.rule),
        packets: row.packets,
        bytes: row.bytes,
        ..v1::DropCount::default()
    }
}

/// A walk over the flows of some ports.
struct FlowsWalk {
    shared: Arc<Shared>,
    /// Ports that are not done, the present one last.
    ports: Vec<(Name, PortId)>,
    filter: FlowFilter,
    cursor: FlowCursor,
    /// Flows that were found and not yet told, the next one last.
    found: Vec<v1::Flow>,
    left: u64,
}

impl FlowsWalk {
    async fn next(&mut self) -> Result<Option<v1::Flow>, Status> {
        while self.found.is_empty() {
            let Some((name, id)) = self.ports.last().cloned() else { return Ok(None) };
            let (shared, filter, cursor) = (self.shared.clone(), self.filter.clone(), self.cursor);
            let page = blocking(move || {
                let now = shared.host.now();
                let page = shared
                    .host
                    .call_owner(id, move |switch, _| switch.flows(id, &filter, cursor, SLICE, now))?;
                Ok(page.map(|page| (page, now)))
            })
            .await?;
            let state = self.shared.state();
            let port_name = |id: PortId| match state.names.ids().name(id) {
                Some(name) => name.to_string(),
                None => uplink_name(id).to_string(),
            };
            let next = page.as_ref().and_then(|(page, _)| page.next);
            if let Some((page, now)) = page {
                let flows = page.flows.iter().map(|flow| {
                    let idle = (now - flow.last_seen).0;
                    flow_row(&name, flow, idle, &port_name)
                });
                self.found = flows.collect();
                self.found.reverse();
            }
            match next {
                Some(cursor) => self.cursor = cursor,
                None => {
                    self.cursor = FlowCursor::default();
                    self.ports.pop();
                }
            }
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(self.found.pop())
    }
}

fn flow_row(port: &Name, flow: &FlowInfo, idle: u64, port_name: &dyn Fn(PortId) -> String) -> v1::Flow {
    let tuple = flow.tuple.as_ref();
    let steps = flow.path.iter();
    let path = steps.filter_map(|step| {
        let (group, rule) = step.rule.as_ref()?;
        Some(rule_path(&step.layer, group, rule))
    });
    v1::Flow {
        port: port.to_string(),
        direction: written(flow.direction) as i32,
        key: headers_text(&flow.headers),
        source: tuple.map(|tuple| tuple.src.to_string()).unwrap_or_default(),
        destination: tuple.map(|tuple| tuple.dst.to_string()).unwrap_or_default(),
        protocol: tuple.map_or(0, |tuple| u32::from(tuple.protocol)),
        source_port: tuple.map_or(0, |tuple| u32::from(tuple.src_port)),
        destination_port: tuple.map_or(0, |tuple| u32::from(tuple.dst_port)),
        tenant: tuple.map(|tuple| tuple.tenant),
        transposition: flow.change.to_string(),
        egress: match &flow.egress {
            FlowEgress::Nic => "nic".into(),
            FlowEgress::Port { to, direction: Direction::Inbound } | FlowEgress::Uplink(to) => port_name(*to),
            FlowEgress::Port { to, direction: Direction::Outbound } => format!("{} outbound", port_name(*to)),
            FlowEgress::Multicast => "multicast".into(),
        },
        path: path.collect(),
        packets: flow.count.packets,
        bytes: flow.count.bytes,
        idle,
        generation: flow.generation,
        stale: flow.is_stale,
        conversation: flow.conversation.as_ref().map_or(0, |conversation| u64::from(conversation.id) + 1),
    }
}

/// Headers for people, outermost group first.
fn headers_text(headers: &HeaderStack) -> String {
    let group_text = |group: &HeaderGroup| {
        let mut parts = Vec::new();
        if let Some(l2) = &group.flow_id.l2 {
            parts.push(format!("eth {} > {}", l2.src, l2.dst));
        }
        match &group.flow_id.l3 {
            Some(L3::Ip(ip)) => {
                let (src, dst) = (ip.addresses.src(), ip.addresses.dst());
                parts.push(format!("ip {src} > {dst} proto {}", ip.protocol));
            }
            Some(L3::Arp(arp)) => parts.push(format!("arp {} > {}", arp.sender_ip, arp.target_ip)),
            None => {}
        }
        match &group.flow_id.l4 {
            Some(L4::Tcp(ports)) => parts.push(format!("tcp {} > {}", ports.src, ports.dst)),
            Some(L4::Udp(ports)) => parts.push(format!("udp {} > {}", ports.src, ports.dst)),
            Some(L4::Sctp(ports)) => parts.push(format!("sctp {} > {}", ports.src, ports.dst)),
            Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => {
                parts.push(format!("icmp type {} code {}", icmp.kind, icmp.code));
            }
            Some(L4::Encap(encap)) => parts.push(format!("{:?}", encap.kind).to_lowercase()),
            None => {}
        }
        parts.join(" ")
    };
    headers.groups().iter().map(group_text).collect::<Vec<_>>().join(" / ")
}
