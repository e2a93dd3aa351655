//! The laws on bytes: an edit does to the frame what the transposition does to its meaning, and the edit of a
//! composition does what the edits of its steps do.

use alloc::string::String;

use super::super::*;
use super::cases;
use super::dice::Dice;
use super::frames::{is_padded, verify};
use super::meaning::merges_out_of_order;
use crate::drop_reason::DropReason;
use crate::flow::{Extra, HeaderStack};
use crate::packet::{Packet, parse};

/// Compiles for the base fields of the packet alone, and applies.
fn edited(t: &Transposition, packet: &Packet) -> Result<Packet, DropReason> {
    let parsed = parse(packet.frame())?;
    let mut base = parsed.stack;
    for group in base.groups_mut() {
        group.extra = Extra::default();
    }
    let edit = Edit::compile(t, &base)?;
    let mut packet = packet.clone();
    edit.apply(&mut packet, &parsed.layout)?;
    Ok(packet)
}

fn payload_of(packet: &Packet) -> &[u8] {
    let parsed = parse(packet.frame()).expect("a valid frame");
    let last = parsed.stack.groups().len() - 1;
    &packet.frame()[parsed.layout.groups[last].end as usize..]
}

#[test]
fn the_builder_builds_what_it_is_asked() {
    for seed in 0..cases(3_000) {
        let mut dice = Dice(seed << 20 | 3);
        let stack = dice.stack();
        let packet = dice.packet(&stack);
        let parsed =
            parse(packet.frame()).unwrap_or_else(|reason| panic!("seed {seed}: {reason:?} {stack:#?}"));
        assert_eq!(parsed.stack.groups().len(), stack.groups().len(), "seed {seed}");
        verify(&packet).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn an_edit_does_to_bytes_what_the_transposition_does_to_meaning() {
    let (mut done, mut dropped, mut either) = (0, 0, 0);
    for seed in 0..cases(20_000) {
        let mut dice = Dice(seed << 20 | 4);
        let stack = dice.stack();
        let packet = dice.packet(&stack);
        let before = parse(packet.frame()).expect("a valid frame").stack;
        let t = dice.fitting(&before);
        let mut expected = before;
        let meaning = t.apply(&mut expected);
        let context =
            || -> String { alloc::format!("seed {seed}\n{before:#?}\nt: {t}\n{:?}", packet.offload) };
        match (meaning, edited(&t, &packet)) {
            (Ok(()), Ok(after)) => {
                let stack =
                    parse(after.frame()).unwrap_or_else(|reason| panic!("{reason:?} {}", context())).stack;
                assert_eq!(stack, expected, "{}", context());
                verify(&after).unwrap_or_else(|error| panic!("{error}: {}", context()));
                assert!(payload_of(&after) == payload_of(&packet), "payload: {}", context());
                assert_eq!(
                    after.offload.checksum.is_some(),
                    packet.offload.checksum.is_some(),
                    "{}",
                    context()
                );
                done += 1;
            }
            // A TCP super-frame cannot become anything else, whatever the meaning is.
            (_, Err(DropReason::CannotTranspose)) if packet.offload.segmentation.is_some() => {}
            (Err(error), after) => {
                // Where both TTL and ECN are in the way, either may be named.
                let per_packet = [DropReason::TtlExceeded, DropReason::EcnViolation];
                let reason = after.err().unwrap_or_else(|| panic!("{error:?}: {}", context()));
                let expected = DropReason::from(error);
                let both = per_packet.contains(&reason) && per_packet.contains(&expected);
                assert!(reason == expected || both, "{reason:?}, not {expected:?}: {}", context());
                if reason != expected {
                    either += 1;
                }
                dropped += 1;
            }
            (Ok(()), Err(DropReason::NoHeadroom)) => {}
            (Ok(()), Err(reason)) => panic!("{reason:?}: {}", context()),
        }
    }
    assert!(done > 15_000 && dropped > 300 && either < dropped / 20, "{done} {dropped} {either}");
}

/// True where only one of the frames has an innermost UDP checksum: it was absent, and had to be computed for a
/// while because the packet was IPv6 between the steps.
fn was_filled_in_one(a: &Packet, b: &Packet) -> bool {
    let parsed = parse(a.frame()).expect("a valid frame");
    let at = parsed.layout.groups[parsed.stack.groups().len() - 1].l4 as usize + 6;
    matches!(parsed.stack.innermost().flow_id.l4, Some(crate::flow::L4::Udp(_)))
        && a.len() == b.len()
        && (a.frame()[at..at + 2] == [0, 0]) != (b.frame()[at..at + 2] == [0, 0])
}

fn assert_same(a: &Packet, b: &Packet, context: impl Fn() -> String) {
    if was_filled_in_one(a, b) {
        for packet in [a, b] {
            verify(packet).unwrap_or_else(|error| panic!("{error}: {}", context()));
        }
        let stack = |packet: &Packet| parse(packet.frame()).map(|parsed| parsed.stack);
        assert_eq!(stack(a), stack(b), "{}", context());
    } else {
        assert!(a.frame() == b.frame(), "{:02x?}\n{:02x?}\n{}", a.frame(), b.frame(), context());
    }
    assert_eq!(a.offload, b.offload, "{}", context());
}

#[test]
fn the_edit_of_a_composition_does_what_the_edits_of_its_steps_do() {
    let mut compared = 0;
    for seed in 0..cases(20_000) {
        let mut dice = Dice(seed << 20 | 5);
        let stack = dice.stack();
        let packet = dice.packet(&stack);
        let stack_of =
            |packet: &Packet| -> HeaderStack { parse(packet.frame()).expect("a valid frame").stack };
        let a = dice.fitting(&stack_of(&packet));
        let Ok(between) = edited(&a, &packet) else { continue };
        let b = dice.fitting(&stack_of(&between));
        let Ok(after) = edited(&b, &between) else { continue };
        let inner_changes = stack_of(&between).innermost().flow_id != stack_of(&after).innermost().flow_id;
        let context = || -> String {
            alloc::format!("seed {seed}\n{:#?}\na: {a}\nb: {b}\nc: {}", stack_of(&packet), a.then(&b))
        };
        if merges_out_of_order(&a, &b)
            || inner_changes && a.ops().iter().any(|op| matches!(op, HeaderOp::Push(Push::Encap(_))))
        {
            continue;
        }
        // Padding behind a removed tunnel: between the steps it seems to belong to the frame that was inside.
        let tunnel_goes = a.ops().contains(&HeaderOp::Pop(Level::L4));
        if tunnel_goes && is_padded(&packet) {
            continue;
        }
        match edited(&a.then(&b), &packet) {
            Ok(composed) => assert_same(&composed, &after, context),
            Err(reason) => panic!("{reason:?}: {}", context()),
        }
        compared += 1;
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn an_edit_never_panics_on_a_packet_that_it_was_not_made_for() {
    // The flow table only hits equal keys; this is for the day when it does not.
    for seed in 0..cases(5_000) {
        let mut dice = Dice(seed << 20 | 6);
        let (meant, other) = (dice.stack(), dice.stack());
        let t = dice.fitting(&meant);
        let Ok(edit) = Edit::compile(&t, &meant) else { continue };
        let mut packet = dice.packet(&other);
        let mut layout = parse(packet.frame()).expect("a valid frame").layout;
        if dice.once_in(2) {
            for group in &mut layout.groups {
                (group.l3, group.l4) = (dice.next() as u16 & 0x3ff, dice.next() as u16);
            }
        }
        if dice.once_in(2) {
            packet.set_len(dice.below(60) as usize);
        }
        let _ = edit.apply(&mut packet, &layout);
    }
}

fn vxlan(dscp: PushDscp) -> Transposition {
    let addresses = IpPair::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into() };
    Transposition::new(alloc::vec![
        HeaderOp::Push(Push::L2(PushL2 {
            src: MacAddr::ZERO,
            dst: MacAddr::ZERO,
            tags: VlanTags::NONE,
            ethertype: 0,
        })),
        HeaderOp::Push(Push::Ip(PushIp { addresses, ttl: 64, dscp, protocol: 0 })),
        HeaderOp::Push(Push::Encap(PushEncap { kind: EncapKind::Vxlan, tenant: 7, udp_port: VXLAN_PORT })),
    ])
}

/// A TCP packet over IPv4 with this class octet and payload.
fn tcp_over_ipv4(class: u8, payload: usize) -> Packet {
    let mut frame = alloc::vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, class];
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let header_sum = crate::packet::checksum::finish(crate::packet::checksum::sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header_sum.to_be_bytes());
    frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.resize(54 + payload, 0);
    Packet::from_frame(&frame)
}

#[test]
fn ecn_and_dscp_cross_a_tunnel_as_rfc_6040_says() {
    let decap = Transposition::new([Level::L2, Level::L3, Level::L4].map(HeaderOp::Pop).to_vec());
    let class = |packet: &Packet, at: usize| packet.frame()[at];
    for inner in 0..4u8 {
        // Normal mode: the outer header copies the inner one's mark.
        let tunnelled = edited(&vxlan(PushDscp::Copy), &tcp_over_ipv4(46 << 2 | inner, 10)).unwrap();
        assert_eq!((class(&tunnelled, 15), class(&tunnelled, 65)), (46 << 2 | inner, 46 << 2 | inner));
        let tunnelled = edited(&vxlan(PushDscp::Fixed(10)), &tcp_over_ipv4(46 << 2 | inner, 10)).unwrap();
        assert_eq!(class(&tunnelled, 15), 10 << 2 | inner);
        for outer in 0..4u8 {
            // What the underlay does: it changes the outer mark.
            let mut marked = tunnelled.clone();
            let frame = marked.frame_mut();
            frame[15] = frame[15] & !3 | outer;
            frame[24..26].fill(0);
            let sum = crate::packet::checksum::finish(crate::packet::checksum::sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            let expected = match (inner, outer) {
                (0, 3) => Err(DropReason::EcnViolation),
                (0, _) => Ok(0),
                (2, 1) => Ok(1),
                (_, 3) => Ok(3),
                (inner, _) => Ok(inner),
            };
            let after = edited(&decap, &marked);
            assert_eq!(after.as_ref().map(|packet| class(packet, 15) & 3).map_err(|e| *e), expected);
            if let Ok(after) = after {
                assert_eq!(class(&after, 15) >> 2, 46, "the inner DSCP stays");
                assert_eq!(parse(after.frame()).map(|parsed| parsed.stack.groups().len()), Ok(1));
            }
        }
    }
}

#[test]
fn an_outer_length_that_cannot_be_said_is_too_big_and_a_full_headroom_is_named() {
    // Outer IPv4, UDP, VXLAN, inner Ethernet, IPv4, TCP.
    let most = 65_535 - 20 - 8 - 8 - 14 - 40;
    assert!(edited(&vxlan(PushDscp::Copy), &tcp_over_ipv4(0, most)).is_ok());
    let too_big = edited(&vxlan(PushDscp::Copy), &tcp_over_ipv4(0, most + 1));
    assert_eq!(too_big.err(), Some(DropReason::TooBig));
    let twice = edited(&vxlan(PushDscp::Copy).then(&vxlan(PushDscp::Copy)), &tcp_over_ipv4(0, 0)).unwrap();
    assert_eq!(twice.headroom(), crate::packet::HEADROOM - 100);
    let mut full = twice.clone();
    let parsed = parse(full.frame()).unwrap();
    let tag = VlanTags::one(crate::address::VlanTag { tpid: 0x8100, tci: 5 });
    let tags = |tags| {
        Transposition::new(alloc::vec![HeaderOp::Modify(Modify::L2(ModifyL2 {
            tags: Some(tags),
            ..ModifyL2::default()
        }))])
    };
    let tagged = Edit::compile(&tags(tag), &parsed.stack).unwrap();
    for free in (0..28).step_by(4).rev() {
        // Tags pile up in front for as long as there is room.
        assert_eq!(tagged.apply(&mut full, &parsed.layout), Ok(()));
        assert_eq!(full.headroom(), free);
    }
    assert_eq!(tagged.apply(&mut full, &parsed.layout), Err(DropReason::NoHeadroom));
}
