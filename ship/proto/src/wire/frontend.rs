//! Messages a frontend sends after start-up.
//!
//! Text is passed on as it came: its encoding is checked by whoever uses it.
//!
//! Not here: the first packet (`startup`), what travels inside CopyData (`copy`).
//!
//! PostgreSQL: `SocketBackend`, `PostgresMain` (src/backend/tcop/postgres.c), `pq_getmessage`
//! (src/backend/libpq/pqcomm.c).

use alloc::vec::Vec;

use smallvec::SmallVec;

use crate::wire::reader::{Malformed, Reader, decode_frame};

/// Length word of the messages that carry text or data. PostgreSQL: `PQ_LARGE_MESSAGE_LIMIT`.
pub const LARGE_MESSAGE_LIMIT: usize = 0x3fff_fffe;
/// Length word of the other messages. PostgreSQL: `PQ_SMALL_MESSAGE_LIMIT`.
pub const SMALL_MESSAGE_LIMIT: usize = 10_000;
/// Length word of a password message. PostgreSQL: `PG_MAX_AUTH_TOKEN_LENGTH`.
pub const AUTH_TOKEN_LIMIT: usize = 65_535;

/// The length word counts its own four bytes.
const LENGTH_WORD_LEN: usize = 4;

/// What Describe and Close are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatementOrPortal {
    /// `S`, a prepared statement.
    Statement,
    /// `P`, a portal.
    Portal,
    /// Anything else, for the caller to refuse by the message's name.
    Unknown(u8),
}

impl StatementOrPortal {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            b'S' => Self::Statement,
            b'P' => Self::Portal,
            other => Self::Unknown(other),
        }
    }
}

/// Bind: a portal made of a prepared statement and its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind<'a> {
    /// Name of the portal.
    pub portal: &'a [u8],
    /// Name of the statement.
    pub statement: &'a [u8],
    /// Formats of the parameters: none (all text), one for all, or one each.
    pub parameter_formats: SmallVec<[i16; 4]>,
    /// Values; `None` is NULL.
    pub parameters: SmallVec<[Option<&'a [u8]>; 4]>,
    /// Formats of the result columns, by the same rule.
    pub result_formats: SmallVec<[i16; 4]>,
}

impl Bind<'_> {
    /// Whether every parameter is in the binary format.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        (0..self.parameters.len()).all(|index| self.parameter_format(index) == 1)
    }

    /// Format of a parameter, counted from zero.
    #[must_use]
    pub fn parameter_format(&self, index: usize) -> i16 {
        format_of(&self.parameter_formats, index)
    }
}

/// Format of one of many values: no format is text for all, one is for all, else each has its own.
#[must_use]
pub fn format_of(formats: &[i16], index: usize) -> i16 {
    match formats {
        [] => 0,
        [one] => *one,
        each => each.get(index).copied().unwrap_or(0),
    }
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frontend<'a> {
    /// Query: a simple query.
    Query(&'a [u8]),
    /// Parse.
    Parse {
        /// Name of the statement.
        statement: &'a [u8],
        /// Its text.
        query: &'a [u8],
        /// Type of each parameter, zero when unspecified.
        parameter_types: Vec<u32>,
    },
    /// Bind.
    Bind(Bind<'a>),
    /// Describe.
    Describe {
        /// Of what kind.
        target: StatementOrPortal,
        /// Its name; empty is the unnamed one.
        name: &'a [u8],
    },
    /// Execute.
    Execute {
        /// Which portal.
        portal: &'a [u8],
        /// At most so many rows; all when not positive.
        rows_max: i32,
    },
    /// Close.
    Close {
        /// Of what kind.
        target: StatementOrPortal,
        /// Its name; empty is the unnamed one.
        name: &'a [u8],
    },
    /// Sync.
    Sync,
    /// Flush.
    Flush,
    /// Terminate.
    Terminate,
    /// CopyData.
    CopyData(&'a [u8]),
    /// CopyDone.
    CopyDone,
    /// CopyFail, undecoded: it has the reason.
    CopyFail(&'a [u8]),
    /// PasswordMessage, or a SASL or GSS response: what it is depends on what was asked.
    Password(&'a [u8]),
    /// FunctionCall, undecoded.
    FunctionCall(&'a [u8]),
}

/// A message that breaks a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMessage {
    /// Which rule.
    pub rule: Malformed,
    /// Bytes of the frame when its length can be trusted: the message may be skipped and the
    /// session may go on. `None` when nobody knows where the next message begins.
    pub frame_len: Option<usize>,
}

/// The most that the length word of a message of type `kind` may say, `None` for an unknown type.
/// PostgreSQL: `SocketBackend`.
#[must_use]
pub const fn length_limit(kind: u8) -> Option<usize> {
    match kind {
        b'Q' | b'F' | b'B' | b'P' | b'd' => Some(LARGE_MESSAGE_LIMIT),
        b'X' | b'C' | b'D' | b'E' | b'H' | b'S' | b'c' | b'f' => Some(SMALL_MESSAGE_LIMIT),
        b'p' => Some(AUTH_TOKEN_LIMIT),
        _ => None,
    }
}

/// Decodes the message at the start of `bytes`, and tells how many bytes it has.
///
/// # Errors
/// When it breaks a rule; see [`BadMessage`].
pub fn decode(bytes: &[u8]) -> Result<Option<(Frontend<'_>, usize)>, BadMessage> {
    decode_within(bytes, LARGE_MESSAGE_LIMIT)
}

/// As [`decode`], for a receiver that takes no message with a length word above `limit`.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(
    bytes: &[u8],
    limit: usize,
) -> Result<Option<(Frontend<'_>, usize)>, BadMessage> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let lost = |rule| BadMessage { rule, frame_len: None };
    let kind_limit = length_limit(kind).ok_or(lost(Malformed::MessageType { got: kind }))?;
    let body_max = kind_limit.min(limit).saturating_sub(LENGTH_WORD_LEN);
    let Some(frame) = decode_frame(bytes, body_max).map_err(lost)? else { return Ok(None) };
    match decode_body(kind, frame.body) {
        Ok(message) => Ok(Some((message, frame.len))),
        Err(rule) => Err(BadMessage { rule, frame_len: Some(frame.len) }),
    }
}

/// Whether a message of that type belongs to the extended query protocol: after an error everything
/// up to Sync is skipped. PostgreSQL: `SocketBackend`.
#[must_use]
pub const fn is_extended(kind: u8) -> bool {
    matches!(kind, b'P' | b'B' | b'D' | b'C' | b'E' | b'H')
}

/// Decodes a message whose frame is known: its type and its body.
///
/// # Errors
/// When it breaks a rule; [`Malformed::MessageType`] for a type that does not exist.
pub fn decode_body(kind: u8, body: &[u8]) -> Result<Frontend<'_>, Malformed> {
    let mut reader = Reader::new(body);
    let message = match kind {
        b'Q' => Frontend::Query(reader.cstr_bytes()?),
        b'P' => Frontend::Parse {
            statement: reader.cstr_bytes()?,
            query: reader.cstr_bytes()?,
            parameter_types: counted(&mut reader, Reader::u32)?,
        },
        b'B' => return decode_bind(body).map(Frontend::Bind),
        b'D' => Frontend::Describe { target: target(&mut reader)?, name: reader.cstr_bytes()? },
        b'C' => Frontend::Close { target: target(&mut reader)?, name: reader.cstr_bytes()? },
        b'E' => Frontend::Execute { portal: reader.cstr_bytes()?, rows_max: reader.i32()? },
        b'S' => Frontend::Sync,
        b'H' => Frontend::Flush,
        // PostgreSQL looks no further than the type byte of these.
        b'X' => return Ok(Frontend::Terminate),
        b'd' => return Ok(Frontend::CopyData(body)),
        b'c' => return Ok(Frontend::CopyDone),
        b'f' => return Ok(Frontend::CopyFail(body)),
        b'p' => return Ok(Frontend::Password(body)),
        b'F' => return Ok(Frontend::FunctionCall(body)),
        got => return Err(Malformed::MessageType { got }),
    };
    reader.end()?;
    Ok(message)
}

/// Decodes the body of Bind. PostgreSQL: `exec_bind_message`.
///
/// # Errors
/// When it breaks a rule.
pub fn decode_bind(body: &[u8]) -> Result<Bind<'_>, Malformed> {
    let mut reader = Reader::new(body);
    let bind = Bind {
        portal: reader.cstr_bytes()?,
        statement: reader.cstr_bytes()?,
        parameter_formats: counted(&mut reader, Reader::i16)?,
        parameters: counted(&mut reader, parameter)?,
        result_formats: counted(&mut reader, Reader::i16)?,
    };
    reader.end()?;
    Ok(bind)
}

/// PostgreSQL: `pq_getmsgbyte`, which has words of its own for a missing byte.
fn target(reader: &mut Reader<'_>) -> Result<StatementOrPortal, Malformed> {
    reader.u8().map(StatementOrPortal::from_byte).map_err(|_| Malformed::Empty)
}

/// Reads a 16-bit count and so many items. Memory grows only with bytes that are there.
fn counted<'a, T, C: FromIterator<T>>(
    reader: &mut Reader<'a>,
    item: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<C, Malformed> {
    let count = reader.u16()?;
    (0..count).map(|_| item(reader)).collect()
}

fn parameter<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match reader.i32()? {
        -1 => Ok(None),
        len => {
            let len = usize::try_from(len).map_err(|_| Malformed::Truncated)?;
            reader.take(len).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend::Encoder;
    use alloc::vec;
    use smallvec::smallvec;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.frame(kind, |buf| buf.extend_from_slice(body));
        encoder.take()
    }

    fn samples() -> Vec<(Vec<u8>, Frontend<'static>)> {
        vec![
            (frame(b'Q', b"select 1\0"), Frontend::Query(b"select 1")),
            (
                frame(b'P', b"s\0select $1\0\0\x01\0\0\0\x17"),
                Frontend::Parse { statement: b"s", query: b"select $1", parameter_types: vec![23] },
            ),
            (
                frame(b'B', b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02ab\0\0"),
                Frontend::Bind(Bind {
                    portal: b"p",
                    statement: b"s",
                    parameter_formats: smallvec![1],
                    parameters: smallvec![None, Some(&b"ab"[..])],
                    result_formats: smallvec![],
                }),
            ),
            (
                frame(b'D', b"Ss\0"),
                Frontend::Describe { target: StatementOrPortal::Statement, name: b"s" },
            ),
            (
                frame(b'C', b"Pp\0"),
                Frontend::Close { target: StatementOrPortal::Portal, name: b"p" },
            ),
            (
                frame(b'C', b"xp\0"),
                Frontend::Close { target: StatementOrPortal::Unknown(b'x'), name: b"p" },
            ),
            (frame(b'E', b"\0\0\0\0\x07"), Frontend::Execute { portal: b"", rows_max: 7 }),
            (frame(b'S', b""), Frontend::Sync),
            (frame(b'H', b""), Frontend::Flush),
            (frame(b'X', b""), Frontend::Terminate),
            (frame(b'd', b"\x01\x02"), Frontend::CopyData(b"\x01\x02")),
            (frame(b'c', b""), Frontend::CopyDone),
            (frame(b'f', b"why\0"), Frontend::CopyFail(b"why\0")),
            (frame(b'p', b"secret\0"), Frontend::Password(b"secret\0")),
            (frame(b'F', b"\0\0\0\x01"), Frontend::FunctionCall(b"\0\0\0\x01")),
        ]
    }

    #[test]
    fn every_message_decodes_and_every_prefix_asks_for_more() {
        for (bytes, message) in samples() {
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{message:?} cut at {cut}");
            }
            let longer = [&bytes[..], b"Q"].concat().leak();
            assert_eq!(decode(longer), Ok(Some((message, bytes.len()))));
        }
    }

    #[test]
    fn a_body_cut_short_is_refused_and_can_be_skipped() {
        for (bytes, message) in samples() {
            let (kind, body) = (bytes[0], &bytes[5..]);
            if matches!(kind, b'd' | b'f' | b'p' | b'F') {
                continue;
            }
            for cut in 0..body.len() {
                let shorter = frame(kind, &body[..cut]);
                let bad = decode(&shorter).expect_err("a field is missing");
                assert_eq!(bad.frame_len, Some(shorter.len()), "{message:?} cut at {cut}");
            }
            if !matches!(kind, b'X' | b'c') {
                let longer = frame(kind, &[body, b"x"].concat());
                let rule = decode(&longer).expect_err("a byte is left over").rule;
                assert_eq!(rule, Malformed::TrailingBytes { count: 1 }, "{message:?}");
            }
        }
    }

    #[test]
    fn lengths_are_limited_by_type() {
        for (kind, limit) in [
            (b'Q', LARGE_MESSAGE_LIMIT),
            (b'd', LARGE_MESSAGE_LIMIT),
            (b'S', SMALL_MESSAGE_LIMIT),
            (b'f', SMALL_MESSAGE_LIMIT),
            (b'p', AUTH_TOKEN_LIMIT),
        ] {
            let header = |length: usize| {
                let length = u32::try_from(length).unwrap().to_be_bytes();
                [&[kind][..], &length].concat()
            };
            assert_eq!(decode(&header(limit)), Ok(None));
            let got = u32::try_from(limit + 1).unwrap();
            let bad = BadMessage { rule: Malformed::Length { got }, frame_len: None };
            assert_eq!(decode(&header(limit + 1)), Err(bad));
            assert!(decode(&header(3)).is_err());
        }
        assert!(decode_within(&frame(b'Q', b"0123456789\0"), 14).is_err());
        assert!(decode_within(&frame(b'Q', b"0123456789\0"), 15).is_ok());
    }

    #[test]
    fn an_unknown_type_is_refused_at_its_first_byte() {
        for kind in (0..=u8::MAX).filter(|kind| !b"QPBDECSHXdcfpF".contains(kind)) {
            let rule = Malformed::MessageType { got: kind };
            assert_eq!(decode(&[kind]), Err(BadMessage { rule, frame_len: None }));
        }
    }

    #[test]
    fn a_description_of_nothing_has_words_of_its_own() {
        for kind in [b'D', b'C'] {
            let rule = decode(&frame(kind, b"")).expect_err("a byte is missing").rule;
            assert_eq!(rule, Malformed::Empty);
        }
    }

    #[test]
    fn text_is_not_checked_for_its_encoding() {
        assert_eq!(decode_body(b'Q', b"\xff\0"), Ok(Frontend::Query(b"\xff")));
    }

    #[test]
    fn formats_are_for_all_or_for_each() {
        assert_eq!([0, 1].map(|index| format_of(&[], index)), [0, 0]);
        assert_eq!([0, 1].map(|index| format_of(&[1], index)), [1, 1]);
        assert_eq!([0, 1, 2].map(|index| format_of(&[0, 1], index)), [0, 1, 0]);
    }

    #[test]
    fn a_negative_parameter_length_is_refused() {
        let bytes = frame(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0");
        assert_eq!(decode(&bytes).expect_err("negative").rule, Malformed::Truncated);
    }
}
