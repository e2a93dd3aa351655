//! Waiting for a packet on any port, a command, or the next timer, whichever comes first.

use lamina_core::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::mailbox::Mailbox;
use super::ports::Ports;

/// What reports trouble rather than packets.
const TROUBLE: PollFlags = PollFlags::ERR.union(PollFlags::HUP).union(PollFlags::NVAL);

/// Sleeps for a worker.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    /// Places of ports whose file reported trouble at the last sleep. If their next receive clears it, well; if
    /// it is reported twice in a row, the port is muted.
    troubled: Vec<usize>,
}

impl Sleeper {
    /// Sleeps until there may be something to do; at the latest until `timer`.
    pub(super) fn sleep(&mut self, now: Instant, timer: Instant, ports: &mut Ports, mailbox: &mut Mailbox) {
        ports.unmute(now);
        let until = ports.deadline(now).map_or(timer, |deadline| deadline.min(timer));
        let left = until - now;
        let timeout =
            Timespec { tv_sec: (left.0 / 1_000_000_000) as i64, tv_nsec: (left.0 % 1_000_000_000) as _ };
        let mut places = Vec::with_capacity(ports.len());
        let mut files = Vec::with_capacity(ports.len() + 1);
        files.push(PollFd::from_borrowed_fd(mailbox.file(), PollFlags::IN));
        for (place, file) in ports.files() {
            places.push(place);
            files.push(PollFd::from_borrowed_fd(file, PollFlags::IN));
        }
        // An error means a signal came; the next breath finds out what is to be done.
        let woken = poll(&mut files, Some(&timeout)).unwrap_or(0);
        if woken == 0 {
            self.troubled.clear();
            return;
        }
        let was_rung = !files[0].revents().is_empty();
        let troubled: Vec<usize> = places
            .iter()
            .zip(&files[1..])
            .filter(|(_, file)| file.revents().intersects(TROUBLE))
            .map(|(place, _)| *place)
            .collect();
        if was_rung {
            mailbox.lower();
        }
        for place in troubled.iter().filter(|place| self.troubled.contains(place)) {
            ports.mute(*place, now);
        }
        self.troubled = troubled;
    }
}
