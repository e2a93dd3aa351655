//! Requests of any bytes to the responders that read what a request says: DHCP, DHCPv6, DNS, router solicitation.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use lamina_core::address::MacAddr;
use lamina_core::packet::{
    Advertised, Answered, DhcpLease, DhcpOption, DhcpServer, Dhcpv6Option, Dhcpv6Server, DnsData, DnsName,
    DnsRecord, Packet, RouterAdvertisement, Unknown, dhcp_code, dns_declines, link_local, parse, reply_dhcp,
    reply_dhcpv6, reply_dns, reply_router_advertisement,
};
use lamina_core::resource::DnsTable;

use crate::builder::{eth, mac};
use crate::message::{Dhcp, Dhcpv6, Dns, Router};
use crate::wire::{Checksum, Header, decode};

const SERVER: MacAddr = mac(0xfe);
const CLIENT: MacAddr = mac(1);

/// The request that `bytes` are: the first says which protocol (modulo four: DHCP, DHCPv6, DNS, router solicitation),
/// the others are its message. An answer is well-formed to the last byte, no longer than a link takes, and an answer to
/// this request; a refusal leaves the packet alone.
pub fn message_any(bytes: &[u8]) {
    let Some((protocol, message)) = bytes.split_first() else { return };
    let message = &message[..message.len().min(1400)];
    let frame = match protocol % 4 {
        0 => eth(CLIENT, MacAddr::BROADCAST).ipv4("0.0.0.0", "255.255.255.255").udp(68, 67),
        1 => eth(CLIENT, mac(2)).ipv6("fe80::1", "ff02::1:2").udp(546, 547),
        2 => eth(CLIENT, SERVER).ipv4("10.0.0.1", "10.0.0.53").udp(4000, 53),
        _ => eth(CLIENT, mac(2)).ipv6("fe80::1", "ff02::2").ttl(255).icmpv6(133, 0, [0; 4]),
    };
    let frame = frame.payload(message).frame();
    let parsed = parse(&frame).expect("the headers are right");
    let mut packet = Packet::from_frame(&frame);
    let result = match protocol % 4 {
        0 => reply_dhcp(&mut packet, &parsed, &dhcp_server(), |client| {
            (client.0[5] & 1 == 1)
                .then_some(DhcpLease { address: Ipv4Addr::new(10, 0, 0, 9), host_name: Some("a") })
        }),
        1 => reply_dhcpv6(&mut packet, &parsed, &dhcpv6_server(), |_| Some(Ipv6Addr::LOCALHOST)),
        2 => {
            let declines = dns_declines(&packet, &parsed, &*NAMES);
            let result = reply_dns(&mut packet, &parsed, &*NAMES).map(|()| Answered::Reply);
            assert!(
                !(declines && result.is_ok() && has_answers(&packet)),
                "what it declines, it does not know"
            );
            result
        }
        _ => reply_router_advertisement(&mut packet, &parsed, &ADVERTISEMENT).map(|()| Answered::Reply),
    };
    if result != Ok(Answered::Reply) {
        assert_eq!(packet.frame(), frame, "what is not answered stays");
        return;
    }
    assert!(packet.len() <= 1514);
    check(protocol % 4, message, packet.frame());
}

fn has_answers(packet: &Packet) -> bool {
    let frame = decode(packet.frame()).expect("an answer is a frame");
    !Dns::decode(&frame.payload).expect("an answer is a message").answers.is_empty()
}

fn check(protocol: u8, message: &[u8], frame: &[u8]) {
    let frame = decode(frame).expect("an answer is a frame");
    match frame.headers.last() {
        Some(Header::Udp(udp)) => assert_eq!(udp.checksum, Checksum::Right),
        Some(Header::Icmp(icmp)) => assert_eq!(icmp.checksum, Checksum::Right),
        other => panic!("an answer in {other:?}"),
    }
    match protocol {
        0 => {
            let answer = Dhcp::decode(&frame.payload).expect("a message");
            assert_eq!((answer.op, &answer.xid.to_be_bytes()[..]), (2, &message[4..8]));
            assert!(frame.payload.len() >= 300 && matches!(answer.kind(), Some(2 | 5 | 6)));
        }
        1 => {
            let answer = Dhcpv6::decode(&frame.payload).expect("a message");
            assert_eq!(answer.transaction.to_be_bytes()[1..], message[1..4]);
            assert!(matches!(answer.kind, 2 | 7) && answer.option(2).is_some());
        }
        2 => {
            let answer = Dns::decode(&frame.payload).expect("a message");
            assert_eq!((answer.id.to_be_bytes(), answer.flags >> 15), ([message[0], message[1]], 1));
        }
        _ => {
            let Some(Header::Icmp(icmp)) = frame.headers.last() else { panic!("not ICMPv6") };
            Router::decode(&[&icmp.rest[..], &frame.payload].concat()).expect("an advertisement");
        }
    }
}

fn dhcp_server() -> DhcpServer {
    DhcpServer {
        mac: SERVER,
        address: Ipv4Addr::new(10, 0, 0, 254),
        prefix_len: 24,
        lease_seconds: 3600,
        renew_seconds: Some(1800),
        rebind_seconds: None,
        options: vec![
            DhcpOption::addresses(dhcp_code::ROUTERS, &[Ipv4Addr::new(10, 0, 0, 254)]),
            DhcpOption::text(dhcp_code::DOMAIN, "lab.example"),
            DhcpOption { code: 224, value: vec![7; 300].into() },
        ],
    }
}

fn dhcpv6_server() -> Dhcpv6Server {
    Dhcpv6Server {
        mac: SERVER,
        source: link_local(SERVER),
        preferred_seconds: 3600,
        valid_seconds: 7200,
        renew_seconds: 0,
        rebind_seconds: 0,
        rapid_commit: true,
        options: vec![Dhcpv6Option::dns_servers(&[Ipv6Addr::LOCALHOST])],
    }
}

static ADVERTISEMENT: LazyLock<RouterAdvertisement> = LazyLock::new(|| {
    let advertised =
        Advertised { mtu: Some(1400), dns_servers: vec![Ipv6Addr::LOCALHOST], ..Advertised::default() };
    RouterAdvertisement::new(SERVER, link_local(SERVER), &advertised).expect("it is short")
});

static NAMES: LazyLock<DnsTable> = LazyLock::new(|| {
    let name = |text: &str| DnsName::from_text(text).expect("a name");
    let record = |owner: &str, data| (name(owner), DnsRecord { ttl_seconds: 60, data });
    // A loop of names, a wildcard, and more than fits an answer.
    let mut records = vec![
        record("a.lan", DnsData::Cname(name("b.lan"))),
        record("b.lan", DnsData::Cname(name("a.lan"))),
        record("*.lan", DnsData::Txt("x".repeat(700).into())),
    ];
    records.extend((0..200).map(|last| record("many.lan", DnsData::A(Ipv4Addr::new(10, 0, 0, last)))));
    DnsTable::new("names".into(), Unknown::Pass, records)
});
