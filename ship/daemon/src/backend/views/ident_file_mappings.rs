//! `pg_ident_file_mappings`: what is in pg_ident.conf now, faults included. It may not be in force yet.
//!
//! PostgreSQL: `fill_ident_line` (src/backend/utils/adt/hbafuncs.c).

use walhub_proto::hba::{MapEntry, Maps};
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::{text, uint};
use crate::backend::context::Context;
use crate::settings::AuthFiles;

/// `pg_ident_file_mappings`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_ident_file_mappings",
        columns: &[
            ("line_number", Type::Int4),
            ("map_name", Type::Text),
            ("sys_name", Type::Text),
            ("pg_username", Type::Text),
            ("error", Type::Text),
        ],
        later: &[("map_number", Type::Int4), ("file_name", Type::Text)],
    },
    rows: ident_file_mappings,
};

fn ident_file_mappings(ctx: &Context<'_>) -> Rows {
    let file = ctx.settings.show("ident_file").unwrap_or_default();
    let entries = Maps::rows(&AuthFiles, &file).unwrap_or_else(|fault| {
        // PostgreSQL fails the statement.
        vec![MapEntry { number: None, file, line: 0, names: None, fault: Some(fault) }]
    });
    entries.iter().map(entry).collect()
}

fn entry(entry: &MapEntry) -> Vec<Value> {
    let name = |at: usize| text(entry.names.as_ref().map(|names| names[at].as_str()));
    vec![
        uint(Some(entry.line).filter(|line| *line > 0)),
        name(0),
        name(1),
        name(2),
        text(entry.fault.as_deref()),
        uint(entry.number),
        Value::text_of(&entry.file),
    ]
}
