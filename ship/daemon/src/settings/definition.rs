//! What a setting is: its name, type, unit, bounds, default, and when it may change.
//!
//! PostgreSQL: `config_generic` and its kin (src/include/utils/guc_tables.h).

use super::error::Objection;

/// When a setting may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// Only at server start.
    Postmaster,
    /// At any reload of the configuration file.
    Sighup,
    /// At a reload, and in each session.
    User,
}

impl Context {
    /// As `pg_settings.context` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postmaster => "postmaster",
            Self::Sighup => "sighup",
            Self::User => "user",
        }
    }
}

/// The unit in which an integer setting is kept, and in which a bare number is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// 1024 bytes.
    Kilobytes,
    /// 1024 kilobytes.
    Megabytes,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// As `pg_settings.unit` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kilobytes => "kB",
            Self::Megabytes => "MB",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }

    /// Whether it measures memory; otherwise it measures time.
    #[must_use]
    pub const fn is_memory(self) -> bool {
        match self {
            Self::Kilobytes | Self::Megabytes => true,
            Self::Milliseconds | Self::Seconds => false,
        }
    }
}

/// One value of an enum setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnumOption {
    /// As it is written.
    pub name: &'static str,
    /// The value it stands for; differs from `name` for an alias.
    pub means: &'static str,
    /// Accepted, but not offered in hints.
    pub hidden: bool,
}

/// The type of a setting, with its bounds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `on` or `off`.
    Bool,
    /// A whole number of `unit`.
    Int {
        /// What is counted.
        unit: Option<Unit>,
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
        /// Words that stand for a number.
        words: &'static [(&'static str, i64)],
    },
    /// Any text that `check` accepts.
    String {
        /// Says what is wrong with a value.
        check: fn(&str) -> Result<(), Objection>,
    },
    /// One word of a list.
    Enum {
        /// The list.
        options: &'static [EnumOption],
    },
}

impl Kind {
    /// As `pg_settings.vartype` shows it.
    #[must_use]
    pub const fn vartype(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int { .. } => "integer",
            Self::String { .. } => "string",
            Self::Enum { .. } => "enum",
        }
    }
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Name, PostgreSQL's where PostgreSQL has the setting.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// Default, written as a user would write it.
    pub default: &'static str,
    /// When it may change.
    pub context: Context,
    /// Heading under which it is listed.
    pub category: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
}
