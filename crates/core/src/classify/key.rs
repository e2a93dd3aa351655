//! Numbers that the field indexes search: 32 bits wide where every value fits (ports, IPv4 addresses), else 64 (MAC
//! addresses) or 128 (IPv6 addresses).
//!
//! It must not narrow a number silently: [`Key::clamped`] is for searches, where anything above the largest key
//! sorts after it, [`Key::exact`] is for equality.

/// A number of one width.
pub(super) trait Key: Copy + Ord + core::hash::Hash + core::fmt::Debug {
    /// The largest key.
    const MAX: Self;
    /// `bits`, or the largest key when it does not fit.
    fn clamped(bits: u128) -> Self;
    /// `bits` when it fits.
    fn exact(bits: u128) -> Option<Self>;
    /// How many low bits must be cleared before `self` and `other` are equal.
    fn differing_bits(self, other: Self) -> u32;
    /// `self` with its lowest `bits` cleared, and with them set.
    fn block(self, bits: u32) -> (Self, Self);
    /// `self - low`, shifted right. The caller keeps the result within its table.
    fn slot(self, low: Self, shift: u32) -> usize;
}

/// How many of `keys` are not above `key`. All are looked at, in any order and without a branch.
#[inline]
pub(super) fn count_through<K: Key>(keys: &[K], key: K) -> u32 {
    keys.iter().map(|other| u32::from(*other <= key)).sum()
}

macro_rules! keys {
    ($($number:ty),+) => { $(
        impl Key for $number {
            const MAX: Self = Self::MAX;

            #[inline]
            fn clamped(bits: u128) -> Self {
                bits.try_into().unwrap_or(Self::MAX)
            }

            #[inline]
            fn exact(bits: u128) -> Option<Self> {
                bits.try_into().ok()
            }

            fn differing_bits(self, other: Self) -> u32 {
                Self::BITS - (self ^ other).leading_zeros()
            }

            fn block(self, bits: u32) -> (Self, Self) {
                let host = if bits >= Self::BITS { Self::MAX } else { (1 << bits) - 1 };
                (self & !host, self | host)
            }

            #[inline]
            fn slot(self, low: Self, shift: u32) -> usize {
                (self.wrapping_sub(low).checked_shr(shift).unwrap_or(0)) as usize
            }
        }
    )+ };
}

keys!(u32, u64, u128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_keys_sort_wide_numbers_last_and_never_equal_them() {
        assert_eq!(u64::clamped(u128::MAX), u64::MAX);
        assert_eq!(u32::clamped(1 << 32), u32::MAX);
        assert_eq!(u64::exact(1 << 64), None);
        assert_eq!(u64::exact(7), Some(7));
    }

    #[test]
    fn blocks_are_aligned() {
        assert_eq!(0b1011_0110u64.block(4), (0b1011_0000, 0b1011_1111));
        assert_eq!(5u64.block(64), (0, u64::MAX));
        assert_eq!(0b1011_0110u64.differing_bits(0b1011_1110), 4);
        assert_eq!(0x1234u128.slot(0x1200, 4), 3);
    }
}
