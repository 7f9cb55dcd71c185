//! The truth: every byte of WAL that the simulated cluster ever made, on every timeline.

use walhub_proto::generate::{WalShape, WalWriter};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use walhub_proto::page::{PAGE_BYTES, WalVersion};
use walhub_proto::record::RM_XLOG;
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::standby::{RunningXacts, XLOG_RUNNING_XACTS};
use walhub_proto::rmgr::xact::XLOG_XACT_PREPARE;
use walhub_proto::rmgr::xlog::{Checkpoint, WalLevel, XLOG_CHECKPOINT_SHUTDOWN};
use walhub_proto::rmgr::{RM_STANDBY, RM_XACT};
use walhub_proto::segment::SegmentSize;
use walhub_proto::time::Timestamp;

use crate::rng::{Rng, bytes, size};

/// The simulated cluster.
pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7_300_000_000_000_000_001);
/// PostgreSQL: `RM_LOGICALMSG_ID`.
const RM_LOGICALMSG: u8 = 21;
const NOISE_LEN: usize = 1 << 16;
/// What a checkpoint says comes next: near the page that the next transactions' states are on.
pub(crate) const FIRST_XID: u64 = (3 << 32) + 32_760;

/// Transactions that are prepared when the last checkpoint is made: one from before all WAL, one that the WAL
/// shows. What goes on after the primary must say so.
pub(crate) const PREPARED_XIDS: [u32; 2] = [32_700, 32_710];
/// A subtransaction of the second.
pub(crate) const PREPARED_SUBXID: u32 = 32_711;

/// The WAL of one timeline, from the segment in which it began.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) tli: TimelineId,
    /// First byte of its own; before it are copies of the timeline before.
    pub(crate) begin: Lsn,
    base: Lsn,
    bytes: Vec<u8>,
    /// What the primary has made durable, and may have sent.
    pub(crate) flush_lsn: Lsn,
    /// Ends of its records with their starts.
    records: Vec<(Lsn, Option<Lsn>)>,
}

impl Timeline {
    pub(crate) fn end(&self) -> Lsn {
        self.base + bytes(self.bytes.len())
    }

    /// All bytes, from the segment on in which it began.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of a range, when the timeline has all of them.
    pub(crate) fn get(&self, range: LsnRange) -> Option<&[u8]> {
        let start = range.start.0.checked_sub(self.base.0)?;
        self.bytes.get(size(start)..size(start + range.len()))
    }
}

/// Makes WAL.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) size: SegmentSize,
    pub(crate) timelines: Vec<Timeline>,
    pub(crate) history: TimelineHistory,
    writer: WalWriter,
    rng: Rng,
    noise: Vec<u8>,
    /// Switch records and the filling after them.
    fillings: Vec<(Lsn, Lsn)>,
    /// Longest record that is made now and then.
    record_len_max: u64,
    /// Most records are as short as can be.
    pub(crate) short_records: bool,
}

impl Source {
    pub(crate) fn new(
        mut rng: Rng,
        segment_size: SegmentSize,
        major: u32,
        record_len_max: u64,
    ) -> Self {
        let version = WalVersion::of_major(major).expect("a known major");
        let tli = TimelineId::FIRST;
        let shape = WalShape {
            system_identifier: SYSTEM,
            segment_size,
            timeline: tli,
            version,
            crc: walhub_engine::crc::crc32c,
        };
        let base = Lsn(segment_size.bytes() * rng.pick(&[1, 3, 254, 255, 4095, 4096]));
        let noise = (0..NOISE_LEN / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
        let timeline = Timeline {
            tli,
            begin: base,
            base,
            bytes: Vec::new(),
            flush_lsn: base,
            records: vec![(base, None)],
        };
        let mut source = Self {
            size: segment_size,
            timelines: vec![timeline],
            history: TimelineHistory::single(tli),
            writer: WalWriter::new(shape, base, None),
            rng,
            noise,
            fillings: Vec::new(),
            record_len_max,
            short_records: false,
        };
        source.generate(1);
        source.flush_all();
        source
    }

    /// The truth that a hub with WAL of its own makes: nothing yet.
    pub(crate) fn of_hub(segment_size: SegmentSize, major: u32) -> Self {
        let mut source = Self::new(Rng::new(0, "unused"), segment_size, major, 100_000);
        let base = Lsn(segment_size.bytes());
        source.timelines = vec![Timeline {
            tli: TimelineId::FIRST,
            begin: base,
            base,
            bytes: Vec::new(),
            flush_lsn: base,
            records: vec![(base, None)],
        }];
        source
    }

    /// The hub has made more durable.
    pub(crate) fn extend(&mut self, wal: &[u8]) {
        let timeline = self.current_mut();
        timeline.bytes.extend_from_slice(wal);
        timeline.flush_lsn = timeline.end();
    }

    pub(crate) fn current(&self) -> &Timeline {
        self.timelines.last().expect("there is a timeline")
    }

    fn current_mut(&mut self) -> &mut Timeline {
        self.timelines.last_mut().expect("there is a timeline")
    }

    pub(crate) fn timeline(&self, tli: TimelineId) -> Option<&Timeline> {
        self.timelines.iter().find(|timeline| timeline.tli == tli)
    }

    /// The history file of a timeline.
    pub(crate) fn history_of(&self, tli: TimelineId) -> Option<TimelineHistory> {
        let mut history = TimelineHistory::single(TimelineId::FIRST);
        for timeline in self.timelines.iter().skip(1) {
            history = history.extend(timeline.tli, timeline.begin, "no recovery target specified");
            if timeline.tli == tli {
                return Some(history);
            }
        }
        None
    }

    /// Appends records until there are at least `count` bytes more.
    pub(crate) fn generate(&mut self, count: u64) {
        let end = self.current().end() + count;
        let mut out = Vec::new();
        while self.writer.lsn() < end {
            let len = match self.rng.below(1000) {
                _ if self.short_records => 11,
                0..=699 => self.rng.range(24, 400),
                700..=949 => self.rng.range(400, 9_000),
                950..=995 => self.rng.range(8_000, 60_000),
                _ => self.rng.range(8_000, self.record_len_max),
            };
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut left = size(len);
            // A message's body must follow its header; nobody reads it.
            let head = long_data_header(len);
            pieces.push(&head);
            while left > 0 {
                let start = size(self.rng.below(bytes(NOISE_LEN / 2)));
                let count = left.min(NOISE_LEN - start);
                pieces.push(&self.noise[start..start + count]);
                left -= count;
            }
            self.writer.append_record(RM_LOGICALMSG, 0, 0, &pieces, &mut out);
            self.note(&mut out);
        }
    }

    /// Ends the segment, as `pg_switch_wal()` does.
    pub(crate) fn switch_segment(&mut self) {
        let mut out = Vec::new();
        self.writer.switch_segment(&mut out);
        let start = self.writer.last_record().filter(|_| !out.is_empty());
        self.fillings.extend(start.map(|start| (start, self.writer.lsn())));
        self.note(&mut out);
    }

    fn note(&mut self, out: &mut Vec<u8>) {
        let record = (self.writer.lsn(), self.writer.last_record());
        let timeline = self.current_mut();
        timeline.bytes.append(out);
        timeline.records.push(record);
        assert_eq!(timeline.end(), record.0);
    }

    /// Makes all of it durable.
    pub(crate) fn flush_all(&mut self) {
        let timeline = self.current_mut();
        timeline.flush_lsn = timeline.end();
    }

    /// Makes part of it durable: up to a record's end, or a page's.
    pub(crate) fn flush_some(&mut self) {
        let (from, to) = (self.current().flush_lsn, self.current().end());
        if from == to {
            return;
        }
        let target = from + self.rng.range(1, to - from);
        let target = if self.rng.chance(500) {
            self.record_end(target).0
        } else {
            target.align_down(PAGE_BYTES).max(from)
        };
        // A switch is flushed to the end of its segment, and read so by a start-up. PostgreSQL: XLogInsertRecord.
        let filled = |&&(start, end): &&(Lsn, Lsn)| start <= target && target < end;
        let target = self.fillings.iter().find(filled).map_or(target, |(_, end)| *end);
        self.current_mut().flush_lsn = target;
    }

    /// A shutdown checkpoint: from here on it is known what was given out, and what is prepared.
    pub(crate) fn checkpoint(&mut self) {
        let shape = *self.writer.shape();
        let [_, prepared] = PREPARED_XIDS;
        let body = prepare(prepared, PREPARED_SUBXID, shape.version);
        let mut out = Vec::new();
        self.writer.append_record(RM_XACT, XLOG_XACT_PREPARE, prepared, &[&body], &mut out);
        self.note(&mut out);
        let running = RunningXacts {
            oldest_running_xid: PREPARED_XIDS[0],
            xids: PREPARED_XIDS.to_vec(),
            subxids: vec![PREPARED_SUBXID],
            ..RunningXacts::none(u32::try_from(FIRST_XID & 0xFFFF_FFFF).expect("32 bits"))
        };
        let body = running.body();
        self.writer.append_record(RM_STANDBY, XLOG_RUNNING_XACTS, 0, &[&body], &mut out);
        self.note(&mut out);
        let body = Checkpoint {
            redo: self.writer.next_record(),
            timeline: shape.timeline,
            prev_timeline: shape.timeline,
            wal_level: WalLevel::Replica,
            counters: Counters { next_xid: FIRST_XID, ..Counters::first() },
            time: Timestamp(0),
            oldest_active_xid: 0,
        }
        .body(shape.version);
        self.writer.append_record(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN, 0, &[&body], &mut out);
        self.note(&mut out);
        self.flush_all();
    }

    /// A hub was promoted: its WAL is the truth from there on. The start of the last record before comes
    /// back, when there is one that ends there.
    pub(crate) fn hub_promoted(&mut self, tli: TimelineId, switchpoint: Lsn) -> Option<Lsn> {
        let base = self.size.start_of(switchpoint);
        let old = self.current();
        let start = base.max(old.base);
        let copied =
            old.get(LsnRange::new(start, switchpoint)).expect("the primary has it").to_vec();
        let records = &old.records;
        let at = records.partition_point(|(end, _)| *end < switchpoint);
        let record = records.get(at).filter(|(end, _)| *end == switchpoint);
        let last_record = record.expect("a timeline is left at a record's end").1;
        self.history = self.history.extend(tli, switchpoint, "no recovery target specified");
        self.timelines.push(Timeline {
            tli,
            begin: switchpoint,
            base,
            bytes: copied,
            flush_lsn: switchpoint,
            records: vec![(switchpoint, last_record)],
        });
        last_record
    }

    /// The hub has come back in an earlier state: what it made after `end` never happened.
    pub(crate) fn forget_after(&mut self, end: Lsn) {
        let timeline = self.current_mut();
        let keep = size(end - timeline.base);
        timeline.bytes.truncate(keep);
        timeline.flush_lsn = end;
        assert_eq!(timeline.end(), end, "a hub has more than it ever had");
    }

    /// Whether WAL of this timeline up to `lsn` is in the history of the current one.
    pub(crate) fn has(&self, tli: TimelineId, lsn: Lsn) -> bool {
        self.history.contains(tli)
            && self.history.switchpoint(tli).is_none_or(|(end, _)| lsn <= end)
    }

    /// End of the last record that is durable as a whole.
    pub(crate) fn durable_end(&self) -> Lsn {
        let timeline = self.current();
        let whole = timeline.records.partition_point(|(end, _)| *end <= timeline.flush_lsn);
        let record = whole.checked_sub(1).and_then(|last| timeline.records.get(last));
        record.map_or(timeline.begin, |(end, _)| *end)
    }

    /// The first record's end at or after `lsn`, and that record's start.
    fn record_end(&self, lsn: Lsn) -> (Lsn, Option<Lsn>) {
        let records = &self.current().records;
        records[records.partition_point(|(end, _)| *end < lsn)]
    }

    /// The primary crashes and comes back: what was not durable never happened.
    pub(crate) fn lose_unflushed(&mut self) {
        let (end, last_record) = self.record_end(self.current().flush_lsn);
        let timeline = self.current_mut();
        let keep = size(end - timeline.base);
        timeline.bytes.truncate(keep);
        timeline.records.retain(|(record, _)| *record <= end);
        timeline.flush_lsn = end;
        self.fillings.retain(|(_, filled)| *filled <= end);
        self.writer = WalWriter::new(*self.writer.shape(), end, last_record);
    }

    /// A standby that has everything durable is promoted.
    pub(crate) fn promote(&mut self) {
        self.lose_unflushed();
        let (switchpoint, last_record) = *self.current().records.last().expect("there is a record");
        let old = self.current();
        let tli = TimelineId::new(old.tli.to_u32() + 1).expect("not zero");
        let base = self.size.start_of(switchpoint);
        let start = base.max(old.base);
        let copied =
            old.get(LsnRange::new(start, switchpoint)).expect("the timeline holds it").to_vec();
        self.history = self.history.extend(tli, switchpoint, "no recovery target specified");
        let shape = WalShape { timeline: tli, ..*self.writer.shape() };
        self.timelines.push(Timeline {
            tli,
            begin: switchpoint,
            base,
            bytes: copied,
            flush_lsn: switchpoint,
            records: vec![(switchpoint, last_record)],
        });
        self.writer = WalWriter::new(shape, switchpoint, last_record);
        self.generate(100);
        self.flush_all();
    }
}

/// What stands before the main data of a record without block references.
/// PostgreSQL: `XLR_BLOCK_ID_DATA_LONG`.
fn long_data_header(len: u64) -> [u8; 5] {
    let len = u32::try_from(len).expect("a record is short").to_le_bytes();
    [254, len[0], len[1], len[2], len[3]]
}

/// The body of a record that prepares a transaction with one subtransaction and nothing else. PostgreSQL:
/// `xl_xact_prepare`, `EndPrepare`.
fn prepare(xid: u32, subxid: u32, version: WalVersion) -> Vec<u8> {
    let head =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // Magic, length, xid, database, time, owner, then the numbers of subtransactions and relations.
    let mut data = head(&[0x57F9_4534, 0, xid, 5, 0, 0, 10, 1, 0, 0]);
    if version.is_since(WalVersion::PG15) {
        data.extend(head(&[0, 0])); // Statistics.
    }
    data.extend(head(&[0, 2 << 16])); // Invalidations; the length of the gid, after two bytes.
    data.extend([0; 16]); // The origin.
    data.extend(*b"g\0\0\0\0\0\0\0");
    data.extend(head(&[subxid, 0, 0, 0])); // With its padding, and the end.
    let mut body = vec![255, u8::try_from(data.len()).expect("short")];
    body.extend(data);
    body
}
