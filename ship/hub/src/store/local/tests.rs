//! Local WAL on a ring and a directory of its own.

use std::collections::BTreeMap;

use tempfile::TempDir;
use walhub_engine::buffer::{Buffer, SlabPool};
use walhub_engine::crc::crc32c;
use walhub_engine::io::{Completion, Token};
use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::generate::{WalShape, WalWriter};
use walhub_proto::lsn::{LsnRange, SystemIdentifier};
use walhub_proto::page::WalVersion;
use walhub_proto::rmgr::facts::Facts;
use walhub_proto::segment::SegmentSize;

use super::*;
use crate::store::segments::{Prepared, ZEROS_LEN};
use crate::store::tail::SLAB_LEN;
use crate::store::writer::{FlushMethod, WriterTokens};

const SIZE: SegmentSize = SegmentSize::MIN;
const WRITE: Token = Token(1 << 62);
const SYNC: Token = Token(1 << 62 | 1);
const JOB_TAG: u64 = 1 << 61;
const START: Lsn = Lsn(1 << 20);

struct Bench {
    io: Uring,
    jobs: Jobs<FileJob>,
    local: LocalWal,
    slabs: Vec<TailSlab>,
    /// Goes last: what is under way writes there.
    dir: TempDir,
}

fn reader(lsn: Lsn) -> RecordReader {
    RecordReader::new(lsn, SIZE, crc32c).with_timeline(TimelineId::FIRST)
}

fn writer() -> WalWriter {
    let shape = WalShape {
        system_identifier: SystemIdentifier(1),
        segment_size: SIZE,
        timeline: TimelineId::FIRST,
        version: WalVersion::PG15,
        crc: crc32c,
    };
    WalWriter::new(shape, START, None)
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tail, first) = Tail::new(SlabPool::new(SLAB_LEN, 16), 4, START, &[]);
        let mut zeros = Buffer::with_capacity(ZEROS_LEN);
        zeros.zero_pad_to(ZEROS_LEN);
        let (held, zeros) = (BTreeMap::new(), zeros.freeze());
        let segments = Segments::new(
            dir.path().to_owned(),
            SIZE,
            TimelineId::FIRST,
            false,
            held,
            Vec::new(),
            zeros,
        );
        let writer = Writer::new(
            WriterTokens { write: WRITE, sync: SYNC },
            FlushMethod::WriteThenSync,
            false,
            START,
        );
        Self {
            io: Uring::new(UringConfig::default()).unwrap(),
            jobs: Jobs::new(JOB_TAG),
            local: LocalWal::new(
                tail,
                reader(START),
                segments,
                writer,
                SystemIdentifier(7),
                1 << 20,
                Facts::default(),
            ),
            dir,
            slabs: vec![first],
        }
    }

    /// A record has been received, and nothing of it was written.
    fn with_a_record() -> Self {
        let mut bench = Self::new();
        let (mut wal, mut bytes) = (writer(), Vec::new());
        wal.append_record(10, 0, 1, &[&[7; 3000]], &mut bytes);
        let (local, slabs) = (&mut bench.local, &mut bench.slabs);
        local.append(START, &bytes, &mut |slab| slabs.push(slab)).unwrap();
        bench
    }

    /// Runs until a write has completed; what came of it is not told to the writer.
    fn first_write(&mut self) -> io::Result<Done> {
        loop {
            self.local.pump(&mut self.io, &mut self.jobs);
            let mut completions = Vec::new();
            self.io.wait(None, &mut completions).unwrap();
            for Completion { token, result } in completions {
                if token == WRITE {
                    return result;
                }
                self.finish_job(token, result);
            }
        }
    }

    /// Runs until nothing more happens by itself; `flushed` is called after each flush.
    fn settle(&mut self, mut flushed: impl FnMut(&mut Self)) {
        loop {
            self.local.pump(&mut self.io, &mut self.jobs);
            if self.local.is_idle() && self.jobs.is_idle() {
                return;
            }
            let mut completions = Vec::new();
            self.io.wait(None, &mut completions).unwrap();
            for Completion { token, result } in completions {
                if token == WRITE || token == SYNC {
                    let done = if token == WRITE {
                        self.local.handle_write(&mut self.io, result)
                    } else {
                        self.local.handle_sync(&mut self.io, result)
                    };
                    match done {
                        Flushed::NotYet => {}
                        Flushed::Done => flushed(self),
                        other => panic!("{other:?}"),
                    }
                    continue;
                }
                self.finish_job(token, result);
                self.local.pump(&mut self.io, &mut self.jobs);
            }
        }
    }

    fn finish_job(&mut self, token: Token, result: io::Result<Done>) {
        let Some(finished) = self.jobs.handle(&mut self.io, token, result) else { return };
        match &finished.kind {
            FileJob::Prepare(_) => {
                let (io, jobs) = (&mut self.io, &mut self.jobs);
                let prepared = self.local.segments.handle_prepared(io, jobs, finished);
                assert!(matches!(prepared, Prepared::Ready), "{prepared:?}");
            }
            FileJob::Recycle(name) => {
                let (name, done) = (name.clone(), finished.result.is_ok());
                assert!(done, "{:?}", finished.result);
                let (io, jobs) = (&mut self.io, &mut self.jobs);
                self.local.segments.handle_recycled(io, jobs, name, done);
            }
            _ => assert!(finished.result.is_ok(), "{:?}", finished.result),
        }
    }

    /// Feeds `bytes` as they would come, with room for each piece.
    fn feed(&mut self, mut bytes: &[u8], mut flushed: impl FnMut(&mut Self)) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(100_000));
            if !self.local.has_room(piece.len()) {
                self.settle(&mut flushed);
                assert!(self.local.has_room(piece.len()), "there is never room");
            }
            let (start, slabs) = (self.local.received_lsn(), &mut self.slabs);
            self.local.append(start, piece, &mut |slab| slabs.push(slab)).unwrap();
            self.slabs.clear();
            self.local.pump(&mut self.io, &mut self.jobs);
            bytes = rest;
        }
        self.settle(flushed);
    }

    fn on_disk(&self, from: SegNo, bytes: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let mut segno = from;
        while u64::try_from(all.len()).unwrap() < bytes {
            all.extend(std::fs::read(self.local.segments.segment_path(segno)).unwrap());
            segno = segno.next();
        }
        all.truncate(usize::try_from(bytes).unwrap());
        all
    }
}

#[test]
fn a_record_larger_than_the_tail_may_break_off_and_come_again() {
    let (mut wal, mut out) = (writer(), Vec::new());
    wal.append_record(10, 0, 1, &[&[1; 1000]], &mut out);
    let verified = START + u64::try_from(out.len()).unwrap();
    wal.append_record(10, 0, 1, &[&vec![2; 8 << 20]], &mut out);
    let mut bench = Bench::new();
    // What comes again may be other bytes: a primary writes them anew after a crash.
    let mut abandoned = out.get(..7 << 20).unwrap().to_vec();
    for page in abandoned.chunks_mut(8192).skip(1) {
        page[4000] ^= 1;
    }
    bench.feed(&abandoned, |_| ());
    assert_eq!((bench.local.verified_lsn(), bench.local.flush_lsn()), (verified, verified));
    let last = bench.local.last_record().unwrap();
    let again = reader(verified).with_prev(last);
    // The block in which the first record ends is on disk only.
    let missing = LsnRange::new(verified.align_down(4096), verified);
    let refused =
        bench.local.rewind(&mut bench.io, &mut bench.jobs, again.clone(), None).unwrap_err();
    assert!(matches!(refused, TruncateError::Missing(range) if range == missing));
    let block = bench.on_disk(SegNo(1), verified - START);
    bench.local.rewind(&mut bench.io, &mut bench.jobs, again, Some(&block)).unwrap();
    assert_eq!(bench.local.received_lsn(), verified);
    let rest = usize::try_from(verified - START).unwrap();
    bench.feed(&out[rest..], |_| ());
    assert_eq!(bench.local.flush_lsn(), wal.lsn());
    assert!(bench.on_disk(SegNo(1), wal.lsn() - START) == out);
}

#[test]
fn segments_are_recycled_while_the_next_ones_are_made_ready() {
    let (mut wal, mut out) = (writer(), Vec::new());
    for record in 0..600_u32 {
        wal.append_record(10, 0, record, &[&vec![7; 50_000]], &mut out);
    }
    let mut bench = Bench::new();
    bench.feed(&out, |bench| {
        let keep = SegNo::of_start(bench.local.flush_lsn(), SIZE);
        let local = &mut bench.local;
        local.segments.remove_before(&mut bench.io, &mut bench.jobs, keep, true);
    });
    assert_eq!(bench.local.flush_lsn(), wal.lsn());
    let last = SegNo::of_start(wal.lsn(), SIZE);
    let offset = usize::try_from(last.start(SIZE) - START).unwrap();
    assert!(bench.on_disk(last, wal.lsn() - last.start(SIZE)) == out[offset..]);
    // Two spare files, the current segment and the next.
    assert!(std::fs::read_dir(bench.dir.path()).unwrap().count() <= 4);
}

#[test]
fn with_wal_always_coming_in_some_record_is_known_to_be_durable() {
    let (mut wal, mut out) = (writer(), Vec::new());
    wal.append_record(10, 0, 1, &[&[1; 1000]], &mut out);
    let mut bench = Bench::new();
    bench.feed(&out, |_| ());
    let first = (bench.local.flush_lsn(), bench.local.flushed_record());
    assert_eq!(first, (wal.lsn(), wal.last_record()));
    let mut seen = first.0;
    for record in 0..20_u32 {
        // Two records at each flush: one before it, one while it is under way.
        for _ in 0..2 {
            let mut out = Vec::new();
            wal.append_record(10, 0, record, &[&[2; 9000]], &mut out);
            let start = bench.local.received_lsn();
            bench.local.append(start, &out, &mut |_| ()).unwrap();
            bench.local.pump(&mut bench.io, &mut bench.jobs);
        }
        let before = bench.local.flush_lsn();
        while bench.local.flush_lsn() == before {
            let mut completions = Vec::new();
            bench.io.wait(None, &mut completions).unwrap();
            for Completion { token, result } in completions {
                if token == WRITE {
                    let _ = bench.local.handle_write(&mut bench.io, result);
                } else if token == SYNC {
                    let _ = bench.local.handle_sync(&mut bench.io, result);
                } else if let Some(finished) = bench.jobs.handle(&mut bench.io, token, result) {
                    let (io, jobs) = (&mut bench.io, &mut bench.jobs);
                    let _ = bench.local.segments.handle_prepared(io, jobs, finished);
                }
            }
        }
        assert!(bench.local.flush_lsn() < bench.local.verified_lsn());
        seen = seen.max(bench.local.flush_lsn());
    }
    assert!(seen - first.0 > 15 * 18_000, "stuck at {seen}");
    assert!(seen <= bench.local.flush_lsn());
}

#[test]
fn a_write_that_the_disk_does_not_take_now_is_made_again_after_a_pause() {
    let mut bench = Bench::with_a_record();
    let wanted = bench.local.verified_lsn();
    for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted] {
        let result = bench.first_write();
        assert!(result.is_ok());
        // As if the device had taken none of it.
        let flushed = bench.local.handle_write(&mut bench.io, Err(kind.into()));
        assert!(matches!(&flushed, Flushed::Busy(error) if error.kind() == kind), "{flushed:?}");
        bench.local.pause();
        bench.local.pump(&mut bench.io, &mut bench.jobs);
        assert!(bench.local.is_idle() && bench.local.is_paused());
        assert_eq!(bench.local.flush_lsn(), START);
        bench.local.resume();
    }
    bench.settle(|_| ());
    assert_eq!(bench.local.flush_lsn(), wanted);
}

#[test]
fn a_flush_that_failed_makes_nothing_durable() {
    let mut bench = Bench::with_a_record();
    let written = bench.first_write();
    assert!(matches!(bench.local.handle_write(&mut bench.io, written), Flushed::NotYet));
    let mut completions = Vec::new();
    while !completions.iter().any(|completion: &Completion| completion.token == SYNC) {
        bench.io.wait(None, &mut completions).unwrap();
    }
    let failed = bench.local.handle_sync(&mut bench.io, Err(io::Error::other("the disk is gone")));
    assert!(matches!(&failed, Flushed::Failed("fdatasync", _)), "{failed:?}");
    assert_eq!(bench.local.flush_lsn(), START);
}
