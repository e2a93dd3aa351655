//! Messages above UDP and ICMPv6 as text headers: `dhcp`, `dhcpv6`, `dns`, `ra`.
//!
//! Bytes are made and read by the test codec (`lamina_testkit::message`), which shares no code with the core.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use lamina_core::address::MacAddr;
use lamina_testkit::message::{Dhcp, Dhcpv6, Dns, Question, Router, name_bytes, options};
use lamina_testkit::wire::{Frame, Header};

type Fields = BTreeMap<String, String>;
type Described = (&'static str, Vec<(&'static str, String)>);

/// The fields of a message, the one that may stand without its name first; `None` for what is no message.
pub fn known_fields(header: &str) -> Option<&'static [&'static str]> {
    Some(match header {
        "dhcp" => &[
            "type",
            "xid",
            "mac",
            "has",
            "yours",
            "relay",
            "broadcast",
            "client-id",
            "requested",
            "server",
            "ask",
            "mask",
            "router",
            "dns",
            "domain",
            "mtu",
            "lease",
            "renew",
            "rebind",
            "routes",
            "host-name",
            "relay-info",
            "option-42",
            "options",
            "length",
            "cut",
        ],
        "dhcpv6" => &[
            "type",
            "xid",
            "client",
            "server",
            "ia",
            "times",
            "address",
            "status",
            "rapid",
            "preference",
            "ask",
            "dns",
            "search",
            "cut",
        ],
        "dns" => &["name", "type", "class", "xid", "opcode", "edns", "flags", "code", "answers", "cut"],
        "ra" => &["lifetime", "hop-limit", "flags", "options"],
        _ => return None,
    })
}

const DHCP: [&str; 9] = ["", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform"];
const DHCPV6: [&str; 12] = [
    "",
    "solicit",
    "advertise",
    "request",
    "confirm",
    "renew",
    "rebind",
    "reply",
    "release",
    "decline",
    "reconfigure",
    "information-request",
];
const DNS: [(u16, &str); 6] = [(1, "a"), (5, "cname"), (12, "ptr"), (16, "txt"), (28, "aaaa"), (255, "any")];

/// The bytes of the message `name` with `fields`; what is left out is ordinary.
pub fn encode(name: &str, fields: &Fields) -> Result<Vec<u8>, String> {
    let reader = Reader(fields);
    let mut bytes = match name {
        "dhcp" => dhcp(&reader)?,
        "dhcpv6" => dhcpv6(&reader)?,
        "dns" => dns(&reader)?,
        _ => return Err(format!("{name} cannot be sent")),
    };
    if let Some(cut) = reader.number::<usize>("cut")? {
        bytes.truncate(cut);
    }
    Ok(bytes)
}

/// The message that `frame` carries, if it carries one.
pub fn describe(frame: &Frame) -> Option<Described> {
    match frame.headers.last()? {
        Header::Udp(udp) => match (udp.src, udp.dst) {
            (67 | 68, 67 | 68) => describe_dhcp(&Dhcp::decode(&frame.payload).ok()?, frame.payload.len()),
            (546 | 547, 546 | 547) => describe_dhcpv6(&Dhcpv6::decode(&frame.payload).ok()?),
            (53, _) | (_, 53) => describe_dns(&Dns::decode(&frame.payload).ok()?),
            _ => None,
        },
        Header::Icmp(icmp) if icmp.is_v6 && icmp.kind == 134 => {
            let bytes = [&icmp.rest[..], &frame.payload].concat();
            let router = Router::decode(&bytes).ok()?;
            let options: Vec<String> = router.options.iter().map(|option| option.replace(' ', "_")).collect();
            Some((
                "ra",
                vec![
                    ("lifetime", router.lifetime.to_string()),
                    ("hop-limit", router.hop_limit.to_string()),
                    ("flags", router.flags.to_string()),
                    ("options", options.join(",")),
                ],
            ))
        }
        _ => None,
    }
}

fn dhcp(reader: &Reader<'_>) -> Result<Vec<u8>, String> {
    let kind = reader.word("type", &DHCP)?;
    let mac = reader.parsed::<MacAddr>("mac")?.ok_or("dhcp needs mac")?;
    let mut dhcp = Dhcp::request(kind as u8, mac);
    dhcp.xid = reader.number("xid")?.unwrap_or(7);
    dhcp.flags = reader.number::<u16>("broadcast")?.unwrap_or(0) << 15;
    dhcp.ciaddr = reader.parsed("has")?.unwrap_or(Ipv4Addr::UNSPECIFIED);
    dhcp.giaddr = reader.parsed("relay")?.unwrap_or(Ipv4Addr::UNSPECIFIED);
    for (field, code) in [("requested", 50), ("server", 54)] {
        if let Some(address) = reader.parsed::<Ipv4Addr>(field)? {
            dhcp = dhcp.with(code, address.octets());
        }
    }
    if let Some(ask) = reader.text("ask") {
        let codes = ask.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>();
        dhcp = dhcp.with(55, codes.map_err(|_| "ask is a list of numbers")?);
    }
    for (field, code) in [("client-id", 61), ("relay-info", 82)] {
        if let Some(text) = reader.text(field) {
            dhcp = dhcp.with(code, bytes_of(text)?);
        }
    }
    Ok(dhcp.encode())
}

fn describe_dhcp(dhcp: &Dhcp, length: usize) -> Option<Described> {
    let mut fields = vec![
        ("type", DHCP.get(dhcp.kind()? as usize)?.to_string()),
        ("xid", dhcp.xid.to_string()),
        ("mac", dhcp.chaddr.to_string()),
        ("has", dhcp.ciaddr.to_string()),
        ("yours", dhcp.yiaddr.to_string()),
        ("relay", dhcp.giaddr.to_string()),
        ("broadcast", (dhcp.flags >> 15).to_string()),
        ("length", length.to_string()),
    ];
    let codes: Vec<String> = dhcp.options.iter().map(|(code, _)| code.to_string()).collect();
    fields.push(("options", codes.join(",")));
    let lists =
        [("mask", 1), ("router", 3), ("dns", 6), ("option-42", 42), ("requested", 50), ("server", 54)];
    for (field, code) in lists {
        let addresses: Vec<String> = dhcp.addresses(code).iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            fields.push((field, addresses.join(",")));
        }
    }
    for (field, code) in [("lease", 51), ("renew", 58), ("rebind", 59), ("mtu", 26)] {
        let number = |value: Vec<u8>| value.iter().fold(0u64, |number, byte| number << 8 | *byte as u64);
        fields.extend(dhcp.option(code).map(|value| (field, number(value).to_string())));
    }
    for (field, code) in [("domain", 15), ("host-name", 12)] {
        fields.extend(dhcp.option(code).map(|value| (field, String::from_utf8_lossy(&value).into_owned())));
    }
    for (field, code) in [("client-id", 61), ("relay-info", 82)] {
        fields.extend(dhcp.option(code).map(|value| (field, hex(&value))));
    }
    if let Some(value) = dhcp.option(121) {
        fields.push(("routes", routes(&value)?));
    }
    Some(("dhcp", fields))
}

/// Classless routes as `10.0.0.0/8>10.0.0.1`, joined by commas.
fn routes(mut value: &[u8]) -> Option<String> {
    let mut routes = Vec::new();
    while let Some((length, rest)) = value.split_first() {
        let (significant, rest) = rest.split_at_checked((*length as usize).div_ceil(8))?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..significant.len())?.copy_from_slice(significant);
        routes.push(format!("{}/{length}>{}", Ipv4Addr::from(octets), Ipv4Addr::from(*gateway)));
        value = rest;
    }
    Some(routes.join(","))
}

fn dhcpv6(reader: &Reader<'_>) -> Result<Vec<u8>, String> {
    let kind = reader.word("type", &DHCPV6)? as u8;
    let mut message = Dhcpv6 { kind, transaction: reader.number("xid")?.unwrap_or(7), options: Vec::new() };
    for (field, code) in [("client", 1), ("server", 2)] {
        if let Some(text) = reader.text(field) {
            message = message.with(code, bytes_of(text)?);
        }
    }
    if let Some(id) = reader.number::<u32>("ia")? {
        let mut value = [&id.to_be_bytes()[..], &[0; 8]].concat();
        if let Some(addresses) = reader.text("address") {
            for address in addresses.split(',') {
                let address: Ipv6Addr = address.parse().map_err(|_| "address is a list of IPv6 addresses")?;
                value.extend([0, 5, 0, 24]);
                value.extend(address.octets());
                value.extend([0; 8]);
            }
        }
        message = message.with(3, value);
    }
    if reader.number::<u8>("rapid")?.is_some_and(|rapid| rapid == 1) {
        message = message.with(14, []);
    }
    if let Some(ask) = reader.text("ask") {
        let codes = ask.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>();
        let codes = codes.map_err(|_| "ask is a list of numbers")?;
        message = message.with(6, codes.iter().flat_map(|code| code.to_be_bytes()).collect::<Vec<u8>>());
    }
    Ok(message.encode())
}

fn describe_dhcpv6(message: &Dhcpv6) -> Option<Described> {
    let mut fields = vec![
        ("type", DHCPV6.get(message.kind as usize)?.to_string()),
        ("xid", message.transaction.to_string()),
        ("rapid", u8::from(message.option(14).is_some()).to_string()),
    ];
    fields.extend(message.option(1).map(|value| ("client", hex(value))));
    fields.extend(message.option(2).map(|value| ("server", hex(value))));
    fields.extend(message.option(7).map(|value| ("preference", value.first().map_or(0, |v| *v).to_string())));
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | *byte as u64);
    let mut status = message.option(13).map(|value| number(value.get(..2).unwrap_or(&[])));
    if let Some(association) = message.option(3) {
        fields.push(("ia", number(association.get(..4)?).to_string()));
        let times = (number(association.get(4..8)?), number(association.get(8..12)?));
        fields.push(("times", format!("{}:{}", times.0, times.1)));
        let mut addresses = Vec::new();
        for (code, value) in options(&association[12..]).ok()? {
            match code {
                5 => {
                    let address = Ipv6Addr::from(*value.first_chunk::<16>()?);
                    addresses.push(format!(
                        "{address}={}={}",
                        number(&value[16..20]),
                        number(&value[20..24])
                    ));
                }
                13 => status = Some(number(value.get(..2)?)),
                _ => return None,
            }
        }
        fields.push(("address", addresses.join(",")));
    }
    fields.extend(status.map(|status| ("status", status.to_string())));
    if let Some(value) = message.option(23) {
        let servers: Vec<String> = value
            .chunks(16)
            .filter_map(|c| Some(Ipv6Addr::from(*c.first_chunk::<16>()?).to_string()))
            .collect();
        fields.push(("dns", servers.join(",")));
    }
    fields.extend(message.option(24).map(|value| ("search", search(value))));
    Some(("dhcpv6", fields))
}

/// Domain names, joined by commas.
fn search(mut value: &[u8]) -> String {
    let (mut names, mut labels) = (Vec::new(), Vec::new());
    while let Some((length, rest)) = value.split_first() {
        let (label, rest) = rest.split_at(rest.len().min(*length as usize));
        match label.is_empty() {
            true => names.push(std::mem::take(&mut labels).join(".")),
            false => labels.push(String::from_utf8_lossy(label).into_owned()),
        }
        value = rest;
    }
    names.join(",")
}

fn dns(reader: &Reader<'_>) -> Result<Vec<u8>, String> {
    let name = reader.text("name").ok_or("dns needs a name")?;
    let kind = reader.text("type").unwrap_or("a");
    let kind = DNS.iter().find(|(_, word)| *word == kind).map(|(number, _)| *number);
    let kind = kind.or(reader.number("type").ok().flatten()).ok_or("type is a, aaaa, ... or a number")?;
    let class = reader.number("class")?.unwrap_or(1);
    let mut dns = Dns::query(reader.number("xid")?.unwrap_or(7), name, kind);
    dns.questions = vec![Question { name: name.into(), kind, class }];
    dns.flags |= reader.number::<u16>("opcode")?.unwrap_or(0) << 11;
    // A size, or size and version: `1232`, `1232:1`.
    if let Some(text) = reader.text("edns") {
        let (size, version) = text.split_once(':').unwrap_or((text, "0"));
        let parse = |text: &str| text.parse::<u32>().map_err(|_| format!("edns={text} is no number"));
        dns.edns = Some((parse(size)? as u16, parse(version)? << 16));
    }
    debug_assert!(dns.encode().windows(name_bytes(name).len()).any(|part| part == name_bytes(name)));
    Ok(dns.encode())
}

fn describe_dns(dns: &Dns) -> Option<Described> {
    let mut fields = vec![
        ("xid", dns.id.to_string()),
        ("code", dns.response_code().to_string()),
        ("opcode", (dns.flags >> 11 & 15).to_string()),
    ];
    let flags = [(0x8000, "qr"), (0x0400, "aa"), (0x0200, "tc"), (0x0100, "rd"), (0x0080, "ra")];
    let set = flags.iter().filter(|(bit, _)| dns.flags & bit != 0).map(|(_, name)| *name);
    fields.push(("flags", set.collect::<Vec<_>>().join("+")));
    if let Some(question) = dns.questions.first() {
        let kind = DNS.iter().find(|(number, _)| *number == question.kind).map(|(_, word)| word.to_string());
        fields.push(("name", question.name.clone()));
        fields.push(("type", kind.unwrap_or_else(|| question.kind.to_string())));
        fields.push(("class", question.class.to_string()));
    }
    fields.extend(dns.edns.map(|(size, _)| ("edns", size.to_string())));
    let answers = dns.answers.iter().map(|a| format!("{}={}={}={}", a.name, a.ttl, a.kind, a.data));
    fields.push(("answers", answers.collect::<Vec<_>>().join(",")));
    Some(("dns", fields))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(pair).collect::<Option<_>>().ok_or(format!("{text} is not hexadecimal"))
}

struct Reader<'a>(&'a Fields);

impl Reader<'_> {
    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, field: &str) -> Result<Option<T>, String> {
        self.parsed(field)
    }

    fn parsed<T: std::str::FromStr>(&self, field: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(field) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{field}={text} does not fit"))
    }

    fn word(&self, field: &str, words: &[&str]) -> Result<usize, String> {
        let text = self.text(field).ok_or_else(|| format!("{field} lacks"))?;
        words
            .iter()
            .position(|word| *word == text)
            .ok_or_else(|| format!("{text} is none of {}", words.join(", ")))
    }
}
