//! A DHCP server as written, and options by their number, which DHCPv6 has too.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::decode::{Decoder, Fields};
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Tree, shortened};
use crate::value::{Mac, Name};

/// A DHCP server. Times are in seconds, `u32::MAX` is for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcp {
    /// Link address of the server.
    pub mac: Mac,
    /// Address and identifier of the server.
    pub server: Ipv4Addr,
    /// Who gets which address.
    pub lease: DhcpLease,
    /// How long a lease lasts.
    pub time: u32,
    /// When a client renews; `None` leaves it to the client.
    pub renew: Option<u32>,
    /// When a client rebinds; `None` leaves it to the client.
    pub rebind: Option<u32>,
    /// Routers, best first.
    pub routers: Vec<Ipv4Addr>,
    /// DNS servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// MTU of the client's interface.
    pub mtu: Option<u16>,
    /// Routes: destination and gateway.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Other options.
    pub options: Vec<At<DhcpOption>>,
}

/// Who gets which IPv4 address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DhcpLease {
    /// The client of the port gets this one.
    Fixed {
        /// The address, with the prefix length of its subnet.
        address: Ipv4Net,
        /// The client's name.
        host_name: Option<String>,
    },
    /// Each MAC gets its own.
    Table {
        /// The lease table.
        leases: At<Name>,
        /// The prefix length of the subnet.
        prefix_len: u8,
    },
}

/// An option by its number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DhcpOption {
    /// The number.
    pub code: u16,
    /// The value.
    pub value: Vec<u8>,
}

const HOUR: u32 = 3600;

/// DHCP options that have a field of their own, or belong to the protocol.
const DHCP_RESERVED: &[(u16, &str)] = &[
    (0, "it is padding"),
    (1, "the subnet mask comes from `address` or `prefix-length`"),
    (3, "write `router`"),
    (6, "write `dns`"),
    (12, "write `host-name`"),
    (15, "write `domain`"),
    (26, "write `mtu`"),
    (50, "only clients send it"),
    (51, "write `time`"),
    (52, "options in other fields are not supported"),
    (53, "it is the type of the message"),
    (54, "write `server`"),
    (55, "only clients send it"),
    (57, "only clients send it"),
    (58, "write `renew`"),
    (59, "write `rebind`"),
    (61, "the client's own is repeated"),
    (82, "the relay's own is repeated"),
    (121, "write `routes`"),
];

impl Decoder<'_> {
    pub(super) fn dhcp(&mut self, tree: &Tree<'_>) -> Option<Dhcp> {
        const KNOWN: [&str; 15] = [
            "mac",
            "server",
            "address",
            "host-name",
            "leases",
            "prefix-length",
            "time",
            "renew",
            "rebind",
            "router",
            "dns",
            "domain",
            "mtu",
            "routes",
            "options",
        ];
        let fields = self.fields(tree, "dhcp", &KNOWN)?;
        let mac = self.server_mac(&fields);
        let server = self.required(&fields, "server", "10.0.0.254");
        let server = server.and_then(|tree| self.unicast_v4(tree));
        let lease = self.dhcp_lease(&fields);
        let time = self.time_of(&fields, "time", HOUR);
        let renew = fields.optional("renew").and_then(|tree| self.seconds(tree));
        let rebind = fields.optional("rebind").and_then(|tree| self.seconds(tree));
        self.in_order(&fields, &[("renew", renew), ("rebind", rebind), ("time", Some(time))]);
        let mut addresses = |name: &str| -> Vec<Ipv4Addr> {
            let items = fields.optional(name).map(|tree| self.one_or_list(tree)).unwrap_or_default();
            items.iter().filter_map(|item| self.unicast_v4(item)).collect()
        };
        let (routers, dns) = (addresses("router"), addresses("dns"));
        let domain = fields.optional("domain").and_then(|tree| self.domain(tree, false));
        let mtu = fields.optional("mtu").and_then(|tree| self.unsigned::<u16>(tree, "an MTU", 68, u16::MAX));
        let mut routes = Vec::new();
        for item in fields.optional("routes").map(|tree| self.list(tree, "routes")).unwrap_or_default() {
            routes.extend(self.dhcp_route(item));
        }
        let options = self.dhcp_options(&fields, u16::from(u8::MAX) - 1, DHCP_RESERVED);
        Some(Dhcp {
            mac: mac?,
            server: server?,
            lease: lease?,
            time,
            renew,
            rebind,
            routers,
            dns,
            domain: domain.map(|domain| domain.value),
            mtu: mtu.map(|mtu| mtu.value),
            routes,
            options,
        })
    }

    fn dhcp_lease(&mut self, fields: &Fields<'_>) -> Option<DhcpLease> {
        let host_name = fields.optional("host-name").map(|tree| self.domain(tree, false));
        match (fields.optional("address"), fields.optional("leases")) {
            (Some(tree), None) => {
                let text = self.text(tree, "an address with its prefix length")?;
                let net =
                    text.parse::<Ipv4Net>().ok().filter(|net| text.contains('/') && net.prefix_len() > 0);
                let Some(address) = net else {
                    let message =
                        format!("`{}` is not an IPv4 address with its prefix length", shortened(text));
                    self.error(Code::BadValue, tree.span, message, "write it like `10.0.0.1/24`");
                    return None;
                };
                if let Some(span) = fields.key_span("prefix-length") {
                    let help = "write it behind the address: `10.0.0.1/24`";
                    self.error(Code::Conflict, span, "`prefix-length` belongs to `leases`", help);
                }
                let host_name = host_name.map_or(Some(None), |name| name.map(|name| Some(name.value)))?;
                Some(DhcpLease::Fixed { address, host_name })
            }
            (None, Some(tree)) => {
                if let Some(span) = fields.key_span("host-name") {
                    let help = "write it in the entries of the lease table";
                    self.error(Code::Conflict, span, "`host-name` belongs to `address`", help);
                }
                let leases = self.name(tree);
                let prefix_len = self.required(fields, "prefix-length", "24");
                let prefix_len =
                    prefix_len.and_then(|tree| self.unsigned::<u8>(tree, "an IPv4 prefix length", 1, 32));
                Some(DhcpLease::Table { leases: leases?, prefix_len: prefix_len?.value })
            }
            _ => {
                let help = "give `address: 10.0.0.1/24`, or `leases: NAME` and `prefix-length`";
                let message = "a DHCP server gives one address, or those of a lease table";
                self.error(Code::MissingField, fields.head(), message, help);
                None
            }
        }
    }

    fn dhcp_route(&mut self, tree: &Tree<'_>) -> Option<(Ipv4Net, Ipv4Addr)> {
        let fields = self.fields(tree, "a route", &["to", "via"])?;
        let to = self.required(&fields, "to", "10.0.0.0/8").and_then(|tree| {
            let prefix = self.prefix(tree)?;
            match prefix.value {
                ipnet::IpNet::V4(net) => Some(net),
                ipnet::IpNet::V6(_) => {
                    self.error(
                        Code::Conflict,
                        tree.span,
                        "DHCP has IPv4 routes only",
                        "write an IPv4 prefix",
                    );
                    None
                }
            }
        });
        let via = self.required(&fields, "via", "10.0.0.254").and_then(|tree| self.v4(tree));
        Some((to?, via?))
    }

    pub(super) fn dhcp_options(
        &mut self,
        fields: &Fields<'_>,
        largest: u16,
        reserved: &[(u16, &str)],
    ) -> Vec<At<DhcpOption>> {
        let items = fields.optional("options").map(|tree| self.list(tree, "options")).unwrap_or_default();
        let mut options: Vec<At<DhcpOption>> = Vec::with_capacity(items.len());
        for item in items {
            let Some(option) = self.dhcp_option(item, largest) else { continue };
            let code = option.value.code;
            if let Some((_, help)) = reserved.iter().find(|(reserved, _)| *reserved == code) {
                let message = format!("option {code} cannot be given by its number");
                self.error(Code::Conflict, option.span, message, *help);
            }
            if options.iter().any(|other| other.value.code == code) {
                let message = format!("option {code} is given twice");
                self.error(Code::Duplicate, option.span, message, "keep one of them");
            }
            options.push(option);
        }
        options
    }

    fn dhcp_option(&mut self, tree: &Tree<'_>, largest: u16) -> Option<At<DhcpOption>> {
        let fields = self.fields(tree, "an option", &["code", "text", "hex", "addresses"])?;
        let code = self.required(&fields, "code", "42");
        let code = code.and_then(|tree| self.unsigned::<u16>(tree, "an option's number", 0, largest))?;
        let given = ["text", "hex", "addresses"].map(|name| fields.optional(name));
        let value = match given {
            [Some(tree), None, None] => self.text(tree, "a text")?.as_bytes().to_vec(),
            [None, Some(tree), None] => {
                let text = self.text(tree, "bytes in hexadecimal")?;
                let Some(bytes) = hex(text) else {
                    let help = "write pairs of hexadecimal digits, with or without colons: `\"0a:1b\"`";
                    let message = format!("`{}` is not hexadecimal", shortened(text));
                    self.error(Code::BadValue, tree.span, message, help);
                    return None;
                };
                bytes
            }
            [None, None, Some(tree)] => {
                let items = self.one_or_list(tree);
                let addresses = items.iter().filter_map(|item| self.address(item));
                let octets = |address: At<IpAddr>| match address.value {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                addresses.flat_map(octets).collect()
            }
            _ => {
                let message = "an option has one value";
                let help = "give exactly one of `text`, `hex` and `addresses`";
                self.error(Code::MissingField, fields.head(), message, help);
                return None;
            }
        };
        if !(1..=255).contains(&value.len()) {
            let message = format!("the value of option {} has {} bytes", code.value, value.len());
            self.error(Code::OutOfRange, tree.span, message, "1 to 255 bytes are possible");
            return None;
        }
        Some(At::new(DhcpOption { code: code.value, value }, code.span))
    }
}

/// The bytes that `text` is in hexadecimal, with or without colons between them.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.split(':').collect();
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}
