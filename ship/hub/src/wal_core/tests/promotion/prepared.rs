//! What the old primary has left prepared is named in every later record, and nothing is promoted before
//! that is known.

use walhub_proto::rmgr::RM_XACT;
use walhub_proto::rmgr::facts::DatabaseFacts;
use walhub_proto::rmgr::standby::{
    RunningXacts, StandbyLock, XLOG_RUNNING_XACTS, XLOG_STANDBY_LOCK,
};
use walhub_proto::rmgr::xact::{XLOG_XACT_ABORT, XLOG_XACT_OPMASK, XLOG_XACT_PREPARE};

use super::*;

/// A record of a real server: 725 with the subtransactions 726 and 727, and three locks.
const PREPARED: &[u8] = include_bytes!("../../../../../../tests/golden/prepare/15.bin");

/// A relay whose primary has prepared a transaction, and another that holds a lock and is not at its end.
fn relay_with_prepared() -> Bench {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    let (mut bytes, mut writer) = (Vec::new(), bench.upstream());
    let len = u32::try_from(PREPARED.len()).unwrap().to_le_bytes();
    // A long main data.
    let prepared = [&[254], &len[..], PREPARED].concat();
    writer.append_record(RM_XACT, XLOG_XACT_PREPARE, 725, &[&prepared], &mut bytes);
    let locks = StandbyLock::body_of(&[StandbyLock { xid: 730, database: 5, relation: 16_384 }]);
    writer.append_record(RM_STANDBY, XLOG_STANDBY_LOCK, 730, &[&locks], &mut bytes);
    let body = walhub_proto::rmgr::message::logical_message(5, true, "", b"x").unwrap();
    writer.append_record(RM_LOGICALMSG, 0, 731, &[&body], &mut bytes);
    bench.receive(&bytes);
    bench.settle();
    bench
}

#[test]
fn a_prepared_transaction_is_named_in_every_later_record() {
    let bench = relay_with_prepared();
    let switchpoint = bench.shared.flush_lsn.load();
    let mut bench = Bench::start(bench.kill(), settings());
    assert_eq!(bench.promote(), Ok(()));
    bench.append(&[noise(500, 2)], true, LOCAL);
    assert!(bench.ask(WalRequest::Checkpoint).is_ok());
    let mut bench = Bench::start(bench.kill(), settings());
    bench.append(&[noise(500, 3)], true, LOCAL);
    let mut bench = Bench::start(bench.stop(), settings());
    assert!(bench.ask(WalRequest::Checkpoint).is_ok());
    let mut found = all_records(&bench.dir);
    found.retain(|found| found.header.start >= switchpoint);
    // It is over, and nobody waits for its lock. The other holds none.
    let aborts: Vec<u32> = found
        .iter()
        .filter(|found| found.header.rmid == RM_XACT)
        .filter(|found| found.header.info & XLOG_XACT_OPMASK == XLOG_XACT_ABORT)
        .map(|found| found.header.xid)
        .collect();
    assert_eq!(aborts, [730]);
    assert!(found[0].is(RM_XLOG, XLOG_END_OF_RECOVERY));
    let is_list = |found: &&Found| found.is(RM_STANDBY, XLOG_RUNNING_XACTS);
    // The promotion, a checkpoint, a start after a crash, a stop, a checkpoint.
    assert_eq!(found.iter().filter(is_list).count(), 5);
    for list in found.iter().filter(is_list) {
        let running = RunningXacts::decode(list.header.info, &list.body).unwrap();
        assert_eq!((running.xids, running.subxids), (vec![725], vec![726, 727]));
        assert_eq!((running.oldest_running_xid, running.is_overflowed), (725, false));
    }
    let before = found.windows(2).filter(|pair| is_list(&&pair[1]));
    assert!(before.into_iter().all(|pair| pair[0].is(RM_STANDBY, XLOG_STANDBY_LOCK)));
    for (info, oldest) in [(XLOG_CHECKPOINT_ONLINE, 725), (XLOG_CHECKPOINT_SHUTDOWN, 0)] {
        let checkpoints = found.iter().filter(|found| found.is(RM_XLOG, info));
        let oldest_of = |found: &Found| Checkpoint::decode(&found.body[2..]).unwrap();
        let all: Vec<u32> = checkpoints.map(|found| oldest_of(found).oldest_active_xid).collect();
        assert!(all.len() >= 2 && all.iter().all(|&found| found == oldest), "{all:?}");
    }
}

#[test]
fn without_a_list_of_running_transactions_there_is_no_promotion() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    bench.settle();
    let end = bench.shared.flush_lsn.load();
    let last = bench.core.local().unwrap().last_record();
    let dir = bench.kill();
    change_control(&dir, |control| {
        (control.flush_lsn, control.last_record) = (end, last);
        control.counters = Some(Counters::first());
        control.database = DatabaseFacts::default();
    });
    let mut bench = Bench::start(dir, settings());
    let refused = bench.promote().unwrap_err();
    let text = "cannot promote before the primary has listed its running transactions";
    assert_eq!(refused.message, text);
    assert!(refused.hint.is_some() && bench.shared.role.load().in_recovery());
    // What began before all WAL may be prepared.
    let running =
        RunningXacts { oldest_running_xid: 500, xids: vec![500], ..RunningXacts::none(900) };
    let (mut bytes, mut writer) = (Vec::new(), bench.upstream());
    writer.append_record(RM_STANDBY, XLOG_RUNNING_XACTS, 0, &[&running.body()], &mut bytes);
    bench.receive(&bytes);
    assert_eq!(bench.promote(), Ok(()));
    bench.settle();
    let found = all_records(&bench.dir);
    let last = found.iter().rfind(|found| found.is(RM_STANDBY, XLOG_RUNNING_XACTS)).unwrap();
    let last = RunningXacts::decode(last.header.info, &last.body).unwrap();
    assert_eq!((last.xids, last.oldest_running_xid), (vec![500], 500));
}
