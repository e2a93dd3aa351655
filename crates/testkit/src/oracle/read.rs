//! Reading fields, judging conditions and selecting rules, one after the other (§3.3, §3.4).

use lamina_core::flow::{Direction, Family, Field, Fragment, HeaderField, Scope, Value};
use lamina_core::layer::{Condition, Group, Layer, Rule, Selection, ValueRange};
use lamina_core::resource::Resources;

use crate::wire::{self, Frame, Header};

/// Metadata as layers have set it so far, by key.
pub(super) type Metadata = std::collections::BTreeMap<u8, u32>;

/// A packet as one layer sees it.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) frame: &'a Frame,
    pub(super) metadata: &'a Metadata,
    pub(super) direction: Direction,
    pub(super) ingress: u32,
}

impl View<'_> {
    /// The value of `field`; `None` when the packet lacks it.
    pub(super) fn read(&self, field: Field) -> Option<Value> {
        let number = |n: u32| Value::number(u128::from(n));
        match field {
            Field::Header(Scope::Outer, field) => read(&self.frame.outermost(), field),
            Field::Header(Scope::Inner, field) => read(&self.frame.innermost(), field),
            Field::Tenant => self.frame.tenant().map(number),
            Field::Direction => Some(number(u32::from(self.direction == Direction::Outbound))),
            Field::IngressPort => Some(number(self.ingress)),
            Field::Metadata(key) => self.metadata.get(&key).copied().map(number),
        }
    }

    fn satisfies(&self, conditions: &[Condition], resources: &Resources) -> bool {
        conditions.iter().all(|condition| {
            let Some(value) = self.read(condition.field) else { return false };
            let in_ranges = condition.ranges.iter().any(|range| lies_in(value, range));
            let in_set = |id: &lamina_core::resource::PrefixSetId| {
                let prefixes = resources.prefix_sets[id.0 as usize].prefixes();
                prefixes.iter().any(|prefix| covers(prefix, value))
            };
            in_ranges || condition.prefix_sets.iter().any(in_set)
        })
    }

    /// The rule that one group selects.
    fn selected_in<'r>(&self, group: &'r Group, resources: &Resources) -> Option<&'r Rule> {
        if !self.satisfies(&group.conditions, resources) {
            return None;
        }
        let mut rules: Vec<&Rule> =
            group.rules.iter().filter(|rule| self.satisfies(&rule.conditions, resources)).collect();
        rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        if let Selection::LongestPrefix(field) = group.selection {
            // A stable sort: of equal lengths the first by priority and name stays first.
            rules.sort_by_key(|rule| std::cmp::Reverse(self.prefix_length(rule, field)));
        }
        rules.first().copied()
    }

    fn prefix_length(&self, rule: &Rule, field: Field) -> u32 {
        let Some(value) = self.read(field) else { return 0 };
        let mut longest = 0;
        for condition in rule.conditions.iter().filter(|condition| condition.field == field) {
            for range in condition.ranges.iter().filter(|range| lies_in(value, range)) {
                longest = longest.max(length_of(range, width(field, value.family)));
            }
        }
        longest
    }

    /// The layer's answer: the rule of the last group that matched, unless one before is terminating.
    pub(super) fn select<'r>(
        &self,
        layer: &'r Layer,
        resources: &Resources,
    ) -> Option<(&'r Group, &'r Rule)> {
        let mut answer = None;
        for group in groups_in_order(layer, self.direction) {
            if let Some(rule) = self.selected_in(group, resources) {
                answer = Some((group, rule));
                if rule.terminating {
                    break;
                }
            }
        }
        answer
    }
}

/// The groups of one direction, lower number first, ties by name.
pub(super) fn groups_in_order(layer: &Layer, direction: Direction) -> Vec<&Group> {
    let groups = match direction {
        Direction::Inbound => &layer.inbound,
        Direction::Outbound => &layer.outbound,
    };
    let mut ordered: Vec<&Group> = groups.iter().collect();
    ordered.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    ordered
}

fn lies_in(value: Value, range: &ValueRange) -> bool {
    value.family == range.low.family
        && value.family == range.high.family
        && range.low.bits <= value.bits
        && value.bits <= range.high.bits
}

fn covers(prefix: &ipnet::IpNet, value: Value) -> bool {
    let (family, width, network) = match prefix {
        ipnet::IpNet::V4(v4) => (Family::Ipv4, 32, u128::from(u32::from(v4.addr()))),
        ipnet::IpNet::V6(v6) => (Family::Ipv6, 128, u128::from(v6.addr())),
    };
    let host_bits = width - u32::from(prefix.prefix_len());
    let cut = |bits: u128| bits.checked_shr(host_bits).unwrap_or(0);
    value.family == family && cut(value.bits) == cut(network)
}

/// The length of the prefix that `range` is among values of `width` bits; 0 when it is none.
fn length_of(range: &ValueRange, width: u32) -> u32 {
    (0..=width)
        .rev()
        .find(|length| {
            let host_bits = width - length;
            let mask = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
            range.low.bits & mask == 0 && range.high.bits == range.low.bits | mask
        })
        .unwrap_or(0)
}

fn width(field: Field, family: Family) -> u32 {
    match (family, field) {
        (Family::Ipv4, _) => 32,
        (Family::Ipv6, _) => 128,
        (Family::Number, Field::Header(_, field)) => field.bits(),
        (Family::Number, Field::Direction) => 1,
        (Family::Number, _) => 32,
    }
}

/// The protocol number that a group's IP header has on the wire.
pub(super) fn protocol(group: &wire::Group<'_>) -> Option<u8> {
    match group.l3? {
        Header::Ipv4(ip) => Some(ip.protocol),
        Header::Ipv6(ip) => Some(ip.protocol),
        _ => None,
    }
}

/// The value of `field` in `group`; `None` when the group lacks it.
pub(super) fn read(group: &wire::Group<'_>, field: HeaderField) -> Option<Value> {
    use HeaderField::*;
    let number = |n: u64| Some(Value::number(u128::from(n)));
    let tag = |index: usize| group.l2.and_then(|l2| l2.tags.get(index));
    let class = || group.l3.and_then(Header::class_and_ttl);
    let ports = || group.l4.and_then(Header::ports);
    let arp = || match group.l3 {
        Some(Header::Arp(arp)) => Some(arp),
        _ => None,
    };
    let icmp = || match group.l4 {
        Some(Header::Icmp(icmp)) => Some(icmp),
        _ => None,
    };
    match field {
        EthSrc => number(group.l2?.src.to_bits()),
        EthDst => number(group.l2?.dst.to_bits()),
        EthMulticast => number(u64::from(group.l2?.dst.0[0] & 1)),
        EthType => number(group.l2?.ethertype.into()),
        VlanType => number(tag(0)?.tpid.into()),
        VlanId => number(u64::from(tag(0)?.tci & 0xfff)),
        VlanPriority => number(u64::from(tag(0)?.tci >> 13)),
        InnerVlanId => number(u64::from(tag(1)?.tci & 0xfff)),
        IpSrc => match arp() {
            Some(arp) => Some(Value::ip(arp.sender_ip.into())),
            None => Some(Value::ip(group.l3?.addresses()?.0)),
        },
        IpDst => match arp() {
            Some(arp) => Some(Value::ip(arp.target_ip.into())),
            None => Some(Value::ip(group.l3?.addresses()?.1)),
        },
        IpProtocol => number(protocol(group)?.into()),
        IpDscp => number(class()?.0.into()),
        IpEcn => number(class()?.1.into()),
        IpTtl => number(class()?.2.into()),
        IpFragment => {
            class()?;
            number(match group.fragment() {
                Fragment::None => 0,
                Fragment::First => 1,
                Fragment::Later => 2,
            })
        }
        L4Src => number(ports()?.0.into()),
        L4Dst => number(ports()?.1.into()),
        TcpFlags => match group.l4? {
            Header::Tcp(tcp) => number(tcp.flags.into()),
            _ => None,
        },
        IcmpType => number(icmp()?.kind.into()),
        IcmpCode => number(icmp()?.code.into()),
        IcmpId => number(group.l4?.query_id()?.into()),
        ArpOperation => number(arp()?.operation.into()),
        ArpSenderMac => number(arp()?.sender_mac.to_bits()),
        ArpTargetMac => number(arp()?.target_mac.to_bits()),
        NdTarget => Some(Value::ip(group.nd_target?.into())),
        NdLinkAddress => number(group.nd_link?.to_bits()),
        EncapKind => number(group.tunnel()?.kind as u64),
        EncapTenant => {
            let tunnel = group.tunnel().filter(|tunnel| tunnel.kind.has_tenant())?;
            number(tunnel.tenant.into())
        }
    }
}

/// True when a condition in `conditions`, of `group` or one of its rules, reads a field that later fragments lack, and
/// the group does not keep those out by a condition on the fragment state of the same headers.
fn reads_ports(conditions: &[Condition], group: &Group) -> bool {
    use HeaderField::*;
    let keeps_out = |scope: Scope| {
        group.conditions.iter().any(|condition| {
            let says_later = condition.ranges.iter().any(|range| range.low.bits <= 2 && 2 <= range.high.bits);
            condition.field == Field::Header(scope, IpFragment) && !says_later
        })
    };
    conditions.iter().any(|condition| match condition.field {
        Field::Header(scope, L4Src | L4Dst | TcpFlags | IcmpType | IcmpCode | IcmpId) => !keeps_out(scope),
        _ => false,
    })
}

/// True when a layer cannot judge a later fragment: a condition of this direction reads transport fields, or an
/// action rewrites ports, or chooses a target or a tunnel's remote by them.
pub(super) fn needs_ports(layer: &Layer, direction: Direction, resources: &Resources) -> bool {
    use lamina_core::action::{Action, Affinity};
    groups_in_order(layer, direction).into_iter().any(|group| {
        reads_ports(&group.conditions, group)
            || group.rules.iter().any(|rule| {
                let by_action = match &rule.action {
                    Action::Nat(nat) => {
                        [nat.source, nat.destination].iter().flatten().any(|to| to.port.is_some())
                    }
                    Action::LoadBalance(balance) => {
                        let targets = resources.target_sets[balance.targets.0 as usize].targets();
                        balance.affinity == Affinity::FiveTuple || targets.iter().any(|t| t.port.is_some())
                    }
                    Action::Encap(encap) => encap.remotes.len() > 1,
                    _ => false,
                };
                by_action || reads_ports(&rule.conditions, group)
            })
    })
}
