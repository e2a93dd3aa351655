//! Whether a worker sleeps: what lets others hand it work without a system call each time, and never miss its sleep.
//!
//! Theory. The worker first says that it sleeps, then looks for work once more, then sleeps; who brings work first puts
//! it down, then looks whether the worker sleeps. Between the two steps of each stands a sequentially consistent fence,
//! so of the two looks at least one sees what the other side did before: either the worker finds the work, or the
//! bringer finds the sleeper and rings. A ring that comes although the worker found the work is harmless: it ends the
//! next sleep early. The bringer takes the sleep back, so that several ring once.

use std::sync::atomic::{AtomicBool, Ordering, fence};

#[derive(Default)]
pub(super) struct Doze {
    is_asleep: AtomicBool,
}

impl Doze {
    /// The worker is about to sleep; it must look for work after this.
    pub(super) fn lie_down(&self) {
        self.is_asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake.
    pub(super) fn get_up(&self) {
        self.is_asleep.store(false, Ordering::Relaxed);
    }

    /// True when whoever has put down work must ring.
    pub(super) fn should_rouse(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_asleep.load(Ordering::Relaxed) && self.is_asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    /// A sleeper that is parked when work comes must be unparked: without the fences, or with the two steps of either
    /// side the other way round, this sleeps through its time limit within a second.
    #[test]
    fn no_work_is_slept_through() {
        const ROUNDS: u64 = 100_000;
        let (doze, work, done) = (Doze::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let mut overslept = 0;
                while done.load(Ordering::Relaxed) < ROUNDS {
                    doze.lie_down();
                    if work.load(Ordering::Relaxed) == done.load(Ordering::Relaxed) {
                        let start = std::time::Instant::now();
                        std::thread::park_timeout(Duration::from_secs(5));
                        overslept += u64::from(start.elapsed() >= Duration::from_secs(5));
                    }
                    doze.get_up();
                    done.store(work.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                overslept
            });
            let worker = sleeper.thread().clone();
            for round in 1..=ROUNDS {
                work.store(round, Ordering::Relaxed);
                if doze.should_rouse() {
                    worker.unpark();
                }
                while round % 3 == 0 && done.load(Ordering::Relaxed) < round {
                    std::hint::spin_loop();
                }
            }
            assert_eq!(sleeper.join().unwrap(), 0);
        });
    }
}
