//! From a packet as written to the bytes of its frame, checksums and lengths right.

use std::net::{IpAddr, Ipv6Addr};

use lamina_api::Mac;

use super::packet::{Fragment, Ip, Network, PacketSpec, Spec, Transport, Tunnel};

/// The Ethernet addresses of a group that names none.
#[derive(Clone, Copy, Debug)]
pub struct DefaultMacs {
    /// Source.
    pub src: Mac,
    /// Destination.
    pub dst: Mac,
}

/// The MAC of somebody else: what a packet comes from or goes to where nothing is said.
pub const ELSEWHERE: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

/// A packet of more than 65,535 bytes cannot be written: its length fields are 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

/// The frame that `packet` describes.
pub fn build(packet: &PacketSpec, macs: DefaultMacs) -> Result<Vec<u8>, TooLong> {
    let mut inside = vec![0; packet.payload];
    for (index, group) in packet.groups.iter().enumerate().rev() {
        let has_ethernet = match index.checked_sub(1).and_then(|outer| packet.groups.get(outer)) {
            Some(outer) => tunnel(outer).is_none_or(Tunnel::carries_ethernet),
            None => true,
        };
        inside = build_group(group, packet.groups.get(index + 1), inside, has_ethernet, macs)?;
    }
    Ok(inside)
}

fn tunnel(group: &Spec) -> Option<Tunnel> {
    match &group.network {
        Network::Ip(Ip { transport: Transport::Tunnel { kind, .. }, .. }) => Some(*kind),
        _ => None,
    }
}

fn build_group(
    group: &Spec,
    next: Option<&Spec>,
    inside: Vec<u8>,
    has_ethernet: bool,
    macs: DefaultMacs,
) -> Result<Vec<u8>, TooLong> {
    let src = group.eth_src.unwrap_or(macs.src);
    let (ethertype, body, natural_dst) = match &group.network {
        Network::Other { ethertype } => (*ethertype, inside, None),
        Network::Arp { src: sender, dst, operation, target_mac } => {
            let mut body = vec![0, 1, 8, 0, 6, 4];
            body.extend(operation.to_be_bytes());
            body.extend(src.0);
            body.extend(sender.octets());
            body.extend(target_mac.0);
            body.extend(dst.octets());
            body.extend(inside);
            let everybody = (*operation == 1).then_some(Mac([0xff; 6]));
            (0x0806, body, everybody)
        }
        Network::Ip(ip) => {
            let ethertype = if ip.src.is_ipv4() { 0x0800 } else { 0x86dd };
            (ethertype, build_ip(ip, next, inside, src)?, multicast_mac(ip.dst))
        }
    };
    if !has_ethernet {
        return Ok(body);
    }
    let mut frame = Vec::with_capacity(22 + body.len());
    frame.extend(group.eth_dst.or(natural_dst).unwrap_or(macs.dst).0);
    frame.extend(src.0);
    for (index, vlan) in group.vlans.iter().enumerate() {
        let is_service = index + 1 < group.vlans.len();
        frame.extend(if is_service { 0x88a8u16 } else { 0x8100 }.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    Ok(frame)
}

/// The MAC that an IP multicast or broadcast address is sent to (RFC 1112 §6.4, RFC 2464 §7).
fn multicast_mac(address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(Mac([0xff; 6])),
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            Some(Mac([1, 0, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let [.., a, b, c, d] = v6.octets();
            Some(Mac([0x33, 0x33, a, b, c, d]))
        }
        _ => None,
    }
}

fn build_ip(ip: &Ip, next: Option<&Spec>, inside: Vec<u8>, src_mac: Mac) -> Result<Vec<u8>, TooLong> {
    let (protocol, body) = match ip.fragment {
        Fragment::Later => (transport_protocol(ip, next), inside),
        _ => build_transport(ip, next, inside, src_mac)?,
    };
    let tos = ip.dscp << 2 | ip.ecn;
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(20 + body.len()).map_err(|_| TooLong)?;
            // A first fragment has "more fragments" set, a later one an offset of 1480 bytes; others do not fragment.
            let fragment: u16 = match ip.fragment {
                Fragment::None => 0x4000,
                Fragment::First => 0x2000,
                Fragment::Later => 1480 / 8,
            };
            let mut packet = vec![0x45, tos];
            packet.extend(total.to_be_bytes());
            packet.extend([0, 1]);
            packet.extend(fragment.to_be_bytes());
            packet.extend([ip.ttl, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(body);
            Ok(packet)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let offset: Option<u16> = match ip.fragment {
                Fragment::None => None,
                Fragment::First => Some(1),
                Fragment::Later => Some(1448),
            };
            let extension = if offset.is_some() { 8 } else { 0 };
            let length = u16::try_from(extension + body.len()).map_err(|_| TooLong)?;
            let mut packet = vec![0x60 | tos >> 4, tos << 4, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([if offset.is_some() { 44 } else { protocol }, ip.ttl]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            if let Some(offset) = offset {
                packet.extend([protocol, 0]);
                packet.extend(offset.to_be_bytes());
                packet.extend([0, 0, 0, 1]);
            }
            packet.extend(body);
            Ok(packet)
        }
        // The reader of packets lets no mixed families through; an empty body says so to the parser.
        _ => Ok(body),
    }
}

/// The protocol number of what `ip` carries.
fn transport_protocol(ip: &Ip, next: Option<&Spec>) -> u8 {
    match ip.transport {
        Transport::Tcp { .. } => 6,
        Transport::Udp { .. } => 17,
        Transport::Sctp { .. } => 132,
        Transport::Icmp { .. } | Transport::Solicitation { .. } if ip.src.is_ipv4() => 1,
        Transport::Icmp { .. } | Transport::Solicitation { .. } => 58,
        Transport::Other { protocol } => protocol,
        Transport::Tunnel { kind, .. } => match kind {
            Tunnel::Vxlan | Tunnel::Geneve => 17,
            Tunnel::Nvgre | Tunnel::Gre | Tunnel::GreKeyed => 47,
            Tunnel::IpInIp if inner_ethertype(next) == 0x86dd => 41,
            Tunnel::IpInIp => 4,
        },
    }
}

fn inner_ethertype(next: Option<&Spec>) -> u16 {
    match next.map(|group| &group.network) {
        Some(Network::Ip(ip)) if ip.src.is_ipv6() => 0x86dd,
        Some(Network::Arp { .. }) => 0x0806,
        Some(Network::Other { ethertype }) => *ethertype,
        _ => 0x0800,
    }
}

fn build_transport(
    ip: &Ip,
    next: Option<&Spec>,
    inside: Vec<u8>,
    src_mac: Mac,
) -> Result<(u8, Vec<u8>), TooLong> {
    let protocol = transport_protocol(ip, next);
    let mut body = Vec::with_capacity(40 + inside.len());
    match ip.transport {
        Transport::Tcp { src, dst, flags, seq, ack } => {
            body.extend(src.to_be_bytes());
            body.extend(dst.to_be_bytes());
            body.extend(seq.to_be_bytes());
            body.extend(ack.to_be_bytes());
            body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            body.extend(inside);
            fill_checksum(ip, protocol, &mut body, 16)?;
        }
        Transport::Udp { src, dst } => body = udp(ip, src, dst, inside)?,
        Transport::Sctp { src, dst } => {
            body.extend(src.to_be_bytes());
            body.extend(dst.to_be_bytes());
            body.extend([0; 8]);
            body.extend(inside);
        }
        Transport::Icmp { kind, code, id, seq } => {
            body.extend([kind, code, 0, 0]);
            body.extend(id.to_be_bytes());
            body.extend(seq.to_be_bytes());
            body.extend(inside);
            fill_icmp(ip, &mut body)?;
        }
        Transport::Solicitation { target } => {
            body.extend([135, 0, 0, 0, 0, 0, 0, 0]);
            body.extend(target.octets());
            body.extend([1, 1]);
            body.extend(src_mac.0);
            body.extend(inside);
            fill_icmp(ip, &mut body)?;
        }
        Transport::Other { .. } => body = inside,
        Transport::Tunnel { kind, vni, udp_port, entropy } => {
            let mut header = Vec::new();
            match kind {
                Tunnel::Vxlan => {
                    header.extend([8, 0, 0, 0]);
                    header.extend((vni << 8).to_be_bytes());
                }
                Tunnel::Geneve => {
                    header.extend([0, 0, 0x65, 0x58]);
                    header.extend((vni << 8).to_be_bytes());
                }
                Tunnel::Nvgre => {
                    header.extend([0x20, 0, 0x65, 0x58]);
                    header.extend((vni << 8).to_be_bytes());
                }
                Tunnel::Gre => {
                    header.extend([0, 0]);
                    header.extend(inner_ethertype(next).to_be_bytes());
                }
                Tunnel::GreKeyed => {
                    header.extend([0x20, 0]);
                    header.extend(inner_ethertype(next).to_be_bytes());
                    header.extend(vni.to_be_bytes());
                }
                Tunnel::IpInIp => {}
            }
            header.extend(inside);
            body = match kind {
                Tunnel::Vxlan => udp(ip, entropy, udp_port.unwrap_or(4789), header)?,
                Tunnel::Geneve => udp(ip, entropy, udp_port.unwrap_or(6081), header)?,
                _ => header,
            };
        }
    }
    Ok((protocol, body))
}

fn udp(ip: &Ip, src: u16, dst: u16, inside: Vec<u8>) -> Result<Vec<u8>, TooLong> {
    let length = u16::try_from(8 + inside.len()).map_err(|_| TooLong)?;
    let mut body = Vec::with_capacity(length.into());
    body.extend(src.to_be_bytes());
    body.extend(dst.to_be_bytes());
    body.extend(length.to_be_bytes());
    body.extend([0, 0]);
    body.extend(inside);
    fill_checksum(ip, 17, &mut body, 6)?;
    if body[6..8] == [0, 0] {
        body[6..8].copy_from_slice(&[0xff, 0xff]);
    }
    Ok(body)
}

fn fill_icmp(ip: &Ip, body: &mut [u8]) -> Result<(), TooLong> {
    if ip.src.is_ipv6() {
        return fill_checksum(ip, 58, body, 2);
    }
    let sum = checksum(&[body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Stores the checksum over pseudo-header and `body` at `offset`, where zeroes are.
fn fill_checksum(ip: &Ip, protocol: u8, body: &mut [u8], offset: usize) -> Result<(), TooLong> {
    let length = u16::try_from(body.len()).map_err(|_| TooLong)?;
    let widened = |address: IpAddr| match address {
        IpAddr::V4(v4) => Ipv6Addr::from_bits(v4.to_bits().into()).octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut tail = length.to_be_bytes().to_vec();
    tail.extend([0, protocol]);
    let sum = checksum(&[&widened(ip.src), &widened(ip.dst), &tail, body]);
    body[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// The Internet checksum (RFC 1071) over `parts`, all of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;
    use lamina_core::packet::parse as core_parse;

    use super::*;
    use crate::trace::packet::parse;

    const MACS: DefaultMacs = DefaultMacs { src: Mac([2, 0, 0, 0, 0, 1]), dst: ELSEWHERE };

    #[test]
    fn frames_are_what_other_parsers_read() {
        for (text, groups) in [
            ("tcp 10.0.0.1:1234 -> 10.0.0.2:80 flags=syn payload=11", 1),
            ("udp [fd00::1]:1234 -> [fd00::2]:53 vlan=5 payload=3", 1),
            ("icmp 10.0.0.1 -> 10.0.0.2 vlan=5,6", 1),
            ("icmp fd00::1 -> fd00::2", 1),
            ("sctp 10.0.0.1:1 -> 10.0.0.2:2", 1),
            ("arp 10.0.0.1 -> 10.0.0.2", 1),
            ("nd fd00::1 -> fd00::2", 1),
            ("eth type=0x88cc payload=20", 1),
            ("tcp 10.0.0.1:1 -> 10.0.0.2:2 fragment=first payload=8", 1),
            ("udp [fd00::1]:1 -> [fd00::2]:2 fragment=later payload=8", 1),
            ("vxlan 192.168.1.1 -> 192.168.1.2 vni=5001 / tcp 10.0.0.1:1 -> 10.0.0.2:2", 2),
            ("geneve fd00::1 -> fd00::2 vni=1 / icmp 10.0.0.1 -> 10.0.0.2", 2),
            ("nvgre 192.168.1.1 -> 192.168.1.2 vni=77 / arp 10.0.0.1 -> 10.0.0.2", 2),
            ("gre 192.168.1.1 -> 192.168.1.2 / udp [fd00::1]:1 -> [fd00::2]:2", 2),
            ("gre-keyed 192.168.1.1 -> 192.168.1.2 vni=4294967295 / ip 1.1.1.1 -> 1.1.1.2 payload=4", 2),
            ("ip-in-ip 192.168.1.1 -> 192.168.1.2 / icmp fd00::1 -> fd00::2", 2),
            ("vxlan 1.1.1.1 -> 1.1.1.2 vni=1 / gre 2.1.1.1 -> 2.1.1.2 / udp 3.1.1.1:1 -> 3.1.1.2:2", 3),
        ] {
            let frame = build(&parse(text).unwrap(), MACS).unwrap();
            let parsed = core_parse(&frame).unwrap_or_else(|reason| panic!("{text}: {reason:?}"));
            assert_eq!(parsed.stack.groups().len(), groups, "{text}");
            let sliced =
                SlicedPacket::from_ethernet(&frame).unwrap_or_else(|error| panic!("{text}: {error}"));
            check_checksums(text, &sliced);
        }
    }

    fn check_checksums(text: &str, sliced: &SlicedPacket<'_>) {
        use etherparse::{NetSlice, TransportSlice};
        match (&sliced.net, &sliced.transport) {
            (Some(NetSlice::Ipv4(ip)), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum, "{text}");
                match transport {
                    Some(TransportSlice::Tcp(tcp)) => {
                        assert_eq!(
                            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(),
                            tcp.checksum(),
                            "{text}"
                        );
                    }
                    Some(TransportSlice::Udp(udp)) => {
                        let header = udp.to_header();
                        assert_eq!(
                            header.calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap(),
                            header.checksum,
                            "{text}"
                        );
                    }
                    Some(TransportSlice::Icmpv4(icmp)) => {
                        assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum(), "{text}");
                    }
                    _ => {}
                }
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
                let header = udp.to_header();
                assert_eq!(
                    header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap(),
                    header.checksum,
                    "{text}"
                );
            }
            (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
                assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()), "{text}");
            }
            _ => {}
        }
    }

    #[test]
    fn what_does_not_fit_its_length_field_is_refused() {
        let spec = parse("udp 10.0.0.1:1 -> 10.0.0.2:2 payload=65000").unwrap();
        assert!(build(&spec, MACS).is_ok());
        let nested = parse("vxlan 1.1.1.1 -> 1.1.1.2 vni=1 / ip 10.0.0.1 -> 10.0.0.2 payload=65000").unwrap();
        assert!(build(&nested, MACS).is_ok());
        let too_long = PacketSpec { payload: 65_530, ..spec };
        assert_eq!(build(&too_long, MACS), Err(TooLong));
    }
}
