//! Link-layer addresses and VLAN tags. IP addresses are `core::net`'s, prefixes are `ipnet`'s.

use core::fmt;
use core::str::FromStr;

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// `00:00:00:00:00:00`; in a pushed outer header it means "the underlay resolver fills this in".
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// True for multicast and broadcast destinations (the group bit).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address as the low 48 bits of a number, first byte most significant.
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address whose bits are the low 48 of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A MAC address is six two-digit hexadecimal bytes joined by colons, for example `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(MacAddr(bytes)) }
    }
}

/// One VLAN tag: which kind, and its 16-bit tag control information.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VlanTag {
    /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits), as on the wire.
    pub tci: u16,
}

impl VlanTag {
    /// 802.1Q customer tag.
    pub const DOT1Q: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const DOT1AD: u16 = 0x88a8;

    /// The VLAN id, 0-4095.
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The 802.1p priority, 0-7.
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }
}

/// Up to two tags, outermost first. A second tag without a first does not occur.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VlanTags {
    tags: [Option<VlanTag>; 2],
}

impl VlanTags {
    /// No tag.
    pub const NONE: VlanTags = VlanTags { tags: [None, None] };

    /// One tag.
    pub const fn one(tag: VlanTag) -> Self {
        VlanTags { tags: [Some(tag), None] }
    }

    /// Two tags, `outer` first on the wire.
    pub const fn two(outer: VlanTag, inner: VlanTag) -> Self {
        VlanTags { tags: [Some(outer), Some(inner)] }
    }

    /// The tag at `index` (0 is outermost).
    pub const fn tag(&self, index: usize) -> Option<VlanTag> {
        if index < 2 { self.tags[index] } else { None }
    }

    /// How many tags there are: 0, 1 or 2.
    pub const fn count(&self) -> usize {
        self.tags[0].is_some() as usize + self.tags[1].is_some() as usize
    }

    /// The tags, outermost first.
    pub fn iter(&self) -> impl Iterator<Item = VlanTag> + '_ {
        self.tags.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn mac_text_round_trips_and_bad_text_is_refused() {
        let mac: MacAddr = "02:00:5e:10:ff:0a".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:ff:0a");
        assert_eq!(MacAddr::from_bits(mac.to_bits()), mac);
        for bad in [
            "",
            "02:00:5e:10:ff",
            "02:00:5e:10:ff:0a:0b",
            "2:0:5e:10:ff:0a",
            "02:00:5e:10:ff:+a",
            "xx:00:5e:10:ff:0a",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseMacError), "{bad}");
        }
    }
}
