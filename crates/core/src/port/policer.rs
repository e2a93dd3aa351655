//! Limits at work: which buckets a packet needs tokens of, whether they have them, and taking them (§3.7, §8.4).
//!
//! Theory. A walk writes down the limits that it passes, each with the key of its bucket. Only when the packet is
//! certain to go on are the buckets asked: if each has tokens, all are taken; if one has not, the packet is dropped
//! there and takes none at all, like one that a rule blocks. A bucket that does not exist yet is a full one, so it
//! is made when it is first taken from, and asking changes nothing: simulation asks, too. A cached answer remembers
//! the buckets, never what they said.
//!
//! A bucket that begins to drop is news, once until it has dropped nothing for [`QUIET`]: a flood tells of itself
//! once, however long it lasts, and so does each of its sources where the limit tells them apart.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::resolve::Resolution;
use super::slab::Slab;
use super::token_bucket::TokenBucket;
use super::{CellKey, Port};
use crate::action::Limiter;
use crate::drop_reason::DropReason;
use crate::event::{Event, Events, RateReached};
use crate::flow::{Direction, Value};
use crate::inspect::{DropPlace, Full, LimitUse, Lost};
use crate::layer::{LimitChange, Name, Program};
use crate::resource::{LimitSpec, MeterCounts, Rate};
use crate::stats::{Count, Slot};
use crate::switch::PortId;
use crate::time::{Duration, Instant};

/// A bucket that has dropped nothing for so long may tell again that it begins to.
const QUIET: Duration = Duration::from_seconds(10);

/// A limit that a packet passes on its walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PassedLimit {
    /// Whose tokens.
    pub(crate) by: Limiter,
    /// The bucket's key; empty for a rule's own.
    pub(crate) key: Box<[Option<Value>]>,
    /// The rule that names the limit.
    pub(crate) slot: Slot,
    /// The same by name.
    pub(crate) place: DropPlace,
    /// How many meters the packet passed before.
    pub(crate) meters: usize,
    /// How many layers the packet entered up to this one.
    pub(crate) layers: usize,
}

/// A bucket that a cached answer takes tokens from, and what counts the packet when it has none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Charge {
    by: Limiter,
    bucket: u32,
    place: DropPlace,
    refused: Box<[Slot]>,
}

/// Every bucket of a port. A rule's own is found by the rule's slot, which stays with the rule's name.
#[derive(Debug, Default)]
pub(super) struct Policers {
    /// By the ids of the limits.
    shared: Vec<Policer>,
    own: HashMap<Slot, u32, crate::hash::TableHasher>,
    buckets: Slab<Bucket>,
}

/// A bucket, and what is to be told of it.
#[derive(Debug)]
struct Bucket {
    tokens: TokenBucket,
    /// The key under which it was made; `None` for the bucket of all that found the table full.
    key: Option<CellKey>,
    /// The last packet that it dropped while somebody listened.
    dropped: Option<Instant>,
}

/// A packet that a bucket lacks tokens for.
pub(crate) struct Refused {
    by: Limiter,
    bucket: u32,
    place: DropPlace,
}

/// The buckets of one limit.
#[derive(Debug)]
struct Policer {
    spec: LimitSpec,
    buckets: HashMap<CellKey, u32, crate::hash::TableHasher>,
    /// The bucket of keys that found the table full.
    other: Option<u32>,
    /// How often one did: slow paths, not packets.
    full: Full,
}

/// Where a passed limit's tokens lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Bucket(u32),
    /// A bucket to be made for the key.
    New,
    /// The bucket to be made for all keys that find the table full.
    NewOther,
}

impl PassedLimit {
    fn is_same_limit(&self, other: &PassedLimit) -> bool {
        match (self.by, other.by) {
            (Limiter::Shared(a), Limiter::Shared(b)) => a == b,
            (Limiter::Own(_), Limiter::Own(_)) => self.slot == other.slot,
            _ => false,
        }
    }

    /// True when both take from the same bucket, unless there is no room for it.
    pub(super) fn is_same_bucket(&self, other: &PassedLimit) -> bool {
        self.is_same_limit(other) && self.key == other.key
    }
}

impl Port {
    /// Which of the limits that `plan` passes has no tokens for a packet that counts as `count`, if one has none.
    /// `earlier` are plans whose tokens are to be seen as taken.
    pub(crate) fn limited(
        &self,
        earlier: &[(&Resolution, Count)],
        plan: &Resolution,
        count: Count,
        now: Instant,
    ) -> Option<usize> {
        if plan.limits.is_empty() {
            return None;
        }
        self.policers.places(plan).into_iter().find_map(|(passed, place)| {
            let limit = &plan.limits[passed];
            let mut bucket = self.policers.bucket(limit, place)?;
            for (plan, count) in earlier {
                let taken = self.policers.places(plan).into_iter().any(|(other, at)| {
                    let other = &plan.limits[other];
                    other.is_same_limit(limit)
                        && at == place
                        && (place != Place::New || other.key == limit.key)
                });
                if taken {
                    bucket.take(now, *count);
                }
            }
            (!bucket.admits(now, count)).then_some(passed)
        })
    }

    /// Takes the tokens that `plan` needs. Returns how a cached answer does the same; `slots` are those of the plan
    /// and then of its meters.
    pub(super) fn take_tokens(
        &mut self,
        plan: &Resolution,
        slots: &[Slot],
        count: Count,
        now: Instant,
    ) -> Box<[Charge]> {
        if plan.limits.is_empty() {
            return Box::default();
        }
        let mut charges = Vec::with_capacity(plan.limits.len());
        for (passed, place) in self.policers.places(plan) {
            let limit = &plan.limits[passed];
            let Some(id) = self.policers.make_bucket(limit, place) else { continue };
            if let Some(policer) = self.policers.shared_mut(limit.by)
                && policer.other == Some(id)
            {
                policer.full.note(now);
            }
            if let Some(bucket) = self.policers.buckets.get_mut(id) {
                bucket.tokens.take(now, count);
            }
            let mut refused = Vec::from([limit.slot]);
            if let Some(program) = &self.program {
                let meters = plan.meters.iter().take(limit.meters).zip(&slots[plan.slots.len()..]);
                refused.extend(
                    meters
                        .filter(|((meter, _), _)| {
                            program.resources.meter(*meter).counts == MeterCounts::Offered
                        })
                        .map(|(_, slot)| *slot),
                );
            }
            let place = limit.place.clone();
            charges.push(Charge { by: limit.by, bucket: id, place, refused: refused.into_boxed_slice() });
        }
        charges.into_boxed_slice()
    }

    /// Takes the tokens that the answer of unified flow `id` needs for a packet that counts as `count`. An error when
    /// there are not enough: then it is `lost`, which is counted.
    pub(crate) fn charge(
        &mut self,
        id: u32,
        count: Count,
        direction: Direction,
        lost: &Lost<'_>,
    ) -> Result<(), Refused> {
        let now = lost.now;
        let Some(flow) = self.flows.get(id) else { return Ok(()) };
        let Some(answer) = self.answers.get(flow.basis.answer) else { return Ok(()) };
        let buckets = &mut self.policers.buckets;
        let lacks = |charge: &&Charge| {
            buckets.get(charge.bucket).is_some_and(|bucket| !bucket.tokens.admits(now, count))
        };
        if let Some(refused) = answer.charges.iter().find(lacks) {
            self.flow_counters.hits += 1;
            for slot in &refused.refused {
                self.counters.add(*slot, lost.count);
            }
            let Charge { by, bucket, place, .. } = refused;
            let refused = Refused { by: *by, bucket: *bucket, place: place.clone() };
            self.lose(DropReason::Limited, direction, Some(&refused.place), lost);
            return Err(refused);
        }
        for charge in &answer.charges {
            if let Some(bucket) = buckets.get_mut(charge.bucket) {
                bucket.tokens.take(now, count);
            }
        }
        Ok(())
    }

    /// The bucket of the limit number `passed` of `plan`, which lacks tokens.
    pub(crate) fn refusal(&self, plan: &Resolution, passed: usize) -> Option<Refused> {
        let places = self.policers.places(plan);
        let (_, place) = places.into_iter().find(|(limit, _)| *limit == passed)?;
        // One that is to be made is full.
        let Place::Bucket(bucket) = place else { return None };
        let limit = &plan.limits[passed];
        Some(Refused { by: limit.by, bucket, place: limit.place.clone() })
    }

    /// Tells that a bucket begins to drop packets, unless it did so lately.
    pub(crate) fn tell_rate(
        &mut self,
        refused: Refused,
        (port, direction): (PortId, Direction),
        now: Instant,
        events: &mut Events,
    ) {
        let limit = self.policers.shared(refused.by).map(|policer| policer.spec.name.clone());
        let Some(bucket) = self.policers.buckets.get_mut(refused.bucket) else { return };
        let is_news = bucket.dropped.is_none_or(|last| now - last > QUIET);
        bucket.dropped = Some(now);
        if is_news {
            let (key, rate) = (bucket.key.clone(), bucket.tokens.rate());
            let DropPlace { layer, rule } = refused.place;
            events.push(Event::Rate(RateReached { port, direction, layer, rule, limit, key, rate }));
        }
    }

    /// How many buckets each named limit has.
    pub(super) fn limit_uses(&self) -> impl Iterator<Item = LimitUse> + '_ {
        self.policers.shared.iter().map(|policer| {
            let (used, limit) = (policer.buckets.len(), Some(policer.spec.buckets));
            LimitUse::new(format!("limit {}", policer.spec.name), used, limit, policer.full)
        })
    }
}

impl Policers {
    /// Every limit's table of buckets: how often it was full, its name, its use and size.
    pub(super) fn each_full(&mut self, visit: &mut dyn FnMut(&mut Full, &str, usize, usize)) {
        for policer in &mut self.shared {
            visit(&mut policer.full, &policer.spec.name, policer.buckets.len(), policer.spec.buckets);
        }
    }

    fn shared(&self, by: Limiter) -> Option<&Policer> {
        match by {
            Limiter::Shared(id) => self.shared.get(id.0 as usize),
            Limiter::Own(_) => None,
        }
    }

    fn shared_mut(&mut self, by: Limiter) -> Option<&mut Policer> {
        match by {
            Limiter::Shared(id) => self.shared.get_mut(id.0 as usize),
            Limiter::Own(_) => None,
        }
    }

    /// Where the tokens of each limit of `plan` lie; a bucket that it meets twice is named once.
    fn places(&self, plan: &Resolution) -> Vec<(usize, Place)> {
        let mut places: Vec<(usize, Place)> = Vec::with_capacity(plan.limits.len());
        for (index, limit) in plan.limits.iter().enumerate() {
            let place = match limit.by {
                Limiter::Own(_) => self.own.get(&limit.slot).map_or(Place::New, |id| Place::Bucket(*id)),
                Limiter::Shared(_) => {
                    let Some(policer) = self.shared(limit.by) else { continue };
                    let made = places
                        .iter()
                        .filter(|(other, at)| *at == Place::New && plan.limits[*other].is_same_limit(limit))
                        .count();
                    match (policer.buckets.get(&limit.key), policer.other) {
                        (Some(bucket), _) => Place::Bucket(*bucket),
                        (None, _) if policer.buckets.len() + made < policer.spec.buckets => Place::New,
                        (None, Some(other)) => Place::Bucket(other),
                        (None, None) => Place::NewOther,
                    }
                }
            };
            let is_known = places.iter().any(|(other, at)| {
                *at == place
                    && match place {
                        Place::Bucket(_) => true,
                        // Of one key a plan has one limit.
                        Place::New => false,
                        Place::NewOther => plan.limits[*other].is_same_limit(limit),
                    }
            });
            if !is_known {
                places.push((index, place));
            }
        }
        places
    }

    /// The rate of a limit that is passed.
    fn rate(&self, by: Limiter) -> Option<Rate> {
        match by {
            Limiter::Own(rate) => Some(rate),
            Limiter::Shared(_) => self.shared(by).map(|policer| policer.spec.rate),
        }
    }

    fn bucket(&self, limit: &PassedLimit, place: Place) -> Option<TokenBucket> {
        match place {
            Place::Bucket(id) => self.buckets.get(id).map(|bucket| bucket.tokens),
            Place::New | Place::NewOther => self.rate(limit.by).map(TokenBucket::new),
        }
    }

    fn make_bucket(&mut self, limit: &PassedLimit, place: Place) -> Option<u32> {
        if let Place::Bucket(id) = place {
            return Some(id);
        }
        let key = (place == Place::New).then(|| limit.key.clone());
        let id = self.buckets.insert(Bucket {
            tokens: TokenBucket::new(self.rate(limit.by)?),
            key,
            dropped: None,
        });
        match (self.shared_mut(limit.by), place) {
            (Some(policer), Place::New) => {
                policer.buckets.insert(limit.key.clone(), id);
            }
            (Some(policer), _) => policer.other = Some(id),
            (None, _) => {
                self.own.insert(limit.slot, id);
            }
        }
        Some(id)
    }

    /// What a program that follows the one that runs changes of the rules' own buckets. No packet takes from a bucket
    /// that goes here: cached answers of before are asked no more.
    pub(super) fn follow(&mut self, new: &Program) {
        if self.own.is_empty() {
            return;
        }
        let gone = new.retirement.iter().flat_map(|retirement| retirement.slots.iter());
        gone.for_each(|(slot, _)| self.change_own(LimitChange { slot: *slot, rate: None }));
        new.limit_changes.iter().for_each(|change| self.change_own(*change));
    }

    /// Gives a rule's bucket another rate. One of which the unit changed begins anew.
    fn change_own(&mut self, LimitChange { slot, rate }: LimitChange) {
        let Some(id) = self.own.get(&slot).copied() else { return };
        match (self.buckets.get_mut(id), rate) {
            (Some(bucket), Some(rate)) if bucket.tokens.unit() == rate.unit => bucket.tokens.set_rate(rate),
            _ => {
                self.own.remove(&slot);
                self.buckets.remove(id);
            }
        }
    }

    /// Carries the rules' own buckets by name, from a program of which `new` knows nothing.
    pub(super) fn carry_own(&mut self, old: Option<&Program>, new: &Program) {
        let mut before = core::mem::take(&mut self.own);
        let Some(old) = old.filter(|_| !before.is_empty()) else { return };
        for (place, layer) in new.layers.iter().enumerate() {
            let Some(old) = old.find(&layer.name, place) else { continue };
            for direction in [Direction::Inbound, Direction::Outbound] {
                let (side, old) = (layer.side(direction), old.side(direction));
                for (place, (group, compiled)) in side.iter().enumerate() {
                    let Some((old, compiled_old)) = old.find(&group.name, place) else { continue };
                    let mut known: HashMap<&Name, (Slot, u32), crate::hash::TableHasher> = HashMap::default();
                    known.extend(old.rules.places().filter_map(|(place, rule)| {
                        let slot = compiled_old.slots.of(place);
                        Some((&rule.name, (slot, *before.get(&slot)?)))
                    }));
                    for (place, rule) in group.rules.places() {
                        let Some((old_slot, id)) = known.get(&rule.name).copied() else { continue };
                        before.remove(&old_slot);
                        let slot = compiled.slots.of(place);
                        self.own.insert(slot, id);
                        self.change_own(LimitChange { slot, rate: rule.own_rate() });
                    }
                }
            }
        }
        before.into_values().for_each(|id| {
            self.buckets.remove(id);
        });
    }

    /// Gives the limits `specs` the buckets that they had by name. One whose key or unit changed begins anew.
    pub(super) fn carry_shared(&mut self, specs: &[LimitSpec]) {
        let is_same = |old: &Policer, spec: &LimitSpec| {
            old.spec.name == spec.name && old.spec.key == spec.key && old.spec.rate.unit == spec.rate.unit
        };
        let pairs = self.shared.iter().zip(specs);
        if self.shared.len() != specs.len() || !pairs.into_iter().all(|(old, spec)| is_same(old, spec)) {
            let mut before = core::mem::take(&mut self.shared);
            self.shared = specs
                .iter()
                .map(|spec| {
                    let known = before.iter().position(|old| is_same(old, spec));
                    known.map(|at| before.swap_remove(at)).unwrap_or_else(|| Policer {
                        spec: spec.clone(),
                        buckets: HashMap::default(),
                        other: None,
                        full: Full::default(),
                    })
                })
                .collect();
            for gone in before.iter().flat_map(Policer::ids) {
                self.buckets.remove(gone);
            }
        }
        for (policer, spec) in self.shared.iter_mut().zip(specs) {
            if policer.spec.rate != spec.rate {
                for id in policer.ids() {
                    if let Some(bucket) = self.buckets.get_mut(id) {
                        bucket.tokens.set_rate(spec.rate);
                    }
                }
                policer.spec.rate = spec.rate;
            }
            policer.spec.buckets = spec.buckets;
        }
    }
}

impl Policer {
    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.buckets.values().copied().chain(self.other)
    }
}
