//! Connections: from clients and standbys (`listen`, `session`), and to the upstream (`connect`).
//!
//! Not here: what a connection is for (`backend`, `replication`).
//!
//! PostgreSQL: src/backend/libpq, src/backend/postmaster, src/interfaces/libpq/fe-connect.c.

pub mod connect;
pub mod listen;
pub mod session;
pub mod stream;
pub(crate) mod tls;
mod unadmitted;
