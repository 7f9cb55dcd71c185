//! Log lines that a PostgreSQL DBA can read.
//!
//! Everything is logged through `tracing`. An `info!` is PostgreSQL's `LOG`, a `warn!` `WARNING`, an
//! `error!` `ERROR`, a `debug!` `DEBUG1`, a `trace!` `DEBUG5`; a field `severity = "FATAL"` says
//! otherwise, and the fields `sqlstate`, `detail`, `hint` and `context` are what PostgreSQL calls so. A span
//! whose fields are named as those of [`SessionFields`] tells whose session an event belongs to.
//!
//! [`layer`] takes events from `tracing`, [`prefix`] is `log_line_prefix`, [`line`] writes a message
//! as text or JSON.
//!
//! PostgreSQL: src/backend/utils/error/elog.c.

mod fields;
mod layer;
mod line;
mod prefix;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{LogDestination, MessageLevel, Settings};

pub use layer::LogLayer;
pub use walhub_hub::api::report::{report, report_as_log};

/// How lines look and which are written.
#[derive(Clone, PartialEq, Debug)]
pub struct LogConfig {
    /// `log_destination`.
    pub destination: LogDestination,
    /// `log_min_messages`.
    pub min_messages: MessageLevel,
    /// `log_line_prefix`.
    pub line_prefix: String,
    /// `log_timezone`.
    pub time_zone: TimeZone,
}

impl From<&Settings> for LogConfig {
    fn from(settings: &Settings) -> Self {
        Self {
            destination: settings.log_destination,
            min_messages: settings.log_min_messages,
            line_prefix: settings.log_line_prefix.clone(),
            time_zone: settings.log_timezone.clone(),
        }
    }
}

/// What is known of the session that a message belongs to; the span fields `pid`, `backend_type`, `user`, `database`,
/// `application_name`, `remote_host`, `remote_port` and `session_start` (microseconds since the Unix
/// epoch) fill it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionFields {
    /// Process id shown; 0 is walhub's own.
    pub pid: u32,
    /// Kind of process; empty is the server itself.
    pub backend_type: String,
    /// User of the startup packet.
    pub user: String,
    /// Database of the startup packet.
    pub database: String,
    /// `application_name`.
    pub application_name: String,
    /// Address of the client, `[local]` for a unix socket.
    pub remote_host: String,
    /// Port of the client.
    pub remote_port: String,
    /// When it connected, in microseconds since the Unix epoch.
    pub session_start: Option<i64>,
}

/// A message to be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// How important it is.
    pub level: MessageLevel,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where it happened.
    pub context: Option<String>,
    /// Its SQLSTATE, where it has one.
    pub sqlstate: Option<String>,
    /// Whose session it belongs to.
    pub session: SessionFields,
}

/// Whether a message of `level` is logged when `log_min_messages` is `min`.
///
/// `LOG` ranks between `ERROR` and `FATAL`, except that it is not less than any lower setting.
///
/// PostgreSQL: `is_log_level_output`.
#[must_use]
pub fn is_logged(level: MessageLevel, min: MessageLevel) -> bool {
    match (level, min) {
        (MessageLevel::Log, _) => min <= MessageLevel::Log,
        (_, MessageLevel::Log) => level >= MessageLevel::Fatal,
        (_, _) => level >= min,
    }
}

static CONFIG: OnceLock<Arc<RwLock<LogConfig>>> = OnceLock::new();

/// Begins logging to stderr; a second call only changes the configuration.
pub fn init(config: LogConfig) {
    if CONFIG.get().is_some() {
        reconfigure(config);
        return;
    }
    let shared = Arc::new(RwLock::new(config));
    if CONFIG.set(Arc::clone(&shared)).is_err() {
        return;
    }
    let layer = LogLayer::new(shared, Timestamp::now, write_to_stderr);
    // Someone else's subscriber, as in a test, stays.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<&str>().copied();
        let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("unknown");
        let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
        tracing::error!(
            severity = "PANIC",
            sqlstate = "XX000",
            detail = place.map(|place| format!("At {place}.")),
            "{message}"
        );
    }));
}

/// Changes how lines look and which are written, from the next message on.
pub fn reconfigure(config: LogConfig) {
    if let Some(shared) = CONFIG.get() {
        *shared.write().unwrap_or_else(PoisonError::into_inner) = config;
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Writes a whole line at once. A log that nobody can read must not stop a server that works, so a
/// full disk and a closed pipe are ignored.
fn write_to_stderr(line: &[u8]) {
    let _ = io::stderr().lock().write_all(line);
}

/// Logs a `LOG` message.
pub fn log(message: impl Display) {
    tracing::info!("{message}");
}
