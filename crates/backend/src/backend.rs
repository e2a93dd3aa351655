//! What every backend can do: the [`Backend`] trait, its capabilities and its counters.
//!
//! One worker owns a backend and calls it from one thread; nothing here blocks. Time comes in as a value, so that
//! delays and replay run on fake time too.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};
use std::os::fd::BorrowedFd;

use lamina_core::packet::Batch;
use lamina_core::time::Instant;

use crate::pool::PacketPool;

/// What receives and sends batches of packets.
///
/// Buffers are conserved: whatever a backend takes from the pool it hands out in a batch, and whatever it is given
/// to send it returns to the pool of that call, sent or not.
pub trait Backend: Send + fmt::Debug {
    /// Appends at most `limit` received packets to `batch` and returns how many. Buffers come from `pool`; when it
    /// is empty, packets stay where they are.
    fn receive(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize;

    /// Sends all of `batch`, in order, and leaves it empty. What cannot be sent is counted and dropped.
    fn transmit(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted;

    /// Becomes readable when [`Backend::receive`] would have something; `None` when nothing tells and the backend
    /// must be asked.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// When the backend wants to be asked again although its file does not become readable.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What it can leave undone on receive, and takes undone on transmit.
    fn capabilities(&self) -> Capabilities;

    /// Counters since it was made. May ask the kernel for its share.
    fn statistics(&mut self) -> Statistics;
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn receive(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        (**self).receive(now, pool, batch, limit)
    }
    fn transmit(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        (**self).transmit(now, pool, batch)
    }
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).as_fd()
    }
    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn statistics(&mut self) -> Statistics {
        (**self).statistics()
    }
}

/// Which work a backend leaves to others or takes over (§4.6). A backend accepts every packet whatever it says
/// here: what it cannot pass on it does in software.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Received packets may have partial checksums.
    pub checksum_receive: bool,
    /// Partial checksums are passed on as they are.
    pub checksum_transmit: bool,
    /// Received packets may be super-frames.
    pub segmentation_receive: bool,
    /// Super-frames are passed on whole.
    pub segmentation_transmit: bool,
    /// Largest frame on the link without Ethernet header, in bytes; 0 when there is no limit.
    pub mtu: u32,
}

impl Capabilities {
    /// What a device can do whose frames carry a virtio-net header both ways.
    pub(crate) fn virtio_net(mtu: u32) -> Capabilities {
        Capabilities {
            checksum_receive: true,
            checksum_transmit: true,
            segmentation_receive: true,
            segmentation_transmit: true,
            mtu,
        }
    }
}

/// What became of the packets of one transmit call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Transmitted {
    /// Accepted by the other side.
    pub sent: usize,
    /// Dropped because its queue was full.
    pub queue_full: usize,
    /// Dropped because they cannot be sent as they are.
    pub failed: usize,
}

impl AddAssign for Transmitted {
    fn add_assign(&mut self, other: Transmitted) {
        self.sent += other.sent;
        self.queue_full += other.queue_full;
        self.failed += other.failed;
    }
}

/// Frames and their bytes. A super-frame counts as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of the frames, from the Ethernet header on.
    pub bytes: u64,
}

impl Traffic {
    /// Counts one frame of `length` bytes.
    pub fn count(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length as u64;
    }
}

/// Counters of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Handed to the worker.
    pub received: Traffic,
    /// Taken by the other side.
    pub transmitted: Traffic,
    /// Dropped here or before, by reason.
    pub drops: Drops,
}

/// One counter per [`BackendDrop`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drops([u64; BackendDrop::ALL.len()]);

impl Drops {
    /// All drops together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<BackendDrop> for Drops {
    type Output = u64;
    fn index(&self, reason: BackendDrop) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<BackendDrop> for Drops {
    fn index_mut(&mut self, reason: BackendDrop) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}

/// Why a backend dropped a frame. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendDrop {
    /// The other side's queue was full on transmit.
    TransmitQueueFull = 0,
    /// The frame cannot be sent: the link refused it, or its offload work cannot be done in software.
    CannotTransmit = 1,
    /// The socket's receive queue was full; the kernel dropped the frame before the worker saw it.
    ReceiveQueueFull = 2,
    /// The offload header of a received frame contradicts the frame.
    BadOffload = 3,
    /// A received frame is shorter than an Ethernet header or longer than the buffer.
    BadLength = 4,
    /// A fault injector lost it on purpose.
    Injected = 5,
}

impl BackendDrop {
    /// Every reason, in order of number.
    pub const ALL: [BackendDrop; 6] = [
        BackendDrop::TransmitQueueFull,
        BackendDrop::CannotTransmit,
        BackendDrop::ReceiveQueueFull,
        BackendDrop::BadOffload,
        BackendDrop::BadLength,
        BackendDrop::Injected,
    ];

    /// The stable name used in counters and output.
    pub const fn name(self) -> &'static str {
        match self {
            BackendDrop::TransmitQueueFull => "transmit-queue-full",
            BackendDrop::CannotTransmit => "cannot-transmit",
            BackendDrop::ReceiveQueueFull => "receive-queue-full",
            BackendDrop::BadOffload => "bad-offload",
            BackendDrop::BadLength => "bad-length",
            BackendDrop::Injected => "injected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_numbers_index_their_own_counter() {
        let mut drops = Drops::default();
        for (number, reason) in BackendDrop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            drops[reason] += number as u64;
            assert_eq!(drops[reason], number as u64);
        }
        assert_eq!(drops.total(), 15);
    }
}
