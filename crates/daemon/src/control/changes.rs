//! The changes of the last transactions, for those who watch: bounded, and resumable by revision.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_api::wire::v1;
use tokio::sync::watch;

/// Changes that are kept; the oldest transactions go first.
const KEPT: usize = 200_000;

/// The changes of one transaction.
pub type Changes = Arc<Vec<v1::Change>>;

/// The log.
pub struct ChangeLog {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

struct Kept {
    transactions: VecDeque<(u64, Changes)>,
    changes: usize,
    /// Changes up to this revision are no longer all here.
    forgotten: u64,
}

/// What has happened after a revision.
#[derive(Debug)]
pub enum Since {
    /// These transactions, oldest first; possibly none.
    Transactions(Vec<(u64, Changes)>),
    /// Changes so old are no longer kept.
    Forgotten,
}

impl ChangeLog {
    /// A log that begins at `revision`.
    pub fn new(revision: u64) -> ChangeLog {
        let kept = Kept { transactions: VecDeque::new(), changes: 0, forgotten: revision };
        ChangeLog { kept: Mutex::new(kept), newest: watch::Sender::new(revision) }
    }

    /// Adds what the transaction of `revision` changed. Returns what is no longer kept for it.
    pub fn add(&self, revision: u64, changes: Changes) -> Vec<Changes> {
        let mut forgotten = Vec::new();
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.changes += changes.len();
            kept.transactions.push_back((revision, changes));
            while kept.changes > KEPT {
                let Some((revision, gone)) = kept.transactions.pop_front() else { break };
                kept.changes -= gone.len();
                kept.forgotten = revision;
                forgotten.push(gone);
            }
        }
        self.newest.send_replace(revision);
        forgotten
    }

    /// What has happened after `revision`.
    pub fn since(&self, revision: u64) -> Since {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < kept.forgotten {
            return Since::Forgotten;
        }
        let first = kept.transactions.partition_point(|(other, _)| *other <= revision);
        Since::Transactions(kept.transactions.iter().skip(first).cloned().collect())
    }

    /// Tells the newest revision, and when it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Changes that are kept, and how many can be.
    pub fn occupancy(&self) -> (usize, usize) {
        (self.kept.lock().unwrap_or_else(PoisonError::into_inner).changes, KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(count: usize) -> Changes {
        Arc::new(vec![v1::Change::default(); count])
    }

    #[test]
    fn what_came_after_a_revision_is_told_or_known_to_be_forgotten() {
        let log = ChangeLog::new(10);
        assert!(log.add(11, changes(2)).is_empty());
        assert!(log.add(12, changes(1)).is_empty());
        let Since::Transactions(all) = log.since(10) else { panic!("they are kept") };
        assert_eq!(all.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), [11, 12]);
        let Since::Transactions(none) = log.since(12) else { panic!("they are kept") };
        assert!(none.is_empty());
        assert!(matches!(log.since(9), Since::Forgotten));
        assert_eq!(log.add(13, changes(KEPT)).len(), 2, "what is forgotten comes back");
        assert!(matches!(log.since(11), Since::Forgotten), "the log is bounded");
        assert!(matches!(log.since(12), Since::Transactions(_)));
        assert!(log.occupancy().0 <= KEPT);
    }
}
