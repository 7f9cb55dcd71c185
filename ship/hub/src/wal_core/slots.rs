//! The hub's replication slots: created, used, advanced, saved.
//!
//! A slot's file is saved when it is made, and before any segment goes that the saved slot still
//! asks for; in between, an older `restart_lsn` on disk only keeps more than is needed. What the
//! client of a logical slot confirms is saved within [`CONFIRMED_SAVE_INTERVAL`]: after a crash it
//! gets again what it confirmed since.
//!
//! Not here: what a slot is (`walhub_proto::slot`), what it keeps (`keep`), its file (`slot_files`).
//!
//! PostgreSQL: src/backend/replication/slot.c.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use walhub_engine::io::{Io, Waker};
use walhub_proto::feedback::{FullTransactionId, Horizons};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::slot::{Slot, validate_name};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Instant;
use walhub_proto::wire::backend::Report;

use std::sync::atomic::Ordering;

use super::slot_files::{FileQueue, Later, Work};
use super::{Store, WalCore};
use crate::api::hub::SlotRequest;
use crate::mail::SlotReply;
use crate::publish::positions::Standby;

/// How often what clients of logical slots have confirmed is saved. PostgreSQL: at each checkpoint,
/// and whenever `restart_lsn` moves.
const CONFIRMED_SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    /// Made by this session, when it is a temporary one.
    owner: Option<u32>,
    /// What its file says. A temporary slot has none, and one that is being made has none yet.
    pub(super) saved: Option<Slot>,
    pub(super) work: Work,
    /// Told once the slot is free to be dropped.
    drop_waiters: Vec<SlotReply>,
    /// What was asked for while its file was being worked on.
    pub(super) later: Later,
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

/// All slots, by name.
#[derive(Debug)]
pub(super) struct SlotTable {
    pub(super) dir: PathBuf,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) files: FileQueue,
    /// When what was confirmed was last saved.
    confirmed_saved_at: Option<Instant>,
}

impl SlotTable {
    pub(super) fn new(dir: PathBuf, slots: Vec<Slot>) -> Self {
        let entry = |slot: Slot| (slot.name.clone(), Entry::new(slot.clone(), None, Some(slot)));
        let entries = slots.into_iter().map(entry).collect();
        Self { dir, entries, files: FileQueue::default(), confirmed_saved_at: None }
    }

    /// Those that anybody may know of.
    pub(super) fn made(&self) -> impl Iterator<Item = &Slot> {
        self.entries.values().filter(|entry| entry.is_made()).map(|entry| &entry.slot)
    }

    /// The slots, for decisions about all of them.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.entries.values().map(|entry| entry.slot.clone()).collect()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Slot> {
        self.entries.get_mut(name).map(|entry| &mut entry.slot)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a session may stream from it, or decode. PostgreSQL: `ReplicationSlotAcquire`,
    /// `StartReplication`, `CreateDecodingContext`.
    pub(super) fn check_usable(&self, name: &str, logical: bool) -> Result<(), Report> {
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

    pub(super) fn acquire(&mut self, name: &str, pid: u32) {
        if let Some(slot) = self.get_mut(name) {
            slot.active_pid = Some(pid);
        }
    }

    pub(super) fn release(&mut self, name: &str) {
        if let Some(slot) = self.get_mut(name) {
            slot.active_pid = None;
        }
    }

    /// First position that some slot's file asks for.
    pub(super) fn saved_restart_lsn(&self) -> Option<Lsn> {
        let durable = self.entries.values().filter(|entry| !entry.slot.temporary);
        durable.filter_map(|entry| entry.saved.as_ref()?.restart_lsn).min()
    }

    /// Saves the slots that have changed and whose file asks for something before `lsn`.
    pub(super) fn save(&mut self, lsn: Lsn) {
        self.save_where(|saved| saved.restart_lsn.is_none_or(|restart_lsn| restart_lsn < lsn));
    }

    /// Saves the logical slots that have changed, if that was not done a moment ago.
    pub(super) fn save_confirmed(&mut self, now: Instant) {
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
    pub(super) fn horizons(&self) -> Horizons {
        // PostgreSQL: ReplicationSlotsComputeRequiredXmin skips invalidated slots.
        self.entries
            .values()
            .filter(|entry| entry.slot.invalidated.is_none())
            .fold(Horizons::default(), |oldest, entry| oldest.oldest(entry.slot.horizons()))
    }
}

/// A slot as it is on disk: `active_pid` is not.
pub(super) fn durable_part(slot: &Slot) -> Slot {
    Slot { active_pid: None, ..slot.clone() }
}

fn missing(name: &str) -> Report {
    Report::error(SqlState::UNDEFINED_OBJECT, format!("replication slot \"{name}\" does not exist"))
}

fn active(name: &str, pid: u32) -> Report {
    let text = format!("replication slot \"{name}\" is active for PID {pid}");
    Report::error(SqlState::OBJECT_IN_USE, text)
}

/// What a standby said its transactions need.
pub(super) fn standby_horizons(standby: &Standby) -> Horizons {
    Horizons {
        xmin: FullTransactionId::from_u64(standby.xmin.load(Ordering::Relaxed)),
        catalog_xmin: FullTransactionId::from_u64(standby.catalog_xmin.load(Ordering::Relaxed)),
    }
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    pub(super) fn handle_slot_request(&mut self, request: SlotRequest, reply: SlotReply) {
        let answer = match request {
            SlotRequest::Create { ref name, .. } | SlotRequest::CreateLogical { ref name, .. }
                if self.slots.entries.get(name).is_some_and(Entry::must_settle) =>
            {
                return self.ask_later(&name.clone(), request, reply);
            }
            SlotRequest::Create { name, temporary, reserve_wal, owner } => {
                let mut slot = Slot::new(name, temporary);
                if reserve_wal {
                    // Where a standby made from a base backup of the primary would begin is not
                    // known here; a slot keeps WAL from the segment that is being written, as a
                    // primary's would from its last checkpoint.
                    (slot.restart_lsn, slot.restart_tli) = self.reserve_from();
                }
                return self.create_slot(slot, owner, reply);
            }
            SlotRequest::CreateLogical { name, temporary, logical, owner } => {
                let mut slot = Slot::new(name, temporary);
                slot.restart_lsn = Some(logical.confirmed_flush_lsn);
                slot.restart_tli = self.reserve_from().1;
                slot.logical = Some(logical);
                return self.create_slot(slot, owner, reply);
            }
            SlotRequest::Confirm { name, flush, restart_lsn } => {
                self.confirm_decoded(&name, flush, restart_lsn).map(|()| None)
            }
            SlotRequest::Drop { ref name, wait } => match self.slots.entries.get_mut(name) {
                None => Err(missing(name)),
                Some(entry) => match entry.slot.active_pid {
                    Some(_) if wait => return entry.drop_waiters.push(reply),
                    Some(pid) => Err(active(name, pid)),
                    None if !entry.is_idle() => {
                        return self.ask_later(&name.clone(), request, reply);
                    }
                    None => return self.drop_slot(&name.clone(), reply),
                },
            },
            SlotRequest::DropTemporary { owner } => {
                self.slots.entries.retain(|_, entry| entry.owner != Some(owner));
                Ok(None)
            }
        };
        self.publish_slots();
        drop(reply.send(answer));
    }

    /// Keeps a request until what is being done to the slot's file is done.
    fn ask_later(&mut self, name: &str, request: SlotRequest, reply: SlotReply) {
        if let Some(entry) = self.slots.entries.get_mut(name) {
            entry.later.push_back((request, reply));
        }
    }

    /// PostgreSQL: `ReplicationSlotCreate`, `ReplicationSlotReserveWal`.
    fn create_slot(&mut self, slot: Slot, owner: u32, reply: SlotReply) {
        if let Err(report) = self.may_create(&slot.name) {
            return drop(reply.send(Err(report)));
        }
        let (name, temporary) = (slot.name.clone(), slot.temporary);
        let owner = temporary.then_some(owner);
        self.slots.entries.insert(name.clone(), Entry::new(slot, owner, None));
        if !temporary {
            // Until it is durable it keeps its WAL, and nobody sees it.
            return self.slots.begin_work(&name, Work::Create(reply));
        }
        self.publish_slots();
        let row = self.slot_rows().into_iter().find(|row| row.slot_name == name);
        drop(reply.send(Ok(row)));
    }

    fn may_create(&self, name: &str) -> Result<(), Report> {
        validate_name(name).map_err(|error| error.report(name))?;
        if self.slots.entries.contains_key(name) {
            let text = format!("replication slot \"{name}\" already exists");
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, text));
        }
        let slots_max =
            usize::try_from(self.config.settings.max_replication_slots).unwrap_or(usize::MAX);
        if self.slots.entries.len() >= slots_max {
            let report = Report::error(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                "all replication slots are in use",
            );
            return Err(report.hint("Free one or increase max_replication_slots."));
        }
        Ok(())
    }

    /// PostgreSQL: `LogicalConfirmReceivedLocation`.
    fn confirm_decoded(&mut self, name: &str, flush: Lsn, restart_lsn: Lsn) -> Result<(), Report> {
        let Some(timeline) = self.local().map(|local| local.segments.timeline()) else {
            return Err(missing(name));
        };
        let slot = self.slots.get_mut(name).ok_or_else(|| missing(name))?;
        slot.confirm_decoded(flush, restart_lsn, timeline);
        Ok(())
    }

    fn reserve_from(&self) -> (Option<Lsn>, Option<TimelineId>) {
        let Some(Store { local, .. }) = &self.store else { return (None, None) };
        // What is durable and not published yet, a start-up may not find again.
        let shared = &self.config.shared;
        let segment = local.segments.size().start_of(shared.flush_lsn.load());
        let lsn = segment.max(shared.oldest_lsn.load());
        (Some(lsn), Some(local.segments.timeline()))
    }

    /// Drops a slot that is idle.
    fn drop_slot(&mut self, name: &str, reply: SlotReply) {
        if self.slots.entries.get(name).is_some_and(|entry| entry.slot.temporary) {
            self.slots.entries.remove(name);
            self.publish_slots();
            return drop(reply.send(Ok(None)));
        }
        self.slots.begin_work(name, Work::Drop(reply, Ok(())));
    }

    /// Drops the slots that became free while somebody waited to drop them. Who else waited asks again.
    pub(super) fn finish_drops(&mut self) {
        let waits = |entry: &Entry| entry.is_idle() && !entry.drop_waiters.is_empty();
        let free = self.slots.entries.iter().filter(|(_, entry)| waits(entry));
        let names: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(entry) = self.slots.entries.get_mut(&name) else { continue };
            for waiter in std::mem::take(&mut entry.drop_waiters) {
                let request = SlotRequest::Drop { name: name.clone(), wait: false };
                self.handle_slot_request(request, waiter);
            }
        }
    }

    /// WAL goes on on another timeline from `fork` on. What a slot was said to need beyond is of the old
    /// one, and a standby that is brought back to the fork needs the new one's from there on.
    pub(super) fn hold_slots_from(&mut self, fork: Lsn, timeline: TimelineId) {
        for entry in self.slots.entries.values_mut() {
            if entry.slot.restart_lsn.is_some_and(|restart_lsn| restart_lsn > fork) {
                entry.slot.restart_lsn = Some(fork);
                entry.slot.restart_tli = Some(timeline);
            }
        }
        self.publish_slots();
    }

    pub(super) fn save_slots<I: Io<Conn = C>>(&mut self, io: &mut I) {
        self.slots.save(Lsn::MAX);
        self.work_on_slots(io);
    }

    /// Takes a standby's reply over into its slot. PostgreSQL: `PhysicalConfirmReceivedLocation`.
    pub(super) fn take_reply(&mut self, standby: usize) {
        let Some(slot) = self.attached.get(&standby).and_then(|attached| attached.slot.as_ref())
        else {
            return;
        };
        let (Some(attached), Some(timelines)) = (self.attached.get(&standby), self.timelines())
        else {
            return;
        };
        let timeline = attached.timeline;
        let entry = self.config.standbys.standby(standby);
        // What it has beyond the end of a timeline that was left is no WAL of this server.
        let end = timelines.history.switchpoint(timeline).map_or(Lsn::MAX, |(lsn, _)| lsn);
        let flush = entry.counted().flush.unwrap_or_default().min(end);
        // What the client of a logical slot says is told by `SlotRequest::Confirm`.
        if let Some(slot) = self.slots.get_mut(slot).filter(|slot| slot.logical.is_none()) {
            slot.confirm_received(flush, timeline);
            // Until the standby says otherwise, the slot holds what the last session asked for.
            if entry.has_fed_back.load(Ordering::Acquire) {
                slot.set_horizons(standby_horizons(entry));
            }
        }
    }
}

#[cfg(test)]
mod tests;
