//! Time as a value. The core has no clock: a worker reads the clock once per breath and hands the reading in.

use core::ops::{Add, Sub};

/// Nanoseconds since an origin that the caller chose; only differences mean anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Duration(pub u64);

impl Duration {
    /// `seconds` as a duration.
    pub const fn from_seconds(seconds: u64) -> Self {
        Duration(seconds.saturating_mul(1_000_000_000))
    }

    /// `milliseconds` as a duration.
    pub const fn from_milliseconds(milliseconds: u64) -> Self {
        Duration(milliseconds.saturating_mul(1_000_000))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, length: Duration) -> Instant {
        Instant(self.0.saturating_add(length.0))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// The time from `earlier` to `self`; zero when `earlier` is later, since clocks of two cores may differ.
    fn sub(self, earlier: Instant) -> Duration {
        Duration(self.0.saturating_sub(earlier.0))
    }
}
