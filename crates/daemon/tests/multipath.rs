//! Tunnels over several next hops that are equal: a flow keeps its own, a dead one is avoided and asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lamina_api::parse;
use lamina_core::address::MacAddr;
use lamina_core::packet::{Packet, checksum};
use lamina_core::switch::{Output, PortId, Route, Switch, SwitchConfig, Underlay, UplinkConfig};
use lamina_core::time::Instant;
use lamina_daemon::convert::{PortIds, merge};

const NOW: Instant = Instant(1_000_000_000);
const UPLINK: PortId = PortId(0);
const POLICY: &str = r#"
version: 1
owner: vnet
ports:
  vm:
    mac: "02:00:00:00:00:01"
    tenants: [5001]
    layers:
      - name: vnet
        priority: 10
        outbound:
          - group: tunnel
            rules:
              - { name: encap, action: { encap: { kind: vxlan, vni: 5001, remote: 10.9.0.1 } } }
"#;

/// A route to 10.9.0.0/16 by each of two routers, of which those of `alive` have answered.
fn underlay(alive: &[u8]) -> Underlay {
    let route = |router: u8| Route {
        destination: "10.9.0.0/16".parse().unwrap(),
        gateway: Some(IpAddr::from([192, 168, 50, router])),
        uplink: UPLINK,
        source: None,
        mtu: None,
        metric: 0,
    };
    let neighbor = |router: &u8| (IpAddr::from([192, 168, 50, *router]), MacAddr([2, 0, 0, 0, 1, *router]));
    Underlay { routes: vec![route(1), route(2)], neighbors: alive.iter().map(neighbor).collect() }
}

fn switch() -> (Switch, PortId) {
    let document = parse("multipath", POLICY).unwrap_or_else(|report| panic!("{report}"));
    let converted = merge(&[document], &mut PortIds::default()).unwrap_or_else(|report| panic!("{report}"));
    let port = converted.policy.ports.into_iter().next().unwrap();
    let mut switch = Switch::new(SwitchConfig { seed: 1 });
    switch.add_port(port.id, port.config).unwrap();
    let uplink = UplinkConfig {
        name: "up".into(),
        mac: MacAddr([2, 0, 0, 0, 1, 99]),
        addresses: vec![IpAddr::from([192, 168, 50, 99])],
        mtu: 1500,
    };
    switch.add_uplink(UPLINK, uplink).unwrap();
    switch.publish(port.id, port.policy).unwrap();
    (switch, port.id)
}

/// The router that a datagram of flow `flow` is sent to, and what was asked for.
fn router_of(switch: &mut Switch, vm: PortId, flow: u16) -> (u8, Vec<IpAddr>) {
    let udp = [&flow.to_be_bytes()[..], &[0, 53, 0, 8, 0, 0]].concat();
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let frame = [&[2, 0, 0, 0, 0, 2][..], &[2, 0, 0, 0, 0, 1], &[8, 0], &ip, &udp].concat();
    let mut output = Output::default();
    switch.receive(NOW, vm, &mut vec![Packet::from_frame(&frame)], &mut output);
    let [(UPLINK, sent)] = output.transmit.as_slice() else { panic!("{output:?}") };
    (sent.frame()[5], output.resolve)
}

const FLOWS: std::ops::Range<u16> = 1000..1200;

#[test]
fn a_flow_keeps_its_next_hop_until_that_dies_and_returns_to_it() {
    let (mut switch, vm) = switch();
    switch.set_underlay(underlay(&[1, 2]));
    let before: Vec<u8> = FLOWS.map(|flow| router_of(&mut switch, vm, flow).0).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 2, "both are used");
    // From the cache, and with a policy that was published meanwhile, the same.
    assert_eq!(before, FLOWS.map(|flow| router_of(&mut switch, vm, flow).0).collect::<Vec<_>>());
    switch.set_multicast(Vec::new());
    assert_eq!(before, FLOWS.map(|flow| router_of(&mut switch, vm, flow).0).collect::<Vec<_>>());
    switch.set_underlay(underlay(&[1]));
    for (flow, was) in FLOWS.zip(&before) {
        let (router, asked) = router_of(&mut switch, vm, flow);
        assert_eq!(router, 1, "the dead one is avoided, by flows that are cached too");
        let wanted = if *was == 2 { vec![IpAddr::from([192, 168, 50, 2])] } else { Vec::new() };
        assert_eq!(asked, wanted, "and asked for by those that miss it");
    }
    switch.set_underlay(underlay(&[1, 2]));
    assert_eq!(before, FLOWS.map(|flow| router_of(&mut switch, vm, flow).0).collect::<Vec<_>>());
}
