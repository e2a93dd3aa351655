//! Tables with a limit and their use (§12 "limits are published, with the current use beside them"), and what the
//! classifier of each group is made of (§7).

use alloc::string::String;

use crate::classify::{Classifier, Description};
use crate::flow::Direction;
use crate::layer::Name;
use crate::time::Instant;

/// One table, how full it is, and whether that ever was in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitUse {
    /// Which table, by a stable name: `unified-flows`, `drop-cache`, `layer-flows LAYER`, `meter NAME`,
    /// `mapping NAME`, ...
    pub table: String,
    /// Entries in it.
    pub used: u64,
    /// The most that fit; `None` where the table is as large as what policy names.
    pub limit: Option<u64>,
    /// How often something found it full: an entry gave way, or a packet was dropped or counted elsewhere.
    pub times_full: u64,
    /// The last time.
    pub last_full: Option<Instant>,
}

/// How often a table was found full, and when last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Full {
    pub(crate) times: u64,
    pub(crate) last: Option<Instant>,
    /// It is full, and was not emptied since.
    is_reached: bool,
    /// Nobody was told.
    is_news: bool,
}

impl Full {
    pub(crate) fn note(&mut self, now: Instant) {
        self.times += 1;
        self.last = Some(now);
        self.is_news |= !self.is_reached;
        self.is_reached = true;
    }

    /// True once after the table has become full.
    pub(crate) fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.is_news)
    }

    /// A table that is used to less than nine tenths may become full again.
    pub(crate) fn rearm(&mut self, used: usize, limit: usize) {
        if self.is_reached && used < limit - limit / 10 {
            (self.is_reached, self.is_news) = (false, false);
        }
    }
}

impl LimitUse {
    pub(crate) fn new(table: impl Into<String>, used: usize, limit: Option<usize>, full: Full) -> Self {
        LimitUse {
            table: table.into(),
            used: used as u64,
            limit: limit.map(|limit| limit as u64),
            times_full: full.times,
            last_full: full.last,
        }
    }
}

/// The classifier of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassifierInfo {
    /// The layer.
    pub layer: Name,
    /// The direction that the group filters.
    pub direction: Direction,
    /// The group.
    pub group: Name,
    /// What was built, kind by kind, with sizes.
    pub description: Description,
    /// Why, in one sentence; the kinds of its fields and parts have their own ([`crate::classify::Kind::reason`]).
    pub reason: &'static str,
}

impl ClassifierInfo {
    pub(crate) fn new(layer: Name, direction: Direction, group: Name, classifier: &Classifier) -> Self {
        let description = classifier.describe();
        let reason = description.reason();
        ClassifierInfo { layer, direction, group, description, reason }
    }
}
