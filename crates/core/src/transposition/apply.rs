//! A transposition on meaning: what the headers would be afterwards.
//!
//! This is the specification of the compiled edit as well: parsing the edited bytes gives what is computed
//! here, per-packet fields included. It is pure; on error nothing has changed.

use super::entropy::entropy;
use super::headers::{Header, HeaderList, Item, L3Extra, L4Extra, ensure};
use super::source::{Class, Source};
use super::{HeaderOp, Modify, ModifyArp, ModifyL2, ModifyL3, ModifyL4, Push, PushDscp, Transposition, Ttl};
use crate::address::{VlanTag, VlanTags};
use crate::drop_reason::DropReason;
use crate::flow::{Arp, Encap, FlowId, Fragment, HeaderStack, Icmp, Ip, IpPair, L2, L3, L4, Level};

/// Why a packet cannot be changed as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransposeError {
    /// The packet's headers are not those that the transposition is about, or the result would be no packet;
    /// change the rule, or let it match only packets that it fits.
    DoesNotFit,
    /// The time to live would reach 0.
    TtlExceeded,
    /// A removed header met congestion, and the inner one cannot carry the mark (RFC 6040 §4.2).
    EcnViolation,
}

impl From<TransposeError> for DropReason {
    fn from(error: TransposeError) -> DropReason {
        match error {
            TransposeError::DoesNotFit => DropReason::CannotTranspose,
            TransposeError::TtlExceeded => DropReason::TtlExceeded,
            TransposeError::EcnViolation => DropReason::EcnViolation,
        }
    }
}

impl Transposition {
    /// Changes `headers` as the packet would change. On error `headers` is unchanged.
    ///
    /// A fragment whose IP header would have to be removed, or to hold more or less than before, does not fit:
    /// the other fragments could not follow. Putting headers in front of a fragment is fine.
    pub fn apply(&self, headers: &mut HeaderStack) -> Result<(), TransposeError> {
        if !self.is_identity() {
            *headers = self.run(&HeaderList::flatten(headers))?.1;
        }
        Ok(())
    }

    /// The resulting headers, as a list and as a stack.
    pub(super) fn run(&self, input: &HeaderList) -> Result<(HeaderList, HeaderStack), TransposeError> {
        let classes = classes(input);
        let mut walk = Walk {
            input,
            classes: &classes,
            output: HeaderList::new(),
            cursor: 0,
            l3_count: 0,
            after_kept: 0,
        };
        let structural = self.structural_ops();
        let mut sources = self.sources.iter().copied();
        for (index, op) in self.ops.iter().enumerate() {
            match op {
                HeaderOp::Ignore(level) => walk.keep(*level, None, index < structural)?,
                HeaderOp::Modify(modify) => walk.keep(op.level(), Some(modify), index < structural)?,
                HeaderOp::Pop(level) => walk.pop(*level)?,
                HeaderOp::Push(push) => walk.push(push, &mut sources)?,
            }
        }
        while let Some(item) = input.items().get(walk.cursor) {
            walk.keep(item.header.level(), None, false)?;
        }
        let mut output = walk.output;
        let mut stack = output.stack(input)?;
        fill_entropy(&mut output, &mut stack);
        Ok((output, stack))
    }

    /// How many operations there are up to the last one that adds or removes a header: what lies before that is
    /// moved, what lies behind it stays in place.
    pub(super) fn structural_ops(&self) -> usize {
        self.ops
            .iter()
            .rposition(|op| matches!(op, HeaderOp::Push(_) | HeaderOp::Pop(_)))
            .map_or(0, |last| last + 1)
    }
}

/// What each L3 header of `input` hands to others.
fn classes(input: &HeaderList) -> ([Class; 3], u8) {
    let mut classes = [None; 3];
    let mut count = 0;
    for item in input.items() {
        if let Header::L3(l3, extra) = item.header {
            if let L3::Ip(_) = l3 {
                classes[count as usize] = Some((extra.dscp, extra.ecn));
            }
            count += 1;
        }
    }
    (classes, count)
}

struct Walk<'a> {
    input: &'a HeaderList,
    classes: &'a ([Class; 3], u8),
    output: HeaderList,
    cursor: usize,
    l3_count: u8,
    after_kept: u8,
}

impl Walk<'_> {
    fn take(&mut self, level: Level) -> Result<Item, TransposeError> {
        let item = *self.input.items().get(self.cursor).ok_or(TransposeError::DoesNotFit)?;
        ensure(item.header.level() == level)?;
        self.cursor += 1;
        Ok(item)
    }

    fn classes(&self) -> &[Class] {
        &self.classes.0[..self.classes.1 as usize]
    }

    fn keep(&mut self, level: Level, modify: Option<&Modify>, moved: bool) -> Result<(), TransposeError> {
        let mut item = self.take(level)?;
        if let Header::L3(l3, extra) = &mut item.header {
            ensure(!moved || extra.fragment == Fragment::None)?;
            if let L3::Ip(_) = l3 {
                let source = Source { first: self.after_kept, last: self.l3_count };
                extra.ecn = source.read(self.classes())?.1;
            }
            self.l3_count += 1;
            self.after_kept = self.l3_count;
        }
        if let Some(modify) = modify {
            let before = item.header;
            modify.apply(&mut item)?;
            // SCTP's checksum is of the whole packet, and moves by the distance to an end that a fragment lacks.
            let is_sctp = matches!(before, Header::L4(L4::Sctp(_), _));
            ensure(!(is_sctp && before != item.header && self.is_in_fragment()))?;
        }
        self.output.push(item)
    }

    /// True where the header that comes next lies in a fragment.
    fn is_in_fragment(&self) -> bool {
        matches!(self.output.items().last().map(|item| item.header),
            Some(Header::L3(_, extra)) if extra.fragment != Fragment::None)
    }

    fn pop(&mut self, level: Level) -> Result<(), TransposeError> {
        if let Header::L3(_, extra) = self.take(level)?.header {
            ensure(extra.fragment == Fragment::None)?;
            self.l3_count += 1;
        }
        Ok(())
    }

    fn push(
        &mut self,
        push: &Push,
        sources: &mut impl Iterator<Item = Source>,
    ) -> Result<(), TransposeError> {
        let header = match *push {
            Push::L2(push) => {
                ensure(are_valid_tags(&push.tags))?;
                let (src, dst, tags, ethertype) = (push.src, push.dst, push.tags, push.ethertype);
                Header::L2(L2 { src, dst, tags, ethertype })
            }
            Push::Ip(push) => {
                let (copied, ecn) = sources.next().unwrap_or_default().read(self.classes())?;
                let dscp = match push.dscp {
                    PushDscp::Fixed(dscp) => dscp,
                    PushDscp::Copy => copied,
                };
                ensure(dscp < 64)?;
                if push.ttl == 0 {
                    return Err(TransposeError::TtlExceeded);
                }
                let ip = Ip { addresses: push.addresses, protocol: push.protocol };
                Header::L3(L3::Ip(ip), L3Extra { dscp, ecn, ttl: push.ttl, ..L3Extra::default() })
            }
            Push::Arp(arp) => Header::L3(L3::Arp(arp), L3Extra::default()),
            Push::Udp(ports) => Header::L4(L4::Udp(ports), L4Extra::default()),
            Push::Icmp(icmp) => {
                let l4 = match self.output.items().last().map(|item| item.header) {
                    Some(Header::L3(L3::Ip(Ip { addresses: IpPair::V6 { .. }, .. }), _)) => L4::Icmpv6(icmp),
                    _ => L4::Icmp(icmp),
                };
                ensure(is_whole_icmp(&l4) && !is_neighbor_discovery(&l4))?;
                Header::L4(l4, L4Extra::default())
            }
            Push::Encap(push) => {
                ensure(push.tenant <= push.kind.max_tenant())?;
                let encap = Encap { kind: push.kind, tenant: push.tenant };
                let tunnel_port = if push.kind.over_udp() { push.udp_port } else { 0 };
                Header::L4(L4::Encap(encap), L4Extra { tunnel_port, ..L4Extra::default() })
            }
        };
        self.output.push(Item { header, origin: None, ethertype_named: false })
    }
}

/// Gives every pushed tunnel the entropy of the innermost flow, as it is in the result.
fn fill_entropy(output: &mut HeaderList, stack: &mut HeaderStack) {
    let inner: FlowId = stack.innermost().flow_id;
    let mut group = 0;
    for item in output.items_mut() {
        if let Header::L4(L4::Encap(Encap { kind, .. }), extra) = &mut item.header {
            if item.origin.is_none() {
                extra.entropy = entropy(*kind, &inner);
                if let Some(group) = stack.groups_mut().get_mut(group) {
                    group.extra.entropy = extra.entropy;
                }
            }
            group += 1;
        }
    }
}

impl Modify {
    fn apply(&self, item: &mut Item) -> Result<(), TransposeError> {
        match (self, &mut item.header) {
            (Modify::L2(modify), Header::L2(l2)) => {
                item.ethertype_named = modify.ethertype.is_some();
                modify.apply(l2)
            }
            (Modify::L3(modify), Header::L3(L3::Ip(ip), extra)) => modify.apply_ip(ip, extra),
            (Modify::L3(modify), Header::L3(L3::Arp(arp), _)) => modify.apply_arp(arp),
            (Modify::L4(modify), Header::L4(l4, _)) => modify.apply(l4),
            _ => Err(TransposeError::DoesNotFit),
        }
    }
}

impl ModifyL2 {
    fn apply(&self, l2: &mut L2) -> Result<(), TransposeError> {
        ensure(self.tags.is_none_or(|tags| are_valid_tags(&tags)))?;
        l2.src = self.src.unwrap_or(l2.src);
        l2.dst = self.dst.unwrap_or(l2.dst);
        l2.tags = self.tags.unwrap_or(l2.tags);
        l2.ethertype = self.ethertype.unwrap_or(l2.ethertype);
        Ok(())
    }
}

impl ModifyL3 {
    fn apply_ip(&self, ip: &mut Ip, extra: &mut L3Extra) -> Result<(), TransposeError> {
        ensure(self.arp == ModifyArp::default())?;
        ip.addresses = self.addresses(ip.addresses)?;
        extra.dscp = self.dscp.unwrap_or(extra.dscp);
        ensure(extra.dscp < 64)?;
        if let Some(ttl) = self.ttl {
            extra.ttl = ttl.apply(extra.ttl).ok_or(TransposeError::TtlExceeded)?;
        }
        Ok(())
    }

    /// Changes `arp`; only addresses and ARP's own fields may be named.
    pub(super) fn apply_arp(&self, arp: &mut Arp) -> Result<(), TransposeError> {
        ensure(self.dscp.is_none() && self.ttl.is_none())?;
        let pair = IpPair::V4 { src: arp.sender_ip, dst: arp.target_ip };
        if let IpPair::V4 { src, dst } = self.addresses(pair)? {
            (arp.sender_ip, arp.target_ip) = (src, dst);
        }
        arp.operation = self.arp.operation.unwrap_or(arp.operation);
        arp.sender_mac = self.arp.sender_mac.unwrap_or(arp.sender_mac);
        arp.target_mac = self.arp.target_mac.unwrap_or(arp.target_mac);
        Ok(())
    }

    /// The pair with the named addresses replaced; its family must stay.
    pub(super) fn addresses(&self, old: IpPair) -> Result<IpPair, TransposeError> {
        let new = IpPair::new(self.src.unwrap_or(old.src()), self.dst.unwrap_or(old.dst()));
        new.filter(|new| new.is_v4() == old.is_v4()).ok_or(TransposeError::DoesNotFit)
    }
}

impl Ttl {
    /// The new time to live; `None` when the packet is not to be forwarded.
    pub(super) const fn apply(self, ttl: u8) -> Option<u8> {
        let (decrement, value) = match self {
            Ttl::Set(value) => (0, Some(value)),
            Ttl::Decrement(decrement) => (decrement, None),
            Ttl::DecrementThenSet { decrement, value } => (decrement, Some(value)),
        };
        if decrement > 0 && ttl <= decrement {
            return None;
        }
        match value {
            Some(0) => None,
            Some(value) => Some(value),
            None => Some(ttl - decrement),
        }
    }
}

impl ModifyL4 {
    /// Changes `l4`; every named field must be there.
    pub(super) fn apply(&self, l4: &mut L4) -> Result<(), TransposeError> {
        let before = *l4;
        let mut rest = *self;
        match l4 {
            L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports) => {
                ports.src = rest.src_port.take().unwrap_or(ports.src);
                ports.dst = rest.dst_port.take().unwrap_or(ports.dst);
            }
            L4::Icmp(icmp) | L4::Icmpv6(icmp) => {
                icmp.kind = rest.icmp_type.take().unwrap_or(icmp.kind);
                icmp.code = rest.icmp_code.take().unwrap_or(icmp.code);
                if let Some(id) = &mut icmp.id {
                    *id = rest.icmp_id.take().unwrap_or(*id);
                }
            }
            L4::Encap(encap) => {
                if encap.kind.has_tenant() {
                    encap.tenant = rest.tenant.take().unwrap_or(encap.tenant);
                }
                ensure(encap.tenant <= encap.kind.max_tenant())?;
            }
        }
        ensure(rest == ModifyL4::default())?;
        // A type that reads the rest of the message differently is another header, not a changed one.
        ensure(self.icmp_type.is_none() || is_whole_icmp(l4))?;
        ensure(is_neighbor_discovery(&before) == is_neighbor_discovery(l4))
    }
}

/// True where the identifier is there exactly when the type is a query.
fn is_whole_icmp(l4: &L4) -> bool {
    match l4 {
        L4::Icmp(Icmp { kind, id, .. }) => matches!(kind, 0 | 8 | 13..=18) == id.is_some(),
        L4::Icmpv6(Icmp { kind, id, .. }) => matches!(kind, 128 | 129) == id.is_some(),
        _ => true,
    }
}

const fn is_neighbor_discovery(l4: &L4) -> bool {
    matches!(l4, L4::Icmpv6(Icmp { kind: 135 | 136, .. }))
}

fn are_valid_tags(tags: &VlanTags) -> bool {
    tags.iter().all(|tag| matches!(tag.tpid, VlanTag::DOT1Q | VlanTag::DOT1AD))
}
