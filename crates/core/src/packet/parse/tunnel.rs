//! The headers that open another group: VXLAN (RFC 7348), Geneve (RFC 8926), GRE (RFC 2784, RFC 2890),
//! NVGRE (RFC 7637), IP-in-IP (RFC 2003, RFC 2473, RFC 4213).
//!
//! Only what can be followed is a tunnel. A header whose payload is neither Ethernet nor IP (MPLS in GRE, PPTP's
//! version 1, Geneve with other protocols), or that is no VXLAN (the I flag is clear), leaves the packet as it
//! was: plain UDP, or an unknown protocol.

use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Next, Reader, be16};
use crate::drop_reason::DropReason;
use crate::flow::{Encap, EncapKind, HeaderGroup, L4, Ports};
use crate::transposition::{GENEVE_PORT, VXLAN_PORT};

/// Transparent Ethernet bridging: the protocol number of an Ethernet frame.
const ETHERTYPE_ETHERNET: u16 = 0x6558;

const GRE_CHECKSUM: u16 = 0x8000;
const GRE_KEY: u16 = 0x2000;
const GRE_SEQUENCE: u16 = 0x1000;
const GRE_VERSION: u16 = 0x0007;
/// Bits 1, 4 and 5: RFC 2784 §2.3 says to discard the packet where one is set (RFC 1701's source routes).
const GRE_MUST_BE_ZERO: u16 = 0x4c00;

impl Reader<'_> {
    /// Reads what a UDP datagram to `ports` carries, when that is a tunnel.
    #[inline(always)]
    pub(super) fn udp_tunnel(&mut self, ports: Ports, group: &mut HeaderGroup) -> Result<Next, DropReason> {
        match ports.dst {
            VXLAN_PORT => self.vxlan(ports, group),
            GENEVE_PORT => self.geneve(ports, group),
            other if self.tunnels.is_further(other) => self.vxlan(ports, group),
            _ => Ok(Next::Payload),
        }
    }

    fn vxlan(&mut self, ports: Ports, group: &mut HeaderGroup) -> Result<Next, DropReason> {
        if self.remaining() < 8 {
            return Ok(Next::Payload);
        }
        let bytes = self.peek::<8>(DropReason::Truncated)?;
        if bytes[0] & 0x08 == 0 {
            return Ok(Next::Payload);
        }
        self.at += 8;
        let tenant = u32::from_be_bytes([0, bytes[4], bytes[5], bytes[6]]);
        open(group, EncapKind::Vxlan, tenant, ports);
        Ok(Next::Ethernet)
    }

    fn geneve(&mut self, ports: Ports, group: &mut HeaderGroup) -> Result<Next, DropReason> {
        if self.remaining() < 8 {
            return Ok(Next::Payload);
        }
        let bytes = self.peek::<8>(DropReason::Truncated)?;
        let next = match be16(bytes, 2) {
            ETHERTYPE_ETHERNET => Next::Ethernet,
            ETHERTYPE_IPV4 => Next::Ipv4,
            ETHERTYPE_IPV6 => Next::Ipv6,
            _ => return Ok(Next::Payload),
        };
        let version = bytes[0] >> 6;
        if version != 0 {
            return Ok(Next::Payload);
        }
        let options_length = (bytes[0] & 0x3f) as usize * 4;
        self.skip(8 + options_length, DropReason::BadTunnelHeader)?;
        let tenant = u32::from_be_bytes([0, bytes[4], bytes[5], bytes[6]]);
        open(group, EncapKind::Geneve, tenant, ports);
        Ok(next)
    }

    pub(super) fn gre(&mut self, group: &mut HeaderGroup) -> Result<Next, DropReason> {
        let bytes = self.peek::<4>(DropReason::Truncated)?;
        let (flags, protocol) = (be16(bytes, 0), be16(bytes, 2));
        if flags & GRE_VERSION != 0 {
            return Ok(Next::Payload);
        }
        let next = match protocol {
            ETHERTYPE_ETHERNET => Next::Ethernet,
            ETHERTYPE_IPV4 => Next::Ipv4,
            ETHERTYPE_IPV6 => Next::Ipv6,
            _ => return Ok(Next::Payload),
        };
        if flags & GRE_MUST_BE_ZERO != 0 {
            return Err(DropReason::BadTunnelHeader);
        }
        let checksum_length = if flags & GRE_CHECKSUM != 0 { 4 } else { 0 };
        let sequence_length = if flags & GRE_SEQUENCE != 0 { 4 } else { 0 };
        self.skip(4 + checksum_length, DropReason::BadTunnelHeader)?;
        if flags & GRE_KEY == 0 {
            open(group, EncapKind::Gre, 0, Ports { src: 0, dst: 0 });
        } else {
            let key = u32::from_be_bytes(*self.peek::<4>(DropReason::BadTunnelHeader)?);
            self.at += 4;
            match next {
                Next::Ethernet => {
                    open(group, EncapKind::Nvgre, key >> 8, Ports { src: (key & 0xff) as u16, dst: 0 })
                }
                _ => open(group, EncapKind::GreKeyed, key, Ports { src: 0, dst: 0 }),
            }
        }
        self.skip(sequence_length, DropReason::BadTunnelHeader)?;
        Ok(next)
    }

    pub(super) fn ip_in_ip(&mut self, group: &mut HeaderGroup, next: Next) -> Next {
        open(group, EncapKind::IpInIp, 0, Ports { src: 0, dst: 0 });
        next
    }
}

/// `ports` are those of the UDP header, where there is one: the entropy, and by what the tunnel is known.
#[inline(always)]
fn open(group: &mut HeaderGroup, kind: EncapKind, tenant: u32, ports: Ports) {
    group.flow_id.l4 = Some(L4::Encap(Encap { kind, tenant }));
    group.extra.entropy = ports.src;
    group.extra.tunnel_port = ports.dst;
}
