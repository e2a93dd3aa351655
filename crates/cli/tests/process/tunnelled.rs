//! A host with a daemon and one guest, and a peer that is the kernel's own VXLAN device; what they send each other, and
//! what is seen on the wire between them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lamina_backend::af_packet::{AfPacket, AfPacketConfig};
use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_backend::{Backend, PacketPool};
use lamina_core::flow::{HeaderStack, L4};
use lamina_core::packet::{Batch, parse};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use serde_json::json;

use crate::rig::*;

/// The guest's MAC, and that of the peer's VXLAN device.
pub const GUEST_MAC: &str = "02:00:00:00:00:01";
pub const PEER_MAC: &str = "02:00:00:00:00:09";
/// The tenant.
pub const VNI: u32 = 5001;

/// A wire between the host and the peer: its name on both sides, and their addresses with prefix lengths.
pub struct Wire {
    pub name: &'static str,
    pub host: &'static [&'static str],
    pub peer: &'static [&'static str],
}

/// The host with its daemon, its guest (10.0.0.1, fd00::1), and the peer (10.0.0.9, fd00::9 in the tunnel).
pub struct Tunnelled {
    pub host: NetNs,
    pub guest: NetNs,
    pub peer: NetNs,
    pub daemon: Daemon,
    /// The tunnel's UDP port.
    port: u16,
}

/// False, and says so, where these tests cannot run.
pub fn may_run() -> bool {
    if !may_make_namespaces() || !has("ip") {
        println!(
            "skipped, because it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and the program ip"
        );
        return false;
    }
    true
}

/// Sets kernel parameters below `/proc/sys/net` in `namespace`.
pub fn sysctl(namespace: &NetNs, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{name}");
        namespace.run(|| std::fs::write(&path, value)).unwrap().unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

fn namespace() -> NetNs {
    let namespace = NetNs::create().unwrap();
    // Answers may come by another wire than the kernel would choose; and no error is held back.
    let settings = [("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")];
    sysctl(&namespace, &settings);
    sysctl(&namespace, &[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")]);
    ip(&namespace, "link set lo up");
    namespace
}

fn address(namespace: &NetNs, device: &str, address: &str) {
    let nodad = if address.contains(':') { " nodad" } else { "" };
    ip(namespace, &format!("addr add {address} dev {device}{nodad}"));
}

/// Waits until the kernel has taken notice of the carrier; before that it drops silently what is sent.
pub fn wait_for_carrier(namespace: &NetNs, device: &str) {
    wait_until(&format!("the carrier of {device}"), || {
        let show = || Command::new("ip").args(["-o", "link", "show", device]).output().unwrap();
        String::from_utf8_lossy(&namespace.run(show).unwrap().stdout).contains("state UP")
    });
}

impl Tunnelled {
    /// Builds it all but the tunnel: the daemon is not started yet.
    pub fn build(wires: &[Wire]) -> Tunnelled {
        Tunnelled::build_at(wires, 4789, "")
    }

    /// The same, with tunnels at UDP port `port`, and `keys` in the daemon's configuration.
    pub fn build_at(wires: &[Wire], port: u16, keys: &str) -> Tunnelled {
        let (host, guest, peer) = (namespace(), namespace(), namespace());
        for Wire { name, host: on_host, peer: on_peer } in wires {
            let end = peer.path().display().to_string();
            ip(&host, &format!("link add {name} type veth peer name {name} netns {end}"));
            for (side, addresses) in [(&host, on_host), (&peer, on_peer)] {
                ip(side, &format!("link set {name} up"));
                addresses.iter().for_each(|one| address(side, name, one));
            }
            wait_for_carrier(&host, name);
            wait_for_carrier(&peer, name);
        }
        let end = guest.path().display().to_string();
        let guest_side = format!("peer name eth0 address {GUEST_MAC} mtu 1400 netns {end}");
        ip(&host, &format!("link add vm1 mtu 1400 type veth {guest_side}"));
        ip(&host, "link set vm1 up");
        address(&guest, "eth0", "10.0.0.1/24");
        address(&guest, "eth0", "fd00::1/64");
        ip(&guest, "link set eth0 up");
        wait_for_carrier(&guest, "eth0");
        let names: Vec<&str> = wires.iter().map(|wire| wire.name).collect();
        let daemon = Daemon::new(&format!("workers = 2\nuplinks = {names:?}\n{keys}")).within(&host);
        Tunnelled { host, guest, peer, daemon, port }
    }

    /// Makes the peer's VXLAN device, from `local` to the host at `remote`; false, and says so, where the kernel has none.
    pub fn make_device(&self, local: IpAddr, remote: IpAddr) -> bool {
        // Lamina's outer UDP checksum is zero, which over IPv6 must be allowed (RFC 6935).
        let zero = if local.is_ipv6() { " udp6zerocsumrx" } else { "" };
        let device = format!(
            "link add vx address {PEER_MAC} mtu 1400 type vxlan id {VNI} dstport {} local {local} remote {remote}{zero}",
            self.port
        );
        let made = self.peer.run(|| Command::new("ip").args(device.split(' ')).output()).unwrap().unwrap();
        if !made.status.success() {
            println!("skipped, because the kernel makes no VXLAN device");
            return false;
        }
        ip(&self.peer, "link set vx addrgenmode none");
        ip(&self.peer, "link set vx up");
        address(&self.peer, "vx", "10.0.0.9/24");
        ip(&self.peer, &format!("neigh add 10.0.0.1 lladdr {GUEST_MAC} dev vx"));
        true
    }

    /// Gives the peer's VXLAN device an IPv6 address, too.
    pub fn add_inner_ipv6(&self) {
        address(&self.peer, "vx", "fd00::9/64");
        ip(&self.peer, &format!("neigh add fd00::1 lladdr {GUEST_MAC} dev vx"));
    }

    /// Starts the daemon with a policy that tunnels the guest's packets to `remote`.
    pub fn start(&mut self, remote: IpAddr) {
        let entry = |address: &str| json!({ "address": address, "mac": PEER_MAC, "remote": remote });
        let rule = |name: &str, priority: u32, when: serde_json::Value, action: serde_json::Value| json!({ "name": name, "priority": priority, "when": when, "action": action });
        let solicitation = json!({ "icmp.type": 135, "eth.type": "ipv6" });
        let outbound = [
            rule("arp", 10, json!({ "arp.op": 1 }), json!({ "respond": { "arp": { "mapping": "blue" } } })),
            rule("nd", 10, solicitation, json!({ "respond": { "nd": { "mapping": "blue" } } })),
            rule(
                "encap",
                20,
                json!({ "eth.type": ["ipv4", "ipv6"] }),
                json!({ "map-encap": { "mapping": "blue", "kind": "vxlan", "vni": VNI, "udp-port": self.port } }),
            ),
        ];
        let tunnelled = json!({ "outer.encap.kind": "vxlan", "tenant": VNI });
        let layer = json!({
            "name": "vnet",
            "priority": 10,
            "default": { "inbound": "block", "outbound": "block" },
            "outbound": [{ "group": "directory", "rules": outbound }],
            "inbound": [{ "group": "tunnel", "rules": [rule("decap", 10, tunnelled, json!("decap"))] }],
        });
        let document = json!({
            "version": 1,
            "owner": "vnet",
            "resources": { "mappings": { "blue": { "entries": [entry("10.0.0.9"), entry("fd00::9")] } } },
            "ports": { "vm1": { "mac": GUEST_MAC, "tenants": [VNI], "layers": [layer] } },
        });
        self.daemon.start();
        let file = self.daemon.folder.write("vnet.yaml", &document.to_string());
        self.daemon.lamina(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// Waits until a ping of the guest is answered: the first ones are lost while next hops are not resolved.
    pub fn warm_up(&self) {
        let peer = "10.0.0.9".parse().unwrap();
        wait_until("the peer answers the guest", || ping(&self.guest, peer, 1, 8) == 1);
    }
}

/// Sends `rounds` times 64 KB to `to`, where `server` sends them back, over one connection from `client`.
pub fn stream(client: &NetNs, server: &NetNs, to: SocketAddr, rounds: usize) {
    const ROUND: usize = 1 << 16;
    let listener = server.run(|| TcpListener::bind(to)).unwrap().unwrap_or_else(|e| panic!("{to}: {e}"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; ROUND];
            for _ in 0..rounds {
                stream.read_exact(&mut buffer).unwrap();
                stream.write_all(&buffer).unwrap();
            }
        });
        let connect = || TcpStream::connect_timeout(&to, SOON);
        let mut stream = client.run(connect).unwrap().unwrap_or_else(|e| panic!("{to}: {e}"));
        stream.set_read_timeout(Some(SOON)).unwrap();
        for round in 0..rounds {
            let sent: Vec<u8> = (0..ROUND).map(|index| (index * 31 % 253 + round) as u8).collect();
            stream.write_all(&sent).unwrap();
            let mut answered = vec![0; ROUND];
            stream.read_exact(&mut answered).unwrap();
            assert!(answered == sent, "round {round} to {to} is not what was sent");
        }
    });
}

fn raw_socket(from: &NetNs, to: IpAddr, protocol: u8) -> UdpSocket {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(protocol.into()).unwrap());
    let open = || socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol));
    let socket = UdpSocket::from(from.run(open).unwrap().unwrap());
    // Raw sockets take addresses with port 0.
    socket.connect((to, 0)).unwrap();
    socket
}

/// Sends `body` as an IP packet of `protocol`.
pub fn send_raw(from: &NetNs, to: IpAddr, protocol: u8, body: &[u8]) {
    let socket = raw_socket(from, to, protocol);
    // An error that came back for an earlier packet may be told here; then it is sent again.
    let sent = socket.send(body).or_else(|_| socket.send(body));
    assert_eq!(sent.unwrap(), body.len());
}

/// Sends `count` echo requests of `size` bytes, one after the other, and says how many were answered within a second.
pub fn ping(from: &NetNs, to: IpAddr, count: u16, size: usize) -> u16 {
    let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    let socket = raw_socket(from, to, protocol.as_raw().get() as u8);
    let (request, reply, skipped) = if to.is_ipv4() { (8, 0, 20) } else { (128, 129, 0) };
    let id = std::process::id() as u16 ^ count;
    let mut answered = 0;
    for number in 0..count {
        let mut message = vec![request, 0, 0, 0];
        message.extend([id.to_be_bytes(), number.to_be_bytes()].concat());
        message.extend((0..size).map(|index| index as u8));
        if to.is_ipv4() {
            // The kernel fills in ICMPv6's alone.
            let sum = lamina_core::packet::checksum::finish(lamina_core::packet::checksum::sum(&message));
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = socket.send(&message);
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut buffer = vec![0; 1 << 16];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let Some(answer) = buffer.get(skipped..length) else { continue };
            if answer.first() == Some(&reply) && answer.get(4..) == message.get(4..) {
                answered += 1;
                break;
            }
        }
    }
    answered
}

/// A frame that came by a wire.
pub struct Seen {
    pub wire: &'static str,
    pub bytes: Vec<u8>,
    pub headers: HeaderStack,
}

impl Seen {
    /// True for an ICMP error that says that nobody takes such a packet, of either family, from the host itself: no tunnel is
    /// around it.
    pub fn is_unreachable(&self) -> bool {
        match self.headers.outermost().flow_id.l4 {
            Some(L4::Icmp(icmp)) => icmp.kind == 3,
            // Unreachable, and "unrecognized next header".
            Some(L4::Icmpv6(icmp)) => matches!(icmp.kind, 1 | 4),
            _ => false,
        }
    }

    /// The UDP destination port of the packet that an ICMP error quotes.
    pub fn quoted_port(&self) -> u16 {
        let at = match self.headers.outermost().flow_id.l4 {
            Some(L4::Icmp(_)) => 14 + 20 + 8 + 20 + 2,
            _ => 14 + 40 + 8 + 40 + 2,
        };
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub fn is_tunnel(&self) -> bool {
        self.headers.groups().len() > 1
    }
}

/// What comes to `at` by its interfaces `wires`, other than TCP outside of tunnels, until `is_over`. `is_ready` is set once
/// nothing is missed any more.
pub fn watch(at: &NetNs, wires: &[&'static str], is_ready: &AtomicBool, is_over: &AtomicBool) -> Vec<Seen> {
    let open = |wire: &&'static str| {
        let config = AfPacketConfig { promiscuous: true, ..AfPacketConfig::uplink(*wire) };
        (*wire, at.run(|| AfPacket::open(&config)).unwrap().unwrap())
    };
    let mut sockets: Vec<_> = wires.iter().map(open).collect();
    is_ready.store(true, Ordering::Release);
    let mut pool = PacketPool::for_super_frames(64);
    let (mut batch, mut seen) = (Batch::new(), Vec::new());
    loop {
        let over = is_over.load(Ordering::Acquire);
        let mut received = 0;
        for (wire, socket) in &mut sockets {
            received += socket.receive(lamina_core::time::Instant(0), &mut pool, &mut batch, 32);
            for packet in &batch {
                let Ok(parsed) = parse(packet.frame()) else { continue };
                let is_plain_tcp = matches!(parsed.stack.outermost().flow_id.l4, Some(L4::Tcp(_)));
                if !is_plain_tcp {
                    let bytes = packet.frame()[..packet.frame().len().min(256)].to_vec();
                    seen.push(Seen { wire, bytes, headers: parsed.stack });
                }
            }
            pool.give_all(&mut batch);
        }
        if over && received == 0 {
            return seen;
        }
        if received == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Runs `body` while the wires of `at` are watched, and returns what was seen meanwhile and a little longer.
pub fn watching<T>(at: &NetNs, wires: &[&'static str], body: impl FnOnce() -> T) -> (T, Vec<Seen>) {
    /// Set when it goes, also by a panic: nobody waits for ever.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (is_ready, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(at, wires, &is_ready, &is_over));
        let over = Over(&is_over);
        while !is_ready.load(Ordering::Acquire) {
            assert!(!watcher.is_finished(), "the wire cannot be watched");
            std::thread::yield_now();
        }
        let done = body();
        // What was sent last is on its way.
        std::thread::sleep(Duration::from_millis(200));
        drop(over);
        (done, watcher.join().unwrap())
    })
}
