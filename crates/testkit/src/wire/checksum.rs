//! The Internet checksum, computed whole (RFC 1071), and how far a transport checksum is off.

use std::net::IpAddr;

/// What is known of a transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// It is right.
    #[default]
    Right,
    /// UDP without checksum: zero on the wire.
    Absent,
    /// It is wrong: what must be added (one's complement) to the right one.
    Off(u16),
}

/// The one's complement sum of `bytes` as 16-bit words, the last one padded with zero.
fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        let word = u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        total += word;
        if total > 0xffff {
            total -= 0xffff;
        }
    }
    total
}

/// The Internet checksum of `bytes`, whose own checksum field is zero.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    !(sum(bytes) as u16)
}

/// The checksum of `message` (checksum field zero) with the pseudo header of RFC 9293 §3.1 or RFC 8200 §8.1;
/// without one when `addresses` is `None` (ICMP for IPv4).
pub(super) fn transport(addresses: Option<(IpAddr, IpAddr)>, protocol: u8, message: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(message.len() + 40);
    if let Some((src, dst)) = addresses {
        for address in [src, dst] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend((message.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
    }
    bytes.extend(message);
    internet_checksum(&bytes)
}

/// SCTP's CRC32c of `message`, whose own checksum field is zero (RFC 9260 appendix A), bit by bit. It is stored with
/// its lowest byte first.
pub(super) fn crc32c(message: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// What is known of the checksum `stored`, when `right` is what it should be.
pub(super) fn classify(stored: u16, right: u16) -> Checksum {
    let same = stored == right || (stored == 0xffff && right == 0) || (stored == 0 && right == 0xffff);
    if same {
        return Checksum::Right;
    }
    let difference = (u32::from(stored) + 0xffff - u32::from(right)) % 0xffff;
    Checksum::Off(difference as u16)
}

/// The checksum to store, when `right` is the right one.
pub(super) fn stored(state: Checksum, right: u16) -> u16 {
    match state {
        Checksum::Right => right,
        Checksum::Absent => 0,
        Checksum::Off(difference) => {
            let total = u32::from(right) + u32::from(difference);
            (if total > 0xffff { total - 0xffff } else { total }) as u16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_3720_appendix_b_4() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(internet_checksum(&[0x01]), !0x0100);
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong() {
        for (wrong, right) in [(0x1234, 0x1233), (0x0001, 0xfffe), (0xfffe, 0x0001), (7, 0x8000)] {
            let state = classify(wrong, right);
            assert_eq!(stored(state, right), wrong, "{wrong:x} {right:x}");
            assert_ne!(state, Checksum::Right);
        }
        assert_eq!(classify(0xffff, 0), Checksum::Right);
    }
}
