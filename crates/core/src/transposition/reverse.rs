//! What a reply needs: the transposition that puts the reversed result back into the reversed original (§3.6).
//!
//! Each operation is undone in place, with source and destination exchanged: a modified field gets its original
//! value back on the other side, a pushed header is popped, a popped one pushed. What a packet loses on its way
//! by design is not given back: TTL, DSCP, ICMP type and code, ARP operation.
//!
//! Direct server return (`tunnels` false): the reply comes without the tunnel that the forward direction put on,
//! and goes without the one that it took off. So headers of tunnels that were pushed or popped take no part at
//! all: the list is read against the kept headers alone. A translation within a group (IPv4 to IPv6) is no
//! tunnel and is undone all the same.
//!
//! It must never look at a reply: the forward packet's headers say everything.

use alloc::vec::Vec;

use super::headers::{Header, HeaderList};
use super::{
    GENEVE_PORT, HeaderOp, Modify, ModifyArp, ModifyL2, ModifyL3, ModifyL4, OUTER_TTL, Push, PushDscp,
    PushEncap, PushIp, PushL2, Transposition, VXLAN_PORT,
};
use crate::flow::{Arp, EncapKind, HeaderStack, Icmp, L3, L4, Level};

impl Transposition {
    /// For a packet with headers `before` that `self` changed into `after`: the transposition that turns a reply
    /// to `after` into a reply to `before`. With `tunnels` false, pushes and pops of tunnels are not undone. A
    /// removed TCP or SCTP header cannot be made again, so its place stays as the reply has it. For a packet
    /// that `self` does not fit, the identity.
    pub fn reverse(&self, before: &HeaderStack, tunnels: bool) -> Transposition {
        let input = HeaderList::flatten(before);
        if self.apply(&mut before.clone()).is_err() {
            return Transposition::IDENTITY;
        }
        let mut plan = Vec::with_capacity(self.ops.len());
        let mut headers = input.items().iter().map(|item| item.header);
        for op in &self.ops {
            let header = if matches!(op, HeaderOp::Push(_)) { None } else { headers.next() };
            plan.push(Step { op: *op, header, skipped: false });
        }
        if !tunnels {
            skip_tunnels(&mut plan);
        }
        let is_lost = |step: &Step| {
            matches!(
                (step.op, step.header),
                (HeaderOp::Pop(_), Some(Header::L4(L4::Tcp(_) | L4::Sctp(_), _)))
            )
        };
        let lost_transport = plan.iter().any(is_lost);
        let mut reverse = Reverse { ops: Vec::with_capacity(plan.len()), pushes: Vec::new() };
        for step in plan.iter().filter(|step| !step.skipped) {
            match (step.op, step.header) {
                (HeaderOp::Ignore(level), _) => reverse.keep(HeaderOp::Ignore(level)),
                (HeaderOp::Modify(modify), Some(header)) => {
                    reverse.keep(HeaderOp::Modify(modify.undone(&header)));
                }
                (HeaderOp::Pop(_), Some(header)) => reverse.restore(&header),
                (HeaderOp::Push(Push::Udp(_) | Push::Icmp(_)), _) if lost_transport => {
                    reverse.keep(HeaderOp::Ignore(Level::L4));
                }
                (op, _) => reverse.ops.push(HeaderOp::Pop(op.level())),
            }
        }
        reverse.flush();
        Transposition::new(reverse.ops)
    }
}

/// One operation with the header that it took.
struct Step {
    op: HeaderOp,
    header: Option<Header>,
    skipped: bool,
}

/// Marks the operations that push or pop a header of a tunnel: of a group whose tunnel header is pushed, or
/// popped, too.
fn skip_tunnels(plan: &mut [Step]) {
    let (mut pushed, mut popped) = (Vec::new(), Vec::new());
    for index in 0..plan.len() {
        let members = match (plan[index].op, plan[index].header) {
            (HeaderOp::Push(Push::Encap(_)), _) => &mut pushed,
            (HeaderOp::Pop(_), Some(Header::L4(L4::Encap(_), _))) => &mut popped,
            (HeaderOp::Push(_), _) => {
                pushed.push(index);
                continue;
            }
            (HeaderOp::Pop(_), _) => {
                popped.push(index);
                continue;
            }
            (op, _) if op.level() == Level::L4 => {
                // A kept L4 header ends its group: what was pushed or popped before it was no tunnel's.
                pushed.clear();
                popped.clear();
                continue;
            }
            _ => continue,
        };
        members.push(index);
        for member in members.drain(..) {
            plan[member].skipped = true;
        }
    }
}

/// The reverse list as it grows. Within a run without kept headers the pops go first: the popped header is then
/// what a restored one takes its DSCP and ECN from.
struct Reverse {
    ops: Vec<HeaderOp>,
    pushes: Vec<HeaderOp>,
}

impl Reverse {
    fn keep(&mut self, op: HeaderOp) {
        self.flush();
        self.ops.push(op);
    }

    fn flush(&mut self) {
        self.ops.append(&mut self.pushes);
    }

    fn restore(&mut self, header: &Header) {
        self.pushes.extend(swapped(header).map(HeaderOp::Push));
    }
}

/// The push that makes `header` anew, as a reply has it; `None` for TCP and SCTP.
fn swapped(header: &Header) -> Option<Push> {
    Some(match *header {
        Header::L2(l2) => {
            Push::L2(PushL2 { src: l2.dst, dst: l2.src, tags: l2.tags, ethertype: l2.ethertype })
        }
        Header::L3(L3::Ip(ip), _) => Push::Ip(PushIp {
            addresses: ip.addresses.swapped(),
            ttl: OUTER_TTL,
            dscp: PushDscp::Copy,
            protocol: ip.protocol,
        }),
        Header::L3(L3::Arp(arp), _) => Push::Arp(Arp {
            operation: arp.operation,
            sender_mac: arp.target_mac,
            sender_ip: arp.target_ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        }),
        Header::L4(L4::Udp(ports), _) => Push::Udp(ports.swapped()),
        Header::L4(L4::Icmp(icmp), _) => Push::Icmp(answer(icmp, 8, 0)),
        Header::L4(L4::Icmpv6(icmp), _) => Push::Icmp(answer(icmp, 128, 129)),
        Header::L4(L4::Encap(encap), extra) => Push::Encap(PushEncap {
            kind: encap.kind,
            tenant: encap.tenant,
            // The other end is known by the port that this packet came by; headers that no packet had have none.
            udp_port: match (encap.kind, extra.tunnel_port) {
                (EncapKind::Vxlan, 0) => VXLAN_PORT,
                (EncapKind::Geneve, 0) => GENEVE_PORT,
                (_, port) => port,
            },
        }),
        Header::L4(L4::Tcp(_) | L4::Sctp(_), _) => return None,
    })
}

/// An echo request's answer is an echo reply, and the other way round; other types stay.
const fn answer(icmp: Icmp, request: u8, reply: u8) -> Icmp {
    let kind = if icmp.kind == request {
        reply
    } else if icmp.kind == reply {
        request
    } else {
        icmp.kind
    };
    Icmp { kind, ..icmp }
}

impl Modify {
    /// The change that gives a reply the values which this one took from `before`, on the other side.
    fn undone(&self, before: &Header) -> Modify {
        match (self, before) {
            (Modify::L2(modify), Header::L2(l2)) => Modify::L2(ModifyL2 {
                src: modify.dst.map(|_| l2.dst),
                dst: modify.src.map(|_| l2.src),
                tags: modify.tags.map(|_| l2.tags),
                ethertype: modify.ethertype.map(|_| l2.ethertype),
            }),
            (Modify::L3(modify), Header::L3(L3::Ip(ip), _)) => Modify::L3(ModifyL3 {
                src: modify.dst.map(|_| ip.addresses.dst()),
                dst: modify.src.map(|_| ip.addresses.src()),
                ..ModifyL3::default()
            }),
            (Modify::L3(modify), Header::L3(L3::Arp(arp), _)) => Modify::L3(ModifyL3 {
                src: modify.dst.map(|_| arp.target_ip.into()),
                dst: modify.src.map(|_| arp.sender_ip.into()),
                arp: ModifyArp {
                    operation: None,
                    sender_mac: modify.arp.target_mac.map(|_| arp.target_mac),
                    target_mac: modify.arp.sender_mac.map(|_| arp.sender_mac),
                },
                ..ModifyL3::default()
            }),
            (Modify::L4(modify), Header::L4(l4, _)) => Modify::L4(modify.undone(l4)),
            _ => *self,
        }
    }
}

impl ModifyL4 {
    fn undone(&self, before: &L4) -> ModifyL4 {
        let none = ModifyL4::default();
        match before {
            L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports) => ModifyL4 {
                src_port: self.dst_port.map(|_| ports.dst),
                dst_port: self.src_port.map(|_| ports.src),
                ..none
            },
            L4::Icmp(icmp) | L4::Icmpv6(icmp) => ModifyL4 { icmp_id: self.icmp_id.and(icmp.id), ..none },
            L4::Encap(encap) => ModifyL4 { tenant: self.tenant.map(|_| encap.tenant), ..none },
        }
    }
}
