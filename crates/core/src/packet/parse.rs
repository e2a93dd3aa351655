//! From bytes to meaning: the parser.

use crate::drop_reason::DropReason;
use crate::flow::{HeaderStack, MAX_GROUPS};

/// A parsed packet: what its headers mean and where they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// Reads the headers of `frame`.
pub fn parse(frame: &[u8]) -> Result<Parsed, DropReason> {
    let _ = frame;
    todo!()
}

/// Reads the Ethernet header of `frame` alone; everything behind it is opaque.
pub fn parse_opaque(frame: &[u8]) -> Result<Parsed, DropReason> {
    let _ = frame;
    todo!()
}
