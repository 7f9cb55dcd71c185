//! `pg_auth_members`: which role is a member of which.

use walhub_proto::roles::Membership;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::uint;

/// `pg_auth_members`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_auth_members",
        columns: &[
            ("roleid", Type::Oid),
            ("member", Type::Oid),
            ("grantor", Type::Oid),
            ("admin_option", Type::Bool),
        ],
        later: &[],
    },
    rows: |ctx| ctx.roles.memberships().iter().map(row).collect(),
};

fn row(it: &Membership) -> Vec<Value> {
    let oid = |oid| uint(Some(oid));
    vec![oid(it.role), oid(it.member), oid(it.grantor), Value::Bool(it.admin_option)]
}
