//! `pg_roles`: roles, without their passwords.

use walhub_proto::roles::Role;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{time, uint};

/// `pg_roles`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_roles",
        columns: &[
            ("rolname", Type::Name),
            ("rolsuper", Type::Bool),
            ("rolinherit", Type::Bool),
            ("rolcreaterole", Type::Bool),
            ("rolcreatedb", Type::Bool),
            ("rolcanlogin", Type::Bool),
            ("rolreplication", Type::Bool),
            ("rolconnlimit", Type::Int4),
            ("rolpassword", Type::Text),
            ("rolvaliduntil", Type::TimestampTz),
            ("rolbypassrls", Type::Bool),
            ("rolconfig", Type::TextArray),
            ("oid", Type::Oid),
        ],
        later: &[],
    },
    rows: |ctx| ctx.roles.iter().map(|role| row(role)).collect(),
};

fn row(role: &Role) -> Vec<Value> {
    vec![
        Value::text_of(&role.name),
        Value::Bool(role.superuser),
        Value::Bool(role.inherit),
        Value::Bool(role.create_role),
        Value::Bool(role.create_db),
        Value::Bool(role.login),
        Value::Bool(role.replication),
        Value::Int(i64::from(role.connection_limit)),
        Value::text_of("********"),
        time(role.valid_until),
        Value::Bool(role.bypass_rls),
        Value::Null,
        uint(Some(role.oid)),
    ]
}
