//! `synchronous_standby_names`.
//!
//! PostgreSQL: src/backend/replication/syncrep_gram.y, syncrep_scanner.l,
//! `check_synchronous_standby_names` (syncrep.c).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::convert::to_u32;
use crate::sqlstate::SqlState;

/// How the standbys that count are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncRepMethod {
    /// `FIRST n`: the first ones of the list.
    Priority,
    /// `ANY n`: whichever are fastest.
    Quorum,
}

/// Which standbys a commit waits for. PostgreSQL: `SyncRepConfigData`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncRepConfig {
    /// How they are chosen.
    pub method: SyncRepMethod,
    /// How many; never zero.
    pub num_sync: usize,
    /// Names, `*` for every one; never empty.
    pub members: Vec<String>,
}

impl SyncRepConfig {
    /// Parses the setting; `None` when it is empty.
    ///
    /// # Errors
    /// When PostgreSQL would refuse it.
    pub fn parse(value: &str) -> Result<Option<Self>, NamesError> {
        if value.is_empty() {
            return Ok(None);
        }
        let mut scanner = Scanner::new(value);
        let first = scanner.next()?;
        let (method, count, members) = match first {
            Token::Any => {
                let (count, members) = scanner.counted_list()?;
                (SyncRepMethod::Quorum, count, members)
            }
            Token::First => {
                let (count, members) = scanner.counted_list()?;
                (SyncRepMethod::Priority, count, members)
            }
            // A number is a count before a parenthesis and a name before anything else.
            Token::Number(number) => match scanner.next()? {
                Token::Open => (SyncRepMethod::Priority, number, scanner.list_to_close()?),
                after => {
                    let members = scanner.list_to_end(number.to_string(), after)?;
                    (SyncRepMethod::Priority, "1", members)
                }
            },
            Token::Name(name) => {
                let after = scanner.next()?;
                (SyncRepMethod::Priority, "1", scanner.list_to_end(name, after)?)
            }
            Token::Open | Token::Close | Token::Comma | Token::Junk | Token::End => {
                return Err(scanner.syntax_error());
            }
        };
        let got = atoi(count);
        match usize::try_from(got) {
            Ok(num_sync) if num_sync > 0 => Ok(Some(Self { method, num_sync, members })),
            _ => Err(NamesError::NumSync { got }),
        }
    }

    /// The priority of a standby of this name: 1 is the highest, 0 is none.
    /// PostgreSQL: `SyncRepGetStandbyPriority`.
    #[must_use]
    pub fn priority(&self, application_name: &str) -> u32 {
        let found = self.members.iter().position(|member| matches(member, application_name));
        match (found, self.method) {
            (None, _) => 0,
            // All members of a quorum are equal.
            (Some(_), SyncRepMethod::Quorum) => 1,
            (Some(at), SyncRepMethod::Priority) => to_u32(at + 1),
        }
    }
}

/// Whether a member of the list means a standby of this name.
///
/// PostgreSQL: `pg_strcasecmp`, which folds no byte above ASCII in a multi-byte encoding.
pub(super) fn matches(member: &str, application_name: &str) -> bool {
    member == "*" || member.eq_ignore_ascii_case(application_name)
}

impl fmt::Display for SyncRepConfig {
    /// In full, so that it parses to the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            SyncRepMethod::Priority => "FIRST",
            SyncRepMethod::Quorum => "ANY",
        };
        write!(f, "{method} {} (", self.num_sync)?;
        for (i, member) in self.members.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            if is_bare(member) {
                f.write_str(member)?;
            } else {
                write!(f, "\"{}\"", member.replace('"', "\"\""))?;
            }
        }
        f.write_str(")")
    }
}

/// Whether the scanner reads `name` as one name without quotes.
fn is_bare(name: &str) -> bool {
    let mut scanner = Scanner::new(name);
    let whole = match scanner.next() {
        Ok(Token::Name(read)) => read == name,
        Ok(Token::Number(read)) => read == name,
        Ok(_) | Err(_) => false,
    };
    whole && scanner.rest.is_empty()
}

/// A value that PostgreSQL refuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamesError {
    /// Something stands where nothing like it may stand.
    Syntax {
        /// What stands there; `None` at the end.
        near: Option<String>,
    },
    /// A quote is not closed.
    UnterminatedQuote,
    /// The number of standbys is not a positive one.
    NumSync {
        /// As the server read it.
        got: i32,
    },
}

impl NamesError {
    /// SQLSTATE of the report.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Syntax { .. } | Self::UnterminatedQuote => SqlState::SYNTAX_ERROR,
            Self::NumSync { .. } => SqlState::INVALID_PARAMETER_VALUE,
        }
    }

    /// Whether the text takes the place of "invalid value for parameter"; otherwise it is the
    /// detail below that.
    #[must_use]
    pub const fn is_message(&self) -> bool {
        match self {
            Self::Syntax { .. } | Self::UnterminatedQuote => false,
            Self::NumSync { .. } => true,
        }
    }
}

impl fmt::Display for NamesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { near: Some(near) } => write!(f, "syntax error at or near \"{near}\""),
            Self::Syntax { near: None } => f.write_str("syntax error at end of input"),
            Self::UnterminatedQuote => {
                f.write_str("unterminated quoted identifier at end of input")
            }
            Self::NumSync { got } => {
                write!(f, "number of synchronous standbys ({got}) must be greater than zero")
            }
        }
    }
}

impl core::error::Error for NamesError {}

/// Reads digits as the C library does where `long` has 64 bits: values beyond it are its maximum,
/// and of the value the low 32 bits count.
fn atoi(digits: &str) -> i32 {
    let long = digits.bytes().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    let [b0, b1, b2, b3, ..] = long.to_le_bytes();
    i32::from_le_bytes([b0, b1, b2, b3])
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    Name(String),
    Number(&'a str),
    Any,
    First,
    Open,
    Close,
    Comma,
    Junk,
    End,
}

struct Scanner<'a> {
    rest: &'a str,
    /// What an error at the last token shows: the last piece of it. PostgreSQL: `yytext`.
    text: &'a str,
}

impl<'a> Scanner<'a> {
    const fn new(value: &'a str) -> Self {
        Self { rest: value, text: "" }
    }

    /// Takes the next `len` bytes, which end on a character.
    fn take(&mut self, len: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(len);
        (self.text, self.rest) = (text, rest);
        text
    }

    /// Takes the bytes up to the first one that is not `like`, a class of whole characters.
    fn take_while(&mut self, like: fn(u8) -> bool) -> &'a str {
        let len = self.rest.bytes().take_while(|byte| like(*byte)).count();
        self.take(len)
    }

    fn next(&mut self) -> Result<Token<'a>, NamesError> {
        self.take_while(is_space);
        self.text = "";
        let Some(byte) = self.rest.bytes().next() else { return Ok(Token::End) };
        Ok(match byte {
            b'"' => Token::Name(self.quoted()?),
            b'0'..=b'9' => Token::Number(self.take_while(|byte| byte.is_ascii_digit())),
            byte if is_identifier_start(byte) => {
                let name = self.take_while(is_identifier_part);
                if name.eq_ignore_ascii_case("any") {
                    Token::Any
                } else if name.eq_ignore_ascii_case("first") {
                    Token::First
                } else {
                    Token::Name(name.to_string())
                }
            }
            // Every byte above ASCII starts an identifier: what is left is one byte long.
            byte => {
                let text = self.take(1);
                match byte {
                    b'*' => Token::Name(text.to_string()),
                    b',' => Token::Comma,
                    b'(' => Token::Open,
                    b')' => Token::Close,
                    _ => Token::Junk,
                }
            }
        })
    }

    /// A name between double quotes, of which two in a row stand for one.
    fn quoted(&mut self) -> Result<String, NamesError> {
        let mut name = String::new();
        self.take(1);
        loop {
            name.push_str(self.take_while(|byte| byte != b'"'));
            if self.rest.is_empty() {
                return Err(NamesError::UnterminatedQuote);
            }
            self.take(1);
            if !self.rest.starts_with('"') {
                return Ok(name);
            }
            self.take(1);
            name.push('"');
        }
    }

    fn syntax_error(&self) -> NamesError {
        let near = (!self.text.is_empty()).then(|| self.text.to_string());
        NamesError::Syntax { near }
    }

    /// `n (list)` and nothing after it.
    fn counted_list(&mut self) -> Result<(&'a str, Vec<String>), NamesError> {
        let Token::Number(count) = self.next()? else { return Err(self.syntax_error()) };
        let Token::Open = self.next()? else { return Err(self.syntax_error()) };
        Ok((count, self.list_to_close()?))
    }

    /// A list after its parenthesis, the closing one, and nothing after it.
    fn list_to_close(&mut self) -> Result<Vec<String>, NamesError> {
        let first = self.name()?;
        let after = self.next()?;
        let (members, end) = self.list(first, after)?;
        if end == Token::Close && self.next()? == Token::End {
            return Ok(members);
        }
        Err(self.syntax_error())
    }

    /// A list from its first name and the token after that, and nothing after it.
    fn list_to_end(&mut self, first: String, after: Token<'a>) -> Result<Vec<String>, NamesError> {
        let (members, end) = self.list(first, after)?;
        if end == Token::End { Ok(members) } else { Err(self.syntax_error()) }
    }

    /// Names and commas, and the token that is neither.
    fn list(
        &mut self,
        first: String,
        mut after: Token<'a>,
    ) -> Result<(Vec<String>, Token<'a>), NamesError> {
        let mut members = Vec::from([first]);
        while after == Token::Comma {
            members.push(self.name()?);
            after = self.next()?;
        }
        Ok((members, after))
    }

    fn name(&mut self) -> Result<String, NamesError> {
        match self.next()? {
            Token::Name(name) => Ok(name),
            Token::Number(number) => Ok(number.to_string()),
            Token::Any
            | Token::First
            | Token::Open
            | Token::Close
            | Token::Comma
            | Token::Junk
            | Token::End => Err(self.syntax_error()),
        }
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0C | 0x0B)
}

const fn is_identifier_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

const fn is_identifier_part(byte: u8) -> bool {
    is_identifier_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn unescape(value: &str) -> String {
        let mut raw = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            raw.push(match (c, c == '\\') {
                (c, false) => c,
                (_, true) => match chars.next().unwrap() {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'f' => '\u{c}',
                    'v' => '\u{b}',
                    '\\' => '\\',
                    other => panic!("\\{other}"),
                },
            });
        }
        raw
    }

    #[test]
    fn values_are_accepted_and_refused_as_postgresql_does() {
        let golden = include_str!("golden/names.tsv");
        assert!(golden.lines().count() > 140);
        for line in golden.lines() {
            let (value, want) = line.split_once('\t').unwrap();
            let got = match SyncRepConfig::parse(&unescape(value)) {
                Ok(_) => "ok".to_string(),
                Err(error) => error.to_string(),
            };
            assert_eq!(got, want, "{value}");
        }
    }

    #[test]
    fn each_form_gives_its_method_number_and_members() {
        use SyncRepMethod::{Priority, Quorum};
        for (value, method, num_sync, members) in [
            ("*", Priority, 1, vec!["*"]),
            ("s1, S2", Priority, 1, vec!["s1", "S2"]),
            ("2, 3", Priority, 1, vec!["2", "3"]),
            ("007", Priority, 1, vec!["007"]),
            ("2 (s1,s2,*)", Priority, 2, vec!["s1", "s2", "*"]),
            ("first 3(a)", Priority, 3, vec!["a"]),
            ("Any 02 ( a,\"b \"\" c\", \"ANY\",4 )", Quorum, 2, vec!["a", "b \" c", "ANY", "4"]),
            ("\"\"", Priority, 1, vec![""]),
            ("4294967297 (a)", Priority, 1, vec!["a"]),
        ] {
            let config = SyncRepConfig::parse(value).unwrap().unwrap();
            assert_eq!((config.method, config.num_sync), (method, num_sync), "{value}");
            assert_eq!(config.members, members, "{value}");
        }
        assert_eq!(SyncRepConfig::parse(""), Ok(None));
    }

    #[test]
    fn only_what_needs_quotes_is_shown_with_quotes() {
        let shown = |value: &str| SyncRepConfig::parse(value).unwrap().unwrap().to_string();
        assert_eq!(shown("s1, \u{fc}, *, 007"), "FIRST 1 (s1, \u{fc}, *, 007)");
        let quoted = "ANY 2 (\"a b\", \"FIRST\", \"1a\", \"x\"\"y\", \"\")";
        assert_eq!(shown(quoted), quoted);
    }

    #[test]
    fn errors_have_their_sqlstate_and_place_in_the_report() {
        let error = SyncRepConfig::parse("a b").unwrap_err();
        assert_eq!((error.sqlstate(), error.is_message()), (SqlState::SYNTAX_ERROR, false));
        let error = SyncRepConfig::parse("0 (b)").unwrap_err();
        assert_eq!(error.sqlstate(), SqlState::INVALID_PARAMETER_VALUE);
        assert!(error.is_message());
    }

    #[test]
    fn priorities_are_places_in_the_list_and_equal_in_a_quorum() {
        let config = SyncRepConfig::parse("2 (a, B, \"c d\", *, e)").unwrap().unwrap();
        for (name, want) in [("A", 1), ("b", 2), ("C D", 3), ("e", 4), ("", 4), ("*", 4)] {
            assert_eq!(config.priority(name), want, "{name}");
        }
        let config = SyncRepConfig::parse("ANY 1 (a, \u{fc})").unwrap().unwrap();
        for (name, want) in [("A", 1), ("\u{fc}", 1), ("\u{dc}", 0), ("ab", 0)] {
            assert_eq!(config.priority(name), want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(
            quorum: bool,
            num_sync in 1..100_usize,
            members in prop::collection::vec("any|FIRST|[*]|[0-9]{1,3}|[a$\" (),\u{fc}]{0,4}", 1..5),
        ) {
            let method = if quorum { SyncRepMethod::Quorum } else { SyncRepMethod::Priority };
            let config = SyncRepConfig { method, num_sync, members };
            prop_assert_eq!(SyncRepConfig::parse(&config.to_string()), Ok(Some(config)));
        }

        #[test]
        fn no_value_breaks_the_parser(value in "[a1\" (),*\n\u{fc}anyfirst-]{0,20}") {
            if let Ok(Some(config)) = SyncRepConfig::parse(&value) {
                prop_assert!(config.num_sync > 0 && !config.members.is_empty());
            }
        }
    }
}
