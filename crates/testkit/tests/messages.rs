//! Answers to messages that scenarios do not reach: buffers, checksums left to the network card, lengths, options in
//! odd places.

use std::net::Ipv4Addr;

use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::packet::{
    Advertised, AdvertisedPrefix, Answered, DhcpLease, DhcpOption, DhcpServer, DnsData, DnsName, DnsRecord,
    DnsSource, HEADROOM, Offload, Packet, PartialChecksum, RouterAdvertisement, Segmentation,
    SegmentationKind, Unknown, dhcp_code, link_local, parse, reply_dhcp, reply_dns,
    reply_router_advertisement,
};
use lamina_core::resource::DnsTable;
use lamina_testkit::builder::{eth, mac};
use lamina_testkit::message::{Dhcp, Dns};
use lamina_testkit::wire::decode;
use proptest::prelude::*;

const CLIENT: MacAddr = mac(1);
const SERVER: MacAddr = mac(0xfe);

fn server(options: Vec<DhcpOption>) -> DhcpServer {
    DhcpServer {
        mac: SERVER,
        address: Ipv4Addr::new(10, 0, 0, 254),
        prefix_len: 24,
        lease_seconds: 3600,
        renew_seconds: None,
        rebind_seconds: None,
        options,
    }
}

fn discover(message: &Dhcp) -> Packet {
    let frame = eth(CLIENT, MacAddr::BROADCAST).ipv4("0.0.0.0", "255.255.255.255").udp(68, 67);
    Packet::from_frame(&frame.payload(&message.encode()).frame())
}

fn dhcp(packet: &mut Packet, server: &DhcpServer) -> Result<Answered, DropReason> {
    let parsed = parse(packet.frame()).unwrap();
    let lease = DhcpLease { address: Ipv4Addr::new(10, 0, 0, 9), host_name: None };
    reply_dhcp(packet, &parsed, server, |_| Some(lease))
}

fn dhcp_answer(message: &Dhcp, options: Vec<DhcpOption>) -> Dhcp {
    let mut packet = discover(message);
    assert_eq!(dhcp(&mut packet, &server(options)), Ok(Answered::Reply));
    Dhcp::decode(&decode(packet.frame()).unwrap().payload).unwrap()
}

#[test]
fn a_checksum_that_was_left_to_the_card_is_believed_and_the_answer_has_its_own() {
    let mut packet = discover(&Dhcp::request(1, CLIENT));
    packet.frame_mut()[40] ^= 0xff;
    assert_eq!(dhcp(&mut packet, &server(Vec::new())), Err(DropReason::BadTransportChecksum));
    packet.offload.checksum = Some(PartialChecksum { start: 34, offset: 6 });
    assert_eq!(dhcp(&mut packet, &server(Vec::new())), Ok(Answered::Reply));
    assert_eq!(packet.offload, Offload::default());
    // Decoding checks every length and checksum.
    assert!(decode(packet.frame()).is_ok());
}

#[test]
fn a_super_frame_is_no_request() {
    let mut packet = discover(&Dhcp::request(1, CLIENT));
    packet.offload.segmentation = Some(Segmentation { kind: SegmentationKind::UdpL4, size: 100, ecn: false });
    let before = packet.frame().to_vec();
    assert_eq!(dhcp(&mut packet, &server(Vec::new())), Err(DropReason::CannotRespond));
    assert_eq!(packet.frame(), before);
}

#[test]
fn an_answer_has_headroom_for_a_tunnel_whatever_room_its_request_had() {
    let mut packet = discover(&Dhcp::request(1, CLIENT));
    assert!(packet.replace_front(0, &[0; HEADROOM]) && packet.replace_front(HEADROOM, &[]));
    let options = vec![DhcpOption { code: 224, value: vec![7; 200].into() }];
    assert_eq!(dhcp(&mut packet, &server(options)), Ok(Answered::Reply));
    assert_eq!(packet.headroom(), HEADROOM);
    assert!(packet.len() > 500);
}

#[test]
fn options_that_do_not_fit_are_left_out_in_the_order_in_which_they_were_asked_for() {
    let big = |code| DhcpOption { code, value: vec![code; 200].into() };
    let options = vec![big(224), big(225), DhcpOption::text(dhcp_code::DOMAIN, "lab")];
    // 548 bytes of message: one of the large ones, then what still fits.
    let asked = Dhcp::request(1, CLIENT).with(55, [225, 224, 15]);
    let answer = dhcp_answer(&asked, options.clone());
    assert!(answer.encode().len() <= 548);
    assert!(answer.option(225).is_some() && answer.option(224).is_none());
    assert_eq!(answer.option(15), Some(b"lab".to_vec()));
    // A client that takes more gets all.
    let answer = dhcp_answer(&asked.with(57, 1500u16.to_be_bytes()), options);
    assert!(answer.option(224).is_some());
}

#[test]
fn a_long_option_is_split_and_a_repeated_id_too_long_for_the_answer_is_refused() {
    let long = DhcpOption { code: 224, value: (0..=255).chain(0..45).collect() };
    let answer = dhcp_answer(&Dhcp::request(1, CLIENT).with(57, 1500u16.to_be_bytes()), vec![long.clone()]);
    assert_eq!(answer.option(224), Some(long.value.to_vec()));
    assert_eq!(answer.options.iter().filter(|(code, _)| *code == 224).count(), 2);
    let mut packet = discover(&Dhcp::request(1, CLIENT).with(61, [7; 255]).with(82, [7; 255]));
    let before = packet.frame().to_vec();
    assert_eq!(dhcp(&mut packet, &server(Vec::new())), Err(DropReason::AnswerTooLong));
    assert_eq!(packet.frame(), before);
}

#[test]
fn options_that_overload_other_fields_are_read() {
    let mut asked = Dhcp { options: vec![(52, vec![3]), (53, vec![3])], ..Dhcp::request(3, CLIENT) };
    // `sname` comes first; it wants another address.
    asked.names[..6].copy_from_slice(&[50, 4, 10, 0, 0, 8]);
    asked.names[6] = 255;
    asked.names[64] = 255;
    assert_eq!(dhcp_answer(&asked, Vec::new()).kind(), Some(6));
    asked.names[5] = 9;
    assert_eq!(dhcp_answer(&asked, Vec::new()).kind(), Some(5));
}

fn dns(table: &DnsTable, query: &Dns) -> Result<Dns, DropReason> {
    let frame =
        eth(CLIENT, SERVER).ipv6("fd00::1", "fd00::53").udp(4000, 53).payload(&query.encode()).frame();
    let mut packet = Packet::from_frame(&frame);
    let parsed = parse(&frame).unwrap();
    reply_dns(&mut packet, &parsed, table)?;
    Ok(Dns::decode(&decode(packet.frame()).unwrap().payload).unwrap())
}

fn table(records: Vec<(&str, DnsData)>) -> DnsTable {
    let record = |(name, data)| (DnsName::from_text(name).unwrap(), DnsRecord { ttl_seconds: 9, data });
    DnsTable::new("t".into(), Unknown::NxDomain, records.into_iter().map(record))
}

#[test]
fn an_answer_that_a_client_does_not_take_is_cut() {
    let many = (0..60).map(|last| ("a.lan", DnsData::A([10, 0, 0, last].into()))).collect();
    let many = table(many);
    let query = Dns::query(7, "a.lan", 1);
    // 16 bytes each behind 23: 30 fit 512 bytes, 60 fit 1,232 and an OPT record.
    let cut = dns(&many, &query).unwrap();
    assert_eq!((cut.flags & 0x0200, cut.answers.len()), (0x0200, 0));
    let whole = dns(&many, &Dns { edns: Some((4096, 0x8000)), ..query.clone() }).unwrap();
    assert_eq!((whole.flags & 0x0200, whole.answers.len()), (0, 60));
    assert_eq!(whole.edns, Some((1232, 0x8000)), "DO comes back");
    let small = dns(&many, &Dns { edns: Some((600, 0)), ..query }).unwrap();
    assert_eq!((small.flags & 0x0200, small.edns), (0x0200, Some((1232, 0))));
}

#[test]
fn a_loop_of_names_ends_and_any_asks_for_all() {
    let name = |text| DnsName::from_text(text).unwrap();
    let table = table(vec![
        ("a.lan", DnsData::Cname(name("b.lan"))),
        ("b.lan", DnsData::Cname(name("a.lan"))),
        ("c.lan", DnsData::A([10, 0, 0, 1].into())),
        ("c.lan", DnsData::Txt("x".repeat(300).into())),
    ]);
    let looped = dns(&table, &Dns::query(7, "a.lan", 1)).unwrap();
    assert_eq!(looped.answers.len(), 8);
    let all = dns(&table, &Dns::query(7, "c.lan", 255)).unwrap();
    let kinds: Vec<_> = all.answers.iter().map(|answer| (answer.kind, answer.data.len())).collect();
    assert_eq!(kinds, [("a", 8), ("txt", 300)]);
}

#[test]
fn malformed_queries_are_named() {
    let table = table(vec![("a.lan", DnsData::A([10, 0, 0, 1].into()))]);
    let two = Dns {
        questions: [Dns::query(1, "a.lan", 1).questions, Dns::query(1, "b.lan", 1).questions].concat(),
        ..Dns::query(1, "a.lan", 1)
    };
    assert_eq!(dns(&table, &two), Err(DropReason::BadDns));
    let none = Dns { questions: Vec::new(), ..two.clone() };
    assert_eq!(dns(&table, &none), Err(DropReason::BadDns));
    let response = Dns { flags: 0x8000, ..Dns::query(1, "a.lan", 1) };
    assert_eq!(dns(&table, &response), Err(DropReason::CannotRespond));
}

#[test]
fn an_advertisement_is_no_longer_than_every_link_takes() {
    let prefix = |number: u16| AdvertisedPrefix {
        prefix: format!("fd00:{number:x}::/64").parse().unwrap(),
        on_link: true,
        autonomous: true,
        valid_seconds: 1,
        preferred_seconds: 1,
    };
    let with = |count| {
        let advertised = Advertised { prefixes: (0..count).map(prefix).collect(), ..Advertised::default() };
        RouterAdvertisement::new(SERVER, link_local(SERVER), &advertised)
    };
    // 24 bytes, then 32 for each prefix: 1,240 at most.
    assert!(with(39).is_none());
    let longest = with(38).unwrap();
    let frame =
        eth(CLIENT, mac(2)).vlan(7, 0).ipv6("fe80::1", "ff02::2").ttl(255).icmpv6(133, 0, [0; 4]).frame();
    let mut packet = Packet::from_frame(&frame);
    let parsed = parse(&frame).unwrap();
    assert_eq!(reply_router_advertisement(&mut packet, &parsed, &longest), Ok(()));
    assert_eq!(packet.len(), 18 + 40 + 1240);
}

proptest! {
    /// What a name is asked in does not matter, and comes back.
    #[test]
    fn names_have_no_case(name in "[a-z]{1,20}(\\.[a-z0-9-]{1,20}){0,4}", upper in any::<u64>()) {
        let table = table(vec![(&name, DnsData::A([10, 0, 0, 1].into()))]);
        let asked: String = name.chars().enumerate()
            .map(|(at, c)| if upper >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        let answer = dns(&table, &Dns::query(7, &asked, 1)).unwrap();
        prop_assert_eq!(&answer.questions[0].name, &asked);
        prop_assert_eq!(answer.answers.len(), 1);
        prop_assert_eq!(&answer.answers[0].name, &asked);
        prop_assert!(table.records(DnsName::from_text(&name).unwrap().as_wire()).is_some());
    }

    /// Every address has its own reverse name, and the name asked for in text is the one that is stored.
    #[test]
    fn reverse_names(octets in any::<[u8; 16]>()) {
        let v6 = std::net::Ipv6Addr::from(octets);
        let digits: Vec<String> =
            octets.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]).map(|digit| format!("{digit:x}")).collect();
        let text = format!("{}.ip6.arpa", digits.join("."));
        prop_assert_eq!(DnsName::from_text(&text).unwrap(), DnsName::reverse(v6.into()));
        let v4 = Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
        let text = format!("{}.{}.{}.{}.in-addr.arpa", octets[3], octets[2], octets[1], octets[0]);
        prop_assert_eq!(DnsName::from_text(&text).unwrap(), DnsName::reverse(v4.into()));
    }
}
