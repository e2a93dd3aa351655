//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng), for Wireshark and everything that reads its files.
//!
//! One interface per point of the pipeline and port, so that each can be shown by itself; direction as the packet's
//! flags; verdict, rule and whatever else there is to say as its comment. Written little-endian, block by block, with
//! nothing held back: a file that ends early is readable up to there.

use std::collections::HashMap;
use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const STATISTICS: u32 = 5;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;

/// Options of blocks (section 3.5 and those of each block).
mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const SECTION_APPLICATION: u16 = 4;
    pub const INTERFACE_NAME: u16 = 2;
    pub const INTERFACE_DESCRIPTION: u16 = 3;
    pub const INTERFACE_RESOLUTION: u16 = 9;
    pub const PACKET_FLAGS: u16 = 2;
    pub const STATISTICS_DROPPED: u16 = 5;
}

/// The longest option that is written; a longer comment is cut.
const LONGEST_OPTION: usize = 32_000;

/// Which way a packet goes, in the flags of its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the guest.
    Inbound,
    /// From the guest.
    Outbound,
}

/// One captured packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The interface: a point of the pipeline and its port, for example `vm1 nic`.
    pub interface: &'a str,
    /// What the interface is, in a sentence; written the first time.
    pub description: &'a str,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Which way it goes.
    pub way: Way,
    /// What there is to say of it: verdict, rule, reason.
    pub comment: &'a str,
    /// Bytes of the whole frame.
    pub length: u32,
    /// The frame, or the begin of it.
    pub frame: &'a [u8],
}

/// Writes one file.
#[derive(Debug)]
pub struct Writer<W> {
    file: W,
    interfaces: HashMap<String, u32>,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(file: W) -> io::Result<Self> {
        let mut writer = Writer { file, interfaces: HashMap::new(), block: Vec::new() };
        writer.u32(BYTE_ORDER);
        writer.u16(1);
        writer.u16(0);
        // The section's length is not known beforehand.
        writer.block.extend_from_slice(&u64::MAX.to_le_bytes());
        writer.option(option::SECTION_APPLICATION, b"lamina");
        writer.end_options();
        writer.finish_block(SECTION)?;
        Ok(writer)
    }

    /// Writes a packet, and its interface if it is the first of it.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let interface = self.interface(packet.interface, packet.description)?;
        self.u32(interface);
        self.u32((packet.time >> 32) as u32);
        self.u32(packet.time as u32);
        self.u32(u32::try_from(packet.frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?);
        self.u32(packet.length);
        self.padded(packet.frame);
        let flags: u32 = match packet.way {
            Way::Inbound => 1,
            Way::Outbound => 2,
        };
        self.option(option::PACKET_FLAGS, &flags.to_le_bytes());
        if !packet.comment.is_empty() {
            self.option(option::COMMENT, cut(packet.comment));
        }
        self.end_options();
        self.finish_block(ENHANCED_PACKET)
    }

    /// Notes at `time` that packets of every interface so far were lost on their way here, `lost` in all.
    pub fn lost(&mut self, time: u64, lost: u64) -> io::Result<()> {
        if self.interfaces.is_empty() {
            return Ok(());
        }
        self.u32(0);
        self.u32((time >> 32) as u32);
        self.u32(time as u32);
        self.option(
            option::COMMENT,
            b"packets lost between the switch and this file, of all interfaces together",
        );
        self.option(option::STATISTICS_DROPPED, &lost.to_le_bytes());
        self.end_options();
        self.finish_block(STATISTICS)
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// The file.
    pub fn into_inner(self) -> W {
        self.file
    }

    fn interface(&mut self, name: &str, description: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(name) {
            return Ok(*number);
        }
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), number);
        self.u16(ETHERNET);
        self.u16(0);
        // No snap length of the interface: each packet says how much of it there is.
        self.u32(0);
        self.option(option::INTERFACE_NAME, cut(name));
        self.option(option::INTERFACE_DESCRIPTION, cut(description));
        // Time in nanoseconds: 10 to the power of minus nine.
        self.option(option::INTERFACE_RESOLUTION, &[9]);
        self.end_options();
        self.finish_block(INTERFACE)?;
        Ok(number)
    }

    fn u16(&mut self, value: u16) {
        self.block.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.block.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes up to the next multiple of four.
    fn padded(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.u16(code);
        self.u16(value.len() as u16);
        self.padded(value);
    }

    fn end_options(&mut self) {
        self.u16(option::END);
        self.u16(0);
    }

    fn finish_block(&mut self, kind: u32) -> io::Result<()> {
        let length = u32::try_from(self.block.len() + 12).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.file.write_all(&kind.to_le_bytes())?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.block.clear();
        self.file.write_all(&length.to_le_bytes())
    }
}

/// The begin of `text` that fits an option.
fn cut(text: &str) -> &[u8] {
    let end = (0..=LONGEST_OPTION.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text.as_bytes()[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    fn packet<'a>(interface: &'a str, time: u64, way: Way, comment: &'a str, frame: &'a [u8]) -> Packet<'a> {
        Packet { interface, description: "what it is", time, way, comment, length: 1500, frame }
    }

    #[test]
    fn another_reader_reads_what_was_written() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let long = "ü".repeat(40_000);
        let packets = [
            packet("vm1 nic", 1_700_000_000_123_456_789, Way::Outbound, "passed", &[1; 61]),
            packet(
                "vm1 drop",
                1_700_000_000_123_456_790,
                Way::Inbound,
                "dropped: blocked by acl/g/r",
                &[2; 64],
            ),
            packet("vm1 nic", 5, Way::Inbound, "", &[]),
            packet("vm1 nic", 6, Way::Inbound, &long, &[3; 2]),
        ];
        for packet in &packets {
            writer.packet(packet).unwrap();
        }
        writer.lost(7, 12).unwrap();
        let file = writer.into_inner();
        assert_eq!(file.len() % 4, 0);

        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let mut names = Vec::new();
        let mut read = Vec::new();
        let mut statistics = 0;
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => {
                    for option in &interface.options {
                        if let InterfaceDescriptionOption::IfName(name) = option {
                            names.push(name.to_string());
                        }
                    }
                    let is_nanoseconds = |option: &InterfaceDescriptionOption<'_>| {
                        matches!(option, InterfaceDescriptionOption::IfTsResol(9))
                    };
                    assert!(interface.options.iter().any(is_nanoseconds));
                }
                Block::EnhancedPacket(packet) => {
                    let mut comment = String::new();
                    let mut flags = 0;
                    for option in &packet.options {
                        match option {
                            EnhancedPacketOption::Comment(text) => comment = text.to_string(),
                            EnhancedPacketOption::Flags(bits) => flags = *bits,
                            _ => {}
                        }
                    }
                    let interface = packet.interface_id as usize;
                    read.push((interface, packet.original_len, packet.data.to_vec(), comment, flags));
                }
                Block::InterfaceStatistics(_) => statistics += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["vm1 nic", "vm1 drop"]);
        assert_eq!(statistics, 1);
        assert_eq!(read.len(), packets.len());
        for ((interface, length, data, comment, flags), packet) in read.iter().zip(&packets) {
            assert_eq!(names[*interface], packet.interface);
            assert_eq!((*length, data.as_slice()), (1500, packet.frame));
            let cut: String = packet.comment.chars().take(LONGEST_OPTION / 2).collect();
            assert_eq!(
                *comment,
                if packet.comment.len() > LONGEST_OPTION { cut } else { packet.comment.into() }
            );
            assert_eq!(*flags, if packet.way == Way::Inbound { 1 } else { 2 });
        }
    }

    #[test]
    fn time_is_written_in_nanoseconds_high_half_first() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        let time = 1_700_000_000_123_456_789_u64;
        writer.packet(&packet("x", time, Way::Inbound, "", &[9; 4])).unwrap();
        let file = writer.into_inner();
        let halves = [((time >> 32) as u32).to_le_bytes(), (time as u32).to_le_bytes()].concat();
        assert_eq!(file.windows(8).filter(|bytes| *bytes == halves).count(), 1);
    }
}
