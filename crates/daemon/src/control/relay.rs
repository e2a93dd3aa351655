//! Between workers and subscribers: what workers tell becomes events of the API, and who subscribed becomes what workers
//! ask for (§6).
//!
//! It has a thread of its own, since a packet that waits for an answer must not wait for a long transaction first.
//! Workers put events into a ring each and pull a bell; whoever subscribes, and the control thread when tables change,
//! pulls it too. Who has left is noticed with the next look, [`LOOK`] later at most. Nothing here may change policy or
//! what it says; that somebody listens is all that workers hear.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_core::event::{Audience, Event, Interests, LimitReached, MappingMiss, Punted, RateReached};
use lamina_core::flow::{Family, Value};
use lamina_core::layer::Name;
use lamina_core::switch::PortId;
use tracing::{error, warn};

use super::Shared;
use super::key::{Key, written};
use crate::worker::{EventReceiver, EventSender, event_ring};

/// Events of one worker that wait to be told.
const RING: usize = 4096;
/// How often it looks for subscribers that are gone.
const LOOK: Duration = Duration::from_millis(250);

/// Wakes the relay's thread; pulling it costs a system call only while that thread sleeps.
#[derive(Debug, Default)]
pub struct Bell {
    is_pulled: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Bell {
    /// Has the relay look.
    pub fn pull(&self) {
        // Before there is a thread nobody needs to be woken: its first look comes after it is named here.
        if !self.is_pulled.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// The readers' ends of all workers' rings, and the bell that those pull.
#[derive(Debug)]
pub struct EventRings {
    pub(super) bell: Arc<Bell>,
    rings: Vec<EventReceiver>,
}

/// Rings for the events of so many workers: the workers' ends ([`crate::host::HostConfig::events`]), and the others.
pub fn event_rings(workers: usize) -> (Vec<EventSender>, EventRings) {
    let bell = Arc::new(Bell::default());
    let ends = (0..workers).map(|_| {
        let bell = bell.clone();
        event_ring(RING, move || bell.pull())
    });
    let (senders, rings) = ends.unzip();
    (senders, EventRings { bell, rings })
}

/// The running relay; it ends with this value.
pub struct Relay {
    bell: Arc<Bell>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts between the workers' `rings` and the subscribers of `shared`.
    pub fn start(shared: Arc<Shared>, rings: EventRings) -> io::Result<Relay> {
        let (bell, is_over) = (rings.bell.clone(), Arc::new(AtomicBool::new(false)));
        let lost = vec![0; rings.rings.len()];
        let running = Running { shared, rings, lost, told: Interests::default(), is_over: is_over.clone() };
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || running.run())?;
        Ok(Relay { bell, is_over, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.bell.pull();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that tells events had ended by a fault");
        }
    }
}

/// A field's value for people and programs: an address as such, anything else as a number.
pub fn value_text(value: Value) -> String {
    match value.family {
        Family::Number => value.bits.to_string(),
        Family::Ipv4 => std::net::Ipv4Addr::from_bits(value.bits as u32).to_string(),
        Family::Ipv6 => std::net::Ipv6Addr::from_bits(value.bits).to_string(),
    }
}

struct Running {
    shared: Arc<Shared>,
    rings: EventRings,
    /// Events that each ring had lost at the last look.
    lost: Vec<u64>,
    /// What the workers know.
    told: Interests,
    is_over: Arc<AtomicBool>,
}

impl Running {
    fn run(mut self) {
        let bell = self.rings.bell.clone();
        // It is set here alone.
        let _ = bell.thread.set(std::thread::current());
        let mut next_look = Instant::now();
        let mut looked = 0;
        loop {
            // Whoever pulls from here on brings about another turn; what was done before a pull is seen in this one.
            bell.is_pulled.swap(false, Ordering::AcqRel);
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let asked = self.shared.events.looks_asked();
            if asked != looked || Instant::now() >= next_look {
                self.tell_interests();
                self.shared.events.has_looked(asked);
                looked = asked;
                next_look = Instant::now() + LOOK;
            }
            self.tell_events();
            std::thread::park_timeout(next_look.saturating_duration_since(Instant::now()));
        }
    }

    /// Tells the workers what subscribers want to hear, when that is not what they know.
    fn tell_interests(&mut self) {
        let wanted = self.interests();
        if wanted == self.told {
            return;
        }
        let interests = wanted.clone();
        let told = self.shared.host.broadcast(move |_, switch, _| switch.set_interests(interests.clone()));
        match told {
            Ok(_) => self.told = wanted,
            Err(error) => warn!("not all workers know who subscribed to events: {error}"),
        }
    }

    fn interests(&self) -> Interests {
        let events = &self.shared.events;
        let mut heard = BTreeSet::new();
        if events.has_any_subscriber(v1::EventKind::MappingMiss) {
            for table in &self.shared.state().names.resources().mappings {
                let is_asked = table.on_miss.patience().is_some();
                let kind = v1::EventKind::MappingMiss;
                if is_asked && events.has_subscriber(kind, &self.controllers(&table.name)) {
                    heard.insert(table.name.clone());
                }
            }
        }
        let misses = if heard.is_empty() { Audience::Nobody } else { Audience::Of(heard) };
        let limits = events.has_any_subscriber(v1::EventKind::Limit);
        let heard: BTreeSet<Name> = events.controllers(v1::EventKind::Punt);
        let punts = if heard.is_empty() { Audience::Nobody } else { Audience::Of(heard) };
        let rates = events.has_any_subscriber(v1::EventKind::Rate);
        Interests { misses, punts, limits, rates }
    }

    /// Who answers for a mapping table: its owner and its agents.
    fn controllers(&self, table: &str) -> Vec<Name> {
        let reference =
            v1::Ref { kind: v1::Kind::Mapping as i32, name: table.to_string(), ..v1::Ref::default() };
        let Ok(key) = Key::of(&reference) else { return Vec::new() };
        match self.shared.store.slice(key.bytes(), None, 1) {
            Ok(found) => {
                let object = found.into_iter().next().map(|(_, object)| object);
                let names =
                    object.into_iter().flat_map(|object| [vec![object.owner], object.agents].concat());
                names.map(Name::from).collect()
            }
            Err(error) => {
                error!(mapping = table, "nobody is asked for its entries: {error}");
                Vec::new()
            }
        }
    }

    /// Tells subscribers all that the workers have told.
    fn tell_events(&mut self) {
        for worker in 0..self.rings.rings.len() {
            while let Some(event) = self.rings.rings[worker].take() {
                match event {
                    Event::MappingMiss(miss) => self.tell_miss(worker, &miss),
                    Event::Limit(reached) => self.tell_limit(reached),
                    Event::Punt(punted) => self.tell_punt(*punted),
                    Event::Rate(reached) => self.tell_rate(&reached),
                    _ => {}
                }
            }
            let lost = self.rings.rings[worker].lost();
            self.shared.events.add_lost(lost - self.lost[worker]);
            self.lost[worker] = lost;
        }
    }

    fn tell_miss(&self, worker: usize, miss: &MappingMiss) {
        let state = self.shared.state();
        let tables = &state.names.resources().mappings;
        let table = tables.iter().find(|table| table.name == miss.mapping);
        // A table that is gone asks for nothing.
        let Some(within) = table.and_then(|table| table.on_miss.patience()) else { return };
        let until = Instant::now() + Duration::from_nanos(within.0);
        if !self.shared.events.asks(worker, (miss.mapping.clone(), miss.key), until) {
            return;
        }
        let event = v1::Event {
            kind: v1::EventKind::MappingMiss as i32,
            port: self.port_name(miss.port),
            table: miss.mapping.to_string(),
            address: miss.key.address.to_string(),
            tenant: miss.key.tenant,
            direction: written(miss.direction) as i32,
            ..v1::Event::default()
        };
        self.shared.events.publish(event, Some(self.controllers(&miss.mapping)));
    }

    fn tell_limit(&self, reached: LimitReached) {
        let event = v1::Event {
            kind: v1::EventKind::Limit as i32,
            port: self.port_name(reached.port),
            table: reached.table,
            limit: reached.limit,
            ..v1::Event::default()
        };
        self.shared.events.publish(event, None);
    }

    fn tell_punt(&self, punted: Punted) {
        let event = v1::Event {
            kind: v1::EventKind::Punt as i32,
            port: self.port_name(punted.port),
            layer: punted.layer.to_string(),
            group: punted.group.to_string(),
            rule: punted.rule.to_string(),
            direction: written(punted.direction) as i32,
            packet: punted.frame,
            length: u32::try_from(punted.length).unwrap_or(u32::MAX),
            queue: punted.queue.to_string(),
            ..v1::Event::default()
        };
        self.shared.events.publish(event, Some(vec![punted.owner]));
    }

    fn tell_rate(&self, reached: &RateReached) {
        let text = |value: &Option<Value>| value.map_or_else(|| "-".to_string(), value_text);
        let key = match &reached.key {
            Some(key) => key.iter().map(text).collect(),
            None => vec!["other".into()],
        };
        let (group, rule) =
            reached.rule.as_ref().map(|(group, rule)| (&**group, &**rule)).unwrap_or_default();
        let event = v1::Event {
            kind: v1::EventKind::Rate as i32,
            port: self.port_name(reached.port),
            direction: written(reached.direction) as i32,
            layer: reached.layer.to_string(),
            group: group.to_string(),
            rule: rule.to_string(),
            table: reached.limit.as_ref().map(ToString::to_string).unwrap_or_default(),
            key,
            limit: reached.rate.per_second,
            ..v1::Event::default()
        };
        self.shared.events.publish(event, None);
    }

    fn port_name(&self, id: PortId) -> String {
        self.shared.state().names.ids().name(id).unwrap_or_default().to_string()
    }
}
