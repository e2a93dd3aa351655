//! IPv4 with options (RFC 791) and IPv6 with extension headers (RFC 8200).

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Reader, be16};
use crate::drop_reason::DropReason;
use crate::flow::{Fragment, HeaderGroup, Ip, IpPair, L3};
use crate::packet::checksum;

/// Extension headers followed in one IPv6 packet. The header window bounds their bytes as well.
const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

impl Reader<'_> {
    /// Reads an IPv4 header and returns the protocol of its payload.
    #[inline(always)]
    pub(super) fn ipv4(&mut self, group: &mut HeaderGroup) -> Result<u8, DropReason> {
        let bytes = self.peek::<20>(DropReason::Truncated)?;
        let header_length = (bytes[0] & 0x0f) as usize * 4;
        let total_length = be16(bytes, 2) as usize;
        if bytes[0] >> 4 != 4 || header_length < 20 || total_length < header_length {
            return Err(DropReason::BadIpv4Header);
        }
        if total_length > self.remaining() {
            return Err(DropReason::BadIpv4Header);
        }
        self.limit = self.at + total_length;
        let start = self.at;
        self.skip(header_length, DropReason::BadIpv4Header)?;
        let mut sum = checksum::sum_words(bytes);
        if header_length > 20 {
            sum += checksum::sum(self.window.get(start + 20..self.at).unwrap_or(&[]));
        }
        if checksum::fold(sum) != 0xffff {
            return Err(DropReason::BadIpv4Checksum);
        }
        let flags_offset = be16(bytes, 6);
        let extra = &mut group.extra;
        extra.fragment = fragment(flags_offset & 0x1fff, flags_offset & 0x2000 != 0);
        extra.dscp = bytes[1] >> 2;
        extra.ecn = bytes[1] & 3;
        extra.ttl = bytes[8];
        let protocol = bytes[9];
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *bytes;
        group.flow_id.l3 = Some(L3::Ip(Ip {
            addresses: IpPair::V4 { src: Ipv4Addr::new(s0, s1, s2, s3), dst: Ipv4Addr::new(d0, d1, d2, d3) },
            protocol,
        }));
        Ok(protocol)
    }

    /// Reads an IPv6 header with its extension headers and returns the protocol of what follows them. Of a later
    /// fragment that is what its fragment header names, be it another extension header. Jumbograms (RFC 2675)
    /// do not occur on links of this size: payload length 0 means that nothing follows.
    #[inline(always)]
    pub(super) fn ipv6(&mut self, group: &mut HeaderGroup) -> Result<u8, DropReason> {
        let bytes = self.peek::<40>(DropReason::Truncated)?;
        let payload_length = be16(bytes, 4) as usize;
        if bytes[0] >> 4 != 6 || payload_length + 40 > self.remaining() {
            return Err(DropReason::BadIpv6Header);
        }
        self.at += 40;
        self.limit = self.at + payload_length;
        let traffic_class = (be16(bytes, 0) >> 4) as u8;
        let extra = &mut group.extra;
        extra.dscp = traffic_class >> 2;
        extra.ecn = traffic_class & 3;
        extra.ttl = bytes[7];
        extra.flow_label = u32::from_be_bytes([0, bytes[1] & 0x0f, bytes[2], bytes[3]]);
        let protocol = match bytes[6] {
            next @ (HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) => {
                self.extension_headers(next, &mut extra.fragment)?
            }
            other => other,
        };
        let (src, dst) = (address(bytes, 8), address(bytes, 24));
        group.flow_id.l3 = Some(L3::Ip(Ip { addresses: IpPair::V6 { src, dst }, protocol }));
        Ok(protocol)
    }

    /// Follows the chain of extension headers from `next` to the first header that is none.
    fn extension_headers(&mut self, mut next: u8, state: &mut Fragment) -> Result<u8, DropReason> {
        for _ in 0..MAX_EXTENSION_HEADERS {
            let length = match next {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let [_, units] = *self.peek::<2>(DropReason::BadIpv6Header)?;
                    (units as usize + 1) * 8
                }
                // RFC 4302 §2.2: in units of four bytes, minus two.
                AUTHENTICATION => {
                    let [_, units] = *self.peek::<2>(DropReason::BadIpv6Header)?;
                    (units as usize + 2) * 4
                }
                FRAGMENT => 8,
                _ => return Ok(next),
            };
            let [following, ..] = *self.peek::<2>(DropReason::BadIpv6Header)?;
            if next == FRAGMENT {
                let bytes = self.peek::<8>(DropReason::BadIpv6Header)?;
                let offset_flags = be16(bytes, 2);
                *state = fragment(offset_flags >> 3, offset_flags & 1 != 0);
            }
            self.skip(length, DropReason::BadIpv6Header)?;
            next = following;
            if *state == Fragment::Later {
                return Ok(next);
            }
        }
        match next {
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS => {
                Err(DropReason::TooManyHeaders)
            }
            _ => Ok(next),
        }
    }
}

/// The fragment state of an offset and the more-fragments flag. An IPv6 fragment header with neither is an
/// atomic fragment, which is a whole packet (RFC 6946).
#[inline(always)]
fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Sixteen bytes at a constant position of the IPv6 header.
#[inline(always)]
fn address(bytes: &[u8; 40], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}
