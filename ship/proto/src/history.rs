//! Timeline history files: parse, print, switchpoints.

use alloc::vec::Vec;

use crate::lsn::{Lsn, TimelineId};

/// One timeline's part in a history: from `begin`, inclusive, to `end`, exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// Which timeline.
    pub tli: TimelineId,
    /// Where it began; [`Lsn::INVALID`] for the first.
    pub begin: Lsn,
    /// Where it was left; `None` for the last.
    pub end: Option<Lsn>,
}

/// The timelines that lead to one timeline, oldest first, itself last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    entries: Vec<HistoryEntry>,
}
