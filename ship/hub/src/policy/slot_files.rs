//! The files of slots: written and removed by jobs, several at a time, with one flush of their directory.
//!
//! One job is under way at a time. What is asked for meanwhile goes with the next, so that many who create
//! and drop slots share the flushes, and none of them is answered before what was asked for is durable.
//!
//! Not here: which slots there are (`slots`).
//!
//! PostgreSQL: `CreateSlotOnDisk`, `SaveSlotToPath`, `ReplicationSlotDropPtr`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use walhub_proto::slot::{Slot, encode_slot};
use walhub_proto::wire::backend::Report;

use crate::api::stream::SlotRequest;
use crate::mail::SlotReply;
use crate::store::jobs::{JobError, Step, replace_steps};

/// Files that one job works on at most.
const FILES_PER_JOB_MAX: usize = 16;

/// What is being done to a slot's file.
#[derive(Debug)]
pub(crate) enum Work {
    Nothing,
    /// It is written for the first time; then this is answered.
    Create(SlotReply),
    /// It is written again, with this.
    Save(Slot),
    /// It is removed; then this is answered, if it could be.
    Drop(SlotReply, Result<(), Report>),
}

/// Whose files wait for a job, and whose have one.
#[derive(Debug, Default)]
pub(crate) struct FileQueue {
    waiting: VecDeque<String>,
    under_way: Vec<String>,
    /// How many that wait have a job of their own: one of them has failed in a job of several.
    alone: usize,
}

/// A request for the same slot that must wait for its file.
pub(crate) type Later = VecDeque<(SlotRequest, SlotReply)>;

/// An answer that can be given: of a slot that was made, with its row.
pub(crate) type Answer = (SlotReply, Result<Option<String>, Report>);

impl FileQueue {
    /// Something is to be done to this slot's file.
    pub(crate) fn push(&mut self, name: &str) {
        self.waiting.push_back(name.to_owned());
    }

    /// Whose files the next job works on, if none is under way and there is something to do.
    pub(crate) fn begin(&mut self) -> &[String] {
        if !self.under_way.is_empty() || self.waiting.is_empty() {
            return &[];
        }
        let count = if self.alone > 0 { 1 } else { FILES_PER_JOB_MAX };
        self.alone = self.alone.saturating_sub(1);
        let count = count.min(self.waiting.len());
        self.under_way = self.waiting.drain(..count).collect();
        &self.under_way
    }

    /// Takes the end of a job: whose work it was. Of several, one of which has failed, each is tried again
    /// by itself.
    pub(crate) fn end(&mut self, failed: bool) -> Vec<String> {
        let names = std::mem::take(&mut self.under_way);
        if !failed || names.len() == 1 {
            return names;
        }
        self.alone = names.len();
        for name in names.into_iter().rev() {
            self.waiting.push_front(name);
        }
        Vec::new()
    }
}

/// The steps of some work on the file of a slot that is now as in `slot`.
pub(crate) fn steps_of(work: &Work, path: PathBuf, slot: &Slot) -> Vec<Step> {
    match work {
        Work::Nothing => Vec::new(),
        Work::Create(_) => write_steps(&path, &durable_part(slot)),
        Work::Save(slot) => write_steps(&path, slot),
        Work::Drop(..) => vec![Step::Unlink(path)],
    }
}

/// A slot as it is on disk: `active_pid` is not.
pub(crate) fn durable_part(slot: &Slot) -> Slot {
    Slot { active_pid: None, ..slot.clone() }
}

/// The steps that replace a slot's file; its directory is flushed later.
fn write_steps(path: &Path, slot: &Slot) -> Vec<Step> {
    let mut steps = replace_steps(path, encode_slot(slot, walhub_engine::crc::crc32c));
    let flush = steps.pop();
    assert!(
        matches!(flush, Some(Step::SyncDir(_))),
        "a replacement ends with its directory's flush"
    );
    steps
}

pub(crate) fn failed(error: &JobError) -> Report {
    Report::error(error.sqlstate(), error.to_string())
}
