//! `pg_database`: walhub has no databases, and shows the one that the client has named.

use walhub_hub::api::append::DATABASE;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

use super::View;
use super::columns::uint;
use crate::backend::context::Context;

/// `pg_database`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "pg_catalog",
        name: "pg_database",
        columns: &[
            ("oid", Type::Oid),
            ("datname", Type::Name),
            ("datdba", Type::Oid),
            ("encoding", Type::Int4),
            ("datlocprovider", Type::Char),
            ("datistemplate", Type::Bool),
            ("datallowconn", Type::Bool),
            ("datconnlimit", Type::Int4),
            ("datfrozenxid", Type::Xid),
            ("datminmxid", Type::Xid),
            ("dattablespace", Type::Oid),
            ("datcollate", Type::Text),
            ("datctype", Type::Text),
            ("daticulocale", Type::Text),
            ("datcollversion", Type::Text),
            // aclitem[] in PostgreSQL; always NULL here, and shown alike.
            ("datacl", Type::TextArray),
        ],
        later: &[("datlocale", Type::Text), ("daticurules", Type::Text)],
    },
    rows: database,
};

/// walhub has no databases; a client must name one, and finds the one that it named.
fn database(ctx: &Context<'_>) -> Rows {
    vec![vec![
        uint(Some(DATABASE)),
        Value::text_of(ctx.database),
        Value::Int(10),
        // PG_UTF8.
        Value::Int(6),
        Value::text_of("c"),
        Value::Bool(false),
        Value::Bool(true),
        Value::Int(-1),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::text_of("C"),
        Value::text_of("C"),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ]]
}
