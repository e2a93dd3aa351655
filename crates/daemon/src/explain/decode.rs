//! A frame in a line per header group, read by `etherparse`.
//!
//! The switch's own parser is not asked: what is printed about a result should not depend on the code that made
//! it. Whatever a frame holds, something is printed.

use std::fmt::Write;

use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice};

const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
/// Tunnels in tunnels are followed this far.
const DEEPEST: usize = 4;

/// What `frame` holds, outermost group first.
pub fn lines(frame: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    ethernet(frame, &mut lines);
    lines
}

/// What `frame` holds, in one line.
pub fn line(frame: &[u8]) -> String {
    lines(frame).join(" / ")
}

fn ethernet(frame: &[u8], lines: &mut Vec<String>) {
    if lines.len() == DEEPEST {
        return;
    }
    match LaxSlicedPacket::from_ethernet(frame) {
        Ok(packet) => group(&packet, lines),
        Err(_) => lines.push(format!("{} bytes{}", frame.len(), beginning(frame))),
    }
}

fn ip(bytes: &[u8], lines: &mut Vec<String>) {
    if lines.len() == DEEPEST {
        return;
    }
    match LaxSlicedPacket::from_ip(bytes) {
        Ok(packet) => group(&packet, lines),
        Err(_) => lines.push(format!("{} bytes{}", bytes.len(), beginning(bytes))),
    }
}

fn beginning(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(16) {
        let _ = write!(text, "{}{byte:02x}", if text.is_empty() { ": " } else { " " });
    }
    if bytes.len() > 16 {
        text.push_str(" ...");
    }
    text
}

fn mac(bytes: [u8; 6]) -> String {
    lamina_api::Mac(bytes).to_string()
}

fn group(packet: &LaxSlicedPacket<'_>, lines: &mut Vec<String>) {
    let mut parts = Vec::new();
    if let Some(LinkSlice::Ethernet2(eth)) = &packet.link {
        parts.push(format!("eth {} -> {}", mac(eth.source()), mac(eth.destination())));
        if packet.net.is_none() {
            let kind = packet.ether_payload().map_or(eth.ether_type().0, |payload| payload.ether_type.0);
            parts.push(format!("type 0x{kind:04x}"));
        }
    }
    for id in packet.vlan_ids() {
        parts.insert(parts.len().min(1), format!("vlan {}", id.value()));
    }
    let mut inside: Option<(Inside, &[u8])> = None;
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let mut text = format!(
                "ipv4 {} -> {} ttl {}",
                header.source_addr(),
                header.destination_addr(),
                header.ttl()
            );
            push_tos(&mut text, header.dcp().value(), header.ecn().value());
            if header.more_fragments() || header.fragments_offset().value() > 0 {
                let _ = write!(text, " fragment at {}", u32::from(header.fragments_offset().value()) * 8);
            }
            parts.push(text);
            inside = protocol(&mut parts, packet, ip.payload().ip_number.0, ip.payload().payload);
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let mut text = format!(
                "ipv6 {} -> {} hop limit {}",
                header.source_addr(),
                header.destination_addr(),
                header.hop_limit()
            );
            push_tos(&mut text, header.dscp().value(), header.ecn().value());
            if ip.payload().fragmented {
                text.push_str(" fragment");
            }
            parts.push(text);
            inside = protocol(&mut parts, packet, ip.payload().ip_number.0, ip.payload().payload);
        }
        Some(LaxNetSlice::Arp(arp)) => parts.push(arp_text(arp)),
        None => {}
    }
    if packet.stop_err.is_some() {
        parts.push("cut off or malformed behind this".into());
    }
    lines.push(parts.join(", "));
    match inside {
        Some((Inside::Ethernet, bytes)) => ethernet(bytes, lines),
        Some((Inside::Ip, bytes)) => ip(bytes, lines),
        None => {}
    }
}

fn push_tos(text: &mut String, dscp: u8, ecn: u8) {
    if dscp != 0 {
        let _ = write!(text, " dscp {dscp}");
    }
    if ecn != 0 {
        let _ = write!(text, " ecn {ecn}");
    }
}

fn arp_text(arp: &etherparse::ArpPacketSlice<'_>) -> String {
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(|b| std::net::Ipv4Addr::from(b).to_string());
    let hardware = |bytes: &[u8]| <[u8; 6]>::try_from(bytes).map(mac);
    match (v4(arp.sender_protocol_addr()), v4(arp.target_protocol_addr()), hardware(arp.sender_hw_addr())) {
        (Ok(sender), Ok(target), Ok(sender_mac)) => match arp.operation().0 {
            1 => format!("arp who has {target}? tell {sender} at {sender_mac}"),
            2 => format!("arp {sender} is at {sender_mac}, to {target}"),
            other => format!("arp operation {other} from {sender} to {target}"),
        },
        _ => "arp of other address kinds".into(),
    }
}

/// What a tunnel holds.
#[derive(Clone, Copy)]
enum Inside {
    Ethernet,
    Ip,
}

/// Adds what the IP header carries; returns what is inside a tunnel.
fn protocol<'p>(
    parts: &mut Vec<String>,
    packet: &LaxSlicedPacket<'p>,
    number: u8,
    payload: &'p [u8],
) -> Option<(Inside, &'p [u8])> {
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let mut flags = Vec::new();
            for (set, name) in [
                (tcp.fin(), "fin"),
                (tcp.syn(), "syn"),
                (tcp.rst(), "rst"),
                (tcp.psh(), "psh"),
                (tcp.ack(), "ack"),
                (tcp.urg(), "urg"),
                (tcp.ece(), "ece"),
                (tcp.cwr(), "cwr"),
            ] {
                if set {
                    flags.push(name);
                }
            }
            let flags = if flags.is_empty() { "no flags".into() } else { flags.join("+") };
            parts.push(format!("tcp {} -> {} {flags}", tcp.source_port(), tcp.destination_port()));
            push_length(parts, tcp.payload().len());
        }
        Some(TransportSlice::Udp(udp)) => {
            parts.push(format!("udp {} -> {}", udp.source_port(), udp.destination_port()));
            match (udp.destination_port(), udp.payload()) {
                (VXLAN, [flags, _, _, _, a, b, c, _, inner @ ..]) if flags & 8 != 0 => {
                    parts.push(format!("vxlan {}", u32::from_be_bytes([0, *a, *b, *c])));
                    return Some((Inside::Ethernet, inner));
                }
                (GENEVE, [first, _, high, low, a, b, c, _, rest @ ..]) if first >> 6 == 0 => {
                    parts.push(format!("geneve {}", u32::from_be_bytes([0, *a, *b, *c])));
                    let inner = rest.get(usize::from(first & 0x3f) * 4..)?;
                    return inside_of(u16::from_be_bytes([*high, *low]), inner);
                }
                (_, payload) => push_length(parts, payload.len()),
            }
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            parts.push(format!("icmp type {} code {}", icmp.type_u8(), icmp.code_u8()));
            push_id(parts, matches!(icmp.type_u8(), 0 | 8), icmp.bytes5to8());
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            parts.push(format!("icmpv6 type {} code {}", icmp.type_u8(), icmp.code_u8()));
            push_id(parts, matches!(icmp.type_u8(), 128 | 129), icmp.bytes5to8());
        }
        _ => match number {
            4 | 41 => {
                parts.push("ip-in-ip".into());
                return Some((Inside::Ip, payload));
            }
            47 => return gre(parts, payload),
            132 => match payload {
                [a, b, c, d, ..] => {
                    parts.push(format!(
                        "sctp {} -> {}",
                        u16::from_be_bytes([*a, *b]),
                        u16::from_be_bytes([*c, *d])
                    ));
                }
                _ => parts.push("sctp".into()),
            },
            _ => {
                parts.push(format!("protocol {number}"));
                push_length(parts, payload.len());
            }
        },
    }
    None
}

fn gre<'p>(parts: &mut Vec<String>, payload: &'p [u8]) -> Option<(Inside, &'p [u8])> {
    let [flags, _, high, low, rest @ ..] = payload else {
        parts.push("gre, cut off".into());
        return None;
    };
    let kind = u16::from_be_bytes([*high, *low]);
    let with_checksum = if flags & 0x80 != 0 { 4 } else { 0 };
    let mut inner = rest.get(with_checksum..)?;
    if flags & 0x20 != 0 {
        let [a, b, c, d, behind @ ..] = inner else { return None };
        let key = u32::from_be_bytes([*a, *b, *c, *d]);
        parts.push(if kind == 0x6558 { format!("nvgre {}", key >> 8) } else { format!("gre key {key}") });
        inner = behind;
    } else {
        parts.push("gre".into());
    }
    if flags & 0x10 != 0 {
        inner = inner.get(4..)?;
    }
    inside_of(kind, inner)
}

fn inside_of(kind: u16, bytes: &[u8]) -> Option<(Inside, &[u8])> {
    match kind {
        0x6558 => Some((Inside::Ethernet, bytes)),
        0x0800 | 0x86dd => Some((Inside::Ip, bytes)),
        _ => None,
    }
}

fn push_id(parts: &mut [String], is_query: bool, rest: [u8; 4]) {
    if let (true, Some(last)) = (is_query, parts.last_mut()) {
        let _ = write!(last, " id {}", u16::from_be_bytes([rest[0], rest[1]]));
    }
}

fn push_length(parts: &mut [String], length: usize) {
    if let (true, Some(last)) = (length > 0, parts.last_mut()) {
        let _ = write!(last, ", {length} bytes");
    }
}
