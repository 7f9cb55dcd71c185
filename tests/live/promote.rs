//! A relay is promoted: it goes on with the WAL of a real PostgreSQL, and its standbys go on behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walhub_tests::client::{Psql, SqlServer, Statement, run_psql};
use walhub_tests::compare::{assert_equal_tables, segment_names};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{Postgres, StopMode, major, program};
use walhub_tests::process::{command_as_postgres, run_ok, said};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::{wait_for, wait_until};
use walhub_tests::waldump::{Dump, waldump};
use walhub_tests::workload::{Pgbench, pgbench_initialize, wait_transactions};

/// Runs `walhub promote` on the hub.
#[track_caller]
fn promote(hub: &Hub) {
    let output = walhub(["promote", "-D", &hub.data().display().to_string()]);
    let text = said(&output);
    assert!(output.status.success() && text.ends_with("server promoted\n"), "{text}");
}

/// Appends a message on the hub and waits until the standbys have replayed it.
#[track_caller]
fn append_and_replay(hub: &Hub, standbys: &[&Postgres]) {
    hub.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
    let lsn = hub.psql("select pg_current_wal_flush_lsn()");
    for standby in standbys {
        standby.wait_replay(&lsn);
        assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
    }
}

/// What pg_waldump reads of one timeline alone, its partial segment included.
#[track_caller]
fn dump_timeline(pg_wal: &Path, timeline: &str, scratch: &Scratch) -> Dump {
    let dir = scratch.directory(&format!("timeline-{timeline}"));
    for entry in fs::read_dir(pg_wal).expect("pg_wal") {
        let name = entry.expect("a file").file_name().into_string().expect("a name");
        let bare = name.strip_suffix(".partial").unwrap_or(&name);
        if bare.starts_with(timeline) && bare.len() == 24 {
            fs::copy(pg_wal.join(&name), dir.join(bare)).expect("copied");
        }
    }
    waldump(&dir, &[])
}

fn field<'a>(record: &'a str, before: &str) -> &'a str {
    let (_, rest) = record.split_once(before).unwrap_or_else(|| panic!("{before} in {record}"));
    rest.split([',', ';', ' ']).next().unwrap_or_default()
}

fn xids(dump: &Dump) -> impl Iterator<Item = u64> {
    dump.records.iter().filter_map(|record| {
        let (_, rest) = record.split_once(" tx:")?;
        rest.split(',').next()?.trim().parse().ok()
    })
}

/// The part of a checkpoint's description that a primary passes on.
fn counters(record: &str) -> &str {
    let (_, rest) = record.split_once("; oid ").expect("a checkpoint");
    rest.split("; oldest running").next().unwrap_or_default()
}

#[test]
fn standbys_and_pg_receivewal_follow_a_promotion_under_load() {
    let mut relay = Relay::start();
    pgbench_initialize(&relay.primary, 1);
    let (a, b) = (relay.streaming_standby("a"), relay.streaming_standby("b"));
    let conninfo = relay.hub.endpoint().conninfo("second");
    let second = Hub::named("second").upstream(conninfo).start(&relay.scratch);
    let mut receive = ReceiveWal::start(&relay.hub, "received", &[], &relay.scratch);
    for name in ["second", "received"] {
        relay.hub.wait_streaming(name);
    }
    let mut session = Psql::open(&relay.hub);
    let pgbench = Pgbench::endless(&relay.primary, 4);
    wait_transactions(&relay.primary, 500);
    relay.primary.kill9();
    drop(pgbench);
    let mark = relay.hub.log().mark();
    promote(&relay.hub);
    for line in [
        "received promote request",
        "selected new timeline ID: 2",
        "archive recovery complete",
        "database system is ready to accept connections",
    ] {
        relay.hub.log().wait_for(mark, line);
    }
    // A session that was there goes on.
    assert_eq!(session.psql("select pg_is_in_recovery()"), "f");
    let emitted =
        session.psql("select pg_logical_emit_message(true, 'promoted', 'session') > '0/0'");
    assert_eq!(emitted, "t");
    session.close();

    append_and_replay(&relay.hub, &[&a, &b]);
    second.wait_received(&relay.hub.psql("select pg_current_wal_flush_lsn()"));
    assert_eq!(second.psql("select pg_is_in_recovery()"), "t");
    for standby in [&a, &b] {
        standby.wait_sql("select received_tli from pg_stat_wal_receiver", "2");
        let sums = "select sum(abalance) = (select sum(delta) from pgbench_history), \
                    (select count(*) >= 500 from pgbench_history) from pgbench_accounts";
        assert_eq!(standby.psql(sums), "t|t");
    }
    assert_equal_tables(&a, &b);
    let empty = "select count(*) from pg_stat_wal_receiver";
    assert_eq!(relay.hub.psql(empty), "0");
    assert_eq!(relay.hub.psql("show in_hot_standby"), "off");

    // Everything that a primary of its own WAL can do.
    let file = relay.hub.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(file.starts_with("00000002"), "{file}");
    relay.hub.psql("select pg_switch_wal()");
    relay.hub.psql("checkpoint");
    append_and_replay(&relay.hub, &[&a, &b]);
    receive.finish_at(&file);
    let received = segment_names(receive.dir()).expect("segments");
    assert!(received.contains(&file), "{received:?}");
    for name in received.iter().filter(|name| name.starts_with("00000002")) {
        let (own, other) = (relay.hub.pg_wal().join(name), receive.dir().join(name));
        assert!(fs::read(own).expect("a segment") == fs::read(other).expect("a segment"), "{name}");
    }

    // A standby that starts again begins at the hub's checkpoint.
    let mut a = a;
    a.psql("checkpoint");
    assert!(a.stop(StopMode::Fast).success());
    a.start();
    append_and_replay(&relay.hub, &[&a, &b]);

    let pg_wal = relay.hub.pg_wal();
    let old = dump_timeline(&pg_wal, "00000001", &relay.scratch);
    old.assert_ends_well();
    let new = dump_timeline(&pg_wal, "00000002", &relay.scratch);
    new.assert_ends_well();
    let at = new.records.iter().position(|record| record.contains("END_OF_RECOVERY"));
    let (before, after) = new.records.split_at(at.expect("the first record of the timeline"));
    // Since 17 an online checkpoint has a record where it begins, too.
    let after = after.iter().filter(|record| !record.contains("CHECKPOINT_REDO"));
    let after: Vec<String> = after.cloned().collect();
    // Up to there it is what the old one has.
    assert!(old.records.ends_with(before));
    let end = &after[0];
    assert_eq!((field(end, "tli "), field(end, "prev tli ")), ("2", "1"), "{end}");
    assert!(after[1].contains("RUNNING_XACTS"), "{}", after[1]);
    assert!(after[2].contains("CHECKPOINT_ONLINE"), "{}", after[2]);
    let newest = xids(&old).max().expect("transactions");
    let after = Dump { records: after, end: String::new() };
    let first = xids(&after).find(|&xid| xid != 0).expect("a message");
    assert_eq!(first, newest + 1);
    let history = fs::read_to_string(pg_wal.join("00000002.history")).expect("a history");
    let switchpoint = history.split('\t').nth(1).expect("a position");
    assert!(history.starts_with("1\t") && history.ends_with("\tno recovery target specified\n"));
    assert_eq!(relay.hub.psql(&format!("select '{switchpoint}'::pg_lsn > '0/0'")), "t");
}

#[test]
fn a_promoted_hub_passes_on_what_the_primary_has_counted() {
    let scratch = Scratch::new();
    let mut primary = Postgres::primary("primary")
        .config("track_commit_timestamp = on\nfull_page_writes = off")
        .start(&scratch);
    assert!(primary.stop(StopMode::Fast).success());
    // The next page of transaction states, and of their times, begins soon.
    let mut reset = command_as_postgres(program("pg_resetwal"));
    reset.args(["-x", "32700", "-e", "3", "-m", "70,1", "-O", "500", "-D"]).arg(primary.data());
    let zeros = vec![0; 8192];
    for file in ["pg_commit_ts/0000", "pg_multixact/offsets/0000", "pg_multixact/members/0000"] {
        let path = primary.data().join(file);
        if fs::metadata(&path).map_or(0, |data| data.len()) < 50 * 8192 {
            fs::write(&path, zeros.repeat(50)).expect("a file");
            let mut chown = std::process::Command::new("chown");
            run_ok(chown.arg("--reference").arg(primary.data().join("PG_VERSION")).arg(&path));
        }
    }
    run_ok(&mut reset);
    primary.start();
    let conninfo = primary.endpoint().conninfo("hub");
    let hub = Hub::named("hub").upstream(conninfo).start(&scratch);
    primary.wait_streaming("hub");
    let mut standby = primary.standby("a", &hub.endpoint().conninfo("a"), &scratch);
    standby.start();
    hub.wait_streaming("a");
    primary.psql("create table t (i int primary key); insert into t values (1)");
    let mut one = Psql::open(&primary);
    one.psql("begin");
    one.psql("select * from t for share");
    primary.psql("select * from t for share");
    one.psql("commit");
    one.close();
    primary.psql("checkpoint");
    hub.wait_received(&primary.flush_lsn());
    assert!(primary.stop(StopMode::Fast).success());
    assert_eq!(hub.psql("select pg_promote()"), "t");
    hub.psql(
        "select count(pg_logical_emit_message(true, 'promoted', i::text)) from generate_series(1, 5) i",
    );
    for _ in 0..130 {
        hub.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
    }
    append_and_replay(&hub, &[&standby]);
    hub.psql("checkpoint");
    append_and_replay(&hub, &[&standby]);
    let old = dump_timeline(&hub.pg_wal(), "00000001", &scratch);
    let last = |dump: &Dump, what: &str| {
        dump.records
            .iter()
            .rev()
            .find(|record| record.contains(what))
            .cloned()
            .expect("a checkpoint")
    };
    let shutdown = last(&old, "CHECKPOINT_SHUTDOWN");
    let new = dump_timeline(&hub.pg_wal(), "00000002", &scratch);
    new.assert_ends_well();
    let mut own = new.records.iter().skip_while(|record| !record.contains("END_OF_RECOVERY"));
    let first = own.find(|record| record.contains("CHECKPOINT_ONLINE")).expect("a checkpoint");
    assert_eq!(counters(first), counters(&shutdown));
    assert_eq!(
        (field(first, "xid 3:"), field(first, "fpw ")),
        (field(&shutdown, "xid 3:"), "false")
    );
    let online = last(&new, "CHECKPOINT_ONLINE");
    assert!(field(&online, "xid 3:").parse::<u64>().is_ok_and(|xid| xid > 32_768), "{online}");
    for manager in ["rmgr: Transaction ", "rmgr: CLOG", "rmgr: CommitTs"] {
        assert!(new.records.iter().any(|record| record.starts_with(manager)), "{manager}");
    }
    // What was there is there, and commits of the hub have their times on the standby.
    assert_eq!(standby.psql("select count(*) from t"), "1");
    let newest = field(&online, "xid 3:").parse::<u64>().expect("a number") - 1;
    assert_eq!(standby.psql(&format!("select pg_xact_commit_timestamp('{newest}') is null")), "f");
    // The standby itself can be promoted, and its transactions go on after the hub's.
    standby.psql("select pg_promote()");
    let next: u64 = standby.psql("select pg_current_xact_id()").parse().expect("a number");
    assert!(next > (3 << 32) + newest, "{next} after {newest}");
    standby.psql("insert into t values (2)");
    assert_eq!(standby.psql("select count(*) from t"), "2");
}

/// A primary whose next transaction id is `left` before those at which PostgreSQL stops, whatever VACUUM
/// does: a slot holds the catalogue's rows.
fn primary_near_the_end_of_ids(left: u64, scratch: &Scratch) -> Postgres {
    let mut primary = Postgres::primary("primary").config("wal_level = logical").start(scratch);
    primary.psql("select pg_create_logical_replication_slot('holds', 'pgoutput')");
    let oldest = "select min(datfrozenxid::text::bigint) from pg_database";
    let oldest: u64 = primary.psql(oldest).parse().expect("a number");
    assert!(primary.stop(StopMode::Fast).success());
    let limit = oldest + 0x7FFF_FFFF - if major() >= 14 { 3_000_000 } else { 1_000_000 };
    let next = limit - left;
    let states = primary.data().join("pg_xact").join(format!("{:04X}", next / 32 / 32_768));
    fs::write(&states, vec![0; 32 * 8192]).expect("a file");
    let mut chown = std::process::Command::new("chown");
    run_ok(chown.arg("--reference").arg(primary.data().join("PG_VERSION")).arg(&states));
    let mut reset = command_as_postgres(program("pg_resetwal"));
    run_ok(reset.args(["-f", "-x", &next.to_string(), "-D"]).arg(primary.data()));
    primary.start();
    // Has it say again what the oldest is, which 13's pg_resetwal has made up.
    primary.psql("vacuum pg_am");
    primary.psql("checkpoint");
    primary
}

#[test]
fn a_promoted_hub_gives_out_no_ids_past_the_limit_and_its_standbys_live() {
    let scratch = Scratch::new();
    let mut primary = primary_near_the_end_of_ids(40, &scratch);
    let conninfo = primary.endpoint().conninfo("hub");
    let hub = Hub::named("hub").upstream(conninfo).start(&scratch);
    primary.wait_streaming("hub");
    let mut standby = primary.standby("a", &hub.endpoint().conninfo("a"), &scratch);
    standby.configure("autovacuum = on\nautovacuum_naptime = 1s");
    standby.start();
    hub.wait_streaming("a");
    primary.psql("create table t (i int primary key); insert into t values (1); checkpoint");
    hub.wait_received(&primary.flush_lsn());
    assert!(primary.stop(StopMode::Fast).success());
    let mark = hub.log().mark();
    assert_eq!(hub.psql("select pg_promote()"), "t");
    hub.log().wait_for(mark, "must be vacuumed within");
    let emit = "select pg_logical_emit_message(true, 'promoted', 'message')";
    let mut said = None;
    for _ in 0..60 {
        let output = run_psql(&hub.endpoint().database(), &["-v", "VERBOSITY=verbose", "-c", emit]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            said = Some(text);
            break;
        }
        assert!(text.contains("must be vacuumed within") && text.contains("HINT:"), "{text}");
    }
    let said = said.expect("an end of ids");
    assert!(said.contains("54000") && said.contains("to avoid wraparound data loss"), "{said}");
    assert!(said.contains("Promote a standby of the database"), "{said}");
    // What needs no id goes on, and the standby replays all of it and can be read.
    hub.psql("select pg_logical_emit_message(false, 'promoted', 'message'); checkpoint");
    standby.wait_replay(&hub.psql("select pg_current_wal_lsn()"));
    assert_eq!(standby.psql("select count(*) from t"), "1");
    // The way out: the database itself, where its rows can be frozen.
    standby.psql("select pg_promote()");
    standby.psql("vacuum freeze");
    standby.wait_sql("select pg_current_xact_id() is not null", "t");
    standby.psql("insert into t values (2)");
}

#[test]
fn full_page_writes_that_were_switched_off_after_the_last_checkpoint_stay_off() {
    let mut relay = Relay::with(|primary| primary.config("checkpoint_timeout = 1d"), |hub| hub);
    relay.primary.psql("checkpoint");
    relay.primary.psql("alter system set full_page_writes = off");
    relay.primary.psql("select pg_reload_conf()");
    let pg_wal = relay.primary.data().join("pg_wal");
    wait_until("the change is in the WAL", || {
        let records = waldump(&pg_wal, &[]).records;
        records.iter().any(|record| record.contains("FPW_CHANGE"))
    });
    relay.primary.psql("select pg_logical_emit_message(true, 'p', 'x')");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    relay.primary.kill9();
    promote(&relay.hub);
    relay.hub.psql("select pg_switch_wal()");
    let new = dump_timeline(&relay.hub.pg_wal(), "00000002", &relay.scratch);
    let mut own = new.records.iter().skip_while(|record| !record.contains("END_OF_RECOVERY"));
    let first = own.find(|record| record.contains("CHECKPOINT_ONLINE")).expect("a checkpoint");
    assert_eq!(field(first, "fpw "), "false", "{first}");
}

#[test]
fn pg_promote_has_postgresqls_answers() {
    let relay = Relay::start();
    // There is a checkpoint in what the hub receives.
    relay.primary.psql("checkpoint");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let mut standby = relay.standby("a");
    standby.start();
    for seconds in [0, -5] {
        let sql = format!("select pg_promote(true, {seconds})");
        let (ours, theirs) = (relay.hub.psql_error(&sql), standby.psql_error(&sql));
        let text = "22003: \"wait_seconds\" must not be negative or zero";
        assert!(ours.contains(text) && theirs.contains(text), "{ours}{theirs}");
    }
    let (ours, theirs) = ("select pg_promote('maybe')", "select pg_promote('maybe')");
    let shown = |text: String| text.lines().take(1).collect::<String>();
    assert_eq!(shown(relay.hub.psql_error(ours)), shown(standby.psql_error(theirs)));

    let lsn = "FF/0";
    let waits: Vec<Statement> = ["standby_replay", "standby_write", "standby_flush"]
        .map(|mode| {
            let sql = format!("wait for lsn '{lsn}' with (mode '{mode}')");
            Statement::begin(&relay.hub, &sql)
        })
        .into();
    let quiet = Statement::begin(&relay.hub, &format!("wait for lsn '{lsn}' with (no_throw)"));
    let waiting = "select count(*) from pg_stat_activity where query like 'wait for%' \
                   and state = 'active'";
    relay.hub.wait_sql(waiting, "4");
    let mut session = Psql::open(&relay.hub);
    assert_eq!(session.psql("show in_hot_standby"), "on");
    assert_eq!(relay.hub.psql("select pg_promote(wait => true, wait_seconds => 30)"), "t");
    assert_eq!(session.psql("show in_hot_standby"), "off");
    for (wait, done) in waits.into_iter().zip(["replayed", "written", "flushed"]) {
        let output = wait.finish();
        let text = said(&output);
        assert!(text.contains("recovery is not in progress"), "{text}");
        let detail = format!("Recovery ended before target LSN {lsn} was {done}; last standby_");
        assert!(text.contains(&detail), "{text}");
    }
    assert_eq!(said(&quiet.finish()).trim(), "not in recovery");
    let written = relay.hub.psql("select pg_logical_emit_message(true, 'a', 'b')");
    let wait = format!("wait for lsn '{written}' with (mode 'primary_flush')");
    assert_eq!(relay.hub.psql(&wait), "success");

    standby.psql("select pg_promote()");
    for sql in ["select pg_promote()", "select pg_promote(false)", "select pg_promote(true, 0)"] {
        let (ours, theirs) = (relay.hub.psql_error(sql), standby.psql_error(sql));
        let same = |text: &str| text.lines().take(2).collect::<Vec<_>>().join("\n");
        assert_eq!(same(&ours), same(&theirs));
        assert!(ours.contains("55000: recovery is not in progress"), "{ours}");
    }
}

#[test]
fn a_relay_that_has_seen_no_checkpoint_refuses_and_goes_on() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").config("checkpoint_timeout = 1d").start(&scratch);
    // The hub begins with a segment, and none of this one's is a checkpoint.
    primary.switch_wal(2);
    let hub = Hub::named("hub").upstream(primary.endpoint().conninfo("hub")).start(&scratch);
    primary.wait_streaming("hub");
    hub.wait_received(&primary.flush_lsn());
    let mark = hub.log().mark();
    let error = hub.psql_error("select pg_promote()");
    assert!(error.contains("55000: cannot promote before a checkpoint was received"), "{error}");
    assert!(error.contains("HINT:  Run CHECKPOINT on the primary"), "{error}");
    hub.log().wait_for(mark, "cannot promote before a checkpoint was received");
    assert_eq!(hub.psql("select status from pg_stat_wal_receiver"), "streaming");
    assert!(!hub.pg_wal().join("00000002.history").exists());
    primary.psql("checkpoint");
    hub.wait_received(&primary.flush_lsn());
    assert_eq!(hub.psql("select pg_promote()"), "t");
}

#[test]
fn the_command_and_the_trigger_file_promote_as_postgresqls_do() {
    let mut relay = Relay::start();
    relay.primary.psql("checkpoint");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let data = relay.hub.data().display().to_string();
    // A file alone asks for nothing, and one that is left from before is removed at the start.
    fs::write(relay.hub.data().join("promote"), "").expect("a file");
    assert!(relay.hub.stop(StopMode::Fast).success());
    let stopped = walhub(["promote", "-D", &data]);
    assert_eq!(stopped.status.code(), Some(1));
    assert!(said(&stopped).contains("Is server running?"), "{}", said(&stopped));
    let trigger = relay.scratch.path("trigger");
    relay.hub.set("promote_trigger_file", &trigger.display().to_string());
    relay.hub.start();
    assert!(!relay.hub.data().join("promote").exists());
    relay.hub.wait_sql("select status from pg_stat_wal_receiver", "streaming");
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "t");
    let shown = relay.hub.psql("show promote_trigger_file");
    assert_eq!(shown, trigger.display().to_string());
    let mark = relay.hub.log().mark();
    fs::write(&trigger, "").expect("a file");
    relay.hub.wait_sql("select pg_is_in_recovery()", "f");
    assert!(!trigger.exists());
    let found = format!("promote trigger file found: {}", trigger.display());
    relay.hub.log().wait_for(mark, &found);
    relay.hub.log().wait_for(mark, "database system is ready to accept connections");
    let again = walhub(["promote", "-D", &data]);
    assert_eq!(again.status.code(), Some(1));
    let text = "walhub: cannot promote server; server is not in standby mode\n";
    assert!(said(&again).ends_with(text), "{}", said(&again));
    let status = said(&walhub(["status", "-D", &data]));
    assert!(status.contains("status: ready\n"), "{status}");

    // The upstream that the settings still name is left alone.
    assert!(relay.hub.stop(StopMode::Fast).success());
    let mark = relay.hub.log().mark();
    relay.hub.start();
    let ignored = "primary_conninfo is ignored: this server has been promoted";
    relay.hub.log().wait_for(mark, ignored);
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "f");
    relay.hub.psql("select pg_logical_emit_message(true, 'a', 'b')");
    let upstream = "select count(*) from pg_stat_replication";
    assert_eq!(relay.primary.psql(upstream), "0");
    assert_eq!(relay.hub.psql("select count(*) from pg_stat_wal_receiver"), "0");
}

#[test]
fn synchronous_standbys_of_a_relay_are_those_of_the_promoted_hub() {
    let relay =
        Relay::with(|primary| primary, |hub| hub.set("synchronous_standby_names", "FIRST 1 (a)"));
    let mut a = relay.streaming_standby("a");
    let mut b = relay.standby("b");
    b.start();
    relay.hub.wait_streaming("b");
    promote(&relay.hub);
    let roles = "select string_agg(application_name || ' ' || sync_state, ', ' order by application_name) \
                 from pg_stat_replication where state = 'streaming'";
    relay.hub.wait_sql(roles, "a sync, b async");
    for level in ["on", "remote_apply", "remote_write"] {
        relay.hub.psql(&format!(
            "set synchronous_commit = {level}; select pg_logical_emit_message(true, 'sync', '{level}')"
        ));
    }
    let replayed = "select pg_wal_lsn_diff(replay_lsn, write_lsn) >= -1000 from pg_stat_replication \
                    where application_name = 'a'";
    relay.hub.wait_sql(replayed, "t");
    assert!(a.stop(StopMode::Fast).success());
    let blocked =
        Statement::begin(&relay.hub, "select pg_logical_emit_message(true, 'sync', 'blocked')");
    relay.hub.wait_sql("select count(*) from walhub.sync_wait", "1");
    let gate = relay.hub.psql("select standby from walhub.sync_wait");
    assert!(gate.contains('a'), "{gate}");
    assert!(!blocked.is_finished());
    a.start();
    let output = blocked.finish();
    assert!(output.status.success(), "{}", said(&output));
}

/// A moment in a promotion, by what can be seen of it.
type Moment = fn(&Path) -> bool;

#[test]
fn kill9_at_any_moment_of_a_promotion_leaves_a_relay_or_a_primary() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let conninfo = primary.endpoint().conninfo("hub");
    let mut hub = Hub::named("hub").upstream(conninfo).start(&scratch);
    primary.wait_streaming("hub");
    primary.psql("checkpoint");
    primary.psql("create table t as select generate_series(1, 10000) i");
    hub.wait_received(&primary.flush_lsn());
    assert!(hub.stop(StopMode::Fast).success());
    drop(primary);
    let end = waldump(&hub.pg_wal(), &[]);
    end.assert_ends_well();

    let moments: [(&str, Moment); 6] = [
        ("at once", |_| true),
        ("the history is there", |data| data.join("pg_wal/00000002.history").exists()),
        ("the segment is being copied", |data| data.join("pg_wal/xlogtemp.copy").exists()),
        ("the segment is there", |data| !segments_of(data, "00000002").is_empty()),
        ("the old segment is renamed", |data| {
            let files = fs::read_dir(data.join("pg_wal")).expect("pg_wal");
            files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".partial"))
        }),
        ("after a while", |_| false),
    ];
    let mut primaries = 0;
    for (round, (what, moment)) in moments.iter().cycle().take(18).enumerate() {
        let data = copy_of(hub.data(), &scratch.path(&format!("hub-{round}")));
        let mut copy = Hub::named(&format!("hub-{round}"))
            .data(data.clone())
            .upstream("host=127.0.0.1 port=1 user=postgres")
            .start(&scratch);
        let asked = walhub(["promote", "-W", "-D", &data.display().to_string()]);
        assert!(asked.status.success(), "{}", said(&asked));
        let since = Instant::now();
        let patience = Duration::from_millis(u64::try_from(7 * round).expect("few"));
        while !moment(&data) && since.elapsed() < Duration::from_millis(300) + patience {
            std::hint::spin_loop();
        }
        if round >= 6 {
            // A little later than that.
            std::thread::sleep(patience / 4);
        }
        copy.kill9();
        copy.start();
        let is_primary = copy.psql("select pg_is_in_recovery()") == "f";
        primaries += u32::from(is_primary);
        eprintln!("{what}: {}", if is_primary { "primary" } else { "relay" });
        if !is_primary {
            promote(&copy);
        }
        copy.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
        copy.kill9();
        copy.start();
        assert_eq!(copy.psql("select pg_is_in_recovery()"), "f");
        copy.psql("select pg_logical_emit_message(true, 'promoted', 'another')");
        assert!(copy.stop(StopMode::Fast).success());
        let newest = segments_of(&data, "").pop().expect("a segment");
        let dump = dump_timeline(&copy.pg_wal(), &newest[..8], &scratch);
        dump.assert_ends_well();
        let first = dump.records.iter().position(|record| record.contains("END_OF_RECOVERY"));
        let (before, after) = dump.records.split_at(first.expect("the first of the timeline"));
        assert!(end.records.ends_with(before), "{what}");
        assert_eq!(after.iter().filter(|record| record.contains("END_OF_RECOVERY")).count(), 1);
        let messages = after.iter().filter(|record| record.contains("MESSAGE")).count();
        assert_eq!(messages, 2, "{what}");
        fs::remove_dir_all(scratch.path(&format!("timeline-{}", &newest[..8]))).expect("removed");
    }
    assert!(primaries > 0, "nobody was promoted");
}

fn segments_of(data: &Path, timeline: &str) -> Vec<String> {
    let mut names = segment_names(&data.join("pg_wal")).expect("pg_wal");
    names.retain(|name| name.starts_with(timeline));
    // Not what is only made ready.
    names.sort();
    names.sort_by_key(|name| name[..8].to_owned());
    names
}

fn copy_of(from: &Path, to: &Path) -> PathBuf {
    run_ok(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
    to.to_owned()
}

#[test]
fn a_hub_that_was_promoted_twice_serves_all_its_timelines() {
    let relay = Relay::start();
    let a = relay.streaming_standby("a");
    let conninfo = relay.hub.endpoint().conninfo("second");
    let second = Hub::named("second").upstream(conninfo).start(&relay.scratch);
    relay.hub.wait_streaming("second");
    promote(&relay.hub);
    relay.hub.psql("select pg_logical_emit_message(true, 'promoted', 'message')");
    let lsn = relay.hub.psql("select pg_current_wal_flush_lsn()");
    a.wait_replay(&lsn);
    second.wait_received(&lsn);
    // The second hub was told of timeline 2, and makes the third.
    let mut hub = relay.hub;
    hub.kill9();
    promote(&second);
    assert_eq!(second.replication("IDENTIFY_SYSTEM").split('|').nth(1), Some("3"));
    let history = second.replication("TIMELINE_HISTORY 3");
    assert!(history.starts_with("00000003.history|1\t") && history.contains("\n2\t"), "{history}");
    // A standby that missed both gets one timeline after the other.
    let mut a = a;
    assert!(a.stop(StopMode::Fast).success());
    a.configure(&format!("primary_conninfo = '{}'", second.endpoint().conninfo("a")));
    a.start();
    second.wait_streaming("a");
    append_and_replay(&second, &[&a]);
    a.wait_sql("select received_tli from pg_stat_wal_receiver", "3");
    wait_until("the partial segments are kept", || {
        let files = fs::read_dir(second.pg_wal()).expect("pg_wal");
        files.flatten().any(|file| file.file_name().to_string_lossy().ends_with(".partial"))
    });
}

#[test]
fn a_promotion_beside_a_living_primary_ends_its_stream_between_two_records() {
    let relay = Relay::start();
    pgbench_initialize(&relay.primary, 1);
    let a = relay.streaming_standby("a");
    let pgbench = Pgbench::endless(&relay.primary, 4);
    wait_transactions(&relay.primary, 200);
    promote(&relay.hub);
    relay.primary.wait_sql("select count(*) from pg_stat_replication", "0");
    // It goes on without the hub, and the hub without it.
    wait_transactions(&relay.primary, 200);
    pgbench.stop(&relay.primary);
    append_and_replay(&relay.hub, &[&a]);
    let sums =
        "select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts";
    assert_eq!(a.psql(sums), "t");
    let rows = |server: &Postgres| -> u64 {
        server.psql("select count(*) from pgbench_history").parse().expect("a number")
    };
    assert!(rows(&a) < rows(&relay.primary));
    let new = dump_timeline(&relay.hub.pg_wal(), "00000002", &relay.scratch);
    new.assert_ends_well();
    // What the old primary had under way will never end, and nobody waits for it.
    let running = new.records.iter().rev().find(|record| record.contains("RUNNING_XACTS"));
    assert!(running.is_some_and(|record| !record.contains("xacts:")), "{running:?}");
}

#[test]
fn the_end_of_the_old_timeline_goes_with_the_wal_around_it() {
    let mut relay = Relay::with(
        |primary| primary.segment_size_mb(1),
        |hub| hub.set("wal_keep_size", "0").set("min_wal_size", "2MB"),
    );
    relay.hub.replication("CREATE_REPLICATION_SLOT away PHYSICAL RESERVE_WAL");
    relay.primary.psql("checkpoint");
    relay.primary.psql("select pg_logical_emit_message(true, 'p', 'last')");
    relay.hub.wait_received(&relay.primary.flush_lsn());
    relay.primary.kill9();
    promote(&relay.hub);
    // A moment after the promotion.
    let partial = wait_for("the segment in which the timelines meet", || {
        fs::read_dir(relay.hub.pg_wal()).expect("pg_wal").flatten().find_map(|file| {
            let name = file.file_name().into_string().ok()?;
            name.ends_with(".partial").then(|| file.path())
        })
    });
    let oldest = relay.hub.segments().expect("pg_wal")[0].clone();
    relay.hub.switch_wal(30);
    relay.hub.kill9();
    relay.hub.start();
    relay.hub.switch_wal(30);
    // The slot still needs what is around it.
    assert!(partial.exists() && relay.hub.segments().expect("pg_wal").contains(&oldest));
    relay.hub.psql("select pg_drop_replication_slot('away')");
    wait_until("the partial segment is let go", || {
        relay.hub.switch_wal(1);
        !partial.exists()
    });
    assert!(!relay.hub.segments().expect("pg_wal").contains(&oldest));
    assert!(relay.hub.pg_wal().join("00000002.history").exists());
}
