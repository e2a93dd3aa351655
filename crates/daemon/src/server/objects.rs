//! Listing and watching objects, and subscribing to events.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use lamina_api::wire::v1;
use lamina_core::layer::Name;
use tonic::Status;

use super::{Answers, Service};
use crate::control::key::{self, Key};
use crate::control::{Shared, Since};

/// Objects that are read from the store at once.
const SLICE: usize = 256;

/// A walk over the objects that agree with a selector, in slices, so that nothing is held between them.
struct Walk {
    shared: Arc<Shared>,
    selector: v1::Ref,
    owner: String,
    prefix: Vec<u8>,
    after: Option<Key>,
    found: VecDeque<v1::Object>,
    is_done: bool,
}

impl Walk {
    fn new(shared: Arc<Shared>, selector: v1::Ref, owner: String) -> Walk {
        let prefix = key::prefix(&selector);
        Walk { shared, selector, owner, prefix, after: None, found: VecDeque::new(), is_done: false }
    }

    /// The next object.
    fn next(&mut self) -> Result<Option<v1::Object>, Status> {
        while self.found.is_empty() && !self.is_done {
            let slice = self
                .shared
                .store
                .slice(&self.prefix, self.after.as_ref(), SLICE)
                .map_err(|error| Status::internal(error.to_string()))?;
            self.is_done = slice.len() < SLICE;
            self.after = slice.last().map(|(key, _)| key.clone()).or(self.after.take());
            for (key, mut object) in slice {
                let reference = key.reference();
                let is_owned = self.owner.is_empty() || self.owner == object.owner;
                if is_owned && key::agrees(&self.selector, &reference) {
                    object.r#ref = Some(reference);
                    self.found.push_back(object);
                }
            }
        }
        Ok(self.found.pop_front())
    }
}

impl Service {
    pub(super) fn list_objects(&self, request: v1::ListRequest) -> Answers<v1::Object> {
        let walk = Walk::new(self.shared.clone(), request.selector.unwrap_or_default(), request.owner);
        Box::pin(stream::unfold(Some(walk), |walk| async move {
            let mut walk = walk?;
            match walk.next() {
                Ok(Some(object)) => Some((Ok(object), Some(walk))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    pub(super) fn watch_objects(&self, request: v1::WatchRequest) -> Answers<v1::Change> {
        let selector = request.selector.unwrap_or_default();
        let shared = self.shared.clone();
        // What is there is read after the revision was taken: a change between the two is told twice, never not at all.
        let (begin, walk) = match request.after_revision {
            0 => {
                let revision = *shared.changes.newest().borrow();
                (revision, Some(Walk::new(shared.clone(), selector.clone(), String::new())))
            }
            revision => (revision, None),
        };
        let watch = Watch {
            newest: shared.changes.newest(),
            shared,
            selector,
            revision: begin,
            walk,
            pending: VecDeque::new(),
        };
        Box::pin(stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(Some(change)) => Some((Ok(change), Some(watch))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    /// Subscribes, and returns when the workers know of it: what is missed from then on is told.
    pub(super) async fn subscribe(
        &self,
        controller: Name,
        is_administrator: bool,
        request: v1::EventsRequest,
    ) -> Answers<v1::Event> {
        let events = &self.shared.events;
        let subscribed =
            events.subscribe(controller, is_administrator, request.kinds, request.after_sequence);
        events.looked(events.look_again()).await;
        Box::pin(subscribed.map(Ok))
    }
}

/// A watch on its way through what is there and then through what changes.
struct Watch {
    shared: Arc<Shared>,
    selector: v1::Ref,
    newest: tokio::sync::watch::Receiver<u64>,
    revision: u64,
    walk: Option<Walk>,
    pending: VecDeque<v1::Change>,
}

impl Watch {
    async fn next(&mut self) -> Result<Option<v1::Change>, Status> {
        if let Some(walk) = &mut self.walk {
            if let Some(object) = walk.next()? {
                let revision = object.revision;
                let kind = v1::ChangeKind::Existing as i32;
                return Ok(Some(v1::Change { kind, object: Some(object), revision }));
            }
            self.walk = None;
            let kind = v1::ChangeKind::Synced as i32;
            return Ok(Some(v1::Change { kind, object: None, revision: self.revision }));
        }
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            self.newest.borrow_and_update();
            match self.shared.changes.since(self.revision) {
                Since::Forgotten => {
                    return Err(Status::out_of_range(format!(
                        "changes after revision {} are no longer kept: list again, and watch from there",
                        self.revision
                    )));
                }
                Since::Transactions(transactions) if transactions.is_empty() => {
                    if self.newest.changed().await.is_err() {
                        return Ok(None);
                    }
                }
                Since::Transactions(transactions) => {
                    for (revision, changes) in transactions {
                        self.revision = revision;
                        let selector = &self.selector;
                        let wanted = changes.iter().filter(|change| {
                            let reference = change.object.as_ref().and_then(|object| object.r#ref.as_ref());
                            reference.is_some_and(|reference| key::agrees(selector, reference))
                        });
                        self.pending.extend(wanted.cloned());
                        if !self.pending.is_empty() {
                            break;
                        }
                    }
                }
            }
        }
    }
}
