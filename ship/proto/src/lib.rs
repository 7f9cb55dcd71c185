//! PostgreSQL's write-ahead log and physical replication protocol, as data and pure state machines.
//!
//! Nothing here can read a clock, a file, a socket or a random number: the crate is `no_std`, so
//! there is nothing to read them with. Machines take `handle_*` inputs and give `poll_*` outputs;
//! WAL bytes come in only by reference, to be checked, and go out as ranges.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod command;
pub mod conninfo;
pub mod convert;
pub mod decode;
pub mod feedback;
pub mod generate;
pub mod hba;
pub mod history;
pub mod lag;
pub mod lsn;
pub mod page;
pub mod password;
pub mod pgoutput;
pub mod progress;
pub mod record;
pub mod recovery;
pub mod retention;
pub mod rmgr;
pub mod roles;
pub mod scram;
pub mod segment;
pub mod slot;
pub mod sqlstate;
pub mod syncrep;
pub mod time;
pub mod walreceiver;
pub mod walsender;
pub mod wire;
