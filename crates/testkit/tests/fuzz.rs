//! The fuzz targets without a fuzzer: every file in `fuzz/regressions/`, and pseudo-random inputs grown from
//! ordinary frames. The fuzzer finds more; this keeps what it found, and notices when a body is broken.

use std::net::Ipv4Addr;
use std::path::Path;

use lamina_core::address::MacAddr;
use lamina_core::flow::EncapKind;
use lamina_testkit::fuzz::{classify_any, message_any, parse_any, transpose_any};
use lamina_testkit::message::{Dhcp, Dhcpv6, Dns};
use lamina_testkit::wire::{Checksum, Ethernet, Frame, Header, Ipv4, Tcp, Tunnel};

/// Inputs per target: a second or two.
const INPUTS: u64 = 20_000;

/// Runs `body` on the regressions of `target`, then on inputs that `grow` makes from `seeds`, each named by its number.
fn replay(target: &str, seeds: &[Vec<u8>], grow: fn(&[u8], u64) -> Vec<u8>, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        body(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files > 0, "there is at least one file in {}", folder.display());
    for number in 0..INPUTS {
        let input = grow(&seeds[number as usize % seeds.len()], number);
        let result = std::panic::catch_unwind(|| body(&input));
        assert!(result.is_ok(), "input {number} of {target}: {}", hex(&input));
    }
}

/// `seed` with a few bytes changed, cut or put in front, as `number` says.
fn grow(seed: &[u8], number: u64) -> Vec<u8> {
    let mut next = dice(number);
    let input = changed(seed, &mut next);
    let front = next() % 48;
    let mut whole: Vec<u8> = (0..front).map(|_| next() as u8).collect();
    whole.extend(input);
    whole
}

/// The same with nothing in front, for targets whose first byte says what follows.
fn change(seed: &[u8], number: u64) -> Vec<u8> {
    changed(seed, &mut dice(number))
}

fn dice(number: u64) -> impl FnMut() -> usize {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    }
}

fn changed(seed: &[u8], next: &mut impl FnMut() -> usize) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..next() % 6 {
        match next() % 4 {
            0 if !input.is_empty() => input.truncate(next() % input.len() + 1),
            1 if !input.is_empty() => {
                let at = next() % input.len();
                input[at] = next() as u8;
            }
            2 if !input.is_empty() => {
                let at = next() % input.len();
                input[at] ^= 1 << (next() % 8);
            }
            _ => {
                let at = next() % (input.len() + 1);
                input.insert(at, next() as u8);
            }
        }
    }
    input
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let ethernet = || {
        let (dst, src) = (MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 1]));
        Header::Ethernet(Ethernet { dst, src, tags: Vec::new(), ethertype: 0 })
    };
    let ip = |last: u8| {
        Header::Ipv4(Ipv4 {
            dscp: 0,
            ecn: 2,
            id: 1,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            ttl: 64,
            protocol: 0,
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, last),
            options: Vec::new(),
            slack: Vec::new(),
        })
    };
    let tcp = || {
        Header::Tcp(Tcp {
            src: 1000,
            dst: 80,
            seq: 1,
            ack: 1,
            reserved: 0,
            flags: 0x10,
            window: 1000,
            urgent: 0,
            options: Vec::new(),
            checksum: Checksum::Right,
        })
    };
    let payload = vec![7; 40];
    let mut frames = vec![
        Frame { headers: vec![ethernet(), ip(9), tcp()], payload: payload.clone() }.encode(),
        Frame { headers: vec![ethernet()], payload: payload.clone() }.encode(),
    ];
    for kind in
        [EncapKind::Vxlan, EncapKind::Geneve, EncapKind::Nvgre, EncapKind::GreKeyed, EncapKind::IpInIp]
    {
        let port = if kind == EncapKind::Geneve { 6081 } else { 4789 };
        let mut headers = vec![ethernet(), ip(8), Header::Tunnel(Tunnel::new(kind, 7, port, 50_000))];
        if kind.carries_ethernet() {
            headers.push(ethernet());
        }
        headers.extend([ip(9), tcp()]);
        frames.push(Frame { headers, payload: payload.clone() }.encode());
    }
    frames
}

#[test]
fn parse() {
    replay("parse", &frames(), grow, parse_any);
}

#[test]
fn transpose() {
    replay("transpose", &frames(), grow, transpose_any);
}

#[test]
fn classify() {
    let seeds: Vec<Vec<u8>> = (0..8u64).map(|seed| grow(&[seed as u8; 900], seed | 1 << 40)).collect();
    replay("classify", &seeds, grow, classify_any);
}

#[test]
fn message() {
    let client = MacAddr([2, 0, 0, 0, 0, 1]);
    let asking = Dhcp::request(3, client).with(50, [10, 0, 0, 9]).with(54, [10, 0, 0, 254]);
    let asking = asking.with(55, [1, 3, 6, 15, 224]).with(61, [1, 2, 0, 0, 0, 0, 1]);
    let association = [&[0, 0, 0, 9][..], &[0; 8], &[0, 5, 0, 24], &[0; 24]].concat();
    let solicit = Dhcpv6 { kind: 1, transaction: 7, options: vec![(1, vec![7; 10]), (3, association)] };
    let mut names = ["a.lan", "x.y.lan", "many.lan", "example.com"].map(|name| Dns::query(7, name, 1));
    names[1].questions[0].kind = 16;
    names[2].edns = Some((1232, 0));
    let mut seeds: Vec<Vec<u8>> = names.iter().map(|dns| [&[2], &dns.encode()[..]].concat()).collect();
    seeds.push([&[0], &Dhcp::request(1, client).encode()[..]].concat());
    seeds.push([&[0], &asking.encode()[..]].concat());
    seeds.push([&[1], &solicit.clone().encode()[..]].concat());
    let server = vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 0xfe];
    seeds.push([&[1], &Dhcpv6 { kind: 5, ..solicit }.with(2, server).encode()[..]].concat());
    seeds.push(vec![3, 1, 1, 2, 0, 0, 0, 0, 1]);
    replay("message", &seeds, change, message_any);
}
