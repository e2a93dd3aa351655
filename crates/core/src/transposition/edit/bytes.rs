//! The bytes of pushed headers, as far as they are known at compile time, and field access that cannot panic.

use alloc::vec::Vec;

use crate::flow::{Arp, Encap, EncapKind, Icmp, IpPair, L2, Ports};

/// Don't fragment.
const DF: [u8; 2] = [0x40, 0];

pub(super) fn emit_l2(out: &mut Vec<u8>, l2: &L2) {
    out.extend(l2.dst.0);
    out.extend(l2.src.0);
    for tag in l2.tags.iter() {
        out.extend(tag.tpid.to_be_bytes());
        out.extend(tag.tci.to_be_bytes());
    }
    out.extend(l2.ethertype.to_be_bytes());
}

/// Length, class and checksum stay 0: they are per packet.
pub(super) fn emit_ip(out: &mut Vec<u8>, addresses: &IpPair, protocol: u8, ttl: u8) {
    match addresses {
        IpPair::V4 { src, dst } => {
            out.extend([0x45, 0, 0, 0, 0, 0, DF[0], DF[1], ttl, protocol, 0, 0]);
            out.extend(src.octets());
            out.extend(dst.octets());
        }
        IpPair::V6 { src, dst } => {
            out.extend([0x60, 0, 0, 0, 0, 0, protocol, ttl]);
            out.extend(src.octets());
            out.extend(dst.octets());
        }
    }
}

/// Ethernet and IPv4 (RFC 826).
pub(super) fn emit_arp(out: &mut Vec<u8>, arp: &Arp) {
    out.extend([0, 1, 8, 0, 6, 4]);
    out.extend(arp.operation.to_be_bytes());
    out.extend(arp.sender_mac.0);
    out.extend(arp.sender_ip.octets());
    out.extend(arp.target_mac.0);
    out.extend(arp.target_ip.octets());
}

/// Length and checksum stay 0.
pub(super) fn emit_udp(out: &mut Vec<u8>, ports: Ports) {
    out.extend(ports.src.to_be_bytes());
    out.extend(ports.dst.to_be_bytes());
    out.extend([0; 4]);
}

/// Checksum 0; sequence number, or the unused rest of an error, 0.
pub(super) fn emit_icmp(out: &mut Vec<u8>, icmp: &Icmp) {
    out.extend([icmp.kind, icmp.code, 0, 0]);
    out.extend(icmp.id.unwrap_or(0).to_be_bytes());
    out.extend([0; 2]);
}

/// The tunnel's own header, behind its UDP header where it has one.
pub(super) fn emit_tunnel(out: &mut Vec<u8>, encap: &Encap, carries: u16, entropy: u16) {
    let [key0, key1, key2, key3] = encap.tenant.to_be_bytes();
    let [type0, type1] = carries.to_be_bytes();
    match encap.kind {
        EncapKind::Vxlan => out.extend([0x08, 0, 0, 0, key1, key2, key3, 0]),
        EncapKind::Geneve => out.extend([0, 0, type0, type1, key1, key2, key3, 0]),
        EncapKind::Nvgre => out.extend([0x20, 0, type0, type1, key1, key2, key3, entropy as u8]),
        EncapKind::Gre => out.extend([0, 0, type0, type1]),
        EncapKind::GreKeyed => out.extend([0x20, 0, type0, type1, key0, key1, key2, key3]),
        EncapKind::IpInIp => {}
    }
}

/// Two bytes at `at`; 0 beyond the end, which no parsed layout reaches.
#[inline(always)]
pub(super) fn read(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) {
        Some(word) => u16::from_be_bytes(*word),
        None => 0,
    }
}

/// Sets two bytes at `at`, if they are there.
#[inline(always)]
pub(super) fn write(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_be_bytes());
}

/// Copies `value` to `at`, if it fits.
#[inline(always)]
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        to.copy_from_slice(value);
    }
}
