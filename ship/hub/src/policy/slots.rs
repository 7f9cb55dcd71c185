//! The hub's replication slots: created, used, advanced, saved.
//!
//! A slot's file is saved when it is made, and before any segment goes that the saved slot still
//! asks for; in between, an older `restart_lsn` on disk only keeps more than is needed. What the
//! client of a logical slot confirms is saved within [`CONFIRMED_SAVE_INTERVAL`]: after a crash it
//! gets again what it confirmed since.
//!
//! Not here: what a slot is (`walhub_proto::slot`), what it keeps (`retention`), its file (`slot_files`).
//!
//! PostgreSQL: src/backend/replication/slot.c.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use walhub_engine::io::Io;
use walhub_proto::feedback::{FullTransactionId, Horizons};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::slot::{Slot, validate_name};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Instant;
use walhub_proto::wire::backend::Report;

use crate::api::stream::SlotRequest;
use crate::mail::SlotReply;
use crate::policy::attached::Attached;
use crate::policy::slot_files::{Answer, FileQueue, Later, Work, durable_part, failed, steps_of};
use crate::publish::positions::Standby;
use crate::store::jobs::{JobError, Jobs, Step};
use crate::store::segments::FileJob;
use crate::store::timelines::Timelines;

/// How often what clients of logical slots have confirmed is saved. PostgreSQL: at each checkpoint,
/// and whenever `restart_lsn` moves.
const CONFIRMED_SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    slot: Slot,
    /// Made by this session, when it is a temporary one.
    owner: Option<u32>,
    /// What its file says. A temporary slot has none, and one that is being made has none yet.
    saved: Option<Slot>,
    work: Work,
    /// Told once the slot is free to be dropped.
    drop_waiters: Vec<SlotReply>,
    /// What was asked for while its file was being worked on.
    later: Later,
}

impl Entry {
    fn new(slot: Slot, owner: Option<u32>, saved: Option<Slot>) -> Self {
        let (drop_waiters, later) = (Vec::new(), Later::new());
        Self { slot, owner, saved, work: Work::Nothing, drop_waiters, later }
    }

    /// Whether anybody may know of it.
    fn is_made(&self) -> bool {
        self.slot.temporary || self.saved.is_some()
    }

    /// Whether its file is being made, or removed.
    fn must_settle(&self) -> bool {
        matches!(self.work, Work::Create(_) | Work::Drop(..))
    }

    /// Whether nobody uses it, and nothing is being done to its file.
    fn is_idle(&self) -> bool {
        self.slot.active_pid.is_none() && matches!(self.work, Work::Nothing)
    }
}

/// What a request for a slot depends on beside the slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    /// Where the WAL begins that a new slot keeps, and its timeline; `None` before there is any WAL.
    pub(crate) reserved: Option<(Lsn, TimelineId)>,
    /// `max_replication_slots`.
    pub(crate) slots_max: usize,
}

/// All slots, by name.
#[derive(Debug)]
pub(crate) struct SlotTable {
    dir: PathBuf,
    entries: BTreeMap<String, Entry>,
    files: FileQueue,
    /// When what was confirmed was last saved.
    confirmed_saved_at: Option<Instant>,
}

impl SlotTable {
    pub(crate) fn new(dir: PathBuf, slots: Vec<Slot>) -> Self {
        let entry = |slot: Slot| (slot.name.clone(), Entry::new(slot.clone(), None, Some(slot)));
        let entries = slots.into_iter().map(entry).collect();
        Self { dir, entries, files: FileQueue::default(), confirmed_saved_at: None }
    }

    /// Those that anybody may know of.
    pub(crate) fn made(&self) -> impl Iterator<Item = &Slot> {
        self.entries.values().filter(|entry| entry.is_made()).map(|entry| &entry.slot)
    }

    /// The slots, for decisions about all of them.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.entries.values().map(|entry| entry.slot.clone()).collect()
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Slot> {
        self.entries.get_mut(name).map(|entry| &mut entry.slot)
    }

    /// Whether a session may stream from it, or decode. PostgreSQL: `ReplicationSlotAcquire`,
    /// `StartReplication`, `CreateDecodingContext`.
    pub(crate) fn check_usable(&self, name: &str, logical: bool) -> Result<(), Report> {
        let there = |entry: &&Entry| entry.is_made() && !matches!(entry.work, Work::Drop(..));
        let Some(entry) = self.entries.get(name).filter(there) else { return Err(missing(name)) };
        if let Some(pid) = entry.slot.active_pid {
            return Err(active(name, pid));
        }
        if entry.slot.logical.is_some() != logical {
            let text = if logical {
                "cannot use physical replication slot for logical decoding"
            } else {
                "cannot use a logical replication slot for physical replication"
            };
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
        }
        if entry.slot.invalidated.is_some() {
            let text = format!("can no longer get changes from replication slot \"{name}\"");
            let detail =
                "This slot has been invalidated because it exceeded the maximum reserved size.";
            return Err(
                Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text).detail(detail)
            );
        }
        Ok(())
    }

    pub(crate) fn acquire(&mut self, name: &str, pid: u32) {
        if let Some(slot) = self.get_mut(name) {
            slot.active_pid = Some(pid);
        }
    }

    pub(crate) fn release(&mut self, name: &str) {
        if let Some(slot) = self.get_mut(name) {
            slot.active_pid = None;
        }
    }

    /// First position that some slot's file asks for.
    pub(crate) fn saved_restart_lsn(&self) -> Option<Lsn> {
        let durable = self.entries.values().filter(|entry| !entry.slot.temporary);
        durable.filter_map(|entry| entry.saved.as_ref()?.restart_lsn).min()
    }

    /// Saves the slots that have changed and whose file asks for something before `lsn`.
    pub(crate) fn save(&mut self, lsn: Lsn) {
        self.save_where(|saved| saved.restart_lsn.is_none_or(|restart_lsn| restart_lsn < lsn));
    }

    /// Saves the logical slots that have changed, if that was not done a moment ago.
    pub(crate) fn save_confirmed(&mut self, now: Instant) {
        if self.confirmed_saved_at.is_none_or(|at| at + CONFIRMED_SAVE_INTERVAL <= now) {
            self.confirmed_saved_at = Some(now);
            self.save_where(|saved| saved.logical.is_some());
        }
    }

    /// Saves the slots that have changed and whose file is one of those that `asks` asks about.
    fn save_where(&mut self, asks: impl Fn(&Slot) -> bool) {
        let mut changed = Vec::new();
        for (name, entry) in &self.entries {
            let Some(saved) = &entry.saved else { continue };
            let is_free = matches!(entry.work, Work::Nothing) && entry.drop_waiters.is_empty();
            let current = durable_part(&entry.slot);
            if is_free && asks(saved) && *saved != current {
                changed.push((name.clone(), current));
            }
        }
        for (name, current) in changed {
            self.begin_work(&name, Work::Save(current));
        }
    }

    /// What the downstream standbys and idle slots need together.
    pub(crate) fn horizons(&self) -> Horizons {
        // PostgreSQL: ReplicationSlotsComputeRequiredXmin skips invalidated slots.
        self.entries
            .values()
            .filter(|entry| entry.slot.invalidated.is_none())
            .fold(Horizons::default(), |oldest, entry| oldest.oldest(entry.slot.horizons()))
    }

    /// Has something done to a slot's file.
    fn begin_work(&mut self, name: &str, work: Work) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.work = work;
        self.files.push(name);
    }

    /// Starts the next job on slots' files, if none is under way and there is something to do.
    pub(crate) fn start_job<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>) {
        let names = self.files.begin();
        if names.is_empty() {
            return;
        }
        let mut steps: Vec<Step> = Vec::new();
        for name in names {
            let Some(entry) = self.entries.get(name) else { continue };
            steps.extend(steps_of(&entry.work, self.dir.join(name), &entry.slot));
        }
        steps.push(Step::SyncDir(self.dir.clone()));
        jobs.start(io, FileJob::Slots, steps);
    }

    /// Takes the end of a job. Gives the answers that follow from it, for when the views are up to date, and
    /// what waited for it.
    pub(crate) fn handle_job_done(
        &mut self,
        result: &Result<(), JobError>,
        later: &mut Later,
    ) -> Vec<Answer> {
        let names = self.files.end(result.is_err());
        names.iter().filter_map(|name| self.finish_work(name, result, later)).collect()
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

    /// Does what is asked for, if it may be done at once. The answer is for when the views are up to date.
    pub(crate) fn handle_request(
        &mut self,
        request: SlotRequest,
        reply: SlotReply,
        limits: SlotLimits,
    ) -> Option<Answer> {
        let timeline = limits.reserved.map(|(_, timeline)| timeline);
        let answer = match request {
            SlotRequest::Create { ref name, .. } | SlotRequest::CreateLogical { ref name, .. }
                if self.entries.get(name).is_some_and(Entry::must_settle) =>
            {
                self.ask_later(&name.clone(), request, reply);
                return None;
            }
            SlotRequest::Create { name, temporary, reserve_wal, owner } => {
                let mut slot = Slot::new(name, temporary);
                if reserve_wal {
                    // Where a standby made from a base backup of the primary would begin is not
                    // known here; a slot keeps WAL from the segment that is being written, as a
                    // primary's would from its last checkpoint.
                    slot.restart_lsn = limits.reserved.map(|(lsn, _)| lsn);
                    slot.restart_tli = timeline;
                }
                return self.create(slot, owner, reply, limits.slots_max);
            }
            SlotRequest::CreateLogical { name, temporary, logical, owner } => {
                let mut slot = Slot::new(name, temporary);
                slot.restart_lsn = Some(logical.confirmed_flush_lsn);
                slot.restart_tli = timeline;
                slot.logical = Some(logical);
                return self.create(slot, owner, reply, limits.slots_max);
            }
            // PostgreSQL: LogicalConfirmReceivedLocation.
            SlotRequest::Confirm { name, flush, restart_lsn } => {
                match (self.get_mut(&name), timeline) {
                    (Some(slot), Some(timeline)) => {
                        slot.confirm_decoded(flush, restart_lsn, timeline);
                        Ok(None)
                    }
                    _ => Err(missing(&name)),
                }
            }
            SlotRequest::Drop { ref name, wait } => match self.entries.get_mut(name) {
                None => Err(missing(name)),
                Some(entry) => match entry.slot.active_pid {
                    Some(_) if wait => {
                        entry.drop_waiters.push(reply);
                        return None;
                    }
                    Some(pid) => Err(active(name, pid)),
                    None if !entry.is_idle() => {
                        self.ask_later(&name.clone(), request, reply);
                        return None;
                    }
                    None => return self.remove(&name.clone(), reply),
                },
            },
            SlotRequest::DropTemporary { owner } => {
                self.entries.retain(|_, entry| entry.owner != Some(owner));
                Ok(None)
            }
        };
        Some((reply, answer))
    }

    /// Keeps a request until what is being done to the slot's file is done.
    fn ask_later(&mut self, name: &str, request: SlotRequest, reply: SlotReply) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.later.push_back((request, reply));
        }
    }

    /// PostgreSQL: `ReplicationSlotCreate`, `ReplicationSlotReserveWal`.
    fn create(
        &mut self,
        slot: Slot,
        owner: u32,
        reply: SlotReply,
        slots_max: usize,
    ) -> Option<Answer> {
        if let Err(report) = self.may_create(&slot.name, slots_max) {
            return Some((reply, Err(report)));
        }
        let (name, temporary) = (slot.name.clone(), slot.temporary);
        let owner = temporary.then_some(owner);
        self.entries.insert(name.clone(), Entry::new(slot, owner, None));
        if temporary {
            return Some((reply, Ok(Some(name))));
        }
        // Until it is durable it keeps its WAL, and nobody sees it.
        self.begin_work(&name, Work::Create(reply));
        None
    }

    fn may_create(&self, name: &str, slots_max: usize) -> Result<(), Report> {
        validate_name(name).map_err(|error| error.report(name))?;
        if self.entries.contains_key(name) {
            let text = format!("replication slot \"{name}\" already exists");
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, text));
        }
        if self.entries.len() >= slots_max {
            let report = Report::error(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                "all replication slots are in use",
            );
            return Err(report.hint("Free one or increase max_replication_slots."));
        }
        Ok(())
    }

    /// Drops a slot that is idle.
    fn remove(&mut self, name: &str, reply: SlotReply) -> Option<Answer> {
        if self.entries.get(name).is_some_and(|entry| entry.slot.temporary) {
            self.entries.remove(name);
            return Some((reply, Ok(None)));
        }
        self.begin_work(name, Work::Drop(reply, Ok(())));
        None
    }

    /// Drops the slots that became free while somebody waited to drop them. Who else waited asks again.
    pub(crate) fn finish_drops(&mut self, limits: SlotLimits) -> Vec<Answer> {
        let waits = |entry: &Entry| entry.is_idle() && !entry.drop_waiters.is_empty();
        let free = self.entries.iter().filter(|(_, entry)| waits(entry));
        let names: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        let mut answers = Vec::new();
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            for waiter in std::mem::take(&mut entry.drop_waiters) {
                let request = SlotRequest::Drop { name: name.clone(), wait: false };
                answers.extend(self.handle_request(request, waiter, limits));
            }
        }
        answers
    }

    /// WAL goes on on another timeline from `fork` on. What a slot was said to need beyond is of the old
    /// one, and a standby that is brought back to the fork needs the new one's from there on.
    pub(crate) fn hold_from(&mut self, fork: Lsn, timeline: TimelineId) {
        for entry in self.entries.values_mut() {
            if entry.slot.restart_lsn.is_some_and(|restart_lsn| restart_lsn > fork) {
                entry.slot.restart_lsn = Some(fork);
                entry.slot.restart_tli = Some(timeline);
            }
        }
    }

    /// Takes a standby's reply over into its slot. PostgreSQL: `PhysicalConfirmReceivedLocation`.
    pub(crate) fn take_reply(
        &mut self,
        attached: &Attached,
        standby: &Standby,
        timelines: &Timelines,
    ) {
        let Some(slot) = attached.slot.as_ref().and_then(|slot| self.get_mut(slot)) else { return };
        // What the client of a logical slot says is told by `SlotRequest::Confirm`.
        if slot.logical.is_some() {
            return;
        }
        let timeline = attached.timeline;
        // What it has beyond the end of a timeline that was left is no WAL of this server.
        let end = timelines.history.switchpoint(timeline).map_or(Lsn::MAX, |(lsn, _)| lsn);
        let flush = standby.counted().flush.unwrap_or_default().min(end);
        slot.confirm_received(flush, timeline);
        // Until the standby says otherwise, the slot holds what the last session asked for.
        if standby.has_fed_back.load(Ordering::Acquire) {
            slot.set_horizons(standby_horizons(standby));
        }
    }
}

fn missing(name: &str) -> Report {
    Report::error(SqlState::UNDEFINED_OBJECT, format!("replication slot \"{name}\" does not exist"))
}

fn active(name: &str, pid: u32) -> Report {
    let text = format!("replication slot \"{name}\" is active for PID {pid}");
    Report::error(SqlState::OBJECT_IN_USE, text)
}

/// What a standby said its transactions need.
pub(crate) fn standby_horizons(standby: &Standby) -> Horizons {
    Horizons {
        xmin: FullTransactionId::from_u64(standby.xmin.load(Ordering::Relaxed)),
        catalog_xmin: FullTransactionId::from_u64(standby.catalog_xmin.load(Ordering::Relaxed)),
    }
}

#[cfg(test)]
mod tests;
