//! Header groups: which headers of the list belong to one encapsulation level.

use std::net::Ipv6Addr;
use std::ops::Range;

use lamina_core::address::MacAddr;
use lamina_core::flow::{EncapKind, Fragment, Level, MAX_GROUPS};
use lamina_core::packet::HEADER_WINDOW;

use super::{Ethernet, Frame, Header, Tunnel};

/// One encapsulation level of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group<'a> {
    /// Ethernet.
    pub l2: Option<&'a Ethernet>,
    /// IP or ARP.
    pub l3: Option<&'a Header>,
    /// Transport, ICMP or tunnel.
    pub l4: Option<&'a Header>,
    /// The address asked for, in a neighbour solicitation or advertisement.
    pub nd_target: Option<Ipv6Addr>,
    /// The link-layer address that neighbour discovery announces; zero where that cannot be told.
    pub nd_link: Option<MacAddr>,
}

impl<'a> Group<'a> {
    /// The tunnel that the group opens.
    pub fn tunnel(&self) -> Option<&'a Tunnel> {
        match self.l4 {
            Some(Header::Tunnel(tunnel)) => Some(tunnel),
            _ => None,
        }
    }

    /// Fragment state of the group's IP header.
    pub fn fragment(&self) -> Fragment {
        self.l3.map_or(Fragment::None, Header::fragment)
    }
}

impl Frame {
    /// Where the headers of each group lie in the list. A tunnel header ends its group.
    pub fn group_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        for (index, header) in self.headers.iter().enumerate() {
            if matches!(header, Header::Tunnel(_)) {
                ranges.push(start..index + 1);
                start = index + 1;
            }
        }
        ranges.push(start..self.headers.len());
        ranges
    }

    /// The groups, outermost first.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let view = |range: Range<usize>| {
            let mut group = Group::default();
            for header in &self.headers[range] {
                match header {
                    Header::Ethernet(ethernet) => group.l2 = Some(ethernet),
                    header if header.level() == Level::L3 => group.l3 = Some(header),
                    header => group.l4 = Some(header),
                }
            }
            group
        };
        let mut groups: Vec<Group<'_>> = self.group_ranges().into_iter().map(view).collect();
        if let Some(last) = groups.last_mut() {
            last.nd_target = self.nd_target(last);
            last.nd_link = self.nd_link(last);
        }
        groups
    }

    fn nd_target(&self, innermost: &Group<'_>) -> Option<Ipv6Addr> {
        let Some(Header::Icmp(icmp)) = innermost.l4 else { return None };
        let is_neighbor = icmp.is_v6 && matches!(icmp.kind, 135 | 136);
        let octets: [u8; 16] = self.payload.get(..16)?.try_into().ok()?;
        (is_neighbor && innermost.fragment() == Fragment::None).then(|| octets.into())
    }

    /// The one link-layer address option of a message of neighbour discovery.
    fn nd_link(&self, innermost: &Group<'_>) -> Option<MacAddr> {
        let Some(Header::Icmp(icmp)) = innermost.l4 else { return None };
        if !icmp.is_v6 || innermost.fragment() != Fragment::None {
            return None;
        }
        // What lies between the ICMP header's eight bytes and the options.
        let (fixed, kind) = match icmp.kind {
            133 => (0, 1),
            134 => (8, 1),
            135 => (16, 1),
            136 => (16, 2),
            _ => return None,
        };
        let headers = Frame { headers: self.headers.clone(), payload: Vec::new() }.encode().len();
        let mut rest = self.payload.get(fixed..).unwrap_or_default();
        let mut addresses: Vec<&[u8]> = Vec::new();
        while !rest.is_empty() {
            // The switch sees the beginning of a frame only.
            let at = headers + self.payload.len() - rest.len();
            let length = rest.get(1).map_or(0, |units| 8 * usize::from(*units));
            if length == 0 || length > rest.len() || at + 8 > HEADER_WINDOW {
                return Some(MacAddr::ZERO);
            }
            if rest[0] == kind {
                addresses.push(&rest[2..8]);
            }
            rest = &rest[length..];
        }
        addresses.dedup();
        match addresses.as_slice() {
            [] => None,
            [only] => Some(MacAddr(<[u8; 6]>::try_from(*only).ok()?)),
            _ => Some(MacAddr::ZERO),
        }
    }

    /// The guest's own headers.
    pub fn innermost(&self) -> Group<'_> {
        self.groups().pop().unwrap_or_default()
    }

    /// What the network sees.
    pub fn outermost(&self) -> Group<'_> {
        self.groups().first().copied().unwrap_or_default()
    }

    /// Tenant id of the tunnel nearest to the innermost group that carries one.
    pub fn tenant(&self) -> Option<u32> {
        self.headers.iter().rev().find_map(|header| match header {
            Header::Tunnel(tunnel) if tunnel.kind.has_tenant() => Some(tunnel.tenant),
            _ => None,
        })
    }

    /// True when the list is one that a frame can have: Ethernet first, at most one header per level and group in
    /// order, each on what can carry it, and no more groups than Lamina follows.
    pub fn is_well_formed(&self) -> bool {
        let ranges = self.group_ranges();
        if ranges.len() > MAX_GROUPS {
            return false;
        }
        let mut carrier: Option<&Tunnel> = None;
        for range in ranges {
            let headers = &self.headers[range];
            if !headers.windows(2).all(|pair| pair[0].level() < pair[1].level()) {
                return false;
            }
            let has_l2 = headers.first().is_some_and(|header| header.level() == Level::L2);
            let l3 = headers.iter().find(|header| header.level() == Level::L3);
            let has_ip = l3.is_some_and(|header| header.addresses().is_some());
            let starts_well = match carrier.map(|tunnel| tunnel.kind) {
                None | Some(EncapKind::Vxlan | EncapKind::Nvgre) => has_l2,
                Some(EncapKind::Geneve) => has_l2 || has_ip,
                Some(EncapKind::Gre | EncapKind::GreKeyed | EncapKind::IpInIp) => !has_l2 && has_ip,
            };
            let fits_family = headers.iter().all(|header| match header {
                Header::Icmp(icmp) => icmp.is_v6 == matches!(l3, Some(Header::Ipv6(_))),
                _ => true,
            });
            let has_l4 = headers.iter().any(|header| header.level() == Level::L4);
            if !starts_well || !fits_family || (has_l4 && !has_ip) {
                return false;
            }
            carrier = match headers.last() {
                Some(Header::Tunnel(tunnel)) => Some(tunnel),
                _ => None,
            };
        }
        true
    }

    /// Every checksum that is wrong, and every header that stands where it cannot, in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.is_well_formed() {
            problems.push("headers in an impossible order".to_string());
        }
        let groups = self.groups();
        for (number, group) in groups.iter().enumerate() {
            if group.fragment() != Fragment::None {
                continue;
            }
            let checksum = match group.l4 {
                Some(Header::Tcp(tcp)) => tcp.checksum,
                Some(Header::Udp(udp)) => udp.checksum,
                Some(Header::Icmp(icmp)) => icmp.checksum,
                Some(Header::Tunnel(Tunnel { udp: Some(udp), .. })) => udp.checksum,
                _ => continue,
            };
            if let super::Checksum::Off(by) = checksum {
                problems.push(format!("group {number}: transport checksum is off by {by:#06x}"));
            }
        }
        problems
    }
}
