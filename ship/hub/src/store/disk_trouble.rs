//! A disk that is full or fails for a moment: when it is tried again, and what of it is logged.
//!
//! Not here: which errors may pass (`writer`, `control_file`), what is tried again (`crate::wal_core`).

use std::time::Duration;

use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::{Instant, Now};

use crate::store::jobs::JobError;

/// How often a full or failing disk is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// Why nothing could be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// There is no room.
    Full,
    /// Something that may pass.
    Passing,
}

impl DiskFault {
    /// Of an error that may pass.
    #[must_use]
    pub fn of(error: &JobError) -> Self {
        if error.is_disk_full() { Self::Full } else { Self::Passing }
    }
}

/// Whether the disk is in trouble.
#[derive(Debug, Default)]
pub struct DiskTrouble {
    retry_at: Option<Instant>,
    logged: bool,
}

impl DiskTrouble {
    /// When the disk is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether it is to be tried again.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Whether it is tried again now.
    pub fn handle_timeout(&mut self, now: Now) -> bool {
        let is_due = self.retry_at.is_some_and(|at| at <= now.instant);
        if is_due {
            self.retry_at = None;
        }
        is_due
    }

    /// Has it tried again in a moment, and says once why.
    pub fn handle_fault(&mut self, now: Now, fault: DiskFault, what: &str) {
        self.retry_at = Some(now.instant + DISK_RETRY);
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        let detail = "Receiving WAL pauses when memory is full. What is durable is still served, and nothing more \
                      is acknowledged to the upstream.";
        match fault {
            DiskFault::Full => tracing::error!(
                sqlstate = SqlState::DISK_FULL.0,
                detail,
                hint = "Free space on the file system of the data directory, or lower wal_keep_size or \
                        max_slot_wal_keep_size; of \"File too large\", raise LimitFSIZE= (prlimit --fsize). \
                        Receiving resumes by itself.",
                "{what}"
            ),
            DiskFault::Passing => {
                tracing::error!(sqlstate = SqlState::IO_ERROR.0, detail, "{what}");
            }
        }
    }

    /// Something could be written.
    pub fn handle_written(&mut self) {
        if std::mem::take(&mut self.logged) {
            tracing::info!("there is room for WAL again, receiving resumes");
        }
    }
}
