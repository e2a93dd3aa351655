//! Drives one switch over its backends on a thread of its own.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lamina_backend::{Backend, PacketPool};
use lamina_core::switch::{Output, PortId, Switch};
use lamina_daemon::underlay::Resolver;

const BATCH: usize = 64;
const PACKETS: usize = 4096;

type Command = Box<dyn FnOnce(&mut Switch) + Send>;

/// A running switch.
#[derive(Debug)]
pub struct Driver {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    pub fn start(
        switch: Switch,
        backends: BTreeMap<PortId, Box<dyn Backend>>,
        resolver: Option<Resolver>,
    ) -> Result<Driver> {
        let (commands, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new().name("switch".into());
        let thread = thread.spawn(move || drive(switch, backends, resolver, &waiting))?;
        Ok(Driver { commands: Some(commands), thread: Some(thread) })
    }

    /// Runs `body` between two batches.
    pub fn ask<R: Send + 'static>(&self, body: impl FnOnce(&mut Switch) -> R + Send + 'static) -> Result<R> {
        let (answer, answered) = mpsc::channel();
        let command: Command = Box::new(move |switch| {
            let _ = answer.send(body(switch));
        });
        let sent = self.commands.as_ref().and_then(|commands| commands.send(command).ok());
        sent.context("the switch has ended")?;
        answered.recv().context("the switch has ended")
    }

    /// Runs `body` between two later batches.
    pub fn tell(&self) -> impl Fn(Command) + Send + 'static {
        let commands = self.commands.clone();
        move |command| {
            let _ = commands.as_ref().map(|commands| commands.send(command));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn drive(
    mut switch: Switch,
    mut backends: BTreeMap<PortId, Box<dyn Backend>>,
    resolver: Option<Resolver>,
    commands: &mpsc::Receiver<Command>,
) {
    let mut pool = PacketPool::for_super_frames(PACKETS);
    let (mut batch, mut output) = (Vec::new(), Output::default());
    let mut leaving: BTreeMap<PortId, Vec<_>> = backends.keys().map(|id| (*id, Vec::new())).collect();
    let started = Instant::now();
    let mut swept = started;
    loop {
        let now = lamina_core::time::Instant(started.elapsed().as_nanos() as u64);
        loop {
            match commands.try_recv() {
                Ok(command) => command(&mut switch),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let mut received = 0;
        let ids: Vec<_> = backends.keys().copied().collect();
        for id in ids {
            let Some(backend) = backends.get_mut(&id) else { continue };
            received += backend.receive(now, &mut pool, &mut batch, BATCH);
            switch.receive(now, id, &mut batch, &mut output);
            pool.give_all(&mut output.free);
            for (to, packet) in output.transmit.drain(..) {
                match leaving.get_mut(&to) {
                    Some(queue) => queue.push(packet),
                    None => pool.give(packet),
                }
            }
            for (to, queue) in &mut leaving {
                if let (false, Some(backend)) = (queue.is_empty(), backends.get_mut(to)) {
                    backend.transmit(now, &mut pool, queue);
                }
            }
            for hop in output.resolve.drain(..) {
                if let Some(resolver) = &resolver {
                    resolver.resolve(hop);
                }
            }
        }
        if swept.elapsed() > Duration::from_secs(1) {
            swept = Instant::now();
            switch.sweep(now);
        }
        if received == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
