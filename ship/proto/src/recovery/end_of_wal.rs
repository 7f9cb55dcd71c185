//! Finds the end of the WAL by reading it.

use core::fmt;

use super::{ControlFile, RecoveryError, ScanPlan, SegmentPart};
use crate::convert::to_usize;
use crate::lsn::{Lsn, LsnRange, TimelineId};
use crate::page::WalVersion;
use crate::record::{Crc32c, Numbers, RecordReader, WalViolation};
use crate::rmgr::counters::CheckpointSeen;
use crate::rmgr::facts::{FactReader, Facts};
use crate::segment::{SegNo, SegmentSize};

/// Where the next bytes to hand in are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadWant {
    /// Timeline in the file's name.
    pub tli: TimelineId,
    /// Number in the file's name.
    pub segno: SegNo,
    /// Offset in the file.
    pub offset: u64,
    /// How many bytes are of use from there; any smaller number will do.
    pub len_max: u64,
}

/// Why reading stopped. `Display` is for the log, in PostgreSQL's words where it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// What follows is no valid WAL: the usual way for WAL to end.
    Violation(WalViolation),
    /// A file ends before its segment does.
    FileEnd {
        /// Offset where it ends.
        offset: u64,
    },
    /// The record that was under way where reading began ends here. Its beginning is not there to
    /// verify it by, and this much was not known to be durable.
    Unverifiable {
        /// End of the record.
        end: Lsn,
    },
    /// The next segment does not exist.
    SegmentsEnd,
    /// The timeline of the last file was left here, and no file of the next one exists.
    Switchpoint {
        /// The timeline that begins there.
        next: TimelineId,
    },
}

impl StopReason {
    /// What was found and what should have been, when a rule was broken.
    #[must_use]
    pub const fn numbers(&self) -> Option<Numbers<'_>> {
        match self {
            Self::Violation(violation) => Some(violation.numbers()),
            Self::FileEnd { .. }
            | Self::Unverifiable { .. }
            | Self::SegmentsEnd
            | Self::Switchpoint { .. } => None,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => fmt::Display::fmt(violation, f),
            Self::FileEnd { offset } => write!(f, "file ends at offset {offset}"),
            Self::Unverifiable { end } => {
                write!(f, "the record that ends at {end} cannot be verified without its beginning")
            }
            Self::SegmentsEnd => f.write_str("there is no next segment"),
            Self::Switchpoint { next } => write!(f, "there is no segment of timeline {next}"),
        }
    }
}

/// Where the WAL ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalEnd {
    /// Timeline on which it goes on.
    pub timeline: TimelineId,
    /// End of the last valid record: where to go on.
    pub end: Lsn,
    /// Start of the last valid record, when one was read.
    pub last_record: Option<Lsn>,
    /// The end of WAL that is a segment switch's filling. Beyond what was durable it may still be what was
    /// there before the switch: it is to be made zeros, which is what it was.
    pub filling: Option<LsnRange>,
    /// Version of the pages, when one was read.
    pub version: Option<WalVersion>,
    /// What the WAL up to `end` says about the database.
    pub facts: Facts,
    /// The transaction that its last record of any belongs to, when nothing has ended it.
    pub last_open: Option<u32>,
    /// The newest checkpoint record that was read.
    pub checkpoint: Option<CheckpointSeen>,
    /// Why reading stopped there.
    pub reason: StopReason,
    /// How far bytes were looked at: those that ended the WAL lie before.
    pub read_to: Lsn,
}

/// Reads the WAL of a [`ScanPlan`] to its end.
///
/// Ask [`EndOfWal::poll_read`] what to read, hand it to [`EndOfWal::handle_read`], and when nothing
/// more is wanted take the answer from [`EndOfWal::finish`].
#[derive(Clone, Debug)]
pub struct EndOfWal {
    plan: ScanPlan,
    size: SegmentSize,
    reader: RecordReader,
    seen: FactReader,
    /// The control file's.
    known: Facts,
    /// The part being read, an index into the plan's.
    part: usize,
    stopped: Option<StopReason>,
}

impl EndOfWal {
    /// Begins where `plan`, made from `control`, says.
    #[must_use]
    pub fn new(plan: ScanPlan, control: &ControlFile, crc: Crc32c) -> Self {
        let size = control.segment_size;
        let mut reader = RecordReader::new(plan.start, size, crc)
            .with_system_identifier(control.system_identifier)
            .with_filling_checked_to(plan.bound);
        if let Some(version) = control.wal_version {
            reader = reader.with_version(version);
        }
        let known = control.facts();
        let seen = FactReader::new(plan.start, known.clone());
        let mut scan = Self { plan, size, reader, seen, known, part: 0, stopped: None };
        scan.enter_part();
        scan
    }

    /// What to read next; `None` when the end is found.
    #[must_use]
    pub fn poll_read(&self) -> Option<ReadWant> {
        if self.stopped.is_some() {
            return None;
        }
        let part = self.plan.parts.get(self.part)?;
        let next = self.reader.next_lsn();
        Some(ReadWant {
            tli: part.tli,
            segno: part.segno,
            offset: self.size.offset(next),
            len_max: part.end - next,
        })
    }

    /// Takes what was read from where [`EndOfWal::poll_read`] said; no bytes mean that the file
    /// ends there. Bytes beyond `len_max` are not looked at.
    pub fn handle_read(&mut self, bytes: &[u8]) {
        let Some(want) = self.poll_read() else { return };
        if bytes.is_empty() {
            self.stopped = Some(StopReason::FileEnd { offset: want.offset });
            return;
        }
        let len_max = to_usize(want.len_max);
        let useful = len_max.min(bytes.len());
        let (bytes, _) = bytes.split_at(useful);
        if let Err(violation) = self.reader.feed_to(bytes, &mut self.seen) {
            self.stopped = Some(StopReason::Violation(violation));
        } else if useful == len_max {
            self.leave_part();
        }
    }

    /// Goes on to the part that begins where this one ends.
    fn leave_part(&mut self) {
        let Some(&SegmentPart { tli, segno, end }) = self.plan.parts.get(self.part) else { return };
        let left =
            self.plan.history.switchpoint(tli).filter(|(switchpoint, _)| *switchpoint == end);
        if let Some((_, next)) = left
            && self.reader.next_lsn() < segno.end(self.size)
        {
            self.stopped = Some(StopReason::Switchpoint { next });
        } else if end < segno.end(self.size) {
            self.stopped = Some(StopReason::FileEnd { offset: self.size.offset(end) });
        } else {
            self.part += 1;
            self.enter_part();
        }
    }

    fn enter_part(&mut self) {
        match self.plan.parts.get(self.part) {
            None => self.stopped = Some(StopReason::SegmentsEnd),
            Some(part) => {
                self.reader.set_timeline(part.tli);
                if part.end <= self.reader.next_lsn() {
                    self.leave_part();
                }
            }
        }
    }

    /// Where the WAL ends.
    ///
    /// # Errors
    /// [`RecoveryError::Damaged`] when that is before what was durable.
    ///
    /// # Panics
    /// If [`EndOfWal::poll_read`] still wants something.
    pub fn finish(self) -> Result<WalEnd, RecoveryError> {
        let Some(reason) = self.stopped else { panic!("the end of WAL is not found yet") };
        let bound = self.plan.bound;
        let unverifiable = self.reader.unseen_end().filter(|&end| end > bound);
        // A torn write may have left a hole in what no checksum covers, so all of it is fetched
        // again.
        let (end, last_record, seen, reason) = match unverifiable {
            Some(end) => (self.plan.start, None, None, StopReason::Unverifiable { end }),
            None => {
                let (end, last_record) = (self.reader.verified_lsn(), self.reader.last_record());
                (end, last_record, Some(&self.seen), reason)
            }
        };
        if end < bound {
            return Err(self.damaged(end, reason));
        }
        let filling = self.reader.filling().filter(|&start| last_record.is_some() && start < end);
        Ok(WalEnd {
            timeline: self.plan.history.timeline_of(end),
            end,
            last_record,
            filling: filling.map(|start| LsnRange::new(start, end)),
            version: self.reader.version(),
            facts: seen.map_or(self.known.clone(), FactReader::facts),
            last_open: seen.and_then(FactReader::last_open),
            checkpoint: seen.and_then(FactReader::checkpoint),
            reason,
            read_to: self.reader.next_lsn(),
        })
    }

    /// Names the file that holds what is wrong; one that does not exist belongs to no part.
    fn damaged(&self, end: Lsn, reason: StopReason) -> RecoveryError {
        let at = match reason {
            StopReason::Violation(violation) => violation.lsn(),
            StopReason::Unverifiable { .. } => end,
            StopReason::FileEnd { .. }
            | StopReason::SegmentsEnd
            | StopReason::Switchpoint { .. } => self.reader.next_lsn(),
        };
        let segno = SegNo::of_start(at, self.size);
        let parts: &[SegmentPart] = &self.plan.parts;
        let tli = match (reason, parts.iter().find(|part| part.segno == segno)) {
            (StopReason::Switchpoint { next }, _) => next,
            (_, Some(part)) => part.tli,
            (_, None) => self.plan.history.timeline_of(segno.start(self.size)),
        };
        RecoveryError::Damaged {
            tli,
            segno,
            segment_size: self.size,
            end,
            bound: self.plan.bound,
            reason,
        }
    }
}
