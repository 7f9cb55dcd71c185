//! Runs PostgreSQL, walhub and what stands in for them: for the live tests, the benchmarks and
//! `walhub demo`.
//!
//! - Launchers: [`program`] finds and prepares programs, [`process`] runs them so that none
//!   outlives its owner, [`log`] keeps what they say; [`postgres`] is a cluster, [`hub`] is
//!   `walhub serve`, [`endpoint`] is where either listens.
//! - Clients: [`client`] asks a server something, [`connection`] carries its messages.
//! - Stand-ins: [`walsender`] is the server side of replication for any WAL; [`source`] sends WAL
//!   that [`wal`] makes from a seed, and [`standby`] receives WAL and checks every byte.
//!
//! Not here: psql and what else only the tests run (`walhub-tests`); the benchmarks' own source and
//! standbys, whose loops are measured (`walhub-bench`). This crate knows the protocol
//! (`walhub-proto`) and has never heard of the hub or the daemon: the daemon depends on it.

#![forbid(unsafe_code)]

pub mod client;
pub mod connection;
pub mod endpoint;
pub mod hub;
pub mod log;
pub mod postgres;
pub mod process;
pub mod program;
pub mod source;
pub mod standby;
pub mod wait;
pub mod wal;
pub mod walsender;

use walhub_engine::clock;
use walhub_proto::time::{Instant, Now, Timestamp};

/// Both clocks, now.
fn now() -> Now {
    Now {
        instant: Instant(clock::monotonic_ns()),
        wall: Timestamp::from_unix_micros(clock::unix_micros()),
    }
}
