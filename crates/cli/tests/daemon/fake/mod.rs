//! A daemon of which only the API is real: objects in memory, answers to everything else made up.
//!
//! It keeps the contract where the command line depends on it: options in the first part only, messages of the default
//! size at most, all or nothing, owners, expectations, what changed. It forwards no packet.

mod state;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use lamina_api::wire::v1::host_server::{Host, HostServer};
use lamina_api::wire::v1::object::Content;
use lamina_api::wire::v1::*;
use lamina_api::wire::{read, status};
use state::{Staged, State, key, operations, selects};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Who the caller may be.
const CONTROLLERS: [&str; 3] = ["acl", "host", "vnet"];
/// 2026-11-27 12:00:00 UTC.
const NOON: u64 = 1_795_780_800_000_000_000;

/// A fake daemon at a socket.
pub struct Fake {
    pub socket: PathBuf,
}

impl Fake {
    /// A fake that listens in `folder`, with the objects of `files`.
    pub fn start(folder: &Path, files: &[&Path]) -> Fake {
        let mut state = State::default();
        for file in files {
            let text = std::fs::read_to_string(file).unwrap();
            let source = lamina_api::Source::new(file.display().to_string(), text);
            let document = read::document(&source).unwrap_or_else(|report| panic!("{report}"));
            let owner = document.owner.clone();
            let mut staged = Staged::new(&state, &owner);
            operations(document).into_iter().for_each(|op| staged.operation(op));
            assert!(staged.mistakes.is_empty(), "{:?}", staged.mistakes);
            let _ = staged.commit(&mut state);
        }
        // As an owner says by the API; documents have no word for it.
        for object in state.objects.values_mut() {
            if matches!(object.content, Some(Content::Mapping(_))) {
                object.agents = vec!["directory".into()];
            }
        }
        let socket = folder.join("lamina.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let service = HostServer::new(Service(Arc::new(Mutex::new(state))));
                tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener))
                    .await
                    .unwrap();
            });
        });
        Fake { socket }
    }
}

struct Service(Arc<Mutex<State>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(items: Vec<T>) -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok)))))
}

fn refused(code: Code, message: &str, mistakes: Vec<Mistake>) -> Status {
    status(code, message, &Refusal { mistakes })
}

#[tonic::async_trait]
impl Host for Service {
    type ListStream = Answers<Object>;
    type WatchStream = Answers<Change>;
    type EventsStream = Answers<Event>;
    type CountersStream = Answers<Counter>;
    type DropsStream = Answers<DropCount>;
    type FlowsStream = Answers<Flow>;
    type CaptureStream = Answers<CapturedPacket>;
    type AuditStream = Answers<AuditFinding>;

    async fn apply(&self, request: Request<Streaming<ApplyRequest>>) -> Result<Response<ApplyReply>, Status> {
        let mut parts = request.into_inner();
        let mut options = None;
        let mut operations = Vec::new();
        while let Some(part) = parts.message().await? {
            match (part.options, &options) {
                (Some(given), None) => options = Some(given),
                (None, Some(_)) => {}
                _ => return Err(Status::invalid_argument("options are in the first part, and only there")),
            }
            operations.extend(part.operations);
        }
        let options = options.unwrap_or_default();
        if !CONTROLLERS.contains(&&*options.controller) {
            let message = format!("say which controller you are: {}", CONTROLLERS.join(", "));
            return Err(Status::invalid_argument(message));
        }
        let mut state = self.0.lock().unwrap();
        for Expectation { r#ref: object, revision } in &options.expect {
            let object = object.clone().unwrap();
            let found = state.objects.get(&key(&object)).map_or(0, |object| object.revision);
            if found != *revision {
                let message =
                    format!("`{}` has changed: it is of revision {found}, not {revision}", object.name);
                let mistake =
                    Mistake { code: "stale".into(), message, r#ref: Some(object), ..Mistake::default() };
                return Err(refused(Code::Aborted, "somebody else was faster", vec![mistake]));
            }
        }
        let mut staged = Staged::new(&state, &options.controller);
        for (number, operation) in operations.into_iter().enumerate() {
            staged.number = number as u32;
            staged.operation(operation.operation.unwrap());
        }
        if !staged.mistakes.is_empty() {
            let is_owner = staged.mistakes.iter().any(|mistake| mistake.code == "not-owner");
            let code = if is_owner { Code::PermissionDenied } else { Code::FailedPrecondition };
            return Err(refused(code, "nothing was changed", staged.mistakes));
        }
        let mut reply = if options.dry_run {
            let revision = state.revision;
            let reply = staged.commit(&mut state.clone());
            ApplyReply { revision, effective_after: 0, ..reply }
        } else {
            staged.commit(&mut state)
        };
        if options.warnings {
            reply.warnings = vec![Mistake {
                code: "shadowed".into(),
                message: "rule `web` is hidden by `ssh`".into(),
                help: "remove it".into(),
                r#ref: Some(web_rule()),
                field: "when.l4.dst".into(),
                operation: 0,
            }];
        }
        Ok(Response::new(reply))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let ListRequest { selector, owner } = request.into_inner();
        let selector = selector.unwrap_or_default();
        let state = self.0.lock().unwrap();
        let is_wanted = |object: &&Object| {
            (owner.is_empty() || owner == object.owner) && selects(&selector, object.r#ref.as_ref().unwrap())
        };
        answers(state.objects.values().filter(is_wanted).cloned().collect())
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { selector, after_revision } = request.into_inner();
        let state = self.0.lock().unwrap();
        if after_revision > state.revision {
            return Err(Status::out_of_range("there is no such revision yet: list again"));
        }
        let selector = selector.unwrap_or_default();
        let objects =
            state.objects.values().filter(|object| selects(&selector, object.r#ref.as_ref().unwrap()));
        let mut changes: Vec<Change> = objects
            .map(|object| Change {
                kind: ChangeKind::Existing.into(),
                object: Some(object.clone()),
                revision: object.revision,
            })
            .collect();
        let revision = state.revision;
        changes.push(Change { kind: ChangeKind::Synced.into(), object: None, revision });
        let last = state.objects.get(&key(&web_rule()));
        changes.extend(last.map(|object| Change {
            kind: ChangeKind::Deleted.into(),
            object: Some(object.clone()),
            revision: revision + 1,
        }));
        answers(changes)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let EventsRequest { kinds, after_sequence, .. } = request.into_inner();
        let event = |sequence: u64, kind: EventKind| Event {
            sequence,
            time: NOON + sequence,
            kind: kind.into(),
            port: "vm1".into(),
            ..Event::default()
        };
        let mut events = vec![
            Event {
                table: "blue".into(),
                address: "10.0.0.9".into(),
                tenant: 7,
                ..event(1, EventKind::MappingMiss)
            },
            Event {
                layer: "acl".into(),
                rule: "web".into(),
                direction: Direction::Inbound.into(),
                packet: packet(),
                length: packet().len() as u32,
                queue: "slow".into(),
                group: "in".into(),
                ..event(2, EventKind::Punt)
            },
            Event { table: "unified flows".into(), limit: 1024, ..event(3, EventKind::Limit) },
            event(4, EventKind::PortUp),
            Event {
                layer: "guard".into(),
                group: "rate".into(),
                rule: "arp".into(),
                direction: Direction::Outbound.into(),
                table: "each".into(),
                key: vec!["10.0.0.9".into(), "6".into()],
                limit: 20,
                ..event(5, EventKind::Rate)
            },
            event(6, EventKind::PortDown),
            Event { lost: 12, port: String::new(), ..event(7, EventKind::Lost) },
        ];
        events.retain(|event| {
            event.sequence > after_sequence && (kinds.is_empty() || kinds.contains(&event.kind))
        });
        answers(events)
    }

    async fn inject(&self, _: Request<InjectRequest>) -> Result<Response<InjectReply>, Status> {
        Err(Status::unimplemented("no command injects packets"))
    }

    async fn counters(
        &self,
        request: Request<CountersRequest>,
    ) -> Result<Response<Self::CountersStream>, Status> {
        let CountersRequest { port, layer, nonzero } = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.readings += 1;
        let readings = state.readings;
        let counter = |kind: &str, layer: &str, group: &str, name: &str, packets: u64| Counter {
            kind: kind.into(),
            port: "vm1".into(),
            layer: layer.into(),
            direction: Direction::Inbound.into(),
            group: group.into(),
            name: name.into(),
            packets: packets * readings,
            bytes: packets * 100 * readings,
            ..Counter::default()
        };
        let mut counters = vec![
            counter("port", "", "", "", 60),
            counter("layer", "acl", "", "", 60),
            counter("rule", "acl", "services", "ssh", 0),
            counter("rule", "acl", "services", "web", 50),
            Counter { key: vec!["10.0.0.9".into()], ..counter("meter", "acl", "services", "web", 50) },
            counter("default", "acl", "", "", 10),
        ];
        counters.retain(|counter| {
            (port.is_empty() || port == counter.port)
                && (layer.is_empty() || layer == counter.layer)
                && (!nonzero || counter.packets > 0)
        });
        answers(counters)
    }

    async fn drops(&self, request: Request<DropsRequest>) -> Result<Response<Self::DropsStream>, Status> {
        let DropsRequest { port, recent } = request.into_inner();
        let drop = |reason: &str, layer: &str, rule: &str, packets: u64| DropCount {
            port: "vm1".into(),
            reason: reason.into(),
            number: 3,
            layer: layer.into(),
            direction: Direction::Inbound.into(),
            group: if rule.is_empty() { "" } else { "services" }.into(),
            rule: rule.into(),
            packets,
            bytes: packets * 60,
            ..DropCount::default()
        };
        let mut drops = vec![
            drop("blocked", "acl", "", 10),
            drop("blocked", "acl", "telnet", 5),
            DropCount { port: "uplink".into(), ..drop("no-destination", "", "", 40) },
        ];
        if recent {
            let one = |time: u64| DropCount {
                packet: "tcp 10.0.0.9:1234 -> 10.0.0.1:23".into(),
                time,
                ..drop("blocked", "acl", "telnet", 1)
            };
            drops.extend([one(NOON + 2), one(NOON + 1)]);
        }
        drops.retain(|drop| port.is_empty() || port == drop.port);
        answers(drops)
    }

    async fn flows(&self, request: Request<FlowsRequest>) -> Result<Response<Self::FlowsStream>, Status> {
        let FlowsRequest { filter, limit, sample } = request.into_inner();
        let filter = filter.unwrap_or_default();
        let flow = |direction: Direction, source_port: u32, destination_port: u32| Flow {
            port: "vm1".into(),
            direction: direction.into(),
            key: format!("ipv4 tcp :{source_port} -> :{destination_port}"),
            source: "10.0.0.9".into(),
            destination: "10.0.0.1".into(),
            protocol: 6,
            source_port,
            destination_port,
            tenant: Some(5001),
            transposition: "pop vxlan".into(),
            egress: "nic".into(),
            path: vec!["acl/services/web".into()],
            packets: 1000,
            bytes: 64_000,
            idle: 1_500_000_000,
            generation: 4,
            stale: direction == Direction::Outbound,
            conversation: 17,
        };
        let mut flows = vec![flow(Direction::Inbound, 1234, 80), flow(Direction::Outbound, 80, 1234)];
        if filter.direction != 0 && !filter.pair {
            flows.retain(|flow| flow.direction == filter.direction);
        }
        if filter.l4_port == 9 {
            // What the fake was asked, for the test of the flags.
            let asked = format!("{filter:?} limit {limit} sample {sample}");
            flows = vec![Flow { key: asked, ..Flow::default() }];
        }
        flows.truncate(limit as usize);
        answers(flows)
    }

    async fn clear_flows(
        &self,
        request: Request<ClearFlowsRequest>,
    ) -> Result<Response<ClearFlowsReply>, Status> {
        let ClearFlowsRequest { filter, all } = request.into_inner();
        if filter == Some(FlowFilter::default()) && !all {
            return Err(Status::invalid_argument("an empty filter needs `all`"));
        }
        Ok(Response::new(ClearFlowsReply { flows: if all { 200 } else { 2 } }))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceReply>, Status> {
        let TraceRequest { port, direction, packet, verbose } = request.into_inner();
        let digits: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!("direction {direction} at {port}, verbose {verbose}\n{digits}\n");
        let json = format!("{{\"port\": \"{port}\", \"packet\": \"{digits}\"}}");
        Ok(Response::new(TraceReply { text, json, verdict: "forward".into(), reason: String::new() }))
    }

    async fn capture(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let CaptureRequest { ports, points, packets: most, snap_length, .. } = request.into_inner();
        let one = |time: u64, point: &str, direction: Direction| CapturedPacket {
            time: NOON + time,
            port: ports.first().map_or("vm1", String::as_str).into(),
            point: point.into(),
            direction: direction.into(),
            verdict: "forward".into(),
            length: packet().len() as u32,
            packet: packet(),
            ..CapturedPacket::default()
        };
        let mut captured = Vec::new();
        for (index, point) in points.iter().enumerate() {
            let time = index as u64 * 10;
            captured.push(one(time, point, Direction::Inbound));
            captured.push(CapturedPacket {
                verdict: "drop".into(),
                reason: "blocked".into(),
                rule: "acl/services/telnet".into(),
                lost: 3,
                ..one(time + 1, point, Direction::Outbound)
            });
        }
        if snap_length > 0 {
            captured.iter_mut().for_each(|packet| packet.packet.truncate(snap_length as usize));
        }
        if most > 0 {
            captured.truncate(most as usize);
        }
        answers(captured)
    }

    async fn limits(&self, _: Request<LimitsRequest>) -> Result<Response<LimitsReply>, Status> {
        let limit = |scope: &str, name: &str, used: u64, limit: u64, times_full: u64| Limit {
            scope: scope.into(),
            name: name.into(),
            used,
            limit,
            times_full,
        };
        Ok(Response::new(LimitsReply {
            limits: vec![
                limit("host", "ports", 2, 4096, 0),
                limit("vm1", "unified-flows", 1024, 1024, 7),
                limit("vm1", "drop-cache", 100, 256, 0),
                limit("vm1", "prefixes admins", 2, u64::MAX, 0),
            ],
        }))
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Result<Response<Self::AuditStream>, Status> {
        let finding = |owner: &str, finding: &str, detail: &str, running_rules: u64| AuditFinding {
            port: "vm1".into(),
            layer: owner.into(),
            owner: owner.into(),
            finding: finding.into(),
            detail: detail.into(),
            groups: 1,
            rules: 2,
            running_rules,
            generation: 4,
        };
        let mut findings = vec![
            finding("acl", "same", "", 2),
            finding("vnet", "different", "rule `subnet` does not run", 1),
        ];
        let wanted = request.into_inner().controller;
        findings.retain(|finding| wanted.is_empty() || wanted == finding.owner);
        answers(findings)
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let state = self.0.lock().unwrap();
        let port = |name: &str, state: &str, device: &str| PortStatus {
            name: name.into(),
            state: state.into(),
            device: device.into(),
            worker: 0,
            generation: 4,
        };
        Ok(Response::new(StatusReply {
            administrator: false,
            version: "0.1.0".into(),
            revision: state.revision,
            controllers: CONTROLLERS.map(String::from).to_vec(),
            workers: vec![WorkerStatus { number: 0, ports: 2, buffers_in_use: 64 }],
            uplinks: vec![UplinkStatus {
                name: "uplink".into(),
                mac: "02:00:00:00:00:fd".into(),
                addresses: vec!["192.0.2.1".into()],
                mtu: 1500,
                received_packets: 10,
                received_bytes: 1000,
                transmitted_packets: 20,
                transmitted_bytes: 2000,
            }],
            ports: vec![port("vm1", "running", "tap-vm1"), port("vm2", "disconnected", "")],
            started: NOON,
            api_counters: [("refused not-owner".to_string(), 3)].into(),
        }))
    }
}

/// The reference of the rule `web` of `acl.yaml`.
fn web_rule() -> Ref {
    Ref {
        kind: Kind::Rule.into(),
        port: "vm1".into(),
        layer: "acl".into(),
        direction: Direction::Inbound.into(),
        group: "services".into(),
        name: "web".into(),
        ..Ref::default()
    }
}

/// A TCP SYN from 10.0.0.9:1234 to 10.0.0.1:80.
fn packet() -> Vec<u8> {
    let digits = "02000000000102000000000908004500002800000000400666c50a0000090a00000104d20050000003e8000000005002ffff00000000";
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
