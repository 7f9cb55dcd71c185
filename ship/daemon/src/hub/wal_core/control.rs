//! The control file: when its bound moves, and when it is saved.
//!
//! Not here: its layout (`walhub_proto::recovery`), reading it (`super::super::recover`).
//!
//! PostgreSQL: `UpdateControlFile`, `UpdateMinRecoveryPoint`.

use std::io;

use walhub_engine::io::{Io, Waker};
use walhub_proto::recovery::ControlFile;

use super::super::jobs::Step;
use super::super::segments::FileJob;
use super::super::writer::{is_disk_full, is_passing};
use super::WalCore;

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

    /// A record that began before the first WAL here cannot be verified after a crash, unless the
    /// control file says that it was durable: that comes before anybody is told so.
    pub(super) fn vouch_for_first_record<I: Io<Conn = C>>(&mut self, io: &I) -> io::Result<()> {
        let (Some(control), Some(local)) = (&self.control, &self.local) else { return Ok(()) };
        let unseen = local.unseen_end().filter(|&end| end > control.flush_lsn);
        if unseen.is_none_or(|end| end > local.flush_lsn()) {
            return Ok(());
        }
        let before = control.clone();
        self.move_control_bound();
        let saved = self.save_control_now(io);
        if let (Err(_), Some(control)) = (&saved, &mut self.control) {
            let sequence = control.sequence;
            *control = ControlFile { sequence, ..before };
        }
        saved
    }

    pub(super) fn save_control<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let Some(control) = &mut self.control else { return };
        if self.control_saving.is_some() || self.control_saved.as_ref() == Some(control) {
            return;
        }
        control.sequence += 1;
        self.control_saving = Some(control.clone());
        let (offset, block) = super::super::recover::control_block(control);
        let path = self.config.data_dir.join(super::super::recover::CONTROL_FILE);
        let mode = walhub_engine::io::OpenMode { create: true, direct: false };
        let steps = vec![
            Step::Open(path, mode),
            Step::Write { offset, data: block.into(), durable: false },
            Step::Sync,
            Step::Close,
        ];
        self.jobs.start(io, FileJob::Control, steps);
    }

    /// Saves the control file and waits for it: for what must be durable before anything else is.
    ///
    /// # Errors
    /// When there is no room, or not at this moment; then nothing has changed. Any other error ends the process.
    pub(super) fn save_control_now<I: Io<Conn = C>>(&mut self, io: &I) -> io::Result<()> {
        let Some(control) = &mut self.control else { return Ok(()) };
        control.sequence += 1;
        // Not the copy that a save under way may yet write over: after two timeline switches in a row
        // that would be the newer of the two.
        let copy = |control: &ControlFile| super::super::recover::control_block(control).0;
        if self.control_saving.as_ref().is_some_and(|saving| copy(saving) == copy(control)) {
            control.sequence += 1;
        }
        match super::super::recover::write_control(io.fs().as_ref(), &self.config.data_dir, control)
        {
            Ok(()) => {
                self.control_saved = Some(control.clone());
                Ok(())
            }
            Err(error) if is_disk_full(&error) || is_passing(&error) => {
                // The same copy again next time: the other one is the good one.
                control.sequence -= 1;
                Err(error)
            }
            Err(error) => {
                let text = format!("could not write control file: {error}");
                walhub_engine::fatal::fatal(
                    walhub_engine::fatal::FatalReason::ControlFileFailed,
                    &text,
                );
            }
        }
    }
}
