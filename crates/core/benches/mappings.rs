//! Live mapping tables: changes per second in bulk, beside traffic that uses the table (DESIGN §16: 500,000 mappings
//! per second).
//!
//! A batch is 1,024 changes, as one call of the control plane. `put` fills a table from nothing to 1,000,000 entries
//! and starts over, so growth is in the figure; `replace` gives entries of a table of 1,000,000 another value;
//! `churn` puts one half and removes the other. Keys are IPv4 addresses in pseudo-random order.

use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lamina_core::address::MacAddr;
use lamina_core::resource::{Mapping, MappingChange, MappingKey, MappingTable};
use lamina_core::switch::{Switch, SwitchConfig};

const BATCH: u32 = 1_024;
const ENTRIES: u32 = 1_000_000;

/// The `number`th key: every number below 2^32 gives another one.
fn key(number: u32) -> MappingKey {
    let address = IpAddr::V4(Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1)));
    MappingKey { tenant: 0, address }
}

fn put(number: u32, version: u8) -> MappingChange {
    let remote = Some(IpAddr::V4(Ipv4Addr::new(172, 16, version, number as u8)));
    let mac = MacAddr([2, 0, 0, 0, version, number as u8]);
    MappingChange::Put(key(number), Mapping { remote, mac, tenant: Some(5001) })
}

fn switch_with(entries: u32) -> Switch {
    let mut switch = Switch::new(SwitchConfig { seed: 1 });
    switch.replace_mapping(&MappingTable::new("blue".into(), [])).unwrap();
    let changes: Vec<MappingChange> = (0..entries).map(|number| put(number, 0)).collect();
    switch.update_mapping("blue", &changes).unwrap();
    switch
}

fn mappings(c: &mut Criterion) {
    let mut group = c.benchmark_group("mappings");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let (mut switch, mut next) = (switch_with(0), 0);
    group.bench_function("put", |b| {
        b.iter(|| {
            if next + BATCH > ENTRIES {
                (switch, next) = (switch_with(0), 0);
            }
            let changes: Vec<MappingChange> = (next..next + BATCH).map(|number| put(number, 0)).collect();
            next += BATCH;
            switch.update_mapping("blue", &changes).unwrap()
        });
    });
    let (mut switch, mut next, mut version) = (switch_with(ENTRIES), 0, 0u8);
    group.bench_function("replace", |b| {
        b.iter(|| {
            if next + BATCH > ENTRIES {
                (next, version) = (0, version.wrapping_add(1));
            }
            let changes: Vec<MappingChange> =
                (next..next + BATCH).map(|number| put(number, version.wrapping_add(1))).collect();
            next += BATCH;
            switch.update_mapping("blue", &changes).unwrap()
        });
    });
    let (mut switch, mut next) = (switch_with(ENTRIES), 0);
    group.bench_function("churn", |b| {
        b.iter(|| {
            let gone = (next..next + BATCH / 2).map(|number| MappingChange::Remove(key(number)));
            let come = (next..next + BATCH / 2).map(|number| put(number.wrapping_add(ENTRIES), 0));
            let changes: Vec<MappingChange> = gone.chain(come).collect();
            next = next.wrapping_add(BATCH / 2);
            switch.update_mapping("blue", &changes).unwrap()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(2));
    targets = mappings
}
criterion_main!(benches);
