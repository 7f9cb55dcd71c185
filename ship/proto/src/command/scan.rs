//! Splits a replication command into tokens.
//!
//! PostgreSQL: src/backend/replication/repl_scanner.l.

use alloc::string::String;

use super::{CommandError, truncate_name};
use crate::convert::low_u32;
use crate::lsn::Lsn;

/// One token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// An unquoted word: a keyword or a name.
    Word(&'a str),
    /// A name in double quotes.
    QuotedName(String),
    /// A string in single quotes.
    Text(String),
    /// Decimal digits.
    Number(u32),
    /// A position.
    Lsn(Lsn),
    /// Any other character.
    Other(char),
}

pub(super) struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn next(&mut self) -> Result<Option<Token<'a>>, CommandError> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', '\x0b']);
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        if let Some(lsn) = self.position() {
            return Ok(Some(Token::Lsn(lsn)));
        }
        Ok(Some(match first {
            '\'' => Token::Text(self.quoted('\'')?),
            '"' => Token::QuotedName(truncate_name(self.quoted('"')?)),
            _ if first.is_ascii_digit() => {
                let digits = self.take_while(|c| c.is_ascii_digit());
                Token::Number(wrapping_u32(digits, 10))
            }
            _ if is_name_start(first) => {
                Token::Word(self.take_while(|c| is_name_start(c) || c.is_ascii_digit() || c == '$'))
            }
            _ => {
                self.rest = self.rest.get(first.len_utf8()..).unwrap_or_default();
                Token::Other(first)
            }
        }))
    }

    /// Two runs of hexadecimal digits and a slash between. They are tried before a word or a
    /// number because they are longer than either, and the longest match wins.
    fn position(&mut self) -> Option<Lsn> {
        let digits = |text: &'a str| {
            let len = text.bytes().take_while(u8::is_ascii_hexdigit).count();
            text.split_at_checked(len).filter(|(head, _)| !head.is_empty())
        };
        let (high, rest) = digits(self.rest)?;
        let (low, rest) = digits(rest.strip_prefix('/')?)?;
        self.rest = rest;
        Some(Lsn(u64::from(wrapping_u32(high, 16)) << 32 | u64::from(wrapping_u32(low, 16))))
    }

    fn quoted(&mut self, quote: char) -> Result<String, CommandError> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                text.push(c);
            } else if chars.next_if(|&(_, next)| next == quote).is_some() {
                text.push(quote);
            } else {
                self.rest = self.rest.get(at + quote.len_utf8()..).unwrap_or_default();
                return Ok(text);
            }
        }
        Err(CommandError::UnterminatedQuotedString)
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (head, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        head
    }
}

const fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// A number as C's `strtoul` into 32 bits gives it: too long a one saturates at 64 bits, then the
/// upper half is dropped.
fn wrapping_u32(digits: &str, radix: u32) -> u32 {
    low_u32(u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

/// Folds an unquoted name. PostgreSQL: `downcase_truncate_identifier`.
pub(super) fn fold(word: &str) -> String {
    truncate_name(word.to_ascii_lowercase())
}
