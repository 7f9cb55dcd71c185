//! pgbench through primary, hub and standby; each of the three is restarted under load, in every
//! order, once as an administrator does it and once by kill -9. In the end nothing is lost.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables};
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::topology::Relay;
use walhub_tests::waldump::waldump;
use walhub_tests::workload::{Pgbench, pgbench_initialize, wait_transactions};

use How::{Gracefully, Kill9};
use Member::{Hub, Primary, Standby};

#[derive(Clone, Copy, Debug)]
enum Member {
    Primary,
    Hub,
    Standby,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Gracefully,
    Kill9,
}

/// Transactions that must be committed before and after each restart.
const TRANSACTIONS: u64 = 200;

fn restart_postgres(server: &mut Postgres, how: How) {
    match how {
        Gracefully => assert!(server.stop(StopMode::Fast).success()),
        Kill9 => server.kill9(),
    }
    server.start();
}

#[track_caller]
fn tables_are_equal_after_restarts(order: [Member; 3], how: How) {
    let mut relay = Relay::start();
    pgbench_initialize(&relay.primary, 1);
    let mut standby = relay.streaming_standby("standby");
    for member in order {
        let load = Pgbench::endless(&relay.primary, 2);
        wait_transactions(&relay.primary, TRANSACTIONS);
        match member {
            Primary => restart_postgres(&mut relay.primary, how),
            Standby => restart_postgres(&mut standby, how),
            Hub => {
                match how {
                    Gracefully => assert!(relay.hub.stop(StopMode::Fast).success()),
                    Kill9 => relay.hub.kill9(),
                }
                relay.hub.start();
            }
        }
        relay.primary.wait_streaming("hub");
        relay.hub.wait_streaming("standby");
        if matches!(member, Primary) {
            // The load went down with its server.
            load.stop(&relay.primary);
        } else {
            wait_transactions(&relay.primary, TRANSACTIONS);
            load.stop(&relay.primary);
        }
    }
    let load = Pgbench::start(&relay.primary, 2, 100);
    assert_eq!(load.wait().transactions, 200);
    standby.wait_replay(&relay.primary.flush_lsn());
    assert_equal_tables(&relay.primary, &standby);
    let history = standby.psql("select count(*) from pgbench_history");
    assert!(history.parse().is_ok_and(|rows: u64| rows >= 5 * TRANSACTIONS), "{history}");

    let last = relay.primary.finish_segment();
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), &relay.hub.pg_wal(), &end, 1);
    assert!(relay.hub.segments().expect("pg_wal").contains(&last));
    let dump = waldump(&relay.hub.pg_wal(), &["--rmgr=Transaction"]);
    assert!(dump.committed().len() > 1000, "{}", dump.end);
}

#[test]
fn graceful_restarts_primary_hub_standby() {
    tables_are_equal_after_restarts([Primary, Hub, Standby], Gracefully);
}

#[test]
fn graceful_restarts_primary_standby_hub() {
    tables_are_equal_after_restarts([Primary, Standby, Hub], Gracefully);
}

#[test]
fn graceful_restarts_hub_primary_standby() {
    tables_are_equal_after_restarts([Hub, Primary, Standby], Gracefully);
}

#[test]
fn graceful_restarts_hub_standby_primary() {
    tables_are_equal_after_restarts([Hub, Standby, Primary], Gracefully);
}

#[test]
fn graceful_restarts_standby_primary_hub() {
    tables_are_equal_after_restarts([Standby, Primary, Hub], Gracefully);
}

#[test]
fn graceful_restarts_standby_hub_primary() {
    tables_are_equal_after_restarts([Standby, Hub, Primary], Gracefully);
}

#[test]
fn kill9_restarts_primary_hub_standby() {
    tables_are_equal_after_restarts([Primary, Hub, Standby], Kill9);
}

#[test]
fn kill9_restarts_primary_standby_hub() {
    tables_are_equal_after_restarts([Primary, Standby, Hub], Kill9);
}

#[test]
fn kill9_restarts_hub_primary_standby() {
    tables_are_equal_after_restarts([Hub, Primary, Standby], Kill9);
}

#[test]
fn kill9_restarts_hub_standby_primary() {
    tables_are_equal_after_restarts([Hub, Standby, Primary], Kill9);
}

#[test]
fn kill9_restarts_standby_primary_hub() {
    tables_are_equal_after_restarts([Standby, Primary, Hub], Kill9);
}

#[test]
fn kill9_restarts_standby_hub_primary() {
    tables_are_equal_after_restarts([Standby, Hub, Primary], Kill9);
}

#[test]
fn standby_behind_the_hub_is_a_hot_standby() {
    let relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
    let endpoint = relay.hub.endpoint();
    let want = format!("streaming|{}|{}", endpoint.host, endpoint.port);
    standby.wait_sql("select status, sender_host, sender_port from pg_stat_wal_receiver", &want);
    relay.primary.psql("create table t as select generate_series(1, 1000) i");
    standby.wait_replay(&relay.primary.flush_lsn());
    assert_eq!(standby.psql("select sum(i) from t"), "500500");
}
