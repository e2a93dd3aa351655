//! New policy on one port or many: all workers begin to run it together, or nothing changes.
//!
//! On one worker it is a command like any other, run between two batches. On several it is put down for each, and then
//! one store of the epoch makes each install it at the start of its next breath, before it looks at a packet. A packet
//! that crosses from one worker to another is never judged by the new policy first and by the old one then; one that
//! was already under way may be judged by the old one first, as one on the wire between two hosts would.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use lamina_core::layer::Program;
use lamina_core::switch::{Generation, PortId, PublishError, Switch};

use super::{Host, HostError};
use crate::worker::peers::{Installations, Stage};

/// How often a flip that takes long looks whether its workers still live.
const LOOK: Duration = Duration::from_millis(10);

/// Why policy was not flipped.
#[derive(Debug)]
pub enum FlipError {
    /// Nothing was changed.
    Refused(HostError),
    /// A port cannot run its program; the text says why. Nothing was changed.
    Invalid(PortId, String),
    /// A worker ended meanwhile; the others that were concerned, if any, run the new policy.
    Torn(HostError),
}

impl fmt::Display for FlipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlipError::Refused(error) => write!(f, "nothing was changed: {error}"),
            FlipError::Invalid(id, why) => write!(f, "nothing was changed: port {}: {why}", id.0),
            FlipError::Torn(error) => write!(f, "the policy is in force on other workers at most: {error}"),
        }
    }
}

impl std::error::Error for FlipError {}

type Programs = Vec<(PortId, Arc<Program>)>;

impl Host {
    /// Makes each of these programs its port's, at once; returns when every worker concerned runs them, with the ports'
    /// new generations. What ran before is freed here, not by the workers. Of two programs for one port the later one
    /// stays.
    pub fn flip(&self, programs: Programs) -> Result<Vec<(PortId, Generation)>, FlipError> {
        let _changing = self.change();
        let mut by_worker: BTreeMap<usize, Programs> = BTreeMap::new();
        for (id, program) in programs {
            let place = self.places().get(&id).filter(|place| place.mac.is_some()).map(|place| place.worker);
            let worker = place.ok_or(FlipError::Refused(HostError::NoSuchPort(id)))?;
            by_worker.entry(worker).or_default().push((id, program));
        }
        if let Some(dead) = by_worker.keys().find(|worker| !self.workers[**worker].is_alive()) {
            return Err(FlipError::Refused(HostError::WorkerGone(*dead)));
        }
        let results =
            if by_worker.len() > 1 { self.flip_many(by_worker)? } else { self.flip_one(by_worker)? };
        let mut generations = Vec::new();
        for (id, result) in results {
            // Only what fills a mapping table between the check and the flip comes to this.
            let installed = result.map_err(|error| invalid((id, error)))?;
            generations.push((id, installed.generation));
        }
        Ok(generations)
    }

    fn flip_one(&self, by_worker: BTreeMap<usize, Programs>) -> Result<Installations, FlipError> {
        let Some((worker, programs)) = by_worker.into_iter().next() else { return Ok(Vec::new()) };
        let flipped = self.call(worker, move |switch, _| {
            check(switch, &programs)?;
            Ok(programs.into_iter().map(|(id, program)| (id, switch.install(id, program))).collect())
        });
        flipped.map_err(FlipError::Torn)?.map_err(invalid)
    }

    fn flip_many(&self, by_worker: BTreeMap<usize, Programs>) -> Result<Installations, FlipError> {
        for (worker, programs) in &by_worker {
            let programs = programs.clone();
            let checked = self.call(*worker, move |switch, _| check(switch, &programs));
            checked.map_err(FlipError::Refused)?.map_err(invalid)?;
        }
        let (done, reports) = mpsc::sync_channel(by_worker.len());
        let epoch = self.flipper.next_epoch();
        let mut waiting: Vec<usize> = by_worker.keys().copied().collect();
        for (worker, programs) in by_worker {
            self.flipper.stage(Stage { epoch, programs, done: done.clone(), worker });
        }
        self.flipper.raise(epoch);
        waiting.iter().for_each(|worker| self.workers[*worker].ring());
        let (mut results, mut torn) = (Vec::new(), None);
        while !waiting.is_empty() {
            match reports.recv_timeout(LOOK) {
                Ok((worker, installed)) => {
                    waiting.retain(|other| *other != worker);
                    results.extend(installed);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    waiting.retain(|worker| {
                        let is_alive = self.workers[*worker].is_alive();
                        if !is_alive {
                            torn = Some(HostError::WorkerGone(*worker));
                        }
                        is_alive
                    });
                }
            }
        }
        torn.map_or(Ok(results), |error| Err(FlipError::Torn(error)))
    }
}

/// The first port that cannot run its program.
fn check(switch: &Switch, programs: &Programs) -> Result<(), (PortId, PublishError)> {
    programs
        .iter()
        .try_for_each(|(id, program)| switch.check_install(*id, program).map_err(|error| (*id, error)))
}

fn invalid((id, error): (PortId, PublishError)) -> FlipError {
    match error {
        PublishError::NoSuchPort => FlipError::Refused(HostError::NoSuchPort(id)),
        PublishError::Invalid(why) => FlipError::Invalid(id, why),
    }
}
