//! The control thread: it carries out transactions, one after the other, and keeps ports and devices together.
//!
//! | file | is |
//! | --- | --- |
//! | `mod` | the thread, and what a transaction goes through |
//! | `draft` | operations on copies of the state and the store |
//! | `state` | what runs, as the control thread knows it |
//! | `store` | what controllers asked for, on disk |
//! | `batch` | many objects on their way there |
//! | `journal` | small transactions on their way there |
//! | `key` | references to objects |
//! | `mapping` | entries of mapping tables |
//! | `rights` | who may be which controller |
//! | `changes` | what changed, for those who watch |
//! | `events` | what happened, for those who subscribed |
//! | `relay` | between workers and those who subscribed |
//! | `devices` | how ports get their devices |
//! | `mistake` | what is wrong with a request |
//! | `warnings` | what is allowed and probably not meant |
//! | `rebuild` | large rule lists made anew beside the transactions, and what they replace freed |
//! | `housekeeper` | the thread for what may wait |
//! | `laps` | how long the parts of a transaction took |
//!
//! A transaction is (1) drafted: every operation is checked and carried out on copies; (2) compiled; (3) made durable;
//! (4) flipped: all workers run it from their next breath on; (5) acknowledged. Up to (3) nothing has happened and
//! anything may still be refused; from (3) on nothing can be refused any more. So whatever was acknowledged is there
//! after any crash, and whatever is there after a crash is whole.
//!
//! What changes nothing but layers is flipped before it is made durable, since a flip can be taken back and packets need
//! not wait for the disk; the acknowledgement does. When the disk refuses, the workers are given the former policy again.
//!
//! Nothing here may touch packets, and nobody but this thread may change what runs.

mod batch;
mod changes;
mod devices;
mod draft;
mod events;
mod housekeeper;
mod journal;
pub mod key;
mod laps;
mod mapping;
mod mistake;
mod rebuild;
mod relay;
mod rights;
mod state;
mod store;
mod warnings;

pub use changes::{ChangeLog, Since};
pub use devices::{Device, Devices, Interfaces};
pub use events::{EventHub, wall_clock};
pub use mistake::{MAX_MISTAKES, Mistakes, mistake};
pub use relay::{EventRings, event_rings, value_text};
pub use rights::{Caller, Controller, Rights};
pub use state::{LayerState, PortState, State};
pub use store::{Store, StoreError};

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::{Duration, Instant};

use lamina_api::wire::v1;
use lamina_backend::schedule::take_short_slices;
use lamina_core::layer::{Compiler, Name, Program};
use lamina_core::resource::{MappingChange, MappingTable};
use lamina_core::switch::PortId;
use tracing::{debug, error, info, warn};

use crate::convert::PortIds;
use crate::host::{Host, Placement};
use draft::{Draft, MappingEdit, Outcome};
use housekeeper::Housekeeper;
use laps::Laps;
use relay::Relay;

/// Changes that an answer lists.
const LISTED_CHANGES: usize = 1000;
/// How often ports without device are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Transactions that wait for the thread.
const QUEUE: usize = 64;
/// What the thread asks of the processor at once: a transaction of one rule needs less.
pub(crate) const SLICE: Duration = Duration::from_micros(200);
/// Changes of a mapping table that a worker makes between two batches of packets.
const MAPPINGS_AT_ONCE: usize = 2_048;

/// What the control thread shares with everybody who reads.
pub struct Shared {
    /// The switch.
    pub host: Host,
    /// What controllers asked for.
    pub store: Store,
    /// What changed.
    pub changes: ChangeLog,
    /// What happens.
    pub events: EventHub,
    rights: RwLock<Arc<Rights>>,
    state: RwLock<Arc<State>>,
    devices: RwLock<BTreeMap<Name, Result<String, String>>>,
}

impl Shared {
    /// Who may be whom.
    pub fn rights(&self) -> Arc<Rights> {
        self.rights.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces who may be whom: for connections and requests from now on.
    pub fn set_rights(&self, rights: Rights) {
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rights);
    }

    /// What runs.
    pub fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what runs; returns what ran.
    fn set_state(&self, state: State) -> Arc<State> {
        let state = Arc::new(state);
        std::mem::replace(&mut *self.state.write().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// The devices that ports are attached to, by port, or why one that is there could not be attached.
    pub fn devices(&self) -> BTreeMap<Name, Result<String, String>> {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A transaction that somebody asks for.
#[derive(Debug)]
pub struct Request {
    /// The controller that asks.
    pub controller: Name,
    /// How.
    pub options: v1::ApplyOptions,
    /// What.
    pub operations: Vec<v1::Operation>,
    /// When the last of it arrived.
    pub arrived: Instant,
}

/// Why a transaction was not carried out. Nothing has changed.
#[derive(Debug)]
pub enum ApplyError {
    /// It is wrong, or not allowed.
    Refused(Mistakes),
    /// The store failed.
    Store(StoreError),
    /// Too many transactions wait.
    Busy,
    /// The daemon is stopping.
    Stopping,
    /// A thread could not be started.
    Thread(std::io::Error),
}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> Self {
        ApplyError::Store(error)
    }
}

impl From<Mistakes> for ApplyError {
    fn from(mistakes: Mistakes) -> Self {
        ApplyError::Refused(mistakes)
    }
}

type Answer = Box<dyn FnOnce(Result<v1::ApplyReply, ApplyError>) + Send>;

enum Command {
    Apply(Box<Request>, Answer),
    Rebuilt(Box<rebuild::Done>),
    Stop,
}

/// The way to the control thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::SyncSender<Command>,
}

impl Handle {
    /// Has `request` carried out; `answer` is called on the control thread.
    pub fn apply(
        &self,
        request: Request,
        answer: impl FnOnce(Result<v1::ApplyReply, ApplyError>) + Send + 'static,
    ) {
        match self.commands.try_send(Command::Apply(Box::new(request), Box::new(answer))) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(Command::Apply(_, answer))) => answer(Err(ApplyError::Busy)),
            Err(mpsc::TrySendError::Disconnected(Command::Apply(_, answer))) => {
                answer(Err(ApplyError::Stopping))
            }
            Err(_) => {}
        }
    }

    /// Has the thread end after what it is doing.
    pub fn stop(&self) {
        // It fails only when the thread has ended.
        let _ = self.commands.send(Command::Stop);
    }
}

/// The control thread's own.
pub struct Control {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    state: State,
    revision: u64,
    compiler: Compiler,
    devices: Box<dyn Devices>,
    /// Ports of the host, with the device that each is attached to.
    attached: BTreeMap<Name, Option<devices::Device>>,
    rebuilds: rebuild::Rebuilds,
    /// There was no transaction since the last tick.
    is_idle: bool,
    /// The store takes nothing more, and that was told.
    is_store_broken: bool,
    /// Tells events for as long as the thread lives.
    _relay: Relay,
}

/// Starts on what `store` has: restores every port's policy, and leaves closed what cannot be restored. `rings` are
/// those that `host`'s workers put their events into.
pub fn start(
    host: Host,
    store: Store,
    rights: Rights,
    devices: Box<dyn Devices>,
    rings: EventRings,
) -> Result<(Control, Handle, Arc<Shared>), ApplyError> {
    let revision = store.revision()?;
    let mut ids = PortIds::default();
    let mut known = store.port_ids()?;
    known.sort_by_key(|(_, id)| *id);
    for (name, id) in known {
        ids.restore(&name.as_str().into(), PortId(id));
    }
    let (state, mistakes) = State::rebuild(&store, ids)?;
    for mistake in &mistakes.0 {
        let place = mistake.r#ref.as_ref().map(key::display).unwrap_or_default();
        error!(object = place, "not restored, its port stays closed: {}", mistake.message);
    }
    let shared = Arc::new(Shared {
        host,
        store,
        changes: ChangeLog::new(revision),
        events: EventHub::new(rings.bell.clone()),
        rights: RwLock::new(Arc::new(rights)),
        state: RwLock::new(Arc::new(state.clone())),
        devices: RwLock::default(),
    });
    let relay = Relay::start(shared.clone(), rings).map_err(ApplyError::Thread)?;
    let housekeeper = Housekeeper::start().map_err(ApplyError::Thread)?;
    let (sender, commands) = mpsc::sync_channel(QUEUE);
    let mut control = Control {
        shared: shared.clone(),
        commands,
        state,
        revision,
        compiler: Compiler::new(),
        devices,
        attached: BTreeMap::new(),
        rebuilds: rebuild::Rebuilds::new(sender.clone(), housekeeper),
        is_idle: true,
        is_store_broken: false,
        _relay: relay,
    };
    control.restore();
    Ok((control, Handle { commands: sender }, shared))
}

impl Control {
    /// Serves until it is told to stop.
    pub fn run(mut self) {
        if let Err(error) = take_short_slices(SLICE) {
            debug!("transactions may have to wait for the processor: {error}");
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(wait) {
                Ok(Command::Apply(request, answer)) => {
                    self.is_idle = false;
                    let result = self.apply(*request);
                    answer(result);
                    self.tidy();
                    self.begin_rebuild();
                }
                Ok(Command::Rebuilt(done)) => self.finish_rebuild(done),
                Ok(Command::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.checkpoint();
                    return;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            }
        }
    }

    /// Has the store write out what only its journal has: the next start is quicker for it.
    fn checkpoint(&mut self) {
        if !self.is_store_broken
            && self.shared.store.needs_checkpoint()
            && let Err(error) = self.shared.store.checkpoint()
        {
            self.store_failed(&error);
        }
    }

    /// Tells of `error`, after which the store may take nothing more: then once.
    fn store_failed(&mut self, error: &StoreError) {
        if !self.shared.store.is_broken() {
            warn!("{error}");
        } else if !std::mem::replace(&mut self.is_store_broken, true) {
            error!("changes are refused until the daemon is restarted: {error}");
        }
    }

    /// Makes the ports of the state and gives them their policy.
    fn restore(&mut self) {
        let mut outcome = Outcome {
            made: self.state.ports.keys().cloned().collect(),
            touched: self.state.ports.keys().cloned().collect(),
            is_multicast_changed: true,
            mappings: self.restored_mappings(),
            ..Outcome::default()
        };
        let mut programs = Vec::new();
        for (name, port) in &self.state.ports {
            if port.is_broken {
                continue;
            }
            match self.compiler.compile(port.id, &port.policy(&self.state.names)) {
                Ok(program) => programs.push((port.id, program)),
                Err(error) => error!(port = &**name, "its policy does not compile, it stays closed: {error}"),
            }
        }
        self.carry_out(&mut outcome, programs);
        info!(ports = self.state.ports.len(), revision = self.revision, "policy is in force");
    }

    fn apply(&mut self, request: Request) -> Result<v1::ApplyReply, ApplyError> {
        let Request { controller, options, operations, arrived } = request;
        let mut laps = Laps::since(arrived);
        let rights = self.shared.rights();
        let shared = self.shared.clone();
        let write = shared.store.write()?;
        let next = self.revision + 1;
        let (state, mut outcome, mistakes) = {
            let mut draft =
                Draft::new(self.state.clone(), write.objects()?, &rights, controller.clone(), next);
            draft.expect(&options.expect)?;
            for (number, operation) in operations.into_iter().enumerate() {
                draft.operation(u32::try_from(number).unwrap_or(u32::MAX), operation)?;
                if draft.mistakes.is_full() {
                    break;
                }
            }
            draft.finish()?;
            (draft.state, draft.outcome, draft.mistakes)
        };
        laps.end("draft");
        if !mistakes.is_empty() {
            write.abort()?;
            return Err(mistakes.into());
        }
        let is_change = !outcome.changes.is_empty() || outcome.updated > 0;
        let mut reply = reply(&outcome, if is_change && !options.dry_run { next } else { self.revision });
        if options.warnings {
            reply.warnings = warnings::of(&state, &outcome.touched, &controller);
        }
        if options.dry_run {
            let compiled = self.compile(&state, &outcome);
            write.abort()?;
            // Dropped before anything else is compiled: nobody is to run it.
            drop(compiled?);
            return Ok(reply);
        }
        if !is_change {
            write.abort()?;
            self.say_again(outcome);
            return Ok(reply);
        }
        let mut programs = match self.compile(&state, &outcome) {
            Ok(programs) => programs,
            Err(mistakes) => {
                write.abort()?;
                return Err(mistakes.into());
            }
        };
        laps.end("compile");
        let is_ahead = outcome.can_be_taken_back();
        if is_ahead {
            self.flip(std::mem::take(&mut programs));
            reply.effective_after = nanoseconds(arrived.elapsed());
            laps.end("flip");
        }
        for name in &outcome.made {
            if let Some(port) = state.ports.get(name) {
                write.put_port_id(name, port.id.0)?;
            }
        }
        if let Err(error) = write.commit(next) {
            if is_ahead {
                self.take_back(&outcome);
            }
            self.store_failed(&error);
            return Err(error.into());
        }
        laps.end("commit");
        // From here on nothing is refused any more.
        self.revision = next;
        self.state = state;
        let before = self.shared.set_state(self.state.clone());
        self.carry_out(&mut outcome, programs);
        if !is_ahead {
            reply.effective_after = nanoseconds(arrived.elapsed());
            laps.end("flip");
        }
        if outcome.changes.iter().any(is_about_mapping) {
            self.shared.events.look_again();
        }
        self.rebuilds.add_due(outcome.due);
        let waste = self.rebuilds.waste();
        waste.count += outcome.changes.len();
        waste.states.push(before);
        waste.changes.append(&mut self.shared.changes.add(next, Arc::new(outcome.changes)));
        laps.end("tell");
        Ok(reply)
    }

    fn compile(&mut self, state: &State, outcome: &Outcome) -> Result<Vec<(PortId, Arc<Program>)>, Mistakes> {
        let mut programs = Vec::new();
        let mut mistakes = Mistakes::default();
        for name in &outcome.touched {
            let Some(port) = state.ports.get(name) else { continue };
            match self.compiler.compile(port.id, &port.policy(&state.names)) {
                Ok(program) => programs.push((port.id, program)),
                Err(error) => mistakes.add(does_not_compile(&error).into(), &port_reference(name), 0),
            }
        }
        if mistakes.is_empty() { Ok(programs) } else { Err(mistakes) }
    }

    /// Has the switch run what was decided. What fails here is a fault of the machine, not of the request: it is
    /// logged, and the audit shows it.
    fn carry_out(&mut self, outcome: &mut Outcome, programs: Vec<(PortId, Arc<Program>)>) {
        for (name, id) in &outcome.removed {
            self.attached.remove(name);
            if let Err(error) = self.shared.host.remove_port(*id) {
                warn!(port = &**name, "could not be removed: {error}");
            }
        }
        self.reshape_ports(outcome);
        for name in &outcome.made {
            self.make_port(name);
        }
        for (name, edit) in &mut outcome.mappings {
            self.change_mapping(name, std::mem::take(edit));
        }
        self.flip(programs);
        for name in std::mem::take(&mut outcome.removed_mappings) {
            self.shared.events.forget(&name);
            let removed = self.shared.host.broadcast(move |_, switch, _| switch.remove_mapping(&name));
            if let Err(error) = removed {
                error!("a mapping table was not removed: {error}");
            }
        }
        if outcome.is_multicast_changed {
            let ports = &self.state.ports;
            let set = self.state.multicast.iter().filter_map(|name| ports.get(name)).map(|port| port.id);
            if let Err(error) = self.shared.host.set_multicast(set.collect()) {
                error!("the multicast set is not in force: {error}");
            }
        }
        if !outcome.made.is_empty() || !outcome.removed.is_empty() {
            self.attach_devices();
        }
    }

    /// Has every worker run `programs`.
    fn flip(&self, programs: Vec<(PortId, Arc<Program>)>) {
        if !programs.is_empty()
            && let Err(error) = self.shared.host.flip(programs)
        {
            error!("the policy is not in force everywhere: {error}");
        }
    }

    /// Has every worker run what it ran before a transaction that is not to be.
    fn take_back(&mut self, outcome: &Outcome) {
        let state = self.state.clone();
        match self.compile(&state, outcome) {
            Ok(programs) => self.flip(programs),
            // It compiled before.
            Err(mistakes) => error!("the former policy is not in force again: {mistakes:?}"),
        }
    }

    /// The entries of all tables as the store has them.
    fn restored_mappings(&self) -> BTreeMap<Name, MappingEdit> {
        let mut mappings: BTreeMap<Name, MappingEdit> = BTreeMap::new();
        for table in &self.state.catalog.resources.mappings {
            let edit = MappingEdit { replace: Some(Vec::new()), changes: Vec::new() };
            mappings.insert(table.name.value.clone(), edit);
        }
        let scanned = self.shared.store.scan(&[v1::Kind::MappingEntry as u8], |key, object| {
            if let Some(v1::object::Content::MappingEntry(entry)) = &object.content
                && let Ok(meant) = mapping::read(entry)
                && let Some(edit) = mappings.get_mut(&*key.reference().mapping)
                && let Some(entries) = &mut edit.replace
            {
                entries.push(meant);
            }
            true
        });
        if let Err(error) = scanned {
            error!("mapping entries are not restored: {error}");
        }
        mappings
    }

    /// Tells the workers of entries that the store has, or lacks, as it was asked to: packets may wait for that answer.
    fn say_again(&self, outcome: Outcome) {
        for (name, edit) in outcome.mappings {
            if edit.replace.is_none() && !edit.changes.is_empty() {
                self.change_mapping(&name, edit);
            }
        }
    }

    /// Has every worker's replica of a mapping table change. Packets that wait for what changes are released by that.
    fn change_mapping(&self, name: &Name, edit: MappingEdit) {
        let declared = self.state.names.resources().mappings.iter().find(|table| table.name == *name);
        let on_miss = declared.map(|table| table.on_miss).unwrap_or_default();
        let content = |entries| Arc::new(MappingTable::new(name.clone(), entries).on_miss(on_miss));
        let content = edit.replace.map(content);
        let changes: Arc<[MappingChange]> = edit.changes.into();
        // In pieces, between which the workers get to their packets. The first one also makes the table.
        let mut from = 0;
        while from < changes.len() || from == 0 {
            let to = changes.len().min(from + MAPPINGS_AT_ONCE);
            let (table, changes) = (name.clone(), changes.clone());
            let content = content.clone().filter(|_| from == 0);
            let told = self.shared.host.broadcast(move |_, switch, _| {
                if switch.mapping(&table).is_none() || content.is_some() {
                    let empty = || Arc::new(MappingTable::new(table.clone(), []).on_miss(on_miss));
                    switch.replace_mapping(&content.clone().unwrap_or_else(empty))?;
                }
                switch.update_mapping(&table, &changes[from..to])
            });
            let results = told.unwrap_or_else(|error| {
                error!(mapping = &**name, "its entries are not in force: {error}");
                Vec::new()
            });
            for error in results.into_iter().filter_map(Result::err) {
                error!(mapping = &**name, "its entries are not in force: {error}");
            }
            from = to.max(1);
        }
        let declared = content.iter().flat_map(|content| content.iter().map(|(key, _)| key));
        self.shared.events.answered(name, declared.chain(changes.iter().map(MappingChange::key)));
    }

    /// Gives ports that stay their new properties, all at once: they may exchange MACs. What could not be made before
    /// is tried again.
    fn reshape_ports(&mut self, outcome: &mut Outcome) {
        let mut configs = Vec::new();
        for name in std::mem::take(&mut outcome.reshaped) {
            match self.state.ports.get(&name) {
                Some(port) if self.attached.contains_key(&name) => {
                    configs.push((port.id, port.config.clone()))
                }
                Some(_) => drop(outcome.made.insert(name)),
                None => {}
            }
        }
        if !configs.is_empty()
            && let Err(error) = self.shared.host.set_ports(configs)
        {
            error!("ports are as they were: {error}");
        }
    }

    fn make_port(&mut self, name: &Name) {
        let Some(port) = self.state.ports.get(name) else { return };
        match self.shared.host.add_port(port.id, port.config.clone(), Placement::default(), None) {
            Ok(_) => {
                self.attached.insert(name.clone(), None);
            }
            Err(error) => error!(port = &**name, "could not be made: {error}"),
        }
    }

    /// Looks after devices that came or went.
    fn tick(&mut self) {
        let host = &self.shared.host;
        for (name, device) in &mut self.attached {
            let is_gone = device.as_ref().is_some_and(|device| !self.devices.is_there(device));
            if is_gone && let Some(port) = self.state.ports.get(name) {
                *device = None;
                if let Err(error) = host.detach(port.id) {
                    warn!(port = &**name, "its device is gone and could not be detached: {error}");
                }
                info!(port = &**name, "its device is gone; the port keeps its policy");
                publish_port(&self.shared, name, v1::EventKind::PortDown);
            }
        }
        self.attach_devices();
        self.tidy();
        // When there was no transaction since the last time, there is probably none waiting.
        if std::mem::replace(&mut self.is_idle, true) {
            self.checkpoint();
        }
    }

    /// Opens the devices of ports that have none yet. What is in the way is logged when it is new, and told by the status.
    fn attach_devices(&mut self) {
        let before = self.shared.devices();
        let mut known = BTreeMap::new();
        for (name, device) in &mut self.attached {
            if let Some(device) = device {
                known.insert(name.clone(), Ok(device.name.clone()));
                continue;
            }
            let Some(port) = self.state.ports.get(name) else { continue };
            let failure = match self.devices.open(name) {
                Ok(Some((opened, backend))) => match self.shared.host.attach(port.id, backend) {
                    Ok(()) => {
                        info!(port = &**name, device = opened.name, "attached");
                        known.insert(name.clone(), Ok(opened.name.clone()));
                        *device = Some(opened);
                        publish_port(&self.shared, name, v1::EventKind::PortUp);
                        continue;
                    }
                    Err(error) => format!("its device could not be attached: {error}"),
                },
                Ok(None) => continue,
                Err(error) => format!("its device could not be opened: {error}"),
            };
            if before.get(name).and_then(|known| known.as_ref().err()) != Some(&failure) {
                warn!(port = &**name, "{failure}");
            }
            known.insert(name.clone(), Err(failure));
        }
        *self.shared.devices.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// True for a mapping table itself, whose owner or agents may be others now.
fn is_about_mapping(change: &v1::Change) -> bool {
    let reference = change.object.as_ref().and_then(|object| object.r#ref.as_ref());
    reference.is_some_and(|reference| reference.kind() == v1::Kind::Mapping)
}

fn publish_port(shared: &Shared, name: &Name, kind: v1::EventKind) {
    let event = v1::Event { kind: kind as i32, port: name.to_string(), ..v1::Event::default() };
    shared.events.publish(event, None);
}

fn port_reference(name: &Name) -> v1::Ref {
    v1::Ref { kind: v1::Kind::Port as i32, name: name.to_string(), ..v1::Ref::default() }
}

fn does_not_compile(error: &lamina_core::layer::CompileError) -> v1::Mistake {
    mistake("impossible", error.to_string(), "change what the message names")
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn reply(outcome: &Outcome, revision: u64) -> v1::ApplyReply {
    v1::ApplyReply {
        revision,
        changes: outcome.changes.iter().take(LISTED_CHANGES).cloned().collect(),
        created: outcome.created,
        updated: outcome.updated,
        deleted: outcome.deleted,
        unchanged: outcome.unchanged,
        warnings: Vec::new(),
        effective_after: 0,
    }
}
