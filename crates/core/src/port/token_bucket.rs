//! A token bucket in whole numbers: what a limit has left, at the caller's time (§8.2).
//!
//! Theory. Tokens are counted in billionths, so that the tokens of `n` nanoseconds at `r` tokens per second are
//! exactly `n * r` and nothing is ever rounded. The bucket is not filled by a timer: it remembers its level at the
//! moment of the last packet, and what has come in since is added when it is asked, up to the burst.
//!
//! A packet may cost more than the bucket can ever hold (a super-frame, a burst that was chosen small). It passes
//! when the bucket is full, and the level goes below zero: what is owed comes in before anything else passes. So
//! the long-run rate holds, and no packet is stuck for ever.

use crate::resource::{Rate, RateUnit};
use crate::stats::Count;
use crate::time::Instant;

/// Parts of one token.
const PARTS: i64 = 1_000_000_000;

/// One bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TokenBucket {
    rate: Rate,
    /// Billionths of tokens at `at`; below zero while a packet is being paid for.
    level: i64,
    /// When the last packet passed.
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) const fn new(rate: Rate) -> Self {
        TokenBucket { rate, level: rate.burst as i64 * PARTS, at: Instant(0) }
    }

    /// What an update makes of the bucket: the tokens stay as far as there is room for them, the new rate counts from
    /// the last packet on.
    pub(crate) fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        self.level = self.level.min(self.capacity());
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    pub(crate) const fn unit(&self) -> RateUnit {
        self.rate.unit
    }

    /// True when a packet that counts as `count` passes at `now`.
    pub(crate) fn admits(&self, now: Instant, count: Count) -> bool {
        self.level(now) >= self.cost(count).min(self.capacity())
    }

    /// Takes the tokens of a packet that passes.
    pub(crate) fn take(&mut self, now: Instant, count: Count) {
        self.level = self.level(now).saturating_sub(self.cost(count));
        self.at = self.at.max(now);
    }

    const fn capacity(&self) -> i64 {
        self.rate.burst as i64 * PARTS
    }

    fn level(&self, now: Instant) -> i64 {
        // A 64-bit product would overflow after 18 ms at the largest rate; 128 bits hold every pair.
        let come = (now - self.at).0 as i128 * self.rate.per_second as i128;
        (self.level as i128 + come).min(self.capacity() as i128) as i64
    }

    fn cost(&self, count: Count) -> i64 {
        let tokens = match self.rate.unit {
            RateUnit::Packets => count.packets,
            RateUnit::Bytes => count.bytes,
        };
        i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(PARTS)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const PACKET: Count = Count { packets: 1, bytes: 100 };

    fn packets(per_second: u64, burst: u64) -> TokenBucket {
        TokenBucket::new(Rate { unit: RateUnit::Packets, per_second, burst })
    }

    fn passes(bucket: &mut TokenBucket, now: u64, count: Count) -> bool {
        let now = Instant(now);
        let passes = bucket.admits(now, count);
        if passes {
            bucket.take(now, count);
        }
        passes
    }

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let mut bucket = packets(3, 2);
        let second = 1_000_000_000;
        assert_eq!([0, 0, 0].map(|now| passes(&mut bucket, now, PACKET)), [true, true, false]);
        // The third of a second in which a token comes is 333,333,333 1/3 ns: not a nanosecond too early.
        assert!(!passes(&mut bucket, second / 3, PACKET));
        assert!(passes(&mut bucket, second / 3 + 1, PACKET));
        assert!(!passes(&mut bucket, 2 * second / 3, PACKET));
        assert!(passes(&mut bucket, 2 * second / 3 + 1, PACKET));
        assert!(passes(&mut bucket, second, PACKET), "thirds do not get lost");
    }

    #[test]
    fn a_packet_beyond_the_burst_passes_a_full_bucket_and_is_paid_for() {
        let mut bucket = TokenBucket::new(Rate { unit: RateUnit::Bytes, per_second: 1_000, burst: 1_000 });
        let large = Count { packets: 3, bytes: 3_000 };
        let second = 1_000_000_000;
        assert!(passes(&mut bucket, 0, large));
        assert!(!passes(&mut bucket, 2 * second, PACKET), "2,000 bytes were owed and are paid now");
        assert!(passes(&mut bucket, 2 * second + second / 10, PACKET));
        assert!(!passes(&mut bucket, 3 * second, large));
        assert!(passes(&mut bucket, 3 * second + second / 10, large));
    }

    #[test]
    fn the_largest_numbers_and_times_overflow_nothing() {
        let rate = Rate { unit: RateUnit::Bytes, per_second: Rate::MAX_PER_SECOND, burst: Rate::MAX_BURST };
        let mut bucket = TokenBucket::new(rate);
        let huge = Count { packets: u64::MAX, bytes: u64::MAX };
        assert!(passes(&mut bucket, 0, huge));
        assert!(!passes(&mut bucket, 1, PACKET));
        assert!(!passes(&mut bucket, 1, huge));
        // What 2^63 billionths cost is owed for hours at most, and the clock may go back.
        assert!(passes(&mut bucket, u64::MAX, PACKET));
        assert!(passes(&mut bucket, 0, PACKET));
    }

    /// The slow twin: a token's billionths dripping in nanosecond by nanosecond.
    struct Dripping {
        rate: Rate,
        level: i128,
        now: u64,
    }

    impl Dripping {
        fn passes(&mut self, now: u64, count: Count) -> bool {
            let full = self.rate.burst as i128 * 1_000_000_000;
            while self.now < now {
                self.now += 1;
                self.level = (self.level + self.rate.per_second as i128).min(full);
            }
            let tokens = if self.rate.unit == RateUnit::Bytes { count.bytes } else { count.packets };
            let cost = tokens as i128 * 1_000_000_000;
            let passes = self.level >= cost || self.level == full;
            if passes {
                self.level -= cost;
            }
            passes
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Count)>> {
        let count = (0u64..4, 1u64..4, 1u64..2_000).prop_map(|(gap, packets, bytes)| {
            // Gaps of nothing, of single nanoseconds, of many.
            (gap * gap * 777 + gap, Count { packets, bytes })
        });
        proptest::collection::vec(count, 1..60)
    }

    proptest! {
        #[test]
        fn agrees_with_tokens_that_drip(
            is_bytes in any::<bool>(),
            per_second in prop_oneof![1u64..1_000, 100_000_000u64..3_000_000_000],
            burst in 1u64..3_000,
            steps in steps(),
        ) {
            let unit = if is_bytes { RateUnit::Bytes } else { RateUnit::Packets };
            let rate = Rate { unit, per_second, burst };
            let mut bucket = TokenBucket::new(rate);
            let mut twin = Dripping { rate, level: burst as i128 * 1_000_000_000, now: 0 };
            let mut now = 0;
            for (gap, count) in steps {
                now += gap;
                prop_assert_eq!(passes(&mut bucket, now, count), twin.passes(now, count), "at {}", now);
            }
        }

        #[test]
        fn no_more_than_rate_and_burst_pass_in_any_time(
            per_second in 1u64..100_000,
            burst in 1u64..100,
            gaps in proptest::collection::vec(0u64..50_000_000, 1..200),
        ) {
            let mut bucket = packets(per_second, burst);
            let mut passed: Vec<u64> = Vec::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                if passes(&mut bucket, now, PACKET) {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let most = burst as u128 + (to - from) as u128 * per_second as u128 / 1_000_000_000;
                    prop_assert!((last - first + 1) as u128 <= most);
                }
            }
        }
    }
}
