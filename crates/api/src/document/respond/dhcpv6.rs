//! A DHCPv6 server as written.

use std::net::Ipv6Addr;

use super::DhcpOption;
use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::Tree;
use crate::value::{Mac, Name};

/// A DHCPv6 server. Times are in seconds, `u32::MAX` is for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcpv6 {
    /// Link address of the server; its DUID is made from it.
    pub mac: Mac,
    /// Link-local address of the server; `None` makes it from `mac`.
    pub source: Option<Ipv6Addr>,
    /// Who gets which address.
    pub lease: Dhcpv6Lease,
    /// For how long an address begins new conversations.
    pub preferred: u32,
    /// For how long an address holds.
    pub valid: u32,
    /// When a client renews; 0 leaves it to the client.
    pub renew: u32,
    /// When a client rebinds; 0 leaves it to the client.
    pub rebind: u32,
    /// Whether a client may get its address in two messages.
    pub rapid_commit: bool,
    /// DNS servers, best first.
    pub dns: Vec<Ipv6Addr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Other options.
    pub options: Vec<At<DhcpOption>>,
}

/// Who gets which IPv6 address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dhcpv6Lease {
    /// Nobody: configuration only.
    None,
    /// The client of the port gets this one.
    Fixed(Ipv6Addr),
    /// Each MAC gets its own.
    Table(At<Name>),
}

const HOUR: u32 = 3600;

/// DHCPv6 options that have a field of their own, or belong to the protocol.
const DHCPV6_RESERVED: &[(u16, &str)] = &[
    (0, "it has no meaning"),
    (1, "the client's own is repeated"),
    (2, "it is made from `mac`"),
    (3, "write `address` or `leases`"),
    (4, "temporary addresses are not supported"),
    (5, "write `address` or `leases`"),
    (6, "only clients send it"),
    (7, "it is always 255"),
    (9, "relays are not supported"),
    (13, "it says what became of a request"),
    (14, "write `rapid-commit`"),
    (23, "write `dns`"),
    (24, "write `search`"),
    (25, "prefixes cannot be delegated"),
];

impl Decoder<'_> {
    pub(super) fn dhcpv6(&mut self, tree: &Tree<'_>) -> Option<Dhcpv6> {
        const KNOWN: [&str; 12] = [
            "mac",
            "source",
            "address",
            "leases",
            "preferred",
            "valid",
            "renew",
            "rebind",
            "rapid-commit",
            "dns",
            "search",
            "options",
        ];
        let fields = self.fields(tree, "dhcpv6", &KNOWN)?;
        let mac = self.server_mac(&fields);
        let source = self.link_local(&fields);
        let lease = match (fields.optional("address"), fields.optional("leases")) {
            (None, None) => Some(Dhcpv6Lease::None),
            (Some(tree), None) => self.unicast_v6(tree).map(Dhcpv6Lease::Fixed),
            (None, Some(tree)) => self.name(tree).map(Dhcpv6Lease::Table),
            (Some(_), Some(_)) => {
                let message = "a DHCPv6 server gives one address, or those of a lease table";
                self.error(Code::Conflict, fields.head(), message, "give `address` or `leases`, not both");
                None
            }
        };
        let preferred = self.time_of(&fields, "preferred", HOUR);
        let valid = self.time_of(&fields, "valid", preferred.saturating_mul(2));
        let renew = fields.optional("renew").and_then(|tree| self.seconds(tree));
        let rebind = fields.optional("rebind").and_then(|tree| self.seconds(tree));
        let order =
            [("renew", renew), ("rebind", rebind), ("preferred", Some(preferred)), ("valid", Some(valid))];
        self.in_order(&fields, &order);
        let rapid_commit = fields.optional("rapid-commit").and_then(|tree| self.boolean(tree));
        let (dns, search) = (self.dns_servers(&fields), self.search(&fields));
        let options = self.dhcp_options(&fields, u16::MAX, DHCPV6_RESERVED);
        Some(Dhcpv6 {
            mac: mac?,
            source,
            lease: lease?,
            preferred,
            valid,
            renew: renew.unwrap_or(0),
            rebind: rebind.unwrap_or(0),
            rapid_commit: rapid_commit.is_none_or(|value| value.value),
            dns,
            search,
            options,
        })
    }
}
