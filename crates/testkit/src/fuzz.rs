//! Fuzz bodies: plain functions over bytes that panic when something is wrong. The fuzzer calls them, and so do
//! ordinary tests with a replayed corpus.

mod classify;
mod input;
mod message;
mod transpose;

pub use classify::classify_any;
pub use message::message_any;
pub use transpose::transpose_any;

use lamina_core::address::MacAddr;
use lamina_core::flow::{L4, Ports};
use lamina_core::packet::{
    HEADER_WINDOW, Offload, Packet, Parsed, PartialChecksum, Segmentation, SegmentationKind, Segments,
    TunnelPorts, parse, parse_opaque, parse_with, reply_arp, reply_echo, reply_neighbor_advertisement,
};
use lamina_core::transposition::{GENEVE_PORT, VXLAN_PORT};

/// Parses `bytes` as a frame and checks what holds for every frame that parses; then lets everything that reads
/// packets by their layout work on it: answers, checksum completion, segmentation.
pub fn parse_any(bytes: &[u8]) {
    if let Ok(opaque) = parse_opaque(bytes) {
        check_layout(bytes, &opaque);
        assert_eq!(opaque.stack.groups().len(), 1);
        assert!(opaque.stack.innermost().flow_id.l3.is_none());
    }
    let Ok(parsed) = parse(bytes) else { return };
    check_layout(bytes, &parsed);
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    check_answer(bytes, &parsed, |packet| reply_arp(packet, &parsed, mac));
    check_answer(bytes, &parsed, |packet| reply_neighbor_advertisement(packet, &parsed, mac));
    check_answer(bytes, &parsed, |packet| reply_echo(packet, &parsed));
    check_segments(bytes, &parsed);
}

/// Headers follow one another without gap or overlap, inside the window and the frame.
fn check_layout(bytes: &[u8], parsed: &Parsed) {
    let mut at = 0;
    let groups = parsed.stack.groups().len();
    assert!((1..=parsed.layout.groups.len()).contains(&groups));
    for layout in &parsed.layout.groups[..groups] {
        assert_eq!(layout.l2, at);
        assert!(layout.l2 <= layout.l3 && layout.l3 <= layout.l4 && layout.l4 <= layout.end);
        at = layout.end;
    }
    assert!(at as usize <= bytes.len().min(HEADER_WINDOW));
}

/// An answer parses; a refusal leaves the bytes alone.
fn check_answer<E>(bytes: &[u8], parsed: &Parsed, reply: impl Fn(&mut Packet) -> Result<(), E>) {
    let mut packet = Packet::from_frame(bytes);
    match reply(&mut packet) {
        Ok(()) => {
            let answer = parse(packet.frame()).unwrap_or_else(|reason| panic!("answer: {reason:?}"));
            assert_eq!(answer.stack.groups().len(), parsed.stack.groups().len());
        }
        Err(_) => assert_eq!(packet.frame(), bytes),
    }
}

/// Whatever the frame is declared to be, cutting it either fails or gives frames that parse and together hold
/// the payload's bytes.
fn check_segments(bytes: &[u8], parsed: &Parsed) {
    let first = parsed.layout.groups[parsed.stack.groups().len() - 1];
    let seed = bytes.iter().fold(0u16, |sum, byte| sum.rotate_left(3) ^ u16::from(*byte));
    // Sizes that make more than a hundred segments test nothing new and cost much.
    let size = (seed % 1500).max((bytes.len() / 100) as u16).max(1);
    for kind in [SegmentationKind::TcpV4, SegmentationKind::TcpV6, SegmentationKind::UdpL4] {
        let mut packet = Packet::from_frame(bytes);
        packet.offload.segmentation = Some(Segmentation { kind, size, ecn: false });
        let Ok(mut segments) = Segments::new(&packet) else { continue };
        let ports = tunnel_ports(parsed, kind);
        let parsed = parse_with(bytes, &ports).expect("what can be cut parses");
        let last = parsed.layout.groups[parsed.stack.groups().len() - 1];
        // A datagram to a tunnel's port is a tunnel or not by its first bytes, which differ from segment to segment.
        let may_open_tunnel = matches!(
            parsed.stack.innermost().flow_id.l4,
            Some(L4::Udp(Ports { dst: VXLAN_PORT | GENEVE_PORT, .. }))
        );
        let mut segment = Packet::with_capacity(bytes.len());
        let mut payload = 0;
        while segments.next_into(&mut segment).expect("a segment is no longer than the super-frame") {
            assert_eq!(segment.offload, Offload::default());
            if !may_open_tunnel {
                let parsed = parse_with(segment.frame(), &ports);
                let parsed = parsed.unwrap_or_else(|reason| panic!("segment: {reason:?}"));
                assert_eq!(parsed.layout.groups[parsed.stack.groups().len() - 1], last);
            }
            payload += segment.len() - last.end as usize;
        }
        assert!(payload <= bytes.len() - last.end as usize);
    }
    for (start, offset) in [(first.l4, 16), (first.l4, 6), (first.l4, 8), (seed, seed >> 8)] {
        let mut packet = Packet::from_frame(bytes);
        packet.offload.checksum = Some(PartialChecksum { start, offset });
        if packet.complete_checksum().is_err() {
            assert_eq!(packet.frame(), bytes);
        }
    }
}

/// The ports of tunnels in a super-frame of `kind`: TCP inside a datagram to a port that nobody knows lies in a tunnel
/// by that port.
fn tunnel_ports(parsed: &Parsed, kind: SegmentationKind) -> TunnelPorts {
    match parsed.stack.innermost().flow_id.l4 {
        Some(L4::Udp(ports)) if kind != SegmentationKind::UdpL4 => {
            TunnelPorts::with_vxlan(&[ports.dst]).unwrap_or_default()
        }
        _ => TunnelPorts::default(),
    }
}
