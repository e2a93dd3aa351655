//! A packed key read back: the header stack that it stands for, for people who ask which flows there are.
//!
//! The inverse of the packing in [`super::ufid`]; whoever changes one changes both, and the test below packs random
//! stacks and reads them back. Not for the packet path.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Arp, Direction, Encap, EncapKind, Extra, FlowId, Fragment, HeaderGroup, HeaderStack, Icmp, Ip, IpPair,
    L2, L3, L4, Ports,
};
use crate::address::{MacAddr, VlanTag, VlanTags};

/// What a key says. Fields that are not in the key are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeyReading {
    pub(crate) headers: HeaderStack,
    pub(crate) direction: Direction,
    /// The number of the port by which packets entered the switch, if the key has it; 0 may be no port.
    pub(crate) ingress: u32,
}

/// Reads a key; `None` for words that no packet packs to.
pub(crate) fn read(words: &[u64]) -> Option<KeyReading> {
    let mut reader = Reader { words };
    let first = reader.take()?;
    let direction =
        if first & 1 == Direction::Inbound as u64 { Direction::Inbound } else { Direction::Outbound };
    let mut headers = HeaderStack::default();
    for _ in 0..(first >> 8) as u8 {
        headers.push_inner(reader.group()?)?;
    }
    if !reader.words.is_empty() {
        for group in headers.groups_mut() {
            reader.extras(group)?;
        }
    }
    reader.words.is_empty().then_some(KeyReading { headers, direction, ingress: (first >> 32) as u32 })
}

struct Reader<'a> {
    words: &'a [u64],
}

impl Reader<'_> {
    fn take(&mut self) -> Option<u64> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(*first)
    }

    fn take_v6(&mut self) -> Option<Ipv6Addr> {
        let high = self.take()?;
        Some(Ipv6Addr::from_bits((high as u128) << 64 | self.take()? as u128))
    }

    fn group(&mut self) -> Option<HeaderGroup> {
        let shape = self.take()?;
        let l2 = if shape & 1 == 1 { Some(self.l2((shape >> 1 & 7) as usize)?) } else { None };
        let protocol = (shape >> 16) as u16;
        let l3 = match shape >> 4 & 15 {
            0 => None,
            1 => {
                let word = self.take()?;
                let (src, dst) = (v4(word >> 32), v4(word));
                Some(L3::Ip(Ip { addresses: IpPair::V4 { src, dst }, protocol: protocol as u8 }))
            }
            2 => {
                let (src, dst) = (self.take_v6()?, self.take_v6()?);
                let addresses = IpPair::new(IpAddr::V6(src), IpAddr::V6(dst))?;
                Some(L3::Ip(Ip { addresses, protocol: protocol as u8 }))
            }
            3 => {
                let word = self.take()?;
                let sender_mac = MacAddr::from_bits(self.take()?);
                let target_mac = MacAddr::from_bits(self.take()?);
                let (sender_ip, target_ip) = (v4(word >> 32), v4(word));
                Some(L3::Arp(Arp { operation: protocol, sender_mac, sender_ip, target_mac, target_ip }))
            }
            _ => return None,
        };
        let l4 = l4((shape >> 8 & 0xff) as u8, (shape >> 32) as u32)?;
        Some(HeaderGroup { flow_id: FlowId { l2, l3, l4 }, extra: Extra::default() })
    }

    fn l2(&mut self, tags: usize) -> Option<L2> {
        let (src, dst) = (self.take()?, self.take()?);
        let tag = |word: u64| VlanTag { tpid: (word >> 16) as u16, tci: word as u16 };
        let tags = match tags {
            0 => VlanTags::NONE,
            1 => VlanTags::one(tag(self.take()?)),
            2 => {
                let word = self.take()?;
                VlanTags::two(tag(word >> 32), tag(word & u32::MAX as u64))
            }
            _ => return None,
        };
        Some(L2 {
            src: MacAddr::from_bits(src >> 16),
            dst: MacAddr::from_bits(dst),
            tags,
            ethertype: src as u16,
        })
    }

    fn extras(&mut self, group: &mut HeaderGroup) -> Option<()> {
        let word = self.take()?;
        let byte = |at: u32| (word >> at) as u8;
        let nd_target = if byte(40) & 1 == 1 { Some(self.take_v6()?) } else { None };
        let nd_link = if byte(40) & 2 == 2 { Some(MacAddr::from_bits(self.take()?)) } else { None };
        group.extra = Extra {
            dscp: byte(0),
            ecn: byte(8),
            ttl: byte(16),
            tcp_flags: byte(24),
            fragment: match byte(32) {
                0 => Fragment::None,
                1 => Fragment::First,
                _ => Fragment::Later,
            },
            nd_target,
            nd_link,
            ..Extra::default()
        };
        Some(())
    }
}

fn v4(word: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(word as u32)
}

fn l4(kind: u8, word: u32) -> Option<Option<L4>> {
    let ports = || Ports { src: (word >> 16) as u16, dst: word as u16 };
    let icmp = |has_id: bool| {
        let id = has_id.then_some(word as u16);
        Icmp { kind: (word >> 24) as u8, code: (word >> 16) as u8, id }
    };
    Some(Some(match kind {
        0 => return Some(None),
        1 => L4::Tcp(ports()),
        2 => L4::Udp(ports()),
        3 => L4::Sctp(ports()),
        4 | 5 => L4::Icmp(icmp(kind == 5)),
        6 | 7 => L4::Icmpv6(icmp(kind == 7)),
        _ => {
            let kinds = [
                EncapKind::Vxlan,
                EncapKind::Geneve,
                EncapKind::Nvgre,
                EncapKind::Gre,
                EncapKind::GreKeyed,
                EncapKind::IpInIp,
            ];
            let kind = kinds.into_iter().find(|known| *known as u8 == kind - 8)?;
            L4::Encap(Encap { kind, tenant: word })
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Field, FieldSet, HeaderField, Scope, Ufid};
    use proptest::prelude::*;

    fn any_mac() -> impl Strategy<Value = MacAddr> {
        any::<[u8; 6]>().prop_map(MacAddr)
    }

    fn any_l2() -> impl Strategy<Value = L2> {
        let tag = || (any::<u16>(), any::<u16>()).prop_map(|(tpid, tci)| VlanTag { tpid, tci });
        let tags = prop_oneof![
            Just(VlanTags::NONE),
            tag().prop_map(VlanTags::one),
            (tag(), tag()).prop_map(|(outer, inner)| VlanTags::two(outer, inner)),
        ];
        (any_mac(), any_mac(), tags, any::<u16>()).prop_map(|(src, dst, tags, ethertype)| L2 {
            src,
            dst,
            tags,
            ethertype,
        })
    }

    fn any_l3() -> impl Strategy<Value = L3> {
        let v4 = || any::<u32>().prop_map(Ipv4Addr::from_bits);
        let v6 = || any::<u128>().prop_map(Ipv6Addr::from_bits);
        let ip = prop_oneof![
            (v4(), v4()).prop_map(|(src, dst)| IpPair::V4 { src, dst }),
            (v6(), v6()).prop_map(|(src, dst)| IpPair::V6 { src, dst }),
        ];
        prop_oneof![
            (ip, any::<u8>()).prop_map(|(addresses, protocol)| L3::Ip(Ip { addresses, protocol })),
            (any::<u16>(), any_mac(), v4(), any_mac(), v4()).prop_map(
                |(operation, sender_mac, sender_ip, target_mac, target_ip)| {
                    L3::Arp(Arp { operation, sender_mac, sender_ip, target_mac, target_ip })
                }
            ),
        ]
    }

    fn any_l4() -> impl Strategy<Value = L4> {
        let ports = || (any::<u16>(), any::<u16>()).prop_map(|(src, dst)| Ports { src, dst });
        let icmp = || {
            (any::<u8>(), any::<u8>(), any::<Option<u16>>()).prop_map(|(kind, code, id)| Icmp {
                kind,
                code,
                id,
            })
        };
        let kinds = prop_oneof![
            Just(EncapKind::Vxlan),
            Just(EncapKind::Geneve),
            Just(EncapKind::Nvgre),
            Just(EncapKind::Gre),
            Just(EncapKind::GreKeyed),
            Just(EncapKind::IpInIp)
        ];
        prop_oneof![
            ports().prop_map(L4::Tcp),
            ports().prop_map(L4::Udp),
            ports().prop_map(L4::Sctp),
            icmp().prop_map(L4::Icmp),
            icmp().prop_map(L4::Icmpv6),
            (kinds, any::<u32>()).prop_map(|(kind, tenant)| L4::Encap(Encap { kind, tenant })),
        ]
    }

    fn any_group() -> impl Strategy<Value = HeaderGroup> {
        let fragment = prop_oneof![Just(Fragment::None), Just(Fragment::First), Just(Fragment::Later)];
        let target = prop::option::of(any::<u128>().prop_map(Ipv6Addr::from_bits));
        let link = prop::option::of((0..1u64 << 48).prop_map(MacAddr::from_bits));
        let numbers = (0..64u8, 0..4u8, any::<u8>(), any::<u8>());
        let extra = (numbers, fragment, target, link).prop_map(
            |((dscp, ecn, ttl, tcp_flags), fragment, nd_target, nd_link)| Extra {
                dscp,
                ecn,
                ttl,
                tcp_flags,
                fragment,
                nd_target,
                nd_link,
                ..Extra::default()
            },
        );
        let flow_id = (prop::option::of(any_l2()), prop::option::of(any_l3()), prop::option::of(any_l4()))
            .prop_map(|(l2, l3, l4)| FlowId { l2, l3, l4 });
        (flow_id, extra).prop_map(|(flow_id, extra)| HeaderGroup { flow_id, extra })
    }

    proptest! {
        #[test]
        fn a_packed_stack_reads_back(
            groups in prop::collection::vec(any_group(), 1..=3),
            is_inbound in any::<bool>(),
            ingress in any::<u32>(),
            declares in any::<bool>(),
        ) {
            use HeaderField::*;
            let mut headers = HeaderStack::new(&groups).unwrap();
            let direction = if is_inbound { Direction::Inbound } else { Direction::Outbound };
            let mut extras = FieldSet::EMPTY;
            if declares {
                let fields = [IpDscp, IpEcn, IpTtl, TcpFlags, IpFragment, NdTarget, NdLinkAddress];
                fields.iter().for_each(|field| extras.insert(Field::Header(Scope::Inner, *field)));
                extras.insert(Field::IngressPort);
            } else {
                for group in headers.groups_mut() {
                    group.extra = Extra::default();
                }
            }
            let packed = Ufid::new(&headers, direction, extras, ingress);
            let reading = read(packed.words()).expect("a packed key can be read");
            prop_assert_eq!(reading.headers, headers);
            prop_assert_eq!(reading.direction, direction);
            prop_assert_eq!(reading.ingress, if declares { ingress } else { 0 });
            // Any words at all: no panic.
            let cut = &packed.words()[..packed.words().len() - 1];
            prop_assert!(read(cut) != Some(reading));
        }
    }
}
