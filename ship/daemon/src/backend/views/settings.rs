//! `pg_settings`.

use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

use super::View;
use crate::backend::SettingRow;
use crate::backend::parameters;

/// `pg_settings`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_settings",
        columns: &[
            ("name", Type::Text),
            ("setting", Type::Text),
            ("unit", Type::Text),
            ("category", Type::Text),
            ("short_desc", Type::Text),
            ("extra_desc", Type::Text),
            ("context", Type::Text),
            ("vartype", Type::Text),
            ("source", Type::Text),
            ("min_val", Type::Text),
            ("max_val", Type::Text),
            ("enumvals", Type::TextArray),
            ("boot_val", Type::Text),
            ("reset_val", Type::Text),
            ("sourcefile", Type::Text),
            ("sourceline", Type::Int4),
            ("pending_restart", Type::Bool),
        ],
        later: &[],
    },
    rows: |ctx| parameters::all(ctx).into_iter().map(setting).collect(),
};

fn setting(row: SettingRow) -> Vec<Value> {
    let optional = |value: Option<String>| Value::or_null(value, Value::Text);
    vec![
        Value::Text(row.name),
        optional(row.setting),
        optional(row.unit),
        Value::Text(row.category),
        Value::Text(row.short_desc),
        Value::Null,
        Value::Text(row.context),
        Value::Text(row.vartype),
        Value::Text(row.source),
        optional(row.min_val),
        optional(row.max_val),
        Value::or_null(row.enumvals, |values| Value::Array(values.into_iter().map(Some).collect())),
        optional(row.boot_val),
        optional(row.reset_val),
        Value::Null,
        Value::Null,
        Value::Bool(row.pending_restart),
    ]
}
