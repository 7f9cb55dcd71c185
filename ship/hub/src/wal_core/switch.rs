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
//! Not here: whether there is reason to switch (`timeline`, `promotion`), the copy (`crate::store::segments`).
//!
//! PostgreSQL: `XLogInitNewTimeline`, `rescanLatestTimeLine`.

use walhub_engine::io::{FileId, Io, Waker};
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::recovery::ControlFile;
use walhub_proto::segment::SegNo;
use walhub_proto::time::Now;

use super::{Stopping, Store, WalCore};
use crate::store::control_file::ControlFileKeeper;
use crate::store::jobs::{Finished, JobError, Step, replace_steps};
use crate::store::segments::FileJob;

/// Why the timeline changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
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

/// A switch that is under way.
#[derive(Debug)]
pub(super) struct Switch {
    purpose: Purpose,
    timeline: TimelineId,
    /// Where the new timeline begins. Everything before it is durable on the old one.
    start: Lsn,
    history: TimelineHistory,
    progress: Progress,
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Begins a switch. Everything up to `start` is durable, and nothing was written after it.
    ///
    /// # Panics
    /// If one is under way, or that is not so.
    pub(super) fn begin_switch<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        purpose: Purpose,
        history: TimelineHistory,
        start: Lsn,
    ) {
        assert!(self.switch.is_none(), "one switch after the other");
        let is_flushed = self.local().is_some_and(|local| {
            local.is_flushed() && local.flush_lsn() == start && local.received_lsn() == start
        });
        assert!(is_flushed, "everything before {start} is durable, and there is nothing after it");
        let timeline = history.tli();
        let progress = Progress::Again;
        self.switch = Some(Switch { purpose, timeline, start, history, progress });
        self.make_switch_files(io, now);
    }

    /// Whether a relay is on its way to another timeline: what it receives is that one's.
    pub(super) fn follows_switch(&self) -> bool {
        self.switch.as_ref().is_some_and(|switch| switch.purpose == Purpose::Follow)
    }

    /// Whether a switch is under way that goes on by itself, and not when the disk is tried again.
    pub(super) fn is_switching(&self) -> bool {
        match self.switch.as_ref().map(|switch| &switch.progress) {
            None | Some(Progress::Again) => false,
            Some(Progress::Files) => true,
            Some(Progress::Control(_)) => {
                self.control_file().is_some_and(ControlFileKeeper::is_saving)
            }
        }
    }

    fn make_switch_files<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let wal_dir = self.wal_dir();
        let (Some(switch), Some(Store { local, .. })) = (&mut self.switch, &mut self.store) else {
            return;
        };
        let mut steps: Vec<Step> = Vec::new();
        if switch.purpose == Purpose::Promote {
            let path = wal_dir.join(history::file_name(switch.timeline));
            steps.extend(replace_steps(&path, switch.history.content().to_vec()));
        }
        if local.segments.size().offset(switch.start) != 0 {
            let (jobs, timeline) = (&mut self.jobs, switch.timeline);
            steps.extend(local.segments.copy_steps(io, jobs, timeline, switch.start));
        }
        if steps.is_empty() {
            switch.progress = Progress::Control(None);
            return self.go_on_switching(io, now);
        }
        switch.progress = Progress::Files;
        self.jobs.start(io, FileJob::Switch, steps);
    }

    /// Takes the end of a [`FileJob::Switch`].
    pub(super) fn handle_switch_files<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        finished: Finished<FileJob>,
    ) {
        let (Some(switch), Some(Store { local, .. })) = (&mut self.switch, &self.store) else {
            return;
        };
        match finished.result {
            Ok(file) => {
                let segno = SegNo::of_start(switch.start, local.segments.size());
                switch.progress = Progress::Control(file.map(|file| (segno, file)));
                if switch.purpose == Purpose::Promote {
                    self.history_files.insert(switch.timeline);
                }
                self.go_on_switching(io, now);
            }
            Err(error) => {
                switch.progress = Progress::Again;
                self.wait_to_switch(now, &error);
            }
        }
    }

    fn wait_to_switch(&mut self, now: Now, error: &JobError) {
        let what = format!("could not begin a new timeline: {error}");
        self.wait_for_disk(now, error.is_disk_full(), &what);
    }

    /// Tries again what failed, unless the server stops: the next start is on the old timeline then.
    pub(super) fn retry_switch<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        match self.switch.as_ref().map(|switch| &switch.progress) {
            _ if self.stopping != Stopping::No => {}
            None | Some(Progress::Files) => {}
            Some(Progress::Again) => self.make_switch_files(io, now),
            Some(Progress::Control(_)) => self.go_on_switching(io, now),
        }
    }

    /// The control file of the new timeline, once its files are there.
    pub(super) fn switched_control(&self) -> Option<ControlFile> {
        let (switch, Store { control, local, .. }) = (self.switch.as_ref()?, self.store.as_ref()?);
        let Progress::Control(_) = switch.progress else { return None };
        let mut control = ControlFile { timeline: switch.timeline, ..control.wanted.clone() };
        if switch.purpose == Purpose::Promote {
            let version = local.version();
            control.own_wal = true;
            control.wal_version = control.wal_version.or(version);
        }
        Some(control)
    }

    /// Saves the control file, or goes over to the timeline that it names.
    pub(super) fn go_on_switching<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let Some(Store { control, local, .. }) = &mut self.store else { return };
        let saved = control.saved().map(|saved| saved.timeline);
        match &self.switch {
            Some(Switch { progress: Progress::Control(_), timeline, .. })
                if saved != Some(*timeline) =>
            {
                control.move_bound(local);
                control.wait();
                self.save_control(io);
            }
            Some(Switch { progress: Progress::Control(_), .. }) => self.finish_switch(io, now),
            Some(Switch { progress: Progress::Files | Progress::Again, .. }) | None => {}
        }
    }

    fn finish_switch<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let Some(Switch { purpose, timeline, start, history, progress }) = self.switch.take()
        else {
            return;
        };
        let copied = match progress {
            Progress::Control(copied) => copied,
            Progress::Files | Progress::Again => None,
        };
        if let Some(Store { control, .. }) = &mut self.store {
            control.adopt_saved();
        }
        self.note_disk_has_room();
        match purpose {
            Purpose::Follow => {
                self.adopt_timeline(io, timeline, history, copied);
                tracing::info!("new target timeline is {timeline}");
                self.note_started(now, timeline, start);
                // What has come meanwhile.
                self.publish_received();
                self.acknowledge(io, now);
                self.resume_receiving(io, now);
            }
            Purpose::Promote => {
                self.name_those_ahead(start, timeline);
                self.adopt_timeline(io, timeline, history, copied);
                self.must_keep_partial = true;
                self.finish_promotion(now);
            }
        }
    }
}
