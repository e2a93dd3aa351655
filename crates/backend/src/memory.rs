//! Two ends joined by bounded queues in memory, for tests, benches and switches in one process.
//!
//! Packets move without a copy. So that neither side's pool melts away, every packet that is received sends an
//! empty buffer the other way, where the sender's pool takes it back. The ends may live on two threads.

use std::os::fd::BorrowedFd;

use lamina_core::packet::{Batch, Packet};
use lamina_core::time::Instant;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::backend::{Backend, BackendDrop, Capabilities, Statistics, Transmitted};
use crate::pool::PacketPool;

/// One end of a pair; see [`pair`].
#[derive(Debug)]
pub struct Memory {
    incoming: Consumer<Packet>,
    outgoing: Producer<Packet>,
    /// Empty buffers in exchange for what was received.
    exchange_out: Producer<Packet>,
    /// Empty buffers that the other end sent in exchange.
    exchange_in: Consumer<Packet>,
    statistics: Statistics,
}

/// Two connected ends; each direction holds at most `capacity` packets.
pub fn pair(capacity: usize) -> (Memory, Memory) {
    let (to_b, from_a) = RingBuffer::new(capacity);
    let (to_a, from_b) = RingBuffer::new(capacity);
    let (empty_to_b, empty_from_a) = RingBuffer::new(capacity);
    let (empty_to_a, empty_from_b) = RingBuffer::new(capacity);
    let end = |incoming, outgoing, exchange_out, exchange_in| Memory {
        incoming,
        outgoing,
        exchange_out,
        exchange_in,
        statistics: Statistics::default(),
    };
    (end(from_b, to_b, empty_to_b, empty_from_b), end(from_a, to_a, empty_to_a, empty_from_a))
}

impl Memory {
    /// Takes back what the other end gave in exchange; at most as much as was sent, so the pool stays bounded.
    fn collect_exchange(&mut self, pool: &mut PacketPool) {
        while let Ok(packet) = self.exchange_in.pop() {
            pool.give(packet);
        }
    }
}

impl Backend for Memory {
    fn receive(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        self.collect_exchange(pool);
        let mut count = 0;
        while count < limit && !self.incoming.is_empty() {
            let Some(empty) = pool.take() else { break };
            // The ring for empty buffers can be full only while the other end does not run; freeing the buffer
            // then costs its pool one allocation later and nothing else.
            let _ = self.exchange_out.push(empty);
            let Ok(packet) = self.incoming.pop() else { break };
            self.statistics.received.count(packet.len());
            batch.push(packet);
            count += 1;
        }
        count
    }

    fn transmit(&mut self, _now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        self.collect_exchange(pool);
        let mut outcome = Transmitted::default();
        for packet in batch.drain(..) {
            let length = packet.len();
            match self.outgoing.push(packet) {
                Ok(()) => {
                    self.statistics.transmitted.count(length);
                    outcome.sent += 1;
                }
                Err(rtrb::PushError::Full(packet)) => {
                    self.statistics.drops[BackendDrop::TransmitQueueFull] += 1;
                    outcome.queue_full += 1;
                    pool.give(packet);
                }
            }
        }
        outcome
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checksum_receive: true,
            checksum_transmit: true,
            segmentation_receive: true,
            segmentation_transmit: true,
            mtu: 0,
        }
    }

    fn statistics(&mut self) -> Statistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(0);

    fn filled(pool: &mut PacketPool, byte: u8) -> Packet {
        let mut packet = pool.take().unwrap();
        packet.reset()[..60].fill(byte);
        packet.set_len(60);
        packet
    }

    #[test]
    fn packets_arrive_in_order_and_a_full_queue_is_counted() {
        let mut pool = PacketPool::new(8, 100);
        let (mut a, mut b) = pair(3);
        let mut batch: Batch = (0..4).map(|i| filled(&mut pool, i)).collect();
        assert_eq!(a.transmit(NOW, &mut pool, &mut batch), Transmitted { sent: 3, queue_full: 1, failed: 0 });
        assert!(batch.is_empty());
        assert_eq!(b.receive(NOW, &mut pool, &mut batch, 2), 2);
        assert_eq!(b.receive(NOW, &mut pool, &mut batch, 9), 1);
        assert_eq!(batch.iter().map(|p| p.frame()[0]).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(b.receive(NOW, &mut pool, &mut batch, 9), 0);
        assert_eq!(a.statistics().transmitted.bytes, 180);
        assert_eq!(a.statistics().drops[BackendDrop::TransmitQueueFull], 1);
        assert_eq!(b.statistics().received.frames, 3);
    }

    #[test]
    fn two_pools_keep_their_buffers_over_one_way_traffic() {
        let mut sender = PacketPool::new(8, 100);
        let mut receiver = PacketPool::new(8, 100);
        let (mut a, mut b) = pair(8);
        let mut batch = Batch::new();
        for round in 0..1000u32 {
            for _ in 0..5 {
                batch.push(filled(&mut sender, round as u8));
            }
            assert_eq!(a.transmit(NOW, &mut sender, &mut batch).sent, 5);
            assert_eq!(b.receive(NOW, &mut receiver, &mut batch, 64), 5);
            receiver.give_all(&mut batch);
            a.receive(NOW, &mut sender, &mut batch, 64);
        }
        assert_eq!((sender.in_use(), receiver.in_use()), (0, 0));
    }

    #[test]
    fn an_empty_pool_leaves_packets_in_the_queue() {
        let mut pool = PacketPool::new(2, 100);
        let mut none = PacketPool::new(0, 100);
        let (mut a, mut b) = pair(4);
        let mut batch = vec![filled(&mut pool, 7)];
        a.transmit(NOW, &mut pool, &mut batch);
        assert_eq!(b.receive(NOW, &mut none, &mut batch, 4), 0);
        assert_eq!(b.receive(NOW, &mut pool, &mut batch, 4), 1);
    }
}
