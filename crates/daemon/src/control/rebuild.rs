//! Large rule lists made anew, beside the transactions; and what is no longer used, freed after the answer.
//!
//! A changed rule lies beside its list's base until so many do that the list should be made anew. That takes tens of
//! milliseconds for tens of thousands of rules: the housekeeper does it, while transactions go on and may change the list
//! further; what they changed is carried over. One list at a time. Where the machine never rests the housekeeper does not get to
//! it: when the list is about to be full, a thread of its own does it at the priority of everything else, before a
//! transaction would have to. Which lists are due is known from the transactions that
//! changed them: nothing here looks at what did not change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use lamina_core::flow::Direction;
use lamina_core::layer::{Compiler, Group, Name, OVERLAY_LIMIT, Rebuilt};
use tracing::{debug, error};

use super::changes::Changes;
use super::housekeeper::{Housekeeper, Job};
use super::{Command, Control, State};

/// Objects that a transaction changed from which on what it replaced is freed elsewhere.
const MANY: usize = 1_000;

/// With so many edits a list is made anew at once: from the next full one on, transactions would do it themselves.
const URGENT: usize = OVERLAY_LIMIT * 3 / 4;

/// A group's place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Its port.
    pub port: Name,
    /// Its layer.
    pub layer: Name,
    /// Its direction.
    pub direction: Direction,
    /// Its name.
    pub group: Name,
}

impl Place {
    /// The group that is there.
    fn group<'a>(&self, state: &'a State) -> Option<&'a Group> {
        let layer = state.ports.get(&self.port)?.layers.get(&self.layer)?;
        layer.groups(self.direction).iter().find(|group| group.name == self.group)
    }
}

/// A list that was made anew.
pub struct Done {
    place: Place,
    rebuilt: Rebuilt,
    /// The job's.
    number: u64,
}

/// A list that is being made anew.
struct Running {
    place: Place,
    /// The housekeeper's job,
    number: u64,
    /// and that of a thread of its own, if it is urgent.
    urgent: Option<u64>,
}

/// What is to be made anew, and what is to be freed.
pub struct Rebuilds {
    commands: SyncSender<Command>,
    housekeeper: Housekeeper,
    running: Option<Running>,
    /// Jobs so far.
    jobs: u64,
    /// Groups whose lists should be made anew, each once.
    due: VecDeque<Place>,
    /// What nobody uses any more, probably.
    waste: Waste,
}

/// What a transaction replaced. Dropped before the answer it would be waited for.
#[derive(Default)]
pub struct Waste {
    /// States that ran.
    pub states: Vec<Arc<State>>,
    /// Changes that are no longer kept.
    pub changes: Vec<Changes>,
    /// Lists that were replaced by the same on another base.
    pub rebuilt: Option<Box<Done>>,
    /// Objects that were changed.
    pub count: usize,
}

impl Rebuilds {
    /// Nothing is due; what is done comes by `commands`.
    pub fn new(commands: SyncSender<Command>, housekeeper: Housekeeper) -> Rebuilds {
        Rebuilds {
            commands,
            housekeeper,
            running: None,
            jobs: 0,
            due: VecDeque::new(),
            waste: Waste::default(),
        }
    }

    /// These groups have so many edits that they should be made anew.
    pub(super) fn add_due(&mut self, places: Vec<Place>) {
        for place in places {
            if !self.due.contains(&place) {
                self.due.push_back(place);
            }
        }
    }

    /// What makes the list of `group`, which is at `place`, anew, and its number.
    fn job(&mut self, group: &Group, place: &Place) -> (u64, Job) {
        self.jobs += 1;
        let number = self.jobs;
        let (list, selection, place) = (group.rules.clone(), group.selection, place.clone());
        let commands = self.commands.clone();
        let job = move || {
            let rebuilt = Compiler::rebuild(&list, selection);
            // It fails only when the daemon is stopping.
            let _ = commands.send(Command::Rebuilt(Box::new(Done { place, rebuilt, number })));
        };
        (number, Box::new(job))
    }

    /// What is to be freed after the answer.
    pub(super) fn waste(&mut self) -> &mut Waste {
        &mut self.waste
    }
}

impl Control {
    /// Frees what was replaced, here when it is little. To be called after the answer.
    pub(super) fn tidy(&mut self) {
        let waste = std::mem::take(&mut self.rebuilds.waste);
        let forgotten: usize = waste.changes.iter().map(|changes| changes.len()).sum();
        let programs = self.compiler.collect();
        if waste.count + forgotten >= MANY || waste.rebuilt.is_some() {
            self.rebuilds.housekeeper.free((programs, waste));
        }
    }

    /// Has a list made anew that should be, unless another one is being made.
    pub(super) fn begin_rebuild(&mut self) {
        self.hurry();
        while self.rebuilds.running.is_none()
            && let Some(place) = self.rebuilds.due.pop_front()
        {
            // It may be gone by now, or have been replaced.
            let Some(group) = place.group(&self.state).filter(|group| group.rules.should_rebuild()) else {
                continue;
            };
            let (number, job) = self.rebuilds.job(group, &place);
            match self.rebuilds.housekeeper.hand(job) {
                Ok(()) => self.rebuilds.running = Some(Running { place, number, urgent: None }),
                Err(_) => return self.rebuilds.due.push_front(place),
            }
        }
    }

    /// Has the list that the housekeeper has not made in time made by somebody else.
    fn hurry(&mut self) {
        let Some(place) = self.rebuilds.running.as_ref().filter(|running| running.urgent.is_none()) else {
            return;
        };
        let place = place.place.clone();
        let group = place.group(&self.state).filter(|group| group.rules.overlay_len() >= URGENT);
        let Some((number, job)) = group.map(|group| self.rebuilds.job(group, &place)) else { return };
        if let Err(error) = std::thread::Builder::new().name("rebuild".into()).spawn(job) {
            error!("no thread to make a rule list anew: {error}");
        } else if let Some(running) = &mut self.rebuilds.running {
            running.urgent = Some(number);
        }
    }

    /// Puts a list that was made anew in the place of the old one, with what changed meanwhile.
    pub(super) fn finish_rebuild(&mut self, done: Box<Done>) {
        // Of two that were at it the first one counts; the other finds that the list has another base by now.
        let is_first =
            |running: &Running| running.number == done.number || running.urgent == Some(done.number);
        self.rebuilds.running = self.rebuilds.running.take().filter(|running| !is_first(running));
        self.replace_rebuilt(&done);
        self.rebuilds.waste.rebuilt = Some(done);
        self.tidy();
        self.begin_rebuild();
    }

    fn replace_rebuilt(&mut self, done: &Done) {
        let Done { place, rebuilt, .. } = done;
        let Some(port) = self.state.ports.get_mut(&place.port) else { return };
        let port = Arc::make_mut(port);
        let Some(layer) = port.layers.get_mut(&place.layer) else { return };
        let groups = Arc::make_mut(layer).groups_mut(place.direction);
        let Some(group) = groups.iter_mut().find(|group| group.name == place.group) else { return };
        let Some(list) = self.compiler.adopt(rebuilt, &group.rules) else {
            debug!(?place, "the list was replaced while it was made anew");
            return;
        };
        let is_due = list.should_rebuild();
        group.rules = list;
        match self.compiler.compile(port.id, &port.policy(&self.state.names)) {
            Ok(program) => {
                if let Err(error) = self.shared.host.flip(vec![(port.id, program)]) {
                    error!("a rule list that was made anew is not in force: {error}");
                }
            }
            Err(error) => error!(?place, "a rule list that was made anew does not compile: {error}"),
        }
        let before = self.shared.set_state(self.state.clone());
        self.rebuilds.waste.states.push(before);
        if is_due {
            self.rebuilds.add_due(vec![place.clone()]);
        }
    }
}
