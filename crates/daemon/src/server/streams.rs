//! Calls that stream for long, bounded for each user: flows, captured packets and events cost the workers work, or hold
//! memory for as long as they are open, which the bound of connections does not bound.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use tonic::Status;

use super::{Answers, Service};
use crate::control::{Caller, mistake};

/// The streams that are open, by user.
#[derive(Debug)]
pub(super) struct Streams {
    limit: usize,
    open: Mutex<HashMap<u32, usize>>,
}

/// The place of one stream among its user's.
pub(super) struct Place {
    streams: Arc<Streams>,
    uid: u32,
}

impl Streams {
    /// None is open; each user may have `limit`.
    pub(super) fn new(limit: usize) -> Arc<Streams> {
        Arc::new(Streams { limit, open: Mutex::default() })
    }

    /// A place for one more of the user `uid`; `None` when there is none.
    fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&uid).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        open.insert(uid, count + 1);
        Some(Place { streams: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

impl Place {
    /// `answers`, which have this place until they end or nobody reads them any more.
    pub(super) fn hold<T: Send + 'static>(self, answers: Answers<T>) -> Answers<T> {
        Box::pin(Held { answers, _place: self })
    }
}

struct Held<T> {
    answers: Answers<T>,
    _place: Place,
}

impl<T> Stream for Held<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.as_mut().poll_next(context)
    }
}

impl Service {
    /// A place for a stream of `caller`'s.
    pub(super) fn place(&self, caller: &Caller) -> Result<Place, Status> {
        self.streams.take(caller.uid).ok_or_else(|| {
            let message = format!(
                "user {} has {} calls open that stream flows, packets or events",
                caller.uid, self.streams.limit
            );
            let help = "end one of them, or raise `limits.streams-per-user` in the daemon's configuration";
            self.counters.add("refused-streams");
            super::status::refused(&mistake("too-many", message, help).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_so_many_places_and_gets_them_back() {
        let streams = Streams::new(2);
        let first = streams.take(7).unwrap();
        let second = streams.take(7).unwrap();
        assert!(streams.take(7).is_none());
        assert!(streams.take(8).is_some(), "others have their own");
        drop(first);
        let third = streams.take(7).unwrap();
        assert!(streams.take(7).is_none());
        drop((second, third));
        assert!(streams.open.lock().unwrap().is_empty(), "nothing is kept of users without streams");
    }
}
