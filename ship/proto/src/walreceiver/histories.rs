//! Which history files are here, which the upstream does not have, and which are asked for.
//!
//! PostgreSQL: `WalRcvFetchTimeLineHistoryFiles` (src/backend/replication/walreceiver.c).

use alloc::collections::BTreeSet;

use crate::lsn::TimelineId;

/// History files that are asked for at most: those of the newest timelines. An upstream may name any number
/// as its timeline.
pub const HISTORIES_MAX: u32 = 1024;

/// What need not be asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KnownHistories {
    /// The timelines whose history is here already.
    pub held: BTreeSet<TimelineId>,
    /// The upstream has said that it does not have these.
    pub absent: BTreeSet<TimelineId>,
}

impl KnownHistories {
    pub(super) fn is_held(&self, timeline: TimelineId) -> bool {
        self.held.contains(&timeline)
    }

    pub(super) fn hold(&mut self, timeline: TimelineId) {
        self.held.insert(timeline);
    }

    /// Whether a history is asked for that is `needed`, or only good to have.
    pub(super) fn must_ask(&self, timeline: TimelineId, needed: bool) -> bool {
        !self.is_held(timeline) && (needed || !self.absent.contains(&timeline))
    }
}

/// The timelines up to `last` that have a history file, oldest first; the first has none.
pub(super) fn up_to(last: TimelineId) -> impl Iterator<Item = TimelineId> {
    let last = last.to_u32();
    let first = last.saturating_sub(HISTORIES_MAX - 1).max(TimelineId::FIRST.to_u32() + 1);
    (first..=last).filter_map(TimelineId::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn numbers(last: u32) -> Vec<u32> {
        up_to(TimelineId::new(last).unwrap()).map(TimelineId::to_u32).collect()
    }

    #[test]
    fn the_first_timeline_has_no_history_and_no_upstream_has_us_ask_for_ever() {
        assert_eq!(numbers(1), []);
        assert_eq!(numbers(4), [2, 3, 4]);
        let many = numbers(u32::MAX);
        assert_eq!((many.len(), many.last()), (1024, Some(&u32::MAX)));
    }
}
