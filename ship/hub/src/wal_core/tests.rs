//! A wal core with WAL of its own, on a ring and a directory of its own.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use walhub_engine::crc::crc32c;
use walhub_engine::files::OsFs;
use walhub_engine::io::{Completion, Io};
use walhub_engine::mailbox::{Sender, mailbox};
use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::generate::{WalShape, WalWriter};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::record::{RM_XLOG, RecordHeader, RecordReader, RecordSink, XLOG_SWITCH};
use walhub_proto::recovery::ControlFile;
use walhub_proto::rmgr::xlog::{
    Checkpoint, WalLevel, XLOG_CHECKPOINT_ONLINE, XLOG_CHECKPOINT_SHUTDOWN, XLOG_END_OF_RECOVERY,
};
use walhub_proto::rmgr::{
    FIRST_NORMAL_XID, RM_LOGICALMSG, RM_STANDBY, RM_XACT, standby, xact, xid_of,
};
use walhub_proto::segment::SegmentSize;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;

use super::*;
use crate::api::append::{Append, Appended, NewRecord, Waited, WalRequest};
use crate::api::settings::HubSettings;
use crate::core_loop;
use crate::mail::{StopMode, ToWal};
use crate::policy::attached::Attached;
use crate::publish::commits::{Commits, commits};
use crate::publish::handle::PublishedSlots;
use crate::publish::positions::{Shared, StandbyTable};
use crate::store::recover::{self, NewCluster, recover};
use crate::store::writer::FlushMethod;

mod promotion;
mod slots;
mod xids;

const SIZE: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(1 << 20);
const LOCAL: Option<WaitLevel> = Some(WaitLevel::LocalFlush);
type Told = Arc<Mutex<Vec<ToControl>>>;

/// One life of a hub.
struct Bench {
    io: Uring,
    core: WalCore<OwnedFd, <Uring as Io>::Waker>,
    commits: Commits,
    shared: Arc<Shared>,
    mail: Sender<ToWal<OwnedFd>>,
    told: Told,
    /// What is added to the clock.
    later: Duration,
    /// Goes last: what is under way writes there.
    dir: TempDir,
}

fn settings() -> HubSettings {
    let mut settings = crate::api::settings::for_tests();
    settings.tail_cache_size = 4 << 20;
    settings
}

impl Bench {
    /// On a new directory.
    fn new(settings: HubSettings) -> Self {
        Self::of_version(settings, WalVersion::PG15)
    }

    fn of_version(settings: HubSettings, version: WalVersion) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pg_wal", "slots"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let new =
            NewCluster { system_identifier: SystemIdentifier(7), segment_size: SIZE, version };
        recover::create_cluster(&OsFs, dir.path(), &new).unwrap();
        Self::start(dir, settings)
    }

    fn start(dir: TempDir, settings: HubSettings) -> Self {
        let recovered = recover(&OsFs, dir.path()).unwrap();
        let io = Uring::new(UringConfig::default()).unwrap();
        let (mail, receiver) = mailbox(256, io.waker());
        let (commits, link) = commits(io.waker());
        let (shared, told) = (Arc::<Shared>::default(), Told::default());
        let tells = Arc::clone(&told);
        let config = WalConfig {
            data_dir: dir.path().to_owned(),
            shared: Arc::clone(&shared),
            standbys: Arc::new(StandbyTable::new(4)),
            mail: receiver,
            control: Box::new(move |tell| tells.lock().unwrap().push(tell)),
            slots: PublishedSlots::default(),
            commits: link,
            settings: Arc::new(settings),
            direct: false,
            method: FlushMethod::WriteThenSync,
            max_wal_size: MAX_WAL_SIZE,
        };
        let core = WalCore::new(config, Vec::new(), recovered, core_loop::now(&io));
        Self { io, core, commits, shared, mail, told, later: Duration::ZERO, dir }
    }

    fn now(&self) -> Now {
        let now = core_loop::now(&self.io);
        Now { instant: now.instant + self.later, ..now }
    }

    fn look(&mut self) {
        let positions = self.shared.acknowledged();
        self.commits.look(|| positions);
    }

    /// One turn; the control plane looks only when it is told to. Whether the process goes on.
    fn turn(&mut self) -> bool {
        let now = self.now();
        self.core.turn(&mut self.io, now);
        let mut completions: Vec<Completion> = Vec::new();
        let soon = self.io.now_ns() + 2_000_000;
        self.io.wait(Some(soon), &mut completions).unwrap();
        for completion in completions {
            let now = self.now();
            self.core.handle(&mut self.io, now, completion);
        }
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        if told.iter().any(|tell| matches!(tell, ToControl::Commits)) {
            self.look();
        }
        !self.core.is_stopped()
    }

    fn run<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while std::time::Instant::now() < until {
            self.turn();
            if let Some(done) = done(self) {
                return done;
            }
        }
        panic!("nothing came of it");
    }

    fn append(&mut self, contents: &[Vec<u8>], commit: bool, wait: Option<WaitLevel>) -> Appended {
        self.try_append(contents, commit, wait).unwrap()
    }

    fn try_append(
        &mut self,
        contents: &[Vec<u8>],
        commit: bool,
        wait: Option<WaitLevel>,
    ) -> Result<Appended, Report> {
        let records = contents.iter().map(|content| record(commit, content)).collect();
        let commit = commit.then_some(Timestamp(5));
        let mut answer =
            self.commits.append(Append { records, commit, wait, owner: 1 }, Timestamp(0));
        self.run(|_| match answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => panic!("no answer"),
        })
    }

    fn ask(&mut self, request: WalRequest) -> Result<Lsn, Report> {
        let mut answer = self.commits.wal(request, Timestamp(0));
        self.run(|_| answer.try_recv().ok())
    }

    /// Runs until everything is durable.
    fn settle(&mut self) {
        self.run(|bench| bench.core.local()?.is_flushed().then_some(()));
    }

    /// Appends bytes of messages until the next record would begin at `target`.
    fn fill_to(&mut self, target: Lsn) {
        loop {
            let own = self.core.duty.own().unwrap();
            let writer = own.writer().clone();
            let left = target - writer.lsn();
            if left == 0 {
                return;
            }
            // The longest body that leaves room for another record, or ends there.
            let most = usize::try_from(left.min(100_000)).unwrap();
            let fits = |body_len: &usize| {
                let end = writer.record_range(*body_len).end;
                content_len(*body_len).is_some() && (end == target || end + 400 <= target)
            };
            let body_len = (27..most).rev().find(fits).expect("a record fits");
            self.append(&[vec![b'f'; content_len(body_len).unwrap()]], false, None);
        }
    }

    /// The process is gone; what it has written is there.
    fn kill(self) -> TempDir {
        self.dir
    }

    /// Stops in good order.
    fn stop(mut self) -> TempDir {
        assert!(self.mail.send(ToWal::Stop(StopMode::Fast)).is_ok());
        self.run(|bench| bench.core.is_stopped().then_some(()));
        self.kill()
    }

    fn restart(self) -> Self {
        let settings = (*self.core.config.settings).clone();
        Self::start(self.kill(), settings)
    }

    /// All records on disk.
    fn records(&self) -> Vec<Found> {
        records(&self.dir)
    }
}

/// The content of a message whose body is this long.
fn content_len(body_len: usize) -> Option<usize> {
    let short = body_len.checked_sub(2 + 25).filter(|_| body_len - 2 <= 255);
    short.or_else(|| body_len.checked_sub(5 + 25).filter(|_| body_len - 5 > 255))
}

fn record(transactional: bool, content: &[u8]) -> NewRecord {
    NewRecord::message(transactional, "", content).unwrap()
}

/// A record that was found.
#[derive(Clone, Debug)]
struct Found {
    header: RecordHeader,
    body: Vec<u8>,
}

impl Found {
    fn is(&self, rmid: u8, info: u8) -> bool {
        (self.header.rmid, self.header.info & 0xF0) == (rmid, info)
    }
}

#[derive(Default)]
struct Collect {
    body: Vec<u8>,
    found: Vec<Found>,
}

impl RecordSink for Collect {
    fn begin(&mut self, _: &RecordHeader) {
        self.body.clear();
    }

    fn body(&mut self, _: &RecordHeader, piece: &[u8]) {
        self.body.extend_from_slice(piece);
    }

    fn record(&mut self, header: &RecordHeader) {
        self.found.push(Found { header: *header, body: self.body.clone() });
    }
}

fn records(dir: &TempDir) -> Vec<Found> {
    let mut collect = Collect::default();
    let mut reader = RecordReader::new(START, SIZE, crc32c).with_timeline(TimelineId::FIRST);
    let mut segno = SegNo(1);
    while let Ok(bytes) =
        std::fs::read(dir.path().join("pg_wal").join(segno.file_name(TimelineId::FIRST, SIZE)))
    {
        if reader.feed_to(&bytes, &mut collect).is_err() {
            break;
        }
        segno = segno.next();
    }
    collect.found
}

fn control(dir: &TempDir) -> ControlFile {
    let bytes = std::fs::read(dir.path().join(recover::CONTROL_FILE)).unwrap();
    let (a, b) = bytes.split_at(walhub_proto::recovery::CONTROL_COPY_LEN);
    ControlFile::choose(a, b, crc32c).unwrap().unwrap().0
}

/// Contents of the messages, in order.
fn messages(found: &[Found]) -> Vec<Vec<u8>> {
    let messages = found.iter().filter(|found| found.is(RM_LOGICALMSG, 0));
    let decode = |found: &Found| {
        let message = walhub_proto::rmgr::message::LogicalMessage::decode(&found.body);
        message.expect("a message").content.to_vec()
    };
    messages.map(decode).collect()
}

fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251 + seed * 17) % 256).unwrap()).collect()
}

#[test]
fn a_record_larger_than_the_tail_waits_for_room_and_goes_on() {
    let mut bench = Bench::new(settings());
    let large = noise(11 << 20, 1);
    let small = noise(100, 2);
    let appended = bench.append(&[small.clone(), large.clone(), small.clone()], true, LOCAL);
    assert_eq!((appended.ends.len(), appended.waited), (3, Waited::Reached));
    assert!(bench.shared.flush_lsn.load() >= appended.end);
    assert!(messages(&bench.records()) == [small.clone(), large, small]);
}

#[test]
fn many_large_appends_at_once_all_come_through() {
    let mut bench = Bench::new(settings());
    let contents: Vec<Vec<u8>> = (0..20).map(|seed| noise(900_000 + 7 * seed, seed)).collect();
    let mut answers: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(owner, content)| {
            let (owner, wait) = (u32::try_from(owner).unwrap(), LOCAL);
            let records = vec![record(false, content)];
            bench.commits.append(Append { records, commit: None, wait, owner }, Timestamp(0))
        })
        .collect();
    let mut ends = Vec::new();
    for answer in &mut answers {
        ends.push(bench.run(|_| answer.try_recv().ok()).unwrap().end);
    }
    assert!(ends.is_sorted_by(|a, b| a < b));
    assert!(messages(&bench.records()) == contents);
}

#[test]
fn an_answer_that_comes_after_the_flush_is_told_all_the_same() {
    // Of all lengths some end where the tail has no room left for another record.
    let mut bench = Bench::new(settings());
    for len in (0..600).map(|step| (3 << 20) + 500 + step * 40) {
        let content = vec![1; len];
        let appended = bench.append(&[content], false, LOCAL);
        assert_eq!(appended.waited, Waited::Reached);
        if bench.shared.flush_lsn.load() > START + (300 << 20) {
            break;
        }
    }
    // Nothing appended, nothing to flush.
    let appended = bench.append(&[], false, LOCAL);
    assert_eq!(appended.end, bench.shared.flush_lsn.load());
}

#[test]
fn records_of_all_lengths_span_pages_and_segments() {
    let mut bench = Bench::new(settings());
    let lens = (0..60).chain((8100..8300).step_by(3)).chain([20_000, 70_000, 300_000, 1 << 20]);
    let contents: Vec<Vec<u8>> = lens.enumerate().map(|(seed, len)| noise(len, seed)).collect();
    let mut last = Lsn::INVALID;
    for some in contents.chunks(5) {
        let appended = bench.append(some, true, None);
        assert!(appended.ends.iter().chain([&appended.end]).is_sorted());
        assert!(appended.ends[0] > last);
        last = appended.end;
    }
    bench.settle();
    let found = bench.records();
    assert!(messages(&found) == contents);
    let commits = found.iter().filter(|found| found.is(RM_XACT, xact::XLOG_XACT_COMMIT)).count();
    assert_eq!(commits, contents.len().div_ceil(5));
    assert_eq!(found.last().unwrap().header.end, last);
}

#[test]
fn a_switch_ends_the_segment_wherever_it_is() {
    // Before the end of a page and of a segment, at their starts, and right after.
    let page = START + 8192;
    let segment = START + SIZE.bytes();
    let mut bench = Bench::new(settings());
    for target in [8, 16, 24, 32, 40].map(|left| Lsn(page.0 - left)).into_iter().chain([page]) {
        let base = SIZE.start_of(bench.core.duty.own().unwrap().writer().lsn());
        switch_at(&mut bench, base + (target - START));
    }
    for left in [8, 16, 24, 32, 48, 0] {
        let base = SIZE.start_of(bench.core.duty.own().unwrap().writer().lsn());
        switch_at(&mut bench, Lsn((base + (segment - START)).0 - left));
    }
    let after = bench.append(&[noise(5000, 3)], true, LOCAL);
    let found = bench.records();
    assert_eq!(found.last().unwrap().header.end, after.end);
    let switches = found.iter().filter(|found| found.is(RM_XLOG, XLOG_SWITCH)).count();
    // At the start of a segment there is nothing to end.
    assert_eq!(switches, 11);
    let mut bench = bench.restart();
    assert_eq!(bench.append(&[noise(10, 4)], true, LOCAL).xid, after.xid.map(|xid| xid + 1));
}

fn switch_at(bench: &mut Bench, target: Lsn) {
    bench.fill_to(target);
    let answer = bench.ask(WalRequest::SwitchSegment).unwrap();
    let at_start = SIZE.offset(target) == 0;
    assert_eq!(answer == target, at_start, "a switch at {target} answered {answer}");
    // PostgreSQL answers the end of the record, which may lie in the next segment.
    let lsn = bench.core.duty.own().unwrap().writer().lsn();
    assert_eq!((SIZE.offset(lsn), lsn), (0, answer.align_up(SIZE.bytes())));
    bench.settle();
    assert_eq!(bench.shared.flush_lsn.load(), lsn);
}

#[test]
fn a_second_switch_and_one_of_an_empty_segment_do_nothing() {
    let mut bench = Bench::new(settings());
    let first = bench.ask(WalRequest::SwitchSegment).unwrap();
    let end = first.align_up(SIZE.bytes());
    assert_eq!(bench.ask(WalRequest::SwitchSegment).unwrap(), end);
    assert_eq!(bench.ask(WalRequest::SwitchSegment).unwrap(), end);
    bench.settle();
    assert_eq!(bench.records().iter().filter(|f| f.is(RM_XLOG, XLOG_SWITCH)).count(), 1);
}

#[test]
fn transaction_ids_are_never_given_twice() {
    let mut bench = Bench::new(settings());
    let mut xids = Vec::new();
    for life in 0..6 {
        for _ in 0..3 {
            xids.push(bench.append(&[noise(50, life)], true, LOCAL).xid.unwrap());
        }
        // What is not transactional takes none.
        assert_eq!(bench.append(&[noise(50, life)], false, LOCAL).xid, None);
        if life == 2 {
            assert!(bench.ask(WalRequest::Checkpoint).is_ok());
        }
        bench.settle();
        bench = if life % 2 == 0 {
            bench.restart()
        } else {
            let settings = (*bench.core.config.settings).clone();
            Bench::start(bench.stop(), settings)
        };
    }
    assert!(xids.is_sorted_by(|a, b| a < b), "{xids:?}");
    assert_eq!(xids[0], FIRST_NORMAL_XID);
    let found = bench.records();
    let of_messages = found.iter().filter(|f| f.is(RM_LOGICALMSG, 0) && f.header.xid != 0);
    assert_eq!(of_messages.map(|f| f.header.xid).collect::<Vec<_>>(), xids);
}

#[test]
fn transaction_ids_wrap_around_the_special_ones() {
    let bench = Bench::new(settings());
    let dir = bench.kill();
    let mut file = control(&dir);
    file.counters.as_mut().unwrap().next_xid = 0xFFFF_FFFE;
    file.sequence += 1;
    recover::write_control(&OsFs, dir.path(), &file).unwrap();
    let mut bench = Bench::start(dir, settings());
    let xids: Vec<u32> =
        (0..4).map(|_| bench.append(&[vec![1]], true, LOCAL).xid.unwrap()).collect();
    assert_eq!(xids, [0xFFFF_FFFE, 0xFFFF_FFFF, 3, 4]);
    // A crash right after: the epoch is known again.
    let mut bench = bench.restart();
    assert_eq!(bench.append(&[vec![1]], true, LOCAL).xid, Some(5));
    assert_eq!(bench.core.duty.own().unwrap().counters().next_xid, (1 << 32) + 6);
}

#[test]
fn a_checkpoint_is_in_the_control_file_before_it_is_answered() {
    let mut bench = Bench::new(settings());
    for round in 0..3 {
        let before = bench.append(&[noise(9000, round)], true, LOCAL);
        let end = bench.ask(WalRequest::Checkpoint).unwrap();
        let saved = control(&bench.dir);
        assert!(saved.flush_lsn >= end && end > before.end);
        assert_eq!(u64::from(before.xid.unwrap()) + 1, saved.counters.unwrap().next_xid);
        let found = bench.records();
        let last = found.last().unwrap();
        assert!(last.is(RM_XLOG, XLOG_CHECKPOINT_ONLINE));
        assert_eq!((saved.checkpoint_lsn, last.header.end), (Some(last.header.start), end));
        // What runs is written before, for standbys.
        let running = &found[found.len() - 2];
        assert!(running.is(RM_STANDBY, standby::XLOG_RUNNING_XACTS));
        assert_eq!(saved.redo_lsn, Some(running.header.start));
    }
}

#[test]
fn every_life_begins_and_ends_with_one_shutdown_checkpoint() {
    let mut bench = Bench::new(settings());
    let count = |dir: &TempDir| {
        records(dir).iter().filter(|found| found.is(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN)).count()
    };
    bench.settle();
    assert_eq!(count(&bench.dir), 1);
    // Nothing was written since.
    let mut dir = bench.stop();
    assert_eq!(count(&dir), 1);
    for (life, want) in [(0, 2), (1, 3)] {
        let mut bench = Bench::start(dir, settings());
        bench.append(&[noise(10, life)], true, LOCAL);
        dir = bench.stop();
        assert_eq!(count(&dir), want);
        assert!(records(&dir).last().unwrap().is(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN));
        let saved = control(&dir);
        assert_eq!(saved.checkpoint_lsn, saved.last_record);
    }
    // A crash, with a record or an online checkpoint last: the next life begins with one.
    let mut bench = Bench::start(dir, settings());
    bench.append(&[noise(10, 9)], true, LOCAL);
    let mut bench = bench.restart();
    bench.settle();
    assert_eq!(count(&bench.dir), 4);
    // Nor is a transaction under way.
    let last: Vec<_> = records(&bench.dir).into_iter().rev().take(2).collect();
    assert!(last[1].is(RM_STANDBY, standby::XLOG_RUNNING_XACTS));
    assert!(bench.ask(WalRequest::Checkpoint).is_ok());
    let mut bench = bench.restart();
    bench.settle();
    assert_eq!(count(&bench.dir), 5);
    let dir = bench.stop();
    assert_eq!(count(&dir), 5);
    let bench = Bench::start(dir, settings());
    let saved = control(&bench.dir);
    assert_eq!(saved.flush_lsn, bench.records().last().unwrap().header.end);
}

#[test]
fn what_is_asked_after_the_stop_is_refused() {
    let mut bench = Bench::new(settings());
    let before = bench.append(&[noise(10, 1)], true, LOCAL);
    assert!(bench.mail.send(ToWal::Stop(StopMode::Fast)).is_ok());
    let now = bench.now();
    bench.core.turn(&mut bench.io, now);
    let mut append = {
        let append =
            Append { records: Vec::new(), commit: Some(Timestamp(1)), wait: LOCAL, owner: 1 };
        bench.commits.append(append, Timestamp(0))
    };
    let mut checkpoint = bench.commits.wal(WalRequest::Checkpoint, Timestamp(0));
    let now = bench.now();
    bench.core.turn(&mut bench.io, now);
    bench.look();
    let refusals =
        [append.try_recv().unwrap().unwrap_err(), checkpoint.try_recv().unwrap().unwrap_err()];
    for refusal in refusals {
        assert_eq!(refusal.sqlstate, SqlState::CANNOT_CONNECT_NOW);
        assert_eq!(refusal.message, "the database system is shutting down");
    }
    bench.run(|bench| bench.core.is_stopped().then_some(()));
    let found = bench.records();
    let after: Vec<_> = found.iter().filter(|found| found.header.start >= before.end).collect();
    // That nothing runs, and the shutdown checkpoint.
    assert_eq!(after.len(), 2, "{after:?}");
}

#[test]
fn archive_timeout_ends_a_segment_with_something_in_it() {
    let minute = Duration::from_secs(60);
    let mut settings = settings();
    settings.archive_timeout = minute;
    let mut bench = Bench::new(settings);
    let switches = |bench: &mut Bench| {
        for _ in 0..3 {
            bench.turn();
        }
        bench.settle();
        bench.records().iter().filter(|found| found.is(RM_XLOG, XLOG_SWITCH)).count()
    };
    // A checkpoint says nothing about anybody's data.
    bench.later += 10 * minute;
    assert_eq!(switches(&mut bench), 0);
    bench.append(&[noise(10, 1)], true, LOCAL);
    bench.later += minute / 2;
    assert_eq!(switches(&mut bench), 0);
    bench.later += minute;
    assert_eq!(switches(&mut bench), 1);
    // Nothing new: no segment after segment.
    for _ in 0..3 {
        bench.later += 2 * minute;
        assert_eq!(switches(&mut bench), 1);
    }
    bench.append(&[noise(10, 1)], true, LOCAL);
    bench.later += 2 * minute;
    assert_eq!(switches(&mut bench), 2);
    // A checkpoint after something does not make it nothing.
    bench.append(&[noise(10, 1)], true, LOCAL);
    assert!(bench.ask(WalRequest::Checkpoint).is_ok());
    bench.later += 2 * minute;
    assert_eq!(switches(&mut bench), 3);
}

#[test]
fn what_a_crash_left_after_the_end_is_never_read_as_wal() {
    let near_end = Lsn(START.0 + SIZE.bytes() - 9000);
    let mut bench = Bench::new(settings());
    bench.fill_to(near_end);
    bench.settle();
    // The next life begins with a checkpoint, and its second record ends in the next segment.
    let mut bench = bench.restart();
    let control_path = bench.dir.path().join(recover::CONTROL_FILE);
    let control_before = std::fs::read(&control_path).unwrap();
    let second = bench.append(&[noise(20_000, 2)], false, LOCAL);
    let third = bench.append(&[noise(100, 3)], true, LOCAL);
    assert_eq!(SIZE.start_of(second.end), START + SIZE.bytes());
    // A crash loses a block of the second one in the next segment, which is the one that was being written;
    // nobody was told that it was durable.
    let path = bench.dir.path().join("pg_wal").join(SegNo(2).file_name(TimelineId::FIRST, SIZE));
    let dir = bench.kill();
    let fs: &dyn walhub_engine::io::Fs = &OsFs;
    fs.write_at(&path, 4096, &[0; 512]).unwrap();
    std::fs::write(&control_path, control_before).unwrap();
    std::fs::remove_file(dir.path().join(recover::MARK_FILE)).unwrap();
    // The same sizes again up to where the third one was, and a crash before it is written.
    let mut bench = Bench::start(dir, settings());
    let again = bench.append(&[noise(20_000, 4)], false, LOCAL);
    assert_eq!(again.end, second.end);
    let mut bench = bench.restart();
    bench.settle();
    let found = bench.records();
    assert!(!messages(&found).contains(&noise(100, 3)), "it was lost, and is there again");
    assert!(found.iter().all(|found| found.header.xid == 0));
    assert_eq!(bench.append(&[vec![1]], true, LOCAL).xid, third.xid);
}

#[test]
fn a_segment_that_a_standby_is_sent_is_not_used_again() {
    let mut settings = settings();
    (settings.min_wal_size, settings.wal_keep_size) = (0, 0);
    let mut bench = Bench::new(settings);
    // No connected standby holds anything back.
    bench.core.config.max_wal_size = 0;
    bench.append(&[noise(1000, 1)], false, LOCAL);
    let segment = bench.dir.path().join("pg_wal").join(SegNo(1).file_name(TimelineId::FIRST, SIZE));
    let file = std::fs::File::open(&segment).unwrap();
    let content = || {
        let mut content = vec![0; 1 << 20];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    };
    let standbys = Arc::clone(&bench.core.config.standbys);
    let standby = standbys.claim().unwrap();
    standbys.standby(standby).sent_lsn.store(SegNo(1).start(SIZE).0, Ordering::Relaxed);
    bench.ask(WalRequest::SwitchSegment).unwrap();
    bench.settle();
    let before = content();
    for seed in 2..10 {
        bench.append(&[noise(1000, seed)], false, None);
        bench.ask(WalRequest::SwitchSegment).unwrap();
    }
    bench.settle();
    bench.run(|_| (!segment.exists()).then_some(()));
    assert!(content() == before, "what a standby reads has become other WAL");
}

#[test]
fn a_segment_made_ready_after_a_start_has_its_header() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(10, 1)], true, LOCAL);
    let mut bench = bench.restart();
    bench.append(&[noise(10, 1)], true, LOCAL);
    let path = bench.dir.path().join("pg_wal").join(SegNo(2).file_name(TimelineId::FIRST, SIZE));
    // pg_waldump takes the segment size from whichever file it finds first.
    let bytes = bench.run(|_| std::fs::read(&path).ok());
    let header = walhub_proto::page::PageHeader::decode(&bytes).expect("a page header");
    assert_eq!(header.long.map(|long| u64::from(long.segment_size)), Some(SIZE.bytes()));
}

#[test]
fn a_fenced_server_acknowledges_nothing_and_takes_nothing() {
    let mut bench = Bench::new(settings());
    bench.settle();
    let records = vec![record(true, b"waits")];
    let wait = Some(WaitLevel::LocalFlush);
    let append = Append { records, commit: Some(Timestamp(5)), wait, owner: 1 };
    let mut answer = bench.commits.append(append, Timestamp(0));
    let before = bench.shared.flush_lsn.load();
    // It is in memory, and the flush has begun at most.
    let now = bench.now();
    bench.core.turn(&mut bench.io, now);
    drop(bench.core.take_duty(Duty::Keep));
    bench.run(|bench| (bench.shared.flush_lsn.load() > before).then_some(()));
    bench.look();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    let refused = bench.try_append(&[b"no".to_vec()], true, wait).unwrap_err();
    assert_eq!(refused.sqlstate, SqlState::READ_ONLY_SQL_TRANSACTION);
    assert!(refused.message.contains("must not be the primary"), "{}", refused.message);
    assert_eq!(bench.shared.role.load(), Role::Fenced);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
}
