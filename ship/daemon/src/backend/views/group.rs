//! `pg_group`: roles that may not log in, and their members.

use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::uint;
use crate::backend::context::Context;

/// `pg_group`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_group",
        columns: &[("groname", Type::Name), ("grosysid", Type::Oid), ("grolist", Type::OidArray)],
        later: &[],
    },
    rows,
};

fn rows(ctx: &Context<'_>) -> Rows {
    let groups = ctx.roles.iter().filter(|role| !role.login);
    let row = |(oid, name): (u32, &String)| {
        let members = ctx.roles.memberships().iter().filter(|it| it.role == oid);
        let members = members.map(|it| Some(it.member.to_string())).collect();
        vec![Value::text_of(name), uint(Some(oid)), Value::Array(members)]
    };
    groups.map(|role| row((role.oid, &role.name))).collect()
}
