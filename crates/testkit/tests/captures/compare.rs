//! Compares Lamina's reading of a packet with tshark's and names the class of their difference, if there is one.

use std::collections::HashMap;
use std::net::IpAddr;

use lamina_core::address::VlanTag;
use lamina_core::flow::{EncapKind, Fragment, HeaderGroup, Icmp, IpPair, L3, L4, Ports};
use lamina_core::packet::{GroupLayout, Parsed, checksum, parse};

use super::expected::{Row, number};

/// Layers that Lamina reads; where tshark's list goes on with one of them, it has read deeper.
const LAYERS: [&str; 10] = ["eth", "vlan", "arp", "ip", "ipv6", "tcp", "udp", "sctp", "icmp", "icmpv6"];

/// The class of the difference between the two readings of `frame`: `equal` for none.
pub fn class_of(frame: &[u8], row: Row) -> String {
    let parsed = match parse(frame) {
        Ok(parsed) => parsed,
        Err(reason) => return format!("refused {}: {}", reason.name(), evidence(frame, row)),
    };
    let groups = parsed.stack.groups();
    let ours: Vec<&str> = groups.iter().flat_map(layers).collect();
    let theirs: Vec<&str> = row.protocols().into_iter().filter(|name| !is_inside_l3(name)).collect();
    if !theirs.starts_with(&ours) {
        return format!("layers: {} / {}", ours.join(":"), theirs.join(":"));
    }
    let mut fields = Fields { row, taken: HashMap::new() };
    for (group, layout) in groups.iter().zip(&parsed.layout.groups) {
        let is_fabric_path = group.flow_id.l2.is_some_and(|l2| l2.ethertype == 0x8903);
        if is_fabric_path {
            return "fabric path".to_owned();
        }
        if let Err(field) = fields.compare(frame, group, layout) {
            return format!("field {field}");
        }
    }
    let rest = &theirs[ours.len()..];
    let is_icmp = matches!(parsed.stack.innermost().flow_id.l4, Some(L4::Icmp(_) | L4::Icmpv6(_)));
    match rest.iter().position(|name| LAYERS.contains(name)) {
        None => "equal".to_owned(),
        Some(0) if is_icmp => "deeper: quoted by icmp".to_owned(),
        Some(at) => format!("deeper: {}", rest[..=at].join(":")),
    }
}

/// What tshark says that speaks for a refusal; the first that holds.
fn evidence(frame: &[u8], row: Row) -> &'static str {
    let captured = row.number("frame.cap_len");
    let is_ip = row.protocols().iter().any(|name| ["ip", "ipv6"].contains(name));
    let extensions = row.protocols().iter().filter(|name| is_inside_l3(name)).count();
    if captured > 65_535 {
        "more than 64 KB"
    } else if row.values("ip.checksum.status").contains(&"0") {
        "bad header checksum"
    } else if row.protocols().get(1) == Some(&"ip") && frame.get(16..18) == Some(&[0, 0]) {
        "length zero"
    } else if row.is_cut() {
        "captured in part"
    } else if row.is_malformed() {
        "malformed"
    } else if row.number("ip.len") > captured {
        "length beyond the frame"
    } else if row.values("ip.flags.mf").contains(&"1") {
        "first fragment"
    } else if is_ip && row.text("ip.src").is_empty() && row.text("ipv6.src").is_empty() {
        "no addresses read"
    } else if row.protocols().get(..3) == Some(&["eth", "ip", "ipv6"]) && row.text("ip.src").is_empty() {
        "version 6 in IPv4"
    } else if extensions > 8 {
        "more than eight extension headers"
    } else {
        "none"
    }
}

/// Extension headers and the like, which Lamina counts to L3.
fn is_inside_l3(name: &str) -> bool {
    name.starts_with("ipv6.")
}

/// A group's layers in tshark's words.
fn layers(group: &HeaderGroup) -> Vec<&'static str> {
    let mut names = Vec::new();
    if let Some(l2) = group.flow_id.l2 {
        names.push("eth");
        names.extend(
            l2.tags.iter().map(|tag| if tag.tpid == VlanTag::DOT1AD { "ieee8021ad" } else { "vlan" }),
        );
    }
    names.extend(group.flow_id.l3.map(|l3| match l3 {
        L3::Arp(_) => "arp",
        L3::Ip(ip) if ip.addresses.is_v4() => "ip",
        L3::Ip(_) => "ipv6",
    }));
    match group.flow_id.l4 {
        Some(L4::Tcp(_)) => names.push("tcp"),
        Some(L4::Udp(_)) => names.push("udp"),
        Some(L4::Sctp(_)) => names.push("sctp"),
        Some(L4::Icmp(_)) => names.push("icmp"),
        Some(L4::Icmpv6(_)) => names.push("icmpv6"),
        Some(L4::Encap(encap)) => match encap.kind {
            EncapKind::Vxlan => names.extend(["udp", "vxlan"]),
            EncapKind::Geneve => names.extend(["udp", "geneve"]),
            EncapKind::Gre | EncapKind::GreKeyed | EncapKind::Nvgre => names.push("gre"),
            EncapKind::IpInIp => {}
        },
        None => {}
    }
    names
}

/// tshark's values, taken one by one as the groups are gone through.
struct Fields<'a> {
    row: Row<'a>,
    taken: HashMap<&'static str, usize>,
}

type Compared = Result<(), String>;

impl<'a> Fields<'a> {
    fn next(&mut self, field: &'static str) -> Option<&'a str> {
        let taken = self.taken.entry(field).or_default();
        *taken += 1;
        self.row.values(field).get(*taken - 1).copied()
    }

    fn number(&mut self, field: &'static str, ours: impl Into<u64>) -> Compared {
        self.check(field, ours.into(), |text| Some(number(text)))
    }

    fn check<T: PartialEq + std::fmt::Debug>(
        &mut self,
        field: &'static str,
        ours: T,
        read: impl Fn(&str) -> Option<T>,
    ) -> Compared {
        let text = self.next(field);
        if text.and_then(read).as_ref() == Some(&ours) {
            return Ok(());
        }
        Err(format!("{field}: {ours:?} / {text:?}"))
    }

    fn compare(&mut self, frame: &[u8], group: &HeaderGroup, layout: &GroupLayout) -> Compared {
        self.link(group)?;
        let Some(L3::Ip(ip)) = group.flow_id.l3 else { return Ok(()) };
        let extra = &group.extra;
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let l3 = layout.l3 as usize;
        if let IpPair::V4 { .. } = ip.addresses {
            self.check("ip.src", ip.addresses.src(), address)?;
            self.check("ip.dst", ip.addresses.dst(), address)?;
            self.number("ip.proto", ip.protocol)?;
            self.number("ip.ttl", extra.ttl)?;
            self.number("ip.hdr_len", layout.l4 - layout.l3)?;
            self.number("ip.len", u16::from_be_bytes([frame[l3 + 2], frame[l3 + 3]]))?;
            let more = number(self.next("ip.flags.mf").unwrap_or("0"));
            let offset = number(self.next("ip.frag_offset").unwrap_or("0"));
            self.fragment(extra.fragment, more, offset)?;
            self.check("ip.checksum.status", "1".to_owned(), |text| Some(text.to_owned()))?;
        } else {
            self.check("ipv6.src", ip.addresses.src(), address)?;
            self.check("ipv6.dst", ip.addresses.dst(), address)?;
            self.number("ipv6.hlim", extra.ttl)?;
            self.number("ipv6.nxt", frame[l3 + 6])?;
            if layout.l4 - layout.l3 == 40 {
                self.fragment(extra.fragment, 0, 0)?;
            } else if let Some(offset) = self.next("ipv6.fraghdr.offset") {
                let more = number(self.next("ipv6.fraghdr.more").unwrap_or("0"));
                self.fragment(extra.fragment, more, number(offset))?;
                if extra.fragment == Fragment::Later {
                    self.number("ipv6.fraghdr.nxt", ip.protocol)?;
                }
            }
        }
        self.transport(frame, group, layout)
    }

    fn link(&mut self, group: &HeaderGroup) -> Compared {
        let Some(l2) = group.flow_id.l2 else { return Ok(()) };
        let text = |text: &str| Some(text.to_owned());
        self.check("eth.dst", l2.dst.to_string(), text)?;
        self.check("eth.src", l2.src.to_string(), text)?;
        let mut kind = Some("eth.type");
        for tag in l2.tags.iter() {
            kind.map_or(Ok(()), |kind| self.number(kind, tag.tpid))?;
            if tag.tpid == VlanTag::DOT1AD {
                // The readings have no column for the id and the ethertype of a service tag.
                kind = None;
                continue;
            }
            self.number("vlan.id", tag.id())?;
            kind = Some("vlan.etype");
        }
        // An 802.3 length is no ethertype to tshark.
        let kind = kind.filter(|_| l2.ethertype >= 0x0600);
        kind.map_or(Ok(()), |kind| self.number(kind, l2.ethertype))
    }

    fn fragment(&self, ours: Fragment, more: u64, offset: u64) -> Compared {
        let theirs = match (offset, more) {
            (0, 0) => Fragment::None,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        if ours == theirs { Ok(()) } else { Err(format!("fragment: {ours:?} / {theirs:?}")) }
    }

    fn transport(&mut self, frame: &[u8], group: &HeaderGroup, layout: &GroupLayout) -> Compared {
        let l4 = layout.l4 as usize;
        match group.flow_id.l4 {
            Some(L4::Tcp(ports)) => {
                self.number("tcp.srcport", ports.src)?;
                self.number("tcp.dstport", ports.dst)?;
                let flags = group.extra.tcp_flags;
                self.check("tcp.flags", flags, |text| Some(number(text) as u8))
            }
            Some(L4::Udp(ports)) => self.udp(ports),
            Some(L4::Encap(encap)) => {
                if encap.kind.over_udp() {
                    let dst = u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]);
                    self.udp(Ports { src: group.extra.entropy, dst })?;
                }
                match encap.kind {
                    EncapKind::Vxlan => self.number("vxlan.vni", encap.tenant),
                    EncapKind::Geneve => self.number("geneve.vni", encap.tenant),
                    EncapKind::GreKeyed => self.number("gre.key", encap.tenant),
                    EncapKind::Nvgre => {
                        self.number("gre.key", encap.tenant << 8 | group.extra.entropy as u32)
                    }
                    EncapKind::Gre | EncapKind::IpInIp => Ok(()),
                }
            }
            Some(L4::Icmp(Icmp { kind, code, .. })) => {
                self.number("icmp.type", kind)?;
                self.number("icmp.code", code)
            }
            Some(L4::Icmpv6(Icmp { kind, code, .. })) => {
                self.number("icmpv6.type", kind)?;
                self.number("icmpv6.code", code)
            }
            Some(L4::Sctp(_)) | None => Ok(()),
        }
    }

    fn udp(&mut self, ports: Ports) -> Compared {
        self.number("udp.srcport", ports.src)?;
        self.number("udp.dstport", ports.dst)
    }
}

/// Compares the verdicts on TCP and UDP checksums, one class for each header that either side has judged. tshark
/// does not judge fragments and cut packets.
pub fn checksum_classes(frame: &[u8], row: Row) -> Vec<String> {
    let Ok(parsed) = parse(frame) else { return Vec::new() };
    let mut fields = Fields { row, taken: HashMap::new() };
    let mut classes = Vec::new();
    for (index, group) in parsed.stack.groups().iter().enumerate() {
        let (protocol, field) = match group.flow_id.l4 {
            Some(L4::Tcp(_)) => (6, "tcp.checksum.status"),
            Some(L4::Udp(_)) => (17, "udp.checksum.status"),
            Some(L4::Encap(encap)) if encap.kind.over_udp() => (17, "udp.checksum.status"),
            _ => continue,
        };
        let ours = verdict(frame, &parsed, index, protocol);
        let theirs = match fields.next(field) {
            Some("0") => "bad",
            Some("1") => "good",
            Some("2") => "not judged",
            Some("3") => "absent",
            Some("4") => "illegal",
            _ => "no reading",
        };
        classes.push(if ours == theirs {
            format!("checksum {ours}")
        } else {
            format!("checksum {ours} / {theirs}")
        });
    }
    classes
}

/// Our own verdict, by the checksum module.
fn verdict(frame: &[u8], parsed: &Parsed, index: usize, protocol: u8) -> &'static str {
    let group = &parsed.stack.groups()[index];
    let layout = &parsed.layout.groups[index];
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let read = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let Some(L3::Ip(ip)) = group.flow_id.l3 else { return "not judged" };
    let mut end = match ip.addresses {
        IpPair::V4 { .. } => l3 + read(l3 + 2) as usize,
        IpPair::V6 { .. } => l3 + 40 + read(l3 + 4) as usize,
    };
    if group.extra.fragment != Fragment::None {
        return "not judged";
    }
    if protocol == 17 {
        if read(l4 + 6) == 0 {
            return "absent";
        }
        end = l4 + read(l4 + 4) as usize;
    }
    let length = (end - l4) as u32;
    let pseudo = match ip.addresses {
        IpPair::V4 { src, dst } => checksum::pseudo_header_v4(src, dst, protocol, length),
        IpPair::V6 { src, dst } => checksum::pseudo_header_v6(src, dst, protocol, length),
    };
    if checksum::finish(pseudo + checksum::sum(&frame[l4..end])) == 0 { "good" } else { "bad" }
}
