//! Large rule lists made anew, beside the transactions; and what is no longer used, freed after the answer.
//!
//! A changed rule lies beside its list's base until so many do that the list should be made anew. That takes tens of
//! milliseconds for tens of thousands of rules: the housekeeper does it, while transactions go on and may change the list
//! further; what they changed is carried over. One list at a time. Where the machine never rests the housekeeper does not get to
//! it, and when too much waits for it, it takes nothing: when the list is about to be full, a thread of its own does it at the
//! priority of everything else, before a transaction would have to. Which lists are due is known from the transactions that
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

    /// True when the group's list is about to be full.
    fn is_urgent(&self, state: &State) -> bool {
        self.group(state).is_some_and(|group| group.rules.overlay_len() >= URGENT)
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
                Err(_) => {
                    self.rebuilds.due.push_front(place);
                    return self.begin_urgent();
                }
            }
        }
    }

    /// The housekeeper takes nothing: has a list made anew by somebody else, if one is urgent.
    fn begin_urgent(&mut self) {
        let mut due = self.rebuilds.due.iter();
        let Some(at) = due.position(|place| place.is_urgent(&self.state)) else { return };
        let Some(place) = self.rebuilds.due.remove(at) else { return };
        match self.rebuild_at_once(&place) {
            Some(number) => {
                self.rebuilds.running = Some(Running { place, number, urgent: Some(number) });
            }
            None => self.rebuilds.due.push_front(place),
        }
    }

    /// Has the list that the housekeeper has not made in time made by somebody else.
    fn hurry(&mut self) {
        let running = self.rebuilds.running.as_ref().filter(|running| running.urgent.is_none());
        let Some(place) = running.map(|running| running.place.clone()) else { return };
        if place.is_urgent(&self.state) {
            let number = self.rebuild_at_once(&place);
            if let Some(running) = &mut self.rebuilds.running {
                running.urgent = number;
            }
        }
    }

    /// Has a thread of its own make the list at `place` anew; returns the job's number.
    fn rebuild_at_once(&mut self, place: &Place) -> Option<u64> {
        let (number, job) = self.rebuilds.job(place.group(&self.state)?, place);
        match std::thread::Builder::new().name("rebuild".into()).spawn(job) {
            Ok(_) => Some(number),
            Err(error) => {
                error!("no thread to make a rule list anew: {error}");
                None
            }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use lamina_api::wire::v1;
    use lamina_api::wire::v1::operation::Operation;
    use lamina_core::switch::SwitchConfig;

    use super::*;
    use crate::control::{Interfaces, Request, Rights, Store, event_rings, start};
    use crate::host::{Host, HostConfig};

    fn apply(control: &mut Control, operations: Vec<Operation>) {
        let operations = operations.into_iter().map(|one| v1::Operation { operation: Some(one) }).collect();
        let options = v1::ApplyOptions::default();
        let request = Request { controller: "test".into(), options, operations, arrived: Instant::now() };
        control.apply(request).unwrap();
    }

    #[test]
    fn an_urgent_list_is_made_anew_though_the_housekeeper_takes_nothing() {
        let (senders, rings) = event_rings(1);
        let mut config = HostConfig::new("rebuild", SwitchConfig { seed: 7 });
        config.events = senders;
        let host = Host::start(config).unwrap();
        let store = Store::in_memory().unwrap();
        let (mut control, _handle, _shared) =
            start(host, store, Rights::default(), Box::new(Interfaces), rings).unwrap();
        let (port, layer, group) = ("rebuilt-port", "acl", "g");
        let made = v1::Port { mac: "02:00:00:00:00:01".into(), ..v1::Port::default() };
        let groups = vec![v1::Group { group: group.into(), ..v1::Group::default() }];
        let layers =
            v1::Layer { name: layer.into(), priority: Some(1), outbound: groups, ..v1::Layer::default() };
        apply(
            &mut control,
            vec![
                Operation::PutPort(v1::PutPort { name: port.into(), port: Some(made) }),
                Operation::PutLayer(v1::PutLayer {
                    port: port.into(),
                    layer: Some(layers),
                    keep_groups: false,
                }),
            ],
        );
        let put = |control: &mut Control, number: usize| {
            let rule = v1::Rule {
                name: format!("r{number}"),
                action: Some(v1::Action { action: Some(v1::action::Action::Allow(v1::Nothing {})) }),
                ..v1::Rule::default()
            };
            let rules = v1::PutRules {
                port: port.into(),
                layer: layer.into(),
                direction: v1::Direction::Outbound as i32,
                group: group.into(),
                rules: vec![rule],
            };
            apply(control, vec![Operation::PutRules(rules)]);
            control.begin_rebuild();
        };
        // The housekeeper is busy for as long as `gate` is there, and too much waits for it.
        let (gate, closed) = channel::<()>();
        let wait = move || assert!(closed.recv().is_err());
        let begun = control.rebuilds.housekeeper.hand(Box::new(wait));
        assert!(begun.is_ok());
        let begin = Instant::now();
        let mut handed = 0;
        // It takes one more when it takes the first one up.
        while handed < 16 || begin.elapsed() < Duration::from_millis(200) {
            handed += usize::from(control.rebuilds.housekeeper.hand(Box::new(|| ())).is_ok());
            assert!(begin.elapsed() < Duration::from_secs(60), "the housekeeper does not fill");
        }
        let place = Place {
            port: port.into(),
            layer: layer.into(),
            direction: Direction::Outbound,
            group: group.into(),
        };
        let edits = |control: &Control| place.group(&control.state).unwrap().rules.overlay_len();
        let mut number = 0;
        while edits(&control) < URGENT - 1 {
            put(&mut control, number);
            number += 1;
        }
        assert!(control.rebuilds.running.is_none() && !control.rebuilds.due.is_empty(), "it waits");
        put(&mut control, number);
        assert!(control.rebuilds.running.is_some(), "it is urgent");
        match control.commands.recv_timeout(Duration::from_secs(60)) {
            Ok(Command::Rebuilt(done)) => control.finish_rebuild(done),
            _ => panic!("it is not made"),
        }
        assert_eq!(edits(&control), 0);
        assert!(control.rebuilds.running.is_none() && control.rebuilds.due.is_empty());
        drop(gate);
    }
}
