//! Moves bytes: rings, buffers, segment files, sockets, mailboxes, cores, clock.
//!
//! Has never heard of PostgreSQL: it knows file, offset and length, and reports what happened
//! without deciding anything. All of walhub's `unsafe` is here.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod buffer;
pub mod clock;
pub mod cpu;
pub mod crc;
pub mod fatal;
pub mod files;
pub mod io;
pub mod mailbox;
pub mod probe;
pub mod process_limits;
pub mod process_title;
pub mod published;
pub mod trial;
pub mod uring;
