//! The control file: when its bound moves, and when it is saved.
//!
//! Not here: its layout (`walhub_proto::recovery`), reading it (`crate::store::recover`).
//!
//! PostgreSQL: `UpdateControlFile`, `UpdateMinRecoveryPoint`.

use walhub_engine::io::{Io, OpenMode, Waker};
use walhub_proto::recovery::ControlFile;
use walhub_proto::time::Now;

use super::WalCore;
use crate::store::jobs::{JobError, Step, replace_steps};
use crate::store::segments::FileJob;
use crate::store::writer::is_passing;

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// The durable WAL has reached a new segment: the control file's bound follows.
    pub(super) fn note_segment_switch<I: Io<Conn = C>>(&mut self, io: &mut I) {
        self.move_control_bound();
        self.save_control(io);
        self.remove_old_segments(io);
    }

    pub(super) fn move_control_bound(&mut self) {
        let (Some(control), Some(local)) = (&mut self.control, &self.local) else { return };
        control.flush_lsn = local.flush_lsn();
        control.last_record = local.flushed_record();
        let facts = local.flushed_facts();
        control.counters = facts.counters;
        control.database.clone_from(&facts.database);
        // Without a whole record that is durable, another start may find other pages there.
        if control.last_record.is_some() {
            control.wal_version = control.wal_version.or(local.version());
        }
    }

    /// Whether the control file vouches for everything that is durable; if not, it is saved.
    ///
    /// A record that began before the first WAL here cannot be verified after a crash, unless the
    /// control file says that it was durable: that comes before anybody is told so. So does a checkpoint
    /// of the own WAL.
    pub(super) fn is_vouched_for<I: Io<Conn = C>>(&mut self, io: &mut I) -> bool {
        let (Some(saved), Some(local)) = (&self.control_saved, &self.local) else { return true };
        let unseen = local.unseen_end();
        let first = unseen.is_some_and(|end| end > saved.flush_lsn && end <= local.flush_lsn());
        let checkpoint = self.durable_checkpoint();
        let checkpoint = checkpoint.filter(|(start, _)| saved.checkpoint_lsn != Some(*start));
        if !first && checkpoint.is_none() {
            self.forget_saved_checkpoint();
            return true;
        }
        self.move_control_bound();
        if let (Some(control), Some((start, redo))) = (&mut self.control, checkpoint) {
            (control.checkpoint_lsn, control.redo_lsn) = (Some(start), Some(redo));
        }
        self.control_awaited = true;
        self.save_control(io);
        false
    }

    /// Saves the control file, if it has changed. One save is under way at a time: with two copies of which
    /// each write takes the older one, a second could write over the newer.
    pub(super) fn save_control<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let Some(control) = &self.control else { return };
        let wanted = self.switched_control().unwrap_or_else(|| control.clone());
        if self.control_saving.is_some() || self.control_saved.as_ref() == Some(&wanted) {
            return;
        }
        let wanted = ControlFile { sequence: wanted.sequence + 1, ..wanted };
        let (offset, block) = crate::store::recover::control_block(&wanted);
        let path = self.config.data_dir.join(crate::store::recover::CONTROL_FILE);
        let steps = if self.control_saved.is_some() {
            let mode = OpenMode { create: true, direct: false };
            vec![
                Step::Open(path, mode),
                Step::Write { offset, data: block.into(), durable: false },
                Step::Sync,
                Step::Close,
            ]
        } else {
            // The first copy has no other to fall back on. With room for both, no later save needs any.
            replace_steps(&path, block.repeat(2))
        };
        self.control_saving = Some(wanted);
        self.jobs.start(io, FileJob::Control, steps);
    }

    /// Takes the end of a save.
    pub(super) fn handle_control_saved<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        result: Result<(), JobError>,
    ) {
        let Some(saved) = self.control_saving.take() else { return };
        let is_awaited = std::mem::take(&mut self.control_awaited);
        match result {
            Ok(()) => {
                if let Some(control) = &mut self.control {
                    control.sequence = saved.sequence;
                }
                self.control_saved = Some(saved);
                if self.first_wal.is_some() {
                    return self.finish_first_wal(io, now);
                }
                self.go_on_switching(io, now);
                if is_awaited {
                    self.publish_flushed(io, now);
                }
            }
            // The same copy again next time: the other one is the good one.
            Err(error) if self.first_wal.is_some() && may_pass(&error) => {
                self.give_up_first_wal(io, now, &error);
            }
            Err(error) if is_awaited && may_pass(&error) => {
                self.wait_for_disk(
                    now,
                    error.is_disk_full(),
                    &format!("could not write control file: {error}"),
                );
            }
            Err(error) if is_awaited => {
                let text = format!("could not write control file: {error}");
                walhub_engine::fatal::fatal(
                    walhub_engine::fatal::FatalReason::ControlFileFailed,
                    &text,
                );
            }
            // The older bound is good, too.
            Err(error) => tracing::error!(sqlstate = error.sqlstate().0, "{error}"),
        }
    }
}

/// Whether the same may be done once more: there was no room, or not at this moment.
fn may_pass(error: &JobError) -> bool {
    error.is_disk_full() || is_passing(&error.error)
}
