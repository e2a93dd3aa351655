//! What each action asks for, from the policy's data (§3.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lamina_core::action::{
    Action, Affinity, Limiter, MacSource, Mirror, NatTo, Punt, Reply, Respond, Tunnel as TunnelSpec, Vlan,
};
use lamina_core::address::{MacAddr, VlanTag, VlanTags};
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{IpPair, Level};
use lamina_core::resource::{Mapping, MappingId, MappingKey, MeterId, Resources, Target};
use lamina_core::switch::PortId;
use lamina_core::transposition::{
    HeaderOp, Modify, ModifyL2, ModifyL3, ModifyL4, OUTER_TTL, Push, PushEncap, PushIp, PushL2,
};

use super::mapping::{Reading, Tables};
use super::transpose::{self, canonical};
use crate::wire::{Frame, Header};

/// What an action asks for.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Effect {
    pub(super) ops: Vec<HeaderOp>,
    pub(super) meter: Option<MeterId>,
    pub(super) limit: Option<Limiter>,
    pub(super) metadata: Vec<(u8, u32)>,
    pub(super) reply: Option<Reply>,
    /// A copy goes there.
    pub(super) mirror: Option<Mirror>,
    /// The controller that owns the layer gets it.
    pub(super) punt: Option<Punt>,
    /// It turns round, into the other direction of the same port or of this one.
    pub(super) turn: Option<Option<PortId>>,
    /// The mapping that it read.
    pub(super) reading: Option<Reading>,
}

/// The tables that actions read.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) resources: &'a Resources,
    pub(super) tables: &'a Tables,
}

impl Sources<'_> {
    fn mapping(&self, id: MappingId, key: MappingKey) -> (Option<Mapping>, Reading) {
        self.tables.read(&self.resources.mappings[id.0 as usize], key)
    }
}

impl Effect {
    /// True when the packet does not go on to the next layer.
    pub(super) fn ends(&self) -> bool {
        self.reply.is_some() || self.turn.is_some() || self.punt.is_some()
    }

    fn ops(ops: Vec<HeaderOp>) -> Self {
        Effect { ops: canonical(ops), ..Effect::default() }
    }
}

const MISFIT: DropReason = DropReason::CannotTranspose;

/// Does `action` to the packet in `frame`.
pub(super) fn act(
    action: &Action,
    frame: &Frame,
    sources: Sources<'_>,
    seed: u64,
) -> Result<Effect, DropReason> {
    let resources = sources.resources;
    match action {
        Action::Allow(_) => Ok(Effect::default()),
        Action::Block(_) => Err(DropReason::Blocked),
        Action::Nat(nat) => rewritten(frame, nat.source, nat.destination).map(Effect::ops),
        Action::LoadBalance(balance) => {
            let hash = match balance.affinity {
                Affinity::FiveTuple => flow_hash(frame, seed),
                Affinity::SourceAddress => source_hash(frame, seed),
            };
            let target = resources.target_sets[balance.targets.0 as usize].choose(hash);
            to_target(frame, target.ok_or(DropReason::NoTarget)?).map(Effect::ops)
        }
        Action::Encap(encap) => {
            let count = encap.remotes.len() as u64;
            if count == 0 {
                return Err(DropReason::NoTarget);
            }
            let remote = encap.remotes[(flow_hash(frame, seed) % count) as usize];
            into_tunnel(&encap.tunnel, frame, remote, encap.tenant, encap.inner_dst_mac)
        }
        Action::MapEncap(encap) => {
            let (_, dst) = frame.innermost().l3.and_then(Header::addresses).ok_or(MISFIT)?;
            let key = MappingKey { tenant: encap.key_tenant, address: dst };
            let (mapping, reading) = sources.mapping(encap.mapping, key);
            let mapping = mapping.ok_or(DropReason::MappingMiss)?;
            let remote = mapping.remote.ok_or(DropReason::MappingMiss)?;
            let rewrites = encap.rewrite_mac && encap.tunnel.kind.carries_ethernet();
            let mac = if rewrites { Some(mapping.mac) } else { None };
            let tenant = mapping.tenant.unwrap_or(encap.tenant);
            let effect = into_tunnel(&encap.tunnel, frame, remote, tenant, mac)?;
            Ok(Effect { reading: Some(reading), ..effect })
        }
        Action::Decap(decap) => {
            let groups = frame.groups();
            let tunnel = groups[0].tunnel().ok_or(MISFIT)?;
            if decap.kind.is_some_and(|kind| kind != tunnel.kind) {
                return Err(MISFIT);
            }
            let mut ops = Vec::new();
            if groups[0].l2.is_some() {
                let has_own = groups[1].l2.is_some();
                ops.push(if has_own { HeaderOp::Pop(Level::L2) } else { HeaderOp::Ignore(Level::L2) });
            }
            ops.extend([HeaderOp::Pop(Level::L3), HeaderOp::Pop(Level::L4)]);
            Ok(Effect::ops(ops))
        }
        Action::Transpose(transpose) => {
            let ops = transpose.transposition.ops().to_vec();
            transpose::apply(&ops, frame)?;
            Ok(Effect::ops(ops))
        }
        Action::Meter(meter) => Ok(Effect { meter: Some(meter.meter), ..Effect::default() }),
        Action::Limit(limit) => Ok(Effect { limit: Some(limit.by), ..Effect::default() }),
        Action::Vlan(vlan) => retagged(vlan, frame).map(Effect::ops),
        Action::Mark(mark) => {
            let is_ip = frame.innermost().l3.is_some_and(|l3| l3.addresses().is_some());
            let l3 = ModifyL3 { dscp: mark.dscp.filter(|_| is_ip), ..ModifyL3::default() };
            let ops = on_innermost(frame, l3, ModifyL4::default());
            Ok(Effect { metadata: mark.metadata.clone(), ..Effect::ops(ops) })
        }
        Action::Respond(respond) => {
            let (reply, reading) = answer(respond, frame, sources)?;
            Ok(Effect { reply: Some(reply), reading, ..Effect::default() })
        }
        Action::Mirror(mirror) => Ok(Effect { mirror: Some(*mirror), ..Effect::default() }),
        Action::Punt(punt) => Ok(Effect { punt: Some(punt.clone()), ..Effect::default() }),
        Action::Hairpin(hairpin) => Ok(Effect { turn: Some(hairpin.port), ..Effect::default() }),
    }
}

/// The outermost tags as `vlan` leaves them.
fn retagged(vlan: &Vlan, frame: &Frame) -> Result<Vec<HeaderOp>, DropReason> {
    let mut tags = frame.outermost().l2.ok_or(MISFIT)?.tags.clone();
    match vlan {
        Vlan::Refuse => return Err(DropReason::VlanNotCarried),
        Vlan::Pop if tags.is_empty() => return Err(MISFIT),
        Vlan::Pop => {
            tags.remove(0);
        }
        Vlan::Push(push) => {
            let class = match (push.priority, tags.first()) {
                (Some(priority), _) => u16::from(priority) << 13,
                (None, Some(first)) => first.tci & 0xf000,
                (None, None) => 0,
            };
            if tags.first().is_some_and(|first| first.tpid == push.tpid && first.tci & 0xfff == 0) {
                tags.remove(0);
            }
            tags.insert(0, VlanTag { tpid: push.tpid, tci: class | push.id });
        }
    }
    let tags = match tags.as_slice() {
        [] => VlanTags::NONE,
        [only] => VlanTags::one(*only),
        [outer, inner] => VlanTags::two(*outer, *inner),
        _ => return Err(MISFIT),
    };
    Ok(vec![HeaderOp::Modify(Modify::L2(ModifyL2 { tags: Some(tags), ..ModifyL2::default() }))])
}

/// True when a binding that an action of this type made may live on under `action` (§5.5).
pub(super) fn admits(
    action: &Action,
    frame: &Frame,
    sources: Sources<'_>,
    seed: u64,
    binding: &[HeaderOp],
) -> bool {
    match action {
        Action::LoadBalance(balance) => {
            let targets = sources.resources.target_sets[balance.targets.0 as usize].targets();
            targets.iter().any(|target| to_target(frame, target).is_ok_and(|ops| canonical(ops) == binding))
        }
        _ => act(action, frame, sources, seed).is_ok_and(|effect| !effect.ends() && effect.ops == binding),
    }
}

fn to_target(frame: &Frame, target: &Target) -> Result<Vec<HeaderOp>, DropReason> {
    rewritten(frame, None, Some(NatTo { address: Some(target.address), port: target.port }))
}

/// Rewrites the innermost addresses and ports; fields that already have the value are not named, and ports that
/// the packet has not are left alone.
fn rewritten(
    frame: &Frame,
    source: Option<NatTo>,
    destination: Option<NatTo>,
) -> Result<Vec<HeaderOp>, DropReason> {
    let inner = frame.innermost();
    let (src, dst) = inner.l3.and_then(Header::addresses).ok_or(MISFIT)?;
    let new = |to: Option<NatTo>, old: IpAddr| match to.and_then(|to| to.address) {
        Some(address) if address.is_ipv4() != old.is_ipv4() => Err(MISFIT),
        Some(address) if address != old => Ok(Some(address)),
        _ => Ok(None),
    };
    let l3 = ModifyL3 { src: new(source, src)?, dst: new(destination, dst)?, ..ModifyL3::default() };
    let mut l4 = ModifyL4::default();
    if let Some((src, dst)) = inner.l4.and_then(Header::ports) {
        l4.src_port = source.and_then(|to| to.port).filter(|port| *port != src);
        l4.dst_port = destination.and_then(|to| to.port).filter(|port| *port != dst);
    }
    Ok(on_innermost(frame, l3, l4))
}

/// Operations that change the innermost L3 and L4 headers only.
fn on_innermost(frame: &Frame, l3: ModifyL3, l4: ModifyL4) -> Vec<HeaderOp> {
    let start = frame.group_ranges().last().map_or(0, |range| range.start);
    let ops = frame.headers.iter().enumerate().map(|(index, header)| match header.level() {
        Level::L3 if index >= start && l3 != ModifyL3::default() => HeaderOp::Modify(Modify::L3(l3)),
        Level::L4 if index >= start && l4 != ModifyL4::default() => HeaderOp::Modify(Modify::L4(l4)),
        level => HeaderOp::Ignore(level),
    });
    canonical(ops.collect())
}

fn into_tunnel(
    tunnel: &TunnelSpec,
    frame: &Frame,
    remote: IpAddr,
    tenant: u32,
    inner_dst_mac: Option<MacAddr>,
) -> Result<Effect, DropReason> {
    let unspecified = match remote {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let addresses = match (tunnel.local.unwrap_or(unspecified), remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => IpPair::V4 { src, dst },
        (IpAddr::V6(src), IpAddr::V6(dst)) => IpPair::V6 { src, dst },
        _ => return Err(MISFIT),
    };
    let nobody = MacAddr::ZERO;
    let mut ops = Vec::new();
    if tunnel.kind.carries_ethernet() {
        let l2 = PushL2 { src: nobody, dst: nobody, tags: VlanTags::NONE, ethertype: 0 };
        ops.push(HeaderOp::Push(Push::L2(l2)));
    } else {
        let l2 = ModifyL2 { src: Some(nobody), dst: Some(nobody), ..ModifyL2::default() };
        ops.push(HeaderOp::Modify(Modify::L2(l2)));
    }
    let (ttl, dscp) = (OUTER_TTL, tunnel.dscp);
    ops.push(HeaderOp::Push(Push::Ip(PushIp { addresses, ttl, dscp, protocol: 0 })));
    let encap = PushEncap { kind: tunnel.kind, tenant, udp_port: tunnel.udp_port };
    ops.push(HeaderOp::Push(Push::Encap(encap)));
    if let (true, Some(dst)) = (tunnel.kind.carries_ethernet(), inner_dst_mac) {
        ops.push(HeaderOp::Modify(Modify::L2(ModifyL2 { dst: Some(dst), ..ModifyL2::default() })));
    }
    match transpose::apply(&ops, frame) {
        Ok(_) => Ok(Effect::ops(ops)),
        Err(reason) => Err(reason),
    }
}

fn answer(
    respond: &Respond,
    frame: &Frame,
    sources: Sources<'_>,
) -> Result<(Reply, Option<Reading>), DropReason> {
    let mac_of = |source: &MacSource, address: IpAddr| match *source {
        MacSource::Fixed(mac) => Ok((mac, None)),
        MacSource::Mapping { mapping, key_tenant } => {
            let key = MappingKey { tenant: key_tenant, address };
            let (found, reading) = sources.mapping(mapping, key);
            found.map(|mapping| (mapping.mac, Some(reading))).ok_or(DropReason::MappingMiss)
        }
    };
    let inner = frame.innermost();
    match (respond, inner.l3, inner.l4) {
        (Respond::Arp(source), Some(Header::Arp(arp)), _) if arp.operation == 1 => {
            let (mac, reading) = mac_of(source, arp.target_ip.into())?;
            Ok((Reply::Arp(mac), reading))
        }
        (Respond::NeighborDiscovery(source), _, Some(Header::Icmp(icmp)))
            if icmp.is_v6 && icmp.kind == 135 =>
        {
            let target = inner.nd_target.ok_or(DropReason::CannotRespond)?;
            let (mac, reading) = mac_of(source, target.into())?;
            Ok((Reply::NeighborAdvertisement(mac), reading))
        }
        (Respond::Echo, _, Some(Header::Icmp(icmp))) if icmp.kind == if icmp.is_v6 { 128 } else { 8 } => {
            Ok((Reply::Echo, None))
        }
        (Respond::Dns(table), _, Some(Header::Udp(udp))) if udp.dst == 53 => Ok((Reply::Dns(*table), None)),
        _ => Err(DropReason::CannotRespond),
    }
}

/// True when `mirror` copies the conversation of `frame`: its hash, the same for both directions, is a multiple of the
/// sampling rate. What is not IP is always copied.
pub(super) fn is_sampled(mirror: &Mirror, frame: &Frame, seed: u64) -> bool {
    let inner = frame.innermost();
    let Some((src, dst)) = inner.l3.and_then(Header::addresses) else { return true };
    let (from, to) = match inner.l4 {
        Some(icmp @ Header::Icmp(_)) => {
            let id = icmp.query_id().unwrap_or(0);
            (id, id)
        }
        Some(l4) => l4.ports().unwrap_or((0, 0)),
        None => (0, 0),
    };
    let end = |address, port: u16| mix(mix_address(mix(seed), address) ^ u64::from(port));
    let both = end(src, from).wrapping_add(end(dst, to));
    let hash = mix(both ^ u64::from(super::read::protocol(&inner).unwrap_or(0)));
    hash.is_multiple_of(u64::from(mirror.sample.max(1)))
}

/// The operations that put a copy into its tunnel.
pub(super) fn tunnelled(
    tunnel: &TunnelSpec,
    frame: &Frame,
    remote: IpAddr,
    tenant: u32,
) -> Result<Vec<HeaderOp>, DropReason> {
    into_tunnel(tunnel, frame, remote, tenant, None).map(|effect| effect.ops)
}

/// The finaliser of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn mix_address(hash: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => mix(hash ^ u64::from(u32::from(v4))),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            mix(mix(hash ^ (bits >> 64) as u64) ^ bits as u64)
        }
    }
}

fn source_hash(frame: &Frame, seed: u64) -> u64 {
    match frame.innermost().l3.and_then(Header::addresses) {
        Some((src, _)) => mix_address(mix(seed), src),
        None => mix(seed),
    }
}

/// The hash by which targets and tunnels are chosen: source, destination, protocol, ports or query id, mixed in
/// this order.
fn flow_hash(frame: &Frame, seed: u64) -> u64 {
    let inner = frame.innermost();
    let mut hash = source_hash(frame, seed);
    if let Some((_, dst)) = inner.l3.and_then(Header::addresses) {
        hash = mix_address(hash, dst);
        hash = mix(hash ^ u64::from(super::read::protocol(&inner).unwrap_or(0)));
    }
    match inner.l4 {
        Some(icmp @ Header::Icmp(_)) => mix(hash ^ u64::from(icmp.query_id().unwrap_or(0))),
        Some(l4) => match l4.ports() {
            Some((src, dst)) => mix(hash ^ u64::from(src) << 16 ^ u64::from(dst)),
            None => hash,
        },
        None => hash,
    }
}
