//! Events on their way to subscribers: each has a bounded queue of its own, so that one which is slow or gone costs
//! nobody else anything; what it lost is counted and told to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lamina_api::wire::v1;
use lamina_core::layer::Name;
use tokio::sync::mpsc::{self, error::TrySendError};

/// Events that wait for one subscriber.
const QUEUE: usize = 4096;
/// Events that are kept for those who resume.
const KEPT: usize = 8192;

/// The event, and for whom it is.
#[derive(Clone, Debug)]
pub struct Addressed {
    /// The event.
    pub event: v1::Event,
    /// The controllers that get it; `None` for all.
    pub controllers: Option<Vec<Name>>,
}

/// Who subscribed.
#[derive(Default)]
pub struct EventHub {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    kept: VecDeque<Arc<Addressed>>,
    subscribers: Vec<Subscriber>,
    lost: u64,
}

struct Subscriber {
    controller: Name,
    is_administrator: bool,
    kinds: Vec<i32>,
    queue: mpsc::Sender<v1::Event>,
    lost: u64,
}

impl Subscriber {
    fn wants(&self, addressed: &Addressed) -> bool {
        let is_kind = self.kinds.is_empty() || self.kinds.contains(&addressed.event.kind);
        let is_for_it = self.is_administrator
            || addressed.controllers.as_ref().is_none_or(|names| names.contains(&self.controller));
        is_kind && is_for_it
    }

    /// Queues `event`; false when the subscriber is gone.
    fn send(&mut self, event: &v1::Event) -> bool {
        if self.lost > 0 {
            let lost = v1::Event {
                sequence: event.sequence,
                time: event.time,
                kind: v1::EventKind::Lost as i32,
                lost: self.lost,
                ..v1::Event::default()
            };
            match self.queue.try_send(lost) {
                Ok(()) => self.lost = 0,
                Err(TrySendError::Full(_)) => {
                    self.lost += 1;
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

/// Nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl EventHub {
    /// Subscribes `controller` to events of `kinds` (all, if empty), those after the sequence number `after` that are
    /// kept first; 0 for new ones only.
    pub fn subscribe(
        &self,
        controller: Name,
        is_administrator: bool,
        kinds: Vec<i32>,
        after: u64,
    ) -> mpsc::Receiver<v1::Event> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut subscriber = Subscriber { controller, is_administrator, kinds, queue, lost: 0 };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if after > 0 {
            let first = inner.kept.front().map_or(inner.sequence + 1, |first| first.event.sequence);
            subscriber.lost = first.saturating_sub(after + 1);
            let known: Vec<Arc<Addressed>> =
                inner.kept.iter().filter(|kept| kept.event.sequence > after).cloned().collect();
            for kept in known {
                if subscriber.wants(&kept) {
                    subscriber.send(&kept.event);
                }
            }
        }
        inner.subscribers.push(subscriber);
        receiver
    }

    /// Gives `event` its number and time, and to everybody whom it is for.
    pub fn publish(&self, mut event: v1::Event, controllers: Option<Vec<Name>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sequence += 1;
        event.sequence = inner.sequence;
        if event.time == 0 {
            event.time = wall_clock();
        }
        let addressed = Arc::new(Addressed { event, controllers });
        let mut lost = 0;
        inner.subscribers.retain_mut(|subscriber| {
            if !subscriber.wants(&addressed) {
                return !subscriber.queue.is_closed();
            }
            let before = subscriber.lost;
            let is_there = subscriber.send(&addressed.event);
            lost += u64::from(subscriber.lost > before);
            is_there
        });
        inner.lost += lost;
        inner.kept.push_back(addressed);
        if inner.kept.len() > KEPT {
            inner.kept.pop_front();
        }
    }

    /// True when somebody who is told of `controllers`' events listens.
    pub fn has_subscriber(&self, controllers: &[Name]) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .subscribers
            .iter()
            .any(|subscriber| !subscriber.queue.is_closed() && controllers.contains(&subscriber.controller))
    }

    /// Events that subscribers lost by being slow.
    pub fn lost(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: v1::EventKind) -> v1::Event {
        v1::Event { kind: kind as i32, ..v1::Event::default() }
    }

    #[test]
    fn a_slow_subscriber_loses_its_own_events_and_is_told() {
        let hub = EventHub::default();
        let mut slow = hub.subscribe("slow".into(), false, vec![], 0);
        let mut quick = hub.subscribe("quick".into(), false, vec![], 0);
        for _ in 0..QUEUE + 10 {
            hub.publish(event(v1::EventKind::PortUp), None);
            quick.try_recv().unwrap();
        }
        assert_eq!(hub.lost(), 10);
        for sequence in 1..=QUEUE as u64 {
            assert_eq!(slow.try_recv().unwrap().sequence, sequence);
        }
        hub.publish(event(v1::EventKind::PortDown), None);
        let lost = slow.try_recv().unwrap();
        assert_eq!((lost.kind, lost.lost), (v1::EventKind::Lost as i32, 10));
        assert_eq!(slow.try_recv().unwrap().kind, v1::EventKind::PortDown as i32);
    }

    #[test]
    fn events_go_to_whom_they_are_for_and_can_be_resumed() {
        let hub = EventHub::default();
        let mut vnet = hub.subscribe("vnet".into(), false, vec![], 0);
        let mut other = hub.subscribe("acl".into(), false, vec![], 0);
        assert!(hub.has_subscriber(&["vnet".into()]) && !hub.has_subscriber(&["slb".into()]));
        hub.publish(event(v1::EventKind::MappingMiss), Some(vec!["vnet".into()]));
        hub.publish(event(v1::EventKind::PortUp), None);
        assert_eq!(vnet.try_recv().unwrap().sequence, 1);
        assert_eq!(other.try_recv().unwrap().sequence, 2);
        let mut resumed = hub.subscribe("vnet".into(), false, vec![], 1);
        assert_eq!(resumed.try_recv().unwrap().sequence, 2);
        let kinds = vec![v1::EventKind::MappingMiss as i32];
        let mut filtered = hub.subscribe("vnet".into(), false, kinds, 0);
        hub.publish(event(v1::EventKind::PortUp), None);
        assert!(filtered.try_recv().is_err());
        drop(vnet);
        drop(resumed);
        drop(filtered);
        assert!(!hub.has_subscriber(&["vnet".into()]));
    }
}
