//! A worker on a thread of its own, and the handle by which other threads reach it.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use lamina_backend::namespace::NetNs;
use lamina_core::switch::Switch;
use lamina_core::time::Instant;

use super::mailbox::{SendError, Sender};
use super::{Command, Ports, Worker, WorkerConfig};

/// Holds a running worker; dropping it ends the worker. May be shared between threads.
#[derive(Debug)]
pub struct Handle {
    sender: Sender,
    thread: Option<JoinHandle<()>>,
}

/// Starts a worker called `name` (15 characters show in `top`). With a namespace, the thread lives in it, so that
/// commands which open devices find them there.
pub fn spawn(name: &str, config: WorkerConfig, namespace: Option<NetNs>) -> io::Result<Handle> {
    let (worker, sender) = Worker::new(config)?;
    start(name, worker, sender, namespace, std::time::Instant::now())
}

/// Like [`spawn`], with a worker that is there already, whose time counts from `zero`.
pub(crate) fn start(
    name: &str,
    mut worker: Worker,
    sender: Sender,
    namespace: Option<NetNs>,
    zero: std::time::Instant,
) -> io::Result<Handle> {
    let (entered, has_entered) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
        let result = namespace.map_or(Ok(()), |namespace| namespace.enter());
        let may_run = result.is_ok();
        // The starter waits for this; if it is gone, so is the reason to run.
        if entered.send(result).is_err() || !may_run {
            return;
        }
        worker.run(|| since(zero));
    })?;
    has_entered.recv().unwrap_or_else(|_| Err(io::Error::other("the worker's thread ended at once")))?;
    Ok(Handle { sender, thread: Some(thread) })
}

/// The switch's time, counted from `zero`.
pub(crate) fn since(zero: std::time::Instant) -> Instant {
    Instant(u64::try_from(zero.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

impl Handle {
    /// Has the worker run `command` soon, without waiting for it.
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        self.sender.send(command)
    }

    /// Like [`Handle::send`]; a command that was not accepted comes back.
    pub(crate) fn offer(&self, command: Command) -> Result<(), (SendError, Command)> {
        self.sender.offer(command)
    }

    /// Has the worker run `body` between two batches and waits for the answer. Must not be called on the worker's own
    /// thread.
    pub fn call<R, F>(&self, body: F) -> Result<R, CallError>
    where
        R: Send + 'static,
        F: FnOnce(&mut Switch, &mut Ports) -> R + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let command: Command = Box::new(move |switch, ports| {
            // Nobody waits for the answer when the caller's thread has ended.
            let _ = answer.send(body(switch, ports));
        });
        match self.sender.send(command) {
            Ok(()) => answered.recv().map_err(|_| CallError::Gone),
            Err(SendError::Full) => Err(CallError::Full),
            Err(SendError::Gone) => Err(CallError::Gone),
        }
    }

    /// False when the worker has ended, by a panic.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the worker's sleep.
    pub(crate) fn ring(&self) {
        self.sender.ring();
    }

    /// Ends the worker and waits until its backends are closed. An error tells that it had ended before, by a panic.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.sender.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(io::Error::other("the worker's thread panicked")),
            _ => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Why a call got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// Too many commands wait; it was not run. Try again later.
    Full,
    /// The worker has ended; it may or may not have run.
    Gone,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallError::Full => "too many commands wait for the worker; try again later",
            CallError::Gone => "the worker has ended",
        })
    }
}

impl std::error::Error for CallError {}
