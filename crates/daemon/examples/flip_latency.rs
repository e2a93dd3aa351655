//! How long a flip of policy takes from the call until every worker concerned runs it, while traffic crosses the workers.
//!
//! Usage: `flip_latency [WORKERS] [FLIPS]`; prints the median, the 99th percentile and the slowest, for a flip of one port
//! and for one of a port on each worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use lamina_backend::memory::{self, Memory};
use lamina_backend::{Backend, PacketPool};
use lamina_core::address::MacAddr;
use lamina_core::layer::{Compiler, Policy};
use lamina_core::packet::{Batch, Packet};
use lamina_core::switch::{PortConfig, PortId, PortLimits, SwitchConfig};
use lamina_core::time::Instant;
use lamina_daemon::host::{Host, HostConfig, Placement};

fn mac(number: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number as u8])
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let workers = arguments.next().transpose()?.unwrap_or(2);
    let flips = arguments.next().transpose()?.unwrap_or(2_000);
    let host = Host::start(HostConfig { workers, ..HostConfig::new("flip", SwitchConfig { seed: 1 }) })?;
    let mut compiler = Compiler::new();
    let ports: Vec<PortId> = (1..=workers as u32).map(PortId).collect();
    let mut guests = Vec::new();
    for (worker, id) in ports.iter().enumerate() {
        let (inner, guest) = memory::pair(256);
        let name = format!("p{}", id.0).into();
        let limits = PortLimits::default();
        let config = PortConfig { name, mac: mac(id.0), tenants: Vec::new(), mtu: 0, limits };
        host.add_port(*id, config, Placement::Worker(worker), Some(Box::new(inner)))?;
        guests.push(guest);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let traffic = scope.spawn(|| flood(guests, &done));
        let outcome = measure(&host, &mut compiler, &ports, flips);
        done.store(true, Ordering::Relaxed);
        let carried = traffic.join().unwrap_or(0);
        println!("{carried} packets were carried meanwhile");
        outcome
    })
}

fn measure(host: &Host, compiler: &mut Compiler, ports: &[PortId], flips: usize) -> anyhow::Result<()> {
    host.flip(
        ports
            .iter()
            .map(|id| Ok((*id, compiler.compile(*id, &Policy::default())?)))
            .collect::<anyhow::Result<_>>()?,
    )?;
    for concerned in [&ports[..1], ports] {
        let mut times = Vec::with_capacity(flips);
        for _ in 0..flips {
            let mut programs = Vec::new();
            for id in concerned {
                programs.push((*id, compiler.compile(*id, &Policy::default())?));
            }
            let start = Clock::now();
            host.flip(programs)?;
            times.push(start.elapsed());
            drop(compiler.collect());
            std::thread::sleep(Duration::from_micros(200));
        }
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or_default();
        println!("{} ports: median {:?}, p99 {:?}, slowest {:?}", concerned.len(), at(500), at(990), at(999));
    }
    Ok(())
}

/// Every guest sends to the next one until `done`; how many packets arrived.
fn flood(mut guests: Vec<Memory>, done: &AtomicBool) -> u64 {
    let (mut pool, mut batch) = (PacketPool::for_super_frames(1024), Batch::new());
    let (count, mut arrived) = (guests.len() as u32, 0);
    while !done.load(Ordering::Relaxed) {
        for (index, guest) in guests.iter_mut().enumerate() {
            let (from, to) = (index as u32 + 1, (index as u32 + 1) % count + 1);
            for _ in 0..16 {
                let Some(mut packet) = pool.take() else { break };
                let frame = [&mac(to).0[..], &mac(from).0, &[0x88, 0xb5], &[0; 46]].concat();
                if packet.fill(&[&frame]) {
                    batch.push(packet);
                }
            }
            guest.transmit(Instant(0), &mut pool, &mut batch);
            arrived += guest.receive(Instant(0), &mut pool, &mut batch, 64) as u64;
            batch.drain(..).for_each(|packet: Packet| pool.give(packet));
        }
        std::thread::yield_now();
    }
    arrived
}
