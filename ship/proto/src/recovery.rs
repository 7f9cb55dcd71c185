//! Start-up: from what lies on disk to where the WAL ends.
//!
//! One table over the control file, the segments and the timeline histories gives a
//! [`RecoveryPlan`]; [`EndOfWal`] carries it out on the bytes it is handed. Nothing after the last
//! valid record is trusted, and nothing that was durable may be missing.
//!
//! Not here: reading files, repairing anything.
//!
//! PostgreSQL: `XLogFileReadAnyTLI`, `InitWalRecovery`
//! (src/backend/access/transam/xlogrecovery.c).

mod control;
mod end_of_wal;
mod facts;
mod mark;

pub use control::{
    CONTROL_COPY_LEN, ControlFile, ControlFileError, ControlSlot, SERVER_VERSION_BYTES_MAX,
};
pub use end_of_wal::{EndOfWal, ReadWant, StopReason, WalEnd};
pub use mark::{DurableMark, MARK_LEN};

pub use crate::rmgr::counters::CheckpointSeen;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::convert::to_u64;
use crate::history::{HistoryEntry, TimelineHistory};
use crate::lsn::{Lsn, TimelineId};
use crate::page::{PAGE_BYTES, header_len};
use crate::record::WalViolation;
use crate::segment::{SegNo, SegmentSize};

/// A segment's file, found in `pg_wal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundSegment {
    /// Timeline in its name.
    pub tli: TimelineId,
    /// Number in its name.
    pub segno: SegNo,
    /// How many bytes the file has.
    pub len: u64,
}

/// A part of the WAL to read, in one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentPart {
    /// Timeline in the file's name.
    pub tli: TimelineId,
    /// Number in the file's name.
    pub segno: SegNo,
    /// End of what the file holds of this history: the segment's end, the end of a short file, or
    /// the position where the file's timeline was left.
    pub end: Lsn,
}

/// What to do at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryPlan {
    /// Nothing is there: the hub has never met an upstream.
    Fresh,
    /// The hub has met its upstream, but never made any WAL durable: begin at `start`.
    NoWal {
        /// Timeline to begin on.
        timeline: TimelineId,
        /// The position to begin a new stream at.
        start: Lsn,
    },
    /// Read the WAL to find its end.
    Scan(ScanPlan),
}

/// How to find the end of the WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPlan {
    /// The timelines that lead to the control file's.
    pub history: TimelineHistory,
    /// Where to begin: the start of a record or of a page.
    pub start: Lsn,
    /// What to read, without a gap, from the file that holds `start` on.
    pub parts: Vec<SegmentPart>,
    /// What must be reached: this much was durable.
    pub bound: Lsn,
    /// Where the WAL begins that can be served: the start of the run of segments up to `start`, or
    /// where the hub began, if that is later.
    pub oldest_lsn: Lsn,
}

/// Why the hub must not start on this directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoveryError {
    /// There are segments, but no control file says whose.
    ControlFileMissing {
        /// The oldest of them.
        found: FoundSegment,
        /// How it is named.
        segment_size: SegmentSize,
    },
    /// A segment that holds durable WAL is gone.
    SegmentMissing {
        /// Timeline that it would be on.
        tli: TimelineId,
        /// The segment that is missing.
        segno: SegNo,
        /// The size that the cluster's segments have.
        segment_size: SegmentSize,
        /// Up to where WAL is known to have been durable.
        bound: Lsn,
    },
    /// WAL that was durable does not read as valid any more.
    Damaged {
        /// Timeline in the name of the file.
        tli: TimelineId,
        /// Number in the name of the file.
        segno: SegNo,
        /// The size that the cluster's segments have.
        segment_size: SegmentSize,
        /// Where valid WAL ends.
        end: Lsn,
        /// Up to where WAL is known to have been durable.
        bound: Lsn,
        /// Why it ends there.
        reason: StopReason,
    },
}

impl RecoveryError {
    /// The file that is missing or damaged, or found where there should be none.
    #[must_use]
    pub fn file_name(&self) -> String {
        match *self {
            Self::ControlFileMissing { found, segment_size } => {
                found.segno.file_name(found.tli, segment_size)
            }
            Self::SegmentMissing { tli, segno, segment_size, .. }
            | Self::Damaged { tli, segno, segment_size, .. } => segno.file_name(tli, segment_size),
        }
    }

    /// The rule that damaged WAL breaks, when it is one.
    #[must_use]
    pub const fn violation(&self) -> Option<&WalViolation> {
        match self {
            Self::Damaged { reason: StopReason::Violation(violation), .. } => Some(violation),
            Self::Damaged { .. }
            | Self::SegmentMissing { .. }
            | Self::ControlFileMissing { .. } => None,
        }
    }
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file_name();
        match self {
            Self::ControlFileMissing { .. } => {
                write!(f, "could not find the control file, but WAL segment {file} exists")
            }
            Self::SegmentMissing { bound, .. } => {
                write!(f, "requested WAL segment {file} is missing: WAL up to {bound} was durable")
            }
            Self::Damaged { end, bound, reason, .. } => {
                write!(
                    f,
                    "WAL that was durable is damaged: segment {file}, valid up to {end}, \
                     durable up to {bound}: {reason}"
                )?;
                match reason.numbers() {
                    Some(numbers) => write!(f, " ({numbers})"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Decides what to do at start.
///
/// The table, by control file and segments:
///
/// | control file | segments | |
/// |---|---|---|
/// | none | none | [`RecoveryPlan::Fresh`] |
/// | none | some | [`RecoveryError::ControlFileMissing`] |
/// | nothing durable | that of `start_lsn` absent | [`RecoveryPlan::NoWal`] |
/// | nothing durable | that of `start_lsn` there | scan from `start_lsn` |
/// | durable WAL | from the last record to its end there | scan from the last record |
/// | durable WAL | the one where it ends there | scan from that segment's start |
/// | durable WAL | the one where it ends absent | [`RecoveryError::SegmentMissing`] |
///
/// `segment_size` names the segments found when there is no control file. Segments of timelines
/// that do not lead to the control file's are left alone, as `XLogFileReadAnyTLI` does.
///
/// # Errors
/// When the hub must not start.
pub fn plan(
    control: Option<&ControlFile>,
    segments: &[FoundSegment],
    histories: &[TimelineHistory],
    segment_size: SegmentSize,
) -> Result<RecoveryPlan, RecoveryError> {
    let Some(control) = control else {
        let oldest = segments.iter().min_by_key(|found| (found.segno, found.tli));
        return oldest.map_or(Ok(RecoveryPlan::Fresh), |&found| {
            Err(RecoveryError::ControlFileMissing { found, segment_size })
        });
    };
    let timeline = control.timeline;
    // Without its file a timeline has no parents. PostgreSQL: readTimeLineHistory.
    let history = histories.iter().find(|history| history.tli() == timeline);
    let history = history.cloned().unwrap_or_else(|| TimelineHistory::single(timeline));
    let disk = Disk { segments, history: &history, size: control.segment_size };

    let Some(start) = scan_start(control, &disk)? else {
        return Ok(RecoveryPlan::NoWal { timeline, start: control.start_lsn });
    };
    let first = SegNo::of_start(start, disk.size);
    let parts = disk.run_from(first);
    let oldest_lsn = disk.oldest_before(first).start(disk.size).max(control.start_lsn);
    Ok(RecoveryPlan::Scan(ScanPlan { start, parts, bound: control.flush_lsn, oldest_lsn, history }))
}

/// Where to begin to read; `None` when there is nothing to read and need not be.
fn scan_start(control: &ControlFile, disk: &Disk<'_>) -> Result<Option<Lsn>, RecoveryError> {
    let size = disk.size;
    if control.flush_lsn <= control.start_lsn {
        let start = boundary(control.start_lsn, size);
        return Ok(disk.part(SegNo::of_start(start, size)).map(|_| start));
    }
    let last = SegNo::of_end(control.flush_lsn, size);
    if disk.part(last).is_none() {
        return Err(RecoveryError::SegmentMissing {
            tli: disk.history.timeline_of(last.start(size)),
            segno: last,
            segment_size: size,
            bound: control.flush_lsn,
        });
    }
    // The last record again, because it may be a segment switch, whose filling is no record.
    let is_there = |record: &Lsn| {
        let mut segno = SegNo::of_start(*record, size);
        while segno < last && disk.part(segno).is_some() {
            segno = segno.next();
        }
        segno == last && boundary(*record, size) == *record
    };
    Ok(Some(control.last_record.filter(is_there).unwrap_or(last.start(size))))
}

/// `lsn`, when a record may start there; else the start of its page.
fn boundary(lsn: Lsn, size: SegmentSize) -> Lsn {
    let page = lsn.align_down(PAGE_BYTES);
    let header = to_u64(header_len(page, size));
    if lsn == lsn.maxalign() && lsn - page >= header { lsn } else { page }
}

/// The segments that are there, as one history sees them.
struct Disk<'a> {
    segments: &'a [FoundSegment],
    history: &'a TimelineHistory,
    size: SegmentSize,
}

impl Disk<'_> {
    /// The file that holds `segno`: of the newest timeline that has one.
    ///
    /// A segment in which timelines meet belongs to all of them; the newer file begins with a copy
    /// of the older. PostgreSQL: `XLogFileReadAnyTLI`.
    fn part(&self, segno: SegNo) -> Option<SegmentPart> {
        self.history.entries().iter().rev().find_map(|entry| {
            let found = self
                .segments
                .iter()
                .find(|found| found.segno == segno && found.tli == entry.tli)?;
            self.touches(entry, segno).then(|| {
                let start = segno.start(self.size);
                let file_end = start + found.len.min(self.size.bytes());
                let end = entry.end.map_or(file_end, |switchpoint| switchpoint.min(file_end));
                SegmentPart { tli: entry.tli, segno, end }
            })
        })
    }

    fn touches(&self, entry: &HistoryEntry, segno: SegNo) -> bool {
        entry.begin < segno.end(self.size)
            && entry.end.is_none_or(|end| end > segno.start(self.size))
    }

    fn run_from(&self, first: SegNo) -> Vec<SegmentPart> {
        let mut parts = Vec::new();
        let mut segno = first;
        while let Some(part) = self.part(segno) {
            parts.push(part);
            segno = segno.next();
        }
        parts
    }

    fn oldest_before(&self, first: SegNo) -> SegNo {
        let mut oldest = first;
        while let Some(before) = oldest.0.checked_sub(1).map(SegNo)
            && self.part(before).is_some()
        {
            oldest = before;
        }
        oldest
    }
}

#[cfg(test)]
mod tests;
