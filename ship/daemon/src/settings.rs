//! Settings under their PostgreSQL names, parsed into types that cannot be wrong.
//!
//! A setting is one row of `table`. It takes its value from, in this order, its default,
//! `walhub.toml`, and the command line; [`source`] reads them. [`value`] is PostgreSQL's value
//! grammar, [`show`] what `SHOW` and `pg_settings` tell.
//!
//! PostgreSQL: src/backend/utils/misc/guc.c.

mod auth_files;
mod check;
pub mod definition;
pub mod error;
pub(crate) mod files;
mod foreign;
mod setting_type;
pub mod show;
pub mod source;
mod table;
#[cfg(test)]
mod tests;
pub mod value;
mod words;

pub use auth_files::AuthFiles;
pub use error::SettingError;
pub use show::SettingRow;
pub use source::{Change, Sources};
pub use table::{DEFINITIONS, Settings};
pub use words::{
    DedicatedWalCore, LogDestination, MessageLevel, PasswordEncryption, SslMaxProtocolVersion,
    SslMinProtocolVersion, WalSyncMethod, Words,
};

use error::FileLine;

/// Settings that only superusers and pg_read_all_settings see. PostgreSQL: `GUC_SUPERUSER_ONLY`.
pub const SUPERUSER_ONLY: &[&str] = &[
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "primary_conninfo",
    "ssl_passphrase_command",
    "unix_socket_directories",
];

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueSource {
    /// The default of the setting.
    Default,
    /// A line of the configuration file.
    File(FileLine),
    /// `-c`, or an option that stands for it.
    CommandLine,
}

/// A value as text.
#[derive(Clone, PartialEq, Eq, Debug)]
struct ValueText {
    /// In the unit of the setting, as `pg_settings` has it.
    plain: String,
    /// With its own unit, as `SHOW` has it.
    shown: String,
}

/// What `pg_settings` tells about a value.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Assigned {
    text: ValueText,
    source: ValueSource,
    pending_restart: bool,
}

impl Assigned {
    fn default_value(text: ValueText) -> Self {
        Self { text, source: ValueSource::Default, pending_restart: false }
    }
}

impl Settings {
    /// Connections that are kept for roles that may use them: the operator's among them.
    #[must_use]
    pub fn connections_kept(&self) -> u32 {
        self.superuser_reserved_connections.saturating_add(self.reserved_connections)
    }
}
