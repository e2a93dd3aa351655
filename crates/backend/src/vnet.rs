//! The virtio-net header (virtio 1.2 §5.1.6.1): offload work in front of a frame, as AF_PACKET and TAP speak it.
//!
//! What comes in is written by a guest or by a kernel on its behalf, so every field is checked against the frame
//! before it is used; `hdr_len` is a hint that we never use. Only the ten bytes of the legacy header are spoken, in
//! the host's byte order.

use lamina_core::packet::{Offload, PartialChecksum, Segmentation, SegmentationKind};

/// Length of the header in bytes.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const ETHERNET_LEN: usize = 14;
/// Smallest TCP segment that is cut: what the kernel uses too (`TCP_MIN_GSO_SIZE`). Smaller ones would let one
/// frame become ten thousand.
const MIN_TCP_SEGMENT: u16 = 8;
/// Most datagrams one UDP super-frame may become (`UDP_MAX_SEGMENTS`).
const MAX_UDP_SEGMENTS: usize = 128;

/// The offload header contradicts the frame behind it, or asks for something unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadOffload;

/// Reads the header in front of a frame of `length` bytes.
pub fn decode(header: &[u8; VNET_HEADER_LEN], length: usize) -> Result<Offload, BadOffload> {
    let [flags, gso, ..] = *header;
    let [_, gso_size, start, offset] = fields(header);
    let mut offload = Offload { checksum_verified: flags & DATA_VALID != 0, ..Offload::default() };
    if flags & NEEDS_CSUM != 0 {
        let stored = usize::from(start) + usize::from(offset);
        if usize::from(start) < ETHERNET_LEN || stored + 2 > length {
            return Err(BadOffload);
        }
        offload.checksum = Some(PartialChecksum { start, offset });
    }
    let (kind, expected_offset, minimum) = match gso & !GSO_ECN {
        GSO_NONE => return Ok(offload),
        GSO_TCPV4 => (SegmentationKind::TcpV4, 16, MIN_TCP_SEGMENT),
        GSO_TCPV6 => (SegmentationKind::TcpV6, 16, MIN_TCP_SEGMENT),
        GSO_UDP_L4 => (SegmentationKind::UdpL4, 6, 1),
        _ => return Err(BadOffload),
    };
    // A partial checksum must be in the place that the protocol to be cut has. A network card that joins segments
    // may have verified the checksum already, then there is none (the kernel accepts that, so do we).
    if gso_size < minimum || offload.checksum.is_some_and(|partial| partial.offset != expected_offset) {
        return Err(BadOffload);
    }
    let transport = length - offload.checksum.map_or(0, |partial| usize::from(partial.start));
    if kind == SegmentationKind::UdpL4
        && (offload.checksum.is_none() || transport - 8 > MAX_UDP_SEGMENTS * usize::from(gso_size))
    {
        return Err(BadOffload);
    }
    // A frame that is no longer than one segment is no super-frame.
    if transport > usize::from(gso_size) {
        offload.segmentation = Some(Segmentation { kind, size: gso_size, ecn: gso & GSO_ECN != 0 });
    }
    Ok(offload)
}

/// Writes the header for `offload`. `linear` is the number of bytes at the start of the frame that the kernel
/// should keep in one piece; it must not exceed the frame, and 0 leaves the choice to the kernel.
pub fn encode(offload: &Offload, linear: u16) -> [u8; VNET_HEADER_LEN] {
    let mut flags = if offload.checksum_verified { DATA_VALID } else { 0 };
    let (mut start, mut offset) = (0, 0);
    if let Some(partial) = offload.checksum {
        flags = NEEDS_CSUM;
        (start, offset) = (partial.start, partial.offset);
    }
    let (mut gso, mut size) = (GSO_NONE, 0);
    if let Some(segmentation) = offload.segmentation {
        gso = match segmentation.kind {
            SegmentationKind::TcpV4 => GSO_TCPV4,
            SegmentationKind::TcpV6 => GSO_TCPV6,
            SegmentationKind::UdpL4 => GSO_UDP_L4,
        };
        gso |= if segmentation.ecn { GSO_ECN } else { 0 };
        size = segmentation.size;
    }
    let mut header = [0; VNET_HEADER_LEN];
    header[0] = flags;
    header[1] = gso;
    for (place, field) in header[2..].chunks_exact_mut(2).zip([linear, size, start, offset]) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    header
}

/// `hdr_len`, `gso_size`, `csum_start`, `csum_offset`.
fn fields(header: &[u8; VNET_HEADER_LEN]) -> [u16; 4] {
    std::array::from_fn(|i| u16::from_ne_bytes([header[2 + 2 * i], header[3 + 2 * i]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> [u8; VNET_HEADER_LEN] {
        let mut bytes = [0; VNET_HEADER_LEN];
        (bytes[0], bytes[1]) = (flags, gso);
        bytes[4..6].copy_from_slice(&size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        bytes
    }

    #[test]
    fn what_is_encoded_decodes_again() {
        let checksum = Some(PartialChecksum { start: 34, offset: 16 });
        let tcp = |kind, ecn| Some(Segmentation { kind, size: 1448, ecn });
        for offload in [
            Offload::default(),
            Offload { checksum_verified: true, ..Offload::default() },
            Offload { checksum, ..Offload::default() },
            Offload { checksum, segmentation: tcp(SegmentationKind::TcpV4, true), checksum_verified: false },
            Offload { checksum, segmentation: tcp(SegmentationKind::TcpV6, false), checksum_verified: false },
            Offload {
                checksum: Some(PartialChecksum { start: 42, offset: 6 }),
                segmentation: tcp(SegmentationKind::UdpL4, false),
                checksum_verified: false,
            },
        ] {
            assert_eq!(decode(&encode(&offload, 66), 60_000), Ok(offload));
        }
    }

    #[test]
    fn every_contradiction_is_refused() {
        let length = 1514;
        assert!(decode(&header(1, 0, 0, 34, 16), length).is_ok());
        for (why, bad) in [
            ("checksum inside Ethernet", header(1, 0, 0, 13, 16)),
            ("checksum start behind the frame", header(1, 0, 0, 1514, 0)),
            ("checksum field cut by the end", header(1, 0, 0, 1500, 13)),
            ("sum of positions wraps 16 bits", header(1, 0, 0, 65_535, 65_535)),
            ("datagrams without partial checksum", header(0, 5, 500, 0, 0)),
            ("TCP cut, UDP checksum place", header(1, 1, 500, 34, 6)),
            ("UDP cut, TCP checksum place", header(1, 5, 500, 34, 16)),
            ("segments of nothing", header(1, 1, 0, 34, 16)),
            ("one frame to ten thousand", header(1, 4, 7, 34, 16)),
            ("too many datagrams", header(1, 5, 1, 34, 6)),
            ("IP fragmentation offload", header(1, 3, 500, 34, 6)),
            ("unknown kind", header(1, 2, 500, 34, 16)),
            ("tunnel bits that were not negotiated", header(1, 0x21, 500, 34, 16)),
        ] {
            assert_eq!(decode(&bad, length), Err(BadOffload), "{why}");
        }
    }

    #[test]
    fn a_frame_of_one_segment_is_no_super_frame() {
        let offload = decode(&header(1, 1, 1480, 34, 16), 1514).unwrap();
        assert_eq!(offload.segmentation, None);
        assert!(decode(&header(1, 1, 1479, 34, 16), 1514).unwrap().segmentation.is_some());
    }

    #[test]
    fn no_header_panics() {
        let mut bytes = [0u8; VNET_HEADER_LEN];
        let mut state = 1u64;
        for _ in 0..200_000 {
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = if state >> 62 == 0 { 0 } else { (state >> 40) as u8 };
            }
            let length = (state >> 20) as usize % 70_000;
            if let Ok(Offload { checksum: Some(partial), .. }) = decode(&bytes, length) {
                assert!(usize::from(partial.start) + usize::from(partial.offset) + 2 <= length);
            }
        }
    }
}
