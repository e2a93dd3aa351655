//! Conditions that can never hold together.
//!
//! Theory. Every condition on a header field says something about the kind of packet: a TCP flag needs TCP, a
//! port needs a protocol with ports, an IPv6 address needs IPv6. Per scope (outer, inner) we keep the set of
//! network layers and the set of IP protocols that are still possible, and cut both down by each condition of the
//! group and the rule. When a set becomes empty no packet can match, and the condition that emptied it is
//! reported together with one that it contradicts. The same sets tell which address family a rewrite meets.

use lamina_api::document::{self, Condition, FieldName, HeaderField, Scalar, Value};
use lamina_api::{At, Code, Diagnostic, Source, Span};
use lamina_core::flow::Direction;

use super::{Converter, Scope};

/// Network layers as a set.
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const ARP: u8 = 4;
const OTHER: u8 = 8;
const IP: u8 = IPV4 | IPV6;

/// A set of IP protocol numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Protocols([u128; 2]);

impl Protocols {
    const ALL: Protocols = Protocols([u128::MAX; 2]);
    const NONE: Protocols = Protocols([0; 2]);

    fn of(numbers: &[u8]) -> Self {
        let mut set = Protocols::NONE;
        numbers.iter().for_each(|number| set.insert(*number));
        set
    }

    fn insert(&mut self, number: u8) {
        self.0[usize::from(number >> 7)] |= 1 << (number & 127);
    }

    fn and(self, other: Protocols) -> Self {
        Protocols([self.0[0] & other.0[0], self.0[1] & other.0[1]])
    }
}

/// What one condition leaves possible in its scope.
#[derive(Clone, Copy)]
struct Needs {
    networks: u8,
    protocols: Protocols,
    /// Packets with a transport header, later fragments, or both.
    fragments: u8,
}

const WITH_TRANSPORT: u8 = 1;
const LATER: u8 = 2;

impl Needs {
    const NOTHING: Needs =
        Needs { networks: IP | ARP | OTHER, protocols: Protocols::ALL, fragments: WITH_TRANSPORT | LATER };

    fn and(self, other: Needs) -> Needs {
        Needs {
            networks: self.networks & other.networks,
            protocols: self.protocols.and(other.protocols),
            fragments: self.fragments & other.fragments,
        }
    }

    fn is_impossible(&self) -> bool {
        self.networks == 0 || self.protocols == Protocols::NONE || self.fragments == 0
    }
}

/// The packets that conditions leave possible.
#[derive(Clone)]
pub(super) struct Possible {
    direction: Direction,
    /// Outer, inner.
    scopes: [Needs; 2],
    /// The conditions so far: scope, name, place and what each needs by itself.
    said: Vec<(usize, String, Span, Needs)>,
    impossible: bool,
}

impl Possible {
    /// Every packet in `direction`.
    pub(super) fn new(direction: Direction) -> Self {
        Possible { direction, scopes: [Needs::NOTHING; 2], said: Vec::new(), impossible: false }
    }

    /// True when an innermost IPv4 packet can match.
    pub(super) fn can_be_ipv4(&self) -> bool {
        self.scopes[1].networks & IPV4 != 0
    }

    /// True when an innermost IPv6 packet can match.
    pub(super) fn can_be_ipv6(&self) -> bool {
        self.scopes[1].networks & IPV6 != 0
    }

    /// Leaves only the packets for which `conditions` hold too; warns of the first that cannot.
    pub(super) fn restrict(
        &mut self,
        source: &Source,
        conditions: &[Condition],
        scope: &Scope<'_>,
        converter: &mut Converter,
    ) {
        for condition in conditions {
            self.restrict_by(source, condition, scope, converter);
        }
    }

    fn restrict_by(
        &mut self,
        source: &Source,
        condition: &Condition,
        scope: &Scope<'_>,
        converter: &mut Converter,
    ) {
        let (index, field) = match &condition.field.value {
            FieldName::Header(document::Scope::Outer, field) => (0, *field),
            FieldName::Header(document::Scope::Inner, field) => (1, *field),
            FieldName::Direction => return self.check_direction(source, condition, converter),
            _ => return,
        };
        if index == 1 && matches!(field, HeaderField::EncapKind | HeaderField::EncapTenant) {
            let message = format!("`{}` never matches: the innermost headers hold no tunnel", field.name());
            let help = format!("write `outer.{}`", field.name());
            converter.warn(Code::NeverMatches, source, condition.field.span, message, help);
            return;
        }
        let needs = needs(field, condition, scope);
        let left = self.scopes[index].and(needs);
        if left.is_impossible() && !self.impossible {
            self.impossible = true;
            let message = format!("`{}` can never hold here, so nothing matches", condition.field.value);
            let mut diagnostic =
                Diagnostic::warning(Code::NeverMatches, source, condition.field.span, message);
            let contradicted = self
                .said
                .iter()
                .find(|(other, _, _, earlier)| *other == index && earlier.and(needs).is_impossible());
            if let Some((_, name, span, _)) = contradicted {
                diagnostic = diagnostic.also(source, *span, format!("contradicts this `{name}`"));
            }
            converter.say(diagnostic.help("remove one of the conditions, or the rule"));
        }
        self.scopes[index] = left;
        self.said.push((index, condition.field.value.to_string(), condition.field.span, needs));
    }

    fn check_direction(&mut self, source: &Source, condition: &Condition, converter: &mut Converter) {
        let own = Scalar::Number(match self.direction {
            Direction::Inbound => 0,
            Direction::Outbound => 1,
        });
        let holds = condition.values.iter().any(|value| match value.value {
            Value::Range(low, high) => low <= own && own <= high,
            _ => false,
        });
        if !holds && !self.impossible {
            self.impossible = true;
            let message = format!("every packet of this group is {}", self.direction.name());
            let help = "remove the condition, or move the rule to the other direction";
            converter.warn(Code::NeverMatches, source, condition.field.span, message, help);
        }
    }
}

/// What `condition` on `field` leaves possible.
fn needs(field: HeaderField, condition: &Condition, scope: &Scope<'_>) -> Needs {
    use HeaderField as F;
    let mut needs = Needs::NOTHING;
    match field {
        F::EthSrc
        | F::EthDst
        | F::EthMulticast
        | F::VlanType
        | F::VlanId
        | F::VlanPriority
        | F::InnerVlanId => {}
        F::EncapKind | F::EncapTenant => needs.networks = IP,
        F::EthType => {
            let covers = |number| covers(&condition.values, number);
            needs.networks = OTHER;
            for (number, network) in [(0x0800, IPV4), (0x86dd, IPV6), (0x0806, ARP)] {
                if covers(number) {
                    needs.networks |= network;
                }
            }
            if condition.values.iter().all(|value| is_only(value, &[0x0800, 0x86dd, 0x0806])) {
                needs.networks &= !OTHER;
            }
        }
        F::IpSrc | F::IpDst => needs.networks = families(condition, scope, IPV4 | ARP, IPV6),
        F::NdTarget | F::NdLinkAddress => {
            needs.networks = IPV6;
            needs.protocols = Protocols::of(&[58]);
        }
        F::IpProtocol => {
            needs.networks = IP;
            let mut set = Protocols::NONE;
            (0..=u8::MAX)
                .filter(|number| covers(&condition.values, u64::from(*number)))
                .for_each(|n| set.insert(n));
            needs.protocols = set;
        }
        F::IpDscp | F::IpEcn | F::IpTtl => needs.networks = IP,
        F::IpFragment => {
            needs.networks = IP;
            needs.fragments = 0;
            if covers(&condition.values, 0) || covers(&condition.values, 1) {
                needs.fragments |= WITH_TRANSPORT;
            }
            if covers(&condition.values, 2) {
                needs.fragments |= LATER;
            }
        }
        F::L4Src | F::L4Dst => {
            needs =
                Needs { networks: IP, protocols: Protocols::of(&[6, 17, 132]), fragments: WITH_TRANSPORT };
        }
        F::TcpFlags => {
            needs = Needs { networks: IP, protocols: Protocols::of(&[6]), fragments: WITH_TRANSPORT }
        }
        F::IcmpType | F::IcmpCode | F::IcmpId => {
            needs = Needs { networks: IP, protocols: Protocols::of(&[1, 58]), fragments: WITH_TRANSPORT };
        }
        F::ArpOperation | F::ArpSenderMac | F::ArpTargetMac => needs.networks = ARP,
    }
    needs
}

fn covers(values: &[At<Value>], number: u64) -> bool {
    let number = Scalar::Number(number);
    values
        .iter()
        .any(|value| matches!(value.value, Value::Range(low, high) if low <= number && number <= high))
}

fn is_only(value: &At<Value>, numbers: &[u64]) -> bool {
    matches!(value.value, Value::Range(Scalar::Number(low), Scalar::Number(high)) if low == high && numbers.contains(&low))
}

/// The networks of the addresses that `condition` names: `v4` where one is IPv4, `v6` where one is IPv6.
fn families(condition: &Condition, scope: &Scope<'_>, v4: u8, v6: u8) -> u8 {
    let mut networks = 0;
    for value in &condition.values {
        networks |= match &value.value {
            Value::Range(Scalar::Ip(address), _) => {
                if address.is_ipv4() {
                    v4
                } else {
                    v6
                }
            }
            Value::PrefixSet(name) => {
                let set = scope
                    .tables
                    .prefixes
                    .number(name)
                    .and_then(|number| scope.tables.prefixes.written(number));
                match set {
                    Some((_, set)) if !set.prefixes.is_empty() => {
                        set.prefixes.iter().fold(0, |networks, prefix| {
                            networks | if prefix.value.addr().is_ipv4() { v4 } else { v6 }
                        })
                    }
                    _ => v4 | v6,
                }
            }
            _ => v4 | v6,
        };
    }
    networks
}
