//! The hub's replication slots: created, used, advanced, saved.
//!
//! A slot's file is saved when it is made, and before any segment goes that the saved slot still
//! asks for; in between, an older `restart_lsn` on disk only keeps more than is needed. What the
//! client of a logical slot confirms is saved within [`CONFIRMED_SAVE_INTERVAL`]: after a crash it
//! gets again what it confirmed since.
//!
//! Not here: what a slot is (`walhub_proto::slot`), what it keeps (`keep`).
//!
//! PostgreSQL: src/backend/replication/slot.c.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walhub_engine::io::{Io, Waker};
use walhub_proto::feedback::{FullTransactionId, Horizons};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::slot::{Slot, encode_slot, validate_name};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Instant;
use walhub_proto::wire::backend::Report;

use std::sync::atomic::Ordering;

use super::super::handle::{SlotRequest, SlotRow};
use super::super::jobs::{Jobs, replace_steps};
use super::super::messages::SlotReply;
use super::super::segments::FileJob;
use super::super::shared::Standby;
use super::WalCore;

/// How often what clients of logical slots have confirmed is saved. PostgreSQL: at each checkpoint,
/// and whenever `restart_lsn` moves.
const CONFIRMED_SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    slot: Slot,
    /// Made by this session, when it is a temporary one.
    owner: Option<u32>,
    saved: Option<Slot>,
    saving: Option<Slot>,
    /// Told once the slot is free to be dropped.
    drop_waiters: Vec<SlotReply>,
}

impl Entry {
    /// Whether it can be dropped now: a save that is under way would bring the file back.
    fn may_go(&self) -> bool {
        self.slot.active_pid.is_none() && self.saving.is_none()
    }
}

/// All slots, by name.
#[derive(Debug)]
pub(super) struct SlotTable {
    dir: PathBuf,
    entries: BTreeMap<String, Entry>,
    /// When what was confirmed was last saved.
    confirmed_saved_at: Option<Instant>,
}

impl SlotTable {
    pub(super) fn new(dir: PathBuf, slots: Vec<Slot>) -> Self {
        let entry = |slot: Slot| {
            let saved = Some(slot.clone());
            (
                slot.name.clone(),
                Entry { slot, owner: None, saved, saving: None, drop_waiters: Vec::new() },
            )
        };
        Self { dir, entries: slots.into_iter().map(entry).collect(), confirmed_saved_at: None }
    }

    /// The slots, for decisions about all of them.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.entries.values().map(|entry| entry.slot.clone()).collect()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Slot> {
        self.entries.get_mut(name).map(|entry| &mut entry.slot)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a session may stream from it, or decode. PostgreSQL: `ReplicationSlotAcquire`,
    /// `StartReplication`, `CreateDecodingContext`.
    pub(super) fn check_usable(&self, name: &str, logical: bool) -> Result<(), Report> {
        let Some(entry) = self.entries.get(name) else { return Err(missing(name)) };
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

    pub(super) fn handle_saved(&mut self, name: &str, saved: bool) {
        if let Some(entry) = self.entries.get_mut(name) {
            let saving = entry.saving.take();
            if saved {
                entry.saved = saving;
            }
        }
    }

    /// First position that some slot's file asks for.
    pub(super) fn saved_restart_lsn(&self) -> Option<Lsn> {
        let durable = self.entries.values().filter(|entry| !entry.slot.temporary);
        durable.filter_map(|entry| entry.saved.as_ref()?.restart_lsn).min()
    }

    /// Saves the slots that have changed and whose file asks for something before `lsn`.
    pub(super) fn save<I: Io>(&mut self, io: &mut I, jobs: &mut Jobs<FileJob>, lsn: Lsn) {
        self.save_where(io, jobs, |saved| {
            let restart_lsn = saved.and_then(|saved| saved.restart_lsn);
            restart_lsn.is_none_or(|restart_lsn| restart_lsn < lsn)
        });
    }

    /// Saves the logical slots that have changed, if that was not done a moment ago.
    pub(super) fn save_confirmed<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        now: Instant,
    ) {
        if self.confirmed_saved_at.is_none_or(|at| at + CONFIRMED_SAVE_INTERVAL <= now) {
            self.confirmed_saved_at = Some(now);
            self.save_where(io, jobs, |saved| saved.is_some_and(|saved| saved.logical.is_some()));
        }
    }

    /// Saves the slots that have changed and whose file is one of those that `asks` asks about.
    fn save_where<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        asks: impl Fn(Option<&Slot>) -> bool,
    ) {
        for (name, entry) in &mut self.entries {
            let current = durable_part(&entry.slot);
            let saved = entry.saved.as_ref();
            let asks = asks(saved);
            let going = !entry.drop_waiters.is_empty();
            if entry.slot.temporary
                || going
                || entry.saving.is_some()
                || !asks
                || saved == Some(&current)
            {
                continue;
            }
            let content = encode_slot(&current, walhub_engine::crc::crc32c);
            entry.saving = Some(current);
            jobs.start(
                io,
                FileJob::Slot(name.clone()),
                replace_steps(&self.dir.join(name), content),
            );
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
fn durable_part(slot: &Slot) -> Slot {
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
    pub(super) fn handle_slot_request<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        request: SlotRequest,
        reply: SlotReply,
    ) {
        let answer = match request {
            SlotRequest::Create { name, temporary, reserve_wal, owner } => {
                self.create_slot(io, &name, temporary, owner, |core, slot| {
                    if reserve_wal {
                        // Where a standby made from a base backup of the primary would begin is not
                        // known here; a slot keeps WAL from the segment that is being written, as a
                        // primary's would from its last checkpoint.
                        (slot.restart_lsn, slot.restart_tli) = core.reserve_from();
                    }
                })
                .map(Some)
            }
            SlotRequest::CreateLogical { name, temporary, logical, owner } => self
                .create_slot(io, &name, temporary, owner, |core, slot| {
                    slot.restart_lsn = Some(logical.confirmed_flush_lsn);
                    slot.restart_tli = core.reserve_from().1;
                    slot.logical = Some(logical);
                })
                .map(Some),
            SlotRequest::Confirm { name, flush, restart_lsn } => {
                self.confirm_decoded(&name, flush, restart_lsn).map(|()| None)
            }
            SlotRequest::Drop { name, wait } => match self.slots.entries.get_mut(&name) {
                None => Err(missing(&name)),
                Some(entry) => match entry.slot.active_pid {
                    Some(_) if wait => return entry.drop_waiters.push(reply),
                    Some(pid) => Err(active(&name, pid)),
                    None if !entry.may_go() => return entry.drop_waiters.push(reply),
                    None => self.drop_slot(io, &name).map(|()| None),
                },
            },
            SlotRequest::DropTemporary { owner } => {
                let owned =
                    self.slots.entries.iter().filter(|(_, entry)| entry.owner == Some(owner));
                let names: Vec<String> = owned.map(|(name, _)| name.clone()).collect();
                for name in names {
                    self.slots.entries.remove(&name);
                }
                Ok(None)
            }
        };
        self.publish_slots();
        drop(reply.send(answer));
    }

    /// PostgreSQL: `ReplicationSlotCreate`, `ReplicationSlotReserveWal`.
    fn create_slot<I: Io>(
        &mut self,
        io: &mut I,
        name: &str,
        temporary: bool,
        owner: u32,
        reserve: impl FnOnce(&Self, &mut Slot),
    ) -> Result<SlotRow, Report> {
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
        let mut slot = Slot::new(name.to_owned(), temporary);
        reserve(self, &mut slot);
        if !temporary {
            self.write_slot(io, &slot)?;
        }
        let saved = (!temporary).then(|| slot.clone());
        let owner = temporary.then_some(owner);
        let entry = Entry { slot, owner, saved, saving: None, drop_waiters: Vec::new() };
        self.slots.entries.insert(name.to_owned(), entry);
        self.slot_rows()
            .into_iter()
            .find(|row| row.slot_name == name)
            .ok_or_else(|| Report::error(SqlState::INTERNAL_ERROR, "the slot went away"))
    }

    /// PostgreSQL: `LogicalConfirmReceivedLocation`.
    fn confirm_decoded(&mut self, name: &str, flush: Lsn, restart_lsn: Lsn) -> Result<(), Report> {
        let Some(timeline) = self.local.as_ref().map(|local| local.segments.timeline()) else {
            return Err(missing(name));
        };
        let slot = self.slots.get_mut(name).ok_or_else(|| missing(name))?;
        slot.confirm_decoded(flush, restart_lsn, timeline);
        Ok(())
    }

    fn reserve_from(&self) -> (Option<Lsn>, Option<TimelineId>) {
        let Some(local) = &self.local else { return (None, None) };
        let lsn = local
            .segments
            .size()
            .start_of(local.flush_lsn())
            .max(self.config.shared.oldest_lsn.load());
        (Some(lsn), Some(local.segments.timeline()))
    }

    fn write_slot<I: Io>(&self, io: &I, slot: &Slot) -> Result<(), Report> {
        let path = self.slots.path(&slot.name);
        let content = encode_slot(slot, walhub_engine::crc::crc32c);
        let failed = |error: std::io::Error| {
            Report::error(
                SqlState::IO_ERROR,
                format!("could not write to file \"{}\": {error}", path.display()),
            )
        };
        io.fs().replace(&path, &content).map_err(failed)
    }

    fn drop_slot<I: Io>(&mut self, io: &I, name: &str) -> Result<(), Report> {
        let path = self.slots.path(name);
        let temporary = self.slots.entries.get(name).is_some_and(|entry| entry.slot.temporary);
        if !temporary {
            remove_durably(io, &path, &self.slots.dir).map_err(|error| {
                Report::error(
                    SqlState::IO_ERROR,
                    format!("could not remove file \"{}\": {error}", path.display()),
                )
            })?;
        }
        self.slots.entries.remove(name);
        Ok(())
    }

    /// Drops the slots that became free while somebody waited to drop them.
    pub(super) fn finish_drops<I: Io>(&mut self, io: &I) {
        let free = self
            .slots
            .entries
            .iter()
            .filter(|(_, entry)| entry.may_go() && !entry.drop_waiters.is_empty());
        let names: Vec<String> = free.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(entry) = self.slots.entries.get_mut(&name) else { continue };
            let waiters = std::mem::take(&mut entry.drop_waiters);
            let mut answer = self.drop_slot(io, &name);
            for waiter in waiters {
                drop(waiter.send(answer.map(|()| None)));
                answer = Err(missing(&name));
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

    pub(super) fn save_slots<I: Io>(&mut self, io: &mut I) {
        self.slots.save(io, &mut self.jobs, Lsn::MAX);
    }

    /// Takes a standby's reply over into its slot. PostgreSQL: `PhysicalConfirmReceivedLocation`.
    pub(super) fn take_reply(&mut self, standby: usize) {
        let Some(slot) = self.attached.get(&standby).and_then(|attached| attached.slot.as_ref())
        else {
            return;
        };
        let (Some(attached), Some(timelines)) = (self.attached.get(&standby), &self.timelines)
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

fn remove_durably<I: Io>(io: &I, path: &Path, dir: &Path) -> std::io::Result<()> {
    let fs = io.fs();
    match fs.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use walhub_engine::uring::{Uring, UringConfig};
    use walhub_proto::slot::LogicalSlot;

    use super::*;

    fn run(io: &mut Uring, jobs: &mut Jobs<FileJob>, table: &mut SlotTable) {
        while !jobs.is_idle() {
            let mut completions = Vec::new();
            io.wait(None, &mut completions).unwrap();
            for completion in completions {
                let finished = jobs.handle(io, completion.token, completion.result);
                if let Some(FileJob::Slot(name)) = finished.map(|finished| finished.kind) {
                    table.handle_saved(&name, true);
                }
            }
        }
    }

    #[test]
    fn a_slot_is_not_dropped_while_its_file_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut io = Uring::new(UringConfig::default()).unwrap();
        let (mut jobs, slot) = (Jobs::new(1 << 60), Slot::new("a".into(), false));
        let mut table = SlotTable::new(dir.path().to_owned(), vec![slot]);
        assert!(table.entries["a"].may_go());
        table.get_mut("a").unwrap().restart_lsn = Some(Lsn(100));
        table.save(&mut io, &mut jobs, Lsn::MAX);
        assert!(!table.entries["a"].may_go());
        // Nor is it written again while somebody waits to drop it.
        let (waiter, _) = tokio::sync::oneshot::channel();
        table.entries.get_mut("a").unwrap().drop_waiters.push(waiter);
        run(&mut io, &mut jobs, &mut table);
        assert!(table.entries["a"].may_go() && dir.path().join("a").exists());
        table.get_mut("a").unwrap().restart_lsn = Some(Lsn(200));
        table.save(&mut io, &mut jobs, Lsn::MAX);
        assert!(jobs.is_idle());
    }

    #[test]
    fn what_is_confirmed_is_saved_within_a_second_for_logical_slots_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut io = Uring::new(UringConfig::default()).unwrap();
        let mut jobs = Jobs::new(1 << 60);
        let logical = LogicalSlot {
            plugin: "pgoutput".into(),
            database: "d".into(),
            database_oid: 5,
            confirmed_flush_lsn: Lsn(100),
            two_phase: false,
            failover: false,
        };
        let mut slot = Slot::new("l".into(), false);
        (slot.restart_lsn, slot.logical) = (Some(Lsn(50)), Some(logical));
        let mut physical = Slot::new("p".into(), false);
        physical.restart_lsn = Some(Lsn(50));
        let mut table = SlotTable::new(dir.path().to_owned(), vec![slot, physical]);
        let saved = || {
            let file = std::fs::read(dir.path().join("l")).unwrap();
            let slot = walhub_proto::slot::decode_slot(&file, walhub_engine::crc::crc32c).unwrap();
            slot.logical.unwrap().confirmed_flush_lsn
        };
        let half = CONFIRMED_SAVE_INTERVAL / 2;
        for (step, want) in [(0, 101), (1, 101), (2, 103), (3, 103)] {
            let lsn = Lsn(101 + u64::from(step));
            let slot = table.get_mut("l").unwrap();
            assert!(slot.confirm_decoded(lsn, Lsn(60), TimelineId::FIRST));
            table.get_mut("p").unwrap().restart_lsn = Some(lsn);
            table.save_confirmed(&mut io, &mut jobs, Instant(7) + half * step);
            run(&mut io, &mut jobs, &mut table);
            assert_eq!(saved(), Lsn(want), "step {step}");
            assert!(!dir.path().join("p").exists());
        }
        assert_eq!(table.saved_restart_lsn(), Some(Lsn(50)));
        let error = |name, logical| table.check_usable(name, logical).unwrap_err().message;
        assert_eq!(
            error("l", false),
            "cannot use a logical replication slot for physical replication"
        );
        assert_eq!(error("p", true), "cannot use physical replication slot for logical decoding");
        assert!(table.check_usable("l", true).is_ok() && table.check_usable("p", false).is_ok());
    }

    #[test]
    fn an_invalidated_slot_holds_no_rows_back() {
        let mut slot = Slot::new("a".into(), false);
        slot.restart_lsn = Some(Lsn(100));
        slot.xmin = FullTransactionId::new(0, 7);
        let mut table = SlotTable::new(PathBuf::new(), vec![slot]);
        assert!(!table.horizons().is_empty());
        table.get_mut("a").unwrap().invalidate();
        assert!(table.horizons().is_empty());
    }
}
