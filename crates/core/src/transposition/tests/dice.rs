//! Random stacks and random transpositions that fit them, from one seed per case. A failing case names its seed.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use super::super::*;
use crate::address::VlanTag;
use crate::flow::{Encap, Extra, FlowId, HeaderGroup, HeaderStack, Icmp, Ip, L2, L3, L4, MAX_GROUPS};
use crate::resource::mix;

pub(super) struct Dice(pub(super) u64);

pub(super) const KINDS: [EncapKind; 6] = [
    EncapKind::Vxlan,
    EncapKind::Geneve,
    EncapKind::Nvgre,
    EncapKind::Gre,
    EncapKind::GreKeyed,
    EncapKind::IpInIp,
];

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        if self.once_in(3) { Some(value(self)) } else { None }
    }

    fn mac(&mut self) -> MacAddr {
        MacAddr::from_bits(self.next() & 0x0000_ffff_ffff)
    }

    pub(super) fn pair(&mut self, v4: bool) -> IpPair {
        if v4 {
            IpPair::V4 { src: Ipv4Addr::from(self.next() as u32), dst: Ipv4Addr::from(self.next() as u32) }
        } else {
            let mut v6 = || Ipv6Addr::from((self.next() as u128) << 64 | self.next() as u128);
            IpPair::V6 { src: v6(), dst: v6() }
        }
    }

    fn tags(&mut self) -> VlanTags {
        let tag = |tpid, dice: &mut Dice| VlanTag { tpid, tci: dice.next() as u16 };
        match self.below(4) {
            0 => VlanTags::one(tag(VlanTag::DOT1Q, self)),
            1 => VlanTags::two(tag(VlanTag::DOT1AD, self), tag(VlanTag::DOT1Q, self)),
            _ => VlanTags::NONE,
        }
    }

    /// A port that no tunnel has.
    fn port(&mut self) -> u16 {
        self.below(4000) as u16 + 1
    }

    fn ports(&mut self) -> Ports {
        Ports { src: self.port(), dst: self.port() }
    }

    pub(super) fn tenant(&mut self, kind: EncapKind) -> u32 {
        self.next() as u32 & kind.max_tenant()
    }

    fn icmp(&mut self, v4: bool) -> Icmp {
        let (query, error) = if v4 { (8, 3) } else { (128, 1) };
        let is_query = !self.once_in(4);
        Icmp {
            kind: if is_query { query } else { error },
            code: self.below(4) as u8,
            id: is_query.then(|| self.next() as u16),
        }
    }

    fn l2(&mut self, ethertype: u16) -> L2 {
        L2 { src: self.mac(), dst: self.mac(), tags: self.tags(), ethertype }
    }

    fn extra(&mut self) -> Extra {
        Extra {
            dscp: self.below(64) as u8,
            ecn: self.below(4) as u8,
            ttl: if self.once_in(16) { self.below(3) as u8 + 1 } else { self.below(200) as u8 + 50 },
            ..Extra::default()
        }
    }

    /// A random stack of one to three groups, its derived fields right.
    pub(super) fn stack(&mut self) -> HeaderStack {
        loop {
            let mut groups: Vec<HeaderGroup> = Vec::new();
            let depth = 1 + self.below(MAX_GROUPS as u64) as usize;
            let mut ethernet = true;
            while groups.len() < depth {
                let mut group = HeaderGroup::default();
                if ethernet {
                    group.flow_id.l2 = Some(self.l2(0x88b5));
                }
                if groups.len() + 1 < depth {
                    let kind = KINDS[self.below(6) as usize];
                    let (v4, tenant) = (self.once_in(2), self.tenant(kind));
                    let ip = Ip { addresses: self.pair(v4), protocol: 0 };
                    group.flow_id.l3 = Some(L3::Ip(ip));
                    group.flow_id.l4 = Some(L4::Encap(Encap { kind, tenant }));
                    let tunnel_port = match kind {
                        EncapKind::Vxlan => VXLAN_PORT,
                        EncapKind::Geneve => GENEVE_PORT,
                        _ => 0,
                    };
                    group.extra = Extra { tunnel_port, ..self.extra() };
                    ethernet = kind.carries_ethernet();
                } else {
                    self.innermost(&mut group);
                }
                groups.push(group);
            }
            let stack = HeaderStack::new(&groups).expect("one to three groups");
            let mut list = headers::HeaderList::flatten(&stack);
            let input = list;
            if let Ok(stack) = list.stack(&input) {
                return stack;
            }
        }
    }

    fn innermost(&mut self, group: &mut HeaderGroup) {
        let id: &mut FlowId = &mut group.flow_id;
        let v4 = self.once_in(2);
        match self.below(16) {
            0 if id.l2.is_some() => return,
            1 if id.l2.is_some() => {
                id.l3 = Some(L3::Arp(Arp {
                    operation: 1,
                    sender_mac: self.mac(),
                    sender_ip: Ipv4Addr::from(self.next() as u32),
                    target_mac: self.mac(),
                    target_ip: Ipv4Addr::from(self.next() as u32),
                }));
                return;
            }
            _ => {}
        }
        id.l3 = Some(L3::Ip(Ip { addresses: self.pair(v4), protocol: 253 }));
        id.l4 = match self.below(8) {
            0 => None,
            1 if v4 => Some(L4::Icmp(self.icmp(true))),
            1 => Some(L4::Icmpv6(self.icmp(false))),
            2 => Some(L4::Sctp(self.ports())),
            3 | 4 => Some(L4::Udp(self.ports())),
            _ => Some(L4::Tcp(self.ports())),
        };
        group.extra = self.extra();
        if let Some(L4::Tcp(_)) = id.l4 {
            group.extra.tcp_flags = self.next() as u8;
        }
    }

    /// A transposition that fits `stack`, but for a TTL or an ECN mark that may be in its way.
    pub(super) fn fitting(&mut self, stack: &HeaderStack) -> Transposition {
        let mut unhindered = *stack;
        for group in unhindered.groups_mut() {
            (group.extra.ttl, group.extra.ecn) = (255, 0);
        }
        loop {
            let transposition = Transposition::new(self.ops(stack));
            if transposition.apply(&mut unhindered.clone()) != Err(TransposeError::DoesNotFit) {
                return transposition;
            }
        }
    }

    fn push_l2(&mut self) -> HeaderOp {
        let L2 { src, dst, tags, ethertype } = self.l2(0x88b6);
        HeaderOp::Push(Push::L2(PushL2 { src, dst, tags, ethertype }))
    }

    fn push_ip(&mut self, v4: bool) -> HeaderOp {
        let dscp = if self.once_in(2) { PushDscp::Copy } else { PushDscp::Fixed(self.below(64) as u8) };
        let ttl = if self.once_in(16) { 1 } else { 64 };
        HeaderOp::Push(Push::Ip(PushIp { addresses: self.pair(v4), ttl, dscp, protocol: 253 }))
    }

    fn push_tunnel(&mut self, ethernet: bool) -> Vec<HeaderOp> {
        let kind = KINDS[if ethernet { self.below(3) } else { 3 + self.below(3) } as usize];
        let udp_port = if kind == EncapKind::Vxlan { VXLAN_PORT } else { GENEVE_PORT };
        let tenant = self.tenant(kind);
        let v4 = self.once_in(2);
        let mut ops = if ethernet { vec![self.push_l2()] } else { vec![] };
        ops.push(self.push_ip(v4));
        ops.push(HeaderOp::Push(Push::Encap(PushEncap { kind, tenant, udp_port })));
        ops
    }

    fn ops(&mut self, stack: &HeaderStack) -> Vec<HeaderOp> {
        let mut ops = Vec::new();
        // How often headers are pushed or popped: often at the front, where policy does it, seldom inside.
        let groups = stack.groups();
        let mut index = 0;
        while index < groups.len() {
            let rarity = if index == 0 { 4 } else { 10 };
            let id = &groups[index].flow_id;
            if id.l2.is_some() && self.once_in(rarity) {
                ops.extend(self.push_tunnel(true));
            }
            let inner_ethernet = groups.get(index + 1).map(|inner| inner.flow_id.l2.is_some());
            let decap = inner_ethernet.is_some() && self.once_in(rarity);
            if let Some(l2) = &id.l2 {
                match self.below(16) {
                    _ if decap && inner_ethernet == Some(true) => ops.push(HeaderOp::Pop(Level::L2)),
                    0 => ops.extend([HeaderOp::Pop(Level::L2), self.push_l2()]),
                    1..6 => ops.push(self.modify_l2(l2, id.l3.is_some())),
                    _ => ops.push(HeaderOp::Ignore(Level::L2)),
                }
            }
            if decap {
                ops.extend([HeaderOp::Pop(Level::L3), HeaderOp::Pop(Level::L4)]);
                index += 1;
                continue;
            }
            if matches!(id.l3, Some(L3::Ip(_))) && self.once_in(rarity) {
                ops.extend(self.push_tunnel(false));
            }
            if let Some(l3) = &id.l3 {
                self.ops_l3(l3, &mut ops);
            }
            if let Some(l4) = &id.l4 {
                self.ops_l4(l4, &mut ops);
            }
            index += 1;
        }
        ops
    }

    fn modify_l2(&mut self, _l2: &L2, known_inside: bool) -> HeaderOp {
        HeaderOp::Modify(Modify::L2(ModifyL2 {
            src: self.maybe(Dice::mac),
            dst: self.maybe(Dice::mac),
            tags: self.maybe(Dice::tags),
            ethertype: if known_inside { None } else { self.maybe(|_| 0x88b7) },
        }))
    }

    fn ops_l3(&mut self, l3: &L3, ops: &mut Vec<HeaderOp>) {
        match (l3, self.below(12)) {
            (L3::Ip(_), 0) => {
                let v4 = self.once_in(2);
                ops.extend([HeaderOp::Pop(Level::L3), self.push_ip(v4)]);
            }
            (L3::Ip(ip), 1..7) => {
                let pair = self.pair(ip.addresses.is_v4());
                ops.push(HeaderOp::Modify(Modify::L3(ModifyL3 {
                    src: self.maybe(|_| pair.src()),
                    dst: self.maybe(|_| pair.dst()),
                    dscp: self.maybe(|dice| dice.below(64) as u8),
                    ttl: self.maybe(|dice| match dice.below(4) {
                        0 => Ttl::Set(1 + dice.below(40) as u8),
                        1 => Ttl::DecrementThenSet { decrement: dice.below(3) as u8, value: 30 },
                        _ => Ttl::Decrement(dice.below(3) as u8),
                    }),
                    arp: ModifyArp::default(),
                })));
            }
            (L3::Arp(_), 0) => ops.push(HeaderOp::Modify(Modify::L3(ModifyL3 {
                src: self.maybe(|dice| dice.pair(true).src()),
                dst: self.maybe(|dice| dice.pair(true).dst()),
                arp: ModifyArp {
                    operation: self.maybe(|_| 2),
                    sender_mac: self.maybe(Dice::mac),
                    target_mac: self.maybe(Dice::mac),
                },
                ..ModifyL3::default()
            }))),
            _ => ops.push(HeaderOp::Ignore(Level::L3)),
        }
    }

    fn ops_l4(&mut self, l4: &L4, ops: &mut Vec<HeaderOp>) {
        let none = ModifyL4::default();
        match (l4, self.below(12)) {
            (L4::Tcp(_) | L4::Udp(_) | L4::Sctp(_), 0) => {
                ops.extend([HeaderOp::Pop(Level::L4), HeaderOp::Push(Push::Udp(self.ports()))]);
            }
            (L4::Tcp(_) | L4::Udp(_) | L4::Sctp(_), 1..7) => {
                ops.push(HeaderOp::Modify(Modify::L4(ModifyL4 {
                    src_port: self.maybe(Dice::port),
                    dst_port: self.maybe(Dice::port),
                    ..none
                })))
            }
            (L4::Icmp(_), 0) => {
                let icmp = self.icmp(true);
                ops.extend([HeaderOp::Pop(Level::L4), HeaderOp::Push(Push::Icmp(icmp))]);
            }
            (L4::Icmp(icmp) | L4::Icmpv6(icmp), 1..7) => ops.push(HeaderOp::Modify(Modify::L4(ModifyL4 {
                icmp_code: self.maybe(|dice| dice.below(4) as u8),
                icmp_id: icmp.id.and_then(|_| self.maybe(|dice| dice.next() as u16)),
                icmp_type: self.maybe(|_| icmp.kind),
                ..none
            }))),
            (L4::Encap(encap), 1..4) if encap.kind.has_tenant() => {
                let tenant = Some(self.tenant(encap.kind));
                ops.push(HeaderOp::Modify(Modify::L4(ModifyL4 { tenant, ..none })));
            }
            _ => ops.push(HeaderOp::Ignore(Level::L4)),
        }
    }
}
