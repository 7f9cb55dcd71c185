//! Reads fields out of a message body without indexing and without copying.

use core::fmt;

/// A message body that breaks a rule of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The body ended inside the field.
    Truncated,
    /// The body ended before the byte that says what it is about.
    Empty,
    /// Bytes were left over after the last field.
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A string without its terminating zero byte.
    UnterminatedString,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// A frame whose length word is below its minimum or above the named maximum.
    Length {
        /// What the length word said.
        got: u32,
    },
    /// A message type byte that is unknown or not allowed here.
    MessageType {
        /// The byte.
        got: u8,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("insufficient data left in message"),
            Self::Empty => f.write_str("no data left in message"),
            Self::TrailingBytes { .. } => f.write_str("invalid message format"),
            Self::UnterminatedString => f.write_str("invalid string in message"),
            Self::InvalidUtf8 => f.write_str("invalid byte sequence for encoding \"UTF8\""),
            Self::Length { .. } => f.write_str("invalid message length"),
            Self::MessageType { got } => write!(f, "invalid frontend message type {got}"),
        }
    }
}

/// A cursor over one message body. Every read shortens it.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! big_endian {
    ($($(#[$doc:meta])* $name:ident: $int:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Malformed::Truncated`] when the body ends first.
        pub fn $name(&mut self) -> Result<$int, Malformed> {
            self.array().map(<$int>::from_be_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `body`.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    big_endian! {
        /// Reads one byte.
        u8: u8;
        /// Reads a 16-bit integer.
        i16: i16;
        /// Reads a 16-bit unsigned integer.
        u16: u16;
        /// Reads a 32-bit integer.
        i32: i32;
        /// Reads a 32-bit unsigned integer.
        u32: u32;
        /// Reads a 64-bit integer.
        i64: i64;
        /// Reads a 64-bit unsigned integer.
        u64: u64;
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when the body ends first.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads `len` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when the body ends first.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads bytes up to a zero byte, and the zero byte.
    ///
    /// # Errors
    /// [`Malformed::UnterminatedString`] when there is no zero byte.
    pub fn cstr_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let end =
            self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed::UnterminatedString)?;
        let text = self.take(end)?;
        self.u8()?;
        Ok(text)
    }

    /// Reads a zero-terminated string.
    ///
    /// # Errors
    /// As [`Reader::cstr_bytes`]; [`Malformed::InvalidUtf8`] when it is not UTF-8.
    pub fn cstr(&mut self) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.cstr_bytes()?).map_err(|_| Malformed::InvalidUtf8)
    }

    /// Asserts that everything was read. PostgreSQL: `pq_getmsgend`.
    ///
    /// # Errors
    /// [`Malformed::TrailingBytes`] when something is left.
    pub const fn end(self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Malformed::TrailingBytes { count }),
        }
    }
}

/// One frame: a type byte, a length word that counts itself, a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Message type.
    pub kind: u8,
    /// Everything after the length word.
    pub body: &'a [u8],
    /// Bytes of the whole frame.
    pub len: usize,
}

/// Bytes of a frame before its body.
pub const FRAME_HEADER_LEN: usize = 5;

/// Decodes the frame at the start of `bytes`.
///
/// # Errors
/// [`Malformed::Length`] when the length word is below four or the body longer than `body_max`.
pub fn decode_frame(bytes: &[u8], body_max: usize) -> Result<Option<Frame<'_>>, Malformed> {
    let mut reader = Reader::new(bytes);
    let (Ok(kind), Ok(length)) = (reader.u8(), reader.u32()) else { return Ok(None) };
    let body_len = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    let body_len =
        body_len.filter(|&len| len <= body_max).ok_or(Malformed::Length { got: length })?;
    Ok(reader.take(body_len).ok().map(|body| Frame {
        kind,
        body,
        len: FRAME_HEADER_LEN + body_len,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_complete_or_asks_for_more() {
        let bytes = [b'Q', 0, 0, 0, 6, b'x', 0];
        for cut in 0..bytes.len() {
            assert_eq!(decode_frame(&bytes[..cut], 100), Ok(None));
        }
        let frame = Frame { kind: b'Q', body: b"x\0", len: 7 };
        assert_eq!(decode_frame(&bytes, 100), Ok(Some(frame)));
        assert_eq!(decode_frame(&bytes, 1), Err(Malformed::Length { got: 6 }));
        assert_eq!(decode_frame(&[b'Q', 0, 0, 0, 3], 100), Err(Malformed::Length { got: 3 }));
    }

    #[test]
    fn fields_end_where_they_say() {
        let mut reader = Reader::new(b"ab\0\x01\x02");
        assert_eq!(reader.cstr(), Ok("ab"));
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.u8(), Err(Malformed::Truncated));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(Reader::new(b"ab").cstr(), Err(Malformed::UnterminatedString));
        assert_eq!(Reader::new(b"\xff\0").cstr(), Err(Malformed::InvalidUtf8));
        assert_eq!(Reader::new(b"ab").end(), Err(Malformed::TrailingBytes { count: 2 }));
    }
}
