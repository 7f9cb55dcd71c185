//! What is wrong with a line, in PostgreSQL's words.

use alloc::borrow::Cow;
use alloc::string::String;

use crate::sqlstate::SqlState;

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) sqlstate: SqlState,
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl Fault {
    /// One of the configuration. PostgreSQL: `ERRCODE_CONFIG_FILE_ERROR`.
    pub(super) fn new<'a>(message: impl Into<Cow<'a, str>>) -> Self {
        let message = message.into().into_owned();
        Self { sqlstate: SqlState::CONFIG_FILE_ERROR, message, hint: None }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn sqlstate(mut self, sqlstate: SqlState) -> Self {
        self.sqlstate = sqlstate;
        self
    }

    /// For the log.
    pub(super) fn at(&self, file: &str, line: u32) -> Remark {
        Remark {
            sqlstate: self.sqlstate,
            message: self.message.clone(),
            hint: self.hint,
            context: Some(line_of_file(file, line)),
        }
    }
}

/// PostgreSQL: `tokenize_error_callback`.
pub(super) fn line_of_file(file: &str, line: u32) -> String {
    alloc::format!("line {line} of configuration file \"{file}\"")
}

/// Something about a file that belongs into the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// Which kind.
    pub sqlstate: SqlState,
    /// What is the matter.
    pub message: String,
    /// What to do.
    pub hint: Option<&'static str>,
    /// File and line; one a line when files include each other.
    pub context: Option<String>,
}
