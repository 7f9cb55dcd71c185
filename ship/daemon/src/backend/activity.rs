//! What each session is doing.
//!
//! Not here: the view of it (`views::stat_activity`).
//!
//! PostgreSQL: `pgstat_report_activity` (src/backend/utils/activity/backend_status.c).

use std::sync::Arc;

use walhub_proto::time::Timestamp;
use walhub_sql::parse::roles::without_passwords;

use walhub_hub::api::hub::Client;

/// Bytes of a query that are shown, the terminating zero counted in. PostgreSQL:
/// `track_activity_query_size`.
const QUERY_SIZE: usize = 1024;

/// What a session does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BackendState {
    /// A statement, or a message of the extended protocol.
    Active,
    /// Nothing, and it is in no transaction block.
    Idle,
    /// Nothing, in a transaction block.
    IdleInTransaction,
    /// Nothing, in one that has failed.
    IdleInFailedTransaction,
}

impl BackendState {
    /// Of the letter of ReadyForQuery.
    pub(super) const fn of_status(status: u8) -> Self {
        match status {
            b'T' => Self::IdleInTransaction,
            b'E' => Self::IdleInFailedTransaction,
            _ => Self::Idle,
        }
    }

    /// As the view shows it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            Self::IdleInFailedTransaction => "idle in transaction (aborted)",
        }
    }
}

/// A session, and what it does now.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    pub(super) client: Client,
    pub(super) database: String,
    pub(super) state: BackendState,
    /// The last one, when none runs.
    pub(super) query: Arc<str>,
    pub(super) xact_start: Option<Timestamp>,
    pub(super) query_start: Option<Timestamp>,
    pub(super) state_change: Timestamp,
}

impl Activity {
    /// Of a session that begins.
    pub(super) fn new(client: &Client, database: &str) -> Self {
        Self {
            state_change: client.backend_start,
            client: client.clone(),
            database: database.to_owned(),
            state: BackendState::Idle,
            query: Arc::from(""),
            xact_start: None,
            query_start: None,
        }
    }
}

/// The query as others may see it: its beginning, without passwords.
pub(super) fn shown(query: &Arc<str>) -> Arc<str> {
    let is_whole = query.len() < QUERY_SIZE;
    match without_passwords(beginning(query)) {
        Some(shown) => Arc::from(shown),
        None if is_whole => Arc::clone(query),
        None => Arc::from(beginning(query)),
    }
}

/// As much of a query as is shown. PostgreSQL: `pg_mbcliplen`.
fn beginning(query: &str) -> &str {
    let mut end = query.len().min(QUERY_SIZE - 1);
    while !query.is_char_boundary(end) {
        end -= 1;
    }
    &query[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let long = format!("create role a password '{}'", "x".repeat(QUERY_SIZE));
        assert_eq!(&*shown(&Arc::from(long)), "create role a password '********'");
        let plain: Arc<str> = Arc::from("select 1");
        assert!(Arc::ptr_eq(&shown(&plain), &plain));
    }

    #[test]
    fn a_query_is_cut_between_characters() {
        assert_eq!(beginning("select 1"), "select 1");
        let long = "\u{e4}".repeat(QUERY_SIZE);
        assert_eq!(beginning(&long).len(), QUERY_SIZE - 2);
        assert_eq!(beginning(&"x".repeat(5000)).len(), QUERY_SIZE - 1);
    }
}
