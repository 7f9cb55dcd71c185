//! Messages that a server sends, encoded.
//!
//! Encoding cannot fail. Not here: decoding what a server sends (`walreceiver`).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::sqlstate::SqlState;

/// Type of a result column: enough of `pg_type` for the rows that walhub returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColumnType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typlen`.
    pub len: i16,
}

macro_rules! column_types {
    ($($name:ident = $oid:literal, $len:literal;)*) => {
        #[allow(missing_docs, reason = "each is the pg_type of that name")]
        impl ColumnType { $(pub const $name: Self = Self { oid: $oid, len: $len };)* }
    };
}

column_types! {
    BOOL = 16, 1;
    BYTEA = 17, -1;
    NAME = 19, 64;
    INT8 = 20, 8;
    INT4 = 23, 4;
    TEXT = 25, -1;
    OID = 26, 4;
    XID = 28, 4;
    FLOAT8 = 701, 8;
    INET = 869, -1;
    TIMESTAMPTZ = 1184, 8;
    INTERVAL = 1186, 16;
    NUMERIC = 1700, -1;
    UNKNOWN = 705, -2;
    PG_LSN = 3220, 8;
    VOID = 2278, 4;
}

/// One column of a RowDescription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: ColumnType,
    /// 0 text, 1 binary.
    pub format: i16,
}

impl Column {
    /// A column in text format.
    #[must_use]
    pub fn text(name: &str, ty: ColumnType) -> Self {
        Self { name: String::from(name), ty, format: 0 }
    }
}

/// Severity of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The statement fails.
    Error,
    /// The session ends.
    Fatal,
    /// The server ends.
    Panic,
    /// Something to note.
    Warning,
    /// Something to know.
    Notice,
}

impl Severity {
    /// As it is sent and logged.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// What an ErrorResponse or NoticeResponse says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// How bad.
    pub severity: Severity,
    /// Which kind.
    pub sqlstate: SqlState,
    /// Primary message.
    pub message: String,
    /// Secondary message with details.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the query text, counted in characters from one.
    pub position: Option<u32>,
    /// What was being done.
    pub context: Option<Box<str>>,
}

impl Report {
    /// A report without detail, hint or position.
    #[must_use]
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity,
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            context: None,
        }
    }

    /// An `ERROR`.
    #[must_use]
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// A `FATAL`.
    #[must_use]
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// Adds the detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the context.
    #[must_use]
    pub fn context(mut self, context: impl Into<Box<str>>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Appends frames to a buffer.
#[derive(Clone, Default, Debug)]
pub struct Encoder {
    buf: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { buf: Vec::new() }
    }

    /// Everything encoded so far; the encoder is empty after it.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.buf)
    }

    /// Everything encoded so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Appends frames that are encoded already.
    pub fn raw(&mut self, frames: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(frames);
        self
    }

    /// Appends a frame of type `kind` whose body is what `body` appends.
    pub fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.buf.push(kind);
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        body(&mut self.buf);
        let length = u32::try_from(self.buf.len() - start).unwrap_or(u32::MAX);
        if let Some(word) = self.buf.get_mut(start..start + 4) {
            word.copy_from_slice(&length.to_be_bytes());
        }
        self
    }

    /// AuthenticationOk.
    pub fn authentication_ok(&mut self) -> &mut Self {
        self.frame(b'R', |buf| buf.extend_from_slice(&0_u32.to_be_bytes()))
    }

    /// AuthenticationCleartextPassword.
    pub fn authentication_cleartext_password(&mut self) -> &mut Self {
        self.frame(b'R', |buf| buf.extend_from_slice(&3_u32.to_be_bytes()))
    }

    /// AuthenticationMD5Password.
    pub fn authentication_md5_password(&mut self, salt: [u8; 4]) -> &mut Self {
        self.frame(b'R', |buf| {
            buf.extend_from_slice(&5_u32.to_be_bytes());
            buf.extend_from_slice(&salt);
        })
    }

    /// AuthenticationSASL.
    pub fn authentication_sasl(&mut self, mechanisms: &[&str]) -> &mut Self {
        self.frame(b'R', |buf| {
            buf.extend_from_slice(&10_u32.to_be_bytes());
            mechanisms.iter().for_each(|mechanism| put_cstr(buf, mechanism));
            buf.push(0);
        })
    }

    /// AuthenticationSASLContinue.
    pub fn authentication_sasl_continue(&mut self, data: &[u8]) -> &mut Self {
        self.frame(b'R', |buf| {
            buf.extend_from_slice(&11_u32.to_be_bytes());
            buf.extend_from_slice(data);
        })
    }

    /// AuthenticationSASLFinal.
    pub fn authentication_sasl_final(&mut self, data: &[u8]) -> &mut Self {
        self.frame(b'R', |buf| {
            buf.extend_from_slice(&12_u32.to_be_bytes());
            buf.extend_from_slice(data);
        })
    }

    /// ParameterStatus.
    pub fn parameter_status(&mut self, name: &str, value: &str) -> &mut Self {
        self.frame(b'S', |buf| {
            put_cstr(buf, name);
            put_cstr(buf, value);
        })
    }

    /// BackendKeyData: a key of four bytes before protocol 3.2, and of up to 256 from then on.
    pub fn backend_key_data(&mut self, process_id: u32, key: &[u8]) -> &mut Self {
        self.frame(b'K', |buf| {
            buf.extend_from_slice(&process_id.to_be_bytes());
            buf.extend_from_slice(key);
        })
    }

    /// ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
    pub fn ready_for_query(&mut self, status: u8) -> &mut Self {
        self.frame(b'Z', |buf| buf.push(status))
    }

    /// RowDescription.
    pub fn row_description(&mut self, columns: &[Column]) -> &mut Self {
        self.frame(b'T', |buf| {
            put_count(buf, columns.len());
            for column in columns {
                put_cstr(buf, &column.name);
                buf.extend_from_slice(&0_u32.to_be_bytes());
                buf.extend_from_slice(&0_u16.to_be_bytes());
                buf.extend_from_slice(&column.ty.oid.to_be_bytes());
                buf.extend_from_slice(&column.ty.len.to_be_bytes());
                buf.extend_from_slice(&(-1_i32).to_be_bytes());
                buf.extend_from_slice(&column.format.to_be_bytes());
            }
        })
    }

    /// DataRow; `None` is NULL.
    pub fn data_row<T: AsRef<[u8]>>(&mut self, values: &[Option<T>]) -> &mut Self {
        self.frame(b'D', |buf| {
            put_count(buf, values.len());
            for value in values {
                match value {
                    Some(value) => {
                        let value = value.as_ref();
                        let len = i32::try_from(value.len()).unwrap_or(i32::MAX);
                        buf.extend_from_slice(&len.to_be_bytes());
                        buf.extend_from_slice(value);
                    }
                    None => buf.extend_from_slice(&(-1_i32).to_be_bytes()),
                }
            }
        })
    }

    /// CommandComplete.
    pub fn command_complete(&mut self, tag: &str) -> &mut Self {
        self.frame(b'C', |buf| put_cstr(buf, tag))
    }

    /// A message with an empty body, such as EmptyQueryResponse `I` or CopyDone `c`.
    pub fn empty(&mut self, kind: u8) -> &mut Self {
        self.frame(kind, |_| ())
    }

    /// CopyBothResponse without columns, as a walsender sends it.
    pub fn copy_both_response(&mut self) -> &mut Self {
        self.frame(b'W', |buf| buf.extend_from_slice(&[0, 0, 0]))
    }

    /// ErrorResponse, or NoticeResponse for a warning or notice.
    pub fn report(&mut self, report: &Report) -> &mut Self {
        let kind = match report.severity {
            Severity::Error | Severity::Fatal | Severity::Panic => b'E',
            Severity::Warning | Severity::Notice => b'N',
        };
        self.frame(kind, |buf| {
            let mut field = |code: u8, text: &str| {
                buf.push(code);
                put_cstr(buf, text);
            };
            field(b'S', report.severity.as_str());
            field(b'V', report.severity.as_str());
            field(b'C', report.sqlstate.0);
            field(b'M', &report.message);
            if let Some(detail) = &report.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &report.hint {
                field(b'H', hint);
            }
            if let Some(position) = report.position {
                field(b'P', &alloc::format!("{position}"));
            }
            if let Some(context) = &report.context {
                field(b'W', context);
            }
            buf.push(0);
        })
    }
}

fn put_cstr(buf: &mut Vec<u8>, text: &str) {
    // A zero byte inside would end the string early and shift every field after it.
    buf.extend(text.bytes().filter(|&byte| byte != 0));
    buf.push(0);
}

fn put_count(buf: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    buf.extend_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reader::decode_frame;

    #[test]
    fn an_error_carries_its_fields_in_order() {
        let mut encoder = Encoder::new();
        encoder.report(&Report::error(SqlState::SYNTAX_ERROR, "no").hint("do"));
        let frame = decode_frame(encoder.bytes(), 1000).unwrap().unwrap();
        assert_eq!(frame.kind, b'E');
        assert_eq!(frame.body, b"SERROR\0VERROR\0C42601\0Mno\0Hdo\0\0");
    }

    #[test]
    fn a_zero_byte_cannot_shift_the_fields_after_it() {
        let mut encoder = Encoder::new();
        encoder.parameter_status("a\0b", "c");
        assert_eq!(encoder.bytes(), b"S\0\0\0\x09ab\0c\0");
    }

    #[test]
    fn null_and_empty_differ() {
        let mut encoder = Encoder::new();
        encoder.data_row(&[None, Some("")]);
        assert_eq!(encoder.bytes(), b"D\0\0\0\x0e\0\x02\xff\xff\xff\xff\0\0\0\0");
    }
}
