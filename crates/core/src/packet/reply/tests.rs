//! Byte-exact answers.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::packet::test_frames::{A, B, address, ethernet, ipv4, ipv4_with, ipv6, naive_checksum, vxlan};
use crate::packet::{Offload, PartialChecksum, parse};

const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

type Answer = Result<Vec<u8>, DropReason>;

/// Parses, answers, and checks that a refusal changed nothing.
fn answer(
    frame: &[u8],
    offload: Offload,
    reply: impl Fn(&mut Packet, &Parsed) -> Result<(), DropReason>,
) -> Answer {
    let mut packet = Packet::from_frame(frame);
    packet.offload = offload;
    let parsed = parse(frame).unwrap();
    match reply(&mut packet, &parsed) {
        Ok(()) => {
            assert!(parse(packet.frame()).is_ok(), "an answer parses");
            Ok(packet.frame().to_vec())
        }
        Err(reason) => {
            assert_eq!(packet.frame(), frame);
            Err(reason)
        }
    }
}

fn arp_answer(frame: &[u8]) -> Answer {
    answer(frame, Offload::default(), |packet, parsed| reply_arp(packet, parsed, ROUTER))
}

fn neighbor_answer(frame: &[u8]) -> Answer {
    answer(frame, Offload::default(), |packet, parsed| reply_neighbor_advertisement(packet, parsed, ROUTER))
}

fn echo_answer(frame: &[u8]) -> Answer {
    answer(frame, Offload::default(), reply_echo)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn refused<T>() -> Result<T, DropReason> {
    Err(DropReason::CannotRespond)
}

const ARP_REQUEST: &str = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001
    020000000001 0a000001 000000000000 0a0000fe 000000000000";

#[test]
fn arp_request_becomes_its_reply() {
    let reply = "020000000001 0200000000fe 0806 0001 0800 06 04 0002
        0200000000fe 0a0000fe 020000000001 0a000001 000000000000";
    assert_eq!(arp_answer(&bytes(ARP_REQUEST)), Ok(bytes(reply)));
}

#[test]
fn arp_keeps_vlan_tags_and_answers_probes() {
    let body = "0001 0800 06 04 0001 020000000001 00000000 000000000000 0a0000fe";
    let probe = ethernet(&[(0x8100, 7)], 0x0806, &bytes(body));
    let reply = "0001 0800 06 04 0002 0200000000fe 0a0000fe 020000000001 00000000";
    let mut expected = ethernet(&[(0x8100, 7)], 0x0806, &bytes(reply));
    expected[..12].copy_from_slice(&bytes("020000000001 0200000000fe"));
    assert_eq!(arp_answer(&probe), Ok(expected));
}

#[test]
fn arp_that_asks_nothing_or_comes_from_many_is_not_answered() {
    let with = |at: usize, change: &[u8]| {
        let mut frame = bytes(ARP_REQUEST);
        frame[at..at + change.len()].copy_from_slice(change);
        arp_answer(&frame)
    };
    assert_eq!(with(21, &[2]), refused(), "a reply");
    assert_eq!(with(28, &[10, 0, 0, 0xfe]), refused(), "an announcement");
    assert_eq!(with(6, &[3]), refused(), "multicast link source");
    assert_eq!(with(22, &[3]), refused(), "multicast sender");
    assert_eq!(with(28, &[224, 0, 0, 1]), refused(), "multicast sender address");
    assert_eq!(echo_answer(&bytes(ARP_REQUEST)), refused(), "not an echo");
    assert_eq!(neighbor_answer(&bytes(ARP_REQUEST)), refused(), "not a solicitation");
}

/// An ICMPv6 packet with hop limit 255 and a right checksum.
fn icmpv6(src: [u8; 16], dst: [u8; 16], mut message: Vec<u8>) -> Vec<u8> {
    let pseudo = [&src[..], &dst, &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let checksum = naive_checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((message.len() as u16).to_be_bytes());
    packet.extend([58, 255]);
    packet.extend([src, dst].concat());
    packet.extend(message);
    packet
}

fn solicited_node() -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xff, 2]);
    octets[11..14].copy_from_slice(&[1, 0xff, 0]);
    octets[15] = 0xfe;
    octets
}

fn solicitation(source_option: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0], &address(0xfe)[..], source_option].concat()
}

fn advertisement(flags: u8) -> Vec<u8> {
    [&[136, 0, 0, 0, flags, 0, 0, 0], &address(0xfe)[..], &[2, 1], &ROUTER.0].concat()
}

fn link(dst: MacAddr, src: MacAddr, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..12].copy_from_slice(&[dst.0, src.0].concat());
    frame
}

#[test]
fn neighbour_solicitation_becomes_its_advertisement() {
    let option = [&[1, 1][..], &A.0].concat();
    let question = ethernet(&[], 0x86dd, &icmpv6(address(1), solicited_node(), solicitation(&option)));
    let expected = ethernet(&[], 0x86dd, &icmpv6(address(0xfe), address(1), advertisement(0x60)));
    assert_eq!(neighbor_answer(&question), Ok(link(A, ROUTER, expected)));
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    // No option in the question: the answer is longer than it, and has two tags as well.
    let tags = [(0x88a8, 3), (0x8100, 4)];
    let question = ethernet(&tags, 0x86dd, &icmpv6([0; 16], solicited_node(), solicitation(&[])));
    let expected = icmpv6(address(0xfe), ALL_NODES.octets(), advertisement(0x20));
    let expected = link(ALL_NODES_MAC, ROUTER, ethernet(&tags, 0x86dd, &expected));
    assert_eq!(neighbor_answer(&question), Ok(expected));
}

#[test]
fn invalid_solicitations_are_not_answered() {
    let good = ethernet(&[], 0x86dd, &icmpv6(address(1), solicited_node(), solicitation(&[])));
    assert!(neighbor_answer(&good).is_ok());
    let mut bad = good.clone();
    bad[57] ^= 1;
    assert_eq!(neighbor_answer(&bad), refused(), "checksum");
    let trusted = Offload { checksum_verified: true, ..Offload::default() };
    let reply = |packet: &mut Packet, parsed: &Parsed| reply_neighbor_advertisement(packet, parsed, ROUTER);
    assert!(answer(&bad, trusted, reply).is_ok(), "the receiver has verified it");
    bad = good.clone();
    bad[21] = 254;
    assert_eq!(neighbor_answer(&bad), refused(), "hop limit");
    let mut message = solicitation(&[]);
    message[1] = 1;
    let coded = ethernet(&[], 0x86dd, &icmpv6(address(1), solicited_node(), message));
    assert_eq!(neighbor_answer(&coded), refused(), "code");
    let from_many = ethernet(&[], 0x86dd, &icmpv6(solicited_node(), address(1), solicitation(&[])));
    assert_eq!(neighbor_answer(&from_many), refused(), "multicast source");
    let unicast = ethernet(&[], 0x86dd, &icmpv6([0; 16], address(0xfe), solicitation(&[])));
    assert_eq!(neighbor_answer(&unicast), refused(), "detection to a unicast address");
    let mut message = solicitation(&[]);
    message[8..24].copy_from_slice(&solicited_node());
    let target = ethernet(&[], 0x86dd, &icmpv6(address(1), solicited_node(), message));
    assert_eq!(neighbor_answer(&target), refused(), "multicast target");
    let answer = ethernet(&[], 0x86dd, &icmpv6(address(1), address(2), advertisement(0)));
    assert_eq!(neighbor_answer(&answer), refused(), "an advertisement");
}

#[test]
fn the_smallest_echo_becomes_its_reply() {
    // The message is all zeroes, so the checksum is 0xffff although the update gives 0.
    let request =
        "02AC10FF0022 02AC10FF0011 0800 4500001C000100000A015A9D AC10FF0B AC10FF16 0800F7FF00000000";
    let reply = "02AC10FF0011 02AC10FF0022 0800 4500001C000100004001249D AC10FF16 AC10FF0B 0000FFFF00000000";
    assert_eq!(echo_answer(&bytes(request)), Ok(bytes(reply)));
}

#[test]
fn echo_of_both_families_keeps_payload_and_checksums() {
    for length in [0usize, 1, 56, 1400] {
        let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let v4_message = |kind: u8| {
            let mut message = [&[kind, 0, 0, 0, 0x12, 0x34, 0, 9], &payload[..]].concat();
            let checksum = naive_checksum(&[&message]);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            message
        };
        let request = ethernet(&[], 0x0800, &ipv4(1, &v4_message(8)));
        let mut expected = ethernet(&[], 0x0800, &ipv4(1, &v4_message(0)));
        expected[22] = 64;
        expected[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
        expected[24..26].fill(0);
        let checksum = naive_checksum(&[&expected[14..34]]);
        expected[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(echo_answer(&request), Ok(link(A, B, expected)));

        let v6_message = |kind: u8| [&[kind, 0, 0, 0, 0x12, 0x34, 0, 9], &payload[..]].concat();
        let request = ethernet(&[(0x8100, 1)], 0x86dd, &icmpv6(address(1), address(2), v6_message(128)));
        let mut expected = ethernet(&[(0x8100, 1)], 0x86dd, &icmpv6(address(2), address(1), v6_message(129)));
        expected[25] = 64;
        assert_eq!(echo_answer(&request), Ok(link(A, B, expected)));
    }
}

#[test]
fn a_partial_checksum_stays_partial() {
    let request = ethernet(&[], 0x86dd, &ipv6(58, &[128, 0, 0xab, 0xcd, 0, 1, 0, 1]));
    let offload = Offload { checksum: Some(PartialChecksum { start: 54, offset: 2 }), ..Offload::default() };
    let got = answer(&request, offload, reply_echo).unwrap();
    assert_eq!(got[54..], [129, 0, 0xab, 0xcd, 0, 1, 0, 1]);
}

#[test]
fn echoes_that_are_not_from_one_host_to_one_host_are_not_answered() {
    let message = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let good = ethernet(&[], 0x0800, &ipv4(1, &message));
    assert!(echo_answer(&good).is_ok());
    let with = |at: usize, change: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + change.len()].copy_from_slice(change);
        frame[24..26].fill(0);
        let checksum = naive_checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        echo_answer(&frame)
    };
    assert_eq!(with(34, &[0]), refused(), "a reply");
    assert_eq!(with(35, &[1]), refused(), "code");
    assert_eq!(with(26, &[255, 255, 255, 255]), refused(), "from broadcast");
    assert_eq!(with(26, &[0, 0, 0, 0]), refused(), "from nobody");
    assert_eq!(with(26, &[224, 0, 0, 1]), refused(), "from multicast");
    assert_eq!(with(30, &[224, 0, 0, 1]), refused(), "to multicast");
    assert_eq!(with(0, &[0xff; 6]), refused(), "to link broadcast");
    assert_eq!(with(6, &[0xff; 6]), refused(), "from link broadcast");
    assert_eq!(with(20, &[0x20, 0]), refused(), "a fragment");
    let options = ethernet(&[], 0x0800, &ipv4_with(1, 0, &[1; 4], &message));
    assert_eq!(echo_answer(&options), refused(), "options");
    let tunnelled = [&[0xc0, 1, 0x12, 0xb5, 0, 16 + 42, 0, 0][..], &vxlan(1, &good)].concat();
    let tunnelled = ethernet(&[], 0x0800, &ipv4(17, &tunnelled));
    assert_eq!(parse(&tunnelled).unwrap().stack.groups().len(), 2);
    assert_eq!(echo_answer(&tunnelled), refused(), "in a tunnel");
    let v6 =
        |src, dst| echo_answer(&ethernet(&[], 0x86dd, &icmpv6(src, dst, vec![128, 0, 0, 0, 0, 0, 0, 0])));
    assert!(v6(address(1), address(2)).is_ok());
    assert_eq!(v6([0; 16], address(2)), refused());
    assert_eq!(v6(address(1), solicited_node()), refused());
    assert_eq!(v6(solicited_node(), address(2)), refused());
}
