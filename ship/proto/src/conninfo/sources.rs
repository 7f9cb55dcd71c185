//! Where values come from: the string, and where libpq looks when the string is silent.
//!
//! PostgreSQL: `conninfo_parse`, `conninfo_add_defaults` (src/interfaces/libpq/fe-connect.c).

use alloc::string::String;

use super::environment::Environment;
use super::error::ConnInfoError;
use super::keywords::KEYWORDS;
use super::options::{Options, is_space};
use super::{service, uri};

impl Options {
    /// Parses a connection string or URI, without defaults.
    ///
    /// # Errors
    /// As libpq's `PQconninfoParse`.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        let mut options = Self::default();
        match uri::strip_scheme(text) {
            Some(rest) => uri::parse(text, rest, &mut options)?,
            None => parse_pairs(text, &mut options)?,
        }
        Ok(options)
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
}

fn parse_pairs(text: &str, options: &mut Options) -> Result<(), ConnInfoError> {
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
        options.store(name, value)?;
        rest = after.trim_start_matches(is_space);
    }
    Ok(())
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
