//! What a program must know of rules beforehand, as counts that edits can change (§5.1).
//!
//! Theory. Which fields join the key of unified flows, whether a layer reads transport fields, which tables must
//! exist: each is a question about all rules of a group, and asking 50,000 of them takes milliseconds. So the
//! answers are kept as counts: how many rules read a field, how many name a table. An edit adds and subtracts a few.
//! They depend on the rules alone; whether the tables exist is asked of the counts.
//!
//! It must say exactly what asking every rule would say.

use alloc::collections::BTreeMap;

use super::rule_list::RuleList;
use super::{Condition, Rule};
use crate::action::{Action, Affinity, LeaseSource, Limit, Limiter, MacSource, Respond};
use crate::flow::{Field, FieldSet, HeaderField, Scope, Value};
use crate::resource::{Resources, TargetSetId};

/// Something of which there must be enough: the number of a table or key that is named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Need {
    PrefixSet(u32),
    Mapping(u32),
    Targets(u32),
    Meter(u32),
    Limit(u32),
    Leases(u32),
    Names(u32),
    /// Set by a rule; those that are read are fields.
    Metadata(u8),
}

/// How many rules have each property; none is listed with 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    fields: BTreeMap<Field, u32>,
    needs: BTreeMap<Need, u32>,
    /// Rules whose actions read or write transport fields, as far as the rules alone tell.
    transport: u32,
    stateful: u32,
    /// Rules with a token bucket of their own.
    own_limits: u32,
    /// Those of them whose bucket cannot be.
    bad_rates: u32,
    mirrors: u32,
    punts: u32,
}

impl Facts {
    /// The facts of all `rules`.
    pub(crate) fn of(rules: &[Rule]) -> Facts {
        let mut facts = Facts::default();
        rules.iter().for_each(|rule| facts.count(rule, true));
        facts
    }

    /// The facts of `list`, of whose base these are the facts.
    pub(crate) fn edited(&self, list: &RuleList) -> Facts {
        let mut facts = self.clone();
        for place in &list.overlay.hidden {
            facts.count(&list.base.rules[*place as usize], false);
        }
        for added in &list.overlay.added {
            facts.count(&added.rule, true);
        }
        facts
    }

    /// Counts a rule in, or out again.
    fn count(&mut self, rule: &Rule, is_in: bool) {
        let (mut own_limit, mut bad_rate) = (false, false);
        let mut transport = false;
        for condition in &rule.conditions {
            self.condition(condition, is_in);
        }
        match &rule.action {
            Action::Nat(nat) => {
                let ports = [nat.source, nat.destination].into_iter().flatten().any(|to| to.port.is_some());
                transport = ports;
            }
            Action::LoadBalance(balance) => {
                change(&mut self.needs, Need::Targets(balance.targets.0), is_in);
                transport = balance.affinity == Affinity::FiveTuple;
            }
            // A later fragment would choose another remote than the first one.
            Action::Encap(encap) => transport |= encap.remotes.len() > 1,
            Action::MapEncap(encap) => change(&mut self.needs, Need::Mapping(encap.mapping.0), is_in),
            Action::Meter(meter) => change(&mut self.needs, Need::Meter(meter.meter.0), is_in),
            Action::Limit(Limit { by: Limiter::Shared(id) }) => {
                change(&mut self.needs, Need::Limit(id.0), is_in);
            }
            Action::Limit(Limit { by: Limiter::Own(rate) }) => {
                (own_limit, bad_rate) = (true, !rate.is_valid());
            }
            Action::Mark(mark) => {
                for (key, _) in &mark.metadata {
                    change(&mut self.needs, Need::Metadata(*key), is_in);
                }
            }
            Action::Respond(Respond::Arp(source) | Respond::NeighborDiscovery(source)) => {
                if let MacSource::Mapping { mapping, .. } = source {
                    change(&mut self.needs, Need::Mapping(mapping.0), is_in);
                }
                let target = Field::Header(Scope::Inner, HeaderField::NdTarget);
                change(&mut self.fields, target, is_in);
            }
            Action::Respond(Respond::Dns(id)) => change(&mut self.needs, Need::Names(id.0), is_in),
            Action::Respond(Respond::Dhcp(dhcp)) => self.lease(&dhcp.lease, is_in),
            Action::Respond(Respond::Dhcpv6(dhcp)) => self.lease(&dhcp.lease, is_in),
            // Without a wildcard: whoever adds an action says here what it reads and what it names.
            Action::Respond(Respond::Echo | Respond::RouterAdvertisement(_))
            | Action::Allow(_)
            | Action::Block(_)
            | Action::Decap(_)
            | Action::Transpose(_)
            | Action::Mirror(_)
            | Action::Punt(_)
            | Action::Hairpin(_)
            | Action::Vlan(_) => {}
        }
        let step = |count: &mut u32, is_one: bool| {
            let one = u32::from(is_one);
            *count = if is_in { *count + one } else { count.saturating_sub(one) };
        };
        step(&mut self.transport, transport);
        step(&mut self.stateful, rule.state.is_some());
        step(&mut self.own_limits, own_limit);
        step(&mut self.bad_rates, bad_rate);
        step(&mut self.mirrors, matches!(rule.action, Action::Mirror(_)));
        step(&mut self.punts, matches!(rule.action, Action::Punt(_)));
    }

    fn lease(&mut self, source: &LeaseSource, is_in: bool) {
        if let LeaseSource::Table(id) = source {
            change(&mut self.needs, Need::Leases(id.0), is_in);
        }
    }

    fn condition(&mut self, condition: &Condition, is_in: bool) {
        change(&mut self.fields, condition.field, is_in);
        for id in &condition.prefix_sets {
            change(&mut self.needs, Need::PrefixSet(id.0), is_in);
        }
    }

    /// The fields that the rules read.
    pub(crate) fn extras(&self) -> FieldSet {
        let mut extras = FieldSet::EMPTY;
        self.fields.keys().for_each(|field| extras.insert(*field));
        extras
    }

    /// True when a rule creates state.
    pub(crate) fn is_stateful(&self) -> bool {
        self.stateful > 0
    }

    /// True when a rule leaves copies behind.
    pub(crate) fn has_mirror(&self) -> bool {
        self.mirrors > 0
    }

    /// True when a rule gives packets to a controller.
    pub(crate) fn has_punt(&self) -> bool {
        self.punts > 0
    }

    /// True when a rule has a token bucket of its own.
    pub(crate) fn has_own_limits(&self) -> bool {
        self.own_limits > 0
    }

    /// True when every table and key that is named exists, and every rate can be.
    pub(crate) fn are_met(&self, resources: &Resources, metadata_keys: usize) -> bool {
        let keys_exist = self
            .fields
            .keys()
            .all(|field| !matches!(field, Field::Metadata(key) if *key as usize >= metadata_keys));
        keys_exist
            && self.bad_rates == 0
            && self.needs.keys().all(|need| match *need {
                Need::PrefixSet(id) => (id as usize) < resources.prefix_sets.len(),
                Need::Mapping(id) => (id as usize) < resources.mappings.len(),
                Need::Targets(id) => (id as usize) < resources.target_sets.len(),
                Need::Meter(id) => (id as usize) < resources.meters.len(),
                Need::Limit(id) => (id as usize) < resources.limits.len(),
                Need::Leases(id) => (id as usize) < resources.lease_tables.len(),
                Need::Names(id) => (id as usize) < resources.dns_tables.len(),
                Need::Metadata(key) => (key as usize) < metadata_keys,
            })
    }

    /// True when a rule depends on transport fields that a packet may lack: it reads them of headers that are not
    /// known to be `whole`, rewrites them, or chooses a target that has a port. The tables exist.
    pub(crate) fn reads_transport(&self, resources: &Resources, whole: WholeScopes) -> bool {
        let has_port = |need: &Need| match *need {
            Need::Targets(id) => {
                let targets = resources.target_set(TargetSetId(id)).targets();
                targets.iter().any(|target| target.port.is_some())
            }
            _ => false,
        };
        let is_read = self.fields.keys().any(|field| is_transport(*field) && !whole.has(*field));
        is_read || self.transport > 0 || self.needs.keys().any(has_port)
    }
}

fn change<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K, is_in: bool) {
    if is_in {
        *counts.entry(key).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Whether a group's conditions keep later fragments of the outermost and of the innermost headers out of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WholeScopes {
    outer: bool,
    inner: bool,
}

impl WholeScopes {
    /// What `conditions` of a group say.
    pub(crate) fn of(conditions: &[Condition]) -> WholeScopes {
        let is_whole = |scope| {
            let field = Field::Header(scope, HeaderField::IpFragment);
            let later = Value::number(2);
            conditions.iter().any(|condition| {
                condition.field == field && !condition.ranges.iter().any(|range| range.contains(later))
            })
        };
        WholeScopes { outer: is_whole(Scope::Outer), inner: is_whole(Scope::Inner) }
    }

    /// True when `field` is one of headers that are whole.
    pub(crate) const fn has(self, field: Field) -> bool {
        match field {
            Field::Header(Scope::Outer, _) => self.outer,
            Field::Header(Scope::Inner, _) => self.inner,
            _ => false,
        }
    }
}

/// True for fields of transport and ICMP headers, which a non-first fragment lacks.
pub(super) fn is_transport(field: Field) -> bool {
    use HeaderField::*;
    matches!(field, Field::Header(_, L4Src | L4Dst | TcpFlags | IcmpType | IcmpCode | IcmpId))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Allow, LoadBalance, Mark, Meter, Mirror, MirrorTarget};
    use crate::layer::Stateful;
    use crate::resource::{LimitId, MeterId, PrefixSetId, Rate, RateUnit};
    use alloc::format;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn any_rule() -> impl Strategy<Value = Rule> {
        let field = prop_oneof![
            Just(Field::Header(Scope::Inner, HeaderField::L4Dst)),
            Just(Field::Header(Scope::Inner, HeaderField::IpDscp)),
            Just(Field::Metadata(1)),
            Just(Field::IngressPort),
        ];
        let condition = (field, prop::collection::vec((0u32..3).prop_map(PrefixSetId), 0..2))
            .prop_map(|(field, prefix_sets)| Condition { field, ranges: Vec::new(), prefix_sets });
        let action = prop_oneof![
            Just(Action::Allow(Allow)),
            (0u32..3).prop_map(|id| Action::Meter(Meter { meter: MeterId(id) })),
            (0u32..3, any::<bool>()).prop_map(|(id, by_source)| {
                let affinity = if by_source { Affinity::SourceAddress } else { Affinity::FiveTuple };
                Action::LoadBalance(LoadBalance { targets: TargetSetId(id), affinity })
            }),
            (0u32..3).prop_map(|id| Action::Limit(Limit { by: Limiter::Shared(LimitId(id)) })),
            (0u64..3).prop_map(|burst| {
                let rate = Rate { unit: RateUnit::Packets, per_second: 1, burst };
                Action::Limit(Limit { by: Limiter::Own(rate) })
            }),
            Just(Action::Respond(Respond::Arp(MacSource::Fixed(crate::address::MacAddr::ZERO)))),
            Just(Action::Mirror(Mirror {
                to: MirrorTarget::Port(crate::switch::PortId(1)),
                truncate: None,
                sample: 1
            })),
            (0u8..3).prop_map(|key| Action::Mark(Mark { dscp: None, metadata: alloc::vec![(key, 1)] })),
        ];
        (0u8..40, prop::collection::vec(condition, 0..3), action, any::<bool>()).prop_map(
            |(name, conditions, action, is_stateful)| Rule {
                name: format!("{name}").as_str().into(),
                priority: 0,
                conditions,
                action,
                terminating: false,
                state: is_stateful.then(Stateful::default),
            },
        )
    }

    proptest! {
        #[test]
        fn edits_leave_the_facts_of_the_rules_that_are_left(
            base in prop::collection::vec(any_rule(), 0..30),
            edits in prop::collection::vec((any_rule(), any::<bool>()), 0..40),
        ) {
            let mut list = RuleList::new(base);
            let facts = Facts::of(&list.base.rules);
            for (rule, is_put) in edits {
                list = if is_put { list.put(rule) } else { list.remove(&rule.name) };
            }
            let rules: Vec<Rule> = list.iter().cloned().collect();
            prop_assert_eq!(facts.edited(&list), Facts::of(&rules));
        }
    }
}
