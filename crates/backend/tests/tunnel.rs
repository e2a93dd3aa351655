//! Tunnelled super-frames of the kernel, taken whole by `af_packet` and cut before they go on: two kernel VXLAN peers
//! that only a forwarder over two `af_packet` backends joins.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_backend::{Backend, PacketPool};
use lamina_core::packet::{Batch, parse};
use lamina_core::time::Instant;

fn try_ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed").success()
}

fn ip(arguments: &str) {
    assert!(try_ip(arguments), "ip {arguments}");
}

/// A host with underlay address 172.16.0.`number` on a cable to `middle`, and 10.8.0.`number` inside the tunnel.
/// `None` where the kernel has no VXLAN.
fn host(middle: &NetNs, number: u8, checksum: &str) -> Option<NetNs> {
    let host = NetNs::create().unwrap();
    middle
        .run(|| {
            ip(&format!("link add m{number} type veth peer name u{number} address 02:00:00:00:01:0{number}"));
            ip(&format!("link set u{number} netns {}", host.path().display()));
            ip(&format!("link set m{number} up"));
        })
        .unwrap();
    let other = 3 - number;
    let made = host.run(|| {
        for family in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{family}/disable_ipv6"), "1").unwrap();
        }
        ip("link set lo up");
        ip(&format!("link set u{number} up"));
        ip(&format!("addr add 172.16.0.{number}/24 dev u{number}"));
        if !try_ip(&format!(
            "link add vx address 02:00:00:00:02:0{number} type vxlan id 42 dstport 4789 local 172.16.0.{number} \
             remote 172.16.0.{other} {checksum}"
        )) {
            return false;
        }
        ip("link set vx up");
        ip(&format!("addr add 10.8.0.{number}/24 dev vx"));
        true
    });
    made.unwrap().then_some(host)
}

struct Seen {
    /// Received frames that carried a tunnelled super-frame.
    tunnelled: usize,
    /// The longest frame that left.
    longest_sent: usize,
    failed: usize,
}

/// Moves frames between the two until `stop`.
fn forward(mut ends: [AfPacket; 2], stop: &AtomicBool) -> Seen {
    let mut pool = PacketPool::for_super_frames(512);
    let mut batch = Batch::new();
    let mut seen = Seen { tunnelled: 0, longest_sent: 0, failed: 0 };
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for from in 0..2 {
            if ends[from].receive(Instant(0), &mut pool, &mut batch, 32) == 0 {
                continue;
            }
            idle = false;
            for packet in batch.iter().filter(|packet| packet.offload.segmentation.is_some()) {
                let groups = parse(packet.frame()).map_or(0, |parsed| parsed.stack.groups().len());
                seen.tunnelled += usize::from(groups == 2);
            }
            let before = ends[1 - from].statistics().transmitted;
            let outcome = ends[1 - from].transmit(Instant(0), &mut pool, &mut batch);
            let after = ends[1 - from].statistics().transmitted;
            seen.failed += outcome.failed;
            if outcome.sent > 0 {
                let mean = (after.bytes - before.bytes).div_ceil(after.frames - before.frames);
                seen.longest_sent = seen.longest_sent.max(mean as usize);
            }
        }
        if idle {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    assert_eq!(pool.in_use(), 0);
    seen
}

/// Accepts one connection, within ten seconds.
fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let start = Clock::now();
    loop {
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed().as_secs() < 10 => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
        }
    }
}

#[test]
fn kernel_vxlan_peers_exchange_a_stream_through_the_backends() {
    if !may_make_namespaces() {
        println!("skipped, because this process may not make network namespaces");
        return;
    }
    for checksum in ["noudpcsum", "udpcsum"] {
        let middle = NetNs::create().unwrap();
        let hosts = [1, 2].map(|number| host(&middle, number, checksum));
        let [Some(one), Some(two)] = hosts else {
            println!("skipped, because the kernel has no VXLAN devices");
            return;
        };
        let ends = middle
            .run(|| {
                [1, 2].map(|number| AfPacket::open(&AfPacketConfig::guest(format!("m{number}"))).unwrap())
            })
            .unwrap();
        let data: Vec<u8> = (0..8 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let stop = AtomicBool::new(false);
        let listener = two.run(|| TcpListener::bind("10.8.0.2:7000")).unwrap().unwrap();
        let seen = std::thread::scope(|scope| {
            let forwarder = scope.spawn(|| forward(ends, &stop));
            let sender = scope.spawn(|| -> std::io::Result<()> {
                let to = ([10, 8, 0, 2], 7000).into();
                let mut stream = one.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)))??;
                stream.set_write_timeout(Some(Duration::from_secs(20)))?;
                stream.write_all(&data)
            });
            // Nobody may be left waiting when something goes wrong.
            let received = accept(&listener).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                let mut received = Vec::new();
                stream.read_to_end(&mut received).map(|_| received)
            });
            stop.store(true, Ordering::Relaxed);
            sender.join().unwrap().unwrap();
            assert!(received.unwrap() == data, "{checksum}: the stream differs");
            forwarder.join().unwrap()
        });
        assert!(seen.tunnelled > 20, "{checksum}: {} tunnelled super-frames", seen.tunnelled);
        assert!(seen.longest_sent <= 1514, "{checksum}: {} bytes", seen.longest_sent);
        assert_eq!(seen.failed, 0, "{checksum}");
    }
}
