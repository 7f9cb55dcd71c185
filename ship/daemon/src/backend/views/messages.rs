//! `walhub.messages`: the messages that can be read from the WAL.

use walhub_sql::env::Relation;

use super::View;
use crate::backend::message_scan;

/// `walhub.messages`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "walhub",
        name: "messages",
        columns: message_scan::COLUMNS,
        later: &[],
    },
    rows: |ctx| message_scan::scan(ctx).rows,
};
