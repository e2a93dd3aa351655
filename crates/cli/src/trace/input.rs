//! Where a frame comes from: words, hexadecimal bytes, or a capture file.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use lamina_api::Report;
use lamina_core::packet::MAX_FRAME;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::frame::{DefaultMacs, build};
use super::{TraceArgs, packet};

/// What a person gave.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A packet in words.
    Text(&'a str),
    /// Hexadecimal bytes.
    Hex(&'a str),
    /// A frame of a capture file, counted from 1.
    Pcap(&'a Path, usize),
}

impl<'a> Input<'a> {
    /// What the command line says; `words` are the packet's.
    pub fn of(args: &'a TraceArgs, words: &'a str) -> Self {
        match (&args.hex, &args.pcap) {
            (Some(hex), _) => Input::Hex(hex),
            (_, Some(path)) => Input::Pcap(path, args.frame),
            _ => Input::Text(words),
        }
    }

    /// The frame. A frame of any length is one, also of none: what becomes of it is for the switch to say.
    pub fn frame(&self, macs: DefaultMacs) -> anyhow::Result<Vec<u8>> {
        let frame = match self {
            Input::Text(text) => {
                let spec = packet::parse(text).map_err(|error| {
                    let drawn = Report::from(error).render(crate::policy::colours(&std::io::stderr()));
                    anyhow!("this packet cannot be read\n{drawn}")
                })?;
                build(&spec, macs).map_err(|_| anyhow!("the packet is longer than 65,535 bytes"))?
            }
            Input::Hex(text) => hex(text)?,
            Input::Pcap(path, number) => captured(path, *number)?,
        };
        if frame.len() > MAX_FRAME {
            bail!("the frame has {} bytes; a switch takes at most {MAX_FRAME}", frame.len());
        }
        Ok(frame)
    }
}

fn hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let text = text.trim().strip_prefix("0x").unwrap_or(text);
    let mut digits = Vec::with_capacity(text.len());
    for (position, c) in
        text.chars().enumerate().filter(|(_, c)| !c.is_whitespace() && !matches!(c, ':' | '-'))
    {
        let digit = c
            .to_digit(16)
            .ok_or_else(|| anyhow!("`{c}` at position {} is not a hexadecimal digit", position + 1))?;
        digits.push(digit as u8);
    }
    if digits.len() % 2 == 1 {
        bail!("{} hexadecimal digits are half a byte too few or too many", digits.len());
    }
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn captured(path: &Path, number: usize) -> anyhow::Result<Vec<u8>> {
    if number == 0 {
        bail!("frames are counted from 1");
    }
    let name = path.display();
    let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open {name}"))?);
    let mut magic = [0; 4];
    file.read_exact(&mut magic).with_context(|| format!("{name} is too short for a capture file"))?;
    file.rewind()?;
    const PCAP: [[u8; 4]; 2] = [[0xa1, 0xb2, 0xc3, 0xd4], [0xa1, 0xb2, 0x3c, 0x4d]];
    let is_pcapng = magic == [0x0a, 0x0d, 0x0d, 0x0a];
    let reversed = [magic[3], magic[2], magic[1], magic[0]];
    if !is_pcapng && !PCAP.contains(&magic) && !PCAP.contains(&reversed) {
        bail!("{name} is neither a pcap nor a pcapng file");
    }
    let frame = if is_pcapng { from_pcapng(file, number) } else { from_pcap(file, number) };
    frame.with_context(|| format!("cannot take frame {number} of {name}"))
}

/// Says that a capture holds only the beginning of a frame: the switch would have seen all of it.
fn note_cut(held: usize, original: u32) {
    if held < original as usize {
        eprintln!("note: the capture holds only {held} of the {original} bytes of this frame");
    }
}

fn from_pcap(file: impl Read, number: usize) -> anyhow::Result<Vec<u8>> {
    let mut reader = PcapReader::new(file)?;
    let link = reader.header().datalink;
    if link != DataLink::ETHERNET {
        bail!("the capture holds {link:?} frames, not Ethernet");
    }
    let mut seen = 0;
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        seen += 1;
        if seen == number {
            note_cut(packet.data.len(), packet.orig_len);
            return Ok(packet.data.into_owned());
        }
    }
    bail!("the capture has only {seen} frames")
}

fn from_pcapng(file: impl Read, number: usize) -> anyhow::Result<Vec<u8>> {
    let mut reader = PcapNgReader::new(file)?;
    let mut links = Vec::new();
    let mut seen = 0;
    while let Some(block) = reader.next_block() {
        let (interface, data) = match block? {
            Block::InterfaceDescription(interface) => {
                links.push(interface.linktype);
                continue;
            }
            Block::SectionHeader(_) => {
                links.clear();
                continue;
            }
            Block::EnhancedPacket(packet) => {
                if seen + 1 == number {
                    note_cut(packet.data.len(), packet.original_len);
                }
                (packet.interface_id as usize, packet.data.into_owned())
            }
            Block::SimplePacket(packet) => (0, packet.data.into_owned()),
            _ => continue,
        };
        seen += 1;
        if seen == number {
            return match links.get(interface) {
                Some(DataLink::ETHERNET) => Ok(data),
                Some(link) => bail!("the frame is of kind {link:?}, not Ethernet"),
                None => bail!("the frame names interface {interface}, which the capture does not describe"),
            };
        }
    }
    bail!("the capture has only {seen} frames")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text() {
        assert_eq!(hex("0x02 00:00-ff\n").unwrap(), [2, 0, 0, 0xff]);
        assert_eq!(hex("").unwrap(), Vec::<u8>::new());
        assert!(hex("0").unwrap_err().to_string().contains("half a byte"));
        assert!(hex("0g").unwrap_err().to_string().contains("position 2"));
    }

    #[test]
    fn both_capture_formats_are_read() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("lamina-trace-{}.pcap", std::process::id()));
        let mut pcap =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        for frame in [&[1u8, 2, 3][..], &[4, 5]] {
            pcap.extend([0; 8]);
            pcap.extend((frame.len() as u32).to_le_bytes());
            pcap.extend((frame.len() as u32).to_le_bytes());
            pcap.extend(frame);
        }
        std::fs::write(&path, &pcap).unwrap();
        assert_eq!(captured(&path, 2).unwrap(), [4, 5]);
        assert!(format!("{:#}", captured(&path, 3).unwrap_err()).contains("only 2 frames"));
        assert!(captured(&path, 0).is_err());
        std::fs::write(&path, &pcap[..pcap.len() - 1]).unwrap();
        assert!(captured(&path, 2).is_err(), "a capture that is cut off");

        let mut pcapng = vec![0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
        pcapng.extend([0xff; 8]);
        pcapng.extend([28, 0, 0, 0]);
        pcapng.extend([1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0]);
        pcapng.extend([
            6, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 7, 8, 9, 0,
        ]);
        pcapng.extend([36, 0, 0, 0]);
        std::fs::write(&path, &pcapng).unwrap();
        assert_eq!(captured(&path, 1).unwrap(), [7, 8, 9]);
        std::fs::write(&path, [1, 2]).unwrap();
        assert!(format!("{:#}", captured(&path, 1).unwrap_err()).contains("too short"));
        std::fs::remove_file(&path).unwrap();
    }
}
