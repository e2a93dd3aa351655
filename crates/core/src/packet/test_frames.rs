//! Frames for the tests of this module, built byte by byte and without the code under test, checksums of IPv4
//! headers apart.

use alloc::vec;
use alloc::vec::Vec;

use super::checksum;
use crate::address::MacAddr;

pub const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

pub fn ethernet(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [B.0, A.0].concat();
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2 with `options` and `flags_offset`.
pub fn ipv4_with(protocol: u8, flags_offset: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + options.len();
    let total = (header_length + payload.len()) as u16;
    let mut packet = vec![0x40 | (header_length / 4) as u8, 0xb9];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags_offset.to_be_bytes());
    packet.extend([63, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    let sum = checksum::finish(checksum::sum(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, 0x4000, &[], payload)
}

/// An IPv6 packet from 2001:db8::1 to 2001:db8::2.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x9a, 0xbc, 0xde];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 62]);
    packet.extend(address(1));
    packet.extend(address(2));
    packet.extend(payload);
    packet
}

pub fn address(last: u8) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    octets[15] = last;
    octets
}

pub fn tcp(options: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
    bytes.extend([(5 + options as u8 / 4) << 4, 0x92, 1, 0, 0, 0, 0, 0]);
    bytes.extend(vec![1; options]);
    bytes.extend(payload);
    bytes
}

pub fn udp(dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 0x01];
    bytes.extend(dst.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0], frame].concat()
}

/// RFC 1071, word by word.
pub fn naive_checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]) as u32;
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}
