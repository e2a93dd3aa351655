//! Packets that enter a port later than they came, or from elsewhere: those that waited for a mapping, and those that
//! a controller injects.
//!
//! They stand in one queue until the worker next calls [`Switch::resume`], which it does in every breath.

use super::receive::Scratch;
use super::{Output, PortId, Switch};
use crate::event::Interests;
use crate::flow::Direction;
use crate::layer::Name;
use crate::packet::{MAX_FRAME, Packet};
use crate::time::Instant;

/// Packets that one call of [`Switch::resume`] takes up.
const RESUME_BUDGET: usize = 256;
/// The most injected packets that wait to enter.
pub const MAX_INJECTED: usize = 256;

/// A packet that is to enter one side of a port.
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) port: PortId,
    pub(super) direction: Direction,
    pub(super) ingress: PortId,
    /// It crosses only the layers behind this one.
    pub(super) behind: Option<Name>,
    pub(super) packet: Packet,
    pub(super) reason: Reason,
}

/// Why a packet enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// It came just now.
    Received,
    /// It waited, and what it waited for has changed.
    Answered,
    /// It waited, and what it waited for is said not to be: a miss drops it.
    Refused,
    /// It waited long enough: a miss drops it.
    TimedOut,
    /// A controller sends it.
    Injected,
    /// A controller sends it past the layers.
    InjectedPastLayers,
}

impl Reason {
    const fn has_waited(self) -> bool {
        matches!(self, Reason::Answered | Reason::Refused | Reason::TimedOut)
    }

    /// A controller may be asked for what the packet misses.
    pub(super) const fn may_ask(self) -> bool {
        !matches!(self, Reason::Refused | Reason::TimedOut)
    }
}

/// Which layers of its port an injected packet crosses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Through {
    /// All.
    AllLayers,
    /// Those behind this one: what a controller does with a packet that a rule there gave it.
    LayersBehind(Name),
    /// None.
    NoLayer,
}

/// Why a packet was not injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InjectError {
    /// There is no port with this number; add it first.
    NoSuchPort,
    /// The port has no such layer; look at its policy.
    NoSuchLayer,
    /// The frame is longer than the largest super-frame; send less.
    TooLong,
    /// More than [`MAX_INJECTED`] injected packets wait to enter; try again later.
    QueueFull,
}

impl core::fmt::Display for InjectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            InjectError::NoSuchLayer => f.write_str("the port has no such layer; look at its policy"),
            InjectError::NoSuchPort => f.write_str("there is no port with this number; add it first"),
            InjectError::TooLong => write!(f, "the frame has more than {MAX_FRAME} bytes; send less"),
            InjectError::QueueFull => {
                write!(f, "{MAX_INJECTED} injected packets wait to enter; try again later")
            }
        }
    }
}

impl core::error::Error for InjectError {}

impl Switch {
    /// Says which events somebody listens to. Flows that may have been answered otherwise are resolved again.
    pub fn set_interests(&mut self, interests: Interests) {
        let before = core::mem::replace(&mut self.interests, interests);
        let (misses, punts) = (before.misses != self.interests.misses, before.punts != self.interests.punts);
        for port in self.ports.values_mut() {
            let has_punts = port.program.as_ref().is_some_and(|program| program.has_punts);
            if misses || (punts && has_punts) {
                port.raise_generation();
            }
        }
    }

    /// Sends a controller's frame as if the guest of port `id` had sent it (outbound), or as if it were on its way
    /// to the guest (inbound), through the layers that `through` says; past all of them it goes straight to the network,
    /// by MAC as after the outbound layers, or straight to the NIC. It enters with the next [`Switch::resume`].
    pub fn inject(
        &mut self,
        id: PortId,
        direction: Direction,
        through: Through,
        frame: &[u8],
    ) -> Result<(), InjectError> {
        let port = self.ports.get(&id).ok_or(InjectError::NoSuchPort)?;
        let (behind, reason) = match through {
            Through::AllLayers => (None, Reason::Injected),
            Through::LayersBehind(layer) => (Some(layer), Reason::Injected),
            Through::NoLayer => (None, Reason::InjectedPastLayers),
        };
        let layers = port.program.iter().flat_map(|program| &program.layers);
        if behind.as_ref().is_some_and(|behind| !layers.clone().any(|layer| layer.name == *behind)) {
            return Err(InjectError::NoSuchLayer);
        }
        if frame.len() > MAX_FRAME {
            return Err(InjectError::TooLong);
        }
        if self.injected >= MAX_INJECTED {
            return Err(InjectError::QueueFull);
        }
        self.injected += 1;
        let ingress = match direction {
            Direction::Outbound => id,
            Direction::Inbound => self.fabric.first_uplink().unwrap_or(id),
        };
        let packet = Packet::from_frame(frame);
        self.entering.push_back(Entering { port: id, direction, ingress, behind, packet, reason });
        Ok(())
    }

    /// Lets packets enter that were injected, whose answer came, or that waited long enough; a bounded number per
    /// call. To be called in every breath. True when more are left.
    pub fn resume(&mut self, now: Instant, output: &mut Output) -> bool {
        while let Some(charged) = self.misses.time_out(now, &mut self.entering) {
            self.discharge(charged);
        }
        if self.entering.is_empty() {
            return false;
        }
        let mut scratch = Scratch::default();
        for _ in 0..RESUME_BUDGET {
            let Some(entering) = self.entering.pop_front() else { break };
            output.made += 1;
            if entering.reason.has_waited()
                && let Some(port) = self.ports.get_mut(&entering.port)
            {
                port.asking.packets = port.asking.packets.saturating_sub(1);
                port.asking.bytes = port.asking.bytes.saturating_sub(entering.packet.len());
            }
            if matches!(entering.reason, Reason::Injected | Reason::InjectedPastLayers) {
                self.injected -= 1;
            }
            self.enter_later(now, entering, &mut scratch, output);
        }
        !self.entering.is_empty()
    }

    /// True when [`Switch::resume`] has packets to let in.
    pub fn has_entering(&self, now: Instant) -> bool {
        !self.entering.is_empty() || self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// When [`Switch::resume`] has something to do that no packet brings about.
    pub fn deadline(&self) -> Option<Instant> {
        self.misses.deadline()
    }

    /// The port is no longer charged for a key that was asked for.
    pub(super) fn discharge(&mut self, port: PortId) {
        if let Some(port) = self.ports.get_mut(&port) {
            port.asking.keys = port.asking.keys.saturating_sub(1);
        }
    }
}
