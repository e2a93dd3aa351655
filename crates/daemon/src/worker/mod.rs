//! The thread that drives one switch: receive, process, transmit, and sleep when there is nothing to do (§11).
//!
//! A worker owns a [`Switch`], the backends of its ports, and a pool of buffers; nobody else touches them, so there is
//! no lock in the packet path. Others reach it through a mailbox of commands ([`Handle`]), closures that the worker
//! runs between batches. It *breathes*: one breath reads the clock once, takes commands, receives from every port
//! in turn, processes, transmits, and runs timers. As long as packets come it breathes without pause; after a few
//! empty breaths it sleeps in `ppoll` on all its ports, its mailbox and its next timer.
//!
//! | file | is |
//! | --- | --- |
//! | `mod` | the worker and its breath |
//! | `ports` | the backends and what waits to be sent by them |
//! | `capture` | captured packets on their way to another thread |
//! | `events` | events on their way to other threads |
//! | `mailbox` | commands from other threads |
//! | `peers` | packets to and from other workers, and the flip of policy on all of them |
//! | `doze` | whether it sleeps, for others to know |
//! | `sleep` | waiting for any of it |
//! | `thread` | the thread, and the handle that others hold |
//!
//! The worker must never wait for anything but new work, and must never lose a buffer: what is received is sent,
//! consumed or dropped by the switch, and comes back to the pool in the same breath.

mod capture;
mod doze;
mod events;
mod mailbox;
pub(crate) mod peers;
mod ports;
mod sleep;
pub(crate) mod thread;

pub use capture::{CaptureReader, CaptureWriter, CapturedPacket, capture_ring};
pub use events::{EventReceiver, EventSender, event_ring};
pub use mailbox::{Command, SendError, Sender};
pub use ports::{PortError, Ports};
pub use thread::{CallError, Handle, spawn};

use std::fmt;
use std::net::IpAddr;

use lamina_backend::PacketPool;
use lamina_core::drop_reason::DropReason;
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{Handover, Output, PortId, Switch, SwitchConfig};
use lamina_core::time::{Duration, Instant};

use self::mailbox::Mailbox;
use self::peers::{Arrivals, Peers};
use self::sleep::Sleeper;

/// Packets received from one port before the next port has its turn.
const RECEIVE_LIMIT: usize = 32;
/// Copies that mirrors may make of the packets of one such batch.
const COPIES: usize = 4 * RECEIVE_LIMIT;
/// Commands run in one breath, so that a burst of them does not hold up packets.
const COMMANDS_PER_BREATH: usize = 16;
/// Commands that may wait.
const MAILBOX_CAPACITY: usize = 256;
/// Timers of the switch run this often while there is traffic,
const SWEEP_BUSY: Duration = Duration::from_milliseconds(100);
/// and this often while there is none.
const SWEEP_IDLE: Duration = Duration::from_seconds(1);

/// What a worker needs to know once.
pub struct WorkerConfig {
    /// The switch's.
    pub switch: SwitchConfig,
    /// Packet buffers; all ports together hold no more. Each can take a 64 KB super-frame, but uses real memory
    /// only as far as frames have filled it.
    pub buffers: usize,
    /// When to sleep.
    pub polling: Polling,
    /// Told the underlay addresses whose next hop must be resolved. Must not block; it is told again with every
    /// packet until the switch's underlay knows the address.
    pub resolve: Option<Box<dyn FnMut(IpAddr) + Send>>,
    /// Where events go; without, they are discarded.
    pub events: Option<EventSender>,
}

impl WorkerConfig {
    /// Adaptive polling, 1024 buffers, nobody to resolve next hops.
    pub fn new(switch: SwitchConfig) -> Self {
        WorkerConfig { switch, buffers: 1024, polling: Polling::default(), resolve: None, events: None }
    }
}

/// How a worker waits for packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polling {
    /// Never sleeps: the lowest latency, for a whole core.
    Busy,
    /// Sleeps after this many empty breaths in a row. 0 sleeps at once.
    Adaptive(u32),
}

impl Default for Polling {
    /// Few: on a machine with few cores the guests need the time that polling takes.
    fn default() -> Self {
        Polling::Adaptive(8)
    }
}

/// A switch, its ports' backends, and the loop that joins them.
pub struct Worker {
    switch: Switch,
    ports: Ports,
    pool: PacketPool,
    mailbox: Mailbox,
    sleeper: Sleeper,
    polling: Polling,
    resolve: Option<Box<dyn FnMut(IpAddr) + Send>>,
    events: Option<EventSender>,
    received: Batch,
    /// What other workers handed over in this breath.
    handed: Vec<Handover>,
    output: Output,
    /// The port that is asked first in the next breath.
    first: usize,
    next_sweep: Instant,
    had_traffic: bool,
}

impl Worker {
    /// A worker without ports, and the way to send it commands.
    pub fn new(config: WorkerConfig) -> std::io::Result<(Worker, Sender)> {
        let (mailbox, sender) = mailbox::mailbox(MAILBOX_CAPACITY)?;
        let worker = Worker {
            switch: Switch::new(config.switch),
            ports: Ports::default(),
            pool: PacketPool::for_super_frames(config.buffers),
            mailbox,
            sleeper: Sleeper::default(),
            polling: config.polling,
            resolve: config.resolve,
            events: config.events,
            received: Batch::with_capacity(RECEIVE_LIMIT),
            handed: Vec::new(),
            output: Output::default(),
            first: 0,
            next_sweep: Instant(0),
            had_traffic: false,
        };
        Ok((worker, sender))
    }

    /// The switch and its ports' backends.
    pub fn parts(&mut self) -> (&mut Switch, &mut Ports) {
        (&mut self.switch, &mut self.ports)
    }

    /// One breath at `now`. True when there was something to do, so another breath should follow at once.
    pub fn breathe(&mut self, now: Instant) -> bool {
        self.ports.set_now(now);
        let mut is_busy = self.flip(now) | self.run_commands();
        // Right after the commands: what they answered must not be overtaken by what arrives now.
        if self.switch.has_entering(now) {
            self.lend();
            is_busy |= self.switch.resume(now, &mut self.output);
        }
        self.dispatch(now);
        is_busy |= self.accept(now, Peers::limit());
        let count = self.ports.len();
        self.first = if self.first + 1 < count { self.first + 1 } else { 0 };
        for turn in 0..count {
            is_busy |= self.serve((self.first + turn) % count, now);
        }
        self.ports.peers.rouse();
        self.ports.transmit(now, &mut self.pool, &mut self.switch);
        self.had_traffic |= is_busy;
        if now >= self.next_sweep {
            self.switch.sweep(now);
            self.next_sweep = now + if self.had_traffic { SWEEP_BUSY } else { SWEEP_IDLE };
            self.had_traffic = false;
        }
        is_busy
    }

    fn run_commands(&mut self) -> bool {
        for number in 0..COMMANDS_PER_BREATH {
            let Some(command) = self.mailbox.next() else { return number > 0 };
            self.ports.set_buffers_in_use(self.pool.in_use());
            command(&mut self.switch, &mut self.ports);
            self.ports.recycle(&mut self.pool);
        }
        true
    }

    /// Receives from the port at `place` and processes what came. False when nothing did.
    fn serve(&mut self, place: usize, now: Instant) -> bool {
        let Some(from) = self.ports.receive(place, now, &mut self.pool, &mut self.received, RECEIVE_LIMIT)
        else {
            return false;
        };
        self.lend();
        self.switch.receive(now, from, &mut self.received, &mut self.output);
        self.dispatch(now);
        true
    }

    /// Installs the programs that are due, after what other workers handed over under the old ones.
    fn flip(&mut self, now: Instant) -> bool {
        if !self.ports.peers.is_flip_due() {
            return false;
        }
        self.accept(now, self.ports.peers.all());
        self.ports.peers.flip(&mut self.switch);
        true
    }

    /// Processes what other workers handed over, up to `limit` packets of each.
    fn accept(&mut self, now: Instant, limit: usize) -> bool {
        let mut arrivals =
            Arrivals { deliveries: &mut self.handed, transmissions: &mut self.output.transmit };
        if !self.ports.peers.receive(limit, &mut self.pool, &mut arrivals) {
            return false;
        }
        self.lend();
        self.switch.accept(now, &mut self.handed, &mut self.output);
        self.dispatch(now);
        true
    }

    /// Takes what the switch put out to backends, other workers, readers of events and the pool.
    fn dispatch(&mut self, now: Instant) {
        let Output { transmit, elsewhere, free, spare, made, resolve, events } = &mut self.output;
        self.pool.count_made(std::mem::take(made));
        for (to, packet) in transmit.drain(..) {
            if let Err(packet) = self.ports.queue(to, packet) {
                Self::transmit_elsewhere(&mut self.ports, &mut self.pool, &mut self.switch, to, packet);
            }
        }
        for handover in elsewhere.drain(..) {
            let ingress = handover.ingress;
            if let Err(packet) = self.ports.peers.deliver(handover, &mut self.pool) {
                self.switch.count_drop(ingress, DropReason::HandoverFull);
                self.pool.give(packet);
            }
        }
        self.pool.give_all(free);
        self.pool.give_all(spare);
        if let Some(tell) = &mut self.resolve {
            resolve.iter().for_each(|address| tell(*address));
        }
        resolve.clear();
        match &mut self.events {
            Some(sender) => sender.send(events),
            None => drop(events.drain()),
        }
        if self.ports.should_transmit() {
            self.ports.transmit(now, &mut self.pool, &mut self.switch);
        }
    }

    /// Sends a packet by a port or uplink whose backend is not here.
    #[cold]
    fn transmit_elsewhere(
        ports: &mut Ports,
        pool: &mut PacketPool,
        switch: &mut Switch,
        to: PortId,
        packet: Packet,
    ) {
        let is_known = ports.peers.owns(to);
        if let Err(packet) = ports.peers.transmit(to, packet, pool) {
            let reason = if is_known { DropReason::HandoverFull } else { DropReason::PortNotReady };
            switch.count_drop(to, reason);
            pool.give(packet);
        }
    }

    /// Lends the switch buffers where mirrors may need them: never more than half of those that are left, which are for
    /// receiving.
    fn lend(&mut self) {
        if !self.switch.has_mirrors() {
            return;
        }
        for _ in 0..COPIES.min(self.pool.available() / 2) {
            self.output.spare.extend(self.pool.take());
        }
    }

    /// Breathes until the mailbox is told to stop, sleeping between; `clock` is read once per breath and after
    /// each sleep.
    pub fn run(&mut self, mut clock: impl FnMut() -> Instant) {
        let mut empty_breaths = 0;
        while !self.mailbox.is_stopped() {
            let now = clock();
            if self.breathe(now) {
                empty_breaths = 0;
                continue;
            }
            let Polling::Adaptive(limit) = self.polling else { continue };
            empty_breaths += 1;
            if empty_breaths > limit {
                self.mailbox.doze();
                if !self.ports.peers.has_parcels() {
                    let timer = self.switch.deadline().map_or(self.next_sweep, |at| at.min(self.next_sweep));
                    self.sleeper.sleep(now, timer, &mut self.ports, &mut self.mailbox);
                }
                self.mailbox.wake();
                empty_breaths = 0;
            }
        }
    }

    /// Buffers that are out of the pool: between breaths, those that wait inside backends.
    pub fn buffers_in_use(&self) -> usize {
        self.pool.in_use()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("ports", &self.ports)
            .field("polling", &self.polling)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
