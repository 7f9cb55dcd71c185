//! `pg_stat_activity`: what each session is doing.
//!
//! PostgreSQL: `pg_stat_get_activity` (src/backend/utils/adt/pgstatfuncs.c).

use walhub_hub::api::hub::{Client, Snapshot};
use walhub_proto::syncrep::SynchronousCommit;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{address, pid, text, time, uint};
use crate::backend::activity::{Activity, BackendState};
use crate::backend::context::Context;

/// `pg_stat_activity`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_stat_activity",
        columns: &[
            ("datid", Type::Oid),
            ("datname", Type::Name),
            ("pid", Type::Int4),
            ("leader_pid", Type::Int4),
            ("usesysid", Type::Oid),
            ("usename", Type::Name),
            ("application_name", Type::Text),
            ("client_addr", Type::Inet),
            ("client_hostname", Type::Text),
            ("client_port", Type::Int4),
            ("backend_start", Type::TimestampTz),
            ("xact_start", Type::TimestampTz),
            ("query_start", Type::TimestampTz),
            ("state_change", Type::TimestampTz),
            ("wait_event_type", Type::Text),
            ("wait_event", Type::Text),
            ("state", Type::Text),
            ("backend_xid", Type::Xid),
            ("backend_xmin", Type::Xid),
            ("query_id", Type::Int8),
            ("query", Type::Text),
            ("backend_type", Type::Text),
        ],
        later: &[],
    },
    rows: stat_activity,
};

/// The walreceiver, the walsenders and the SQL sessions.
fn stat_activity(ctx: &Context<'_>) -> Rows {
    let snapshot = ctx.snapshot();
    let mut rows: Rows = Vec::new();
    let receivers = snapshot.wal_receiver.iter();
    rows.extend(receivers.map(|it| seen(ctx, None, row(None, it.pid, "walreceiver"))));
    rows.extend(snapshot.wal_senders.iter().map(|sender| {
        let mut values = row(Some(&sender.client), sender.client.pid, "walsender");
        values[BACKEND_XMIN] = Value::or_null(sender.backend_xmin, |xmin| Value::Int(xmin.into()));
        seen(ctx, Some(&sender.client), values)
    }));
    let activities = ctx.sessions.activities();
    rows.extend(activities.iter().map(|it| seen(ctx, Some(&it.client), of_session(it, snapshot))));
    rows
}

/// The row as the current user sees it. PostgreSQL: `pg_stat_get_activity`.
fn seen(ctx: &Context<'_>, client: Option<&Client>, mut values: Vec<Value>) -> Vec<Value> {
    let owner = client.and_then(|client| ctx.owner_of(client));
    values[USESYSID] = uint(owner);
    if ctx.rights().sees_session_of(owner) {
        return values;
    }
    for hidden in HIDDEN {
        values[hidden] = Value::Null;
    }
    values[QUERY] = Value::text_of("<insufficient privilege>");
    values
}

/// Places in a row of the view.
const DATNAME: usize = 1;
const LEADER_PID: usize = 3;
const USESYSID: usize = 4;
const CLIENT_ADDR: usize = 7;
const CLIENT_HOSTNAME: usize = 8;
const CLIENT_PORT: usize = 9;
const BACKEND_START: usize = 10;
const XACT_START: usize = 11;
const QUERY_START: usize = 12;
const STATE_CHANGE: usize = 13;
const WAIT_EVENT_TYPE: usize = 14;
const WAIT_EVENT: usize = 15;
const STATE: usize = 16;
const BACKEND_XMIN: usize = 18;
const QUERY_ID: usize = 19;
const QUERY: usize = 20;
const BACKEND_TYPE: usize = 21;

/// What others than the user itself and pg_read_all_stats do not see.
const HIDDEN: [usize; 13] = [
    LEADER_PID,
    CLIENT_ADDR,
    CLIENT_HOSTNAME,
    CLIENT_PORT,
    BACKEND_START,
    XACT_START,
    QUERY_START,
    STATE_CHANGE,
    WAIT_EVENT_TYPE,
    WAIT_EVENT,
    STATE,
    QUERY_ID,
    BACKEND_TYPE,
];

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
        text(client.map(|_| BackendState::Active.as_str())),
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
    if activity.state != BackendState::Active {
        return Some(("Client", "ClientRead"));
    }
    let mut waits = snapshot.sync_waits.iter();
    let wait = waits.find(|wait| wait.pid == activity.client.pid)?;
    Some(match wait.level {
        SynchronousCommit::Local => ("IO", "WALSync"),
        _ => ("IPC", "SyncRep"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_of_the_views_columns() {
        let columns = VIEW.relation.columns;
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
            (LEADER_PID, "leader_pid"),
            (USESYSID, "usesysid"),
            (CLIENT_ADDR, "client_addr"),
            (CLIENT_HOSTNAME, "client_hostname"),
            (CLIENT_PORT, "client_port"),
            (BACKEND_START, "backend_start"),
            (QUERY_ID, "query_id"),
            (BACKEND_TYPE, "backend_type"),
        ];
        assert!(places.iter().all(|(place, name)| columns[*place].0 == *name));
        assert_eq!(row(None, 1, "walreceiver").len(), columns.len());
    }
}
