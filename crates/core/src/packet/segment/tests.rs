//! The slow twin of segmentation builds every segment from nothing, with its own checksums; super-frames are built
//! by the same means, so a cut super-frame must give the twin's bytes.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::packet::test_frames::{address, ethernet, ipv4, ipv6, naive_checksum, vxlan};
use crate::packet::{Offload, Segmentation};

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Shape {
    tags: Vec<(u16, u16)>,
    ip: IpShape,
}

#[derive(Clone, Debug)]
enum IpShape {
    /// First identification, bytes of options.
    V4(u16, usize, Box<L4Shape>),
    /// With an extension header?
    V6(bool, Box<L4Shape>),
}

#[derive(Clone, Debug)]
enum L4Shape {
    Tcp {
        sequence: u32,
        flags: u8,
        options: usize,
    },
    Udp,
    UdpWithoutChecksum,
    /// With an outer checksum?
    Vxlan(bool, Shape),
    /// Bytes of options.
    Geneve(usize, Shape),
    Gre {
        checksum: bool,
        key: bool,
        inner: Shape,
    },
    IpInIp(IpShape),
}

/// Which part of the payload a frame carries.
#[derive(Clone, Copy)]
struct Part<'a> {
    index: u16,
    sent: u32,
    is_first: bool,
    is_last: bool,
    payload: &'a [u8],
}

fn emit(shape: &Shape, part: Part) -> Vec<u8> {
    let Shape { tags, ip } = shape;
    ethernet(tags, if is_v4(ip) { 0x0800 } else { 0x86dd }, &emit_ip(ip, part))
}

fn is_v4(ip: &IpShape) -> bool {
    matches!(ip, IpShape::V4(..))
}

fn emit_ip(ip: &IpShape, part: Part) -> Vec<u8> {
    match ip {
        IpShape::V4(id, options, l4) => {
            let pseudo = [10, 0, 0, 1, 10, 0, 0, 2];
            let (protocol, body) = emit_l4(l4, part, &pseudo);
            let header_length = 20 + options;
            let mut header = vec![0x40 | (header_length / 4) as u8, 0];
            header.extend(((header_length + body.len()) as u16).to_be_bytes());
            header.extend(id.wrapping_add(part.index).to_be_bytes());
            header.extend([0x40, 0, 64, protocol, 0, 0]);
            header.extend(pseudo);
            header.extend(vec![1; *options]);
            let checksum = naive_checksum(&[&header]);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            [header, body].concat()
        }
        IpShape::V6(extension, l4) => {
            let pseudo = [address(1), address(2)].concat();
            let (protocol, body) = emit_l4(l4, part, &pseudo);
            let extra = if *extension { vec![protocol, 0, 1, 4, 0, 0, 0, 0] } else { vec![] };
            let next = if *extension { 60 } else { protocol };
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(((extra.len() + body.len()) as u16).to_be_bytes());
            header.extend([next, 64]);
            header.extend(pseudo);
            [header, extra, body].concat()
        }
    }
}

fn transport_checksum(pseudo: &[u8], protocol: u8, body: &[u8]) -> [u8; 2] {
    let length = (body.len() as u32).to_be_bytes();
    naive_checksum(&[pseudo, &length, &[0, protocol], body]).to_be_bytes()
}

fn emit_udp(dst: u16, payload: &[u8], pseudo: &[u8], has_checksum: bool) -> Vec<u8> {
    let mut body = vec![0xc0, 1];
    body.extend(dst.to_be_bytes());
    body.extend((8 + payload.len() as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    if has_checksum {
        let checksum = transport_checksum(pseudo, 17, &body);
        body[6..8].copy_from_slice(if checksum == [0, 0] { &[0xff, 0xff] } else { &checksum });
    }
    body
}

fn emit_l4(l4: &L4Shape, part: Part, pseudo: &[u8]) -> (u8, Vec<u8>) {
    match l4 {
        L4Shape::Tcp { sequence, flags, options } => {
            let mut flags = *flags;
            if !part.is_last {
                flags &= !0x09;
            }
            if !part.is_first {
                flags &= !0x80;
            }
            let mut body = vec![0x30, 0x39, 0, 80];
            body.extend(sequence.wrapping_add(part.sent).to_be_bytes());
            body.extend([0, 0, 0, 2, ((5 + options / 4) << 4) as u8, flags, 1, 0, 0, 0, 0, 0]);
            body.extend(vec![1; *options]);
            body.extend(part.payload);
            let checksum = transport_checksum(pseudo, 6, &body);
            body[16..18].copy_from_slice(&checksum);
            (6, body)
        }
        L4Shape::Udp => (17, emit_udp(53, part.payload, pseudo, true)),
        L4Shape::UdpWithoutChecksum => (17, emit_udp(53, part.payload, pseudo, false)),
        L4Shape::Vxlan(has_checksum, inner) => {
            (17, emit_udp(4789, &vxlan(77, &emit(inner, part)), pseudo, *has_checksum))
        }
        L4Shape::Geneve(options, inner) => {
            let header = [(options / 4) as u8, 0, 0x65, 0x58, 0, 0, 9, 0];
            let payload = [&header[..], &vec![0; *options], &emit(inner, part)].concat();
            (17, emit_udp(6081, &payload, pseudo, true))
        }
        L4Shape::Gre { checksum, key, inner } => {
            let mut body = vec![(*checksum as u8) << 7 | (*key as u8) << 5, 0, 0x65, 0x58];
            if *checksum {
                body.extend([0; 4]);
            }
            if *key {
                body.extend([0, 1, 2, 3]);
            }
            body.extend(emit(inner, part));
            if *checksum {
                let value = naive_checksum(&[&body]);
                body[4..6].copy_from_slice(&value.to_be_bytes());
            }
            (47, body)
        }
        L4Shape::IpInIp(inner) => (if is_v4(inner) { 4 } else { 41 }, emit_ip(inner, part)),
    }
}

fn kind_of(shape: &Shape) -> SegmentationKind {
    kind_of_ip(&shape.ip)
}

fn kind_of_ip(ip: &IpShape) -> SegmentationKind {
    let (IpShape::V4(_, _, l4) | IpShape::V6(_, l4)) = ip;
    match &**l4 {
        L4Shape::Tcp { .. } if is_v4(ip) => SegmentationKind::TcpV4,
        L4Shape::Tcp { .. } => SegmentationKind::TcpV6,
        L4Shape::Udp | L4Shape::UdpWithoutChecksum => SegmentationKind::UdpL4,
        L4Shape::Vxlan(_, inner) | L4Shape::Geneve(_, inner) | L4Shape::Gre { inner, .. } => kind_of(inner),
        L4Shape::IpInIp(inner) => kind_of_ip(inner),
    }
}

fn inner_l4() -> impl Strategy<Value = L4Shape> {
    prop_oneof![
        3 => (any::<u32>(), any::<u8>(), 0usize..=10).prop_map(|(sequence, flags, words)| {
            L4Shape::Tcp { sequence, flags, options: words * 4 }
        }),
        1 => Just(L4Shape::Udp),
    ]
}

fn ip_with(l4: impl Strategy<Value = L4Shape> + 'static) -> impl Strategy<Value = IpShape> {
    (any::<bool>(), any::<u16>(), 0usize..=3, any::<bool>(), l4).prop_map(
        |(v4, id, options, extension, l4)| {
            let l4 = Box::new(l4);
            if v4 { IpShape::V4(id, options * 4, l4) } else { IpShape::V6(extension, l4) }
        },
    )
}

fn frame_with(ip: impl Strategy<Value = IpShape>) -> impl Strategy<Value = Shape> {
    (0usize..3, ip).prop_map(|(tags, ip)| Shape { tags: vec![(0x8100, 5); tags], ip })
}

fn plain() -> impl Strategy<Value = Shape> {
    frame_with(ip_with(inner_l4()))
}

fn tunnel(inner: BoxedStrategy<Shape>) -> BoxedStrategy<Shape> {
    let l4 = prop_oneof![
        (any::<bool>(), inner.clone()).prop_map(|(checksum, inner)| L4Shape::Vxlan(checksum, inner)),
        (0usize..4, inner.clone()).prop_map(|(words, inner)| L4Shape::Geneve(words * 4, inner)),
        (any::<bool>(), any::<bool>(), inner).prop_map(|(checksum, key, inner)| L4Shape::Gre {
            checksum,
            key,
            inner
        }),
        ip_with(inner_l4()).prop_map(L4Shape::IpInIp),
    ];
    frame_with(ip_with(l4)).boxed()
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![plain(), tunnel(plain().boxed()), tunnel(tunnel(plain().boxed()))]
}

fn cut(packet: &Packet) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut segments = Segments::new(packet)?;
    let mut buffer = Packet::with_capacity(70_000);
    let mut all = Vec::new();
    while segments.next_into(&mut buffer)? {
        assert_eq!(buffer.offload, Offload::default());
        all.push(buffer.frame().to_vec());
    }
    assert_eq!(all.len(), segments.count());
    Ok(all)
}

fn super_frame(shape: &Shape, payload: &[u8], size: u16) -> Packet {
    let whole = Part { index: 0, sent: 0, is_first: true, is_last: true, payload };
    let mut packet = Packet::from_frame(&emit(shape, whole));
    packet.offload.segmentation = Some(Segmentation { kind: kind_of(shape), size, ecn: false });
    packet
}

fn twin(shape: &Shape, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(size).max(1);
    (0..count)
        .map(|i| {
            let start = i * size;
            let part = Part {
                index: i as u16,
                sent: start as u32,
                is_first: i == 0,
                is_last: i + 1 == count,
                payload: &payload[start..(start + size).min(payload.len())],
            };
            emit(shape, part)
        })
        .collect()
}

proptest! {
    #[test]
    fn segments_are_those_of_the_twin(
        shape in shapes(),
        length in prop_oneof![0usize..3_000, 60_000usize..64_500],
        size in prop_oneof![1u16..300, 500u16..9_000],
        seed in any::<u8>(),
        is_partial in any::<bool>(),
    ) {
        let length = length.min(size as usize * 200);
        let payload: Vec<u8> = (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect();
        let mut packet = super_frame(&shape, &payload, size);
        let parsed = parse(packet.frame()).unwrap();
        if is_partial {
            // The sender's checksum field then holds anything; segments do not depend on it.
            let start = innermost_layout(&parsed).l4;
            let offset = if kind_of(&shape) == SegmentationKind::UdpL4 { 6 } else { 16 };
            packet.offload.checksum = Some(PartialChecksum { start, offset });
            packet.frame_mut()[(start + offset) as usize] ^= 0x55;
        }
        let expected = twin(&shape, &payload, size as usize);
        prop_assert_eq!(packet.segment_count(&parsed) as usize, expected.len());
        prop_assert_eq!(packet.largest_segment(&parsed), expected.iter().map(Vec::len).max().unwrap());
        prop_assert_eq!(cut(&packet).unwrap(), expected);
    }

    #[test]
    fn no_offload_makes_cutting_panic(
        shape in shapes(),
        size in any::<u16>(),
        kind in 0usize..3,
        checksum in proptest::option::of((any::<u16>(), any::<u16>())),
        change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut packet = super_frame(&shape, &[7; 900], size.max(1));
        let kinds = [SegmentationKind::TcpV4, SegmentationKind::TcpV6, SegmentationKind::UdpL4];
        packet.offload.segmentation = Some(Segmentation { kind: kinds[kind], size, ecn: true });
        packet.offload.checksum = checksum.map(|(start, offset)| PartialChecksum { start, offset });
        if let Some((at, value)) = change {
            let frame = packet.frame_mut();
            frame[at.index(frame.len())] = value;
        }
        let _ = cut(&packet);
        let _ = packet.complete_checksum();
    }

    #[test]
    fn completed_checksums_are_those_of_the_twin(
        shape in shapes(),
        payload in proptest::collection::vec(any::<u8>(), 0..1_500),
    ) {
        let whole = emit(&shape, Part { index: 0, sent: 0, is_first: true, is_last: true, payload: &payload });
        let parsed = parse(&whole).unwrap();
        let group = parsed.stack.innermost();
        let (offset, protocol) = if matches!(group.flow_id.l4, Some(L4::Udp(_))) { (6, 17) } else { (16, 6) };
        let start = innermost_layout(&parsed).l4;
        let at = (start + offset) as usize;
        let mut packet = Packet::from_frame(&whole);
        let partial = checksum::fold(pseudo_header(group, protocol, whole.len() - start as usize));
        packet.frame_mut()[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        packet.offload.checksum = Some(PartialChecksum { start, offset });
        packet.complete_checksum().unwrap();
        prop_assert_eq!(packet.offload.checksum, None);
        let got = [packet.frame()[at], packet.frame()[at + 1]];
        // A TCP checksum of zero is stored as its equal, 0xffff.
        let want = match [whole[at], whole[at + 1]] { [0, 0] => [0xff, 0xff], other => other };
        prop_assert_eq!(got, want);
        let mut rest = packet.frame().to_vec();
        rest[at..at + 2].copy_from_slice(&whole[at..at + 2]);
        prop_assert_eq!(rest, whole);
    }
}

fn tcp_v4(options: usize) -> Shape {
    let l4 = L4Shape::Tcp { sequence: 1, flags: 0x10, options };
    Shape { tags: vec![], ip: IpShape::V4(1, 0, Box::new(l4)) }
}

#[test]
fn udp_without_checksum_stays_without() {
    let l4 = Box::new(L4Shape::UdpWithoutChecksum);
    let shape = Shape { tags: vec![], ip: IpShape::V4(1, 0, l4) };
    let packet = super_frame(&shape, &[5; 2_000], 700);
    assert_eq!(cut(&packet).unwrap(), twin(&shape, &[5; 2_000], 700));
}

#[test]
fn a_tunnel_by_a_port_of_its_own_is_cut_like_any_other() {
    const UDP: usize = 14 + 20;
    let l4 = L4Shape::Vxlan(false, tcp_v4(12));
    let shape = Shape { tags: vec![], ip: IpShape::V4(1, 0, Box::new(l4)) };
    let by_port = |frame: &mut [u8]| frame[UDP + 2..UDP + 4].copy_from_slice(&8472u16.to_be_bytes());
    let mut packet = super_frame(&shape, &[5; 2_000], 700);
    by_port(packet.frame_mut());
    let mut segments = twin(&shape, &[5; 2_000], 700);
    segments.iter_mut().for_each(|segment| by_port(segment));
    assert_eq!(cut(&packet).unwrap(), segments);
    // Without the flag that makes it VXLAN nobody knows what is to be cut.
    packet.frame_mut()[UDP + 8] = 0;
    assert_eq!(cut(&packet), Err(DropReason::TransmitFailed));
}

#[test]
fn padding_behind_a_super_frame_is_no_payload() {
    let mut packet = super_frame(&tcp_v4(0), &[5; 2_000], 700);
    let padded = [packet.frame(), &[0xee; 9]].concat();
    let offload = packet.offload;
    packet = Packet::from_frame(&padded);
    packet.offload = offload;
    assert_eq!(cut(&packet).unwrap(), twin(&tcp_v4(0), &[5; 2_000], 700));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let good = super_frame(&tcp_v4(0), &[5; 2_000], 700);
    let refused = |packet: &Packet| cut(packet).err();
    assert_eq!(refused(&good), None);
    let mut bad = good.clone();
    bad.offload.segmentation = None;
    assert_eq!(refused(&bad), Some(DropReason::TransmitFailed), "no super-frame");
    for (kind, size) in
        [(SegmentationKind::TcpV6, 700), (SegmentationKind::UdpL4, 700), (SegmentationKind::TcpV4, 0)]
    {
        bad.offload.segmentation = Some(Segmentation { kind, size, ecn: false });
        assert_eq!(refused(&bad), Some(DropReason::TransmitFailed), "{kind:?} {size}");
    }
    let mut elsewhere = good.clone();
    elsewhere.offload.checksum = Some(PartialChecksum { start: 50, offset: 16 });
    assert_eq!(refused(&elsewhere), Some(DropReason::TransmitFailed), "checksum of another header");
    let mut malformed = good.clone();
    malformed.frame_mut()[22] ^= 1;
    assert_eq!(refused(&malformed), Some(DropReason::BadIpv4Checksum));
    let mut segments = Segments::new(&good).unwrap();
    let mut small = Packet::with_capacity(753);
    assert_eq!(segments.next_into(&mut small), Err(DropReason::TransmitFailed), "buffer too small");
    let mut exact = Packet::with_capacity(754);
    assert_eq!(segments.next_into(&mut exact), Ok(true));
}

#[test]
fn routes_and_authentication_forbid_cutting() {
    let tcp = twin(&tcp_v4(0), &[5; 100], 100)[0][34..].to_vec();
    for (next, extension, result) in [
        (43, vec![6, 0, 0, 0, 0, 0, 0, 0], None),
        (43, vec![6, 0, 0, 1, 0, 0, 0, 0], Some(DropReason::TransmitFailed)),
        (
            51,
            vec![6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Some(DropReason::TransmitFailed),
        ),
        (60, vec![43, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0], Some(DropReason::TransmitFailed)),
    ] {
        let frame = ethernet(&[], 0x86dd, &ipv6(next, &[extension, tcp.clone()].concat()));
        let mut packet = Packet::from_frame(&frame);
        packet.offload.segmentation =
            Some(Segmentation { kind: SegmentationKind::TcpV6, size: 40, ecn: false });
        assert_eq!(cut(&packet).err(), result, "next header {next}");
    }
}

#[test]
fn sctp_is_completed_with_crc32c() {
    let sctp = [0, 1, 0, 2, 0, 0, 0, 9, 0xaa, 0xbb, 0xcc, 0xdd, 3, 0, 0, 4];
    let frame = ethernet(&[], 0x0800, &ipv4(132, &sctp));
    let mut packet = Packet::from_frame(&frame);
    packet.offload.checksum = Some(PartialChecksum { start: 34, offset: 8 });
    packet.complete_checksum().unwrap();
    let mut zeroed = sctp;
    zeroed[8..12].fill(0);
    assert_eq!(packet.frame()[42..46], checksum::crc32c(&[&zeroed]).to_le_bytes());
    assert_eq!(packet.frame()[46..], sctp[12..]);
}

#[test]
fn checksum_positions_outside_the_frame_are_refused() {
    for (start, offset) in [(54, 6), (55, 0), (34, 19), (34, 20), (u16::MAX, u16::MAX), (46, 8)] {
        let mut packet = Packet::from_frame(&twin(&tcp_v4(0), b"", 1)[0]);
        let before = packet.frame().to_vec();
        packet.offload.checksum = Some(PartialChecksum { start, offset });
        let result = packet.complete_checksum();
        assert_eq!(result, Err(DropReason::TransmitFailed), "{start} {offset}");
        assert_eq!(packet.frame(), before);
        assert!(packet.offload.checksum.is_some());
    }
}
