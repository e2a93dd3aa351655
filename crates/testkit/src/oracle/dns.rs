//! DNS answers (RFC 1035): what the table says of one name, written plainly.

use lamina_core::address::MacAddr;
use lamina_core::drop_reason::DropReason;
use lamina_core::packet::{DnsData, DnsSource, Unknown};
use lamina_core::resource::DnsTable;

use crate::wire::{Checksum, Ethernet, Frame, Header, Ipv4, Ipv6, Udp};

const REFUSED: DropReason = DropReason::CannotRespond;

/// True when the table passes on what it does not know, and does not know what `request` asks for.
pub(super) fn declines(request: &Frame, table: &DnsTable) -> bool {
    if table.unknown() != Unknown::Pass {
        return false;
    }
    match read(&request.payload) {
        Ok(Message::Query(query)) => !query.is_of_internet() || table.records(&query.name).is_none(),
        Ok(Message::Other) => true,
        Err(_) => false,
    }
}

enum Message {
    Query(Query),
    /// What is no standard query.
    Other,
}

struct Query {
    /// In lower case.
    name: Vec<u8>,
    /// The question as it was asked.
    question: Vec<u8>,
    kind: u16,
    class: u16,
}

impl Query {
    fn is_of_internet(&self) -> bool {
        [1, 255].contains(&self.class)
    }
}

/// Reads a query without records: random packets have no others.
fn read(payload: &[u8]) -> Result<Message, DropReason> {
    let bad = DropReason::BadDns;
    let header = payload.get(..12).ok_or(bad)?;
    if header[2] & 0xf8 != 0 {
        return Ok(Message::Other);
    }
    if header[4..12] != [0, 1, 0, 0, 0, 0, 0, 0] {
        return Err(bad);
    }
    let mut end = 12;
    loop {
        let length = *payload.get(end).ok_or(bad)? as usize;
        end += 1 + length;
        if length > 63 || end > payload.len() || end - 12 > 255 {
            return Err(bad);
        }
        if length == 0 {
            break;
        }
    }
    let fields = payload.get(end..end + 4).ok_or(bad)?;
    Ok(Message::Query(Query {
        // Letters only: lengths are below the letters.
        name: payload[12..end].to_ascii_lowercase(),
        question: payload[12..end + 4].to_vec(),
        kind: u16::from_be_bytes([fields[0], fields[1]]),
        class: u16::from_be_bytes([fields[2], fields[3]]),
    }))
}

/// The answer to `request`.
pub(super) fn answer(request: &Frame, link: &Ethernet, table: &DnsTable) -> Result<Frame, DropReason> {
    let inner = request.innermost();
    let (Some(ip), Some(Header::Udp(udp))) = (inner.l3, inner.l4) else { return Err(REFUSED) };
    let is_left_out = matches!(udp.checksum, Checksum::Absent) && matches!(ip, Header::Ipv4(_));
    if !(matches!(udp.checksum, Checksum::Right) || is_left_out) {
        return Err(DropReason::BadTransportChecksum);
    }
    let (src, dst) = ip.addresses().ok_or(REFUSED)?;
    let is_one = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => {
            !address.is_multicast()
                && !address.is_broadcast()
                && !address.is_loopback()
                && !address.is_unspecified()
        }
        std::net::IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    };
    if udp.dst != 53 || !is_one(src) || !is_one(dst) || link.dst.is_multicast() {
        return Err(REFUSED);
    }
    let payload = match read(&request.payload)? {
        Message::Other if request.payload[2] & 0x80 != 0 => return Err(REFUSED),
        Message::Other => {
            let flags = request.payload[2] & 0x79 | 0x80;
            vec![request.payload[0], request.payload[1], flags, 4, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        Message::Query(query) => response(&request.payload, &query, table),
    };
    let (mac, to): (MacAddr, MacAddr) = (link.dst, link.src);
    let l3 = match (src, dst) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => Header::Ipv4(Ipv4 {
            dscp: 0,
            ecn: 0,
            id: 0,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            ttl: 64,
            protocol: 17,
            src: dst,
            dst: src,
            options: Vec::new(),
            slack: Vec::new(),
        }),
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => Header::Ipv6(Ipv6 {
            dscp: 0,
            ecn: 0,
            flow_label: 0,
            hop_limit: 64,
            src: dst,
            dst: src,
            extensions: Vec::new(),
            protocol: 17,
            slack: Vec::new(),
        }),
        _ => return Err(REFUSED),
    };
    let udp = Udp {
        src: udp.dst,
        dst: udp.src,
        declared_length: None,
        checksum: Checksum::Right,
        slack: Vec::new(),
    };
    let link = Header::Ethernet(Ethernet { dst: to, src: mac, ..link.clone() });
    Ok(Frame { headers: vec![link, l3, Header::Udp(udp)], payload })
}

/// The message that answers `query`. Answers in random policies are short and name no other name.
fn response(asked: &[u8], query: &Query, table: &DnsTable) -> Vec<u8> {
    let mut records = Vec::new();
    let (authority, code) = if !query.is_of_internet() {
        (0, 5)
    } else if let Some(found) = table.records(&query.name) {
        for record in found {
            let (number, data) = match &record.data {
                DnsData::A(address) => (1u16, address.octets().to_vec()),
                DnsData::Aaaa(address) => (28, address.octets().to_vec()),
                other => panic!("random tables have no {other:?}"),
            };
            if query.kind == 255 || query.kind == number {
                records.push((number, record.ttl_seconds, data));
            }
        }
        (4, 0)
    } else {
        (4, 3)
    };
    let mut bytes = vec![asked[0], asked[1], 0x80 | authority | asked[2] & 1, code, 0, 1];
    bytes.extend((records.len() as u16).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&query.question);
    for (number, ttl, data) in records {
        bytes.extend([0xc0, 12]);
        bytes.extend(number.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}
