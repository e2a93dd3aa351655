//! The small world of random tests: few addresses, ports and MACs, so that rules match and NAT collides.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use lamina_core::address::MacAddr;
use lamina_core::flow::{Field, HeaderField, Scope};
use lamina_core::packet::{DnsData, DnsName, DnsRecord, Unknown};
use lamina_core::resource::{
    DnsTable, LimitSpec, Mapping, MappingChange, MappingKey, MappingTable, MeterCounts, MeterSpec, PrefixSet,
    Rate, RateUnit, Resources, Target, TargetSet,
};
use lamina_core::switch::{PortConfig, PortId, PortLimits, Route, Underlay, UplinkConfig};

use proptest::prelude::*;
use proptest::sample::select;

use crate::builder::mac;

/// The seed of both switches.
pub const SEED: u64 = 0x5eed_1a31_7a00_0001;

/// The ports; the last one has a small MTU and no tenants.
pub const PORTS: [PortId; 3] = [PortId(1), PortId(2), PortId(3)];
/// The uplink.
pub const UPLINK: PortId = PortId(10);
/// The uplink's MAC.
pub const UPLINK_MAC: MacAddr = mac(0xa0);
/// The MAC of the next hop behind the uplink.
pub const NEIGHBOR_MAC: MacAddr = mac(0xb0);

/// MACs that frames and rules use: three ports, a far VM, a gateway, the uplink, broadcast, multicast.
pub const MACS: [MacAddr; 8] = [
    mac(1),
    mac(2),
    mac(3),
    mac(9),
    mac(0xfe),
    UPLINK_MAC,
    MacAddr::BROADCAST,
    MacAddr([0x01, 0, 0x5e, 0, 0, 1]),
];

/// IPv4 addresses of guests and services.
pub const V4: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.0.1.2", "192.0.2.9"];
/// IPv6 addresses of guests and services.
pub const V6: [&str; 4] = ["fd00::1", "fd00::2", "fd00::3", "fd00:1::1"];
/// Transport ports.
pub const L4_PORTS: [u16; 5] = [80, 443, 1000, 1001, 53];
/// Tenant ids.
pub const TENANTS: [u32; 3] = [5001, 5002, 7];
/// Remote ends of tunnels: this host, a neighbour, one not resolved, one behind a gateway, one without route.
pub const REMOTES_V4: [&str; 5] = ["172.16.0.1", "172.16.0.2", "172.16.0.3", "172.17.0.2", "198.51.100.1"];
/// The same for IPv6: this host, a neighbour.
pub const REMOTES_V6: [&str; 2] = ["fd01::1", "fd01::2"];

/// An address from its text.
pub fn address(text: &str) -> IpAddr {
    text.parse().expect("the universe's addresses are addresses")
}

/// The configuration of port `index`.
pub fn port_config(index: usize) -> PortConfig {
    PortConfig {
        name: format!("port{}", index + 1).as_str().into(),
        mac: mac(index as u8 + 1),
        tenants: if index < 2 { vec![5001, 5002] } else { Vec::new() },
        mtu: if index < 2 { 0 } else { 200 },
        limits: PortLimits::default(),
    }
}

/// The configuration of the uplink.
pub fn uplink_config() -> UplinkConfig {
    UplinkConfig {
        name: "uplink".into(),
        mac: UPLINK_MAC,
        addresses: vec![address("172.16.0.1"), address("fd01::1")],
        mtu: 400,
    }
}

/// The underlay; `variant` 0 is the first one, others miss a neighbour or have a smaller path MTU.
pub fn underlay(variant: usize) -> Underlay {
    let route = |destination: &str, gateway: Option<&str>, mtu| Route {
        destination: destination.parse().expect("a prefix"),
        gateway: gateway.map(address),
        uplink: UPLINK,
        source: None,
        mtu,
        metric: 0,
    };
    let mut routes = vec![
        route("172.16.0.0/16", None, None),
        route("172.17.0.0/16", Some("172.16.0.2"), if variant == 2 { Some(150) } else { Some(300) }),
        route("fd01::/16", None, None),
    ];
    if variant == 3 {
        routes.remove(1);
    }
    let mut neighbors = vec![(address("172.16.0.2"), NEIGHBOR_MAC), (address("fd01::2"), NEIGHBOR_MAC)];
    if variant == 1 {
        neighbors.remove(0);
    }
    Underlay { routes, neighbors }
}

/// How many variants of resources and underlays there are.
pub const VARIANTS: usize = 4;

static RESOURCES: LazyLock<Vec<Arc<Resources>>> =
    LazyLock::new(|| (0..VARIANTS).map(|variant| Arc::new(resources_of(variant))).collect());

/// The resources of a policy; variants differ in contents, never in ids. Two mapping tables, two target sets (IPv4
/// with a port, IPv6 without), two prefix sets, five meters.
pub fn resources(variant: usize) -> Arc<Resources> {
    RESOURCES[variant % VARIANTS].clone()
}

/// Random changes of the mapping table `blue`.
pub fn mapping_changes() -> impl Strategy<Value = MappingChange> {
    let keys = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.0.1.2", "fd00::2", "fd00::3"];
    let remotes = [Some("172.16.0.1"), Some("172.16.0.2"), Some("172.17.0.2"), Some("fd01::2"), None];
    let key = select(keys.to_vec()).prop_map(|at| MappingKey { tenant: 0, address: address(at) });
    let to = (
        select(remotes.to_vec()),
        select(std::vec![1u8, 2, 9]),
        select(std::vec![None, Some(5001), Some(5002)]),
    );
    let to =
        to.prop_map(|(remote, last, tenant)| Mapping { remote: remote.map(address), mac: mac(last), tenant });
    prop_oneof![
        2 => (key.clone(), to).prop_map(|(key, mapping)| MappingChange::Put(key, mapping)),
        1 => key.prop_map(MappingChange::Remove),
    ]
}

/// Names that queries ask for; the table knows the first two, and those below the second.
pub const NAMES: [&str; 4] = ["web.lan", "any.apps.lan", "apps.lan", "www.example.com"];

fn names(name: &str, unknown: Unknown) -> DnsTable {
    let record = |owner: &str, data| {
        let owner = DnsName::from_text(owner).expect("the universe's names are names");
        (owner, DnsRecord { ttl_seconds: 60, data })
    };
    let records = [
        record("web.lan", DnsData::A([10, 0, 0, 2].into())),
        record("web.lan", DnsData::Aaaa([0xfd00, 0, 0, 0, 0, 0, 0, 2].into())),
        record("*.apps.lan", DnsData::A([10, 0, 0, 3].into())),
    ];
    DnsTable::new(name.into(), unknown, records)
}

fn resources_of(variant: usize) -> Resources {
    let entry = |tenant: u32, at: &str, remote: Option<&str>, last: u8, vni: Option<u32>| {
        let mapping = Mapping { remote: remote.map(address), mac: mac(last), tenant: vni };
        (MappingKey { tenant, address: address(at) }, mapping)
    };
    let moved = if variant == 1 { "172.17.0.2" } else { "172.16.0.2" };
    let mut blue = vec![
        entry(0, "10.0.0.1", Some("172.16.0.1"), 1, None),
        entry(0, "10.0.0.2", Some("172.16.0.1"), 2, Some(5002)),
        entry(0, "10.0.0.3", Some(moved), 9, None),
        entry(0, "10.0.1.1", None, 0xfe, None),
        entry(0, "fd00::2", Some("172.16.0.1"), 2, Some(5001)),
        entry(0, "fd00::3", Some("fd01::2"), 9, None),
    ];
    if variant == 2 {
        blue.remove(2);
    }
    let by_tenant =
        vec![entry(5001, "10.0.0.2", Some(moved), 2, Some(7)), entry(5002, "10.0.0.1", None, 1, None)];
    let target = |at: &str, port, weight| Target { address: address(at), port, weight };
    let web = match variant {
        0 => vec![target("10.0.0.2", Some(80), 1), target("10.0.0.3", Some(443), 1)],
        1 => vec![target("10.0.0.2", Some(80), 0), target("10.0.0.3", Some(443), 1)],
        2 => vec![target("10.0.0.3", Some(443), 1), target("10.0.1.2", Some(1000), 2)],
        _ => Vec::new(),
    };
    let web6 = vec![target("fd00::2", None, 1), target("fd00::3", None, 3)];
    let prefixes =
        |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect::<Vec<_>>();
    let inner = |field| Field::Header(Scope::Inner, field);
    let meter =
        |name: &str, key: Vec<Field>, limit, counts| MeterSpec { name: name.into(), key, limit, counts };
    let limit = |name: &str, key: Vec<Field>, buckets, unit, per_second, burst| LimitSpec {
        name: name.into(),
        key,
        buckets,
        rate: Rate { unit, per_second, burst },
    };
    Resources {
        lease_tables: Vec::new(),
        dns_tables: vec![
            Arc::new(names("own", Unknown::NxDomain)),
            Arc::new(names("some", if variant == 1 { Unknown::NxDomain } else { Unknown::Pass })),
        ],
        mappings: vec![
            Arc::new(MappingTable::new("blue".into(), blue)),
            Arc::new(MappingTable::new("by-tenant".into(), by_tenant)),
        ],
        target_sets: vec![
            Arc::new(TargetSet::new("web".into(), web)),
            Arc::new(TargetSet::new("web6".into(), web6)),
        ],
        prefix_sets: vec![
            Arc::new(PrefixSet::new("near".into(), prefixes(&["10.0.0.0/31", "10.0.0.2/32", "fd00::/64"]))),
            Arc::new(PrefixSet::new(
                "far".into(),
                prefixes(if variant == 3 { &["10.0.1.0/24"] } else { &["10.0.1.0/30", "192.0.2.0/24"] }),
            )),
        ],
        meters: vec![
            meter("all", Vec::new(), 1, MeterCounts::Offered),
            meter("by-destination", vec![inner(HeaderField::IpDst)], 2, MeterCounts::Offered),
            meter("by-class", vec![inner(HeaderField::IpDscp)], 8, MeterCounts::Forwarded),
            meter("by-mark", vec![Field::Metadata(0), Field::Direction], 3, MeterCounts::Forwarded),
            meter("by-port", vec![inner(HeaderField::L4Dst), Field::IngressPort], 4, MeterCounts::Offered),
        ],
        limits: vec![
            limit("few", Vec::new(), 1, RateUnit::Packets, if variant == 1 { 20 } else { 3 }, 4),
            limit("by-source", vec![inner(HeaderField::IpSrc)], 2, RateUnit::Packets, 5, 3),
            limit(
                "bytes",
                vec![Field::Direction],
                4,
                RateUnit::Bytes,
                300,
                if variant == 2 { 2_000 } else { 400 },
            ),
        ],
    }
}
