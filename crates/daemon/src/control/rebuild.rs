//! Large rule lists made anew, beside the transactions.
//!
//! A changed rule lies beside its list's base until so many do that the list should be made anew. That takes tens of
//! milliseconds for tens of thousands of rules: a thread does it, while transactions go on and may change the list
//! further; what they changed is carried over. One list at a time.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use lamina_core::flow::Direction;
use lamina_core::layer::{Compiler, Name, Rebuilt};
use tracing::{debug, error};

use super::{Command, Control};

/// The group whose rules are made anew.
#[derive(Clone, Debug)]
struct Place {
    port: Name,
    layer: Name,
    direction: Direction,
    group: Name,
}

/// A list that was made anew.
pub struct Done {
    place: Place,
    rebuilt: Rebuilt,
}

/// Whether one is being made.
pub struct Rebuilds {
    commands: SyncSender<Command>,
    is_running: bool,
}

impl Rebuilds {
    /// None is; what is done comes by `commands`.
    pub fn new(commands: SyncSender<Command>) -> Rebuilds {
        Rebuilds { commands, is_running: false }
    }
}

impl Control {
    /// Has a list made anew that should be, unless another one is being made.
    pub(super) fn begin_rebuild(&mut self) {
        if self.rebuilds.is_running {
            return;
        }
        let ports = self.state.ports.iter();
        let mut groups = ports.flat_map(|(port, state)| {
            state.layers.iter().flat_map(move |(layer, state)| {
                [Direction::Inbound, Direction::Outbound].into_iter().flat_map(move |direction| {
                    state.groups(direction).iter().map(move |group| (port, layer, direction, group))
                })
            })
        });
        let Some((port, layer, direction, group)) = groups.find(|(.., group)| group.rules.should_rebuild())
        else {
            return;
        };
        let place = Place { port: port.clone(), layer: layer.clone(), direction, group: group.name.clone() };
        let (list, selection) = (group.rules.clone(), group.selection);
        let commands = self.rebuilds.commands.clone();
        let started = std::thread::Builder::new().name("rebuild".into()).spawn(move || {
            let rebuilt = Compiler::rebuild(&list, selection);
            // It fails only when the daemon is stopping.
            let _ = commands.send(Command::Rebuilt(Box::new(Done { place, rebuilt })));
        });
        match started {
            Ok(_) => self.rebuilds.is_running = true,
            Err(error) => error!("no thread to make a rule list anew: {error}"),
        }
    }

    /// Puts a list that was made anew in the place of the old one, with what changed meanwhile.
    pub(super) fn finish_rebuild(&mut self, done: Done) {
        self.rebuilds.is_running = false;
        let Done { place, rebuilt } = done;
        let Some(port) = self.state.ports.get_mut(&place.port) else { return };
        let port = Arc::make_mut(port);
        let Some(layer) = port.layers.get_mut(&place.layer) else { return };
        let groups = Arc::make_mut(layer).groups_mut(place.direction);
        let Some(group) = groups.iter_mut().find(|group| group.name == place.group) else { return };
        let Some(list) = self.compiler.adopt(&rebuilt, &group.rules) else {
            debug!(?place, "the list was replaced while it was made anew");
            return;
        };
        group.rules = list;
        match self.compiler.compile(port.id, &port.policy(&self.state.names)) {
            Ok(program) => {
                if let Err(error) = self.shared.host.flip(vec![(port.id, program)]) {
                    error!("a rule list that was made anew is not in force: {error}");
                }
            }
            Err(error) => error!(?place, "a rule list that was made anew does not compile: {error}"),
        }
        self.shared.set_state(self.state.clone());
        self.begin_rebuild();
    }
}
