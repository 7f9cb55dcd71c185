//! The relay's commit policy: what the primary is told stands for the standbys behind the hub.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use walhub_peers::client::Client;
use walhub_proto::lsn::Lsn;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::copy::StandbyStatusUpdate;
use walhub_tests::client::{Psql, SqlServer, Statement};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::process::{run_ok, said, send_signal};
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;
use walhub_tests::workload::Inserters;

const ROLES: &str = "select string_agg(application_name || ' ' || sync_priority || ' ' || sync_state, \
     ', ' order by application_name) from pg_stat_replication";

/// Gives the hub `synchronous_standby_names` by a reload.
#[track_caller]
fn set_policy(hub: &Hub, names: &str) {
    let line = format!("synchronous_standby_names = '{names}'\n");
    fs::write(hub.data().join("walhub.toml"), line).expect("walhub.toml");
    send_signal(hub.pid(), Signal::HUP);
    hub.wait_sql("show synchronous_standby_names", names);
}

/// Has each commit on the primary wait for the hub.
#[track_caller]
fn require_hub(primary: &Postgres, synchronous_commit: &str) {
    primary.configure(&format!(
        "synchronous_standby_names = 'hub'\nsynchronous_commit = {synchronous_commit}"
    ));
    primary.psql("select pg_reload_conf()");
    primary.wait_sql(
        "select sync_state from pg_stat_replication where application_name = 'hub'",
        "sync",
    );
}

/// A relay with a table `t`, a policy, and its standbys, whose commits the primary waits for.
fn relay_with(policy: &str, standbys: &[&str], level: &str) -> (Relay, Vec<Postgres>) {
    with_policy(Relay::start(), policy, standbys, level)
}

fn with_policy(
    relay: Relay,
    policy: &str,
    standbys: &[&str],
    level: &str,
) -> (Relay, Vec<Postgres>) {
    relay.primary.psql("create table t (i int primary key)");
    let standbys = standbys.iter().map(|name| relay.streaming_standby(name)).collect();
    set_policy(&relay.hub, policy);
    require_hub(&relay.primary, level);
    (relay, standbys)
}

/// A statement whose commit waits.
struct Blocked(Statement);

impl Blocked {
    /// Runs `sql` on the primary and waits until its commit waits.
    #[track_caller]
    fn start(primary: &Postgres, sql: &str) -> Self {
        let statement = Statement::begin(primary, sql);
        primary.wait_sql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'", "1");
        assert!(!statement.is_finished());
        Self(statement)
    }

    /// Waits until it has committed.
    #[track_caller]
    fn finish(self) {
        let output = self.0.finish();
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn quorum_of_three_goes_on_with_one_stopped_and_waits_with_two() {
    let (relay, mut standbys) = relay_with("ANY 2 (a, b, c)", &["a", "b", "c"], "on");
    relay.hub.wait_sql(ROLES, "a 1 quorum, b 1 quorum, c 1 quorum");
    let text = "standby \"a\" is now a candidate for quorum synchronous standby";
    relay.hub.log().wait_for(relay.hub.log().beginning(), text);

    standbys[2].stop(StopMode::Fast);
    relay.hub.wait_sql(ROLES, "a 1 quorum, b 1 quorum");
    for i in 0..20 {
        relay.primary.psql(&format!("insert into t values ({i})"));
    }

    let mark = relay.hub.log().mark();
    standbys[1].stop(StopMode::Fast);
    relay.hub.wait_sql(ROLES, "a 1 quorum");
    let names = "commits on the primary wait for 1 of \"b\" (not connected), \"c\" (not connected)";
    relay.hub.log().wait_for(mark, names);
    let blocked = Blocked::start(&relay.primary, "insert into t values (100)");
    // It is durable on the hub and on one standby, and that is not enough.
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_sql(
        &format!("select count(*) from pg_stat_replication where flush_lsn >= '{lsn}'"),
        "1",
    );
    relay.hub.wait_received(&lsn);
    assert_eq!(
        relay
            .primary
            .psql(&format!("select count(*) from pg_stat_replication where flush_lsn >= '{lsn}'")),
        "0"
    );
    assert!(!blocked.0.is_finished());

    standbys[1].start();
    blocked.finish();
    standbys[1].wait_sql("select count(*) from t where i = 100", "1");
    relay.hub.log().wait_for(mark, "commits on the primary no longer wait for standbys to stream");
    assert_eq!(relay.hub.log().count(mark, "commits on the primary wait for"), 1);
}

#[test]
fn what_is_committed_with_remote_apply_can_be_read_at_once() {
    read_what_was_written("1");
}

#[test]
fn what_is_committed_with_remote_apply_can_be_read_at_once_with_cores_apart() {
    read_what_was_written("3");
}

/// Writes on the primary and reads on a standby, a hundred times; the hub has `cores`.
fn read_what_was_written(cores: &str) {
    let relay = Relay::with(|primary| primary, |hub| hub.set("cores", cores));
    let (relay, standbys) = with_policy(relay, "FIRST 1 (a)", &["a"], "remote_apply");
    let (mut writer, mut reader) = (Psql::open(&relay.primary), Psql::open(&standbys[0]));
    let started = Instant::now();
    for i in 1..=100 {
        writer.psql(&format!("insert into t values ({i})"));
        assert_eq!(reader.psql("select count(*) from t"), i.to_string());
    }
    // Each reply was sent at once: all intervals are a second.
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    let shown = "select count(*) from pg_stat_replication where replay_lsn is not null";
    assert_eq!(relay.primary.psql(shown), "1");
    writer.close();
    reader.close();
}

#[test]
fn a_potential_standby_takes_over_and_gives_back() {
    let (relay, mut standbys) = relay_with("FIRST 1 (a, b)", &["a", "b"], "on");
    relay.hub.wait_sql(ROLES, "a 1 sync, b 2 potential");
    let mark = relay.hub.log().mark();
    standbys[0].stop(StopMode::Fast);
    relay.hub.log().wait_for(mark, "standby \"b\" is now a synchronous standby with priority 2");
    relay.primary.psql("insert into t values (1)");
    assert_eq!(standbys[1].psql("select pg_last_wal_receive_lsn() is not null"), "t");
    relay.hub.wait_sql(ROLES, "b 2 sync");

    standbys[0].start();
    relay.hub.log().wait_for(mark, "standby \"a\" is now a synchronous standby with priority 1");
    relay.hub.wait_sql(ROLES, "a 1 sync, b 2 potential");
    relay.primary.psql("insert into t values (2)");
}

/// A standby sent by hand: it claims to have WAL, and reads nothing.
struct Claimant(TcpStream);

impl Claimant {
    fn start(hub: &Hub, name: &str, start: &str, claimed: &str) -> Self {
        let client = Client::replication(hub.endpoint(), name).expect("a session");
        let stream = client.start_replication(&format!("START_REPLICATION {start} TIMELINE 1"));
        let mut claimant = Self(stream.expect("a stream").0);
        claimant.claim(claimed);
        claimant
    }

    /// Says that everything up to there is written, durable and replayed.
    /// PostgreSQL: `XLogWalRcvSendReply`.
    fn claim(&mut self, lsn: &str) {
        let lsn: Lsn = lsn.parse().expect("a position");
        let (sent, reply_requested) = (Timestamp(0), false);
        let status =
            StandbyStatusUpdate { write: lsn, flush: lsn, apply: lsn, sent, reply_requested };
        self.0.write_all(&status.encode()).expect("a hub that reads");
    }

    /// From now on it reads everything.
    fn read_on(&self) {
        let mut stream = self.0.try_clone().expect("a socket");
        thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }
}

#[test]
fn a_standby_in_catchup_does_not_count_and_an_empty_list_releases() {
    let relay = Relay::start();
    relay.primary.psql("create table t (i int primary key)");
    let start = relay.primary.flush_lsn();
    // More than all socket buffers on the way hold.
    relay.primary.write_wal(64);
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let first = relay.streaming_standby("b");
    set_policy(&relay.hub, "ANY 1 (a, b)");
    require_hub(&relay.primary, "on");
    let mut claimant = Claimant::start(
        &relay.hub,
        "a",
        &start,
        &relay.hub.psql("select pg_last_wal_receive_lsn()"),
    );
    relay.hub.wait_sql(
        "select state || ' ' || sync_state || ' ' || (flush_lsn is not null) \
         from pg_stat_replication where application_name = 'a'",
        "catchup potential true",
    );
    relay.primary.psql("insert into t values (1)");
    let mark = relay.hub.log().mark();
    drop(first);
    let names = "commits on the primary wait for 1 of \"a\" (not ready), \"b\" (not connected)";
    relay.hub.log().wait_for(mark, names);
    let blocked = Blocked::start(&relay.primary, "insert into t values (2)");
    set_policy(&relay.hub, "");
    blocked.finish();
    relay.hub.wait_sql(ROLES, "a 0 async");

    // Once it streams it counts.
    set_policy(&relay.hub, "ANY 1 (a, b)");
    let blocked = Blocked::start(&relay.primary, "insert into t values (3)");
    claimant.read_on();
    relay.hub.wait_sql(ROLES, "a 1 quorum");
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_received(&lsn);
    claimant.claim(&lsn);
    blocked.finish();
}

#[test]
fn hubs_in_cascade_each_with_a_policy_compose() {
    let relay = Relay::start();
    relay.primary.psql("create table t (i int primary key)");
    let conninfo = relay.hub.endpoint().conninfo("second");
    let second = Hub::named("second").upstream(conninfo).start(&relay.scratch);
    relay.hub.wait_streaming("second");
    let conninfo = second.endpoint().conninfo("far");
    let mut far = relay.primary.standby("far", &conninfo, &relay.scratch);
    far.start();
    second.wait_streaming("far");
    let near = relay.streaming_standby("near");
    set_policy(&second, "far");
    set_policy(&relay.hub, "FIRST 2 (second, near)");
    require_hub(&relay.primary, "remote_apply");
    relay.hub.wait_sql(ROLES, "near 2 sync, second 1 sync");

    let (mut writer, mut reader) = (Psql::open(&relay.primary), Psql::open(&far));
    for i in 1..=20 {
        writer.psql(&format!("insert into t values ({i})"));
        assert_eq!(reader.psql("select count(*) from t"), i.to_string());
        assert_eq!(near.psql("select count(*) from t"), i.to_string());
    }
    writer.close();
    reader.close();

    let mark = second.log().mark();
    far.stop(StopMode::Fast);
    let names = "commits on the primary wait for \"far\" (not connected)";
    second.log().wait_for(mark, names);
    let blocked = Blocked::start(&relay.primary, "insert into t values (100)");
    far.start();
    blocked.finish();
    assert_eq!(far.psql("select count(*) from t where i = 100"), "1");
}

#[test]
fn no_acknowledged_commit_is_missing_on_the_required_standbys_when_the_hub_is_killed() {
    let (mut relay, mut standbys) = relay_with("FIRST 2 (a, b)", &["a", "b"], "on");
    Inserters::initialize(&relay.primary);
    let inserters = Inserters::start(&relay.primary, 4, 0, &relay.scratch);
    for _ in 0..6 {
        inserters.wait_more(100);
        relay.hub.kill9();
        relay.hub.start();
    }
    inserters.wait_more(100);
    // From here on a standby has only what is on its own disk.
    relay.hub.kill9();
    for standby in &mut standbys {
        standby.kill9();
    }
    relay.primary.kill9();
    let acknowledged = inserters.finish();
    assert!(acknowledged.len() >= 700);
    for standby in &mut standbys {
        standby.start();
        let missing = || {
            let rows = standby.psql("select id from acknowledged");
            let rows: BTreeSet<u64> = rows.lines().filter_map(|id| id.parse().ok()).collect();
            acknowledged.keys().filter(|id| !rows.contains(id)).count()
        };
        wait_until("the standby has every acknowledged row", || missing() == 0);
    }
}

/// The primary asks more than once a second for what the hub cannot tell it: that is not how it asks when it stops.
#[test]
fn a_primary_with_a_wal_sender_timeout_under_two_seconds_keeps_its_stream_while_commits_wait() {
    let mut relay = Relay::with(|primary| primary.config("wal_sender_timeout = 1500ms"), |hub| hub);
    let mut standby = relay.streaming_standby("a");
    set_policy(&relay.hub, "FIRST 1 (a)");
    relay.hub.wait_sql(ROLES, "a 1 sync");
    let mark = relay.hub.log().mark();
    standby.stop(StopMode::Fast);
    relay.hub.log().wait_for(mark, "commits on the primary wait for \"a\" (not connected)");
    relay.primary.write_wal(1);
    // It was left after eight seconds, and the stream began again.
    relay.primary.wait_sql(
        "select backend_start < clock_timestamp() - interval '15 s' from pg_stat_replication \
         where application_name = 'hub'",
        "t",
    );
    let left = "the upstream is shutting down and waits for standbys, ending the stream";
    assert!(!relay.hub.log().text(mark).contains(left));
    // And it is left once it does stop.
    assert!(relay.primary.stop(StopMode::Fast).success());
    relay.hub.log().wait_for(mark, left);
}

#[test]
fn a_primary_that_stops_does_not_wait_for_standbys_that_are_not_there() {
    let mut relay = Relay::start();
    let mut standby = relay.streaming_standby("a");
    set_policy(&relay.hub, "FIRST 1 (a)");
    relay.hub.wait_sql(ROLES, "a 1 sync");
    let mark = relay.hub.log().mark();
    standby.stop(StopMode::Fast);
    relay.hub.log().wait_for(mark, "commits on the primary wait for \"a\" (not connected)");
    relay.primary.write_wal(4);
    assert!(relay.primary.stop(StopMode::Fast).success());
    let left = "the upstream is shutting down and waits for standbys, ending the stream";
    relay.hub.log().wait_for(mark, left);
    // It had everything, the shutdown checkpoint included: the standby learns it from the hub.
    standby.start();
    relay.hub.wait_streaming("a");
    let end = relay.hub.psql("select pg_last_wal_receive_lsn()");
    standby.wait_sql(&format!("select pg_last_wal_receive_lsn() >= '{end}'"), "t");
    relay.primary.start();
    require_hub(&relay.primary, "on");
    relay.primary.psql("create table t (i int)");
}

/// Puts the hub's directory aside; the hub is stopped for that moment.
#[track_caller]
fn put_aside(hub: &mut Hub, scratch: &Scratch) -> PathBuf {
    assert!(hub.stop(StopMode::Fast).success());
    let aside = scratch.path("aside");
    run_ok(Command::new("cp").arg("-a").arg(hub.data()).arg(&aside));
    hub.start();
    aside
}

/// Puts it back: the hub comes back in an earlier state.
#[track_caller]
fn put_back(hub: &mut Hub, aside: &Path) {
    hub.kill9();
    fs::remove_dir_all(hub.data()).expect("the hub's directory");
    run_ok(Command::new("cp").arg("-a").arg(aside).arg(hub.data()));
    hub.start();
}

const COUNTING: &str = "select count(*) from pg_stat_replication where sync_state <> 'async'";

/// Appends a message on the hub, and waits until its commit waits for a standby.
#[track_caller]
fn emit_and_wait(hub: &Hub) -> Statement {
    let emit = "select pg_logical_emit_message(true, 'sync', 'blocked')";
    let statement = Statement::begin(hub, emit);
    hub.wait_sql("select count(*) from walhub.sync_wait", "1");
    assert!(!statement.is_finished());
    statement
}

#[test]
fn a_standby_ahead_of_a_relay_counts_once_the_relay_has_passed_it_and_not_when_it_is_promoted() {
    let mut relay = Relay::with(|primary| primary, |hub| hub.set("forward", "received"));
    relay.primary.psql("create table t (i int primary key); checkpoint");
    let a = relay.streaming_standby("a");
    set_policy(&relay.hub, "FIRST 1 (a)");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let aside = put_aside(&mut relay.hub, &relay.scratch);
    relay.hub.wait_streaming("a");
    relay.primary.psql("insert into t select generate_series(1, 1000)");
    let end = relay.primary.flush_lsn();
    a.wait_replay(&end);

    let upstream = relay.primary.endpoint().conninfo("hub");
    relay.hub.set_upstream("host=127.0.0.1 port=1 user=postgres");
    put_back(&mut relay.hub, &aside);
    let ahead = "select sync_state || ' ' || state || ' ' || (flush_lsn > pg_last_wal_receive_lsn()) \
                 from pg_stat_replication where application_name = 'a'";
    relay.hub.wait_sql(ahead, "async catchup true");
    // The upstream's WAL comes, and with it the standby's.
    relay.hub.kill9();
    relay.hub.set_upstream(upstream);
    relay.hub.start();
    relay.hub.wait_received(&end);
    require_hub(&relay.primary, "on");
    relay.primary.psql("insert into t values (2000)");
    relay.hub.wait_sql(ROLES, "a 1 sync");
    relay.primary.configure("synchronous_standby_names = ''");
    relay.primary.psql("select pg_reload_conf(); checkpoint");

    // Once more, and the upstream is gone.
    a.wait_replay(&relay.primary.flush_lsn());
    relay.primary.kill9();
    put_back(&mut relay.hub, &aside);
    relay.hub.wait_sql(ahead, "async catchup true");
    let lsn = relay.hub.psql("select pg_last_wal_receive_lsn()");
    assert_eq!(relay.hub.psql(&format!("wait for lsn '{lsn}'")), "success");
    let mark = relay.hub.log().mark();
    relay.hub.psql("select pg_promote()");
    relay.hub.log().wait_for(mark, "bytes of WAL that are not part of timeline 2");
    let blocked = emit_and_wait(&relay.hub);
    assert_eq!(relay.hub.psql(COUNTING), "0");
    assert!(!blocked.is_finished());
    set_policy(&relay.hub, "");
    assert!(blocked.finish().status.success());
}

#[test]
fn a_standby_with_the_abandoned_future_of_a_restored_primary_is_refused() {
    restored_primary(false);
}

#[test]
fn a_standby_with_the_abandoned_future_of_a_restored_primary_in_the_next_segment_is_refused() {
    restored_primary(true);
}

/// A promoted hub that comes back in an earlier state, when its standby has more: in the `next` segment,
/// or in the same one.
fn restored_primary(next: bool) {
    let mut relay = Relay::start();
    relay.primary.psql("checkpoint");
    let a = relay.streaming_standby("a");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    relay.hub.psql("select pg_promote()");
    set_policy(&relay.hub, "FIRST 1 (a)");
    relay.hub.wait_sql(ROLES, "a 1 sync");
    let emit = "select pg_logical_emit_message(true, 'sync', repeat('x', 1000))";
    relay.hub.psql(emit);
    let aside = put_aside(&mut relay.hub, &relay.scratch);
    relay.hub.wait_sql(ROLES, "a 1 sync");
    if next {
        relay.hub.psql("select pg_switch_wal()");
    }
    for _ in 0..20 {
        relay.hub.psql(emit);
    }
    a.wait_replay(&relay.hub.psql("select pg_current_wal_flush_lsn()"));

    let (theirs, ours) = (a.log().mark(), relay.hub.log().mark());
    put_back(&mut relay.hub, &aside);
    let blocked = if next {
        // PostgreSQL: StartReplication. The walreceiver of 18.6 looks at the position that IDENTIFY_SYSTEM
        // gives, and waits by itself without asking for a stream.
        let refused = "is ahead of the WAL flush position of this server";
        let waits = "is ahead of the upstream server's flush position";
        let found = a.log().wait_for_any(theirs, &[refused, waits]);
        if found.contains(refused) {
            assert!(found.contains("requested starting point "), "{found}");
            relay.hub.log().wait_for(ours, refused);
        }
        emit_and_wait(&relay.hub)
    } else {
        let refused = "which is ahead of the WAL flush position of this server";
        a.log().wait_for(theirs, refused);
        relay.hub.log().wait_for(ours, refused);
        let blocked = emit_and_wait(&relay.hub);
        // It tries again and again.
        let again = a.log().mark();
        a.log().wait_for(again, refused);
        blocked
    };
    assert_eq!(relay.hub.psql(COUNTING), "0");
    assert!(!blocked.is_finished());
    set_policy(&relay.hub, "");
    assert!(blocked.finish().status.success());
}
