//! DHCP for IPv4 (RFC 2131), answered from policy: which address a client has was decided before it asked.
//!
//! There is no pool and no lease that is remembered: a lease is a fact of policy, so the answer to the same message
//! is always the same, and DISCOVER, REQUEST in every state of the client (selecting, rebooting, renewing,
//! rebinding) and INFORM differ only in what is checked. RELEASE and DECLINE change nothing and are taken in
//! silence, as RFC 2131 has it. The responder stands for the only server of the link: a REQUEST for another
//! address or to another server is refused (NAK), so that the client asks anew.
//!
//! Not supported: options in the `sname` and `file` fields of an answer (overload); BOOTP without DHCP; hardware
//! that is not Ethernet.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::message::{Datagram, Ends, Macs, Writer};
use super::{Answered, Packet, Parsed};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{IpPair, Ports};

/// The port that servers and relays listen on.
pub const DHCP_SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// What a server says to all its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DhcpServer {
    /// The link address that answers come from.
    pub mac: MacAddr,
    /// The address that answers come from, and the server identifier.
    pub address: Ipv4Addr,
    /// The prefix length of the clients' subnet.
    pub prefix_len: u8,
    /// How long a lease lasts, in seconds; `u32::MAX` is for ever.
    pub lease_seconds: u32,
    /// When a client renews and rebinds, in seconds after it got its lease (T1, T2); `None` leaves it to the client.
    pub renew_seconds: Option<u32>,
    /// See `renew_seconds`.
    pub rebind_seconds: Option<u32>,
    /// Options for the client's configuration, in order of importance. At most one of each code.
    pub options: Vec<DhcpOption>,
}

/// What a server says to one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DhcpLease<'a> {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name.
    pub host_name: Option<&'a str>,
}

/// An option as it stands in a message (RFC 2132), without code and length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DhcpOption {
    /// What it is.
    pub code: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

impl DhcpOption {
    /// An option whose value is a list of addresses: routers (3), DNS servers (6), time servers (42) and others.
    pub fn addresses(code: u8, addresses: &[Ipv4Addr]) -> Self {
        DhcpOption { code, value: addresses.iter().flat_map(|address| address.octets()).collect() }
    }

    /// An option whose value is text: the domain name (15) and others.
    pub fn text(code: u8, text: &str) -> Self {
        DhcpOption { code, value: text.as_bytes().into() }
    }

    /// The MTU of the client's interface (26).
    pub fn mtu(mtu: u16) -> Self {
        DhcpOption { code: code::MTU, value: mtu.to_be_bytes().into() }
    }

    /// Routes: destination and gateway (121, RFC 3442). A gateway 0.0.0.0 is the link itself.
    pub fn routes(routes: &[(Ipv4Net, Ipv4Addr)]) -> Self {
        let mut value = Vec::new();
        for (to, via) in routes {
            let significant = to.prefix_len().div_ceil(8) as usize;
            value.push(to.prefix_len());
            value.extend(&to.network().octets()[..significant]);
            value.extend(via.octets());
        }
        DhcpOption { code: code::ROUTES, value: value.into() }
    }
}

/// Option codes that have a meaning here (RFC 2132, and the RFC named beside).
pub mod code {
    /// Subnet mask.
    pub const MASK: u8 = 1;
    /// Routers.
    pub const ROUTERS: u8 = 3;
    /// DNS servers.
    pub const DNS_SERVERS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN: u8 = 15;
    /// Interface MTU.
    pub const MTU: u8 = 26;
    /// Requested address.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time.
    pub const LEASE_TIME: u8 = 51;
    /// Option overload.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// Parameter request list.
    pub const REQUESTED_OPTIONS: u8 = 55;
    /// The largest message that the client takes, in bytes of IP packet.
    pub const LARGEST_MESSAGE: u8 = 57;
    /// T1.
    pub const RENEW_TIME: u8 = 58;
    /// T2.
    pub const REBIND_TIME: u8 = 59;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// What a relay adds (RFC 3046).
    pub const RELAY_INFORMATION: u8 = 82;
    /// Classless static routes (RFC 3442).
    pub const ROUTES: u8 = 121;
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// BOOTP's fixed fields, then the cookie that says that options follow (RFC 2131 §3).
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP messages are never shorter (RFC 951), and some relays drop shorter ones.
const SHORTEST: usize = 300;
/// What every client takes: an IP packet of 576 bytes (RFC 2131 §2).
const USUAL_LARGEST: usize = 576;

/// Turns a client's message into the answer of `server`; `lease` says what a client has by its hardware address.
/// A client without a lease is [`DropReason::NoLease`].
pub fn reply_dhcp<'l>(
    packet: &mut Packet,
    parsed: &Parsed,
    server: &DhcpServer,
    lease: impl FnOnce(MacAddr) -> Option<DhcpLease<'l>>,
) -> Result<Answered, DropReason> {
    let datagram = Datagram::read(packet, parsed)?;
    let IpPair::V4 { .. } = datagram.addresses else { return Err(DropReason::CannotRespond) };
    if datagram.ports.dst != DHCP_SERVER_PORT {
        return Err(DropReason::CannotRespond);
    }
    let request = Request::read(datagram.message)?;
    if matches!(request.kind, RELEASE | DECLINE) {
        return Ok(Answered::Consumed);
    }
    let lease = lease(request.client).ok_or(DropReason::NoLease)?;
    let answer = match request.kind {
        DISCOVER => OFFER,
        INFORM => ACK,
        REQUEST => {
            let asks_us = request.server.is_none_or(|id| id == server.address);
            if asks_us && request.wanted() == lease.address { ACK } else { NAK }
        }
        _ => return Err(DropReason::CannotRespond),
    };
    let (writer, ends) = write(&datagram, &request, server, &lease, answer);
    writer.send_udp(packet, &ends)?;
    Ok(Answered::Reply)
}

/// A client's message.
struct Request<'a> {
    fixed: &'a [u8],
    options: Options<'a>,
    kind: u8,
    client: MacAddr,
    /// The address that it says it has.
    has: Ipv4Addr,
    relay: Ipv4Addr,
    server: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    wants_broadcast: bool,
}

impl<'a> Request<'a> {
    fn read(message: &'a [u8]) -> Result<Self, DropReason> {
        let bad = DropReason::BadDhcp;
        let (fixed, rest) = message.split_at_checked(FIXED).ok_or(bad)?;
        // A request, of Ethernet, with addresses of six bytes.
        if fixed[..3] != [1, 1, 6] {
            return Err(bad);
        }
        let options = Options::of(fixed, rest.strip_prefix(&COOKIE).ok_or(bad)?).ok_or(bad)?;
        let [kind] = *options.find(code::MESSAGE_TYPE).ok_or(bad)? else { return Err(bad) };
        let address = |code| match options.find(code) {
            None => Ok(None),
            Some(value) => address(value).map(Some).ok_or(bad),
        };
        let client = MacAddr(*fixed[28..].first_chunk().ok_or(bad)?);
        if client.is_multicast() || client == MacAddr::ZERO {
            return Err(bad);
        }
        Ok(Request {
            kind,
            client,
            has: self::address(&fixed[12..16]).ok_or(bad)?,
            relay: self::address(&fixed[24..28]).ok_or(bad)?,
            server: address(code::SERVER_ID)?,
            requested: address(code::REQUESTED_ADDRESS)?,
            wants_broadcast: fixed[10] & 0x80 != 0,
            fixed,
            options,
        })
    }

    /// The address that a REQUEST is about: the one asked for, or while renewing the one in use.
    fn wanted(&self) -> Ipv4Addr {
        self.requested.unwrap_or(self.has)
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// The options of a message: those behind the cookie, and those that overload the fields `file` and `sname`.
#[derive(Clone, Copy)]
struct Options<'a> {
    areas: [&'a [u8]; 3],
}

impl<'a> Options<'a> {
    /// `None` when an option reaches beyond its area.
    fn of(fixed: &'a [u8], options: &'a [u8]) -> Option<Self> {
        let mut all = Options { areas: [options, &[], &[]] };
        let overload = all.find(code::OVERLOAD).and_then(|value| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            all.areas[1] = fixed.get(108..236)?;
        }
        if overload & 2 != 0 {
            all.areas[2] = fixed.get(44..108)?;
        }
        all.areas.iter().all(|area| is_well_formed(area)).then_some(all)
    }

    /// The first option of this code.
    fn find(&self, wanted: u8) -> Option<&'a [u8]> {
        self.areas.iter().find_map(|area| {
            let mut rest = *area;
            while let Some((code, value, after)) = next_option(rest) {
                if code == wanted {
                    return Some(value);
                }
                rest = after;
            }
            None
        })
    }
}

/// The first option of `area`, and what follows it; `None` at its end.
fn next_option(mut area: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    loop {
        match *area {
            // Padding.
            [0, ref after @ ..] => area = after,
            [255, ..] | [] => return None,
            [code, length, ref after @ ..] => {
                let (value, after) = after.split_at_checked(length as usize)?;
                return Some((code, value, after));
            }
            [_] => return None,
        }
    }
}

/// True when every option lies inside `area`. The end mark may be missing.
fn is_well_formed(mut area: &[u8]) -> bool {
    loop {
        match *area {
            [0, ref after @ ..] => area = after,
            [255, ..] | [] => return true,
            [_, length, ref after @ ..] => match after.get(length as usize..) {
                Some(after) => area = after,
                None => return false,
            },
            [_] => return false,
        }
    }
}

fn write(
    datagram: &Datagram<'_>,
    request: &Request<'_>,
    server: &DhcpServer,
    lease: &DhcpLease<'_>,
    answer: u8,
) -> (Writer, Ends) {
    let gives_address = answer == OFFER || (answer == ACK && request.kind == REQUEST);
    let is_relayed = !request.relay.is_unspecified();
    let yours = if gives_address { lease.address } else { Ipv4Addr::UNSPECIFIED };
    let largest = request.options.find(code::LARGEST_MESSAGE).and_then(|value| value.try_into().ok());
    let largest =
        largest.map_or(USUAL_LARGEST, |value| (u16::from_be_bytes(value) as usize).max(USUAL_LARGEST));
    let mut writer = datagram.writer(largest - 28);

    // op, htype, hlen, hops; transaction id; seconds; flags; ciaddr; yiaddr; siaddr; giaddr; chaddr.
    writer.put(&[2, 1, 6, 0]);
    writer.put(&request.fixed[4..8]);
    writer.put(&[0, 0]);
    // A client that is refused does not have the address that a relay would send to (RFC 2131 §4.3.2).
    let must_broadcast = answer == NAK && is_relayed;
    writer.put(&[request.fixed[10] | if must_broadcast { 0x80 } else { 0 }, request.fixed[11]]);
    writer.put(&if answer == NAK { [0; 4] } else { request.has.octets() });
    writer.put(&yours.octets());
    writer.put(&[0; 4]);
    writer.put(&request.fixed[24..34]);
    // The rest of `chaddr`, `sname`, `file`.
    writer.put(&[0; 10 + 64 + 128]);
    writer.put(&COOKIE);
    put(&mut writer, code::MESSAGE_TYPE, &[answer]);
    put(&mut writer, code::SERVER_ID, &server.address.octets());
    if gives_address {
        put(&mut writer, code::LEASE_TIME, &server.lease_seconds.to_be_bytes());
        let times = [(code::RENEW_TIME, server.renew_seconds), (code::REBIND_TIME, server.rebind_seconds)];
        for (code, seconds) in times {
            if let Some(seconds) = seconds {
                put(&mut writer, code, &seconds.to_be_bytes());
            }
        }
    }
    let client_id = request.options.find(code::CLIENT_ID);
    let relay_information = request.options.find(code::RELAY_INFORMATION);
    // The end mark, and what is repeated after the configuration, must find room behind it.
    let repeated =
        [client_id, relay_information].iter().flatten().map(|value| 2 + value.len()).sum::<usize>();
    let reserve = 1 + repeated;
    if answer != NAK {
        put_configuration(&mut writer, request, server, lease, reserve);
    }
    // RFC 6842; RFC 3046 §2.2, which wants it last.
    if let Some(id) = client_id {
        put(&mut writer, code::CLIENT_ID, id);
    }
    if let Some(information) = relay_information {
        put(&mut writer, code::RELAY_INFORMATION, information);
    }
    writer.put(&[255]);
    let padding = SHORTEST.saturating_sub(writer.message_len());
    writer.put(&[0; SHORTEST][..padding]);
    (writer, ends(datagram, request, server, yours, answer))
}

/// The options of the client's configuration: the mask first, then what it asked for in its order; all of them
/// when it did not say (RFC 2131 §4.3.1, RFC 2132 §9.8). An option that finds no room is left out.
fn put_configuration(
    writer: &mut Writer,
    request: &Request<'_>,
    server: &DhcpServer,
    lease: &DhcpLease<'_>,
    reserve: usize,
) {
    let mask =
        Ipv4Net::new(lease.address, server.prefix_len).map_or(Ipv4Addr::BROADCAST, |net| net.netmask());
    let mut put_one = |code: u8, value: &[u8]| {
        // A longer value is split (RFC 3396).
        let len = value.len() + 2 * value.len().div_ceil(255);
        if !value.is_empty() && writer.room() >= len + reserve {
            value.chunks(255).for_each(|part| put(writer, code, part));
        }
    };
    put_one(code::MASK, &mask.octets());
    let host_name = lease.host_name.map(str::as_bytes);
    let value_of = |wanted: u8| match wanted {
        code::HOST_NAME => host_name,
        _ => server.options.iter().find(|option| option.code == wanted).map(|option| &*option.value),
    };
    match request.options.find(code::REQUESTED_OPTIONS) {
        Some(list) => {
            for (index, code) in list.iter().enumerate() {
                // A code that is asked for twice is answered once.
                if let (Some(value), false) = (value_of(*code), list[..index].contains(code)) {
                    put_one(*code, value);
                }
            }
        }
        None => {
            server.options.iter().for_each(|option| put_one(option.code, &option.value));
            if let Some(name) = host_name {
                put_one(code::HOST_NAME, name);
            }
        }
    }
}

fn put(writer: &mut Writer, code: u8, value: &[u8]) {
    writer.put(&[code, value.len() as u8]);
    writer.put(value);
}

/// Where the answer goes (RFC 2131 §4.1).
fn ends(
    datagram: &Datagram<'_>,
    request: &Request<'_>,
    server: &DhcpServer,
    yours: Ipv4Addr,
    answer: u8,
) -> Ends {
    let to = |dst: Ipv4Addr, dst_mac: MacAddr, port: u16| Ends {
        macs: Macs { src: server.mac, dst: dst_mac },
        addresses: IpPair::V4 { src: server.address, dst },
        ports: Ports { src: DHCP_SERVER_PORT, dst: port },
    };
    let is_one = |address: Ipv4Addr| super::message::is_one(IpAddr::V4(address));
    if is_one(request.relay) {
        return to(request.relay, datagram.l2.src, DHCP_SERVER_PORT);
    }
    if answer != NAK && is_one(request.has) {
        return to(request.has, request.client, CLIENT_PORT);
    }
    if answer == NAK || request.wants_broadcast || !is_one(yours) {
        return to(Ipv4Addr::BROADCAST, MacAddr::BROADCAST, CLIENT_PORT);
    }
    to(yours, request.client, CLIENT_PORT)
}
