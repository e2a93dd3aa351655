//! Fields: their names, and how the values of each are written.

use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::suggest::nearest;
use crate::tree::{Tree, shortened};
use crate::value::Name;

/// What a condition, a meter's key or a longest-prefix group reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FieldName {
    /// A header field of one scope.
    Header(Scope, HeaderField),
    /// Tenant id of the tunnel nearest to the innermost headers.
    Tenant,
    /// Inbound or outbound.
    Direction,
    /// The port by which the packet entered the switch.
    IngressPort,
    /// A metadata key.
    Metadata(Name),
}

/// Which headers a field is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The outermost ones.
    Outer,
    /// The innermost ones.
    Inner,
}

/// How a field's values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// A number of so many bits, or one of the words.
    Number(u32, &'static [(&'static str, u64)]),
    /// A MAC address.
    Mac,
    /// An IPv4 or IPv6 address or prefix.
    Ip,
    /// An IPv6 address or prefix.
    Ipv6,
    /// TCP flags.
    TcpFlags,
    /// A kind of tunnel.
    Encap,
    /// The name of a port.
    Port,
}

macro_rules! header_fields {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $kind:expr;)+) => {
        /// A header field. The names are those of the document.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum HeaderField { $($(#[doc = $doc])+ $variant,)+ }

        impl HeaderField {
            /// Every field, in the order of the reference page.
            pub const ALL: &'static [HeaderField] = &[$(HeaderField::$variant,)+];

            /// The name used in documents and output.
            pub const fn name(self) -> &'static str {
                match self { $(HeaderField::$variant => $name,)+ }
            }

            /// How its values are written.
            pub const fn kind(self) -> ValueKind {
                match self { $(HeaderField::$variant => $kind,)+ }
            }
        }
    };
}

use ValueKind::{Encap, Ip, Ipv6, Mac as MacKind, Number, TcpFlags as Flags};

const ETHER_TYPES: &[(&str, u64)] = &[("ipv4", 0x0800), ("arp", 0x0806), ("ipv6", 0x86dd)];
const TAG_TYPES: &[(&str, u64)] = &[("802.1q", 0x8100), ("802.1ad", 0x88a8)];
const PROTOCOLS: &[(&str, u64)] = &[
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
];
const FRAGMENTS: &[(&str, u64)] = &[("none", 0), ("first", 1), ("later", 2)];
const ARP_OPERATIONS: &[(&str, u64)] = &[("request", 1), ("reply", 2)];
const DIRECTIONS: &[(&str, u64)] = &[("inbound", 0), ("outbound", 1)];

header_fields! {
    /// Ethernet source address.
    EthSrc = "eth.src", MacKind;
    /// Ethernet destination address.
    EthDst = "eth.dst", MacKind;
    /// Whether the Ethernet destination is a group of receivers.
    EthMulticast = "eth.multicast", Number(1, &[]);
    /// Ethertype after VLAN tags.
    EthType = "eth.type", Number(16, ETHER_TYPES);
    /// Type of the first VLAN tag.
    VlanType = "vlan.type", Number(16, TAG_TYPES);
    /// VLAN id of the first tag.
    VlanId = "vlan.id", Number(12, &[]);
    /// 802.1p priority of the first tag.
    VlanPriority = "vlan.priority", Number(3, &[]);
    /// VLAN id of the second tag.
    InnerVlanId = "vlan.inner-id", Number(12, &[]);
    /// IP source, or ARP sender protocol address.
    IpSrc = "ip.src", Ip;
    /// IP destination, or ARP target protocol address.
    IpDst = "ip.dst", Ip;
    /// IP protocol number.
    IpProtocol = "ip.proto", Number(8, PROTOCOLS);
    /// DSCP.
    IpDscp = "ip.dscp", Number(6, &[]);
    /// ECN.
    IpEcn = "ip.ecn", Number(2, &[]);
    /// Time to live, hop limit.
    IpTtl = "ip.ttl", Number(8, &[]);
    /// Whether the packet is a fragment.
    IpFragment = "ip.fragment", Number(2, FRAGMENTS);
    /// TCP, UDP or SCTP source port.
    L4Src = "l4.src", Number(16, &[]);
    /// TCP, UDP or SCTP destination port.
    L4Dst = "l4.dst", Number(16, &[]);
    /// TCP flags.
    TcpFlags = "tcp.flags", Flags;
    /// ICMP or ICMPv6 type.
    IcmpType = "icmp.type", Number(8, &[]);
    /// ICMP or ICMPv6 code.
    IcmpCode = "icmp.code", Number(8, &[]);
    /// Identifier of an ICMP query.
    IcmpId = "icmp.id", Number(16, &[]);
    /// ARP operation.
    ArpOperation = "arp.op", Number(16, ARP_OPERATIONS);
    /// ARP sender hardware address.
    ArpSenderMac = "arp.sender-mac", MacKind;
    /// ARP target hardware address.
    ArpTargetMac = "arp.target-mac", MacKind;
    /// The address asked for in a neighbour solicitation or advertisement.
    NdTarget = "nd.target", Ipv6;
    /// The link-layer address that neighbour discovery announces.
    NdLinkAddress = "nd.link-address", MacKind;
    /// Kind of tunnel.
    EncapKind = "encap.kind", Encap;
    /// Tenant id or key of a tunnel.
    EncapTenant = "encap.tenant", Number(32, &[]);
}

impl FieldName {
    /// How its values are written.
    pub const fn kind(&self) -> ValueKind {
        match self {
            FieldName::Header(_, field) => field.kind(),
            FieldName::Tenant | FieldName::Metadata(_) => Number(32, &[]),
            FieldName::Direction => Number(1, DIRECTIONS),
            FieldName::IngressPort => ValueKind::Port,
        }
    }

    /// The field called `text`: `inner.` is understood where no scope is given.
    pub fn parse(text: &str) -> Option<FieldName> {
        match text {
            "tenant" => return Some(FieldName::Tenant),
            "direction" => return Some(FieldName::Direction),
            "ingress-port" => return Some(FieldName::IngressPort),
            _ => {}
        }
        if let Some(key) = text.strip_prefix("meta.") {
            return (!key.is_empty()).then(|| FieldName::Metadata(key.into()));
        }
        let (scope, name) = match (text.strip_prefix("outer."), text.strip_prefix("inner.")) {
            (Some(name), _) => (Scope::Outer, name),
            (_, Some(name)) => (Scope::Inner, name),
            _ => (Scope::Inner, text),
        };
        let field = HeaderField::ALL.iter().find(|field| field.name() == name)?;
        Some(FieldName::Header(scope, *field))
    }
}

impl std::fmt::Display for FieldName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FieldName::Header(Scope::Outer, field) => write!(f, "outer.{}", field.name()),
            FieldName::Header(Scope::Inner, field) => f.write_str(field.name()),
            FieldName::Tenant => f.write_str("tenant"),
            FieldName::Direction => f.write_str("direction"),
            FieldName::IngressPort => f.write_str("ingress-port"),
            FieldName::Metadata(key) => write!(f, "meta.{key}"),
        }
    }
}

impl Decoder<'_> {
    /// `tree` as the name of a field.
    pub(super) fn field_name(&mut self, tree: &Tree<'_>) -> Option<At<FieldName>> {
        let text = self.text(tree, "the name of a field")?;
        if let Some(field) = FieldName::parse(text) {
            return Some(At::new(field, tree.span));
        }
        let others = ["tenant", "direction", "ingress-port"];
        let known = HeaderField::ALL.iter().map(|field| field.name()).chain(others);
        let scoped = text.strip_prefix("outer.").or(text.strip_prefix("inner."));
        let bare =
            scoped.unwrap_or(text).replace("source", "src").replace("destination", "dst").replace('_', "-");
        let help = match nearest(&bare, known.clone()) {
            _ if bare.starts_with("meta") => {
                "write `meta.` and a key that the document declares under `metadata`".into()
            }
            Some(nearest) if scoped.is_some() => {
                let scope = &text[..text.len() - scoped.map_or(0, str::len)];
                format!("did you mean `{scope}{nearest}`?")
            }
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("fields are: {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.error(Code::UnknownField, tree.span, format!("`{}` is not a field", shortened(text)), help);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_round_trip() {
        for field in HeaderField::ALL {
            let inner = FieldName::parse(field.name()).unwrap();
            assert_eq!(FieldName::parse(&inner.to_string()), Some(inner.clone()));
            assert_eq!(FieldName::parse(&format!("inner.{}", field.name())), Some(inner));
            let outer = FieldName::parse(&format!("outer.{}", field.name())).unwrap();
            assert_eq!(outer.to_string(), format!("outer.{}", field.name()));
        }
        assert_eq!(FieldName::parse("meta."), None);
        assert_eq!(FieldName::parse("outer.tenant"), None);
    }
}
