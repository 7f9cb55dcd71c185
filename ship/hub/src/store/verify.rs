//! Reads all WAL of a data directory again, record by record, and says what is not as it should be.
//!
//! On a directory that a server runs in, too: what is durable does not change, and a file that was removed
//! or recycled meanwhile is no fault. Past the page cache, so that what standbys read stays in it, and the
//! block that is being written is not slowed down.
//!
//! Not here: what is done about a fault (`shared::DamagedSegments`, `recover`).
//!
//! PostgreSQL has no such thing; `pg_waldump` reads one run of segments, `pg_verifybackup` a backup's.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use walhub_engine::buffer::Buffer;
use walhub_engine::crc::crc32c;
use walhub_engine::files::{OsFs, is_read_failure, reason};
use walhub_engine::io::Fs as _;
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::record::{RecordReader, WalViolation};
use walhub_proto::recovery::ControlFile;
use walhub_proto::segment::{SegNo, SegmentSize};

use crate::publish::positions::DamagedSegment;
use crate::store::recover::{self, RecoverError, read_mark};

/// Bytes of one read.
pub const READ_LEN: usize = 1 << 20;

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Segments of which some was read.
    pub segments: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where the first of them begins, and the end of what was durable.
    pub start: Lsn,
    /// See `start`.
    pub end: Lsn,
}

/// Is told how it goes.
pub trait Watcher {
    /// So many more bytes were read; false ends the verification.
    fn read(&mut self, bytes: usize) -> bool;
    /// A segment is damaged.
    fn fault(&mut self, fault: DamagedSegment);
    /// A segment could not be read from `at` on, which says nothing about what is in it.
    fn unread(&mut self, file: &str, at: Lsn, reason: &str);
}

/// Reads all WAL in `data_dir` up to what was durable when it began; `to` is an earlier end.
///
/// # Errors
/// When it cannot be told what WAL there should be.
pub fn verify(
    data_dir: &Path,
    to: Lsn,
    watcher: &mut impl Watcher,
) -> Result<Verified, RecoverError> {
    let Some(control) = recover::read_control(&OsFs, data_dir)? else {
        return Ok(Verified::default());
    };
    let mark = read_mark(&OsFs, data_dir, &control)?;
    let end = control.flush_lsn.max(mark.map_or(Lsn::INVALID, |mark| mark.flush_lsn)).min(to);
    let wal_dir = data_dir.join("pg_wal");
    let history = recover::read_history(&OsFs, &wal_dir, control.timeline)?;
    let files = files_of(&wal_dir, &control, &history, end)?;
    let mut walk = Walk { control: &control, wal_dir, reader: None, verified: Verified::default() };
    (walk.verified.start, walk.verified.end) = (end, end);
    let Some((&first, _)) = files.first_key_value() else { return Ok(walk.verified) };
    walk.verified.start = first.start(control.segment_size).max(control.start_lsn);
    let last = SegNo::of_end(end, control.segment_size);
    let mut segno = first;
    while segno <= last && walk.verified.start < end {
        let timeline = files.get(&segno).copied();
        if !walk.segment(segno, timeline, &history, end, watcher) {
            break;
        }
        segno = segno.next();
    }
    Ok(walk.verified)
}

/// The segments that hold WAL before `end`, each with the newest timeline that has a file of it.
fn files_of(
    wal_dir: &Path,
    control: &ControlFile,
    history: &TimelineHistory,
    end: Lsn,
) -> io::Result<BTreeMap<SegNo, TimelineId>> {
    let size = control.segment_size;
    let mut files: BTreeMap<SegNo, TimelineId> = BTreeMap::new();
    for entry in OsFs.list(wal_dir)? {
        let Some((timeline, segno)) = SegNo::parse_file_name(&entry.name, size) else { continue };
        let is_of = history.entries().iter().any(|entry| {
            entry.tli == timeline
                && entry.begin < segno.end(size)
                && entry.end.is_none_or(|end| end > segno.start(size))
        });
        if is_of && segno.start(size) < end && segno.end(size) > control.start_lsn {
            let newest = files.entry(segno).or_insert(timeline);
            *newest = timeline.max(*newest);
        }
    }
    Ok(files)
}

struct Walk<'a> {
    control: &'a ControlFile,
    wal_dir: PathBuf,
    /// Follows the WAL as long as it is whole.
    reader: Option<RecordReader>,
    verified: Verified,
}

impl Walk<'_> {
    fn size(&self) -> SegmentSize {
        self.control.segment_size
    }

    /// Reads one segment; false when the watcher has had enough.
    fn segment(
        &mut self,
        segno: SegNo,
        timeline: Option<TimelineId>,
        history: &TimelineHistory,
        end: Lsn,
        watcher: &mut impl Watcher,
    ) -> bool {
        let size = self.size();
        let tli = timeline.unwrap_or_else(|| history.timeline_of(segno.start(size)));
        let path = self.wal_dir.join(segno.file_name(tli, size));
        let fault = match self.read(segno, tli, &path, end, watcher) {
            Ok(go_on) => return go_on,
            Err(fault) => fault,
        };
        self.reader = None;
        let file = segno.file_name(tli, size);
        let Fault { at, reason, kind } = fault;
        match kind {
            FaultKind::Unread => watcher.unread(&file, at, &reason),
            FaultKind::Gone if self.went(segno) => {}
            FaultKind::Gone | FaultKind::Damaged => {
                watcher.fault(DamagedSegment { timeline: tli, segno, file, at, reason });
            }
        }
        true
    }

    /// Whether a segment that has no file went rightly: with all before it, or to another name.
    fn went(&self, segno: SegNo) -> bool {
        let size = self.size();
        let Ok(listing) = OsFs.list(&self.wal_dir) else { return false };
        let names = listing.iter().map(|entry| entry.name.trim_end_matches(".partial"));
        let parsed = names.filter_map(|name| SegNo::parse_file_name(name, size));
        let segments: Vec<SegNo> = parsed.map(|(_, segno)| segno).collect();
        segments.contains(&segno) || segments.iter().all(|other| *other > segno)
    }

    fn read(
        &mut self,
        segno: SegNo,
        timeline: TimelineId,
        path: &Path,
        end: Lsn,
        watcher: &mut impl Watcher,
    ) -> Result<bool, Fault> {
        let size = self.size();
        let start = segno.start(size);
        let failed = |error: io::Error| Fault::of_file(start, &error);
        let mut file = SegmentFile::open(path).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        if len != size.bytes() {
            let reason = format!("file has the wrong size: {len} instead of {}", size.bytes());
            return Err(Fault { at: start, reason, kind: FaultKind::Damaged });
        }
        let control = self.control;
        let reader = self.reader.take().filter(|reader| reader.next_lsn() == start);
        let mut reader = reader.unwrap_or_else(|| {
            // The first WAL of a relay may begin inside a segment, and with a record.
            let from = start.max(control.start_lsn);
            RecordReader::new(from, size, crc32c).with_system_identifier(control.system_identifier)
        });
        reader.set_timeline(timeline);
        self.verified.segments += 1;
        let to = end.min(segno.end(size));
        while reader.next_lsn() < to {
            let next = reader.next_lsn();
            let wanted = to_usize(to - next);
            let bytes =
                file.read(size.offset(next)).map_err(|error| Fault::of_file(next, &error))?;
            let bytes = bytes.get(..wanted).unwrap_or(bytes);
            if bytes.is_empty() {
                let reason = "file ends".to_owned();
                return Err(Fault { at: next, reason, kind: FaultKind::Damaged });
            }
            self.verified.bytes += to_u64(bytes.len());
            if let Err(violation) = reader.feed(bytes) {
                // A file that is recycled while it is read has another name by now.
                if !file.is_at(path) {
                    return Ok(true);
                }
                return Err(Fault::of_wal(&violation));
            }
            if !watcher.read(bytes.len()) {
                return Ok(false);
            }
        }
        self.reader = Some(reader);
        Ok(true)
    }
}

/// What is wrong with a segment.
struct Fault {
    at: Lsn,
    reason: String,
    kind: FaultKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FaultKind {
    /// What is there is not what should be.
    Damaged,
    /// There is no file.
    Gone,
    /// It could not be read.
    Unread,
}

impl Fault {
    fn of_file(at: Lsn, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FaultKind::Gone,
            _ if is_read_failure(error) => FaultKind::Unread,
            _ => FaultKind::Damaged,
        };
        let reason = match kind {
            FaultKind::Gone => "the segment is missing".to_owned(),
            FaultKind::Damaged | FaultKind::Unread => reason(error),
        };
        Self { at, reason, kind }
    }

    fn of_wal(violation: &WalViolation) -> Self {
        let reason = format!("{violation} ({})", violation.numbers());
        Self { at: violation.lsn(), reason, kind: FaultKind::Damaged }
    }
}

/// A segment that is read past the page cache where the file system lets it.
struct SegmentFile {
    file: File,
    buf: Buffer,
}

impl SegmentFile {
    fn open(path: &Path) -> io::Result<Self> {
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).expect("flags of open are an int");
            OpenOptions::new().read(true).custom_flags(flags).open(path)
        };
        // To open a FIFO waits for who opens its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = match open(OFlags::DIRECT | OFlags::NONBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::NONBLOCK)?,
            opened => opened?,
        };
        let mut buf = Buffer::with_capacity(READ_LEN);
        buf.zero_pad_to(READ_LEN);
        Ok(Self { file, buf })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Some of what is there from `offset` on.
    fn read(&mut self, offset: u64) -> io::Result<&[u8]> {
        let skip = offset % 4096;
        let count = self.file.read_at(&mut self.buf, offset - skip)?;
        Ok(self.buf.get(to_usize(skip)..count).unwrap_or_default())
    }

    /// Whether the file still has that name.
    fn is_at(&self, path: &Path) -> bool {
        let inode = |metadata: io::Result<std::fs::Metadata>| {
            metadata.map(|metadata| (metadata.dev(), metadata.ino())).ok()
        };
        inode(self.file.metadata()) == inode(std::fs::metadata(path))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_could_not_be_read_is_not_damaged() {
        let kind = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            Fault::of_file(Lsn(1), &error).kind
        };
        assert_eq!([Errno::IO, Errno::MFILE].map(kind), [FaultKind::Unread; 2]);
        // Not found, and what is no file in its place.
        assert_eq!(kind(Errno::NOENT), FaultKind::Gone);
        assert_eq!([Errno::ISDIR, Errno::LOOP].map(kind), [FaultKind::Damaged; 2]);
        let other = Fault::of_file(Lsn(1), &io::Error::other("not a regular file"));
        assert_eq!((other.kind, other.reason.as_str()), (FaultKind::Damaged, "not a regular file"));
    }
}
