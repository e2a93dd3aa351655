//! Packets as text: what a scenario sends, and the pattern that what comes out must fit.
//!
//! ```text
//! eth vm1 > gw vlan=7 / ip 10.0.0.1 > 10.0.0.9 ttl=9 dscp=46 / tcp 1000 > 80 flags=SA / payload 100
//! ```
//!
//! Headers stand outermost first, joined by ` / `; a header is its name, then `source > destination` or one
//! value, then `field=value`. To send, fields that are left out get ordinary values. As a pattern, the headers must
//! be exactly those of the packet (a pattern may leave out the outermost `eth`, and `payload`), and each stated
//! field must have the stated value: `*` is any value, `$name` any value the first time and the same one after.
//! The reference is `tests/scenarios/README.md`.
//!
//! What UDP and ICMPv6 carry may be a header too, see `message_text`.
//!
//! Bytes are made and read by the test codec, which verifies every length and checksum and shares no code with
//! the core.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use lamina_core::address::{MacAddr, VlanTag};
use lamina_core::flow::EncapKind;
use lamina_testkit::wire::{self, Checksum, Frame, Header};

use crate::message_text;

/// Names for MAC addresses.
pub type Macs = BTreeMap<String, MacAddr>;
/// Values that `$name` stands for.
pub type Captures = BTreeMap<String, String>;

/// One header as text: its name and its fields, values in canonical form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextHeader {
    name: String,
    fields: BTreeMap<String, String>,
}

/// Reads `text`.
pub fn parse(text: &str, macs: &Macs) -> Result<Vec<TextHeader>, String> {
    text.split(" / ")
        .map(|header| parse_header(header, macs).map_err(|error| format!("`{header}`: {error}")))
        .collect()
}

fn parse_header(text: &str, macs: &Macs) -> Result<TextHeader, String> {
    let mut words = text.split_whitespace().peekable();
    let name = words.next().ok_or("a header has a name")?.to_string();
    let known = known_fields(&name).ok_or_else(|| format!("there is no header {name}"))?;
    let mut fields = BTreeMap::new();
    let mut set = |field: &str, value: &str| -> Result<(), String> {
        if !known.contains(&field) {
            return Err(format!("{name} has no field {field}"));
        }
        let value = match message_text::known_fields(&name) {
            Some(_) => macs.get(value).map_or_else(|| value.to_string(), MacAddr::to_string),
            None => canonical(field, value, macs)?,
        };
        match fields.insert(field.to_string(), value) {
            None => Ok(()),
            Some(_) => Err(format!("{field} is stated twice")),
        }
    };
    while let Some(word) = words.next() {
        if let Some((field, value)) = word.split_once('=') {
            set(field, value)?;
        } else if words.peek() == Some(&">") {
            words.next();
            set("src", word)?;
            set("dst", words.next().ok_or("nothing follows `>`")?)?;
        } else {
            set(known[0], word)?;
        }
    }
    Ok(TextHeader { name, fields })
}

/// The fields of a header, the one that may stand without its name first.
fn known_fields(header: &str) -> Option<&'static [&'static str]> {
    Some(match header {
        "eth" => &["type", "src", "dst", "vlan", "priority", "inner-vlan", "vlan-type"],
        "ip" => &["proto", "src", "dst", "ttl", "dscp", "ecn", "df", "fragment"],
        "arp" => &["op", "src", "dst", "sender", "target"],
        "tcp" => &["flags", "src", "dst", "seq"],
        "udp" => &["checksum", "src", "dst"],
        "sctp" => &["src", "dst"],
        "icmp" => &["type", "code", "id"],
        "icmpv6" => &["type", "code", "id", "target", "link"],
        "vxlan" | "geneve" | "nvgre" | "gre-keyed" => &["tenant"],
        "gre" | "ip-in-ip" => &[],
        "payload" => &["length"],
        other => return message_text::known_fields(other),
    })
}

fn is_open(value: &str) -> bool {
    value == "*" || value.starts_with('$')
}

/// `value` in the one form in which it is compared.
fn canonical(field: &str, value: &str, macs: &Macs) -> Result<String, String> {
    if is_open(value) {
        return Ok(value.to_string());
    }
    if let Some(mac) = macs.get(value) {
        return Ok(mac.to_string());
    }
    let is_word = matches!(
        (field, value),
        ("op", "request" | "reply")
            | ("fragment", "first" | "later" | "none")
            | ("vlan", "none")
            | ("checksum", "none" | "right")
    );
    if is_word {
        return Ok(value.to_string());
    }
    if field == "flags" {
        return parse_flags(value).map(flags_text);
    }
    if let Ok(address) = value.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if let Ok(mac) = value.parse::<MacAddr>() {
        return Ok(mac.to_string());
    }
    let number = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    };
    number.map(|number| number.to_string()).ok_or_else(|| format!("{field}={value} is no value"))
}

const FLAGS: &str = "FSRPAUEC";

fn parse_flags(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |flags, c| {
        let bit = FLAGS.find(c).ok_or_else(|| format!("{c} is no TCP flag (one of {FLAGS})"))?;
        Ok(flags | 1 << bit)
    })
}

fn flags_text(flags: u8) -> String {
    FLAGS.chars().enumerate().filter(|(bit, _)| flags & 1 << bit != 0).map(|(_, c)| c).collect()
}

/// The bytes of the payload that `payload N` stands for.
pub fn payload_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + 3) as u8).collect()
}

/// The length that a `payload` header states.
pub fn stated_payload(headers: &[TextHeader]) -> Option<usize> {
    headers.iter().find(|header| header.name == "payload")?.fields.get("length")?.parse().ok()
}

/// The frame that `headers` describe; without an `eth` in front it gets `from > gw`.
pub fn build(headers: &[TextHeader], macs: &Macs, from: &str) -> Result<Frame, String> {
    let mut frame = Frame::default();
    if headers.first().is_none_or(|header| header.name != "eth") {
        let (src, dst) = (*macs.get(from).ok_or("a packet from an uplink starts with eth")?, macs["gw"]);
        frame.headers.push(Header::Ethernet(wire::Ethernet { dst, src, tags: Vec::new(), ethertype: 0 }));
    }
    let mut udp: Option<wire::Udp> = None;
    for header in headers {
        let reader = Reader(header);
        match header.name.as_str() {
            "payload" => {
                let length = reader.number("length", 0)? as usize;
                frame.payload.extend(payload_bytes(length));
            }
            name if message_text::known_fields(name).is_some() => {
                frame.payload.extend(message_text::encode(name, &header.fields)?);
            }
            "vxlan" | "geneve" | "nvgre" | "gre" | "gre-keyed" | "ip-in-ip" => {
                let kind = kind_of(&header.name);
                let carrier = udp.take();
                let (entropy, port) = carrier.as_ref().map_or((0, 0), |udp| (udp.src, udp.dst));
                let tenant = reader.number("tenant", 0)? as u32;
                frame.headers.push(Header::Tunnel(wire::Tunnel::new(kind, tenant, port, entropy)));
            }
            "udp" => {
                if let Some(udp) = udp.replace(reader.udp()?) {
                    frame.headers.push(Header::Udp(udp));
                }
            }
            _ => {
                frame.headers.push(reader.header(frame.headers.last())?);
                if let Some(target) = header.fields.get("target").filter(|_| header.name == "icmpv6") {
                    let target: Ipv6Addr = target.parse().map_err(|_| "target is an IPv6 address")?;
                    frame.payload.extend(target.octets());
                }
                if let Some(link) = header.fields.get("link") {
                    let link: MacAddr = link.parse().map_err(|_| "link is a MAC address")?;
                    // Of an advertisement the target's option, else the source's (RFC 4861 §4.6.1).
                    let option =
                        if header.fields.get("type").is_some_and(|kind| kind == "136") { 2 } else { 1 };
                    frame.payload.extend([option, 1]);
                    frame.payload.extend(link.0);
                }
            }
        }
        if let (Some(carrier), false) = (&udp, header.name == "udp") {
            frame.headers.push(Header::Udp(carrier.clone()));
            udp = None;
        }
    }
    frame.headers.extend(udp.map(Header::Udp));
    Ok(frame)
}

fn kind_of(name: &str) -> EncapKind {
    const KINDS: [EncapKind; 6] = [
        EncapKind::Vxlan,
        EncapKind::Geneve,
        EncapKind::Nvgre,
        EncapKind::Gre,
        EncapKind::GreKeyed,
        EncapKind::IpInIp,
    ];
    KINDS.into_iter().find(|kind| kind.name() == name).unwrap_or(EncapKind::IpInIp)
}

/// Reads the fields of one header, with ordinary values for those left out.
struct Reader<'a>(&'a TextHeader);

impl Reader<'_> {
    fn number(&self, field: &str, otherwise: u64) -> Result<u64, String> {
        match self.0.fields.get(field) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| format!("{field}={text} is no number")),
        }
    }

    fn parsed<T: std::str::FromStr>(&self, field: &str) -> Result<T, String> {
        let text = self.0.fields.get(field).ok_or_else(|| format!("{} needs {field}", self.0.name))?;
        text.parse().map_err(|_| format!("{field}={text} does not fit"))
    }

    fn udp(&self) -> Result<wire::Udp, String> {
        let is_absent = self.0.fields.get("checksum").is_some_and(|text| text == "none");
        Ok(wire::Udp {
            src: self.parsed("src")?,
            dst: self.parsed("dst")?,
            declared_length: None,
            checksum: if is_absent { Checksum::Absent } else { Checksum::Right },
            slack: Vec::new(),
        })
    }

    fn header(&self, above: Option<&Header>) -> Result<Header, String> {
        Ok(match self.0.name.as_str() {
            "eth" => {
                let mut tags = Vec::new();
                if self.0.fields.get("vlan").is_some_and(|id| id != "none") {
                    let tci = self.number("priority", 0)? << 13 | self.number("vlan", 0)?;
                    tags.push(VlanTag { tpid: VlanTag::DOT1Q, tci: tci as u16 });
                }
                if self.0.fields.contains_key("inner-vlan") {
                    tags[0].tpid = VlanTag::DOT1AD;
                    tags.push(VlanTag { tpid: VlanTag::DOT1Q, tci: self.number("inner-vlan", 0)? as u16 });
                }
                if let Some(first) = tags.first_mut() {
                    first.tpid = self.number("vlan-type", first.tpid.into())? as u16;
                }
                let (dst, src) = (self.parsed("dst")?, self.parsed("src")?);
                Header::Ethernet(wire::Ethernet { dst, src, tags, ethertype: self.number("type", 0)? as u16 })
            }
            "ip" => self.ip()?,
            "arp" => {
                let is_reply = self.0.fields.get("op").is_some_and(|op| op == "reply");
                Header::Arp(wire::Arp {
                    operation: if is_reply { 2 } else { 1 },
                    sender_mac: self.parsed("sender")?,
                    sender_ip: self.parsed("src")?,
                    target_mac: self.parsed("target").unwrap_or_default(),
                    target_ip: self.parsed("dst")?,
                })
            }
            "tcp" => Header::Tcp(wire::Tcp {
                src: self.parsed("src")?,
                dst: self.parsed("dst")?,
                seq: self.number("seq", 1)? as u32,
                ack: 1,
                reserved: 0,
                flags: parse_flags(self.0.fields.get("flags").map_or("A", String::as_str))?,
                window: 65_535,
                urgent: 0,
                options: Vec::new(),
                checksum: Checksum::Right,
            }),
            "sctp" => Header::Sctp(wire::Sctp {
                src: self.parsed("src")?,
                dst: self.parsed("dst")?,
                tag: [0; 4],
                off: 0,
            }),
            "icmp" | "icmpv6" => {
                let [high, low] = (self.number("id", 0)? as u16).to_be_bytes();
                let is_v6 = self.0.name == "icmpv6";
                if is_v6 == above.is_some_and(|above| matches!(above, Header::Ipv4(_))) {
                    return Err("ICMP goes over IPv4, ICMPv6 over IPv6".into());
                }
                let (kind, code) = (self.number("type", 0)? as u8, self.number("code", 0)? as u8);
                Header::Icmp(wire::Icmp {
                    is_v6,
                    kind,
                    code,
                    rest: [high, low, 0, 0],
                    checksum: Checksum::Right,
                })
            }
            name => return Err(format!("{name} cannot be sent")),
        })
    }

    fn ip(&self) -> Result<Header, String> {
        let (dscp, ecn) = (self.number("dscp", 0)? as u8, self.number("ecn", 0)? as u8);
        let (ttl, protocol) = (self.number("ttl", 64)? as u8, self.number("proto", 253)? as u8);
        let fragment = self.0.fields.get("fragment").map_or("none", String::as_str);
        match (self.parsed::<IpAddr>("src")?, self.parsed::<IpAddr>("dst")?) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ok(Header::Ipv4(wire::Ipv4 {
                dscp,
                ecn,
                id: 1,
                dont_fragment: self.number("df", u64::from(fragment == "none"))? == 1,
                more_fragments: fragment != "none",
                offset: if fragment == "later" { 185 } else { 0 },
                ttl,
                protocol,
                src,
                dst,
                options: Vec::new(),
                slack: Vec::new(),
            })),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ok(Header::Ipv6(wire::Ipv6 {
                dscp,
                ecn,
                flow_label: 0,
                hop_limit: ttl,
                src,
                dst,
                extensions: fragment_header(fragment),
                protocol,
                slack: Vec::new(),
            })),
            _ => Err("both addresses are of one family".into()),
        }
    }
}

/// The extension header that makes an IPv6 packet a fragment; none for `none`.
fn fragment_header(fragment: &str) -> Vec<(u8, Vec<u8>)> {
    let units_and_more: u16 = match fragment {
        "first" => 1,
        "later" => 185 << 3 | 1,
        _ => return Vec::new(),
    };
    let [high, low] = units_and_more.to_be_bytes();
    vec![(44, vec![0, 0, high, low, 0, 0, 0, 1])]
}

/// `frame` as text headers with every field.
pub fn describe(frame: &Frame) -> Vec<TextHeader> {
    let mut headers = Vec::new();
    for header in &frame.headers {
        match header {
            Header::Ethernet(eth) => headers.push(text("eth", {
                let mut fields = vec![("src", eth.src.to_string()), ("dst", eth.dst.to_string())];
                fields.push(("type", eth.ethertype.to_string()));
                match eth.tags.first() {
                    Some(tag) => fields.extend([
                        ("vlan", tag.id().to_string()),
                        ("vlan-type", tag.tpid.to_string()),
                        ("priority", tag.priority().to_string()),
                    ]),
                    None => fields.push(("vlan", "none".into())),
                }
                fields.extend(eth.tags.get(1).map(|tag| ("inner-vlan", tag.id().to_string())));
                fields
            })),
            Header::Ipv4(_) | Header::Ipv6(_) => headers.push(describe_ip(header)),
            Header::Arp(arp) => headers.push(text(
                "arp",
                vec![
                    ("op", if arp.operation == 1 { "request" } else { "reply" }.into()),
                    ("src", arp.sender_ip.to_string()),
                    ("dst", arp.target_ip.to_string()),
                    ("sender", arp.sender_mac.to_string()),
                    ("target", arp.target_mac.to_string()),
                ],
            )),
            Header::Tcp(tcp) => headers.push(text(
                "tcp",
                vec![
                    ("src", tcp.src.to_string()),
                    ("dst", tcp.dst.to_string()),
                    ("seq", tcp.seq.to_string()),
                    ("flags", flags_text(tcp.flags)),
                ],
            )),
            Header::Udp(udp) => headers.push(describe_udp(udp)),
            Header::Sctp(sctp) => {
                headers
                    .push(text("sctp", vec![("src", sctp.src.to_string()), ("dst", sctp.dst.to_string())]));
            }
            Header::Icmp(icmp) => headers.push(text(if icmp.is_v6 { "icmpv6" } else { "icmp" }, {
                let mut fields = vec![("type", icmp.kind.to_string()), ("code", icmp.code.to_string())];
                fields.extend(header.query_id().map(|id| ("id", id.to_string())));
                if let (true, Some(target)) =
                    (matches!(icmp.kind, 135 | 136), frame.payload.first_chunk::<16>())
                {
                    fields.push(("target", Ipv6Addr::from(*target).to_string()));
                }
                fields
            })),
            Header::Tunnel(tunnel) => {
                headers.extend(tunnel.udp.as_ref().map(describe_udp));
                let tenant = ("tenant", tunnel.tenant.to_string());
                let fields = if tunnel.kind.has_tenant() { vec![tenant] } else { Vec::new() };
                headers.push(text(tunnel.kind.name(), fields));
            }
        }
    }
    headers.extend(message_text::describe(frame).map(|(name, fields)| text(name, fields)));
    headers.push(text("payload", vec![("length", frame.payload.len().to_string())]));
    headers
}

fn describe_ip(header: &Header) -> TextHeader {
    let (src, dst) = header.addresses().expect("an IP header has addresses");
    let (dscp, ecn, ttl) = header.class_and_ttl().expect("an IP header has a class");
    let fragment = match header.fragment() {
        lamina_core::flow::Fragment::None => "none",
        lamina_core::flow::Fragment::First => "first",
        lamina_core::flow::Fragment::Later => "later",
    };
    let (protocol, df) = match header {
        Header::Ipv4(ip) => (ip.protocol, Some(ip.dont_fragment)),
        Header::Ipv6(ip) => (ip.protocol, None),
        _ => (0, None),
    };
    let mut fields = vec![
        ("src", src.to_string()),
        ("dst", dst.to_string()),
        ("ttl", ttl.to_string()),
        ("dscp", dscp.to_string()),
        ("ecn", ecn.to_string()),
        ("fragment", fragment.into()),
        ("proto", protocol.to_string()),
    ];
    fields.extend(df.map(|df| ("df", u8::from(df).to_string())));
    text("ip", fields)
}

fn describe_udp(udp: &wire::Udp) -> TextHeader {
    let checksum = if udp.checksum == Checksum::Absent { "none" } else { "right" };
    text(
        "udp",
        vec![("src", udp.src.to_string()), ("dst", udp.dst.to_string()), ("checksum", checksum.into())],
    )
}

fn text(name: &str, fields: Vec<(&str, String)>) -> TextHeader {
    TextHeader {
        name: name.into(),
        fields: fields.into_iter().map(|(name, value)| (name.into(), value)).collect(),
    }
}

/// Why `actual` does not fit `pattern`; nothing when it does. Binds the pattern's names in `captures`.
pub fn mismatches(pattern: &[TextHeader], actual: &[TextHeader], captures: &mut Captures) -> Vec<String> {
    let skip = usize::from(pattern.first().is_some_and(|p| p.name != "eth") && actual[0].name == "eth");
    let mut actual = &actual[skip..];
    if pattern.last().is_none_or(|last| last.name != "payload") {
        actual = &actual[..actual.len() - 1];
    }
    let names =
        |headers: &[TextHeader]| headers.iter().map(|h| h.name.clone()).collect::<Vec<_>>().join(" / ");
    if names(pattern) != names(actual) {
        return vec![format!("headers are `{}`, expected `{}`", names(actual), names(pattern))];
    }
    let mut found = Vec::new();
    for (wanted, header) in pattern.iter().zip(actual) {
        for (field, value) in &wanted.fields {
            let is = header.fields.get(field).map_or("absent", String::as_str);
            let expected = match value.strip_prefix('$') {
                Some(name) => captures.entry(name.into()).or_insert_with(|| is.into()).as_str(),
                None => value,
            };
            if expected != "*" && expected != is {
                found.push(format!("{} {field} is {is}, expected {expected}", wanted.name));
            }
        }
    }
    found
}
