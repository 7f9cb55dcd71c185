//! `pg_user`: roles that may log in, without their passwords.

use walhub_sql::env::Relation;
use walhub_sql::value::Value;

use super::{View, shadow};

/// `pg_user`, which is `pg_shadow` with all passwords hidden, as in PostgreSQL.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_user",
        columns: &shadow::COLUMNS,
        later: &[],
    },
    rows: |ctx| shadow::rows_with(ctx, |_| Value::text_of("********")),
};
