//! The relations: PostgreSQL 15's columns, in its order and with its types.
//!
//! One file is one view. A live test compares them with a real server, so they cannot drift. psql and others ask a later
//! server for columns that 15 has not: these can be named, and are not part of `*`.
//!
//! PostgreSQL: src/backend/catalog/system_views.sql.

mod auth_members;
mod authid;
mod columns;
mod commit_latency;
mod core_stats;
mod database;
mod group;
mod hba_file_rules;
mod ident_file_mappings;
mod messages;
mod replication_slots;
mod roles;
mod settings;
mod shadow;
mod sql_memory;
mod stat_activity;
mod stat_progress_copy;
mod stat_replication;
mod stat_ssl;
mod stat_wal_receiver;
mod sync_wait;
mod user;

use walhub_sql::env::Relation;
use walhub_sql::value::row::Rows;

pub(super) use self::columns::pid;
use super::context::Context;

/// A relation, and its rows now; each has as many values as there are columns, `later` included.
struct View {
    relation: Relation,
    rows: fn(&Context<'_>) -> Rows,
}

/// Whether its rows are in the WAL: they are read before the query runs.
pub(super) fn is_messages(relation: &Relation) -> bool {
    relation.schema == "walhub" && relation.name == "messages"
}

/// The relation of that name.
pub(super) fn relation(schema: &str, name: &str) -> Option<&'static Relation> {
    relations().find(|relation| relation.schema == schema && relation.name == name)
}

/// Every relation that a statement may name.
pub(super) fn relations() -> impl Iterator<Item = &'static Relation> {
    VIEWS.iter().map(|view| &view.relation)
}

/// How to get the rows of a relation that [`relation`] has given.
pub(super) fn rows_of(relation: &'static Relation) -> fn(&Context<'_>) -> Rows {
    match VIEWS.iter().find(|view| std::ptr::eq(&raw const view.relation, relation)) {
        Some(view) => view.rows,
        None => unreachable!("{} is not of this server", relation.name),
    }
}

static VIEWS: [&View; 21] = [
    &stat_replication::VIEW,
    &stat_wal_receiver::VIEW,
    &replication_slots::VIEW,
    &stat_activity::VIEW,
    &stat_ssl::VIEW,
    &settings::VIEW,
    &database::VIEW,
    &stat_progress_copy::VIEW,
    &messages::VIEW,
    &sync_wait::VIEW,
    &commit_latency::VIEW,
    &sql_memory::VIEW,
    &core_stats::VIEW,
    &hba_file_rules::VIEW,
    &ident_file_mappings::VIEW,
    &authid::VIEW,
    &roles::VIEW,
    &shadow::VIEW,
    &user::VIEW,
    &auth_members::VIEW,
    &group::VIEW,
];
