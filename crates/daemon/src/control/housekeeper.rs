//! Work that may wait: a thread that has the processor only while nobody else wants it.
//!
//! Making a rule list anew and freeing an old one take tens of milliseconds for tens of thousands of rules. Done by the
//! control thread they would hold up the next transaction, and at the priority of workers a packet or a transaction, on a
//! machine with few cores. The price is that on a machine that never rests this work waits: a list is then made anew by
//! somebody else (`rebuild`), and what is to be freed is freed by who hands it in when too much waits.
//!
//! It must never be waited for, and never hold a lock that others want.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use lamina_backend::schedule::run_when_idle;
use tracing::warn;

/// Something to be done.
pub type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait.
const QUEUE: usize = 16;

/// The way to the thread, which ends with it, after what it was handed.
#[derive(Debug)]
pub struct Housekeeper {
    jobs: SyncSender<Job>,
}

impl Housekeeper {
    /// Starts the thread.
    pub fn start() -> io::Result<Housekeeper> {
        let (jobs, waiting) = sync_channel::<Job>(QUEUE);
        std::thread::Builder::new().name("housekeeper".into()).spawn(move || {
            if let Err(error) = run_when_idle() {
                warn!("rule lists are made anew at the priority of everything else: {error}");
            }
            waiting.into_iter().for_each(|job| job());
        })?;
        Ok(Housekeeper { jobs })
    }

    /// Has `job` done some time; it comes back when too many wait.
    pub fn hand(&self, job: Job) -> Result<(), Job> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    /// Frees `what` there, or here when too much waits.
    pub fn free(&self, what: impl Send + 'static) {
        // A job that comes back is dropped with what it holds.
        let _ = self.hand(Box::new(move || drop(what)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn jobs_are_done_in_order_and_too_many_come_back() {
        let keeper = Housekeeper::start().unwrap();
        let (gate, done) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let closed = gate.lock().unwrap();
        let job = |number: usize| {
            let (gate, done) = (gate.clone(), done.clone());
            let job: Job = Box::new(move || {
                drop(gate.lock().unwrap());
                done.lock().unwrap().push(number);
            });
            job
        };
        let accepted = (0..QUEUE + 2).take_while(|number| keeper.hand(job(*number)).is_ok()).count();
        assert!((QUEUE..QUEUE + 2).contains(&accepted), "{accepted}");
        let what = Arc::new(());
        keeper.free(what.clone());
        assert_eq!(Arc::strong_count(&what), 1, "it is freed here when too much waits");
        drop(closed);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while done.lock().unwrap().len() < accepted {
            assert!(std::time::Instant::now() < deadline, "the jobs are not done");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(*done.lock().unwrap(), (0..accepted).collect::<Vec<_>>());
    }
}
