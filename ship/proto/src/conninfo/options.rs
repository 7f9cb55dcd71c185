//! Values by keyword.
//!
//! Not here: where they come from (`sources`).
//!
//! PostgreSQL: `conninfo_storeval` (src/interfaces/libpq/fe-connect.c).

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::error::ConnInfoError;
use super::keywords::{self, KEYWORDS, Use};

/// Values by keyword; every key is in [`KEYWORDS`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub(super) values: BTreeMap<&'static str, String>,
}

impl Options {
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
