//! What is wrong with a setting, in PostgreSQL's words.

use std::fmt;
use std::path::{Path, PathBuf};

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

/// What a check has against a value, beyond that it is invalid.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Objection {
    /// Which kind; `None` is an invalid value.
    pub sqlstate: Option<SqlState>,
    /// What takes the place of "invalid value for parameter".
    pub message: Option<String>,
    /// Detail for the log.
    pub detail: Option<String>,
    /// Hint for the log.
    pub hint: Option<String>,
}

impl Objection {
    /// An objection that only has a detail.
    #[must_use]
    pub fn detail(detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::default() }
    }

    /// An objection that only has a hint.
    #[must_use]
    pub fn hint(hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::default() }
    }
}

/// A line of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileLine {
    /// The configuration file.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: u32,
}

/// A setting, or a configuration file, that is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingError {
    /// The kind of error.
    pub sqlstate: SqlState,
    /// What is wrong.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where, when it is in a file.
    pub place: Option<FileLine>,
}

impl SettingError {
    /// An error that names no place yet.
    #[must_use]
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None, place: None }
    }

    /// `invalid value for parameter "..."`, unless the objection has a message of its own.
    #[must_use]
    pub fn invalid_value(name: &str, value: &str, objection: Objection) -> Self {
        let Objection { sqlstate, message, detail, hint } = objection;
        let sqlstate = sqlstate.unwrap_or(SqlState::INVALID_PARAMETER_VALUE);
        let message = message
            .unwrap_or_else(|| format!("invalid value for parameter \"{name}\": \"{value}\""));
        Self { detail, hint, ..Self::new(sqlstate, message) }
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, file: &Path, line: u32) -> Self {
        self.place = Some(FileLine { file: file.to_owned(), line });
        self
    }

    /// As an `ERROR` for a log or a client.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = Report::error(self.sqlstate, self.to_string());
        report.detail.clone_from(&self.detail);
        report.hint.clone_from(&self.hint);
        report
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            // PostgreSQL: ProcessConfigFileInternal (src/backend/utils/misc/guc-file.l).
            write!(f, " in file \"{}\" line {}", place.file.display(), place.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingError {}
