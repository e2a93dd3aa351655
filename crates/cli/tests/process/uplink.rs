//! A shared uplink, through a daemon and the kernel: the host goes on to use the interface that carries tunnels, and its
//! kernel answers no tunnel packet. The other end of the tunnels is the kernel's own VXLAN device.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lamina_backend::namespace::NetNs;
use lamina_core::address::MacAddr;
use lamina_core::flow::{EncapKind, L3, L4};
use serde_json::Value;

use crate::rig::*;
use crate::tunnelled::*;

const WIRE: Wire = Wire {
    name: "wire",
    host: &["192.168.50.1/24", "fd00:50::1/64"],
    peer: &["192.168.50.2/24", "fd00:50::2/64"],
};
/// A UDP port where nobody listens.
const CLOSED: u16 = 9;
/// How many of each kind of stray tunnel packet are sent.
const STRAYS: u64 = 20;

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Packets by reason that the uplink dropped.
fn uplink_drops(daemon: &Daemon) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for row in daemon.json(&["drops", "--port", "uplink"]).as_array().unwrap() {
        let reason = row["reason"].as_str().unwrap().to_string();
        *drops.entry(reason).or_default() += row["packets"].as_u64().unwrap();
    }
    drops
}

/// Packets received by the uplink, and those among them that were left to the host.
fn received(daemon: &Daemon) -> (u64, u64) {
    let rows = daemon.json(&["stats", "--kind", "uplink"]);
    let of = |name: &str| {
        let is_it = |row: &&Value| row["direction"] == "inbound" && row["name"] == name;
        let rows = rows.as_array().unwrap();
        rows.iter().find(is_it).map_or(0, |row| row["packets"].as_u64().unwrap())
    };
    (of(""), of("host"))
}

/// An Ethernet frame with nothing that is known in it.
fn inner_frame() -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 0x77][..], &[2, 0, 0, 0, 0, 0x78], &[0x88, 0xb5], &[0; 46]].concat()
}

/// Tunnels that nobody here has, of every kind, to `to`; the number of those that Lamina knows as tunnels.
fn send_strays(from: &NetNs, to: IpAddr) -> u64 {
    let udp = from.run(|| UdpSocket::bind((if to.is_ipv4() { at("0.0.0.0") } else { at("::") }, 0)));
    let udp = udp.unwrap().unwrap();
    let vxlan = [&[8, 0, 0, 0, 0, 0x27, 0x0f, 0][..], &inner_frame()].concat();
    let geneve = [&[0, 0, 0x65, 0x58, 0, 0x27, 0x0f, 0][..], &inner_frame()].concat();
    let nvgre = [&[0x20, 0, 0x65, 0x58, 0, 0x27, 0x0f, 1][..], &inner_frame()].concat();
    let mut ip_in_ip = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 7, 0, 1], [10, 7, 0, 2], 9)
        .udp(1, 2)
        .write(&mut ip_in_ip, b"inside")
        .unwrap();
    for _ in 0..STRAYS {
        // An error that came back for an earlier one is told once; the socket is not connected, so it never is.
        udp.send_to(&vxlan, (to, 4789)).unwrap();
        udp.send_to(&geneve, (to, 6081)).unwrap();
        // No VXLAN: the flag that says so is missing.
        udp.send_to(b"what is this?", (to, 4789)).unwrap();
        send_raw(from, to, 47, &nvgre);
        send_raw(from, to, 4, &ip_in_ip);
    }
    4 * STRAYS
}

#[test]
fn the_host_goes_on_to_use_the_uplink() {
    if !may_run() {
        return;
    }
    let mut net = Tunnelled::build(&[WIRE]);
    if !net.make_device(at("192.168.50.2"), at("192.168.50.1")) {
        return;
    }
    // Multicast groups of the peer's own stack inside the tunnel would be noise.
    sysctl(&net.peer, &[("ipv6/conf/vx/disable_ipv6", "1")]);
    net.start(at("192.168.50.2"));
    net.warm_up();
    let Tunnelled { host, guest, peer, daemon, .. } = &net;
    let (strays, seen) = watching(peer, &["wire"], || {
        std::thread::scope(|scope| {
            // All at once: the guest's streams through the tunnel, both ways; the host's own, both ways and families.
            let streams = [
                (guest, peer, "10.0.0.9:7001"),
                (peer, guest, "10.0.0.1:7002"),
                (host, peer, "192.168.50.2:7003"),
                (peer, host, "192.168.50.1:7004"),
                (host, peer, "[fd00:50::2]:7005"),
                (peer, host, "[fd00:50::1]:7006"),
            ];
            for (client, server, to) in streams {
                let to: SocketAddr = to.parse().unwrap();
                scope.spawn(move || stream(client, server, to, 100));
            }
            scope.spawn(move || {
                for _ in 0..5 {
                    // Neighbours are forgotten, so that both sides must ask again.
                    for side in [host, peer] {
                        ip(side, "neigh flush dev wire");
                    }
                    assert_eq!(ping(host, at("192.168.50.2"), 4, 56), 4, "from the host");
                    assert_eq!(ping(peer, at("192.168.50.1"), 4, 56), 4, "to the host");
                    assert_eq!(ping(peer, at("192.168.50.1"), 1, 4000), 1, "to the host, in fragments");
                    assert_eq!(ping(host, at("fd00:50::2"), 4, 56), 4, "from the host, IPv6");
                    assert_eq!(ping(peer, at("fd00:50::1"), 4, 56), 4, "to the host, IPv6");
                }
            });
        });
        let strays = send_strays(peer, at("192.168.50.1")) + send_strays(peer, at("fd00:50::1"));
        // The kernel does answer where it should; so the watch would see it.
        let closed = peer.run(|| UdpSocket::bind("[::]:0")).unwrap().unwrap();
        closed.send_to(b"anybody?", (at("fd00:50::1"), CLOSED)).unwrap();
        let closed = peer.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        closed.send_to(b"anybody?", (at("192.168.50.1"), CLOSED)).unwrap();
        strays
    });
    let unreachable: Vec<u16> = seen.iter().filter(|f| f.is_unreachable()).map(Seen::quoted_port).collect();
    assert_eq!(unreachable, [CLOSED, CLOSED], "one for each family, and none for a tunnel packet");
    assert!(seen.iter().filter(|frame| frame.is_tunnel()).count() > 100, "the tunnel's packets pass here");
    let is_arp_reply = |frame: &&Seen| matches!(frame.headers.outermost().flow_id.l3, Some(L3::Arp(arp)) if arp.operation == 2);
    assert!(seen.iter().filter(is_arp_reply).count() > 0, "the kernel answers ARP");
    // A neighbour that was forgotten just then costs a tunnel packet, at its port; the uplink dropped strays alone.
    let expected = BTreeMap::from([("not-for-this-host".to_string(), strays)]);
    assert_eq!(uplink_drops(daemon), expected);
    let (all, left_to_host) = received(daemon);
    let garbage = 2 * STRAYS;
    assert!(left_to_host > 300 + garbage && left_to_host < all, "{left_to_host} of {all}");
    // An uplink goes by the name that policy has for it, and by its interface's.
    for name in ["uplink", "wire"] {
        let trace = daemon.lamina(&["trace", "--port", name, "arp 192.168.50.2 -> 192.168.50.1"]);
        assert!(trace.contains("host"), "{trace}");
        let drops = daemon.json(&["drops", "--port", name]);
        assert!(drops.to_string().contains("not-for-this-host"), "{drops}");
    }
    let refused = daemon.command(&["drops", "--port", "wier"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "there is no such uplink");
}

#[test]
fn tunnel_packets_in_fragments_are_named_and_the_kernel_keeps_silent() {
    if !may_run() {
        return;
    }
    let mut net = Tunnelled::build(&[WIRE]);
    if !net.make_device(at("192.168.50.2"), at("192.168.50.1")) {
        return;
    }
    sysctl(&net.peer, &[("ipv6/conf/vx/disable_ipv6", "1")]);
    net.start(at("192.168.50.2"));
    net.warm_up();
    let Tunnelled { guest, peer, daemon, .. } = &net;
    assert_eq!(ping(peer, at("10.0.0.1"), 1, 1372), 1, "the largest packet of the tunnel, whole");
    ip(peer, "link set wire mtu 1300");
    let ((), seen) = watching(peer, &["wire"], || {
        // The first one is cut outside; then the kernel may have learned, and cuts inside, which is fine.
        ping(peer, at("10.0.0.1"), 1, 1372);
    });
    assert!(!seen.iter().any(Seen::is_unreachable));
    let drops = uplink_drops(daemon);
    assert_eq!(drops.keys().collect::<Vec<_>>(), ["tunnel-fragmented"], "{drops:?}");
    // Smaller ones pass as before.
    assert_eq!(ping(guest, at("10.0.0.9"), 3, 1000), 3);
}

/// The UDP checksum in the outer header of a tunnel packet over IPv6 without extension headers.
fn outer_checksum(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[14 + 40 + 6], bytes[14 + 40 + 7]])
}

#[test]
fn an_underlay_of_ipv6_meets_the_kernels_vxlan_device() {
    if !may_run() {
        return;
    }
    let mut net = Tunnelled::build(&[WIRE]);
    if !net.make_device(at("fd00:50::2"), at("fd00:50::1")) {
        return;
    }
    net.add_inner_ipv6();
    net.start(at("fd00:50::2"));
    net.warm_up();
    let Tunnelled { host, guest, peer, daemon, .. } = &net;
    let (_, seen) = watching(peer, &["wire"], || {
        assert_eq!(ping(guest, at("10.0.0.9"), 5, 56), 5, "IPv4 inside");
        assert_eq!(ping(peer, at("10.0.0.1"), 5, 56), 5);
        assert_eq!(ping(guest, at("fd00::9"), 5, 56), 5, "IPv6 inside");
        assert_eq!(ping(peer, at("fd00::1"), 5, 56), 5);
        assert_eq!(ping(guest, at("10.0.0.9"), 2, 1372), 2, "the largest packets");
        assert_eq!(ping(peer, at("fd00::1"), 2, 1352), 2);
        std::thread::scope(|scope| {
            let streams = [
                (guest, peer, "10.0.0.9:7001"),
                (peer, guest, "10.0.0.1:7002"),
                (guest, peer, "[fd00::9]:7003"),
                (peer, guest, "[fd00::1]:7004"),
                (host, peer, "[fd00:50::2]:7005"),
                (peer, host, "[fd00:50::1]:7006"),
            ];
            for (client, server, to) in streams {
                let to: SocketAddr = to.parse().unwrap();
                scope.spawn(move || stream(client, server, to, 50));
            }
        });
    });
    assert!(!seen.iter().any(Seen::is_unreachable));
    let mut tunnels = 0;
    for frame in seen.iter().filter(|frame| frame.is_tunnel()) {
        let outer = frame.headers.outermost().flow_id;
        let Some(L3::Ip(ip)) = outer.l3 else { panic!("{outer:?}") };
        assert_eq!((ip.addresses.src(), ip.addresses.dst()), (at("fd00:50::1"), at("fd00:50::2")));
        assert!(matches!(outer.l4, Some(L4::Encap(encap)) if encap.kind == EncapKind::Vxlan));
        assert_ne!(outer.l2.unwrap().dst, MacAddr::ZERO);
        assert_eq!(outer_checksum(&frame.bytes), 0, "RFC 6935: a tunnel's checksum may be zero");
        tunnels += 1;
    }
    assert!(tunnels > 100, "{tunnels}");
    // Without permission the kernel drops what has no checksum; so the rule above is what makes it work.
    ip(peer, "link del vx");
    let strict = "link add vx address 02:00:00:00:00:09 mtu 1400 type vxlan id 5001 dstport 4789 local fd00:50::2 remote fd00:50::1 noudp6zerocsumrx";
    ip(peer, strict);
    ip(peer, "link set vx up");
    ip(peer, "addr add 10.0.0.9/24 dev vx");
    ip(peer, "neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev vx");
    assert_eq!(ping(guest, at("10.0.0.9"), 2, 56), 0);
    // What comes with a checksum is taken all the same: the kernel computes one unless told otherwise.
    let before = daemon.json(&["stats", "--port", "vm1", "--kind", "port"]);
    std::thread::sleep(Duration::from_millis(50));
    ping(peer, at("10.0.0.1"), 2, 56);
    let after = daemon.json(&["stats", "--port", "vm1", "--kind", "port"]);
    assert_ne!(before, after, "it reached the guest, whose answer the strict device drops");
}

#[test]
fn vxlan_by_another_port_is_understood_where_the_configuration_names_it() {
    if !may_run() {
        return;
    }
    let mut net = Tunnelled::build_at(&[WIRE], 8472, "vxlan-ports = [8472]");
    if !net.make_device(at("192.168.50.2"), at("192.168.50.1")) {
        return;
    }
    sysctl(&net.peer, &[("ipv6/conf/vx/disable_ipv6", "1")]);
    net.start(at("192.168.50.2"));
    net.warm_up();
    let Tunnelled { guest, peer, daemon, .. } = &net;
    let (_, seen) = watching(peer, &["wire"], || {
        assert_eq!(ping(guest, at("10.0.0.9"), 5, 56), 5);
        assert_eq!(ping(peer, at("10.0.0.1"), 5, 1372), 5);
        // Super-frames, which are cut behind the tunnel's headers.
        stream(guest, peer, "10.0.0.9:7001".parse().unwrap(), 50);
        stream(peer, guest, "10.0.0.1:7002".parse().unwrap(), 50);
    });
    assert!(!seen.iter().any(Seen::is_unreachable), "the kernel keeps silent at that port, too");
    assert_eq!(uplink_drops(daemon), BTreeMap::new());
}
