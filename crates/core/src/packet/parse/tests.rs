//! Tests of the parser on frames built here, byte by byte.

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::address::{VlanTag, VlanTags};
use crate::flow::{Arp, Encap, EncapKind, Extra, Fragment, Icmp, Ip, IpPair, L2, L3, L4, Ports};
use crate::packet::test_frames::{A, B, address, ethernet, ipv4, ipv4_with, ipv6, tcp, udp, vxlan};

fn v4_id(protocol: u8) -> L3 {
    let addresses = IpPair::V4 { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into() };
    L3::Ip(Ip { addresses, protocol })
}

fn v6_id(protocol: u8) -> L3 {
    L3::Ip(Ip { addresses: IpPair::V6 { src: address(1).into(), dst: address(2).into() }, protocol })
}

fn groups(frame: &[u8]) -> Vec<HeaderGroup> {
    parse(frame).unwrap().stack.groups().to_vec()
}

fn offsets(frame: &[u8], index: usize) -> (u16, u16, u16, u16) {
    let GroupLayout { l2, l3, l4, end } = parse(frame).unwrap().layout.groups[index];
    (l2, l3, l4, end)
}

#[test]
fn tcp_over_ipv4_gives_every_field_and_offset() {
    let frame = ethernet(&[], 0x0800, &ipv4(6, &tcp(12, b"payload")));
    let parsed = parse(&frame).unwrap();
    let l2 = L2 { src: A, dst: B, tags: VlanTags::NONE, ethertype: 0x0800 };
    let [group] = parsed.stack.groups() else { panic!("one group") };
    assert_eq!(group.flow_id.l2, Some(l2));
    assert_eq!(group.flow_id.l3, Some(v4_id(6)));
    assert_eq!(group.flow_id.l4, Some(L4::Tcp(Ports { src: 12345, dst: 80 })));
    let extra = Extra { dscp: 46, ecn: 1, ttl: 63, tcp_flags: 0x92, ..Extra::default() };
    assert_eq!(group.extra, extra);
    assert_eq!(offsets(&frame, 0), (0, 14, 34, 66));
}

#[test]
fn udp_over_ipv6_gives_every_field_and_offset() {
    let frame = ethernet(&[], 0x86dd, &ipv6(17, &udp(53, b"question")));
    let [group] = groups(&frame)[..] else { panic!("one group") };
    assert_eq!(group.flow_id.l3, Some(v6_id(17)));
    assert_eq!(group.flow_id.l4, Some(L4::Udp(Ports { src: 0xc001, dst: 53 })));
    let extra = Extra { dscp: 46, ecn: 1, ttl: 62, flow_label: 0xabcde, ..Extra::default() };
    assert_eq!(group.extra, extra);
    assert_eq!(offsets(&frame, 0), (0, 14, 54, 62));
}

#[test]
fn up_to_two_tags_are_read_and_a_third_is_too_many() {
    let one = ethernet(&[(0x8100, 0x6064)], 0x0800, &ipv4(6, &tcp(0, b"")));
    let outer = VlanTag { tpid: 0x8100, tci: 0x6064 };
    assert_eq!(groups(&one)[0].flow_id.l2.unwrap().tags, VlanTags::one(outer));
    assert_eq!((outer.id(), outer.priority()), (100, 3));
    assert_eq!(offsets(&one, 0), (0, 18, 38, 58));
    let two = ethernet(&[(0x88a8, 7), (0x8100, 8)], 0x86dd, &ipv6(6, &tcp(0, b"")));
    let tags = VlanTags::two(VlanTag { tpid: 0x88a8, tci: 7 }, VlanTag { tpid: 0x8100, tci: 8 });
    let l2 = groups(&two)[0].flow_id.l2.unwrap();
    assert_eq!((l2.tags, l2.ethertype), (tags, 0x86dd));
    assert_eq!(offsets(&two, 0), (0, 22, 62, 82));
    let three = ethernet(&[(0x8100, 1), (0x8100, 2), (0x8100, 3)], 0x0800, &ipv4(6, &tcp(0, b"")));
    assert_eq!(parse(&three), Err(DropReason::TooManyHeaders));
    assert_eq!(parse_opaque(&three).unwrap().stack.innermost().flow_id.l2.unwrap().ethertype, 0x8100);
}

#[test]
fn unknown_ethertypes_and_802_3_lengths_are_opaque() {
    for ethertype in [0x88cc, 0x0026, 0x8847] {
        let frame = ethernet(&[], ethertype, &[0xaa; 40]);
        let [group] = groups(&frame)[..] else { panic!("one group") };
        assert_eq!((group.flow_id.l3, group.flow_id.l4), (None, None));
        assert_eq!(group.flow_id.l2.unwrap().ethertype, ethertype);
        assert_eq!(offsets(&frame, 0), (0, 14, 14, 14));
    }
}

#[test]
fn arp_is_read_and_other_arps_are_bad() {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend([A.0.as_slice(), &[10, 0, 0, 1], &B.0, &[10, 0, 0, 2]].concat());
    let frame = ethernet(&[], 0x0806, &packet);
    let arp = Arp {
        operation: 2,
        sender_mac: A,
        sender_ip: [10, 0, 0, 1].into(),
        target_mac: B,
        target_ip: [10, 0, 0, 2].into(),
    };
    assert_eq!(groups(&frame)[0].flow_id.l3, Some(L3::Arp(arp)));
    assert_eq!(offsets(&frame, 0), (0, 14, 42, 42));
    assert_eq!(parse(&frame[..41]), Err(DropReason::BadArp));
    for (at, value) in [(14, 1), (17, 6), (18, 8), (19, 16)] {
        let mut bad = frame.clone();
        bad[at] = value;
        assert_eq!(parse(&bad), Err(DropReason::BadArp), "byte {at}");
    }
}

#[test]
fn bad_ipv4_headers_are_named() {
    let frame = ethernet(&[], 0x0800, &ipv4(6, &tcp(0, b"")));
    let with = |at: usize, value: u8| {
        let mut bad = frame.clone();
        bad[at] = value;
        parse(&bad)
    };
    assert_eq!(with(14, 0x65), Err(DropReason::BadIpv4Header), "version");
    assert_eq!(with(14, 0x44), Err(DropReason::BadIpv4Header), "header length");
    assert_eq!(with(14, 0x4f), Err(DropReason::BadIpv4Header), "header longer than packet");
    assert_eq!(with(17, 41), Err(DropReason::BadIpv4Header), "total length beyond the frame");
    assert_eq!(with(17, 19), Err(DropReason::BadIpv4Header), "total length below the header");
    assert_eq!(with(22, 64), Err(DropReason::BadIpv4Checksum), "checksum");
    let mut options = ethernet(&[], 0x0800, &ipv4_with(6, 0, &[1; 8], &tcp(0, b"")));
    assert_eq!(offsets(&options, 0), (0, 14, 42, 62));
    options[40] = 0;
    assert_eq!(parse(&options), Err(DropReason::BadIpv4Checksum), "options are summed");
}

#[test]
fn headers_must_lie_inside_their_packet_and_padding_is_ignored() {
    let mut padded = ethernet(&[], 0x0800, &ipv4(6, &tcp(0, b"")));
    let parsed = parse(&padded).unwrap();
    padded.extend([0; 6]);
    assert_eq!(parse(&padded).unwrap(), parsed);
    let mut cut = ethernet(&[], 0x0800, &ipv4(6, &tcp(0, b"")[..16]));
    cut.extend([0; 30]);
    assert_eq!(parse(&cut), Err(DropReason::Truncated), "the rest is padding, not TCP");
}

#[test]
fn bad_transport_headers_are_named() {
    let mut offset = tcp(0, b"1234");
    for (words, result) in
        [(4, Some(DropReason::BadTransportHeader)), (6, None), (7, Some(DropReason::BadTransportHeader))]
    {
        offset[12] = words << 4;
        assert_eq!(parse(&ethernet(&[], 0x0800, &ipv4(6, &offset))).err(), result, "{words} words");
    }
    let mut datagram = udp(53, b"1234");
    for (length, v4, v6) in
        [(0, false, true), (7, false, false), (8, true, true), (12, true, true), (13, false, false)]
    {
        datagram[5] = length;
        let v4_result = parse(&ethernet(&[], 0x0800, &ipv4(17, &datagram)));
        let v6_result = parse(&ethernet(&[], 0x86dd, &ipv6(17, &datagram)));
        assert_eq!(v4_result.is_ok(), v4, "length {length}");
        assert_eq!(v6_result.is_ok(), v6, "length {length}");
        for error in [v4_result.err(), v6_result.err()].into_iter().flatten() {
            assert_eq!(error, DropReason::BadTransportHeader);
        }
    }
}

#[test]
fn icmp_queries_have_an_id_and_errors_have_none() {
    let echo = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let frame = ethernet(&[], 0x0800, &ipv4(1, &echo));
    assert_eq!(groups(&frame)[0].flow_id.l4, Some(L4::Icmp(Icmp { kind: 8, code: 0, id: Some(0x1234) })));
    assert_eq!(offsets(&frame, 0), (0, 14, 34, 42));
    let unreachable = [3, 1, 0, 0, 0x12, 0x34, 0, 1];
    let frame = ethernet(&[], 0x0800, &ipv4(1, &unreachable));
    assert_eq!(groups(&frame)[0].flow_id.l4, Some(L4::Icmp(Icmp { kind: 3, code: 1, id: None })));
    let reply = [129, 0, 0, 0, 0xab, 0xcd, 0, 1];
    let frame = ethernet(&[], 0x86dd, &ipv6(58, &reply));
    assert_eq!(groups(&frame)[0].flow_id.l4, Some(L4::Icmpv6(Icmp { kind: 129, code: 0, id: Some(0xabcd) })));
}

#[test]
fn neighbour_messages_give_their_target() {
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0], &address(9)[..], &[1, 1], &A.0].concat();
    let frame = ethernet(&[], 0x86dd, &ipv6(58, &solicitation));
    let group = groups(&frame)[0];
    assert_eq!(group.flow_id.l4, Some(L4::Icmpv6(Icmp { kind: 135, code: 0, id: None })));
    assert_eq!(group.extra.nd_target, Some(address(9).into()));
    let cut = ethernet(&[], 0x86dd, &ipv6(58, &solicitation[..23]));
    assert_eq!(parse(&cut), Err(DropReason::Truncated));
}

#[test]
fn sctp_and_unknown_protocols() {
    let sctp = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 4];
    let frame = ethernet(&[], 0x0800, &ipv4(132, &sctp));
    assert_eq!(groups(&frame)[0].flow_id.l4, Some(L4::Sctp(Ports { src: 1, dst: 2 })));
    assert_eq!(offsets(&frame, 0), (0, 14, 34, 46));
    let esp = ethernet(&[], 0x0800, &ipv4(50, &sctp));
    assert_eq!(
        groups(&esp)[0].flow_id,
        crate::flow::FlowId { l4: None, l3: Some(v4_id(50)), ..groups(&esp)[0].flow_id }
    );
    assert_eq!(offsets(&esp, 0), (0, 14, 34, 34));
}

#[test]
fn extension_headers_are_followed_within_bounds() {
    let hop_by_hop = [43, 0, 5, 2, 0, 0, 1, 0];
    let routing = [51, 0, 0, 0, 0, 0, 0, 0];
    let authentication = [60, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let destination = [6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let chain = [&hop_by_hop[..], &routing, &authentication, &destination].concat();
    let frame = ethernet(&[], 0x86dd, &ipv6(0, &[&chain[..], &tcp(0, b"")].concat()));
    let group = groups(&frame)[0];
    assert_eq!(group.flow_id.l3, Some(v6_id(6)));
    assert_eq!(group.flow_id.l4, Some(L4::Tcp(Ports { src: 12345, dst: 80 })));
    assert_eq!(offsets(&frame, 0), (0, 14, 54 + 56, 54 + 56 + 20));

    let cut = ethernet(&[], 0x86dd, &ipv6(60, &destination[..12]));
    assert_eq!(parse(&cut), Err(DropReason::BadIpv6Header));
    let link = [60, 0, 1, 4, 0, 0, 0, 0];
    let eight = [link; 8].concat();
    assert_eq!(parse(&ethernet(&[], 0x86dd, &ipv6(60, &eight))), Err(DropReason::TooManyHeaders));
    let mut last = link;
    last[0] = 59;
    let seven = [[link; 7].concat(), last.to_vec()].concat();
    let frame = ethernet(&[], 0x86dd, &ipv6(60, &seven));
    assert_eq!(groups(&frame)[0].flow_id.l3, Some(v6_id(59)));
}

#[test]
fn fragments_of_ipv4() {
    let first = ethernet(&[], 0x0800, &ipv4_with(17, 0x2000, &[], &udp(53, &[0; 64])[..40]));
    let group = groups(&first)[0];
    assert_eq!(group.extra.fragment, Fragment::First);
    assert_eq!(
        group.flow_id.l4,
        Some(L4::Udp(Ports { src: 0xc001, dst: 53 })),
        "length may exceed the fragment"
    );
    for flags_offset in [0x2005, 0x0005] {
        let later = ethernet(&[], 0x0800, &ipv4_with(17, flags_offset, &[], &[1; 40]));
        let group = groups(&later)[0];
        assert_eq!((group.extra.fragment, group.flow_id.l4), (Fragment::Later, None));
        assert_eq!(offsets(&later, 0), (0, 14, 34, 34));
    }
    let tiny = ethernet(&[], 0x0800, &ipv4_with(6, 0x2000, &[], &tcp(0, b"")[..8]));
    assert_eq!(parse(&tiny), Err(DropReason::Truncated), "RFC 1858: no ports, no passage");
    let inside_options = ethernet(&[], 0x0800, &ipv4_with(6, 0x2000, &[], &tcp(12, b"")[..24]));
    assert_eq!(parse(&inside_options), Err(DropReason::Truncated));
}

#[test]
fn fragments_of_ipv6() {
    let header = |offset_flags: u16, next: u8| {
        let [a, b] = offset_flags.to_be_bytes();
        [next, 0, a, b, 0, 0, 0, 7]
    };
    let packet = |offset_flags, next, payload: &[u8]| {
        ethernet(&[], 0x86dd, &ipv6(44, &[&header(offset_flags, next)[..], payload].concat()))
    };
    let group = groups(&packet(1, 17, &udp(53, &[0; 64])[..40]))[0];
    assert_eq!((group.extra.fragment, group.flow_id.l3), (Fragment::First, Some(v6_id(17))));
    assert_eq!(group.flow_id.l4, Some(L4::Udp(Ports { src: 0xc001, dst: 53 })));
    let group = groups(&packet(5 << 3, 60, &[1; 40]))[0];
    assert_eq!((group.extra.fragment, group.flow_id.l3), (Fragment::Later, Some(v6_id(60))));
    assert_eq!(group.flow_id.l4, None);
    let group = groups(&packet(0, 6, &tcp(0, b"")))[0];
    assert_eq!(group.extra.fragment, Fragment::None, "an atomic fragment is a whole packet");
    assert!(matches!(group.flow_id.l4, Some(L4::Tcp(_))));
}

fn inner() -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(6, &tcp(0, b"inner")))
}

fn encap(frame: &[u8], index: usize) -> Option<Encap> {
    match groups(frame)[index].flow_id.l4 {
        Some(L4::Encap(encap)) => Some(encap),
        _ => None,
    }
}

#[test]
fn vxlan_opens_a_group_when_the_flag_is_set() {
    let mut frame = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(0xabcdef, &inner()))));
    let all = groups(&frame);
    assert_eq!(all.len(), 2);
    assert_eq!(encap(&frame, 0), Some(Encap { kind: EncapKind::Vxlan, tenant: 0xabcdef }));
    assert_eq!(all[0].extra.entropy, 0xc001);
    assert_eq!(all[1], groups(&inner())[0]);
    assert_eq!(offsets(&frame, 0), (0, 14, 34, 50));
    assert_eq!(offsets(&frame, 1), (50, 64, 84, 104));
    assert_eq!(parse(&frame).unwrap().stack.tenant(), Some(0xabcdef));
    frame[42] = 0;
    assert_eq!(groups(&frame).len(), 1);
    assert_eq!(groups(&frame)[0].flow_id.l4, Some(L4::Udp(Ports { src: 0xc001, dst: 4789 })));
    assert_eq!(offsets(&frame, 0), (0, 14, 34, 42));
}

#[test]
fn a_malformed_inner_frame_makes_the_packet_malformed() {
    let cases = [
        (inner()[..10].to_vec(), DropReason::Truncated),
        (inner()[..20].to_vec(), DropReason::Truncated),
        (inner()[..40].to_vec(), DropReason::BadIpv4Header),
    ];
    for (bytes, reason) in cases {
        let frame = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(1, &bytes))));
        assert_eq!(parse(&frame), Err(reason));
    }
    let opaque = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(1, &ethernet(&[], 0x88cc, b"")))));
    assert_eq!(groups(&opaque)[1].flow_id.l3, None);
}

#[test]
fn geneve_skips_options_and_carries_ethernet_or_ip() {
    let geneve = |first: u8, protocol: u16, options: &[u8], payload: &[u8]| {
        let [a, b] = protocol.to_be_bytes();
        let header = [first, 0, a, b, 0, 0x12, 0x34, 0];
        ethernet(&[], 0x86dd, &ipv6(17, &udp(6081, &[&header[..], options, payload].concat())))
    };
    let frame = geneve(2, 0x6558, &[0; 8], &inner());
    assert_eq!(encap(&frame, 0), Some(Encap { kind: EncapKind::Geneve, tenant: 0x1234 }));
    assert_eq!(offsets(&frame, 0), (0, 14, 54, 78));
    assert_eq!(groups(&frame)[1], groups(&inner())[0]);
    let ip = geneve(0, 0x0800, &[], &ipv4(6, &tcp(0, b"")));
    assert_eq!(groups(&ip)[1].flow_id.l2, None);
    assert_eq!(offsets(&ip, 1), (70, 70, 90, 110));
    for plain in [geneve(0, 0x8847, &[], &inner()), geneve(0x40, 0x6558, &[], &inner())] {
        assert!(
            matches!(groups(&plain)[..], [HeaderGroup { flow_id, .. }] if matches!(flow_id.l4, Some(L4::Udp(_))))
        );
    }
    assert_eq!(parse(&geneve(0x3f, 0x6558, &[0; 8], b"")), Err(DropReason::BadTunnelHeader));
}

#[test]
fn gre_in_all_its_forms() {
    let gre = |flags: u16, protocol: u16, fields: &[u8], payload: &[u8]| {
        let start = [flags.to_be_bytes(), protocol.to_be_bytes()].concat();
        ethernet(&[], 0x0800, &ipv4(47, &[&start[..], fields, payload].concat()))
    };
    let ip = ipv4(6, &tcp(0, b""));
    let plain = gre(0, 0x0800, &[], &ip);
    assert_eq!(encap(&plain, 0), Some(Encap { kind: EncapKind::Gre, tenant: 0 }));
    assert_eq!(offsets(&plain, 0), (0, 14, 34, 38));
    let keyed = gre(0x2000, 0x86dd, &[0xff, 1, 2, 3], &ipv6(6, &tcp(0, b"")));
    assert_eq!(encap(&keyed, 0), Some(Encap { kind: EncapKind::GreKeyed, tenant: 0xff010203 }));
    let nvgre = gre(0x2000, 0x6558, &[0, 1, 2, 3], &inner());
    assert_eq!(encap(&nvgre, 0), Some(Encap { kind: EncapKind::Nvgre, tenant: 0x102 }));
    assert_eq!(groups(&nvgre)[0].extra.entropy, 3);
    assert_eq!(groups(&nvgre)[1], groups(&inner())[0]);
    let all = gre(0xb000, 0x0800, &[9, 9, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1], &ip);
    assert_eq!(encap(&all, 0), Some(Encap { kind: EncapKind::GreKeyed, tenant: 7 }));
    assert_eq!(offsets(&all, 0), (0, 14, 34, 50));
    let bridged = gre(0, 0x6558, &[], &inner());
    assert_eq!(encap(&bridged, 0), Some(Encap { kind: EncapKind::Gre, tenant: 0 }));
    assert_eq!(groups(&bridged)[1], groups(&inner())[0]);
    for opaque in [gre(0x3001, 0x880b, &[0; 8], b""), gre(0, 0x8847, &[], &[0; 8])] {
        assert!(matches!(groups(&opaque)[..], [HeaderGroup { flow_id, .. }] if flow_id.l4.is_none()));
        assert_eq!(offsets(&opaque, 0), (0, 14, 34, 34));
    }
    assert_eq!(parse(&gre(0x4000, 0x0800, &[0; 4], &ip)), Err(DropReason::BadTunnelHeader));
    assert_eq!(parse(&gre(0x2000, 0x0800, &[], b"")), Err(DropReason::BadTunnelHeader));
    assert_eq!(parse(&gre(0x1000, 0x0800, &[], b"")), Err(DropReason::BadTunnelHeader));
}

#[test]
fn ip_in_ip_of_all_families() {
    let v4 = ipv4(6, &tcp(0, b""));
    let v6 = ipv6(6, &tcp(0, b""));
    for (frame, l4) in [
        (ethernet(&[], 0x0800, &ipv4(4, &v4)), 34),
        (ethernet(&[], 0x0800, &ipv4(41, &v6)), 34),
        (ethernet(&[], 0x86dd, &ipv6(4, &v4)), 54),
        (ethernet(&[], 0x86dd, &ipv6(41, &v6)), 54),
    ] {
        assert_eq!(encap(&frame, 0), Some(Encap { kind: EncapKind::IpInIp, tenant: 0 }));
        assert_eq!(groups(&frame)[1].flow_id.l2, None);
        assert!(matches!(groups(&frame)[1].flow_id.l4, Some(L4::Tcp(_))));
        assert_eq!(offsets(&frame, 0), (0, 14, l4, l4));
    }
}

#[test]
fn a_fourth_group_is_payload() {
    let third = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(3, &inner()))));
    let second = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(2, &third))));
    let first = ethernet(&[], 0x0800, &ipv4(17, &udp(4789, &vxlan(1, &second))));
    let all = groups(&first);
    assert_eq!(all.len(), 3);
    assert_eq!(all[2].flow_id.l4, Some(L4::Udp(Ports { src: 0xc001, dst: 4789 })));
    let ipip = ethernet(&[], 0x0800, &ipv4(4, &ipv4(4, &ipv4(4, &ipv4(6, &tcp(0, b""))))));
    let all = groups(&ipip);
    assert_eq!(all.len(), 3);
    assert_eq!((all[2].flow_id.l3, all[2].flow_id.l4), (Some(v4_id(4)), None));
}

#[test]
fn a_fragment_opens_no_group() {
    let tunnelled = udp(4789, &vxlan(1, &inner()));
    let first = ethernet(&[], 0x0800, &ipv4_with(17, 0x2000, &[], &tunnelled));
    let all = groups(&first);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].flow_id.l4, Some(L4::Udp(Ports { src: 0xc001, dst: 4789 })));
    let first = ethernet(&[], 0x0800, &ipv4_with(4, 0x2000, &[], &ipv4(6, &tcp(0, b""))));
    assert_eq!(groups(&first)[0].flow_id.l4, None);
}

#[test]
fn headers_beyond_the_window_are_too_many() {
    let long = ethernet(&[], 0x0800, &ipv4(17, &udp(53, &[0; 3000])));
    assert!(parse(&long).is_ok());
    let options = [&[60, 40, 0, 0, 0, 0, 0, 0][..], &[0; 320]].concat();
    let last = [&[6, 40, 0, 0, 0, 0, 0, 0][..], &[0; 320]].concat();
    let frame = ethernet(&[], 0x86dd, &ipv6(60, &[&options[..], &last, &tcp(0, b"")].concat()));
    assert_eq!(parse(&frame), Err(DropReason::TooManyHeaders));
    let geneve = [0x3f, 0, 0x65, 0x58, 0, 0, 1, 0];
    let deep = udp(6081, &[&geneve[..], &[0; 252], &inner()].concat());
    let deep = udp(6081, &[&geneve[..], &[0; 252], &ethernet(&[], 0x0800, &ipv4(17, &deep))].concat());
    let frame = ethernet(&[], 0x0800, &ipv4(17, &deep));
    assert_eq!(parse(&frame), Err(DropReason::TooManyHeaders));
}

#[test]
fn a_frame_without_an_ethernet_header_is_too_short() {
    for length in 0..14 {
        assert_eq!(parse(&inner()[..length]), Err(DropReason::FrameTooShort));
        assert_eq!(parse_opaque(&inner()[..length]), Err(DropReason::FrameTooShort));
    }
    let opaque = parse_opaque(&inner()[..14]).unwrap();
    assert_eq!(opaque.stack.groups().len(), 1);
    assert_eq!(opaque.stack.innermost().flow_id.l3, None);
    assert_eq!(opaque.layout.groups[0], GroupLayout { l2: 0, l3: 14, l4: 14, end: 14 });
}

/// Random bytes rarely get past Ethernet, so well-formed frames are broken at random places.
fn samples() -> Vec<Vec<u8>> {
    let tunnelled = udp(4789, &vxlan(1, &inner()));
    let extensions = [&[43, 0, 5, 2, 0, 0, 1, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0], &tcp(8, b"xyz")].concat();
    vec![
        inner(),
        ethernet(&[(0x88a8, 7), (0x8100, 8)], 0x86dd, &ipv6(0, &extensions)),
        ethernet(&[], 0x0800, &ipv4(17, &tunnelled)),
        ethernet(
            &[],
            0x0800,
            &ipv4(17, &udp(4789, &vxlan(1, &ethernet(&[], 0x0800, &ipv4(17, &tunnelled))))),
        ),
        ethernet(&[], 0x0800, &ipv4(47, &[&[0xb0, 0, 0x65, 0x58][..], &[0; 12], &inner()].concat())),
        ethernet(&[], 0x0800, &ipv4(41, &ipv6(44, &[&[58, 0, 0, 1, 0, 0, 0, 7][..], &[0; 30]].concat()))),
    ]
}

proptest! {
    #[test]
    fn layouts_are_ordered_and_inside_the_frame(
        sample in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let all = samples();
        let mut frame = sample.get(&all).clone();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if !whole {
            frame.truncate(cut.index(frame.len() + 1));
        }
        if let Ok(parsed) = parse(&frame) {
            let mut at = 0;
            for layout in &parsed.layout.groups[..parsed.stack.groups().len()] {
                prop_assert_eq!(layout.l2, at);
                prop_assert!(layout.l2 <= layout.l3 && layout.l3 <= layout.l4 && layout.l4 <= layout.end);
                at = layout.end;
            }
            prop_assert!(at as usize <= frame.len().min(HEADER_WINDOW));
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        let _ = parse(&bytes);
        let _ = parse_opaque(&bytes);
    }
}

#[test]
fn vxlan_is_known_by_further_ports_where_they_are_given() {
    let frame = ethernet(&[], 0x0800, &ipv4(17, &udp(8472, &vxlan(0xabcdef, &inner()))));
    assert_eq!(groups(&frame).len(), 1);
    let further = TunnelPorts::with_vxlan(&[8472, 1]).unwrap();
    let parsed = parse_with(&frame, &further).unwrap();
    let outer = parsed.stack.outermost();
    assert_eq!(outer.flow_id.l4, Some(L4::Encap(Encap { kind: EncapKind::Vxlan, tenant: 0xabcdef })));
    assert_eq!((outer.extra.tunnel_port, parsed.stack.groups().len()), (8472, 2));
    for wrong in [&[0][..], &[4789], &[6081], &[7, 7], &[1, 2, 3, 4, 5]] {
        assert_eq!(TunnelPorts::with_vxlan(wrong), None, "{wrong:?}");
    }
    assert!(
        TunnelPorts::with_vxlan(&[1, 2, 3, 4]).is_some_and(|ports| ports.is_known(4) && !ports.is_known(0))
    );
}
