//! Commands from other threads: a bounded ring of closures, and an eventfd that ends the worker's sleep.
//!
//! The order is what makes it safe to sleep: a sender first puts the command into the ring, then raises the eventfd;
//! the eventfd stays readable until the worker, awake, lowers it and then looks into the ring. So a command that
//! comes between the worker's last look and its sleep ends that sleep at once.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lamina_core::switch::Switch;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use super::Ports;

/// What a worker is asked to do between two batches. It holds up that worker's packets while it runs.
pub type Command = Box<dyn FnOnce(&mut Switch, &mut Ports) + Send>;

/// The worker's end.
pub(super) struct Mailbox {
    commands: Consumer<Command>,
    bell: Arc<Bell>,
}

/// The other threads' end. May be shared: senders wait for each other, never for the worker.
pub struct Sender {
    commands: Mutex<Producer<Command>>,
    bell: Arc<Bell>,
}

struct Bell {
    eventfd: OwnedFd,
    is_stopped: AtomicBool,
}

/// Why a command was not accepted. It was dropped without running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// Too many commands wait; try again later.
    Full,
    /// The worker has ended.
    Gone,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full => "too many commands wait for the worker; try again later",
            SendError::Gone => "the worker has ended",
        })
    }
}

impl std::error::Error for SendError {}

pub(super) fn mailbox(capacity: usize) -> io::Result<(Mailbox, Sender)> {
    let (producer, consumer) = RingBuffer::new(capacity);
    let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bell = Arc::new(Bell { eventfd, is_stopped: AtomicBool::new(false) });
    let sender = Sender { commands: Mutex::new(producer), bell: bell.clone() };
    Ok((Mailbox { commands: consumer, bell }, sender))
}

impl Mailbox {
    pub(super) fn next(&mut self) -> Option<Command> {
        self.commands.pop().ok()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.bell.is_stopped.load(Ordering::Acquire)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }

    /// Lowers the eventfd; look into the ring after it, not before.
    pub(super) fn lower(&mut self) {
        // It fails only when the eventfd is already lowered.
        let _ = rustix::io::read(&self.bell.eventfd, &mut [0; 8]);
    }
}

impl Sender {
    /// Has the worker run `command` soon, without waiting for it.
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if commands.is_abandoned() {
            return Err(SendError::Gone);
        }
        commands.push(command).map_err(|PushError::Full(_)| SendError::Full)?;
        self.bell.ring();
        Ok(())
    }

    /// Has the worker end after its present breath.
    pub fn stop(&self) {
        self.bell.is_stopped.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Bell {
    fn ring(&self) {
        // It fails only when the counter is at its maximum, and then it is readable anyway.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}
