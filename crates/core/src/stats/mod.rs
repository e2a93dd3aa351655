//! Counters (§5.6, §14): what is counted, and the snapshot that is read.
//!
//! Theory. A cached hit writes one place: its unified flow's own counter. Which rules, defaults and meter cells
//! that hit stands for is known from the flow's path, a short list of `Slot`s. *Folding* adds the flow's count
//! to every slot of its path and sets it to zero; it happens before a counter is read and before a path changes,
//! so that read figures are exact, cached hits included.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::drop_reason::DropReason;
use crate::flow::{Direction, Value};
use crate::layer::Name;

/// Packets and bytes. Bytes are those of the guest's side of the port: the frame as the guest sent it or gets it;
/// a super-frame counts as the segments it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Packets (segments).
    pub packets: u64,
    /// Bytes of their Ethernet frames, without FCS.
    pub bytes: u64,
}

impl Count {
    /// Adds `other`.
    pub fn add(&mut self, other: Count) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    /// Takes the count, leaving zero.
    pub fn take(&mut self) -> Count {
        core::mem::take(self)
    }
}

/// Where a count is kept: a rule or layer default, or a meter cell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Slot(u32);

impl Slot {
    const METER: u32 = 1 << 31;

    pub(crate) const fn rule(index: usize) -> Slot {
        Slot(index as u32)
    }

    /// The index of a rule's or default's slot.
    const fn rule_index(self) -> usize {
        (self.0 & !Slot::METER) as usize
    }

    pub(crate) const fn meter_cell(index: usize) -> Slot {
        Slot(index as u32 | Slot::METER)
    }
}

/// Counts by rule slot. It grows by pieces, so that growing moves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleCounts {
    pieces: Vec<Box<[Count]>>,
}

/// Counts of one piece.
const PIECE: usize = 512;

impl RuleCounts {
    /// Makes room for the slots below `bound`.
    pub(crate) fn grow(&mut self, bound: usize) {
        while self.pieces.len() * PIECE < bound {
            self.pieces.push(alloc::vec![Count::default(); PIECE].into_boxed_slice());
        }
    }

    /// What `slot` counts.
    pub(crate) fn of(&self, slot: Slot) -> Count {
        let index = slot.rule_index();
        self.pieces.get(index / PIECE).map_or(Count::default(), |piece| piece[index % PIECE])
    }

    pub(crate) fn entry(&mut self, slot: Slot) -> Option<&mut Count> {
        let index = slot.rule_index();
        self.pieces.get_mut(index / PIECE).map(|piece| &mut piece[index % PIECE])
    }
}

/// The counters of one port, by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct CounterTable {
    pub(crate) rules: RuleCounts,
    pub(crate) cells: Vec<Count>,
}

impl CounterTable {
    pub(crate) fn add(&mut self, slot: Slot, count: Count) {
        let entry = if slot.0 & Slot::METER == 0 {
            self.rules.entry(slot)
        } else {
            self.cells.get_mut((slot.0 & !Slot::METER) as usize)
        };
        if let Some(entry) = entry {
            entry.add(count);
        }
    }
}

/// Packets dropped, by reason.
#[derive(Clone, Debug, Default)]
pub struct DropCounters {
    counts: BTreeMap<DropReason, u64>,
}

impl DropCounters {
    /// Counts one drop for `reason`.
    pub fn count(&mut self, reason: DropReason) {
        *self.counts.entry(reason).or_default() += 1;
    }

    /// Adds what `other` counted.
    pub fn add(&mut self, other: &DropCounters) {
        other.counts.iter().for_each(|(reason, count)| *self.counts.entry(*reason).or_default() += count);
    }

    /// Drops for `reason`.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// Every reason that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.counts.iter().map(|(reason, count)| (*reason, *count))
    }
}

/// Everything that a port counts, read at one moment.
#[derive(Clone, Debug, Default)]
pub struct PortCounters {
    /// Packets from the guest, and to the guest, that were forwarded.
    pub outbound: Count,
    /// Packets delivered to the guest.
    pub inbound: Count,
    /// Drops by reason.
    pub drops: DropCounters,
    /// Layers, nearest the guest first.
    pub layers: Vec<LayerCounters>,
    /// Meters, in order of the resources.
    pub meters: Vec<MeterCounters>,
    /// The flow tables.
    pub flows: FlowCounters,
}

/// Counters of one layer.
#[derive(Clone, Debug)]
pub struct LayerCounters {
    /// The layer's name.
    pub name: Name,
    /// Packets that no rule of the layer matched, inbound.
    pub default_inbound: Count,
    /// Packets that no rule of the layer matched, outbound.
    pub default_outbound: Count,
    /// The layer's groups of both directions.
    pub groups: Vec<GroupCounters>,
    /// Conversations that have layer flows here.
    pub layer_flows: usize,
}

impl LayerCounters {
    /// Packets that the layer passed or that it dropped, by rule or default.
    pub fn total(&self) -> Count {
        let mut total = self.default_inbound;
        total.add(self.default_outbound);
        self.groups.iter().for_each(|group| total.add(group.total()));
        total
    }
}

/// Counters of one group.
#[derive(Clone, Debug)]
pub struct GroupCounters {
    /// The group's name.
    pub name: Name,
    /// The direction it filters.
    pub direction: Direction,
    /// Its rules, in order of priority.
    pub rules: Vec<(Name, Count)>,
    /// Counts of rules that the group had before and that an update removed.
    pub retired: Count,
}

impl GroupCounters {
    /// Packets that any rule of the group, present or removed, was selected for.
    pub fn total(&self) -> Count {
        let mut total = self.retired;
        self.rules.iter().for_each(|(_, count)| total.add(*count));
        total
    }
}

/// Counters of one meter.
#[derive(Clone, Debug)]
pub struct MeterCounters {
    /// The meter's name.
    pub name: Name,
    /// One entry per distinct key; a field that the packet lacked is `None`.
    pub cells: Vec<(Vec<Option<Value>>, Count)>,
    /// Packets whose key found the table full.
    pub other: Count,
}

impl MeterCounters {
    /// All cells together.
    pub fn total(&self) -> Count {
        let mut total = self.other;
        self.cells.iter().for_each(|(_, count)| total.add(*count));
        total
    }
}

/// State of a port's flow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounters {
    /// Unified flows that exist.
    pub unified: usize,
    /// Conversations that hold state.
    pub conversations: usize,
    /// Packets answered by a unified flow.
    pub hits: u64,
    /// Packets that took the slow path.
    pub misses: u64,
    /// Blocked packets answered by the drop cache.
    pub drop_cache_hits: u64,
    /// Unified flows that gave way because the table was full.
    pub evicted: u64,
    /// Unified flows re-resolved because policy changed.
    pub reconciled: u64,
}

/// The path of a rule as people write it: `layer/group/rule`.
pub fn rule_path(layer: &str, group: &str, rule: &str) -> String {
    alloc::format!("{layer}/{group}/{rule}")
}
