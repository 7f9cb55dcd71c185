//! The hub: WAL in, WAL to disk, WAL out. Generic over the engine's `Io`, so that the simulator
//! runs the same code.

#![forbid(unsafe_code)]

pub mod api;
pub mod assemble;
pub mod core_loop;
mod intake;
pub mod mail;
mod policy;
pub mod publish;
pub mod role;
pub mod serve;
pub mod store;
pub mod wal_core;
