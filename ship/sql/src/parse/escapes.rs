//! Escapes in string literals that stand for what no text may hold.
//!
//! The tokenizer takes no such `E'...'` and does not say why, and takes such a `U&'...'`.
//!
//! PostgreSQL: src/backend/parser/scan.l, `str_udeescape` (src/backend/parser/parser.c).

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use walhub_proto::convert::to_u64;
use walhub_proto::sqlstate::SqlState;

use crate::failure::{Failure, Result, fail};
use crate::parse::location::{at, text_of};
use crate::value::binary::text_parameter;

/// An escape of an `E'...'`, and what it says.
enum Escape {
    /// A byte, in octal or hexadecimal digits.
    Byte(u32),
    /// A character by its number.
    Character(u32),
    /// Anything else: the character that follows the backslash.
    Other,
}

/// Reads what follows a backslash; returns how long it is.
fn escape(text: &str) -> (Escape, usize) {
    let digits = |from: usize, max: usize, radix: u32| {
        let digits = text.get(from..).unwrap_or_default();
        let len = digits.chars().take(max).take_while(|digit| digit.is_digit(radix)).count();
        let value = digits.get(..len).and_then(|digits| u32::from_str_radix(digits, radix).ok());
        value.map(|value| (value, from + len))
    };
    let character = |count: usize| {
        let (value, len) = digits(1, count, 16).filter(|&(_, len)| len == 1 + count)?;
        Some((Escape::Character(value), len))
    };
    let found = match text.as_bytes().first() {
        Some(b'0'..=b'7') => digits(0, 3, 8).map(|(byte, len)| (Escape::Byte(byte & 0xFF), len)),
        Some(b'x') => digits(1, 2, 16).map(|(byte, len)| (Escape::Byte(byte), len)),
        Some(b'u') => character(4),
        Some(b'U') => character(8),
        _ => None,
    };
    found.unwrap_or_else(|| (Escape::Other, text.chars().next().map_or(0, char::len_utf8)))
}

/// The error for the literal at the beginning of `literal`, when it is an `E'...'` with a NUL.
pub(crate) fn escaped_nul(sql: &str, literal: &str, location: Location) -> Option<Failure> {
    let mut rest = literal.strip_prefix(['e', 'E'])?.strip_prefix('\'')?;
    let mut has_nul = false;
    loop {
        let next = rest.find(['\\', '\''])?;
        let after = rest.get(next + 1..)?;
        if rest.get(next..)?.starts_with('\'') {
            // Two quotes stand for one; a single one is the end.
            let Some(after) = after.strip_prefix('\'') else { break };
            rest = after;
            continue;
        }
        let (escape, len) = escape(after);
        match escape {
            Escape::Byte(0) => has_nul = true,
            Escape::Character(0) => {
                let shown = rest.get(next..next + 1 + len)?;
                let message = format!("invalid Unicode escape value at or near \"{shown}\"");
                let before = literal.len() - rest.len() + next;
                let column = u64::try_from(literal.get(..before)?.chars().count()).ok()?;
                let location = Location { column: location.column + column, ..location };
                return Some(at(fail(SqlState::SYNTAX_ERROR, message), sql, location));
            }
            Escape::Byte(_) | Escape::Character(_) | Escape::Other => {}
        }
        rest = after.get(len..)?;
    }
    // PostgreSQL looks at the whole text, and no longer knows where it came from.
    has_nul.then(|| text_parameter(b"\0").err()).flatten()
}

/// Refuses a `U&'...'` with a NUL. PostgreSQL: `str_udeescape`.
pub(crate) fn check_literal(sql: &str, token: &TokenWithSpan) -> Result<()> {
    let Token::UnicodeStringLiteral(text) = &token.token else { return Ok(()) };
    if !text.contains('\0') {
        return Ok(());
    }
    let written = text_of(sql, token);
    let escape =
        [r"\0000", r"\+000000"].into_iter().filter_map(|escape| written.find(escape)).min();
    let before = escape.and_then(|at| written.get(..at)).unwrap_or_default();
    let column = to_u64(before.chars().count());
    let start = token.span.start;
    let location = Location { column: start.column + column, ..start };
    Err(at(fail(SqlState::SYNTAX_ERROR, "invalid Unicode escape value"), sql, location))
}

#[cfg(test)]
mod tests {
    use crate::parse::parse;

    /// Each was answered so by PostgreSQL 15.
    #[test]
    fn a_nul_is_refused_however_it_is_written() {
        let error = |sql: &str| {
            let failure = parse(sql, &mut Vec::new()).unwrap_err();
            (failure.sqlstate.0, failure.message.clone(), failure.position)
        };
        let byte = "invalid byte sequence for encoding \"UTF8\": 0x00";
        for sql in
            [r"select E'a\000b'", r"select E'\x00'", r"select e'it''s \\ \0'", r"select E'\400'"]
        {
            assert_eq!(error(sql), ("22021", byte.to_owned(), None), "{sql}");
        }
        let near = |escape: &str| format!("invalid Unicode escape value at or near \"{escape}\"");
        assert_eq!(error(r"select E'a\u0000b'"), ("42601", near(r"\u0000"), Some(11)));
        assert_eq!(error(r"select E'a\U00000000'"), ("42601", near(r"\U00000000"), Some(11)));
        let value = "invalid Unicode escape value".to_owned();
        assert_eq!(error(r"select U&'a\0000b'"), ("42601", value.clone(), Some(12)));
        assert_eq!(error(r"select U&'\+000000'"), ("42601", value, Some(11)));
        let open = "unterminated quoted string at or near \"E'a\\000\"".to_owned();
        assert_eq!(error(r"select E'a\000").1, open);
        assert!(parse(r"select E'a\\000b', E'\0011', U&'\00e9'", &mut Vec::new()).is_ok());
    }
}
