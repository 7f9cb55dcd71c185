//! Notes while the server runs how far the WAL is durable: one write of one block, now and then, that
//! nothing waits for.
//!
//! Without it a start-up could not tell a record that was damaged later from the torn end of the WAL, see
//! `crate::store::recover::Damage`.
//!
//! Not here: the layout, and why a note is never wrong (`walhub_proto::recovery`).

use std::path::PathBuf;
use std::time::Duration;

use walhub_engine::buffer::BufferPool;
use walhub_engine::crc::crc32c;
use walhub_engine::io::{BLOCK_LEN, Completion, Done, FileId, Gather, Io, Op, OpenMode, Waker};
use walhub_proto::lsn::Lsn;
use walhub_proto::recovery::DurableMark;
use walhub_proto::time::{Instant, Now};

use super::{MARK_TOKEN, WalCore};
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

/// The file of the mark.
#[derive(Debug)]
pub(super) struct Mark {
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
    pub(super) fn new(data_dir: &std::path::Path, direct: bool) -> Self {
        Self {
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
    pub(super) fn begin(&mut self, flush_lsn: Lsn, lost_to: Option<Lsn>) {
        (self.wanted, self.noted, self.lost_to) = (flush_lsn, flush_lsn, lost_to);
    }

    /// WAL up to here was durable once, and has not come again.
    pub(super) fn lost_to(&self) -> Option<Lsn> {
        self.lost_to
    }

    /// When [`WalCore::note_durable`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let is_due =
            self.wanted > self.noted && self.writing.is_none() && self.file != File::Opening;
        is_due.then_some(self.next_at)
    }

    /// Whether an operation is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.writing.is_some() || self.file == File::Opening
    }
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Notes what is durable, unless that was just done.
    pub(super) fn note_durable<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        // What is published: what could not be vouched for is not.
        let flush_lsn = self.config.shared.flush_lsn.load();
        let mark = &mut self.mark;
        mark.wanted = mark.wanted.max(flush_lsn);
        mark.lost_to = mark.lost_to.filter(|&lost| lost > flush_lsn);
        if mark.deadline().is_none_or(|at| at > now.instant) {
            return;
        }
        let (Some(timelines), Some(control)) = (&self.timelines, &self.control) else { return };
        let File::Open(file) = mark.file else {
            mark.file = File::Opening;
            let mode = OpenMode { create: true, direct: mark.direct };
            return io.submit(MARK_TOKEN, Op::Open { path: mark.path.clone(), mode });
        };
        mark.next_at = now.instant + MARK_INTERVAL;
        let Some(mut block) = mark.blocks.take() else { return };
        let noted = DurableMark {
            system_identifier: control.system_identifier,
            timeline: timelines.current,
            flush_lsn: mark.wanted,
            lost_to: mark.lost_to,
        };
        block.clear();
        block.extend_from_slice(&noted.encode(crc32c));
        let data = Gather::from_iter([block.freeze()]);
        mark.writing = Some(mark.wanted);
        io.submit(MARK_TOKEN, Op::Write { file, offset: 0, data, durable: false });
    }

    /// Takes the completion of an operation on the mark's file.
    pub(super) fn handle_mark(&mut self, now: Now, completion: Completion) {
        let mark = &mut self.mark;
        match completion.result {
            Ok(Done::Opened(file)) => mark.file = File::Open(file),
            Ok(Done::Wrote(count)) if count >= BLOCK_LEN => {
                mark.noted = mark.writing.take().unwrap_or(mark.noted);
            }
            result => {
                // A short write may have torn nothing that counts, and will be repeated.
                mark.writing = None;
                if mark.file == File::Opening {
                    mark.file = File::Closed;
                }
                mark.next_at = now.instant + MARK_RETRY;
                if let Err(error) = result {
                    tracing::debug!("could not write file \"{}\": {error}", mark.path.display());
                }
            }
        }
    }
}
