//! Moves every frame between two devices and does nothing else: what the sockets alone can carry, as the baseline
//! for `bench/netns-throughput.sh`. Usage: `bare_forward A B`; runs until it is killed.

use std::time::Instant as Clock;

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::{Backend, PacketPool};
use lamina_core::packet::Batch;
use lamina_core::time::Instant;
use rustix::event::{PollFd, PollFlags, poll};

/// Empty rounds before sleeping.
const IDLE_ROUNDS: u32 = 8;

fn main() -> std::io::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = names.as_slice() else {
        eprintln!("usage: bare_forward A B");
        std::process::exit(2);
    };
    let mut ends = [AfPacket::open(&AfPacketConfig::guest(a))?, AfPacket::open(&AfPacketConfig::guest(b))?];
    let mut pool = PacketPool::for_super_frames(256);
    let mut batch = Batch::new();
    let start = Clock::now();
    let mut idle = 0;
    loop {
        let now = Instant(start.elapsed().as_nanos() as u64);
        idle += 1;
        for from in 0..2 {
            if ends[from].receive(now, &mut pool, &mut batch, 32) > 0 {
                ends[1 - from].transmit(now, &mut pool, &mut batch);
                idle = 0;
            }
        }
        if idle > IDLE_ROUNDS {
            let [first, second] = &ends;
            let (Some(first), Some(second)) = (first.as_fd(), second.as_fd()) else { continue };
            poll(
                &mut [
                    PollFd::from_borrowed_fd(first, PollFlags::IN),
                    PollFd::from_borrowed_fd(second, PollFlags::IN),
                ],
                None,
            )?;
            idle = 0;
        }
    }
}
