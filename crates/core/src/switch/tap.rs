//! Where captures touch the packet path: received, sent, dropped, and at layers by a walk of their own.
//!
//! Called only while a capture runs ([`crate::inspect`], capture). Nothing here changes what becomes of a packet.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::punt::layers_behind;
use super::receive::Entered;
use super::{PortId, Switch};
use crate::drop_reason::DropReason;
use crate::event::Audience;
use crate::flow::{Direction, HeaderStack};
use crate::inspect::{
    CaptureError, CaptureId, CapturePlace, CapturePoint, CaptureSink, CaptureSpec, CaptureStatus,
    CaptureVerdict, Captures, Tag,
};
use crate::layer::{CompiledLayer, MalformedPolicy, Name};
use crate::packet::{Packet, TunnelPorts, parse_opaque, parse_with};
use crate::port::{Decision, Egress, Entry, Observer, Planned, Port};
use crate::resource::LiveMappings;
use crate::time::Instant;
use crate::transposition::{Edit, Transposition};

impl Switch {
    /// Starts a capture, whose packets go to `sink` until it is stopped or done.
    pub fn start_capture(
        &mut self,
        spec: CaptureSpec,
        sink: Box<dyn CaptureSink>,
    ) -> Result<CaptureId, CaptureError> {
        self.captures.start(spec, sink)
    }

    /// Ends a capture and drops its sink; `None` when there is none of this number.
    pub fn stop_capture(&mut self, id: CaptureId) -> Option<CaptureStatus> {
        self.captures.stop(id)
    }

    /// The captures that exist, done ones included.
    pub fn captures(&self) -> Vec<CaptureStatus> {
        self.captures.statuses().collect()
    }

    /// Offers the packet that was received last, which was held, with what became of it.
    pub(super) fn tap_received(&mut self, time: Instant, from: PortId, entered: Entered) {
        let Entered { at: port, is_dropped } = entered;
        let (verdict, place) = self.verdict(is_dropped.then_some(port));
        let is_uplink = self.fabric.uplink(from).is_some();
        let (direction, point) = match is_uplink {
            true => (Direction::Inbound, CapturePoint::UplinkReceived),
            false => (Direction::Outbound, CapturePoint::NicReceived),
        };
        let uplink = is_uplink.then_some(from);
        self.captures.release(&Tag { time, port, uplink, direction, point: &point, verdict, place: &place });
    }

    /// Offers a packet that leaves the switch from port or uplink `port`, by its NIC or by an uplink.
    pub(super) fn tap_sent(&mut self, time: Instant, port: PortId, egress: Egress, packet: &Packet) {
        let (uplink, direction, point) = match egress {
            Egress::Uplink { id, .. } => (Some(id), Direction::Outbound, CapturePoint::UplinkSent),
            Egress::Nic { .. } => (None, Direction::Inbound, CapturePoint::NicSent),
            Egress::Port { .. } | Egress::Multicast => return,
        };
        let place = CapturePlace::default();
        let verdict = CaptureVerdict::Passed;
        let tag = Tag { time, port, uplink, direction, point: &point, verdict, place: &place };
        self.captures.offer(&tag, packet.frame());
    }

    /// Offers a packet that port or uplink `at` dropped, which is the last one in its log.
    pub(super) fn tap_dropped(&mut self, time: Instant, at: PortId, direction: Direction, packet: &Packet) {
        let (verdict, place) = self.verdict(Some(at));
        let uplink = self.fabric.uplink(at).is_some().then_some(at);
        let point = CapturePoint::Drop;
        let tag = Tag { time, port: at, uplink, direction, point: &point, verdict, place: &place };
        self.captures.offer(&tag, packet.frame());
    }

    fn verdict(&self, dropped_at: Option<PortId>) -> (CaptureVerdict, CapturePlace) {
        let log = dropped_at.map(|at| self.drop_log(Some(at)).unwrap_or(&self.fabric.ownerless));
        match log.and_then(|log| log.last()) {
            None => (CaptureVerdict::Passed, CapturePlace::default()),
            Some(row) => {
                let (layer, group, rule) = (row.layer.clone(), row.group.clone(), row.rule.clone());
                (CaptureVerdict::Dropped(row.reason), CapturePlace { layer, group, rule })
            }
        }
    }
}

/// A port's side that a packet is about to cross.
pub(super) struct Threshold<'a> {
    pub(super) mappings: &'a LiveMappings,
    pub(super) punts: &'a Audience,
    pub(super) tunnels: &'a TunnelPorts,
    pub(super) time: Instant,
    pub(super) id: PortId,
    pub(super) direction: Direction,
    pub(super) ingress: PortId,
    pub(super) behind: Option<&'a Name>,
}

/// Offers `packet` at the layers that captures want, as it will stand there.
pub(super) fn tap_layers(
    captures: &mut Captures,
    port: &mut Port,
    threshold: &Threshold<'_>,
    packet: &Packet,
) {
    let Threshold { time, id, direction, ingress, behind, mappings, punts, tunnels } = *threshold;
    let Some(program) = port.program.clone() else { return };
    let parsed = match (parse_with(packet.frame(), tunnels), program.malformed) {
        (Err(_), MalformedPolicy::PassOpaque) => parse_opaque(packet.frame()),
        (parsed, _) => parsed,
    };
    let Ok(parsed) = parsed else { return };
    let layers = captures.layers_of(id, &parsed.stack, direction);
    if layers.is_empty() {
        return;
    }
    let range = match behind {
        Some(layer) => layers_behind(&program, layer, direction),
        None => Some((0, program.layers.len())),
    };
    let Some((first_layer, end_layer)) = range else { return };
    let mut entry = Entry {
        headers: parsed.stack,
        direction,
        ingress: ingress.0,
        now: time,
        first_layer,
        end_layer,
        mappings,
        punts,
        declined: 0,
    };
    let mut stages = Stages { layers, so_far: Transposition::IDENTITY, list: Vec::new() };
    let plan = loop {
        (stages.so_far, stages.list) = (Transposition::IDENTITY, Vec::new());
        let plan = port.resolve(&program, &entry, &mut stages);
        match &plan.outcome {
            Planned::Drop(DropReason::LayerFlowTableFull) if port.reclaim(time) => {}
            // The responder will leave the packet to the layers behind it.
            Planned::Reply(reply, _) if reply.declines(packet, &parsed, &program.resources) => {
                entry.declined += 1;
            }
            _ => break plan,
        }
    };
    let verdict = match plan.outcome {
        Planned::Drop(reason) => CaptureVerdict::Dropped(reason),
        _ => CaptureVerdict::Passed,
    };
    for Stage { point, so_far, place } in &stages.list {
        let mut copy = packet.clone();
        let Ok(edit) = Edit::compile(so_far, &parsed.stack) else { continue };
        // A frame that cannot be made is one that does not fit its buffer: the packet is about to be dropped for it.
        if edit.apply(&mut copy, &parsed.layout).is_ok() {
            let tag = Tag { time, port: id, uplink: None, direction, point, verdict, place };
            captures.offer_at_layer(&tag, &parsed.stack, copy.frame());
        }
    }
}

/// The packet at one point of its walk.
struct Stage {
    point: CapturePoint,
    so_far: Transposition,
    place: CapturePlace,
}

/// Writes down how the packet stands before and after the wanted layers.
struct Stages {
    layers: Vec<Name>,
    so_far: Transposition,
    list: Vec<Stage>,
}

impl Stages {
    /// The stage of the layer that the walk is in, if that is wanted.
    fn current(&mut self) -> Option<&mut Stage> {
        self.list.last_mut().filter(|stage| matches!(stage.point, CapturePoint::LayerBefore(_)))
    }
}

impl Observer for Stages {
    fn enter_layer(&mut self, layer: &CompiledLayer, _headers: &HeaderStack) {
        let place = CapturePlace { layer: Some(layer.name.clone()), ..CapturePlace::default() };
        if self.layers.contains(&layer.name) {
            let point = CapturePoint::LayerBefore(layer.name.clone());
            self.list.push(Stage { point, so_far: self.so_far.clone(), place });
        }
    }

    fn decide(&mut self, decision: Decision<'_>) {
        let Some(stage) = self.current() else { return };
        let (group, rule) = match decision {
            Decision::Flow { rule, .. } => (rule.group.clone(), rule.rule.clone()),
            Decision::Rule { group, rule } => (group.clone(), rule.name.clone()),
            Decision::Default(_) | Decision::Fragment => return,
        };
        (stage.place.group, stage.place.rule) = (Some(group), Some(rule));
    }

    fn transposed(&mut self, transposition: &Transposition, _headers: &HeaderStack) {
        self.so_far = self.so_far.then(transposition);
        let Some(Stage { point: CapturePoint::LayerBefore(layer), place, .. }) = self.current() else {
            return;
        };
        let (point, place) = (CapturePoint::LayerAfter(layer.clone()), place.clone());
        self.list.push(Stage { point, so_far: self.so_far.clone(), place });
    }
}
