//! The frontend messages that the console reads.
//!
//! PostgreSQL: `PostgresMain`, `exec_bind_message` (src/backend/tcop/postgres.c).

use smallvec::SmallVec;
use walhub_proto::wire::reader::{Malformed, Reader};

use super::extended::format_of;

/// Text of a message, not yet checked for its encoding.
pub(super) type RawText<'a> = &'a [u8];

/// What Describe and Close name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// A message from the frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message<'a> {
    Query(RawText<'a>),
    Parse {
        name: RawText<'a>,
        query: RawText<'a>,
        types: Vec<u32>,
    },
    Bind(Bind<'a>),
    Describe(Target, RawText<'a>),
    Close(Target, RawText<'a>),
    Execute {
        portal: RawText<'a>,
        rows_max: i32,
    },
    Sync,
    Flush,
    Terminate,
    FunctionCall,
    /// CopyData, CopyDone, CopyFail: left over from a COPY that failed, and ignored.
    Copy,
}

/// The fields of Bind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bind<'a> {
    pub(super) portal: RawText<'a>,
    pub(super) statement: RawText<'a>,
    pub(super) parameter_formats: SmallVec<[i16; 4]>,
    pub(super) parameters: SmallVec<[Option<&'a [u8]>; 4]>,
    pub(super) result_formats: SmallVec<[i16; 4]>,
}

impl Bind<'_> {
    /// Whether every parameter is in the binary format.
    pub(super) fn is_binary(&self) -> bool {
        (0..self.parameters.len()).all(|index| self.parameter_format(index) == 1)
    }

    /// Format of a parameter, counted from zero.
    pub(super) fn parameter_format(&self, index: usize) -> i16 {
        format_of(&self.parameter_formats, index)
    }
}

/// Why a message is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// A type that does not exist: the stream is out of step, and the session ends.
    Kind(u8),
    /// A body that breaks its own format: the message fails.
    Body(&'static str),
    /// Describe or Close of something that is neither a statement nor a portal.
    Subtype { message: &'static str, got: u8 },
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "invalid frontend message type {kind}"),
            Self::Body(message) => f.write_str(message),
            Self::Subtype { message, got } => write!(f, "invalid {message} message subtype {got}"),
        }
    }
}

impl From<Malformed> for Broken {
    fn from(malformed: Malformed) -> Self {
        Self::Body(match malformed {
            Malformed::Truncated => "insufficient data left in message",
            Malformed::TrailingBytes { .. } => "invalid message format",
            Malformed::UnterminatedString => "invalid string in message",
            Malformed::InvalidUtf8 | Malformed::Length { .. } | Malformed::MessageType { .. } => {
                "invalid message format"
            }
        })
    }
}

/// Whether the message belongs to the extended protocol: its errors are skipped up to Sync.
pub(super) const fn is_extended(kind: u8) -> bool {
    matches!(kind, b'P' | b'B' | b'D' | b'C' | b'E' | b'H')
}

/// Decodes the message of that type.
pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Message<'_>, Broken> {
    let mut reader = Reader::new(body);
    let message = match kind {
        b'Q' => Message::Query(reader.cstr_bytes()?),
        b'P' => {
            let (name, query) = (reader.cstr_bytes()?, reader.cstr_bytes()?);
            let types = counted(&mut reader, Reader::u32)?;
            Message::Parse { name, query, types }
        }
        b'B' => {
            return decode_bind(body).map(Message::Bind);
        }
        b'D' | b'C' => {
            // PostgreSQL: `pq_getmsgbyte`.
            let got = reader.u8().map_err(|_| Broken::Body("no data left in message"))?;
            let message = if kind == b'D' { "DESCRIBE" } else { "CLOSE" };
            let target = match got {
                b'S' => Target::Statement,
                b'P' => Target::Portal,
                _ => return Err(Broken::Subtype { message, got }),
            };
            let name = reader.cstr_bytes()?;
            if kind == b'D' {
                Message::Describe(target, name)
            } else {
                Message::Close(target, name)
            }
        }
        b'E' => Message::Execute { portal: reader.cstr_bytes()?, rows_max: reader.i32()? },
        b'S' => Message::Sync,
        b'H' => Message::Flush,
        b'X' => return Ok(Message::Terminate),
        b'F' => return Ok(Message::FunctionCall),
        b'd' | b'c' | b'f' => return Ok(Message::Copy),
        kind => return Err(Broken::Kind(kind)),
    };
    reader.end()?;
    Ok(message)
}

/// Decodes the body of Bind.
pub(super) fn decode_bind(body: &[u8]) -> Result<Bind<'_>, Broken> {
    let mut reader = Reader::new(body);
    let (portal, statement) = (reader.cstr_bytes()?, reader.cstr_bytes()?);
    let parameter_formats = counted(&mut reader, Reader::i16)?;
    let parameters = counted(&mut reader, parameter)?;
    let result_formats = counted(&mut reader, Reader::i16)?;
    reader.end()?;
    Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
}

/// A 16-bit count and as many items. Memory grows only with bytes that are there.
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
        len => reader.take(usize::try_from(len).map_err(|_| Malformed::Truncated)?).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_is_an_error() {
        let messages: [(u8, &[u8]); 6] = [
            (b'Q', b"select 1\0"),
            (b'P', b"s\0select $1\0\0\x01\0\0\0\x17"),
            (b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\0"),
            (b'D', b"Sname\0"),
            (b'C', b"Pname\0"),
            (b'E', b"\0\0\0\0\x05"),
        ];
        for (kind, body) in messages {
            assert!(decode(kind, body).is_ok());
            for cut in 0..body.len() {
                assert!(decode(kind, &body[..cut]).is_err(), "{} cut at {cut}", char::from(kind));
            }
            let longer = [body, b"x"].concat();
            assert_eq!(decode(kind, &longer), Err(Broken::Body("invalid message format")));
        }
        assert_eq!(decode(b'~', b""), Err(Broken::Kind(b'~')));
        let subtype = decode(b'D', b"X\0").unwrap_err();
        assert_eq!(subtype.to_string(), "invalid DESCRIBE message subtype 88");
    }
}
