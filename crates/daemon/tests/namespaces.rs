//! A running worker between two guests in namespaces of their own: TCP, UDP, ARP and policy on real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration as RealDuration, Instant as Clock};

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_backend::tap::Tap;
use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::layer::{DefaultAction, Layer, Policy};
use lamina_core::switch::{PortConfig, PortId, PortLimits, SwitchConfig};
use lamina_daemon::worker::{Handle, WorkerConfig, spawn};

const PORTS: [PortId; 2] = [PortId(1), PortId(2)];

/// Two guests, 10.9.0.1 and 10.9.0.2, and the switch between them.
struct Network {
    guests: [NetNs; 2],
    worker: Handle,
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Waits until the kernel has taken notice of the carrier; before that it drops silently what is sent.
fn wait_until_up(device: &str) {
    let start = Clock::now();
    let is_up = || {
        let shown =
            Command::new("ip").args(["-o", "link", "show", device]).output().expect("iproute2 is installed");
        String::from_utf8_lossy(&shown.stdout).contains("state UP")
    };
    while !is_up() {
        assert!(start.elapsed() < RealDuration::from_secs(20), "{device} does not come up");
        std::thread::sleep(RealDuration::from_millis(5));
    }
}

/// `None`, and says so, where namespaces are not allowed.
fn network() -> Option<Network> {
    if !may_make_namespaces() {
        println!("skipped, because this process may not make network namespaces");
        return None;
    }
    let switch_side = NetNs::create().unwrap();
    let guests = [1, 2].map(|number| {
        let guest = NetNs::create().unwrap();
        let path = guest.path();
        switch_side
            .run(|| {
                let mac = format!("02:00:00:00:00:0{number}");
                ip(&format!("link add s{number} type veth peer name g{number} address {mac}"));
                ip(&format!("link set g{number} netns {}", path.display()));
                ip(&format!("link set s{number} up"));
            })
            .unwrap();
        guest
            .run(|| {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/g{number}/disable_ipv6"), "1").unwrap();
                ip(&format!("addr add 10.9.0.{number}/24 dev g{number}"));
                ip(&format!("link set g{number} up"));
                ip("link set lo up");
                wait_until_up(&format!("g{number}"));
            })
            .unwrap();
        guest
    });
    let config = WorkerConfig::new(SwitchConfig { seed: 3 });
    let worker = spawn("e2e", config, Some(switch_side)).unwrap();
    let added = worker.call(|switch, ports| {
        for id in PORTS {
            let number = id.0;
            let config = PortConfig {
                name: format!("guest{number}").into(),
                mac: MacAddr([2, 0, 0, 0, 0, number as u8]),
                tenants: Vec::new(),
                mtu: 0,
                limits: PortLimits::default(),
            };
            switch.add_port(id, config).unwrap();
            switch.publish(id, layer(DefaultAction::Pass)).unwrap();
            // On the worker's thread, which lives in the switch's namespace.
            ports
                .attach(id, Box::new(AfPacket::open(&AfPacketConfig::guest(format!("s{number}")))?))
                .unwrap();
        }
        switch.set_multicast(PORTS.to_vec());
        std::io::Result::Ok(())
    });
    added.unwrap().unwrap();
    Some(Network { guests, worker })
}

fn layer(answer: DefaultAction) -> Policy {
    let layer = Layer {
        name: "acl".into(),
        owner: "test".into(),
        priority: 0,
        default_inbound: answer,
        default_outbound: DefaultAction::Pass,
        inbound: Default::default(),
        outbound: Default::default(),
        flow_limit: 16,
    };
    Policy { layers: vec![layer], ..Policy::default() }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 253) as u8).collect()
}

#[test]
fn tcp_crosses_in_super_frames_and_arrives_unchanged() {
    let Some(Network { guests: [one, two], worker }) = network() else { return };
    let data = pattern(20 << 20);
    let listener = two.run(|| TcpListener::bind("10.9.0.2:7000")).unwrap().unwrap();
    let (sent, received) = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, _) = listener.accept()?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            stream.write_all(b"done")?;
            std::io::Result::Ok(received)
        });
        let mut stream = one.run(|| TcpStream::connect("10.9.0.2:7000")).unwrap()?;
        stream.set_read_timeout(Some(RealDuration::from_secs(30)))?;
        stream.write_all(&data)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok((answer, server.join().expect("the server does not panic")?))
    })
    .unwrap();
    assert_eq!(sent, "done");
    assert!(received == data, "the stream differs");
    let (counters, statistics) = worker
        .call(|switch, ports| (switch.counters(PORTS[1]).unwrap(), ports.statistics(PORTS[1]).unwrap()))
        .unwrap();
    let mean = statistics.transmitted.bytes / statistics.transmitted.frames;
    assert!(mean > 5_000, "super-frames stay whole: {mean} bytes per frame");
    assert!(counters.inbound.bytes >= data.len() as u64, "{counters:?}");
    assert!(counters.inbound.packets >= data.len() as u64 / 1448, "a super-frame counts as its segments");
    worker.stop().unwrap();
}

#[test]
fn policy_changes_while_traffic_flows() {
    let Some(Network { guests: [one, two], worker }) = network() else { return };
    let here = one.run(|| UdpSocket::bind("10.9.0.1:5000")).unwrap().unwrap();
    let there = two.run(|| UdpSocket::bind("10.9.0.2:5000")).unwrap().unwrap();
    let mut buffer = [0; 100];
    let mut reaches = |text: &str, wait: u64| {
        there.set_read_timeout(Some(RealDuration::from_millis(wait))).unwrap();
        here.send_to(text.as_bytes(), "10.9.0.2:5000").unwrap();
        matches!(there.recv_from(&mut buffer), Ok((length, _)) if &buffer[..length] == text.as_bytes())
    };
    assert!(reaches("first", 5_000), "ARP and UDP cross");
    let block =
        |answer| worker.call(move |switch, _| switch.publish(PORTS[1], layer(answer)).unwrap()).unwrap();
    let before = block(DefaultAction::Block);
    assert!(!reaches("blocked", 200));
    let drops = worker.call(|switch, _| switch.counters(PORTS[1]).unwrap().drops).unwrap();
    assert!(drops.of(DropReason::Blocked) >= 1, "{drops:?}");
    assert!(block(DefaultAction::Pass) > before);
    assert!(reaches("again", 5_000));
}

#[test]
fn a_worker_with_idle_devices_uses_no_processor_time() {
    let Some(Network { worker, .. }) = network() else { return };
    std::thread::sleep(RealDuration::from_millis(200));
    let ticks = ticks_of(&worker);
    assert!(ticks <= 2, "{ticks} ticks of 10 ms in 1.5 s");
}

/// User and system time of the worker's thread over 1.5 seconds, in ticks of 10 ms.
fn ticks_of(worker: &Handle) -> u64 {
    let used = || {
        let stat = worker.call(|_, _| std::fs::read_to_string("/proc/thread-self/stat").unwrap()).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = used();
    std::thread::sleep(RealDuration::from_millis(1_500));
    used() - before
}

#[test]
fn a_device_that_vanishes_neither_ends_nor_spins_the_worker() {
    let Some(Network { guests: [one, two], worker }) = network() else { return };
    one.run(|| ip("link del g1")).unwrap();
    std::thread::sleep(RealDuration::from_millis(300));
    let ids = worker.call(|_, ports| ports.ids().count()).unwrap();
    assert_eq!(ids, 2);
    let sockets = two.run(|| UdpSocket::bind("10.9.0.2:5000")).unwrap().unwrap();
    two.run(|| ip("neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev g2")).unwrap();
    sockets.send_to(b"nobody", "10.9.0.1:5000").unwrap();
    let start = Clock::now();
    let failed = loop {
        let drops = worker.call(|switch, _| switch.counters(PORTS[0]).unwrap().drops).unwrap();
        let failed = drops.of(DropReason::TransmitFailed);
        if failed > 0 || start.elapsed() > RealDuration::from_secs(5) {
            break failed;
        }
    };
    assert!(failed > 0, "a packet for it is counted as not sent");
    // A TAP whose device is gone reports an error whenever it is asked, for ever.
    let tap = worker.call(|_, ports| {
        ports.attach(PortId(3), Box::new(Tap::open("lmn-gone")?)).unwrap();
        ip("link del lmn-gone");
        std::io::Result::Ok(())
    });
    if let Err(error) = tap.unwrap() {
        println!("skipped, because no TAP can be made: {error}");
    }
    let ticks = ticks_of(&worker);
    assert!(ticks <= 4, "{ticks} ticks of 10 ms in 1.5 s");
    let detached =
        worker.call(|switch, ports| (ports.detach(PORTS[0]).is_some(), switch.remove_port(PORTS[0])));
    assert_eq!(detached.unwrap(), (true, true));
}
