//! Ports of other workers: what this switch knows of them, and the packets that go to and come from them (§11).
//!
//! A port lives in one worker's switch, with all its state; every other switch knows its MAC, tenants and MTU only, as
//! a *remote port*. A packet for it leaves by [`Output::elsewhere`] before anything of that port is looked at, and enters
//! the owner's switch by [`Switch::accept`], which does with it what it does with a packet of its own. The switch does
//! not know which worker owns what: its caller does.

use alloc::vec::Vec;

use super::measure::lost;
use super::receive::{Entered, Pending, Scratch};
use super::{AddPortError, Output, PortConfig, PortId, Switch};
use crate::flow::Direction;
use crate::packet::Packet;
use crate::time::Instant;

/// A packet on its way from one worker's switch to a port of another's.
#[derive(Debug)]
pub struct Handover {
    /// The port that it is to enter.
    pub to: PortId,
    /// Which side of it.
    pub direction: Direction,
    /// The port or uplink that it comes from.
    pub ingress: PortId,
    /// The packet.
    pub packet: Packet,
}

impl Switch {
    /// Makes a port of another worker known: forwarding finds it as it finds the switch's own, and mirrors too. Only its
    /// name, MAC, tenants and MTU are used.
    pub fn add_remote_port(&mut self, id: PortId, config: &PortConfig) -> Result<(), AddPortError> {
        self.check_id(id)?;
        self.fabric.add_port(id, config)?;
        self.fabric.remotes.insert(id, config.name.clone());
        self.raise_generations();
        Ok(())
    }

    /// Processes packets that other workers' switches handed over, draining them into `output`.
    pub fn accept(&mut self, now: Instant, handovers: &mut Vec<Handover>, output: &mut Output) {
        if self.captures.are_running() {
            self.accept_all::<true>(now, handovers, output);
        } else {
            self.accept_all::<false>(now, handovers, output);
        }
    }

    fn accept_all<const TAPS: bool>(
        &mut self,
        now: Instant,
        handovers: &mut Vec<Handover>,
        output: &mut Output,
    ) {
        let mut scratch = Scratch::default();
        for Handover { to, direction, ingress, packet } in handovers.drain(..) {
            if self.ports.contains_key(&to) {
                self.pending.push(Pending { to, direction, ingress, packet });
                self.enter_pending::<TAPS>(now, &mut scratch, output);
            } else {
                // The port was removed while the packet was on its way. Never handed over again, so that two workers
                // that disagree do not play ball with it.
                self.lose_for::<TAPS>(now, (to, direction), packet, output);
            }
        }
    }

    /// Takes a packet for a port that is not this switch's.
    #[cold]
    pub(super) fn hand_over<const TAPS: bool>(
        &mut self,
        now: Instant,
        next: Pending,
        output: &mut Output,
    ) -> Entered {
        let Pending { to, direction, ingress, packet } = next;
        if !self.fabric.remotes.contains_key(&to) {
            return self.lose_for::<TAPS>(now, (to, direction), packet, output);
        }
        output.elsewhere.push(Handover { to, direction, ingress, packet });
        Entered { at: ingress, is_dropped: false }
    }

    /// Drops a packet for a port that does not exist, or no longer does.
    fn lose_for<const TAPS: bool>(
        &mut self,
        now: Instant,
        (to, direction): (PortId, Direction),
        packet: Packet,
        output: &mut Output,
    ) -> Entered {
        self.fabric.lose_ownerless(direction, &lost(now, &packet, None));
        self.discard::<TAPS>(now, (to, direction), packet, output)
    }
}
