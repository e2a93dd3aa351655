//! Target sets: the weighted targets of a load balancer, chosen by consistent hash (§3.5).
//!
//! Theory (Maglev, Eisenbud et al., NSDI'16 §3.4). Every target walks a permutation of the slots of a table
//! whose size is prime, and the targets take turns claiming their next free slot, in proportion to their
//! weights, until the table is full. A flow's hash picks a slot. Each target owns a share of slots equal to its
//! weight to within the table's resolution, and because a target's permutation depends on its own name alone,
//! adding or removing one target moves few slots of the others.

use core::net::IpAddr;

use alloc::vec::Vec;

use crate::layer::Name;

/// One target.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Where new conversations go.
    pub address: IpAddr,
    /// The port to rewrite to; `None` leaves it.
    pub port: Option<u16>,
    /// Share of new conversations relative to the others; 0 takes none (draining).
    pub weight: u32,
}

/// A set of weighted targets and the table that a hash is looked up in.
#[derive(Clone, Debug)]
pub struct TargetSet {
    /// Unique on the port.
    pub name: Name,
    targets: Vec<Target>,
    /// Index into `targets` per slot; empty when no target has weight.
    slots: Vec<u16>,
}

/// Slots of every table: prime, and the same for every set, since a table that changed its size with the number
/// of targets would move nearly every flow. Maglev §5.3 wants 100 slots per target: good for 655 targets.
const SLOTS: usize = 65_537;

impl TargetSet {
    /// A set of up to 65,535 `targets`.
    pub fn new(name: Name, targets: Vec<Target>) -> Self {
        let slots = fill(&targets);
        TargetSet { name, targets, slots }
    }

    /// The target for a flow whose hash is `hash`; `None` when no target has weight.
    pub fn choose(&self, hash: u64) -> Option<&Target> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = (hash % self.slots.len() as u64) as usize;
        self.targets.get(self.slots[slot] as usize)
    }

    /// True when `address` and `port` are a target that may keep conversations, weight or not.
    pub fn contains(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.targets.iter().any(|target| target.address == address && target.port == port)
    }

    /// The targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

/// Fills the slots: targets claim in turn, each as often per round as its weight, scaled so that the largest
/// weight claims once per round.
fn fill(targets: &[Target]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let Some(largest) = targets.iter().map(|target| target.weight).max().filter(|weight| *weight > 0) else {
        return Vec::new();
    };
    let mut slots = alloc::vec![FREE; SLOTS];
    let mut walks: Vec<(usize, usize, u64)> = targets
        .iter()
        .map(|target| {
            let (address, family) = match target.address {
                IpAddr::V4(v4) => (v4.to_bits() as u128, 4u64),
                IpAddr::V6(v6) => (v6.to_bits(), 6),
            };
            let port = target.port.map_or(0, |port| port as u64 + 1);
            let seed = mix((address >> 64) as u64 ^ mix(address as u64 ^ mix(port << 8 | family)));
            let offset = (mix(seed ^ 1) % SLOTS as u64) as usize;
            let skip = (mix(seed ^ 2) % (SLOTS as u64 - 1)) as usize + 1;
            (offset, skip, 0)
        })
        .collect();
    let mut taken = 0;
    loop {
        for (index, (position, skip, credit)) in walks.iter_mut().enumerate() {
            *credit += targets[index].weight as u64;
            if *credit < largest as u64 {
                continue;
            }
            *credit -= largest as u64;
            while slots[*position] != FREE {
                *position = (*position + *skip) % SLOTS;
            }
            slots[*position] = index as u16;
            taken += 1;
            if taken == SLOTS {
                return slots;
            }
        }
    }
}

/// Spreads the bits of `x` (the finaliser of SplitMix64): fixed, so that a choice is the same on every host.
pub(crate) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn target(last: u8, weight: u32) -> Target {
        Target { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port: None, weight }
    }

    fn share(set: &TargetSet, index: usize) -> f64 {
        set.slots.iter().filter(|slot| **slot as usize == index).count() as f64 / set.slots.len() as f64
    }

    #[test]
    fn shares_follow_weights() {
        let set = TargetSet::new("t".into(), alloc::vec![target(1, 1), target(2, 3), target(3, 0)]);
        assert!((share(&set, 0) - 0.25).abs() < 0.01);
        assert!((share(&set, 1) - 0.75).abs() < 0.01);
        assert_eq!(share(&set, 2), 0.0);
    }

    #[test]
    fn removing_one_target_of_ten_moves_few_of_the_others() {
        let all: Vec<Target> = (1..=10).map(|n| target(n, 1)).collect();
        let before = TargetSet::new("t".into(), all.clone());
        let after =
            TargetSet::new("t".into(), all.iter().filter(|t| t.address != all[4].address).copied().collect());
        let hashes = (0..20_000u64).map(mix);
        let moved = hashes
            .filter(|h| {
                let (a, b) = (before.choose(*h).unwrap(), after.choose(*h).unwrap());
                a.address != all[4].address && a.address != b.address
            })
            .count();
        assert!(moved < 20_000 / 10, "{moved} of 20000 moved without need");
    }

    #[test]
    fn a_set_without_weight_chooses_nothing() {
        assert!(TargetSet::new("t".into(), Vec::new()).choose(7).is_none());
        assert!(TargetSet::new("t".into(), alloc::vec![target(1, 0)]).choose(7).is_none());
    }
}
