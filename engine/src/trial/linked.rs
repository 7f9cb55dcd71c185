//! A write and its fdatasync as two linked operations, submitted in one system call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

use super::{Ring, count, len_u32};

const WRITE_DATA: u64 = 0;
const SYNC_DATA: u64 = 1;

/// Writes blocks of one file, each durable before the next.
///
/// The kernel begins the sync when the write has ended. A write that fails or is short ends the link:
/// its sync is then cancelled and never begins.
pub struct LinkedWriter {
    ring: Ring<Bytes>,
    file: File,
}

/// How both operations ended.
#[derive(Debug)]
pub struct Linked {
    /// How many bytes were written, or why none.
    pub written: io::Result<usize>,
    /// Whether they are durable; ECANCELED when not all of them were written.
    pub synced: io::Result<()>,
}

impl LinkedWriter {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// When there can be none.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { ring: Ring::new()?, file })
    }

    /// Writes `data` at `offset`, flushes it, and waits for both.
    ///
    /// # Errors
    /// When the kernel refuses to take operations; how they ended is in [`Linked`].
    ///
    /// # Panics
    /// If an earlier call returned an error: what is still under way is unknown.
    pub fn write_and_sync(&mut self, data: &Bytes, offset: u64) -> io::Result<Linked> {
        assert!(self.ring.under_way == 0, "an earlier write is still under way");
        self.ring.held = data.clone();
        let fd = types::Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(fd, data.as_ptr(), len_u32(data.len())).offset(offset);
        let write = write.build().flags(squeue::Flags::IO_LINK).user_data(WRITE_DATA);
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
        let sync = sync.build().user_data(SYNC_DATA);
        // SAFETY: the write points into `held`, which is replaced only when nothing is under way.
        unsafe { self.ring.push(&write) };
        // SAFETY: the sync points to no memory.
        unsafe { self.ring.push(&sync) };
        let mut linked = Linked { written: Ok(0), synced: Ok(()) };
        self.ring.wait(2, |_, cqe| match cqe.user_data {
            WRITE_DATA => linked.written = count(cqe.result),
            _ => linked.synced = count(cqe.result).map(drop),
        })?;
        Ok(linked)
    }
}
