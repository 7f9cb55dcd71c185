//! The files of slots: written and removed by jobs, several at a time, with one flush of their directory.
//!
//! One job is under way at a time. What is asked for meanwhile goes with the next, so that many who create
//! and drop slots share the flushes, and none of them is answered before what was asked for is durable.
//!
//! Not here: which slots there are (`slots`).
//!
//! PostgreSQL: `CreateSlotOnDisk`, `SaveSlotToPath`, `ReplicationSlotDropPtr`.

use std::collections::VecDeque;
use std::path::Path;

use walhub_engine::io::{Io, Waker};
use walhub_proto::slot::{Slot, encode_slot};
use walhub_proto::wire::backend::Report;

use super::WalCore;
use super::slots::{SlotTable, durable_part};
use crate::api::hub::SlotRequest;
use crate::mail::SlotReply;
use crate::store::jobs::{JobError, Jobs, Step, replace_steps};
use crate::store::segments::FileJob;

/// Files that one job works on at most.
const FILES_PER_JOB_MAX: usize = 16;

/// What is being done to a slot's file.
#[derive(Debug)]
pub(super) enum Work {
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
pub(super) struct FileQueue {
    waiting: VecDeque<String>,
    under_way: Vec<String>,
    /// How many that wait have a job of their own: one of them has failed in a job of several.
    alone: usize,
}

/// A request for the same slot that must wait for its file.
pub(super) type Later = VecDeque<(SlotRequest, SlotReply)>;

/// An answer that can be given: of a slot that was made, with its row.
type Answer = (SlotReply, Result<Option<String>, Report>);

impl SlotTable {
    /// Has something done to a slot's file.
    pub(super) fn begin_work(&mut self, name: &str, work: Work) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.work = work;
        self.files.waiting.push_back(name.to_owned());
    }

    /// Starts the next job, if none is under way and there is something to do.
    pub(super) fn start_job<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        if !self.files.under_way.is_empty() || self.files.waiting.is_empty() {
            return;
        }
        let count = if self.files.alone > 0 { 1 } else { FILES_PER_JOB_MAX };
        self.files.alone = self.files.alone.saturating_sub(1);
        let count = count.min(self.files.waiting.len());
        let names: Vec<String> = self.files.waiting.drain(..count).collect();
        let mut steps: Vec<Step> = Vec::new();
        for name in &names {
            let Some(entry) = self.entries.get(name) else { continue };
            let path = self.path(name);
            match &entry.work {
                Work::Nothing => {}
                Work::Create(_) => steps.extend(write_steps(&path, &durable_part(&entry.slot))),
                Work::Save(slot) => steps.extend(write_steps(&path, slot)),
                Work::Drop(..) => steps.push(Step::Unlink(path)),
            }
        }
        steps.push(Step::SyncDir(self.dir.clone()));
        self.files.under_way = names;
        jobs.start(io, FileJob::Slots, steps);
    }

    /// Takes the end of a job: whose work it was. Of several, one of which has failed, each is tried again
    /// by itself.
    fn end_job(&mut self, failed: bool) -> Vec<String> {
        let names = std::mem::take(&mut self.files.under_way);
        if !failed || names.len() == 1 {
            return names;
        }
        self.files.alone = names.len();
        for name in names.into_iter().rev() {
            self.files.waiting.push_front(name);
        }
        Vec::new()
    }

    /// What a job has done to one slot's file, or has failed to do; what waited for that goes to `later`.
    fn finish_work(
        &mut self,
        name: &str,
        result: &Result<(), JobError>,
        later: &mut Later,
    ) -> Option<Answer> {
        let entry = self.entries.get_mut(name)?;
        let work = std::mem::replace(&mut entry.work, Work::Nothing);
        let answer = match (work, result) {
            (Work::Nothing, _) => None,
            (Work::Create(reply), Ok(())) => {
                entry.saved = Some(durable_part(&entry.slot));
                Some((reply, Ok(Some(name.to_owned()))))
            }
            // What is there of it goes first.
            (Work::Create(reply), Err(error)) => {
                self.begin_work(name, Work::Drop(reply, Err(failed(error))));
                return None;
            }
            (Work::Save(slot), Ok(())) => {
                entry.saved = Some(slot);
                None
            }
            (Work::Save(_), Err(error)) => {
                tracing::error!(sqlstate = error.sqlstate().0, "{error}");
                None
            }
            (Work::Drop(reply, Ok(())), Err(error)) => Some((reply, Err(failed(error)))),
            (Work::Drop(reply, answer), _) => {
                later.append(&mut entry.later);
                self.entries.remove(name);
                return Some((reply, answer.map(|()| None)));
            }
        };
        later.append(&mut entry.later);
        answer
    }

    /// Takes the end of a job, and gives the answers that follow from it.
    pub(super) fn handle_job_done(
        &mut self,
        result: &Result<(), JobError>,
        later: &mut Later,
    ) -> Vec<Answer> {
        let names = self.end_job(result.is_err());
        names.iter().filter_map(|name| self.finish_work(name, result, later)).collect()
    }
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

fn failed(error: &JobError) -> Report {
    Report::error(error.sqlstate(), error.to_string())
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Goes on with the files of slots.
    pub(super) fn work_on_slots<I: Io<Conn = C>>(&mut self, io: &mut I) {
        self.slots.start_job(io, &mut self.jobs);
    }

    /// Takes the end of a [`FileJob::Slots`].
    pub(super) fn handle_slots_done<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        result: &Result<(), JobError>,
    ) {
        let mut later = Later::new();
        let answers = self.slots.handle_job_done(result, &mut later);
        // Who is answered finds the views up to date.
        self.publish_slots();
        let rows = self.slot_rows();
        for (reply, answer) in answers {
            let row = |name| rows.iter().find(|row| row.slot_name == name).cloned();
            drop(reply.send(answer.map(|name| name.and_then(row))));
        }
        for (request, reply) in later {
            self.handle_slot_request(request, reply);
        }
        self.finish_drops();
        self.work_on_slots(io);
    }
}
