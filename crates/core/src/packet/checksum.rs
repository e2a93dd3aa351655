//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and SCTP's CRC32c (RFC 9260 appendix A)
//! with an update of its own.
//!
//! Theory. The Internet checksum is a sum of 16-bit words in ones' complement, where a carry out of the top is
//! added back at the bottom. So it may be computed over wider words and folded at the end, sums of parts add up,
//! and the change of one word changes the sum by the difference alone: `HC' = ~(~HC + ~m + m')` (RFC 1624,
//! eq. 3). A sum is kept here as a `u32` that still has its carries; adding up to 65,536 folded sums cannot
//! overflow it. Words are in network byte order, so a part that starts at an odd byte must be summed by itself
//! and byte-swapped by its caller; headers never do.
//!
//! A CRC is a remainder of polynomials over GF(2), where addition is XOR. So the CRCs of two messages of equal
//! length differ by the CRC (without initial value and final inversion) of their XOR, and zero bytes behind the
//! last difference multiply it by `x^8` each. The change of a header therefore changes the checksum by a number
//! that depends on the header and on its distance from the end, not on the payload.

use core::net::{Ipv4Addr, Ipv6Addr};

/// The ones' complement sum of `bytes`, an odd last byte padded with zero (RFC 1071 §4.1). At most 0xffff.
pub fn sum(bytes: &[u8]) -> u32 {
    // Four bytes at a time into 64 bits: 2^32 additions before a carry is lost. The compiler makes it wide.
    let mut total = 0u64;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        total += u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as u64;
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(chunks.remainder()) {
        *to = *from;
    }
    total += u32::from_ne_bytes(last) as u64;
    // RFC 1071 §2 (B): the sum may be taken in any byte order and swapped afterwards.
    u16::from_be_bytes(fold64(total).to_ne_bytes()) as u32
}

/// [`sum`] of a header of a fixed length that is a multiple of four.
#[inline(always)]
pub fn sum_words<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(4)) };
    let mut total = 0u64;
    let mut at = 0;
    while at < N {
        total += u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as u64;
        at += 4;
    }
    u16::from_be_bytes(fold64(total).to_ne_bytes()) as u32
}

#[inline(always)]
fn fold64(total: u64) -> u16 {
    // 2^32 - 1 is a multiple of 2^16 - 1, so halves fold first; the second addition cannot carry beyond 33 bits.
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 32) + (total & 0xffff_ffff);
    fold(total as u32)
}

/// A sum with its carries added back. It is 0 only for a sum of zeroes.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The checksum field of a header or message of which the sum, with a zero checksum field, is `sum`.
#[inline(always)]
pub fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// [`finish`] for UDP, where a computed zero is sent as 0xffff since zero means "no checksum" (RFC 768).
#[inline(always)]
pub fn finish_udp(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// The checksum field after words that summed to `old` were replaced by words that sum to `new` (RFC 1624, eq. 3).
///
/// A UDP checksum of zero is no checksum and must not be updated. A result of zero may always be stored as 0xffff,
/// the same number in ones' complement; for UDP it must be, and for ICMP over IPv4 too: a message that has become
/// all zeroes has the checksum 0xffff, and only the update's result is 0. IP, TCP and ICMPv6 are never all zeroes.
#[inline(always)]
pub fn update(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(!checksum as u32 + !fold(old) as u32 + fold(new) as u32)
}

/// [`update`] for a checksum that is still partial: it holds the (not inverted) pseudo-header sum, so the
/// difference enters without inversion. Only words of the pseudo header (addresses, protocol, length) are in it;
/// a change of the transport header itself leaves a partial checksum as it is.
#[inline(always)]
pub fn update_partial(partial: u16, old: u32, new: u32) -> u16 {
    fold(partial as u32 + !fold(old) as u32 + fold(new) as u32)
}

/// The sum of the pseudo header of TCP, UDP and the like over IPv4 (RFC 9293 §3.1); `length` in bytes of
/// transport header and payload.
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: u32) -> u32 {
    sum_words(&src.octets()) + sum_words(&dst.octets()) + protocol as u32 + (length >> 16) + (length & 0xffff)
}

/// The sum of the pseudo header of upper-layer protocols over IPv6 (RFC 8200 §8.1); `length` in bytes of
/// upper-layer header and payload.
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, length: u32) -> u32 {
    sum_words(&src.octets()) + sum_words(&dst.octets()) + protocol as u32 + (length >> 16) + (length & 0xffff)
}

/// The Castagnoli polynomial, lowest power in the highest bit.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// `TABLES[k][b]` is the remainder of byte `b` with `k` zero bytes behind it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous: u32 = tables[k - 1][byte];
            tables[k][byte] = (previous >> 8) ^ tables[0][(previous & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
};

/// `POWERS[k]` is `x^(8 * 2^k)`: what `2^k` zero bytes multiply a remainder by.
static POWERS: [u32; 17] = {
    // x^8: bit 31 is x^0.
    let mut powers = [1 << (31 - 8); 17];
    let mut k = 1;
    while k < 17 {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// `crc * x` modulo the polynomial.
const fn times_x(crc: u32) -> u32 {
    if crc & 1 == 1 { (crc >> 1) ^ CASTAGNOLI } else { crc >> 1 }
}

/// `a * b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1u32 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = times_x(b);
        bit >>= 1;
    }
    product
}

/// Continues the remainder `crc` over `bytes`: no initial value, no inversion.
fn remainder(mut crc: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let low = crc ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        crc = TABLES[7][(low & 0xff) as usize]
            ^ TABLES[6][(low >> 8 & 0xff) as usize]
            ^ TABLES[5][(low >> 16 & 0xff) as usize]
            ^ TABLES[4][(low >> 24) as usize]
            ^ TABLES[3][chunk[4] as usize]
            ^ TABLES[2][chunk[5] as usize]
            ^ TABLES[1][chunk[6] as usize]
            ^ TABLES[0][chunk[7] as usize];
    }
    for byte in chunks.remainder() {
        crc = (crc >> 8) ^ TABLES[0][((crc ^ *byte as u32) & 0xff) as usize];
    }
    crc
}

/// The CRC32c of a message made of `parts`. SCTP stores it little-endian at byte 8 of its header, computed with
/// that field zero (RFC 9260 appendix A).
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(!0, |crc, part| remainder(crc, part))
}

/// What a CRC32c changes by (XOR) when `old` becomes `new` in a message of which `distance` bytes follow. Both
/// are of one length; of a longer one the rest is ignored. Costs nothing per byte of payload.
pub fn crc32c_delta(old: &[u8], new: &[u8], distance: usize) -> u32 {
    let mut crc = 0u32;
    for (a, b) in old.iter().zip(new) {
        crc = (crc >> 8) ^ TABLES[0][((crc ^ (a ^ b) as u32) & 0xff) as usize];
    }
    let mut zeroes = distance;
    for (k, power) in POWERS.iter().enumerate() {
        if zeroes & 1 << k != 0 {
            crc = multiply(crc, *power);
        }
    }
    // Frames are below 2^17 bytes; the loop is for callers that know longer messages.
    zeroes >>= POWERS.len();
    while zeroes > 0 {
        crc = multiply(multiply(crc, POWERS[16]), POWERS[16]);
        zeroes -= 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// RFC 1071 word by word.
    fn naive_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]) as u32;
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// CRC32c bit by bit.
    fn naive_crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= *byte as u32;
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn sum_of_the_rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn update_of_the_rfc_1624_example_is_not_minus_zero() {
        // §4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, where eq. 2 gave 0xffff.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn crc32c_of_the_check_string() {
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn sum_is_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&bytes), naive_sum(&bytes) as u32);
        }

        #[test]
        fn sum_of_words_is_the_naive_sum(bytes in any::<[u8; 20]>()) {
            prop_assert_eq!(sum_words(&bytes), naive_sum(&bytes) as u32);
        }

        #[test]
        fn all_ones_do_not_overflow(length in 0usize..70_000) {
            let bytes = alloc::vec![0xff; length];
            prop_assert_eq!(sum(&bytes), naive_sum(&bytes) as u32);
        }

        #[test]
        fn update_is_a_full_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..200),
            at in any::<prop::sample::Index>(),
            new in any::<[u8; 8]>(),
        ) {
            // RFC 1624: holds for messages that are not all zero, which no header is.
            bytes.push(1);
            bytes.push(1);
            let before = finish(sum(&bytes));
            let partial = fold(sum(&bytes));
            let at = at.index(bytes.len() - 2) & !1;
            let end = (at + 8).min(bytes.len() - 2) & !1;
            let old: Vec<u8> = bytes[at..end].to_vec();
            bytes[at..end].copy_from_slice(&new[..end - at]);
            prop_assert_eq!(update(before, sum(&old), sum(&new[..end - at])), finish(sum(&bytes)));
            prop_assert_eq!(update_partial(partial, sum(&old), sum(&new[..end - at])), fold(sum(&bytes)));
        }

        #[test]
        fn pseudo_headers_are_the_naive_sums(
            v4 in any::<([u8; 4], [u8; 4])>(),
            v6 in any::<([u8; 16], [u8; 16])>(),
            protocol in any::<u8>(),
            length in 0u32..70_000,
        ) {
            let tail = [length.to_be_bytes(), [0, 0, 0, protocol]].concat();
            let bytes = [&v4.0[..], &v4.1, &tail].concat();
            let got = pseudo_header_v4(v4.0.into(), v4.1.into(), protocol, length);
            prop_assert_eq!(fold(got), naive_sum(&bytes));
            let bytes = [&v6.0[..], &v6.1, &tail].concat();
            let got = pseudo_header_v6(v6.0.into(), v6.1.into(), protocol, length);
            prop_assert_eq!(fold(got), naive_sum(&bytes));
        }

        #[test]
        fn crc32c_is_the_naive_one(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert_eq!(crc32c(&[&bytes]), naive_crc32c(&bytes));
        }

        #[test]
        fn crc32c_delta_is_a_full_recomputation(
            head in proptest::collection::vec(any::<u8>(), 0..20),
            change in any::<([u8; 12], [u8; 12])>(),
            distance in prop_oneof![0usize..300, 60_000usize..300_000],
        ) {
            let tail = alloc::vec![0x5a; distance];
            let before = naive_crc32c(&[&head[..], &change.0, &tail].concat());
            let after = naive_crc32c(&[&head[..], &change.1, &tail].concat());
            prop_assert_eq!(before ^ crc32c_delta(&change.0, &change.1, distance), after);
        }
    }
}
