//! Events on their way to subscribers: each has a bounded queue of its own, so that one which is slow or gone costs
//! nobody else anything; what it lost is counted and told to it. A key of a mapping table is told once for the host, until
//! it is answered or the time for that is over, however many workers miss it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::Stream;
use lamina_api::wire::v1;
use lamina_core::layer::Name;
use lamina_core::resource::MappingKey;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;

use super::relay::Bell;

/// Events that wait for one subscriber.
const QUEUE: usize = 4096;
/// The most bytes of packets in them.
const QUEUE_BYTES: usize = 4 << 20;
/// Events that are kept for those who resume.
const KEPT: usize = 8192;
/// The most bytes of packets in them.
const KEPT_BYTES: usize = 4 << 20;
/// Keys of mapping tables that are remembered to be asked for. One beyond that is told by every worker that misses it.
const ASKED: usize = 65_536;
/// How long a new subscriber waits at most until the workers know of it.
const PATIENCE: Duration = Duration::from_secs(1);

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
    asked: Mutex<BTreeMap<(Name, MappingKey), Asked>>,
    bell: Arc<Bell>,
    /// How often somebody asked that workers are told who listens, and up to which of these they were.
    looks_asked: AtomicU64,
    looked: watch::Sender<u64>,
}

/// A key that controllers were asked for.
struct Asked {
    /// The worker that told so. When it tells so again, its time was over.
    worker: usize,
    until: Instant,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    kept: VecDeque<Arc<Addressed>>,
    /// Bytes of packets in them.
    kept_bytes: usize,
    subscribers: Vec<Subscriber>,
    lost: u64,
}

struct Subscriber {
    controller: Name,
    is_administrator: bool,
    kinds: Vec<i32>,
    queue: mpsc::Sender<v1::Event>,
    /// Bytes of packets in the queue.
    waiting: Arc<AtomicUsize>,
    lost: u64,
}

/// The events of one subscriber.
pub struct Events {
    queue: mpsc::Receiver<v1::Event>,
    /// Bytes of packets in the queue.
    waiting: Arc<AtomicUsize>,
}

impl Stream for Events {
    type Item = v1::Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Event>> {
        let polled = self.queue.poll_recv(context);
        if let Poll::Ready(Some(event)) = &polled {
            self.waiting.fetch_sub(event.packet.len(), Ordering::Relaxed);
        }
        polled
    }
}

impl Subscriber {
    /// True when it is there and hears of events of `kind`.
    fn hears(&self, kind: i32) -> bool {
        !self.queue.is_closed() && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }

    fn wants(&self, addressed: &Addressed) -> bool {
        let is_kind = self.kinds.is_empty() || self.kinds.contains(&addressed.event.kind);
        let is_for_it = self.is_administrator
            || addressed.controllers.as_ref().is_none_or(|names| names.contains(&self.controller));
        is_kind && is_for_it
    }

    /// Queues `event`; false when the subscriber is gone.
    fn send(&mut self, event: &v1::Event) -> bool {
        let bytes = event.packet.len();
        if self.waiting.load(Ordering::Relaxed) + bytes > QUEUE_BYTES {
            self.lost += 1;
            return !self.queue.is_closed();
        }
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
        // Before it is there to be taken off.
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let Err(error) = self.queue.try_send(event.clone()) else { return true };
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.lost += 1;
        matches!(error, TrySendError::Full(_))
    }
}

/// Nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl EventHub {
    /// Without subscribers; `bell` is pulled when the workers must hear of one.
    pub fn new(bell: Arc<Bell>) -> EventHub {
        EventHub { bell, ..EventHub::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes `controller` to events of `kinds` (all, if empty), those after the sequence number `after` that are
    /// kept first; 0 for new ones only.
    pub fn subscribe(&self, controller: Name, is_administrator: bool, kinds: Vec<i32>, after: u64) -> Events {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let events = Events { queue: receiver, waiting: waiting.clone() };
        let mut subscriber = Subscriber { controller, is_administrator, kinds, queue, waiting, lost: 0 };
        let mut inner = self.inner();
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
        events
    }

    /// Gives `event` its number and time, and to everybody whom it is for.
    pub fn publish(&self, mut event: v1::Event, controllers: Option<Vec<Name>>) {
        let mut inner = self.inner();
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
        inner.kept_bytes += addressed.event.packet.len();
        inner.kept.push_back(addressed);
        while inner.kept.len() > KEPT || inner.kept_bytes > KEPT_BYTES {
            let Some(oldest) = inner.kept.pop_front() else { break };
            inner.kept_bytes -= oldest.event.packet.len();
        }
    }

    /// True when one of `controllers` listens to events of `kind`. Administrators who look on do not count: they are
    /// not who answers.
    pub fn has_subscriber(&self, kind: v1::EventKind, controllers: &[Name]) -> bool {
        let inner = self.inner();
        let mut subscribers = inner.subscribers.iter();
        subscribers.any(|one| one.hears(kind as i32) && controllers.contains(&one.controller))
    }

    /// The controllers that listen to events of `kind`; administrators who only look on are none.
    pub fn controllers(&self, kind: v1::EventKind) -> BTreeSet<Name> {
        let inner = self.inner();
        let subscribers = inner.subscribers.iter().filter(|one| one.hears(kind as i32));
        subscribers.map(|one| one.controller.clone()).filter(|name| !name.is_empty()).collect()
    }

    /// True when anybody listens to events of `kind`.
    pub fn has_any_subscriber(&self, kind: v1::EventKind) -> bool {
        self.inner().subscribers.iter().any(|one| one.hears(kind as i32))
    }

    /// Asks that the workers are told who listens; the number is for [`EventHub::looked`].
    pub fn look_again(&self) -> u64 {
        let number = self.looks_asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.bell.pull();
        number
    }

    /// Waits until the workers know who listened when [`EventHub::look_again`] returned `number`; not for ever.
    pub async fn looked(&self, number: u64) {
        let mut looked = self.looked.subscribe();
        // A worker that has ended is never told; the subscriber then hears of the others.
        let _ = tokio::time::timeout(PATIENCE, looked.wait_for(|looked| *looked >= number)).await;
    }

    pub(super) fn looks_asked(&self) -> u64 {
        self.looks_asked.load(Ordering::Acquire)
    }

    pub(super) fn has_looked(&self, number: u64) {
        self.looked.send_replace(number);
    }

    /// `worker` misses `key` of a table and waits for it until `until`: true when that is news.
    pub(super) fn asks(&self, worker: usize, key: (Name, MappingKey), until: Instant) -> bool {
        let mut asked = self.asked();
        let now = Instant::now();
        if asked.get(&key).is_some_and(|asked| asked.worker != worker && now < asked.until) {
            return false;
        }
        if asked.len() >= ASKED {
            asked.retain(|_, asked| now < asked.until);
        }
        if asked.len() < ASKED {
            asked.insert(key, Asked { worker, until });
        }
        true
    }

    /// `keys` of `table` are not asked for any more.
    pub(super) fn answered<'k>(&self, table: &Name, keys: impl IntoIterator<Item = &'k MappingKey>) {
        let mut asked = self.asked();
        if !asked.is_empty() {
            for key in keys {
                asked.remove(&(table.clone(), *key));
            }
        }
    }

    /// Nothing of `table` is asked for any more.
    pub(super) fn forget(&self, table: &Name) {
        self.asked().retain(|(name, _), _| name != table);
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<(Name, MappingKey), Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts events that were lost on their way here; everybody is told.
    pub(super) fn add_lost(&self, lost: u64) {
        if lost > 0 {
            let mut inner = self.inner();
            inner.lost += lost;
            inner.subscribers.iter_mut().for_each(|subscriber| subscriber.lost += lost);
        }
    }

    /// Events that subscribers lost by being slow.
    pub fn lost(&self) -> u64 {
        self.inner().lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Events {
        /// The next one, if it is there.
        fn try_recv(&mut self) -> Result<v1::Event, &'static str> {
            match Pin::new(self).poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
                Poll::Ready(Some(event)) => Ok(event),
                _ => Err("none is there"),
            }
        }
    }

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
        let miss = v1::EventKind::MappingMiss;
        assert!(hub.has_subscriber(miss, &["vnet".into()]) && !hub.has_subscriber(miss, &["slb".into()]));
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
        assert!(!hub.has_subscriber(miss, &["vnet".into()]) && hub.has_any_subscriber(miss));
    }

    #[test]
    fn packets_that_are_kept_are_bounded_in_bytes() {
        let hub = EventHub::default();
        for _ in 0..KEPT_BYTES / 9_000 + 10 {
            hub.publish(v1::Event { packet: vec![0; 9_000], ..event(v1::EventKind::Punt) }, None);
        }
        let inner = hub.inner();
        assert_eq!(inner.kept.len(), KEPT_BYTES / 9_000);
        assert_eq!(inner.kept_bytes, 9_000 * inner.kept.len());
    }

    #[test]
    fn packets_that_wait_for_a_subscriber_are_bounded_in_bytes() {
        let hub = EventHub::default();
        let mut slow = hub.subscribe("slow".into(), false, vec![], 0);
        let mut quick = hub.subscribe("quick".into(), false, vec![], 0);
        let punt = || v1::Event { packet: vec![0; 9_000], ..event(v1::EventKind::Punt) };
        let fit = QUEUE_BYTES / 9_000;
        for _ in 0..fit + 10 {
            hub.publish(punt(), None);
            quick.try_recv().unwrap();
        }
        assert_eq!(hub.lost(), 10);
        // What has no packet has room, and tells of the loss.
        hub.publish(event(v1::EventKind::PortUp), None);
        assert_eq!(quick.try_recv().unwrap().kind, v1::EventKind::PortUp as i32);
        for sequence in 1..=fit as u64 {
            assert_eq!(slow.try_recv().unwrap().sequence, sequence);
        }
        assert_eq!(slow.try_recv().unwrap().lost, 10);
        assert_eq!(slow.try_recv().unwrap().kind, v1::EventKind::PortUp as i32);
        assert!(slow.try_recv().is_err());
        // What was taken makes room for as much.
        for _ in 0..=fit {
            hub.publish(punt(), None);
        }
        assert_eq!(hub.lost(), 10 + 1 + 1, "one more of each");
        let taken = std::iter::from_fn(|| slow.try_recv().ok()).filter(|event| !event.packet.is_empty());
        assert_eq!(taken.count(), fit);
        assert_eq!(slow.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_wants_other_kinds_does_not_listen() {
        let hub = EventHub::default();
        let _one = hub.subscribe("vnet".into(), true, vec![v1::EventKind::Limit as i32], 0);
        let (miss, vnet) = (v1::EventKind::MappingMiss, ["vnet".into()]);
        assert!(!hub.has_subscriber(miss, &vnet) && !hub.has_any_subscriber(miss));
        assert!(hub.has_subscriber(v1::EventKind::Limit, &vnet));
    }

    #[test]
    fn a_key_is_news_once_for_the_host() {
        let hub = EventHub::default();
        let key = |address: u8| MappingKey { tenant: 0, address: [10, 0, 0, address].into() };
        let asks = |worker, address, milliseconds| {
            let until = Instant::now() + Duration::from_millis(milliseconds);
            hub.asks(worker, ("blue".into(), key(address)), until)
        };
        assert!(asks(0, 1, 60_000) && !asks(1, 1, 60_000) && asks(1, 2, 60_000));
        // The worker that told so tells it again: its time was over.
        assert!(asks(0, 1, 60_000));
        hub.forget(&"red".into());
        hub.answered(&"blue".into(), [&key(2)]);
        assert!(!asks(1, 1, 60_000) && asks(0, 2, 60_000));
        hub.forget(&"blue".into());
        assert!(asks(1, 1, 60_000));
        // What was over does not hold others back.
        assert!(asks(0, 3, 0) && asks(1, 3, 60_000));
    }

    #[test]
    fn what_is_lost_on_the_way_is_told() {
        let hub = EventHub::default();
        let mut one = hub.subscribe("vnet".into(), false, vec![], 0);
        hub.add_lost(3);
        hub.publish(event(v1::EventKind::PortUp), None);
        assert_eq!((one.try_recv().unwrap().lost, hub.lost()), (3, 3));
    }
}
