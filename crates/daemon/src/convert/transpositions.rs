//! Transpositions: header operations, in an order that some packet can take.
//!
//! Theory. Read against a packet, the operations that consume a header (ignore, modify, pop) spell the start of
//! the packet's own header list, and those that leave one (ignore, modify, push) spell the start of the result.
//! Both lists must be packets: they begin with L2, and within a group L3 follows L2 and L4 follows L3; a new group
//! begins only behind a tunnel, at L2 or at L3. A list that breaks this fits no packet at all, so it is refused
//! where it is written; whether it fits a given packet is decided when the packet comes.

use std::net::IpAddr;

use lamina_api::document::{self, HeaderOp as Written, Level as WrittenLevel, VlanTag as WrittenTag};
use lamina_api::{At, Code, Diagnostic, Source};
use lamina_core::address::{MacAddr, VlanTag, VlanTags};
use lamina_core::flow::{Arp, Icmp, IpPair, Level, Ports};
use lamina_core::transposition::{
    HeaderOp, Modify, ModifyArp, ModifyL2, ModifyL3, ModifyL4, Push, PushEncap, PushIp, PushL2,
    Transposition, Ttl,
};

use super::Converter;
use super::actions::{default_port, push_dscp};
use super::conditions::encap_kind;

impl Converter {
    pub(super) fn transposition(
        &mut self,
        source: &Source,
        written: &[At<Written>],
    ) -> Option<Transposition> {
        let consumed = |op: &Written| !matches!(op, Written::Push(_));
        let left = |op: &Written| !matches!(op, Written::Pop(_));
        self.is_packet(source, written, consumed, "the packet would have to have")?;
        self.is_packet(source, written, left, "the result would have")?;
        let mut ops = Vec::with_capacity(written.len());
        for op in written {
            ops.push(self.op(source, op)?);
        }
        Some(Transposition::new(ops))
    }

    /// Checks that the headers of `part` of the operations can follow each other.
    fn is_packet(
        &mut self,
        source: &Source,
        written: &[At<Written>],
        part: impl Fn(&Written) -> bool,
        whose: &str,
    ) -> Option<()> {
        let mut before: Option<&At<Written>> = None;
        for op in written.iter().filter(|op| part(&op.value)) {
            let level = op.level();
            let problem = match before {
                None if level != WrittenLevel::L2 => {
                    Some(format!("{whose} {} first, but a frame starts with l2", level.name()))
                }
                None => None,
                Some(before) => follows(&before.value, level).map(|why| format!("{whose} {why}")),
            };
            if let Some(problem) = problem {
                let message = format!("no packet fits this list: {problem}");
                let mut diagnostic = Diagnostic::error(Code::Impossible, source, op.span, message);
                if let Some(before) = before {
                    diagnostic = diagnostic.also(source, before.span, "the header before it");
                }
                let help = "list every header from the outermost on: `{ ignore: l2 }` for those that stay as they are";
                self.say(diagnostic.help(help));
                return None;
            }
            before = Some(op);
        }
        Some(())
    }

    fn op(&mut self, source: &Source, written: &At<Written>) -> Option<HeaderOp> {
        Some(match &written.value {
            Written::Ignore(at) => HeaderOp::Ignore(level(*at)),
            Written::Pop(at) => HeaderOp::Pop(level(*at)),
            Written::Modify(change) => HeaderOp::Modify(self.modify(source, change)?),
            Written::Push(header) => HeaderOp::Push(self.push(source, header)?),
        })
    }

    fn modify(&mut self, source: &Source, change: &document::Modify) -> Option<Modify> {
        Some(match change {
            document::Modify::L2 { src, dst, vlan, ethertype } => Modify::L2(ModifyL2 {
                src: src.map(|mac| MacAddr(mac.0)),
                dst: dst.map(|mac| MacAddr(mac.0)),
                tags: vlan.as_deref().map(tags),
                ethertype: *ethertype,
            }),
            document::Modify::L3 { src, dst, dscp, ttl, arp_operation, arp_sender_mac, arp_target_mac } => {
                if let (Some(src), Some(dst)) = (src, dst) {
                    self.pair(source, *src, *dst)?;
                }
                let arp = ModifyArp {
                    operation: *arp_operation,
                    sender_mac: arp_sender_mac.map(|mac| MacAddr(mac.0)),
                    target_mac: arp_target_mac.map(|mac| MacAddr(mac.0)),
                };
                let is_arp = arp != ModifyArp::default();
                if is_arp && (dscp.is_some() || ttl.is_some()) {
                    let span = src.or(*dst).map_or_else(Default::default, |at| at.span);
                    let message = "one header cannot have both ARP fields and a DSCP or time to live";
                    self.error(
                        Code::Impossible,
                        source,
                        span,
                        message,
                        "use one rule for ARP and one for IP",
                    );
                    return None;
                }
                Modify::L3(ModifyL3 {
                    src: src.map(|address| address.value),
                    dst: dst.map(|address| address.value),
                    dscp: *dscp,
                    ttl: ttl.map(|ttl| match ttl {
                        document::Ttl::Set(ttl) => Ttl::Set(ttl),
                        document::Ttl::Decrement(by) => Ttl::Decrement(by),
                    }),
                    arp,
                })
            }
            document::Modify::L4 { src_port, dst_port, icmp_type, icmp_code, icmp_id, tenant } => {
                Modify::L4(ModifyL4 {
                    src_port: *src_port,
                    dst_port: *dst_port,
                    icmp_type: *icmp_type,
                    icmp_code: *icmp_code,
                    icmp_id: *icmp_id,
                    tenant: *tenant,
                })
            }
        })
    }

    fn pair(&mut self, source: &Source, src: At<IpAddr>, dst: At<IpAddr>) -> Option<IpPair> {
        let pair = IpPair::new(src.value, dst.value);
        if pair.is_none() {
            let message = "source and destination are not of one family";
            let diagnostic = Diagnostic::error(Code::Conflict, source, dst.span, message);
            let help = "use two IPv4 or two IPv6 addresses";
            self.say(diagnostic.also(source, src.span, "the source").help(help));
        }
        pair
    }

    fn push(&mut self, source: &Source, header: &document::Push) -> Option<Push> {
        Some(match header {
            document::Push::L2 { src, dst, vlan, ethertype } => Push::L2(PushL2 {
                src: MacAddr(src.0),
                dst: MacAddr(dst.0),
                tags: tags(vlan),
                ethertype: *ethertype,
            }),
            document::Push::Ip { src, dst, ttl, dscp, protocol } => Push::Ip(PushIp {
                addresses: self.pair(source, *src, *dst)?,
                ttl: *ttl,
                dscp: push_dscp(*dscp),
                protocol: *protocol,
            }),
            document::Push::Arp { operation, sender_mac, sender_ip, target_mac, target_ip } => {
                let (IpAddr::V4(sender), IpAddr::V4(target)) = (sender_ip.value, target_ip.value) else {
                    return None;
                };
                Push::Arp(Arp {
                    operation: *operation,
                    sender_mac: MacAddr(sender_mac.0),
                    sender_ip: sender,
                    target_mac: MacAddr(target_mac.0),
                    target_ip: target,
                })
            }
            document::Push::Udp { src, dst } => Push::Udp(Ports { src: *src, dst: *dst }),
            document::Push::Icmp { kind, code, id } => Push::Icmp(Icmp { kind: *kind, code: *code, id: *id }),
            document::Push::Encap { kind, vni, udp_port } => {
                self.tunnel_numbers(source, *kind, *vni, *udp_port)?;
                if vni.is_none() && kind.largest_tenant() > 0 {
                    let message = format!("{} needs a tenant id", kind.name());
                    self.error(Code::MissingField, source, kind.span, message, "add `vni: 5001`");
                    return None;
                }
                let core_kind = encap_kind(kind.value);
                Push::Encap(PushEncap {
                    kind: core_kind,
                    tenant: vni.map_or(0, |vni| vni.value),
                    udp_port: udp_port.map_or_else(|| default_port(core_kind), |port| port.value),
                })
            }
        })
    }
}

/// Why a header of `level` cannot follow the header of `before`; `None` when it can.
fn follows(before: &Written, level: WrittenLevel) -> Option<String> {
    use WrittenLevel::{L2, L3, L4};
    let (first, second) = (before.level().name(), level.name());
    match (before.level(), level) {
        (L2, L3) | (L3, L4) => None,
        (L4, L2 | L3) => {
            let Written::Push(push) = before else { return None };
            match push {
                document::Push::Encap { kind, .. } => {
                    let ethernet = encap_kind(kind.value).carries_ethernet();
                    let wanted = if ethernet { L2 } else { L3 };
                    (level != wanted)
                        .then(|| format!("{second} inside {}, which carries {}", kind.name(), wanted.name()))
                }
                _ => Some(format!("{second} behind a transport header, which holds no further headers")),
            }
        }
        _ => Some(format!("{second} directly behind {first}")),
    }
}

const fn level(level: WrittenLevel) -> Level {
    match level {
        WrittenLevel::L2 => Level::L2,
        WrittenLevel::L3 => Level::L3,
        WrittenLevel::L4 => Level::L4,
    }
}

/// Up to two tags; the document has no more.
fn tags(written: &[WrittenTag]) -> VlanTags {
    let tag = |tag: &WrittenTag| VlanTag {
        tpid: if tag.service { VlanTag::DOT1AD } else { VlanTag::DOT1Q },
        tci: u16::from(tag.priority) << 13 | tag.id,
    };
    match written {
        [] => VlanTags::NONE,
        [only] => VlanTags::one(tag(only)),
        [outer, inner, ..] => VlanTags::two(tag(outer), tag(inner)),
    }
}
