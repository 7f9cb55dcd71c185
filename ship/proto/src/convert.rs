//! Numbers from one width to another, where they are known to fit.
//!
//! A length, a position or a count that does not fit is a fault of this program, which then ends instead of going on
//! with another number.
//!
//! Not here: numbers that a peer or a file gives. Those are checked where they are decoded.

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "walhub needs 64-bit addresses");

/// A length or an index in memory, as positions count.
#[must_use]
pub fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("both have 64 bits")
}

/// A distance between positions, as memory counts.
#[must_use]
pub fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("both have 64 bits")
}

/// A length as a field of 32 bits has it.
///
/// # Panics
/// If it is 4 GiB or more: what may get so long is refused before it is framed.
#[must_use]
#[track_caller]
pub fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a length field has 32 bits")
}

/// The lower half.
#[must_use]
pub const fn low_u32(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_half_is_what_a_truncation_leaves() {
        for number in [0, 1, u64::from(u32::MAX), 1 << 32, 0x1234_5678_9ABC_DEF0, u64::MAX] {
            assert_eq!(u64::from(low_u32(number)), number % (1 << 32));
        }
    }

    #[test]
    #[should_panic(expected = "a length field has 32 bits")]
    fn a_length_that_does_not_fit_its_field_is_not_another_one() {
        let _ = to_u32(1 << 32);
    }
}
