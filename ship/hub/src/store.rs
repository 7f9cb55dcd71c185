//! WAL here: in memory, on its way to the disk, in files, and found again after a crash.

pub mod control_file;
pub mod jobs;
pub mod local;
pub mod mark;
pub mod recover;
pub mod segments;
pub mod tail;
pub mod verify;
pub mod wal_reader;
pub mod writer;
