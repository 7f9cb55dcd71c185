//! The walhub daemon: joins `walhub-engine`, which moves bytes, to `walhub-proto`, which knows what
//! they mean.
//!
//! The data plane is walhub-hub's. Here is the control plane, one thread on tokio-uring: `net` connects, `backend`
//! answers SQL, `replication` answers commands, `server` joins them. Everything else is what a server needs around
//! them. The table in ship/DESIGN.md says which room may import which.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
mod quiet_hub;

pub mod backend;
pub mod cli;
mod clock;
pub mod datadir;
pub mod demo;
pub mod embed;
mod limits;
pub mod logging;
pub mod net;
mod placement;
mod random;
mod replication;
pub mod roles;
pub mod server;
pub mod settings;
pub mod signals;
mod strerror;
