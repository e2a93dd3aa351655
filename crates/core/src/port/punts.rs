//! How many packets a port may send to controllers: a token bucket, in its shortest form.
//!
//! Theory. The bucket is one moment: when it will be full again. A token moves that moment ahead by the time in which
//! one grows; none is left when it would lie further ahead than all tokens together take (a "generic cell rate
//! algorithm"). It holds no packets: those are in the events, whose queue is bounded too.

use crate::inspect::{Full, LimitUse};
use crate::time::{Duration, Instant};

/// Packets that one port may send to controllers per second,
pub const MAX_PUNTS_PER_SECOND: u64 = 1_000;
/// and at once, after a quarter of a second without any.
pub const MAX_PUNTS_AT_ONCE: usize = 256;

const ONE: Duration = Duration(1_000_000_000 / MAX_PUNTS_PER_SECOND);
const ALL: Duration = Duration(ONE.0 * MAX_PUNTS_AT_ONCE as u64);

/// What a port may still send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Punts {
    full_at: Instant,
    /// When it was last looked at.
    seen: Instant,
    /// How often there was no token, or no room for the event.
    pub(crate) full: Full,
}

impl Punts {
    /// True when a token is left.
    pub(crate) fn has_token(&self, now: Instant) -> bool {
        self.full_at.max(now) + ONE - now <= ALL
    }

    /// Takes a token, of which one must be left.
    pub(crate) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + ONE;
        self.seen = now;
    }

    /// Tokens that are taken at `now`.
    pub(super) fn used(&mut self, now: Instant) -> usize {
        self.seen = self.seen.max(now);
        self.last_used()
    }

    /// Tokens that were taken when it was last looked at, about a second ago at most.
    fn last_used(&self) -> usize {
        (self.full_at.max(self.seen) - self.seen).0.div_ceil(ONE.0) as usize
    }

    pub(super) fn limit(&self) -> LimitUse {
        LimitUse::new("punts", self.last_used(), Some(MAX_PUNTS_AT_ONCE), self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of `count` at `now` that get a token.
    fn sent(punts: &mut Punts, now: Instant, count: usize) -> usize {
        let mut taken = 0;
        for _ in 0..count {
            if punts.has_token(now) {
                punts.take(now);
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut punts = Punts::default();
        let now = Instant(1 << 40);
        assert_eq!(sent(&mut punts, now, 1_000), MAX_PUNTS_AT_ONCE);
        assert_eq!(punts.used(now), MAX_PUNTS_AT_ONCE);
        let later = now + Duration::from_milliseconds(100);
        assert_eq!(punts.used(later), MAX_PUNTS_AT_ONCE - 100);
        assert_eq!(sent(&mut punts, later, 1_000), 100);
        let much_later = later + Duration::from_milliseconds(100_000);
        assert_eq!(punts.used(much_later), 0);
        assert_eq!(sent(&mut punts, much_later, 1_000), MAX_PUNTS_AT_ONCE);
    }
}
