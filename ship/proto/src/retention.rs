//! Which segments may be removed or recycled, and what that means for a slot.
//!
//! Not here: doing it (the daemon's `hub`).
//!
//! PostgreSQL: `KeepLogSeg`, `GetWALAvailability`, `XLOGfileslop`
//! (src/backend/access/transam/xlog.c), `InvalidateObsoleteReplicationSlots` (slot.c),
//! `pg_get_replication_slots` (slotfuncs.c).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::lsn::Lsn;
use crate::segment::{SegNo, SegmentSize};
use crate::slot::Slot;

/// The settings that decide how much WAL is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetentionConfig {
    /// `wal_keep_size` in bytes.
    pub wal_keep_size: u64,
    /// `max_slot_wal_keep_size` in bytes; `None` is no limit.
    pub max_slot_wal_keep_size: Option<u64>,
    /// `max_wal_size` in bytes: a slot that holds more is shown as `extended`.
    pub max_wal_size: u64,
}

/// Whether the WAL that a slot needs will stay. PostgreSQL: `WALAvailability`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalStatus {
    /// What it needs is within `max_wal_size`.
    Reserved,
    /// Kept beyond `max_wal_size`, by the slot or by `wal_keep_size`.
    Extended,
    /// No longer kept, and not yet removed.
    Unreserved,
    /// What it needs is removed: the slot cannot be used again.
    Lost,
}

impl WalStatus {
    /// As `pg_replication_slots.wal_status` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Extended => "extended",
            Self::Unreserved => "unreserved",
            Self::Lost => "lost",
        }
    }
}

/// A slot whose WAL is given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// Name of the slot.
    pub name: String,
    /// The first position that the slot needed.
    pub restart_lsn: Lsn,
    /// The session that streams from it, to be ended first.
    pub active_pid: Option<u32>,
}

impl Invalidation {
    /// The line of the log about it.
    #[must_use]
    pub fn message(&self) -> String {
        format!(
            "invalidating slot \"{}\" because its restart_lsn {} exceeds max_slot_wal_keep_size",
            self.name, self.restart_lsn
        )
    }
}

/// What is to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionPlan {
    /// Segments before this one may go.
    pub oldest_kept: SegNo,
    /// Slots to invalidate, durably, before a segment goes.
    pub invalidations: Vec<Invalidation>,
}

/// Decides by these settings for segments of this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    config: RetentionConfig,
    size: SegmentSize,
}

impl Retention {
    /// By `config`, for segments of `size`.
    #[must_use]
    pub const fn new(config: RetentionConfig, size: SegmentSize) -> Self {
        Self { config, size }
    }

    /// What is to be kept when WAL is written up to `write_lsn`.
    ///
    /// Everything from `needed_lsn` on is needed by the hub itself (recovery, the archive, sessions)
    /// and stays whatever the settings say.
    #[must_use]
    pub fn plan(&self, write_lsn: Lsn, needed_lsn: Lsn, slots: &[Slot]) -> RetentionPlan {
        let needed = SegNo::of_start(needed_lsn.min(write_lsn), self.size);
        let oldest = needed.min(self.keep_log_seg(write_lsn, min_restart_lsn(slots)));
        let lost = |lsn: Lsn| lsn < oldest.start(self.size);
        let invalidations: Vec<_> = slots
            .iter()
            .filter_map(|slot| {
                let restart_lsn = slot.restart_lsn.filter(|&lsn| lost(lsn))?;
                let (name, active_pid) = (slot.name.clone(), slot.active_pid);
                Some(Invalidation { name, restart_lsn, active_pid })
            })
            .collect();
        if invalidations.is_empty() {
            return RetentionPlan { oldest_kept: oldest, invalidations };
        }
        // An invalidated slot must not hold anything back. PostgreSQL: CreateCheckPoint.
        let rest = slots.iter().filter_map(|slot| slot.restart_lsn).filter(|&lsn| !lost(lsn)).min();
        let oldest_kept = needed.min(self.keep_log_seg(write_lsn, rest));
        RetentionPlan { oldest_kept, invalidations }
    }

    /// First segment that slots and `wal_keep_size` keep. PostgreSQL: `KeepLogSeg`.
    fn keep_log_seg(&self, write_lsn: Lsn, slots_min: Option<Lsn>) -> SegNo {
        let current = SegNo::of_start(write_lsn, self.size).0;
        let mut segno = current;
        if let Some(keep) = slots_min.filter(|&keep| keep < write_lsn) {
            segno = SegNo::of_start(keep, self.size).0;
            if let Some(max) = self.config.max_slot_wal_keep_size {
                segno = segno.max(current.saturating_sub(self.segments(max)));
            }
        }
        SegNo(segno.min(current.saturating_sub(self.segments(self.config.wal_keep_size))))
    }

    /// Whole segments in `bytes`. PostgreSQL: `ConvertToXSegs`.
    const fn segments(&self, bytes: u64) -> u64 {
        bytes / self.size.bytes()
    }

    /// Whether the WAL of `slot` will stay; `None` while it keeps none.
    ///
    /// `oldest_present` is the first segment on disk, `slots` are all of them.
    /// PostgreSQL: `GetWALAvailability`, `pg_get_replication_slots`.
    #[must_use]
    pub fn wal_status(
        &self,
        slot: &Slot,
        slots: &[Slot],
        write_lsn: Lsn,
        oldest_present: SegNo,
    ) -> Option<WalStatus> {
        if slot.invalidated.is_some() && slot.restart_lsn.is_none() {
            return Some(WalStatus::Lost);
        }
        let target = SegNo::of_start(slot.restart_lsn?, self.size);
        let current = SegNo::of_start(write_lsn, self.size).0;
        if target >= self.keep_log_seg(write_lsn, min_restart_lsn(slots)) {
            let reserved = current.saturating_sub(self.segments(self.config.max_wal_size) + 1);
            let within = target.0 >= reserved;
            return Some(if within { WalStatus::Reserved } else { WalStatus::Extended });
        }
        // A session that still streams may have the file open, and may yet catch up.
        let alive = target >= oldest_present || slot.active_pid.is_some();
        Some(if alive { WalStatus::Unreserved } else { WalStatus::Lost })
    }

    /// Bytes that may still be written before `slot` may be lost; negative when that is overdue.
    /// `None` without a limit and for a lost slot. One that keeps nothing is counted from the first
    /// segment, as PostgreSQL 15 does. PostgreSQL: `pg_get_replication_slots`.
    #[must_use]
    pub fn safe_wal_size(
        &self,
        slot: &Slot,
        status: Option<WalStatus>,
        write_lsn: Lsn,
    ) -> Option<i64> {
        let max = self.config.max_slot_wal_keep_size?;
        if status == Some(WalStatus::Lost) {
            return None;
        }
        let target = SegNo::of_start(slot.restart_lsn.unwrap_or_default(), self.size).0;
        let keep = self.segments(max).max(self.segments(self.config.wal_keep_size));
        let fail = target.checked_add(keep)?.checked_add(1)?.checked_mul(self.size.bytes())?;
        i64::try_from(i128::from(fail) - i128::from(write_lsn.0)).ok()
    }
}

/// PostgreSQL: `ReplicationSlotsComputeRequiredLSN`.
fn min_restart_lsn(slots: &[Slot]) -> Option<Lsn> {
    slots.iter().filter_map(|slot| slot.restart_lsn).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const MB: u64 = 1 << 20;

    fn retention(keep_mb: u64, slot_max_mb: Option<u64>) -> Retention {
        let config = RetentionConfig {
            wal_keep_size: keep_mb * MB,
            max_slot_wal_keep_size: slot_max_mb.map(|mb| mb * MB),
            max_wal_size: 64 * MB,
        };
        Retention::new(config, SIZE)
    }

    fn slot(name: &str, segno: u64) -> Slot {
        Slot { restart_lsn: Some(SegNo(segno).start(SIZE) + 40), ..Slot::new(name.into(), false) }
    }

    fn lsn(segno: u64) -> Lsn {
        SegNo(segno).start(SIZE) + 0x100
    }

    #[test]
    fn a_status_has_the_word_of_the_view() {
        let all =
            [WalStatus::Reserved, WalStatus::Extended, WalStatus::Unreserved, WalStatus::Lost];
        assert_eq!(all.map(WalStatus::as_str), ["reserved", "extended", "unreserved", "lost"]);
    }

    #[test]
    fn each_reason_to_keep_and_their_minimum() {
        let oldest = |keep, max, needed, slots: &[Slot]| {
            retention(keep, max).plan(lsn(100), lsn(needed), slots).oldest_kept
        };
        assert_eq!(oldest(0, None, 100, &[]), SegNo(100));
        assert_eq!(oldest(0, None, 97, &[]), SegNo(97), "needed by the hub");
        assert_eq!(oldest(64, None, 100, &[]), SegNo(96), "wal_keep_size");
        assert_eq!(oldest(70, None, 100, &[]), SegNo(96), "whole segments only");
        assert_eq!(oldest(16 * 200, None, 100, &[]), SegNo(0), "more than there is");
        assert_eq!(oldest(0, None, 100, &[slot("a", 50), slot("b", 60)]), SegNo(50), "slots");
        assert_eq!(oldest(0, Some(160), 100, &[slot("a", 95)]), SegNo(95), "within its maximum");
        assert_eq!(oldest(0, None, 100, &[slot("a", 200)]), SegNo(100), "ahead of the hub");
    }

    #[test]
    fn a_slot_beyond_its_maximum_is_invalidated_and_holds_nothing_back() {
        let slots = [slot("old", 50), slot("older", 40), slot("young", 95)];
        let plan = retention(0, Some(160)).plan(lsn(100), lsn(100), &slots);
        assert_eq!(plan.oldest_kept, SegNo(95));
        let names: Vec<_> = plan.invalidations.iter().map(|lost| lost.name.as_str()).collect();
        assert_eq!(names, ["old", "older"]);
        assert_eq!(
            plan.invalidations[0].message(),
            "invalidating slot \"old\" because its restart_lsn 0/32000028 exceeds \
             max_slot_wal_keep_size"
        );
        // The first position that stays is not lost.
        let first = Slot { restart_lsn: Some(SegNo(90).start(SIZE)), ..slot("first", 90) };
        let plan = retention(0, Some(160)).plan(lsn(100), lsn(100), &[first, slot("old", 50)]);
        assert_eq!((plan.oldest_kept, plan.invalidations.len()), (SegNo(90), 1));
        // wal_keep_size, or the hub's own need, keeps what the slot needs.
        for (keep, needed) in [(16 * 60, 100), (0, 40)] {
            let plan = retention(keep, Some(160)).plan(lsn(100), lsn(needed), &slots);
            assert!(plan.oldest_kept <= SegNo(40));
            assert_eq!(plan.invalidations, []);
        }
    }

    #[test]
    fn wal_status_walks_from_reserved_to_lost() {
        let retention = retention(0, Some(160));
        let status = |segno, active_pid, oldest_present| {
            let slot = Slot { active_pid, ..slot("a", segno) };
            let slots = [slot.clone()];
            retention.wal_status(&slot, &slots, lsn(100), SegNo(oldest_present)).unwrap()
        };
        assert_eq!(status(100, None, 1), WalStatus::Reserved);
        assert_eq!(status(95, None, 1), WalStatus::Reserved);
        assert_eq!(status(94, None, 1), WalStatus::Extended);
        assert_eq!(status(90, None, 1), WalStatus::Extended);
        assert_eq!(status(89, None, 89), WalStatus::Unreserved);
        assert_eq!(status(89, None, 90), WalStatus::Lost);
        assert_eq!(status(89, Some(7), 90), WalStatus::Unreserved);
        let mut given_up = slot("a", 1);
        given_up.invalidate();
        assert_eq!(retention.wal_status(&given_up, &[], lsn(1), SegNo(0)), Some(WalStatus::Lost));
        let fresh = Slot::new("a".into(), false);
        assert_eq!(retention.wal_status(&fresh, &[], lsn(1), SegNo(0)), None);
    }

    #[test]
    fn safe_wal_size_is_the_way_to_the_segment_that_costs_the_slot_its_own() {
        let slot = slot("a", 95);
        let size = |keep, max, write| {
            retention(keep, max).safe_wal_size(&slot, Some(WalStatus::Reserved), write)
        };
        assert_eq!(size(0, Some(160), lsn(100)), Some((106 - 100) * (16 << 20) - 0x100));
        assert_eq!(size(320, Some(160), lsn(100)), Some((116 - 100) * (16 << 20) - 0x100));
        assert_eq!(size(0, Some(160), lsn(107)), Some(-(16 << 20) - 0x100));
        assert_eq!(size(0, None, lsn(100)), None);
        // Values that PostgreSQL 15 shows with max_slot_wal_keep_size = 64MB.
        let shown = |restart_lsn| {
            let slot = Slot { restart_lsn, ..Slot::new("a".into(), false) };
            retention(0, Some(64)).safe_wal_size(&slot, None, Lsn(0x150_0790))
        };
        assert_eq!(shown(Some(Lsn(0x150_0790))), Some(78_641_264));
        assert_eq!(shown(None), Some(61_864_048));
        let lost = retention(0, Some(1)).safe_wal_size(&slot, Some(WalStatus::Lost), lsn(100));
        assert_eq!(lost, None);
    }
}
