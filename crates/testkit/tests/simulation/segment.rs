//! What a guest sends, so that both the frame it sends and the frame that must arrive can be written.

use std::net::IpAddr;

use lamina_core::address::MacAddr;
use lamina_testkit::builder::eth;
use lamina_testkit::wire::{Header, decode};

/// A TCP or UDP packet of a guest.
#[derive(Clone, Debug)]
pub struct Segment {
    pub src_mac: MacAddr,
    pub dst_mac: MacAddr,
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    /// TCP flags and sequence number; UDP without.
    pub tcp: Option<(u8, u32)>,
    /// DSCP, ECN, TTL.
    pub class: (u8, u8, u8),
    pub payload: Vec<u8>,
}

const MARK: [u8; 4] = *b"sim:";

impl Segment {
    /// The payload of the message number `number`: `extra` bytes behind what identifies it.
    pub fn payload(number: u64, extra: usize) -> Vec<u8> {
        let filling = (0..extra).map(|n| (n as u64 * 31 + number * 7) as u8);
        MARK.into_iter().chain(number.to_be_bytes()).chain(filling).collect()
    }

    pub fn frame(&self) -> Vec<u8> {
        let (dscp, ecn, ttl) = self.class;
        let packet = eth(self.src_mac, self.dst_mac);
        let packet = match self.src.0 {
            IpAddr::V4(_) => packet.ipv4(self.src.0, self.dst.0).id(self.payload.len() as u16),
            IpAddr::V6(_) => packet.ipv6(self.src.0, self.dst.0).flow_label(self.payload.len() as u32),
        };
        let packet = packet.dscp(dscp).ecn(ecn).ttl(ttl);
        let packet = match self.tcp {
            Some((flags, seq)) => packet.tcp(self.src.1, self.dst.1).flags(flags).seq(seq),
            None => packet.udp(self.src.1, self.dst.1),
        };
        packet.payload(&self.payload).frame()
    }
}

/// The number of the message that `frame` carries, in a tunnel or not; `None` when it is damaged. A wrong checksum
/// of the tunnel's own UDP header is no damage: it goes with the header (RFC 7348 §5 leaves it to the receiver).
pub fn message_number(frame: &[u8]) -> Option<u64> {
    let frame = decode(frame).ok()?;
    let innermost = format!("group {}:", frame.groups().len() - 1);
    let is_damaged = |problem: &String| !problem.starts_with("group") || problem.starts_with(&innermost);
    if frame.problems().iter().any(is_damaged) {
        return None;
    }
    let last = frame.headers.last()?;
    if !matches!(last, Header::Tcp(_) | Header::Udp(_)) || frame.payload.first_chunk() != Some(&MARK) {
        return None;
    }
    Some(u64::from_be_bytes(*frame.payload[MARK.len()..].first_chunk()?))
}
