//! `af_packet` and `tap` against the real kernel, in namespaces made for the test.

use std::process::Command;
use std::time::{Duration, Instant as Clock};

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_backend::tap::Tap;
use lamina_backend::{Backend, BackendDrop, PacketPool};
use lamina_core::packet::checksum::{finish, pseudo_header_v4, sum};
use lamina_core::packet::{Batch, Packet, PartialChecksum, Segmentation, SegmentationKind};
use lamina_core::time::Instant;

const NOW: Instant = Instant(0);
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A namespace with a veth pair `x0`, `x1`, both up; `None`, and says so, where that is not allowed.
fn cable() -> Option<NetNs> {
    if !may_make_namespaces() {
        println!("skipped, because this process may not make network namespaces");
        return None;
    }
    let ns = NetNs::create().expect("a namespace");
    ns.run(|| {
        ip("link add x0 address 02:00:00:00:00:01 type veth peer name x1 address 02:00:00:00:00:02");
        for device in ["x0", "x1"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").expect("IPv6 off");
            ip(&format!("link set {device} up"));
        }
        ip("link set lo up");
        ["x0", "x1"].into_iter().for_each(wait_until_up);
    })
    .expect("a veth pair");
    Some(ns)
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
        assert!(start.elapsed() < Duration::from_secs(20), "{device} does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open(ns: &NetNs, config: &AfPacketConfig) -> AfPacket {
    ns.run(|| AfPacket::open(config)).expect("enter").expect("open")
}

fn both_ends(ns: &NetNs) -> (AfPacket, AfPacket) {
    (open(ns, &AfPacketConfig::guest("x0")), open(ns, &AfPacketConfig::guest("x1")))
}

/// Receives until `count` frames are there, or nothing came for a while.
fn receive(backend: &mut impl Backend, pool: &mut PacketPool, count: usize) -> Batch {
    let mut batch = Batch::new();
    let mut last = Clock::now();
    while batch.len() < count && last.elapsed() < Duration::from_millis(500) {
        if backend.receive(NOW, pool, &mut batch, 32) > 0 {
            last = Clock::now();
        }
    }
    batch
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&PEER[..], &HOST, &ethertype.to_be_bytes(), payload].concat()
}

fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
    header.extend(src);
    header.extend(dst);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    let checksum = finish(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [header, payload.to_vec()].concat()
}

/// TCP whose checksum field holds the pseudo header's sum only.
fn tcp_partial(src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    segment.extend(payload);
    let pseudo = pseudo_header_v4(src.into(), dst.into(), 6, segment.len() as u32);
    let partial = !finish(pseudo);
    segment[16..18].copy_from_slice(&partial.to_be_bytes());
    segment
}

fn packet(pool: &mut PacketPool, frame: &[u8]) -> Packet {
    let mut packet = pool.take().expect("a buffer");
    packet.reset()[..frame.len()].copy_from_slice(frame);
    packet.set_len(frame.len());
    packet
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8).collect()
}

const A: [u8; 4] = [10, 9, 0, 1];
const B: [u8; 4] = [10, 9, 0, 2];

fn super_frame(pool: &mut PacketPool, length: usize) -> Packet {
    let frame = ethernet(0x0800, &ipv4(6, A, B, &tcp_partial(A, B, &payload(length))));
    let mut packet = packet(pool, &frame);
    packet.offload.checksum = Some(PartialChecksum { start: 34, offset: 16 });
    packet.offload.segmentation =
        Some(Segmentation { kind: SegmentationKind::TcpV4, size: 1400, ecn: false });
    packet
}

#[test]
fn super_frames_and_partial_checksums_cross_whole() {
    let Some(ns) = cable() else { return };
    let (mut x0, mut x1) = both_ends(&ns);
    let mut pool = PacketPool::for_super_frames(64);
    let sent = super_frame(&mut pool, 60_000);
    let (frame, offload) = (sent.frame().to_vec(), sent.offload);
    assert_eq!(x0.transmit(NOW, &mut pool, &mut vec![sent]).sent, 1);
    let arrived = receive(&mut x1, &mut pool, 1);
    assert_eq!(arrived.len(), 1, "{:?}", x1.statistics());
    assert!(arrived[0].frame() == frame, "bytes differ");
    assert_eq!(arrived[0].offload, offload);
    assert_eq!(receive(&mut x0, &mut pool, 1).len(), 0, "what a socket sent does not come back");
    drop(arrived);
    assert_eq!(x0.statistics().transmitted.bytes, frame.len() as u64);
}

#[test]
fn vlan_tags_survive_with_and_without_offload() {
    let Some(ns) = cable() else { return };
    let (mut x0, mut x1) = both_ends(&ns);
    let mut pool = PacketPool::for_super_frames(64);
    let inner = ipv4(6, A, B, &tcp_partial(A, B, &payload(9_000)));
    for tag in [[0x81, 0x00, 0x60, 0x07], [0x88, 0xa8, 0x00, 0x05]] {
        let plain = [&PEER[..], &HOST, &tag, &[0x08, 0x06], &[7; 46]].concat();
        let tagged = [&PEER[..], &HOST, &tag, &[0x08, 0x00], &inner].concat();
        let mut large = packet(&mut pool, &tagged);
        large.offload.checksum = Some(PartialChecksum { start: 38, offset: 16 });
        large.offload.segmentation =
            Some(Segmentation { kind: SegmentationKind::TcpV4, size: 1400, ecn: false });
        let offload = large.offload;
        let small = packet(&mut pool, &plain);
        assert_eq!(x0.transmit(NOW, &mut pool, &mut vec![small, large]).sent, 2);
        let arrived = receive(&mut x1, &mut pool, 2);
        assert_eq!(arrived.len(), 2, "{:?}", x1.statistics());
        assert_eq!(arrived[0].frame(), plain);
        assert!(arrived[1].frame() == tagged, "bytes of the tagged super-frame differ");
        assert_eq!(arrived[1].offload, offload);
    }
}

#[test]
fn a_tunnelled_super_frame_is_cut_before_it_is_sent() {
    let Some(ns) = cable() else { return };
    let (mut x0, mut x1) = both_ends(&ns);
    let mut pool = PacketPool::for_super_frames(64);
    let inner = ethernet(0x0800, &ipv4(6, A, B, &tcp_partial(A, B, &payload(5_000))));
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner].concat();
    let udp =
        [&[0xc0, 1, 0x12, 0xb5][..], &((8 + vxlan.len()) as u16).to_be_bytes(), &[0, 0], &vxlan].concat();
    let frame = ethernet(0x0800, &ipv4(17, [172, 16, 0, 1], [172, 16, 0, 2], &udp));
    let mut large = packet(&mut pool, &frame);
    let l4 = 14 + 20 + 8 + 8 + 14 + 20;
    large.offload.checksum = Some(PartialChecksum { start: l4 as u16, offset: 16 });
    large.offload.segmentation = Some(Segmentation { kind: SegmentationKind::TcpV4, size: 1300, ecn: false });
    assert_eq!(x0.transmit(NOW, &mut pool, &mut vec![large]).sent, 4);
    let arrived = receive(&mut x1, &mut pool, 4);
    assert_eq!(arrived.iter().map(|p| p.len() - l4 - 20).collect::<Vec<_>>(), [1300, 1300, 1300, 1100]);
    let joined: Vec<u8> = arrived.iter().flat_map(|p| p.frame()[l4 + 20..].to_vec()).collect();
    assert!(joined == payload(5_000), "payload differs");
    for segment in &arrived {
        let frame = segment.frame();
        assert_eq!(segment.offload.segmentation, None);
        let tcp = &frame[l4..];
        let pseudo = pseudo_header_v4(A.into(), B.into(), 6, tcp.len() as u32);
        assert_eq!(finish(pseudo + sum(tcp)), 0, "inner TCP checksum");
        assert_eq!(finish(sum(&frame[14..34])), 0, "outer IPv4 checksum");
    }
    pool.give_all(&mut { arrived });
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn what_the_link_refuses_is_counted_and_the_rest_goes() {
    let Some(ns) = cable() else { return };
    let (mut x0, mut x1) = both_ends(&ns);
    let mut pool = PacketPool::for_super_frames(64);
    let long = packet(&mut pool, &ethernet(0x88b5, &payload(3_000)));
    let mut lying = packet(&mut pool, &ethernet(0x88b5, &payload(100)));
    lying.offload.segmentation = Some(Segmentation { kind: SegmentationKind::TcpV6, size: 9, ecn: false });
    let good = packet(&mut pool, &ethernet(0x88b5, &payload(100)));
    let outcome = x0.transmit(NOW, &mut pool, &mut vec![long, lying, good]);
    assert_eq!((outcome.sent, outcome.failed, outcome.queue_full), (1, 2, 0));
    assert_eq!(x0.statistics().drops[BackendDrop::CannotTransmit], 2);
    assert_eq!(receive(&mut x1, &mut pool, 1).len(), 1);
    ns.run(|| ip("link del x0")).unwrap();
    let orphan = packet(&mut pool, &ethernet(0x88b5, &payload(100)));
    assert_eq!(x0.transmit(NOW, &mut pool, &mut vec![orphan]).failed, 1);
    assert_eq!(receive(&mut x1, &mut pool, 1).len(), 0);
}

#[test]
fn the_host_answers_on_a_shared_device_and_is_silent_on_a_guests() {
    let Some(ns) = cable() else { return };
    // An address of the host that is on another device: Linux answers for it on every device.
    ns.run(|| ip("addr add 10.9.0.9/32 dev lo")).unwrap();
    let target = [10, 9, 0, 9];
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &HOST, &A, &[0; 6], &target, &[0; 18]].concat();
    let mut arp = ethernet(0x0806, &arp);
    arp[..6].fill(0xff);
    let echo = {
        let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
        let checksum = finish(sum(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        ipv4(1, A, target, &message)
    };
    let mut pool = PacketPool::for_super_frames(64);
    let mut x0 = open(&ns, &AfPacketConfig::guest("x0"));
    let mut ask = |x0: &mut AfPacket, frame: &[u8]| {
        let frame = packet(&mut pool, frame);
        assert_eq!(x0.transmit(NOW, &mut pool, &mut vec![frame]).sent, 1);
        receive(x0, &mut pool, 1).len()
    };
    let _shared = open(&ns, &AfPacketConfig::uplink("x1"));
    assert_eq!(ask(&mut x0, &arp), 1, "the host answers ARP on a shared device");
    // With a way back, the host would answer ping too.
    ns.run(|| ip("route add 10.9.0.1/32 dev x1")).unwrap();
    assert_eq!(ask(&mut x0, &ethernet(0x0800, &echo)), 1, "the host answers ping on a shared device");
    ns.run(|| ip("route del 10.9.0.1/32 dev x1")).unwrap();
    let _silent = open(&ns, &AfPacketConfig::guest("x1"));
    assert_eq!(ask(&mut x0, &arp), 0, "no ARP on a guest's device");
    assert_eq!(ask(&mut x0, &ethernet(0x0800, &echo)), 0, "no ping on a guest's device");
    let mut broadcast = ethernet(0x0800, &echo);
    broadcast[..6].fill(0xff);
    assert_eq!(ask(&mut x0, &broadcast), 0, "nor to the broadcast MAC");
    ns.run(|| ip("addr add 10.9.0.2/24 dev x1")).unwrap();
    let error = ns.run(|| AfPacket::open(&AfPacketConfig::guest("x1"))).unwrap().unwrap_err();
    assert!(error.to_string().contains("has an IPv4 address"), "{error}");
}

#[test]
fn queues_share_what_comes_in_by_flow() {
    let Some(ns) = cable() else { return };
    let mut pool = PacketPool::for_super_frames(128);
    let mut x0 = open(&ns, &AfPacketConfig::guest("x0"));
    let mut queues = ns.run(|| AfPacket::open_queues(&AfPacketConfig::guest("x1"), 2)).unwrap().unwrap();
    let mut batch: Batch = (0..60u8)
        .map(|i| {
            let udp = [&[i, 1, 0, 53, 0, 18, 0, 0][..], &[i; 10]].concat();
            packet(&mut pool, &ethernet(0x0800, &ipv4(17, A, B, &udp)))
        })
        .collect();
    assert_eq!(x0.transmit(NOW, &mut pool, &mut batch).sent, 60);
    let counts: Vec<usize> = queues.iter_mut().map(|queue| receive(queue, &mut pool, 60).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn a_tap_is_the_hosts_own_cable() {
    let Some(ns) = cable() else { return };
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped, because there is no /dev/net/tun");
        return;
    }
    let mut tap = ns
        .run(|| {
            let tap = Tap::open("lmn-tap0")?;
            std::fs::write("/proc/sys/net/ipv6/conf/lmn-tap0/disable_ipv6", "1")?;
            ip("link set lmn-tap0 address 02:00:00:00:00:02");
            ip("addr add 10.9.0.2/24 dev lmn-tap0");
            tap.set_up()?;
            std::io::Result::Ok(tap)
        })
        .unwrap()
        .unwrap();
    assert_eq!(tap.capabilities().mtu, 1500);
    let mut pool = PacketPool::for_super_frames(64);
    let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &HOST, &A, &[0; 6], &B, &[0; 18]].concat();
    let request = packet(&mut pool, &ethernet(0x0806, &request));
    assert_eq!(tap.transmit(NOW, &mut pool, &mut vec![request]).sent, 1);
    let reply = receive(&mut tap, &mut pool, 1);
    assert_eq!(reply.len(), 1);
    assert_eq!(&reply[0].frame()[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    assert_eq!(&reply[0].frame()[22..28], PEER);
    // The host sends more than one segment at a time: the super-frame comes out whole.
    let listener = ns.run(|| std::net::UdpSocket::bind("10.9.0.2:5000")).unwrap().unwrap();
    let large = super_frame(&mut pool, 20_000);
    assert_eq!(tap.transmit(NOW, &mut pool, &mut vec![large]).sent, 1);
    let reset = receive(&mut tap, &mut pool, 1);
    assert_eq!(reset.len(), 1, "the host resets a connection it does not know");
    assert_eq!(reset[0].frame()[34 + 13] & 4, 4);
    ns.run(|| listener.send_to(&[1; 100], "10.9.0.1:9")).unwrap().unwrap();
    let datagram = receive(&mut tap, &mut pool, 1);
    assert_eq!(datagram[0].offload.checksum, Some(PartialChecksum { start: 34, offset: 6 }));
    let queues = ns.run(|| Tap::open_queues("lmn-tap1", 2)).unwrap().unwrap();
    assert_eq!(queues.len(), 2);
}
