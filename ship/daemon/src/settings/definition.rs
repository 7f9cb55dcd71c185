//! What a setting is, and how one row of the table becomes all that there is of it.
//!
//! The macro `settings!` reads the rows. It makes the fields of `Settings`, their defaults, and the
//! list `DEFINITIONS`, from which `SHOW`, `pg_settings`, `walhub settings`, the sources and the nearest
//! name of an error work. It is the compiler that holds them together: a row without a field, a field
//! without a row, and a field of another type than the row's value are errors of compilation.
//!
//! Not here: the rows (`table`), what a value may be (`setting_type`).
//!
//! PostgreSQL: `config_generic` and its kin (src/include/utils/guc_tables.h).

use super::error::SettingError;
use super::{Assigned, Settings, ValueSource};

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

/// The whole numbers that a setting takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntRange {
    /// What is counted.
    pub unit: Option<Unit>,
    /// Smallest number.
    pub min: i64,
    /// Largest number.
    pub max: i64,
    /// Word that stands for the smallest number.
    pub min_word: Option<&'static str>,
}

/// The type of a setting, as `pg_settings` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `on` or `off`.
    Bool,
    /// A whole number.
    Int(IntRange),
    /// A text.
    String,
    /// One of these words.
    Enum(Vec<&'static str>),
}

impl Kind {
    /// As `pg_settings.vartype` shows it.
    #[must_use]
    pub const fn vartype(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int(_) => "integer",
            Self::String => "string",
            Self::Enum(_) => "enum",
        }
    }
}

/// A value that somebody wrote for a setting.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// Name of the setting.
    pub name: &'static str,
    /// The value as it is written.
    pub value: &'a str,
    /// Where it is written.
    pub source: ValueSource,
}

/// A setting, as far as it is the same for all of them: all but the type of its value.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Name, PostgreSQL's where PostgreSQL has the setting.
    pub name: &'static str,
    /// When it may change.
    pub context: Context,
    /// Heading under which it is listed.
    pub category: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Its type and range.
    pub(super) kind: fn() -> Kind,
    /// Its value in these settings, as text.
    pub(super) assigned: fn(&Settings) -> &Assigned,
    /// Reads a value and puts it into the settings.
    pub(super) assign: fn(&mut Settings, &Written<'_>) -> Result<(), SettingError>,
    /// Puts the value of the second settings, those of the running server, back into the first. It is
    /// marked as one that a restart will change.
    pub(super) keep_running: fn(&mut Settings, &Settings),
}

/// Makes everything that there is of each setting from its row:
///
/// ```text
/// /// Description.
/// name [in hub]: type of the field = type of the setting with its default, when it may change, heading;
/// ```
///
/// The field is one of `Settings`, or, with `in hub`, one of the hub's `HubSettings`.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $(in $hub:ident)?: $field:ty = $type:expr, $context:ident, $category:ident;
    )*) => {
        /// Every setting, in the order of PostgreSQL's documentation.
        pub static DEFINITIONS: &[Definition] = &[$(Definition {
            name: stringify!($name),
            context: Context::$context,
            category: $category,
            description: concat!($($doc),+).trim_ascii_start(),
            kind: || types::$name().kind(),
            assigned: |settings| &settings.assigned.$name,
            assign: |settings, written| {
                let Reading { field, text } = types::$name().parse(written)?;
                settings$(.$hub)?.$name = field;
                let source = written.source.clone();
                settings.assigned.$name = Assigned { text, source, pending_restart: false };
                Ok(())
            },
            keep_running: |settings, running| {
                settings$(.$hub)?.$name.clone_from(&running$(.$hub)?.$name);
                let assigned = running.assigned.$name.clone();
                settings.assigned.$name = Assigned { pending_restart: true, ..assigned };
            },
        },)*];

        /// The type of each setting, under its name.
        mod types {
            use super::*;
            $(
                // A constant, so that the compiler runs the checks of default and range.
                const _: () = {
                    let _ = $type;
                };

                pub(super) fn $name() -> impl SettingType<Field = $field> {
                    $type
                }
            )*
        }

        /// What `pg_settings` tells about each value.
        #[derive(Clone, PartialEq, Debug)]
        struct AllAssigned {
            $($name: Assigned,)*
        }

        impl Default for AllAssigned {
            fn default() -> Self {
                Self { $($name: Assigned::default_value(types::$name().boot().text),)* }
            }
        }

        fields! { {} {} $($(#[doc = $doc])+ $name $(in $hub)?: $field;)* }
    };
}

/// Sorts the rows into the server's own and the hub's, and makes `Settings` of them.
macro_rules! fields {
    ({$($server:tt)*} {$($hub:ident)*}
        $(#[$doc:meta])+ $name:ident in hub: $field:ty; $($rest:tt)*) => {
        fields! { {$($server)*} {$($hub)* $name} $($rest)* }
    };
    ({$($server:tt)*} {$($hub:ident)*}
        $(#[$doc:meta])+ $name:ident: $field:ty; $($rest:tt)*) => {
        fields! { {$($server)* $(#[$doc])+ $name: $field;} {$($hub)*} $($rest)* }
    };
    ({$($(#[$doc:meta])+ $name:ident: $field:ty;)*} {$($hub:ident)*}) => {
        /// Every setting, typed. Sizes are bytes.
        #[derive(Clone, PartialEq, Debug)]
        pub struct Settings {
            /// What the hub is told.
            pub hub: HubSettings,
            $($(#[$doc])+ pub $name: $field,)*
            assigned: AllAssigned,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    hub: HubSettings { $($hub: types::$hub().boot().field,)* },
                    $($name: types::$name().boot().field,)*
                    assigned: AllAssigned::default(),
                }
            }
        }
    };
}

pub(super) use {fields, settings};
