//! Fields, values and conditions as they are written in policy.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::convert::PortIds;
use lamina_api::document::{HeaderField as Written, ValueKind};
use lamina_core::address::MacAddr;
use lamina_core::flow::{Direction, EncapKind, Family, Field, HeaderField, HeaderStack, Scope, Value};
use lamina_core::layer::{Condition, Policy, ValueRange};

/// What names can mean in a trace of one port.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The port's policy; its metadata keys and resources.
    pub policy: Option<&'a Policy>,
    /// Numbers of ports.
    pub ids: &'a PortIds,
}

const KINDS: [EncapKind; 6] = [
    EncapKind::Vxlan,
    EncapKind::Geneve,
    EncapKind::Nvgre,
    EncapKind::Gre,
    EncapKind::GreKeyed,
    EncapKind::IpInIp,
];
const FLAGS: [(u128, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ece"), (128, "cwr")];

/// The document's field for the core's.
fn written(field: HeaderField) -> Written {
    match field {
        HeaderField::EthSrc => Written::EthSrc,
        HeaderField::EthDst => Written::EthDst,
        HeaderField::EthMulticast => Written::EthMulticast,
        HeaderField::EthType => Written::EthType,
        HeaderField::VlanType => Written::VlanType,
        HeaderField::VlanId => Written::VlanId,
        HeaderField::VlanPriority => Written::VlanPriority,
        HeaderField::InnerVlanId => Written::InnerVlanId,
        HeaderField::IpSrc => Written::IpSrc,
        HeaderField::IpDst => Written::IpDst,
        HeaderField::IpProtocol => Written::IpProtocol,
        HeaderField::IpDscp => Written::IpDscp,
        HeaderField::IpEcn => Written::IpEcn,
        HeaderField::IpTtl => Written::IpTtl,
        HeaderField::IpFragment => Written::IpFragment,
        HeaderField::L4Src => Written::L4Src,
        HeaderField::L4Dst => Written::L4Dst,
        HeaderField::TcpFlags => Written::TcpFlags,
        HeaderField::IcmpType => Written::IcmpType,
        HeaderField::IcmpCode => Written::IcmpCode,
        HeaderField::IcmpId => Written::IcmpId,
        HeaderField::ArpOperation => Written::ArpOperation,
        HeaderField::ArpSenderMac => Written::ArpSenderMac,
        HeaderField::ArpTargetMac => Written::ArpTargetMac,
        HeaderField::NdTarget => Written::NdTarget,
        HeaderField::NdLinkAddress => Written::NdLinkAddress,
        HeaderField::EncapKind => Written::EncapKind,
        HeaderField::EncapTenant => Written::EncapTenant,
    }
}

impl Names<'_> {
    /// The field as policy writes it.
    pub fn field(&self, field: Field) -> String {
        match field {
            Field::Header(Scope::Inner, field) => written(field).name().into(),
            Field::Header(Scope::Outer, field) => format!("outer.{}", written(field).name()),
            Field::Tenant => "tenant".into(),
            Field::Direction => "direction".into(),
            Field::IngressPort => "ingress-port".into(),
            Field::Metadata(index) => {
                let key = self.policy.and_then(|policy| policy.metadata_keys.get(usize::from(index)));
                key.map_or_else(|| format!("meta.{index}"), |key| format!("meta.{key}"))
            }
        }
    }

    /// A value of `field` as policy writes it.
    pub fn value(&self, field: Field, value: Value) -> String {
        match value.family {
            Family::Ipv4 => return Ipv4Addr::from_bits(value.bits as u32).to_string(),
            Family::Ipv6 => return Ipv6Addr::from_bits(value.bits).to_string(),
            Family::Number => {}
        }
        match field {
            Field::Header(_, field) => header_value(field, value.bits),
            Field::Direction => direction_name(value.bits).into(),
            Field::IngressPort => {
                let id = lamina_core::switch::PortId(value.bits as u32);
                self.ids.name(id).map_or_else(|| value.bits.to_string(), str::to_owned)
            }
            Field::Tenant | Field::Metadata(_) => value.bits.to_string(),
        }
    }

    fn range(&self, field: Field, range: &ValueRange) -> String {
        if range.low == range.high {
            return self.value(field, range.low);
        }
        let bits = match range.low.family {
            Family::Ipv4 => Some(32),
            Family::Ipv6 => Some(128),
            Family::Number => None,
        };
        match bits.and_then(|bits| range.prefix_len(bits)) {
            Some(length) => format!("{}/{length}", self.value(field, range.low)),
            None => format!("{}-{}", self.value(field, range.low), self.value(field, range.high)),
        }
    }

    /// The values of `condition`, joined by "or", the first of them where there are many.
    pub fn values(&self, condition: &Condition) -> String {
        const SHOWN: usize = 6;
        let sets = condition.prefix_sets.iter().map(|id| {
            let set = self.policy.and_then(|policy| policy.resources.prefix_sets.get(id.0 as usize));
            set.map_or_else(|| format!("${}", id.0), |set| format!("${}", set.name))
        });
        let ranges = condition.ranges.iter().map(|range| self.range(condition.field, range));
        let all: Vec<String> = sets.chain(ranges).take(SHOWN).collect();
        let count = condition.prefix_sets.len() + condition.ranges.len();
        let mut text = all.join(" or ");
        if count > SHOWN {
            text.push_str(&format!(" or {} more", count - SHOWN));
        }
        text
    }

    /// What the packet has for `field`: `None` where it lacks it, or where only the switch knows.
    pub fn read(&self, field: Field, headers: &HeaderStack, direction: Direction) -> Option<String> {
        let value = match field {
            Field::Direction => Some(Value::from(direction)),
            _ => field.read_header(headers),
        };
        value.map(|value| self.value(field, value))
    }
}

fn direction_name(number: u128) -> &'static str {
    if number == 0 { Direction::Inbound.name() } else { Direction::Outbound.name() }
}

fn header_value(field: HeaderField, bits: u128) -> String {
    if field == HeaderField::EthType {
        let word = word(field, bits);
        return word.map_or_else(|| format!("0x{bits:04x}"), str::to_owned);
    }
    match written(field).kind() {
        ValueKind::Mac => MacAddr::from_bits(bits as u64).to_string(),
        ValueKind::Encap => {
            let kind = KINDS.iter().find(|kind| **kind as u128 == bits);
            kind.map_or_else(|| bits.to_string(), |kind| kind.name().into())
        }
        ValueKind::TcpFlags => {
            let set: Vec<&str> =
                FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
            if set.is_empty() { "0".into() } else { set.join("+") }
        }
        _ => word(field, bits).map_or_else(|| bits.to_string(), str::to_owned),
    }
}

/// The word that policy has for a number.
fn word(field: HeaderField, bits: u128) -> Option<&'static str> {
    match written(field).kind() {
        ValueKind::Number(_, words) => {
            words.iter().find(|(_, n)| u128::from(*n) == bits).map(|(word, _)| *word)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_as_they_are_written() {
        let text = r#"
version: 1
metadata: [tier]
resources: { prefixes: { admins: [10.9.0.0/16] } }
ports:
  vm1:
    mac: "02:00:00:00:00:01"
    layers:
      - name: l
        priority: 1
        inbound:
          - group: g
            rules:
              - name: r
                when:
                  outer.ip.dst: [10.0.0.0/8, 192.168.0.1, 10.0.0.1-10.0.0.9, "fd00::/64"]
                  ip.src: $admins
                  ip.proto: tcp
                  l4.dst: [80, 8000-8999]
                  eth.type: [ipv6, 0x88cc]
                  eth.src: "02:00:00:00:00:01"
                  tcp.flags: [syn+ack]
                  outer.encap.kind: vxlan
                  meta.tier: 3
                  direction: inbound
                  ingress-port: [vm1, uplink]
                action: allow
"#;
        let converted = crate::convert::convert(&lamina_api::parse("t", text).unwrap()).unwrap();
        let mut ids = PortIds::default();
        ids.assign(&"vm1".into());
        let policy = &converted.policy.ports[0].policy;
        let names = Names { policy: Some(policy), ids: &ids };
        let rule = policy.layers[0].inbound[0].rules.iter().next().unwrap();
        let shown: Vec<_> = rule
            .conditions
            .iter()
            .map(|c| format!("{}: {}", names.field(c.field), names.values(c)))
            .collect();
        assert_eq!(
            shown,
            [
                "outer.ip.dst: 10.0.0.0/8 or 192.168.0.1 or 10.0.0.1-10.0.0.9 or fd00::/64",
                "ip.src: $admins",
                "ip.proto: tcp",
                "l4.dst: 80 or 8000-8999",
                "eth.type: ipv6 or 0x88cc",
                "eth.src: 02:00:00:00:00:01",
                "tcp.flags: syn+ack",
                "outer.encap.kind: vxlan",
                "meta.tier: 3",
                "direction: inbound",
                "ingress-port: vm1 or uplink",
            ]
        );
    }
}
