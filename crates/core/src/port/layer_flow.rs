//! Layer flows: what one layer remembers of conversations (§3.6).
//!
//! Theory. On one side of a layer a conversation's packets have one tuple in one direction and the reversed
//! tuple in the other, whatever the layer does in between. So a stateful rule creates two entries at once: the
//! *forward* one under the tuple that matched, which repeats the rule's transposition, and the *reverse* one
//! under the reversed result, which puts the reversed original back. The two are one [`LayerPair`] under two
//! keys. A pair belongs to a conversation and lives while its conversation does.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::hash::BuildHasher;
use core::net::IpAddr;

use hashbrown::HashTable;

use crate::action::{Action, Limiter, Mirror};
use crate::flow::{Direction, HeaderStack, L3, L4};
use crate::inspect::Full;
use crate::layer::{ContextDirection, Name};
use crate::resource::{Dependency, MeterId};
use crate::stats::Slot;
use crate::time::{Duration, Instant};
use crate::transposition::Transposition;

use super::Metadata;
use super::slab::Slab;

/// The innermost 5-tuple (ICMP query: its id in both ports) and the tenant: nothing else, because a reply's
/// MACs, TTL and entropy differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, or the ICMP query id; 0 for protocols without.
    pub src_port: u16,
    /// Destination port, or the ICMP query id; 0 for protocols without.
    pub dst_port: u16,
    /// Tenant id of the innermost tunnel; 0 without.
    pub tenant: u32,
}

impl Tuple {
    /// The tuple of `headers`; `None` for packets that cannot be told apart by one: not IP, later fragments, ICMP
    /// messages that are no queries.
    pub fn of(headers: &HeaderStack) -> Option<Tuple> {
        let group = headers.innermost();
        let L3::Ip(ip) = group.flow_id.l3? else { return None };
        if group.extra.fragment == crate::flow::Fragment::Later {
            return None;
        }
        let (src_port, dst_port) = match group.flow_id.l4 {
            Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => (ports.src, ports.dst),
            Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) => (icmp.id?, icmp.id?),
            Some(L4::Encap(_)) | None => (0, 0),
        };
        Some(Tuple {
            src: ip.addresses.src(),
            dst: ip.addresses.dst(),
            protocol: ip.protocol,
            src_port,
            dst_port,
            tenant: headers.tenant().unwrap_or(0),
        })
    }

    /// The tuple of a reply.
    pub fn reversed(self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }
}

/// A tuple as it arrives at a layer in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LayerKey {
    pub(crate) tuple: Tuple,
    pub(crate) direction: Direction,
}

/// Which entry of a pair a packet met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Forward,
    Reverse,
}

/// What a pair has from its rule; replaced when the pair moves to another rule (§5.5).
#[derive(Clone, Debug)]
pub(crate) struct PairRule {
    pub(crate) slot: Slot,
    /// Type of the action: a pair only moves to a rule of the same type.
    pub(crate) action: &'static str,
    pub(crate) time_to_live: Duration,
    pub(crate) contexts: ContextDirection,
    pub(crate) meter: Option<MeterId>,
    pub(crate) limit: Option<Limiter>,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) metadata: Vec<(u8, u32)>,
    /// The mapping that the rule's action read.
    pub(crate) depends: Option<Dependency>,
    pub(crate) group: Name,
    pub(crate) rule: Name,
}

impl PairRule {
    pub(crate) fn is_of_type(&self, action: &Action) -> bool {
        self.action == action.name()
    }
}

/// The packet that created a pair, as it stood at the layer: what a re-check after an update asks about.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) headers: HeaderStack,
    pub(crate) metadata: Metadata,
    /// The names of its keys, by the numbers that they had then.
    pub(crate) keys: Arc<[String]>,
    pub(crate) ingress: u32,
}

impl Origin {
    /// The packet's metadata by the numbers that keys have in `keys`; what is no key there is lost.
    pub(crate) fn metadata_under(&self, keys: &Arc<[String]>) -> Metadata {
        if Arc::ptr_eq(&self.keys, keys) || self.keys == *keys {
            return self.metadata;
        }
        let mut renumbered = Metadata::default();
        // There are at most 16 keys.
        for (was, name) in self.keys.iter().enumerate() {
            let is = keys.iter().position(|key| key == name);
            if let (Some(value), Some(is)) = (self.metadata.get(was as u8), is) {
                renumbered.set(is as u8, value);
            }
        }
        renumbered
    }
}

/// A conversation's state in one layer: two layer flows.
#[derive(Clone, Debug)]
pub(crate) struct LayerPair {
    pub(crate) forward_key: LayerKey,
    pub(crate) reverse_key: LayerKey,
    pub(crate) forward: Transposition,
    pub(crate) reverse: Transposition,
    pub(crate) rule: PairRule,
    pub(crate) origin: Box<Origin>,
    /// The port's generation at which the pair was created or last confirmed.
    pub(crate) generation: u64,
    pub(crate) conversation: u32,
    /// A moment up to which it certainly lives: its entry among the table's deadlines.
    pub(crate) due: Instant,
}

impl LayerPair {
    pub(crate) fn key(&self, side: Side) -> &LayerKey {
        match side {
            Side::Forward => &self.forward_key,
            Side::Reverse => &self.reverse_key,
        }
    }

    /// The side on which packets with `key` meet the pair.
    pub(crate) fn side_of(&self, key: &LayerKey) -> Option<Side> {
        [Side::Forward, Side::Reverse].into_iter().find(|side| self.key(*side) == key)
    }

    pub(crate) fn transposition(&self, side: Side) -> &Transposition {
        match side {
            Side::Forward => &self.forward,
            Side::Reverse => &self.reverse,
        }
    }
}

/// The layer flow table of one layer on one port.
#[derive(Debug)]
pub(crate) struct LayerFlowTable {
    pub(crate) name: Name,
    /// How often it was as full as policy lets it be when a pair was to be stored.
    pub(crate) full: Full,
    pairs: Slab<LayerPair>,
    /// For each pair a moment up to which it certainly lives, earliest first. Packets only postpone a pair's end,
    /// so a due pair is looked at once and put back if it lives on: no search, however full the table is. An entry
    /// that is not its pair's `due` is left over and skipped.
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
    index: HashTable<(u32, Side)>,
    hasher: crate::hash::TableHasher,
}

impl LayerFlowTable {
    pub(crate) fn new(name: Name, hasher: crate::hash::TableHasher) -> Self {
        LayerFlowTable {
            name,
            full: Full::default(),
            pairs: Slab::default(),
            deadlines: BinaryHeap::new(),
            index: HashTable::new(),
            hasher,
        }
    }

    pub(crate) fn find(&self, key: &LayerKey) -> Option<(u32, Side, &LayerPair)> {
        let pairs = &self.pairs;
        let same = |(id, side): &(u32, Side)| pairs.get(*id).is_some_and(|pair| pair.key(*side) == key);
        let (id, side) = *self.index.find(self.hasher.hash_one(key), same)?;
        Some((id, side, pairs.get(id)?))
    }

    pub(crate) fn get(&self, id: u32) -> Option<&LayerPair> {
        self.pairs.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut LayerPair> {
        self.pairs.get_mut(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &LayerPair)> {
        self.pairs.iter()
    }

    /// The next pair that may be over at `now`, to be removed or postponed.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<u32> {
        while let Some(Reverse((due, id))) = self.deadlines.peek().copied() {
            if due >= now {
                return None;
            }
            self.deadlines.pop();
            if self.pairs.get(id).is_some_and(|pair| pair.due == due) {
                return Some(id);
            }
        }
        None
    }

    /// Notes that pair `id` lives until `due` at least.
    pub(crate) fn set_due(&mut self, id: u32, due: Instant) {
        if let Some(pair) = self.pairs.get_mut(id) {
            pair.due = due;
            self.deadlines.push(Reverse((due, id)));
        }
    }

    /// Stores a pair; its `due` is a moment up to which it certainly lives.
    pub(crate) fn insert(&mut self, pair: LayerPair) -> u32 {
        let due = pair.due;
        let keys = [(pair.forward_key, Side::Forward), (pair.reverse_key, Side::Reverse)];
        let id = self.pairs.insert(pair);
        self.deadlines.push(Reverse((due, id)));
        for (key, side) in keys {
            let (pairs, hasher) = (&self.pairs, &self.hasher);
            let rehash =
                |(id, side): &(u32, Side)| pairs.get(*id).map_or(0, |pair| hasher.hash_one(pair.key(*side)));
            self.index.insert_unique(self.hasher.hash_one(key), (id, side), rehash);
        }
        id
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<LayerPair> {
        let pair = self.pairs.remove(id)?;
        for (key, side) in [(&pair.forward_key, Side::Forward), (&pair.reverse_key, Side::Reverse)] {
            let entry = self.index.find_entry(self.hasher.hash_one(key), |entry| *entry == (id, side));
            if let Ok(entry) = entry {
                entry.remove();
            }
        }
        Some(pair)
    }
}
