//! Keeps the control file: what it is to say, what it says, and the save that is under way.
//!
//! One save is under way at a time: with two copies of which each write takes the older one, a second could
//! write over the newer.
//!
//! Not here: its layout (`walhub_proto::recovery`), reading it (`recover`), when its bound moves (`wal_core`).
//!
//! PostgreSQL: `UpdateControlFile`.

use std::path::{Path, PathBuf};

use walhub_engine::io::{Io, OpenMode};
use walhub_proto::recovery::ControlFile;

use crate::store::jobs::{JobError, Jobs, Step, replace_steps};
use crate::store::local::LocalWal;
use crate::store::recover::{CONTROL_FILE, control_block};
use crate::store::segments::FileJob;
use crate::store::writer::is_passing;

/// The control file of one data directory.
#[derive(Debug)]
pub struct ControlFileKeeper {
    path: PathBuf,
    /// What it is to say.
    pub wanted: ControlFile,
    saved: Option<ControlFile>,
    saving: Option<ControlFile>,
    /// Something waits for the save that is under way, or for the next one.
    awaited: bool,
}

/// What became of a save.
#[derive(Debug)]
pub enum ControlSave {
    /// The file says what was wanted then.
    Saved {
        /// Whether something has waited for it.
        was_awaited: bool,
    },
    /// It says what it said before.
    Failed {
        /// Why.
        error: JobError,
        /// Whether something has waited for it.
        was_awaited: bool,
    },
}

impl ControlFileKeeper {
    /// Of a data directory in `data_dir` that has one, with this content.
    #[must_use]
    pub fn found(data_dir: &Path, saved: ControlFile) -> Self {
        Self { saved: Some(saved.clone()), ..Self::new(data_dir, saved) }
    }

    /// Of a data directory that has none yet.
    #[must_use]
    pub fn new(data_dir: &Path, wanted: ControlFile) -> Self {
        let path = data_dir.join(CONTROL_FILE);
        Self { path, wanted, saved: None, saving: None, awaited: false }
    }

    /// What the file says, once there is one.
    #[must_use]
    pub fn saved(&self) -> Option<&ControlFile> {
        self.saved.as_ref()
    }

    /// Whether a save is under way.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Whether a save is under way that something waits for.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited && self.is_saving()
    }

    /// Something waits for the next save, which [`ControlSave`] says then.
    pub fn wait(&mut self) {
        self.awaited = true;
    }

    /// Everything that is durable in `local` becomes the bound.
    pub fn move_bound(&mut self, local: &LocalWal) {
        let wanted = &mut self.wanted;
        wanted.flush_lsn = local.flush_lsn();
        wanted.last_record = local.flushed_record();
        let facts = local.flushed_facts();
        wanted.counters = facts.counters;
        wanted.database.clone_from(&facts.database);
        // Without a whole record that is durable, another start may find other pages there.
        if wanted.last_record.is_some() {
            wanted.wal_version = wanted.wal_version.or(local.version());
        }
    }

    /// Has the file say what is wanted, if it does not and no save is under way.
    pub fn save<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        self.save_as(io, jobs, self.wanted.clone());
    }

    /// As [`ControlFileKeeper::save`], with something else than what is wanted from now on.
    pub fn save_as<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>, content: ControlFile) {
        if self.saving.is_some() || self.saved.as_ref() == Some(&content) {
            return;
        }
        let content = ControlFile { sequence: content.sequence + 1, ..content };
        let (offset, block) = control_block(&content);
        let steps = if self.saved.is_some() {
            let mode = OpenMode { create: true, direct: false };
            vec![
                Step::Open(self.path.clone(), mode),
                Step::Write { offset, data: block.into(), durable: false },
                Step::Sync,
                Step::Close,
            ]
        } else {
            // The first copy has no other to fall back on. With room for both, no later save needs any.
            replace_steps(&self.path, block.repeat(2))
        };
        self.saving = Some(content);
        jobs.start(io, FileJob::Control, steps);
    }

    /// Takes the end of a [`FileJob::Control`].
    pub fn handle_saved(&mut self, result: Result<(), JobError>) -> Option<ControlSave> {
        let saved = self.saving.take()?;
        let was_awaited = std::mem::take(&mut self.awaited);
        Some(match result {
            Ok(()) => {
                self.wanted.sequence = saved.sequence;
                self.saved = Some(saved);
                ControlSave::Saved { was_awaited }
            }
            // The same copy again next time: the other one is the good one.
            Err(error) => ControlSave::Failed { error, was_awaited },
        })
    }

    /// What was saved last is what is wanted from now on.
    pub fn adopt_saved(&mut self) {
        if let Some(saved) = &self.saved {
            self.wanted = saved.clone();
        }
    }
}

/// Whether the same may be done once more: there was no room, or not at this moment.
#[must_use]
pub fn may_pass(error: &JobError) -> bool {
    error.is_disk_full() || is_passing(&error.error)
}
