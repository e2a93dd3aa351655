//! Packets as a person writes them: one line of text.
//!
//! ```text
//! tcp 10.0.0.1:1234 -> 10.0.0.2:80 flags=syn+ack ttl=5
//! vxlan 192.168.1.1 -> 192.168.1.2 vni=5001 / icmp 10.0.0.1 -> 10.0.0.2
//! ```
//!
//! A line is one or more headers groups, outermost first, separated by ` / `; a group is a kind, two addresses
//! joined by `->` (or `to`), and `key=value` pairs. Every mistake is reported at its place in the line. The text
//! becomes a [`Spec`], and [`super::frame`] makes the bytes; nothing here knows bytes.

use std::net::IpAddr;

use lamina_api::{Code, Diagnostic, Mac, Source, Span, suggest};

/// What a person may write, for `--help` and messages.
pub const SYNTAX: &str = "\
PACKET is one line (quote it): GROUP [ / GROUP ...], outermost first.
GROUP is KIND SOURCE -> DESTINATION [KEY=VALUE ...]; `to` may stand for `->`.

  tcp 10.0.0.1:1234 -> 10.0.0.2:80      also udp, sctp; IPv6 as [fd00::1]:80
  icmp 10.0.0.1 -> 10.0.0.2             an echo request, or type= code= id= seq=
  arp 10.0.0.1 -> 10.0.0.2              a request, or op=reply target-mac=
  nd fd00::1 -> fd00::2                 a neighbour solicitation
  ip 10.0.0.1 -> 10.0.0.2 proto=47      any other protocol
  eth type=0x88cc                       any other frame
  vxlan 192.168.1.1 -> 192.168.1.2 vni=5001 / tcp 10.0.0.1:1234 -> 10.0.0.2:80
                                        also geneve, nvgre, gre, gre-keyed, ip-in-ip

Keys of every group with Ethernet: eth-src= eth-dst= vlan=ID or vlan=ID,ID
Keys of every group with IP:       ttl= dscp= ecn= fragment=first|later
tcp: flags=syn+ack seq= ack=   tunnels: vni= udp-port= entropy=   last group: payload=BYTES";

/// One header group as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Ethernet source; `None` takes the caller's.
    pub eth_src: Option<Mac>,
    /// Ethernet destination; `None` takes the caller's.
    pub eth_dst: Option<Mac>,
    /// VLAN ids, outermost first, at most two.
    pub vlans: Vec<u16>,
    /// What is inside Ethernet.
    pub network: Network,
}

/// What is inside Ethernet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4 or IPv6.
    Ip(Ip),
    /// ARP.
    Arp {
        /// Sender.
        src: std::net::Ipv4Addr,
        /// Target.
        dst: std::net::Ipv4Addr,
        /// 1 request, 2 reply.
        operation: u16,
        /// Target hardware address.
        target_mac: Mac,
    },
    /// Anything else.
    Other {
        /// Ethertype.
        ethertype: u16,
    },
}

/// An IP header and what it carries. Addresses are of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Time to live.
    pub ttl: u8,
    /// DSCP.
    pub dscp: u8,
    /// ECN.
    pub ecn: u8,
    /// Whether it is a fragment.
    pub fragment: Fragment,
    /// What it carries.
    pub transport: Transport,
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// No.
    None,
    /// The first one.
    First,
    /// A later one.
    Later,
}

/// What an IP header carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp { src: u16, dst: u16, flags: u8, seq: u32, ack: u32 },
    /// UDP.
    Udp { src: u16, dst: u16 },
    /// SCTP.
    Sctp { src: u16, dst: u16 },
    /// ICMP, or ICMPv6 in IPv6.
    Icmp { kind: u8, code: u8, id: u16, seq: u16 },
    /// A neighbour solicitation.
    Solicitation { target: std::net::Ipv6Addr },
    /// Another protocol, as payload.
    Other { protocol: u8 },
    /// A tunnel; the next group follows.
    Tunnel { kind: Tunnel, vni: u32, udp_port: Option<u16>, entropy: u16 },
}

/// A kind of tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tunnel {
    /// Ethernet in UDP.
    Vxlan,
    /// Ethernet in UDP with options.
    Geneve,
    /// Ethernet in GRE.
    Nvgre,
    /// IP in GRE.
    Gre,
    /// IP in GRE with a key.
    GreKeyed,
    /// IP in IP.
    IpInIp,
}

impl Tunnel {
    /// True where the next group has an Ethernet header.
    pub const fn carries_ethernet(self) -> bool {
        matches!(self, Tunnel::Vxlan | Tunnel::Geneve | Tunnel::Nvgre)
    }

    const fn largest_vni(self) -> u32 {
        match self {
            Tunnel::Vxlan | Tunnel::Geneve | Tunnel::Nvgre => 0x00ff_ffff,
            Tunnel::GreKeyed => u32::MAX,
            Tunnel::Gre | Tunnel::IpInIp => 0,
        }
    }
}

/// A packet: its groups, and the payload of the innermost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketSpec {
    /// Groups, outermost first.
    pub groups: Vec<Spec>,
    /// Bytes of payload.
    pub payload: usize,
}

const KINDS: [&str; 14] = [
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "arp",
    "nd",
    "ip",
    "eth",
    "vxlan",
    "geneve",
    "nvgre",
    "gre",
    "gre-keyed",
    "ip-in-ip",
];
const FLAGS: [(&str, u8); 8] =
    [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32), ("ece", 64), ("cwr", 128)];

/// Reads a packet.
pub fn parse(text: &str) -> Result<PacketSpec, Box<Diagnostic>> {
    let source = Source::new("packet", text);
    let words = words(text);
    if words.is_empty() {
        let empty = Diagnostic::error(Code::Syntax, &source, Span::default(), "the packet is empty");
        return Err(Box::new(empty.help("write one like `tcp 10.0.0.1:1234 -> 10.0.0.2:80`")));
    }
    let parts: Vec<&[Word<'_>]> = words.split(|word| word.text == "/").collect();
    let mut packet = PacketSpec { groups: Vec::new(), payload: 0 };
    for (index, part) in parts.iter().enumerate() {
        let mut group = Group::new(&source, part)?;
        let is_last = index + 1 == parts.len();
        if is_last {
            packet.payload = group.number("payload", 0, 0, 65_000)? as usize;
        }
        let has_ethernet = match packet.groups.last().map(|outer| &outer.network) {
            Some(Network::Ip(Ip { transport: Transport::Tunnel { kind, .. }, .. })) => {
                kind.carries_ethernet()
            }
            _ => true,
        };
        let spec = group.spec(has_ethernet)?;
        let opens_another =
            matches!(spec.network, Network::Ip(Ip { transport: Transport::Tunnel { .. }, .. }));
        if opens_another == is_last {
            let problem = if is_last {
                "nothing is inside this tunnel"
            } else {
                "only a tunnel can hold another group"
            };
            let help = "write ` / ` behind a tunnel and nowhere else, then the packet inside it";
            return Err(group.error(group.kind.span, problem, help));
        }
        group.finish()?;
        packet.groups.push(spec);
    }
    Ok(packet)
}

#[derive(Clone, Copy)]
struct Word<'t> {
    text: &'t str,
    span: Span,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let base = text.as_ptr() as usize;
    text.split_ascii_whitespace()
        .map(|word| {
            let start = (word.as_ptr() as usize - base) as u32;
            Word { text: word, span: Span::new(start, start + word.len() as u32) }
        })
        .collect()
}

/// One group being read: its kind, what stands between kind and keys, and the keys not yet taken.
struct Group<'t> {
    source: &'t Source,
    kind: Word<'t>,
    ends: Vec<Word<'t>>,
    keys: Vec<(&'t str, &'t str, Span)>,
    known: Vec<&'static str>,
}

type Result<T, E = Box<Diagnostic>> = std::result::Result<T, E>;

impl<'t> Group<'t> {
    fn new(source: &'t Source, words: &[Word<'t>]) -> Result<Self> {
        let mut ends = Vec::new();
        let mut keys: Vec<(&str, &str, Span)> = Vec::new();
        let Some((kind, rest)) = words.split_first() else {
            let at = source.text.len() as u32;
            let nothing =
                Diagnostic::error(Code::Syntax, source, Span::new(at, at), "a group is missing beside ` / `");
            return Err(Box::new(nothing.help("write the packet inside the tunnel behind ` / `")));
        };
        for word in rest {
            match word.text.split_once('=') {
                Some((key, value)) => {
                    if keys.iter().any(|(other, ..)| *other == key) {
                        let twice = Diagnostic::error(
                            Code::Duplicate,
                            source,
                            word.span,
                            format!("`{key}` is given twice"),
                        );
                        return Err(Box::new(twice.help("keep one of them")));
                    }
                    keys.push((key, value, word.span));
                }
                None => ends.push(*word),
            }
        }
        Ok(Group { source, kind: *kind, ends, keys, known: Vec::new() })
    }

    fn error(&self, span: Span, message: impl Into<String>, help: impl Into<String>) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(Code::BadValue, self.source, span, message).help(help))
    }

    /// Reports a key that nothing asked for.
    fn finish(&self) -> Result<()> {
        let Some((key, _, span)) = self.keys.first() else { return Ok(()) };
        let help =
            suggest::did_you_mean(key, self.known.iter().copied(), &format!("keys of `{}`", self.kind.text));
        let message = format!("`{key}` is not a key of `{}`", self.kind.text);
        Err(Box::new(Diagnostic::error(Code::UnknownField, self.source, *span, message).help(help)))
    }

    fn take(&mut self, key: &'static str) -> Option<(&'t str, Span)> {
        self.known.push(key);
        let index = self.keys.iter().position(|(other, ..)| *other == key)?;
        let (_, value, span) = self.keys.remove(index);
        Some((value, span))
    }

    fn number(&mut self, key: &'static str, default: u64, low: u64, high: u64) -> Result<u64> {
        let Some((text, span)) = self.take(key) else { return Ok(default) };
        self.parse_number(key, text, span, low, high)
    }

    fn parse_number(&self, key: &str, text: &str, span: Span, low: u64, high: u64) -> Result<u64> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            Some(number) => {
                let message = format!("`{key}` is out of range: {number}");
                let error = Diagnostic::error(Code::OutOfRange, self.source, span, message);
                Err(Box::new(error.help(format!("it must be from {low} to {high}"))))
            }
            None => Err(self.error(
                span,
                format!("`{text}` is not a number"),
                format!("write `{key}={low}` or more"),
            )),
        }
    }

    fn word<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> Result<T> {
        let Some((text, span)) = self.take(key) else { return Ok(default) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let known = words.iter().map(|(word, _)| *word);
                let help =
                    suggest::did_you_mean(text, known.collect::<Vec<_>>(), &format!("`{key}` is one of"));
                Err(self.error(span, format!("`{text}` is not a value of `{key}`"), help))
            }
        }
    }

    fn mac(&mut self, key: &'static str) -> Result<Option<Mac>> {
        let Some((text, span)) = self.take(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            self.error(span, format!("`{text}` is not a MAC address"), "write it like 02:00:00:00:00:01")
        })
    }

    fn spec(&mut self, has_ethernet: bool) -> Result<Spec> {
        let mut spec = Spec {
            eth_src: None,
            eth_dst: None,
            vlans: Vec::new(),
            network: Network::Other { ethertype: 0 },
        };
        if has_ethernet {
            spec.eth_src = self.mac("eth-src")?;
            spec.eth_dst = self.mac("eth-dst")?;
            if let Some((text, span)) = self.take("vlan") {
                for id in text.split(',') {
                    spec.vlans.push(self.parse_number("vlan", id, span, 0, 4095)? as u16);
                }
                if spec.vlans.len() > 2 {
                    return Err(self.error(
                        span,
                        "a frame has at most two VLAN tags",
                        "write `vlan=100` or `vlan=100,200`",
                    ));
                }
            }
        }
        spec.network = match self.kind.text {
            "eth" => {
                if let Some(word) = self.ends.first() {
                    return Err(self.error(
                        word.span,
                        "`eth` has no addresses here",
                        "use `eth-src=` and `eth-dst=`",
                    ));
                }
                Network::Other { ethertype: self.number("type", 0x88b5, 0x0600, 0xffff)? as u16 }
            }
            "arp" => self.arp()?,
            _ => Network::Ip(self.ip()?),
        };
        Ok(spec)
    }

    fn arp(&mut self) -> Result<Network> {
        let (src, dst) = self.addresses(false)?;
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (src.0, dst.0) else {
            return Err(self.error(
                self.ends[0].span,
                "ARP is for IPv4",
                "for IPv6 write `nd fd00::1 -> fd00::2`",
            ));
        };
        let operation = self.word("op", 1, &[("request", 1), ("reply", 2)])?;
        let target_mac = self.mac("target-mac")?.unwrap_or(Mac([0; 6]));
        Ok(Network::Arp { src, dst, operation, target_mac })
    }

    fn ip(&mut self) -> Result<Ip> {
        let with_ports = matches!(self.kind.text, "tcp" | "udp" | "sctp");
        if !KINDS.contains(&self.kind.text) {
            let help = suggest::did_you_mean(self.kind.text, KINDS, "kinds are");
            return Err(self.error(
                self.kind.span,
                format!("`{}` is not a kind of packet", self.kind.text),
                help,
            ));
        }
        let ((src, src_port), (mut dst, dst_port)) = self.addresses(with_ports)?;
        let is_v4 = src.is_ipv4();
        let transport = match self.kind.text {
            "tcp" => Transport::Tcp {
                src: src_port,
                dst: dst_port,
                flags: self.flags()?,
                seq: self.number("seq", 1000, 0, u32::MAX.into())? as u32,
                ack: self.number("ack", 0, 0, u32::MAX.into())? as u32,
            },
            "udp" => Transport::Udp { src: src_port, dst: dst_port },
            "sctp" => Transport::Sctp { src: src_port, dst: dst_port },
            "icmp" => Transport::Icmp {
                kind: self.number("type", if is_v4 { 8 } else { 128 }, 0, 255)? as u8,
                code: self.number("code", 0, 0, 255)? as u8,
                id: self.number("id", 1, 0, 65_535)? as u16,
                seq: self.number("seq", 1, 0, 65_535)? as u16,
            },
            "nd" => {
                let IpAddr::V6(target) = dst else {
                    let help = "for IPv4 write `arp 10.0.0.1 -> 10.0.0.2`";
                    return Err(self.error(self.ends[0].span, "neighbour discovery is for IPv6", help));
                };
                let [.., a, b, c] = target.octets();
                dst = IpAddr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
                Transport::Solicitation { target }
            }
            "ip" => Transport::Other { protocol: self.number("proto", 253, 0, 255)? as u8 },
            _ => self.tunnel()?,
        };
        let default_ttl = if self.kind.text == "nd" { 255 } else { 64 };
        let fragments = [("none", Fragment::None), ("first", Fragment::First), ("later", Fragment::Later)];
        Ok(Ip {
            src,
            dst,
            ttl: self.number("ttl", default_ttl, 0, 255)? as u8,
            dscp: self.number("dscp", 0, 0, 63)? as u8,
            ecn: self.number("ecn", 0, 0, 3)? as u8,
            fragment: self.word("fragment", Fragment::None, &fragments)?,
            transport,
        })
    }

    fn tunnel(&mut self) -> Result<Transport> {
        let kind = match self.kind.text {
            "vxlan" => Tunnel::Vxlan,
            "geneve" => Tunnel::Geneve,
            "nvgre" => Tunnel::Nvgre,
            "gre" => Tunnel::Gre,
            "gre-keyed" => Tunnel::GreKeyed,
            _ => Tunnel::IpInIp,
        };
        let (mut vni, mut udp_port, mut entropy) = (0, None, 0);
        if kind.largest_vni() > 0 {
            vni = self.number("vni", 0, 0, kind.largest_vni().into())? as u32;
        }
        if matches!(kind, Tunnel::Vxlan | Tunnel::Geneve) {
            udp_port = self.take("udp-port");
            entropy = self.number("entropy", 49_152, 0, 65_535)? as u16;
        }
        let udp_port = match udp_port {
            Some((text, span)) => Some(self.parse_number("udp-port", text, span, 1, 65_535)? as u16),
            None => None,
        };
        Ok(Transport::Tunnel { kind, vni, udp_port, entropy })
    }

    fn flags(&mut self) -> Result<u8> {
        let Some((text, span)) = self.take("flags") else { return Ok(2) };
        let mut flags = 0;
        for name in text.split('+').filter(|name| *name != "none") {
            match FLAGS.iter().find(|(flag, _)| *flag == name) {
                Some((_, flag)) => flags |= flag,
                None => {
                    let help = suggest::did_you_mean(name, FLAGS.map(|(flag, _)| flag), "flags are");
                    return Err(self.error(span, format!("`{name}` is not a TCP flag"), help));
                }
            }
        }
        Ok(flags)
    }

    /// Source and destination, of one family; ports are 0 where the kind has none.
    fn addresses(&self, with_ports: bool) -> Result<((IpAddr, u16), (IpAddr, u16))> {
        let example = if with_ports { "10.0.0.1:1234 -> 10.0.0.2:80" } else { "10.0.0.1 -> 10.0.0.2" };
        let help = format!("write `{} {example}`", self.kind.text);
        let (source, destination) = match self.ends.as_slice() {
            [source, arrow, destination] if matches!(arrow.text, "->" | "to") => (source, destination),
            [] => return Err(self.error(self.kind.span, "the addresses are missing", help)),
            [.., last] => return Err(self.error(last.span, "expected two addresses joined by `->`", help)),
        };
        let (source_end, destination_end) =
            (self.end(source, with_ports)?, self.end(destination, with_ports)?);
        if source_end.0.is_ipv4() != destination_end.0.is_ipv4() {
            return Err(self.error(destination.span, "the addresses are not of one family", help));
        }
        Ok((source_end, destination_end))
    }

    fn end(&self, word: &Word<'_>, with_port: bool) -> Result<(IpAddr, u16)> {
        if let (false, Ok(address)) = (with_port, word.text.parse()) {
            return Ok((address, 0));
        }
        match (with_port, word.text.parse::<std::net::SocketAddr>()) {
            (true, Ok(end)) => Ok((end.ip(), end.port())),
            (true, _) => {
                let help = "write it like `10.0.0.1:80` or `[fd00::1]:80`";
                Err(self.error(word.span, format!("`{}` is not an address with a port", word.text), help))
            }
            (false, Ok(end)) => {
                let message = format!("`{}` packets have no ports here", self.kind.text);
                Err(self.error(word.span, message, format!("write `{}`", end.ip())))
            }
            (false, _) => {
                let help = "write it like `10.0.0.1` or `fd00::1`";
                Err(self.error(word.span, format!("`{}` is not an address", word.text), help))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_of_the_help_is_understood() {
        let mut count = 0;
        for line in SYNTAX.lines() {
            let Some(line) = line.strip_prefix("  ").filter(|line| !line.starts_with(' ')) else { continue };
            let line = match line.starts_with("vxlan") {
                true => line,
                false => line.split("   ").next().unwrap(),
            };
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
        assert_eq!(count, 7);
    }

    #[test]
    fn mistakes_are_found_at_their_place() {
        for (text, wrong, message) in [
            ("", "", "empty"),
            ("tpc 10.0.0.1:1 -> 10.0.0.2:2", "tpc", "not a kind"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2", "10.0.0.2:2", "joined by"),
            ("tcp 10.0.0.1 -> 10.0.0.2:2", "10.0.0.1", "with a port"),
            ("icmp 10.0.0.1:1 -> 10.0.0.2", "10.0.0.1:1", "no ports"),
            ("tcp 10.0.0.1:1 -> [fd00::1]:2", "[fd00::1]:2", "family"),
            ("tcp", "tcp", "missing"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 flags=sin", "flags=sin", "TCP flag"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 tll=1", "tll=1", "not a key"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 ttl=1 ttl=2", "ttl=2", "twice"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 ttl=256", "ttl=256", "out of range"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 vlan=1,2,3", "vlan=1,2,3", "at most two"),
            ("udp 10.0.0.1:1 -> 10.0.0.2:2 flags=syn", "flags=syn", "not a key"),
            ("vxlan 10.0.0.1 -> 10.0.0.2 vni=1", "vxlan", "nothing is inside"),
            ("vxlan 10.0.0.1 -> 10.0.0.2 vni=1 /", "", "missing beside"),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 / eth", "tcp", "only a tunnel"),
            ("vxlan 10.0.0.1 -> 10.0.0.2 vni=16777216 / eth", "vni=16777216", "out of range"),
            ("gre 10.0.0.1 -> 10.0.0.2 vni=1 / ip 1.1.1.1 -> 1.1.1.2", "vni=1", "not a key"),
            ("gre 10.0.0.1 -> 10.0.0.2 / ip 1.1.1.1 -> 1.1.1.2 vlan=1", "vlan=1", "not a key"),
            ("arp fd00::1 -> fd00::2", "fd00::1", "IPv4"),
            ("nd 10.0.0.1 -> 10.0.0.2", "10.0.0.1", "IPv6"),
            ("eth 10.0.0.1 -> 10.0.0.2", "10.0.0.1", "no addresses"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.source.slice(error.labels[0].span), wrong, "{text}");
            assert!(error.message.contains(message), "{text}: {}", error.message);
            assert!(error.help.is_some(), "{text}");
        }
    }
}
