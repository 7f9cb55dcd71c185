//! `pg_shadow`: roles that may log in, with what is kept of their passwords.

use walhub_proto::roles::Role;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{text, time, uint};
use crate::backend::context::Context;

/// `pg_shadow`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation { schema: "pg_catalog", name: "pg_shadow", columns: &COLUMNS, later: &[] },
    rows: |ctx| rows_with(ctx, |role| text(role.password.as_deref())),
};

/// The columns, which `pg_user` has too.
pub(super) const COLUMNS: [(&str, Type); 9] = [
    ("usename", Type::Name),
    ("usesysid", Type::Oid),
    ("usecreatedb", Type::Bool),
    ("usesuper", Type::Bool),
    ("userepl", Type::Bool),
    ("usebypassrls", Type::Bool),
    ("passwd", Type::Text),
    ("valuntil", Type::TimestampTz),
    ("useconfig", Type::TextArray),
];

/// A row for each role that may log in, with what is shown of its password.
pub(super) fn rows_with(ctx: &Context<'_>, password: fn(&Role) -> Value) -> Rows {
    let may_log_in = ctx.roles.iter().filter(|role| role.login);
    may_log_in.map(|role| row(role, password(role))).collect()
}

fn row(role: &Role, password: Value) -> Vec<Value> {
    vec![
        Value::text_of(&role.name),
        uint(Some(role.oid)),
        Value::Bool(role.create_db),
        Value::Bool(role.superuser),
        Value::Bool(role.replication),
        Value::Bool(role.bypass_rls),
        password,
        time(role.valid_until),
        Value::Null,
    ]
}
