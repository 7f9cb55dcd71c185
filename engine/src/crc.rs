//! CRC-32C with the processor's own instruction where it has one.

/// Continues a CRC-32C over `bytes`; the first `crc` is 0.
#[must_use]
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_give_what_the_whole_gives() {
        // The check value of CRC-32C (RFC 3720, appendix B.4 names the polynomial).
        assert_eq!(super::crc32c(0, b"123456789"), 0xE306_9283);
        assert_eq!(super::crc32c(super::crc32c(0, b"1234"), b"56789"), 0xE306_9283);
    }
}
