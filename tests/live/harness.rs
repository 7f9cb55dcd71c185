//! The harness itself: its comparisons can fail. No hub takes part.

use std::fs::{self, OpenOptions};
use std::io::Write;

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables, compare_segments, tables};
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::process::children_of;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::waldump::waldump;
use walhub_tests::workload::{Inserters, Pgbench, pgbench_initialize};

#[test]
fn harness_sees_a_lost_row_and_a_changed_row() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    pgbench_initialize(&primary, 1);
    let mut standby = primary.standby("standby", &primary.endpoint().conninfo("s"), &scratch);
    standby.start();
    let report = Pgbench::start(&primary, 2, 50).wait();
    assert_eq!(report.transactions, 100);
    standby.wait_replay(&primary.flush_lsn());
    assert_equal_tables(&primary, &standby);

    standby.psql("select pg_promote()");
    standby
        .psql("delete from pgbench_history where ctid = (select min(ctid) from pgbench_history)");
    let (want, lost) = (tables(&primary), tables(&standby));
    assert_ne!(want["pgbench_history"], lost["pgbench_history"]);
    assert_eq!(want["pgbench_accounts"], lost["pgbench_accounts"]);
    standby.psql("update pgbench_accounts set abalance = abalance + 1 where aid = 77");
    assert_ne!(want["pgbench_accounts"], tables(&standby)["pgbench_accounts"]);
}

#[test]
fn harness_sees_a_changed_byte_of_wal() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").segment_size_mb(1).start(&scratch);
    let mut receive = ReceiveWal::start(&primary, "received", &["--no-sync"], &scratch);
    receive.wait_receiving(&primary);
    primary.switch_wal(3);
    receive.finish_at(&primary.finish_segment());
    let end = primary.current_segment();
    assert_equal_segments(&primary.pg_wal(), receive.dir(), &end, 2);

    let equal = compare_segments(&primary.pg_wal(), receive.dir(), &end).equal;
    let path = receive.dir().join(&equal[1]);
    let mut bytes = fs::read(&path).expect("a segment");
    bytes[4711] ^= 1;
    let mut file = OpenOptions::new().write(true).open(&path).expect("a segment");
    file.write_all(&bytes).expect("a segment");
    let comparison = compare_segments(&primary.pg_wal(), receive.dir(), &end);
    assert_eq!(comparison.different, [(equal[1].clone(), 4711)]);
}

#[test]
fn harness_sees_a_commit_that_is_not_in_the_wal() {
    let scratch = Scratch::new();
    let mut primary = Postgres::primary("primary").start(&scratch);
    Inserters::initialize(&primary);
    let inserters = Inserters::start(&primary, 2, 0, &scratch);
    inserters.wait_more(50);
    // Asynchronous receiving: what was acknowledged after it ended is not there.
    let lsn = primary.flush_lsn();
    let mut receive =
        ReceiveWal::start(&primary, "received", &["--no-sync", "--endpos", &lsn], &scratch);
    assert!(receive.wait().success(), "{}", receive.said());
    inserters.wait_more(2000);
    primary.kill9();
    let acknowledged = inserters.finish();
    assert!(acknowledged.len() >= 2050);

    let whole = waldump(&primary.pg_wal(), &["--rmgr=Transaction"]);
    let lost = |committed: &std::collections::BTreeSet<u64>| {
        acknowledged.values().filter(|xid| !committed.contains(xid)).count()
    };
    assert_eq!(lost(&whole.committed()), 0, "{}", whole.end);

    let name = primary_segment(receive.dir());
    let partial = receive.dir().join(format!("{name}.partial"));
    fs::rename(partial, receive.dir().join(name)).expect("the partial segment");
    let part = waldump(receive.dir(), &["--rmgr=Transaction"]);
    assert!(lost(&part.committed()) > 0, "{}", part.end);
}

fn primary_segment(dir: &std::path::Path) -> String {
    let entry = fs::read_dir(dir).expect("a directory").next().expect("a file").expect("a file");
    entry.file_name().to_string_lossy().trim_end_matches(".partial").to_owned()
}

#[test]
fn harness_kills_a_server_with_all_its_processes_and_recovers_it() {
    let scratch = Scratch::new();
    let mut primary = Postgres::primary("primary").sql("create table t (i int)").start(&scratch);
    primary.psql("insert into t values (1)");
    let mark = primary.log().mark();
    let pid = primary.pid();
    assert!(children_of(pid).len() > 2);
    primary.kill9();
    primary.start();
    primary.log().wait_for(mark, "not properly shut down");
    assert_eq!(primary.psql("select count(*) from t"), "1");
    let mark = primary.log().mark();
    assert!(primary.stop(StopMode::Fast).success());
    primary.start();
    primary.log().wait_for(mark, "database system was shut down at");
}
