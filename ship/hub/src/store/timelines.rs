//! The timelines whose WAL is here.

use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{SystemIdentifier, TimelineId};
use walhub_proto::segment::{SegNo, SegmentSize};

/// The timelines that this hub can serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timelines {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// The timeline that grows.
    pub current: TimelineId,
    /// How it came to be.
    pub history: TimelineHistory,
}

impl Timelines {
    /// The timeline under whose name a segment is kept: the newest that has WAL in it. A segment in which
    /// timelines meet begins with a copy of the older one's, whose own file may be `.partial` by now.
    /// PostgreSQL: `WalSndSegmentOpen` reads the segment of a switch from the next timeline.
    #[must_use]
    pub fn file_timeline(&self, timeline: TimelineId, segno: SegNo) -> TimelineId {
        let size = self.segment_size;
        let entries = self.history.entries().iter();
        let begun = entries
            .rev()
            .find(|entry| entry.tli <= timeline && SegNo::of_start(entry.begin, size) <= segno);
        let mut found = begun.map_or(timeline, |entry| entry.tli);
        while let Some((switchpoint, next)) = self.history.switchpoint(found)
            && SegNo::of_start(switchpoint, size) == segno
        {
            found = next;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use walhub_proto::lsn::Lsn;

    use super::*;

    #[test]
    fn a_segment_in_which_timelines_meet_has_the_name_of_the_newest() {
        let tli = |number| TimelineId::new(number).unwrap();
        let mut history = TimelineHistory::single(tli(1));
        // Two switches in segment 5, one between 7 and 8, one in 9.
        let switches = [(2, 0x50_1000), (3, 0x50_2000), (4, 0x80_0000), (6, 0x90_0008)];
        for (next, switchpoint) in switches {
            history = history.extend(tli(next), Lsn(switchpoint), "test");
        }
        let timelines = Timelines {
            system_identifier: SystemIdentifier(1),
            segment_size: SegmentSize::MIN,
            current: tli(6),
            history,
        };
        for (streamed, segno, want) in [
            (1, 4, 1),
            (1, 5, 3),
            (2, 5, 3),
            (3, 5, 3),
            (3, 4, 1),
            (3, 7, 3),
            (4, 7, 3),
            (4, 8, 4),
            (4, 9, 6),
            (6, 9, 6),
            (6, 5, 3),
            (6, 10, 6),
        ] {
            let got = timelines.file_timeline(tli(streamed), SegNo(segno));
            assert_eq!(got, tli(want), "timeline {streamed}, segment {segno}");
        }
    }
}
