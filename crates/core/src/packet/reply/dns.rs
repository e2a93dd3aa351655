//! DNS over UDP (RFC 1035, RFC 6891), answered from a table of names.
//!
//! A query has one question; anything else that calls itself a query is malformed. What the table says of the name
//! is the answer, authoritative: its records of the type asked for, along its CNAMEs; nothing (NODATA) where the name
//! has others only. What the table says of a name that it does not know is its owner's choice, see [`Unknown`].
//!
//! Names are compared as RFC 4343 has it, ASCII letters without case, and repeated as they were asked. Compression
//! is used for the owner of each record, which always stands earlier in the message. An answer that does not fit
//! what the client takes (512 bytes, or what it says by EDNS, up to 1,232) is empty and marked as cut (TC).
//!
//! Not supported: DNS over TCP, so a cut answer cannot be asked for again and tables should be kept below it; zone
//! transfer, update, DNSSEC, and an SOA that would let a resolver remember what does not exist.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use super::message::{Datagram, Ends, Macs, Writer, is_one};
use super::{Packet, Parsed};
use crate::drop_reason::DropReason;
use crate::flow::Ports;

/// The port of DNS servers.
pub const DNS_PORT: u16 = 53;
/// What every client takes, and what is answered to one that takes more: what every IPv6 link carries.
const USUAL_LARGEST: usize = 512;
const LARGEST: usize = 1232;
/// The longest chain of CNAMEs that is followed.
const LONGEST_CHAIN: usize = 8;

const QUERY_BIT: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const CUT: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;

const NAME_ERROR: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;
const REFUSED: u16 = 5;

const IN: u16 = 1;
const ANY: u16 = 255;
const OPT: u16 = 41;

/// What is said of a name that is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unknown {
    /// It does not exist.
    #[default]
    NxDomain,
    /// Nothing: the query goes on to the next layer, as if no rule had matched.
    Pass,
}

/// A domain name: its labels as they stand in a message, each behind its length, the root's zero last; in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DnsName(Box<[u8]>);

impl DnsName {
    /// The name that `text` is, with or without a dot at its end. `None` when a label is empty or longer than 63
    /// bytes, or the name longer than 253.
    pub fn from_text(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return None;
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            if !(1..=63).contains(&label.len()) {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        Some(DnsName(wire.into()))
    }

    /// The name under which the name of `address` is found (RFC 1035 §3.5, RFC 3596 §2.5).
    pub fn reverse(address: core::net::IpAddr) -> Self {
        let mut wire = Vec::new();
        match address {
            core::net::IpAddr::V4(address) => {
                for octet in address.octets().iter().rev() {
                    let digits = alloc::format!("{octet}");
                    wire.push(digits.len() as u8);
                    wire.extend(digits.bytes());
                }
                wire.extend(b"\x07in-addr");
            }
            core::net::IpAddr::V6(address) => {
                for octet in address.octets().iter().rev() {
                    for digit in [octet & 15, octet >> 4] {
                        wire.extend([1, b"0123456789abcdef"[digit as usize]]);
                    }
                }
                wire.extend(b"\x03ip6");
            }
        }
        wire.extend(b"\x04arpa\0");
        DnsName(wire.into())
    }

    /// Its bytes in a message.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

/// One record of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsRecord {
    /// For how many seconds it may be remembered.
    pub ttl_seconds: u32,
    /// What it says.
    pub data: DnsData,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name is another name for this one.
    Cname(DnsName),
    /// The name of an address.
    Ptr(DnsName),
    /// Text, cut into strings of at most 255 bytes.
    Txt(Box<str>),
}

impl DnsData {
    fn kind(&self) -> u16 {
        match self {
            DnsData::A(_) => 1,
            DnsData::Cname(_) => 5,
            DnsData::Ptr(_) => 12,
            DnsData::Txt(_) => 16,
            DnsData::Aaaa(_) => 28,
        }
    }
}

/// Where names are looked up: the records of a name in lower case; an empty list for a name that exists without any.
pub trait DnsSource {
    /// The records of `name` as it stands in a message, in lower case; `None` for a name that is not known.
    fn records(&self, name: &[u8]) -> Option<&[DnsRecord]>;
    /// What is said of a name that is not known.
    fn unknown(&self) -> Unknown;
}

/// True when `source` leaves the query in `packet` to others: it passes on what it does not know, and it knows neither
/// the name nor what else the message may be. A malformed query is not left to others.
///
/// The query is looked for behind the innermost headers, so the layers before may yet take it out of a tunnel.
pub fn dns_declines(packet: &Packet, parsed: &Parsed, source: &dyn DnsSource) -> bool {
    if source.unknown() != Unknown::Pass {
        return false;
    }
    let Some(last) = parsed.stack.groups().len().checked_sub(1) else { return false };
    let message = packet.frame().get(parsed.layout.groups[last].end as usize..).unwrap_or(&[]);
    match Query::read(message) {
        Ok(query) => {
            !query.is_standard() || !query.is_of_internet() || source.records(query.name()).is_none()
        }
        Err(_) => false,
    }
}

/// Turns a query into the answer of `source`.
pub fn reply_dns(packet: &mut Packet, parsed: &Parsed, source: &dyn DnsSource) -> Result<(), DropReason> {
    let datagram = Datagram::read(packet, parsed)?;
    let (src, dst) = (datagram.addresses.src(), datagram.addresses.dst());
    let is_one_to_one = is_one(src) && is_one(dst) && !datagram.l2.dst.is_multicast();
    if datagram.ports.dst != DNS_PORT || !is_one_to_one {
        return Err(DropReason::CannotRespond);
    }
    let query = Query::read(datagram.message)?;
    if query.flags & QUERY_BIT != 0 {
        return Err(DropReason::CannotRespond);
    }
    let limit = query.edns.map_or(USUAL_LARGEST, |edns| (edns.size as usize).clamp(USUAL_LARGEST, LARGEST));
    let mut writer = datagram.writer(limit);
    write(&mut writer, &query, source);
    let ends = Ends {
        macs: Macs { src: datagram.l2.dst, dst: datagram.l2.src },
        addresses: datagram.addresses.swapped(),
        ports: Ports { src: DNS_PORT, dst: datagram.ports.src },
    };
    writer.send_udp(packet, &ends)
}

/// A query.
struct Query<'a> {
    id: &'a [u8],
    flags: u16,
    /// The question: name, type, class. Empty in a message that is no standard query.
    question: &'a [u8],
    name: [u8; 255],
    name_len: usize,
    kind: u16,
    class: u16,
    edns: Option<Edns>,
}

/// What a query says by EDNS (RFC 6891 §6.1).
#[derive(Clone, Copy)]
struct Edns {
    size: u16,
    version: u8,
    wants_dnssec: bool,
}

impl<'a> Query<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DropReason> {
        let bad = DropReason::BadDns;
        let (header, body) = message.split_first_chunk::<12>().ok_or(bad)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let mut query = Query {
            id: &message[..2],
            flags: word(2),
            question: &[],
            name: [0; 255],
            name_len: 0,
            kind: 0,
            class: 0,
            edns: None,
        };
        if !query.is_standard() {
            return Ok(query);
        }
        let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(word);
        if questions != 1 {
            return Err(bad);
        }
        let after = query.read_name(body).ok_or(bad)?;
        let (fields, mut rest) = body[after..].split_first_chunk::<4>().ok_or(bad)?;
        query.question = &body[..after + 4];
        query.kind = u16::from_be_bytes([fields[0], fields[1]]);
        query.class = u16::from_be_bytes([fields[2], fields[3]]);
        // Each record has eleven bytes at least, so the message bounds this, whatever the counts say.
        let records = answers as usize + authorities as usize + additionals as usize;
        for _ in 0..records {
            let (record, after) = Record::read(rest).ok_or(bad)?;
            if record.kind == OPT {
                // A second one is malformed (RFC 6891 §6.1.1).
                let [_, version, flags, _] = record.ttl;
                let edns = Edns { size: record.class, version, wants_dnssec: flags & 0x80 != 0 };
                if query.edns.replace(edns).is_some() {
                    return Err(bad);
                }
            }
            rest = after;
        }
        Ok(query)
    }

    /// Reads the name at the start of `body` in lower case; the position behind it. A name in the first question has
    /// nothing before it that it could point to.
    fn read_name(&mut self, body: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let length = *body.get(at)? as usize;
            let end = at + 1 + length;
            let to = self.name.get_mut(at..end).filter(|_| length < 64)?;
            let label = body.get(at..end)?;
            to.copy_from_slice(label);
            to[1..].make_ascii_lowercase();
            at = end;
            if length == 0 {
                self.name_len = at;
                return Some(at);
            }
        }
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    fn is_standard(&self) -> bool {
        self.flags & (QUERY_BIT | OPCODE) == 0
    }

    fn is_of_internet(&self) -> bool {
        matches!(self.class, IN | ANY)
    }
}

/// The fields of a record that matter.
struct Record {
    kind: u16,
    class: u16,
    ttl: [u8; 4],
}

impl Record {
    /// The record at the start of `area`, and what follows it.
    fn read(mut area: &[u8]) -> Option<(Self, &[u8])> {
        loop {
            let (length, after) = area.split_first()?;
            match *length {
                0 => {
                    area = after;
                    break;
                }
                // A pointer ends a name.
                192..=255 => {
                    area = after.get(1..)?;
                    break;
                }
                length @ 1..=63 => area = after.get(length as usize..)?,
                _ => return None,
            }
        }
        let (fields, after) = area.split_first_chunk::<10>()?;
        let after = after.get(u16::from_be_bytes([fields[8], fields[9]]) as usize..)?;
        let record = Record {
            kind: u16::from_be_bytes([fields[0], fields[1]]),
            class: u16::from_be_bytes([fields[2], fields[3]]),
            ttl: [fields[4], fields[5], fields[6], fields[7]],
        };
        Some((record, after))
    }
}

/// Bytes of the record that answers EDNS.
const EDNS_LEN: usize = 11;

fn write(writer: &mut Writer, query: &Query<'_>, source: &dyn DnsSource) {
    let reserve = if query.edns.is_some() { EDNS_LEN } else { 0 };
    writer.put(query.id);
    writer.put(&[0; 10]);
    writer.put(query.question);
    let empty = writer.message_len();
    let bad_version = query.edns.is_some_and(|edns| edns.version > 0);
    let (mut flags, mut count) = if bad_version {
        (0, 0)
    } else if !query.is_standard() {
        (NOT_IMPLEMENTED, 0)
    } else if !query.is_of_internet() {
        (REFUSED, 0)
    } else {
        match put_answers(writer, query, source, reserve) {
            Found::Records(count) => (AUTHORITATIVE, count),
            Found::TooMany => (AUTHORITATIVE | CUT, 0),
            Found::Unknown => (AUTHORITATIVE | NAME_ERROR, 0),
        }
    };
    if flags & CUT != 0 {
        writer.truncate(empty);
        count = 0;
    }
    flags |= QUERY_BIT | query.flags & (OPCODE | RECURSION_DESIRED);
    if let Some(edns) = query.edns {
        let [size_high, size_low] = (LARGEST as u16).to_be_bytes();
        let flags = u8::from(edns.wants_dnssec) << 7;
        // BADVERS is 16: its upper bits stand here.
        let rcode = u8::from(bad_version);
        writer.put(&[0, 0, OPT as u8, size_high, size_low, rcode, 0, flags, 0, 0, 0]);
    }
    let questions = u16::from(!query.question.is_empty());
    let header = [flags, questions, count, 0, u16::from(query.edns.is_some())].map(u16::to_be_bytes);
    if let Some(fields) = writer.message_mut().get_mut(2..12) {
        fields.copy_from_slice(header.as_flattened());
    }
}

enum Found {
    Records(u16),
    TooMany,
    Unknown,
}

/// Writes the records that answer `query`, leaving `reserve` bytes.
fn put_answers(writer: &mut Writer, query: &Query<'_>, source: &dyn DnsSource, reserve: usize) -> Found {
    let mut name = query.name();
    // Where the name stands in the message: behind the header at first.
    let mut owner = 12;
    let mut count = 0;
    for _ in 0..LONGEST_CHAIN {
        let Some(records) = source.records(name) else {
            return if count == 0 { Found::Unknown } else { Found::Records(count) };
        };
        let mut other_name = None;
        for record in records {
            let kind = record.data.kind();
            let is_alias = matches!(record.data, DnsData::Cname(_));
            if kind != query.kind && query.kind != ANY && !is_alias {
                continue;
            }
            let Some(at) = put_record(writer, owner, record, reserve) else { return Found::TooMany };
            count += 1;
            if let DnsData::Cname(to) = &record.data
                && ![kind, ANY].contains(&query.kind)
            {
                other_name = Some((to, at));
            }
        }
        match other_name {
            None => break,
            Some((to, at)) => (name, owner) = (to.as_wire(), at),
        }
    }
    Found::Records(count)
}

/// Writes one record of the name that stands at byte `owner` of the message; where its data stands. `None` when it does
/// not fit.
fn put_record(writer: &mut Writer, owner: usize, record: &DnsRecord, reserve: usize) -> Option<usize> {
    let (a, aaaa);
    let data: &[u8] = match &record.data {
        DnsData::A(address) => {
            a = address.octets();
            &a
        }
        DnsData::Aaaa(address) => {
            aaaa = address.octets();
            &aaaa
        }
        DnsData::Cname(name) | DnsData::Ptr(name) => name.as_wire(),
        DnsData::Txt(text) => text.as_bytes(),
    };
    let is_text = matches!(record.data, DnsData::Txt(_));
    let strings = data.len().div_ceil(255).max(1);
    let length = data.len() + if is_text { strings } else { 0 };
    if writer.room() < 12 + length + reserve {
        return None;
    }
    let pointer = 0xc000 | owner as u16;
    writer.put([pointer, record.data.kind(), IN].map(u16::to_be_bytes).as_flattened());
    writer.put(&record.ttl_seconds.to_be_bytes());
    writer.put(&(length as u16).to_be_bytes());
    let at = writer.message_len();
    if !is_text {
        writer.put(data);
    } else if data.is_empty() {
        writer.put(&[0]);
    } else {
        for string in data.chunks(255) {
            writer.put(&[string.len() as u8]);
            writer.put(string);
        }
    }
    Some(at)
}
