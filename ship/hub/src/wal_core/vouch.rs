//! What the control file vouches for: when its bound moves, and what waits until it is saved.
//!
//! Not here: saving it (`crate::store::control_file`).
//!
//! PostgreSQL: `UpdateMinRecoveryPoint`.

use walhub_engine::io::{Io, Waker};
use walhub_proto::time::Now;

use super::{Store, WalCore};
use crate::store::control_file::{ControlFileKeeper, ControlSave, may_pass};
use crate::store::jobs::JobError;

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// The control file, from the first contact on.
    pub(super) fn control_file(&self) -> Option<&ControlFileKeeper> {
        let of_contact = self.first_contact.as_ref().map(|contact| &contact.control);
        of_contact.or(self.store.as_ref().map(|store| &store.control))
    }

    /// The durable WAL has reached a new segment: the control file's bound follows.
    pub(super) fn note_segment_switch<I: Io<Conn = C>>(&mut self, io: &mut I) {
        self.move_control_bound();
        self.save_control(io);
        self.remove_old_segments(io);
    }

    pub(super) fn move_control_bound(&mut self) {
        if let Some(Store { control, local, .. }) = &mut self.store {
            control.move_bound(local);
        }
    }

    /// Whether the control file vouches for everything that is durable; if not, it is saved.
    ///
    /// A record that began before the first WAL here cannot be verified after a crash, unless the
    /// control file says that it was durable: that comes before anybody is told so. So does a checkpoint
    /// of the own WAL.
    pub(super) fn is_vouched_for<I: Io<Conn = C>>(&mut self, io: &mut I) -> bool {
        let checkpoint = self.durable_checkpoint();
        let Some(Store { control, local, .. }) = &mut self.store else { return true };
        let Some(saved) = control.saved() else { return true };
        let unseen = local.unseen_end();
        let first = unseen.is_some_and(|end| end > saved.flush_lsn && end <= local.flush_lsn());
        let checkpoint = checkpoint.filter(|(start, _)| saved.checkpoint_lsn != Some(*start));
        if !first && checkpoint.is_none() {
            self.forget_saved_checkpoint();
            return true;
        }
        control.move_bound(local);
        if let Some((start, redo)) = checkpoint {
            (control.wanted.checkpoint_lsn, control.wanted.redo_lsn) = (Some(start), Some(redo));
        }
        control.wait();
        self.save_control(io);
        false
    }

    /// Saves the control file, if it is to say something else than it does.
    pub(super) fn save_control<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let switched = self.switched_control();
        let Some(Store { control, .. }) = &mut self.store else { return };
        match switched {
            Some(content) => control.save_as(io, &mut self.jobs, content),
            None => control.save(io, &mut self.jobs),
        }
    }

    /// Takes the end of a save.
    pub(super) fn handle_control_saved<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        result: Result<(), JobError>,
    ) {
        if let Some(contact) = &mut self.first_contact {
            return match contact.control.handle_saved(result) {
                Some(ControlSave::Saved { .. }) => self.finish_first_contact(io, now),
                Some(ControlSave::Failed { error, .. }) if may_pass(&error) => {
                    self.give_up_first_contact(io, now, &error);
                }
                Some(ControlSave::Failed { error, .. }) => end_process(&error),
                None => {}
            };
        }
        let Some(Store { control, .. }) = &mut self.store else { return };
        match control.handle_saved(result) {
            None => {}
            Some(ControlSave::Saved { was_awaited }) => {
                self.go_on_switching(io, now);
                if was_awaited {
                    self.publish_flushed(io, now);
                }
            }
            Some(ControlSave::Failed { error, was_awaited: true }) if may_pass(&error) => {
                let what = format!("could not write control file: {error}");
                self.wait_for_disk(now, error.is_disk_full(), &what);
            }
            Some(ControlSave::Failed { error, was_awaited: true }) => end_process(&error),
            // The older bound is good, too.
            Some(ControlSave::Failed { error, was_awaited: false }) => {
                tracing::error!(sqlstate = error.sqlstate().0, "{error}");
            }
        }
    }
}

fn end_process(error: &JobError) {
    let text = format!("could not write control file: {error}");
    walhub_engine::fatal::fatal(walhub_engine::fatal::FatalReason::ControlFileFailed, &text);
}
