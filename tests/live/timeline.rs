//! The upstream is replaced by its promoted standby.

use std::fs;

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::scratch::{Scratch, give_to_postgres};
use walhub_tests::wait::wait_until;
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

/// A number that the newest timeline skips: that of a failover which was given up, at a point before all that
/// is of interest.
const ABORTED: &str = "1\t0/100028\tno recovery target specified\n";

/// Promotes `new`, which takes timeline 3 because there is a history of timeline 2 somewhere.
fn promote_to_timeline_3(new: &Postgres) {
    let aborted = new.pg_wal().join("00000002.history");
    fs::write(&aborted, ABORTED).expect("a history file");
    give_to_postgres(&aborted);
    new.psql("select pg_promote()");
    new.wait_sql("select timeline_id from pg_control_checkpoint()", "3");
}

/// The standby behind the hub goes over to `timeline` and gets what is written there.
fn behind_follows(failover: &Failover, timeline: &str) {
    let Failover { hub, behind, new, .. } = failover;
    new.wait_streaming("hub");
    Pgbench::start(new, 2, 100).wait();
    behind.wait_replay(&new.flush_lsn());
    assert_equal_tables(new, behind);
    for standby in [behind as &dyn SqlServer, hub] {
        standby.wait_sql("select received_tli from pg_stat_wal_receiver", timeline);
    }
}

#[test]
fn a_standby_behind_the_hub_does_not_wait_for_a_history_that_the_newest_skips() {
    let mut failover = before_failover();
    assert!(failover.old.stop(StopMode::Fast).success());
    promote_to_timeline_3(&failover.new);
    behind_follows(&failover, "3");
    let kept = fs::read_to_string(failover.hub.pg_wal().join("00000002.history"));
    assert_eq!(kept.expect("the hub has it"), ABORTED);
    assert_eq!(
        failover.behind.log().count(failover.behind.log().beginning(), "could not open file"),
        0
    );
}

#[test]
fn a_standby_behind_the_hub_does_not_wait_for_a_history_that_nobody_has() {
    let mut failover = before_failover();
    failover.behind.wait_replay(&failover.old.flush_lsn());
    assert!(failover.hub.stop(StopMode::Fast).success());
    assert!(failover.old.stop(StopMode::Fast).success());
    promote_to_timeline_3(&failover.new);
    fs::remove_file(failover.new.pg_wal().join("00000002.history")).expect("it is there");
    let mark = failover.hub.log().mark();
    failover.hub.start();
    behind_follows(&failover, "3");
    assert!(!failover.hub.pg_wal().join("00000002.history").exists(), "nothing is made up");
    let absent = "there is no timeline history file for timeline 2";
    assert_eq!(failover.hub.log().count(mark, absent), 1);
    // A standby that starts on the new timeline, after it was there.
    failover.behind.stop(StopMode::Fast);
    failover.behind.start();
    failover.new.switch_wal(1);
    failover.behind.wait_replay(&failover.new.flush_lsn());
}

#[test]
fn a_standby_gets_the_histories_of_before_the_hub_began() {
    let scratch = Scratch::new();
    let mut old = Postgres::primary("old").start(&scratch);
    pgbench_initialize(&old, 1);
    let mut first = old.standby("first", &old.endpoint().conninfo("first"), &scratch);
    let mut second = old.standby("second", &first.endpoint().conninfo("second"), &scratch);
    let mut behind = old.standby("behind", &old.endpoint().conninfo("behind"), &scratch);
    for server in [&mut first, &mut second, &mut behind] {
        server.start();
    }
    // What the hub will begin with holds everything that is yet to come.
    old.switch_wal(1);
    behind.wait_replay(&old.flush_lsn());
    behind.stop(StopMode::Fast);
    assert!(old.stop(StopMode::Fast).success());
    first.psql("select pg_promote()");
    first.wait_sql("select pg_is_in_recovery()", "f");
    second.wait_sql("select received_tli from pg_stat_wal_receiver", "2");
    assert!(first.stop(StopMode::Fast).success());
    second.psql("select pg_promote()");
    second.wait_sql("select timeline_id from pg_control_checkpoint()", "3");

    let hub = Hub::named("hub").upstream(second.endpoint().conninfo("hub")).start(&scratch);
    second.wait_streaming("hub");
    for number in [2, 3] {
        assert!(hub.pg_wal().join(format!("0000000{number}.history")).exists(), "{number}");
    }
    behind.configure(&format!("primary_conninfo = '{}'", hub.endpoint().conninfo("behind")));
    behind.start();
    Pgbench::start(&second, 2, 50).wait();
    behind.wait_replay(&second.flush_lsn());
    assert_equal_tables(&second, &behind);
    behind.wait_sql("select received_tli from pg_stat_wal_receiver", "3");
}

#[test]
fn a_history_file_that_is_here_is_not_fetched_written_and_logged_at_each_retry() {
    let mut failover = before_failover();
    failover.new.wait_replay(&failover.old.flush_lsn());
    // The new primary does not have what the hub has: there is no way on.
    failover.new.stop(StopMode::Fast);
    failover.old.switch_wal(1);
    failover.hub.wait_received(&failover.old.flush_lsn());
    failover.old.kill9();
    failover.new.configure("log_replication_commands = on");
    failover.new.start();
    let mark = failover.hub.log().mark();
    failover.new.psql("select pg_promote()");
    let new = failover.new.log();
    wait_until("the hub has tried again", || {
        new.count(new.beginning(), "START_REPLICATION 0/") >= 6
            && new.count(new.beginning(), "TIMELINE_HISTORY 2") >= 1
    });
    let fetched = new.count(new.beginning(), "received replication command: TIMELINE_HISTORY");
    assert_eq!(fetched, 1, "{}", new.text(new.beginning()));
    let log = failover.hub.log();
    assert_eq!(log.count(mark, "fetching timeline history file"), 1);
    let forked = "on timeline 1 is not in this server's history";
    assert_eq!(log.count(mark, forked), 1, "{}", log.text(mark));
    assert!(log.text(mark).lines().count() <= 20, "{}", log.text(mark));
}
