//! Damage told from a torn end, and what becomes of it.
//!
//! A crash leaves every sector of what was being written old or new, each on its own: so a bad record may
//! have good ones after it and still be nothing but the end of the WAL. What was durable before cannot
//! become so. It is known to have been durable if
//!
//! - the control file's bound or the mark (`walhub_proto::recovery`) lies after it, or
//! - there is a valid record in a later segment than the bad bytes: a segment is written only once the one
//!   before it is durable to its end (`Writer::can_start`). All that can be under way at once lies in one
//!   segment.
//!
//! Then it is damage, and nothing is erased. WAL of its own is not started from: `--accept-loss-after` has
//! everything from the bad record on moved aside, and WAL begin there on a new timeline, so that no standby
//! mistakes it for what it has. A relay has an upstream that may still have all of it: it moves the same
//! aside, fetches it again, and is not promoted before it has.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use walhub_engine::crc::crc32c;
use walhub_engine::io::{DirEntry, Fs};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::page::{PAGE_BYTES, PAGE_LEN};
use walhub_proto::record::RecordReader;
use walhub_proto::recovery::{ControlFile, DurableMark, RecoveryError, StopReason};
use walhub_proto::segment::{SegNo, SegmentSize};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::mark::write_mark;
use super::{
    Choices, Found, RecoverError, SCAN_LEN, copy_segment_start, find_end, write_control, zero_after,
};

/// What the history file of the timeline says that begins where WAL was given up.
const REASON: &str = "damaged WAL was given up";

/// WAL that was durable and is not valid any more.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Name of the file that holds what is wrong, or should.
    pub file: String,
    /// Where that is.
    pub at: Lsn,
    /// What is wrong, with what was found and what should have been.
    pub reason: String,
    /// End of the last valid record before.
    pub end: Lsn,
    /// WAL up to there was durable.
    pub durable_to: Lsn,
    /// Whether it is WAL of its own.
    own_wal: bool,
    last_record: Option<Lsn>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, .. } = self;
        write!(f, "WAL that was durable is damaged in file \"{file}\" at {at}: {}", self.reason)
    }
}

impl Damage {
    fn detail(&self) -> String {
        format!(
            "The last valid record before it ends at {}, and WAL up to {} was durable.",
            self.end, self.durable_to
        )
    }

    /// What the server says that does not start.
    #[must_use]
    pub fn report(&self) -> Report {
        let begins = if self.own_wal {
            "begins a new timeline there"
        } else {
            "receives what follows from its upstream"
        };
        Report::fatal(SqlState::DATA_CORRUPTED, self.to_string()).detail(self.detail()).hint(format!(
            "Put back the file from an archive or a standby. To give up what follows, start once with \
             --accept-loss-after {}: that moves the WAL from there on aside, and {begins}.",
            self.end
        ))
    }
}

/// What is looked at: one server's WAL.
pub(super) struct Wal<'a> {
    pub(super) fs: &'a dyn Fs,
    pub(super) data_dir: &'a Path,
    pub(super) control: &'a ControlFile,
    pub(super) mark: Option<DurableMark>,
    pub(super) listing: &'a [DirEntry],
}

impl Wal<'_> {
    fn size(&self) -> SegmentSize {
        self.control.segment_size
    }

    fn wal_dir(&self) -> PathBuf {
        self.data_dir.join("pg_wal")
    }

    /// What is known to be durable before any WAL is read.
    fn bound(&self) -> Lsn {
        let mark = self.mark.map_or(Lsn::INVALID, |mark| mark.flush_lsn);
        self.control.flush_lsn.max(mark)
    }

    /// Finds the end of the WAL, or damage before it.
    ///
    /// # Errors
    /// When the WAL cannot be read.
    pub(super) fn look(&self) -> Result<Result<Found, Box<Damage>>, RecoverError> {
        let (fs, wal_dir, bound) = (self.fs, self.wal_dir(), self.bound());
        let found = match find_end(fs, &wal_dir, self.control, bound, self.listing) {
            Ok(found) => found,
            Err(RecoverError::Wal(
                error @ (RecoveryError::Damaged { .. } | RecoveryError::SegmentMissing { .. }),
            )) => return self.damage_below(&error).map(Err),
            Err(error) => return Err(error),
        };
        let history = &found.history;
        let later = self.first_record_after(history, SegNo::of_end(found.read_to, self.size()))?;
        let Some(durable_to) = later else { return Ok(Ok(found)) };
        let at = found.stop.map_or(found.end, |(at, _)| at);
        let reason = found.stop.map_or(StopReason::SegmentsEnd, |(_, reason)| reason);
        Ok(Err(Box::new(Damage {
            file: self.file_of(history, SegNo::of_start(at, self.size())),
            at,
            reason: describe(reason),
            end: found.end,
            durable_to,
            own_wal: self.control.own_wal,
            last_record: found.last_record,
        })))
    }

    /// What is known to be durable does not read as valid: finds where it is whole up to. The control
    /// file's last record may be the bad one, so reading begins earlier.
    fn damage_below(&self, error: &RecoveryError) -> Result<Box<Damage>, RecoverError> {
        let (at, reason, bound) = match *error {
            RecoveryError::Damaged { end, bound, reason, segno, segment_size, .. } => {
                let at = match reason {
                    StopReason::Violation(violation) => violation.lsn(),
                    _ => end.max(segno.start(segment_size)),
                };
                (at, describe(reason), bound)
            }
            RecoveryError::SegmentMissing { tli: _, segno, segment_size, bound } => {
                (segno.start(segment_size), describe(StopReason::SegmentsEnd), bound)
            }
            RecoveryError::ControlFileMissing { .. } => return Err((*error).into()),
        };
        let (end, last_record) = self.last_valid_before(at)?;
        Ok(Box::new(Damage {
            file: error.file_name(),
            at,
            reason,
            end,
            durable_to: bound,
            own_wal: self.control.own_wal,
            last_record,
        }))
    }

    /// The last valid record that begins before `at`: its end and its start.
    fn last_valid_before(&self, at: Lsn) -> Result<(Lsn, Option<Lsn>), RecoverError> {
        let (size, start_lsn) = (self.size(), self.control.start_lsn);
        let mut segno = SegNo::of_start(at, size);
        loop {
            let start = segno.start(size).max(start_lsn);
            if let Some((end, record)) = self.last_valid_from(start, None)? {
                return Ok((end, Some(record)));
            }
            match segno.0.checked_sub(1).map(SegNo).filter(|before| before.end(size) > start_lsn) {
                Some(before) => segno = before,
                None => break,
            }
        }
        // The first WAL may begin inside a record that is longer than all that comes before.
        let last_record = self.control.last_record.filter(|&record| record < at);
        let found = match last_record {
            Some(record) => self.last_valid_from(record, Some(record))?,
            None => None,
        };
        Ok(found.map_or((start_lsn, None), |(end, record)| (end, Some(record))))
    }

    /// End and start of the last record that is valid when WAL is read from `start` on.
    fn last_valid_from(
        &self,
        start: Lsn,
        last_record: Option<Lsn>,
    ) -> Result<Option<(Lsn, Lsn)>, RecoverError> {
        // Reading from where nothing was called durable is an error nowhere.
        let from =
            ControlFile { flush_lsn: start, start_lsn: start, last_record, ..self.control.clone() };
        match find_end(self.fs, &self.wal_dir(), &from, Lsn::INVALID, self.listing) {
            Ok(Found { end, last_record: Some(record), .. }) => Ok(Some((end, record))),
            Ok(_) | Err(RecoverError::Wal(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Name of the file that holds `segno`, or should: of the newest timeline that has one.
    fn file_of(&self, history: &TimelineHistory, segno: SegNo) -> String {
        let names =
            history.entries().iter().rev().map(|entry| segno.file_name(entry.tli, self.size()));
        let is_there = |name: &String| self.listing.iter().any(|entry| entry.name == *name);
        let timeline = history.timeline_of(segno.start(self.size()));
        names.into_iter().find(is_there).unwrap_or_else(|| segno.file_name(timeline, self.size()))
    }

    /// Files of the history's segments after `segno`, in order.
    fn segments_after(
        &self,
        history: &TimelineHistory,
        segno: SegNo,
    ) -> Vec<(SegNo, TimelineId, String)> {
        let size = self.size();
        let parsed = self.listing.iter().filter_map(|entry| {
            let (tli, number) = SegNo::parse_file_name(&entry.name, size)?;
            Some((number, tli, entry.name.clone()))
        });
        let of_history = |(number, tli, _): &(SegNo, TimelineId, String)| {
            let mut entries = history.entries().iter();
            *number > segno
                && entries.any(|entry| {
                    entry.tli == *tli && entry.end.is_none_or(|end| end > number.start(size))
                })
        };
        let mut found: Vec<_> = parsed.filter(of_history).collect();
        found.sort();
        found
    }

    /// End of a valid record in a segment after `segno`, if there is one. A segment is written from its
    /// beginning on, so that is where to look.
    fn first_record_after(
        &self,
        history: &TimelineHistory,
        segno: SegNo,
    ) -> Result<Option<Lsn>, RecoverError> {
        let mut under_way: Option<RecordReader> = None;
        for (number, tli, name) in self.segments_after(history, segno) {
            let start = number.start(self.size());
            // A record may be longer than a segment.
            let reader = under_way.take().filter(|reader| reader.next_lsn() == start);
            let mut reader = reader.unwrap_or_else(|| self.reader(start, tli));
            reader.set_timeline(tli);
            match self.first_record(
                &mut reader,
                &self.wal_dir().join(name),
                number.end(self.size()),
            ) {
                Ok(Some(end)) => return Ok(Some(end)),
                Ok(None) => under_way = Some(reader),
                Err(error) if is_no_file(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn reader(&self, start: Lsn, timeline: TimelineId) -> RecordReader {
        RecordReader::new(start, self.size(), crc32c)
            .with_system_identifier(self.control.system_identifier)
            .with_timeline(timeline)
    }

    /// End of the first valid record that `reader` finds in the file before `to`.
    fn first_record(
        &self,
        reader: &mut RecordReader,
        path: &Path,
        to: Lsn,
    ) -> io::Result<Option<Lsn>> {
        let mut piece = vec![0; to_usize(PAGE_BYTES)];
        let mut found = None;
        while reader.next_lsn() < to && found.is_none() {
            let count = self.fs.read_at(path, self.size().offset(reader.next_lsn()), &mut piece)?;
            let bytes = piece.get(..count).unwrap_or_default();
            let fed = reader.feed_with(bytes, |record| found = found.or(Some(record.end)));
            if count == 0 || fed.is_err() {
                break;
            }
            // A record goes on: more at a time.
            piece.resize(SCAN_LEN, 0);
        }
        Ok(found)
    }

    /// Makes zeros of the filling that the WAL ends with: a crash in the middle of it leaves what the recycled
    /// segment had before.
    pub(super) fn zero_filling(&self, found: &Found) -> io::Result<()> {
        let Some(filling) = found.filling else { return Ok(()) };
        let segno = SegNo::of_start(filling.start, self.size());
        let path = self.wal_dir().join(self.file_of(&found.history, segno));
        let mut content = vec![0; to_usize(filling.len())];
        let offset = self.size().offset(filling.start);
        self.fs.read_at(&path, offset, &mut content)?;
        if content.iter().any(|&byte| byte != 0) {
            content.fill(0);
            self.fs.write_at(&path, offset, &content)?;
        }
        Ok(())
    }

    /// End of a valid record after the page of `end`, in its own segment. It proves nothing: that is what
    /// a crash leaves of a write that was under way.
    pub(super) fn first_record_in_segment_after(&self, found: &Found) -> io::Result<Option<Lsn>> {
        let size = self.size();
        let segno = SegNo::of_start(found.end, size);
        let path = self.wal_dir().join(self.file_of(&found.history, segno));
        let mut piece = vec![0; SCAN_LEN];
        let mut next = found.end.align_down(PAGE_BYTES) + PAGE_BYTES;
        while next < segno.end(size) {
            let count = match self.fs.read_at(&path, size.offset(next), &mut piece) {
                Ok(count) if count >= PAGE_LEN => count,
                Ok(_) => break,
                Err(error) if is_no_file(&error) => break,
                Err(error) => return Err(error),
            };
            let pages = piece.get(..count).unwrap_or_default().chunks_exact(PAGE_LEN);
            let mut failed_at = next;
            for page in pages {
                // All pages of one record fail at the same place.
                if next >= failed_at && is_page_at(page, next) {
                    let mut reader = self.reader(next, self.control.timeline);
                    let found = self.first_record(&mut reader, &path, segno.end(size))?;
                    if found.is_some() {
                        return Ok(found);
                    }
                    failed_at = reader.next_lsn().align_down(PAGE_BYTES);
                }
                next = next + PAGE_BYTES;
            }
        }
        Ok(None)
    }

    /// Moves on after damage, or says that the server must not start. Afterwards the directory is to be
    /// read anew.
    ///
    /// # Errors
    /// [`RecoverError::Damaged`], or what the operating system said.
    pub(super) fn settle(&self, damage: &Damage, choices: &Choices) -> Result<(), RecoverError> {
        let mark = DurableMark {
            system_identifier: self.control.system_identifier,
            timeline: self.control.timeline,
            flush_lsn: damage.durable_to.max(self.bound()),
            lost_to: self.mark.and_then(|mark| mark.lost_to),
        };
        // What proves it may be moved in a moment: a crash then must find the proof elsewhere.
        if self.mark != Some(mark) {
            write_mark(self.fs, self.data_dir, &mark)?;
        }
        let accepted = choices.accept_loss_after == Some(damage.end);
        if !accepted && (self.control.own_wal || !choices.has_upstream) {
            return Err(RecoverError::Damaged(Box::new(damage.clone())));
        }
        let aside = self.move_aside(damage.end)?;
        let lost_to = (!accepted).then(|| mark.lost_to.max(Some(mark.flush_lsn))).flatten();
        let mut control = ControlFile {
            flush_lsn: damage.end,
            start_lsn: self.control.start_lsn.min(damage.end),
            last_record: damage.last_record,
            sequence: self.control.sequence + 1,
            ..self.control.clone()
        };
        let is_past = |lsn: &Lsn| *lsn >= damage.end;
        if control.checkpoint_lsn.as_ref().is_some_and(is_past) {
            (control.checkpoint_lsn, control.redo_lsn) = (None, None);
        }
        if self.control.own_wal {
            control.timeline = self.begin_timeline(damage.end)?;
        } else {
            zero_after(self.fs, &self.wal_dir(), self.control, damage.end)?;
        }
        write_control(self.fs, self.data_dir, &control)?;
        let timeline = control.timeline;
        write_mark(
            self.fs,
            self.data_dir,
            &DurableMark { timeline, flush_lsn: damage.end, lost_to, ..mark },
        )?;
        let text = damage.to_string();
        let moved =
            format!("{} WAL from {} on is kept in \"{aside}\".", damage.detail(), damage.end);
        if accepted {
            tracing::warn!(detail = moved, "{text}; it is given up");
        } else {
            tracing::error!(
                detail = moved,
                "{text}; WAL from {} on is received again, and this server is not promoted before",
                damage.end
            );
        }
        Ok(())
    }

    /// Keeps the WAL from `end` on where no server looks: a copy of the segment of `end`, and the later
    /// segments themselves. Returns the directory's name. Done again after a crash, it does the same.
    fn move_aside(&self, end: Lsn) -> Result<String, RecoverError> {
        let (size, timeline) = (self.size(), self.control.timeline);
        let name = aside_name(timeline, end);
        let (wal_dir, aside) = (self.wal_dir(), self.data_dir.join(&name));
        self.fs.create_dir(&aside)?;
        self.fs.sync_dir(self.data_dir)?;
        let history = super::read_history(self.fs, &wal_dir, timeline)?;
        let segno = SegNo::of_start(end, size);
        self.copy_aside(&history, end, &aside)?;
        for (_, _, file) in self.segments_after(&history, segno) {
            self.fs.rename(&wal_dir.join(&file), &aside.join(&file))?;
        }
        self.fs.sync_dir(&aside)?;
        self.fs.sync_dir(&wal_dir)?;
        Ok(name)
    }

    /// Copies the segment of `end`.
    fn copy_aside(&self, history: &TimelineHistory, end: Lsn, aside: &Path) -> io::Result<()> {
        let file = self.file_of(history, SegNo::of_start(end, self.size()));
        let (from, to) = (self.wal_dir().join(&file), aside.join(&file));
        let mut piece = vec![0; SCAN_LEN];
        let mut offset = 0;
        loop {
            let count = match self.fs.read_at(&from, offset, &mut piece) {
                Ok(count) => count,
                Err(error) if is_no_file(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            if count == 0 {
                break;
            }
            self.fs.write_at(&to, offset, piece.get(..count).unwrap_or_default())?;
            offset += to_u64(count);
        }
        if offset > 0 { self.fs.sync(&to) } else { Ok(()) }
    }

    /// Keeps a copy of the segment in which the WAL ends, for what is about to be made zeros there may be
    /// more than a crash has left.
    pub(super) fn keep_copy(&self, found: &Found) -> io::Result<String> {
        let name = aside_name(self.control.timeline, found.end);
        let aside = self.data_dir.join(&name);
        self.fs.create_dir(&aside)?;
        self.copy_aside(&found.history, found.end, &aside)?;
        self.fs.sync_dir(&aside)?;
        self.fs.sync_dir(self.data_dir)?;
        Ok(name)
    }

    /// Makes what a timeline begins with that leaves this one at `switchpoint`: its history file, and the
    /// segment that it begins in.
    fn begin_timeline(&self, switchpoint: Lsn) -> Result<TimelineId, RecoverError> {
        let (wal_dir, size, parent) = (self.wal_dir(), self.size(), self.control.timeline);
        let files = self.fs.list(&wal_dir)?;
        let known = files.iter().filter_map(|file| history::parse_file_name(&file.name));
        let newest = known.chain([parent]).max().unwrap_or(parent);
        let next = newest.to_u32().checked_add(1).and_then(TimelineId::new);
        let timeline = next.ok_or_else(|| io::Error::other("there is no timeline left"))?;
        let history = super::read_history(self.fs, &wal_dir, parent)?;
        let segno = SegNo::of_start(switchpoint, size);
        let from = wal_dir.join(self.file_of(&history, segno));
        // What is given up may be older than the current timeline.
        let left = history.entries().iter().rev().find(|entry| entry.begin < switchpoint);
        let left = left.map_or(parent, |entry| entry.tli);
        let history = super::read_history(self.fs, &wal_dir, left)?;
        let history = history.extend(timeline, switchpoint, REASON);
        self.fs.replace(&wal_dir.join(history::file_name(timeline)), history.content())?;
        if size.offset(switchpoint) != 0 {
            let to = wal_dir.join(segno.file_name(timeline, size));
            copy_segment_start(self.fs, &from, &to, size, switchpoint)?;
        } else if files.iter().any(|file| file.name == segno.file_name(parent, size)) {
            // It begins with a segment, so nothing of the old one's file of that number is its.
            let name = segno.file_name(parent, size);
            let aside = self.data_dir.join(aside_name(parent, switchpoint));
            self.fs.rename(&wal_dir.join(&name), &aside.join(&name))?;
            self.fs.sync_dir(&aside)?;
            self.fs.sync_dir(&wal_dir)?;
        }
        Ok(timeline)
    }
}

/// What is wrong, with what was found and what should have been.
fn describe(reason: StopReason) -> String {
    match (reason, reason.numbers()) {
        (StopReason::SegmentsEnd, _) => "the segment is missing".to_owned(),
        (_, Some(numbers)) => format!("{reason} ({numbers})"),
        (_, None) => reason.to_string(),
    }
}

/// Name of the directory that keeps the WAL of a timeline from `end` on.
fn aside_name(timeline: TimelineId, end: Lsn) -> String {
    format!("damaged.{:08X}.{:016X}", timeline.to_u32(), end.0)
}

/// Whether the page says that it belongs there, and is not one of before the segment was recycled.
fn is_page_at(page: &[u8], at: Lsn) -> bool {
    // `xlp_pageaddr`
    page.get(8..16) == Some(&at.0.to_le_bytes())
}

/// Whether there is no file to read, or something that is no file.
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput)
}
