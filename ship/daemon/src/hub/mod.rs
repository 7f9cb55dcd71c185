//! The hub: WAL in, WAL to disk, WAL out.

pub mod handle;
