//! A hub behind a hub.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables};
use walhub_tests::hub::Hub;
use walhub_tests::topology::Relay;
use walhub_tests::workload::{Pgbench, pgbench_initialize, wait_transactions};

#[test]
fn two_hubs_in_cascade_each_killed_under_load() {
    let mut relay = Relay::start();
    let conninfo = relay.hub.endpoint().conninfo("second");
    let mut second = Hub::named("second").upstream(conninfo).start(&relay.scratch);
    relay.hub.wait_streaming("second");
    pgbench_initialize(&relay.primary, 1);
    let conninfo = second.endpoint().conninfo("standby");
    let mut standby = relay.primary.standby("standby", &conninfo, &relay.scratch);
    standby.start();
    second.wait_streaming("standby");

    let load = Pgbench::endless(&relay.primary, 2);
    wait_transactions(&relay.primary, 200);
    relay.hub.kill9();
    relay.hub.start();
    relay.hub.wait_streaming("second");
    wait_transactions(&relay.primary, 200);
    second.kill9();
    second.start();
    second.wait_streaming("standby");
    wait_transactions(&relay.primary, 200);
    load.stop(&relay.primary);

    standby.wait_replay(&relay.primary.flush_lsn());
    assert_equal_tables(&relay.primary, &standby);
    let last = relay.primary.finish_segment();
    let end = relay.primary.current_segment();
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);
    relay.hub.wait_sql(
        &format!("select count(*) from pg_stat_replication where flush_lsn >= '{lsn}'"),
        "1",
    );
    assert!(second.segments().expect("pg_wal").contains(&last));
    assert_equal_segments(&relay.primary.pg_wal(), &second.pg_wal(), &end, 1);
}

#[test]
fn hub_streams_from_a_standby() {
    let relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    let conninfo = standby.endpoint().conninfo("behind");
    let behind = Hub::named("behind").upstream(conninfo).start(&relay.scratch);
    standby.wait_streaming("behind");
    relay.primary.switch_wal(2);
    behind.wait_received(&relay.primary.flush_lsn());
    assert_eq!(behind.psql("select pg_is_in_recovery()"), "t");
}
