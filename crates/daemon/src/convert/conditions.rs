//! Conditions: field names become fields, values become ranges and prefix sets.

use lamina_api::document::{self, EncapKind as WrittenKind, FieldName, HeaderField as Written, Scalar};
use lamina_api::{At, Code, Source};
use lamina_core::address::MacAddr;
use lamina_core::flow::{EncapKind, Field, HeaderField, Scope as HeaderScope, Value};
use lamina_core::layer::{Condition, Name, ValueRange};
use lamina_core::resource::PrefixSetId;

use super::{Converter, Scope, UPLINK};

/// The field that `name` names; `None` for a metadata key that is not in `metadata`.
pub(super) fn field(name: &FieldName, metadata: &[Name]) -> Option<Field> {
    Some(match name {
        FieldName::Header(scope, field) => {
            let scope = match scope {
                document::Scope::Outer => HeaderScope::Outer,
                document::Scope::Inner => HeaderScope::Inner,
            };
            Field::Header(scope, header_field(*field))
        }
        FieldName::Tenant => Field::Tenant,
        FieldName::Direction => Field::Direction,
        FieldName::IngressPort => Field::IngressPort,
        FieldName::Metadata(key) => {
            let index = metadata.iter().position(|declared| declared == key)?;
            Field::Metadata(u8::try_from(index).ok()?)
        }
    })
}

fn header_field(field: Written) -> HeaderField {
    match field {
        Written::EthSrc => HeaderField::EthSrc,
        Written::EthDst => HeaderField::EthDst,
        Written::EthMulticast => HeaderField::EthMulticast,
        Written::EthType => HeaderField::EthType,
        Written::VlanType => HeaderField::VlanType,
        Written::VlanId => HeaderField::VlanId,
        Written::VlanPriority => HeaderField::VlanPriority,
        Written::InnerVlanId => HeaderField::InnerVlanId,
        Written::IpSrc => HeaderField::IpSrc,
        Written::IpDst => HeaderField::IpDst,
        Written::IpProtocol => HeaderField::IpProtocol,
        Written::IpDscp => HeaderField::IpDscp,
        Written::IpEcn => HeaderField::IpEcn,
        Written::IpTtl => HeaderField::IpTtl,
        Written::IpFragment => HeaderField::IpFragment,
        Written::L4Src => HeaderField::L4Src,
        Written::L4Dst => HeaderField::L4Dst,
        Written::TcpFlags => HeaderField::TcpFlags,
        Written::IcmpType => HeaderField::IcmpType,
        Written::IcmpCode => HeaderField::IcmpCode,
        Written::IcmpId => HeaderField::IcmpId,
        Written::ArpOperation => HeaderField::ArpOperation,
        Written::ArpSenderMac => HeaderField::ArpSenderMac,
        Written::ArpTargetMac => HeaderField::ArpTargetMac,
        Written::NdTarget => HeaderField::NdTarget,
        Written::NdLinkAddress => HeaderField::NdLinkAddress,
        Written::EncapKind => HeaderField::EncapKind,
        Written::EncapTenant => HeaderField::EncapTenant,
    }
}

/// The core's tunnel for the written one.
pub(super) fn encap_kind(kind: WrittenKind) -> EncapKind {
    match kind {
        WrittenKind::Vxlan => EncapKind::Vxlan,
        WrittenKind::Geneve => EncapKind::Geneve,
        WrittenKind::Nvgre => EncapKind::Nvgre,
        WrittenKind::Gre => EncapKind::Gre,
        WrittenKind::GreKeyed => EncapKind::GreKeyed,
        WrittenKind::IpInIp => EncapKind::IpInIp,
    }
}

fn value(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Number(number) => Value::number(number.into()),
        Scalar::Mac(mac) => Value::mac(MacAddr(mac.0)),
        Scalar::Ip(address) => Value::ip(address),
        Scalar::Encap(kind) => Value::number(encap_kind(kind) as u128),
    }
}

/// The numbers of eight TCP flags of which `set` are set and `clear` are clear, as ranges.
fn flag_ranges(set: u8, clear: u8) -> Vec<ValueRange> {
    let mut ranges: Vec<ValueRange> = Vec::new();
    for flags in (0..=u8::MAX).filter(|flags| flags & set == set && flags & clear == 0) {
        let flags = Value::number(flags.into());
        match ranges.last_mut() {
            Some(last) if last.high.bits + 1 == flags.bits => last.high = flags,
            _ => ranges.push(ValueRange::single(flags)),
        }
    }
    ranges
}

impl Converter {
    /// The conditions, in the order written. Those with a mistake are kept empty: the policy is refused anyway,
    /// and the positions stay those of the document.
    pub(super) fn conditions(
        &mut self,
        source: &Source,
        written: &[document::Condition],
        scope: &Scope<'_>,
    ) -> Vec<Condition> {
        written.iter().map(|condition| self.condition(source, condition, scope)).collect()
    }

    fn condition(&mut self, source: &Source, written: &document::Condition, scope: &Scope<'_>) -> Condition {
        let metadata = &scope.tables.metadata;
        let field = field(&written.field.value, metadata).unwrap_or_else(|| {
            self.missing_metadata(source, &written.field, metadata);
            Field::Direction
        });
        let mut condition = Condition { field, ranges: Vec::new(), prefix_sets: Vec::new() };
        for item in &written.values {
            match &item.value {
                document::Value::Range(low, high) => {
                    condition.ranges.push(ValueRange { low: value(*low), high: value(*high) });
                }
                document::Value::Flags { set, clear } => condition.ranges.extend(flag_ranges(*set, *clear)),
                document::Value::PrefixSet(name) => match scope.tables.prefixes.number(name) {
                    Some(number) => condition.prefix_sets.push(PrefixSetId(number)),
                    None => {
                        let at = At::new(name.clone(), item.span);
                        self.missing(source, &at, "prefix set", scope.tables.prefixes.names());
                    }
                },
                document::Value::Port(name) => match scope.ids.id(name) {
                    Some(id) => condition.ranges.push(ValueRange::single(Value::number(id.0.into()))),
                    None => {
                        let message = format!("there is no port called `{name}`");
                        let help = format!("name a port of the policy, or `{UPLINK}`");
                        self.error(Code::MissingResource, source, item.span, message, help);
                    }
                },
            }
        }
        condition
    }

    /// Reports that the metadata key of `field` is not declared.
    pub(super) fn missing_metadata(&mut self, source: &Source, field: &At<FieldName>, declared: &[Name]) {
        if let FieldName::Metadata(key) = &field.value {
            let at = At::new(key.clone(), field.span);
            self.missing(source, &at, "metadata key", declared.iter().map(|key| &**key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_exactly_the_numbers_that_have_them() {
        for (set, clear) in [(0x02, 0x10), (0x12, 0xed), (0, 0), (0x80, 0x01), (0xff, 0)] {
            let ranges = flag_ranges(set, clear);
            for flags in 0..=u8::MAX {
                let within = ranges.iter().any(|range| range.contains(Value::number(flags.into())));
                assert_eq!(within, flags & set == set && flags & clear == 0, "{set:x} {clear:x} {flags:x}");
            }
        }
    }

    #[test]
    fn tunnel_numbers_and_names_agree_with_the_core() {
        for kind in WrittenKind::ALL {
            let core = encap_kind(*kind);
            assert_eq!(core.name(), kind.name());
            assert_eq!(core.max_tenant(), kind.largest_tenant());
        }
    }

    #[test]
    fn widths_agree_with_the_core() {
        use lamina_api::document::ValueKind;
        for written in Written::ALL {
            let bits = match written.kind() {
                ValueKind::Number(bits, _) => bits,
                ValueKind::Mac => 48,
                ValueKind::Ip | ValueKind::Ipv6 => 128,
                ValueKind::TcpFlags => 8,
                ValueKind::Encap => 3,
                ValueKind::Port => 32,
            };
            assert_eq!(bits, header_field(*written).bits(), "{}", written.name());
        }
    }
}
