//! The first contact with an upstream: from then on the data directory belongs to that cluster. The control
//! file says so before any WAL is taken.
//!
//! Not here: the connection (`upstream`), the control file's saves (`crate::store::control_file`).

use std::path::Path;

use walhub_engine::io::Io;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::recovery::ControlFile;

use crate::intake::upstream::Live;
use crate::store::control_file::{ControlFileKeeper, ControlSave};
use crate::store::jobs::{JobError, Jobs};
use crate::store::recover::RecoveredWal;
use crate::store::segments::FileJob;

/// The upstream has said whose WAL this will be, and the control file that says so is being saved.
#[derive(Debug)]
pub(crate) struct FirstContact {
    pub(crate) control: ControlFileKeeper,
    pub(crate) wal: RecoveredWal,
}

impl FirstContact {
    /// With the upstream of `live`, whose WAL comes from `start` on. `None` if it has not said who it is.
    pub(crate) fn begin<I: Io>(
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        data_dir: &Path,
        live: &Live,
        history: TimelineHistory,
        start: Lsn,
    ) -> Option<Self> {
        let (system_identifier, size) = (live.identified?, live.segment_size?);
        let timeline: TimelineId = history.tli();
        let control = ControlFile {
            server_version_num: live.server_version_num,
            server_version: live.server_version.clone(),
            ..ControlFile::beginning(system_identifier, size, timeline, start)
        };
        let mut control = ControlFileKeeper::new(data_dir, control);
        control.save(io, jobs);
        let wal = RecoveredWal::fresh(system_identifier, size, timeline, history, start);
        Some(Self { control, wal })
    }

    /// Takes the end of the save: the first contact, once it is durable.
    ///
    /// # Errors
    /// When it could not be saved: there was no first contact.
    pub(crate) fn handle_saved(mut self, result: Result<(), JobError>) -> Result<Self, JobError> {
        match self.control.handle_saved(result) {
            Some(ControlSave::Failed { error, .. }) => Err(error),
            Some(ControlSave::Saved { .. }) | None => Ok(self),
        }
    }
}
