//! The hub: WAL in, WAL to disk, WAL out. Generic over the engine's `Io`, so that the simulator
//! runs the same code.

pub mod append;
pub mod assemble;
pub mod berths;
pub mod commits;
pub mod core_loop;
pub mod dirty;
pub mod front;
pub mod handle;
pub mod interest;
#[cfg(test)]
mod interleavings;
pub mod jobs;
pub mod latency;
pub mod local;
pub mod messages;
pub mod moves;
pub mod pace;
pub mod recover;
pub mod report;
pub mod segments;
pub mod session;
pub mod settings;
pub mod shared;
pub mod ship_core;
mod sync;
pub mod synced;
pub mod tail;
pub mod verify;
pub mod wal_core;
pub mod wal_reader;
pub mod writer;
