//! Responses as written: what a rule that answers says, protocol by protocol.
//!
//! This file has what is small and what several have in common; the larger protocols have their own.

mod dhcp;
mod dhcpv6;
mod router_advertisement;

pub use dhcp::{Dhcp, DhcpLease, DhcpOption};
pub use dhcpv6::{Dhcpv6, Dhcpv6Lease};
pub use router_advertisement::{Preference, Prefix, Route, RouterAdvertisement};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Action;
use crate::decode::{Decoder, Fields};
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Node, Tree, shortened};
use crate::value::{Mac, Name};

/// How a packet is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Respond {
    /// ARP requests.
    Arp(MacSource),
    /// Neighbour solicitations.
    Nd(MacSource),
    /// ICMP and ICMPv6 echo requests.
    Echo,
    /// DHCP for IPv4.
    Dhcp(Box<Dhcp>),
    /// DHCPv6.
    Dhcpv6(Box<Dhcpv6>),
    /// DNS queries, from this table.
    Dns(At<Name>),
    /// Router solicitations.
    RouterAdvertisement(Box<RouterAdvertisement>),
}

/// Where the MAC of an answer comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MacSource {
    /// Always this one.
    Fixed(Mac),
    /// The mapping of the requested address.
    Mapping {
        /// The table.
        mapping: At<Name>,
        /// The tenant whose entries are looked up.
        tenant: u32,
    },
}

const RESPONSES: [&str; 7] = ["arp", "nd", "echo", "dhcp", "dhcpv6", "dns", "router-advertisement"];

impl Decoder<'_> {
    pub(super) fn respond(&mut self, tree: &Tree<'_>) -> Option<Action> {
        if let Node::Scalar { text, .. } = &tree.node {
            if text == "echo" {
                return Some(Action::Respond(Respond::Echo));
            }
            let help = "write `echo`, `{ arp: \"02:00:00:00:00:01\" }` or `{ nd: { mapping: NAME } }`";
            self.bad_value(tree, "a response", help);
            return None;
        }
        let fields = self.fields(tree, "respond", &RESPONSES)?;
        let given: Vec<&str> = RESPONSES.into_iter().filter(|name| fields.optional(name).is_some()).collect();
        let [name] = given[..] else {
            let help = "give exactly one of `arp`, `nd`, `echo`, `dhcp`, `dhcpv6`, `dns` and \
                        `router-advertisement`; use one rule for each";
            self.error(Code::WrongType, fields.head(), "a rule answers one kind of request", help);
            return None;
        };
        let tree = fields.optional(name)?;
        Some(Action::Respond(match name {
            "arp" => Respond::Arp(self.mac_source(tree)?),
            "nd" => Respond::Nd(self.mac_source(tree)?),
            "echo" => {
                self.fields(tree, "echo", &[])?;
                Respond::Echo
            }
            "dhcp" => Respond::Dhcp(Box::new(self.dhcp(tree)?)),
            "dhcpv6" => Respond::Dhcpv6(Box::new(self.dhcpv6(tree)?)),
            "dns" => Respond::Dns(self.name(tree)?),
            _ => Respond::RouterAdvertisement(Box::new(self.router_advertisement(tree)?)),
        }))
    }

    fn mac_source(&mut self, tree: &Tree<'_>) -> Option<MacSource> {
        if matches!(tree.node, Node::Scalar { .. }) {
            return self.mac(tree).map(|mac| MacSource::Fixed(mac.value));
        }
        let fields = self.fields(tree, "the MAC of an answer", &["mapping", "tenant"])?;
        let mapping = self.required(&fields, "mapping", "blue").and_then(|tree| self.name(tree));
        let tenant =
            fields.optional("tenant").and_then(|tree| self.unsigned(tree, "a tenant id", 0, u32::MAX));
        Some(MacSource::Mapping { mapping: mapping?, tenant: tenant.map_or(0, |tenant| tenant.value) })
    }

    fn server_mac(&mut self, fields: &Fields<'_>) -> Option<Mac> {
        let tree = self.required(fields, "mac", "\"02:00:00:00:00:fe\"")?;
        let mac = self.mac(tree)?.value;
        if mac.0[0] & 1 == 1 {
            let help = "write the address of one interface: its first byte is even";
            self.error(Code::BadValue, tree.span, format!("{mac} is a group's address"), help);
            return None;
        }
        Some(mac)
    }

    fn link_local(&mut self, fields: &Fields<'_>) -> Option<Ipv6Addr> {
        let tree = fields.optional("source")?;
        let address = self.unicast_v6(tree)?;
        if !address.is_unicast_link_local() {
            let message = format!("{address} is not a link-local address");
            let help = "write an address of `fe80::/10`, or leave `source` out: it is then made from `mac`";
            self.error(Code::BadValue, tree.span, message, help);
        }
        Some(address)
    }

    fn dns_servers(&mut self, fields: &Fields<'_>) -> Vec<Ipv6Addr> {
        let items = fields.optional("dns").map(|tree| self.one_or_list(tree)).unwrap_or_default();
        items.iter().filter_map(|item| self.unicast_v6(item)).collect()
    }

    fn search(&mut self, fields: &Fields<'_>) -> Vec<String> {
        let items = fields.optional("search").map(|tree| self.one_or_list(tree)).unwrap_or_default();
        items.iter().filter_map(|item| self.domain(item, false)).map(|domain| domain.value).collect()
    }

    fn v4(&mut self, tree: &Tree<'_>) -> Option<Ipv4Addr> {
        match self.address(tree)?.value {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => {
                let message = format!("{address} is not an IPv4 address");
                self.error(Code::Conflict, tree.span, message, "write an IPv4 address here");
                None
            }
        }
    }

    fn unicast_v4(&mut self, tree: &Tree<'_>) -> Option<Ipv4Addr> {
        let address = self.v4(tree)?;
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            let message = format!("{address} is not the address of one host");
            self.error(Code::BadValue, tree.span, message, "write the address of one host");
            return None;
        }
        Some(address)
    }

    fn unicast_v6(&mut self, tree: &Tree<'_>) -> Option<Ipv6Addr> {
        match self.address(tree)?.value {
            IpAddr::V6(address) if !address.is_unspecified() && !address.is_multicast() => Some(address),
            address => {
                let message = format!("{address} is not the IPv6 address of one host");
                self.error(Code::BadValue, tree.span, message, "write the IPv6 address of one host");
                None
            }
        }
    }

    /// The time in the field `name`, in seconds.
    pub(super) fn time_of(&mut self, fields: &Fields<'_>, name: &str, otherwise: u32) -> u32 {
        fields.optional(name).and_then(|tree| self.seconds(tree)).unwrap_or(otherwise)
    }

    /// `tree` as a time in whole seconds; `forever` is `u32::MAX`.
    pub(super) fn seconds(&mut self, tree: &Tree<'_>) -> Option<u32> {
        if matches!(&tree.node, Node::Scalar { text, .. } if text == "forever") {
            return Some(u32::MAX);
        }
        const SECOND: u64 = 1_000_000_000;
        let nanoseconds = self.duration(tree)?.value;
        let seconds = u32::try_from(nanoseconds / SECOND).ok().filter(|seconds| *seconds < u32::MAX);
        match seconds {
            Some(seconds) if nanoseconds % SECOND == 0 => Some(seconds),
            _ => {
                let message = "this time is not counted in whole seconds, or is too long";
                let help = "write `forever` or whole seconds below 2^32: `30s`, `5m`, `1h`";
                self.error(Code::OutOfRange, tree.span, message, help);
                None
            }
        }
    }

    /// Reports the first of `times` that is longer than the next one given.
    fn in_order(&mut self, fields: &Fields<'_>, times: &[(&str, Option<u32>)]) {
        let given: Vec<(&str, u32)> =
            times.iter().filter_map(|(name, time)| Some((*name, (*time)?))).collect();
        if let Some([(earlier, _), (later, _)]) =
            given.array_windows().find(|[(_, earlier), (_, later)]| earlier > later)
        {
            let span = fields.key_span(earlier).unwrap_or(fields.head());
            let message = format!("`{earlier}` is longer than `{later}`");
            self.error(
                Code::Conflict,
                span,
                message,
                format!("make `{earlier}` shorter, or `{later}` longer"),
            );
        }
    }

    /// `tree` as a domain name, in lower case and without a dot at its end; its first label may be `*` where a
    /// wildcard is possible.
    pub(super) fn domain(&mut self, tree: &Tree<'_>, may_be_wildcard: bool) -> Option<At<String>> {
        let text = self.text(tree, "a domain name")?;
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = name.strip_prefix("*.").filter(|_| may_be_wildcard).unwrap_or(name);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/'))
        };
        if name.len() > 253 || !plain.split('.').all(is_label) {
            let message = format!("`{}` is not a domain name", shortened(text));
            let help =
                "write labels of 1 to 63 letters, digits, `-` and `_`, joined by dots, 253 bytes in all";
            self.error(Code::BadValue, tree.span, message, help);
            return None;
        }
        Some(At::new(name.to_ascii_lowercase(), tree.span))
    }
}
