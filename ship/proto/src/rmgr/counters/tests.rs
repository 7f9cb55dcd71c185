use std::vec;
use std::vec::Vec;

use super::*;
use crate::lsn::TimelineId;
use crate::page::WalVersion;
use crate::record::{RM_XLOG, RecordSink};
use crate::rmgr::facts::{FactReader, Facts};
use crate::rmgr::xlog::{WalLevel, XLOG_NOOP};
use crate::rmgr::{RM_MULTIXACT, RM_STANDBY, RM_XACT, body_of, standby, xact};
use crate::time::Timestamp;

const RM_OTHER: u8 = 10;

/// Shows records, each in pieces.
struct Shown(FactReader, u64);

impl Shown {
    fn new(from: u64, known: Option<Counters>) -> Self {
        Self(FactReader::new(Lsn(from), Facts { counters: known, ..Facts::default() }), from)
    }

    fn show(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> Lsn {
        let (start, end) = (Lsn(self.1), Lsn(self.1 + 1000));
        self.1 += 1000;
        let len = u32::try_from(body.len()).unwrap();
        let record = RecordHeader { start, end, prev: Lsn(0), len, xid, rmid, info };
        self.0.begin(&record);
        body.chunks(7).for_each(|piece| self.0.body(&record, piece));
        self.0.record(&record);
        start
    }

    fn checkpoint(&mut self, is_shutdown: bool, redo: u64, counters: Counters) -> Lsn {
        let body = checkpoint_body(redo, counters);
        let info = if is_shutdown { XLOG_CHECKPOINT_SHUTDOWN } else { XLOG_CHECKPOINT_ONLINE };
        self.show(RM_XLOG, info, 0, &body)
    }

    fn known(&self) -> Counters {
        self.0.counters().expect("a checkpoint was seen")
    }
}

fn checkpoint_body(redo: u64, counters: Counters) -> Vec<u8> {
    Checkpoint {
        redo: Lsn(redo),
        timeline: TimelineId::FIRST,
        prev_timeline: TimelineId::FIRST,
        wal_level: WalLevel::Replica,
        counters,
        time: Timestamp(0),
        oldest_active_xid: 3,
    }
    .body(WalVersion::PG15)
}

fn words(words: &[u32]) -> Vec<u8> {
    body_of(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
}

fn some() -> Counters {
    Counters {
        next_xid: (5 << 32) + 1000,
        next_oid: 24_576,
        next_multi: 7,
        next_multi_offset: 14,
        oldest_xid: 900,
        oldest_xid_db: 5,
        oldest_multi: 2,
        oldest_multi_db: 4,
        oldest_commit_ts_xid: 950,
        newest_commit_ts_xid: 999,
        full_page_writes: false,
    }
}

#[test]
fn a_checkpoint_round_trips() {
    let checkpoint = Checkpoint {
        redo: Lsn(77),
        timeline: TimelineId::new(3).unwrap(),
        prev_timeline: TimelineId::new(2).unwrap(),
        wal_level: WalLevel::Logical,
        counters: some(),
        time: Timestamp(5_000_000),
        oldest_active_xid: 990,
    };
    let body = checkpoint.body(WalVersion::PG18);
    assert_eq!(Checkpoint::decode(&body[2..]), Some(checkpoint));
    for len in 0..84 {
        assert_eq!(Checkpoint::decode(&body[2..2 + len]), None);
    }
}

#[test]
fn what_only_looks_like_a_checkpoint_is_none() {
    let mut shown = Shown::new(0, None);
    shown.show(RM_XLOG, XLOG_NOOP, 0, &checkpoint_body(0, some()));
    assert_eq!((shown.0.checkpoint(), shown.0.counters()), (None, None));
    shown.checkpoint(true, 0, some());
    assert!(shown.0.checkpoint().is_some());
}

#[test]
fn a_shutdown_checkpoint_says_what_is() {
    let mut shown = Shown::new(100, None);
    shown.show(RM_OTHER, 0, 700, &[]);
    assert_eq!(shown.0.counters(), None);
    let start = shown.checkpoint(true, 50, some());
    assert_eq!(shown.known(), some());
    let seen = CheckpointSeen { start, redo: Lsn(50), is_shutdown: true };
    assert_eq!(shown.0.checkpoint(), Some(seen));
    // It may go back: what was set aside and not given out is given out after all.
    let less = Counters { next_oid: 20_000, ..some() };
    shown.checkpoint(true, 60, less);
    assert_eq!(shown.known(), less);
}

#[test]
fn an_online_checkpoint_counts_with_all_that_came_since_it_began() {
    let members = [6, 14, 2, 1005, 0, 1020, 1];
    for (from, known) in [(100, false), (101, false), (101, true)] {
        let mut shown = Shown::new(from, known.then(some));
        shown.show(RM_OTHER, 0, 1007, &[]);
        shown.show(RM_OTHER, 0, 1002, &[]);
        shown.show(RM_XLOG, XLOG_NEXTOID, 0, &words(&[32_768]));
        shown.show(RM_MULTIXACT, XLOG_MULTIXACT_CREATE_ID, 0, &words(&members));
        shown.show(RM_MULTIXACT, XLOG_MULTIXACT_CREATE_ID, 0, &words(&[7, 16, 1, 1005, 0]));
        shown.show(RM_MULTIXACT, XLOG_MULTIXACT_TRUNCATE_ID, 0, &words(&[9, 2, 5, 0, 0]));
        shown.show(RM_XLOG, XLOG_FPW_CHANGE, 0, &body_of(&[1]));
        shown.show(RM_XACT, xact::XLOG_XACT_COMMIT, 1007, &body_of(&[0; 8]));
        shown.checkpoint(false, 100, some());
        if from > 100 && !known {
            // Something may have come before what was seen.
            assert_eq!(shown.0.counters(), None);
            shown.checkpoint(false, shown.1, some());
        }
        let want = Counters {
            next_xid: (5 << 32) + 1021,
            next_oid: 32_768,
            next_multi: 8,
            next_multi_offset: 17,
            oldest_multi: 5,
            oldest_multi_db: 9,
            newest_commit_ts_xid: 1007,
            full_page_writes: true,
            ..some()
        };
        assert_eq!(shown.known(), want, "from {from}");
    }
}

#[test]
fn a_later_online_checkpoint_never_goes_back() {
    let mut shown = Shown::new(100, Some(some()));
    shown.show(RM_OTHER, 0, 2000, &[]);
    shown.show(RM_XLOG, XLOG_NEXTOID, 0, &words(&[40_000]));
    let newer = Counters {
        next_xid: (5 << 32) + 1500,
        next_oid: 24_576,
        oldest_xid: 1200,
        oldest_xid_db: 16_000,
        oldest_multi: 6,
        oldest_multi_db: 16_001,
        oldest_commit_ts_xid: 1201,
        ..some()
    };
    shown.checkpoint(false, 100, newer);
    let want = Counters { next_xid: (5 << 32) + 2001, next_oid: 40_000, ..newer };
    assert_eq!(shown.known(), want);
    // Commit times are no longer kept, and kept again.
    let off = Counters { oldest_commit_ts_xid: 0, newest_commit_ts_xid: 0, ..newer };
    shown.checkpoint(false, 100, off);
    assert_eq!(shown.known().newest_commit_ts_xid, 0);
    shown.show(RM_XACT, xact::XLOG_XACT_COMMIT, 2002, &body_of(&[0; 8]));
    assert_eq!(shown.known().newest_commit_ts_xid, 0);
    shown.checkpoint(false, 100, newer);
    assert_eq!(shown.known().newest_commit_ts_xid, 999);
}

#[test]
fn subtransactions_that_wrote_nothing_count() {
    let time = 0_i64.to_le_bytes();
    // With the database, which stands before them.
    let listed = [&time[..], &3_u32.to_le_bytes(), &[0; 8], &2_u32.to_le_bytes()].concat();
    let listed =
        [listed, 1010_u32.to_le_bytes().to_vec(), 1012_u32.to_le_bytes().to_vec()].concat();
    for info in [xact::XLOG_XACT_COMMIT, xact::XLOG_XACT_ABORT, xact::XLOG_XACT_COMMIT_PREPARED] {
        let mut shown = Shown::new(100, Some(some()));
        shown.show(RM_XACT, info | xact::XLOG_XACT_HAS_INFO, 1001, &body_of(&listed));
        assert_eq!(shown.known().next_xid, (5 << 32) + 1013);
        let committed = info != xact::XLOG_XACT_ABORT;
        assert_eq!(shown.known().newest_commit_ts_xid == 1012, committed);
    }
    let mut shown = Shown::new(100, Some(some()));
    shown.show(RM_XACT, xact::XLOG_XACT_ASSIGNMENT, 0, &words(&[1000, 2, 1030, 1031]));
    assert_eq!(shown.known().next_xid, (5 << 32) + 1032);
    shown.show(RM_STANDBY, standby::XLOG_RUNNING_XACTS, 0, &standby::running_xacts(1050));
    assert_eq!(shown.known().next_xid, (5 << 32) + 1050);
}

#[test]
fn a_list_that_is_cut_gives_what_is_there() {
    let mut list = vec![1000, 400_000];
    list.extend(1_000..301_000);
    let mut shown = Shown::new(100, Some(some()));
    shown.show(RM_XACT, xact::XLOG_XACT_ASSIGNMENT, 0, &words(&list));
    let next = shown.known().next_xid - (5 << 32);
    assert!((262_000..264_000).contains(&next), "{next}");
}

#[test]
fn ids_wrap_around() {
    let mut counters = Counters { next_xid: (1 << 32) - 1, ..Counters::first() };
    assert_eq!([counters.take_xid(), counters.take_xid()], [u32::MAX, 3]);
    assert_eq!(counters.next_xid, (1 << 32) + 4);
    counters.advance_past(u32::MAX - 5);
    assert_eq!(counters.next_xid, (1 << 32) + 4);
    counters.next_xid = (2 << 32) - 10;
    counters.advance_past(7);
    assert_eq!(counters.next_xid, (2 << 32) + 8);
    counters.next_xid = (2 << 32) - 10;
    counters.advance_past(u32::MAX);
    assert_eq!(counters.next_xid, (2 << 32) + 3);
}
