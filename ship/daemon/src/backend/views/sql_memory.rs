//! `walhub.sql_memory`: which sessions hold how much memory.

use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::pid;
use crate::backend::context::Context;
use crate::backend::memory::Usage;

/// `walhub.sql_memory`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "walhub",
        name: "sql_memory",
        columns: &[
            ("pid", Type::Int4),
            ("used_bytes", Type::Int8),
            ("peak_bytes", Type::Int8),
            ("limit_bytes", Type::Int8),
            ("refused", Type::Int8),
        ],
        later: &[],
    },
    rows,
};

/// A row for all sessions together, whose `pid` is NULL, and one for each. Of others' sessions only pg_read_all_stats
/// sees more than that they are there.
fn rows(ctx: &Context<'_>) -> Rows {
    let size = |bytes: usize| Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
    let row = |pid: Value, usage: Usage, limit: Value| {
        let refused = Value::Int(i64::try_from(usage.refused).unwrap_or(i64::MAX));
        vec![pid, size(usage.used), size(usage.peak), limit, refused]
    };
    let memory = ctx.sessions.memory();
    let all = row(Value::Null, memory.usage(), size(memory.limit()));
    let accounts = ctx.sessions.accounts().into_iter();
    let each = accounts.map(|(process, account)| {
        let mut values = row(pid(process), account.usage(), Value::Null);
        if !ctx.rights().sees_session_of(ctx.sessions.user_of(process)) {
            values[1..].fill(Value::Null);
        }
        values
    });
    std::iter::once(all).chain(each).collect()
}
