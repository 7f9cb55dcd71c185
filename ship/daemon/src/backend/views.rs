//! The relations: PostgreSQL 15's columns, in its order and with its types.
//!
//! A live test compares them with a real server, so they cannot drift. psql and others ask a later
//! server for columns that 15 has not: these can be named, and are not part of `*`.
//!
//! PostgreSQL: src/backend/catalog/system_views.sql.

use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::time::Timestamp;

use super::context::Context;
use super::interrupts::CopyProgress;
use super::memory;
use super::message_scan;
use super::parameters;
use walhub_hub::api::append::{DATABASE, SyncWaitRow};
use walhub_hub::api::hub::{Client, CoreStatsRow, SlotRow, WalReceiverRow, WalSenderRow};
use walhub_hub::publish::latency::LatencyRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::datetime::Interval;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

/// A relation, and its rows now; each has as many values as there are columns, `later` included.
struct View {
    relation: Relation,
    rows: fn(&Context<'_>) -> Rows,
}

/// Whether its rows are in the WAL: they are read before the query runs.
pub(super) fn is_messages(relation: &Relation) -> bool {
    relation.schema == "walhub" && relation.name == "messages"
}

/// The relation of that name.
pub(super) fn relation(schema: &str, name: &str) -> Option<&'static Relation> {
    relations().find(|relation| relation.schema == schema && relation.name == name)
}

/// Every relation.
pub(super) fn relations() -> impl Iterator<Item = &'static Relation> {
    VIEWS.iter().map(|view| &view.relation)
}

/// How to get the rows of a relation that [`relation`] has given.
pub(super) fn rows_of(relation: &'static Relation) -> fn(&Context<'_>) -> Rows {
    match VIEWS.iter().find(|view| std::ptr::eq(&raw const view.relation, relation)) {
        Some(view) => view.rows,
        None => unreachable!("{} is not of this server", relation.name),
    }
}

static VIEWS: &[View] = &[
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_stat_replication",
            columns: &[
                ("pid", Type::Int4),
                ("usesysid", Type::Oid),
                ("usename", Type::Name),
                ("application_name", Type::Text),
                ("client_addr", Type::Inet),
                ("client_hostname", Type::Text),
                ("client_port", Type::Int4),
                ("backend_start", Type::TimestampTz),
                ("backend_xmin", Type::Xid),
                ("state", Type::Text),
                ("sent_lsn", Type::Lsn),
                ("write_lsn", Type::Lsn),
                ("flush_lsn", Type::Lsn),
                ("replay_lsn", Type::Lsn),
                ("write_lag", Type::Interval),
                ("flush_lag", Type::Interval),
                ("replay_lag", Type::Interval),
                ("sync_priority", Type::Int4),
                ("sync_state", Type::Text),
                ("reply_time", Type::TimestampTz),
            ],
            later: &[],
        },
        rows: |ctx| ctx.snapshot().wal_senders.iter().map(stat_replication).collect(),
    },
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_stat_wal_receiver",
            columns: &[
                ("pid", Type::Int4),
                ("status", Type::Text),
                ("receive_start_lsn", Type::Lsn),
                ("receive_start_tli", Type::Int4),
                ("written_lsn", Type::Lsn),
                ("flushed_lsn", Type::Lsn),
                ("received_tli", Type::Int4),
                ("last_msg_send_time", Type::TimestampTz),
                ("last_msg_receipt_time", Type::TimestampTz),
                ("latest_end_lsn", Type::Lsn),
                ("latest_end_time", Type::TimestampTz),
                ("slot_name", Type::Text),
                ("sender_host", Type::Text),
                ("sender_port", Type::Int4),
                ("conninfo", Type::Text),
            ],
            later: &[],
        },
        rows: |ctx| ctx.snapshot().wal_receiver.iter().map(stat_wal_receiver).collect(),
    },
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_replication_slots",
            columns: &[
                ("slot_name", Type::Name),
                ("plugin", Type::Name),
                ("slot_type", Type::Text),
                ("datoid", Type::Oid),
                ("database", Type::Name),
                ("temporary", Type::Bool),
                ("active", Type::Bool),
                ("active_pid", Type::Int4),
                ("xmin", Type::Xid),
                ("catalog_xmin", Type::Xid),
                ("restart_lsn", Type::Lsn),
                ("confirmed_flush_lsn", Type::Lsn),
                ("wal_status", Type::Text),
                ("safe_wal_size", Type::Int8),
                ("two_phase", Type::Bool),
            ],
            later: &[("failover", Type::Bool), ("synced", Type::Bool)],
        },
        rows: |ctx| ctx.snapshot().slots.iter().map(replication_slot).collect(),
    },
    View {
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
        rows: super::activity::stat_activity,
    },
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_settings",
            columns: &[
                ("name", Type::Text),
                ("setting", Type::Text),
                ("unit", Type::Text),
                ("category", Type::Text),
                ("short_desc", Type::Text),
                ("extra_desc", Type::Text),
                ("context", Type::Text),
                ("vartype", Type::Text),
                ("source", Type::Text),
                ("min_val", Type::Text),
                ("max_val", Type::Text),
                ("enumvals", Type::TextArray),
                ("boot_val", Type::Text),
                ("reset_val", Type::Text),
                ("sourcefile", Type::Text),
                ("sourceline", Type::Int4),
                ("pending_restart", Type::Bool),
            ],
            later: &[],
        },
        rows: |ctx| parameters::all(ctx).into_iter().map(setting).collect(),
    },
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_database",
            columns: &[
                ("oid", Type::Oid),
                ("datname", Type::Name),
                ("datdba", Type::Oid),
                ("encoding", Type::Int4),
                ("datlocprovider", Type::Char),
                ("datistemplate", Type::Bool),
                ("datallowconn", Type::Bool),
                ("datconnlimit", Type::Int4),
                ("datfrozenxid", Type::Xid),
                ("datminmxid", Type::Xid),
                ("dattablespace", Type::Oid),
                ("datcollate", Type::Text),
                ("datctype", Type::Text),
                ("daticulocale", Type::Text),
                ("datcollversion", Type::Text),
                // aclitem[] in PostgreSQL; always NULL here, and shown alike.
                ("datacl", Type::TextArray),
            ],
            later: &[("datlocale", Type::Text), ("daticurules", Type::Text)],
        },
        rows: database,
    },
    View {
        relation: Relation {
            schema: "pg_catalog",
            name: "pg_stat_progress_copy",
            columns: &[
                ("pid", Type::Int4),
                ("datid", Type::Oid),
                ("datname", Type::Name),
                ("relid", Type::Oid),
                ("command", Type::Text),
                ("type", Type::Text),
                ("bytes_processed", Type::Int8),
                ("bytes_total", Type::Int8),
                ("tuples_processed", Type::Int8),
                ("tuples_excluded", Type::Int8),
            ],
            later: &[],
        },
        rows: |ctx| ctx.sessions.copies().into_iter().map(progress_copy).collect(),
    },
    View {
        relation: Relation {
            schema: "walhub",
            name: "messages",
            columns: message_scan::COLUMNS,
            later: &[],
        },
        rows: |ctx| message_scan::scan(ctx).rows,
    },
    View {
        relation: Relation {
            schema: "walhub",
            name: "sync_wait",
            columns: &[
                ("pid", Type::Int4),
                ("level", Type::Text),
                ("lsn", Type::Lsn),
                ("waiting", Type::Interval),
                ("standby", Type::Text),
            ],
            later: &[],
        },
        rows: sync_wait,
    },
    View {
        relation: Relation {
            schema: "walhub",
            name: "commit_latency",
            columns: &[
                ("stage", Type::Text),
                ("count", Type::Int8),
                ("p50", Type::Interval),
                ("p99", Type::Interval),
                ("p99_9", Type::Interval),
                ("max", Type::Interval),
            ],
            later: &[],
        },
        rows: |ctx| ctx.hub.commit_latency().into_iter().map(commit_latency).collect(),
    },
    View {
        relation: Relation {
            schema: "walhub",
            name: "sql_memory",
            columns: memory::COLUMNS,
            later: &[],
        },
        rows: memory::rows,
    },
    View {
        relation: Relation {
            schema: "walhub",
            name: "core_stats",
            columns: &[
                ("core", Type::Int4),
                ("sessions", Type::Int4),
                ("rounds", Type::Int8),
                ("rounds_put_off", Type::Int8),
                ("sends", Type::Int8),
                ("tail_bytes", Type::Int8),
                ("zerocopy_bytes", Type::Int8),
                ("sendfile_bytes", Type::Int8),
                ("read_bytes", Type::Int8),
                ("moved_in", Type::Int8),
            ],
            later: &[],
        },
        rows: |ctx| ctx.hub.core_stats().into_iter().map(core_stats).collect(),
    },
];

fn lsn(lsn: Option<Lsn>) -> Value {
    Value::or_null(lsn.and_then(Lsn::valid), Value::Lsn)
}

pub(super) fn time(time: Option<Timestamp>) -> Value {
    Value::or_null(time, Value::Timestamp)
}

fn uint(value: Option<u32>) -> Value {
    Value::or_null(value, |value| Value::Int(i64::from(value)))
}

pub(super) fn text(value: Option<&str>) -> Value {
    Value::or_null(value, Value::text_of)
}

/// A process id, which is int4 in PostgreSQL.
pub(super) fn pid(pid: u32) -> Value {
    Value::Int(i64::from(pid & 0x7FFF_FFFF))
}

fn timeline(tli: Option<TimelineId>) -> Value {
    Value::or_null(tli, |tli| Value::Int(i64::from(tli.to_u32().cast_signed())))
}

/// `client_addr` and `client_port`; a unix socket has no address and port -1.
pub(super) fn address(client: &Client) -> (Value, Value) {
    client.address.map_or((Value::Null, Value::Int(-1)), |address| {
        (
            Value::text_of(address.ip().to_canonical().to_string()),
            Value::Int(i64::from(address.port())),
        )
    })
}

/// PostgreSQL: `pg_stat_get_wal_senders`.
fn stat_replication(sender: &WalSenderRow) -> Vec<Value> {
    let (client_addr, client_port) = address(&sender.client);
    let lag = |us: Option<i64>| Value::or_null(us, |us| Value::Interval(Interval::from_micros(us)));
    vec![
        pid(sender.client.pid),
        // walhub's users are in a file, and have no OID.
        Value::Null,
        Value::text_of(&sender.client.user),
        Value::text_of(&sender.client.application_name),
        client_addr,
        Value::Null,
        client_port,
        Value::Timestamp(sender.client.backend_start),
        uint(sender.backend_xmin),
        Value::text_of(sender.state),
        lsn(sender.sent_lsn),
        lsn(sender.write_lsn),
        lsn(sender.flush_lsn),
        lsn(sender.replay_lsn),
        lag(sender.write_lag_us),
        lag(sender.flush_lag_us),
        lag(sender.replay_lag_us),
        Value::Int(i64::from(sender.sync_priority)),
        Value::text_of(sender.sync_state),
        time(sender.reply_time),
    ]
}

/// PostgreSQL: `pg_stat_get_wal_receiver`.
fn stat_wal_receiver(receiver: &WalReceiverRow) -> Vec<Value> {
    vec![
        pid(receiver.pid),
        Value::text_of(receiver.status),
        lsn(receiver.receive_start_lsn),
        timeline(receiver.receive_start_tli),
        lsn(receiver.written_lsn),
        lsn(receiver.flushed_lsn),
        timeline(receiver.received_tli),
        time(receiver.last_msg_send_time),
        time(receiver.last_msg_receipt_time),
        lsn(receiver.latest_end_lsn),
        time(receiver.latest_end_time),
        text(receiver.slot_name.as_deref()),
        text(receiver.sender_host.as_deref()),
        Value::or_null(receiver.sender_port, |port| Value::Int(i64::from(port))),
        Value::text_of(&receiver.conninfo),
    ]
}

/// PostgreSQL: `pg_get_replication_slots`.
fn replication_slot(slot: &SlotRow) -> Vec<Value> {
    let logical = slot.logical.as_ref();
    vec![
        Value::text_of(&slot.slot_name),
        text(logical.map(|logical| &*logical.plugin)),
        Value::text_of(if logical.is_some() { "logical" } else { "physical" }),
        uint(logical.map(|logical| logical.database_oid)),
        text(logical.map(|logical| &*logical.database)),
        Value::Bool(slot.temporary),
        Value::Bool(slot.active_pid.is_some()),
        Value::or_null(slot.active_pid, pid),
        uint(slot.xmin),
        uint(slot.catalog_xmin),
        lsn(slot.restart_lsn),
        lsn(logical.map(|logical| logical.confirmed_flush_lsn)),
        text(slot.wal_status),
        Value::or_null(slot.safe_wal_size, Value::Int),
        Value::Bool(logical.is_some_and(|logical| logical.two_phase)),
        Value::Bool(logical.is_some_and(|logical| logical.failover)),
        // Slots are made here, and not brought over from a primary.
        Value::Bool(false),
    ]
}

fn setting(row: super::SettingRow) -> Vec<Value> {
    let optional = |value: Option<String>| Value::or_null(value, Value::Text);
    vec![
        Value::Text(row.name),
        optional(row.setting),
        optional(row.unit),
        Value::Text(row.category),
        Value::Text(row.short_desc),
        Value::Null,
        Value::Text(row.context),
        Value::Text(row.vartype),
        Value::Text(row.source),
        optional(row.min_val),
        optional(row.max_val),
        Value::or_null(row.enumvals, |values| Value::Array(values.into_iter().map(Some).collect())),
        optional(row.boot_val),
        optional(row.reset_val),
        Value::Null,
        Value::Null,
        Value::Bool(row.pending_restart),
    ]
}

/// PostgreSQL: `pg_stat_progress_copy` over `pg_stat_get_progress_info`.
fn progress_copy((process, progress): (u32, CopyProgress)) -> Vec<Value> {
    let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    vec![
        pid(process),
        uint(Some(DATABASE)),
        Value::text_of(progress.database),
        // walhub.messages has no OID.
        Value::Int(0),
        Value::text_of("COPY FROM"),
        Value::text_of("PIPE"),
        count(progress.bytes_processed),
        Value::Int(0),
        count(progress.tuples_processed),
        Value::Int(0),
    ]
}

/// Who waits for its commit, how long, and for whom.
fn sync_wait(ctx: &Context<'_>) -> Rows {
    let now = crate::clock::now();
    let row = |wait: &SyncWaitRow| {
        let waiting = now.0.saturating_sub(wait.since.0).max(0);
        vec![
            pid(wait.pid),
            Value::text_of(wait.level.as_str()),
            Value::Lsn(wait.lsn),
            Value::Interval(Interval::from_micros(waiting)),
            text(wait.standby.as_deref()),
        ]
    };
    ctx.snapshot().sync_waits.iter().map(row).collect()
}

/// What a ship core has sent, and by which path.
fn core_stats(row: CoreStatsRow) -> Vec<Value> {
    let numbers = [row.core, row.sessions, row.rounds, row.rounds_put_off, row.sends];
    let bytes = [row.tail_bytes, row.zerocopy_bytes, row.sendfile_bytes, row.read_bytes];
    let value = |number| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    numbers.into_iter().chain(bytes).chain([row.moved_in]).map(value).collect()
}

/// Where commits' time goes.
fn commit_latency(row: LatencyRow) -> Vec<Value> {
    let time = |micros: Option<u64>| {
        let micros = micros.and_then(|micros| i64::try_from(micros).ok());
        micros.map_or(Value::Null, |micros| Value::Interval(Interval::from_micros(micros)))
    };
    let [half, most, nearly_all] = row.quantiles_us.map_or([None; 3], |all| all.map(Some));
    vec![
        Value::text_of(row.stage),
        Value::Int(i64::try_from(row.count).unwrap_or(i64::MAX)),
        time(half),
        time(most),
        time(nearly_all),
        time(row.max_us),
    ]
}

/// walhub has no databases; a client must name one, and finds the one that it named.
fn database(ctx: &Context<'_>) -> Rows {
    vec![vec![
        uint(Some(DATABASE)),
        Value::text_of(ctx.database),
        Value::Int(10),
        // PG_UTF8.
        Value::Int(6),
        Value::text_of("c"),
        Value::Bool(false),
        Value::Bool(true),
        Value::Int(-1),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::text_of("C"),
        Value::text_of("C"),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ]]
}
