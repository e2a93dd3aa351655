//! Lease tables and tables of domain names as written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::decode::Decoder;
use crate::diagnostic::Code;
use crate::source::At;
use crate::tree::{Node, Tree};
use crate::value::{Mac, Name};

/// A lease table.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    /// Its name.
    pub name: At<Name>,
    /// Its entries.
    pub entries: Vec<At<LeaseEntry>>,
}

/// What one client has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseEntry {
    /// The client.
    pub mac: Mac,
    /// Its IPv4 address, for DHCP.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, for DHCPv6.
    pub v6: Option<Ipv6Addr>,
    /// Its name.
    pub host_name: Option<String>,
}

/// A table of domain names.
#[derive(Clone, Debug)]
pub struct DnsTable {
    /// Its name.
    pub name: At<Name>,
    /// What becomes of a query for a name that is not in it.
    pub unknown: UnknownNames,
    /// Its records.
    pub records: Vec<At<DnsRecord>>,
}

/// What becomes of a query for an unknown name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownNames {
    /// It is told that the name does not exist.
    #[default]
    NxDomain,
    /// It goes on to the next layer.
    Pass,
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsRecord {
    /// Whose it is.
    pub owner: DnsOwner,
    /// For how many seconds it may be remembered.
    pub ttl: u32,
    /// What it says.
    pub data: DnsData,
}

/// Whose record it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DnsOwner {
    /// A name, in lower case.
    Name(String),
    /// An address, under the name by which addresses are looked up.
    Address(IpAddr),
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsData {
    /// An address.
    Address(IpAddr),
    /// Another name for this one.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// Text.
    Txt(String),
}

/// The longest text: with its name it still fits an answer to every client that says what it takes.
const LONGEST_TEXT: usize = 900;
const DEFAULT_TTL: u32 = 60;

impl Decoder<'_> {
    pub(crate) fn lease_table(&mut self, name: At<Name>, tree: &Tree<'_>) -> LeaseTable {
        let items = self.list(tree, "leases");
        LeaseTable { name, entries: items.iter().filter_map(|item| self.lease_entry(item)).collect() }
    }

    fn lease_entry(&mut self, tree: &Tree<'_>) -> Option<At<LeaseEntry>> {
        let fields = self.fields(tree, "a lease", &["mac", "address", "host-name"])?;
        let mac = self.required(&fields, "mac", "\"02:00:00:00:00:02\"").and_then(|tree| self.mac(tree));
        let (mut v4, mut v6) = (None, None);
        if let Some(tree) = self.required(&fields, "address", "10.0.0.2") {
            for item in self.one_or_list(tree) {
                let is_second = match self.address(item)?.value {
                    IpAddr::V4(address) => v4.replace(address).is_some(),
                    IpAddr::V6(address) => v6.replace(address).is_some(),
                };
                if is_second {
                    let help = "give at most one IPv4 and one IPv6 address";
                    self.error(Code::Duplicate, item.span, "a lease has one address of each family", help);
                }
            }
        }
        let host_name = fields.optional("host-name").and_then(|tree| self.domain(tree, false));
        let mac = mac?;
        let host_name = host_name.map(|name| name.value);
        Some(At::new(LeaseEntry { mac: mac.value, v4, v6, host_name }, mac.span))
    }

    pub(crate) fn dns_table(&mut self, name: At<Name>, tree: &Tree<'_>) -> Option<DnsTable> {
        let fields = self.fields(tree, "a table of domain names", &["unknown", "records"])?;
        let words = [("nxdomain", UnknownNames::NxDomain), ("pass", UnknownNames::Pass)];
        let unknown = fields
            .optional("unknown")
            .and_then(|tree| self.word(tree, "what becomes of unknown names", &words));
        let items = fields.optional("records").map(|tree| self.list(tree, "records")).unwrap_or_default();
        let mut records = Vec::new();
        for item in items {
            self.dns_records(item, &mut records);
        }
        Some(DnsTable { name, unknown: unknown.map(|word| word.value).unwrap_or_default(), records })
    }

    /// The records that one entry stands for.
    fn dns_records(&mut self, tree: &Tree<'_>, records: &mut Vec<At<DnsRecord>>) -> Option<()> {
        let fields = self.fields(tree, "a record", &["name", "address", "cname", "ptr", "txt", "ttl"])?;
        let owner_tree = self.required(&fields, "name", "web.lan")?;
        let address = match &owner_tree.node {
            Node::Scalar { text, .. } => text.parse::<IpAddr>().ok(),
            _ => None,
        };
        let owner = match address {
            Some(address) => DnsOwner::Address(address),
            None => DnsOwner::Name(self.domain(owner_tree, true)?.value),
        };
        let ttl = self.time_of(&fields, "ttl", DEFAULT_TTL).min(i32::MAX as u32);
        let mut data = Vec::new();
        for item in fields.optional("address").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            data.extend(self.address(item).map(|address| DnsData::Address(address.value)));
        }
        if let Some(tree) = fields.optional("cname") {
            data.extend(self.domain(tree, false).map(|name| DnsData::Cname(name.value)));
        }
        for item in fields.optional("ptr").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            data.extend(self.domain(item, false).map(|name| DnsData::Ptr(name.value)));
        }
        for item in fields.optional("txt").map(|tree| self.one_or_list(tree)).unwrap_or_default() {
            let text = self.text(item, "a text")?;
            if text.len() > LONGEST_TEXT {
                let message = format!("this text has {} bytes", text.len());
                self.error(
                    Code::OutOfRange,
                    item.span,
                    message,
                    format!("at most {LONGEST_TEXT} are possible"),
                );
            }
            data.push(DnsData::Txt(text.to_string()));
        }
        let is_given = ["address", "cname", "ptr", "txt"].iter().any(|name| fields.optional(name).is_some());
        if !is_given {
            let help = "give `address`, `cname`, `ptr` or `txt`";
            self.error(Code::MissingField, fields.head(), "this record says nothing", help);
        }
        records.extend(
            data.into_iter()
                .map(|data| At::new(DnsRecord { owner: owner.clone(), ttl, data }, owner_tree.span)),
        );
        Some(())
    }
}
