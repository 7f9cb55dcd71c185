//! The upstream is replaced by its promoted standby.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::scratch::Scratch;
use walhub_tests::workload::{Pgbench, pgbench_initialize};

struct Failover {
    hub: Hub,
    behind: Postgres,
    old: Postgres,
    new: Postgres,
    scratch: Scratch,
}

/// A primary with a standby of its own and a hub that knows both; a standby behind the hub.
fn before_failover() -> Failover {
    let scratch = Scratch::new();
    let old = Postgres::primary("old").start(&scratch);
    pgbench_initialize(&old, 1);
    let mut new = old.standby("new", &old.endpoint().conninfo("new"), &scratch);
    new.start();
    let (a, b) = (old.endpoint(), new.endpoint());
    let upstream = format!(
        "host={},{} port={},{} user=postgres application_name=hub",
        a.host, b.host, a.port, b.port
    );
    let hub = Hub::named("hub").upstream(upstream).start(&scratch);
    old.wait_streaming("hub");
    let mut behind = old.standby("behind", &hub.endpoint().conninfo("behind"), &scratch);
    behind.start();
    hub.wait_streaming("behind");
    Pgbench::start(&old, 2, 100).wait();
    Failover { hub, behind, old, new, scratch }
}

fn after_failover(failover: &Failover) {
    let Failover { hub, behind, new, .. } = failover;
    new.wait_streaming("hub");
    Pgbench::start(new, 2, 100).wait();
    behind.wait_replay(&new.flush_lsn());
    assert_equal_tables(new, behind);
    assert_eq!(behind.psql("select count(*) from pgbench_history"), "400");
    behind.wait_sql("select received_tli from pg_stat_wal_receiver", "2");
    hub.wait_sql("select received_tli from pg_stat_wal_receiver", "2");

    let identity = hub.replication("IDENTIFY_SYSTEM");
    assert_eq!(identity.split('|').nth(1), Some("2"), "{identity}");
    let history = hub.replication("TIMELINE_HISTORY 2");
    assert!(history.starts_with("00000002.history|1\t"), "{history}");
    assert_eq!(history, new.replication("TIMELINE_HISTORY 2"));
    assert!(hub.pg_wal().join("00000002.history").exists());
    new.switch_wal(2);
    new.wait_acknowledged("hub", &new.flush_lsn());
    let end = new.current_segment();
    let new_timeline: Vec<_> = hub
        .segments()
        .expect("pg_wal")
        .into_iter()
        .filter(|name| name.starts_with("00000002") && *name < end)
        .collect();
    assert!(new_timeline.len() >= 2, "{new_timeline:?}");
    assert_equal_segments(&new.pg_wal(), &hub.pg_wal(), &end, 2);
}

#[test]
fn hub_and_its_standby_follow_a_switchover() {
    let mut failover = before_failover();
    // A clean stop ships everything to both.
    assert!(failover.old.stop(StopMode::Fast).success());
    failover.new.psql("select pg_promote()");
    after_failover(&failover);
}

#[test]
fn hub_and_its_standby_follow_a_failover() {
    let mut failover = before_failover();
    let lsn = failover.old.flush_lsn();
    failover.old.wait_acknowledged("new", &lsn);
    failover.old.wait_acknowledged("hub", &lsn);
    failover.old.kill9();
    failover.new.wait_replay(&lsn);
    failover.new.psql("select pg_promote()");
    after_failover(&failover);
}

#[test]
fn hub_that_was_down_during_the_failover_follows_when_it_is_back() {
    let mut failover = before_failover();
    failover.behind.wait_replay(&failover.old.flush_lsn());
    assert!(failover.hub.stop(StopMode::Fast).success());
    assert!(failover.old.stop(StopMode::Fast).success());
    failover.new.psql("select pg_promote()");
    failover.new.wait_sql("select pg_is_in_recovery()", "f");
    failover.hub.start();
    after_failover(&failover);
}

#[test]
fn standby_that_missed_the_switch_gets_the_old_timeline_and_then_the_new_one() {
    let mut failover = before_failover();
    failover.behind.stop(StopMode::Fast);
    Pgbench::start(&failover.old, 2, 50).wait();
    assert!(failover.old.stop(StopMode::Fast).success());
    failover.new.psql("select pg_promote()");
    failover.new.wait_streaming("hub");
    Pgbench::start(&failover.new, 2, 50).wait();
    failover.behind.start();
    failover.behind.wait_replay(&failover.new.flush_lsn());
    assert_equal_tables(&failover.new, &failover.behind);
    assert!(failover.scratch.path("hub").exists());
}

#[test]
fn hub_follows_the_promotion_of_the_standby_that_it_streams_from() {
    let scratch = Scratch::new();
    let mut old = Postgres::primary("old").start(&scratch);
    pgbench_initialize(&old, 1);
    let mut new = old.standby("new", &old.endpoint().conninfo("new"), &scratch);
    new.start();
    let hub = Hub::named("hub").upstream(new.endpoint().conninfo("hub")).start(&scratch);
    new.wait_streaming("hub");
    let mut behind = old.standby("behind", &hub.endpoint().conninfo("behind"), &scratch);
    behind.start();
    hub.wait_streaming("behind");
    Pgbench::start(&old, 2, 100).wait();
    assert!(old.stop(StopMode::Fast).success());
    new.psql("select pg_promote()");
    after_failover(&Failover { hub, behind, old, new, scratch });
}
