//! ErrorResponse and NoticeResponse, as whoever asked a server reads them.
//!
//! Not here: how a server writes them (`backend::Report`).
//!
//! PostgreSQL: `pqGetErrorNotice3`, `pqBuildErrorMessage3` (src/interfaces/libpq/fe-protocol3.c).

use alloc::format;
use alloc::string::String;
use core::fmt;

use crate::sqlstate::SqlState;
use crate::wire::reader::{Malformed, Reader};

/// Bytes of a field that are kept: what is longer nobody reads.
const FIELD_BYTES_MAX: usize = 4 << 10;

/// What a server says that went wrong, or what it has noticed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ErrorResponse {
    /// Not translated when the server says so too (field `V`, which every server since 9.6 sends).
    pub severity: String,
    /// Five characters.
    pub sqlstate: String,
    /// Primary message.
    pub message: String,
    /// Secondary message with details.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ErrorResponse {
    /// Decodes the body of an ErrorResponse or NoticeResponse. Text that is not UTF-8 is shown
    /// with replacement characters: an error must not be lost for its encoding.
    ///
    /// # Errors
    /// When a field does not end.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut error = Self::default();
        let mut reader = Reader::new(body);
        loop {
            let code = reader.u8()?;
            if code == 0 {
                return Ok(error);
            }
            let text = clip(&String::from_utf8_lossy(reader.cstr_bytes()?), FIELD_BYTES_MAX);
            match code {
                b'S' if error.severity.is_empty() => error.severity = text,
                b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                // The protocol asks to ignore fields that are not known.
                _ => {}
            }
        }
    }

    /// Whether it has this SQLSTATE.
    #[must_use]
    pub fn is(&self, sqlstate: SqlState) -> bool {
        self.sqlstate == sqlstate.0
    }

    /// Whether the session goes on after it. PostgreSQL: `PostgresMain` ends it at FATAL.
    #[must_use]
    pub fn leaves_session(&self) -> bool {
        self.severity == "ERROR"
    }

    /// Whether the WAL that was asked for is gone: "requested WAL segment %s has already been
    /// removed". Only a new base backup, or a slot kept from the start, helps.
    #[must_use]
    pub fn is_wal_removed(&self) -> bool {
        self.is(SqlState::UNDEFINED_FILE)
    }
}

impl fmt::Display for ErrorResponse {
    /// As libpq prints it; with `{:#}` detail and hint follow on lines of their own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity, self.message)?;
        for (label, text) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if let Some(text) = text.as_ref().filter(|_| f.alternate()) {
                write!(f, "\n{label}:  {text}")?;
            }
        }
        Ok(())
    }
}

/// The beginning of a text, and a sign that there was more.
#[must_use]
pub fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return String::from(text);
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_severity_is_the_one_that_is_never_translated() {
        let fields = ["SFATAL\0VFATAL\0", "SSCHWERWIEGEND\0VFATAL\0", "VFATAL\0SFATALE\0"];
        for severity in fields {
            let body = [severity, "C57P03\0Mno\0Dd\0Hh\0\0"].concat();
            let error = ErrorResponse::decode(body.as_bytes()).unwrap();
            assert_eq!(error.to_string(), "FATAL:  no", "{severity}");
            assert_eq!(format!("{error:#}"), "FATAL:  no\nDETAIL:  d\nHINT:  h");
            assert!(!error.leaves_session());
            for cut in 0..body.len() {
                assert!(ErrorResponse::decode(&body.as_bytes()[..cut]).is_err(), "cut at {cut}");
            }
        }
        // A server before 9.6 has only the other one.
        assert_eq!(ErrorResponse::decode(b"SFEHLER\0Mno\0\0").unwrap().severity, "FEHLER");
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(clip("as it is", 8), "as it is");
        assert_eq!(clip("zw\u{f6}lf", 3), "zw...");
        assert_eq!(clip("zw\u{f6}lf", 4), "zw\u{f6}...");
    }
}
