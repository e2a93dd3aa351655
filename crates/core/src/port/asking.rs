//! What a port has asked controllers for and what waits for the answers; and the news that a table is full.
//!
//! A table that reaches its limit is news once, until it is used to less than nine tenths: one that stays full does
//! not tell so with every packet.

use alloc::format;
use alloc::string::{String, ToString};

use super::Port;
use super::punts::MAX_PUNTS_AT_ONCE;
use crate::event::{Event, Events, LimitReached};
use crate::inspect::{Full, LimitUse};
use crate::switch::PortId;
use crate::time::Instant;

/// The most missing keys that one port may have asked for at a time.
pub const MAX_MISSES: usize = 256;
/// The most packets of one port that may wait for answers.
pub const MAX_WAITING_PACKETS: usize = 256;
/// The most bytes of them.
pub const MAX_WAITING_BYTES: usize = 512 << 10;

/// What is charged to a port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asking {
    /// Missing keys that its packets asked for first.
    pub(crate) keys: usize,
    pub(crate) keys_full: Full,
    /// Packets that wait.
    pub(crate) packets: usize,
    /// Bytes of their frames.
    pub(crate) bytes: usize,
    /// Of both.
    pub(crate) packets_full: Full,
}

impl Asking {
    /// True when one more packet of `length` bytes may wait.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.packets < MAX_WAITING_PACKETS && self.bytes + length <= MAX_WAITING_BYTES
    }

    pub(super) fn limits(&self) -> [LimitUse; 3] {
        [
            LimitUse::new("mapping-misses", self.keys, Some(MAX_MISSES), self.keys_full),
            LimitUse::new("waiting-packets", self.packets, Some(MAX_WAITING_PACKETS), self.packets_full),
            LimitUse::new("waiting-bytes", self.bytes, Some(MAX_WAITING_BYTES), self.packets_full),
        ]
    }
}

/// A table: what kind, whose, its use and limit.
struct Table<'a> {
    kind: &'static str,
    name: &'a str,
    used: usize,
    limit: usize,
}

impl Table<'_> {
    fn path(&self) -> String {
        if self.name.is_empty() { self.kind.to_string() } else { format!("{} {}", self.kind, self.name) }
    }
}

impl Port {
    /// Tells of tables that have become full since the last call.
    pub(crate) fn tell_limits(&mut self, port: PortId, now: Instant, events: &mut Events) {
        self.each_full(now, &mut |full, table| {
            if full.take_news() {
                let (table, limit) = (table.path(), table.limit as u64);
                events.push(Event::Limit(LimitReached { port, table, limit }));
            }
        });
    }

    /// Makes it news again when a table that has emptied becomes full.
    pub(super) fn rearm_limits(&mut self, now: Instant) {
        self.each_full(now, &mut |full, table| full.rearm(table.used, table.limit));
    }

    fn each_full(&mut self, now: Instant, visit: &mut dyn FnMut(&mut Full, &Table<'_>)) {
        let (used, limit) = (self.flows.len(), self.flows.limit());
        visit(&mut self.full, &Table { kind: "unified-flows", name: "", used, limit });
        let Asking { keys, packets, .. } = self.asking;
        let misses = Table { kind: "mapping-misses", name: "", used: keys, limit: MAX_MISSES };
        visit(&mut self.asking.keys_full, &misses);
        let waiting = Table { kind: "waiting-packets", name: "", used: packets, limit: MAX_WAITING_PACKETS };
        visit(&mut self.asking.packets_full, &waiting);
        let (used, limit) = (self.punts.used(now), MAX_PUNTS_AT_ONCE);
        visit(&mut self.punts.full, &Table { kind: "punts", name: "", used, limit });
        for meter in &mut self.meters {
            let (used, limit) = (meter.cells.len(), meter.limit);
            visit(&mut meter.full, &Table { kind: "meter", name: &meter.name, used, limit });
        }
        self.policers.each_full(&mut |full, name, used, limit| {
            visit(full, &Table { kind: "limit", name, used, limit });
        });
        let Some(program) = &self.program else { return };
        for (layer, table) in program.layers.iter().zip(&self.tables) {
            let Some(Some(flows)) = self.layer_tables.get_mut(*table as usize) else { continue };
            let (used, limit) = (flows.len(), layer.flow_limit);
            visit(&mut flows.full, &Table { kind: "layer-flows", name: &layer.name, used, limit });
        }
    }
}
