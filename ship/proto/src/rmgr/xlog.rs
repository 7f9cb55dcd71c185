//! Checkpoints, settings, and what else the log says about itself.
//!
//! PostgreSQL: `CheckPoint` (src/include/catalog/pg_control.h), `xl_end_of_recovery`
//! and `xl_parameter_change` (src/include/access/xlog_internal.h), `CreateCheckPoint`, `CreateEndOfRecoveryRecord`
//! (src/backend/access/transam/xlog.c).

use alloc::vec::Vec;

use super::counters::{COUNTER_WORDS, Counters};
use super::{Fields, body_of};
use crate::lsn::{Lsn, TimelineId};
use crate::page::WalVersion;
use crate::record::RMGR_INFO_MASK;
use crate::time::Timestamp;

/// Nothing was written while it was made. PostgreSQL: `XLOG_CHECKPOINT_SHUTDOWN`.
pub const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
/// Others wrote meanwhile. PostgreSQL: `XLOG_CHECKPOINT_ONLINE`.
pub const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
/// Nothing. PostgreSQL: `XLOG_NOOP`.
pub const XLOG_NOOP: u8 = 0x20;
/// Object ids were set aside. PostgreSQL: `XLOG_NEXTOID`.
pub const XLOG_NEXTOID: u8 = 0x30;
/// A new timeline begins. PostgreSQL: `XLOG_END_OF_RECOVERY`.
pub const XLOG_END_OF_RECOVERY: u8 = 0x90;
/// Settings that a standby depends on are no longer what they were. PostgreSQL: `XLOG_PARAMETER_CHANGE`.
pub const XLOG_PARAMETER_CHANGE: u8 = 0x60;
/// The setting `full_page_writes` was changed. PostgreSQL: `XLOG_FPW_CHANGE`.
pub const XLOG_FPW_CHANGE: u8 = 0x80;
/// Where an online checkpoint began, since 17. PostgreSQL: `XLOG_CHECKPOINT_REDO`.
pub const XLOG_CHECKPOINT_REDO: u8 = 0xE0;

/// How many of the counters stand before the time; the others are those of commit times.
const WORDS_BEFORE_TIME: usize = COUNTER_WORDS - 2;
/// PostgreSQL: `sizeof(CheckPoint)`, 13 to 18.
const CHECKPOINT_LEN: usize = 88;

/// How much the WAL says. PostgreSQL: `WalLevel`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalLevel {
    /// Too little for a standby.
    Minimal,
    /// Enough for a standby.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

impl WalLevel {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Minimal => 0,
            Self::Replica => 1,
            Self::Logical => 2,
        }
    }

    pub(crate) const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Minimal,
            1 => Self::Replica,
            _ => Self::Logical,
        }
    }
}

/// What a checkpoint record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Where replay from this checkpoint begins. Of a shutdown checkpoint it is its own start.
    pub redo: Lsn,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The timeline before, when this record begins a new one; else the same.
    pub prev_timeline: TimelineId,
    /// What the WAL says; on record since 17.
    pub wal_level: WalLevel,
    /// What was given out until then.
    pub counters: Counters,
    /// When it was begun; to the second.
    pub time: Timestamp,
    /// The oldest transaction that runs; zero in a shutdown checkpoint.
    pub oldest_active_xid: u32,
}

impl Checkpoint {
    /// The body of the record. Every major from 13 on has the same fields, and 17 added one.
    #[must_use]
    pub fn body(&self, version: WalVersion) -> Vec<u8> {
        let wal_level =
            if version.is_since(WalVersion::PG17) { self.wal_level.number() } else { 0 };
        let mut data = Vec::with_capacity(CHECKPOINT_LEN);
        data.extend_from_slice(&self.redo.0.to_le_bytes());
        data.extend_from_slice(&self.timeline.to_u32().to_le_bytes());
        data.extend_from_slice(&self.prev_timeline.to_u32().to_le_bytes());
        let Counters { full_page_writes, next_xid, .. } = self.counters;
        // With its padding.
        data.extend_from_slice(&u32::from(full_page_writes).to_le_bytes());
        data.extend_from_slice(&wal_level.to_le_bytes());
        data.extend_from_slice(&next_xid.to_le_bytes());
        let words = self.counters.words().map(u32::to_le_bytes);
        let (before_time, after_time) = words.split_at(WORDS_BEFORE_TIME);
        data.extend_from_slice(before_time.as_flattened());
        data.extend_from_slice(&[0; 4]); // padding
        data.extend_from_slice(&self.time.unix_micros().div_euclid(1_000_000).to_le_bytes());
        data.extend_from_slice(after_time.as_flattened());
        data.extend_from_slice(&self.oldest_active_xid.to_le_bytes());
        data.extend_from_slice(&[0; 4]); // padding
        assert_eq!(data.len(), CHECKPOINT_LEN);
        body_of(&data)
    }

    /// Decodes the main data of a checkpoint record, shutdown or online.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let redo = Lsn(fields.u64()?);
        let (timeline, prev_timeline) = (fields.u32()?, fields.u32()?);
        // One byte, and its padding.
        let full_page_writes = fields.u32()? & 0xFF != 0;
        let wal_level = WalLevel::of_number(fields.u32()?);
        let next_xid = fields.u64()?;
        let mut words = [0; COUNTER_WORDS];
        let (before_time, after_time) = words.split_at_mut(WORDS_BEFORE_TIME);
        before_time.iter_mut().try_for_each(|word| fields.u32().map(|value| *word = value))?;
        fields.u32()?; // padding
        let seconds = fields.i64()?;
        after_time.iter_mut().try_for_each(|word| fields.u32().map(|value| *word = value))?;
        let oldest_active_xid = fields.u32()?;
        Some(Self {
            redo,
            timeline: TimelineId::new(timeline)?,
            prev_timeline: TimelineId::new(prev_timeline)?,
            wal_level,
            counters: Counters::of_words(next_xid, words, full_page_writes),
            time: Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000)),
            oldest_active_xid,
        })
    }
}

/// Settings that a standby depends on. PostgreSQL: `xl_parameter_change`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParameterChange {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_xacts: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_xact: u32,
    /// `wal_level`
    pub wal_level: WalLevel,
    /// `wal_log_hints`
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`
    pub track_commit_timestamp: bool,
}

impl ParameterChange {
    /// Decodes the main data of a record of `RM_XLOG`; `None` when it is none of this kind. It is the same
    /// from 13 to 18.
    #[must_use]
    pub fn decode(info: u8, data: &[u8]) -> Option<Self> {
        if info & RMGR_INFO_MASK != XLOG_PARAMETER_CHANGE {
            return None;
        }
        let mut fields = Fields(data);
        Some(Self {
            max_connections: fields.u32()?,
            max_worker_processes: fields.u32()?,
            max_wal_senders: fields.u32()?,
            max_prepared_xacts: fields.u32()?,
            max_locks_per_xact: fields.u32()?,
            wal_level: WalLevel::of_number(fields.u32()?),
            wal_log_hints: fields.take::<1>()? != [0],
            track_commit_timestamp: fields.take::<1>()? != [0],
        })
    }
}

/// The body of the record that marks where an online checkpoint begins; `None` before 17, which
/// has no such record.
#[must_use]
pub fn checkpoint_redo(wal_level: WalLevel, version: WalVersion) -> Option<Vec<u8>> {
    version.is_since(WalVersion::PG17).then(|| body_of(&wal_level.number().to_le_bytes()))
}

/// The body of the record with which a new timeline begins.
#[must_use]
pub fn end_of_recovery(
    time: Timestamp,
    timeline: TimelineId,
    prev_timeline: TimelineId,
    wal_level: WalLevel,
    version: WalVersion,
) -> Vec<u8> {
    let mut data = Vec::with_capacity(24);
    data.extend_from_slice(&time.0.to_le_bytes());
    data.extend_from_slice(&timeline.to_u32().to_le_bytes());
    data.extend_from_slice(&prev_timeline.to_u32().to_le_bytes());
    if version.is_since(WalVersion::PG17) {
        data.extend_from_slice(&wal_level.number().to_le_bytes());
        data.extend_from_slice(&[0; 4]); // padding
    }
    body_of(&data)
}

/// The body of a record that says nothing; it may have any length.
#[must_use]
pub fn noop(data: &[u8]) -> Vec<u8> {
    body_of(data)
}
