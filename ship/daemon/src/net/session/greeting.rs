//! The start-up sequence of a session, and the settings that it reports.
//!
//! PostgreSQL: `BeginReportingGUCOptions` (src/backend/utils/misc/guc.c).

use walhub_proto::wire::backend::Encoder;
use walhub_proto::wire::startup::ReplicationMode;

use super::{ClientSession, Services};
use crate::backend;

impl Services {
    pub(super) fn server_version_num(&self) -> u32 {
        self.hub.identity().map_or(FALLBACK_VERSION_NUM, |id| id.server_version_num)
    }
}

impl ClientSession {
    /// What follows AuthenticationOk, up to ReadyForQuery. PostgreSQL: `InitPostgres`.
    pub(super) fn encode_greeting(&self, out: &mut Encoder) {
        let version = self.services.server_version_num();
        let started_with = match self.mode {
            ReplicationMode::Off | ReplicationMode::Database => {
                backend::reported_at_startup(&self.message.parameters)
            }
            ReplicationMode::Physical => Vec::new(),
        };
        for name in REPORTED {
            // Kept clean of what is not ASCII, unlike the packet's.
            let is_name = name == "application_name";
            let asked = started_with.iter().find(|(asked, _)| *asked == name && !is_name);
            let value = asked.map(|(_, value)| value.clone()).or_else(|| self.show_session(name));
            let is_known = match name {
                "default_transaction_read_only" | "in_hot_standby" => version >= 140_000,
                "scram_iterations" => version >= 160_000,
                _ => true,
            };
            if let Some(value) = value.filter(|_| is_known) {
                out.parameter_status(name, &value);
            }
        }
        out.backend_key_data(self.client.pid, self.member.interrupts.key().bytes());
        out.ready_for_query(b'I');
    }

    /// Value of a setting that belongs to the session or the server rather than to walhub.
    pub(crate) fn show_session(&self, name: &str) -> Option<String> {
        let identity = self.services.hub.identity();
        Some(match name {
            "application_name" => self.client.application_name.clone(),
            "session_authorization" => self.client.user.clone(),
            "is_superuser" => {
                on_off(self.services.roles.current().is_superuser(self.authenticated))
            }
            "scram_iterations" => self.services.settings().scram_iterations.to_string(),
            "server_version" => identity.map_or_else(fallback_version, |id| id.server_version),
            "server_version_num" => self.services.server_version_num().to_string(),
            "wal_segment_size" => identity?.segment_size.to_string(),
            // What is in WAL of its own can be decoded.
            "wal_level" if !self.services.hub.in_recovery() => "logical".into(),
            "in_hot_standby" => on_off(self.services.hub.in_recovery()),
            // A walsender without a database has none whose encoding it could use.
            "client_encoding" | "server_encoding" if self.mode == ReplicationMode::Physical => {
                "SQL_ASCII".into()
            }
            _ => FIXED.iter().find(|(fixed, _)| *fixed == name)?.1.into(),
        })
    }
}

/// What `server_version` says until the upstream's is known.
fn fallback_version() -> String {
    format!("15.0 (walhub {})", env!("CARGO_PKG_VERSION"))
}

const FALLBACK_VERSION_NUM: u32 = 150_000;

fn on_off(on: bool) -> String {
    if on { "on".into() } else { "off".into() }
}

/// Settings that a server reports without being asked, in PostgreSQL's order: `GUC_REPORT`.
const REPORTED: [&str; 14] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// Settings that have one value here.
const FIXED: [(&str, &str); 12] = [
    ("block_size", "8192"),
    ("client_encoding", "UTF8"),
    ("data_directory_mode", "0700"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
    ("wal_block_size", "8192"),
    ("wal_level", "replica"),
];

/// The spelling of a setting's name that SHOW heads its column with, by its folded name.
pub(crate) fn canonical_name(name: &str) -> &str {
    ["DateStyle", "IntervalStyle", "TimeZone"]
        .into_iter()
        .find(|canonical| canonical.eq_ignore_ascii_case(name))
        .unwrap_or(name)
}
