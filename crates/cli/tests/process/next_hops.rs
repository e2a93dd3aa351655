//! Tunnels over two next hops of the kernel's routing table: a flow keeps its own, and when it dies only its flows move,
//! whether its link goes down or it only falls silent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lamina_core::flow::L4;

use crate::rig::*;
use crate::tunnelled::*;

const WIRES: [Wire; 2] = [
    Wire { name: "w1", host: &["192.168.51.1/24"], peer: &["192.168.51.2/24"] },
    Wire { name: "w2", host: &["192.168.52.1/24"], peer: &["192.168.52.2/24"] },
];
const NAMES: [&str; 2] = ["w1", "w2"];
/// Where the peer's tunnel ends, behind both.
const REMOTE: &str = "10.9.0.1";
/// The service inside.
const SERVICE: u16 = 7777;
const FLOWS: usize = 40;

/// The guest's flows: one socket each, and the service at the peer that they are for.
struct Flows {
    sockets: Vec<UdpSocket>,
    service: UdpSocket,
}

impl Flows {
    fn open(net: &Tunnelled) -> Flows {
        let open =
            || -> Vec<UdpSocket> { (0..FLOWS).map(|_| UdpSocket::bind("10.0.0.1:0").unwrap()).collect() };
        let sockets = net.guest.run(open).unwrap();
        let address = SocketAddr::new("10.0.0.9".parse().unwrap(), SERVICE);
        let service = net.peer.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        service.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        for socket in &sockets {
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        Flows { sockets, service }
    }

    /// Sends a datagram of each; the wires on which each flow, by its source port, was seen at the peer.
    fn ways(&self, net: &Tunnelled) -> BTreeMap<u16, BTreeSet<&'static str>> {
        let ((), seen) = watching(&net.peer, &NAMES, || {
            for socket in &self.sockets {
                socket.send(b"which way?").unwrap();
            }
        });
        let mut ways: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
        for frame in seen.iter().filter(|frame| frame.is_tunnel()) {
            if let Some(L4::Udp(ports)) = frame.headers.innermost().flow_id.l4
                && ports.dst == SERVICE
            {
                ways.entry(ports.src).or_default().insert(frame.wire);
            }
        }
        // Nobody reads them; a full queue would lose later ones.
        self.service.set_nonblocking(true).unwrap();
        while self.service.recv_from(&mut [0; 64]).is_ok() {}
        self.service.set_nonblocking(false).unwrap();
        ways
    }

    /// The ways once all flows pass and `is_so` of them.
    fn ways_until(
        &self,
        net: &Tunnelled,
        what: &str,
        is_so: impl Fn(&BTreeMap<u16, BTreeSet<&'static str>>) -> bool,
    ) -> BTreeMap<u16, BTreeSet<&'static str>> {
        let deadline = Instant::now() + SOON;
        loop {
            let ways = self.ways(net);
            if ways.len() == FLOWS && is_so(&ways) {
                return ways;
            }
            assert!(Instant::now() < deadline, "{what}: it took too long: {ways:?}");
        }
    }

    /// True when each flow's datagram is answered.
    fn are_answered(&self) -> bool {
        self.sockets.iter().all(|socket| {
            const QUESTION: &[u8] = b"anybody?";
            socket.send(QUESTION).unwrap();
            let (mut buffer, asks) = ([0; 64], socket.local_addr().unwrap().port());
            // One of `ways` may have come late.
            while let Ok((length, from)) = self.service.recv_from(&mut buffer) {
                if &buffer[..length] == QUESTION && from.port() == asks {
                    self.service.send_to(QUESTION, from).unwrap();
                    return socket.recv(&mut buffer).is_ok();
                }
            }
            false
        })
    }
}

fn build() -> Option<Tunnelled> {
    if !may_run() {
        return None;
    }
    let net = Tunnelled::build(&WIRES);
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    ip(&net.peer, &format!("addr add {REMOTE}/32 dev lo"));
    if !net.make_device(at(REMOTE), at("192.168.51.1")) {
        return None;
    }
    ip(
        &net.host,
        &format!("route add {REMOTE}/32 nexthop via 192.168.51.2 dev w1 nexthop via 192.168.52.2 dev w2"),
    );
    Some(net)
}

fn uses(ways: &BTreeMap<u16, BTreeSet<&'static str>>, wires: &[&str]) -> bool {
    let used: BTreeSet<&str> = ways.values().flatten().copied().collect();
    used == wires.iter().copied().collect()
}

#[test]
fn flows_share_two_next_hops_and_leave_one_whose_link_goes_down() {
    let Some(mut net) = build() else { return };
    net.start(REMOTE.parse().unwrap());
    let flows = Flows::open(&net);
    let both = flows.ways_until(&net, "both next hops are resolved and used", |ways| uses(ways, &NAMES));
    // Once both are known, each flow has one way, and keeps it.
    let before =
        flows.ways_until(&net, "each flow has one way", |ways| ways.values().all(|way| way.len() == 1));
    assert_eq!(before.len(), both.len());
    assert_eq!(flows.ways(&net), before);
    // The peer learns from either way where the guest is, so its answers come by both, and not always by the one whose
    // address they are for.
    assert!(flows.are_answered());
    ip(&net.peer, "link set w2 down");
    flows.ways_until(&net, "all go by the first", |ways| uses(ways, &["w1"]));
    assert!(flows.are_answered());
    ip(&net.peer, "link set w2 up");
    flows.ways_until(&net, "those that had left return, the others stay", |ways| *ways == before);
}

#[test]
fn a_next_hop_that_falls_silent_is_left_though_the_kernel_knew_it_before() {
    let Some(mut net) = build() else { return };
    for wire in NAMES {
        let name = |key: &str| format!("ipv4/neigh/{wire}/{key}");
        let settings = [
            (name("base_reachable_time_ms"), "1000"),
            (name("delay_first_probe_time"), "1"),
            (name("retrans_time_ms"), "200"),
        ];
        settings.iter().for_each(|(name, value)| sysctl(&net.host, &[(name, value)]));
    }
    // The host itself talks to both routers, so nobody needs to ask for them.
    for router in ["192.168.51.2", "192.168.52.2"] {
        assert_eq!(ping(&net.host, router.parse().unwrap(), 1, 56), 1);
    }
    net.start(REMOTE.parse().unwrap());
    let flows = Flows::open(&net);
    let before = flows.ways_until(&net, "both are used", |ways| uses(ways, &NAMES));
    // The link stays up, but nobody answers for the router's address any more.
    ip(&net.peer, "addr del 192.168.52.2/24 dev w2");
    flows.ways_until(&net, "all go by the first", |ways| uses(ways, &["w1"]));
    ip(&net.peer, "addr add 192.168.52.2/24 dev w2");
    flows.ways_until(&net, "those that had left return", |ways| *ways == before);
}
