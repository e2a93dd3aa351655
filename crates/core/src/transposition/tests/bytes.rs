//! The laws on bytes: an edit does to the frame what the transposition does to its meaning, and the edit of a
//! composition does what the edits of its steps do.

use alloc::string::String;

use super::super::*;
use super::cases;
use super::dice::Dice;
use super::frames::verify;
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
    let (mut done, mut dropped) = (0, 0);
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
            (Err(error), after) => {
                assert_eq!(after.err(), Some(error.into()), "{}", context());
                dropped += 1;
            }
            // A TCP super-frame cannot become anything else.
            (Ok(()), Err(DropReason::CannotTranspose)) if packet.offload.segmentation.is_some() => {}
            (Ok(()), Err(DropReason::NoHeadroom)) => {}
            (Ok(()), Err(reason)) => panic!("{reason:?}: {}", context()),
        }
    }
    assert!(done > 15_000 && dropped > 300, "{done} {dropped}");
}

/// Equal frames. A UDP checksum that was absent and had to be computed for a while on IPv6 may be there in one
/// and absent in the other.
fn assert_same(a: &Packet, b: &Packet, context: impl Fn() -> String) {
    let mut frames = (a.frame().to_vec(), b.frame().to_vec());
    if let Ok(parsed) = parse(a.frame())
        && let Some(crate::flow::L4::Udp(_)) = parsed.stack.innermost().flow_id.l4
    {
        let at = parsed.layout.groups[parsed.stack.groups().len() - 1].l4 as usize + 6;
        let values = (&frames.0[at..at + 2], &frames.1[at..at + 2]);
        if a.len() == b.len() && (values.0 == [0, 0]) != (values.1 == [0, 0]) {
            frames.0[at..at + 2].fill(0);
            frames.1[at..at + 2].fill(0);
        }
    }
    assert!(frames.0 == frames.1, "{:02x?}\n{:02x?}\n{}", frames.0, frames.1, context());
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
        match edited(&a.then(&b), &packet) {
            Ok(composed) => assert_same(&composed, &after, context),
            Err(reason) => panic!("{reason:?}: {}", context()),
        }
        compared += 1;
    }
    assert!(compared > 10_000, "{compared}");
}
