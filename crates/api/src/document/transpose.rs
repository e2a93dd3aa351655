//! Header changes as written: a list of operations, outermost header first.
//!
//! `ignore`, `pop` and `modify` are about one header of the packet each, `push` makes a new one. Whether the list
//! can be applied to any packet at all (an IP header behind an IP header without a tunnel between them cannot be)
//! is checked in conversion, where the order of all operations is known.

use std::net::IpAddr;

use super::{Dscp, EncapKind, HeaderField};
use crate::decode::{Decoder, Fields};
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Node, Tree};
use crate::value::Mac;

/// What happens to one header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderOp {
    /// It stays as it is.
    Ignore(Level),
    /// It is removed.
    Pop(Level),
    /// Named fields change.
    Modify(Modify),
    /// A new header is put here.
    Push(Push),
}

/// The place of a header in its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Ethernet and VLAN tags.
    L2,
    /// IPv4, IPv6, ARP.
    L3,
    /// Transport, ICMP, or encapsulation.
    L4,
}

impl Level {
    /// The name used in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Level::L2 => "l2",
            Level::L3 => "l3",
            Level::L4 => "l4",
        }
    }
}

/// Changed fields of one header; at least one is `Some`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Modify {
    /// Ethernet.
    L2 {
        /// New source.
        src: Option<Mac>,
        /// New destination.
        dst: Option<Mac>,
        /// The tags that shall be there.
        vlan: Option<Vec<VlanTag>>,
        /// New ethertype.
        ethertype: Option<u16>,
    },
    /// IP or ARP.
    L3 {
        /// New source.
        src: Option<At<IpAddr>>,
        /// New destination.
        dst: Option<At<IpAddr>>,
        /// New DSCP.
        dscp: Option<u8>,
        /// What happens to the time to live.
        ttl: Option<Ttl>,
        /// New ARP operation.
        arp_operation: Option<u16>,
        /// New ARP sender hardware address.
        arp_sender_mac: Option<Mac>,
        /// New ARP target hardware address.
        arp_target_mac: Option<Mac>,
    },
    /// Transport, ICMP or tunnel.
    L4 {
        /// New source port.
        src_port: Option<u16>,
        /// New destination port.
        dst_port: Option<u16>,
        /// New ICMP type.
        icmp_type: Option<u8>,
        /// New ICMP code.
        icmp_code: Option<u8>,
        /// New identifier of an ICMP query.
        icmp_id: Option<u16>,
        /// New tenant id of a tunnel.
        tenant: Option<u32>,
    },
}

/// What happens to a time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// It becomes this number.
    Set(u8),
    /// It falls by this much.
    Decrement(u8),
}

/// A VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanTag {
    /// VLAN id.
    pub id: u16,
    /// 802.1p priority.
    pub priority: u8,
    /// True for 802.1ad (0x88a8), false for 802.1Q (0x8100).
    pub service: bool,
}

/// A new header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Push {
    /// Ethernet.
    L2 {
        /// Source.
        src: Mac,
        /// Destination.
        dst: Mac,
        /// Tags, outermost first.
        vlan: Vec<VlanTag>,
        /// Ethertype where no header that Lamina knows follows.
        ethertype: u16,
    },
    /// IPv4 or IPv6.
    Ip {
        /// Source.
        src: At<IpAddr>,
        /// Destination.
        dst: At<IpAddr>,
        /// Time to live.
        ttl: u8,
        /// DSCP.
        dscp: Dscp,
        /// Protocol where no header that Lamina knows follows.
        protocol: u8,
    },
    /// ARP.
    Arp {
        /// 1 request, 2 reply.
        operation: u16,
        /// Sender hardware address.
        sender_mac: Mac,
        /// Sender protocol address.
        sender_ip: At<IpAddr>,
        /// Target hardware address.
        target_mac: Mac,
        /// Target protocol address.
        target_ip: At<IpAddr>,
    },
    /// UDP.
    Udp {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier of a query.
        id: Option<u16>,
    },
    /// A tunnel.
    Encap {
        /// Which tunnel.
        kind: At<EncapKind>,
        /// Tenant id.
        vni: Option<At<u32>>,
        /// UDP destination port; `None` takes the kind's own.
        udp_port: Option<At<u16>>,
    },
}

impl HeaderOp {
    /// The level of the header that the operation is about.
    pub const fn level(&self) -> Level {
        match self {
            HeaderOp::Ignore(level) | HeaderOp::Pop(level) => *level,
            HeaderOp::Modify(Modify::L2 { .. }) | HeaderOp::Push(Push::L2 { .. }) => Level::L2,
            HeaderOp::Modify(Modify::L3 { .. }) | HeaderOp::Push(Push::Ip { .. } | Push::Arp { .. }) => {
                Level::L3
            }
            HeaderOp::Modify(Modify::L4 { .. }) | HeaderOp::Push(_) => Level::L4,
        }
    }
}

const LEVELS: [(&str, Level); 3] = [("l2", Level::L2), ("l3", Level::L3), ("l4", Level::L4)];

/// The fields that `modify` knows, by the header they are in: four of L2, seven of L3, six of L4.
const MODIFY_FIELDS: [&str; 17] = [
    "eth.src",
    "eth.dst",
    "eth.type",
    "vlan",
    "ip.src",
    "ip.dst",
    "ip.dscp",
    "ip.ttl",
    "arp.op",
    "arp.sender-mac",
    "arp.target-mac",
    "l4.src",
    "l4.dst",
    "icmp.type",
    "icmp.code",
    "icmp.id",
    "encap.tenant",
];

impl Decoder<'_> {
    pub(super) fn transpose(&mut self, tree: &Tree<'_>) -> Option<super::Action> {
        let items = self.list(tree, "header operations");
        if items.is_empty() {
            self.error(
                Code::MissingField,
                tree.span,
                "transpose changes nothing",
                "list at least one operation",
            );
            return None;
        }
        let before = self.report.diagnostics().len() + self.report.omitted();
        let ops: Vec<_> = items.iter().filter_map(|item| self.header_op(item)).collect();
        let complete = before == self.report.diagnostics().len() + self.report.omitted();
        complete.then_some(super::Action::Transpose(ops))
    }

    fn header_op(&mut self, tree: &Tree<'_>) -> Option<At<HeaderOp>> {
        const WHAT: &str = "a header operation";
        let entries = match &tree.node {
            Node::Map(entries) if entries.len() == 1 => entries,
            _ => {
                let help =
                    "write one of `{ ignore: l2 }`, `{ pop: l4 }`, `{ modify: {...} }`, `{ push: {...} }`";
                self.error(Code::WrongType, tree.span, format!("{} is not {WHAT}", tree.kind()), help);
                return None;
            }
        };
        let fields = self.fields(tree, WHAT, &["ignore", "pop", "modify", "push"])?;
        let (key, value) = &entries[0];
        let op = if fields.optional("ignore").is_some() {
            HeaderOp::Ignore(self.word(value, "a level", &LEVELS)?.value)
        } else if fields.optional("pop").is_some() {
            HeaderOp::Pop(self.word(value, "a level", &LEVELS)?.value)
        } else if fields.optional("modify").is_some() {
            HeaderOp::Modify(self.modify(value)?)
        } else if fields.optional("push").is_some() {
            HeaderOp::Push(self.push(value)?)
        } else {
            return None;
        };
        Some(At::new(op, key.span.to(value.span)))
    }

    fn modify(&mut self, tree: &Tree<'_>) -> Option<Modify> {
        let fields = self.fields(tree, "modify", &MODIFY_FIELDS)?;
        let used = |level: &[&str]| level.iter().find_map(|name| fields.key_span(name));
        match (used(&MODIFY_FIELDS[..4]), used(&MODIFY_FIELDS[4..11]), used(&MODIFY_FIELDS[11..])) {
            (Some(_), None, None) => self.modify_l2(&fields),
            (None, Some(_), None) => self.modify_l3(&fields),
            (None, None, Some(_)) => self.modify_l4(&fields),
            (None, None, None) => {
                let help = "name at least one field, for example `ip.dst`";
                self.error(Code::MissingField, fields.span(), "modify changes nothing", help);
                None
            }
            (l2, l3, l4) => {
                let second = l4.or(l3).or(l2).unwrap_or(fields.span());
                let message = "one modify changes fields of one header, but these are of several";
                self.error(
                    Code::WrongType,
                    second,
                    message,
                    "write one `modify` for each header, in their order",
                );
                None
            }
        }
    }

    fn modify_l2(&mut self, fields: &Fields<'_>) -> Option<Modify> {
        let src = self.optional_mac(fields, "eth.src", HeaderField::EthSrc)?;
        let dst = self.optional_mac(fields, "eth.dst", HeaderField::EthDst)?;
        let ethertype = self.optional_number(fields, "eth.type", HeaderField::EthType)?;
        let vlan = match fields.optional("vlan") {
            Some(tree) => Some(self.vlan(tree)?),
            None => None,
        };
        Some(Modify::L2 { src, dst, vlan, ethertype })
    }

    fn modify_l3(&mut self, fields: &Fields<'_>) -> Option<Modify> {
        let src = self.optional_address(fields, "ip.src", HeaderField::IpSrc)?;
        let dst = self.optional_address(fields, "ip.dst", HeaderField::IpDst)?;
        let dscp = self.optional_number(fields, "ip.dscp", HeaderField::IpDscp)?;
        let ttl = match fields.optional("ip.ttl") {
            Some(tree) => Some(self.ttl(tree)?),
            None => None,
        };
        let arp_operation = self.optional_number(fields, "arp.op", HeaderField::ArpOperation)?;
        let arp_sender_mac = self.optional_mac(fields, "arp.sender-mac", HeaderField::ArpSenderMac)?;
        let arp_target_mac = self.optional_mac(fields, "arp.target-mac", HeaderField::ArpTargetMac)?;
        Some(Modify::L3 { src, dst, dscp, ttl, arp_operation, arp_sender_mac, arp_target_mac })
    }

    fn modify_l4(&mut self, fields: &Fields<'_>) -> Option<Modify> {
        Some(Modify::L4 {
            src_port: self.optional_number(fields, "l4.src", HeaderField::L4Src)?,
            dst_port: self.optional_number(fields, "l4.dst", HeaderField::L4Dst)?,
            icmp_type: self.optional_number(fields, "icmp.type", HeaderField::IcmpType)?,
            icmp_code: self.optional_number(fields, "icmp.code", HeaderField::IcmpCode)?,
            icmp_id: self.optional_number(fields, "icmp.id", HeaderField::IcmpId)?,
            tenant: self.optional_number(fields, "encap.tenant", HeaderField::EncapTenant)?,
        })
    }

    /// `Some(None)` when the field is absent, `None` when it is there and wrong.
    fn optional_mac(&mut self, fields: &Fields<'_>, name: &str, field: HeaderField) -> Option<Option<Mac>> {
        match fields.optional(name) {
            Some(tree) => self.single_mac(field, tree).map(Some),
            None => Some(None),
        }
    }

    fn optional_address(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        field: HeaderField,
    ) -> Option<Option<At<IpAddr>>> {
        match fields.optional(name) {
            Some(tree) => self.single_address(field, tree).map(Some),
            None => Some(None),
        }
    }

    fn optional_number<T: TryFrom<u64>>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        field: HeaderField,
    ) -> Option<Option<T>> {
        match fields.optional(name) {
            Some(tree) => T::try_from(self.single_number(field, tree)?).ok().map(Some),
            None => Some(None),
        }
    }

    fn ttl(&mut self, tree: &Tree<'_>) -> Option<Ttl> {
        match &tree.node {
            Node::Scalar { text, .. } if text == "decrement" => Some(Ttl::Decrement(1)),
            Node::Map(_) => {
                let fields = self.fields(tree, "a time to live", &["decrement"])?;
                let by = self.required(&fields, "decrement", "1")?;
                self.unsigned::<u8>(by, "a decrement", 1, 255).map(|by| Ttl::Decrement(by.value))
            }
            _ => self
                .unsigned::<u8>(tree, "a time to live (or `decrement`)", 1, 255)
                .map(|ttl| Ttl::Set(ttl.value)),
        }
    }

    /// `none`, a VLAN id, a tag, or a list of up to two tags, outermost first.
    pub(super) fn vlan(&mut self, tree: &Tree<'_>) -> Option<Vec<VlanTag>> {
        match &tree.node {
            Node::Scalar { text, .. } if text == "none" => Some(Vec::new()),
            Node::List(items) if items.len() > 2 => {
                self.error(
                    Code::OutOfRange,
                    tree.span,
                    "a frame has at most two tags",
                    "leave the others out",
                );
                None
            }
            Node::List(items) => items.iter().map(|item| self.vlan_tag(item)).collect(),
            _ => self.vlan_tag(tree).map(|tag| vec![tag]),
        }
    }

    fn vlan_tag(&mut self, tree: &Tree<'_>) -> Option<VlanTag> {
        if matches!(tree.node, Node::Scalar { .. }) {
            let id = self.unsigned::<u16>(tree, "a VLAN id", 0, 4095)?;
            return Some(VlanTag { id: id.value, priority: 0, service: false });
        }
        let fields = self.fields(tree, "a VLAN tag", &["id", "priority", "type"])?;
        let id = self.required(&fields, "id", "100")?;
        let id = self.unsigned::<u16>(id, "a VLAN id", 0, 4095)?;
        let priority = match fields.optional("priority") {
            Some(tree) => self.unsigned::<u8>(tree, "a VLAN priority", 0, 7)?.value,
            None => 0,
        };
        let service = match fields.optional("type") {
            Some(tree) => self.word(tree, "a kind of tag", &[("802.1q", false), ("802.1ad", true)])?.value,
            None => false,
        };
        Some(VlanTag { id: id.value, priority, service })
    }

    fn push(&mut self, tree: &Tree<'_>) -> Option<Push> {
        const KNOWN: [&str; 6] = ["l2", "ip", "arp", "udp", "icmp", "encap"];
        let value = match &tree.node {
            Node::Map(entries) if entries.len() == 1 => &entries[0].1,
            _ => {
                let message = format!("push names one header, found {}", tree.kind());
                self.error(Code::WrongType, tree.span, message, format!("one of {}", KNOWN.join(", ")));
                return None;
            }
        };
        let fields = self.fields(tree, "push", &KNOWN)?;
        let is = |name| fields.optional(name).is_some();
        if is("l2") {
            self.push_l2(value)
        } else if is("ip") {
            self.push_ip(value)
        } else if is("arp") {
            self.push_arp(value)
        } else if is("udp") {
            let fields = self.fields(value, "a UDP header", &["src", "dst"])?;
            let src = self.required_number(&fields, "src", "1234", HeaderField::L4Src)?;
            Some(Push::Udp { src, dst: self.required_number(&fields, "dst", "53", HeaderField::L4Dst)? })
        } else if is("icmp") {
            let fields = self.fields(value, "an ICMP header", &["type", "code", "id"])?;
            let kind = self.required_number(&fields, "type", "8", HeaderField::IcmpType)?;
            let code = self.optional_number(&fields, "code", HeaderField::IcmpCode)?.unwrap_or(0);
            Some(Push::Icmp { kind, code, id: self.optional_number(&fields, "id", HeaderField::IcmpId)? })
        } else if is("encap") {
            let fields = self.fields(value, "a tunnel header", &["kind", "vni", "udp-port"])?;
            let words: Vec<_> = EncapKind::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
            let kind = self.required(&fields, "kind", "vxlan")?;
            let kind = self.word(kind, "a kind of tunnel", &words)?;
            let vni = fields.optional("vni").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
            let udp_port =
                fields.optional("udp-port").and_then(|tree| self.unsigned(tree, "a port", 1, u16::MAX));
            Some(Push::Encap { kind, vni, udp_port })
        } else {
            None
        }
    }

    fn push_l2(&mut self, tree: &Tree<'_>) -> Option<Push> {
        let fields = self.fields(tree, "an Ethernet header", &["src", "dst", "vlan", "type"])?;
        let src = self.required_mac(&fields, "src")?;
        let dst = self.required_mac(&fields, "dst")?;
        let vlan = match fields.optional("vlan") {
            Some(tree) => self.vlan(tree)?,
            None => Vec::new(),
        };
        let ethertype = self.optional_number(&fields, "type", HeaderField::EthType)?.unwrap_or(0);
        Some(Push::L2 { src, dst, vlan, ethertype })
    }

    fn push_ip(&mut self, tree: &Tree<'_>) -> Option<Push> {
        let fields = self.fields(tree, "an IP header", &["src", "dst", "ttl", "dscp", "proto"])?;
        let src = self.required_address(&fields, "src")?;
        let dst = self.required_address(&fields, "dst")?;
        let ttl = match fields.optional("ttl") {
            Some(tree) => self.unsigned::<u8>(tree, "a time to live", 1, 255)?.value,
            None => 64,
        };
        let dscp = match fields.optional("dscp") {
            Some(tree) => self.dscp(tree)?,
            None => Dscp::Fixed(0),
        };
        let protocol = self.optional_number(&fields, "proto", HeaderField::IpProtocol)?.unwrap_or(0);
        if src.is_ipv4() != dst.is_ipv4() {
            let message = "source and destination are not of one family";
            self.error(Code::Conflict, dst.span, message, "use two IPv4 or two IPv6 addresses");
            return None;
        }
        Some(Push::Ip { src, dst, ttl, dscp, protocol })
    }

    fn push_arp(&mut self, tree: &Tree<'_>) -> Option<Push> {
        const KNOWN: [&str; 5] = ["op", "sender-mac", "sender-ip", "target-mac", "target-ip"];
        let fields = self.fields(tree, "an ARP packet", &KNOWN)?;
        let operation = self.required_number(&fields, "op", "request", HeaderField::ArpOperation)?;
        let sender_mac = self.required_mac(&fields, "sender-mac")?;
        let target_mac = self.required_mac(&fields, "target-mac")?;
        let sender_ip = self.required_address(&fields, "sender-ip")?;
        let target_ip = self.required_address(&fields, "target-ip")?;
        if let Some(v6) = [sender_ip, target_ip].iter().find(|address| address.is_ipv6()) {
            self.error(Code::BadValue, v6.span, "ARP is for IPv4 addresses", "use an IPv4 address");
            return None;
        }
        Some(Push::Arp { operation, sender_mac, sender_ip, target_mac, target_ip })
    }

    fn required_mac(&mut self, fields: &Fields<'_>, name: &str) -> Option<Mac> {
        let tree = self.required(fields, name, "\"02:00:00:00:00:01\"")?;
        self.mac(tree).map(|mac| mac.value)
    }

    fn required_address(&mut self, fields: &Fields<'_>, name: &str) -> Option<At<IpAddr>> {
        let tree = self.required(fields, name, "10.0.0.1")?;
        self.address(tree)
    }

    fn required_number<T: TryFrom<u64>>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        example: &str,
        field: HeaderField,
    ) -> Option<T> {
        let tree = self.required(fields, name, example)?;
        T::try_from(self.single_number(field, tree)?).ok()
    }
}
