//! WAL of a real PostgreSQL 15, as tests/golden/make.sh keeps it, and generated WAL under
//! PostgreSQL's own pg_waldump.

mod decode;
mod golden_wal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walhub_proto::generate::{WalGenerator, WalShape, WalWriter};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::{PAGE_BYTES, PAGE_LEN, PageHeader, WalVersion};
use walhub_proto::record::{RM_XLOG, RecordHeader, RecordReader, WalViolation};
use walhub_proto::recovery::{self, ControlFile, EndOfWal, FoundSegment, RecoveryPlan};
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::facts::DatabaseFacts;
use walhub_proto::rmgr::message::logical_message;
use walhub_proto::rmgr::xlog::{Checkpoint, WalLevel};
use walhub_proto::rmgr::{RM_LOGICALMSG, RM_STANDBY, RM_XACT, standby, xact, xlog};
use walhub_proto::segment::SegNo;
use walhub_proto::time::Timestamp;

use crate::golden_wal::SIZE;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

/// Where the golden WAL begins, and its bytes.
fn wal() -> (Lsn, Vec<u8>) {
    golden_wal::read(&golden())
}

/// A record: its start, the start of the one before, its length, its transaction.
type Line = (Lsn, Lsn, u32, u32);

fn line(record: &RecordHeader) -> Line {
    (record.start, record.prev, record.len, record.xid)
}

fn golden_lines() -> Vec<Line> {
    let text = fs::read_to_string(golden().join("records.txt")).unwrap();
    text.lines()
        .map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let lsn = |i: usize| fields[i].parse().unwrap();
            (lsn(0), lsn(1), fields[2].parse().unwrap(), fields[3].parse().unwrap())
        })
        .collect()
}

/// What the reader finds until the WAL ends, fed in pieces of these sizes.
fn read(start: Lsn, wal: &[u8], pieces: &[usize]) -> (Vec<Line>, RecordReader, WalViolation) {
    let mut reader = RecordReader::new(start, SIZE, crc32c::crc32c_append);
    let mut lines = vec![];
    let mut rest = wal;
    for &piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        if let Err(violation) = reader.feed_with(now, |record| lines.push(line(record))) {
            return (lines, reader, violation);
        }
        rest = later;
        assert!(!rest.is_empty(), "the golden WAL ends before the file");
    }
    unreachable!("pieces repeat");
}

#[test]
fn golden_wal_reads_as_pg_waldump_reads_it_in_any_pieces() {
    let (start, wal) = wal();
    let want = golden_lines();
    assert!(want.len() > 500);
    for pieces in [vec![wal.len()], vec![1], vec![PAGE_LEN], vec![24, 8191, 3], vec![131_072]] {
        let (lines, reader, violation) = read(start, &wal, &pieces);
        assert!(lines == want, "{pieces:?}");
        assert_eq!(reader.version(), Some(WalVersion::PG15));
        let end = reader.verified_lsn();
        assert_eq!(violation, WalViolation::RecordLength { at: end, got: 0, want: 24 });
        assert_eq!(reader.last_record(), want.last().map(|line| line.0));
    }
}

#[test]
fn golden_wal_holds_the_cases_it_was_made_for() {
    let (start, wal) = wal();
    let mut reader = RecordReader::new(start, SIZE, crc32c::crc32c_append);
    let mut records = vec![];
    reader.feed_with(&wal, |record| records.push(*record)).unwrap_err();
    let crosses = |unit: u64| {
        records.iter().filter(|record| record.start.0 / unit != (record.end.0 - 1) / unit).count()
    };
    assert!(records.iter().any(RecordHeader::is_switch));
    assert!(crosses(PAGE_BYTES) > 3);
    assert!(crosses(SIZE.bytes()) > 0);
}

#[test]
fn golden_wal_reads_on_from_every_page() {
    let (start, wal) = wal();
    let want = golden_lines();
    let mut reader = RecordReader::new(start, SIZE, crc32c::crc32c_append);
    let mut switch = None;
    let _end = reader.feed_with(&wal, |record| {
        if record.is_switch() {
            switch = Some(record.end);
        }
    });
    let (end, switch) = (reader.verified_lsn(), switch.unwrap());
    for page in (0..wal.len()).step_by(PAGE_LEN) {
        let from = start + page as u64;
        let filling = switch..SegNo::of_start(switch, SIZE).end(SIZE);
        if from > end || filling.contains(&from) {
            continue;
        }
        let (lines, reader, _) = read(from, &wal[page..], &[wal.len()]);
        assert!(want.ends_with(&lines), "from {from}");
        assert_eq!(reader.verified_lsn(), end, "from {from}");
    }
}

#[test]
fn every_corrupt_byte_of_a_golden_record_is_noticed() {
    let (start, wal) = wal();
    let lines = golden_lines();
    // Ends of records that follow without a page header between: not too long a test.
    for (i, pair) in lines.windows(2).enumerate().step_by(5) {
        let (lsn, prev, len, _) = pair[0];
        if u64::from(len) > 8000 || (pair[1].0 - lsn) != u64::from(len).next_multiple_of(8) {
            continue;
        }
        let from = (lsn - start) as usize;
        for at in 0..len as usize {
            let mut record = wal[from..(pair[1].0 - start) as usize].to_vec();
            record[at] ^= 1 << (at % 8);
            let mut reader = RecordReader::new(lsn, SIZE, crc32c::crc32c_append);
            if i > 0 {
                reader = reader.with_prev(prev);
            }
            let result = reader.feed(&record);
            assert!(result.is_err() || at < 4, "byte {at} of the record at {lsn}");
            assert_eq!(reader.verified_lsn(), lsn);
        }
    }
}

fn pg_waldump() -> PathBuf {
    let bindir = Command::new("pg_config").arg("--bindir").output();
    let bindir = bindir.expect("pg_config is needed: apt-get install postgresql postgresql-common");
    Path::new(String::from_utf8(bindir.stdout).unwrap().trim()).join("pg_waldump")
}

#[test]
fn pg_waldump_reads_generated_wal_as_it_was_made() {
    let shape = WalShape {
        system_identifier: SystemIdentifier(7_300_000_000_000_000_000),
        segment_size: SIZE,
        timeline: TimelineId::FIRST,
        version: WalVersion::PG15,
        crc: crc32c::crc32c_append,
    };
    let start = SegNo(3).start(SIZE);
    let mut generator = WalGenerator::new(11, shape, start);
    let mut wal = vec![];
    generator.fill(1_200_000, &mut wal);
    generator.switch_segment(&mut wal);
    generator.fill(1_500_000, &mut wal);
    let end = generator.lsn();
    let mut lines = vec![];
    let mut reader = RecordReader::new(start, SIZE, crc32c::crc32c_append);
    reader.feed_with(&wal, |record| lines.push(line(record))).unwrap();

    let dir = tempfile::tempdir().unwrap();
    wal.resize(wal.len().next_multiple_of(1 << 20), 0);
    for (i, segment) in wal.chunks(1 << 20).enumerate() {
        let name = SegNo(3 + i as u64).file_name(TimelineId::FIRST, SIZE);
        fs::write(dir.path().join(name), segment).unwrap();
    }
    let out = Command::new(pg_waldump())
        .arg("-p")
        .arg(dir.path())
        .args(["-s", &start.to_string(), "-e", &end.to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let dumped: Vec<Line> = text.lines().map(parse_waldump).collect();
    assert!(dumped == lines, "{} records against {}", dumped.len(), lines.len());
    let mut kinds = text.lines();
    let checkpoint = kinds.next().unwrap();
    assert!(checkpoint.contains("CHECKPOINT_SHUTDOWN redo 0/300028; tli 1; prev tli 1; fpw true;"));
    assert!(
        checkpoint.contains("xid 0:750; oid 16384; multi 1; offset 0; oldest xid 717 in DB 1;")
    );
    let message = kinds.next().unwrap();
    assert!(message.contains("MESSAGE non-transactional, prefix \"walhub\"; payload"), "{message}");
}

fn parse_waldump(line: &str) -> Line {
    let field = |name: &str| {
        let rest = line.split_once(name).unwrap().1.trim_start();
        rest.split([',', ' ']).next().unwrap()
    };
    let lens = line.split_once("(rec/tot):").unwrap().1;
    let len = lens.split_once('/').unwrap().1.trim_start().split(',').next().unwrap();
    (
        field("lsn:").parse().unwrap(),
        field("prev ").parse().unwrap(),
        len.parse().unwrap(),
        field("tx:").parse().unwrap(),
    )
}

#[test]
fn the_end_of_golden_wal_is_found_and_stale_pages_after_it_are_not() {
    let (start, wal) = wal();
    let lines = golden_lines();
    let last = lines.last().unwrap();
    let control = ControlFile {
        system_identifier: PageHeader::decode(&wal).unwrap().long.unwrap().system_identifier,
        segment_size: SIZE,
        server_version_num: 150_018,
        server_version: "15.18".to_owned(),
        wal_version: Some(WalVersion::PG15),
        timeline: TimelineId::FIRST,
        start_lsn: start,
        flush_lsn: lines[10].0,
        last_record: Some(lines[9].0),
        own_wal: false,
        counters: None,
        database: DatabaseFacts::default(),
        checkpoint_lsn: None,
        redo_lsn: None,
        sequence: 1,
    };
    let segments: Vec<_> = wal
        .chunks(1 << 20)
        .enumerate()
        .map(|(i, file)| FoundSegment {
            tli: TimelineId::FIRST,
            segno: SegNo(SegNo::of_start(start, SIZE).0 + i as u64),
            len: file.len() as u64,
        })
        .collect();
    let Ok(RecoveryPlan::Scan(plan)) = recovery::plan(Some(&control), &segments, &[], SIZE) else {
        panic!("nothing to scan")
    };
    let mut scan = EndOfWal::new(plan, &control, crc32c::crc32c_append);
    while let Some(want) = scan.poll_read() {
        let at = (want.segno.start(SIZE) + want.offset - start) as usize;
        scan.handle_read(&wal[at..wal.len().min(at + 10_000)]);
    }
    let end = scan.finish().unwrap();
    assert_eq!(end.last_record, Some(last.0));
    assert_eq!(end.end, Lsn(last.0.0 + u64::from(last.2)).maxalign());
    let text = format!("invalid record length at {}: wanted 24, got 0", end.end);
    assert_eq!(end.reason.to_string(), text);
}

/// One of each kind of record that walhub writes into WAL of its own, and where it ends.
fn own_records(version: WalVersion, wal: &mut Vec<u8>) -> Lsn {
    let shape = WalShape {
        system_identifier: SystemIdentifier(7_300_000_000_000_000_000),
        segment_size: SIZE,
        timeline: TimelineId::FIRST,
        version,
        crc: crc32c::crc32c_append,
    };
    let mut writer = WalWriter::new(shape, SegNo(3).start(SIZE), None);
    let time = Timestamp(700_000_000_000_000);
    let checkpoint = |redo, oldest_active_xid| Checkpoint {
        redo,
        timeline: TimelineId::FIRST,
        prev_timeline: TimelineId::FIRST,
        wal_level: WalLevel::Logical,
        counters: Counters { next_xid: (2 << 32) + 3, ..Counters::first() },
        time,
        oldest_active_xid,
    };
    let mut append = |rmid, info, xid, body: &[u8]| {
        let redo = writer.next_record();
        let body = if body.is_empty() { checkpoint(redo, 0).body(version) } else { body.to_vec() };
        writer.append_record(rmid, info, xid, &[&body], wal)
    };
    append(RM_XLOG, xlog::XLOG_CHECKPOINT_SHUTDOWN, 0, &[]);
    append(RM_STANDBY, standby::XLOG_RUNNING_XACTS, 0, &standby::running_xacts(3));
    let plain = logical_message(5, false, "a prefix", b"hello").unwrap();
    append(RM_LOGICALMSG, 0, 0, &plain);
    let long = logical_message(5, true, "", &vec![b'x'; 1 << 20]).unwrap();
    append(RM_LOGICALMSG, 0, 3, &long);
    let (info, commit) = xact::commit(time, false);
    append(RM_XACT, info, 3, &commit);
    let (info, commit) = xact::commit(time, true);
    append(RM_XACT, info, 4, &commit);
    append(RM_XLOG, xlog::XLOG_NOOP, 0, &xlog::noop(b"four"));
    let redo = xlog::checkpoint_redo(WalLevel::Logical, version);
    let redo = redo.map(|body| append(RM_XLOG, xlog::XLOG_CHECKPOINT_REDO, 0, &body).start);
    let body = checkpoint(redo.unwrap_or(Lsn(0x0030_0028)), 3).body(version);
    append(RM_XLOG, xlog::XLOG_CHECKPOINT_ONLINE, 0, &body);
    let (tli, prev) = (TimelineId::FIRST, TimelineId::FIRST);
    let body = xlog::end_of_recovery(time, tli, prev, WalLevel::Logical, version);
    append(RM_XLOG, xlog::XLOG_END_OF_RECOVERY, 0, &body);
    writer.switch_segment(wal);
    writer.append_record(RM_LOGICALMSG, 0, 0, &[&plain], wal);
    writer.lsn()
}

#[test]
fn pg_waldump_understands_every_record_that_walhub_writes() {
    let mut wal = vec![];
    let end = own_records(WalVersion::PG15, &mut wal);
    let dir = tempfile::tempdir().unwrap();
    wal.resize(wal.len().next_multiple_of(1 << 20), 0);
    for (i, segment) in wal.chunks(1 << 20).enumerate() {
        let name = SegNo(3 + i as u64).file_name(TimelineId::FIRST, SIZE);
        fs::write(dir.path().join(name), segment).unwrap();
    }
    let start = SegNo(3).start(SIZE).to_string();
    let out = Command::new(pg_waldump())
        .env("TZ", "UTC")
        .arg("-p")
        .arg(dir.path())
        .args(["-s", &start, "-e", &end.to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    let text = String::from_utf8(out.stdout).unwrap();
    let descs: Vec<_> = text
        .lines()
        .map(|line| {
            let rmgr = line["rmgr: ".len()..].split_whitespace().next().unwrap();
            let xid = line.split_once("tx:").unwrap().1.split_once(',').unwrap().0.trim();
            let desc = line.split_once("desc: ").unwrap().1.trim_end();
            // Not a megabyte of content.
            let desc = desc.split(" 78 78").next().unwrap();
            format!("{rmgr} {xid} {desc}")
        })
        .collect();
    let want = include_str!("own_records.txt");
    assert_eq!(descs.join("\n") + "\n", want);
}

#[test]
fn what_walhub_writes_for_each_major_reads_as_wal_of_that_major() {
    for (major, redo_records) in [(13, 0), (14, 0), (15, 0), (16, 0), (17, 1), (18, 1)] {
        let version = WalVersion::of_major(major).unwrap();
        let mut wal = vec![];
        let end = own_records(version, &mut wal);
        let mut reader = RecordReader::new(SegNo(3).start(SIZE), SIZE, crc32c::crc32c_append)
            .with_version(version);
        let mut kinds = vec![];
        reader.feed_with(&wal, |record| kinds.push((record.rmid, record.info))).unwrap();
        assert_eq!(reader.verified_lsn(), end);
        let redo = kinds.iter().filter(|kind| **kind == (RM_XLOG, xlog::XLOG_CHECKPOINT_REDO));
        assert_eq!((kinds.len() - redo.clone().count(), redo.count()), (11, redo_records));
    }
}
