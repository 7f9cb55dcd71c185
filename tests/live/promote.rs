//! A relay is promoted: it goes on with the WAL of a real PostgreSQL, and its standbys go on behind it.

use std::fs;
use std::path::Path;

use walhub_tests::client::{Session, SqlServer, Statement};
use walhub_tests::compare::assert_equal_segments;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::process::{said, send_signal};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;
use walhub_tests::waldump::waldump;
use walhub_tests::workload::{Pgbench, pgbench_initialize};

/// Runs `walhub promote` on the hub.
#[track_caller]
fn promote(hub: &Hub) {
    let output = walhub(["promote", "-D", &hub.data().display().to_string()]);
    let text = said(&output);
    assert!(output.status.success() && text.ends_with("server promoted\n"), "{text}");
}

/// Appends a message on the hub and waits until the standby has replayed it.
#[track_caller]
fn append_and_replay(hub: &Hub, standbys: &[&Postgres]) {
    hub.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
    let lsn = hub.psql("select pg_current_wal_flush_lsn()");
    for standby in standbys {
        standby.wait_replay(&lsn);
    }
}

#[test]
fn standbys_and_pg_receivewal_follow_a_promotion_under_load() {
    let mut relay = Relay::start();
    pgbench_initialize(&relay.primary, 1);
    let (a, b) = (relay.streaming_standby("a"), relay.streaming_standby("b"));
    let mut receive = ReceiveWal::start(&relay.hub, "received", &[], &relay.scratch);
    relay.hub.wait_streaming("received");
    let pgbench = Pgbench::start(&relay.primary, 4, 100_000);
    relay.primary.wait_sql("select count(*) > 500 from pgbench_history", "t");
    relay.primary.kill9();
    drop(pgbench);
    let end = relay.hub.psql("select pg_last_wal_receive_lsn()");
    promote(&relay.hub);
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "f");
    append_and_replay(&relay.hub, &[&a, &b]);
    for standby in [&a, &b] {
        assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
        standby.wait_sql("select received_tli from pg_stat_wal_receiver", "2");
        let sums = "select sum(abalance) = (select sum(delta) from pgbench_history), \
                    count(*) > 0 from pgbench_accounts";
        assert_eq!(standby.psql(sums), "t|t");
    }
    assert!(end.len() > 3);
    relay.hub.psql("select pg_switch_wal()");
    let _ = &mut receive;
}
