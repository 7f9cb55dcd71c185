//! Replication slots of the hub, and WAL that no slot holds.

use std::fs;

use walhub_tests::client::{Psql, SqlServer};
use walhub_tests::compare::{assert_equal_tables, segment_names};
use walhub_tests::hub::Hub;
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{Process, command, spawn};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;

/// Segments that are written while a standby is away.
const SEGMENTS_AWAY: u32 = 30;

fn relay_that_keeps_nothing(settings: &[(&str, &str)]) -> Relay {
    Relay::with(
        |primary| primary.segment_size_mb(1),
        |hub| {
            let hub = hub.set("wal_keep_size", "0");
            settings.iter().fold(hub, |hub, (name, value)| hub.set(name, *value))
        },
    )
}

/// Waits until the hub has removed the segment `name`, while the primary goes on.
#[track_caller]
fn wait_removed(relay: &Relay, name: &str) {
    wait_until(&format!("the hub has removed {name}"), || {
        relay.primary.switch_wal(1);
        relay.primary.psql("checkpoint");
        !relay.hub.segments().expect("pg_wal").contains(&name.to_owned())
    });
}

#[test]
fn slot_holds_wal_while_its_standby_is_away_and_the_hub_restarts() {
    let mut relay = relay_that_keeps_nothing(&[]);
    relay.hub.replication("CREATE_REPLICATION_SLOT away PHYSICAL RESERVE_WAL");
    let mut standby = relay.standby("standby");
    standby.configure("primary_slot_name = 'away'");
    standby.start();
    relay.hub.wait_sql("select active from pg_replication_slots", "t");
    standby.stop(StopMode::Fast);
    relay.hub.wait_sql("select active from pg_replication_slots", "f");
    let held = relay.hub.psql("select restart_lsn from pg_replication_slots");

    relay.primary.psql("create table t as select generate_series(1, 1000) i");
    relay.primary.switch_wal(SEGMENTS_AWAY);
    relay.hub.kill9();
    relay.hub.start();
    relay.primary.wait_streaming("hub");
    relay.primary.switch_wal(SEGMENTS_AWAY);
    assert!(relay.hub.stop(StopMode::Fast).success());
    relay.hub.start();
    relay.primary.wait_streaming("hub");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let row = "select slot_name, slot_type, active, restart_lsn, wal_status \
               from pg_replication_slots";
    let answer = relay.hub.psql(row);
    assert!(answer.starts_with(&format!("away|physical|f|{held}|")), "{answer}");
    assert!(answer.ends_with("|reserved") || answer.ends_with("|extended"), "{answer}");

    standby.start();
    standby.wait_replay(&relay.primary.flush_lsn());
    assert_equal_tables(&relay.primary, &standby);
}

#[test]
fn without_a_slot_wal_is_removed_and_a_late_standby_is_told() {
    let relay = relay_that_keeps_nothing(&[]);
    let mut standby = relay.streaming_standby("standby");
    standby.stop(StopMode::Fast);
    let needed = relay.primary.current_segment();
    relay.primary.switch_wal(SEGMENTS_AWAY);
    wait_removed(&relay, &needed);

    let mark = standby.log().mark();
    standby.start();
    let line = standby.log().wait_for(mark, "has already been removed");
    assert!(line.contains("requested WAL segment 0000000100000000"), "{line}");

    // pg_receivewal goes on after the newest segment that it finds.
    let dir = relay.scratch.path("late");
    fs::create_dir(&dir).expect("a directory");
    let oldest = segment_names(&relay.primary.pg_wal()).expect("pg_wal").remove(0);
    assert!(oldest < needed);
    fs::copy(relay.primary.pg_wal().join(&oldest), dir.join(&oldest)).expect("a segment");
    let mut late = ReceiveWal::start(&relay.hub, "late", &["--no-sync"], &relay.scratch);
    assert!(!late.wait().success());
    let told = late.said();
    assert!(told.contains("ERROR:  requested WAL segment 0000000100000000"), "{told}");
    assert!(told.contains("has already been removed"), "{told}");
}

#[test]
fn max_slot_wal_keep_size_invalidates_a_slot() {
    let relay = relay_that_keeps_nothing(&[("max_slot_wal_keep_size", "4MB")]);
    relay.hub.replication("CREATE_REPLICATION_SLOT lost PHYSICAL RESERVE_WAL");
    let mut standby = relay.standby("standby");
    standby.configure("primary_slot_name = 'lost'");
    standby.start();
    relay.hub.wait_sql("select active from pg_replication_slots", "t");
    standby.stop(StopMode::Fast);
    let needed = relay.primary.current_segment();
    relay.primary.switch_wal(SEGMENTS_AWAY);
    wait_removed(&relay, &needed);
    relay.hub.wait_sql("select wal_status from pg_replication_slots", "lost");
    let mark = standby.log().mark();
    standby.start();
    let refusals = ["has already been removed", "can no longer"];
    standby.log().wait_for_any(mark, &refusals);
}

#[test]
fn temporary_slot_goes_with_its_session() {
    let relay = Relay::start();
    let answer = relay.hub.replication("CREATE_REPLICATION_SLOT passing TEMPORARY PHYSICAL");
    assert!(answer.starts_with("passing|"), "{answer}");
    relay.hub.wait_sql("select count(*) from pg_replication_slots", "0");
}

#[test]
fn read_replication_slot_shows_what_is_reserved() {
    let relay = Relay::start();
    assert_eq!(relay.hub.replication("READ_REPLICATION_SLOT nobody"), "||");
    relay.hub.replication("CREATE_REPLICATION_SLOT idle PHYSICAL");
    assert_eq!(relay.hub.replication("READ_REPLICATION_SLOT idle"), "physical||");
    relay.hub.replication("CREATE_REPLICATION_SLOT holding PHYSICAL RESERVE_WAL");
    let held =
        relay.hub.psql("select restart_lsn from pg_replication_slots where slot_name = 'holding'");
    let answer = relay.hub.replication("READ_REPLICATION_SLOT holding");
    assert_eq!(answer, format!("physical|{held}|1"));
}

#[test]
fn slot_in_use_is_refused_to_another_standby() {
    let relay = Relay::start();
    relay.hub.replication("CREATE_REPLICATION_SLOT taken PHYSICAL RESERVE_WAL");
    let mut standby = relay.standby("standby");
    standby.configure("primary_slot_name = 'taken'");
    standby.start();
    relay.hub.wait_sql("select active from pg_replication_slots", "t");
    let lsn = relay.hub.psql("select restart_lsn from pg_replication_slots");
    let start = format!("START_REPLICATION SLOT taken PHYSICAL {lsn}");
    let error = relay.hub.replication_error(&start);
    assert!(error.contains("55006"), "{error}");
    assert!(error.contains("replication slot \"taken\" is active for PID"), "{error}");
    let error = relay.hub.replication_error("DROP_REPLICATION_SLOT taken");
    assert!(error.contains("55006"), "{error}");
}

/// Times that a client creates a slot and drops it, unless it is ended before.
const ROUNDS_MAX: usize = 20_000;
/// What a client prints after each.
const ROUND: &str = "created and dropped";

/// A client that creates a slot and drops it again and again.
fn slot_client(hub: &Hub, name: &str, scratch: &Scratch) -> (Process, Log) {
    let round = format!(
        "select pg_create_physical_replication_slot('{name}', true);\n\
         select pg_drop_replication_slot('{name}');\nselect '{ROUND}';\n"
    );
    let path = scratch.path(&format!("{name}.sql"));
    fs::write(&path, round.repeat(ROUNDS_MAX)).expect("a script");
    let mut psql = command("stdbuf");
    psql.arg("--output=L").arg(program("psql"));
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &hub.endpoint().database(), "-f"]);
    psql.arg(path);
    let log = Log::new(name);
    (spawn(&mut psql, &log), log)
}

#[test]
fn a_client_commits_while_three_others_create_and_drop_slots() {
    const COMMITS: usize = 40;
    // It takes a flush or two to make a slot durable, or its absence, as it does for a commit.
    const ROUNDS_PER_COMMIT_MAX: usize = 10;
    let scratch = Scratch::new();
    // Requests come while the wal core works: its mail never ends by itself.
    let mut hub = Hub::named("hub").set("dedicated_wal_core", "on").start(&scratch);
    let mut committer = Psql::open(&hub);
    let clients: Vec<(Process, Log)> =
        ["one", "two", "three"].map(|name| slot_client(&hub, name, &scratch)).into();
    let rounds = |clients: &[(Process, Log)]| -> usize {
        clients.iter().map(|(_, log)| log.count(log.beginning(), ROUND)).sum()
    };
    for (_, log) in &clients {
        log.wait_for(log.beginning(), ROUND);
    }
    let before = rounds(&clients);
    for _ in 0..COMMITS {
        committer.psql("select pg_logical_emit_message(true, 'a', 'b')");
    }
    let made = rounds(&clients) - before;
    eprintln!("{made} rounds beside {COMMITS} commits");
    assert!(made <= COMMITS * ROUNDS_PER_COMMIT_MAX, "{made} rounds beside {COMMITS} commits");
    // Nor do commits keep slots from being made.
    for (_, log) in &clients {
        log.wait_for(log.mark(), ROUND);
    }
    clients.iter().for_each(|(client, _)| client.kill());
    hub.wait_sql(
        "select count(*) from pg_stat_activity where backend_type = 'client backend'",
        "2",
    );
    // What was answered is so after a crash: nothing is there but what a client had not yet dropped.
    let there = hub.psql("select slot_name from pg_replication_slots order by 1");
    hub.kill9();
    hub.start();
    assert_eq!(hub.psql("select slot_name from pg_replication_slots order by 1"), there);
}
