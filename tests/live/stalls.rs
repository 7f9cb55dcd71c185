//! Peers that stop answering, and still hold their connection.

use rustix::process::Signal;
use walhub_tests::client::SqlServer;
use walhub_tests::compare::assert_equal_tables;
use walhub_tests::process::send_signal;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_for;
use walhub_tests::workload::{Pgbench, pgbench_initialize};

#[test]
fn stalled_standby_slows_neither_another_one_nor_the_intake() {
    let relay = Relay::start();
    let stalled = relay.streaming_standby("stalled");
    let live = relay.streaming_standby("live");
    let receiver = stalled.backend("walreceiver");
    send_signal(receiver, Signal::STOP);
    pgbench_initialize(&relay.primary, 1);
    // More than all socket buffers on the way hold.
    relay.primary.write_wal(64);
    Pgbench::start(&relay.primary, 2, 100).wait();
    let lsn = relay.primary.flush_lsn();
    live.wait_replay(&lsn);
    relay.primary.wait_acknowledged("hub", &lsn);
    let behind = format!(
        "select count(*) from pg_stat_replication \
         where application_name = 'stalled' and sent_lsn < '{lsn}'"
    );
    assert_eq!(relay.hub.psql(&behind), "1");
    send_signal(receiver, Signal::CONT);
    stalled.wait_replay(&lsn);
    assert_equal_tables(&relay.primary, &stalled);
}

#[test]
fn standby_that_does_not_answer_is_dropped_after_wal_sender_timeout() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("wal_sender_timeout", "5s"));
    let standby = relay.streaming_standby("standby");
    let mark = relay.hub.log().mark();
    let receiver = standby.backend("walreceiver");
    send_signal(receiver, Signal::STOP);
    relay.hub.log().wait_for(mark, "terminating walsender process due to replication timeout");
    relay.hub.wait_sql("select count(*) from pg_stat_replication", "0");
    send_signal(receiver, Signal::CONT);
    relay.hub.wait_streaming("standby");
}

#[test]
fn idle_standby_is_kept_by_its_answers_to_keepalives() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("wal_sender_timeout", "2s"));
    let mut standby = relay.standby("standby");
    // It says nothing by itself.
    standby.configure("wal_receiver_status_interval = 0");
    standby.start();
    relay.hub.wait_streaming("standby");
    let pid = relay.hub.psql("select pid from pg_stat_replication");
    // Three answers later it is the same session.
    let mut last = String::new();
    for _ in 0..3 {
        last = wait_for("the standby has answered", || {
            let reply_time = relay.hub.psql("select reply_time from pg_stat_replication");
            (reply_time != last).then_some(reply_time)
        });
    }
    assert_eq!(relay.hub.psql("select pid from pg_stat_replication"), pid);
}

#[test]
fn upstream_that_does_not_answer_is_left_after_wal_receiver_timeout() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("wal_receiver_timeout", "2s"));
    let mark = relay.hub.log().mark();
    let stalled = relay.primary.backend("walsender");
    send_signal(stalled, Signal::STOP);
    relay.hub.log().wait_for(mark, "terminating walreceiver due to timeout");
    // The stopped walsender still counts as one; a second one serves the hub.
    let fresh = format!(
        "select count(*) from pg_stat_replication where pid <> {stalled} and state = 'streaming'"
    );
    relay.primary.wait_sql(&fresh, "1");
    send_signal(stalled, Signal::CONT);
    relay.primary.wait_streaming("hub");
    relay.primary.switch_wal(1);
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
}
