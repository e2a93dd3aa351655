//! A router's advertisement as written.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::decode::{Decoder, Fields};
use crate::diagnostic::Code;
use crate::tree::{Node, Tree};
use crate::value::Mac;

/// A router's advertisement. Times are in seconds, `u32::MAX` is for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouterAdvertisement {
    /// Link address of the router.
    pub mac: Mac,
    /// Link-local address of the router; `None` makes it from `mac`.
    pub source: Option<Ipv6Addr>,
    /// For how long it is a default router; 0 for never.
    pub lifetime: u16,
    /// How it compares with other default routers.
    pub preference: Preference,
    /// Addresses come from DHCPv6.
    pub managed: bool,
    /// Other configuration comes from DHCPv6.
    pub other: bool,
    /// The hop limit that hosts use; 0 leaves it to them.
    pub hop_limit: u8,
    /// MTU of the link.
    pub mtu: Option<u32>,
    /// Prefixes of the link.
    pub prefixes: Vec<Prefix>,
    /// Routes through the router.
    pub routes: Vec<Route>,
    /// DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// For how long DNS servers and search domains hold.
    pub dns_lifetime: u32,
}

/// How a router compares with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preference {
    /// Rather another one.
    Low,
    /// As good as any.
    #[default]
    Medium,
    /// Rather this one.
    High,
}

/// A prefix of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// Its addresses are neighbours.
    pub on_link: bool,
    /// Hosts make addresses from it.
    pub autonomous: bool,
    /// For how long it holds.
    pub valid: u32,
    /// For how long its addresses begin new conversations.
    pub preferred: u32,
}

/// A route through a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to.
    pub to: Ipv6Net,
    /// How this router compares with others.
    pub preference: Preference,
    /// For how long it holds.
    pub lifetime: u32,
}

const DAY: u32 = 24 * 3600;

impl Decoder<'_> {
    pub(super) fn router_advertisement(&mut self, tree: &Tree<'_>) -> Option<RouterAdvertisement> {
        const KNOWN: [&str; 13] = [
            "mac",
            "source",
            "lifetime",
            "preference",
            "managed",
            "other",
            "hop-limit",
            "mtu",
            "prefixes",
            "routes",
            "dns",
            "search",
            "dns-lifetime",
        ];
        let fields = self.fields(tree, "router-advertisement", &KNOWN)?;
        let mac = self.server_mac(&fields);
        let source = self.link_local(&fields);
        let lifetime = match fields.optional("lifetime") {
            None => u16::MAX,
            Some(tree) => self.router_lifetime(tree).unwrap_or(0),
        };
        let mut flag = |name: &str| {
            fields.optional(name).and_then(|tree| self.boolean(tree)).is_some_and(|value| value.value)
        };
        let (managed, other) = (flag("managed"), flag("other"));
        let hop_limit =
            fields.optional("hop-limit").and_then(|tree| self.unsigned::<u8>(tree, "a hop limit", 0, 255));
        let mtu =
            fields.optional("mtu").and_then(|tree| self.unsigned::<u32>(tree, "an IPv6 MTU", 1280, 65_535));
        let mut prefixes = Vec::new();
        for item in fields.optional("prefixes").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            prefixes.extend(self.advertised_prefix(item));
        }
        let mut routes = Vec::new();
        for item in fields.optional("routes").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            routes.extend(self.advertised_route(item));
        }
        Some(RouterAdvertisement {
            mac: mac?,
            source,
            lifetime,
            preference: self.preference(&fields),
            managed,
            other,
            hop_limit: hop_limit.map_or(0, |limit| limit.value),
            mtu: mtu.map(|mtu| mtu.value),
            prefixes,
            routes,
            dns: self.dns_servers(&fields),
            search: self.search(&fields),
            dns_lifetime: self.time_of(&fields, "dns-lifetime", u32::MAX),
        })
    }

    /// A router's lifetime, which has sixteen bits; `0` is the one number that needs no unit.
    fn router_lifetime(&mut self, tree: &Tree<'_>) -> Option<u16> {
        if matches!(&tree.node, Node::Scalar { text, .. } if text == "0") {
            return Some(0);
        }
        let seconds = self.seconds(tree)?;
        let fits = u16::try_from(seconds).ok();
        if fits.is_none() {
            let help = "a router's lifetime is at most 65535 seconds (RFC 8319); write `65535s`";
            self.error(Code::OutOfRange, tree.span, format!("{seconds} seconds are too long"), help);
        }
        fits
    }

    fn preference(&mut self, fields: &Fields<'_>) -> Preference {
        let words = [("low", Preference::Low), ("medium", Preference::Medium), ("high", Preference::High)];
        let word = fields.optional("preference").and_then(|tree| self.word(tree, "a preference", &words));
        word.map(|word| word.value).unwrap_or_default()
    }

    fn advertised_prefix(&mut self, tree: &Tree<'_>) -> Option<Prefix> {
        if matches!(tree.node, Node::Scalar { .. }) {
            let prefix = self.v6_prefix(tree)?;
            let autonomous = prefix.prefix_len() == 64;
            return Some(Prefix { prefix, on_link: true, autonomous, valid: 30 * DAY, preferred: 7 * DAY });
        }
        let fields =
            self.fields(tree, "a prefix", &["prefix", "on-link", "autonomous", "valid", "preferred"])?;
        let prefix = self.required(&fields, "prefix", "\"fd00::/64\"").and_then(|tree| self.v6_prefix(tree));
        let mut flag =
            |name: &str| fields.optional(name).and_then(|tree| self.boolean(tree)).map(|flag| flag.value);
        let (on_link, autonomous) = (flag("on-link"), flag("autonomous"));
        let valid = self.time_of(&fields, "valid", 30 * DAY);
        let preferred = self.time_of(&fields, "preferred", valid.min(7 * DAY));
        self.in_order(&fields, &[("preferred", Some(preferred)), ("valid", Some(valid))]);
        let prefix = prefix?;
        Some(Prefix {
            prefix,
            on_link: on_link.unwrap_or(true),
            autonomous: autonomous.unwrap_or(prefix.prefix_len() == 64),
            valid,
            preferred,
        })
    }

    fn advertised_route(&mut self, tree: &Tree<'_>) -> Option<Route> {
        if matches!(tree.node, Node::Scalar { .. }) {
            let to = self.v6_prefix(tree)?;
            return Some(Route { to, preference: Preference::Medium, lifetime: u32::MAX });
        }
        let fields = self.fields(tree, "a route", &["to", "preference", "lifetime"])?;
        let to = self.required(&fields, "to", "\"fd00:1::/48\"").and_then(|tree| self.v6_prefix(tree));
        let preference = self.preference(&fields);
        let lifetime = self.time_of(&fields, "lifetime", u32::MAX);
        Some(Route { to: to?, preference, lifetime })
    }

    fn v6_prefix(&mut self, tree: &Tree<'_>) -> Option<Ipv6Net> {
        match self.prefix(tree)?.value {
            ipnet::IpNet::V6(net) => Some(net),
            ipnet::IpNet::V4(net) => {
                let message = format!("{net} is not an IPv6 prefix");
                self.error(Code::Conflict, tree.span, message, "write an IPv6 prefix like `\"fd00::/64\"`");
                None
            }
        }
    }
}
