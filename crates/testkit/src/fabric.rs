//! A simulated fabric: several hosts, each one [`Switch`], joined by an underlay on fake time.
//!
//! Theory. Everything that happens is an event of one queue, ordered by time and then by the order in which it was
//! scheduled: a frame that reaches a host, or a timer that the test set. Whatever is random (loss, delay, order,
//! copies, damage, and what the test itself chooses) comes from one generator, so a seed is a whole history; the
//! *transcript*, a running hash of every event and its bytes, tells whether two histories are the same.
//!
//! A link damages a frame as real ones do: by bits that some checksum of the frame sees. Damage that nothing but
//! the link's own check could see (a VXLAN header, a MAC address) makes the link drop the frame.
//!
//! The fabric knows nothing of policy or guests, and never looks at what a switch decides: it carries frames from
//! uplink to uplink by their outer destination MAC, and hands back what reached a guest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use lamina_core::address::MacAddr;
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{Output, PortId, Switch};
use lamina_core::time::{Duration, Instant};

use crate::wire::decode;

/// Small numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.bits() % bound }
    }

    /// True in `permille` of 1,000 cases.
    pub const fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// What links do to frames; each number but the delays is of 1,000 frames.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Frames that vanish.
    pub loss: u64,
    /// Frames that arrive twice.
    pub duplication: u64,
    /// Frames of which a bit is flipped.
    pub corruption: u64,
    /// Frames that are held back, and so overtaken.
    pub reorder: u64,
    /// How long every frame takes at least.
    pub delay: Duration,
    /// How much longer a frame that is held back takes at most.
    pub hold: Duration,
}

impl Faults {
    /// Links that only take `delay`.
    pub const fn none(delay: Duration) -> Self {
        Faults { loss: 0, duplication: 0, corruption: 0, reorder: 0, delay, hold: Duration(0) }
    }
}

/// What links did to frames so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    /// Frames that vanished, those with damage that only the link sees included.
    pub lost: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Frames that went on damaged.
    pub corrupted: u64,
    /// Frames that were held back.
    pub reordered: u64,
}

/// A frame that a guest got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// On which host.
    pub host: usize,
    /// At which port.
    pub port: PortId,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// What happened next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Frames from the network reached a host.
    Arrived {
        /// The host.
        host: usize,
        /// The frames that its uplink received, with the tunnel.
        frames: Vec<Vec<u8>>,
        /// What its guests, or guests behind it, got of them.
        deliveries: Vec<Delivery>,
    },
    /// A timer went off.
    Timer(u64),
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Frame { host: usize, frame: Vec<u8> },
    Timer(u64),
}

struct Host {
    switch: Switch,
    uplink: PortId,
}

/// Hosts and the network between them.
pub struct Fabric {
    hosts: Vec<Host>,
    by_mac: BTreeMap<MacAddr, usize>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    scheduled: u64,
    now: Instant,
    transcript: u64,
    counts: FaultCounts,
    /// What links do now; may be changed at any time.
    pub faults: Faults,
    /// Where everything random comes from.
    pub random: Random,
}

impl Fabric {
    /// A network without hosts.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Fabric {
            hosts: Vec::new(),
            by_mac: BTreeMap::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            now: Instant(1),
            transcript: 0xcbf2_9ce4_8422_2325,
            counts: FaultCounts::default(),
            faults,
            random: Random::new(seed),
        }
    }

    /// Adds a host whose uplink has the MAC `mac`; its number.
    pub fn add_host(&mut self, switch: Switch, uplink: PortId, mac: MacAddr) -> usize {
        self.hosts.push(Host { switch, uplink });
        self.by_mac.insert(mac, self.hosts.len() - 1);
        self.hosts.len() - 1
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The switch of a host.
    pub fn switch(&mut self, host: usize) -> &mut Switch {
        &mut self.hosts[host].switch
    }

    /// What links did so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// The hash of everything that happened so far.
    pub fn transcript(&self) -> u64 {
        self.transcript
    }

    /// Adds `bytes`, under `label`, to the transcript (FNV-1a).
    pub fn record(&mut self, label: u64, bytes: &[u8]) {
        let words = [self.now.0, label, bytes.len() as u64];
        for byte in words.iter().flat_map(|word| word.to_le_bytes()).chain(bytes.iter().copied()) {
            self.transcript = (self.transcript ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Sets a timer: [`Step::Timer`] with `token` comes in `delay`.
    pub fn after(&mut self, delay: Duration, token: u64) {
        self.schedule(self.now + delay, Event::Timer(token));
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, event)));
    }

    /// A guest sends `frame`; what guests of the same host got at once.
    pub fn send(&mut self, host: usize, port: PortId, frame: &[u8]) -> Vec<Delivery> {
        self.record(1 << 32 | u64::from(port.0), frame);
        self.receive(host, port, vec![Packet::from_frame(frame)])
    }

    /// The next event; `None` when nothing is left to happen.
    pub fn step(&mut self) -> Option<Step> {
        let Reverse((at, _, event)) = self.queue.pop()?;
        self.now = at;
        let (host, first) = match event {
            Event::Frame { host, frame } => (host, frame),
            Event::Timer(token) => {
                self.record(2, &token.to_le_bytes());
                return Some(Step::Timer(token));
            }
        };
        let mut frames = vec![first];
        while let Some(Reverse((next, _, Event::Frame { host: other, .. }))) = self.queue.peek()
            && (*next, *other) == (at, host)
        {
            if let Some(Reverse((_, _, Event::Frame { frame, .. }))) = self.queue.pop() {
                frames.push(frame);
            }
        }
        let uplink = self.hosts[host].uplink;
        let batch: Batch = frames.iter().map(|frame| Packet::from_frame(frame)).collect();
        let deliveries = self.receive(host, uplink, batch);
        Some(Step::Arrived { host, frames, deliveries })
    }

    /// Runs a batch through a host's switch: frames for guests are returned, frames for the network go on their way.
    fn receive(&mut self, host: usize, from: PortId, mut batch: Batch) -> Vec<Delivery> {
        let received = batch.len();
        let mut output = Output::default();
        let Host { switch, uplink } = &mut self.hosts[host];
        let uplink = *uplink;
        switch.receive(self.now, from, &mut batch, &mut output);
        assert!(batch.is_empty(), "the switch took the whole batch");
        assert_eq!(output.transmit.len() + output.free.len(), received, "no buffer is lost or made");
        let mut deliveries = Vec::new();
        for (port, packet) in output.transmit {
            let frame = packet.frame().to_vec();
            self.record(3 << 32 | u64::from(port.0), &frame);
            if port == uplink {
                self.carry(frame);
            } else {
                deliveries.push(Delivery { host, port, frame });
            }
        }
        deliveries
    }

    /// Sends a frame over the underlay.
    fn carry(&mut self, mut frame: Vec<u8>) {
        let dst = frame.first_chunk::<6>().map(|bytes| MacAddr(*bytes));
        let host = *dst.and_then(|mac| self.by_mac.get(&mac)).expect("the underlay knows every next hop");
        let faults = self.faults;
        if self.random.chance(faults.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.random.chance(faults.corruption) {
            let bit = self.random.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
            if decode(&frame).is_ok_and(|decoded| decoded.problems().is_empty()) {
                self.counts.lost += 1;
                return;
            }
            self.counts.corrupted += 1;
        }
        let copies = if self.random.chance(faults.duplication) { 2 } else { 1 };
        self.counts.duplicated += copies - 1;
        for _ in 0..copies {
            let mut at = self.now + faults.delay;
            if self.random.chance(faults.reorder) {
                self.counts.reordered += 1;
                at = at + Duration(self.random.below(faults.hold.0));
            }
            self.schedule(at, Event::Frame { host, frame: frame.clone() });
        }
    }
}
