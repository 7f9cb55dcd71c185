//! `pg_shadow`: roles that may log in, with what is kept of their passwords.

use walhub_proto::roles::Role;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{text, time, uint};

/// `pg_shadow`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_shadow",
        columns: &[
            ("usename", Type::Name),
            ("usesysid", Type::Oid),
            ("usecreatedb", Type::Bool),
            ("usesuper", Type::Bool),
            ("userepl", Type::Bool),
            ("usebypassrls", Type::Bool),
            ("passwd", Type::Text),
            ("valuntil", Type::TimestampTz),
            ("useconfig", Type::TextArray),
        ],
        later: &[],
    },
    rows: |ctx| ctx.roles.iter().filter(|role| role.login).map(|role| row(role)).collect(),
};

fn row(role: &Role) -> Vec<Value> {
    vec![
        Value::text_of(&role.name),
        uint(Some(role.oid)),
        Value::Bool(role.create_db),
        Value::Bool(role.superuser),
        Value::Bool(role.replication),
        Value::Bool(role.bypass_rls),
        text(role.password.as_deref()),
        time(role.valid_until),
        Value::Null,
    ]
}
