//! Segment files of the hub's own `pg_wal`: the one being written, the next one made ready ahead of
//! need, spare ones to rename, old ones to let go.
//!
//! A segment is zero-filled once and then renamed for ever: overwriting written blocks is the only
//! durable write that needs no journal commit. One whose WAL is here before it is only allocated: that WAL
//! is written over all of it at once, and zeros would take half of what the disk can do.
//!
//! Not here: what is in them (`local`), which may go (`walhub_proto::retention`).
//!
//! PostgreSQL: `XLogFileInitInternal`, `InstallXLogFileSegment`, `RemoveXlogFile`
//! (src/backend/access/transam/xlog.c).

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use walhub_engine::buffer::Buffer;
use walhub_engine::io::{BLOCK_LEN, FileId, Io, OpenMode};
use walhub_proto::convert::to_u32;
use walhub_proto::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use walhub_proto::page::{LONG_HEADER, LongHeader, PAGE_LEN, PageHeader, WalVersion};
use walhub_proto::segment::{SegNo, SegmentSize};

use crate::store::jobs::{Finished, Jobs, Step, fill_steps, zero_steps};

/// Bytes of zeros in one write of a new segment.
pub const ZEROS_LEN: usize = 1 << 20;
const BLOCK_BYTES: u64 = 4096;

/// Where a segment is made before it has its name.
const TEMPORARY: &str = "xlogtemp";
/// The same for one that is copied. Both may be under way.
const TEMPORARY_COPY: &str = "xlogtemp.copy";
/// Zeros that are written behind what is copied, at most. For more of them it is not waited.
const COPY_ZEROS_MAX: u64 = 16 << 20;

/// Whether a file in `pg_wal` is one that was being made when a process ended.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name == TEMPORARY || name == TEMPORARY_COPY
}

/// What a file job was for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileJob {
    /// Makes a segment ready for writing.
    Prepare(SegNo),
    /// Turns an old segment into a spare one of this name.
    Recycle(String),
    /// Removes old files.
    Remove,
    /// Closes a file.
    Close,
    /// Saves the control file.
    Control,
    /// Writes and removes files of slots.
    Slots,
    /// Keeps a timeline's history.
    History(TimelineId),
    /// Makes the files with which a timeline begins.
    Switch,
    /// Renames the end of the timeline before to this name.
    Partial(SegNo, String),
    /// Reads back the block in which the WAL ends.
    ReadBack,
}

/// What came of preparing a segment.
#[derive(Debug)]
pub enum Prepared {
    /// It can be written.
    Ready,
    /// There is no room for it now: try again.
    Failed(crate::store::jobs::JobError),
}

#[derive(Debug)]
enum Next {
    Unwanted,
    Preparing(SegNo),
    Ready(SegNo, FileId),
}

/// The segment files of one data directory.
///
/// Invariants:
/// - `current` is the only file that is written;
/// - a name in `spare` is no segment that anybody may read.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    size: SegmentSize,
    timeline: TimelineId,
    direct: bool,
    current: Option<(SegNo, FileId)>,
    next: Next,
    /// Segments with WAL, and the timelines under whose names there is a file.
    held: BTreeMap<SegNo, Vec<TimelineId>>,
    spare: VecDeque<String>,
    /// Files with the end of a timeline that was left, and their segments. Nobody reads them here.
    partial: Vec<(SegNo, String)>,
    /// Names under which there will be spare files once they are durably renamed.
    recycling: Vec<String>,
    spare_max: usize,
    zeros: Bytes,
    /// What the first page of a new segment begins with, once that is known.
    first_page: Option<PageHeader>,
    /// The last try to make a segment ready failed: none is made before [`Segments::retry`].
    blocked: bool,
    /// What was being made ready when its timeline was left: its name, if it is to be a spare file.
    left_behind: Option<Option<String>>,
}

impl Segments {
    /// Over what a start-up found: `held` files with WAL, and `spare` files without.
    ///
    /// # Panics
    /// If `zeros` is not [`ZEROS_LEN`] long.
    #[must_use]
    pub fn new(
        dir: PathBuf,
        size: SegmentSize,
        timeline: TimelineId,
        direct: bool,
        held: BTreeMap<SegNo, Vec<TimelineId>>,
        spare: Vec<String>,
        zeros: Bytes,
    ) -> Self {
        assert!(zeros.len() == ZEROS_LEN);
        let spare = spare.into();
        let blocked = false;
        Self {
            dir,
            size,
            timeline,
            direct,
            current: None,
            next: Next::Unwanted,
            held,
            spare,
            partial: Vec::new(),
            recycling: Vec::new(),
            spare_max: 2,
            zeros,
            first_page: None,
            blocked,
            left_behind: None,
        }
    }

    /// Size of every segment.
    #[must_use]
    pub fn size(&self) -> SegmentSize {
        self.size
    }

    /// Says whose WAL it is and of which version: a new segment then has a page header from the start.
    ///
    /// pg_waldump learns the segment size from whichever file it finds first in a directory; one
    /// without a header would make it give up.
    pub fn set_format(&mut self, system_identifier: SystemIdentifier, version: WalVersion) {
        if self.first_page.is_none_or(|page| page.magic != version.magic()) {
            let long = LongHeader {
                system_identifier,
                segment_size: self.size.to_u32(),
                page_len: to_u32(PAGE_LEN),
            };
            self.first_page = Some(PageHeader {
                magic: version.magic(),
                info: LONG_HEADER,
                tli: self.timeline.to_u32(),
                page_addr: Lsn::INVALID,
                rem_len: 0,
                long: Some(long),
            });
        }
    }

    /// The first block of a new segment.
    fn first_block(&self, segno: SegNo) -> Bytes {
        let Some(header) = &self.first_page else { return self.zeros.slice(..BLOCK_LEN) };
        let header = PageHeader {
            tli: self.timeline.to_u32(),
            page_addr: segno.start(self.size),
            ..*header
        };
        let mut page = Vec::with_capacity(BLOCK_LEN);
        header.encode(&mut page);
        let mut buffer = Buffer::with_capacity(BLOCK_LEN);
        buffer.fill(&page);
        buffer.zero_pad_to(BLOCK_LEN);
        buffer.freeze()
    }

    /// Keeps a file with the end of a timeline that was left as long as the segment's WAL is kept.
    pub fn hold_partial(&mut self, segno: SegNo, name: String) {
        if let Some(timelines) = self.held.get_mut(&segno) {
            timelines.retain(|&timeline| !name.starts_with(&segno.file_name(timeline, self.size)));
        }
        self.partial.retain(|(_, held)| *held != name);
        self.partial.push((segno, name));
    }

    /// Timeline that new segments belong to.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// First segment that there is a file for.
    #[must_use]
    pub fn oldest(&self) -> Option<SegNo> {
        self.held.keys().next().copied()
    }

    /// The open file of `segno`, moving on to it when it is the next one. `end` is where the WAL ends that
    /// is here and will be written.
    pub fn file_of<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        segno: SegNo,
        end: Lsn,
    ) -> Option<FileId> {
        if let Some((current, file)) = self.current
            && current == segno
        {
            return Some(file);
        }
        match self.next {
            Next::Ready(ready, file) if ready == segno => {
                self.close_current(io, jobs);
                self.current = Some((segno, file));
                self.hold(segno);
                self.next = Next::Unwanted;
                self.prepare(io, jobs, segno.next(), end);
                Some(file)
            }
            Next::Unwanted => {
                self.prepare(io, jobs, segno, end);
                None
            }
            Next::Ready(..) | Next::Preparing(_) => None,
        }
    }

    /// Whether nothing is being made ready.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !matches!(self.next, Next::Preparing(_))
    }

    /// Whether no segment can be made ready before [`Segments::retry`].
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    fn hold(&mut self, segno: SegNo) {
        // A crash in the middle of a timeline switch leaves the copied segment as a spare file.
        let name = segno.file_name(self.timeline, self.size);
        self.spare.retain(|spare| *spare != name);
        let timelines = self.held.entry(segno).or_default();
        if !timelines.contains(&self.timeline) {
            timelines.push(self.timeline);
        }
    }

    fn close_current<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        if let Some((_, file)) = self.current.take() {
            jobs.close(io, FileJob::Close, file);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Path of a segment on the current timeline.
    #[must_use]
    pub fn segment_path(&self, segno: SegNo) -> PathBuf {
        self.path(&segno.file_name(self.timeline, self.size))
    }

    fn is_held(&self, segno: SegNo) -> bool {
        self.held.get(&segno).is_some_and(|timelines| timelines.contains(&self.timeline))
    }

    /// Starts to make `segno` ready.
    fn prepare<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>, segno: SegNo, end: Lsn) {
        // One at a time; what the old timeline has left becomes this segment.
        if self.blocked || self.left_behind.is_some() {
            return;
        }
        let path = self.segment_path(segno);
        let open = Step::Open(path.clone(), OpenMode { create: false, direct: self.direct });
        let name = segno.file_name(self.timeline, self.size);
        if self.recycling.contains(&name) {
            // It is about to be there.
            return;
        }
        let spare = self.spare.iter().position(|spare| *spare == name).unwrap_or(0);
        let steps = if self.is_held(segno) {
            vec![open]
        } else if let Some(spare) = self.spare.remove(spare) {
            let rename = Step::Rename(self.path(&spare), path);
            if spare == name {
                vec![open]
            } else {
                vec![rename, Step::SyncDir(self.dir.clone()), open]
            }
        } else {
            self.create_steps(segno, &path, end)
        };
        self.next = Next::Preparing(segno);
        jobs.start(io, FileJob::Prepare(segno), steps);
    }

    fn create_steps(&self, segno: SegNo, path: &Path, end: Lsn) -> Vec<Step> {
        let temporary = self.path(TEMPORARY);
        let mut steps = vec![
            Step::Unlink(temporary.clone()),
            Step::Open(temporary.clone(), OpenMode { create: true, direct: self.direct }),
        ];
        let len = self.size.bytes();
        if segno.next().start(self.size) <= end {
            steps.push(Step::Allocate { len, zeros: self.zeros.clone() });
        } else {
            steps.extend(fill_steps(len, &self.zeros));
        }
        steps.push(Step::Write { offset: 0, data: self.first_block(segno), durable: false });
        steps.push(Step::Sync);
        steps.push(Step::Rename(temporary, path.to_path_buf()));
        steps.push(Step::SyncDir(self.dir.clone()));
        steps
    }

    /// Takes the end of a [`FileJob::Prepare`].
    pub fn handle_prepared<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        finished: Finished<FileJob>,
    ) -> Prepared {
        let FileJob::Prepare(segno) = finished.kind else { return Prepared::Ready };
        if let Some(name) = self.left_behind.take() {
            return self.handle_left_behind(io, jobs, name, finished.result);
        }
        match finished.result {
            Ok(Some(file)) => {
                self.next = Next::Ready(segno, file);
                Prepared::Ready
            }
            Ok(None) => unreachable!("a prepared segment is open"),
            Err(error) => {
                self.next = Next::Unwanted;
                self.blocked = true;
                Prepared::Failed(error)
            }
        }
    }

    /// What was being made ready for a timeline that was left is a spare file.
    fn handle_left_behind<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        name: Option<String>,
        result: Result<Option<FileId>, crate::store::jobs::JobError>,
    ) -> Prepared {
        let prepared = match result {
            Ok(file) => {
                file.into_iter().for_each(|file| jobs.close(io, FileJob::Close, file));
                self.spare.extend(name);
                Prepared::Ready
            }
            Err(error) => {
                self.blocked = true;
                Prepared::Failed(error)
            }
        };
        self.prepare_ahead(io, jobs);
        prepared
    }

    /// Tries again what failed.
    pub fn retry<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        if std::mem::take(&mut self.blocked) {
            self.prepare_ahead(io, jobs);
        }
    }

    fn prepare_ahead<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        if let (Next::Unwanted, Some((current, _))) = (&self.next, self.current) {
            self.prepare(io, jobs, current.next(), Lsn::INVALID);
        }
    }

    /// The WAL goes back to `segno`: what was written after it was no WAL.
    ///
    /// # Panics
    /// If a segment is being prepared.
    pub fn rewind<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>, segno: SegNo) {
        assert!(self.is_settled(), "a segment is being prepared");
        if self.current.is_none_or(|(current, _)| current <= segno) {
            return;
        }
        self.close_current(io, jobs);
        if let Next::Ready(ready, file) = std::mem::replace(&mut self.next, Next::Unwanted) {
            jobs.close(io, FileJob::Close, file);
            self.spare.push_back(ready.file_name(self.timeline, self.size));
        }
        for wrong in self.held.split_off(&segno.next()).into_keys() {
            self.spare.push_back(wrong.file_name(self.timeline, self.size));
        }
    }

    /// Lets go of every segment before `keep`: a few become spare files if `may_recycle`, the others
    /// are removed. Nobody may be told afterwards that they can be read; who reads one still must
    /// forbid recycling, and keeps what it has open.
    pub fn remove_before<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        keep: SegNo,
        may_recycle: bool,
    ) -> usize {
        let kept = self.held.split_off(&keep);
        let old = std::mem::replace(&mut self.held, kept);
        let partial = self.partial.extract_if(.., |(segno, _)| *segno < keep);
        let partial: Vec<String> = partial.map(|(_, name)| name).collect();
        let mut removed: Vec<Step> =
            partial.iter().map(|name| Step::Unlink(self.path(name))).collect();
        let mut count = 0;
        for (segno, timelines) in old {
            for timeline in timelines {
                count += 1;
                let path = self.path(&segno.file_name(timeline, self.size));
                if may_recycle && self.spare.len() + self.recycling.len() < self.spare_max {
                    let name = self.spare_name();
                    let steps =
                        vec![Step::Rename(path, self.path(&name)), Step::SyncDir(self.dir.clone())];
                    self.recycling.push(name.clone());
                    jobs.start(io, FileJob::Recycle(name), steps);
                } else {
                    removed.push(Step::Unlink(path));
                }
            }
        }
        if !removed.is_empty() {
            removed.push(Step::SyncDir(self.dir.clone()));
            jobs.start(io, FileJob::Remove, removed);
        }
        count
    }

    /// The first future name that no file has.
    fn spare_name(&self) -> String {
        let newest = match (&self.next, self.current) {
            (Next::Preparing(segno) | Next::Ready(segno, _), _) => *segno,
            (Next::Unwanted, Some((segno, _))) => segno,
            (Next::Unwanted, None) => self.held.keys().next_back().copied().unwrap_or(SegNo(0)),
        };
        let mut segno = newest.next();
        loop {
            let name = segno.file_name(self.timeline, self.size);
            if !self.spare.contains(&name) && !self.recycling.contains(&name) {
                return name;
            }
            segno = segno.next();
        }
    }

    /// Takes the end of a [`FileJob::Recycle`]: only now may the spare file be renamed again.
    pub fn handle_recycled<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        name: String,
        done: bool,
    ) {
        self.recycling.retain(|recycling| *recycling != name);
        if done {
            self.spare.push_back(name);
        }
        self.prepare_ahead(io, jobs);
    }

    /// The steps that make the segment of `timeline` in which that begins at `start`, and leave it open; no
    /// more than what is before `start` is copied. PostgreSQL: `XLogFileCopy`, which also writes zeros.
    ///
    /// They are written over a file that was made ready already, if there is one. Otherwise a large
    /// segment is only allocated: a flush in it costs more, but nobody waits for a gigabyte of zeros.
    pub fn copy_steps<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        timeline: TimelineId,
        start: Lsn,
    ) -> Vec<Step> {
        let segno = SegNo::of_start(start, self.size);
        let (from, end) = (self.segment_path(segno), self.size.offset(start));
        let name = segno.file_name(timeline, self.size);
        // What a switch that was broken off has left under that name is replaced.
        self.spare.retain(|spare| *spare != name);
        let (to, temporary) = (self.path(&name), self.path(TEMPORARY_COPY));
        let direct = self.direct;
        let mode = |create| OpenMode { create, direct };
        let mut steps = vec![Step::Unlink(temporary.clone())];
        let mut zeros = Vec::new();
        if let Some(ready) = self.take_ready(io, jobs) {
            steps.push(Step::Rename(self.path(&ready), temporary.clone()));
            steps.push(Step::Open(temporary.clone(), mode(false)));
        } else {
            steps.push(Step::Open(temporary.clone(), mode(true)));
            let len = self.size.bytes();
            let zeros_from = end.next_multiple_of(BLOCK_BYTES);
            if len - zeros_from <= COPY_ZEROS_MAX {
                zeros.extend(zero_steps(zeros_from, len, &self.zeros));
            } else {
                steps.push(Step::Allocate { len, zeros: self.zeros.clone() });
            }
        }
        steps.push(Step::OpenSource(from, mode(false)));
        steps.push(Step::Copy { offset: 0, end });
        steps.push(Step::CloseSource);
        steps.extend(zeros);
        steps.push(Step::Sync);
        steps.push(Step::Rename(temporary, to));
        steps.push(Step::SyncDir(self.dir.clone()));
        steps
    }

    /// The steps that read the block in which `range` lies, from its beginning.
    #[must_use]
    pub fn read_steps(&self, range: LsnRange) -> Vec<Step> {
        let path = self.segment_path(SegNo::of_start(range.start, self.size));
        let offset = self.size.offset(range.start.align_down(BLOCK_BYTES));
        vec![
            Step::Open(path, OpenMode { create: false, direct: self.direct }),
            Step::Read { offset, len: BLOCK_LEN },
            Step::Close,
        ]
    }

    /// Takes a file that is to be written over: a spare one, or the one made ready for the next segment.
    fn take_ready<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) -> Option<String> {
        if let Some(spare) = self.spare.pop_front() {
            return Some(spare);
        }
        match self.next {
            // One that was opened again after a restart has WAL in it.
            Next::Ready(segno, file) if !self.is_held(segno) => {
                self.next = Next::Unwanted;
                jobs.close(io, FileJob::Close, file);
                Some(segno.file_name(self.timeline, self.size))
            }
            Next::Ready(..) | Next::Preparing(_) | Next::Unwanted => None,
        }
    }

    /// Goes over to `timeline`, which begins in the segment that was `copied` and is open, or with one that
    /// is still to be made. What was made ready on the old timeline becomes spare.
    pub fn switch_timeline<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        timeline: TimelineId,
        copied: Option<(SegNo, FileId)>,
    ) {
        self.close_current(io, jobs);
        match std::mem::replace(&mut self.next, Next::Unwanted) {
            Next::Ready(segno, file) => {
                jobs.close(io, FileJob::Close, file);
                if !self.is_held(segno) {
                    self.spare.push_back(segno.file_name(self.timeline, self.size));
                }
            }
            Next::Preparing(segno) => {
                let is_spare = !self.is_held(segno);
                let name = segno.file_name(self.timeline, self.size);
                self.left_behind = Some(is_spare.then_some(name));
            }
            Next::Unwanted => {}
        }
        self.timeline = timeline;
        if let Some((segno, file)) = copied {
            self.hold(segno);
            self.next = Next::Ready(segno, file);
        }
    }
}
