//! `pg_hba_file_rules`: what is in pg_hba.conf now, faults included. It may not be in force yet.
//!
//! PostgreSQL: `fill_hba_line` (src/backend/utils/adt/hbafuncs.c).

use walhub_proto::hba::{Name, Row, Rules};
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{text, uint};
use crate::backend::context::Context;
use crate::settings::AuthFiles;

/// `pg_hba_file_rules`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_hba_file_rules",
        columns: &[
            ("line_number", Type::Int4),
            ("type", Type::Text),
            ("database", Type::TextArray),
            ("user_name", Type::TextArray),
            ("address", Type::Text),
            ("netmask", Type::Text),
            ("auth_method", Type::Text),
            ("options", Type::TextArray),
            ("error", Type::Text),
        ],
        later: &[("rule_number", Type::Int4), ("file_name", Type::Text)],
    },
    rows: hba_file_rules,
};

fn hba_file_rules(ctx: &Context<'_>) -> Rows {
    let show = |name| ctx.settings.show(name).unwrap_or_default();
    let file = show("hba_file");
    match Rules::rows(&AuthFiles, &file, show("ssl") == "on") {
        Ok(rows) => rows.iter().map(line).collect(),
        // PostgreSQL fails the statement.
        Err(fault) => vec![unreadable(&file, &fault)],
    }
}

fn array(values: impl IntoIterator<Item = String>) -> Value {
    Value::Array(values.into_iter().map(Some).collect())
}

fn names(names: &[Name]) -> Value {
    array(names.iter().map(|name| name.text().to_owned()))
}

fn line(row: &Row) -> Vec<Value> {
    let mut values = vec![uint(Some(row.line))];
    match &row.rule {
        Some(rule) => {
            let (address, netmask) = match rule.addresses.as_ref().map(|it| it.shown()) {
                Some((address, netmask)) => (Some(address), netmask),
                None => (None, None),
            };
            let options = Some(rule.options()).filter(|options| !options.is_empty());
            values.extend([
                Value::text_of(rule.connection_type.as_str()),
                names(&rule.databases),
                names(&rule.users),
                text(address.as_deref()),
                text(netmask.as_deref()),
                Value::text_of(rule.method.as_str()),
                Value::or_null(options, array),
            ]);
        }
        None => values.resize_with(8, || Value::Null),
    }
    values.extend([text(row.fault.as_deref()), uint(row.number), Value::text_of(&row.file)]);
    values
}

fn unreadable(file: &str, fault: &str) -> Vec<Value> {
    let mut values: Vec<Value> = (0..8).map(|_| Value::Null).collect();
    values.extend([Value::text_of(fault), Value::Null, Value::text_of(file)]);
    values
}
