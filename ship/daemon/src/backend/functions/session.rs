//! Functions that say who is connected, and what the server and the session are set to.
//!
//! PostgreSQL: src/backend/utils/adt/misc.c, src/backend/storage/ipc/signalfuncs.c.

use walhub_proto::roles::BOOTSTRAP_SUPERUSER;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::super::context::Context;
use super::super::emit::Prompt;
use super::super::privileges::Signal;
use super::super::views::pid;
use super::{HostFunction, function};
use walhub_sql::failure::{Result, fail, hinted, unsupported};
use walhub_sql::value::Value::{self, Int as I, Text as T};
use walhub_sql::value::types::Type::{Bool, Inet, Int4, Int8, Name, Text, TimestampTz, Void};

fn current_user(ctx: &Context<'_>) -> Result<Value> {
    ctx.user_name(ctx.parameters.users().current()).map(T)
}

/// PostgreSQL: `pg_stat_reset_shared`.
fn reset_shared(ctx: &Context<'_>, target: &str) -> Result<Value> {
    if target != "commit_latency" {
        let message = format!("unrecognized reset target: \"{target}\"");
        let failure = fail(SqlState::INVALID_PARAMETER_VALUE, message);
        return Err(hinted(failure, "Target must be \"commit_latency\"."));
    }
    ctx.act(Prompt::ResetCommitLatency);
    Ok(T(String::new()))
}

fn version(ctx: &Context<'_>) -> Result<Value> {
    let server = ctx.show("server_version")?;
    Ok(T(format!("PostgreSQL {server}, relayed by walhub {}", env!("CARGO_PKG_VERSION"))))
}

/// PostgreSQL: `pg_signal_backend` (src/backend/storage/ipc/signalfuncs.c).
fn signal(ctx: &Context<'_>, pid: i64, signal: Signal) -> Result<Value> {
    let found = u32::try_from(pid).ok().filter(|pid| ctx.sessions.has(*pid));
    match found {
        Some(pid) => {
            // One that nobody has logged in to yet is as a superuser's.
            let owner = ctx.sessions.user_of(pid).unwrap_or(BOOTSTRAP_SUPERUSER);
            ctx.rights().check_signal(owner, signal)?;
            ctx.act(match signal {
                Signal::Cancel => Prompt::CancelBackend(pid),
                Signal::Terminate => Prompt::TerminateBackend(pid),
            });
        }
        None => {
            let message = format!("PID {pid} is not a PostgreSQL backend process");
            ctx.emitter.notice(Report::new(Severity::Warning, SqlState::WARNING, message));
        }
    }
    Ok(Value::Bool(found.is_some()))
}

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function(
        "set_config",
        &[Text, Text, Bool],
        Text,
        call!(ctx, _, [T(name), T(value), Value::Bool(local)] => {
            ctx.emitter.set(name, value, *local);
            Ok(T(value.clone()))
        }),
    ),
    function(
        "pg_cancel_backend",
        &[Int4],
        Bool,
        call!(ctx, _, [I(pid)] => signal(ctx, *pid, Signal::Cancel)),
    ),
    function(
        "pg_terminate_backend",
        &[Int4],
        Bool,
        call!(ctx, _, [I(pid)] => signal(ctx, *pid, Signal::Terminate)),
    ),
    function("pg_reload_conf", &[], Bool, |ctx, _, _| {
        ctx.act(Prompt::Reload);
        Ok(Value::Bool(true))
    }),
    function(
        "pg_stat_reset_shared",
        &[Text],
        Void,
        call!(ctx, _, [T(target)] => reset_shared(ctx, target)),
    ),
    function("version", &[], Text, |ctx, _, _| version(ctx)),
    function("current_setting", &[Text], Text, call!(ctx, _, [T(name)] => ctx.show(name).map(T))),
    function(
        "current_setting",
        &[Text, Bool],
        Text,
        call!(ctx, _, [T(name), Value::Bool(missing_ok)] => {
            ctx.rights().check_setting(name)?;
            match ctx.show_opt(name) {
                None if *missing_ok => Ok(Value::Null),
                _ => ctx.show(name).map(T),
            }
        }),
    ),
    function("current_database", &[], Name, |ctx, _, _| Ok(Value::text_of(ctx.database))),
    function("current_catalog", &[], Name, |ctx, _, _| Ok(Value::text_of(ctx.database))),
    function("current_user", &[], Name, |ctx, _, _| current_user(ctx)),
    function("current_role", &[], Name, |ctx, _, _| current_user(ctx)),
    function("user", &[], Name, |ctx, _, _| current_user(ctx)),
    function("session_user", &[], Name, |ctx, _, _| {
        ctx.user_name(ctx.parameters.users().session()).map(T)
    }),
    // What the client has proved to be, of PostgreSQL 16; nothing where it was not asked.
    function("system_user", &[], Text, |ctx, _, _| {
        Ok(Value::or_null(ctx.parameters.system_user(), Value::text_of))
    }),
    function("pg_backend_pid", &[], Int4, |ctx, _, _| Ok(pid(ctx.client.pid))),
    function("inet_client_addr", &[], Inet, |ctx, _, _| {
        let address = ctx.client.address.map(|address| address.ip().to_canonical().to_string());
        Ok(Value::or_null(address, T))
    }),
    function("inet_client_port", &[], Int4, |ctx, _, _| {
        Ok(Value::or_null(ctx.client.address, |address| I(i64::from(address.port()))))
    }),
    function("now", &[], TimestampTz, |ctx, _, _| Ok(Value::Timestamp(ctx.transaction_start))),
    function("transaction_timestamp", &[], TimestampTz, |ctx, _, _| {
        Ok(Value::Timestamp(ctx.transaction_start))
    }),
    function("current_timestamp", &[], TimestampTz, |ctx, _, _| {
        Ok(Value::Timestamp(ctx.transaction_start))
    }),
    function("statement_timestamp", &[], TimestampTz, |ctx, _, _| {
        Ok(Value::Timestamp(ctx.statement_start))
    }),
    function("clock_timestamp", &[], TimestampTz, |_, _, _| {
        Ok(Value::Timestamp(crate::clock::now()))
    }),
    // Nothing gets an xid before its transaction commits.
    function("txid_current", &[], Int8, |_, _, _| Err(unsupported("txid_current()"))),
    function("pg_current_xact_id", &[], Int8, |_, _, _| Err(unsupported("pg_current_xact_id()"))),
];
