//! `pg_authid`: roles, with what is kept of their passwords.

use walhub_proto::roles::Role;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{text, time, uint};

/// `pg_authid`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_authid",
        columns: &[
            ("oid", Type::Oid),
            ("rolname", Type::Name),
            ("rolsuper", Type::Bool),
            ("rolinherit", Type::Bool),
            ("rolcreaterole", Type::Bool),
            ("rolcreatedb", Type::Bool),
            ("rolcanlogin", Type::Bool),
            ("rolreplication", Type::Bool),
            ("rolbypassrls", Type::Bool),
            ("rolconnlimit", Type::Int4),
            ("rolpassword", Type::Text),
            ("rolvaliduntil", Type::TimestampTz),
        ],
        later: &[],
    },
    rows: |ctx| ctx.roles.iter().map(|role| row(role)).collect(),
};

fn row(role: &Role) -> Vec<Value> {
    vec![
        uint(Some(role.oid)),
        Value::text_of(&role.name),
        Value::Bool(role.superuser),
        Value::Bool(role.inherit),
        Value::Bool(role.create_role),
        Value::Bool(role.create_db),
        Value::Bool(role.login),
        Value::Bool(role.replication),
        Value::Bool(role.bypass_rls),
        Value::Int(i64::from(role.connection_limit)),
        text(role.password.as_deref()),
        time(role.valid_until),
    ]
}
