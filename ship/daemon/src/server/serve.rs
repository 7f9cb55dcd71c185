//! What a connection is for: SQL, or replication commands.
//!
//! Not here: who may come in (`net`).
//!
//! PostgreSQL: `BackendStartup`, `PostgresMain`.

use walhub_proto::wire::startup::ReplicationMode;

use crate::backend::{self, Served};
use crate::net::session::{ClientSession, Ended, Serving, terminated};
use crate::net::stream::Connection;
use crate::replication;

/// Serves a connection that was let in.
pub(crate) fn serve(session: &ClientSession, connection: Connection) -> Serving<'_> {
    match session.mode {
        ReplicationMode::Off => Box::pin(serve_sql(session, connection)),
        ReplicationMode::Physical | ReplicationMode::Database => {
            Box::pin(replication::serve(session, connection))
        }
    }
}

async fn serve_sql(
    session: &ClientSession,
    mut connection: Connection,
) -> (Option<Connection>, Ended) {
    let read = std::mem::take(&mut connection.read);
    let served = backend::serve(&mut connection.stream, read, session.backend_params()).await;
    let ended = match served {
        Ok(Served::Left | Served::Silenced) => Ended::Quietly,
        Ok(Served::Terminated) => terminated(),
        Err(error) => Ended::Io(error),
    };
    (Some(connection), ended)
}
