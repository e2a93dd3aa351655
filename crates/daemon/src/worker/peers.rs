//! The other workers of the host: rings to hand packets over, and the flip by which policy changes on all at once.
//!
//! Theory. Between two workers runs, for each way, a ring of *parcels* and, against it, a ring of empty buffers. Who
//! takes a parcel out pays for it with an empty buffer of its own pool, which goes back to the sender's. So each pool's
//! books stay right without a word between the pools: the sender counts the buffer as in use until its payment is there,
//! the receiver counts the parcel's buffer in place of the one it paid with. A sender lets no more parcels be unpaid
//! than the ring holds; what comes beyond is dropped and counted (`handover-full`). All rings of a worker together hold
//! at most half of its pool, so two workers that send to each other cannot both run out of buffers to pay with.
//!
//! A flip is one number, the *epoch*, that all workers read at the start of each breath. When it has risen, the worker
//! takes the programs that were put down for it and installs them before it looks at any packet. A parcel carries the
//! epoch under which it was decided: one that is newer than the receiver's stays in the ring for a breath, and what lies
//! in the rings when the epoch rises is processed first, under the programs it was sent under.
//!
//! Nothing here may wait for another worker.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_backend::PacketPool;
use lamina_core::flow::Direction;
use lamina_core::layer::Program;
use lamina_core::packet::Packet;
use lamina_core::switch::{Handover, Installed, PortId, PublishError, Switch};
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use super::Worker;
use super::mailbox::Bell;

/// Parcels taken from one worker in one breath.
const PARCELS_PER_BREATH: usize = 64;

/// A packet on its way to another worker.
struct Parcel {
    /// The sender's epoch when it decided what becomes of the packet.
    epoch: u64,
    to: PortId,
    errand: Errand,
    packet: Packet,
}

/// What the other worker is to do with a packet.
#[derive(Clone, Copy)]
enum Errand {
    /// Bring it into this side of the port.
    Deliver { direction: Direction, ingress: PortId },
    /// Send it by the uplink as it is.
    Transmit,
}

/// One worker's side of the rings between it and another.
struct Link {
    bell: Arc<Bell>,
    outgoing: Producer<Parcel>,
    payments: Consumer<Packet>,
    incoming: Consumer<Parcel>,
    pays: Producer<Packet>,
    /// Parcels sent and not paid for yet.
    unpaid: usize,
    /// Something was sent in this breath.
    is_news: bool,
}

/// The programs put down for one worker until the epoch rises.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Option<Stage>>);

/// What became of the programs of a [`Stage`], by port.
pub(crate) type Installations = Vec<(PortId, Result<Installed, PublishError>)>;

/// Programs to install together.
pub(crate) struct Stage {
    /// The epoch with which they are due.
    pub(crate) epoch: u64,
    /// By port, all of the worker that they are put down for.
    pub(crate) programs: Vec<(PortId, Arc<Program>)>,
    /// Told what was installed, with the number of the worker.
    pub(crate) done: SyncSender<(usize, Installations)>,
    /// The worker's number.
    pub(crate) worker: usize,
}

/// What one worker knows of the others.
#[derive(Default)]
pub(super) struct Peers {
    /// By worker number; `None` for the worker itself.
    links: Vec<Option<Link>>,
    /// The owner of each port and uplink that is another worker's.
    owners: HashMap<PortId, usize>,
    epoch: Arc<AtomicU64>,
    /// The epoch that this worker is at.
    at: u64,
    shelf: Arc<Shelf>,
}

/// What takes parcels: the deliveries go to the switch, the rest to the uplinks.
pub(super) struct Arrivals<'a> {
    pub(super) deliveries: &'a mut Vec<Handover>,
    pub(super) transmissions: &'a mut Vec<(PortId, Packet)>,
}

/// What the host keeps of the workers it made with [`connect`], to flip policy on them.
pub(crate) struct Flipper {
    epoch: Arc<AtomicU64>,
    shelves: Vec<Arc<Shelf>>,
}

/// Joins workers, whose pools have `buffers` buffers each, by rings of at most `capacity` parcels each way.
pub(crate) fn connect(workers: &mut [Worker], capacity: usize, buffers: usize) -> Flipper {
    let count = workers.len();
    let capacity = capacity.min(buffers / 2 / count.saturating_sub(1).max(1)).max(1);
    let epoch = Arc::new(AtomicU64::new(0));
    for (number, worker) in workers.iter_mut().enumerate() {
        worker.ports.peers.links = (0..count).map(|_| None).collect();
        worker.ports.peers.epoch = epoch.clone();
        debug_assert!(worker.pool.available() >= capacity, "worker {number} has fewer buffers");
    }
    for a in 0..count {
        for b in a + 1..count {
            let (to_b, from_a) = RingBuffer::new(capacity);
            let (to_a, from_b) = RingBuffer::new(capacity);
            let (pays_b, paid_by_a) = RingBuffer::new(capacity);
            let (pays_a, paid_by_b) = RingBuffer::new(capacity);
            let bells = [a, b].map(|number| workers[number].mailbox.bell());
            let [bell_a, bell_b] = bells;
            let link = |bell, outgoing, payments, incoming, pays| {
                Some(Link { bell, outgoing, payments, incoming, pays, unpaid: 0, is_news: false })
            };
            workers[a].ports.peers.links[b] = link(bell_b, to_b, paid_by_b, from_b, pays_b);
            workers[b].ports.peers.links[a] = link(bell_a, to_a, paid_by_a, from_a, pays_a);
        }
    }
    Flipper { epoch, shelves: workers.iter().map(|worker| worker.ports.peers.shelf.clone()).collect() }
}

impl Flipper {
    /// The epoch after the present one.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire) + 1
    }

    /// Puts programs down for the worker that the stage names. Nothing happens before [`Flipper::raise`].
    pub(crate) fn stage(&self, stage: Stage) {
        if let Some(shelf) = self.shelves.get(stage.worker) {
            *shelf.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stage);
        }
    }

    /// Makes every worker install what was put down for it when it next breathes.
    pub(crate) fn raise(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }
}

impl Peers {
    pub(super) fn set_owner(&mut self, id: PortId, worker: usize) {
        self.owners.insert(id, worker);
    }

    pub(super) fn forget_owner(&mut self, id: PortId) {
        self.owners.remove(&id);
    }

    /// True when the epoch has risen since this worker last installed.
    pub(super) fn is_flip_due(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != self.at
    }

    /// Installs what was put down for this worker.
    pub(super) fn flip(&mut self, switch: &mut Switch) {
        // The host puts programs down only before it raises the epoch, so that nobody holds the lock now.
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut shelf = self.shelf.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = shelf.take_if(|stage| stage.epoch <= epoch) {
            let installed =
                stage.programs.into_iter().map(|(id, program)| (id, switch.install(id, program))).collect();
            // Nobody listens any more when the host gave up.
            let _ = stage.done.try_send((stage.worker, installed));
        }
        drop(shelf);
        self.at = epoch;
    }

    /// Hands over a packet for a port of another worker.
    pub(super) fn deliver(&mut self, handover: Handover, pool: &mut PacketPool) -> Result<(), Packet> {
        let Handover { to, direction, ingress, packet } = handover;
        self.send(to, Errand::Deliver { direction, ingress }, packet, pool)
    }

    /// Hands over a packet that is to leave by an uplink of another worker as it is.
    pub(super) fn transmit(
        &mut self,
        by: PortId,
        packet: Packet,
        pool: &mut PacketPool,
    ) -> Result<(), Packet> {
        self.send(by, Errand::Transmit, packet, pool)
    }

    /// True when port or uplink `id` is another worker's.
    pub(super) fn owns(&self, id: PortId) -> bool {
        self.owners.contains_key(&id)
    }

    /// The packet comes back when there is no such owner, its ring is full, or `pool` has no buffer for a packet that
    /// was made elsewhere.
    fn send(
        &mut self,
        to: PortId,
        errand: Errand,
        packet: Packet,
        pool: &mut PacketPool,
    ) -> Result<(), Packet> {
        let link = self.owners.get(&to).and_then(|owner| self.links.get_mut(*owner)?.as_mut());
        let Some(link) = link else { return Err(packet) };
        if link.unpaid >= link.outgoing.buffer().capacity() {
            link.collect(pool);
            if link.unpaid >= link.outgoing.buffer().capacity() {
                return Err(packet);
            }
        }
        let packet = pool.adopt(packet)?;
        let parcel = Parcel { epoch: self.at, to, errand, packet };
        match link.outgoing.push(parcel) {
            Ok(()) => {
                link.unpaid += 1;
                link.is_news = true;
                Ok(())
            }
            Err(PushError::Full(parcel)) => Err(parcel.packet),
        }
    }

    /// Takes parcels of every other worker, up to `limit` each, and what they paid.
    pub(super) fn receive(
        &mut self,
        limit: usize,
        pool: &mut PacketPool,
        arrivals: &mut Arrivals<'_>,
    ) -> bool {
        let at = self.at;
        let mut any = false;
        for link in self.links.iter_mut().flatten() {
            link.collect(pool);
            for _ in 0..limit {
                let is_due = link.incoming.peek().is_ok_and(|parcel| parcel.epoch <= at);
                if !is_due {
                    break;
                }
                let Some(payment) = pool.take() else { break };
                // It holds as many as there can be unpaid parcels.
                if let Err(PushError::Full(payment)) = link.pays.push(payment) {
                    pool.give(payment);
                    break;
                }
                let Ok(Parcel { to, errand, packet, .. }) = link.incoming.pop() else { break };
                any = true;
                match errand {
                    Errand::Deliver { direction, ingress } => {
                        arrivals.deliveries.push(Handover { to, direction, ingress, packet });
                    }
                    Errand::Transmit => arrivals.transmissions.push((to, packet)),
                }
            }
        }
        any
    }

    /// What [`Peers::receive`] is to take in an ordinary breath.
    pub(super) const fn limit() -> usize {
        PARCELS_PER_BREATH
    }

    /// As much as the rings can hold.
    pub(super) fn all(&self) -> usize {
        self.links.iter().flatten().map(|link| link.incoming.buffer().capacity()).max().unwrap_or(0)
    }

    /// Wakes the workers that something was sent to in this breath.
    pub(super) fn rouse(&mut self) {
        for link in self.links.iter_mut().flatten() {
            if std::mem::take(&mut link.is_news) {
                link.bell.rouse();
            }
        }
    }

    /// True when a parcel waits.
    pub(super) fn has_parcels(&self) -> bool {
        self.links.iter().flatten().any(|link| !link.incoming.is_empty())
    }
}

impl Link {
    fn collect(&mut self, pool: &mut PacketPool) {
        while let Ok(payment) = self.payments.pop() {
            self.unpaid -= 1;
            pool.give(payment);
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("owners", &self.owners).field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
