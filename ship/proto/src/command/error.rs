//! What can be wrong with a replication command, in PostgreSQL's words.

use alloc::string::String;
use core::fmt;

use crate::sqlstate::SqlState;

/// A replication command that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// Words in an order that has no meaning.
    Syntax,
    /// A quote that is never closed.
    UnterminatedQuotedString,
    /// Timeline zero, which is none.
    InvalidTimeline,
    /// An option twice, or of the other kind of slot.
    ConflictingOptions,
    /// An option that CREATE_REPLICATION_SLOT does not have.
    UnrecognizedOption(String),
    /// An option that needs a value and has none.
    RequiresParameter(String),
    /// An option with a value that it does not have.
    UnrecognizedValue {
        /// Name of the option.
        name: String,
        /// What was given for it.
        value: String,
    },
    /// An option whose value is not a boolean.
    NotBoolean(String),
    /// An empty slot name.
    SlotNameTooShort(String),
    /// A slot name of [`super::NAME_DATA_LEN`] bytes or more.
    SlotNameTooLong(String),
    /// A slot name with anything but lower-case letters, digits and underscores.
    SlotNameCharacter(String),
}

impl CommandError {
    /// PostgreSQL's code for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Syntax
            | Self::UnterminatedQuotedString
            | Self::InvalidTimeline
            | Self::ConflictingOptions
            | Self::RequiresParameter(_)
            | Self::NotBoolean(_) => SqlState::SYNTAX_ERROR,
            Self::UnrecognizedValue { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Self::UnrecognizedOption(_) => SqlState::INTERNAL_ERROR,
            Self::SlotNameTooShort(_) | Self::SlotNameCharacter(_) => SqlState::INVALID_NAME,
            Self::SlotNameTooLong(_) => SqlState::NAME_TOO_LONG,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::SlotNameCharacter(_) => Some(
                "Replication slot names may only contain lower case letters, numbers, and the \
                 underscore character.",
            ),
            Self::Syntax
            | Self::UnterminatedQuotedString
            | Self::InvalidTimeline
            | Self::ConflictingOptions
            | Self::UnrecognizedOption(_)
            | Self::RequiresParameter(_)
            | Self::UnrecognizedValue { .. }
            | Self::NotBoolean(_)
            | Self::SlotNameTooShort(_)
            | Self::SlotNameTooLong(_) => None,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("syntax error"),
            Self::UnterminatedQuotedString => f.write_str("unterminated quoted string"),
            Self::InvalidTimeline => f.write_str("invalid timeline 0"),
            Self::ConflictingOptions => f.write_str("conflicting or redundant options"),
            Self::UnrecognizedOption(name) => write!(f, "unrecognized option: {name}"),
            Self::RequiresParameter(name) => write!(f, "{name} requires a parameter"),
            Self::UnrecognizedValue { name, value } => write!(
                f,
                "unrecognized value for CREATE_REPLICATION_SLOT option \"{name}\": \"{value}\""
            ),
            Self::NotBoolean(name) => write!(f, "{name} requires a Boolean value"),
            Self::SlotNameTooShort(name) => {
                write!(f, "replication slot name \"{name}\" is too short")
            }
            Self::SlotNameTooLong(name) => {
                write!(f, "replication slot name \"{name}\" is too long")
            }
            Self::SlotNameCharacter(name) => {
                write!(f, "replication slot name \"{name}\" contains invalid character")
            }
        }
    }
}
