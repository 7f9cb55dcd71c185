//! The control plane: one thread on tokio-uring that listens, authenticates, answers replication
//! commands and SQL, and connects to the upstream.

pub mod connect;
pub mod listen;
mod pump;
pub mod session;
pub mod stream;
