//! A backend made unreliable on purpose: loss, delay, reordering, duplication, corruption.
//!
//! All choices come from one seed and time is what the caller says, so a failing run repeats exactly. Packets that
//! wait (delayed, or held back so that later ones overtake) sit in a heap ordered by their due time; the heap is
//! bounded, and what does not fit is lost and counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::BorrowedFd;

use lamina_core::packet::{Batch, Packet};
use lamina_core::time::{Duration, Instant};

use crate::backend::{Backend, BackendDrop, Capabilities, Statistics, Transmitted};
use crate::pool::PacketPool;

/// One in a million.
pub const MILLION: u32 = 1_000_000;

/// How often and how badly; probabilities are in millionths per packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// The packet vanishes.
    pub loss: u32,
    /// The packet arrives twice.
    pub duplicate: u32,
    /// One bit of the frame is flipped.
    pub corrupt: u32,
    /// The packet is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: u32,
    /// How long a reordered packet is held back.
    pub reorder_by: Duration,
    /// Every packet takes at least this long.
    pub delay: Duration,
    /// And up to this much longer, evenly spread. More than the gap between packets reorders them too.
    pub jitter: Duration,
}

/// `inner` with faults in each direction.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    random: Random,
    inbound: Lane,
    outbound: Lane,
    received: Batch,
    due: Batch,
    injected: u64,
}

/// One direction: its faults and the packets that wait.
#[derive(Debug)]
struct Lane {
    faults: Faults,
    waiting: BinaryHeap<Reverse<Waiting>>,
    limit: usize,
    sequence: u64,
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    /// Ties are broken by arrival, so that without jitter order is kept.
    sequence: u64,
    packet: Packet,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.sequence) == (other.due, other.sequence)
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl<B: Backend> Faulty<B> {
    /// Wraps `inner`. `receive` and `transmit` say what happens on the way in and out; at most `limit` packets wait
    /// in each direction.
    pub fn new(inner: B, seed: u64, receive: Faults, transmit: Faults, limit: usize) -> Self {
        let lane = |faults| Lane { faults, waiting: BinaryHeap::with_capacity(limit), limit, sequence: 0 };
        Faulty {
            inner,
            random: Random(seed),
            inbound: lane(receive),
            outbound: lane(transmit),
            received: Batch::new(),
            due: Batch::new(),
            injected: 0,
        }
    }

    /// Changes the faults from now on; packets that wait keep their time.
    pub fn set_faults(&mut self, receive: Faults, transmit: Faults) {
        self.inbound.faults = receive;
        self.outbound.faults = transmit;
    }

    /// The backend without faults. Packets that still wait are lost.
    pub fn into_inner(self) -> B {
        self.inner
    }

    /// Sends what is due.
    fn flush(&mut self, now: Instant, pool: &mut PacketPool) -> Transmitted {
        self.outbound.release(now, usize::MAX, &mut self.due);
        if self.due.is_empty() {
            return Transmitted::default();
        }
        self.inner.transmit(now, pool, &mut self.due)
    }
}

impl Lane {
    /// Decides the fate of `packet`; returns how many packets were lost.
    fn admit(&mut self, now: Instant, random: &mut Random, pool: &mut PacketPool, mut packet: Packet) -> u64 {
        let faults = self.faults;
        if random.happens(faults.loss) {
            pool.give(packet);
            return 1;
        }
        let mut lost = 0;
        if random.happens(faults.duplicate)
            && let Some(mut copy) = pool.take()
        {
            let length = packet.len();
            if let Some(area) = copy.reset().get_mut(..length) {
                area.copy_from_slice(packet.frame());
                copy.set_len(length);
                copy.offload = packet.offload;
                lost += self.hold(now, random, pool, copy);
            } else {
                pool.give(copy);
            }
        }
        if random.happens(faults.corrupt) && !packet.is_empty() {
            let bit = random.below(packet.len() as u64 * 8);
            packet.frame_mut()[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        lost + self.hold(now, random, pool, packet)
    }

    fn hold(&mut self, now: Instant, random: &mut Random, pool: &mut PacketPool, packet: Packet) -> u64 {
        if self.waiting.len() >= self.limit {
            pool.give(packet);
            return 1;
        }
        let mut due = now + self.faults.delay;
        if self.faults.jitter.0 > 0 {
            due = due + Duration(random.below(self.faults.jitter.0.saturating_add(1)));
        }
        if random.happens(self.faults.reorder) {
            due = due + self.faults.reorder_by;
        }
        self.sequence += 1;
        self.waiting.push(Reverse(Waiting { due, sequence: self.sequence, packet }));
        0
    }

    /// Moves what is due to `batch`, at most `limit` packets.
    fn release(&mut self, now: Instant, limit: usize, batch: &mut Batch) -> usize {
        let mut count = 0;
        while count < limit && self.waiting.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(first)) = self.waiting.pop() else { break };
            batch.push(first.packet);
            count += 1;
        }
        count
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(first)| first.due)
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn receive(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        self.flush(now, pool);
        let mut received = std::mem::take(&mut self.received);
        self.inner.receive(now, pool, &mut received, limit);
        for packet in received.drain(..) {
            self.injected += self.inbound.admit(now, &mut self.random, pool, packet);
        }
        self.received = received;
        self.inbound.release(now, limit, batch)
    }

    /// A packet that was lost or waits counts as sent, as it would on a real link.
    fn transmit(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        let taken = batch.len();
        for packet in batch.drain(..) {
            self.injected += self.outbound.admit(now, &mut self.random, pool, packet);
        }
        let now_refused = self.flush(now, pool);
        let refused = (now_refused.queue_full + now_refused.failed).min(taken);
        Transmitted { sent: taken - refused, ..now_refused }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        [self.inbound.next_due(), self.outbound.next_due(), self.inner.deadline()].into_iter().flatten().min()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn statistics(&mut self) -> Statistics {
        let mut statistics = self.inner.statistics();
        statistics.drops[BackendDrop::Injected] += self.injected;
        statistics
    }
}

/// SplitMix64: small, seeded, good enough to choose victims. Not for anything an attacker may guess.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly below `bound`, which must not be 0; the bias of the multiplication is below 2^-32 here.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn happens(&mut self, millionths: u32) -> bool {
        millionths > 0 && self.below(MILLION.into()) < millionths.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{self, Memory};

    const MS: u64 = 1_000_000;

    /// Sends `count` numbered frames, one per millisecond, and returns (arrival in ms, number) of what came out
    /// of the receiving side, and the injected losses.
    fn run(seed: u64, receive: Faults, transmit: Faults, count: u32) -> (Vec<(u64, u32)>, u64) {
        let mut pool = PacketPool::new(4096, 100);
        let (a, b) = memory::pair(4096);
        let mut sender = Faulty::new(a, seed, Faults::default(), transmit, 1024);
        let mut receiver: Faulty<Memory> = Faulty::new(b, seed ^ 1, receive, Faults::default(), 1024);
        let (mut batch, mut arrived) = (Batch::new(), Vec::new());
        for tick in 0..u64::from(count) + 1000 {
            let now = Instant(tick * MS);
            if tick < u64::from(count) {
                let mut packet = pool.take().unwrap();
                packet.reset()[..4].copy_from_slice(&(tick as u32).to_be_bytes());
                packet.set_len(64);
                batch.push(packet);
                assert_eq!(sender.transmit(now, &mut pool, &mut batch).sent, 1);
            }
            sender.receive(now, &mut pool, &mut batch, 64);
            while receiver.receive(now, &mut pool, &mut batch, 7) > 0 {}
            arrived
                .extend(batch.iter().map(|p| (tick, u32::from_be_bytes(p.frame()[..4].try_into().unwrap()))));
            pool.give_all(&mut batch);
        }
        assert_eq!(pool.in_use(), 0, "no buffer is lost");
        let injected = sender.statistics().drops[BackendDrop::Injected]
            + receiver.statistics().drops[BackendDrop::Injected];
        (arrived, injected)
    }

    #[test]
    fn without_faults_everything_passes_at_once_and_in_order() {
        let (arrived, injected) = run(1, Faults::default(), Faults::default(), 500);
        assert_eq!(arrived, (0..500).map(|i| (i, i as u32)).collect::<Vec<_>>());
        assert_eq!(injected, 0);
    }

    #[test]
    fn loss_is_near_its_rate_and_counted() {
        let faults = Faults { loss: MILLION / 10, ..Faults::default() };
        let (arrived, injected) = run(2, faults, Faults::default(), 2000);
        assert_eq!(arrived.len() as u64 + injected, 2000);
        assert!((120..280).contains(&injected), "{injected}");
    }

    #[test]
    fn delay_moves_all_and_jitter_and_reorder_change_the_order() {
        let delay = Faults { delay: Duration(5 * MS), ..Faults::default() };
        let (arrived, _) = run(3, delay, delay, 100);
        assert_eq!(arrived, (0..100).map(|i| (i + 10, i as u32)).collect::<Vec<_>>());
        let reorder = Faults { reorder: MILLION / 5, reorder_by: Duration(3 * MS), ..Faults::default() };
        let jitter = Faults { jitter: Duration(9 * MS), ..Faults::default() };
        for faults in [reorder, jitter] {
            let (arrived, _) = run(4, faults, Faults::default(), 300);
            assert_eq!(arrived.len(), 300);
            assert!(arrived.windows(2).any(|pair| pair[0].1 > pair[1].1), "{faults:?} changed no order");
        }
    }

    #[test]
    fn duplicates_arrive_twice_and_corruption_flips_one_bit() {
        let twice = Faults { duplicate: MILLION, ..Faults::default() };
        assert_eq!(run(5, twice, Faults::default(), 50).0.len(), 100);
        let mut pool = PacketPool::new(8, 100);
        let (a, mut b) = memory::pair(8);
        let corrupt = Faults { corrupt: MILLION, ..Faults::default() };
        let mut a = Faulty::new(a, 6, corrupt, Faults::default(), 8);
        let mut batch = vec![Packet::from_frame(&[0; 60])];
        b.transmit(Instant(0), &mut pool, &mut batch);
        assert_eq!(a.receive(Instant(0), &mut pool, &mut batch, 8), 1);
        assert_eq!(batch[0].frame().iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }

    #[test]
    fn one_seed_is_one_run() {
        let faults = Faults {
            loss: 50_000,
            duplicate: 50_000,
            corrupt: 10_000,
            reorder: 100_000,
            reorder_by: Duration(2 * MS),
            delay: Duration(MS),
            jitter: Duration(MS),
        };
        assert_eq!(run(7, faults, faults, 400), run(7, faults, faults, 400));
        assert_ne!(run(7, faults, faults, 400), run(8, faults, faults, 400));
    }

    #[test]
    fn what_waits_is_bounded_and_tells_its_deadline() {
        let mut pool = PacketPool::new(16, 100);
        let (a, _b) = memory::pair(16);
        let slow = Faults { delay: Duration(MS), ..Faults::default() };
        let mut a = Faulty::new(a, 9, Faults::default(), slow, 3);
        let mut batch: Batch = (0..5).map(|_| pool.take().unwrap()).collect();
        assert_eq!(a.deadline(), None);
        a.transmit(Instant(10), &mut pool, &mut batch);
        assert_eq!(a.deadline(), Some(Instant(10 + MS)));
        assert_eq!(a.statistics().drops[BackendDrop::Injected], 2);
        assert_eq!(pool.in_use(), 3);
    }
}
