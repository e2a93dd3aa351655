//! Frames with given headers, built from the inside out, and the check that a frame's checksums are right. Both
//! are independent of the edit, and compute every checksum from scratch.

use alloc::vec;
use alloc::vec::Vec;

use super::dice::Dice;
use crate::flow::{Encap, EncapKind, Fragment, HeaderGroup, HeaderStack, IpPair, L3, L4};
use crate::packet::checksum::{crc32c, finish, finish_udp, fold, pseudo_header_v4, pseudo_header_v6, sum};
use crate::packet::{Packet, PartialChecksum, Segmentation, SegmentationKind, parse};

impl Dice {
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A packet whose headers are those of `stack`, with everything that a stack does not say chosen at random:
    /// options, extension headers, tunnel checksums, fragmentation, Ethernet padding, partial checksums.
    pub(super) fn packet(&mut self, stack: &HeaderStack) -> Packet {
        let mut stack = *stack;
        let inner = stack.innermost_mut();
        let is_icmp = matches!(inner.flow_id.l4, Some(L4::Icmp(_) | L4::Icmpv6(_)));
        if matches!(inner.flow_id.l3, Some(L3::Ip(_))) && !is_icmp && self.once_in(12) {
            inner.extra.fragment = Fragment::First;
            if self.once_in(2) {
                inner.extra.fragment = Fragment::Later;
                inner.flow_id.l4 = None;
            }
        }
        let payload_len = self.below(90);
        let payload = self.bytes(payload_len);
        let mut frame = self.groups(stack.groups(), payload);
        let is_whole = stack.innermost().extra.fragment == Fragment::None;
        if self.once_in(4) {
            frame.resize(frame.len().max(60), 0xa5);
        }
        let mut packet = Packet::from_frame(&frame);
        if is_whole && self.once_in(4) {
            self.leave_checksum_partial(&mut packet);
        }
        packet
    }

    fn groups(&mut self, groups: &[HeaderGroup], payload: Vec<u8>) -> Vec<u8> {
        let Some((group, inner)) = groups.split_first() else { return payload };
        let body = self.groups(inner, payload);
        let id = &group.flow_id;
        let mut bytes = Vec::new();
        if let Some(l2) = id.l2 {
            bytes.extend([l2.dst.0, l2.src.0].concat());
            for tag in l2.tags.iter() {
                bytes.extend([tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()].concat());
            }
            bytes.extend(l2.ethertype.to_be_bytes());
        }
        match id.l3 {
            None => bytes.extend(body),
            Some(L3::Arp(arp)) => {
                bytes.extend([0, 1, 8, 0, 6, 4]);
                bytes.extend(arp.operation.to_be_bytes());
                bytes.extend(arp.sender_mac.0);
                bytes.extend(arp.sender_ip.octets());
                bytes.extend(arp.target_mac.0);
                bytes.extend(arp.target_ip.octets());
                bytes.extend(body);
            }
            Some(L3::Ip(ip)) => {
                let message = match id.l4 {
                    None => body,
                    Some(l4) => {
                        self.transport(&l4, &ip.addresses, carried(inner), group.extra.tcp_flags, body)
                    }
                };
                let packet = match ip.addresses {
                    IpPair::V4 { src, dst } => {
                        self.ipv4(group, ip.protocol, src.octets(), dst.octets(), message)
                    }
                    IpPair::V6 { src, dst } => {
                        self.ipv6(group, ip.protocol, src.octets(), dst.octets(), message)
                    }
                };
                bytes.extend(packet);
            }
        }
        bytes
    }

    fn ipv4(
        &mut self,
        group: &HeaderGroup,
        protocol: u8,
        src: [u8; 4],
        dst: [u8; 4],
        message: Vec<u8>,
    ) -> Vec<u8> {
        let options = if self.once_in(4) { 4 + 4 * self.below(4) as usize } else { 0 };
        let extra = &group.extra;
        let fragment: u16 = match extra.fragment {
            Fragment::None => 0x4000,
            Fragment::First => 0x2000,
            Fragment::Later => 0x2007,
        };
        let mut header = vec![0x45 + (options / 4) as u8, extra.dscp << 2 | extra.ecn];
        header.extend(((20 + options + message.len()) as u16).to_be_bytes());
        header.extend((self.next() as u16).to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([extra.ttl, protocol, 0, 0]);
        header.extend([src, dst].concat());
        header.resize(20 + options, 1);
        let checksum = finish(sum(&header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        [header, message].concat()
    }

    fn ipv6(
        &mut self,
        group: &HeaderGroup,
        protocol: u8,
        src: [u8; 16],
        dst: [u8; 16],
        message: Vec<u8>,
    ) -> Vec<u8> {
        let extra = &group.extra;
        // Extension headers from the last to the first; each names what follows it.
        let mut next = protocol;
        let mut body = message;
        if extra.fragment != Fragment::None || self.once_in(10) {
            let offset_flags: u16 = match extra.fragment {
                Fragment::None => 0,
                Fragment::First => 1,
                Fragment::Later => 8 << 3 | 1,
            };
            let [high, low] = offset_flags.to_be_bytes();
            body = [&[next, 0, high, low, 1, 2, 3, 4], &body[..]].concat();
            next = 44;
        }
        if self.once_in(5) {
            body = [&[next, 1][..], &[1, 12], &[0; 12], &body].concat();
            next = 60;
        }
        if self.once_in(5) {
            body = [&[next, 0][..], &[1, 4, 0, 0, 0, 0], &body].concat();
            next = 0;
        }
        let class = extra.dscp << 2 | extra.ecn;
        let label = self.next() as u32 & 0xf_ffff;
        let mut header = (6 << 28 | (class as u32) << 20 | label).to_be_bytes().to_vec();
        header.extend((body.len() as u16).to_be_bytes());
        header.extend([next, extra.ttl]);
        header.extend([src, dst].concat());
        [header, body].concat()
    }

    fn transport(&mut self, l4: &L4, pair: &IpPair, carries: u16, tcp_flags: u8, body: Vec<u8>) -> Vec<u8> {
        match *l4 {
            L4::Tcp(ports) => {
                let options = 4 * self.below(4) as usize;
                let mut header = [ports.src.to_be_bytes(), ports.dst.to_be_bytes()].concat();
                header.extend(self.bytes(8));
                header.extend([(5 + options as u8 / 4) << 4, tcp_flags, 1, 0, 0, 0, 0, 0]);
                header.resize(20 + options, 1);
                let message = [header, body].concat();
                with_checksum(message, 16, |message| finish(pseudo(pair, 6, message.len()) + sum(message)))
            }
            L4::Udp(ports) => {
                let absent = pair.is_v4() && self.once_in(3);
                udp(pair, ports.src, ports.dst, absent, &body)
            }
            L4::Sctp(ports) => {
                let mut message = [ports.src.to_be_bytes(), ports.dst.to_be_bytes()].concat();
                message.extend([0, 0, 0, 7, 0, 0, 0, 0]);
                message.extend(body);
                let crc = crc32c(&[&message]);
                message[8..12].copy_from_slice(&crc.to_le_bytes());
                message
            }
            L4::Icmp(icmp) | L4::Icmpv6(icmp) => {
                let mut message = vec![icmp.kind, icmp.code, 0, 0];
                message.extend(icmp.id.unwrap_or(0).to_be_bytes());
                message.extend([0, 9]);
                message.extend(body);
                let v6 = !pair.is_v4();
                with_checksum(message, 2, |message| {
                    finish(if v6 { pseudo(pair, 58, message.len()) } else { 0 } + sum(message))
                })
            }
            L4::Encap(encap) => self.tunnel(&encap, pair, carries, body),
        }
    }

    fn tunnel(&mut self, encap: &Encap, pair: &IpPair, carries: u16, body: Vec<u8>) -> Vec<u8> {
        let [k0, k1, k2, k3] = encap.tenant.to_be_bytes();
        let [c0, c1] = carries.to_be_bytes();
        let entropy = 0xc000 | self.next() as u16;
        let absent = !self.once_in(3);
        match encap.kind {
            EncapKind::Vxlan => {
                udp(pair, entropy, 4789, absent, &[&[8, 0, 0, 0, k1, k2, k3, 0][..], &body].concat())
            }
            EncapKind::Geneve => {
                let options = self.below(3) as u8;
                let header =
                    [&[options, 0, c0, c1, k1, k2, k3, 0], &[0u8; 8][..4 * options as usize]].concat();
                udp(pair, entropy, 6081, absent, &[header, body].concat())
            }
            EncapKind::Nvgre => self.gre(0x20, [c0, c1], &[k1, k2, k3, 0x5a], body),
            EncapKind::Gre => self.gre(0, [c0, c1], &[], body),
            EncapKind::GreKeyed => self.gre(0x20, [c0, c1], &[k0, k1, k2, k3], body),
            EncapKind::IpInIp => body,
        }
    }

    fn gre(&mut self, flags: u8, carries: [u8; 2], key: &[u8], body: Vec<u8>) -> Vec<u8> {
        let (sequence, summed) = (self.once_in(4), self.once_in(3));
        let flags = flags | (sequence as u8) << 4 | (summed as u8) << 7;
        let checksum: &[u8] = if summed { &[0; 4] } else { &[] };
        let mut message = [&[flags, 0], &carries[..], checksum, key].concat();
        if sequence {
            message.extend([0, 0, 0, 1]);
        }
        message.extend(body);
        if summed { with_checksum(message, 4, |message| finish(sum(message))) } else { message }
    }

    /// As a guest hands frames over: the checksum field holds the pseudo header's sum, the rest is to be done.
    fn leave_checksum_partial(&mut self, packet: &mut Packet) {
        let parsed = parse(packet.frame()).expect("a valid frame");
        let last = parsed.stack.groups().len() - 1;
        let group = parsed.stack.innermost();
        let at = parsed.layout.groups[last].l4 as usize;
        let covered =
            parsed.stack.groups().iter().zip(&parsed.layout.groups).take(last).any(|(group, places)| {
                // The checksum of a tunnel around it could not be right while the one inside is open.
                let l4 = places.l4 as usize;
                match group.flow_id.l4 {
                    Some(L4::Encap(encap)) if encap.kind.over_udp() => {
                        packet.frame()[l4 + 6..l4 + 8] != [0, 0]
                    }
                    Some(L4::Encap(encap)) if encap.kind != EncapKind::IpInIp => {
                        packet.frame()[l4] & 0x80 != 0
                    }
                    _ => false,
                }
            });
        let Some(L3::Ip(ip)) = group.flow_id.l3 else { return };
        let (protocol, offset) = match group.flow_id.l4 {
            Some(L4::Tcp(_)) => (6, 16),
            Some(L4::Udp(_)) => (17, 6),
            _ => return,
        };
        if covered {
            return;
        }
        let end = ip_end(packet.frame(), &ip.addresses, parsed.layout.groups[last].l3 as usize);
        // Completion sums to the end of the frame: no Ethernet padding.
        packet.set_len(end);
        let value = fold(pseudo(&ip.addresses, protocol, end - at));
        packet.frame_mut()[at + offset..at + offset + 2].copy_from_slice(&value.to_be_bytes());
        packet.offload.checksum = Some(PartialChecksum { start: at as u16, offset: offset as u16 });
        if protocol == 6 {
            let kind = if ip.addresses.is_v4() { SegmentationKind::TcpV4 } else { SegmentationKind::TcpV6 };
            packet.offload.segmentation = Some(Segmentation { kind, size: 1000, ecn: false });
        }
    }
}

fn carried(inner: &[HeaderGroup]) -> u16 {
    let Some(group) = inner.first() else { return 0 };
    match (group.flow_id.l2, group.flow_id.l3) {
        (None, Some(L3::Ip(ip))) if ip.addresses.is_v4() => 0x0800,
        (None, Some(_)) => 0x86dd,
        _ => 0x6558,
    }
}

fn udp(pair: &IpPair, src: u16, dst: u16, absent: bool, body: &[u8]) -> Vec<u8> {
    let length = (8 + body.len()) as u16;
    let header = [src.to_be_bytes(), dst.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    let message = [&header, body].concat();
    if absent {
        return message;
    }
    with_checksum(message, 6, |message| finish_udp(pseudo(pair, 17, message.len()) + sum(message)))
}

fn with_checksum(mut message: Vec<u8>, at: usize, value: impl Fn(&[u8]) -> u16) -> Vec<u8> {
    let value = value(&message);
    message[at..at + 2].copy_from_slice(&value.to_be_bytes());
    message
}

fn pseudo(pair: &IpPair, protocol: u8, length: usize) -> u32 {
    match *pair {
        IpPair::V4 { src, dst } => pseudo_header_v4(src, dst, protocol, length as u32),
        IpPair::V6 { src, dst } => pseudo_header_v6(src, dst, protocol, length as u32),
    }
}

fn ip_end(frame: &[u8], pair: &IpPair, l3: usize) -> usize {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]) as usize;
    if pair.is_v4() { l3 + word(l3 + 2) } else { l3 + 40 + word(l3 + 4) }
}

/// True where bytes lie behind the outermost IP packet.
pub(super) fn is_padded(packet: &Packet) -> bool {
    let parsed = parse(packet.frame()).expect("a valid frame");
    match parsed.stack.outermost().flow_id.l3 {
        Some(L3::Ip(ip)) => {
            ip_end(packet.frame(), &ip.addresses, parsed.layout.groups[0].l3 as usize) < packet.len()
        }
        _ => false,
    }
}

/// Every checksum of the frame, computed from scratch; the first that is wrong, by group.
pub(super) fn verify(packet: &Packet) -> Result<(), alloc::string::String> {
    let mut packet = packet.clone();
    packet.complete_checksum().map_err(|reason| alloc::format!("completion: {reason:?}"))?;
    let frame = packet.frame();
    let parsed = parse(frame).map_err(|reason| alloc::format!("parse: {reason:?}"))?;
    for (index, (group, places)) in parsed.stack.groups().iter().zip(&parsed.layout.groups).enumerate() {
        let Some(L3::Ip(ip)) = group.flow_id.l3 else { continue };
        let pair = &ip.addresses;
        let message = &frame[places.l4 as usize..ip_end(frame, pair, places.l3 as usize)];
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let whole = |protocol| fold(pseudo(pair, protocol, message.len()) + sum(message)) == 0xffff;
        let right = match group.flow_id.l4 {
            Some(L4::Tcp(_)) => whole(6),
            Some(L4::Udp(_)) => {
                word(4) as usize == message.len() && if word(6) == 0 { pair.is_v4() } else { whole(17) }
            }
            Some(L4::Encap(encap)) if encap.kind.over_udp() => {
                word(4) as usize == message.len() && (word(6) == 0 || whole(17))
            }
            Some(L4::Encap(encap)) if encap.kind != EncapKind::IpInIp => {
                message[0] & 0x80 == 0 || fold(sum(message)) == 0xffff
            }
            Some(L4::Icmp(_)) => fold(sum(message)) == 0xffff,
            Some(L4::Icmpv6(_)) => whole(58),
            Some(L4::Sctp(_)) => {
                let crc = crc32c(&[&message[..8], &[0; 4], &message[12..]]);
                message[8..12] == crc.to_le_bytes()
            }
            Some(L4::Encap(_)) | None => true,
        };
        if !right {
            return Err(alloc::format!(
                "group {index}: checksum or length of {:?} is wrong",
                group.flow_id.l4
            ));
        }
    }
    Ok(())
}
