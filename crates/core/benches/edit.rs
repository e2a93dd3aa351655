//! What one edit costs, the packet already parsed: 64-byte TCP over IPv4, one flow, everything in cache.
//!
//! Each turn applies the edit and puts the frame back in place (the new front is stripped), so the figures hold
//! one extra move of a pointer. Checksums drift from turn to turn, which costs the same.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lamina_core::address::{MacAddr, VlanTags};
use lamina_core::flow::{EncapKind, HeaderStack, IpPair};
use lamina_core::packet::{Packet, parse};
use lamina_core::transposition::{
    Edit, HeaderOp, Modify, ModifyL2, ModifyL3, ModifyL4, Push, PushDscp, PushEncap, PushIp, PushL2,
    Transposition, VXLAN_PORT,
};

fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 50, 0, 1, 0x40, 0, 64, 6, 0x26, 0xc3, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0x12, 0x34, 0, 0]);
    frame.resize(64, 0);
    frame
}

fn nat(headers: &HeaderStack) -> Transposition {
    let l2 = ModifyL2 { dst: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..ModifyL2::default() };
    let l3 = ModifyL3 { src: Some([198, 51, 100, 7].into()), ..ModifyL3::default() };
    let l4 = ModifyL4 { src_port: Some(61_234), ..ModifyL4::default() };
    Transposition::on_innermost(headers, [Modify::L2(l2), Modify::L3(l3), Modify::L4(l4)])
}

fn encap() -> Transposition {
    let addresses = IpPair::V4 { src: [192, 0, 2, 1].into(), dst: [192, 0, 2, 2].into() };
    let (src, dst) = (MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]));
    Transposition::new(vec![
        HeaderOp::Push(Push::L2(PushL2 { src, dst, tags: VlanTags::NONE, ethertype: 0 })),
        HeaderOp::Push(Push::Ip(PushIp { addresses, ttl: 64, dscp: PushDscp::Copy, protocol: 0 })),
        HeaderOp::Push(Push::Encap(PushEncap { kind: EncapKind::Vxlan, tenant: 5001, udp_port: VXLAN_PORT })),
    ])
}

fn edit(c: &mut Criterion) {
    let packet = Packet::from_frame(&frame());
    let parsed = parse(packet.frame()).expect("a valid frame");
    let nat = nat(&parsed.stack);
    let both = nat.then(&encap());
    let cases = [
        ("identity", Transposition::IDENTITY, 0),
        ("nat", nat, 0),
        ("vxlan-encap", encap(), 50),
        ("nat+vxlan-encap", both, 50),
    ];
    for (name, transposition, growth) in cases {
        let edit = Edit::compile(&transposition, &parsed.stack).expect("it fits");
        let mut packet = packet.clone();
        c.bench_function(name, |bencher| {
            bencher.iter(|| {
                let result = black_box(&edit).apply(black_box(&mut packet), black_box(&parsed.layout));
                assert!(result.is_ok() && packet.replace_front(growth, &[]));
            });
        });
    }
    let (nat, encap) = (self::nat(&parsed.stack), self::encap());
    c.bench_function("compose and compile", |bencher| {
        bencher.iter(|| Edit::compile(&black_box(&nat).then(black_box(&encap)), &parsed.stack));
    });
}

criterion_group!(benches, edit);
criterion_main!(benches);
