//! Captured packets on their way from a worker to the thread that asked for them.
//!
//! A bounded ring of packets, and one that brings their buffers back: all buffers are made when the capture starts,
//! so a captured packet allocates nothing on the worker. A reader that is too slow loses packets, which the capture's
//! status counts; it never holds up the worker.

use std::time::{SystemTime, UNIX_EPOCH};

use lamina_core::flow::Direction;
use lamina_core::inspect::{CapturePlace, CapturePoint, CaptureRecord, CaptureSink, CaptureVerdict};
use lamina_core::switch::PortId;
use rtrb::{Consumer, Producer, RingBuffer};

/// One captured packet, as the reader gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapturedPacket {
    /// Nanoseconds since 1970, by the host's clock.
    pub time: u64,
    /// The port that it crosses; the uplink for a packet from the network that reached no port.
    pub port: PortId,
    /// The uplink, at points of an uplink.
    pub uplink: Option<PortId>,
    /// Which way it crosses the port.
    pub direction: Direction,
    /// Where.
    pub point: CapturePoint,
    /// What becomes of it.
    pub verdict: CaptureVerdict,
    /// Who decided that.
    pub place: CapturePlace,
    /// Bytes of the whole frame.
    pub length: u32,
    /// The frame, up to the snap length.
    pub frame: Vec<u8>,
}

/// The worker's end: a sink for [`lamina_core::switch::Switch::start_capture`].
#[derive(Debug)]
pub struct CaptureWriter {
    packets: Producer<CapturedPacket>,
    spares: Consumer<Vec<u8>>,
    snap_length: usize,
}

/// The other thread's end.
#[derive(Debug)]
pub struct CaptureReader {
    packets: Consumer<CapturedPacket>,
    spares: Producer<Vec<u8>>,
}

/// Bytes of a frame that a ring keeps when the capture asks for whole frames: a super-frame.
const WHOLE: usize = 65_536 + 128;

/// A ring of `capacity` packets of up to `snap_length` bytes each; 0 for whole frames. Frames are cut to that,
/// whatever the capture hands over.
pub fn capture_ring(capacity: usize, snap_length: u32) -> (CaptureWriter, CaptureReader) {
    let capacity = capacity.max(1);
    let snap_length = if snap_length == 0 { WHOLE } else { snap_length as usize };
    let (packets, reader) = RingBuffer::new(capacity);
    let (mut giver, spares) = RingBuffer::new(capacity);
    for _ in 0..capacity {
        // There is room for exactly these.
        let _ = giver.push(Vec::with_capacity(snap_length));
    }
    let writer = CaptureWriter { packets, spares, snap_length };
    (writer, CaptureReader { packets: reader, spares: giver })
}

impl CaptureSink for CaptureWriter {
    fn take(&mut self, record: &CaptureRecord<'_>) -> bool {
        if self.packets.is_full() {
            return false;
        }
        let Ok(mut frame) = self.spares.pop() else { return false };
        frame.clear();
        frame.extend_from_slice(&record.frame[..record.frame.len().min(self.snap_length)]);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let packet = CapturedPacket {
            time: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            port: record.port,
            uplink: record.uplink,
            direction: record.direction,
            point: record.point.clone(),
            verdict: record.verdict,
            place: record.place.clone(),
            length: record.length,
            frame,
        };
        self.packets.push(packet).is_ok()
    }
}

impl CaptureReader {
    /// The next packet, if one is there.
    pub fn take(&mut self) -> Option<CapturedPacket> {
        self.packets.pop().ok()
    }

    /// Gives a packet's buffer back to the worker. Who does not loses the ring's room packet by packet.
    pub fn recycle(&mut self, packet: CapturedPacket) {
        // A buffer too many is freed.
        let _ = self.spares.push(packet.frame);
    }

    /// True when the capture has ended and every packet of it was read.
    pub fn is_over(&self) -> bool {
        self.packets.is_abandoned() && self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_core::time::Instant;

    fn take(writer: &mut CaptureWriter, byte: u8) -> bool {
        let frame = [byte; 100];
        writer.take(&CaptureRecord {
            time: Instant(1),
            port: PortId(1),
            uplink: None,
            direction: Direction::Outbound,
            point: &CapturePoint::NicReceived,
            verdict: CaptureVerdict::Passed,
            place: &CapturePlace::default(),
            length: 100,
            frame: &frame,
        })
    }

    #[test]
    fn a_full_ring_refuses_and_goes_on_with_recycled_buffers() {
        let (mut writer, mut reader) = capture_ring(2, 10);
        assert!(take(&mut writer, 1) && take(&mut writer, 2));
        assert!(!take(&mut writer, 3));
        let first = reader.take().unwrap();
        assert_eq!((first.frame.as_slice(), first.length), (&[1; 10][..], 100));
        let buffer = first.frame.as_ptr();
        assert!(!take(&mut writer, 4), "its buffer is still out");
        reader.recycle(first);
        assert!(take(&mut writer, 5));
        assert_eq!(reader.take().unwrap().frame, [2; 10]);
        let third = reader.take().unwrap();
        assert_eq!((third.frame.as_slice(), third.frame.as_ptr()), (&[5; 10][..], buffer));
        assert!(!reader.is_over());
        drop(writer);
        assert!(reader.is_over() && reader.take().is_none());
    }
}
