//! Missing mappings: keys that a controller is asked for, and the packets that wait for the answers (§6).
//!
//! Theory. A key is *asked for* from the first packet that misses it until a change names it or its time is over;
//! in between it raises no second event. A packet that waits is a copy, as it entered its port; when the answer
//! comes it enters the same side of the same port again and is resolved anew, so a waiting packet leaves no trace
//! that could be wrong later. When the time is over it is resolved a last time, and what is still missing then drops
//! it. Keys and packets are charged to the port of the packet, so that a guest that scans addresses fills its own
//! queue only. Nothing here looks at policy or changes flows.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::receive::Crossing;
use super::resume::{Entering, Reason};
use super::{Output, PortId};
use crate::drop_reason::DropReason;
use crate::event::{Event, Interests, MappingMiss};
use crate::flow::Direction;
use crate::layer::Name;
use crate::packet::{Packet, Parsed};
use crate::port::{Asking, MAX_MISSES, Port, Resolution};
use crate::resource::{Dependency, LiveMappings, MappingKey, OnMiss};
use crate::time::{Duration, Instant};

/// A live table's number, and a key.
type Key = (u32, MappingKey);

/// The keys that are asked for.
#[derive(Debug, Default)]
pub(super) struct Misses {
    asked: BTreeMap<Key, Asked>,
    deadlines: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Asked {
    /// Who is charged for it.
    port: PortId,
    deadline: Instant,
    waiting: Vec<Entering>,
}

/// What becomes of a packet that misses.
pub(crate) enum Judgement {
    /// It waits.
    Wait,
    /// It is dropped, after the controller was told where that is so.
    Drop(DropReason),
}

/// A packet that misses, and where.
pub(super) struct Missing<'a> {
    pub(super) entry: &'a Dependency,
    pub(super) port: PortId,
    pub(super) direction: Direction,
    pub(super) ingress: PortId,
    pub(super) behind: Option<&'a Name>,
    pub(super) vni: Option<u32>,
    pub(super) packet: &'a Packet,
    pub(super) now: Instant,
}

/// How long the controller of the missing entry's table has to answer; `None` when nobody is asked.
pub(crate) fn patience(
    missing: &Dependency,
    mappings: &LiveMappings,
    interests: &Interests,
) -> Option<Duration> {
    let table = mappings.table(missing.table())?;
    let within = table.on_miss().patience()?;
    interests.misses.includes(table.name()).then_some(within)
}

impl Crossing<'_> {
    /// Asks for what `plan` lacks, and lets a copy of the packet wait where it may. The error is why it does not.
    pub(super) fn ask(
        &self,
        port: &mut Port,
        (plan, parsed): (&Resolution, &Parsed),
        packet: &Packet,
        misses: &mut Misses,
        output: &mut Output,
    ) -> Result<(), DropReason> {
        let Some(entry) = &plan.missing else { return Err(DropReason::MappingMiss) };
        let (port_id, direction, ingress, now, behind) =
            (self.id, self.direction, self.ingress, self.now, self.behind);
        let vni = parsed.stack.tenant();
        let missing = Missing { entry, port: port_id, direction, ingress, behind, vni, packet, now };
        let asked = misses.ask(&missing, (self.mappings, self.interests), &mut port.asking, output);
        self.tell_limits(port, output);
        asked
    }

    pub(super) fn tell_limits(&self, port: &mut Port, output: &mut Output) {
        if self.interests.limits {
            port.tell_limits(self.id, self.now, &mut output.events);
        }
    }
}

impl Misses {
    /// What becomes of a packet of `length` bytes that misses `missing`, which somebody is asked for.
    pub(super) fn judge(
        &self,
        missing: &Dependency,
        mappings: &LiveMappings,
        asking: &Asking,
        length: usize,
    ) -> Judgement {
        let is_asked = self.asked.contains_key(&(missing.table(), *missing.key()));
        if !is_asked && asking.keys >= MAX_MISSES {
            return Judgement::Drop(DropReason::TooManyMisses);
        }
        let on_miss = mappings.table(missing.table()).map(|table| table.on_miss()).unwrap_or_default();
        if !matches!(on_miss, OnMiss::Wait(_)) {
            return Judgement::Drop(DropReason::MappingMiss);
        }
        if asking.has_room(length) { Judgement::Wait } else { Judgement::Drop(DropReason::WaitQueueFull) }
    }

    /// Asks for what the packet misses, and lets a copy of it wait where there is room. The error is why it does not.
    pub(super) fn ask(
        &mut self,
        missing: &Missing<'_>,
        (mappings, interests): (&LiveMappings, &Interests),
        asking: &mut Asking,
        output: &mut Output,
    ) -> Result<(), DropReason> {
        let Missing { entry, port, direction, ingress, behind, vni, packet, now } = *missing;
        let within = patience(entry, mappings, interests).ok_or(DropReason::MappingMiss)?;
        let judgement = self.judge(entry, mappings, asking, packet.len());
        let key = (entry.table(), *entry.key());
        if !self.asked.contains_key(&key) {
            if asking.keys >= MAX_MISSES {
                asking.keys_full.note(now);
                return Err(DropReason::TooManyMisses);
            }
            let Some(table) = mappings.table(key.0) else { return Err(DropReason::MappingMiss) };
            let (mapping, waits) = (table.name().clone(), matches!(table.on_miss(), OnMiss::Wait(_)));
            let miss = MappingMiss { port, direction, mapping, key: key.1, vni, waits };
            if !output.events.push(Event::MappingMiss(miss)) {
                return Err(DropReason::TooManyMisses);
            }
            asking.keys += 1;
            let deadline = now + within;
            self.deadlines.insert((deadline, key));
            self.asked.insert(key, Asked { port, deadline, waiting: Vec::new() });
        }
        match judgement {
            Judgement::Wait => {}
            Judgement::Drop(reason) => {
                if reason == DropReason::WaitQueueFull {
                    asking.packets_full.note(now);
                }
                return Err(reason);
            }
        }
        let mut copy = Packet::with_capacity(packet.len());
        copy.copy_from(packet);
        asking.packets += 1;
        asking.bytes += copy.len();
        if let Some(asked) = self.asked.get_mut(&key) {
            let (behind, reason) = (behind.cloned(), Reason::Answered);
            asked.waiting.push(Entering { port, direction, ingress, behind, packet: copy, reason });
        }
        Ok(())
    }

    /// True when nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// A change names `key`: its packets are to enter again, for `reason`. Returns the port that was charged for it.
    pub(super) fn answer(
        &mut self,
        key: Key,
        reason: Reason,
        entering: &mut VecDeque<Entering>,
    ) -> Option<PortId> {
        let asked = self.asked.remove(&key)?;
        self.deadlines.remove(&(asked.deadline, key));
        entering.extend(asked.waiting.into_iter().map(|waiting| Entering { reason, ..waiting }));
        Some(asked.port)
    }

    /// Ends what is over at `now`, like an answer, but for the last time.
    pub(super) fn time_out(&mut self, now: Instant, entering: &mut VecDeque<Entering>) -> Option<PortId> {
        let (_, key) = *self.deadlines.first().filter(|(deadline, _)| *deadline <= now)?;
        self.answer(key, Reason::TimedOut, entering)
    }

    /// When the next key is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The keys of tables that are gone.
    pub(super) fn orphans(&self, mappings: &LiveMappings) -> Vec<Key> {
        self.asked.keys().filter(|key| mappings.table(key.0).is_none()).copied().collect()
    }
}
