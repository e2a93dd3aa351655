//! From bytes to meaning: the parser.
//!
//! One pass over the first [`HEADER_WINDOW`] bytes of a frame, outermost header first, no allocation, no panic on
//! any input. It reads what §4.1 names: Ethernet with up to two VLAN tags; ARP, IPv4, IPv6 with extension
//! headers; TCP, UDP, SCTP, ICMP, ICMPv6; VXLAN, Geneve, GRE, NVGRE and IP-in-IP, which open the next group.
//!
//! What is malformed is refused with its own reason; what is merely unknown is opaque: the header is absent and
//! the bytes are payload. So a packet that parses can be matched, rewritten and forwarded, and one that does not
//! is dropped and named. The rules that are not obvious:
//!
//! - The IPv4 header checksum is verified: a header that is to be updated incrementally must be right before.
//! - Each header must lie inside the packet that carries it (IP total length, UDP length), not merely inside the
//!   frame; Ethernet padding behind the IP packet is allowed and ignored.
//! - A fragment opens no group: its inner headers may be cut. The first fragment of a tunnelled packet is plain
//!   UDP or an unknown protocol; a later fragment has no L4.
//! - A tunnel below the third group is payload, and its own header is plain UDP or an unknown protocol.
//! - A header that is inside the frame but beyond the window is [`DropReason::TooManyHeaders`].

mod ethernet;
mod ip;
mod transport;
mod tunnel;

use super::HEADER_WINDOW;
use crate::drop_reason::DropReason;
use crate::flow::{HeaderGroup, HeaderStack, MAX_GROUPS};
use crate::transposition::{GENEVE_PORT, VXLAN_PORT};

/// A parsed packet: what its headers mean and where they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// The headers' meaning.
    pub stack: HeaderStack,
    /// The headers' places.
    pub layout: Layout,
}

/// Where the headers of a frame lie, in bytes from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// One entry per header group of the stack.
    pub groups: [GroupLayout; MAX_GROUPS],
}

impl Layout {
    /// Where the headers of group number `group` lie; of the innermost place where there is no such group.
    #[inline(always)]
    pub(crate) fn of(&self, group: u8) -> &GroupLayout {
        &self.groups[(group as usize).min(MAX_GROUPS - 1)]
    }
}

/// Where the headers of one group lie. A header that is absent has the offset of what follows it, so its length
/// is zero: L2 is `l2..l3`, L3 with options and extension headers is `l3..l4`, L4 or tunnel with options is `l4..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupLayout {
    /// Start of the Ethernet header.
    pub l2: u16,
    /// Start of the IP or ARP header.
    pub l3: u16,
    /// Start of the transport, ICMP or tunnel header.
    pub l4: u16,
    /// First byte after the group's headers: payload, or the next group.
    pub end: u16,
}

/// By which UDP destination ports tunnels are known: VXLAN's and Geneve's own, and a few further ones for VXLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunnelPorts {
    /// 0 where there is none: no datagram that is a tunnel goes to port 0.
    further: [u16; TunnelPorts::MOST_FURTHER],
}

impl TunnelPorts {
    /// How many ports may be VXLAN's beside its own.
    pub const MOST_FURTHER: usize = 4;

    /// VXLAN also by the ports `further`; `None` where they are too many, or one of them is 0 or known already.
    pub fn with_vxlan(further: &[u16]) -> Option<TunnelPorts> {
        let mut ports = TunnelPorts::default();
        for (index, port) in further.iter().enumerate() {
            if *port == 0 || ports.is_known(*port) {
                return None;
            }
            *ports.further.get_mut(index)? = *port;
        }
        Some(ports)
    }

    /// True when a datagram to `port` may be a tunnel.
    pub fn is_known(&self, port: u16) -> bool {
        matches!(port, VXLAN_PORT | GENEVE_PORT) || self.is_further(port)
    }

    #[inline(always)]
    fn is_further(&self, port: u16) -> bool {
        port != 0 && self.further.contains(&port)
    }
}

/// Reads the headers of `frame`, with tunnels at their own ports.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    parse_with(frame, &TunnelPorts::default())
}

/// Reads the headers of `frame`, with tunnels at the ports `tunnels`.
#[inline]
pub fn parse_with(frame: &[u8], tunnels: &TunnelPorts) -> Result<Parsed, DropReason> {
    let mut parsed = Parsed::default();
    match read(frame, tunnels, &mut parsed) {
        Ok(()) => Ok(parsed),
        Err(reason) => Err(reason),
    }
}

impl Parsed {
    /// Becomes what [`parse_with`] makes of `frame`, in place: copying groups costs more than reading them. After an
    /// error it holds what was read so far.
    #[inline]
    pub fn read(&mut self, frame: &[u8], tunnels: &TunnelPorts) -> Result<(), DropReason> {
        self.stack.clear();
        self.layout = Layout::default();
        read(frame, tunnels, self)
    }
}

/// Reads the headers into an empty `parsed`.
fn read(frame: &[u8], tunnels: &TunnelPorts, parsed: &mut Parsed) -> Result<(), DropReason> {
    let mut reader = Reader { tunnels: *tunnels, ..Reader::new(frame) };
    let mut next = Next::Ethernet;
    for (index, layout) in parsed.layout.groups.iter_mut().enumerate() {
        // There are as many layouts as places for groups.
        let Some(group) = parsed.stack.push_empty() else { break };
        next = reader.group(next, group, layout, index)?;
        if next == Next::Payload {
            break;
        }
    }
    Ok(())
}

/// Reads the Ethernet header and VLAN tags of `frame` alone; everything behind them is opaque.
pub fn parse_opaque(frame: &[u8]) -> Result<Parsed, DropReason> {
    let mut reader = Reader::new(frame);
    let mut group = HeaderGroup::default();
    let mut parsed = Parsed { stack: HeaderStack::default(), layout: Layout::default() };
    let layout = &mut parsed.layout.groups[0];
    reader.ethernet(&mut group, layout, DropReason::FrameTooShort)?;
    reader.close(layout);
    let _ = parsed.stack.push_inner(group);
    Ok(parsed)
}

/// What lies behind the headers read so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Ethernet,
    Ipv4,
    Ipv6,
    Payload,
}

/// The bytes still to be read.
struct Reader<'a> {
    /// The first bytes of the frame, all that is looked at.
    window: &'a [u8],
    /// The next byte to be read.
    at: usize,
    /// End of the packet being read: of the frame first, then of each IP packet and UDP datagram.
    limit: usize,
    tunnels: TunnelPorts,
}

impl<'a> Reader<'a> {
    fn new(frame: &'a [u8]) -> Self {
        let window = frame.get(..HEADER_WINDOW).unwrap_or(frame);
        Reader { window, at: 0, limit: frame.len(), tunnels: TunnelPorts::default() }
    }

    /// The next `N` bytes, without taking them; `cut` when the packet ends before.
    #[inline(always)]
    fn peek<const N: usize>(&self, cut: DropReason) -> Result<&'a [u8; N], DropReason> {
        let end = self.at + N;
        if end > self.limit {
            return Err(cut);
        }
        match self.window.get(self.at..end).and_then(|bytes| bytes.first_chunk()) {
            Some(bytes) => Ok(bytes),
            None => Err(DropReason::TooManyHeaders),
        }
    }

    /// Takes `length` bytes as a header; `cut` when the packet ends before.
    #[inline(always)]
    fn skip(&mut self, length: usize, cut: DropReason) -> Result<(), DropReason> {
        let end = self.at + length;
        if end > self.limit {
            return Err(cut);
        }
        if end > self.window.len() {
            return Err(DropReason::TooManyHeaders);
        }
        self.at = end;
        Ok(())
    }

    /// Bytes of the packet behind what was read.
    fn remaining(&self) -> usize {
        self.limit - self.at
    }

    /// The position as a layout offset; at most [`HEADER_WINDOW`], so it fits.
    fn offset(&self) -> u16 {
        self.at as u16
    }

    /// Ends a group after L2: L3 and L4 are absent.
    fn close(&self, layout: &mut GroupLayout) {
        layout.l3 = self.offset();
        layout.l4 = self.offset();
        layout.end = self.offset();
    }

    /// Reads the group number `index`. The last one does not open another.
    #[inline(always)]
    fn group(
        &mut self,
        start: Next,
        group: &mut HeaderGroup,
        layout: &mut GroupLayout,
        index: usize,
    ) -> Result<Next, DropReason> {
        let last = index + 1 == MAX_GROUPS;
        layout.l2 = self.offset();
        let mut network = start;
        if start == Next::Ethernet {
            let cut = if index == 0 { DropReason::FrameTooShort } else { DropReason::Truncated };
            let ethertype = self.ethernet(group, layout, cut)?;
            network = match ethertype {
                ETHERTYPE_IPV4 => Next::Ipv4,
                ETHERTYPE_IPV6 => Next::Ipv6,
                ETHERTYPE_ARP => {
                    layout.l3 = self.offset();
                    self.arp(group)?;
                    layout.l4 = self.offset();
                    layout.end = self.offset();
                    return Ok(Next::Payload);
                }
                TPID_DOT1Q | TPID_DOT1AD => return Err(DropReason::TooManyHeaders),
                _ => {
                    self.close(layout);
                    return Ok(Next::Payload);
                }
            };
        }
        layout.l3 = self.offset();
        let protocol = if network == Next::Ipv4 { self.ipv4(group)? } else { self.ipv6(group)? };
        layout.l4 = self.offset();
        let next = self.transport(protocol, group, last)?;
        layout.end = self.offset();
        Ok(next)
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TPID_DOT1Q: u16 = crate::address::VlanTag::DOT1Q;
const TPID_DOT1AD: u16 = crate::address::VlanTag::DOT1AD;

/// Two bytes at `at` of a header, network byte order. Callers pass constant positions inside `N`.
#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
