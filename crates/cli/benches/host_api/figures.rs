//! Times that were taken, and what is told of them.

use std::fmt;
use std::time::Duration;

/// Times of many calls.
#[derive(Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let Some(slowest) = sorted.last() else { return f.write_str("none") };
        let at = |per_mille: usize| sorted[(sorted.len() * per_mille / 1000).min(sorted.len() - 1)];
        for (name, per_mille) in [("median", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
            write!(f, "{name} {}, ", time(at(per_mille)))?;
        }
        write!(f, "slowest {}", time(*slowest))
    }
}

/// A time in milliseconds.
pub fn time(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}
