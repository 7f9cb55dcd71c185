//! Keyword and value pairs, from a string and from where libpq looks when the string is silent.
//!
//! PostgreSQL: `conninfo_parse`, `conninfo_storeval`, `conninfo_add_defaults`
//! (src/interfaces/libpq/fe-connect.c).

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::Environment;
use super::error::ConnInfoError;
use super::keywords::{self, KEYWORDS, Use};
use super::{service, uri};

/// Values by keyword; every key is in [`KEYWORDS`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    values: BTreeMap<&'static str, String>,
}

impl Options {
    /// Parses a connection string or URI, without defaults.
    ///
    /// # Errors
    /// As libpq's `PQconninfoParse`.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        let mut options = Self::default();
        match uri::strip_scheme(text) {
            Some(rest) => uri::parse(text, rest, &mut options)?,
            None => options.parse_pairs(text)?,
        }
        Ok(options)
    }

    /// The value of a keyword.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of a keyword, when it is not empty.
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// Stores a value; the last one given wins. PostgreSQL: `conninfo_storeval`.
    pub(super) fn store(&mut self, name: &str, value: String) -> Result<(), ConnInfoError> {
        if name == "requiressl" {
            let mode = if value.starts_with('1') { "require" } else { "prefer" };
            self.values.insert("sslmode", mode.into());
            return Ok(());
        }
        let unknown = || ConnInfoError::UnknownKeyword { name: name.into() };
        let keyword = keywords::find(name).ok_or_else(unknown)?;
        self.values.insert(keyword.name, value);
        Ok(())
    }

    fn parse_pairs(&mut self, text: &str) -> Result<(), ConnInfoError> {
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            let end = rest.find(|c| c == '=' || is_space(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let Some(after) = after.trim_start_matches(is_space).strip_prefix('=') else {
                return Err(ConnInfoError::MissingEquals { name: name.into() });
            };
            let after = after.trim_start_matches(is_space);
            let (value, after) = match after.strip_prefix('\'') {
                Some(quoted) => quoted_value(quoted)?,
                None => bare_value(after),
            };
            self.store(name, value)?;
            rest = after.trim_start_matches(is_space);
        }
        Ok(())
    }

    /// Fills in what the string does not say: service file, environment, compiled-in defaults.
    ///
    /// # Errors
    /// When a service is named and cannot be found.
    pub fn add_defaults(&mut self, environment: &Environment<'_>) -> Result<(), ConnInfoError> {
        service::apply(self, environment)?;
        // The weaker default would silently drop what asking for the system's roots implies.
        let mode_given = self.values.contains_key("sslmode");
        let mut mode_defaulted = false;
        for keyword in KEYWORDS {
            if self.values.contains_key(keyword.name) {
                continue;
            }
            let variable = keyword.variable.and_then(environment.variable);
            let deprecated = || {
                let value = (environment.variable)("PGREQUIRESSL")?;
                value.starts_with('1').then(|| String::from("require"))
            };
            let value = match keyword.name {
                "sslmode" => variable.or_else(deprecated),
                _ => variable,
            };
            mode_defaulted |= keyword.name == "sslmode" && value.is_none() && !mode_given;
            if let Some(value) = value.or_else(|| keyword.default.map(String::from)) {
                self.values.insert(keyword.name, value);
            }
        }
        if mode_defaulted && self.value("sslrootcert") == Some("system") {
            self.values.insert("sslmode", "verify-full".into());
        }
        Ok(())
    }

    /// Stores a value unless there is one.
    pub(super) fn fill(&mut self, name: &'static str, value: String) {
        self.values.entry(name).or_insert(value);
    }

    /// The first keyword with a value that cannot be honoured.
    pub(super) fn refused(&self) -> Option<&'static str> {
        KEYWORDS
            .iter()
            .find(|keyword| keyword.usage == Use::Refused && self.filled(keyword.name).is_some())
            .map(|keyword| keyword.name)
    }

    /// The options as `pg_stat_wal_receiver.conninfo` shows them, secrets hidden.
    ///
    /// PostgreSQL: `libpqrcv_get_conninfo`.
    #[must_use]
    pub fn redacted(&self) -> String {
        let mut text = String::new();
        // The server ignores the database name of a physical replication connection, and
        // `replication` itself is a debug option, which PostgreSQL does not show either.
        for keyword in KEYWORDS.iter().filter(|keyword| keyword.name != "replication") {
            let value = match keyword.name {
                "dbname" => Some(super::REPLICATION_DATABASE),
                name => self.filled(name),
            };
            let Some(value) = value else { continue };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(keyword.name);
            text.push('=');
            text.push_str(if keyword.secret { "********" } else { value });
        }
        text
    }
}

impl core::fmt::Debug for Options {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Options({})", self.redacted())
    }
}

/// C's `isspace` in the C locale.
pub(super) const fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn bare_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next() {
            None => return (value, ""),
            Some('\\') => value.extend(chars.next()),
            Some(c) if is_space(c) => return (value, chars.as_str()),
            Some(c) => value.push(c),
        }
    }
}

fn quoted_value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next().ok_or(ConnInfoError::UnterminatedQuote)? {
            '\\' => value.extend(chars.next()),
            '\'' => return Ok((value, chars.as_str())),
            c => value.push(c),
        }
    }
}
