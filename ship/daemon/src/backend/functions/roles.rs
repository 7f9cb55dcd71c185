//! Functions about roles.
//!
//! PostgreSQL: `pg_has_role`, `pg_get_userbyid` (src/backend/utils/adt/acl.c, ruleutils.c).

use walhub_proto::roles::Roles;
use walhub_proto::sqlstate::SqlState;

use super::super::context::Context;
use super::{HostFunction, function};
use walhub_sql::failure::{Result, fail};
use walhub_sql::value::Value::{self, Int as I, Text as T};
use walhub_sql::value::types::Type::{Bool, Name, Oid, Text};

fn oid_of(ctx: &Context<'_>, name: &str) -> Result<u32> {
    ctx.roles
        .get(name)
        .map(|role| role.oid)
        .ok_or_else(|| fail(SqlState::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist")))
}

/// An OID as an argument; one that is no role's is nobody's.
fn oid(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

/// Whether a role has one of those privileges of another. PostgreSQL: `pg_role_aclcheck`.
fn has_role(ctx: &Context<'_>, user: u32, role: u32, privileges: &str) -> Result<Value> {
    let mut has_any = false;
    for privilege in privileges.split(',').map(str::trim_ascii) {
        let asked: fn(&Roles, u32, u32) -> bool = match &*privilege.to_ascii_uppercase() {
            "USAGE" => Roles::has_privs_of,
            "MEMBER" => Roles::is_member_of,
            "USAGE WITH GRANT OPTION"
            | "USAGE WITH ADMIN OPTION"
            | "MEMBER WITH GRANT OPTION"
            | "MEMBER WITH ADMIN OPTION" => Roles::is_admin_of,
            _ => {
                let message = format!("unrecognized privilege type: \"{privilege}\"");
                return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
            }
        };
        has_any |= asked(ctx.roles, user, role);
    }
    Ok(Value::Bool(has_any))
}

fn current(ctx: &Context<'_>) -> u32 {
    ctx.rights().user
}

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function(
        "pg_get_userbyid",
        &[Oid],
        Name,
        call!(ctx, _, [I(id)] => {
            let role = ctx.roles.by_oid(oid(*id));
            Ok(T(role.map_or_else(|| format!("unknown (OID={id})"), |role| role.name.clone())))
        }),
    ),
    function(
        "pg_has_role",
        &[Name, Name, Text],
        Bool,
        call!(ctx, _, [T(user), T(role), T(privilege)] => {
            has_role(ctx, oid_of(ctx, user)?, oid_of(ctx, role)?, privilege)
        }),
    ),
    function(
        "pg_has_role",
        &[Name, Oid, Text],
        Bool,
        call!(ctx, _, [T(user), I(role), T(privilege)] => {
            has_role(ctx, oid_of(ctx, user)?, oid(*role), privilege)
        }),
    ),
    function(
        "pg_has_role",
        &[Oid, Name, Text],
        Bool,
        call!(ctx, _, [I(user), T(role), T(privilege)] => {
            has_role(ctx, oid(*user), oid_of(ctx, role)?, privilege)
        }),
    ),
    function(
        "pg_has_role",
        &[Oid, Oid, Text],
        Bool,
        call!(ctx, _, [I(user), I(role), T(privilege)] => {
            has_role(ctx, oid(*user), oid(*role), privilege)
        }),
    ),
    function(
        "pg_has_role",
        &[Name, Text],
        Bool,
        call!(ctx, _, [T(role), T(privilege)] => {
            has_role(ctx, current(ctx), oid_of(ctx, role)?, privilege)
        }),
    ),
    function(
        "pg_has_role",
        &[Oid, Text],
        Bool,
        call!(ctx, _, [I(role), T(privilege)] => has_role(ctx, current(ctx), oid(*role), privilege)),
    ),
];
