//! Connections: from clients and standbys (`listen`, `session`), who of them may come in (`access`), and to the upstream
//! (`connect`).
//!
//! Not here: what a connection is for (`backend`, `replication`).
//!
//! PostgreSQL: src/backend/libpq, src/backend/postmaster, src/interfaces/libpq/fe-connect.c.

pub mod access;
pub(crate) mod authenticate;
pub mod connect;
pub mod learner;
pub mod listen;
pub mod session;
pub mod stream;
pub(crate) mod tls;
mod unadmitted;
