//! Prepared transactions outlive their primary: behind a promoted hub they are kept, and so are their locks.

use std::process::Command;

use walhub_tests::client::{Psql, SqlServer};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::{Postgres, PrimaryBuilder, StopMode};
use walhub_tests::process::run_ok;
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;

fn with_prepared(primary: PrimaryBuilder) -> PrimaryBuilder {
    // No server lists its running transactions by itself before the tests say so, or nearly none.
    primary
        .config("max_prepared_transactions = 10\ncheckpoint_timeout = 1d")
        .sql("create table t (i int); create table u (i int); create table w (i int)")
}

/// A transaction with subtransactions that has written three rows, emptied a table and locked another.
fn prepare(primary: &Postgres, gid: &str) {
    let mut session = Psql::open(primary);
    for sql in [
        "begin",
        "insert into t values (1)",
        "savepoint a",
        "insert into t values (2)",
        "savepoint b",
        "insert into t values (3)",
        "release savepoint b",
        "lock table u in access exclusive mode",
        &format!("prepare transaction '{gid}'"),
    ] {
        session.psql(sql);
    }
    session.close();
}

fn is_locked(server: &Postgres, table: &str) -> bool {
    let sql = format!(
        "select count(*) > 0 from pg_locks where locktype = 'relation' and granted \
         and mode = 'AccessExclusiveLock' and relation = '{table}'::regclass"
    );
    server.psql(&sql) == "t"
}

/// The standby has replayed all that the hub has, and to it the transaction is under way. That it is asked
/// matters: who reads rows of a transaction that neither runs nor has committed marks them as void.
#[track_caller]
fn assert_prepared(hub: &Hub, standby: &Postgres) {
    hub.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
    standby.wait_replay(&hub.psql("select pg_current_wal_flush_lsn()"));
    assert_eq!(standby.psql("select count(*) from t"), "0");
    assert!(is_locked(standby, "u"), "the prepared transaction's lock is gone");
    let error = standby.psql_error("set lock_timeout = '10ms'; select from u");
    assert!(error.contains("55P03"), "{error}");
}

#[track_caller]
fn promote(hub: &Hub) {
    assert_eq!(hub.psql("select pg_promote()"), "t");
}

/// The standby becomes the primary of the database, and the transaction is committed there.
#[track_caller]
fn assert_commits(standby: &Postgres) {
    assert_eq!(standby.psql("select pg_promote()"), "t");
    assert_eq!(standby.psql("select gid from pg_prepared_xacts"), "one");
    assert!(is_locked(standby, "u"));
    assert_eq!(standby.psql("select count(*) from t"), "0");
    standby.psql("commit prepared 'one'");
    assert_eq!(standby.psql("select sum(i), count(*) from t"), "6|3");
    assert!(!is_locked(standby, "u"));
    assert_eq!(standby.psql("select count(*) from u"), "0");
}

#[test]
fn a_prepared_transaction_outlives_its_primary() {
    let mut relay = Relay::with(with_prepared, |hub| hub);
    let mut a = relay.streaming_standby("a");
    prepare(&relay.primary, "one");
    // This one is over with its server, and is younger.
    let mut lost = Psql::open(&relay.primary);
    lost.psql("begin");
    lost.psql("lock table w in access exclusive mode");
    lost.psql("insert into w values (1)");
    relay.primary.psql("insert into t select 0 where false; create table v (i int)");
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_received(&lsn);
    a.wait_replay(&lsn);
    assert!(is_locked(&a, "u") && is_locked(&a, "w"));
    relay.primary.kill9();
    lost.kill9();
    promote(&relay.hub);
    assert_prepared(&relay.hub, &a);
    assert!(!is_locked(&a, "w"), "the lock of a transaction that is over is held");
    assert_eq!(a.psql("select count(*) from w"), "0");
    relay.hub.psql("checkpoint");
    assert_prepared(&relay.hub, &a);
    // A shutdown checkpoint, and one of a start after a crash.
    assert!(relay.hub.stop(StopMode::Fast).success());
    relay.hub.start();
    assert_prepared(&relay.hub, &a);
    relay.hub.kill9();
    relay.hub.start();
    assert_prepared(&relay.hub, &a);
    // A standby that starts again learns of the lock from the hub's checkpoint.
    relay.hub.psql("checkpoint");
    a.wait_replay(&relay.hub.psql("select pg_current_wal_flush_lsn()"));
    a.psql("checkpoint");
    assert!(a.stop(StopMode::Fast).success());
    a.start();
    assert_prepared(&relay.hub, &a);
    assert_commits(&a);
}

#[test]
fn a_prepared_transaction_that_was_ended_is_not_kept() {
    let mut relay = Relay::with(with_prepared, |hub| hub);
    let a = relay.streaming_standby("a");
    for gid in ["one", "two"] {
        prepare(&relay.primary, gid);
        relay.primary.psql("checkpoint");
        let end = if gid == "one" { "commit" } else { "rollback" };
        relay.primary.psql(&format!("{end} prepared '{gid}'"));
    }
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_received(&lsn);
    relay.primary.kill9();
    promote(&relay.hub);
    relay.hub.psql("checkpoint");
    a.wait_replay(&relay.hub.psql("select pg_current_wal_flush_lsn()"));
    assert!(!is_locked(&a, "u"));
    assert_eq!(a.psql("select sum(i), count(*) from t"), "6|3");
    // Nothing is under way there any more.
    assert_eq!(a.psql("select pg_current_snapshot()::text ~ '^(\\d+):\\1:$'"), "t");
}

#[test]
fn a_prepared_transaction_that_is_older_than_the_hubs_wal_outlives_its_primary() {
    let scratch = Scratch::new();
    let mut primary = with_prepared(Postgres::primary("primary")).start(&scratch);
    // A standby that has no restartpoint after the transaction was prepared has no state file of it.
    let mut a = primary.standby("a", &primary.endpoint().conninfo("a"), &scratch);
    a.start();
    primary.wait_streaming("a");
    prepare(&primary, "one");
    primary.psql("checkpoint");
    primary.switch_wal(3);
    let hub = Hub::named("hub").upstream(primary.endpoint().conninfo("hub")).start(&scratch);
    primary.wait_streaming("hub");
    a.wait_replay(&primary.flush_lsn());
    a.configure(&format!("primary_conninfo = '{}'", hub.endpoint().conninfo("a")));
    a.psql("select pg_reload_conf()");
    hub.wait_streaming("a");
    // It runs since before the hub's WAL, too, until it is over.
    let mut lives = Psql::open(&primary);
    lives.psql("begin");
    lives.psql("insert into w values (1)");
    primary.psql("checkpoint");
    lives.psql("commit");
    lives.close();
    let lsn = primary.flush_lsn();
    hub.wait_received(&lsn);
    a.wait_replay(&lsn);
    primary.kill9();
    promote(&hub);
    assert_prepared(&hub, &a);
    hub.psql("checkpoint");
    assert_prepared(&hub, &a);
    assert_eq!(a.psql("select count(*) from w"), "1");
    assert_commits(&a);
}

#[test]
fn kill9_of_the_hub_long_after_a_transaction_was_prepared_forgets_nothing() {
    let mut relay = Relay::with(
        |primary| with_prepared(primary).segment_size_mb(1),
        |hub| hub.set("wal_keep_size", "0").set("min_wal_size", "2MB"),
    );
    let a = relay.streaming_standby("a");
    prepare(&relay.primary, "one");
    // The record that says so is in no segment any more that a start reads.
    relay.primary.psql("checkpoint");
    relay.primary.switch_wal(5);
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_received(&lsn);
    a.wait_replay(&lsn);
    relay.hub.kill9();
    relay.primary.kill9();
    relay.hub.start();
    promote(&relay.hub);
    relay.hub.kill9();
    relay.hub.start();
    assert_prepared(&relay.hub, &a);
    relay.hub.switch_wal(5);
    relay.hub.kill9();
    relay.hub.start();
    relay.hub.psql("checkpoint");
    assert_prepared(&relay.hub, &a);
    assert_commits(&a);
}

#[test]
fn a_relay_that_cannot_know_what_is_prepared_refuses_and_goes_on() {
    let scratch = Scratch::new();
    let mut primary = with_prepared(Postgres::primary("primary")).start(&scratch);
    primary.switch_wal(2);
    // A shutdown checkpoint is in the WAL that the hub begins with, but no list of running transactions: the
    // process is stopped that writes one by itself.
    assert!(primary.stop(StopMode::Fast).success());
    primary.start();
    let writer = "select pid from pg_stat_activity where backend_type = 'background writer'";
    primary.wait_sql(&writer.replace("pid", "count(*)"), "1");
    let writer = primary.psql(writer);
    run_ok(Command::new("kill").args(["-STOP", &writer]));
    let hub = Hub::named("hub").upstream(primary.endpoint().conninfo("hub")).start(&scratch);
    primary.wait_streaming("hub");
    hub.wait_received(&primary.flush_lsn());
    let mark = hub.log().mark();
    let error = hub.psql_error("select pg_promote()");
    let text = "cannot promote before the primary has listed its running transactions";
    assert!(error.contains(&format!("55000: {text}")), "{error}");
    assert!(error.contains("DETAIL:  Prepared transactions may be older"), "{error}");
    assert!(error.contains("HINT:  Run CHECKPOINT on the primary"), "{error}");
    hub.log().wait_for(mark, text);
    assert_eq!(hub.psql("select status from pg_stat_wal_receiver"), "streaming");
    primary.psql("checkpoint");
    hub.wait_received(&primary.flush_lsn());
    promote(&hub);
    run_ok(Command::new("kill").args(["-CONT", &writer]));
}
