//! How long the parts of a transaction took: told to who logs this module's traces, so that a slow one can be explained.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tracing::trace;

/// Most parts.
const PARTS: usize = 8;

/// A transaction's times. They are told when it ends.
pub struct Laps {
    arrived: Instant,
    last: Instant,
    parts: [(&'static str, Duration); PARTS],
    count: usize,
}

impl Laps {
    /// Begins with how long the request, which `arrived` then, waited.
    pub fn since(arrived: Instant) -> Laps {
        let mut laps = Laps { arrived, last: arrived, parts: Default::default(), count: 0 };
        laps.end("wait");
        laps
    }

    /// The part called `name` ends now.
    pub fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        if let Some(part) = self.parts.get_mut(self.count) {
            *part = (name, now - self.last);
            self.count += 1;
        }
        self.last = now;
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, time) in &self.parts[..self.count] {
            // Writing to a string does not fail.
            let _ = write!(text, "{name} {} ", time.as_micros());
        }
        let _ = write!(text, "all {}", (self.last - self.arrived).as_micros());
        text
    }
}

impl Drop for Laps {
    fn drop(&mut self) {
        trace!("microseconds: {}", self.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        let mut laps = Laps::since(Instant::now());
        (0..PARTS + 1).for_each(|_| laps.end("part"));
        assert_eq!(laps.count, PARTS, "more parts than there is room for do no harm");
        let mut laps = Laps::since(Instant::now());
        laps.end("draft");
        let all: Duration = laps.parts.iter().map(|(_, time)| *time).sum();
        assert_eq!(all, laps.last - laps.arrived);
        assert!(laps.text().starts_with("wait ") && laps.text().contains(" draft "), "{}", laps.text());
    }
}
