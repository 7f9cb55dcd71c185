//! How long WAL stays here: which segments may go, and what the view of the slots says of that.
//!
//! Not here: the rules (`walhub_proto::retention`), when they are applied (`crate::wal_core`).
//!
//! PostgreSQL: `RemoveOldXlogFiles`, `InvalidateObsoleteReplicationSlots`.

use std::sync::atomic::Ordering;

use walhub_engine::io::Io;
use walhub_proto::convert::to_usize;
use walhub_proto::feedback::FullTransactionId;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::retention::{Retention, RetentionConfig, RetentionPlan, WalStatus};
use walhub_proto::segment::SegNo;
use walhub_proto::slot::Slot;

use crate::api::rows::SlotRow;
use crate::api::settings::HubSettings;
use crate::policy::slots::{SlotLimits, SlotTable};
use crate::publish::positions::{Shared, StandbyTable};
use crate::store::Store;
use crate::store::jobs::Jobs;
use crate::store::segments::FileJob;

/// [`WalConfig::max_wal_size`](crate::wal_core::WalConfig::max_wal_size) of a server. PostgreSQL: the default.
pub const MAX_WAL_SIZE: u64 = 1 << 30;

/// What decides how long WAL stays, beside the slots.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    pub(crate) settings: &'a HubSettings,
    /// Bytes of WAL that connected standbys without a slot may hold back at most, and beyond which a slot
    /// is `extended`.
    pub(crate) max_wal_size: u64,
    pub(crate) shared: &'a Shared,
    pub(crate) standbys: &'a StandbyTable,
}

impl Keeper<'_> {
    fn retention(&self, store: &Store) -> Retention {
        let config = RetentionConfig {
            wal_keep_size: self.settings.wal_keep_size,
            max_slot_wal_keep_size: self.settings.max_slot_wal_keep_size,
            max_wal_size: self.max_wal_size,
        };
        Retention::new(config, store.local.segments.size())
    }

    /// First position that must stay whatever the slots say: what a restart reads, what connected
    /// standbys have yet to get, and `min_wal_size` for those that will be back in a moment. A
    /// PostgreSQL server keeps that much between two checkpoints.
    fn needed_lsn(&self, store: &Store) -> Lsn {
        let flush_lsn = store.local.flush_lsn();
        let back = |bytes: u64| Lsn(flush_lsn.0.saturating_sub(bytes));
        let standbys = self
            .standbys
            .in_use()
            .map(|(_, standby)| Lsn(standby.sent_lsn.load(Ordering::Acquire)));
        let slowest = standbys
            .filter(|lsn| lsn.is_valid())
            .min()
            .unwrap_or(flush_lsn)
            .max(back(self.max_wal_size));
        let saved = store.control.saved();
        let bound =
            saved.map_or(flush_lsn, |control| control.last_record.unwrap_or(control.flush_lsn));
        slowest.min(bound).min(back(self.settings.min_wal_size))
    }

    /// What may go, if anything may: with it the slots that ask for more than they may.
    pub(crate) fn plan(&self, store: &Store, slots: &SlotTable) -> Option<RetentionPlan> {
        let flush_lsn = store.local.flush_lsn();
        let needed = self.needed_lsn(store);
        let plan = self.retention(store).plan(flush_lsn, needed, &slots.slots());
        let oldest = store.local.segments.oldest()?;
        (oldest < plan.oldest_kept).then_some(plan)
    }

    /// Removes or recycles what the plan lets go and no slot's file asks for.
    pub(crate) fn remove<I: Io>(
        &self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        store: &mut Store,
        slots: &SlotTable,
        plan: &RetentionPlan,
    ) {
        let segments = &mut store.local.segments;
        let size = segments.size();
        // A slot's file must not ask, after a crash, for a segment that is gone.
        let saved =
            slots.saved_restart_lsn().map_or(plan.oldest_kept, |lsn| SegNo::of_start(lsn, size));
        let keep = plan.oldest_kept.min(saved);
        if segments.oldest().is_none_or(|oldest| oldest >= keep) {
            return;
        }
        let start = keep.start(size);
        // First nobody may begin to read them, then they go.
        self.shared.oldest_lsn.store(start);
        // A standby that is sent these very files must not find other WAL in them.
        let mut standbys = self.standbys.in_use();
        let may_recycle =
            standbys.all(|(_, standby)| Lsn(standby.sent_lsn.load(Ordering::Acquire)) >= start);
        let count = segments.remove_before(io, jobs, keep, may_recycle);
        tracing::debug!("removed or recycled {count} WAL segments before {start}");
    }

    /// What a request for a slot depends on.
    pub(crate) fn slot_limits(&self, store: Option<&Store>) -> SlotLimits {
        let reserved = store.map(|Store { local, .. }| {
            // What is durable and not published yet, a start-up may not find again.
            let shared = self.shared;
            let segment = local.segments.size().start_of(shared.flush_lsn.load());
            (segment.max(shared.oldest_lsn.load()), local.segments.timeline())
        });
        let slots_max = to_usize(u64::from(self.settings.max_replication_slots));
        SlotLimits { reserved, slots_max }
    }

    /// The rows of `pg_replication_slots`.
    pub(crate) fn slot_rows(&self, store: Option<&Store>, table: &SlotTable) -> Vec<SlotRow> {
        let slots = table.slots();
        table.made().map(|slot| self.slot_row(store, slot, &slots)).collect()
    }

    fn slot_row(&self, store: Option<&Store>, slot: &Slot, slots: &[Slot]) -> SlotRow {
        let (status, safe_wal_size) =
            store.map_or((None, None), |store| self.availability(store, slot, slots));
        SlotRow {
            slot_name: slot.name.clone(),
            temporary: slot.temporary,
            active_pid: slot.active_pid,
            xmin: slot.xmin.map(FullTransactionId::xid),
            catalog_xmin: slot.catalog_xmin.map(FullTransactionId::xid),
            restart_lsn: slot.restart_lsn,
            restart_tli: slot_timeline(store, slot),
            wal_status: status.map(WalStatus::as_str),
            safe_wal_size,
            logical: slot.logical.clone(),
        }
    }

    fn availability(
        &self,
        store: &Store,
        slot: &Slot,
        slots: &[Slot],
    ) -> (Option<WalStatus>, Option<i64>) {
        let flush_lsn = self.shared.flush_lsn.load();
        let size = store.local.segments.size();
        let oldest = SegNo::of_start(self.shared.oldest_lsn.load(), size);
        let retention = self.retention(store);
        let status = retention.wal_status(slot, slots, flush_lsn, oldest);
        let is_lost = |status| {
            slot.restart_lsn.is_some_and(|restart_lsn| {
                self.is_lost(SegNo::of_start(restart_lsn, size), status, oldest)
            })
        };
        let status = status.map(|status| if is_lost(status) { WalStatus::Lost } else { status });
        (status, retention.safe_wal_size(slot, status, flush_lsn))
    }

    /// Whether WAL that a slot keeps from `segno` on is damaged, or was missing when the server started:
    /// then its standby cannot have what follows either.
    fn is_lost(&self, segno: SegNo, status: WalStatus, oldest: SegNo) -> bool {
        let is_missing = segno < oldest
            && match status {
                WalStatus::Reserved | WalStatus::Extended => true,
                WalStatus::Unreserved | WalStatus::Lost => false,
            };
        is_missing || self.shared.damaged.is_any_from(segno)
    }
}

/// The timeline that a slot's WAL begins on, by the history of the current one: the session that moved
/// the slot may have streamed a later one. PostgreSQL: `ReadReplicationSlot`, `tliOfPointInHistory`.
fn slot_timeline(store: Option<&Store>, slot: &Slot) -> Option<TimelineId> {
    let restart_lsn = slot.restart_lsn?;
    match store {
        Some(store) => Some(store.timelines.history.timeline_of(restart_lsn)),
        None => slot.restart_tli,
    }
}
