//! COPY ... FROM STDIN as it is written.
//!
//! PostgreSQL: `ProcessCopyOptions` (src/backend/commands/copy.c), gram.y.

use sqlparser::tokenizer::Token;
use walhub_proto::sqlstate::SqlState;

use crate::failure::{DUPLICATE_COLUMN, Failure, Result, fail};
use crate::parse::words::Words;
use crate::value::parse_bool;

/// A COPY FROM STDIN, with its options resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyFrom {
    /// The format that its rows are in.
    pub format: Format,
    /// Whether the content comes first in each row.
    pub content_first: bool,
}

/// The FORMAT of COPY, with the options that belong to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Format {
    /// PostgreSQL's binary format.
    Binary,
    /// The text format or CSV.
    Lines(LineFormat),
}

/// How rows look that are lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineFormat {
    /// What stands between two columns.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: Vec<u8>,
    /// What the first line is.
    pub header: Header,
    /// `None` is the text format.
    pub csv: Option<Csv>,
}

/// What CSV has beyond the text format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Csv {
    /// QUOTE: what stands around a value.
    pub quote: u8,
    /// ESCAPE: what makes the next quote part of a value.
    pub escape: u8,
}

/// HEADER: whether the first line is of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The first line is a row.
    No,
    /// The first line is passed over.
    Skip,
    /// The first line names the columns.
    Match,
}

/// The options as given.
#[derive(Default)]
struct Options {
    given: Vec<String>,
    format: Option<String>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<Header>,
    quote: Option<String>,
    escape: Option<String>,
}

impl Words<'_> {
    /// What follows COPY; `None` when it is another COPY than the console's.
    pub(crate) fn copy_from(&mut self) -> Result<Option<CopyFrom>> {
        let mut options = Options::default();
        if self.accept("binary") {
            options.set("format", Some("binary".to_owned()))?;
        }
        // Drivers quote the names.
        let is_messages = self.name().is_ok_and(|schema| schema == "walhub")
            && self.peek() == Some(&Token::Period)
            && {
                self.next += 1;
                self.name().is_ok_and(|table| table == "messages")
            };
        if !is_messages {
            return Ok(None);
        }
        let columns = self.copy_columns()?;
        if !self.accept_all(&["from", "stdin"]) {
            return Ok(None);
        }
        self.accept("with");
        if self.peek() == Some(&Token::LParen) {
            self.next += 1;
            self.copy_options(&mut options)?;
        } else {
            self.old_copy_options(&mut options)?;
        }
        let content_first = content_first(&columns)?;
        Ok(Some(CopyFrom { format: options.format()?, content_first }))
    }

    fn copy_columns(&mut self) -> Result<Vec<String>> {
        let mut columns = Vec::new();
        if self.peek() != Some(&Token::LParen) {
            return Ok(columns);
        }
        self.next += 1;
        loop {
            columns.push(self.name()?);
            if self.peek() != Some(&Token::Comma) {
                break;
            }
            self.next += 1;
        }
        self.expect_token(&Token::RParen)?;
        Ok(columns)
    }

    fn copy_options(&mut self, options: &mut Options) -> Result<()> {
        loop {
            let name = self.name()?;
            let value = self.option_value()?;
            options.set(&name, value)?;
            if self.peek() == Some(&Token::Comma) {
                self.next += 1;
                continue;
            }
            return self.expect_token(&Token::RParen);
        }
    }

    /// The syntax before PostgreSQL 9.0.
    fn old_copy_options(&mut self, options: &mut Options) -> Result<()> {
        while self.peek().is_some() {
            if self.accept("binary") {
                options.set("format", Some("binary".to_owned()))?;
            } else if self.accept("csv") {
                options.set("format", Some("csv".to_owned()))?;
            } else if self.accept("header") {
                options.set("header", None)?;
            } else {
                let names = ["delimiter", "null", "quote", "escape", "encoding"];
                let Some(name) = names.into_iter().find(|name| self.accept(name)) else {
                    return Err(self.error());
                };
                self.accept("as");
                let Some(value) = self.string() else { return Err(self.error()) };
                options.set(name, Some(value))?;
            }
        }
        Ok(())
    }
}

fn content_first(columns: &[String]) -> Result<bool> {
    for (index, column) in columns.iter().enumerate() {
        if !matches!(&**column, "prefix" | "content") {
            let message = match &**column {
                "lsn" | "xid" => {
                    format!("cannot insert a non-DEFAULT value into column \"{column}\"")
                }
                _ => format!("column \"{column}\" of relation \"messages\" does not exist"),
            };
            return Err(fail(SqlState::UNDEFINED_COLUMN, message));
        }
        if columns.iter().take(index).any(|earlier| earlier == column) {
            let message = format!("column \"{column}\" specified more than once");
            return Err(fail(DUPLICATE_COLUMN, message));
        }
    }
    match columns {
        [] => Ok(false),
        [first, _] => Ok(first == "content"),
        _ => Err(fail(
            SqlState::FEATURE_NOT_SUPPORTED,
            "COPY into walhub.messages takes the columns prefix and content",
        )),
    }
}

impl Options {
    fn set(&mut self, name: &str, value: Option<String>) -> Result<()> {
        if self.given.iter().any(|given| given == name) {
            return Err(fail(SqlState::SYNTAX_ERROR, "conflicting or redundant options"));
        }
        self.given.push(name.to_owned());
        let needed = |value: Option<String>| {
            value
                .ok_or_else(|| fail(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter")))
        };
        match name {
            "format" => self.format = Some(needed(value)?),
            "delimiter" => self.delimiter = Some(needed(value)?),
            "null" => self.null = Some(needed(value)?),
            "quote" => self.quote = Some(needed(value)?),
            "escape" => self.escape = Some(needed(value)?),
            "header" => self.header = Some(header(value.as_deref())?),
            "freeze" => {
                if value.as_deref().is_none_or(|value| parse_bool(value) != Some(false)) {
                    return Err(crate::failure::unsupported("COPY FREEZE"));
                }
            }
            "encoding" => {
                let value = needed(value)?;
                let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
                if !["utf8", "unicode"].contains(&&*plain.to_ascii_lowercase()) {
                    let message = format!("encoding \"{value}\" in COPY");
                    return Err(crate::failure::unsupported(message));
                }
            }
            _ => {
                let message = format!("option \"{name}\" not recognized");
                return Err(fail(SqlState::SYNTAX_ERROR, message));
            }
        }
        Ok(())
    }

    fn format(self) -> Result<Format> {
        let is_csv = match self.format.as_deref() {
            None | Some("text") => false,
            Some("csv") => true,
            Some("binary") => return self.binary(),
            Some(other) => {
                let message = format!("COPY format \"{other}\" not recognized");
                return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
            }
        };
        let delimiter = match self.delimiter {
            Some(delimiter) => one_byte(&delimiter, "delimiter")?,
            None if is_csv => b',',
            None => b'\t',
        };
        let null = self.null.unwrap_or_else(|| if is_csv { "" } else { "\\N" }.to_owned());
        let invalid = |message: String| Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
        if matches!(delimiter, b'\n' | b'\r') {
            return invalid("COPY delimiter cannot be newline or carriage return".to_owned());
        }
        if null.contains(['\n', '\r']) {
            let message = "COPY null representation cannot use newline or carriage return";
            return invalid(message.to_owned());
        }
        let is_special = matches!(delimiter, b'\\' | b'.' | b'a'..=b'z' | b'0'..=b'9');
        if !is_csv && is_special {
            let message = format!("COPY delimiter cannot be \"{}\"", char::from(delimiter));
            return invalid(message);
        }
        let csv = match is_csv {
            true => {
                let quote = self.quote.map_or(Ok(b'"'), |quote| one_byte(&quote, "quote"))?;
                if quote == delimiter {
                    return invalid("COPY delimiter and quote must be different".to_owned());
                }
                let escape = self.escape.map_or(Ok(quote), |escape| one_byte(&escape, "escape"))?;
                Some(Csv { quote, escape })
            }
            false if self.quote.is_some() => {
                return Err(unavailable("COPY quote available only in CSV mode"));
            }
            false if self.escape.is_some() => {
                return Err(unavailable("COPY escape available only in CSV mode"));
            }
            false => None,
        };
        if null.as_bytes().contains(&delimiter) {
            return Err(unavailable("COPY delimiter must not appear in the NULL specification"));
        }
        if csv.is_some_and(|csv| null.as_bytes().contains(&csv.quote)) {
            return Err(unavailable(
                "CSV quote character must not appear in the NULL specification",
            ));
        }
        let header = self.header.unwrap_or(Header::No);
        Ok(Format::Lines(LineFormat { delimiter, null: null.into_bytes(), header, csv }))
    }

    fn binary(self) -> Result<Format> {
        let syntax = |message: &str| Err(fail(SqlState::SYNTAX_ERROR, message));
        if self.delimiter.is_some() {
            return syntax("cannot specify DELIMITER in BINARY mode");
        }
        if self.null.is_some() {
            return syntax("cannot specify NULL in BINARY mode");
        }
        if self.header.is_some_and(|header| header != Header::No) {
            return Err(unavailable("cannot specify HEADER in BINARY mode"));
        }
        if self.quote.is_some() {
            return Err(unavailable("COPY quote available only in CSV mode"));
        }
        if self.escape.is_some() {
            return Err(unavailable("COPY escape available only in CSV mode"));
        }
        Ok(Format::Binary)
    }
}

fn header(value: Option<&str>) -> Result<Header> {
    match value {
        None => Ok(Header::Skip),
        Some(value) if value.eq_ignore_ascii_case("match") => Ok(Header::Match),
        Some(value) => match parse_bool(value) {
            Some(true) => Ok(Header::Skip),
            Some(false) => Ok(Header::No),
            None => {
                let message = "header requires a Boolean value or \"match\"";
                Err(fail(SqlState::SYNTAX_ERROR, message))
            }
        },
    }
}

fn one_byte(text: &str, what: &str) -> Result<u8> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(unavailable(&format!("COPY {what} must be a single one-byte character"))),
    }
}

fn unavailable(message: &str) -> Failure {
    fail(SqlState::FEATURE_NOT_SUPPORTED, message)
}
