//! The walsenders that stream, as the wal core knows them.
//!
//! Not here: their streams (`crate::serve::walsender`), on which core they are served (`crate::serve::ships`).

use std::collections::BTreeMap;

use walhub_proto::lsn::TimelineId;

/// A walsender that a ship core has.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Its client's.
    pub(crate) pid: u32,
    /// The ship core.
    pub(crate) ship: usize,
    /// What it streams.
    pub(crate) timeline: TimelineId,
    /// The replication slot that it uses.
    pub(crate) slot: Option<String>,
}

/// All of them, by their entries in the standby table.
pub(crate) type Walsenders = BTreeMap<usize, Attached>;
