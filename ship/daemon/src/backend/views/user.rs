//! `pg_user`: roles that may log in, without their passwords.

use walhub_proto::roles::Role;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{time, uint};

/// `pg_user`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_user",
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
        Value::text_of("********"),
        time(role.valid_until),
        Value::Null,
    ]
}
