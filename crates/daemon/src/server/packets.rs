//! Packets that callers inject, explain and capture.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::stream;
use lamina_api::wire::v1;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::Direction;
use lamina_core::inspect::{CaptureError, CaptureId, CapturePoint, CaptureSpec, CaptureVerdict};
use lamina_core::layer::{Name, Policy};
use lamina_core::packet::Packet;
use lamina_core::simulate::TraceOutcome;
use lamina_core::switch::{InjectError, PortId, Through};
use tokio::time::Instant;
use tonic::Status;

use super::read::{blocking, uplink_name};
use super::{Answers, Service};
use crate::control::key::{direction, written};
use crate::control::{State, mistake};
use crate::convert::PortIds;
use crate::explain::{self, PortPolicies};
use crate::host::HostError;
use crate::worker::{CaptureReader, CapturedPacket, capture_ring};

/// The longest frame that a caller may send or have explained: a super-frame.
const MAX_FRAME: usize = 65_536;
/// Packets that wait for one reader of a capture.
const CAPTURE_RING: usize = 512;
/// How often a capture's rings are looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(10);
/// The longest capture.
const MAX_CAPTURE: Duration = Duration::from_secs(3600);
/// The most packets of one capture.
const MAX_CAPTURED: u64 = 10_000_000;

/// The running policies, for names in explanations.
struct Running {
    policies: BTreeMap<Name, Policy>,
    ids: PortIds,
}

impl Running {
    fn of(state: &State) -> Running {
        let policies = state.ports.iter().map(|(name, port)| (name.clone(), port.policy(&state.names)));
        Running { policies: policies.collect(), ids: state.names.ids().clone() }
    }
}

impl PortPolicies for Running {
    fn policy_of(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name)
    }

    fn ids(&self) -> &PortIds {
        &self.ids
    }
}

impl Service {
    fn check_frame(&self, frame: &[u8]) -> Result<(), Status> {
        if (14..=MAX_FRAME).contains(&frame.len()) {
            return Ok(());
        }
        let message = format!("the packet has {} bytes", frame.len());
        let help = format!("send a frame from its Ethernet header on, of 14 to {MAX_FRAME} bytes");
        Err(self.refused(&mistake("out-of-range", message, help).into()))
    }

    /// Hands a frame to the worker of its port, which takes it up with its next breath.
    pub(super) async fn inject_packet(&self, request: v1::InjectRequest) -> Result<v1::InjectReply, Status> {
        self.check_frame(&request.packet)?;
        let id = self.one_port(&request.port)?;
        let Some(side) = direction(request.direction) else {
            let help =
                "set `direction`: outbound as if the guest had sent it, inbound to send it to the guest";
            return Err(self.refused(&mistake("missing-field", "the packet has no direction", help).into()));
        };
        let through = match (request.skip_layers, &*request.behind_layer) {
            (false, "") => Through::AllLayers,
            (true, "") => Through::NoLayer,
            (false, layer) => Through::LayersBehind(layer.into()),
            (true, _) => {
                let help = "set `skip_layers`, or `behind_layer` to cross those behind it";
                let message = "the packet is to cross no layer, and some";
                return Err(self.refused(&mistake("conflict", message, help).into()));
            }
        };
        let shared = self.shared.clone();
        let injected = blocking(move || {
            let frame = request.packet;
            shared.host.call_owner(id, move |switch, _| switch.inject(id, side, through, &frame))
        })
        .await?;
        injected.map_err(|error| match error {
            InjectError::QueueFull => {
                self.counters.add("injections-queue-full");
                Status::resource_exhausted(error.to_string())
            }
            // The port went while the packet was on its way.
            InjectError::NoSuchPort => Status::not_found(format!("there is no port `{}`", request.port)),
            InjectError::NoSuchLayer => {
                let message = format!("port `{}` has no layer `{}`", request.port, request.behind_layer);
                let help =
                    "give the `layer` of the event; if the policy has changed since, inject the packet anew";
                self.refused(&mistake("missing-object", message, help).into())
            }
            InjectError::TooLong => self.refused(&mistake("out-of-range", error.to_string(), "").into()),
        })?;
        Ok(v1::InjectReply {})
    }

    pub(super) async fn explain(&self, request: v1::TraceRequest) -> Result<v1::TraceReply, Status> {
        self.check_frame(&request.packet)?;
        let id = self.place_called(&request.port).await?;
        let shared = self.shared.clone();
        let frame = request.packet;
        let side = direction(request.direction);
        blocking(move || {
            let packet = Packet::from_frame(&frame);
            let trace = match side {
                // As it would come from the network, without the tunnel that it may have come in.
                Some(Direction::Inbound) => {
                    let (now, frame) = (shared.host.now(), frame.clone());
                    let traced = shared.host.call_owner(id, move |switch, _| {
                        switch.trace_crossing(now, id, Direction::Inbound, PortId(0), &frame)
                    })?;
                    traced.ok_or(HostError::NoSuchPort(id))?
                }
                _ => shared.host.trace(id, &packet)?,
            };
            let running = Running::of(&shared.state());
            let (verdict, reason) = match &trace.outcome {
                TraceOutcome::Drop(reason) => ("drop", reason.name()),
                TraceOutcome::Reply(_) => ("reply", ""),
                TraceOutcome::Consumed => ("consumed", ""),
                TraceOutcome::Host => ("host", ""),
                TraceOutcome::Wait { .. } => ("wait", ""),
                TraceOutcome::Punt { .. } => ("punt", ""),
                _ => ("forward", ""),
            };
            Ok(v1::TraceReply {
                text: explain::text(&running, &frame, &trace),
                json: explain::json(&running, &frame, &trace).to_string(),
                verdict: verdict.into(),
                reason: reason.into(),
            })
        })
        .await
    }

    pub(super) async fn capture_packets(
        &self,
        request: v1::CaptureRequest,
    ) -> Result<Answers<v1::CapturedPacket>, Status> {
        let spec = self.capture_spec(&request).await?;
        let shared = self.shared.clone();
        let snap_length = spec.snap_length;
        let started = blocking(move || {
            let (mut running, mut readers) = (Vec::new(), Vec::new());
            let mut refused: Option<CaptureError> = None;
            for worker in 0..shared.host.workers() {
                let (writer, reader) = capture_ring(CAPTURE_RING, snap_length);
                let spec = spec.clone();
                match shared
                    .host
                    .call(worker, move |switch, _| switch.start_capture(spec, Box::new(writer)))?
                {
                    Ok(id) => {
                        running.push((worker, id));
                        readers.push(reader);
                    }
                    Err(error) => refused = Some(error),
                }
            }
            let capture = OnWorkers { shared, running };
            Ok(match refused {
                None => Ok((capture, readers)),
                Some(error) => Err(error),
            })
        })
        .await?;
        let (capture, readers) = match started {
            Ok(started) => started,
            Err(error) => {
                let code = if error == CaptureError::TooMany { "too-many" } else { "missing-field" };
                return Err(self.refused(&mistake(code, error.to_string(), "").into()));
            }
        };
        let limit = match request.duration {
            0 => MAX_CAPTURE,
            nanoseconds => Duration::from_nanos(nanoseconds).min(MAX_CAPTURE),
        };
        let left = if request.packets == 0 { MAX_CAPTURED } else { request.packets.min(MAX_CAPTURED) };
        let state = self.shared.state();
        let walk = CaptureWalk {
            _capture: capture,
            readers,
            found: VecDeque::new(),
            names: state.names.ids().clone(),
            end: Instant::now() + limit,
            left,
        };
        Ok(Box::pin(stream::unfold(walk, |mut walk| async move {
            let packet = walk.next().await?;
            Some((Ok(packet), walk))
        })))
    }

    async fn capture_spec(&self, request: &v1::CaptureRequest) -> Result<CaptureSpec, Status> {
        let mut spec = CaptureSpec { snap_length: request.snap_length, ..CaptureSpec::default() };
        for port in &request.ports {
            spec.ports.push(self.place_called(port).await?);
        }
        for point in &request.points {
            match &**point {
                "nic" => spec.at_nic = true,
                "uplink" => spec.at_uplink = true,
                "drop" => spec.at_drop = true,
                other => match other.strip_prefix("layer:") {
                    Some(layer) if !layer.is_empty() => spec.at_layers.push(layer.into()),
                    _ => {
                        let help = "points are `nic`, `uplink`, `drop` and `layer:NAME`";
                        let message = format!("there is no point `{other}`");
                        return Err(self.refused(&mistake("bad-value", message, help).into()));
                    }
                },
            }
        }
        spec.at_nic |= request.points.is_empty();
        let filter = request.filter.clone().unwrap_or_default();
        spec.filter = self.flow_filter(&filter, 0)?.packet;
        if spec.filter.direction.is_none() {
            spec.filter.direction = direction(request.direction);
        }
        Ok(spec)
    }
}

/// A capture on every worker; it ends when this is dropped.
struct OnWorkers {
    shared: std::sync::Arc<crate::control::Shared>,
    running: Vec<(usize, CaptureId)>,
}

impl Drop for OnWorkers {
    fn drop(&mut self) {
        let (shared, running) = (self.shared.clone(), std::mem::take(&mut self.running));
        let stop = move || {
            for (worker, id) in running {
                // A worker that has ended captures nothing.
                let _ = shared.host.call(worker, move |switch, _| switch.stop_capture(id));
            }
        };
        // Workers are not waited for on the thread that serves everybody.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(stop)),
            Err(_) => stop(),
        }
    }
}

/// A capture on its way to its reader.
struct CaptureWalk {
    _capture: OnWorkers,
    readers: Vec<CaptureReader>,
    found: VecDeque<v1::CapturedPacket>,
    names: PortIds,
    end: Instant,
    left: u64,
}

impl CaptureWalk {
    async fn next(&mut self) -> Option<v1::CapturedPacket> {
        if self.left == 0 {
            return None;
        }
        while self.found.is_empty() {
            for reader in &mut self.readers {
                while let Some(packet) = reader.take() {
                    self.found.push_back(captured(&packet, &self.names));
                    reader.recycle(packet);
                }
            }
            if self.found.is_empty() {
                let now = Instant::now();
                if now >= self.end || self.readers.iter().all(CaptureReader::is_over) {
                    return None;
                }
                tokio::time::sleep(LOOK.min(self.end - now)).await;
            }
        }
        self.left -= 1;
        self.found.pop_front()
    }
}

fn captured(packet: &CapturedPacket, names: &PortIds) -> v1::CapturedPacket {
    let name = |id: PortId| names.name(id).map_or_else(|| uplink_name(id).to_string(), str::to_string);
    let (verdict, reason): (&str, Option<DropReason>) = match packet.verdict {
        CaptureVerdict::Passed => ("forward", None),
        CaptureVerdict::Dropped(reason) => ("drop", Some(reason)),
    };
    let point = match &packet.point {
        CapturePoint::LayerBefore(layer) | CapturePoint::LayerAfter(layer) => {
            format!("{}:{layer}", packet.point.name())
        }
        other => other.name().to_string(),
    };
    let place = [&packet.place.layer, &packet.place.group, &packet.place.rule];
    let rule: Vec<&str> = place.into_iter().flatten().map(|name| &**name).collect();
    v1::CapturedPacket {
        time: packet.time,
        port: name(packet.port),
        point,
        direction: written(packet.direction) as i32,
        verdict: verdict.into(),
        reason: reason.map(|reason| reason.name().to_string()).unwrap_or_default(),
        rule: rule.join("/"),
        length: packet.length,
        packet: packet.frame.clone(),
        lost: 0,
    }
}
