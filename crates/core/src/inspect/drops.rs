//! Which packets were dropped, by whom and why (§3.7, §14): exact counts by place, and the last few packets.
//!
//! A place is a reason, a direction, and the layer, group and rule that dropped, as far as there are any. Places are
//! kept by name, so their counts outlive updates of policy. A blocked packet that the drop cache answers is counted
//! by the number of its place alone. The last packets stand in a ring of fixed size; noting one copies its headers
//! and allocates nothing.

use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use crate::drop_reason::DropReason;
use crate::flow::{Direction, HeaderStack};
use crate::layer::Name;
use crate::stats::Count;
use crate::time::Instant;

use super::limits::Full;

/// Packets that are remembered per port and uplink.
pub const RECENT_DROPS: usize = 32;
/// Places that name a rule; packets of further ones are counted under their reason alone.
pub const MAX_DROP_PLACES: usize = 16_384;

/// Dropped packets of one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropRow {
    /// Why.
    pub reason: DropReason,
    /// Which way they crossed the port; at an uplink inbound is from the network.
    pub direction: Direction,
    /// The layer that dropped them; `None` where it was the port, the forwarding or a backend.
    pub layer: Option<Name>,
    /// The group whose rule dropped them; `None` for a layer's default.
    pub group: Option<Name>,
    /// The rule.
    pub rule: Option<Name>,
    /// Frames: a super-frame is one, as in [`crate::stats::DropCounters`].
    pub frames: u64,
    /// Packets as rules count them: a super-frame is as many as it has segments.
    pub packets: u64,
    /// Bytes of those packets; 0 of what a backend could not send, which tells numbers only.
    pub bytes: u64,
}

/// One packet that was dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropSummary {
    /// When.
    pub time: Instant,
    /// Why.
    pub reason: DropReason,
    /// Which way it crossed the port.
    pub direction: Direction,
    /// The layer that dropped it.
    pub layer: Option<Name>,
    /// The group.
    pub group: Option<Name>,
    /// The rule.
    pub rule: Option<Name>,
    /// Bytes of the frame as it entered the port.
    pub length: u32,
    /// Its headers as it entered the port; `None` for a frame that could not be parsed, or that was not looked at.
    pub headers: Option<HeaderStack>,
}

/// The layer that dropped a packet, with its group and rule; without these, its default.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DropPlace {
    pub(crate) layer: Name,
    pub(crate) rule: Option<(Name, Name)>,
}

/// What is known of a packet that is dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost<'a> {
    pub(crate) now: Instant,
    pub(crate) count: Count,
    /// Bytes of the frame as it entered.
    pub(crate) length: usize,
    pub(crate) headers: Option<&'a HeaderStack>,
}

/// The dropped packets of a port or uplink.
#[derive(Debug)]
pub(crate) struct DropLog {
    rows: Vec<DropRow>,
    index: HashTable<u32>,
    hasher: crate::hash::TableHasher,
    /// How often a place was not told apart.
    pub(crate) full: Full,
    recent: Vec<Recent>,
    /// The place in `recent` that is written next.
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    time: Instant,
    row: u32,
    length: u32,
    headers: Option<HeaderStack>,
}

impl Default for DropLog {
    fn default() -> Self {
        DropLog::new(crate::hash::TableHasher::default())
    }
}

impl DropLog {
    pub(crate) fn new(hasher: crate::hash::TableHasher) -> Self {
        let recent = Vec::with_capacity(RECENT_DROPS);
        DropLog { rows: Vec::new(), index: HashTable::new(), hasher, full: Full::default(), recent, next: 0 }
    }

    /// The number of a place, which it keeps.
    pub(crate) fn row(
        &mut self,
        reason: DropReason,
        direction: Direction,
        place: Option<&DropPlace>,
        now: Instant,
    ) -> u32 {
        let layer = place.map(|place| &place.layer);
        let (group, rule) =
            place.and_then(|place| place.rule.as_ref()).map(|(group, rule)| (group, rule)).unzip();
        let hash = self.hasher.hash_one((reason, direction, layer, group, rule));
        let rows = &self.rows;
        let is_same = |row: &u32| {
            let row = &rows[*row as usize];
            (row.reason, row.direction) == (reason, direction)
                && row.layer.as_ref() == layer
                && row.group.as_ref() == group
                && row.rule.as_ref() == rule
        };
        if let Some(row) = self.index.find(hash, is_same) {
            return *row;
        }
        if place.is_some() && self.rows.len() >= MAX_DROP_PLACES {
            self.full.note(now);
            return self.row(reason, direction, None, now);
        }
        let number = self.rows.len() as u32;
        let [layer, group, rule] = [layer, group, rule].map(|name| name.cloned());
        self.rows.push(DropRow { reason, direction, layer, group, rule, frames: 0, packets: 0, bytes: 0 });
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.index.insert_unique(hash, number, |row| {
            let row = &rows[*row as usize];
            let names = (row.layer.as_ref(), row.group.as_ref(), row.rule.as_ref());
            hasher.hash_one((row.reason, row.direction, names.0, names.1, names.2))
        });
        number
    }

    /// Counts a packet of the place with this number, and remembers it.
    pub(crate) fn count(&mut self, row: u32, lost: &Lost<'_>) {
        self.count_only(row, 1, lost.count);
        let recent = Recent {
            time: lost.now,
            row,
            length: u32::try_from(lost.length).unwrap_or(u32::MAX),
            headers: lost.headers.copied(),
        };
        match self.recent.get_mut(self.next) {
            Some(oldest) => *oldest = recent,
            None => self.recent.push(recent),
        }
        self.next = (self.next + 1) % RECENT_DROPS;
    }

    /// Counts packets that nobody looked at.
    pub(crate) fn count_only(&mut self, row: u32, frames: u64, count: Count) {
        let Some(row) = self.rows.get_mut(row as usize) else { return };
        row.frames += frames;
        row.packets += count.packets;
        row.bytes += count.bytes;
    }

    /// Every place that dropped something, the busiest first.
    pub(crate) fn rows(&self) -> Vec<DropRow> {
        let mut rows: Vec<DropRow> = self.rows.iter().filter(|row| row.frames > 0).cloned().collect();
        let names = |row: &DropRow| (row.layer.clone(), row.group.clone(), row.rule.clone());
        rows.sort_by(|a, b| {
            let busiest = b.frames.cmp(&a.frames);
            let place = (a.reason, a.direction).cmp(&(b.reason, b.direction));
            busiest.then(place).then_with(|| names(a).cmp(&names(b)))
        });
        rows
    }

    /// How many places there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The last packets, newest first.
    pub(crate) fn recent(&self) -> Vec<DropSummary> {
        let (older, newer) = self.recent.split_at(self.next.min(self.recent.len()));
        older.iter().rev().chain(newer.iter().rev()).map(|recent| self.summary(recent)).collect()
    }

    /// The place of the last packet.
    pub(crate) fn last(&self) -> Option<&DropRow> {
        let last = self.recent.get((self.next + RECENT_DROPS - 1) % RECENT_DROPS)?;
        self.rows.get(last.row as usize)
    }

    fn summary(&self, recent: &Recent) -> DropSummary {
        let DropRow { reason, direction, layer, group, rule, .. } = self.rows[recent.row as usize].clone();
        let Recent { time, length, headers, .. } = *recent;
        DropSummary { time, reason, direction, layer, group, rule, length, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn place(rule: &str) -> DropPlace {
        DropPlace { layer: "acl".into(), rule: Some(("group".into(), rule.into())) }
    }

    fn lost(now: u64) -> Lost<'static> {
        Lost { now: Instant(now), count: Count { packets: 2, bytes: 120 }, length: 60, headers: None }
    }

    #[test]
    fn a_place_keeps_its_number_whoever_names_it() {
        let mut log = DropLog::default();
        let row = log.row(DropReason::Blocked, Direction::Inbound, Some(&place("a")), Instant(0));
        assert_eq!(log.row(DropReason::Blocked, Direction::Inbound, Some(&place("a")), Instant(0)), row);
        let others = [
            log.row(DropReason::Blocked, Direction::Outbound, Some(&place("a")), Instant(0)),
            log.row(DropReason::NoTarget, Direction::Inbound, Some(&place("a")), Instant(0)),
            log.row(DropReason::Blocked, Direction::Inbound, Some(&place("b")), Instant(0)),
            log.row(DropReason::Blocked, Direction::Inbound, None, Instant(0)),
        ];
        assert!(others.iter().all(|other| *other != row));
        log.count(row, &lost(1));
        log.count(row, &lost(2));
        log.count_only(others[3], 3, Count::default());
        let rows = log.rows();
        let counts: Vec<_> =
            rows.iter().map(|row| (row.rule.as_deref(), row.frames, row.packets, row.bytes)).collect();
        assert_eq!(counts, [(None, 3, 0, 0), (Some("a"), 2, 4, 240)]);
    }

    #[test]
    fn the_ring_holds_the_last_packets_newest_first() {
        let mut log = DropLog::default();
        assert!(log.recent().is_empty() && log.last().is_none());
        for now in 0..RECENT_DROPS as u64 * 2 + 3 {
            let reason = if now % 2 == 0 { DropReason::Blocked } else { DropReason::TooBig };
            let row = log.row(reason, Direction::Inbound, None, Instant(now));
            log.count(row, &lost(now));
            assert_eq!(log.last().map(|row| row.reason), Some(reason));
            let recent = log.recent();
            assert_eq!(recent.len(), RECENT_DROPS.min(now as usize + 1));
            let times: Vec<u64> = recent.iter().map(|summary| summary.time.0).collect();
            let expected: Vec<u64> = (0..=now).rev().take(RECENT_DROPS).collect();
            assert_eq!(times, expected);
        }
    }

    #[test]
    fn beyond_the_limit_packets_count_under_their_reason() {
        let mut log = DropLog::default();
        for number in 0..MAX_DROP_PLACES + 5 {
            let place = place(&format!("rule-{number}"));
            let row = log.row(DropReason::Blocked, Direction::Inbound, Some(&place), Instant(7));
            log.count(row, &lost(7));
        }
        assert_eq!((log.full.times, log.full.last), (5, Some(Instant(7))));
        let total: u64 = log.rows().iter().map(|row| row.frames).sum();
        assert_eq!(total, MAX_DROP_PLACES as u64 + 5);
        assert_eq!(log.rows()[0].frames, 5);
        assert_eq!(log.rows()[0].rule, None);
    }
}
