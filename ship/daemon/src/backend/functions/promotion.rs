//! pg_promote.
//!
//! PostgreSQL: `pg_promote` (src/backend/access/transam/xlogfuncs.c).

use super::super::promote::promote;
use super::{HostFunction, function};
use walhub_sql::env::Function;
use walhub_sql::value::Value::{self, Int as I};
use walhub_sql::value::types::Type::{Bool, Int4};

/// The default of `wait_seconds`.
const SECONDS: i64 = 60;

/// In lower case.
pub(super) static FUNCTIONS: &[HostFunction] = &[
    function("pg_promote", &[], Bool, |ctx, _, _| promote(ctx, true, SECONDS)),
    function(
        "pg_promote",
        &[Bool],
        Bool,
        call!(ctx, _, [Value::Bool(wait)] => promote(ctx, *wait, SECONDS)),
    ),
    HostFunction {
        function: Function {
            named: &[("wait", Value::Bool(true)), ("wait_seconds", I(SECONDS))],
            ..Function::host("pg_promote", &[Bool, Int4], Bool)
        },
        call: call!(ctx, _, [Value::Bool(wait), I(seconds)] => promote(ctx, *wait, *seconds)),
    },
];
