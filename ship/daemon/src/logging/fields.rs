//! What lines and their prefixes show of a message.
//!
//! PostgreSQL: `get_formatted_log_time`, `get_backend_type_for_log` (src/backend/utils/error/elog.c).

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Entry;
use crate::settings::MessageLevel;

/// When a message is written, and by which process.
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) started: Timestamp,
    pub(super) pid: u32,
    pub(super) line: u64,
}

impl Moment {
    /// The process id that a message shows.
    pub(super) fn pid_of(&self, entry: &Entry) -> u32 {
        if entry.session.pid == 0 { self.pid } else { entry.session.pid }
    }

    /// When the session, or the server, started.
    pub(super) fn started_at(&self, entry: &Entry) -> Timestamp {
        let start = entry.session.session_start;
        start.and_then(|micros| Timestamp::from_microsecond(micros).ok()).unwrap_or(self.started)
    }

    /// PostgreSQL's session id: start time and process id in hexadecimal.
    pub(super) fn session_id(&self, entry: &Entry) -> String {
        format!("{:x}.{:x}", self.started_at(entry).as_second(), self.pid_of(entry))
    }
}

/// Kind of process, as `pg_stat_activity` calls it.
pub(super) fn backend_type(entry: &Entry) -> &str {
    match entry.session.backend_type.as_str() {
        "" if entry.session.pid == 0 => "postmaster",
        "" => "client backend",
        backend_type => backend_type,
    }
}

/// The message's SQLSTATE, or the one that PostgreSQL gives its level. PostgreSQL: `errstart`.
pub(super) fn sqlstate(entry: &Entry) -> &str {
    match &entry.sqlstate {
        Some(sqlstate) => sqlstate,
        None if entry.level == MessageLevel::Log => "00000",
        None if entry.level >= MessageLevel::Error => "XX000",
        None if entry.level == MessageLevel::Warning => "01000",
        None => "00000",
    }
}

/// `2026-11-21 23:59:01.123 UTC`.
pub(super) fn with_milliseconds(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%3f %Z").to_string()
}

/// `2026-11-21 23:59:01 UTC`.
pub(super) fn without_milliseconds(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}
