//! Composition: two transpositions become one.
//!
//! Theory. The second transposition reads the list of headers that the first writes, so the two are run in step:
//! every operation of the second that takes a header takes the next one that the first leaves. Where the first
//! ignores or modifies a header of the packet, both operations fall on it; where the first pushes it, the second
//! edits the push, or cancels it; what the first pops the second never sees, and it goes to the list before
//! anything that the second does behind it, so that pops stay in front of pushes that came later.
//!
//! The law: where `apply(b, apply(a, p))` succeeds, `apply(a.then(b), p)` succeeds with the same headers. Where
//! the right side fails, the left fails too, unless the header on which it failed is gone again: a header that
//! `a` pushed or changed and `b` popped can no longer have too low a TTL, and a stack that was too deep or in
//! disorder between the two steps is not seen by one. Two things are outside the law:
//!
//! - Entropy of a pushed tunnel is a function of the inner flow as it leaves. If `b` rewrites the flow inside a
//!   tunnel that `a` pushed, the two steps compute it from the flow between them, the one from the flow after.
//! - ECN, where `b` pops an IP header outside of one that `a` pushed or popped while an IP header deeper inside
//!   stays. Merging is not associative (RFC 6040 lets a not-capable middle header swallow a mark), and one list
//!   merges outermost first, as a decapsulator does.

use alloc::vec::Vec;

use super::source::{L3Map, Source};
use super::{HeaderOp, Modify, ModifyArp, ModifyL2, ModifyL3, ModifyL4, Push, PushDscp, Transposition, Ttl};
use crate::flow::{HeaderStack, Level};

impl Transposition {
    /// The one transposition that does what `self` and then `next` would do (see the law above). Two that can
    /// never follow each other give one that fits no packet.
    pub fn then(&self, next: &Transposition) -> Transposition {
        if self.is_identity() || *next == Transposition::misfit() {
            return next.clone();
        }
        if next.is_identity() || *self == Transposition::misfit() {
            return self.clone();
        }
        compose(self, next).unwrap_or_else(Transposition::misfit)
    }

    /// A transposition that ignores every group but the innermost one of `headers`, and does `changes` there.
    /// Changes that name no field are left out; of two for one header the later wins, field by field.
    pub fn on_innermost(headers: &HeaderStack, changes: impl IntoIterator<Item = Modify>) -> Transposition {
        let mut by_level: [Option<Modify>; 3] = [None; 3];
        for change in changes.into_iter().filter(|change| !change.is_empty()) {
            let slot = &mut by_level[change.level() as usize];
            *slot = match *slot {
                Some(earlier) => earlier.then(&change),
                None => Some(change),
            };
        }
        let mut ops = Vec::new();
        let last = headers.groups().len().saturating_sub(1);
        for (index, group) in headers.groups().iter().enumerate() {
            let id = &group.flow_id;
            let present =
                [(Level::L2, id.l2.is_some()), (Level::L3, id.l3.is_some()), (Level::L4, id.l4.is_some())];
            for (level, is_present) in present {
                let change = if index == last { by_level[level as usize] } else { None };
                match change {
                    // A change of a header that is not there is kept: it must not fit, rather than be lost.
                    Some(change) => ops.push(HeaderOp::Modify(change)),
                    None if is_present => ops.push(HeaderOp::Ignore(level)),
                    None => {}
                }
            }
        }
        Transposition::new(ops)
    }
}

fn compose(first: &Transposition, next: &Transposition) -> Option<Transposition> {
    let (first_map, next_map) = (L3Map::new(first), L3Map::new(next));
    let mut composer = Composer {
        ops: Vec::with_capacity(first.ops.len() + next.ops.len()),
        sources: Vec::new(),
        ahead: first.ops.iter().copied().peekable(),
        first_sources: first.sources.iter().copied(),
        first_map: &first_map,
        next_map: &next_map,
        output: 0,
    };
    let mut next_sources = next.sources.iter().copied();
    for op in &next.ops {
        composer.emit_pops();
        match *op {
            HeaderOp::Push(push) => {
                let source = if let Push::Ip(_) = push { next_sources.next()? } else { Source::default() };
                composer.push(push, source);
            }
            taking => composer.take(taking)?,
        }
    }
    composer.finish()
}

struct Composer<'a, Ahead: Iterator<Item = HeaderOp>, Sources> {
    ops: Vec<HeaderOp>,
    sources: Vec<Source>,
    /// What the first transposition still does.
    ahead: core::iter::Peekable<Ahead>,
    first_sources: Sources,
    first_map: &'a L3Map,
    next_map: &'a L3Map,
    /// L3 headers of the second's output that were passed.
    output: u8,
}

impl<Ahead: Iterator<Item = HeaderOp>, Sources: Iterator<Item = Source>> Composer<'_, Ahead, Sources> {
    fn emit_pops(&mut self) {
        while let Some(op) = self.ahead.next_if(|op| matches!(op, HeaderOp::Pop(_))) {
            self.ops.push(op);
        }
    }

    /// A push of the second: its source is in terms of the headers between the steps.
    fn push(&mut self, push: Push, source: Source) {
        let push = match push {
            Push::Ip(mut ip) => {
                let (source, dscp) = self.first_map.map(source);
                if ip.dscp == PushDscp::Copy {
                    ip.dscp = dscp;
                }
                self.sources.push(source);
                Push::Ip(ip)
            }
            other => other,
        };
        self.output = self.output.saturating_add(matches!(push, Push::Ip(_) | Push::Arp(_)) as u8);
        self.ops.push(HeaderOp::Push(push));
    }

    /// An operation of the second that takes a header meets what the first does to that header.
    fn take(&mut self, op: HeaderOp) -> Option<()> {
        let is_l3 = op.level() == Level::L3;
        let is_kept = !matches!(op, HeaderOp::Pop(_));
        let met = self.ahead.next();
        if met.is_some_and(|met| met.level() != op.level()) {
            return None;
        }
        match (met, op) {
            (None, op) => self.ops.push(op),
            (Some(HeaderOp::Push(push)), op) => {
                let is_ip = matches!(push, Push::Ip(_));
                if is_ip {
                    self.first_sources.next();
                }
                let push = match op {
                    HeaderOp::Pop(_) => None,
                    HeaderOp::Modify(modify) => Some(push.edited(&modify)?),
                    _ => Some(push),
                };
                if let Some(push) = push {
                    if is_ip {
                        self.sources.push(self.kept_source());
                    }
                    self.ops.push(HeaderOp::Push(push));
                }
            }
            (Some(met), HeaderOp::Ignore(_)) => self.ops.push(met),
            (Some(HeaderOp::Modify(earlier)), HeaderOp::Modify(later)) => {
                self.ops.push(HeaderOp::Modify(earlier.then(&later)?));
            }
            (Some(_), op) => self.ops.push(op),
        }
        if is_l3 {
            self.output = self.output.saturating_add(is_kept as u8);
        }
        Some(())
    }

    /// The source of a header that the first pushed and the second keeps: what the second popped right outside
    /// of it was merged into it.
    fn kept_source(&self) -> Source {
        let (seen, _) = self.next_map.output(self.output);
        self.first_map.map(seen).0
    }

    fn finish(mut self) -> Option<Transposition> {
        while let Some(op) = self.ahead.next() {
            match op {
                HeaderOp::Push(Push::Ip(_)) => {
                    self.first_sources.next();
                    self.sources.push(self.kept_source());
                    self.output = self.output.saturating_add(1);
                }
                HeaderOp::Push(Push::Arp(_)) => self.output = self.output.saturating_add(1),
                HeaderOp::Ignore(Level::L3) | HeaderOp::Modify(Modify::L3(_)) => {
                    self.output = self.output.saturating_add(1);
                }
                _ => {}
            }
            self.ops.push(op);
        }
        Some(Transposition::with_sources(self.ops, self.sources))
    }
}

impl Push {
    /// The push that has the effect of this one and then `modify`; `None` where that does not fit.
    fn edited(self, modify: &Modify) -> Option<Push> {
        Some(match (self, modify) {
            (Push::L2(mut push), Modify::L2(modify)) => {
                push.src = modify.src.unwrap_or(push.src);
                push.dst = modify.dst.unwrap_or(push.dst);
                push.tags = modify.tags.unwrap_or(push.tags);
                push.ethertype = modify.ethertype.unwrap_or(push.ethertype);
                Push::L2(push)
            }
            (Push::Ip(mut push), Modify::L3(modify)) => {
                push.addresses = modify.addresses(push.addresses).ok()?;
                push.dscp = modify.dscp.map_or(push.dscp, PushDscp::Fixed);
                // A push whose TTL reached 0 stays that way, whatever is set later: it is never forwarded.
                push.ttl = modify.ttl.map_or(Some(push.ttl), |ttl| ttl.apply(push.ttl)).unwrap_or(0)
                    * (push.ttl > 0) as u8;
                (modify.arp == ModifyArp::default()).then_some(Push::Ip(push))?
            }
            (Push::Arp(mut arp), Modify::L3(modify)) => {
                modify.apply_arp(&mut arp).ok()?;
                Push::Arp(arp)
            }
            (Push::Udp(mut ports), Modify::L4(modify)) => {
                ports.src = modify.src_port.unwrap_or(ports.src);
                ports.dst = modify.dst_port.unwrap_or(ports.dst);
                let named = ModifyL4 { src_port: None, dst_port: None, ..*modify };
                (named == ModifyL4::default()).then_some(Push::Udp(ports))?
            }
            (Push::Icmp(mut icmp), Modify::L4(modify)) => {
                icmp.kind = modify.icmp_type.unwrap_or(icmp.kind);
                icmp.code = modify.icmp_code.unwrap_or(icmp.code);
                icmp.id = modify.icmp_id.or(icmp.id);
                let named = ModifyL4 { icmp_type: None, icmp_code: None, icmp_id: None, ..*modify };
                (named == ModifyL4::default()).then_some(Push::Icmp(icmp))?
            }
            (Push::Encap(mut encap), Modify::L4(modify)) => {
                encap.tenant = modify.tenant.unwrap_or(encap.tenant);
                let named = ModifyL4 { tenant: None, ..*modify };
                (named == ModifyL4::default()).then_some(Push::Encap(encap))?
            }
            _ => return None,
        })
    }
}

impl Modify {
    const fn level(&self) -> Level {
        match self {
            Modify::L2(_) => Level::L2,
            Modify::L3(_) => Level::L3,
            Modify::L4(_) => Level::L4,
        }
    }

    /// The change that has the effect of this one and then `later`; `None` for changes of different levels.
    fn then(&self, later: &Modify) -> Option<Modify> {
        Some(match (self, later) {
            (Modify::L2(a), Modify::L2(b)) => Modify::L2(ModifyL2 {
                src: b.src.or(a.src),
                dst: b.dst.or(a.dst),
                tags: b.tags.or(a.tags),
                ethertype: b.ethertype.or(a.ethertype),
            }),
            (Modify::L3(a), Modify::L3(b)) => Modify::L3(ModifyL3 {
                src: b.src.or(a.src),
                dst: b.dst.or(a.dst),
                dscp: b.dscp.or(a.dscp),
                ttl: match (a.ttl, b.ttl) {
                    (Some(a), Some(b)) => Some(a.then(b)),
                    (a, b) => b.or(a),
                },
                arp: ModifyArp {
                    operation: b.arp.operation.or(a.arp.operation),
                    sender_mac: b.arp.sender_mac.or(a.arp.sender_mac),
                    target_mac: b.arp.target_mac.or(a.arp.target_mac),
                },
            }),
            (Modify::L4(a), Modify::L4(b)) => Modify::L4(ModifyL4 {
                src_port: b.src_port.or(a.src_port),
                dst_port: b.dst_port.or(a.dst_port),
                icmp_type: b.icmp_type.or(a.icmp_type),
                icmp_code: b.icmp_code.or(a.icmp_code),
                icmp_id: b.icmp_id.or(a.icmp_id),
                tenant: b.tenant.or(a.tenant),
            }),
            _ => return None,
        })
    }
}

impl Ttl {
    /// This change and then `later`. Every drop of the two steps stays one: sums saturate above every TTL, and
    /// a TTL that was set and then counted down to 0 is `Set(0)`, which no later step lifts.
    fn then(self, later: Ttl) -> Ttl {
        let (fall, value) = self.parts();
        let (later_fall, later_value) = later.parts();
        let (fall, value) = match value {
            None => (fall.saturating_add(later_fall), later_value),
            Some(0) => (fall, Some(0)),
            Some(value) => match Ttl::from_parts(later_fall, later_value).apply(value) {
                Some(result) => (fall, Some(result)),
                None => (fall, Some(0)),
            },
        };
        Ttl::from_parts(fall, value)
    }

    /// By how much it falls first, and what it is set to then.
    const fn parts(self) -> (u8, Option<u8>) {
        match self {
            Ttl::Set(value) => (0, Some(value)),
            Ttl::Decrement(decrement) => (decrement, None),
            Ttl::DecrementThenSet { decrement, value } => (decrement, Some(value)),
        }
    }

    const fn from_parts(decrement: u8, value: Option<u8>) -> Ttl {
        match (decrement, value) {
            (decrement, None) => Ttl::Decrement(decrement),
            (0, Some(value)) => Ttl::Set(value),
            (_, Some(0)) => Ttl::Set(0),
            (decrement, Some(value)) => Ttl::DecrementThenSet { decrement, value },
        }
    }
}
