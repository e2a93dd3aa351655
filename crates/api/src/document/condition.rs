//! Conditions as written: fields, and values by the kind of the field.
//!
//! Every field has one [`ValueKind`], which says how its values are written and how many bits they have. A value
//! is read by the kind of its field, so a port that is too large or a MAC where an address belongs is an error at
//! its place, before anything is converted.

use std::net::{IpAddr, Ipv6Addr};

use super::EncapKind;
use super::field::ValueKind::{Encap, Ip, Ipv6, Mac as MacKind, Number, TcpFlags as Flags};
use super::field::{FieldName, HeaderField, Scope, ValueKind};
use crate::decode::{Decoder, parse_number};
use crate::diagnostic::Code;
use crate::source::{At, Span};
use crate::suggest::did_you_mean;
use crate::tree::{Node, Tree, shortened};
use crate::value::{Mac, Name, Problem, parse_prefix};

/// A field and the values it may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// What is read.
    pub field: At<FieldName>,
    /// Any of them may match; never empty.
    pub values: Vec<At<Value>>,
}

const TCP_FLAGS: [(&str, u8); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

/// One value of a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// One value, an inclusive range, or a prefix as the range it covers; both ends are of one variant.
    Range(Scalar, Scalar),
    /// A prefix set, written `$name`.
    PrefixSet(Name),
    /// The name of a port.
    Port(Name),
    /// TCP flags, of which these are set and those are clear; the others may be either.
    Flags {
        /// Set.
        set: u8,
        /// Clear.
        clear: u8,
    },
}

/// A value of a field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scalar {
    /// A number.
    Number(u64),
    /// A MAC address.
    Mac(Mac),
    /// An IP address.
    Ip(IpAddr),
    /// A kind of tunnel.
    Encap(EncapKind),
}

impl Decoder<'_> {
    /// `tree` as a map from fields to values.
    pub(super) fn conditions(&mut self, tree: &Tree<'_>) -> Vec<Condition> {
        let entries = self.entries(tree, "conditions").unwrap_or(&[]);
        let mut conditions: Vec<Condition> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(field) = self.field_name(key) else { continue };
            if let Some(first) = conditions.iter().find(|other| other.field.value == field.value) {
                // `ip.src` and `inner.ip.src` are one field; equal keys were already reported.
                if self.source.slice(first.field.span) != self.source.slice(field.span) {
                    let message = format!("`{}` is given twice", field.value);
                    self.error(Code::Duplicate, field.span, message, "put all its values into one list");
                }
                continue;
            }
            let items = self.one_or_list(value);
            if items.is_empty() {
                let message = format!("`{}` has no values, so it could never match", field.value);
                self.error(Code::BadValue, key.span, message, "give a value, or leave the condition out");
                continue;
            }
            let values: Vec<_> = items.iter().filter_map(|item| self.condition_value(&field, item)).collect();
            if !values.is_empty() {
                conditions.push(Condition { field, values });
            }
        }
        conditions
    }

    fn condition_value(&mut self, field: &FieldName, tree: &Tree<'_>) -> Option<At<Value>> {
        let Node::Scalar { text, .. } = &tree.node else {
            self.wrong_type(tree, &format!("a value of `{field}`"));
            return None;
        };
        match value(field, text) {
            Ok(value) => Some(At::new(value, tree.span)),
            Err((code, problem)) => {
                self.error(code, tree.span, problem.message, problem.help);
                None
            }
        }
    }

    /// One value of `field`, which is no range: for actions that set fields.
    pub(super) fn single(&mut self, field: HeaderField, tree: &Tree<'_>) -> Option<At<Scalar>> {
        let name = FieldName::Header(Scope::Inner, field);
        match self.condition_value(&name, tree)?.value {
            Value::Range(low, high) if low == high => Some(At::new(low, tree.span)),
            _ => {
                let help = "ranges, prefixes and sets belong into `when`";
                self.bad_value(tree, &format!("one value of `{}`", field.name()), help);
                None
            }
        }
    }

    /// One number of `field`.
    pub(super) fn single_number(&mut self, field: HeaderField, tree: &Tree<'_>) -> Option<u64> {
        match self.single(field, tree)?.value {
            Scalar::Number(number) => Some(number),
            _ => None,
        }
    }

    /// One MAC of `field`.
    pub(super) fn single_mac(&mut self, field: HeaderField, tree: &Tree<'_>) -> Option<Mac> {
        match self.single(field, tree)?.value {
            Scalar::Mac(mac) => Some(mac),
            _ => None,
        }
    }

    /// One address of `field`, with its place.
    pub(super) fn single_address(&mut self, field: HeaderField, tree: &Tree<'_>) -> Option<At<IpAddr>> {
        let span: Span = tree.span;
        match self.single(field, tree)?.value {
            Scalar::Ip(address) => Some(At::new(address, span)),
            _ => None,
        }
    }
}

type ValueError = (Code, Problem);

fn bad(message: String, help: impl Into<String>) -> ValueError {
    (Code::BadValue, Problem::new(message, help))
}

/// The value of `field` that is written as `text`.
fn value(field: &FieldName, text: &str) -> Result<Value, ValueError> {
    let kind = field.kind();
    if let Some(set) = text.strip_prefix('$') {
        if !matches!(kind, Ip | Ipv6) {
            return Err(bad(
                format!("`{field}` cannot be matched against a prefix set"),
                "prefix sets hold addresses",
            ));
        }
        return Ok(Value::PrefixSet(set.into()));
    }
    match kind {
        ValueKind::Port => Ok(Value::Port(text.into())),
        Encap => {
            let kind = super::EncapKind::ALL.iter().find(|kind| kind.name() == text);
            let kind = kind.ok_or_else(|| {
                let names = super::EncapKind::ALL.iter().map(|kind| kind.name());
                bad(
                    format!("`{}` is not a tunnel", shortened(text)),
                    did_you_mean(text, names, "tunnels are"),
                )
            })?;
            Ok(Value::Range(Scalar::Encap(*kind), Scalar::Encap(*kind)))
        }
        Flags => tcp_flags(text),
        Ip | Ipv6 => addresses(field, kind, text),
        MacKind => {
            let mac = |text: &str| {
                text.trim().parse::<Mac>().map(Scalar::Mac).map_err(|_| {
                    let message = format!("`{}` is not a MAC address", shortened(text));
                    bad(message, "write it like `\"02:00:00:00:00:01\"`, or two of them joined by `-`")
                })
            };
            match text.split_once('-') {
                Some((low, high)) => ordered(mac(low)?, mac(high)?, text),
                None => mac(text).map(|mac| Value::Range(mac, mac)),
            }
        }
        Number(bits, words) => match text.split_once('-').filter(|(low, _)| !low.is_empty()) {
            Some((low, high)) if word(words, text).is_none() => {
                ordered(number(field, bits, words, low)?, number(field, bits, words, high)?, text)
            }
            _ => number(field, bits, words, text).map(|number| Value::Range(number, number)),
        },
    }
}

fn word(words: &[(&str, u64)], text: &str) -> Option<u64> {
    words.iter().find(|(word, _)| *word == text).map(|(_, number)| *number)
}

fn number(field: &FieldName, bits: u32, words: &[(&str, u64)], text: &str) -> Result<Scalar, ValueError> {
    let text = text.trim();
    if let Some(number) = word(words, text) {
        return Ok(Scalar::Number(number));
    }
    let Some(number) = parse_number(text) else {
        let message = format!("`{}` is not a value of `{field}`", shortened(text));
        let help = if words.is_empty() {
            "write a number or a range like `8000-8999`".into()
        } else {
            did_you_mean(text, words.iter().map(|(word, _)| *word), "write a number, a range, or one of")
        };
        return Err(bad(message, help));
    };
    let largest = (1u64 << bits) - 1;
    if number < 0 || number > i128::from(largest) {
        let message = format!("`{field}` is out of range: {number}");
        return Err((Code::OutOfRange, Problem::new(message, format!("it must be from 0 to {largest}"))));
    }
    Ok(Scalar::Number(number as u64))
}

fn ordered(low: Scalar, high: Scalar, text: &str) -> Result<Value, ValueError> {
    if low > high {
        let message = format!("the range `{}` ends before it starts", shortened(text));
        return Err((Code::OutOfRange, Problem::new(message, "write the lower value first")));
    }
    Ok(Value::Range(low, high))
}

fn addresses(field: &FieldName, kind: ValueKind, text: &str) -> Result<Value, ValueError> {
    let family = |address: IpAddr| match address {
        IpAddr::V4(_) if kind == Ipv6 => Err(bad(
            format!("`{field}` is an IPv6 address"),
            "write it like `\"fd00::1\"` or `\"fd00::/64\"`",
        )),
        _ => Ok(address),
    };
    if let Some((low, high)) = text.split_once('-') {
        let parse = |text: &str| {
            text.trim().parse::<IpAddr>().map_err(|_| {
                let message = format!("`{}` is not an address", shortened(text));
                bad(message, "write a range like `10.0.0.1-10.0.0.9`")
            })
        };
        let (low, high) = (family(parse(low)?)?, family(parse(high)?)?);
        if low.is_ipv4() != high.is_ipv4() {
            let message = format!("the range `{}` mixes IPv4 and IPv6", shortened(text));
            return Err(bad(message, "write one range for each"));
        }
        return ordered(Scalar::Ip(low), Scalar::Ip(high), text);
    }
    let prefix = parse_prefix(text).map_err(|problem| (Code::BadValue, problem))?;
    family(prefix.addr())?;
    Ok(Value::Range(Scalar::Ip(prefix.network()), Scalar::Ip(last_of(&prefix))))
}

/// The highest address of `prefix`.
fn last_of(prefix: &ipnet::IpNet) -> IpAddr {
    match prefix {
        ipnet::IpNet::V4(v4) => IpAddr::V4(v4.broadcast()),
        ipnet::IpNet::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.broadcast().to_bits())),
    }
}

/// `syn+ack` is exactly these flags; `+syn-ack` is SYN set, ACK clear, the others either way.
fn tcp_flags(text: &str) -> Result<Value, ValueError> {
    const HELP: &str = "write `syn+ack` for exactly these flags, or `+syn-ack` for SYN set and ACK clear";
    let flag = |name: &str| {
        TCP_FLAGS.iter().find(|(flag, _)| *flag == name).map(|(_, bit)| *bit).ok_or_else(|| {
            let known = TCP_FLAGS.iter().map(|(flag, _)| *flag);
            bad(
                format!("`{}` is not a TCP flag", shortened(name)),
                did_you_mean(name, known, "TCP flags are"),
            )
        })
    };
    if let Some(number) = parse_number(text).filter(|_| !text.starts_with('-')) {
        let Ok(number) = u8::try_from(number) else {
            return Err((
                Code::OutOfRange,
                Problem::new(format!("`tcp.flags` is out of range: {number}"), HELP),
            ));
        };
        return Ok(Value::Flags { set: number, clear: !number });
    }
    if !text.starts_with(['+', '-']) {
        let mut set = 0;
        for name in text.split('+') {
            set |= flag(name)?;
        }
        return Ok(Value::Flags { set, clear: !set });
    }
    let (mut set, mut clear) = (0, 0);
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let end = rest[1..].find(['+', '-']).map_or(rest.len(), |end| end + 1);
        let bit = flag(&rest[1..end])?;
        if sign == '+' {
            set |= bit
        } else {
            clear |= bit
        }
        rest = &rest[end..];
    }
    if set & clear != 0 {
        return Err(bad(format!("`{}` wants a flag both set and clear", shortened(text)), HELP));
    }
    Ok(Value::Flags { set, clear })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str, text: &str) -> Result<Value, ValueError> {
        value(&FieldName::parse(field).unwrap(), text)
    }

    fn numbers(low: u64, high: u64) -> Value {
        Value::Range(Scalar::Number(low), Scalar::Number(high))
    }

    #[test]
    fn values_are_read_by_the_kind_of_their_field() {
        assert_eq!(read("l4.dst", "80"), Ok(numbers(80, 80)));
        assert_eq!(read("l4.dst", "8000-8999"), Ok(numbers(8000, 8999)));
        assert_eq!(read("eth.type", "0x0800"), Ok(numbers(0x800, 0x800)));
        assert_eq!(read("ip.proto", "tcp"), Ok(numbers(6, 6)));
        assert_eq!(read("ip.src", "$admins"), Ok(Value::PrefixSet("admins".into())));
        assert_eq!(read("tcp.flags", "syn+ack"), Ok(Value::Flags { set: 0x12, clear: 0xed }));
        assert_eq!(read("tcp.flags", "+syn-ack"), Ok(Value::Flags { set: 0x02, clear: 0x10 }));
        assert_eq!(read("ingress-port", "vm1"), Ok(Value::Port("vm1".into())));
        let (low, high) = ("10.0.0.0".parse().unwrap(), "10.255.255.255".parse().unwrap());
        assert_eq!(read("ip.dst", "10.0.0.0/8"), Ok(Value::Range(Scalar::Ip(low), Scalar::Ip(high))));
        assert!(matches!(read("eth.src", "02:00:00:00:00:01-02:00:00:00:00:09"), Ok(Value::Range(..))));
        assert!(matches!(read("outer.encap.kind", "gre-keyed"), Ok(Value::Range(Scalar::Encap(_), _))));
    }

    #[test]
    fn bad_values_are_refused_with_their_kind_of_mistake() {
        for (field, text, code) in [
            ("l4.dst", "65536", Code::OutOfRange),
            ("l4.dst", "-1", Code::OutOfRange),
            ("l4.dst", "90-80", Code::OutOfRange),
            ("l4.dst", "http", Code::BadValue),
            ("l4.dst", "", Code::BadValue),
            ("l4.dst", "$admins", Code::BadValue),
            ("vlan.id", "4096", Code::OutOfRange),
            ("ip.src", "10.0.0.256", Code::BadValue),
            ("ip.src", "10.0.0.1-fd00::1", Code::BadValue),
            ("ip.src", "10.0.0.9-10.0.0.1", Code::OutOfRange),
            ("nd.target", "10.0.0.1", Code::BadValue),
            ("ip.proto", "tpc", Code::BadValue),
            ("tcp.flags", "+syn-syn", Code::BadValue),
            ("tcp.flags", "+", Code::BadValue),
            ("tcp.flags", "256", Code::OutOfRange),
            ("tcp.flags", "+ä", Code::BadValue),
            ("eth.src", "02:00", Code::BadValue),
            ("outer.encap.kind", "vxlam", Code::BadValue),
        ] {
            assert_eq!(read(field, text).map_err(|error| error.0), Err(code), "{field} {text}");
        }
    }
}
