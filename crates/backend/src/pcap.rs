//! Capture files: replay one as if its frames arrived, and record what passes.
//!
//! Replay follows the recorded times or goes as fast as it is asked, on the caller's clock. A damaged file ends the
//! replay where the damage starts and says so; it is never an error of the switch.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use lamina_core::packet::{Batch, Packet};
use lamina_core::time::{Duration, Instant};
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, PcapError, TsResolution};

use crate::backend::{Backend, BackendDrop, Capabilities, Statistics, Transmitted};
use crate::pool::PacketPool;

/// When recorded frames arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// All at once, as fast as the worker asks.
    Fast,
    /// With the recorded gaps, the first one at the first call.
    Recorded,
}

/// Replays a classic pcap file of Ethernet frames; what is sent to it goes to an optional recording.
pub struct Replay {
    reader: PcapReader<Box<dyn Read + Send>>,
    nanoseconds: bool,
    pace: Pace,
    /// The frame that was read but whose time has not come.
    next: Option<(Duration, Packet)>,
    /// Start of the replay on the caller's clock, and the recorded time of the first frame.
    origin: Option<(Instant, Duration)>,
    ended: Option<End>,
    sink: Option<Recording>,
    statistics: Statistics,
}

/// How a replay ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// All frames were delivered.
    Complete,
    /// The rest of the file cannot be read; the text says why.
    Damaged(String),
}

impl Replay {
    /// A replay of `file`. Frames that are sent to this backend are written to `sink`, or dropped silently.
    pub fn new(file: impl Read + Send + 'static, pace: Pace, sink: Option<Recording>) -> io::Result<Self> {
        let reader = PcapReader::new(Box::new(file) as Box<dyn Read + Send>).map_err(to_io)?;
        let header = reader.header();
        if header.datalink != DataLink::ETHERNET {
            let text = format!("link type {:?}: only Ethernet captures can be replayed", header.datalink);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Replay {
            reader,
            nanoseconds: header.ts_resolution == TsResolution::NanoSecond,
            pace,
            next: None,
            origin: None,
            ended: None,
            sink,
            statistics: Statistics::default(),
        })
    }

    /// How the replay ended; `None` while it runs.
    pub fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// The recording that was given, with what was written since.
    pub fn into_sink(self) -> Option<Recording> {
        self.sink
    }

    /// Reads the next frame that can be delivered into `self.next`.
    fn read_ahead(&mut self, pool: &mut PacketPool) {
        while self.next.is_none() && self.ended.is_none() {
            let Some(mut packet) = pool.take() else { return };
            match self.reader.next_raw_packet() {
                None => self.ended = Some(End::Complete),
                Some(Err(error)) => self.ended = Some(End::Damaged(error.to_string())),
                Some(Ok(raw)) => {
                    let fraction = u64::from(raw.ts_frac) * if self.nanoseconds { 1 } else { 1000 };
                    let at = Duration(Duration::from_seconds(raw.ts_sec.into()).0.saturating_add(fraction));
                    let area = packet.reset();
                    if let Some(area) = area.get_mut(..raw.data.len()) {
                        area.copy_from_slice(&raw.data);
                        packet.set_len(raw.data.len());
                        self.next = Some((at, packet));
                        return;
                    }
                    self.statistics.drops[BackendDrop::BadLength] += 1;
                }
            }
            pool.give(packet);
        }
    }

    fn due(&self, recorded: Duration, now: Instant) -> Instant {
        match (self.pace, self.origin) {
            (Pace::Recorded, Some((start, first))) => start + Duration(recorded.0.saturating_sub(first.0)),
            _ => now,
        }
    }
}

impl Backend for Replay {
    fn receive(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        let mut count = 0;
        while count < limit {
            self.read_ahead(pool);
            let Some((at, packet)) = self.next.take() else { break };
            if self.origin.is_none() {
                self.origin = Some((now, at));
            }
            if self.due(at, now) > now {
                self.next = Some((at, packet));
                break;
            }
            self.statistics.received.count(packet.len());
            batch.push(packet);
            count += 1;
        }
        count
    }

    fn transmit(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        let sent = batch.len();
        for packet in batch.drain(..) {
            self.statistics.transmitted.count(packet.len());
            if let Some(sink) = &mut self.sink {
                sink.record(now, packet.frame());
            }
            pool.give(packet);
        }
        Transmitted { sent, ..Transmitted::default() }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn deadline(&self) -> Option<Instant> {
        self.next.as_ref().map(|(at, _)| self.due(*at, Instant(0)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { checksum_transmit: true, segmentation_transmit: true, ..Capabilities::default() }
    }

    fn statistics(&mut self) -> Statistics {
        self.statistics
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("pace", &self.pace).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// A pcap file being written, nanosecond times, at most `limit` bytes of frames.
pub struct Recording {
    writer: PcapWriter<Box<dyn Write + Send>>,
    epoch: Duration,
    left: u64,
    missed: u64,
    error: Option<io::Error>,
}

impl Recording {
    /// Starts a recording. `epoch` is the time since 1970 at `Instant(0)` of the worker's clock. After `limit`
    /// bytes, frames are counted as missed and no longer written.
    pub fn new(file: impl Write + Send + 'static, epoch: Duration, limit: u64) -> io::Result<Self> {
        let header = PcapHeader {
            snaplen: 262_144,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: pcap_file::Endianness::native(),
            ..PcapHeader::default()
        };
        let writer =
            PcapWriter::with_header(Box::new(file) as Box<dyn Write + Send>, header).map_err(to_io)?;
        Ok(Recording { writer, epoch, left: limit, missed: 0, error: None })
    }

    /// Writes `frame` as seen at `now`. A write error ends the recording; it never disturbs the traffic.
    pub fn record(&mut self, now: Instant, frame: &[u8]) {
        if self.error.is_some() || self.left < frame.len() as u64 {
            self.missed += 1;
            return;
        }
        let at = self.epoch.0.saturating_add(now.0);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let raw = RawPcapPacket {
            ts_sec: u32::try_from(at / 1_000_000_000).unwrap_or(u32::MAX),
            ts_frac: (at % 1_000_000_000) as u32,
            incl_len: length,
            orig_len: length,
            data: frame.into(),
        };
        match self.writer.write_raw_packet(&raw) {
            Ok(_) => self.left -= frame.len() as u64,
            Err(error) => {
                self.missed += 1;
                self.error = Some(to_io(error));
            }
        }
    }

    /// Frames that were not written: over the limit, or after an error.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// The error that ended the recording.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Ends the recording and flushes it.
    pub fn finish(self) -> io::Result<()> {
        match self.error {
            Some(error) => Err(error),
            None => self.writer.into_writer().flush(),
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("left", &self.left)
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

/// Records everything that passes through another backend, both ways, as the worker sees it: offload work that is
/// still to be done (partial checksums, super-frames) is visible in the file.
#[derive(Debug)]
pub struct Recorder<B> {
    inner: B,
    recording: Recording,
}

impl<B: Backend> Recorder<B> {
    /// Records what passes through `inner`.
    pub fn new(inner: B, recording: Recording) -> Self {
        Recorder { inner, recording }
    }

    /// The backend and the recording.
    pub fn into_parts(self) -> (B, Recording) {
        (self.inner, self.recording)
    }
}

impl<B: Backend> Backend for Recorder<B> {
    fn receive(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch, limit: usize) -> usize {
        let before = batch.len();
        let count = self.inner.receive(now, pool, batch, limit);
        batch.iter().skip(before).for_each(|packet| self.recording.record(now, packet.frame()));
        count
    }

    fn transmit(&mut self, now: Instant, pool: &mut PacketPool, batch: &mut Batch) -> Transmitted {
        batch.iter().for_each(|packet| self.recording.record(now, packet.frame()));
        self.inner.transmit(now, pool, batch)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn statistics(&mut self) -> Statistics {
        self.inner.statistics()
    }
}

fn to_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::memory;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const MS: u64 = 1_000_000;

    fn recorded(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let file = Shared::default();
        let mut recording =
            Recording::new(file.clone(), Duration::from_seconds(1_700_000_000), 1 << 30).unwrap();
        for (at, frame) in frames {
            recording.record(Instant(*at), frame);
        }
        recording.finish().unwrap();
        file.0.lock().unwrap().clone()
    }

    #[test]
    fn what_was_recorded_replays_with_its_times() {
        let file = recorded(&[(5 * MS, vec![1; 60]), (5 * MS + 7, vec![2; 65_600]), (9 * MS, vec![3; 14])]);
        let mut pool = PacketPool::for_super_frames(8);
        let mut replay = Replay::new(io::Cursor::new(file), Pace::Recorded, None).unwrap();
        let mut batch = Batch::new();
        assert_eq!(replay.receive(Instant(100), &mut pool, &mut batch, 8), 1);
        assert_eq!(replay.deadline(), Some(Instant(107)));
        assert_eq!(replay.receive(Instant(106), &mut pool, &mut batch, 8), 0);
        assert_eq!(replay.receive(Instant(107), &mut pool, &mut batch, 8), 1);
        assert_eq!(replay.deadline(), Some(Instant(100 + 4 * MS)));
        assert_eq!(replay.receive(Instant(100 + 4 * MS), &mut pool, &mut batch, 8), 1);
        assert_eq!(replay.ended(), Some(&End::Complete));
        assert_eq!(
            batch.iter().map(|p| (p.frame()[0], p.len())).collect::<Vec<_>>(),
            [(1, 60), (2, 65_600), (3, 14)]
        );
        pool.give_all(&mut batch);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_damaged_file_ends_the_replay_at_every_cut() {
        let file = recorded(&[(0, vec![1; 60]), (1, vec![2; 60])]);
        let mut pool = PacketPool::new(4, 2000);
        for cut in 0..file.len() {
            let mut batch = Batch::new();
            let Ok(mut replay) = Replay::new(io::Cursor::new(file[..cut].to_vec()), Pace::Fast, None) else {
                assert!(cut < 24, "cut at {cut}");
                continue;
            };
            let count = replay.receive(Instant(0), &mut pool, &mut batch, 8);
            assert_eq!(count, (cut - 24) / 76, "cut at {cut}");
            let complete = (cut - 24) % 76 == 0;
            assert_eq!(
                replay.ended() == Some(&End::Complete),
                complete,
                "cut at {cut}: {:?}",
                replay.ended()
            );
            pool.give_all(&mut batch);
            assert_eq!(pool.in_use(), 0);
        }
    }

    #[test]
    fn a_frame_beyond_the_buffer_is_counted_and_skipped() {
        let file = recorded(&[(0, vec![1; 3000]), (1, vec![2; 60])]);
        let mut pool = PacketPool::new(4, 2000);
        let mut replay = Replay::new(io::Cursor::new(file), Pace::Fast, None).unwrap();
        let mut batch = Batch::new();
        assert_eq!(replay.receive(Instant(0), &mut pool, &mut batch, 8), 1);
        assert_eq!(batch[0].frame()[0], 2);
        assert_eq!(replay.statistics().drops[BackendDrop::BadLength], 1);
    }

    #[test]
    fn only_ethernet_is_replayed() {
        let mut file = recorded(&[]);
        file[20..24].copy_from_slice(&101u32.to_ne_bytes());
        let error = Replay::new(io::Cursor::new(file), Pace::Fast, None).unwrap_err();
        assert!(error.to_string().contains("only Ethernet"), "{error}");
    }

    #[test]
    fn a_recorder_sees_both_ways_and_stops_at_its_limit() {
        let file = Shared::default();
        let mut pool = PacketPool::new(8, 100);
        let (a, mut b) = memory::pair(8);
        let mut a = Recorder::new(a, Recording::new(file.clone(), Duration(0), 130).unwrap());
        let mut batch = vec![Packet::from_frame(&[1; 60])];
        b.transmit(Instant(0), &mut pool, &mut batch);
        assert_eq!(a.receive(Instant(1), &mut pool, &mut batch, 8), 1);
        batch.push(Packet::from_frame(&[2; 64]));
        assert_eq!(a.transmit(Instant(2), &mut pool, &mut batch).sent, 2);
        let (_, recording) = a.into_parts();
        assert_eq!(recording.missed(), 1);
        recording.finish().unwrap();
        let bytes = file.0.lock().unwrap().clone();
        let mut replay = Replay::new(io::Cursor::new(bytes), Pace::Fast, None).unwrap();
        assert_eq!(replay.receive(Instant(0), &mut pool, &mut batch, 8), 2);
        assert!(batch.iter().all(|packet| packet.frame() == [1; 60]));
    }
}
