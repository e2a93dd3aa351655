//! Reads a topology document: the record at the top, links, and what they refer to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Bounds, Link, Topology};
use crate::decode::{Decoder, Fields};
use crate::diagnostic::{Code, Diagnostic, Report};
use crate::source::{At, Source, Span};
use crate::suggest::did_you_mean;
use crate::tree::{Node, Tree, shortened};
use crate::value::Name;

/// The version of the topology format that this build reads.
const VERSION: u32 = 1;
/// Names of hosts, links and virtual machines become interface names, which the kernel cuts at 15 bytes.
const LONGEST_NAME: usize = 15;

/// Reads a file that a topology names; the path is as written there.
pub(super) type ReadFile<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

/// Reads a topology document. `name` is what messages call it; `read_file` returns the text of a policy file that
/// it names, or says why not.
///
/// All mistakes that can be found are reported together, up to [`Report::LIMIT`].
pub fn parse(
    name: &str,
    text: &str,
    mut read_file: impl FnMut(&str) -> Result<String, String>,
) -> Result<Topology, Report> {
    let source = Source::new(name, text);
    let tree = Tree::read(&source)?;
    let mut decoder = Decoder::new(&source);
    let topology = decoder.topology(&tree, &mut read_file);
    match topology {
        Some(topology) if !decoder.report.has_errors() => Ok(topology),
        _ => Err(decoder.report),
    }
}

impl Decoder<'_> {
    fn topology(&mut self, tree: &Tree<'_>, read_file: ReadFile<'_>) -> Option<Topology> {
        if tree.node == Node::Empty {
            let empty =
                Diagnostic::error(Code::MissingField, self.source, Span::default(), "the topology is empty");
            self.report.push(
                empty.help("a topology starts with `version: 1`, then `name:`, `hosts:` and `checks:`"),
            );
            return None;
        }
        const KNOWN: [&str; 6] = ["version", "name", "description", "links", "hosts", "checks"];
        let fields = self.fields(tree, "a topology", &KNOWN)?;
        if let Some(version) = self.required(&fields, "version", "1")
            && let Some(number) = self.number(version, "the version", 0..=i64::MAX)
            && number.value != i64::from(VERSION)
        {
            let message = format!("version {} of the topology format is not known", number.value);
            self.error(Code::OutOfRange, number.span, message, format!("this build reads version {VERSION}"));
        }
        let name = self.required(&fields, "name", "two-vms").and_then(|tree| self.name(tree));
        let description = fields.optional("description").and_then(|tree| self.text(tree, "a text"));
        let mut topology = Topology {
            name: name.map_or_else(|| Arc::from("unnamed"), |name| name.value),
            description: description.map(|text| text.trim().to_string()),
            links: Vec::new(),
            hosts: Vec::new(),
            checks: Vec::new(),
        };
        let hosts = fields.optional("hosts").map(|tree| self.named(tree, "the hosts")).unwrap_or_default();
        if let Some(tree) = fields.optional("links") {
            for (name, tree) in self.named(tree, "the links") {
                self.device_name(&name, "a link");
                topology.links.extend(self.link(name, tree, &hosts));
            }
        }
        for (name, tree) in hosts {
            self.device_name(&name, "a host");
            if topology.guest_addresses(&name).is_some() {
                self.taken(&name);
                continue;
            }
            if let Some(host) = self.host(&name, tree, &topology, read_file) {
                topology.hosts.push(host);
            }
        }
        if let Some(tree) = fields.optional("checks") {
            for check in self.list(tree, "checks") {
                if let Some((name, check)) = self.check(check, &topology, read_file) {
                    if topology.checks.iter().any(|other| other.name == check.name) {
                        self.taken(&name);
                    }
                    topology.checks.push(check);
                }
            }
        }
        Some(topology)
    }

    fn link(&mut self, name: At<Name>, tree: &Tree<'_>, hosts: &[(At<Name>, &Tree<'_>)]) -> Option<Link> {
        let fields = self.fields(tree, "a link", &["mtu", "hosts"])?;
        let mtu = self.mtu(&fields, 1500);
        let mut attachments: Vec<(Name, Vec<IpNet>)> = Vec::new();
        if let Some(tree) = self.required(&fields, "hosts", "{ h1: 192.168.50.1/24, h2: 192.168.50.2/24 }") {
            for (host, tree) in self.named(tree, "the hosts of a link") {
                let known = || hosts.iter().map(|(name, _)| &*name.value);
                if !known().any(|name| name == &*host.value) {
                    self.unknown(&host, "host", known());
                }
                let addresses = self.interface_addresses(tree);
                attachments.push((host.value, addresses));
            }
            if attachments.len() < 2 {
                self.error(Code::Conflict, tree.span, "a link joins at least two hosts", "name another host");
            }
        }
        Some(Link { name: name.value, mtu, attachments })
    }

    /// The field `mtu`.
    pub(super) fn mtu(&mut self, fields: &Fields<'_>, default: u32) -> u32 {
        let tree = fields.optional("mtu");
        tree.and_then(|tree| self.unsigned::<u32>(tree, "an MTU", 576, 65_535))
            .map_or(default, |mtu| mtu.value)
    }

    /// One interface address or a list of them: an address with the length of its network's prefix.
    pub(super) fn interface_addresses(&mut self, tree: &Tree<'_>) -> Vec<IpNet> {
        let items = self.one_or_list(tree);
        items.iter().filter_map(|item| self.interface_address(item)).collect()
    }

    fn interface_address(&mut self, tree: &Tree<'_>) -> Option<IpNet> {
        let text = self.text(tree, "an address with a prefix length")?;
        let address = text.parse::<IpNet>().ok();
        if address.is_none() {
            let message = format!("`{}` is not an interface's address", shortened(text));
            self.error(Code::BadValue, tree.span, message, "write it like `10.0.0.1/24` or `\"fd00::1/64\"`");
        }
        address
    }

    /// The duration of the field `name`.
    pub(super) fn duration_or(&mut self, fields: &Fields<'_>, name: &str, default: Duration) -> Duration {
        let tree = fields.optional(name);
        let given = tree.and_then(|tree| self.duration(tree));
        given.map_or(default, |nanoseconds| Duration::from_nanos(nanoseconds.value))
    }

    /// A number of bytes: a whole number, with or without one of the units kB, MB, GB, KiB, MiB, GiB.
    pub(super) fn byte_count(&mut self, tree: &Tree<'_>) -> Option<u64> {
        let text = self.text(tree, "a number of bytes")?;
        let count = parse_bytes(text);
        if count.is_none() {
            let message = format!("`{}` is not a number of bytes", shortened(text));
            self.error(Code::BadValue, tree.span, message, "write it like `1500`, `64KiB` or `10MB`");
        }
        count
    }

    /// An expected number: `3`, `\"3-10\"`, `\">=1MB\"`, `\"<=5\"`.
    pub(super) fn bounds(&mut self, tree: &Tree<'_>) -> Option<Bounds> {
        let text = self.text(tree, "an expected number")?;
        let bounds = parse_bounds(text);
        if bounds.is_none() {
            let message = format!("`{}` is not an expected number", shortened(text));
            let help = "write it like `3`, `\"3-10\"`, `\">=1MB\"` or `\"<=5\"`";
            self.error(Code::BadValue, tree.span, message, help);
        }
        bounds
    }

    /// An address, or the name of a guest, which stands for its first address.
    pub(super) fn destination(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<IpAddr> {
        let text = self.text(tree, "an address or the name of a guest")?;
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let name = self.guest(tree, topology)?;
        match topology.guest_addresses(&name).and_then(|addresses| addresses.first()) {
            Some(address) => Some(address.addr()),
            None => {
                let message = format!("{name} has no address");
                self.error(Code::Conflict, tree.span, message, "give it one, or write an address here");
                None
            }
        }
    }

    /// The name of a guest: of a virtual machine or of a kernel VXLAN host.
    pub(super) fn guest(&mut self, tree: &Tree<'_>, topology: &Topology) -> Option<Name> {
        let name = self.name(tree)?;
        if topology.guest_addresses(&name).is_some() {
            return Some(name.value);
        }
        let guests = guest_names(topology);
        self.unknown(&name, "virtual machine", guests.iter().map(|name| &**name));
        None
    }

    /// Reports a name that stands for nothing.
    pub(super) fn unknown<'n>(&mut self, name: &At<Name>, what: &str, known: impl Iterator<Item = &'n str>) {
        let known: Vec<_> = known.collect();
        let help = match known.as_slice() {
            [] => format!("there is no {what} at all, or none that is written rightly"),
            _ => did_you_mean(name, known.iter().copied(), &format!("there is a {what} called")),
        };
        self.error(Code::MissingResource, name.span, format!("there is no {what} `{}`", name.value), help);
    }

    /// Reports a name that something else has.
    pub(super) fn taken(&mut self, name: &At<Name>) {
        let message = format!("`{}` is taken", name.value);
        self.error(Code::Duplicate, name.span, message, "names are unique in a topology; choose another one");
    }

    /// Reports a name that no network device can have.
    pub(super) fn device_name(&mut self, name: &At<Name>, what: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() > LONGEST_NAME || !name.chars().all(good) {
            let message = format!("`{}` cannot be the name of {what}", name.value);
            let help =
                format!("use at most {LONGEST_NAME} letters, digits, `-` and `_`: it names an interface");
            self.error(Code::BadValue, name.span, message, help);
        }
    }
}

/// The names of all guests.
pub(super) fn guest_names(topology: &Topology) -> Vec<Name> {
    let mut names = Vec::new();
    for host in &topology.hosts {
        match &host.kind {
            super::HostKind::Lamina { vms, .. } => names.extend(vms.iter().map(|vm| vm.name.clone())),
            super::HostKind::KernelVxlan(_) => names.push(host.name.clone()),
        }
    }
    names
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

fn parse_bounds(text: &str) -> Option<Bounds> {
    if let Some(low) = text.strip_prefix(">=") {
        return Some(Bounds { low: parse_bytes(low.trim())?, high: u64::MAX });
    }
    if let Some(high) = text.strip_prefix("<=") {
        return Some(Bounds { low: 0, high: parse_bytes(high.trim())? });
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let bounds = Bounds { low: parse_bytes(low.trim())?, high: parse_bytes(high.trim())? };
    (bounds.low <= bounds.high).then_some(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_bounds() {
        assert_eq!(parse_bytes("10MB"), Some(10_000_000));
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        for bad in ["", "MB", "-1", "1.5MB", "10 MB", "10mb", "99999999999999999999", "99999999999GiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        let shown = |text: &str| parse_bounds(text).map(|bounds| bounds.to_string());
        assert_eq!(shown("3").as_deref(), Some("3"));
        assert_eq!(shown("3-10").as_deref(), Some("3-10"));
        assert_eq!(shown(">=1kB").as_deref(), Some("at least 1000"));
        assert_eq!(shown("<= 5").as_deref(), Some("at most 5"));
        for bad in ["", "10-3", "-", "> 3", "3-", "x"] {
            assert_eq!(parse_bounds(bad), None, "{bad}");
        }
    }
}
