//! The laws on meaning: composition, associativity, reversal.

use alloc::vec;
use alloc::vec::Vec;

use super::super::*;
use super::cases;
use super::dice::Dice;
use crate::flow::{HeaderStack, L3, L4};

fn applied(t: &Transposition, headers: &HeaderStack) -> Result<HeaderStack, TransposeError> {
    let mut headers = *headers;
    t.apply(&mut headers)?;
    Ok(headers)
}

/// True where the law does not speak of ECN: `next` pops an L3 header outside of one that `first` pushed or
/// popped (see `compose.rs`).
pub(super) fn merges_out_of_order(first: &Transposition, next: &Transposition) -> bool {
    let mut outputs = 0;
    let mut last_change = None;
    for op in first.ops().iter().filter(|op| op.level() == Level::L3) {
        match op {
            HeaderOp::Pop(_) => last_change = Some(outputs),
            HeaderOp::Push(_) => {
                last_change = Some(outputs);
                outputs += 1;
            }
            _ => outputs += 1,
        }
    }
    let taken = next.ops().iter().filter(|op| op.level() == Level::L3 && !matches!(op, HeaderOp::Push(_)));
    taken.enumerate().any(|(index, op)| matches!(op, HeaderOp::Pop(_)) && last_change > Some(index))
}

pub(super) fn without(mut stack: HeaderStack, ecn: bool, entropy: bool) -> HeaderStack {
    for group in stack.groups_mut() {
        if ecn {
            group.extra.ecn = 0;
        }
        if entropy {
            group.extra.entropy = 0;
        }
    }
    stack
}

fn pops(t: &Transposition) -> bool {
    t.ops().iter().any(|op| matches!(op, HeaderOp::Pop(_)))
}

#[test]
fn composition_does_what_the_steps_do() {
    let (mut applies, mut fails, mut out_of_order) = (0, 0, 0);
    for seed in 0..cases(60_000) {
        let mut dice = Dice(seed << 20);
        let packet = dice.stack();
        let a = dice.fitting(&packet);
        let Ok(between) = applied(&a, &packet) else { continue };
        let b = dice.fitting(&between);
        let composed = applied(&a.then(&b), &packet);
        let context = || alloc::format!("seed {seed}\n{packet:#?}\na: {a}\nb: {b}\nc: {}", a.then(&b));
        match applied(&b, &between) {
            Ok(expected) => {
                let no_ecn = merges_out_of_order(&a, &b);
                if no_ecn {
                    out_of_order += 1;
                    if composed == Err(TransposeError::EcnViolation) {
                        continue;
                    }
                }
                let no_entropy = between.innermost().flow_id != expected.innermost().flow_id;
                let expected = without(expected, no_ecn, no_entropy);
                let composed = composed.map(|headers| without(headers, no_ecn, no_entropy));
                assert_eq!(composed, Ok(expected), "{}", context());
                applies += 1;
            }
            Err(_) if !pops(&b) => {
                assert!(composed.is_err(), "{}", context());
                fails += 1;
            }
            Err(_) => {}
        }
    }
    assert!(applies > 30_000 && fails > 100 && out_of_order > 100, "{applies} {fails} {out_of_order}");
}

#[test]
fn composition_is_associative() {
    let mut compared = 0;
    for seed in 0..cases(20_000) {
        let mut dice = Dice(seed << 20 | 1);
        let packet = dice.stack();
        let a = dice.fitting(&packet);
        let Ok(after_a) = applied(&a, &packet) else { continue };
        let b = dice.fitting(&after_a);
        let Ok(after_b) = applied(&b, &after_a) else { continue };
        let c = dice.fitting(&after_b);
        if merges_out_of_order(&a, &b) || merges_out_of_order(&b, &c) || merges_out_of_order(&a.then(&b), &c)
        {
            continue;
        }
        let (left, right) = (a.then(&b).then(&c), a.then(&b.then(&c)));
        let results = (applied(&left, &packet), applied(&right, &packet));
        assert_eq!(results.0, results.1, "seed {seed}\n{packet:#?}\na: {a}\nb: {b}\nc: {c}\n{left}\n{right}");
        compared += 1;
    }
    assert!(compared > 10_000, "{compared}");
}

fn swapped(mut stack: HeaderStack) -> HeaderStack {
    for group in stack.groups_mut() {
        let id = &mut group.flow_id;
        if let Some(l2) = &mut id.l2 {
            core::mem::swap(&mut l2.src, &mut l2.dst);
        }
        match &mut id.l3 {
            Some(L3::Ip(ip)) => ip.addresses = ip.addresses.swapped(),
            Some(L3::Arp(arp)) => {
                core::mem::swap(&mut arp.sender_ip, &mut arp.target_ip);
                core::mem::swap(&mut arp.sender_mac, &mut arp.target_mac);
            }
            None => {}
        }
        match &mut id.l4 {
            Some(L4::Tcp(ports) | L4::Udp(ports) | L4::Sctp(ports)) => *ports = ports.swapped(),
            Some(L4::Icmp(icmp)) => icmp.kind = if icmp.kind == 8 { 0 } else { icmp.kind },
            Some(L4::Icmpv6(icmp)) => icmp.kind = if icmp.kind == 128 { 129 } else { icmp.kind },
            _ => {}
        }
        // A reply's own per-packet fields.
        group.extra.ecn = 0;
        group.extra.ttl = 64;
    }
    stack
}

/// What the reverse restores: every base field but ARP's operation and the type and code of ICMP.
fn restored(mut stack: HeaderStack) -> Vec<crate::flow::FlowId> {
    for group in stack.groups_mut() {
        if let Some(L3::Arp(arp)) = &mut group.flow_id.l3 {
            arp.operation = 0;
        }
        if let Some(L4::Icmp(icmp) | L4::Icmpv6(icmp)) = &mut group.flow_id.l4 {
            (icmp.kind, icmp.code) = (0, 0);
        }
    }
    stack.groups().iter().map(|group| group.flow_id).collect()
}

#[test]
fn reverse_turns_a_reply_to_the_result_into_a_reply_to_the_original() {
    let mut compared = 0;
    for seed in 0..cases(40_000) {
        let mut dice = Dice(seed << 20 | 2);
        let before = dice.stack();
        let t = dice.fitting(&before);
        let Ok(after) = applied(&t, &before) else { continue };
        let reverse = t.reverse(&before, true);
        let context = || alloc::format!("seed {seed}\n{before:#?}\nt: {t}\nreverse: {reverse}");
        let reply = applied(&reverse, &swapped(after));
        let reply = reply.unwrap_or_else(|error| panic!("{error:?}: {}", context()));
        let mut expected = swapped(before);
        if let (Some(L4::Tcp(_) | L4::Sctp(_)), Some(L4::Udp(ports))) =
            (before.innermost().flow_id.l4, reply.innermost().flow_id.l4)
        {
            // A TCP header that became UDP cannot come back.
            expected.innermost_mut().flow_id.l4 = Some(L4::Udp(ports));
            if let Some(L3::Ip(ip)) = &mut expected.innermost_mut().flow_id.l3 {
                ip.protocol = 17;
            }
        }
        assert_eq!(restored(reply), restored(expected), "{}", context());
        compared += 1;
    }
    assert!(compared > 20_000, "{compared}");
}

fn vxlan(tenant: u32) -> Transposition {
    let addresses = IpPair::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into() };
    Transposition::new(vec![
        HeaderOp::Push(Push::L2(PushL2 {
            src: MacAddr::ZERO,
            dst: MacAddr::ZERO,
            tags: VlanTags::NONE,
            ethertype: 0,
        })),
        HeaderOp::Push(Push::Ip(PushIp { addresses, ttl: 64, dscp: PushDscp::Copy, protocol: 0 })),
        HeaderOp::Push(Push::Encap(PushEncap { kind: EncapKind::Vxlan, tenant, udp_port: VXLAN_PORT })),
    ])
}

fn decap() -> Transposition {
    Transposition::new([Level::L2, Level::L3, Level::L4].map(HeaderOp::Pop).to_vec())
}

fn tcp_packet() -> HeaderStack {
    loop_until(|packet| {
        packet.groups().len() == 1 && matches!(packet.innermost().flow_id.l4, Some(L4::Tcp(_)))
    })
}

fn loop_until(wanted: impl Fn(&HeaderStack) -> bool) -> HeaderStack {
    let mut dice = Dice(7);
    loop {
        let packet = dice.stack();
        if wanted(&packet) {
            return packet;
        }
    }
}

fn nat(packet: &HeaderStack) -> Transposition {
    let l4 = ModifyL4 { src_port: Some(61_000), ..ModifyL4::default() };
    Transposition::on_innermost(packet, [Modify::L4(ModifyL4::default()), Modify::L4(l4)])
}

#[test]
fn encap_then_decap_is_nothing_and_nat_goes_through_both() {
    let packet = tcp_packet();
    assert_eq!(vxlan(1).then(&decap()), Transposition::IDENTITY);
    let wrapped = applied(&vxlan(1), &packet).unwrap();
    let through = vxlan(1).then(&nat(&wrapped)).then(&decap());
    assert_eq!(through, nat(&packet));
    // And a gateway from one tunnel to another is one list, pops first.
    assert_eq!(decap().then(&vxlan(2)).ops().len(), 6);
}

#[test]
fn on_innermost_keeps_the_outer_groups_and_drops_empty_changes() {
    let packet = tcp_packet();
    assert_eq!(
        Transposition::on_innermost(&packet, [Modify::L3(ModifyL3::default())]),
        Transposition::IDENTITY
    );
    let wrapped = applied(&vxlan(1), &packet).unwrap();
    assert_eq!(nat(&wrapped).ops().len(), 6);
    assert!(nat(&wrapped).ops()[..5].iter().all(|op| matches!(op, HeaderOp::Ignore(_))));
}

#[test]
fn a_dropped_packet_stays_dropped_when_a_later_step_sets_the_ttl() {
    let mut packet = tcp_packet();
    packet.innermost_mut().extra.ttl = 1;
    let shape = packet;
    let ttl = |ttl| {
        Transposition::on_innermost(&shape, [Modify::L3(ModifyL3 { ttl: Some(ttl), ..Default::default() })])
    };
    let steps = ttl(Ttl::Decrement(1)).then(&ttl(Ttl::Set(64)));
    assert_eq!(applied(&steps, &packet), Err(TransposeError::TtlExceeded));
    let steps = ttl(Ttl::Set(1)).then(&ttl(Ttl::Decrement(1))).then(&ttl(Ttl::Set(9)));
    assert_eq!(applied(&steps, &packet), Err(TransposeError::TtlExceeded));
    packet.innermost_mut().extra.ttl = 2;
    let steps = ttl(Ttl::Decrement(1)).then(&ttl(Ttl::Set(64))).then(&ttl(Ttl::Decrement(2)));
    assert_eq!(applied(&steps, &packet).unwrap().innermost().extra.ttl, 62);
}

#[test]
fn direct_server_return_restores_headers_and_leaves_tunnels_alone() {
    // A load balancer: destination rewritten, packet tunnelled to the server, which answers without the tunnel.
    let packet = tcp_packet();
    let forward = nat(&packet).then(&vxlan(5));
    let reverse = forward.reverse(&packet, false);
    let seen_by_server = applied(&nat(&packet), &packet).unwrap();
    let reply = applied(&reverse, &swapped(seen_by_server)).unwrap();
    assert_eq!(restored(reply), restored(swapped(packet)));
    assert_eq!(reply.groups().len(), 1);
    // Tunnelled in, direct out: what the host took off is not put on again.
    let arriving = applied(&vxlan(5), &packet).unwrap();
    let forward = decap().then(&nat(&packet));
    let reply = swapped(applied(&forward, &arriving).unwrap());
    let reply = applied(&forward.reverse(&arriving, false), &reply).unwrap();
    assert_eq!(restored(reply), restored(swapped(packet)));
    // With tunnels it goes back the way it came.
    let reply = swapped(applied(&forward, &arriving).unwrap());
    let reply = applied(&forward.reverse(&arriving, true), &reply).unwrap();
    assert_eq!((reply.groups().len(), reply.tenant()), (2, Some(5)));
}

#[test]
fn what_does_not_fit_leaves_the_headers_alone() {
    let packet = tcp_packet();
    let modify = |modify| Transposition::new(vec![HeaderOp::Modify(modify)]);
    let tunnels = vxlan(1).then(&vxlan(2)).then(&vxlan(3));
    let icmp_id = ModifyL4 { icmp_id: Some(1), ..ModifyL4::default() };
    let v6 = ModifyL3 {
        src: Some("fd00::1".parse().unwrap()),
        dst: Some("10.0.0.1".parse().unwrap()),
        ..Default::default()
    };
    for misfit in [
        decap(),
        tunnels,
        vxlan(1 << 24),
        Transposition::new(vec![HeaderOp::Ignore(Level::L3), HeaderOp::Pop(Level::L4)]),
        Transposition::new(vec![HeaderOp::Ignore(Level::L2), HeaderOp::Pop(Level::L3)]),
        Transposition::on_innermost(&packet, [Modify::L4(icmp_id)]),
        Transposition::on_innermost(&packet, [Modify::L3(v6)]),
        modify(Modify::L2(ModifyL2 { ethertype: Some(0x88b5), ..ModifyL2::default() })),
        decap().then(&nat(&packet)),
    ] {
        let mut headers = packet;
        assert_eq!(misfit.apply(&mut headers), Err(TransposeError::DoesNotFit), "{misfit}");
        assert_eq!(headers, packet);
    }
    let inner_gre = vxlan(1).then(&Transposition::new(vec![HeaderOp::Pop(Level::L3)]));
    assert_eq!(inner_gre, Transposition::misfit());
    assert_eq!(inner_gre.then(&decap()), Transposition::misfit());
}
