//! The packet's headers as a list, outermost first: what a transposition is read against, and the rules that
//! make a list of headers a packet again.
//!
//! Flattening loses where a group ends, and [`HeaderList::stack`] finds it again: a group ends with its tunnel
//! header. Fields that follow from their neighbours (ethertype, protocol) are derived there and nowhere else.

use super::TransposeError;
use crate::address::MacAddr;
use crate::flow::{
    EncapKind, Extra, FlowId, Fragment, HeaderGroup, HeaderStack, L2, L3, L4, Level, MAX_GROUPS,
};

/// The longest list: three headers in each group.
pub(super) const MAX_HEADERS: usize = 3 * MAX_GROUPS;

/// One header with the per-packet fields that belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    L2(L2),
    L3(L3, L3Extra),
    L4(L4, L4Extra),
}

/// The per-packet fields of an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct L3Extra {
    pub(super) dscp: u8,
    pub(super) ecn: u8,
    pub(super) ttl: u8,
    pub(super) fragment: Fragment,
    pub(super) flow_label: u32,
}

/// The per-packet fields of a transport, ICMP or tunnel header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct L4Extra {
    pub(super) tcp_flags: u8,
    pub(super) entropy: u16,
    pub(super) tunnel_port: u16,
    pub(super) nd_target: Option<core::net::Ipv6Addr>,
    pub(super) nd_link: Option<MacAddr>,
}

impl Header {
    pub(super) const fn level(&self) -> Level {
        match self {
            Header::L2(_) => Level::L2,
            Header::L3(..) => Level::L3,
            Header::L4(..) => Level::L4,
        }
    }
}

/// A header and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) header: Header,
    /// Its place in the input's list; `None` for a pushed header.
    pub(super) origin: Option<u8>,
    /// The L2 header's ethertype was named by an operation.
    pub(super) ethertype_named: bool,
}

/// Up to [`MAX_HEADERS`] headers, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeaderList {
    items: [Item; MAX_HEADERS],
    len: u8,
}

impl HeaderList {
    pub(super) fn new() -> Self {
        let blank = Item { header: Header::L2(L2::default()), origin: None, ethertype_named: false };
        HeaderList { items: [blank; MAX_HEADERS], len: 0 }
    }

    /// The headers of `stack`.
    pub(super) fn flatten(stack: &HeaderStack) -> Self {
        let mut list = HeaderList::new();
        for group in stack.groups() {
            let extra = &group.extra;
            let l3 = L3Extra {
                dscp: extra.dscp,
                ecn: extra.ecn,
                ttl: extra.ttl,
                fragment: extra.fragment,
                flow_label: extra.flow_label,
            };
            let l4 = L4Extra {
                tcp_flags: extra.tcp_flags,
                entropy: extra.entropy,
                tunnel_port: extra.tunnel_port,
                nd_target: extra.nd_target,
                nd_link: extra.nd_link,
            };
            let headers = [
                group.flow_id.l2.map(Header::L2),
                group.flow_id.l3.map(|header| Header::L3(header, l3)),
                group.flow_id.l4.map(|header| Header::L4(header, l4)),
            ];
            for header in headers.into_iter().flatten() {
                list.items[list.len as usize] =
                    Item { header, origin: Some(list.len), ethertype_named: false };
                list.len += 1;
            }
        }
        list
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items[..self.len as usize]
    }

    pub(super) fn items_mut(&mut self) -> &mut [Item] {
        &mut self.items[..self.len as usize]
    }

    pub(super) fn push(&mut self, item: Item) -> Result<(), TransposeError> {
        *self.items.get_mut(self.len as usize).ok_or(TransposeError::DoesNotFit)? = item;
        self.len += 1;
        Ok(())
    }

    /// The header at `index`, if it is of `level`.
    pub(super) fn header(&self, index: usize, level: Level) -> Option<&Header> {
        self.items().get(index).map(|item| &item.header).filter(|header| header.level() == level)
    }

    /// Makes the list a stack again, and its derived fields those of its neighbours; `input` is the list that it
    /// was made from. Fails where the headers do not make a packet: an order that no parser would read back.
    pub(super) fn stack(&mut self, input: &HeaderList) -> Result<HeaderStack, TransposeError> {
        let mut stack = HeaderStack::default();
        let mut group = HeaderGroup::default();
        let mut tunnel: Option<EncapKind> = None;
        for index in 0..self.len as usize {
            self.derive(index, input)?;
            let item = self.items[index];
            let HeaderGroup { flow_id: id, extra: all } = &mut group;
            match item.header {
                Header::L2(l2) => {
                    let inside_ip = tunnel.is_some_and(|kind| !kind.carries_ethernet());
                    ensure(*id == FlowId::default() && !inside_ip)?;
                    id.l2 = Some(l2);
                }
                Header::L3(l3, extra) => {
                    ensure(id.l3.is_none() && id.l4.is_none())?;
                    if id.l2.is_none() {
                        let inside_ip =
                            tunnel.is_some_and(|kind| !kind.carries_ethernet() || kind == EncapKind::Geneve);
                        let bare = stack.groups().is_empty() && input.header(0, Level::L2).is_none();
                        ensure(inside_ip && matches!(l3, L3::Ip(_)) || bare)?;
                    }
                    id.l3 = Some(l3);
                    let L3Extra { dscp, ecn, ttl, fragment, flow_label } = extra;
                    *all = Extra { dscp, ecn, ttl, fragment, flow_label, ..*all };
                }
                Header::L4(l4, extra) => {
                    let Some(L3::Ip(ip)) = id.l3 else { return Err(TransposeError::DoesNotFit) };
                    ensure(id.l4.is_none())?;
                    ensure(match l4 {
                        L4::Icmp(_) => ip.addresses.is_v4(),
                        L4::Icmpv6(_) => !ip.addresses.is_v4(),
                        _ => true,
                    })?;
                    id.l4 = Some(l4);
                    let L4Extra { tcp_flags, entropy, tunnel_port, nd_target, nd_link } = extra;
                    *all = Extra { tcp_flags, entropy, tunnel_port, nd_target, nd_link, ..*all };
                    if let L4::Encap(encap) = l4 {
                        // A tunnel without a known inside stays as it was; a new one needs an inside.
                        let was_last = item.origin.is_some_and(|at| at + 1 == input.len);
                        ensure(index + 1 < self.len as usize || was_last)?;
                        tunnel = Some(encap.kind);
                        stack.push_inner(group).ok_or(TransposeError::DoesNotFit)?;
                        group = HeaderGroup::default();
                    }
                }
            }
        }
        if group != HeaderGroup::default() {
            stack.push_inner(group).ok_or(TransposeError::DoesNotFit)?;
        }
        ensure(!stack.groups().is_empty())?;
        Ok(stack)
    }

    /// Sets what header `index` says about the one behind it. Where nothing known lies behind it, the number
    /// that it names must not promise a header, unless the packet arrived that way (a later fragment does).
    fn derive(&mut self, index: usize, input: &HeaderList) -> Result<(), TransposeError> {
        let next = self.items().get(index + 1).map(|item| item.header);
        let inner_v6 = match self.header(index + 2, Level::L3) {
            Some(Header::L3(L3::Ip(ip), _)) => !ip.addresses.is_v4(),
            _ => false,
        };
        let item = &mut self.items[index];
        let as_it_was =
            |behind| item.origin.is_some_and(|at| input.header(at as usize + 1, behind).is_none());
        match &mut item.header {
            Header::L2(l2) => match next {
                Some(Header::L3(l3, _)) => {
                    ensure(!item.ethertype_named)?;
                    l2.ethertype = ethertype(&l3);
                }
                _ => ensure(
                    as_it_was(Level::L3) && !item.ethertype_named || !is_followed_ethertype(l2.ethertype),
                )?,
            },
            Header::L3(L3::Ip(ip), _) => match next {
                Some(Header::L4(l4, _)) => ip.protocol = protocol(&l4, inner_v6),
                _ => ensure(as_it_was(Level::L4) || !is_followed_protocol(ip.protocol))?,
            },
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn ensure(fits: bool) -> Result<(), TransposeError> {
    if fits { Ok(()) } else { Err(TransposeError::DoesNotFit) }
}

/// The ethertype that announces `l3`.
pub(super) const fn ethertype(l3: &L3) -> u16 {
    match l3 {
        L3::Ip(ip) if ip.addresses.is_v4() => 0x0800,
        L3::Ip(_) => 0x86dd,
        L3::Arp(_) => 0x0806,
    }
}

/// The protocol number that announces `l4`; for IP-in-IP the inner family decides.
const fn protocol(l4: &L4, inner_v6: bool) -> u8 {
    match l4 {
        L4::Tcp(_) => 6,
        L4::Udp(_) => 17,
        L4::Sctp(_) => 132,
        L4::Icmp(_) => 1,
        L4::Icmpv6(_) => 58,
        L4::Encap(encap) => match encap.kind {
            EncapKind::Vxlan | EncapKind::Geneve => 17,
            EncapKind::Nvgre | EncapKind::Gre | EncapKind::GreKeyed => 47,
            EncapKind::IpInIp if inner_v6 => 41,
            EncapKind::IpInIp => 4,
        },
    }
}

/// True where a parser would read on behind this ethertype.
const fn is_followed_ethertype(ethertype: u16) -> bool {
    matches!(ethertype, 0x0800 | 0x86dd | 0x0806 | 0x8100 | 0x88a8)
}

/// True where a parser would read on behind this protocol number, IPv6 extension headers included.
const fn is_followed_protocol(protocol: u8) -> bool {
    matches!(protocol, 0 | 1 | 4 | 6 | 17 | 41 | 43 | 44 | 47 | 50 | 51 | 58 | 60 | 132 | 135 | 139 | 140)
}
