//! Transpositions on any frame: the first bytes make two lists of header operations, the rest is the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lamina_core::address::{MacAddr, VlanTags};
use lamina_core::flow::{EncapKind, IpPair, Level, Ports};
use lamina_core::packet::{Packet, parse};
use lamina_core::transposition::{
    Edit, HeaderOp, Modify, ModifyL2, ModifyL3, ModifyL4, Push, PushDscp, PushEncap, PushIp, PushL2,
    Transposition, Ttl,
};

use super::input::Input;

/// Composition on meaning holds, compiling fails exactly where the meaning does, and an edit leaves the payload
/// alone and a frame that parses.
pub fn transpose_any(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (first, second) = (transposition(&mut input), transposition(&mut input));
    let frame = input.0;
    let Ok(parsed) = parse(frame) else { return };
    let mut once = parsed.stack;
    if first.apply(&mut once).is_err() {
        assert_eq!(once, parsed.stack, "a refused transposition changes nothing");
        return;
    }
    let mut twice = once;
    if second.apply(&mut twice).is_ok() {
        let mut composed = parsed.stack;
        let both = first.then(&second);
        assert_eq!(both.apply(&mut composed), Ok(()), "{first:?} then {second:?}");
        assert_eq!(composed, twice, "{first:?} then {second:?} on {:?}", parsed.stack);
    }
    let Ok(edit) = Edit::compile(&first, &parsed.stack) else { return };
    let mut packet = Packet::from_frame(frame);
    if edit.apply(&mut packet, &parsed.layout).is_ok() {
        let end = parsed.layout.groups[parsed.stack.groups().len() - 1].end as usize;
        // Ethernet padding and a datagram's slack are payload too: nothing behind the headers moves or changes.
        assert!(
            packet.frame().ends_with(&frame[end..]),
            "{first:?} changed the payload of {:?}",
            parsed.stack
        );
    }
}

fn transposition(input: &mut Input<'_>) -> Transposition {
    let count = input.below(7);
    Transposition::new((0..count).map(|_| operation(input)).collect())
}

fn operation(input: &mut Input<'_>) -> HeaderOp {
    match input.below(4) {
        0 => HeaderOp::Ignore(level(input)),
        1 => HeaderOp::Pop(level(input)),
        2 => HeaderOp::Modify(modify(input)),
        _ => HeaderOp::Push(push(input)),
    }
}

fn level(input: &mut Input<'_>) -> Level {
    [Level::L2, Level::L3, Level::L4][usize::from(input.below(3))]
}

fn modify(input: &mut Input<'_>) -> Modify {
    match level(input) {
        Level::L2 => {
            Modify::L2(ModifyL2 { src: Some(mac(input)), dst: input.maybe(mac), ..ModifyL2::default() })
        }
        Level::L3 => {
            let is_v4 = input.byte() & 1 == 0;
            let ttl = input.maybe(|input| match input.byte() {
                0 => Ttl::Decrement(1),
                ttl => Ttl::Set(ttl),
            });
            let dscp = Some(input.byte() & 63);
            let src = input.maybe(|input| address(input, is_v4));
            let dst = input.maybe(|input| address(input, is_v4));
            Modify::L3(ModifyL3 { src, dst, dscp, ttl, ..ModifyL3::default() })
        }
        Level::L4 => Modify::L4(ModifyL4 {
            src_port: input.maybe(Input::u16),
            dst_port: Some(input.u16()),
            ..ModifyL4::default()
        }),
    }
}

fn push(input: &mut Input<'_>) -> Push {
    match input.below(4) {
        0 => {
            let (src, dst) = (mac(input), mac(input));
            Push::L2(PushL2 { src, dst, tags: VlanTags::NONE, ethertype: 0x88b5 })
        }
        1 => {
            let is_v4 = input.byte() & 1 == 0;
            let (src, dst) = (address(input, is_v4), address(input, is_v4));
            let dscp =
                if input.byte() & 1 == 0 { PushDscp::Copy } else { PushDscp::Fixed(input.byte() & 63) };
            let addresses = IpPair::new(src, dst).expect("both are of one family");
            Push::Ip(PushIp { addresses, ttl: input.byte().max(1), dscp, protocol: 253 })
        }
        2 => Push::Udp(Ports { src: input.u16(), dst: input.u16() }),
        _ => {
            const KINDS: [EncapKind; 6] = [
                EncapKind::Vxlan,
                EncapKind::Geneve,
                EncapKind::Nvgre,
                EncapKind::Gre,
                EncapKind::GreKeyed,
                EncapKind::IpInIp,
            ];
            let kind = KINDS[usize::from(input.below(6))];
            let tenant = u32::from(input.u16()) & kind.max_tenant();
            Push::Encap(PushEncap { kind, tenant, udp_port: 4789 })
        }
    }
}

fn mac(input: &mut Input<'_>) -> MacAddr {
    MacAddr(input.number())
}

fn address(input: &mut Input<'_>, is_v4: bool) -> IpAddr {
    if is_v4 { Ipv4Addr::from(input.number()).into() } else { Ipv6Addr::from(input.number()).into() }
}
