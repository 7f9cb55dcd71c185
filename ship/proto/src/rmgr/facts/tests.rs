use std::vec;
use std::vec::Vec;

use super::*;
use crate::rmgr::xact::{self, XLOG_XACT_ASSIGNMENT, XLOG_XACT_HAS_INFO};
use crate::rmgr::xlog::{XLOG_FPW_CHANGE, XLOG_PARAMETER_CHANGE};
use crate::rmgr::{body_of, standby};
use crate::time::Timestamp;

const RM_HEAP: u8 = 10;
const PREPARED_15: &[u8] = include_bytes!("../../../../../tests/golden/prepare/15.bin");

/// Shows records, each in pieces.
struct Shown(FactReader);

impl Shown {
    fn new() -> Self {
        Self::knowing(Facts::default())
    }

    fn knowing(facts: Facts) -> Self {
        let mut reader = FactReader::new(Lsn(1000), facts);
        reader.version(WalVersion::PG15);
        Self(reader)
    }

    fn show(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) {
        let (start, len) = (Lsn(1000), u32::try_from(body.len()).unwrap());
        let record = RecordHeader { start, end: start, prev: Lsn(0), len, xid, rmid, info };
        self.0.begin(&record);
        body.chunks(700).for_each(|piece| self.0.body(&record, piece));
        self.0.record(&record);
    }

    fn write(&mut self, xid: u32) {
        self.show(RM_HEAP, 0, xid, &[]);
    }

    fn commit(&mut self, xid: u32) {
        let (info, body) = xact::commit(Timestamp(5), false);
        self.show(RM_XACT, info, xid, &body);
    }

    /// As a record of the backend that ends it, which has no transaction of its own.
    fn end_prepared(&mut self, info: u8, xid: u32, subxids: &[u32]) {
        let mut data = 5_i64.to_le_bytes().to_vec();
        let xinfo = (1_u32 << 4) | if subxids.is_empty() { 0 } else { 1 << 1 };
        data.extend_from_slice(&xinfo.to_le_bytes());
        if let Ok(count @ 1..) = u32::try_from(subxids.len()) {
            data.extend_from_slice(&count.to_le_bytes());
            data.extend(subxids.iter().flat_map(|subxid| subxid.to_le_bytes()));
        }
        data.extend_from_slice(&xid.to_le_bytes());
        self.show(RM_XACT, info | XLOG_XACT_HAS_INFO, 0, &body_of(&data));
    }

    fn running(&mut self, oldest: u32, xids: &[u32], subxids: &[u32]) {
        let running = RunningXacts {
            oldest_running_xid: oldest,
            xids: xids.to_vec(),
            subxids: subxids.to_vec(),
            ..RunningXacts::none(900)
        };
        self.show(RM_STANDBY, standby::XLOG_RUNNING_XACTS, 0, &running.body());
    }

    fn lock(&mut self, xid: u32, relation: u32) {
        self.lock_by(xid, xid, relation);
    }

    /// The server says so of another transaction.
    fn lock_again(&mut self, xid: u32, relation: u32) {
        self.lock_by(0, xid, relation);
    }

    fn lock_by(&mut self, by: u32, xid: u32, relation: u32) {
        let body = StandbyLock::body_of(&[StandbyLock { xid, database: 5, relation }]);
        self.show(RM_STANDBY, standby::XLOG_STANDBY_LOCK, by, &body);
    }

    fn is_known(&self) -> bool {
        self.0.facts().database.prepared.is_some()
    }

    /// What a promoted hub would say runs.
    fn prepared(&self) -> (Vec<u32>, Vec<u32>) {
        let running = self.0.facts().database.prepared.unwrap().running(900);
        (running.xids, running.subxids)
    }

    fn locks(&self) -> Vec<(u32, u32)> {
        let prepared = self.0.facts().database.prepared.unwrap();
        prepared.locks().map(|lock| (lock.xid, lock.relation)).collect()
    }

    fn holders(&self) -> Vec<u32> {
        self.0.facts().database.lock_holders.to_vec()
    }
}

#[test]
fn a_prepared_transaction_runs_until_it_is_ended_by_name() {
    for info in [XLOG_XACT_COMMIT_PREPARED, XLOG_XACT_ABORT_PREPARED] {
        let mut shown = Shown::new();
        shown.running(720, &[], &[]);
        [725, 726, 727].iter().for_each(|&xid| shown.write(xid));
        assert_eq!(shown.prepared(), (vec![], vec![]));
        shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15));
        assert_eq!(shown.prepared(), (vec![725], vec![726, 727]));
        assert_eq!(shown.locks(), [(725, 16_387), (725, 16_390), (725, 16_393)]);
        shown.write(728);
        shown.commit(728);
        shown.running(725, &[725], &[726, 727]);
        // A list that leaves it out says nothing: another walhub may have forgotten it.
        shown.running(900, &[], &[]);
        shown.end_prepared(info, 724, &[]);
        assert_eq!(shown.prepared(), (vec![725], vec![726, 727]));
        shown.end_prepared(info, 725, &[726, 727]);
        assert_eq!((shown.prepared(), shown.locks()), ((vec![], vec![]), vec![]));
    }
}

#[test]
fn before_the_first_list_of_running_transactions_nothing_is_known() {
    let mut shown = Shown::new();
    shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15));
    shown.commit(728);
    assert!(!shown.is_known());
    shown.running(600, &[600, 725], &[601, 726, 727]);
    assert_eq!(shown.prepared(), (vec![600, 725], vec![726, 727, 601]));
    assert_eq!(shown.locks().len(), 3);
}

#[test]
fn one_that_is_older_than_the_wal_is_listed_until_it_is_known_to_be_over() {
    let mut shown = Shown::new();
    shown.lock_again(600, 16_384);
    shown.running(600, &[600, 610, 620, 630], &[601, 611]);
    // They cannot be told from prepared ones yet.
    assert_eq!(shown.prepared(), (vec![600, 610, 620, 630], vec![601, 611]));
    assert_eq!((shown.locks(), shown.holders()), (vec![(600, 16_384)], vec![]));
    // It writes, so it is not prepared; it is not listed any more; it has ended.
    shown.write(610);
    shown.running(600, &[600, 610, 630], &[601]);
    assert_eq!(shown.prepared(), (vec![600, 630], vec![601]));
    shown.commit(630);
    assert_eq!(shown.prepared(), (vec![600], vec![601]));
    shown.lock_again(600, 16_400);
    assert_eq!(shown.locks(), [(600, 16_384), (600, 16_400)]);
    // One that lives can be prepared after all.
    let mut again = PREPARED_15.to_vec();
    again[8..12].copy_from_slice(&610_u32.to_le_bytes());
    shown.show(RM_XACT, XLOG_XACT_PREPARE, 610, &body_of(&again));
    assert_eq!(shown.prepared().0, [600, 610]);
    shown.end_prepared(XLOG_XACT_COMMIT_PREPARED, 600, &[601]);
    assert_eq!(shown.prepared(), (vec![610], vec![726, 727]));
}

#[test]
fn who_was_alive_or_ended_before_the_first_list_is_not_taken_for_prepared() {
    let mut shown = Shown::new();
    shown.write(700);
    let mut assignment = 710_u32.to_le_bytes().to_vec();
    assignment.extend([1_u32, 711].iter().flat_map(|word| word.to_le_bytes()));
    shown.show(RM_XACT, XLOG_XACT_ASSIGNMENT, 711, &body_of(&assignment));
    // The list is made before this, and written after it.
    shown.write(720);
    shown.commit(720);
    shown.running(690, &[690, 700, 710, 720], &[711]);
    assert_eq!(shown.prepared().0, [690]);
}

#[test]
fn a_server_that_can_have_no_prepared_transactions_has_none() {
    let change = |max_prepared: u32, track| {
        let mut data: Vec<u8> = [100, 8, 10, max_prepared, 64, 2]
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        data.extend_from_slice(&[1, track, 0, 0]);
        body_of(&data)
    };
    let mut shown = Shown::new();
    shown.show(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &change(5, 0));
    assert!(!shown.is_known());
    assert_eq!(shown.0.facts().database.wal_level, Some(WalLevel::Logical));
    shown.show(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &change(0, 0));
    assert!(shown.is_known());
    let decoded = ParameterChange::decode(XLOG_PARAMETER_CHANGE, &change(7, 1)[2..]).unwrap();
    assert_eq!((decoded.max_connections, decoded.max_prepared_xacts), (100, 7));
    assert!(decoded.wal_log_hints && decoded.track_commit_timestamp);
    assert_eq!(ParameterChange::decode(XLOG_FPW_CHANGE, &change(7, 1)[2..]), None);
}

#[test]
fn commit_times_begin_and_end_with_the_setting() {
    let change = |track| body_of(&[[0; 24].as_slice(), &[0, track, 0, 0]].concat());
    let counters = Counters { next_xid: 800, ..Counters::first() };
    let mut shown = Shown::knowing(Facts { counters: Some(counters), ..Facts::default() });
    let times = |shown: &Shown| {
        let counters = shown.0.counters().unwrap();
        (counters.oldest_commit_ts_xid, counters.newest_commit_ts_xid)
    };
    shown.commit(800);
    assert_eq!(times(&shown), (0, 0));
    shown.show(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &change(1));
    assert_eq!(times(&shown), (801, 801));
    // A prepared transaction has its own id, not the record's, and subtransactions have times, too.
    shown.end_prepared(XLOG_XACT_COMMIT_PREPARED, 805, &[807]);
    assert_eq!(times(&shown), (801, 807));
    shown.show(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &change(1));
    assert_eq!(times(&shown), (801, 807));
    // COMMIT_TS_TRUNCATE
    let truncate = [0_u32, 804].map(u32::to_le_bytes).concat();
    shown.show(RM_COMMIT_TS, 0x10, 0, &body_of(&truncate));
    assert_eq!(times(&shown), (804, 807));
    shown.show(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &change(0));
    assert_eq!(times(&shown), (0, 0));
}

#[test]
fn holders_of_locks_are_known_until_standbys_let_go_of_them() {
    let mut shown = Shown::new();
    shown.running(700, &[], &[]);
    [705, 706, 726, 740, 750].iter().for_each(|&xid| shown.lock(xid, 16_384));
    shown.lock(705, 16_385);
    assert_eq!(shown.holders(), [705, 706, 726, 740, 750]);
    shown.commit(706);
    // The lock of a subtransaction is the prepared transaction's.
    shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15));
    assert_eq!(shown.holders(), [705, 740, 750]);
    shown.running(725, &[725, 740, 750], &[]);
    assert_eq!(shown.holders(), [740, 750]);
    // One that cannot be read may have ended any of them.
    shown.show(RM_XACT, XLOG_XACT_COMMIT | XLOG_XACT_HAS_INFO, 751, &body_of(&[0; 9]));
    assert_eq!(shown.holders(), []);
}

#[test]
fn the_last_that_wrote_is_open_until_it_ends() {
    let mut shown = Shown::new();
    assert_eq!(shown.0.last_open(), None);
    shown.write(700);
    shown.show(RM_HEAP, 0, 0, &[]);
    assert_eq!(shown.0.last_open(), Some(700));
    shown.commit(700);
    assert_eq!(shown.0.last_open(), None);
    shown.write(725);
    shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15));
    assert_eq!(shown.0.last_open(), None);
}

#[test]
fn to_be_shown_the_same_records_again_changes_nothing() {
    type Show = fn(&mut Shown);
    let records: [Show; 9] = [
        |shown| shown.lock_again(600, 16_400),
        |shown| shown.running(600, &[600, 610], &[601, 611]),
        |shown| shown.write(610),
        |shown| shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15)),
        |shown| shown.lock(750, 16_387),
        |shown| shown.running(600, &[600, 725, 750], &[601, 726, 727]),
        |shown| shown.commit(750),
        |shown| shown.lock(760, 16_388),
        |shown| shown.end_prepared(XLOG_XACT_COMMIT_PREPARED, 725, &[726, 727]),
    ];
    for known in 2..=records.len() {
        let mut shown = Shown::new();
        records[..known].iter().for_each(|show| show(&mut shown));
        let facts = shown.0.facts();
        records[known..].iter().for_each(|show| show(&mut shown));
        for from in 0..=known {
            let mut again = Shown::knowing(facts.clone());
            records[from..].iter().for_each(|show| show(&mut again));
            assert_eq!(again.0.facts(), shown.0.facts(), "{known} known, again from {from}");
        }
    }
}

#[test]
fn one_that_is_prepared_in_wal_of_an_unknown_version_makes_unknown_what_is_prepared() {
    let mut shown = Shown(FactReader::new(Lsn(1000), Facts::default()));
    shown.running(700, &[], &[]);
    assert!(shown.is_known());
    shown.show(RM_XACT, XLOG_XACT_PREPARE, 725, &body_of(PREPARED_15));
    assert!(!shown.is_known());
    shown.running(725, &[725], &[726, 727]);
    assert_eq!(shown.prepared(), (vec![725], vec![726, 727]));
}
