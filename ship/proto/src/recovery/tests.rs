use super::*;
use crate::generate::{WalGenerator, WalShape, WalWriter};
use crate::lsn::LsnRange;
use crate::lsn::SystemIdentifier;
use crate::page::WalVersion;
use crate::record::{RM_XLOG, XLOG_SWITCH};
use std::collections::BTreeMap;
use std::string::ToString;
use std::vec;

const SIZE: SegmentSize = SegmentSize::MIN;
const MIB: u64 = 1 << 20;
const START: Lsn = Lsn(4 * MIB);

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn shape(timeline: u32) -> WalShape {
    WalShape {
        system_identifier: SystemIdentifier(99),
        segment_size: SIZE,
        timeline: tli(timeline),
        version: WalVersion::PG15,
        crc: crc32c::crc32c_append,
    }
}

fn control(flush_lsn: Lsn, last_record: Option<Lsn>) -> ControlFile {
    let id = SystemIdentifier(99);
    let beginning = ControlFile::beginning(id, SIZE, TimelineId::FIRST, START);
    ControlFile { flush_lsn, last_record, ..beginning }
}

/// `pg_wal`: whole segments by timeline and number.
#[derive(Clone, Default)]
struct Files(BTreeMap<(u32, u64), Vec<u8>>);

impl Files {
    /// Adds `wal`, which begins at the segment start `from`, zero-filled to whole segments.
    fn with(mut self, timeline: u32, from: Lsn, wal: &[u8]) -> Self {
        for (i, part) in wal.chunks(MIB as usize).enumerate() {
            let mut segment = part.to_vec();
            segment.resize(MIB as usize, 0);
            self.0.insert((timeline, from.0 / MIB + i as u64), segment);
        }
        self
    }

    fn without(mut self, timeline: u32, segno: u64) -> Self {
        self.0.remove(&(timeline, segno)).unwrap();
        self
    }

    fn byte(&mut self, timeline: u32, lsn: Lsn) -> &mut u8 {
        let segment = self.0.get_mut(&(timeline, lsn.0 / MIB)).unwrap();
        &mut segment[(lsn.0 % MIB) as usize]
    }

    fn found(&self) -> Vec<FoundSegment> {
        let found = |(&(timeline, segno), file): (&(u32, u64), &Vec<u8>)| FoundSegment {
            tli: tli(timeline),
            segno: SegNo(segno),
            len: file.len() as u64,
        };
        self.0.iter().map(found).collect()
    }

    fn plan(
        &self,
        control: &ControlFile,
        histories: &[TimelineHistory],
    ) -> Result<RecoveryPlan, RecoveryError> {
        plan(Some(control), &self.found(), histories, SIZE)
    }

    /// Plans and reads, in pieces of `piece` bytes.
    fn recover(
        &self,
        control: &ControlFile,
        histories: &[TimelineHistory],
        piece: usize,
    ) -> Result<WalEnd, RecoveryError> {
        let RecoveryPlan::Scan(plan) = self.plan(control, histories)? else { panic!("no scan") };
        let mut scan = EndOfWal::new(plan, control, crc32c::crc32c_append);
        while let Some(want) = scan.poll_read() {
            let file = &self.0[&(want.tli.to_u32(), want.segno.0)];
            let rest = &file[want.offset as usize..];
            scan.handle_read(&rest[..piece.min(rest.len())]);
        }
        scan.finish()
    }
}

/// Two and a half segments, the record ends in them, and the last record's start.
fn wal() -> (Vec<u8>, Vec<LsnRange>) {
    let mut generator = WalGenerator::new(5, shape(1), START);
    let mut wal = vec![];
    let mut records = vec![];
    while wal.len() < 5 * MIB as usize / 2 {
        records.push(generator.append_next(&mut wal));
    }
    (wal, records)
}

#[test]
fn without_a_control_file_there_must_be_no_wal() {
    assert_eq!(plan(None, &[], &[], SIZE), Ok(RecoveryPlan::Fresh));
    let files = Files::default().with(1, START, &[0; 3]);
    let error = plan(None, &files.found(), &[], SIZE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not find the control file, but WAL segment 000000010000000000000004 exists"
    );
}

#[test]
fn before_anything_was_durable_there_may_be_no_wal() {
    let files = Files::default();
    let no_wal = RecoveryPlan::NoWal { timeline: TimelineId::FIRST, start: START };
    assert_eq!(files.plan(&control(START, None), &[]), Ok(no_wal));
    // A segment was made, but nothing reached it.
    let end = Files::default().with(1, START, &[0; 1]).recover(&control(START, None), &[], 8192);
    let end = end.unwrap();
    assert_eq!((end.end, end.last_record), (START, None));
    assert_eq!(
        end.reason.to_string(),
        "invalid magic number 0000 in log segment 000000010000000000000004, offset 0"
    );
}

#[test]
fn the_end_is_found_from_every_bound() {
    let (wal, records) = wal();
    let files = Files::default().with(1, START, &wal);
    let last = *records.last().unwrap();
    for (i, record) in records.iter().enumerate().step_by(97) {
        for last_record in [None, Some(record.start)] {
            let control = control(record.end, last_record);
            let end = files.recover(&control, &[], 100_000).unwrap();
            assert_eq!((end.end, end.last_record), (last.end, Some(last.start)), "{i}");
            assert_eq!(end.timeline, TimelineId::FIRST);
            assert_eq!(end.version, Some(WalVersion::PG15));
            assert_eq!(
                end.reason.to_string(),
                std::format!("invalid record length at {}: wanted 24, got 0", last.end)
            );
        }
    }
}

#[test]
fn reading_begins_at_the_last_record_if_it_can_be_there_and_is_read_from_end_to_end() {
    let files = Files::default().with(1, START, &vec![0; 3 * MIB as usize]);
    let flush = START + 5 * MIB / 2;
    let start = |files: &Files, last| match files.plan(&control(flush, Some(last)), &[]) {
        Ok(RecoveryPlan::Scan(plan)) => plan.start,
        other => panic!("{other:?}"),
    };
    // A switch record, whose filling ends two segments later.
    assert_eq!(start(&files, START + 40), START + 40);
    let last_segment = START + 2 * MIB;
    assert_eq!(start(&files.clone().without(1, 5), START + 40), last_segment);
    // Not aligned, and inside of the page's header.
    for offset in [44, 32] {
        assert_eq!(start(&files, last_segment + offset), last_segment, "{offset}");
    }
    // Later than what is durable.
    assert_eq!(start(&files, START + 3 * MIB + 40), last_segment);
}

#[test]
fn a_file_is_read_only_if_its_timeline_has_wal_in_the_segment() {
    let zeros = vec![0; 3 * MIB as usize];
    let parts = |files: &Files, switchpoint: Lsn| -> Vec<(u32, u64)> {
        let history = TimelineHistory::single(TimelineId::FIRST).extend(tli(2), switchpoint, "x");
        let control = ControlFile { timeline: tli(2), ..control(START + 40, Some(START + 40)) };
        match files.plan(&control, &[history]) {
            Ok(RecoveryPlan::Scan(plan)) => {
                plan.parts.iter().map(|part| (part.tli.to_u32(), part.segno.0)).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let with = |files: &Files, timeline, segno: u64| {
        files.clone().with(timeline, Lsn(segno * MIB), &zeros[..MIB as usize])
    };
    // The old timeline's last segments are of a future that was left.
    let old = Files::default().with(1, START, &zeros);
    let middle = START + 3 * MIB / 2;
    assert_eq!(parts(&with(&old, 2, 5), middle), vec![(1, 4), (2, 5)]);
    // Of one that ends where a segment does, the next segment is no more.
    let boundary = START + 2 * MIB;
    assert_eq!(parts(&old, boundary), vec![(1, 4), (1, 5)]);
    assert_eq!(parts(&with(&old, 2, 6), boundary), vec![(1, 4), (1, 5), (2, 6)]);
    // And the new timeline has nothing in the segment before.
    let both = with(&with(&old, 2, 5), 2, 6);
    assert_eq!(parts(&both, boundary), vec![(1, 4), (1, 5), (2, 6)]);
}

#[test]
fn wal_that_fills_its_segments_ends_where_they_end() {
    let mut generator = WalGenerator::new(5, shape(1), START);
    let mut wal = vec![];
    let record = generator.append_next(&mut wal);
    generator.switch_segment(&mut wal);
    let files = Files::default().with(1, START, &wal);
    let switch = record.end;
    for flush_lsn in [switch, switch + 24, switch + 1001, START + MIB] {
        let last_record = if flush_lsn == switch { record.start } else { switch };
        let end = files.recover(&control(flush_lsn, Some(last_record)), &[], 1 << 20).unwrap();
        assert_eq!((end.end, end.last_record), (START + MIB, Some(switch)));
        assert_eq!(end.reason, StopReason::SegmentsEnd);
        // A switch record is a header alone, and all after it is filling.
        assert_eq!(end.filling, Some(LsnRange::new(switch + 24, START + MIB)));
    }
    // A file that ends with the header has none.
    let mut short = files;
    short.0.get_mut(&(1, 4)).unwrap().truncate((switch.0 + 24 - START.0) as usize);
    let end = short.recover(&control(switch, Some(record.start)), &[], 1 << 20).unwrap();
    assert_eq!((end.end, end.last_record), (switch + 24, Some(switch)));
    assert_eq!(end.filling, None);
}

#[test]
fn a_missing_segment_is_an_error_only_when_it_held_durable_wal() {
    let (wal, records) = wal();
    let files = Files::default().with(1, START, &wal);
    let durable = records.iter().rfind(|record| record.end < START + 2 * MIB).unwrap();
    let control = control(durable.end, Some(durable.start));
    let end = files.clone().without(1, 6).recover(&control, &[], 8192).unwrap();
    assert_eq!((end.end, end.reason), (durable.end, StopReason::SegmentsEnd));
    let error = files.clone().without(1, 5).recover(&control, &[], 8192).unwrap_err();
    assert!(
        error.to_string().starts_with(
            "requested WAL segment 000000010000000000000005 is missing: WAL up to 0/5"
        )
    );
    // What lies before the gap is not served.
    let Ok(RecoveryPlan::Scan(plan)) = files.without(1, 4).plan(&control, &[]) else { panic!() };
    assert_eq!(plan.oldest_lsn, START + MIB);
}

#[test]
fn damage_below_the_bound_is_an_error_and_above_it_the_end() {
    let (wal, records) = wal();
    let mut files = Files::default().with(1, START, &wal);
    let (victim, before) = (records[200], records[199]);
    *files.byte(1, victim.start + 40) ^= 4;
    for bound in [records[100], before] {
        let end = files.recover(&control(bound.end, Some(bound.start)), &[], 777).unwrap();
        assert_eq!((end.end, end.last_record), (before.end, Some(before.start)));
    }
    let bound = records[300];
    // The scan begins at the last record when it knows it, and so does not see old damage.
    files.recover(&control(bound.end, Some(bound.start)), &[], 777).unwrap();
    let error = files.recover(&control(bound.end, None), &[], 777).unwrap_err();
    let text = error.to_string();
    let want = std::format!(
        "WAL that was durable is damaged: segment 000000010000000000000004, valid up to {}, \
         durable up to {}: incorrect resource manager data checksum in record at {} \
         (got checksum ",
        before.end,
        bound.end,
        victim.start
    );
    assert!(text.starts_with(&want) && text.contains(", want "), "{text}");
    assert!(error.violation().is_some());
}

#[test]
fn a_short_file_ends_the_wal() {
    let (wal, records) = wal();
    let mut files = Files::default().with(1, START, &wal);
    files.0.get_mut(&(1, 5)).unwrap().truncate(500_000);
    let within = records.iter().rfind(|record| record.end.0 <= START.0 + MIB + 500_000).unwrap();
    let end = files.recover(&control(records[9].end, Some(records[9].start)), &[], 4096).unwrap();
    assert_eq!(end.end, within.end);
    assert_eq!(end.reason, StopReason::FileEnd { offset: 500_000 });
    let bound = records.last().unwrap();
    let error = files.recover(&control(bound.end, None), &[], 4096);
    assert!(error.is_ok(), "the last segment is whole");
    let first = records.iter().find(|record| record.start.0 > START.0 + MIB + 500_000).unwrap();
    let error = files.recover(&control(first.end, Some(first.start)), &[], 4096).unwrap_err();
    assert!(error.to_string().ends_with("file ends at offset 500000"), "{error}");
}

#[test]
fn a_record_without_its_beginning_counts_only_up_to_the_bound() {
    // The hub began in the middle of a record, and crashed before its control file knew more.
    let mut writer = WalWriter::new(shape(1), Lsn(START.0 - MIB), None);
    let mut wal = vec![];
    writer.append_record(21, 0, 0, &[&vec![3; MIB as usize + 5000]], &mut wal);
    let unseen_end = writer.lsn();
    let next = writer.append_record(21, 0, 0, &[b"next"], &mut wal);
    let files = Files::default().with(1, START, &wal[MIB as usize..]);
    let end = files.recover(&control(START, None), &[], 8192).unwrap();
    assert_eq!((end.end, end.last_record), (START, None));
    assert_eq!(end.reason, StopReason::Unverifiable { end: unseen_end });
    for (flush_lsn, last_record) in
        [(next.end, None), (next.end, Some(next.start)), (unseen_end, None)]
    {
        let end = files.recover(&control(flush_lsn, last_record), &[], 8192).unwrap();
        assert_eq!((end.end, end.last_record), (next.end, Some(next.start)));
    }
}

/// WAL of timeline 1, left in the middle of its second segment for timeline 2.
fn switched() -> (Files, TimelineHistory, Lsn, Lsn, Lsn) {
    let mut first = WalWriter::new(shape(1), START, None);
    let mut wal = vec![];
    while wal.len() < 3 * MIB as usize / 2 {
        first.append_record(21, 0, 0, &[&[1; 700]], &mut wal);
    }
    let (switchpoint, last) = (first.lsn(), first.last_record());
    let mut second = WalWriter::new(shape(2), switchpoint, last);
    let mut copy = wal.split_off(MIB as usize);
    // What timeline 1 wrote after the other left it must not be read.
    let mut old = copy.clone();
    first.append_record(21, 0, 0, &[&[9; 700]], &mut old);
    while copy.len() < 2 * MIB as usize {
        second.append_record(21, 0, 0, &[&[2; 700]], &mut copy);
    }
    let files = Files::default().with(1, START, &wal).with(1, START + MIB, &old).with(
        2,
        START + MIB,
        &copy,
    );
    let history = TimelineHistory::single(tli(1)).extend(tli(2), switchpoint, "test");
    (files, history, switchpoint, last.unwrap(), second.lsn())
}

#[test]
fn reading_follows_the_history_into_the_next_timeline() {
    let (mut files, history, switchpoint, last, end) = switched();
    let histories = [history];
    let on_second = ControlFile { timeline: tli(2), ..control(switchpoint, Some(last)) };
    let found = files.recover(&on_second, &histories, 8192).unwrap();
    assert_eq!((found.end, found.timeline), (end, tli(2)));

    // Without a file of the new timeline the old one counts up to the switchpoint.
    let lost = files.clone().without(2, 5).without(2, 6).without(2, 7);
    let found = lost.recover(&on_second, &histories, 8192).unwrap();
    assert_eq!((found.end, found.timeline), (switchpoint, tli(2)));
    assert_eq!(found.reason, StopReason::Switchpoint { next: tli(2) });

    // While the control file is on timeline 1, timeline 2 does not exist.
    let on_first = control(START, None);
    let found = files.recover(&on_first, &histories, 8192);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    assert!(found.end > switchpoint && found.end < switchpoint + 1000);
    assert_eq!(found.timeline, tli(1));

    let past = ControlFile { flush_lsn: switchpoint + 8, ..on_second };
    let error = lost.recover(&past, &histories, 8192).unwrap_err();
    assert_eq!(error.file_name(), "000000020000000000000005");

    // What is wrong in a file of the new timeline is told with the name of that file.
    let page = START + (2 * MIB - 8192);
    *files.byte(2, page) ^= 1;
    let found = files.recover(&past, &histories, 8192).unwrap();
    let text = "invalid magic number D111 in log segment 000000020000000000000005, offset 1040384";
    assert_eq!(found.reason.to_string(), text);
    let durable = ControlFile { flush_lsn: end, ..past };
    let error = files.recover(&durable, &histories, 8192).unwrap_err();
    assert_eq!(error.file_name(), "000000020000000000000005");
}

#[test]
fn reading_follows_a_switch_that_lies_between_two_segments() {
    let mut first = WalWriter::new(shape(1), START, None);
    let mut wal = vec![];
    first.append_record(21, 0, 0, &[&[1; 700]], &mut wal);
    first.append_record(RM_XLOG, XLOG_SWITCH, 0, &[], &mut wal);
    first.fill_segment(MIB, &mut |bytes| wal.extend_from_slice(bytes));
    let (switchpoint, last) = (START + MIB, first.last_record());
    assert_eq!(first.lsn(), switchpoint);
    let (mut second, mut copy) = (WalWriter::new(shape(2), switchpoint, last), vec![]);
    second.append_record(21, 0, 0, &[&[2; 700]], &mut copy);
    let files = Files::default().with(1, START, &wal).with(2, switchpoint, &copy);
    let histories = [TimelineHistory::single(tli(1)).extend(tli(2), switchpoint, "test")];
    let control = ControlFile { timeline: tli(2), ..control(START, None) };
    let found = files.recover(&control, &histories, 8192).unwrap();
    assert_eq!((found.end, found.timeline), (second.lsn(), tli(2)));
}

#[test]
fn what_is_served_begins_where_the_hub_began_or_after_the_last_gap() {
    let (wal, records) = wal();
    let files = Files::default().with(1, START, &wal);
    let last = records.last().unwrap();
    let oldest = |files: &Files, start_lsn| {
        let control = ControlFile { start_lsn, ..control(last.end, Some(last.start)) };
        let Ok(RecoveryPlan::Scan(plan)) = files.plan(&control, &[]) else { panic!("no scan") };
        plan.oldest_lsn
    };
    assert_eq!(oldest(&files, Lsn(MIB)), START);
    assert_eq!(oldest(&files, START + 8192), START + 8192);
    assert_eq!(oldest(&files.without(1, 4), START), START + MIB);
}

#[test]
fn the_newest_transaction_and_checkpoint_are_found() {
    use crate::rmgr::counters::Counters;
    use crate::rmgr::xlog::{Checkpoint, WalLevel, XLOG_CHECKPOINT_ONLINE};
    let checkpoint = |redo| Checkpoint {
        redo,
        timeline: tli(1),
        prev_timeline: tli(1),
        wal_level: WalLevel::Replica,
        counters: Counters::first(),
        time: crate::time::Timestamp(0),
        oldest_active_xid: 3,
    };
    let find = |next_xid: u64, xids: &[u32]| {
        let (mut wal, mut writer) = (vec![], WalWriter::new(shape(1), START, None));
        let mut seen = None;
        for &xid in xids {
            let body = checkpoint(START + u64::from(xid % 100)).body(WalVersion::PG15);
            let at = writer.append_record(0, XLOG_CHECKPOINT_ONLINE, 0, &[&body], &mut wal);
            let redo = START + u64::from(xid % 100);
            seen = Some(CheckpointSeen { start: at.start, redo, is_shutdown: false });
            writer.append_record(21, 0, xid, &[&[1; 5000]], &mut wal);
        }
        let counters = Some(Counters { next_xid, ..Counters::first() });
        let control = ControlFile { counters, ..control(START, None) };
        let files = Files::default().with(1, START, &wal);
        let Ok(RecoveryPlan::Scan(plan)) = files.plan(&control, &[]) else { panic!("no scan") };
        let mut scan = EndOfWal::new(plan, &control, crc32c::crc32c_append);
        while let Some(want) = scan.poll_read() {
            let at = (want.segno.start(SIZE) + want.offset - START) as usize;
            let file = &files.0[&(1, want.segno.0)];
            scan.handle_read(&file[at..file.len().min(at + 777)]);
        }
        let end = scan.finish().unwrap();
        assert_eq!(end.checkpoint, seen);
        end.facts.counters.unwrap().next_xid
    };
    assert_eq!(find(3, &[3, 5, 4]), 6);
    assert_eq!(find(3, &[0, 1, 2]), 3);
    assert_eq!(find((7 << 32) | 0xFFFF_FFF0, &[0xFFFF_FFF1, 4, 0xFFFF_FFFE]), (8 << 32) | 5);
    assert_eq!(find(1 << 32 | 4, &[0xFFFF_FFF0, 3]), 1 << 32 | 4);
}
