//! Ping: ICMP and ICMPv6 echo from a raw socket inside a guest's namespace.
//!
//! An answer counts when it carries this probe's identifier, a sequence number that was sent and not yet answered,
//! and the payload byte for byte; anything else is ignored, so a wrong answer shows as a lost one.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lamina_api::topology::Ping;
use lamina_backend::namespace::NetNs;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, connect, ipproto, recv, send, socket};

/// Bytes of an ICMP echo header.
const HEADER: usize = 8;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pinged {
    /// Requests that left the guest.
    pub sent: u16,
    /// Requests that the guest's own stack refused, with the last reason.
    pub refused: Option<(u16, String)>,
    /// Round-trip times of the answered ones.
    pub answered: Vec<Duration>,
    /// Answers that came twice.
    pub duplicates: u16,
}

/// Sends the echo requests of `ping` from inside `ns`. `id` distinguishes this probe's answers from others'.
pub fn run(ns: &NetNs, ping: &Ping, id: u16) -> io::Result<Pinged> {
    let socket = ns.run(|| open(ping))??;
    let mut exchange = Exchange { socket, ping, id, sent_at: Vec::new(), result: Pinged::default() };
    for sequence in 0..ping.count {
        exchange.send(sequence)?;
        let last = sequence + 1 == ping.count;
        exchange.receive(Instant::now() + if last { ping.timeout } else { ping.interval }, last)?;
    }
    Ok(exchange.result)
}

fn open(ping: &Ping) -> io::Result<OwnedFd> {
    let socket = match ping.to {
        IpAddr::V4(_) => {
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
            if ping.dont_fragment {
                sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
            }
            socket
        }
        IpAddr::V6(_) => {
            let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
            if ping.dont_fragment {
                sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
            }
            socket
        }
    };
    connect(&socket, &SocketAddr::new(ping.to, 0))?;
    Ok(socket)
}

struct Exchange<'a> {
    socket: OwnedFd,
    ping: &'a Ping,
    id: u16,
    /// When each sequence number was sent; `None` once it was answered, or when it never left.
    sent_at: Vec<Option<Instant>>,
    result: Pinged,
}

impl Exchange<'_> {
    fn send(&mut self, sequence: u16) -> io::Result<()> {
        let request = request(self.ping.to, self.id, sequence, self.ping.size);
        // Read before sending: over virtual devices the answer can be there when the call returns.
        let now = Instant::now();
        match send(&self.socket, &request, SendFlags::empty()) {
            Ok(_) => {
                self.result.sent += 1;
                self.sent_at.push(Some(now));
                Ok(())
            }
            Err(error @ (Errno::MSGSIZE | Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::PERM)) => {
                let (count, reason) = self.result.refused.get_or_insert((0, String::new()));
                *count += 1;
                *reason = io::Error::from(error).to_string();
                self.sent_at.push(None);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes answers until `deadline`, or until all are in when `all_sent`.
    fn receive(&mut self, deadline: Instant, all_sent: bool) -> io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); usize::from(u16::MAX)];
        loop {
            let outstanding = self.sent_at.iter().any(Option::is_some);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (all_sent && !outstanding) {
                return Ok(());
            }
            sockopt::set_socket_timeout(
                &self.socket,
                Timeout::Recv,
                Some(left.max(Duration::from_millis(1))),
            )?;
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok(((message, _), _)) => self.take(message),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The kernel reports an ICMP error that came back for an earlier request; it is no answer.
                Err(
                    Errno::HOSTUNREACH
                    | Errno::NETUNREACH
                    | Errno::CONNREFUSED
                    | Errno::MSGSIZE
                    | Errno::PROTO,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, message: &[u8]) {
        let Some(message) = icmp(self.ping.to, message) else { return };
        let Some(sequence) = answer(self.ping.to, self.id, self.ping.size, message) else { return };
        match self.sent_at.get_mut(usize::from(sequence)).map(Option::take) {
            Some(Some(sent)) => self.result.answered.push(sent.elapsed()),
            Some(None) => self.result.duplicates += 1,
            None => {}
        }
    }
}

fn request(to: IpAddr, id: u16, sequence: u16, size: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload(sequence, size));
    if to.is_ipv4() {
        // The kernel fills in the ICMPv6 checksum itself, but not this one.
        let checksum = checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

fn payload(sequence: u16, size: u16) -> impl Iterator<Item = u8> {
    (0..size).map(move |index| (index ^ sequence.wrapping_mul(31)) as u8)
}

/// The ICMP message within what a raw socket delivers: IPv4 sockets prepend the IP header.
fn icmp(to: IpAddr, delivered: &[u8]) -> Option<&[u8]> {
    match to {
        IpAddr::V4(_) => delivered.get(usize::from(*delivered.first()? & 0x0f) * 4..),
        IpAddr::V6(_) => Some(delivered),
    }
}

/// The sequence number of `message` when it answers this probe.
fn answer(to: IpAddr, id: u16, size: u16, message: &[u8]) -> Option<u16> {
    let kind = if to.is_ipv4() { 0 } else { 129 };
    let header = message.get(..HEADER)?;
    let sequence = u16::from_be_bytes([header[6], header[7]]);
    let ours = header[0] == kind && header[1] == 0 && header[4..6] == id.to_be_bytes();
    let same = message[HEADER..].iter().copied().eq(payload(sequence, size));
    (ours && same).then_some(sequence)
}

fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in message.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The unspecified address of the family of `like`, with `port`.
pub(super) fn any(like: IpAddr, port: u16) -> SocketAddr {
    match like {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_turned_around_is_an_answer_and_a_changed_one_is_not() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let mut message = request(to, 7, 3, 57);
        assert_eq!(checksum(&message), 0, "a message with its checksum sums to zero");
        assert_eq!(answer(to, 7, 57, &message), None, "an echo request is no answer");
        message[0] = 0;
        assert_eq!(answer(to, 7, 57, &message), Some(3));
        assert_eq!(answer(to, 8, 57, &message), None);
        assert_eq!(answer(to, 7, 56, &message), None);
        message[20] ^= 1;
        assert_eq!(answer(to, 7, 57, &message), None);
        assert_eq!(answer(to, 7, 57, &message[..5]), None);
    }

    #[test]
    fn the_ip_header_of_a_raw_socket_is_skipped_with_its_options() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let mut delivered = vec![0x46; 24];
        delivered.extend([1, 2, 3]);
        assert_eq!(icmp(to, &delivered), Some(&[1, 2, 3][..]));
        assert_eq!(icmp(to, &[]), None);
        assert_eq!(icmp(to, &[0x4f]), None);
    }
}
