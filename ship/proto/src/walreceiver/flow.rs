//! The commands of a session, in their order, and what their results mean.

use alloc::format;
use alloc::string::String;

use crate::convert::to_u32;
use crate::history::file_name;
use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::segment::SegmentSize;
use crate::time::Now;
use crate::wire::copy::TERMINATE_MESSAGE;

use super::error::{Activity, UpstreamViolation};
use super::result::ResultSet;
use super::{ReceiverEvent, Stage, WalReceiver, WalReceiverState, histories};

/// The first release with READ_REPLICATION_SLOT.
const READ_REPLICATION_SLOT_VERSION: u32 = 150_000;

type Event = Option<ReceiverEvent<'static>>;

impl WalReceiver {
    /// Ends the session in good order: a last reply, then Terminate, as libpq's `PQfinish`.
    ///
    /// Nothing that comes later is an event. The connection may be closed once
    /// [`WalReceiver::poll_transmit`] has given its bytes and they are sent.
    pub fn stop(&mut self, now: Now) {
        if matches!(self.state, WalReceiverState::Stopping | WalReceiverState::Stopped) {
            return;
        }
        if self.state == WalReceiverState::Streaming {
            self.replies.encode(now, &self.config, &mut self.out);
        }
        self.out.extend_from_slice(&TERMINATE_MESSAGE);
        self.plan.clear();
        self.stage = Stage::Over;
        self.state = WalReceiverState::Stopping;
    }

    /// Starts the next command of the plan.
    pub(super) fn begin_next_step(&mut self, now: Now) {
        self.result = ResultSet::default();
        self.step_began = now.instant;
        self.answer_bytes = 0;
        let Some(stage) = self.plan.pop_front() else { return };
        self.stage = stage;
        let query = match stage {
            Stage::IdentifySystem => String::from("IDENTIFY_SYSTEM"),
            Stage::ShowSegmentSize => String::from("SHOW wal_segment_size"),
            Stage::ReadSlot => format!("READ_REPLICATION_SLOT {}", self.quoted_slot()),
            // The options without parentheses are what 13 and 14 know and later ones still take.
            Stage::CreateSlot => {
                format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", self.quoted_slot())
            }
            Stage::TimelineHistory(timeline) => format!("TIMELINE_HISTORY {timeline}"),
            Stage::StartReplication => {
                let slot = match &self.config.slot_name {
                    Some(_) => format!("SLOT {} ", self.quoted_slot()),
                    None => String::new(),
                };
                let (start, timeline) = (self.next_lsn, self.timeline);
                format!("START_REPLICATION {slot}{start} TIMELINE {timeline}")
            }
            Stage::Streaming | Stage::EndStreaming | Stage::Over => return,
        };
        self.put_query(&query);
    }

    fn quoted_slot(&self) -> String {
        let name = self.config.slot_name.as_deref().unwrap_or_default();
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    fn put_query(&mut self, query: &str) {
        self.out.push(b'Q');
        self.out.extend_from_slice(&to_u32(query.len() + 5).to_be_bytes());
        self.out.extend_from_slice(query.as_bytes());
        self.out.push(0);
    }

    /// The command is done and the upstream ready for the next.
    pub(super) fn finish_stage(&mut self, now: Now) -> Result<Event, UpstreamViolation> {
        let event = match self.stage {
            Stage::IdentifySystem => self.finish_identify()?,
            Stage::ShowSegmentSize => self.finish_segment_size()?,
            Stage::ReadSlot => self.finish_read_slot()?,
            Stage::CreateSlot => self.finish_create_slot(),
            Stage::TimelineHistory(timeline) => self.finish_history(timeline)?,
            Stage::StartReplication | Stage::EndStreaming => self.finish_timeline()?,
            Stage::Streaming | Stage::Over => {
                let during = self.activity();
                return Err(UpstreamViolation::UnexpectedFrame { got: b'Z', during });
            }
        };
        self.begin_next_step(now);
        Ok(event)
    }

    /// PostgreSQL: `libpqrcv_identify_system`, `WalReceiverMain`.
    fn finish_identify(&mut self) -> Result<Event, UpstreamViolation> {
        let row = self.result.only_row(Activity::IdentifySystem, 3)?;
        let system_identifier = SystemIdentifier(row.require(0, |text| text.parse().ok())?);
        let timeline = row.require(1, parse_timeline)?;
        let flush_lsn = row.require(2, |text| text.parse().ok())?;
        if let Some(local) = self.local.system_identifier
            && local != system_identifier
        {
            let upstream = system_identifier;
            return Err(UpstreamViolation::SystemIdentifier { upstream, local });
        }
        if let Some(local) = self.local.timeline
            && timeline < local
        {
            return Err(UpstreamViolation::TimelineBehind { upstream: timeline, local });
        }
        self.upstream_timeline = timeline;
        self.upstream_flush = flush_lsn;
        Ok(Some(ReceiverEvent::Identified { system_identifier, timeline, flush_lsn }))
    }

    fn finish_segment_size(&mut self) -> Result<Event, UpstreamViolation> {
        let row = self.result.only_row(Activity::ShowSegmentSize, 1)?;
        let upstream = row.require(0, parse_segment_size)?;
        if let Some(local) = self.local.segment_size
            && local != upstream
        {
            return Err(UpstreamViolation::SegmentSize { upstream, local });
        }
        self.local.segment_size = Some(upstream);
        self.plan_start();
        Ok(Some(ReceiverEvent::SegmentSize(upstream)))
    }

    /// Now that the upstream is known: what comes before WAL can.
    fn plan_start(&mut self) {
        let fresh = self.local.next_lsn.is_none();
        let upstream = self.upstream_timeline;
        self.plan_histories(upstream);
        if self.config.slot_name.is_some() {
            let can_read = self.server_version_num >= READ_REPLICATION_SLOT_VERSION;
            if can_read && (fresh || self.config.slot_create) {
                self.plan.push_back(Stage::ReadSlot);
            } else if self.config.slot_create {
                self.plan.push_back(Stage::CreateSlot);
            }
        }
        self.plan.push_back(Stage::StartReplication);
        self.choose_start();
    }

    /// Asks for every history file up to `last`'s that is not here: those, too, of timelines that are no
    /// part of the newest one's history. A standby looks for the newest timeline number by number, so it
    /// needs them all. PostgreSQL: `WalRcvFetchTimeLineHistoryFiles`, `findNewestTimeLine`.
    fn plan_histories(&mut self, last: TimelineId) {
        for timeline in histories::up_to(last) {
            if self.known.must_ask(timeline, self.needs_history(timeline)) {
                self.plan.push_back(Stage::TimelineHistory(timeline));
            }
        }
    }

    /// Whether WAL cannot go on without this history.
    #[must_use]
    pub fn needs_history(&self, timeline: TimelineId) -> bool {
        let ours = self.local.timeline.unwrap_or(TimelineId::FIRST);
        self.needed == Some(timeline) || (timeline == self.upstream_timeline && timeline > ours)
    }

    /// Where WAL begins: where ours ends, else what the slot holds, else the upstream's current
    /// segment; of the last two the whole segment.
    fn choose_start(&mut self) {
        if let Some(next_lsn) = self.local.next_lsn {
            self.next_lsn = next_lsn;
            self.timeline = self.local.timeline.unwrap_or(self.upstream_timeline);
            return;
        }
        let size = self.local.segment_size.unwrap_or(SegmentSize::DEFAULT);
        let (lsn, timeline) = match self.slot_restart {
            Some((restart_lsn, timeline)) => (restart_lsn, timeline),
            None => (self.upstream_flush, None),
        };
        self.next_lsn = size.start_of(lsn);
        self.timeline = timeline.unwrap_or(self.upstream_timeline);
        // One that the upstream has said it does not have is asked for again: now it is needed. The upstream
        // may also have gone on to this timeline since it said which one is its own, and passed others.
        if self.timeline != TimelineId::FIRST
            && !self.known.is_held(self.timeline)
            && self.plan.front() == Some(&Stage::StartReplication)
        {
            self.needed = Some(self.timeline);
            self.plan.pop_front();
            self.plan_histories(self.timeline);
            self.plan.push_back(Stage::StartReplication);
        }
    }

    fn finish_read_slot(&mut self) -> Result<Event, UpstreamViolation> {
        let row = self.result.only_row(Activity::ReadSlot, 3)?;
        // A slot that is not there is a row of NULLs. PostgreSQL: ReadReplicationSlot.
        if row.bytes(0).is_none() {
            if self.config.slot_create && !self.slot_created {
                self.plan.push_front(Stage::CreateSlot);
                return Ok(None);
            }
            let slot = self.config.slot_name.clone().unwrap_or_default();
            return Err(UpstreamViolation::SlotMissing { slot });
        }
        let restart_lsn: Option<Lsn> = row.parse(1, |text| text.parse().ok())?;
        let restart_tli = row.parse(2, parse_timeline)?;
        self.slot_restart = restart_lsn.and_then(Lsn::valid).map(|lsn| (lsn, restart_tli));
        self.choose_start();
        Ok(None)
    }

    fn finish_create_slot(&mut self) -> Event {
        if core::mem::take(&mut self.duplicate_slot) {
            return None;
        }
        self.slot_created = true;
        let fresh = self.local.next_lsn.is_none();
        if fresh && self.server_version_num >= READ_REPLICATION_SLOT_VERSION {
            // The slot reserved WAL from the last checkpoint on; only reading it says where that is.
            self.plan.push_front(Stage::ReadSlot);
        }
        Some(ReceiverEvent::SlotCreated)
    }

    /// PostgreSQL: `libpqrcv_readtimelinehistoryfile`, `WalRcvFetchTimeLineHistoryFiles`.
    fn finish_history(&mut self, timeline: TimelineId) -> Result<Event, UpstreamViolation> {
        if let Some(reason) = self.history_absent.take() {
            return Ok(Some(ReceiverEvent::HistoryAbsent { timeline, reason }));
        }
        let row = self.result.only_row(Activity::TimelineHistory, 2)?;
        if row.bytes(0) != Some(file_name(timeline).as_bytes()) {
            return Err(UpstreamViolation::HistoryName { timeline });
        }
        let content = row.bytes(1).unwrap_or_default().to_vec();
        self.known.hold(timeline);
        Ok(Some(ReceiverEvent::TimelineHistory { timeline, content }))
    }

    /// The upstream has no more of this timeline and says which one is next.
    /// PostgreSQL: `libpqrcv_endstreaming`.
    fn finish_timeline(&mut self) -> Result<Event, UpstreamViolation> {
        if self.result.rows_seen() == 0 {
            return Err(self.terminated());
        }
        let (timeline, received) = (self.timeline, self.next_lsn);
        let row = self.result.only_row(Activity::EndStreaming, 2)?;
        let later = |next: &TimelineId| *next > timeline;
        let next = row.require(0, |text| parse_timeline(text).filter(later))?;
        let switchpoint: Lsn = row.require(1, |text| text.parse().ok())?;
        if switchpoint < received {
            return Err(UpstreamViolation::ForkedBehind { next, switchpoint, timeline, received });
        }
        if switchpoint > received {
            let (got, want) = (switchpoint, received);
            return Err(UpstreamViolation::Discontinuity { got, want });
        }
        self.state = WalReceiverState::Restarting;
        self.timeline = next;
        self.local.timeline = Some(next);
        self.local.next_lsn = Some(switchpoint);
        self.needed = Some(next);
        self.plan_histories(next);
        self.plan.push_back(Stage::StartReplication);
        Ok(Some(ReceiverEvent::EndOfTimeline { next, switchpoint }))
    }
}

fn parse_timeline(text: &str) -> Option<TimelineId> {
    TimelineId::new(text.parse().ok()?)
}

/// Parses what SHOW prints. PostgreSQL: `RetrieveWalSegSize` (streamutil.c).
fn parse_segment_size(text: &str) -> Option<SegmentSize> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..)? {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(digits.parse::<u64>().ok()?.checked_mul(unit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_parse_as_show_prints_them() {
        for (text, bytes) in [("16MB", 16 << 20), ("1GB", 1 << 30), ("1MB", 1 << 20)] {
            let size = parse_segment_size(text);
            assert_eq!(size.map(SegmentSize::bytes), Some(bytes), "{text}");
            assert_eq!(size.map(|size| format!("{size}")).as_deref(), Some(text));
        }
        for text in ["", "MB", "16", "16 MB", "16mb", "3MB", "2GB", "99999999999999999999GB", "1TB"]
        {
            assert_eq!(parse_segment_size(text), None, "{text}");
        }
    }
}
