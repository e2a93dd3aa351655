//! What reading a packet costs: no flows and no rules are involved, frames are in the first-level cache.
//! Run with `cargo bench -p lamina-core --bench parse`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lamina_core::packet::{Offload, Packet, Segmentation, SegmentationKind, Segments, checksum, parse};

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], &ethertype.to_be_bytes()[..], payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b] = (20 + payload.len() as u16).to_be_bytes();
    let mut header = [0x45, 0, a, b, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum::finish(checksum::sum(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b] = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, a, b, protocol, 64], &[0x20; 32][..], payload].concat()
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    [&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0], payload].concat()
}

fn udp(dst: u16, payload: &[u8]) -> Vec<u8> {
    let [a, b] = (8 + payload.len() as u16).to_be_bytes();
    let [c, d] = dst.to_be_bytes();
    [&[0xc0, 1, c, d, a, b, 0, 0], payload].concat()
}

fn parsing(c: &mut Criterion) {
    let plain = ethernet(0x0800, &ipv4(6, &tcp(&[0; 10])));
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0], &plain[..]].concat();
    let frames = [
        ("tcp over ipv4, 64 B", plain),
        ("udp over ipv6", ethernet(0x86dd, &ipv6(17, &udp(53, &[0; 30])))),
        ("vxlan over ipv4, tcp inside", ethernet(0x0800, &ipv4(17, &udp(4789, &vxlan)))),
    ];
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in &frames {
        assert!(parse(frame).is_ok());
        group.bench_function(*name, |b| b.iter(|| parse(black_box(frame)).is_ok()));
    }
    group.finish();
}

fn payload(c: &mut Criterion) {
    let bytes = vec![0x5a; 65_000];
    let mut group = c.benchmark_group("payload");
    group.throughput(Throughput::Bytes(1448));
    group.bench_function("sum, 1448 B", |b| b.iter(|| checksum::sum(black_box(&bytes[..1448]))));
    group.bench_function("crc32c, 1448 B", |b| b.iter(|| checksum::crc32c(&[black_box(&bytes[..1448])])));
    let delta =
        || checksum::crc32c_delta(black_box(&[1, 2, 3, 4]), black_box(&[5, 6, 7, 8]), black_box(1456));
    group.bench_function("crc32c update of a header, 1448 B behind", |b| b.iter(delta));

    let mut frame = Packet::from_frame(&ethernet(0x0800, &ipv4(6, &tcp(&bytes))));
    let segmentation = Segmentation { kind: SegmentationKind::TcpV4, size: 1448, ecn: false };
    frame.offload = Offload { segmentation: Some(segmentation), ..Offload::default() };
    let mut segment = Packet::with_capacity(2048);
    group.throughput(Throughput::Bytes(65_000));
    group.bench_function("cut 65,000 B into 45 segments", |b| {
        b.iter(|| {
            let mut segments = Segments::new(&frame).expect("a super-frame");
            let mut count = 0;
            while segments.next_into(&mut segment).expect("it fits") {
                count += 1;
            }
            assert_eq!(count, 45);
        })
    });
    group.finish();
}

criterion_group!(benches, parsing, payload);
criterion_main!(benches);
