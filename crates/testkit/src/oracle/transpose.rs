//! Header operations, done on the list of headers, one after the other (§4.2, §4.5).
//!
//! *Ignore* and *modify* take one header and leave one, *pop* takes one, *push* leaves one; headers behind the end
//! of the operations stay. The result must be a frame that can exist. A pushed IP header copies ECN (and DSCP where
//! asked) of the IP header it is put in front of, as that came in; a popped one hands its ECN inward by RFC 6040.

use lamina_core::address::VlanTag;
use lamina_core::drop_reason::DropReason;
use lamina_core::flow::{Fragment, IpPair, Level};
use lamina_core::transposition::{
    HeaderOp, Modify, ModifyArp, ModifyL2, ModifyL3, ModifyL4, OUTER_TTL, Push, PushDscp, PushEncap, PushIp,
    PushL2, Ttl,
};

use crate::wire::*;

const MISFIT: DropReason = DropReason::CannotTranspose;

/// The entropy that the oracle writes into tunnels it pushes. What it must be is left open to the switch (any
/// number of the dynamic range that depends on the inner flow alone), so comparisons treat this value as a blank.
pub const BLANK_ENTROPY: u16 = 0;

/// Without operations that do nothing at the end, so that equal changes compare equal.
pub(super) fn canonical(mut ops: Vec<HeaderOp>) -> Vec<HeaderOp> {
    while matches!(ops.last(), Some(HeaderOp::Ignore(_))) {
        ops.pop();
    }
    ops
}

/// `frame` after `ops`, or why they cannot be done.
pub(super) fn apply(ops: &[HeaderOp], frame: &Frame) -> Result<Frame, DropReason> {
    if ops.is_empty() {
        return Ok(frame.clone());
    }
    let last_move = ops.iter().rposition(|op| matches!(op, HeaderOp::Push(_) | HeaderOp::Pop(_)));
    let mut input = frame.headers.iter().cloned();
    let mut upcoming = frame.headers.as_slice();
    let mut output: Vec<Header> = Vec::new();
    // DSCP and ECN of IP headers popped since the last one that stayed, outermost first.
    let mut popped: Vec<(u8, u8)> = Vec::new();
    let mut previous_level = None;
    for (index, op) in ops.iter().enumerate() {
        if let HeaderOp::Push(push) = op {
            let replaces = previous_level == Some(Level::L3)
                && !matches!(
                    ops[index..].iter().find(|op| !matches!(op, HeaderOp::Push(_))).map(HeaderOp::level),
                    Some(Level::L2 | Level::L3)
                );
            let header = made(push, &output, || {
                let next = upcoming.iter().find(|header| header.level() == Level::L3);
                let mut chain = popped.clone();
                if !replaces {
                    match next.and_then(Header::class_and_ttl) {
                        Some((dscp, ecn, _)) => chain.push((dscp, ecn)),
                        None => return Ok((0, 0)),
                    }
                }
                let Some((dscp, _)) = chain.last().copied() else { return Ok((0, 0)) };
                let ecn = chain.into_iter().map(|(_, ecn)| Ok(ecn)).reduce(|a, b| merged(a?, b?));
                Ok((dscp, ecn.unwrap_or(Ok(0))?))
            })?;
            output.push(header);
            continue;
        }
        let mut header = input.next().filter(|header| header.level() == op.level()).ok_or(MISFIT)?;
        upcoming = &upcoming[1..];
        previous_level = Some(op.level());
        let is_fragment = header.fragment() != Fragment::None;
        if let HeaderOp::Pop(_) = op {
            if is_fragment {
                return Err(MISFIT);
            }
            if let Some((dscp, ecn, _)) = header.class_and_ttl() {
                popped.push((dscp, ecn));
            }
            continue;
        }
        if is_fragment && last_move.is_some_and(|last| index < last) {
            return Err(MISFIT);
        }
        take_over(&mut header, &mut popped)?;
        if let HeaderOp::Modify(modify) = op {
            let before = header.clone();
            change(&mut header, modify)?;
            // SCTP's checksum is of the whole packet, which a fragment lacks.
            let in_fragment = output.last().is_some_and(|ip: &Header| ip.fragment() != Fragment::None);
            check(!(in_fragment && matches!(header, Header::Sctp(_)) && header != before))?;
        }
        output.push(header);
    }
    for mut header in input {
        take_over(&mut header, &mut popped)?;
        output.push(header);
    }
    let mut consumed = ops.iter().filter(|op| !matches!(op, HeaderOp::Push(_)));
    let takes_all = consumed.clone().count() == frame.headers.len();
    let lost_last = takes_all && matches!(consumed.next_back(), Some(HeaderOp::Pop(_)));
    let mut result = Frame { headers: output, payload: frame.payload.clone() };
    result.restate();
    if !result.is_well_formed() || (lost_last && promises_more(result.headers.last())) {
        return Err(MISFIT);
    }
    Ok(result)
}

/// Which headers of a frame its sender did not write, after `ops` on a frame of which `made` says so.
pub(super) fn track(ops: &[HeaderOp], made: &[bool]) -> Vec<bool> {
    let mut input = made.iter().copied();
    let mut output = Vec::new();
    for op in ops {
        match op {
            HeaderOp::Push(_) => output.push(true),
            HeaderOp::Pop(_) => drop(input.next()),
            HeaderOp::Ignore(_) | HeaderOp::Modify(_) => output.extend(input.next()),
        }
    }
    output.extend(input);
    output
}

/// True when `last` says that a header follows which Lamina would read: nothing that was removed may leave such a
/// promise behind.
fn promises_more(last: Option<&Header>) -> bool {
    let protocol = match last {
        Some(Header::Ethernet(eth)) => return matches!(eth.ethertype, 0x0800 | 0x86dd | 0x0806),
        Some(Header::Ipv4(ip)) => ip.protocol,
        Some(Header::Ipv6(ip)) => ip.protocol,
        _ => return false,
    };
    matches!(protocol, 1 | 4 | 6 | 17 | 41 | 47 | 58 | 132)
}

/// A header that stays takes over the ECN of IP headers popped in front of it.
fn take_over(header: &mut Header, popped: &mut Vec<(u8, u8)>) -> Result<(), DropReason> {
    if header.level() != Level::L3 {
        return Ok(());
    }
    let outer = popped.drain(..).map(|(_, ecn)| Ok(ecn)).reduce(|a, b| merged(a?, b?));
    if let (Some(outer), Some(ecn)) = (outer, header.ecn_mut()) {
        *ecn = merged(outer?, *ecn)?;
    }
    Ok(())
}

/// RFC 6040 figure 4: the inner ECN after decapsulation.
fn merged(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (inner, outer) {
        (0, 3) => Err(DropReason::EcnViolation),
        (0, _) => Ok(0),
        (_, 3) => Ok(3),
        (2, 1) => Ok(1),
        (inner, _) => Ok(inner),
    }
}

fn check(holds: bool) -> Result<(), DropReason> {
    if holds { Ok(()) } else { Err(MISFIT) }
}

fn made(
    push: &Push,
    before: &[Header],
    class: impl FnOnce() -> Result<(u8, u8), DropReason>,
) -> Result<Header, DropReason> {
    Ok(match *push {
        Push::L2(l2) => {
            let tags: Vec<VlanTag> = l2.tags.iter().collect();
            check(tags.iter().all(|tag| matches!(tag.tpid, VlanTag::DOT1Q | VlanTag::DOT1AD)))?;
            Header::Ethernet(Ethernet { dst: l2.dst, src: l2.src, tags, ethertype: l2.ethertype })
        }
        Push::Ip(ip) => {
            let (copied, ecn) = class()?;
            let dscp = match ip.dscp {
                PushDscp::Fixed(dscp) => dscp,
                PushDscp::Copy => copied,
            };
            check(dscp < 64)?;
            if ip.ttl == 0 {
                return Err(DropReason::TtlExceeded);
            }
            match ip.addresses {
                IpPair::V4 { src, dst } => Header::Ipv4(Ipv4 {
                    dscp,
                    ecn,
                    id: 0,
                    dont_fragment: true,
                    more_fragments: false,
                    offset: 0,
                    ttl: ip.ttl,
                    protocol: ip.protocol,
                    src,
                    dst,
                    options: Vec::new(),
                    slack: Vec::new(),
                }),
                IpPair::V6 { src, dst } => Header::Ipv6(Ipv6 {
                    dscp,
                    ecn,
                    flow_label: 0,
                    hop_limit: ip.ttl,
                    src,
                    dst,
                    extensions: Vec::new(),
                    protocol: ip.protocol,
                    slack: Vec::new(),
                }),
            }
        }
        Push::Arp(arp) => Header::Arp(Arp {
            operation: arp.operation,
            sender_mac: arp.sender_mac,
            sender_ip: arp.sender_ip,
            target_mac: arp.target_mac,
            target_ip: arp.target_ip,
        }),
        Push::Udp(ports) => Header::Udp(Udp {
            src: ports.src,
            dst: ports.dst,
            declared_length: None,
            checksum: Checksum::Right,
            slack: Vec::new(),
        }),
        Push::Icmp(icmp) => {
            let [a, b] = icmp.id.unwrap_or(0).to_be_bytes();
            let icmp = Icmp {
                is_v6: matches!(before.last(), Some(Header::Ipv6(_))),
                kind: icmp.kind,
                code: icmp.code,
                rest: [a, b, 0, 0],
                checksum: Checksum::Right,
            };
            check(!(icmp.is_v6 && matches!(icmp.kind, 135 | 136)))?;
            Header::Icmp(icmp)
        }
        Push::Encap(encap) => {
            check(encap.tenant <= encap.kind.max_tenant())?;
            Header::Tunnel(Tunnel::new(encap.kind, encap.tenant, encap.udp_port, BLANK_ENTROPY))
        }
    })
}

fn change(header: &mut Header, modify: &Modify) -> Result<(), DropReason> {
    match (modify, header) {
        (Modify::L2(modify), Header::Ethernet(eth)) => {
            if let Some(tags) = modify.tags {
                eth.tags = tags.iter().collect();
                check(eth.tags.iter().all(|tag| matches!(tag.tpid, VlanTag::DOT1Q | VlanTag::DOT1AD)))?;
            }
            eth.src = modify.src.unwrap_or(eth.src);
            eth.dst = modify.dst.unwrap_or(eth.dst);
            eth.ethertype = modify.ethertype.unwrap_or(eth.ethertype);
            Ok(())
        }
        (Modify::L3(modify), header) => change_l3(header, modify),
        (Modify::L4(modify), header) => change_l4(header, modify),
        _ => Err(MISFIT),
    }
}

fn change_l3(header: &mut Header, modify: &ModifyL3) -> Result<(), DropReason> {
    use std::net::IpAddr::{V4, V6};
    let old = match &mut *header {
        Header::Arp(arp) => {
            check(modify.dscp.is_none() && modify.ttl.is_none())?;
            arp.operation = modify.arp.operation.unwrap_or(arp.operation);
            arp.sender_mac = modify.arp.sender_mac.unwrap_or(arp.sender_mac);
            arp.target_mac = modify.arp.target_mac.unwrap_or(arp.target_mac);
            (V4(arp.sender_ip), V4(arp.target_ip))
        }
        ip => {
            check(modify.arp == ModifyArp::default())?;
            ip.addresses().ok_or(MISFIT)?
        }
    };
    match (header, modify.src.unwrap_or(old.0), modify.dst.unwrap_or(old.1)) {
        (Header::Ipv4(ip), V4(src), V4(dst)) => {
            (ip.src, ip.dst) = (src, dst);
            change_class(&mut ip.dscp, &mut ip.ttl, modify)
        }
        (Header::Ipv6(ip), V6(src), V6(dst)) => {
            (ip.src, ip.dst) = (src, dst);
            change_class(&mut ip.dscp, &mut ip.hop_limit, modify)
        }
        (Header::Arp(arp), V4(src), V4(dst)) => {
            (arp.sender_ip, arp.target_ip) = (src, dst);
            Ok(())
        }
        _ => Err(MISFIT),
    }
}

fn change_class(dscp: &mut u8, ttl: &mut u8, modify: &ModifyL3) -> Result<(), DropReason> {
    *dscp = modify.dscp.unwrap_or(*dscp);
    check(*dscp < 64)?;
    let (lost, value) = match modify.ttl {
        None => return Ok(()),
        Some(Ttl::Set(value)) => (0, Some(value)),
        Some(Ttl::Decrement(by)) => (by, None),
        Some(Ttl::DecrementThenSet { decrement, value }) => (decrement, Some(value)),
    };
    let left = ttl.saturating_sub(lost);
    let new = value.unwrap_or(left);
    if new == 0 || (lost > 0 && left == 0) {
        return Err(DropReason::TtlExceeded);
    }
    *ttl = new;
    Ok(())
}

fn change_l4(header: &mut Header, modify: &ModifyL4) -> Result<(), DropReason> {
    let names_ports = modify.src_port.is_some() || modify.dst_port.is_some();
    let names_icmp = modify.icmp_type.is_some() || modify.icmp_code.is_some() || modify.icmp_id.is_some();
    let names_tenant = modify.tenant.is_some();
    let (src, dst) = match header {
        Header::Icmp(icmp) => {
            check(!names_ports && !names_tenant)?;
            let before = icmp.clone();
            icmp.kind = modify.icmp_type.unwrap_or(icmp.kind);
            icmp.code = modify.icmp_code.unwrap_or(icmp.code);
            check(before.is_query() == icmp.is_query())?;
            let is_neighbor = |icmp: &Icmp| icmp.is_v6 && matches!(icmp.kind, 135 | 136);
            check(is_neighbor(&before) == is_neighbor(icmp))?;
            if let Some(id) = modify.icmp_id {
                check(icmp.is_query())?;
                icmp.rest[..2].copy_from_slice(&id.to_be_bytes());
            }
            return Ok(());
        }
        Header::Tunnel(tunnel) => {
            check(!names_ports && !names_icmp)?;
            if let Some(tenant) = modify.tenant {
                check(tunnel.kind.has_tenant() && tenant <= tunnel.kind.max_tenant())?;
                tunnel.tenant = tenant;
            }
            return Ok(());
        }
        Header::Tcp(tcp) => (&mut tcp.src, &mut tcp.dst),
        Header::Udp(udp) => (&mut udp.src, &mut udp.dst),
        Header::Sctp(sctp) => (&mut sctp.src, &mut sctp.dst),
        _ => return Err(MISFIT),
    };
    check(!names_icmp && !names_tenant)?;
    *src = modify.src_port.unwrap_or(*src);
    *dst = modify.dst_port.unwrap_or(*dst);
    Ok(())
}

/// What turns a reply to the result of `ops` on `before` into a reply to `before` (§3.6). Without `tunnels` (direct
/// server return) tunnels that were pushed or popped take no part.
pub(super) fn reversed(ops: &[HeaderOp], before: &Frame, tunnels: bool) -> Vec<HeaderOp> {
    let mut input = before.headers.iter();
    let steps: Vec<(HeaderOp, Option<&Header>)> = ops
        .iter()
        .map(|op| (*op, if matches!(op, HeaderOp::Push(_)) { None } else { input.next() }))
        .collect();
    let mut result = Vec::new();
    let mut restored: Vec<HeaderOp> = Vec::new();
    for (index, (op, header)) in steps.iter().enumerate() {
        match (op, header) {
            (HeaderOp::Ignore(_) | HeaderOp::Modify(_), _) => {
                result.append(&mut restored);
                result.push(match (op, header) {
                    (HeaderOp::Modify(modify), Some(header)) => match undone(modify, header) {
                        changed if names_nothing(&changed) => HeaderOp::Ignore(op.level()),
                        changed => HeaderOp::Modify(changed),
                    },
                    _ => *op,
                });
            }
            _ if !tunnels && is_of_a_tunnel(&steps, index) => {}
            (HeaderOp::Push(_), _) => result.push(HeaderOp::Pop(op.level())),
            (_, Some(header)) => restored.extend(mirrored(header).map(HeaderOp::Push)),
            _ => {}
        }
    }
    result.append(&mut restored);
    canonical(result)
}

/// True for a change without a field, which is none (§4.2).
fn names_nothing(modify: &Modify) -> bool {
    match modify {
        Modify::L2(modify) => *modify == ModifyL2::default(),
        Modify::L3(modify) => *modify == ModifyL3::default(),
        Modify::L4(modify) => *modify == ModifyL4::default(),
    }
}

/// True when the push or pop at `index` is of a header whose group's tunnel header is pushed or popped as well.
fn is_of_a_tunnel(steps: &[(HeaderOp, Option<&Header>)], index: usize) -> bool {
    let is_push = matches!(steps[index].0, HeaderOp::Push(_));
    let mut rest = steps[index..].iter().filter(|(op, _)| match op {
        HeaderOp::Push(_) => is_push,
        HeaderOp::Pop(_) => !is_push,
        _ => true,
    });
    let end = rest.find(|(op, _)| op.level() == Level::L4);
    matches!(end, Some((HeaderOp::Push(Push::Encap(_)), _) | (HeaderOp::Pop(_), Some(Header::Tunnel(_)))))
}

/// The change that gives a reply what `modify` took from `before`, on the other side.
fn undone(modify: &Modify, before: &Header) -> Modify {
    match (modify, before) {
        (Modify::L2(modify), Header::Ethernet(eth)) => {
            let tags = match eth.tags[..] {
                [] => lamina_core::address::VlanTags::NONE,
                [tag] => lamina_core::address::VlanTags::one(tag),
                [outer, inner, ..] => lamina_core::address::VlanTags::two(outer, inner),
            };
            Modify::L2(ModifyL2 {
                src: modify.dst.and(Some(eth.dst)),
                dst: modify.src.and(Some(eth.src)),
                tags: modify.tags.and(Some(tags)),
                ethertype: modify.ethertype.and(Some(eth.ethertype)),
            })
        }
        (Modify::L3(modify), ip) => {
            let addresses = ip.addresses();
            Modify::L3(ModifyL3 {
                src: modify.dst.and(addresses.map(|(_, dst)| dst)),
                dst: modify.src.and(addresses.map(|(src, _)| src)),
                ..ModifyL3::default()
            })
        }
        (Modify::L4(modify), l4) => {
            let ports = l4.ports();
            let tenant = match l4 {
                Header::Tunnel(tunnel) => Some(tunnel.tenant),
                _ => None,
            };
            Modify::L4(ModifyL4 {
                src_port: modify.dst_port.and(ports.map(|(_, dst)| dst)),
                dst_port: modify.src_port.and(ports.map(|(src, _)| src)),
                icmp_id: modify.icmp_id.and(l4.query_id()),
                tenant: modify.tenant.and(tenant),
                ..ModifyL4::default()
            })
        }
        (modify, _) => *modify,
    }
}

/// The push that makes a popped header anew, as a reply has it. TCP and SCTP cannot be made again.
fn mirrored(header: &Header) -> Option<Push> {
    let ip = |addresses: Option<IpPair>, protocol| {
        let (ttl, dscp) = (OUTER_TTL, PushDscp::Copy);
        addresses.map(|addresses| Push::Ip(PushIp { addresses, ttl, dscp, protocol }))
    };
    match header {
        Header::Ethernet(eth) => {
            let tags = match eth.tags[..] {
                [] => lamina_core::address::VlanTags::NONE,
                [tag] => lamina_core::address::VlanTags::one(tag),
                [outer, inner, ..] => lamina_core::address::VlanTags::two(outer, inner),
            };
            Some(Push::L2(PushL2 { src: eth.dst, dst: eth.src, tags, ethertype: eth.ethertype }))
        }
        Header::Ipv4(v4) => ip(Some(IpPair::V4 { src: v4.dst, dst: v4.src }), v4.protocol),
        Header::Ipv6(v6) => ip(Some(IpPair::V6 { src: v6.dst, dst: v6.src }), v6.protocol),
        Header::Tunnel(tunnel) => Some(Push::Encap(PushEncap {
            kind: tunnel.kind,
            tenant: tunnel.tenant,
            udp_port: tunnel.udp.as_ref().map_or(0, |udp| udp.dst),
        })),
        _ => None,
    }
}
