//! The ends of the circle of transaction ids.

use walhub_proto::wire::backend::Severity;

use super::*;

/// What the oldest row has, in a database of a relay's.
const OLDEST: u32 = 726;
/// PostgreSQL 15's `xidStopLimit` after it.
const STOP: u64 = 726 + 0x7FFF_FFFF - 3_000_000;

fn set_control(dir: &TempDir, change: impl FnOnce(&mut ControlFile)) {
    let mut file = control(dir);
    change(&mut file);
    file.sequence += 1;
    recover::write_control(&OsFs, dir.path(), &file).unwrap();
}

/// A hub that goes on with the ids of a PostgreSQL server.
fn with_database(version: WalVersion, next_xid: u64) -> Bench {
    let dir = Bench::of_version(settings(), version).kill();
    set_control(&dir, |control| {
        control.server_version = "15.4 (Debian 15.4-1)".into();
        let counters = control.counters.as_mut().unwrap();
        (counters.next_xid, counters.oldest_xid, counters.oldest_xid_db) = (next_xid, OLDEST, 5);
    });
    Bench::start(dir, settings())
}

fn commit(bench: &mut Bench) -> Result<Appended, Report> {
    bench.try_append(&[vec![1]], true, LOCAL)
}

#[test]
fn no_ids_are_given_out_past_three_million_before_they_come_round() {
    let mut bench = with_database(WalVersion::PG15, STOP - 37_000_001);
    assert_eq!(commit(&mut bench).unwrap().warning, None);
    let mut bench = with_database(WalVersion::PG15, STOP - 2);
    for left in [3_000_002, 3_000_001] {
        let warning = commit(&mut bench).unwrap().warning.unwrap();
        assert_eq!(warning.severity, Severity::Warning);
        let want = format!("database with OID 5 must be vacuumed within {left} transactions");
        assert_eq!(warning.message, want);
        assert!(warning.hint.unwrap().contains("Promote a standby"));
    }
    for _ in 0..2 {
        let refused = commit(&mut bench).unwrap_err();
        assert_eq!(refused.sqlstate.0, "54000");
        assert_eq!(
            refused.message,
            "database is not accepting commands to avoid wraparound data loss in database with OID 5"
        );
        assert!(refused.hint.unwrap().contains("Promote a standby"));
        // What needs no id goes on, and a crash changes nothing.
        bench.append(&[vec![2]], false, LOCAL);
        bench.ask(WalRequest::Checkpoint).unwrap();
        bench = bench.restart();
    }
    let of_transactions = bench.records().iter().filter(|found| found.is(RM_XACT, 0)).count();
    assert_eq!(of_transactions, 2);
}

#[test]
fn a_hub_that_is_already_past_the_limit_stops_and_says_so_as_its_version_does() {
    for (version, what) in [
        (WalVersion::PG16, "commands to avoid"),
        (WalVersion::PG17, "commands that assign new transaction IDs to avoid"),
    ] {
        for past in [0, 2_999_999, 3_000_001, 2_000_000_000] {
            let mut bench = with_database(version, STOP + past);
            let refused = commit(&mut bench).unwrap_err();
            assert!(refused.message.contains(what), "{past}: {}", refused.message);
        }
    }
    // 13 goes on for two million more.
    let mut bench = with_database(WalVersion::PG13, STOP + 1_999_999);
    assert!(commit(&mut bench).unwrap().warning.is_some());
    assert!(commit(&mut bench).is_err());
}

#[test]
fn a_cluster_without_a_row_never_runs_out_of_ids() {
    let (mut next_xid, mut oldest_xid) = (1_u64 << 31, FIRST_NORMAL_XID);
    for _ in 0..5 {
        let dir = Bench::new(settings()).kill();
        set_control(&dir, |control| {
            let counters = control.counters.as_mut().unwrap();
            (counters.next_xid, counters.oldest_xid) = (next_xid, oldest_xid);
        });
        let mut bench = Bench::start(dir, settings());
        for _ in 0..3 {
            assert_eq!(commit(&mut bench).unwrap().warning, None);
        }
        // It has moved on with the ids, and a crash does not put it back.
        let before = bench.core.duty.own().unwrap().counters();
        assert!(xid_of(before.next_xid).wrapping_sub(before.oldest_xid) < 200_000_000);
        let bench = bench.restart();
        let counters = bench.core.duty.own().unwrap().counters();
        assert_eq!(counters, before);
        (next_xid, oldest_xid) = (counters.next_xid + 2_000_000_000, counters.oldest_xid);
    }
    assert!(next_xid > 2 << 32);
}

#[test]
fn the_oldest_id_moves_on_while_a_hub_runs_and_by_a_checkpoint() {
    let dir = Bench::new(settings()).kill();
    let age = 200_000_000;
    set_control(&dir, |control| {
        control.counters.as_mut().unwrap().next_xid = u64::from(FIRST_NORMAL_XID) + age - 2;
    });
    let mut bench = Bench::start(dir, settings());
    let mut checkpoints = Vec::new();
    for _ in 0..4 {
        commit(&mut bench).unwrap();
        let found = bench.records();
        let online = found.iter().filter(|found| found.is(RM_XLOG, XLOG_CHECKPOINT_ONLINE));
        checkpoints.push(online.count());
    }
    assert_eq!(checkpoints, [0, 0, 1, 1]);
    let at = bench.records();
    let online = at.iter().find(|found| found.is(RM_XLOG, XLOG_CHECKPOINT_ONLINE)).unwrap();
    let counters = Checkpoint::decode(&online.body[2..]).unwrap().counters;
    assert_eq!(u64::from(counters.oldest_xid), counters.next_xid);
}
