//! Reads pcap and pcapng files as leniently as tshark does: a damaged record ends the capture, it is no error.

/// The largest record that tshark accepts.
const MAX_RECORD: usize = 262_144;

/// The frames of a capture, as captured.
pub fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    match file.first_chunk() {
        Some([0xd4, 0xc3, 0xb2, 0xa1]) => pcap(file, u32::from_le_bytes),
        Some([0xa1, 0xb2, 0xc3, 0xd4]) => pcap(file, u32::from_be_bytes),
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(file),
        _ => Vec::new(),
    }
}

type Order = fn([u8; 4]) -> u32;

fn word(bytes: &[u8], at: usize, order: Order) -> Option<usize> {
    Some(order(*bytes.get(at..)?.first_chunk()?) as usize)
}

fn pcap(file: &[u8], order: Order) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(length) = word(file, at + 8, order).filter(|length| *length <= MAX_RECORD) {
        let start = at + 16;
        let Some(frame) = file.get(start..start + length) else { break };
        frames.push(frame.to_vec());
        at = start + length;
    }
    frames
}

fn pcapng(file: &[u8]) -> Vec<Vec<u8>> {
    const SECTION: usize = 0x0a0d_0d0a;
    let mut order: Order = u32::from_le_bytes;
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(kind) = word(file, at, order) {
        if kind == SECTION {
            let is_little = file.get(at + 8) == Some(&0x4d);
            order = if is_little { u32::from_le_bytes } else { u32::from_be_bytes };
        }
        let Some(length) = word(file, at + 4, order).filter(|length| *length >= 12) else { break };
        let Some(block) = file.get(at..at + length) else { break };
        // Enhanced and obsolete packet blocks have their lengths at one place; a simple one has no captured length.
        let (start, captured) = match kind {
            6 | 2 => (28, word(block, 20, order).unwrap_or(0)),
            3 => (12, word(block, 8, order).unwrap_or(0).min(length - 16)),
            _ => (0, 0),
        };
        if start > 0 {
            let Some(frame) = block.get(start..start + captured) else { break };
            frames.push(frame.to_vec());
        }
        at += length;
    }
    frames
}
