//! Limits: what is owed to each bucket, by the names of limits and rules.
//!
//! A bucket here is its debt: tokens that were taken and have not come in again. A packet passes while the debt
//! leaves room for it below the burst. That is the token bucket told from its other end.

use std::collections::BTreeMap;

use lamina_core::action::Limiter;
use lamina_core::flow::{Field, Value};
use lamina_core::layer::{Name, Policy};
use lamina_core::resource::{Rate, RateUnit};
use lamina_core::time::Instant;

use super::counters::{RuleName, Selected};

const SECOND: i128 = 1_000_000_000;

/// Whose buckets they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Owner {
    Limit(Name),
    Rule(RuleName),
}

/// A bucket's key; `None` for the bucket of all keys that found no room.
type Key = Option<Vec<Option<Value>>>;

/// A limit that a packet passes on its walk.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    owner: Owner,
    fields: Vec<Field>,
    most: usize,
    rate: Rate,
    key: Vec<Option<Value>>,
    pub(super) selected: Selected,
    /// How many meters it passed before.
    pub(super) meters: usize,
}

/// Every bucket of a port that was ever taken from.
#[derive(Clone, Debug, Default)]
pub(super) struct Buckets {
    sets: BTreeMap<Owner, Set>,
}

#[derive(Clone, Debug)]
struct Set {
    fields: Vec<Field>,
    rate: Rate,
    debts: BTreeMap<Key, Debt>,
}

#[derive(Clone, Copy, Debug)]
struct Debt {
    /// In billionths of tokens.
    owed: i128,
    at: Instant,
}

impl Passed {
    /// The limit that `limiter` of the rule `selected` is; `read` reads the packet.
    pub(super) fn new(
        limiter: Limiter,
        selected: &Selected,
        policy: &Policy,
        meters: usize,
        read: impl Fn(Field) -> Option<Value>,
    ) -> Option<Passed> {
        let (owner, fields, most, rate) = match (limiter, selected) {
            (Limiter::Shared(id), _) => {
                let spec = &policy.resources.limits[id.0 as usize];
                (Owner::Limit(spec.name.clone()), spec.key.clone(), spec.buckets, spec.rate)
            }
            (Limiter::Own(rate), Selected::Rule(name)) => (Owner::Rule(name.clone()), Vec::new(), 1, rate),
            (Limiter::Own(_), Selected::Default(..)) => return None,
        };
        let key = fields.iter().map(|field| read(*field)).collect();
        Some(Passed { owner, fields, most, rate, key, selected: selected.clone(), meters })
    }

    pub(super) fn is_same_bucket(&self, other: &Passed) -> bool {
        self.owner == other.owner && self.key == other.key
    }

    fn cost(&self, bytes: usize) -> i128 {
        match self.rate.unit {
            RateUnit::Packets => SECOND,
            RateUnit::Bytes => bytes as i128 * SECOND,
        }
    }
}

impl Buckets {
    /// The first of `passed` that has no room for a packet of `bytes` at `now`.
    pub(super) fn refuses(&self, passed: &[Passed], bytes: usize, now: Instant) -> Option<usize> {
        self.distinct(passed).into_iter().find_map(|(index, key)| {
            let limit = &passed[index];
            let owed = self.owed(limit, &key, now);
            let full = i128::from(limit.rate.burst) * SECOND;
            (full - owed < limit.cost(bytes).min(full)).then_some(index)
        })
    }

    /// Takes what a packet costs.
    pub(super) fn take(&mut self, passed: &[Passed], bytes: usize, now: Instant) {
        for (index, key) in self.distinct(passed) {
            let limit = &passed[index];
            let owed = self.owed(limit, &key, now) + limit.cost(bytes);
            let set = self.sets.entry(limit.owner.clone()).or_insert_with(|| Set {
                fields: limit.fields.clone(),
                rate: limit.rate,
                debts: BTreeMap::new(),
            });
            set.debts.insert(key, Debt { owed, at: now });
        }
    }

    fn owed(&self, limit: &Passed, key: &Key, now: Instant) -> i128 {
        let Some(debt) = self.sets.get(&limit.owner).and_then(|set| set.debts.get(key)) else { return 0 };
        let paid = i128::from((now - debt.at).0) * i128::from(limit.rate.per_second);
        (debt.owed - paid).max(0)
    }

    /// The buckets of `passed`, each once.
    fn distinct(&self, passed: &[Passed]) -> Vec<(usize, Key)> {
        let mut found: Vec<(usize, Key)> = Vec::new();
        for (index, limit) in passed.iter().enumerate() {
            let known: Vec<&Key> =
                self.sets.get(&limit.owner).map(|set| set.debts.keys().collect()).unwrap_or_default();
            let of_owner = |other: usize| passed[other].owner == limit.owner;
            let new = found
                .iter()
                .filter(|(other, key)| of_owner(*other) && key.is_some() && !known.contains(&key))
                .count();
            let taken = known.iter().filter(|key| key.is_some()).count() + new;
            let own = Some(limit.key.clone());
            let key = if known.contains(&&own) || taken < limit.most { own } else { None };
            if !found.iter().any(|(other, at)| of_owner(*other) && *at == key) {
                found.push((index, key));
            }
        }
        found
    }

    /// Keeps what belongs to names that `policy` still has, of the same key and unit: the tokens that are there
    /// stay there.
    pub(super) fn carry_over(&mut self, policy: &Policy) {
        let mut rates: BTreeMap<Owner, (Vec<Field>, Rate)> = BTreeMap::new();
        for spec in &policy.resources.limits {
            rates.insert(Owner::Limit(spec.name.clone()), (spec.key.clone(), spec.rate));
        }
        for layer in &policy.layers {
            for direction in [lamina_core::flow::Direction::Inbound, lamina_core::flow::Direction::Outbound] {
                for group in super::read::groups_in_order(layer, direction) {
                    for rule in group.rules.iter() {
                        let lamina_core::action::Action::Limit(limit) = &rule.action else { continue };
                        let Limiter::Own(rate) = limit.by else { continue };
                        let name = RuleName::new(layer, direction, group, rule);
                        rates.insert(Owner::Rule(name), (Vec::new(), rate));
                    }
                }
            }
        }
        self.sets.retain(|owner, set| {
            let Some((fields, rate)) = rates.get(owner) else { return false };
            let wider = (i128::from(rate.burst) - i128::from(set.rate.burst)) * SECOND;
            set.debts.values_mut().for_each(|debt| debt.owed = (debt.owed + wider).max(0));
            let is_same = *fields == set.fields && rate.unit == set.rate.unit;
            set.rate = *rate;
            is_same
        });
    }
}
