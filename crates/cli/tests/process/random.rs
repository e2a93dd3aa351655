//! Random numbers from a seed that is printed, so that a failing run can be repeated.

use std::time::{Duration, SystemTime};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// From the environment variable `LAMINA_SEED`, or from the clock.
    pub fn seeded() -> Random {
        let given = std::env::var("LAMINA_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        println!("LAMINA_SEED={seed}");
        Random(seed)
    }

    /// Another sequence, for another thread.
    pub fn split(&mut self) -> Random {
        Random(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A time below `bound`, in microseconds.
    pub fn time_below(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(bound.as_micros() as u64 + 1))
    }
}
