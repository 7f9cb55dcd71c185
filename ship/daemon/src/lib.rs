//! The walhub daemon: joins `walhub-engine`, which moves bytes, to `walhub-proto`, which knows what
//! they mean.
//!
//! `hub` is the data plane, generic over the engine's `Io`; `control` is the control plane on
//! tokio-uring; everything else is what a server needs around them.

#![forbid(unsafe_code)]

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
mod replication;
pub mod server;
pub mod settings;
pub mod signals;
mod strerror;
