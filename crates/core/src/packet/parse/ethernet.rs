//! Ethernet, VLAN tags (802.1Q, 802.1ad) and ARP (RFC 826).

use core::net::Ipv4Addr;

use super::{GroupLayout, Reader, TPID_DOT1AD, TPID_DOT1Q, be16};
use crate::address::{MacAddr, VlanTag, VlanTags};
use crate::drop_reason::DropReason;
use crate::flow::{Arp, HeaderGroup, L2, L3};

/// Ethernet's number among ARP hardware types.
const HARDWARE_ETHERNET: u16 = 1;

impl Reader<'_> {
    /// Reads an Ethernet header with up to two tags and returns what follows them. A third tag is left unread
    /// and its tpid returned.
    #[inline(always)]
    pub(super) fn ethernet(
        &mut self,
        group: &mut HeaderGroup,
        layout: &mut GroupLayout,
        cut: DropReason,
    ) -> Result<u16, DropReason> {
        layout.l2 = self.offset();
        let bytes = self.peek::<14>(cut)?;
        self.at += 14;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *bytes;
        let mut ethertype = be16(bytes, 12);
        let mut tags = VlanTags::NONE;
        if is_tpid(ethertype) {
            let outer = self.tag(&mut ethertype)?;
            tags = VlanTags::one(outer);
            if is_tpid(ethertype) {
                tags = VlanTags::two(outer, self.tag(&mut ethertype)?);
            }
        }
        group.flow_id.l2 = Some(L2 {
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            tags,
            ethertype,
        });
        Ok(ethertype)
    }

    /// Reads the tag whose tpid is `ethertype`, and what follows it into `ethertype`.
    fn tag(&mut self, ethertype: &mut u16) -> Result<VlanTag, DropReason> {
        let bytes = self.peek::<4>(DropReason::Truncated)?;
        self.at += 4;
        let tag = VlanTag { tpid: *ethertype, tci: be16(bytes, 0) };
        *ethertype = be16(bytes, 2);
        Ok(tag)
    }

    /// Reads an ARP packet for IPv4 over Ethernet.
    pub(super) fn arp(&mut self, group: &mut HeaderGroup) -> Result<(), DropReason> {
        let bytes = self.peek::<28>(DropReason::BadArp)?;
        let lengths_fit = bytes[4] == 6 && bytes[5] == 4;
        if be16(bytes, 0) != HARDWARE_ETHERNET || be16(bytes, 2) != super::ETHERTYPE_IPV4 || !lengths_fit {
            return Err(DropReason::BadArp);
        }
        self.at += 28;
        let mac = |at: usize| {
            MacAddr([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4], bytes[at + 5]])
        };
        let ip = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        group.flow_id.l3 = Some(L3::Arp(Arp {
            operation: be16(bytes, 6),
            sender_mac: mac(8),
            sender_ip: ip(14),
            target_mac: mac(18),
            target_ip: ip(24),
        }));
        Ok(())
    }
}

fn is_tpid(ethertype: u16) -> bool {
    ethertype == TPID_DOT1Q || ethertype == TPID_DOT1AD
}
