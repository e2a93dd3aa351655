//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792, RFC 4443, RFC 4861).

use core::net::Ipv6Addr;

use super::{Next, Reader, be16};
use crate::address::MacAddr;
use crate::drop_reason::DropReason;
use crate::flow::{Fragment, HeaderGroup, Icmp, Ip, L3, L4, Ports};

const ICMP: u8 = 1;
const IPV4: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

impl Reader<'_> {
    /// Reads the header of `protocol`, if it is known, and says whether it opens another group, which it may not
    /// when `last`.
    #[inline(always)]
    pub(super) fn transport(
        &mut self,
        protocol: u8,
        group: &mut HeaderGroup,
        last: bool,
    ) -> Result<Next, DropReason> {
        if group.extra.fragment == Fragment::Later {
            return Ok(Next::Payload);
        }
        match protocol {
            TCP => self.tcp(group)?,
            UDP => return self.udp(group, last),
            ICMP => self.icmp(group)?,
            ICMPV6 => self.icmpv6(group)?,
            SCTP => {
                let bytes = self.peek::<12>(DropReason::Truncated)?;
                self.at += 12;
                group.flow_id.l4 = Some(L4::Sctp(ports([bytes[0], bytes[1], bytes[2], bytes[3]])));
            }
            GRE | IPV4 | IPV6 if last || group.extra.fragment == Fragment::First => {}
            GRE => return self.gre(group),
            IPV4 => return Ok(self.ip_in_ip(group, Next::Ipv4)),
            IPV6 => return Ok(self.ip_in_ip(group, Next::Ipv6)),
            _ => {}
        }
        Ok(Next::Payload)
    }

    #[inline(always)]
    fn tcp(&mut self, group: &mut HeaderGroup) -> Result<(), DropReason> {
        let bytes = self.peek::<20>(DropReason::Truncated)?;
        let header_length = (bytes[12] >> 4) as usize * 4;
        if header_length < 20 {
            return Err(DropReason::BadTransportHeader);
        }
        // A first fragment may end inside the options; then it is cut, not wrong.
        let is_whole = group.extra.fragment == Fragment::None;
        self.skip(
            header_length,
            if is_whole { DropReason::BadTransportHeader } else { DropReason::Truncated },
        )?;
        group.extra.tcp_flags = bytes[13];
        group.flow_id.l4 = Some(L4::Tcp(ports([bytes[0], bytes[1], bytes[2], bytes[3]])));
        Ok(())
    }

    #[inline(always)]
    fn udp(&mut self, group: &mut HeaderGroup, last: bool) -> Result<Next, DropReason> {
        let bytes = self.peek::<8>(DropReason::Truncated)?;
        let length = be16(bytes, 4) as usize;
        let first_fragment = group.extra.fragment == Fragment::First;
        // The length is of the whole datagram, so a first fragment is shorter. Zero means "as long as the packet",
        // which IPv6 alone allows (RFC 2675 §4).
        let whole = match length {
            0 if is_v6(group) => self.remaining(),
            ..8 => return Err(DropReason::BadTransportHeader),
            _ if first_fragment => self.remaining(),
            _ if length > self.remaining() => return Err(DropReason::BadTransportHeader),
            _ => length,
        };
        self.limit = self.at + whole;
        self.at += 8;
        let ports = ports([bytes[0], bytes[1], bytes[2], bytes[3]]);
        group.flow_id.l4 = Some(L4::Udp(ports));
        if last || first_fragment { Ok(Next::Payload) } else { self.udp_tunnel(ports, group) }
    }

    fn icmp(&mut self, group: &mut HeaderGroup) -> Result<(), DropReason> {
        let bytes = self.peek::<8>(DropReason::Truncated)?;
        self.at += 8;
        let is_query = matches!(bytes[0], 0 | 8 | 13..=18);
        group.flow_id.l4 = Some(L4::Icmp(icmp(bytes, is_query)));
        Ok(())
    }

    fn icmpv6(&mut self, group: &mut HeaderGroup) -> Result<(), DropReason> {
        let bytes = self.peek::<8>(DropReason::Truncated)?;
        let is_neighbor = matches!(bytes[0], NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT);
        if is_neighbor && group.extra.fragment == Fragment::None {
            let message = self.peek::<24>(DropReason::Truncated)?;
            let mut target = [0; 16];
            target.copy_from_slice(&message[8..]);
            group.extra.nd_target = Some(Ipv6Addr::from(target));
        }
        // Where the options begin, and which of them is the link-layer address (RFC 4861 §4).
        let options = match bytes[0] {
            ROUTER_SOLICITATION => Some((8, 1)),
            ROUTER_ADVERTISEMENT => Some((16, 1)),
            NEIGHBOR_SOLICITATION => Some((24, 1)),
            NEIGHBOR_ADVERTISEMENT => Some((24, 2)),
            _ => None,
        };
        if let Some((offset, kind)) = options.filter(|_| group.extra.fragment == Fragment::None) {
            group.extra.nd_link = self.link_address(self.at + offset, kind);
        }
        self.at += 8;
        let is_query = matches!(bytes[0], 128 | 129);
        group.flow_id.l4 = Some(L4::Icmpv6(icmp(bytes, is_query)));
        Ok(())
    }

    /// The link-layer address among the neighbour discovery options at `at`, which is option `kind`. Options that
    /// cannot be read to their end, or two that differ, leave open whom a receiver would believe: that is the zero
    /// address, which nobody has.
    fn link_address(&self, mut at: usize, kind: u8) -> Option<MacAddr> {
        let mut found = None;
        while at < self.limit {
            let option = self.window.get(at..at + 8).and_then(|bytes| bytes.first_chunk::<8>());
            let Some([this, length, mac @ ..]) = option else { return Some(MacAddr::ZERO) };
            let next = at + 8 * *length as usize;
            if *length == 0 || next > self.limit {
                return Some(MacAddr::ZERO);
            }
            if *this == kind && *found.get_or_insert(MacAddr(*mac)) != MacAddr(*mac) {
                return Some(MacAddr::ZERO);
            }
            at = next;
        }
        found
    }
}

fn icmp(bytes: &[u8; 8], is_query: bool) -> Icmp {
    Icmp { kind: bytes[0], code: bytes[1], id: is_query.then(|| be16(bytes, 4)) }
}

#[inline(always)]
fn ports([a, b, c, d]: [u8; 4]) -> Ports {
    Ports { src: u16::from_be_bytes([a, b]), dst: u16::from_be_bytes([c, d]) }
}

fn is_v6(group: &HeaderGroup) -> bool {
    matches!(group.flow_id.l3, Some(L3::Ip(Ip { addresses, .. })) if !addresses.is_v4())
}
