//! The unified flow id: the key of the unified flow table, packed (§5.1).
//!
//! Theory. Comparing and hashing nested header types field by field costs more than the rest of a hit. So the
//! base fields of all groups are packed, once per packet, into a short run of 64-bit words that is unique for
//! the stack: the first word of a group says which headers exist, so that no two different stacks can pack to
//! the same words, and the following words hold addresses, ports and tenant. A plain IPv4 packet takes 6 words,
//! with a VXLAN tunnel 12. Only these words are hashed and compared.

use super::{Direction, EncapKind, FieldSet, Fragment, HeaderGroup, HeaderStack, IpPair, L3, L4, MAX_GROUPS};

/// Words that one group can take: shape, two of MAC and ethertype, tags, four of addresses, one of L4.
const WORDS_PER_GROUP: usize = 9;
/// Words of the longest key: all groups, the direction, and the declared extras of every group.
const MAX_WORDS: usize = WORDS_PER_GROUP * MAX_GROUPS + 1 + 4 * MAX_GROUPS;

/// The base fields of every group and the direction, packed; with the declared extras of the port's program.
#[derive(Clone, Copy)]
pub struct Ufid {
    words: [u64; MAX_WORDS],
    len: u8,
}

impl Ufid {
    /// The key of a packet that entered a port with `stack` in `direction`, under a program that declared
    /// `extras`; `ingress_port` is the number of the port by which it entered the switch.
    pub fn new(stack: &HeaderStack, direction: Direction, extras: FieldSet, ingress_port: u32) -> Self {
        let mut ufid = Ufid::default();
        ufid.set(stack, direction, extras, ingress_port);
        ufid
    }

    /// Becomes what [`Ufid::new`] makes, in place: the words behind the key's end stay what they were.
    pub fn set(&mut self, stack: &HeaderStack, direction: Direction, extras: FieldSet, ingress_port: u32) {
        let groups = stack.groups();
        let ingress = if extras.has_ingress_port() { ingress_port as u64 } else { 0 };
        let mut packer = Packer { words: &mut self.words, len: 0 };
        packer.push(direction as u64 | (groups.len() as u64) << 8 | ingress << 32);
        for group in groups {
            packer.push_base(group);
        }
        if !extras.is_empty() {
            for group in groups {
                packer.push_extras(group, extras);
            }
        }
        self.len = packer.len as u8;
    }

    /// The packed words.
    pub fn words(&self) -> &[u64] {
        &self.words[..self.len as usize]
    }

    /// Which way the packet went.
    pub fn direction(&self) -> Direction {
        if self.words[0] & 1 == Direction::Inbound as u64 { Direction::Inbound } else { Direction::Outbound }
    }
}

impl Default for Ufid {
    fn default() -> Self {
        Ufid { words: [0; MAX_WORDS], len: 0 }
    }
}

/// Packs one key from its first word on.
struct Packer<'a> {
    words: &'a mut [u64; MAX_WORDS],
    len: usize,
}

impl Packer<'_> {
    #[inline(always)]
    fn push(&mut self, word: u64) {
        self.words[self.len] = word;
        self.len += 1;
    }

    #[inline(always)]
    fn push_base(&mut self, group: &HeaderGroup) {
        let id = &group.flow_id;
        let tags = id.l2.as_ref().map_or(0, |l2| l2.tags.count() as u64);
        let (l3, protocol) = match id.l3 {
            None => (0, 0),
            Some(L3::Ip(ip)) if ip.addresses.is_v4() => (1, ip.protocol as u64),
            Some(L3::Ip(ip)) => (2, ip.protocol as u64),
            Some(L3::Arp(arp)) => (3, arp.operation as u64),
        };
        let (l4, l4_word) = match id.l4 {
            None => (0, 0),
            Some(L4::Tcp(p)) => (1, (p.src as u64) << 16 | p.dst as u64),
            Some(L4::Udp(p)) => (2, (p.src as u64) << 16 | p.dst as u64),
            Some(L4::Sctp(p)) => (3, (p.src as u64) << 16 | p.dst as u64),
            Some(L4::Icmp(i)) => (4 + i.id.is_some() as u64, pack_icmp(i.kind, i.code, i.id)),
            Some(L4::Icmpv6(i)) => (6 + i.id.is_some() as u64, pack_icmp(i.kind, i.code, i.id)),
            Some(L4::Encap(e)) => (8 + encap_number(e.kind), e.tenant as u64),
        };
        let shape = id.l2.is_some() as u64 | tags << 1 | l3 << 4 | l4 << 8 | protocol << 16;
        self.push(shape | l4_word << 32);
        if let Some(l2) = &id.l2 {
            self.push(l2.src.to_bits() << 16 | l2.ethertype as u64);
            self.push(l2.dst.to_bits());
            if tags > 0 {
                self.push(
                    l2.tags.iter().fold(0, |word, tag| word << 32 | (tag.tpid as u64) << 16 | tag.tci as u64),
                );
            }
        }
        match id.l3 {
            None => {}
            Some(L3::Ip(ip)) => match ip.addresses {
                IpPair::V4 { src, dst } => self.push((src.to_bits() as u64) << 32 | dst.to_bits() as u64),
                IpPair::V6 { src, dst } => {
                    for bits in [src.to_bits(), dst.to_bits()] {
                        self.push((bits >> 64) as u64);
                        self.push(bits as u64);
                    }
                }
            },
            Some(L3::Arp(arp)) => {
                self.push((arp.sender_ip.to_bits() as u64) << 32 | arp.target_ip.to_bits() as u64);
                // An edit of an ARP packet writes it whole, so what it writes must be of the key.
                self.push(arp.sender_mac.to_bits());
                self.push(arp.target_mac.to_bits());
            }
        }
    }

    /// Values of declared fields; a field that was not declared packs as zero, so it cannot split a flow.
    fn push_extras(&mut self, group: &HeaderGroup, extras: FieldSet) {
        use super::HeaderField::*;
        let e = &group.extra;
        let take = |field, value: u64| if extras.contains(field) { value } else { 0 };
        let fragment = match e.fragment {
            Fragment::None => 0,
            Fragment::First => 1,
            Fragment::Later => 2,
        };
        self.push(
            take(IpDscp, e.dscp as u64)
                | take(IpEcn, e.ecn as u64) << 8
                | take(IpTtl, e.ttl as u64) << 16
                | take(TcpFlags, e.tcp_flags as u64) << 24
                | take(IpFragment, fragment) << 32
                | take(NdTarget, e.nd_target.is_some() as u64) << 40
                | take(NdLinkAddress, e.nd_link.is_some() as u64) << 41,
        );
        if let Some(target) = e.nd_target.filter(|_| extras.contains(NdTarget)) {
            self.push((target.to_bits() >> 64) as u64);
            self.push(target.to_bits() as u64);
        }
        if let Some(link) = e.nd_link.filter(|_| extras.contains(NdLinkAddress)) {
            self.push(link.to_bits());
        }
    }
}

impl PartialEq for Ufid {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for Ufid {}

impl core::hash::Hash for Ufid {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        for word in self.words() {
            state.write_u64(*word);
        }
    }
}

impl core::fmt::Debug for Ufid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Ufid({:x?})", self.words())
    }
}

const fn pack_icmp(kind: u8, code: u8, id: Option<u16>) -> u64 {
    (kind as u64) << 24
        | (code as u64) << 16
        | match id {
            Some(id) => id as u64,
            None => 0,
        }
}

const fn encap_number(kind: EncapKind) -> u64 {
    kind as u64
}
