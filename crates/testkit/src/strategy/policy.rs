//! Random policies: layers of the usual kinds (ACL, NAT, load balancer, virtual network, metering, responder, gateway) and
//! layers of anything.

use std::sync::Arc;

use lamina_core::action::*;
use lamina_core::address::{VlanTag, VlanTags};
use lamina_core::flow::{EncapKind, Level};
use lamina_core::flow::{Field, HeaderField, Scope, Value};
use lamina_core::layer::*;
use lamina_core::resource::{
    DnsTableId, LimitId, MappingId, MeterId, PrefixSetId, Rate, RateUnit, TargetSetId,
};
use lamina_core::switch::PortId;
use lamina_core::time::Duration;
use lamina_core::transposition::{
    GENEVE_PORT, HeaderOp, Modify, ModifyL2, ModifyL3, ModifyL4, PushDscp, Transposition, Ttl, VXLAN_PORT,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::packet::KINDS;
use super::universe::*;

const fn inner(field: HeaderField) -> Field {
    Field::Header(Scope::Inner, field)
}

fn number(n: impl Into<u128>) -> ValueRange {
    ValueRange::single(Value::number(n.into()))
}

fn condition(field: Field, ranges: Vec<ValueRange>) -> Condition {
    Condition { field, ranges, prefix_sets: Vec::new() }
}

fn prefix(text: &str) -> ValueRange {
    ValueRange::prefix(text.parse().expect("a prefix"))
}

fn ip_ranges() -> impl Strategy<Value = Vec<ValueRange>> {
    let one = prop_oneof![
        4 => select(V4.to_vec()).prop_map(|text| ValueRange::single(Value::ip(address(text)))),
        2 => select(V6.to_vec()).prop_map(|text| ValueRange::single(Value::ip(address(text)))),
        4 => select(vec!["10.0.0.0/24", "10.0.0.0/30", "10.0.0.0/16", "10.0.1.0/24", "0.0.0.0/0", "10.0.0.2/31",
            "fd00::/16", "fd00::/64", "::/0"]).prop_map(prefix),
        1 => Just(ValueRange { low: Value::ip(address("10.0.0.1")), high: Value::ip(address("10.0.0.2")) }),
    ];
    vec(one, 1..3)
}

fn port_ranges() -> impl Strategy<Value = Vec<ValueRange>> {
    let one = prop_oneof![
        3 => select(L4_PORTS.to_vec()).prop_map(number),
        1 => Just(ValueRange { low: Value::number(0), high: Value::number(1023) }),
        1 => Just(ValueRange { low: Value::number(1000), high: Value::number(1001) }),
    ];
    vec(one, 1..3)
}

fn small(field: Field, values: Vec<u128>) -> BoxedStrategy<Condition> {
    vec(select(values).prop_map(number), 1..3).prop_map(move |ranges| condition(field, ranges)).boxed()
}

/// Random conditions.
pub(super) fn conditions() -> impl Strategy<Value = Condition> {
    use HeaderField::*;
    let scope = prop_oneof![4 => Just(Scope::Inner), 1 => Just(Scope::Outer)];
    let macs: Vec<u128> = MACS.iter().map(|mac| u128::from(mac.to_bits())).collect();
    let kinds: Vec<u128> = KINDS.iter().map(|kind| *kind as u128).collect();
    let tenants: Vec<u128> = TENANTS.iter().map(|tenant| u128::from(*tenant)).collect();
    prop_oneof![
        6 => (scope.clone(), select(vec![IpSrc, IpDst]), ip_ranges())
            .prop_map(|(scope, field, ranges)| condition(Field::Header(scope, field), ranges)),
        2 => (select(vec![IpSrc, IpDst]), 0u32..2, prop::option::weighted(0.2, ip_ranges())).prop_map(|(field, set, ranges)| {
            let prefix_sets = std::vec![PrefixSetId(set)];
            Condition { field: inner(field), ranges: ranges.unwrap_or_default(), prefix_sets }
        }),
        4 => (scope, select(vec![L4Src, L4Dst]), port_ranges())
            .prop_map(|(scope, field, ranges)| condition(Field::Header(scope, field), ranges)),
        3 => small(inner(IpProtocol), std::vec![1, 6, 17, 58]),
        2 => small(inner(EthDst), macs.clone()),
        1 => small(inner(EthSrc), macs),
        1 => small(inner(EthType), std::vec![0x0800, 0x86dd, 0x0806]),
        1 => small(inner(VlanId), std::vec![1, 2]),
        1 => small(inner(VlanType), std::vec![0x8100, 0x88a8]),
        1 => small(inner(EthMulticast), std::vec![0, 1]),
        1 => small(inner(IpDscp), std::vec![0, 10, 46]),
        1 => small(inner(IpEcn), std::vec![0, 1, 3]),
        1 => small(inner(IpTtl), std::vec![1, 2, 63, 64]),
        1 => small(inner(IpFragment), std::vec![0, 1, 2]),
        1 => small(inner(TcpFlags), std::vec![0x02, 0x10, 0x12]),
        1 => small(inner(IcmpType), std::vec![0, 8, 128, 3]),
        1 => small(inner(IcmpId), std::vec![1, 2]),
        1 => small(inner(ArpOperation), std::vec![1, 2]),
        1 => small(Field::Header(Scope::Outer, EncapKind), kinds),
        1 => small(Field::Tenant, tenants),
        1 => small(Field::Direction, std::vec![0, 1]),
        1 => small(Field::IngressPort, std::vec![1, 2, 3, 10]),
        3 => small(Field::Metadata(0), std::vec![1, 2]),
        1 => small(Field::Metadata(1), std::vec![0, 1]),
    ]
}

fn nat_to() -> impl Strategy<Value = NatTo> {
    let address = prop_oneof![8 => select(V4.to_vec()), 1 => select(V6.to_vec())];
    (prop::option::weighted(0.9, address), prop::option::weighted(0.6, select(L4_PORTS.to_vec())))
        .prop_map(|(at, port)| NatTo { address: at.map(super::universe::address), port })
}

fn tunnels() -> impl Strategy<Value = Tunnel> {
    let dscp = prop_oneof![Just(PushDscp::Fixed(0)), Just(PushDscp::Fixed(46)), Just(PushDscp::Copy)];
    let kind = prop_oneof![3 => Just(EncapKind::Vxlan), 2 => select(KINDS.to_vec())];
    (kind, prop::bool::weighted(0.3), dscp).prop_map(|(kind, names_local, dscp)| Tunnel {
        kind,
        local: names_local.then(|| address("172.16.0.1")),
        udp_port: if kind == EncapKind::Geneve { GENEVE_PORT } else { VXLAN_PORT },
        dscp,
    })
}

fn encaps() -> impl Strategy<Value = Encap> {
    let remotes = prop_oneof![
        6 => select(REMOTES_V4.to_vec()).prop_map(|remote| std::vec![address(remote)]),
        1 => Just(std::vec![address("172.16.0.2"), address("172.17.0.2")]),
        1 => select(REMOTES_V6.to_vec()).prop_map(|remote| std::vec![address(remote)]),
    ];
    (tunnels(), select(TENANTS.to_vec()), remotes, prop::option::of(select(MACS[..4].to_vec()))).prop_map(
        |(tunnel, tenant, remotes, inner_dst_mac)| Encap {
            tunnel,
            tenant: tenant & tunnel.kind.max_tenant(),
            remotes,
            inner_dst_mac,
        },
    )
}

fn map_encaps() -> impl Strategy<Value = MapEncap> {
    let ethernet = tunnels().prop_map(|tunnel| match tunnel.kind.max_tenant() {
        0 => Tunnel { kind: EncapKind::Vxlan, udp_port: VXLAN_PORT, ..tunnel },
        _ => tunnel,
    });
    (
        ethernet,
        prop_oneof![4 => Just((0u32, 0u32)), 1 => Just((1, 5001))],
        select(TENANTS.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(tunnel, (mapping, key_tenant), tenant, rewrite_mac)| MapEncap {
            tunnel,
            mapping: MappingId(mapping),
            key_tenant,
            tenant,
            rewrite_mac,
        })
}

fn transposes() -> impl Strategy<Value = Transposition> {
    let l2 = |l2| HeaderOp::Modify(Modify::L2(l2));
    let l3 = |l3| std::vec![HeaderOp::Ignore(Level::L2), HeaderOp::Modify(Modify::L3(l3))];
    let ops = prop_oneof![
        select(MACS[..5].to_vec())
            .prop_map(move |dst| std::vec![l2(ModifyL2 { dst: Some(dst), ..Default::default() })]),
        select(std::vec![
            VlanTags::NONE,
            VlanTags::one(VlanTag { tpid: VlanTag::DOT1Q, tci: 2 }),
            VlanTags::two(
                VlanTag { tpid: VlanTag::DOT1AD, tci: 7 },
                VlanTag { tpid: VlanTag::DOT1Q, tci: 1 }
            ),
        ])
        .prop_map(move |tags| std::vec![l2(ModifyL2 { tags: Some(tags), ..Default::default() })]),
        select(std::vec![Ttl::Decrement(1), Ttl::Decrement(2), Ttl::Set(7)])
            .prop_map(move |ttl| l3(ModifyL3 { ttl: Some(ttl), ..Default::default() })),
        select(V4.to_vec())
            .prop_map(move |src| l3(ModifyL3 { src: Some(address(src)), ..Default::default() })),
        select(V4.to_vec()).prop_map(move |dst| {
            l3(ModifyL3 { dst: Some(address(dst)), dscp: Some(10), ..Default::default() })
        }),
        (select(L4_PORTS.to_vec()), any::<bool>()).prop_map(|(port, is_src)| {
            let l4 = ModifyL4 {
                src_port: is_src.then_some(port),
                dst_port: (!is_src).then_some(port),
                ..Default::default()
            };
            std::vec![
                HeaderOp::Ignore(Level::L2),
                HeaderOp::Ignore(Level::L3),
                HeaderOp::Modify(Modify::L4(l4)),
            ]
        }),
        Just(std::vec![
            HeaderOp::Ignore(Level::L2),
            HeaderOp::Ignore(Level::L3),
            HeaderOp::Modify(Modify::L4(ModifyL4 { icmp_id: Some(3), ..Default::default() })),
        ]),
        select(TENANTS.to_vec()).prop_map(|tenant| {
            let l4 = ModifyL4 { tenant: Some(tenant), ..Default::default() };
            std::vec![
                HeaderOp::Ignore(Level::L2),
                HeaderOp::Ignore(Level::L3),
                HeaderOp::Modify(Modify::L4(l4)),
            ]
        }),
    ];
    ops.prop_map(Transposition::new)
}

/// Where a hairpin leads: the same port, a named one, one that does not exist.
fn turning_points() -> impl Strategy<Value = Option<PortId>> {
    prop_oneof![4 => Just(None), 6 => select(PORTS.to_vec()).prop_map(Some), 1 => Just(Some(PortId(99)))]
}

fn vlans() -> impl Strategy<Value = Vlan> {
    let tpid = select(std::vec![VlanTag::DOT1Q, VlanTag::DOT1AD]);
    let push = (tpid, select(std::vec![1u16, 2, 7]), prop::option::weighted(0.3, 0u8..8));
    prop_oneof![
        2 => push.prop_map(|(tpid, id, priority)| Vlan::Push(PushTag { tpid, id, priority })),
        2 => Just(Vlan::Pop),
        1 => Just(Vlan::Refuse),
    ]
}

fn limiters() -> impl Strategy<Value = Limiter> {
    let rates = prop_oneof![
        (1u64..30, 1u64..4).prop_map(|(per_second, burst)| (RateUnit::Packets, per_second, burst)),
        (100u64..2_000, 50u64..500).prop_map(|(per_second, burst)| (RateUnit::Bytes, per_second, burst)),
    ];
    prop_oneof![
        2 => (0u32..3).prop_map(|id| Limiter::Shared(LimitId(id))),
        1 => rates.prop_map(|(unit, per_second, burst)| Limiter::Own(Rate { unit, per_second, burst })),
    ]
}

fn mirrors() -> impl Strategy<Value = Mirror> {
    let to_port = select(PORTS.to_vec()).prop_map(MirrorTarget::Port);
    let to_collector = encaps().prop_map(|encap| {
        let Encap { tunnel, tenant, remotes, .. } = encap;
        MirrorTarget::Collector { tunnel, tenant, remote: remotes[0] }
    });
    let to = prop_oneof![4 => to_port, 4 => to_collector, 1 => Just(MirrorTarget::Port(PortId(99)))];
    let truncate = prop::option::weighted(0.3, prop_oneof![Just(64u32), Just(80), Just(120)]);
    let sample = prop_oneof![4 => Just(1u32), 1 => Just(2)];
    (to, truncate, sample).prop_map(|(to, truncate, sample)| Mirror { to, truncate, sample })
}

/// Random actions.
pub(super) fn actions() -> impl Strategy<Value = Action> {
    let mac_source = prop_oneof![
        select(MACS[..5].to_vec()).prop_map(MacSource::Fixed),
        Just(MacSource::Mapping { mapping: MappingId(0), key_tenant: 0 }),
    ];
    prop_oneof![
        8 => Just(Action::Allow(Allow)),
        2 => Just(Action::Block(Block)),
        5 => (prop::option::of(nat_to()), prop::option::of(nat_to()))
            .prop_map(|(source, destination)| Action::Nat(Nat { source, destination })),
        2 => (0u32..2, any::<bool>()).prop_map(|(set, by_source)| {
            let affinity = if by_source { Affinity::SourceAddress } else { Affinity::FiveTuple };
            Action::LoadBalance(LoadBalance { targets: TargetSetId(set), affinity })
        }),
        2 => encaps().prop_map(Action::Encap),
        2 => map_encaps().prop_map(Action::MapEncap),
        1 => prop::option::of(select(KINDS.to_vec())).prop_map(|kind| Action::Decap(Decap { kind })),
        2 => transposes().prop_map(|transposition| Action::Transpose(Transpose { transposition })),
        3 => (0u32..5).prop_map(|meter| Action::Meter(Meter { meter: MeterId(meter) })),
        2 => vlans().prop_map(Action::Vlan),
        2 => limiters().prop_map(|by| Action::Limit(Limit { by })),
        3 => (prop::option::of(select(std::vec![0u8, 10, 46])), vec((0u8..2, 0u32..3), 0..3))
            .prop_map(|(dscp, metadata)| Action::Mark(Mark { dscp, metadata })),
        1 => prop_oneof![
            mac_source.clone().prop_map(Respond::Arp),
            mac_source.prop_map(Respond::NeighborDiscovery),
            Just(Respond::Echo),
            (0u32..2).prop_map(|table| Respond::Dns(DnsTableId(table))),
        ].prop_map(Action::Respond),
        1 => turning_points().prop_map(|port| Action::Hairpin(Hairpin { port })),
        2 => mirrors().prop_map(Action::Mirror),
        2 => prop_oneof![1 => Just(64u32), 4 => Just(2048)]
            .prop_map(|max_bytes| Action::Punt(Punt { queue: "q".into(), max_bytes })),
    ]
}

pub(super) fn states() -> BoxedStrategy<Stateful> {
    (select(std::vec![1_000u64, 2_000, 5_000]), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
        .prop_map(|(milliseconds, is_direct, is_both)| Stateful {
            time_to_live: Duration::from_milliseconds(milliseconds),
            reverse_tunnel: if is_direct { ReverseTunnel::None } else { ReverseTunnel::Restore },
            contexts: if is_both { ContextDirection::Both } else { ContextDirection::Forward },
        })
        .boxed()
}

/// A rule without its name: priority, conditions, action, terminating, state.
type RuleParts = (i32, Vec<Condition>, Action, bool, Option<Stateful>);

fn rule(conditions: Vec<Condition>, action: Action, state: Option<Stateful>) -> RuleParts {
    (0, conditions, action, false, state)
}

pub(super) fn group(
    name: &str,
    priority: i32,
    conditions: Vec<Condition>,
    selection: Selection,
    rules: Vec<RuleParts>,
) -> Group {
    let mut rules: Vec<Rule> = rules
        .into_iter()
        .enumerate()
        .map(|(index, (priority, conditions, action, terminating, state))| {
            let name = format!("r{index}").as_str().into();
            Rule { name, priority, conditions, action, terminating, state }
        })
        .collect();
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    Group { name: name.into(), priority, selection, conditions: conditions.into(), rules: rules.into() }
}

fn random_group(index: usize) -> impl Strategy<Value = Group> {
    let selection = prop_oneof![
        4 => Just(Selection::Priority),
        1 => select(std::vec![inner(HeaderField::IpDst), inner(HeaderField::IpSrc), inner(HeaderField::L4Dst)])
            .prop_map(Selection::LongestPrefix),
    ];
    let rules = vec(
        (
            0i32..3,
            vec(conditions(), 0..3),
            actions(),
            prop::bool::weighted(0.2),
            prop::option::weighted(0.4, states()),
        ),
        0..4,
    );
    (0i32..2, vec(conditions(), 0..2), selection, rules).prop_map(
        move |(priority, conditions, selection, rules)| {
            // Groups without conditions are as common as groups with.
            group(&format!("g{index}"), priority, conditions, selection, rules)
        },
    )
}

fn random_groups() -> impl Strategy<Value = Vec<Group>> {
    let groups = (random_group(0), random_group(1), random_group(2));
    (groups, 0usize..4).prop_map(|((a, b, c), count)| std::vec![a, b, c].into_iter().take(count).collect())
}

fn empty_layer(name: &str) -> Layer {
    Layer {
        name: name.into(),
        owner: "tests".into(),
        priority: 0,
        default_inbound: DefaultAction::Pass,
        default_outbound: DefaultAction::Pass,
        inbound: Arc::default(),
        outbound: Arc::default(),
        flow_limit: 1 << 16,
    }
}

pub(super) fn defaults() -> impl Strategy<Value = DefaultAction> {
    prop_oneof![9 => Just(DefaultAction::Pass), 1 => Just(DefaultAction::Block)]
}

fn random_layer() -> impl Strategy<Value = Layer> {
    (
        random_groups(),
        random_groups(),
        defaults(),
        defaults(),
        prop_oneof![6 => Just(1usize << 16), 1 => 1usize..4],
    )
        .prop_map(|(inbound, outbound, default_inbound, default_outbound, flow_limit)| Layer {
            inbound: inbound.into(),
            outbound: outbound.into(),
            default_inbound,
            default_outbound,
            flow_limit,
            ..empty_layer("random")
        })
}

/// A stateful ACL: what goes out may be answered; some is let in.
fn acl() -> impl Strategy<Value = Layer> {
    let is_in = vec((vec(conditions(), 0..2), any::<bool>(), states()), 0..3);
    let is_out = vec((vec(conditions(), 1..2), any::<bool>()), 0..2);
    (is_in, is_out, states()).prop_map(|(is_in, is_out, state)| {
        let verdict = |allowed: bool| if allowed { Action::Allow(Allow) } else { Action::Block(Block) };
        let inbound = is_in
            .into_iter()
            .map(|(conditions, allowed, state)| rule(conditions, verdict(allowed), Some(state)));
        let outbound =
            is_out.into_iter().map(|(conditions, allowed)| rule(conditions, verdict(allowed), None));
        let outbound = outbound.chain([(9, Vec::new(), Action::Allow(Allow), false, Some(state))]);
        Layer {
            inbound: std::vec![group("in", 0, Vec::new(), Selection::Priority, inbound.collect())].into(),
            outbound: std::vec![group("out", 0, Vec::new(), Selection::Priority, outbound.collect())].into(),
            default_inbound: DefaultAction::Block,
            ..empty_layer("acl")
        }
    })
}

/// Stateful NAT: sources outbound, destinations inbound.
fn nat() -> impl Strategy<Value = Layer> {
    let side = || (prop::option::of(conditions()), nat_to(), states());
    (side(), side()).prop_map(|(outward, inward)| {
        let outbound = Action::Nat(Nat { source: Some(outward.1), destination: None });
        let inbound = Action::Nat(Nat { source: None, destination: Some(inward.1) });
        let group = |name: &str, side: (Option<Condition>, NatTo, Stateful), action| {
            let rules = std::vec![rule(side.0.into_iter().collect(), action, Some(side.2))];
            std::vec![group(name, 0, Vec::new(), Selection::Priority, rules)]
        };
        Layer {
            outbound: group("snat", outward, outbound).into(),
            inbound: group("dnat", inward, inbound).into(),
            ..empty_layer("nat")
        }
    })
}

/// A load balancer for one service address, in either direction.
fn balancer() -> impl Strategy<Value = Layer> {
    (any::<bool>(), any::<bool>(), states()).prop_map(|(by_source, is_inbound, state)| {
        let affinity = if by_source { Affinity::SourceAddress } else { Affinity::FiveTuple };
        let action = Action::LoadBalance(LoadBalance { targets: TargetSetId(0), affinity });
        let service = condition(inner(HeaderField::IpDst), std::vec![prefix("10.0.1.0/24")]);
        let rules = std::vec![rule(std::vec![service], action, Some(state))];
        let groups = std::vec![group("vip", 0, Vec::new(), Selection::Priority, rules)];
        let mut layer = empty_layer("slb");
        *(if is_inbound { &mut layer.inbound } else { &mut layer.outbound }) = groups.into();
        layer
    })
}

/// A virtual network: outbound into tunnels, inbound out of them; stateless, or inbound stateful as for a service
/// that is reached through a tunnel.
fn vnet() -> impl Strategy<Value = Layer> {
    let out = prop_oneof![map_encaps().prop_map(Action::MapEncap), encaps().prop_map(Action::Encap)];
    let state = prop::option::weighted(0.3, states()).boxed();
    (out, vec(conditions(), 0..2), state.clone(), state).prop_map(|(out, conditions, state_out, state_in)| {
        let everything = std::vec![ValueRange { low: Value::number(0), high: Value::number(7) }];
        let tunnelled = condition(Field::Header(Scope::Outer, HeaderField::EncapKind), everything);
        let decap = rule(std::vec![tunnelled], Action::Decap(Decap { kind: None }), state_in);
        Layer {
            outbound: std::vec![group(
                "out",
                0,
                conditions,
                Selection::Priority,
                std::vec![rule(Vec::new(), out, state_out)]
            )]
            .into(),
            inbound: std::vec![group("in", 0, Vec::new(), Selection::Priority, std::vec![decap])].into(),
            ..empty_layer("vnet")
        }
    })
}

fn meters() -> impl Strategy<Value = Layer> {
    (0u32..5, 0u32..5, prop::option::of(states())).prop_map(|(out, back, state)| {
        let action = |meter| Action::Meter(Meter { meter: MeterId(meter) });
        let groups = |name: &str, meter, state| {
            std::vec![group(
                name,
                0,
                Vec::new(),
                Selection::Priority,
                std::vec![rule(Vec::new(), action(meter), state)]
            )]
        };
        Layer {
            outbound: groups("out", out, state).into(),
            inbound: groups("in", back, None).into(),
            ..empty_layer("meter")
        }
    })
}

fn responder() -> impl Strategy<Value = Layer> {
    (any::<bool>(), any::<bool>()).prop_map(|(from_mapping, is_inbound)| {
        use HeaderField::*;
        let source = if from_mapping {
            MacSource::Mapping { mapping: MappingId(0), key_tenant: 0 }
        } else {
            MacSource::Fixed(MACS[4])
        };
        let only = |field, value: u128| std::vec![condition(inner(field), std::vec![number(value)])];
        let rules = std::vec![
            rule(only(ArpOperation, 1), Action::Respond(Respond::Arp(source)), None),
            rule(only(IcmpType, 135), Action::Respond(Respond::NeighborDiscovery(source)), None),
            rule(only(IcmpId, 2), Action::Respond(Respond::Echo), None),
            rule(only(L4Dst, 53), Action::Respond(Respond::Dns(DnsTableId(1))), None),
        ];
        let groups = std::vec![group("answers", 0, Vec::new(), Selection::Priority, rules)];
        let mut layer = empty_layer("respond");
        *(if is_inbound { &mut layer.inbound } else { &mut layer.outbound }) = groups.into();
        layer
    })
}

/// A mirror of what crosses in one direction or both, stateful or not.
fn mirror() -> impl Strategy<Value = Layer> {
    (prop::option::of(conditions()), mirrors(), any::<bool>(), prop::option::of(states())).prop_map(
        |(condition, mirror, is_inbound, state)| {
            let rules = std::vec![rule(condition.into_iter().collect(), Action::Mirror(mirror), state)];
            let groups = std::vec![group("copy", 0, Vec::new(), Selection::Priority, rules)];
            let mut layer = empty_layer("mirror");
            *(if is_inbound { &mut layer.inbound } else { &mut layer.outbound }) = Arc::new(groups);
            layer
        },
    )
}

/// A gateway: what comes to a service is sent out again, or what goes to it is given to another port.
fn gateway() -> impl Strategy<Value = Layer> {
    (conditions(), turning_points(), any::<bool>(), prop::option::of(states())).prop_map(
        |(condition, port, is_inbound, state)| {
            let turn = rule(std::vec![condition], Action::Hairpin(Hairpin { port }), state);
            let groups = std::vec![group("turn", 0, Vec::new(), Selection::Priority, std::vec![turn])];
            let mut layer = empty_layer("gateway");
            *(if is_inbound { &mut layer.inbound } else { &mut layer.outbound }) = groups.into();
            layer
        },
    )
}

/// What layers are called, before their place.
pub const LAYER_KINDS: &[&str] =
    &["random", "acl", "nat", "slb", "vnet", "meter", "respond", "gateway", "mirror"];

/// Random policies.
pub fn policies() -> impl Strategy<Value = Policy> {
    let layer = prop_oneof![
        4 => random_layer(),
        3 => acl(),
        3 => nat(),
        2 => balancer(),
        3 => vnet(),
        1 => meters(),
        1 => responder(),
        2 => gateway(),
        2 => mirror(),
    ];
    let layers = prop_oneof![8 => vec(layer.clone(), 0..6), 1 => vec(layer, 6..21)];
    let keys = prop_oneof![3 => Just(["mark", "class"]), 1 => Just(["class", "mark"])];
    let choices = (layers, 0..VARIANTS, prop::bool::weighted(0.1), keys);
    choices.prop_map(|(layers, variant, passes_opaque, keys)| {
        let mut policy = Policy {
            layers,
            resources: resources(variant),
            metadata_keys: keys.map(str::to_string).to_vec(),
            malformed: if passes_opaque { MalformedPolicy::PassOpaque } else { MalformedPolicy::Drop },
        };
        for (index, layer) in policy.layers.iter_mut().enumerate() {
            layer.priority = index as i64;
            assert!(LAYER_KINDS.contains(&&*layer.name), "{} is no kind", layer.name);
            layer.name = format!("{}-{index}", layer.name).as_str().into();
        }
        policy
    })
}
