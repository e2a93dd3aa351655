//! DHCPv6 (RFC 8415), answered from policy: one address for each client (IA_NA), and configuration.
//!
//! As with DHCP for IPv4, a lease is a fact of policy and nothing is remembered, so every answer follows from the
//! message alone: SOLICIT (with rapid commit where policy allows it), REQUEST, CONFIRM, RENEW, REBIND, RELEASE,
//! DECLINE and INFORMATION-REQUEST. The server's DUID is made from its MAC (DUID-LL, §11.4), so it survives
//! whatever happens to the host.
//!
//! Not supported: temporary addresses and delegated prefixes (both are refused by status), relays, authentication,
//! reconfiguration.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::message::{Datagram, Ends, Macs, Writer};
use super::{Answered, Packet, Parsed};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{IpPair, Ports};

/// The port that servers and relays listen on.
pub const DHCPV6_SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
/// The longest message: what every IPv6 link carries (1,280 bytes) without IPv6 and UDP headers.
pub const LONGEST_DHCPV6: usize = 1280 - 48;

/// What a server says to all its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcpv6Server {
    /// The link address that answers come from; the server's DUID is made from it.
    pub mac: MacAddr,
    /// The link-local address that answers come from.
    pub source: Ipv6Addr,
    /// For how many seconds an address begins new conversations; `u32::MAX` is for ever.
    pub preferred_seconds: u32,
    /// For how many seconds an address holds, not less.
    pub valid_seconds: u32,
    /// When a client renews and rebinds, in seconds (T1, T2); 0 leaves it to the client.
    pub renew_seconds: u32,
    /// See `renew_seconds`.
    pub rebind_seconds: u32,
    /// A client that asks for it gets its address in two messages instead of four.
    pub rapid_commit: bool,
    /// Options for the client's configuration, in order of importance. At most one of each code.
    pub options: Vec<Dhcpv6Option>,
}

/// An option as it stands in a message, without code and length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dhcpv6Option {
    /// What it is.
    pub code: u16,
    /// Its value.
    pub value: Box<[u8]>,
}

impl Dhcpv6Option {
    /// DNS servers (23, RFC 3646).
    pub fn dns_servers(servers: &[Ipv6Addr]) -> Self {
        let value = servers.iter().flat_map(|server| server.octets()).collect();
        Dhcpv6Option { code: v6_code::DNS_SERVERS, value }
    }

    /// Search domains, each as labels on the wire (24, RFC 3646).
    pub fn search(domains: &[Box<[u8]>]) -> Self {
        Dhcpv6Option { code: v6_code::SEARCH, value: domains.concat().into() }
    }
}

/// Option codes that have a meaning here.
pub mod v6_code {
    /// The client's DUID.
    pub const CLIENT_ID: u16 = 1;
    /// The server's DUID.
    pub const SERVER_ID: u16 = 2;
    /// Addresses that are not temporary.
    pub const IA_NA: u16 = 3;
    /// Temporary addresses.
    pub const IA_TA: u16 = 4;
    /// One address of an IA.
    pub const IA_ADDRESS: u16 = 5;
    /// Options that the client asks for.
    pub const REQUESTED_OPTIONS: u16 = 6;
    /// How a client is to choose among servers.
    pub const PREFERENCE: u16 = 7;
    /// What became of the request.
    pub const STATUS: u16 = 13;
    /// Two messages instead of four.
    pub const RAPID_COMMIT: u16 = 14;
    /// DNS servers.
    pub const DNS_SERVERS: u16 = 23;
    /// Search domains.
    pub const SEARCH: u16 = 24;
    /// Delegated prefixes.
    pub const IA_PD: u16 = 25;
}

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;

const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NO_BINDING: u16 = 3;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIXES: u16 = 6;

/// Turns a client's message into the answer of `server`; `lease` says which address a client has by its MAC. A client
/// without a lease is told so where it asks for an address.
pub fn reply_dhcpv6(
    packet: &mut Packet,
    parsed: &Parsed,
    server: &Dhcpv6Server,
    lease: impl FnOnce(MacAddr) -> Option<Ipv6Addr>,
) -> Result<Answered, DropReason> {
    let datagram = Datagram::read(packet, parsed)?;
    let IpPair::V6 { src, .. } = datagram.addresses else { return Err(DropReason::CannotRespond) };
    // Clients use their link-local address (§7.2); a relay's message is of another type.
    if datagram.ports.dst != DHCPV6_SERVER_PORT || !src.is_unicast_link_local() {
        return Err(DropReason::CannotRespond);
    }
    let request = Request::read(datagram.message)?;
    let duid = duid(server.mac);
    // Which messages name a server, and which must not (§16).
    let names_right_server = match request.kind {
        SOLICIT | CONFIRM | REBIND => request.server.is_none(),
        REQUEST | RENEW | RELEASE | DECLINE => request.server == Some(&duid[..]),
        INFORMATION_REQUEST => request.server.is_none_or(|id| id == duid),
        _ => return Err(DropReason::CannotRespond),
    };
    if !names_right_server {
        return Err(DropReason::CannotRespond);
    }
    if request.client.is_none() && request.kind != INFORMATION_REQUEST {
        return Err(DropReason::BadDhcp);
    }
    // A CONFIRM without addresses cannot be judged and gets no answer (§18.3.3).
    if request.kind == CONFIRM && request.addresses().next().is_none() {
        return Err(DropReason::CannotRespond);
    }
    let lease = lease(datagram.l2.src);
    let mut writer = datagram.writer(LONGEST_DHCPV6);
    write(&mut writer, &request, server, &duid, lease);
    let ends = Ends {
        macs: Macs { src: server.mac, dst: datagram.l2.src },
        addresses: IpPair::V6 { src: server.source, dst: src },
        ports: Ports { src: DHCPV6_SERVER_PORT, dst: CLIENT_PORT },
    };
    writer.send_udp(packet, &ends)?;
    Ok(Answered::Reply)
}

/// DUID-LL: type 3, hardware type Ethernet, the MAC (§11.4).
fn duid(mac: MacAddr) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// A client's message.
struct Request<'a> {
    kind: u8,
    transaction: &'a [u8],
    options: &'a [u8],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DropReason> {
        let (header, options) = message.split_at_checked(4).ok_or(DropReason::BadDhcp)?;
        if !is_well_formed(options) {
            return Err(DropReason::BadDhcp);
        }
        // Every IA has its id, times and well-formed options; every address in it is whole.
        for (code, value) in iterate(options) {
            let is_whole = match ia_header(code) {
                None => true,
                Some(header) => value.get(header..).is_some_and(|inner| {
                    is_well_formed(inner)
                        && iterate(inner)
                            .all(|(code, value)| code != v6_code::IA_ADDRESS || value.len() >= 24)
                }),
            };
            if !is_whole {
                return Err(DropReason::BadDhcp);
            }
        }
        let find = |wanted| iterate(options).find(|(code, _)| *code == wanted).map(|(_, value)| value);
        Ok(Request {
            kind: header[0],
            transaction: &header[1..4],
            options,
            client: find(v6_code::CLIENT_ID),
            server: find(v6_code::SERVER_ID),
        })
    }

    fn has(&self, wanted: u16) -> bool {
        iterate(self.options).any(|(code, _)| code == wanted)
    }

    /// The addresses of all its IA_NAs.
    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        iterate(self.options)
            .filter(|(code, _)| *code == v6_code::IA_NA)
            .flat_map(|(_, value)| addresses(value.get(12..).unwrap_or(&[])))
    }
}

/// Bytes in front of the options of an IA; `None` for what is no IA.
fn ia_header(code: u16) -> Option<usize> {
    match code {
        v6_code::IA_NA | v6_code::IA_PD => Some(12),
        v6_code::IA_TA => Some(4),
        _ => None,
    }
}

/// The addresses among the options of an IA.
fn addresses(options: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    iterate(options)
        .filter(|(code, _)| *code == v6_code::IA_ADDRESS)
        .filter_map(|(_, value)| value.first_chunk::<16>())
        .map(|octets| Ipv6Addr::from(*octets))
}

/// The options in `area`, up to the first that is cut off.
fn iterate(mut area: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let (header, after) = area.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u16::from_be_bytes([header[2], header[3]]) as usize)?;
        area = after;
        Some((u16::from_be_bytes([header[0], header[1]]), value))
    })
}

fn is_well_formed(area: &[u8]) -> bool {
    iterate(area).map(|(_, value)| 4 + value.len()).sum::<usize>() == area.len()
}

fn write(
    writer: &mut Writer,
    request: &Request<'_>,
    server: &Dhcpv6Server,
    duid: &[u8],
    lease: Option<Ipv6Addr>,
) {
    let is_rapid = request.kind == SOLICIT && server.rapid_commit && request.has(v6_code::RAPID_COMMIT);
    let kind = if request.kind == SOLICIT && !is_rapid { ADVERTISE } else { REPLY };
    writer.put(&[kind]);
    writer.put(request.transaction);
    if let Some(client) = request.client {
        put(writer, v6_code::CLIENT_ID, &[client]);
    }
    put(writer, v6_code::SERVER_ID, &[duid]);
    if is_rapid {
        put(writer, v6_code::RAPID_COMMIT, &[]);
    }
    match request.kind {
        SOLICIT | REQUEST | RENEW | REBIND => {
            // There is no other server to wait for (§18.2.1).
            if kind == ADVERTISE {
                put(writer, v6_code::PREFERENCE, &[&[255]]);
            }
            put_associations(writer, request, server, lease);
        }
        CONFIRM => {
            let is_on_link = request.addresses().all(|address| Some(address) == lease);
            put_status(writer, if is_on_link { SUCCESS } else { NOT_ON_LINK });
            return;
        }
        RELEASE | DECLINE => {
            put_status(writer, SUCCESS);
            return;
        }
        _ => {}
    }
    let requested = iterate(request.options).find(|(code, _)| *code == v6_code::REQUESTED_OPTIONS);
    let requested = requested.map(|(_, value)| value);
    for option in &server.options {
        let is_wanted = requested.is_none_or(|list| {
            list.chunks_exact(2).any(|code| u16::from_be_bytes([code[0], code[1]]) == option.code)
        });
        if is_wanted {
            put(writer, option.code, &[&option.value]);
        }
    }
}

/// Answers every IA: the first IA_NA gets the client's address, addresses that are not the client's are ended, and
/// what cannot be given is refused by status.
fn put_associations(
    writer: &mut Writer,
    request: &Request<'_>,
    server: &Dhcpv6Server,
    lease: Option<Ipv6Addr>,
) {
    let mut lease = lease;
    for (code, value) in iterate(request.options) {
        let id = value.get(..4).unwrap_or(&[0; 4]);
        match code {
            v6_code::IA_NA => {
                let start = writer.message_len();
                let own = lease.take();
                let times = match own {
                    Some(_) => [server.renew_seconds, server.rebind_seconds],
                    None => [0, 0],
                };
                put(writer, v6_code::IA_NA, &[id, times.map(u32::to_be_bytes).as_flattened()]);
                if let Some(own) = own {
                    put_address(writer, own, [server.preferred_seconds, server.valid_seconds]);
                }
                if matches!(request.kind, RENEW | REBIND | REQUEST) {
                    for other in addresses(value.get(12..).unwrap_or(&[])).filter(|other| Some(*other) != own)
                    {
                        put_address(writer, other, [0, 0]);
                    }
                }
                if own.is_none() {
                    let renews = matches!(request.kind, RENEW | REBIND);
                    put_status(writer, if renews { NO_BINDING } else { NO_ADDRESSES });
                }
                close(writer, start);
            }
            v6_code::IA_TA => {
                let start = writer.message_len();
                put(writer, code, &[id]);
                put_status(writer, NO_ADDRESSES);
                close(writer, start);
            }
            v6_code::IA_PD => {
                let start = writer.message_len();
                put(writer, code, &[id, &[0; 8]]);
                put_status(writer, NO_PREFIXES);
                close(writer, start);
            }
            _ => {}
        }
    }
}

fn put_address(writer: &mut Writer, address: Ipv6Addr, times: [u32; 2]) {
    put(writer, v6_code::IA_ADDRESS, &[&address.octets(), times.map(u32::to_be_bytes).as_flattened()]);
}

fn put_status(writer: &mut Writer, status: u16) {
    put(writer, v6_code::STATUS, &[&status.to_be_bytes()]);
}

fn put(writer: &mut Writer, code: u16, value: &[&[u8]]) {
    let length: usize = value.iter().map(|part| part.len()).sum();
    writer.put(&code.to_be_bytes());
    writer.put(&(length as u16).to_be_bytes());
    value.iter().for_each(|part| writer.put(part));
}

/// Writes the length of the option that starts at byte `start` of the message and ends here.
fn close(writer: &mut Writer, start: usize) {
    let length = (writer.message_len() - start).saturating_sub(4) as u16;
    if let Some(field) = writer.message_mut().get_mut(start + 2..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}
