//! Going over to another timeline, a relay's or a promotion's, step by step through the ring.
//!
//! 1. The files: of a promotion the new timeline's history; the segment in which the timeline begins, with
//!    what the old one has before that. Nobody looks at either yet, and done again they are the same.
//! 2. The control file. This is the moment; a crash before it leaves the old timeline, one after it the new.
//! 3. The timeline is taken over, and everybody is told.
//!
//! Until then nothing is written: the next write belongs into the new segment. A relay goes on receiving,
//! as far as its memory reaches, and tells nobody of it.
//!
//! Not here: whether there is reason to switch (`crate::wal_core`, `promotion`), the copy (`crate::store::segments`).
//!
//! PostgreSQL: `XLogInitNewTimeline`, `rescanLatestTimeLine`.

use std::path::Path;

use walhub_engine::io::{FileId, Io};
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::recovery::ControlFile;
use walhub_proto::segment::{SegNo, SegmentSize};

use crate::store::Store;
use crate::store::control_file::ControlFileKeeper;
use crate::store::jobs::{JobError, Jobs, Step, replace_steps};
use crate::store::local::LocalWal;
use crate::store::segments::FileJob;

/// Why the timeline changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// The upstream's did.
    Follow,
    /// This becomes the primary.
    Promote,
}

/// How far it has come.
#[derive(Debug)]
enum Progress {
    /// The files are being made.
    Files,
    /// They could not be: once more when the disk is tried again.
    Again,
    /// The control file is being saved. The segment is open, if there is one.
    Control(Option<(SegNo, FileId)>),
}

/// What is to be done for a switch now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NextStep {
    /// Nothing: something is under way, or the disk is tried again later.
    Wait,
    /// The control file must be saved, with what [`Switch::control`] gives.
    SaveControl,
    /// The timeline is taken over.
    Adopt,
}

/// A switch that is under way.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) purpose: Purpose,
    pub(crate) timeline: TimelineId,
    /// Where the new timeline begins. Everything before it is durable on the old one.
    pub(crate) start: Lsn,
    pub(crate) history: TimelineHistory,
    progress: Progress,
}

impl Switch {
    /// Everything up to `start` is durable, and nothing was written after it.
    ///
    /// # Panics
    /// If that is not so.
    pub(crate) fn new(
        purpose: Purpose,
        history: TimelineHistory,
        start: Lsn,
        local: &LocalWal,
    ) -> Self {
        let is_flushed =
            local.is_flushed() && local.flush_lsn() == start && local.received_lsn() == start;
        assert!(is_flushed, "everything before {start} is durable, and there is nothing after it");
        let timeline = history.tli();
        Self { purpose, timeline, start, history, progress: Progress::Again }
    }

    /// Whether it goes on by itself, and not when the disk is tried again.
    pub(crate) fn goes_on(&self, control: &ControlFileKeeper) -> bool {
        match self.progress {
            Progress::Again => false,
            Progress::Files => true,
            Progress::Control(_) => control.is_saving(),
        }
    }

    /// Has the files made, unless they are or are there.
    pub(crate) fn make_files<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        wal_dir: &Path,
        local: &mut LocalWal,
    ) {
        match self.progress {
            Progress::Again => {}
            Progress::Files | Progress::Control(_) => return,
        }
        let mut steps: Vec<Step> = Vec::new();
        if self.purpose == Purpose::Promote {
            let path = wal_dir.join(history::file_name(self.timeline));
            steps.extend(replace_steps(&path, self.history.content().to_vec()));
        }
        if local.segments.size().offset(self.start) != 0 {
            steps.extend(local.segments.copy_steps(io, jobs, self.timeline, self.start));
        }
        if steps.is_empty() {
            self.progress = Progress::Control(None);
            return;
        }
        self.progress = Progress::Files;
        jobs.start(io, FileJob::Switch, steps);
    }

    /// Takes the end of a [`FileJob::Switch`].
    ///
    /// # Errors
    /// When the files could not be made.
    pub(crate) fn handle_files(
        &mut self,
        result: Result<Option<FileId>, JobError>,
        size: SegmentSize,
    ) -> Result<(), JobError> {
        self.progress = Progress::Again;
        let segno = SegNo::of_start(self.start, size);
        self.progress = Progress::Control(result?.map(|file| (segno, file)));
        Ok(())
    }

    /// What is to be done now.
    pub(crate) fn next_step(&self, control: &ControlFileKeeper) -> NextStep {
        match self.progress {
            Progress::Files | Progress::Again => NextStep::Wait,
            Progress::Control(_) => {
                let saved = control.saved().map(|saved| saved.timeline);
                if saved == Some(self.timeline) { NextStep::Adopt } else { NextStep::SaveControl }
            }
        }
    }

    /// The control file of the new timeline, once its files are there.
    pub(crate) fn control(&self, store: &Store) -> Option<ControlFile> {
        let Progress::Control(_) = self.progress else { return None };
        let mut control = ControlFile { timeline: self.timeline, ..store.control.wanted.clone() };
        if self.purpose == Purpose::Promote {
            control.own_wal = true;
            control.wal_version = control.wal_version.or(store.local.version());
        }
        Some(control)
    }

    /// The segment that was copied, which is open now.
    pub(crate) fn copied(&self) -> Option<(SegNo, FileId)> {
        match self.progress {
            Progress::Control(copied) => copied,
            Progress::Files | Progress::Again => None,
        }
    }
}
