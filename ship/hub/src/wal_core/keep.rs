//! Housekeeping of the wal core: replies into slots and feedback, old segments out, views up to date.
//!
//! Not here: the rules (`walhub_proto::retention`).
//!
//! PostgreSQL: `RemoveOldXlogFiles`, `InvalidateObsoleteReplicationSlots`,
//! `XLogWalRcvSendHSFeedback`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use walhub_engine::io::{Io, Waker};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::retention::{Retention, RetentionConfig, WalStatus};
use walhub_proto::segment::SegNo;
use walhub_proto::slot::Slot;
use walhub_proto::time::Now;

use super::slots::standby_horizons;
use super::{Store, WalCore};
use crate::api::hub::SlotRow;
use crate::store::control_file::ControlFileKeeper;

/// [`WalConfig::max_wal_size`](super::WalConfig::max_wal_size) of a server. PostgreSQL: the default.
pub const MAX_WAL_SIZE: u64 = 1 << 30;

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// What is done a few times a second.
    pub(super) fn housekeep<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let with_slot = self.attached.iter().filter(|(_, attached)| attached.slot.is_some());
        let with_slot: Vec<usize> = with_slot.map(|(&standby, _)| standby).collect();
        for standby in with_slot {
            self.take_reply(standby);
        }
        self.finish_drops();
        self.check_archive_timeout(now);
        self.keep_partial(io);
        // A slot that has come to keep WAL for the first time keeps it after a crash, too.
        self.slots.save(Lsn::INVALID);
        self.slots.save_confirmed(now.instant);
        if self.config.settings.hot_standby_feedback {
            let standbys =
                self.config.standbys.in_use().map(|(_, standby)| standby_horizons(standby));
            let horizons =
                standbys.fold(self.slots.horizons(), walhub_proto::feedback::Horizons::oldest);
            self.link_feedback(now, horizons);
        }
        self.remove_old_segments(io);
        self.work_on_slots(io);
        self.publish_slots();
    }

    fn retention(&self) -> Option<Retention> {
        let settings = &self.config.settings;
        let config = RetentionConfig {
            wal_keep_size: settings.wal_keep_size,
            max_slot_wal_keep_size: settings.max_slot_wal_keep_size,
            max_wal_size: self.config.max_wal_size,
        };
        Some(Retention::new(config, self.local()?.segments.size()))
    }

    /// First position that must stay whatever the slots say: what a restart reads, what connected
    /// standbys have yet to get, and `min_wal_size` for those that will be back in a moment. A
    /// PostgreSQL server keeps that much between two checkpoints.
    fn needed_lsn(&self, flush_lsn: Lsn) -> Lsn {
        let back = |bytes: u64| Lsn(flush_lsn.0.saturating_sub(bytes));
        let standbys = self
            .config
            .standbys
            .in_use()
            .map(|(_, standby)| Lsn(standby.sent_lsn.load(Ordering::Acquire)));
        let slowest = standbys
            .filter(|lsn| lsn.is_valid())
            .min()
            .unwrap_or(flush_lsn)
            .max(back(self.config.max_wal_size));
        let bound = self
            .control_file()
            .and_then(ControlFileKeeper::saved)
            .map_or(flush_lsn, |control| control.last_record.unwrap_or(control.flush_lsn));
        slowest.min(bound).min(back(self.config.settings.min_wal_size))
    }

    pub(super) fn remove_old_segments<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let (Some(retention), Some(Store { local, .. })) = (self.retention(), &self.store) else {
            return;
        };
        let (flush_lsn, size) = (local.flush_lsn(), local.segments.size());
        let slots = self.slots.slots();
        let plan = retention.plan(flush_lsn, self.needed_lsn(flush_lsn), &slots);
        let oldest = local.segments.oldest();
        if oldest.is_none_or(|oldest| oldest >= plan.oldest_kept) {
            return;
        }
        for invalidation in &plan.invalidations {
            tracing::info!("{}", invalidation.message());
            if let Some(slot) = self.slots.get_mut(&invalidation.name) {
                slot.invalidate();
            }
            self.end_sessions_of(&invalidation.name);
        }
        self.slots.save(plan.oldest_kept.start(size));
        self.work_on_slots(io);
        // A slot's file must not ask, after a crash, for a segment that is gone.
        let saved = self
            .slots
            .saved_restart_lsn()
            .map_or(plan.oldest_kept, |lsn| SegNo::of_start(lsn, size));
        let keep = plan.oldest_kept.min(saved);
        if oldest.is_none_or(|oldest| oldest >= keep) {
            return;
        }
        let start = keep.start(size);
        // First nobody may begin to read them, then they go.
        self.config.shared.oldest_lsn.store(start);
        // A standby that is sent these very files must not find other WAL in them.
        let mut standbys = self.config.standbys.in_use();
        let may_recycle =
            standbys.all(|(_, standby)| Lsn(standby.sent_lsn.load(Ordering::Acquire)) >= start);
        if let Some(Store { local, .. }) = &mut self.store {
            let count = local.segments.remove_before(io, &mut self.jobs, keep, may_recycle);
            tracing::debug!("removed or recycled {count} WAL segments before {start}");
        }
    }

    fn end_sessions_of(&self, slot: &str) {
        self.end_sessions(|attached| attached.slot.as_deref() == Some(slot), None);
    }

    pub(super) fn slot_rows(&self) -> Vec<SlotRow> {
        let slots = self.slots.slots();
        self.slots.made().map(|slot| self.slot_row(slot, &slots)).collect()
    }

    fn slot_row(&self, slot: &Slot, slots: &[Slot]) -> SlotRow {
        let flush_lsn = self.config.shared.flush_lsn.load();
        let oldest = self.local().map_or(SegNo(0), |local| {
            SegNo::of_start(self.config.shared.oldest_lsn.load(), local.segments.size())
        });
        let retention = self.retention();
        let status = retention
            .as_ref()
            .and_then(|retention| retention.wal_status(slot, slots, flush_lsn, oldest));
        let status =
            status.map(
                |status| if self.is_lost(slot, status, oldest) { WalStatus::Lost } else { status },
            );
        SlotRow {
            slot_name: slot.name.clone(),
            temporary: slot.temporary,
            active_pid: slot.active_pid,
            xmin: slot.xmin.map(walhub_proto::feedback::FullTransactionId::xid),
            catalog_xmin: slot.catalog_xmin.map(walhub_proto::feedback::FullTransactionId::xid),
            restart_lsn: slot.restart_lsn,
            restart_tli: self.slot_timeline(slot),
            wal_status: status.map(WalStatus::as_str),
            safe_wal_size: retention
                .and_then(|retention| retention.safe_wal_size(slot, status, flush_lsn)),
            logical: slot.logical.clone(),
        }
    }

    /// The timeline that a slot's WAL begins on, by the history of the current one: the session that moved
    /// the slot may have streamed a later one. PostgreSQL: `ReadReplicationSlot`, `tliOfPointInHistory`.
    fn slot_timeline(&self, slot: &Slot) -> Option<TimelineId> {
        let restart_lsn = slot.restart_lsn?;
        match self.timelines() {
            Some(timelines) => Some(timelines.history.timeline_of(restart_lsn)),
            None => slot.restart_tli,
        }
    }

    /// Whether WAL that a slot keeps is damaged, or was missing when the server started: then its standby
    /// cannot have what follows either.
    fn is_lost(&self, slot: &Slot, status: WalStatus, oldest: SegNo) -> bool {
        let (Some(Store { local, .. }), Some(restart_lsn)) = (&self.store, slot.restart_lsn) else {
            return false;
        };
        let segno = SegNo::of_start(restart_lsn, local.segments.size());
        let is_missing = segno < oldest
            && match status {
                WalStatus::Reserved | WalStatus::Extended => true,
                WalStatus::Unreserved | WalStatus::Lost => false,
            };
        is_missing || self.config.shared.damaged.is_any_from(segno)
    }

    /// Replaces the rows of the view when they changed.
    pub(super) fn publish_slots(&self) {
        let rows = self.slot_rows();
        if **self.config.slots.load() != rows {
            self.config.slots.store(Arc::new(rows));
        }
    }
}
