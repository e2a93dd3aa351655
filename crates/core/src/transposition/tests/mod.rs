//! Random tests of the laws that this module promises.

extern crate std;

mod bytes;
mod dice;
mod frames;
mod meaning;

/// Cases of one property: `ordinary` times what `LAMINA_CASES` says (default 1).
fn cases(ordinary: u64) -> u64 {
    std::env::var("LAMINA_CASES").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1) * ordinary
}
