//! The underlay synchroniser and the tunnel sink against the kernel, in namespaces made for the test.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lamina_backend::namespace::{NetNs, may_make_namespaces};
use lamina_core::address::MacAddr;
use lamina_core::switch::{PortId, Route, Underlay, UnderlayError};
use lamina_daemon::underlay::sink::{Sink, TUNNEL_UDP_PORTS};
use lamina_daemon::underlay::{Snapshot, StartError, Synchroniser, UplinkInterface};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::os::fd::{AsFd, AsRawFd};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);

/// Runs `body` with a netlink socket of `ns`.
fn netlink<T: Send>(ns: &NetNs, body: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            body(handle).await
        })
    };
    ns.run(run).unwrap()
}

async fn set(handle: &Handle, message: LinkMessage) {
    handle.link().set(message).execute().await.unwrap();
}

async fn up(handle: &Handle, address: Ipv4Addr) {
    // The only device beside loopback.
    set(handle, LinkUnspec::new_with_index(2).up().build()).await;
    handle.address().add(2, IpAddr::V4(address), 24).execute().await.unwrap();
}

/// Two namespaces joined by a wire called `wire` on either side.
fn two_hosts() -> Option<(NetNs, NetNs)> {
    if !may_make_namespaces() {
        println!("skipped, because this process may not make network namespaces");
        return None;
    }
    let (here, there) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    netlink(&here, async |handle| {
        let end = |ns: &NetNs| ns.as_fd().as_raw_fd();
        let peer =
            LinkMessageBuilder::<LinkUnspec>::new().name("wire").index(2).setns_by_fd(end(&there)).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name("wire")
            .index(2)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        handle.link().add(pair).execute().await.unwrap();
        up(&handle, HERE).await;
    });
    netlink(&there, async |handle| up(&handle, THERE).await);
    Some((here, there))
}

/// Waits for a snapshot with which `is_it` is content.
fn wait(snapshots: &Receiver<Snapshot>, is_it: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let snapshot = snapshots.recv_timeout(left).expect("no such snapshot came within 5 s");
        if is_it(&snapshot) {
            return snapshot;
        }
    }
}

/// The route and the MAC towards `remote`, found the slow way.
fn next_hop(underlay: &Underlay, remote: IpAddr) -> Result<(&Route, MacAddr), UnderlayError> {
    let covering = underlay.routes.iter().filter(|route| route.destination.contains(&remote));
    let route = covering.max_by_key(|route| route.destination.prefix_len()).ok_or(UnderlayError::NoRoute)?;
    let hop = route.gateway.unwrap_or(remote);
    let neighbor = underlay.neighbors.iter().find(|(address, _)| *address == hop);
    neighbor.map(|(_, mac)| (route, *mac)).ok_or(UnderlayError::Unresolved(hop))
}

fn uplink() -> Vec<UplinkInterface> {
    vec![UplinkInterface { id: PortId(7), interface: "wire".into() }]
}

#[test]
fn changes_of_the_kernel_are_followed() {
    let Some((here, _there)) = two_hosts() else { return };
    let (tell, snapshots) = channel();
    let publish = move |snapshot| drop(tell.send(snapshot));
    let (synchroniser, first) = here.run(|| Synchroniser::start(uplink(), publish)).unwrap().unwrap();
    let [(PortId(7), config)] = first.uplinks.as_slice() else { panic!("{first:?}") };
    assert!(config.addresses.contains(&IpAddr::V4(HERE)) && config.mtu == 1500);
    let unresolved = next_hop(&first.underlay, IpAddr::V4(THERE));
    assert_eq!(unresolved, Err(UnderlayError::Unresolved(IpAddr::V4(THERE))));

    synchroniser.resolver().resolve(IpAddr::V4(THERE));
    let known = wait(&snapshots, |snapshot| next_hop(&snapshot.underlay, IpAddr::V4(THERE)).is_ok());
    let (route, mac) = next_hop(&known.underlay, IpAddr::V4(THERE)).unwrap();
    assert_eq!((route.uplink, route.source), (PortId(7), Some(IpAddr::V4(HERE))));

    let far: IpAddr = "10.9.8.7".parse().unwrap();
    assert_eq!(next_hop(&known.underlay, far), Err(UnderlayError::NoRoute));
    let route = || {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix([10, 9, 0, 0].into(), 16);
        builder.gateway(THERE).build()
    };
    netlink(&here, async |handle| handle.route().add(route()).execute().await.unwrap());
    let routed = wait(&snapshots, |snapshot| next_hop(&snapshot.underlay, far).is_ok());
    assert_eq!(next_hop(&routed.underlay, far).unwrap().1, mac);
    netlink(&here, async |handle| handle.route().del(route()).execute().await.unwrap());
    wait(&snapshots, |snapshot| next_hop(&snapshot.underlay, far) == Err(UnderlayError::NoRoute));

    netlink(&here, async |handle| set(&handle, LinkUnspec::new_with_index(2).mtu(1400).build()).await);
    wait(&snapshots, |snapshot| snapshot.uplinks.first().is_some_and(|(_, uplink)| uplink.mtu == 1400));

    // The kernel does not announce the IPv4 routes that go with a device that is set down.
    netlink(&here, async |handle| set(&handle, LinkUnspec::new_with_index(2).down().build()).await);
    let down = wait(&snapshots, |snapshot| snapshot.uplinks.is_empty());
    assert!(down.underlay.routes.is_empty());
    netlink(&here, async |handle| set(&handle, LinkUnspec::new_with_index(2).up().build()).await);
    wait(&snapshots, |snapshot| {
        next_hop(&snapshot.underlay, IpAddr::V4(THERE)) == Err(UnderlayError::Unresolved(IpAddr::V4(THERE)))
    });
}

#[test]
fn a_missing_or_sleeping_interface_is_refused() {
    let Some((here, _there)) = two_hosts() else { return };
    let start = |name: &str| {
        let uplinks = vec![UplinkInterface { id: PortId(0), interface: name.into() }];
        here.run(|| Synchroniser::start(uplinks, |_| {}).map(drop)).unwrap()
    };
    assert!(matches!(start("wier"), Err(StartError::NoSuchInterface(name)) if name == "wier"));
    assert!(matches!(start("lo"), Err(StartError::NotReady(_))), "loopback is down in a new namespace");
    assert!(start("wire").is_ok());
}

/// What a sender in `from` learns when it sends to the VXLAN port of `THERE`.
fn answer_to_vxlan(from: &NetNs) -> std::io::Result<usize> {
    let socket = from.run(|| UdpSocket::bind((HERE, 0)).unwrap()).unwrap();
    socket.connect(SocketAddr::from((THERE, 4789))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for _ in 0..5 {
        socket.send(&[0; 1000])?;
        std::thread::sleep(Duration::from_millis(10));
    }
    socket.recv(&mut [0; 10])
}

#[test]
fn the_sink_keeps_the_kernel_from_answering_tunnel_packets() {
    let Some((here, there)) = two_hosts() else { return };
    // The kernel limits the rate of its errors, and the wire takes a moment to come up.
    let answers = (0..10).any(|_| answer_to_vxlan(&here).unwrap_err().kind() == ErrorKind::ConnectionRefused);
    assert!(answers, "without a sink the kernel answers");
    let sink = there.run(|| Sink::open(&TUNNEL_UDP_PORTS)).unwrap().unwrap();
    assert!(!sink.is_empty());
    let silence = answer_to_vxlan(&here).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    // A second one finds the ports taken, which is as good.
    assert!(there.run(|| Sink::open(&TUNNEL_UDP_PORTS)).unwrap().unwrap().len() < sink.len());
}

fn ip(arguments: &str) {
    let status =
        std::process::Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn every_next_hop_of_a_multipath_route_is_told() {
    let Some((here, _there)) = two_hosts() else { return };
    let (tell, snapshots) = channel();
    let publish = move |snapshot| drop(tell.send(snapshot));
    let (_synchroniser, _) = here.run(|| Synchroniser::start(uplink(), publish)).unwrap().unwrap();
    let hops = |snapshot: &Snapshot, network: &str| {
        let of = |route: &&Route| route.destination.to_string() == network;
        let gateways = snapshot.underlay.routes.iter().filter(of).filter_map(|route| route.gateway);
        let mut gateways: Vec<String> = gateways.map(|gateway| gateway.to_string()).collect();
        gateways.sort();
        gateways.join(" ")
    };
    let run = |arguments: &str| here.run(|| ip(arguments)).unwrap();
    run("route add 10.77.0.0/16 nexthop via 192.168.50.2 nexthop via 192.168.50.3");
    let told = wait(&snapshots, |snapshot| !hops(snapshot, "10.77.0.0/16").is_empty());
    assert_eq!(hops(&told, "10.77.0.0/16"), "192.168.50.2 192.168.50.3");
    run("route replace 10.77.0.0/16 nexthop via 192.168.50.3 nexthop via 192.168.50.4");
    wait(&snapshots, |snapshot| hops(snapshot, "10.77.0.0/16") == "192.168.50.3 192.168.50.4");
    run("route replace 10.77.0.0/16 via 192.168.50.4");
    wait(&snapshots, |snapshot| hops(snapshot, "10.77.0.0/16") == "192.168.50.4");
    // The same, made of next hop objects.
    run("nexthop add id 1 via 192.168.50.2 dev wire");
    run("nexthop add id 2 via 192.168.50.3 dev wire");
    run("nexthop add id 10 group 1/2");
    run("route add 10.78.0.0/16 nhid 10");
    wait(&snapshots, |snapshot| hops(snapshot, "10.78.0.0/16") == "192.168.50.2 192.168.50.3");
}
