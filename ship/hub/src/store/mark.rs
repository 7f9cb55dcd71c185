//! Notes while the server runs how far the WAL is durable: one write of one block, now and then, that
//! nothing waits for.
//!
//! Without it a start-up could not tell a record that was damaged later from the torn end of the WAL, see
//! `crate::store::recover::Damage`.
//!
//! Not here: the layout, and why a note is never wrong (`walhub_proto::recovery`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walhub_engine::buffer::BufferPool;
use walhub_engine::crc::crc32c;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, Gather, Io, Op, OpenMode, Token};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::recovery::DurableMark;
use walhub_proto::time::{Instant, Now};

use crate::store::recover::MARK_FILE;

/// Notes are so far apart at least. What was flushed after the last one and is damaged later is taken for
/// a torn end.
const MARK_INTERVAL: Duration = Duration::from_millis(10);
/// How long not to try again after an error.
const MARK_RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum File {
    Closed,
    Opening,
    Open(FileId),
}

/// What is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable {
    /// Of this cluster.
    pub system_identifier: SystemIdentifier,
    /// Of this timeline, which is the current one.
    pub timeline: TimelineId,
    /// Everything before it.
    pub flush_lsn: Lsn,
}

/// The file of the mark.
#[derive(Debug)]
pub struct Mark {
    /// Of its operations.
    token: Token,
    path: PathBuf,
    direct: bool,
    file: File,
    blocks: BufferPool,
    /// What is to be noted, and what was noted last.
    wanted: Lsn,
    noted: Lsn,
    writing: Option<Lsn>,
    next_at: Instant,
    /// WAL up to here was durable once, and has not come again.
    lost_to: Option<Lsn>,
}

impl Mark {
    /// Of the server in `data_dir`, whose operations have `token`.
    #[must_use]
    pub fn new(token: Token, data_dir: &Path, direct: bool) -> Self {
        Self {
            token,
            path: data_dir.join(MARK_FILE),
            direct,
            file: File::Closed,
            blocks: BufferPool::new(BLOCK_LEN, 1),
            wanted: Lsn::INVALID,
            noted: Lsn::INVALID,
            writing: None,
            next_at: Instant(0),
            lost_to: None,
        }
    }

    /// Takes over what a start-up found: it has noted `flush_lsn`.
    pub fn begin(&mut self, flush_lsn: Lsn, lost_to: Option<Lsn>) {
        (self.wanted, self.noted, self.lost_to) = (flush_lsn, flush_lsn, lost_to);
    }

    /// WAL up to here was durable once, and has not come again.
    #[must_use]
    pub fn lost_to(&self) -> Option<Lsn> {
        self.lost_to
    }

    /// When [`Mark::note`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let is_due =
            self.wanted > self.noted && self.writing.is_none() && self.file != File::Opening;
        is_due.then_some(self.next_at)
    }

    /// Whether an operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writing.is_some() || self.file == File::Opening
    }

    /// Notes that everything in `durable` is, unless that was just done.
    pub fn note<I: Io>(&mut self, io: &mut I, now: Now, durable: &Durable) {
        self.wanted = self.wanted.max(durable.flush_lsn);
        self.lost_to = self.lost_to.filter(|&lost| lost > durable.flush_lsn);
        if self.deadline().is_none_or(|at| at > now.instant) {
            return;
        }
        let File::Open(file) = self.file else {
            self.file = File::Opening;
            let mode = OpenMode { create: true, direct: self.direct };
            return io.submit(self.token, Op::Open { path: self.path.clone(), mode });
        };
        self.next_at = now.instant + MARK_INTERVAL;
        let Some(mut block) = self.blocks.take() else { return };
        let noted = DurableMark {
            system_identifier: durable.system_identifier,
            timeline: durable.timeline,
            flush_lsn: self.wanted,
            lost_to: self.lost_to,
        };
        block.clear();
        block.extend_from_slice(&noted.encode(crc32c));
        let data = Gather::from_iter([block.freeze()]);
        self.writing = Some(self.wanted);
        io.submit(self.token, Op::Write { file, offset: 0, data, durable: false });
    }

    /// Takes the completion of an operation on the file.
    pub fn handle(&mut self, now: Now, result: io::Result<Done>) {
        match result {
            Ok(Done::Opened(file)) => self.file = File::Open(file),
            Ok(Done::Wrote(count)) if count >= BLOCK_LEN => {
                self.noted = self.writing.take().unwrap_or(self.noted);
            }
            result => {
                // A short write may have torn nothing that counts, and will be repeated.
                self.writing = None;
                if self.file == File::Opening {
                    self.file = File::Closed;
                }
                self.next_at = now.instant + MARK_RETRY;
                if let Err(error) = result {
                    tracing::debug!("could not write file \"{}\": {error}", self.path.display());
                }
            }
        }
    }
}
