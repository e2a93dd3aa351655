//! Events on their way from a worker to whoever reads them: a bounded ring that never costs the worker anything.
//!
//! A reader that is slow or gone loses events and can read how many; the worker never waits, and never allocates for
//! one that it cannot hand over.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_core::event::{Event, Events};
use rtrb::{Consumer, Producer, RingBuffer};

/// The worker's end.
pub struct EventSender {
    ring: Producer<Event>,
    lost: Arc<AtomicU64>,
    /// Events that the switch had lost at the last look.
    lost_before: u64,
    wake: Box<dyn Fn() + Send>,
}

/// The reader's end.
pub struct EventReceiver {
    ring: Consumer<Event>,
    lost: Arc<AtomicU64>,
}

/// A ring for `capacity` events; `wake` is called after some were put into it, and must not block.
pub fn event_ring(capacity: usize, wake: impl Fn() + Send + 'static) -> (EventSender, EventReceiver) {
    let (producer, consumer) = RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    let sender = EventSender { ring: producer, lost: lost.clone(), lost_before: 0, wake: Box::new(wake) };
    (sender, EventReceiver { ring: consumer, lost })
}

impl EventSender {
    /// Hands over all of `events`, as far as there is room.
    pub(super) fn send(&mut self, events: &mut Events) {
        let lost = events.lost();
        if events.is_empty() && lost == self.lost_before {
            return;
        }
        let mut missed = lost - self.lost_before;
        self.lost_before = lost;
        for event in events.drain() {
            missed += u64::from(self.ring.push(event).is_err());
        }
        self.lost.fetch_add(missed, Ordering::Relaxed);
        (self.wake)();
    }
}

impl EventReceiver {
    /// The next event, if one is there.
    pub fn take(&mut self) -> Option<Event> {
        self.ring.pop().ok()
    }

    /// Events that were lost so far, because the switch's queue or this ring was full.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl fmt::Debug for EventReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReceiver").field("lost", &self.lost).finish_non_exhaustive()
    }
}
