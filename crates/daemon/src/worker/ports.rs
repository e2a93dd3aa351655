//! The backends of a worker's ports and uplinks, and the packets that wait to be sent by them within a breath.
//!
//! Packets for one port collect into a batch, since a system call for each would cost more than the packet. The
//! batches are sent when the breath ends, or earlier when so many bytes wait that they would leave the cache.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::BorrowedFd;

use lamina_backend::{Backend, Capabilities, PacketPool, Statistics};
use lamina_core::drop_reason::DropReason;
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{PortId, Switch};
use lamina_core::time::{Duration, Instant};

use super::peers::Peers;

/// Bytes that may wait before they are sent without waiting for the end of the breath.
const TRANSMIT_BYTES: usize = 512 << 10;
/// Packets that may wait for one port.
const TRANSMIT_PACKETS: usize = 64;
/// A backend whose file reports an error without giving packets is not slept on for this long: its file would
/// end every sleep at once.
const MUTE: Duration = Duration::from_milliseconds(100);
/// How often a backend without a file is asked while the worker sleeps.
const ASK_AGAIN: Duration = Duration::from_milliseconds(1);

/// Backends by port.
#[derive(Default)]
pub struct Ports {
    attached: Vec<Attached>,
    /// Place of each port in `attached`.
    places: HashMap<PortId, usize>,
    waiting_packets: usize,
    waiting_bytes: usize,
    any_port_full: bool,
    /// When the breath began.
    now: Instant,
    /// Buffers of backends that were detached, on their way to the pool.
    orphans: Batch,
    /// Buffers of the worker's that were out of its pool when the last command came.
    buffers_in_use: usize,
    pub(super) peers: Peers,
}

struct Attached {
    id: PortId,
    backend: Box<dyn Backend>,
    outgoing: Batch,
    muted_until: Option<Instant>,
}

/// Why a backend was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortError {
    /// The port already has a backend; detach that one first.
    AlreadyAttached,
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortError::AlreadyAttached => {
                f.write_str("the port already has a backend; detach that one first")
            }
        }
    }
}

impl std::error::Error for PortError {}

impl Ports {
    /// Makes `backend` the one that port or uplink `id` receives from and sends by. The switch must know `id`
    /// too, or all it receives is dropped.
    pub fn attach(&mut self, id: PortId, backend: Box<dyn Backend>) -> Result<(), PortError> {
        if self.places.contains_key(&id) {
            return Err(PortError::AlreadyAttached);
        }
        self.places.insert(id, self.attached.len());
        self.attached.push(Attached { id, backend, outgoing: Batch::new(), muted_until: None });
        Ok(())
    }

    /// Takes the backend of `id` away. What the switch then sends to `id` is dropped and counted as
    /// `port-not-ready`.
    pub fn detach(&mut self, id: PortId) -> Option<Box<dyn Backend>> {
        let place = self.places.remove(&id)?;
        let mut gone = self.attached.swap_remove(place);
        if let Some(moved) = self.attached.get(place) {
            self.places.insert(moved.id, place);
        }
        self.orphans.append(&mut gone.outgoing);
        Some(gone.backend)
    }

    /// Says that the backend of `id` is with another worker of the host: what the switch sends there is handed over.
    pub fn set_owner(&mut self, id: PortId, worker: usize) {
        self.peers.set_owner(id, worker);
    }

    /// Takes back what [`Ports::set_owner`] said.
    pub fn forget_owner(&mut self, id: PortId) {
        self.peers.forget_owner(id);
    }

    /// Buffers of this worker that hold packets: in its backends, or waiting.
    pub fn buffers_in_use(&self) -> usize {
        self.buffers_in_use
    }

    pub(super) fn set_buffers_in_use(&mut self, count: usize) {
        self.buffers_in_use = count;
    }

    /// The ports and uplinks that have a backend.
    pub fn ids(&self) -> impl Iterator<Item = PortId> + '_ {
        self.attached.iter().map(|port| port.id)
    }

    /// Counters of the backend of `id`.
    pub fn statistics(&mut self, id: PortId) -> Option<Statistics> {
        let place = *self.places.get(&id)?;
        Some(self.attached.get_mut(place)?.backend.statistics())
    }

    /// What the backend of `id` can do.
    pub fn capabilities(&self, id: PortId) -> Option<Capabilities> {
        Some(self.attached.get(*self.places.get(&id)?)?.backend.capabilities())
    }

    /// The time of the breath, for commands: the clock by which the switch knows its flows.
    pub fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn len(&self) -> usize {
        self.attached.len()
    }

    pub(super) fn recycle(&mut self, pool: &mut PacketPool) {
        pool.give_all(&mut self.orphans);
    }

    /// Receives from the port at `place`; tells which port that is when something came.
    pub(super) fn receive(
        &mut self,
        place: usize,
        now: Instant,
        pool: &mut PacketPool,
        batch: &mut Batch,
        limit: usize,
    ) -> Option<PortId> {
        let port = self.attached.get_mut(place)?;
        let count = port.backend.receive(now, pool, batch, limit);
        (count > 0).then_some(port.id)
    }

    /// Queues `packet` to be sent by `to`; it comes back when `to` has no backend here.
    pub(super) fn queue(&mut self, to: PortId, packet: Packet) -> Result<(), Packet> {
        let Some(port) = self.places.get(&to).and_then(|place| self.attached.get_mut(*place)) else {
            return Err(packet);
        };
        self.waiting_packets += 1;
        self.waiting_bytes += packet.len();
        port.outgoing.push(packet);
        self.any_port_full |= port.outgoing.len() >= TRANSMIT_PACKETS;
        Ok(())
    }

    pub(super) fn should_transmit(&self) -> bool {
        self.any_port_full || self.waiting_bytes >= TRANSMIT_BYTES
    }

    /// Sends all that waits; what cannot be sent is counted as dropped at its port.
    pub(super) fn transmit(&mut self, now: Instant, pool: &mut PacketPool, switch: &mut Switch) {
        if self.waiting_packets == 0 {
            return;
        }
        self.waiting_packets = 0;
        self.waiting_bytes = 0;
        self.any_port_full = false;
        for port in self.attached.iter_mut().filter(|port| !port.outgoing.is_empty()) {
            let outcome = port.backend.transmit(now, pool, &mut port.outgoing);
            for (count, reason) in [
                (outcome.queue_full, DropReason::TransmitQueueFull),
                (outcome.failed, DropReason::TransmitFailed),
            ] {
                (0..count).for_each(|_| switch.count_drop(port.id, reason));
            }
        }
    }

    /// When some backend wants to be asked again whatever its file says.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.attached
            .iter()
            .filter_map(|port| {
                let ask = port.backend.as_fd().is_none().then_some(now + ASK_AGAIN);
                [ask, port.backend.deadline(), port.muted_until].into_iter().flatten().min()
            })
            .min()
    }

    /// The file of each backend that has one and is not muted, with its place.
    pub(super) fn files(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.attached
            .iter()
            .enumerate()
            .filter(|(_, port)| port.muted_until.is_none())
            .filter_map(|(place, port)| Some((place, port.backend.as_fd()?)))
    }

    /// Notes that the file at `place` reported an error, so that the next sleep does without it.
    pub(super) fn mute(&mut self, place: usize, now: Instant) {
        if let Some(port) = self.attached.get_mut(place) {
            port.muted_until = Some(now + MUTE);
        }
    }

    /// Listens again to what was muted long enough ago.
    pub(super) fn unmute(&mut self, now: Instant) {
        for port in &mut self.attached {
            port.muted_until = port.muted_until.filter(|until| *until > now);
        }
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.attached.iter().map(|port| (port.id, &port.backend))).finish()
    }
}
