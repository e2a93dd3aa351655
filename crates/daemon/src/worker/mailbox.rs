//! Commands from other threads: a bounded ring of closures, and an eventfd that ends the worker's sleep.
//!
//! The order is what makes it safe to sleep: a sender first puts the command into the ring, then raises the eventfd;
//! the eventfd stays readable until the worker, awake, lowers it and then looks into the ring. So a command that
//! comes between the worker's last look and its sleep ends that sleep at once.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use lamina_core::switch::Switch;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use super::Ports;
use super::doze::Doze;

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

/// What ends a worker's sleep.
pub(super) struct Bell {
    eventfd: OwnedFd,
    is_stopped: AtomicBool,
    /// The worker takes no more commands.
    is_gone: AtomicBool,
    doze: Doze,
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
    let bell = Arc::new(Bell {
        eventfd,
        is_stopped: AtomicBool::new(false),
        is_gone: AtomicBool::new(false),
        doze: Doze::default(),
    });
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

    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Says that the worker is about to sleep; it must look for work once more after this, and not sleep when there
    /// is some.
    pub(super) fn doze(&self) {
        self.bell.doze.lie_down();
    }

    /// Says that the worker is awake.
    pub(super) fn wake(&self) {
        self.bell.doze.get_up();
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
        self.offer(command).map_err(|(error, _)| error)
    }

    /// Like [`Sender::send`]; a command that was not accepted comes back.
    pub(super) fn offer(&self, command: Command) -> Result<(), (SendError, Command)> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if commands.is_abandoned() {
            return Err((SendError::Gone, command));
        }
        commands.push(command).map_err(|PushError::Full(command)| (SendError::Full, command))?;
        // Either the worker, when it ends, finds the command and drops it, or this finds that the worker has ended: with
        // a fence on both sides between the store and the load, not both can miss the other's store. Else a command
        // that nobody drops would keep its sender waiting for ever.
        fence(Ordering::SeqCst);
        if self.bell.is_gone.load(Ordering::Relaxed) {
            return Err((SendError::Gone, Box::new(|_, _| ())));
        }
        self.bell.ring();
        Ok(())
    }

    /// Ends the worker's sleep.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Has the worker end after its present breath.
    pub fn stop(&self) {
        self.bell.is_stopped.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.bell.is_gone.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Whoever waits for one of these is told by its end.
        while self.commands.pop().is_ok() {}
    }
}

impl Bell {
    /// Wakes the worker if it sleeps or is about to; costs no system call otherwise.
    pub(super) fn rouse(&self) {
        if self.doze.should_rouse() {
            self.ring();
        }
    }

    #[cfg(test)]
    pub(super) fn is_raised(&self) -> bool {
        rustix::io::read(&self.eventfd, &mut [0; 8]).is_ok()
    }

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
