//! Captures: copies of packets at points of the pipeline (§14), handed to a sink while a capture runs.
//!
//! | point | the packet as |
//! | --- | --- |
//! | `nic` | it was received from the port's backend, and as it is delivered to it |
//! | `uplink` | it was received from the network, and as it is sent to it |
//! | layer | the layer of that name gets it, and as the layer leaves it |
//! | `drop` | it stood when it was dropped |
//!
//! Theory. A packet that a unified flow answers exists before and after its composed edit, and nowhere between. What
//! a layer would get is asked of the layers themselves: for a packet that a capture of a layer admits, the walk is
//! resolved once more just before the packet is processed, with an observer, and the frame at each wanted layer is
//! made from the header changes so far. Resolving changes nothing and is exact (§5.2), so the packet itself takes
//! the way it takes anyway, by the cache where it is cached; only admitted packets pay for the walk. The way back
//! of a reply through the layers is not shown at layers, its leaving is.
//!
//! While no capture runs a batch costs one branch. A capture never changes, delays or drops a packet: a sink that
//! has no room loses the copy, which is counted.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::PacketFilter;
use crate::drop_reason::DropReason;
use crate::flow::{Direction, HeaderStack};
use crate::layer::Name;
use crate::packet::{TunnelPorts, parse_with};
use crate::switch::PortId;
use crate::time::Instant;

/// Captures that may exist at a time.
pub const MAX_CAPTURES: usize = 8;

/// The number of a capture, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CaptureId(pub u32);

/// What is to be captured. The default captures nothing, since it names no point.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CaptureSpec {
    /// Packets that cross one of these ports or uplinks; of any when empty.
    pub ports: Vec<PortId>,
    /// Between a port and its backend.
    pub at_nic: bool,
    /// Between an uplink and its backend.
    pub at_uplink: bool,
    /// Before and after each layer of these names, on whatever port has it.
    pub at_layers: Vec<Name>,
    /// Where packets are dropped.
    pub at_drop: bool,
    /// Which packets: as they stand at the point; at layers as they entered the port. Frames that cannot be parsed
    /// are captured only by the filter that admits everything.
    pub filter: PacketFilter,
    /// Only packets of this verdict.
    pub verdict: Option<VerdictFilter>,
    /// So many bytes of each frame, from its begin; 0 for all.
    pub snap_length: u32,
    /// The capture is done after so many packets; 0 for no limit.
    pub max_packets: u64,
    /// The capture is done before it would have handed over more bytes than these; 0 for no limit.
    pub max_bytes: u64,
}

/// Which verdicts a capture wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerdictFilter {
    /// Packets that go on or are answered.
    Passed,
    /// Packets that are dropped.
    Dropped,
    /// Packets that are dropped for this reason.
    DroppedFor(DropReason),
}

/// A point of the pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CapturePoint {
    /// Received from the port's NIC.
    NicReceived,
    /// Delivered to the port's NIC.
    NicSent,
    /// Received by an uplink.
    UplinkReceived,
    /// Sent by an uplink.
    UplinkSent,
    /// As the layer gets it.
    LayerBefore(Name),
    /// As the layer leaves it.
    LayerAfter(Name),
    /// Where it was dropped.
    Drop,
}

impl CapturePoint {
    /// The stable name of the kind of point; that of a layer is in the value.
    pub const fn name(&self) -> &'static str {
        match self {
            CapturePoint::NicReceived => "nic-received",
            CapturePoint::NicSent => "nic-sent",
            CapturePoint::UplinkReceived => "uplink-received",
            CapturePoint::UplinkSent => "uplink-sent",
            CapturePoint::LayerBefore(_) => "layer-before",
            CapturePoint::LayerAfter(_) => "layer-after",
            CapturePoint::Drop => "drop",
        }
    }
}

/// What became of a captured packet at the port whose crossing it is captured in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureVerdict {
    /// It goes on, or it was answered.
    Passed,
    /// It was dropped.
    Dropped(DropReason),
}

/// Who decided: for a dropped packet who dropped it, at a layer who answered there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CapturePlace {
    /// The layer.
    pub layer: Option<Name>,
    /// The group.
    pub group: Option<Name>,
    /// The rule; without one the layer's default decided.
    pub rule: Option<Name>,
}

/// One captured packet.
#[derive(Clone, Copy, Debug)]
pub struct CaptureRecord<'a> {
    /// When it was received, by the worker's clock.
    pub time: Instant,
    /// The port that it crosses; the uplink for a packet from the network that reached no port.
    pub port: PortId,
    /// The uplink, at points of an uplink.
    pub uplink: Option<PortId>,
    /// Which way it crosses the port.
    pub direction: Direction,
    /// Where.
    pub point: &'a CapturePoint,
    /// What becomes of it.
    pub verdict: CaptureVerdict,
    /// Who decided that.
    pub place: &'a CapturePlace,
    /// Bytes of the whole frame.
    pub length: u32,
    /// The frame, up to the snap length.
    pub frame: &'a [u8],
}

/// Takes captured packets. Called on the packet path: it must neither block nor take long.
pub trait CaptureSink: Send + fmt::Debug {
    /// Takes a copy of `record`; false when it had no room.
    fn take(&mut self, record: &CaptureRecord<'_>) -> bool;
}

/// How far a capture is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureStatus {
    /// The capture.
    pub id: CaptureId,
    /// Packets handed over.
    pub packets: u64,
    /// Bytes of them, as captured.
    pub bytes: u64,
    /// Packets that the sink had no room for.
    pub lost: u64,
    /// It reached a limit of its own and captures no more.
    pub is_done: bool,
}

/// Why a capture was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureError {
    /// As many captures exist as may; stop one first.
    TooMany,
    /// It names no point; choose nic, uplink, drop or a layer.
    NoPoint,
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaptureError::TooMany => write!(f, "{MAX_CAPTURES} captures run already; stop one first"),
            CaptureError::NoPoint => f.write_str("the capture names no point: nic, uplink, drop or a layer"),
        }
    }
}

impl core::error::Error for CaptureError {}

/// All captures of a switch.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    list: Vec<Capture>,
    /// How many of them are not done.
    running: usize,
    last_id: u32,
    /// The frame of the packet that is being processed, as it was received.
    held: Vec<u8>,
    /// By which UDP ports tunnels are known.
    pub(crate) tunnels: TunnelPorts,
}

#[derive(Debug)]
struct Capture {
    spec: CaptureSpec,
    status: CaptureStatus,
    sink: Box<dyn CaptureSink>,
}

/// What a record says apart from its frame.
pub(crate) struct Tag<'a> {
    pub(crate) time: Instant,
    pub(crate) port: PortId,
    pub(crate) uplink: Option<PortId>,
    pub(crate) direction: Direction,
    pub(crate) point: &'a CapturePoint,
    pub(crate) verdict: CaptureVerdict,
    pub(crate) place: &'a CapturePlace,
}

impl Captures {
    #[inline(always)]
    pub(crate) fn are_running(&self) -> bool {
        self.running > 0
    }

    pub(crate) fn start(
        &mut self,
        spec: CaptureSpec,
        sink: Box<dyn CaptureSink>,
    ) -> Result<CaptureId, CaptureError> {
        if self.list.len() >= MAX_CAPTURES {
            return Err(CaptureError::TooMany);
        }
        if !spec.at_nic && !spec.at_uplink && !spec.at_drop && spec.at_layers.is_empty() {
            return Err(CaptureError::NoPoint);
        }
        self.last_id += 1;
        let id = CaptureId(self.last_id);
        let status = CaptureStatus { id, packets: 0, bytes: 0, lost: 0, is_done: false };
        self.list.push(Capture { spec, status, sink });
        self.running += 1;
        Ok(id)
    }

    pub(crate) fn stop(&mut self, id: CaptureId) -> Option<CaptureStatus> {
        let at = self.list.iter().position(|capture| capture.status.id == id)?;
        let status = self.list.remove(at).status;
        self.running -= usize::from(!status.is_done);
        Some(status)
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = CaptureStatus> + '_ {
        self.list.iter().map(|capture| capture.status)
    }

    /// Keeps a copy of a frame as it was received, for [`Captures::release`].
    pub(crate) fn hold(&mut self, frame: &[u8]) {
        self.held.clear();
        if self.list.iter().any(|capture| capture.spec.at_nic || capture.spec.at_uplink) {
            self.held.extend_from_slice(frame);
        }
    }

    /// Offers the frame that was kept, now that its verdict is known.
    pub(crate) fn release(&mut self, tag: &Tag<'_>) {
        let held = core::mem::take(&mut self.held);
        if !held.is_empty() {
            self.offer(tag, &held);
        }
        self.held = held;
    }

    /// Offers a frame to every capture of the point, judged by its own headers.
    pub(crate) fn offer(&mut self, tag: &Tag<'_>, frame: &[u8]) {
        let mut headers: Option<Option<HeaderStack>> = None;
        for capture in self.list.iter_mut().filter(|capture| capture.wants(tag)) {
            let read = || parse_with(frame, &self.tunnels).ok().map(|parsed| parsed.stack);
            if capture.admits(*headers.get_or_insert_with(read), tag.direction) {
                self.running -= usize::from(capture.take(tag, frame));
            }
        }
    }

    /// The layers that captures want of packets with `headers` that cross `port`.
    pub(crate) fn layers_of(&self, port: PortId, headers: &HeaderStack, direction: Direction) -> Vec<Name> {
        let mut layers: Vec<Name> = Vec::new();
        for capture in self.list.iter().filter(|capture| capture.is_of(port, None)) {
            if !capture.status.is_done && capture.admits(Some(*headers), direction) {
                layers.extend(capture.spec.at_layers.iter().cloned());
            }
        }
        layers
    }

    /// Offers a frame at a layer to every capture of it; `entered` are the headers with which the packet entered.
    pub(crate) fn offer_at_layer(&mut self, tag: &Tag<'_>, entered: &HeaderStack, frame: &[u8]) {
        for capture in self.list.iter_mut().filter(|capture| capture.wants(tag)) {
            if capture.admits(Some(*entered), tag.direction) {
                self.running -= usize::from(capture.take(tag, frame));
            }
        }
    }
}

impl Capture {
    fn is_of(&self, port: PortId, uplink: Option<PortId>) -> bool {
        let ports = &self.spec.ports;
        ports.is_empty() || ports.contains(&port) || uplink.is_some_and(|uplink| ports.contains(&uplink))
    }

    fn wants(&self, tag: &Tag<'_>) -> bool {
        let is_point = match tag.point {
            CapturePoint::NicReceived | CapturePoint::NicSent => self.spec.at_nic,
            CapturePoint::UplinkReceived | CapturePoint::UplinkSent => self.spec.at_uplink,
            CapturePoint::LayerBefore(layer) | CapturePoint::LayerAfter(layer) => {
                self.spec.at_layers.contains(layer)
            }
            CapturePoint::Drop => self.spec.at_drop,
        };
        let is_verdict = match (self.spec.verdict, tag.verdict) {
            (None, _) => true,
            (Some(VerdictFilter::Passed), verdict) => verdict == CaptureVerdict::Passed,
            (Some(VerdictFilter::Dropped), verdict) => verdict != CaptureVerdict::Passed,
            (Some(VerdictFilter::DroppedFor(reason)), verdict) => verdict == CaptureVerdict::Dropped(reason),
        };
        !self.status.is_done && is_point && is_verdict && self.is_of(tag.port, tag.uplink)
    }

    fn admits(&self, headers: Option<HeaderStack>, direction: Direction) -> bool {
        match headers {
            Some(headers) => self.spec.filter.admits(&headers, direction),
            None => self.spec.filter.is_empty(),
        }
    }

    /// Hands a frame to the sink; true when the capture is done by it.
    fn take(&mut self, tag: &Tag<'_>, frame: &[u8]) -> bool {
        let Tag { time, port, uplink, direction, point, verdict, place } = *tag;
        let snap = match self.spec.snap_length {
            0 => frame.len(),
            snap => frame.len().min(snap as usize),
        };
        let limit = self.spec.max_bytes;
        if limit > 0 && self.status.bytes + snap as u64 > limit {
            self.status.is_done = true;
            return true;
        }
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let frame = &frame[..snap];
        let record = CaptureRecord { time, port, uplink, direction, point, verdict, place, length, frame };
        if self.sink.take(&record) {
            self.status.packets += 1;
            self.status.bytes += snap as u64;
        } else {
            self.status.lost += 1;
        }
        self.status.is_done = self.spec.max_packets > 0 && self.status.packets >= self.spec.max_packets;
        self.status.is_done
    }
}
