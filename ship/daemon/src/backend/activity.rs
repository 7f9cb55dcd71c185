//! What each session is doing, as `pg_stat_activity` shows it.
//!
//! PostgreSQL: `pgstat_report_activity` (src/backend/utils/activity/backend_status.c).

use std::sync::Arc;

use walhub_proto::syncrep::SynchronousCommit;
use walhub_proto::time::Timestamp;

use super::context::Context;
use super::views::{address, pid, text, time};
use walhub_hub::api::hub::{Client, Snapshot};
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;

/// Bytes of a query that are shown, the terminating zero counted in. PostgreSQL:
/// `track_activity_query_size`.
const QUERY_SIZE: usize = 1024;

/// What a session does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A statement, or a message of the extended protocol.
    Active,
    /// Nothing, and it is in no transaction block.
    Idle,
    /// Nothing, in a transaction block.
    IdleInTransaction,
    /// Nothing, in one that has failed.
    IdleInFailedTransaction,
}

impl State {
    /// Of the letter of ReadyForQuery.
    pub(super) const fn of_status(status: u8) -> Self {
        match status {
            b'T' => Self::IdleInTransaction,
            b'E' => Self::IdleInFailedTransaction,
            _ => Self::Idle,
        }
    }

    const fn as_str(self) -> &'static str {
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
    pub(super) state: State,
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
            state: State::Idle,
            query: Arc::from(""),
            xact_start: None,
            query_start: None,
        }
    }
}

/// The walreceiver, the walsenders and the SQL sessions.
pub(super) fn stat_activity(ctx: &Context<'_>) -> Rows {
    let snapshot = ctx.snapshot();
    let mut rows: Rows = Vec::new();
    rows.extend(snapshot.wal_receiver.iter().map(|it| row(None, it.pid, "walreceiver")));
    rows.extend(snapshot.wal_senders.iter().map(|sender| {
        let mut values = row(Some(&sender.client), sender.client.pid, "walsender");
        values[BACKEND_XMIN] = Value::or_null(sender.backend_xmin, |xmin| Value::Int(xmin.into()));
        values
    }));
    rows.extend(ctx.sessions.activities().iter().map(|activity| of_session(activity, snapshot)));
    rows
}

/// Places in a row of the view.
const DATNAME: usize = 1;
const XACT_START: usize = 11;
const QUERY_START: usize = 12;
const STATE_CHANGE: usize = 13;
const WAIT_EVENT_TYPE: usize = 14;
const WAIT_EVENT: usize = 15;
const STATE: usize = 16;
const BACKEND_XMIN: usize = 18;
const QUERY: usize = 20;

fn row(client: Option<&Client>, process: u32, kind: &str) -> Vec<Value> {
    let (client_addr, client_port) = client.map_or((Value::Null, Value::Null), address);
    vec![
        Value::Null,
        Value::Null,
        pid(process),
        Value::Null,
        Value::Null,
        text(client.map(|client| &*client.user)),
        text(Some(client.map_or("", |client| &client.application_name))),
        client_addr,
        Value::Null,
        client_port,
        time(client.map(|client| client.backend_start)),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        text(client.map(|_| State::Active.as_str())),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::text_of(""),
        Value::text_of(kind),
    ]
}

fn of_session(activity: &Activity, snapshot: &Snapshot) -> Vec<Value> {
    let mut values = row(Some(&activity.client), activity.client.pid, "client backend");
    values[DATNAME] = Value::text_of(activity.database.as_str());
    values[XACT_START] = time(activity.xact_start);
    values[QUERY_START] = time(activity.query_start);
    values[STATE_CHANGE] = time(Some(activity.state_change));
    values[STATE] = Value::text_of(activity.state.as_str());
    values[QUERY] = Value::text_of(&*activity.query);
    if let Some((kind, event)) = wait_event(activity, snapshot) {
        values[WAIT_EVENT_TYPE] = Value::text_of(kind);
        values[WAIT_EVENT] = Value::text_of(event);
    }
    values
}

/// PostgreSQL: `WAIT_EVENT_SYNC_REP`, `WAIT_EVENT_WAL_SYNC`, `WAIT_EVENT_CLIENT_READ`.
fn wait_event(activity: &Activity, snapshot: &Snapshot) -> Option<(&'static str, &'static str)> {
    if activity.state != State::Active {
        return Some(("Client", "ClientRead"));
    }
    let mut waits = snapshot.sync_waits.iter();
    let wait = waits.find(|wait| wait.pid == activity.client.pid)?;
    Some(match wait.level {
        SynchronousCommit::Local => ("IO", "WALSync"),
        _ => ("IPC", "SyncRep"),
    })
}

/// The query as it is kept.
pub(super) fn clipped(query: &Arc<str>) -> Arc<str> {
    if query.len() < QUERY_SIZE { Arc::clone(query) } else { Arc::from(beginning(query)) }
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
    use super::super::views::relation;
    use super::*;

    #[test]
    fn a_query_is_cut_between_characters() {
        assert_eq!(beginning("select 1"), "select 1");
        let long = "\u{e4}".repeat(QUERY_SIZE);
        assert_eq!(beginning(&long).len(), QUERY_SIZE - 2);
        assert_eq!(beginning(&"x".repeat(5000)).len(), QUERY_SIZE - 1);
    }

    #[test]
    fn the_places_are_those_of_the_views_columns() {
        let columns = relation("pg_catalog", "pg_stat_activity").unwrap().columns;
        let places = [
            (DATNAME, "datname"),
            (XACT_START, "xact_start"),
            (QUERY_START, "query_start"),
            (STATE_CHANGE, "state_change"),
            (WAIT_EVENT_TYPE, "wait_event_type"),
            (WAIT_EVENT, "wait_event"),
            (STATE, "state"),
            (BACKEND_XMIN, "backend_xmin"),
            (QUERY, "query"),
        ];
        assert!(places.iter().all(|(place, name)| columns[*place].0 == *name));
        assert_eq!(row(None, 1, "walreceiver").len(), columns.len());
    }
}
