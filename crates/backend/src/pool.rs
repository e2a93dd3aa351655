//! Buffers that are used again, so that no packet allocates after start.
//!
//! A pool belongs to one worker. All its buffers are made at the start; [`PacketPool::take`] and
//! [`PacketPool::give`] move them out and in. Packets that were made elsewhere (a reply, a copy) may be given too:
//! one whose buffer is too small to receive into is freed, and the pool makes a full-sized one when it next runs
//! dry, so the number of buffers is bounded by `count` and never melts away.

use lamina_core::packet::{Batch, MAX_FRAME, Packet};

/// A bounded store of packet buffers.
#[derive(Debug)]
pub struct PacketPool {
    free: Vec<Packet>,
    frame_capacity: usize,
    count: usize,
    in_use: usize,
    exhausted: u64,
}

impl PacketPool {
    /// A pool of `count` buffers for frames of up to `frame_capacity` bytes.
    pub fn new(count: usize, frame_capacity: usize) -> Self {
        PacketPool {
            free: (0..count).map(|_| Packet::with_capacity(frame_capacity)).collect(),
            frame_capacity,
            count,
            in_use: 0,
            exhausted: 0,
        }
    }

    /// A pool of `count` buffers for 64 KB super-frames. Memory is touched, and so really used, only when frames of
    /// that size come.
    pub fn for_super_frames(count: usize) -> Self {
        PacketPool::new(count, MAX_FRAME)
    }

    /// An empty packet, or `None` when all buffers are in use.
    pub fn take(&mut self) -> Option<Packet> {
        let packet = match self.free.pop() {
            Some(packet) => packet,
            None if self.in_use < self.count => Packet::with_capacity(self.frame_capacity),
            None => {
                self.exhausted += 1;
                return None;
            }
        };
        self.in_use += 1;
        Some(packet)
    }

    /// Takes `packet` back.
    pub fn give(&mut self, mut packet: Packet) {
        self.in_use = self.in_use.saturating_sub(1);
        if packet.reset().len() >= self.frame_capacity && self.free.len() + self.in_use < self.count {
            self.free.push(packet);
        }
    }

    /// Counts `count` packets that were made elsewhere and will be given to this pool as in use.
    pub fn count_made(&mut self, count: usize) {
        self.in_use += count;
    }

    /// Exchanges a packet that is in use, and was made elsewhere, for a copy in a full-sized buffer of this pool; another
    /// one stays as it is. It comes back as it was when no buffer is left.
    pub fn adopt(&mut self, packet: Packet) -> Result<Packet, Packet> {
        if packet.frame_capacity() >= self.frame_capacity {
            return Ok(packet);
        }
        let in_use = self.in_use;
        self.in_use = in_use.saturating_sub(1);
        match self.take() {
            Some(mut copy) => {
                copy.copy_from(&packet);
                Ok(copy)
            }
            None => {
                self.in_use = in_use;
                Err(packet)
            }
        }
    }

    /// Takes all of `batch` back and leaves it empty.
    pub fn give_all(&mut self, batch: &mut Batch) {
        batch.drain(..).for_each(|packet| self.give(packet));
    }

    /// Buffers that are out.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Buffers that [`PacketPool::take`] can still hand out.
    pub fn available(&self) -> usize {
        self.count.saturating_sub(self.in_use)
    }

    /// How often a buffer was asked for and none was left.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_bounded_and_used_again() {
        let mut pool = PacketPool::new(2, 1500);
        let (mut a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        assert_eq!((pool.in_use(), pool.available(), pool.exhausted()), (2, 0, 1));
        a.reset()[..3].copy_from_slice(b"abc");
        a.set_len(3);
        let address = a.frame().as_ptr();
        pool.give(a);
        pool.give(b);
        pool.take().unwrap();
        let again = pool.take().unwrap();
        assert!(again.is_empty(), "a used buffer comes back empty");
        assert_eq!(again.frame().as_ptr(), address);
    }

    #[test]
    fn small_packets_from_elsewhere_neither_shrink_nor_poison_the_pool() {
        let mut pool = PacketPool::new(4, 1500);
        for _ in 0..20 {
            pool.take().unwrap();
            pool.give(Packet::from_frame(&[0; 60]));
        }
        let taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), 4);
        assert!(taken.into_iter().all(|mut packet| packet.reset().len() >= 1500));
    }

    #[test]
    fn an_adopted_packet_is_counted_and_full_sized() {
        let mut pool = PacketPool::new(2, 1500);
        let own = pool.take().unwrap();
        let own = pool.adopt(own).unwrap();
        assert_eq!(pool.in_use(), 1, "it was the pool's already");
        pool.count_made(1);
        let foreign = pool.adopt(Packet::from_frame(b"foreign")).unwrap();
        assert_eq!((foreign.frame(), foreign.frame_capacity(), pool.in_use()), (&b"foreign"[..], 1500, 2));
        pool.count_made(1);
        let refused = pool.adopt(Packet::from_frame(b"foreign")).unwrap_err();
        assert_eq!((refused.frame(), pool.in_use()), (&b"foreign"[..], 3));
        pool.give(refused);
        pool.give(own);
        pool.give(foreign);
        assert_eq!((pool.in_use(), pool.available()), (0, 2));
    }

    #[test]
    fn surplus_packets_do_not_grow_the_pool() {
        let mut pool = PacketPool::new(2, 100);
        for _ in 0..10 {
            pool.give(Packet::with_capacity(100));
        }
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), 2);
    }
}
