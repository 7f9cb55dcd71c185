//! Reads what is durable of the WAL from the segment files, on whatever thread may wait for a disk.
//!
//! Past the page cache where the file system lets it: a cached page of the block that is being
//! written would slow the next direct write.
//!
//! Not here: what the WAL means.
//!
//! PostgreSQL: `WALRead`, `CheckXLogRemoved` (src/backend/access/transam/xlogreader.c).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;
use walhub_engine::buffer::Buffer;
use walhub_engine::io::BLOCK_LEN;
use walhub_proto::convert::to_usize;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::segment::{SegNo, SegmentSize};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::publish::positions::Shared;

/// Bytes of one read.
const READ_LEN: usize = 256 << 10;
const BLOCK_BYTES: u64 = 4096;

const _: () = assert!(BLOCK_LEN == 4096 && READ_LEN.is_multiple_of(BLOCK_LEN));

/// Reads the WAL of the current timeline and of those it came from.
#[derive(Debug)]
pub struct WalReader {
    wal_dir: PathBuf,
    segment_size: SegmentSize,
    history: TimelineHistory,
    shared: Arc<Shared>,
    file: Option<(SegNo, File)>,
    buf: Buffer,
}

impl WalReader {
    /// Of the segments in `wal_dir`.
    #[must_use]
    pub fn new(
        wal_dir: PathBuf,
        segment_size: SegmentSize,
        history: TimelineHistory,
        shared: Arc<Shared>,
    ) -> Self {
        let mut buf = Buffer::with_capacity(READ_LEN);
        buf.zero_pad_to(READ_LEN);
        Self { wal_dir, segment_size, history, shared, file: None, buf }
    }

    /// Size of the segments.
    #[must_use]
    pub const fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// Where the WAL begins that is there.
    #[must_use]
    pub fn oldest_lsn(&self) -> Lsn {
        self.shared.oldest_lsn.load()
    }

    /// Where the WAL ends that may be read.
    #[must_use]
    pub fn flush_lsn(&self) -> Lsn {
        self.shared.flush_lsn.load()
    }

    /// Some of the WAL from `lsn` on; nothing when it ends there.
    ///
    /// # Errors
    /// When the segment is gone or cannot be read.
    pub fn read(&mut self, lsn: Lsn) -> Result<&[u8], Report> {
        let segno = SegNo::of_start(lsn, self.segment_size);
        let end = self.flush_lsn().min(segno.end(self.segment_size));
        if end <= lsn {
            return Ok(&[]);
        }
        if let Some(report) = self.shared.damaged.refusal(self.timeline_of(segno), segno) {
            return Err(report);
        }
        let read = self.read_block(segno, lsn);
        // A segment may be recycled while it is read: what was read then is not this WAL.
        if segno.start(self.segment_size) < self.oldest_lsn() {
            return Err(removed(&self.file_name(segno)));
        }
        let (skip, count) = read.map_err(|error| self.failed(segno, lsn, &error))?;
        let wanted = to_usize(end - lsn);
        let got = self.buf.get(skip..count).unwrap_or_default();
        if got.is_empty() {
            return Err(self.failed(segno, lsn, &io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(got.get(..wanted).unwrap_or(got))
    }

    /// Reads from the block of `lsn` on; returns where `lsn` is in the buffer, and how much is there.
    fn read_block(&mut self, segno: SegNo, lsn: Lsn) -> io::Result<(usize, usize)> {
        let offset = self.segment_size.offset(lsn);
        let start = offset - offset % BLOCK_BYTES;
        let skip = to_usize(offset - start);
        if self.file.as_ref().is_none_or(|(open, _)| *open != segno) {
            self.file = None;
            self.file = Some((segno, self.open(segno)?));
        }
        let Some((_, file)) = &self.file else { return Ok((0, 0)) };
        Ok((skip, file.read_at(&mut self.buf, start)?))
    }

    fn open(&self, segno: SegNo) -> io::Result<File> {
        let path = self.wal_dir.join(self.file_name(segno));
        let direct = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open is an int");
        let opened = OpenOptions::new().read(true).custom_flags(direct).open(&path);
        match opened {
            // Not every file system can.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(&path),
            opened => opened,
        }
    }

    /// The newest timeline that has WAL in it gives a segment its name. PostgreSQL:
    /// `WalSndSegmentOpen`.
    fn timeline_of(&self, segno: SegNo) -> TimelineId {
        let mut begun = self
            .history
            .entries()
            .iter()
            .filter(|entry| SegNo::of_start(entry.begin, self.segment_size) <= segno);
        begun.next_back().map_or(self.history.tli(), |entry| entry.tli)
    }

    fn file_name(&self, segno: SegNo) -> String {
        segno.file_name(self.timeline_of(segno), self.segment_size)
    }

    fn failed(&self, segno: SegNo, lsn: Lsn, error: &io::Error) -> Report {
        let name = self.file_name(segno);
        if error.kind() == io::ErrorKind::NotFound {
            return removed(&name);
        }
        let text = format!("could not read from WAL segment {name}, LSN {lsn}: {error}");
        Report::error(SqlState::IO_ERROR, text)
    }
}

/// "requested WAL segment has already been removed". PostgreSQL: `WalSndSegmentOpen`.
#[must_use]
pub fn removed(name: &str) -> Report {
    Report::error(
        SqlState::UNDEFINED_FILE,
        format!("requested WAL segment {name} has already been removed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_durable_and_still_there_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let size = SegmentSize::MIN;
        let segment = |byte: u8| vec![byte; usize::try_from(size.bytes()).unwrap()];
        for number in 1..=2_u8 {
            let name = SegNo(u64::from(number)).file_name(TimelineId::FIRST, size);
            std::fs::write(dir.path().join(name), segment(number)).unwrap();
        }
        let shared = Arc::new(Shared::default());
        shared.oldest_lsn.store(Lsn(size.bytes()));
        shared.flush_lsn.store(Lsn(2 * size.bytes() + 5000));
        let history = TimelineHistory::single(TimelineId::FIRST);
        let mut reader = WalReader::new(dir.path().to_owned(), size, history, Arc::clone(&shared));
        let mut next = Lsn(size.bytes() + 5);
        let mut bytes = Vec::new();
        loop {
            let got = reader.read(next).unwrap();
            if got.is_empty() {
                break;
            }
            bytes.extend_from_slice(got);
            next = next + u64::try_from(got.len()).unwrap();
        }
        let mut want = segment(1);
        want.drain(..5);
        want.extend([2; 5000]);
        assert!(bytes == want, "{} bytes", bytes.len());
        shared.oldest_lsn.store(Lsn(2 * size.bytes()));
        let report = reader.read(Lsn(size.bytes())).unwrap_err();
        assert_eq!(
            report.message,
            "requested WAL segment 000000010000000000000001 has already been removed"
        );
        assert_eq!(reader.read(Lsn(2 * size.bytes() + 4999)).unwrap(), [2]);
    }
}
