//! Single headers of an edit: the changes of a kept header, and the checksums that follow.

use super::apply::Before;
use super::bytes::{put, read, write};
use super::{Cover, IpChange, L4Change, L4Checksum, L4Fields};
use crate::drop_reason::DropReason;
use crate::flow::{EncapKind, IpPair};
use crate::packet::checksum::{
    crc32c_delta, finish, finish_udp, fold, pseudo_header_v4, pseudo_header_v6, sum,
};

const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;
const SCTP_CHECKSUM: usize = 8;
pub(super) const ICMP_CHECKSUM: usize = 2;
const GRE_CHECKSUM_BIT: u8 = 0x80;

pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;

/// The checksum of a transport header made anew, at `at`. Where the old one was partial, so is the new one.
#[inline(never)]
pub(super) fn sum_new(frame: &mut [u8], at: usize, end: usize, offset: usize, pseudo: u32, partial: bool) {
    let value =
        if partial { fold(pseudo) } else { finish_udp(pseudo + sum(frame.get(at..end).unwrap_or(&[]))) };
    write(frame, at + offset, value);
}

impl IpChange {
    /// Changes the IP header that is `header`, options and extension headers included.
    #[inline(always)]
    pub(super) fn apply(&self, header: &mut [u8], before: &Before) -> Result<(), DropReason> {
        let merged = match self.merge {
            Some(source) => Some(source.read(&before.classes)?.1),
            None => None,
        };
        match &self.addresses {
            IpPair::V4 { src, dst } => {
                let Some(fixed) = header.first_chunk_mut::<20>() else { return Ok(()) };
                let old_class = fixed[1];
                let new_class = self.class(old_class, merged);
                let old_word = u16::from_be_bytes([fixed[8], fixed[9]]);
                let ttl = match self.ttl {
                    Some(ttl) => ttl.apply(fixed[8]).ok_or(DropReason::TtlExceeded)?,
                    None => fixed[8],
                };
                let protocol = self.protocol.unwrap_or(fixed[9]);
                // RFC 1624: the parser has verified what is moved here.
                let sum = !u16::from_be_bytes([fixed[10], fixed[11]]) as u32
                    + self.address_delta as u32
                    + (!(old_class as u16) as u32 + new_class as u32)
                    + (!old_word as u32 + u16::from_be_bytes([ttl, protocol]) as u32);
                let [high, low] = finish(sum).to_be_bytes();
                fixed[1] = new_class;
                fixed[8..12].copy_from_slice(&[ttl, protocol, high, low]);
                fixed[12..16].copy_from_slice(&src.octets());
                fixed[16..20].copy_from_slice(&dst.octets());
            }
            IpPair::V6 { src, dst } => {
                if let (Some(protocol), len) = (self.protocol, header.len()) {
                    let mut last = 6;
                    walk_extensions(header, 0, len, |_, at| last = at);
                    put(header, last, &[protocol]);
                }
                let Some(fixed) = header.first_chunk_mut::<40>() else { return Ok(()) };
                let class = self.class(fixed[0] << 4 | fixed[1] >> 4, merged);
                fixed[0] = 0x60 | class >> 4;
                fixed[1] = class << 4 | fixed[1] & 0x0f;
                if let Some(ttl) = self.ttl {
                    fixed[7] = ttl.apply(fixed[7]).ok_or(DropReason::TtlExceeded)?;
                }
                fixed[8..24].copy_from_slice(&src.octets());
                fixed[24..40].copy_from_slice(&dst.octets());
            }
        }
        Ok(())
    }

    fn class(&self, old: u8, merged_ecn: Option<u8>) -> u8 {
        self.dscp.unwrap_or(old >> 2) << 2 | merged_ecn.unwrap_or(old & 3)
    }
}

impl L4Change {
    /// Changes the header at `at`, which was at `old_at` when `before` was read.
    #[inline(always)]
    pub(super) fn apply(
        &self,
        frame: &mut [u8],
        at: usize,
        before: &Before,
        old_at: usize,
    ) -> Result<(), DropReason> {
        let partial = before.partial == Some(old_at);
        match self.fields {
            L4Fields::Ports(ports) => {
                if self.checksum == L4Checksum::Sctp {
                    self.update_crc(frame, at, before, old_at, partial, &ports);
                }
                put(frame, at, &ports);
            }
            L4Fields::Icmp { kind, code, id } => {
                put(frame, at, &[kind, code]);
                if let Some(id) = id {
                    write(frame, at + 4, id);
                }
            }
            L4Fields::Encap { kind, tenant, carries } => write_tunnel(frame, at, kind, tenant, carries),
        }
        let (field, pseudo) = match self.checksum {
            L4Checksum::Tcp => (at + TCP_CHECKSUM, self.pseudo_delta),
            L4Checksum::Udp { fill } => {
                let field = at + UDP_CHECKSUM;
                if read(frame, field) == 0 && !partial {
                    if let Some(addresses) = fill {
                        let length = before.ends[self.group as usize % 3].saturating_sub(old_at);
                        let pseudo = pseudo_sum(&addresses, UDP, length);
                        sum_new(frame, at, at + length, UDP_CHECKSUM, pseudo, false);
                    }
                    return Ok(());
                }
                (field, self.pseudo_delta)
            }
            L4Checksum::Icmp => (at + ICMP_CHECKSUM, 0),
            L4Checksum::Icmpv6 => (at + ICMP_CHECKSUM, self.pseudo_delta),
            L4Checksum::Sctp | L4Checksum::Covered => return Ok(()),
        };
        let value = read(frame, field);
        let value = if partial {
            fold(value as u32 + pseudo as u32)
        } else {
            // RFC 1624 eq. 3; only TCP keeps the 0 that UDP and ICMP must not have.
            match !fold(!value as u32 + pseudo as u32 + self.own_delta as u32) {
                0 if self.checksum != L4Checksum::Tcp => 0xffff,
                value => value,
            }
        };
        write(frame, field, value);
        Ok(())
    }

    #[inline(never)]
    fn update_crc(
        &self,
        frame: &mut [u8],
        at: usize,
        before: &Before,
        old_at: usize,
        partial: bool,
        ports: &[u8; 4],
    ) {
        let distance = before.ends[self.group as usize % 3].saturating_sub(old_at + 4);
        let Some(header) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<12>()) else { return };
        if !partial && header[..4] != ports[..] {
            let crc = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
            let crc = crc ^ crc32c_delta(&header[..4], ports, distance);
            header[SCTP_CHECKSUM..].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Writes a kept tunnel header's tenant and what it carries.
fn write_tunnel(frame: &mut [u8], at: usize, kind: EncapKind, tenant: u32, carries: u16) {
    let key = tenant.to_be_bytes();
    let has_checksum = frame.get(at).is_some_and(|flags| flags & GRE_CHECKSUM_BIT != 0);
    let key_at = at + if has_checksum { 8 } else { 4 };
    match kind {
        EncapKind::Vxlan => put(frame, at + 12, &key[1..]),
        EncapKind::Geneve => {
            write(frame, at + 10, carries);
            put(frame, at + 12, &key[1..]);
        }
        EncapKind::Nvgre => put(frame, key_at, &key[1..]),
        EncapKind::Gre => write(frame, at + 2, carries),
        EncapKind::GreKeyed => {
            write(frame, at + 2, carries);
            put(frame, key_at, &key);
        }
        EncapKind::IpInIp => {}
    }
}

impl Cover {
    /// Where the checksum is, if the header at `at` has one.
    pub(super) fn field(&self, frame: &[u8], at: usize) -> Option<usize> {
        if self.kind.over_udp() {
            (read(frame, at + UDP_CHECKSUM) != 0).then_some(at + UDP_CHECKSUM)
        } else {
            frame.get(at).is_some_and(|flags| flags & GRE_CHECKSUM_BIT != 0).then_some(at + 4)
        }
    }

    /// The part of the pseudo header that may change.
    pub(super) fn pseudo(&self, frame: &[u8], at: usize, addresses: &IpPair) -> u32 {
        if self.kind.over_udp() { pseudo_sum(addresses, UDP, read(frame, at + 4) as usize) } else { 0 }
    }

    /// The sum of the header and what it covers up to `end`, without the checksum itself.
    pub(super) fn sum(&self, frame: &[u8], at: usize, end: usize) -> u32 {
        let Some(field) = self.field(frame, at) else { return 0 };
        let before_field = frame.get(at..field.min(end)).unwrap_or(&[]);
        let behind_field = frame.get(field + 2..end).unwrap_or(&[]);
        sum(before_field) + sum(behind_field)
    }
}

pub(super) fn pseudo_sum(addresses: &IpPair, protocol: u8, length: usize) -> u32 {
    match addresses {
        IpPair::V4 { src, dst } => pseudo_header_v4(*src, *dst, protocol, length as u32),
        IpPair::V6 { src, dst } => pseudo_header_v6(*src, *dst, protocol, length as u32),
    }
}

/// Calls `visit` with the number and place of each extension header of the IPv6 header at `l3`, up to `l4`.
pub(super) fn walk_extensions(bytes: &[u8], l3: usize, l4: usize, mut visit: impl FnMut(u8, usize)) {
    let mut next = bytes.get(l3 + 6).copied().unwrap_or(NO_NEXT);
    let mut at = l3 + 40;
    while at < l4 {
        let Some(&[following, units]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) else {
            return;
        };
        visit(next, at);
        at += match next {
            FRAGMENT => 8,
            // RFC 4302 §2.2: in units of four bytes, minus two.
            AUTHENTICATION => (units as usize + 2) * 4,
            _ => (units as usize + 1) * 8,
        };
        next = following;
    }
}
