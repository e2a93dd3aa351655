//! Events: what a switch tells whoever subscribed, and the bounded queue in which it leaves them (§6).
//!
//! The switch calls nobody: it puts typed values into [`Events`], which the worker drains with the rest of a call's
//! output. A queue that is full loses the event and counts it; what an event was raised for is then dropped as if
//! nobody had subscribed. Whether anybody did is told to the switch ([`Interests`]), so that packets do not wait for
//! an answer that nobody is going to give. This module must never hold packet buffers: of a
//! punted packet an event has the bytes.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use crate::flow::{Direction, Value};
use crate::layer::Name;
use crate::resource::{MappingKey, Rate};
use crate::switch::PortId;

/// The most events that wait to be drained.
pub const MAX_EVENTS: usize = 1_024;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A packet needs an entry that its mapping table lacks: one per key, until it is answered or timed out.
    MappingMiss(MappingMiss),
    /// A table or queue has reached its limit: one, until it is used to less than nine tenths.
    Limit(LimitReached),
    /// A rule gives a packet to the controller that owns its layer.
    Punt(Box<Punted>),
    /// A rate limit begins to drop packets: one for each bucket, until it has dropped none for a while.
    Rate(RateReached),
}

/// A key that is not mapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappingMiss {
    /// The port whose packet needs it first.
    pub port: PortId,
    /// Which way that packet goes.
    pub direction: Direction,
    /// The table.
    pub mapping: Name,
    /// The key.
    pub key: MappingKey,
    /// The tenant id of the packet's outermost tunnel, as it entered the port.
    pub vni: Option<u32>,
    /// Packets wait for the answer.
    pub waits: bool,
}

/// A packet for a controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Punted {
    /// The port whose layer it crossed.
    pub port: PortId,
    /// Which way it goes.
    pub direction: Direction,
    /// The layer.
    pub layer: Name,
    /// The controller that owns it.
    pub owner: Name,
    /// The group of the rule.
    pub group: Name,
    /// The rule.
    pub rule: Name,
    /// What the rule has its controller told.
    pub queue: Name,
    /// The frame as it stands at the layer, checksums complete, up to the most bytes that the rule sends.
    pub frame: Vec<u8>,
    /// The length of all of it.
    pub length: usize,
}

/// A table or queue that is full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitReached {
    /// The port that it belongs to.
    pub port: PortId,
    /// Which, by the name under which limits are listed ([`crate::inspect::LimitUse`]).
    pub table: String,
    /// The limit.
    pub limit: u64,
}

/// A bucket of a rate limit that has run dry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateReached {
    /// The port whose packets are dropped.
    pub port: PortId,
    /// Which way they go.
    pub direction: Direction,
    /// The layer of the rule that drops them first.
    pub layer: Name,
    /// The rule's group and name.
    pub rule: Option<(Name, Name)>,
    /// The limit that the rule names; `None` for the rule's own.
    pub limit: Option<Name>,
    /// The values by which the limit tells its buckets apart; `None` for the bucket of all that found no room.
    pub key: Option<Box<[Option<Value>]>>,
    /// What passes in a second.
    pub rate: Rate,
}

/// Who listens to one kind of event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Audience {
    /// Nobody.
    #[default]
    Nobody,
    /// Somebody, whatever it is about.
    Everybody,
    /// Somebody, for these names only.
    Of(BTreeSet<Name>),
}

impl Audience {
    /// True when somebody listens to what `name` has to say.
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Audience::Nobody => false,
            Audience::Everybody => true,
            Audience::Of(names) => names.contains(name),
        }
    }
}

/// Which events somebody listens to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interests {
    /// Mapping misses, by table.
    pub misses: Audience,
    /// Punted packets, by the controller that owns the layer.
    pub punts: Audience,
    /// Limits of tables and queues reached.
    pub limits: bool,
    /// Rate limits that begin to drop packets.
    pub rates: bool,
}

/// Events on their way out: a bounded queue.
#[derive(Debug, Default)]
pub struct Events {
    queue: VecDeque<Event>,
    lost: u64,
}

impl Events {
    /// Appends an event; false, and counted, when there is no room.
    pub(crate) fn push(&mut self, event: Event) -> bool {
        let has_room = self.queue.len() < MAX_EVENTS;
        if has_room {
            self.queue.push_back(event);
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Takes all events, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.queue.drain(..)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events that found no room so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(number: u64) -> Event {
        Event::Limit(LimitReached { port: PortId(1), table: "unified-flows".into(), limit: number })
    }

    #[test]
    fn a_full_queue_loses_new_events_and_counts_them() {
        let mut events = Events::default();
        for number in 0..MAX_EVENTS as u64 {
            assert!(events.push(limit(number)));
        }
        assert!(!events.push(limit(0)));
        assert_eq!((events.len(), events.lost()), (MAX_EVENTS, 1));
        assert_eq!(events.drain().next(), Some(limit(0)));
        assert!(events.is_empty() && events.push(limit(0)));
    }

    #[test]
    fn an_audience_is_nobody_everybody_or_by_name() {
        assert!(!Audience::Nobody.includes("blue") && Audience::Everybody.includes("blue"));
        let some = Audience::Of(["blue".into()].into());
        assert!(some.includes("blue") && !some.includes("red"));
    }
}
