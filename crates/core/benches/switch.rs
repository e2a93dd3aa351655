//! Hit and miss of the unified flow table: layers x rules x flows (DESIGN §16).
//!
//! One port, outbound, 60-byte UDP frames (64 on the wire). The layers: a stateful ACL of `rules` rules whose
//! last one admits the packet, a destination NAT, layers that match nothing, and a VXLAN encapsulation next to
//! the network. Packets come from memory; copying the frame into its buffer is part of every figure (`copy`
//! measures it alone). A hit is a packet of a flow that is cached; flows are walked in order, so every packet
//! belongs to another flow than the one before. A miss is the first packet of a new flow, which creates one
//! conversation with two layer flows; old ones are expired as they would be in operation.
//!
//! `LAMINA_BENCH_FLOWS=1000000` adds the largest table (needs about 2 GiB).

mod rig;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lamina_core::time::Duration;

use rig::{BATCH, Bench, frame};

fn flow_counts() -> Vec<u32> {
    let mut counts = vec![1, 1_000, 100_000];
    counts.extend(std::env::var("LAMINA_BENCH_FLOWS").ok().and_then(|flows| flows.parse::<u32>().ok()));
    counts
}

fn hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("hit");
    group.throughput(Throughput::Elements(BATCH as u64));
    for layers in [1, 10, 20] {
        for rules in [10, 1_000, 50_000] {
            for flows in flow_counts() {
                let frames: Vec<[u8; 60]> = (0..flows).map(frame).collect();
                let mut bench = Bench::new(layers, rules, flows as usize);
                bench.warm(flows, &frames);
                group.bench_function(
                    BenchmarkId::from_parameter(format!("{layers}-layers/{rules}-rules/{flows}-flows")),
                    |b| {
                        b.iter(|| bench.send(flows, &frames));
                    },
                );
            }
        }
    }
    let mut bench = Bench::new(1, 10, 1);
    group.bench_function("copy", |b| {
        let frames = [frame(0)];
        b.iter(|| {
            let mut packet = bench.pool.pop().unwrap();
            for _ in 0..BATCH {
                packet.reset()[..60].copy_from_slice(&black_box(frames[0]));
                packet.set_len(60);
            }
            bench.pool.push(black_box(packet));
        });
    });
    group.finish();
}

fn miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(BATCH as u64));
    for layers in [1, 10, 20] {
        for rules in [10, 1_000, 50_000] {
            let mut bench = Bench::new(layers, rules, 65_536);
            let frames: Vec<[u8; 60]> = (0..2_000_000).map(frame).collect();
            group.bench_function(
                BenchmarkId::from_parameter(format!("{layers}-layers/{rules}-rules")),
                |b| {
                    b.iter(|| {
                        bench.send(u32::MAX, &frames);
                        // A flow lives one second: at 64 flows per millisecond about 64,000 are alive.
                        bench.now = bench.now + Duration(BATCH as u64 * 15_625);
                        if (bench.next as usize / BATCH).is_multiple_of(128) {
                            bench.switch.sweep(bench.now);
                        }
                    });
                },
            );
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(1));
    targets = hit, miss
}
criterion_main!(benches);
