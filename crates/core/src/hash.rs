//! The hash of flow tables: rapidhash, seeded.
//!
//! Guests choose their 5-tuples, so a fixed hash would let them choose collisions. The seed is a value that the
//! caller hands in ([`crate::switch::SwitchConfig`]); it decides where an entry lies, never what happens to a packet.

use rapidhash::fast::SeedableState;

/// Hashes the keys of flow tables.
pub(crate) type TableHasher = SeedableState<'static>;

/// The hasher of a switch whose seed is `seed`.
pub(crate) fn table_hasher(seed: u64) -> TableHasher {
    SeedableState::new(seed)
}
