//! Commits on a hub with WAL of its own that wait for a standby: who ends the wait, who shows it.

use walhub_tests::client::{SqlServer, Statement};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::Postgres;
use walhub_tests::process::said;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;

const EMIT: &str = "select pg_logical_emit_message(true, 'p', 'c')";
/// Where either kind of server has a row for each session that waits.
const PG_WAITERS: &str = "pg_stat_activity where wait_event = 'SyncRep'";
const HUB_WAITERS: &str = "walhub.sync_wait";
/// What was counted of each stage, without those of which nothing was.
const COUNTS: &str = "select string_agg(stage || ' ' || count, ', ') from walhub.commit_latency \
                      where count > 0";

/// A hub without a standby whose commits wait for one named `a`.
fn waiting_hub(scratch: &Scratch) -> Hub {
    let hub = Hub::named("own").set("synchronous_standby_names", "a").start(scratch);
    hub.log().wait_for(hub.log().beginning(), "commits on the primary wait for \"a\"");
    hub
}

/// Has two sessions wait and another call `function` for the first: what the first is told, and how
/// it ends. The second waits on.
#[track_caller]
fn interrupt_one(server: &impl SqlServer, waiters: &str, function: &str) -> String {
    let count = format!("select count(*) from {waiters}");
    let first = Statement::begin(server, EMIT);
    server.wait_sql(&count, "1");
    let pid = server.psql(&format!("select pid from {waiters}"));
    let second = Statement::begin(server, EMIT);
    server.wait_sql(&count, "2");
    assert_eq!(server.psql(&format!("select {function}({pid})")), "t");
    let output = first.finish();
    assert_eq!(server.psql(&count), "1");
    assert!(!second.is_finished());
    // The next case is to have none but its own.
    assert_eq!(server.psql(&format!("select pg_terminate_backend(pid) from {waiters}")), "t");
    assert!(!second.finish().status.success());
    server.wait_sql(&count, "0");
    // Where the record lies is the server's own affair.
    let lines = said(&output);
    let lines = lines.lines().filter(|line| !line.starts_with("0/")).collect::<Vec<_>>();
    format!("{}: {}", output.status, lines.join("\n"))
}

/// What other sessions see of one that waits for a standby.
fn seen_waiting(server: &impl SqlServer) -> String {
    let waiting = Statement::begin(server, EMIT);
    server.wait_sql(&format!("select count(*) from {PG_WAITERS}"), "1");
    let seen = server.psql(
        "select state, wait_event_type, wait_event, query, application_name, backend_type, \
         xact_start <= query_start, query_start <= state_change, datname \
         from pg_stat_activity where query like '%logical_emit%' and pid <> pg_backend_pid()",
    );
    let end = format!("select pg_terminate_backend(pid) from {PG_WAITERS}");
    assert_eq!(server.psql(&end), "t");
    assert!(!waiting.finish().status.success());
    seen
}

#[test]
fn a_waiting_session_is_seen_by_others_as_in_postgresql() {
    let scratch = Scratch::new();
    let primary =
        Postgres::primary("primary").config("synchronous_standby_names = 'a'").start(&scratch);
    let hub = waiting_hub(&scratch);
    let by_postgres = seen_waiting(&primary);
    assert_eq!(by_postgres.split('|').nth(2), Some("SyncRep"), "{by_postgres}");
    assert_eq!(seen_waiting(&hub), by_postgres);
}

#[test]
fn a_canceled_or_terminated_wait_ends_as_in_postgresql_and_no_other() {
    const DETAIL: &str = "DETAIL:  The transaction has already committed locally, but might not have \
                          been replicated to the standby.";
    let scratch = Scratch::new();
    let primary =
        Postgres::primary("primary").config("synchronous_standby_names = 'a'").start(&scratch);
    let hub = waiting_hub(&scratch);
    for (function, warning) in [
        ("pg_cancel_backend", "canceling wait for synchronous replication due to user request"),
        (
            "pg_terminate_backend",
            "canceling the wait for synchronous replication and terminating connection due to \
             administrator command",
        ),
    ] {
        let mark = hub.log().mark();
        let want = interrupt_one(&primary, PG_WAITERS, function);
        let got = interrupt_one(&hub, HUB_WAITERS, function);
        assert_eq!(got, want, "{function}");
        assert!(got.contains(&format!("WARNING:  {warning}\n{DETAIL}")), "{got}");
        hub.log().wait_for(mark, warning);
        hub.log().wait_for(mark, DETAIL);
    }
    // Nobody waits for what is durable here, and it is all there.
    assert_eq!(hub.psql("select count(*) from walhub.messages"), "4");
    let none = "select pg_cancel_backend(2147483647)";
    let [want, got] = [primary.try_psql(none), hub.try_psql(none)].map(|output| said(&output));
    // As 15 has it.
    assert_eq!(got, want.replace("PostgreSQL server process", "PostgreSQL backend process"));
}

#[test]
fn sync_wait_names_the_level_the_position_and_the_standby_until_that_has_it() {
    let scratch = Scratch::new();
    let hub = waiting_hub(&scratch);
    for level in ["off", "local"] {
        hub.psql(&format!("set synchronous_commit = {level}; {EMIT}"));
    }
    assert_eq!(hub.psql("select count(*) from walhub.sync_wait"), "0");
    let waiting: Vec<_> = ["remote_write", "on", "remote_apply"]
        .into_iter()
        .map(|level| {
            let before = hub.psql("select pg_current_wal_flush_lsn()");
            let waiting =
                Statement::begin(&hub, &format!("set synchronous_commit = {level}; {EMIT}"));
            let row = format!(
                "select standby, lsn > '{before}', lsn = pg_current_wal_flush_lsn(), \
                 waiting > interval '0' from walhub.sync_wait where level = '{level}'"
            );
            hub.wait_sql(&row, "a|t|t|t");
            (level, waiting)
        })
        .collect();

    let receive = ReceiveWal::start(&hub, "a", &["--synchronous"], &scratch);
    // pg_receivewal replays nothing.
    hub.wait_sql("select level, standby from walhub.sync_wait", "remote_apply|a");
    for (level, statement) in waiting {
        if level == "remote_apply" {
            assert!(!statement.is_finished());
            hub.psql("select pg_cancel_backend(pid) from walhub.sync_wait");
        }
        let output = statement.finish();
        assert!(output.status.success(), "{level}: {}", said(&output));
        assert_eq!(said(&output).contains("WARNING"), level == "remote_apply", "{level}");
    }
    // A further commit is released, and the standby has what it waited for.
    let output = hub.try_psql(EMIT);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    let behind = "select count(*) from pg_stat_replication where application_name = 'a' \
                  and sync_state = 'sync' and flush_lsn = pg_current_wal_flush_lsn()";
    assert_eq!(hub.psql(behind), "1", "{}", receive.said());
}

/// How pg_receivewal ends when another session calls `function` for its walsender.
#[track_caller]
fn interrupted_walsender(
    server: &impl SqlServer,
    function: &str,
    name: &str,
    scratch: &Scratch,
) -> String {
    let mut receive = ReceiveWal::start(server, name, &[], scratch);
    let streaming = "select count(*) from pg_stat_replication where state = 'streaming'";
    server.wait_sql(streaming, "1");
    assert_eq!(server.psql(&format!("select {function}(pid) from pg_stat_replication")), "t");
    assert!(!receive.wait().success());
    server.wait_sql("select count(*) from pg_stat_replication", "0");
    let said = receive.said();
    let error = said.lines().find(|line| line.contains("unexpected termination"));
    error.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn a_canceled_or_terminated_walsender_tells_its_standby_what_postgresql_tells() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let hub = Hub::named("own").start(&scratch);
    for (function, error) in [
        ("pg_cancel_backend", "ERROR:  canceling statement due to user request"),
        ("pg_terminate_backend", "FATAL:  terminating connection due to administrator command"),
    ] {
        let want = interrupted_walsender(&primary, function, &format!("{function}_1"), &scratch);
        let got = interrupted_walsender(&hub, function, &format!("{function}_2"), &scratch);
        assert_eq!(got, want, "{function}");
        assert!(got.ends_with(error), "{got}");
    }
}

#[test]
fn commit_latency_counts_each_commit_once_in_each_stage_until_it_is_reset() {
    const COMMITS: usize = 7;
    let scratch = Scratch::new();
    let hub = waiting_hub(&scratch);
    let reset = |hub: &Hub| hub.psql("select pg_stat_reset_shared('commit_latency')");
    let commit = |level: &str| hub.psql(&format!("set synchronous_commit = {level}; {EMIT}"));
    // The checkpoint of the start is not a commit, but it is written.
    commit("local");
    hub.wait_sql(COUNTS, "append 1, write 2, flush 2, release 1");
    reset(&hub);
    assert_eq!(hub.psql(COUNTS), "");
    let empty = "select count(*), sum(count), count(p50), count(p99), count(p99_9), count(max) \
                 from walhub.commit_latency";
    assert_eq!(hub.psql(empty), "9|0|0|0|0|0");
    (0..COMMITS).for_each(|_| drop(commit("local")));
    let want = format!("append {COMMITS}, write {COMMITS}, flush {COMMITS}, release {COMMITS}");
    hub.wait_sql(COUNTS, &want);
    let in_order = "select bool_and(p50 <= p99 and p99 <= p99_9 and p99_9 <= max) \
                    from walhub.commit_latency where count > 0";
    assert_eq!(hub.psql(in_order), "t");

    let _receive = ReceiveWal::start(&hub, "a", &["--synchronous"], &scratch);
    hub.wait_streaming("a");
    // Once this one is released, the standby has what was written before it came as well: that was not
    // sent late, but it became durable there late.
    commit("on");
    let caught_up = "select count(distinct count) from walhub.commit_latency where stage in \
                     ('downstream write', 'downstream flush')";
    hub.wait_sql(caught_up, "1");
    let of_send = "select count between 1 and 2 from walhub.commit_latency where stage = 'send'";
    assert_eq!(hub.psql(of_send), "t");
    reset(&hub);
    (0..COMMITS).for_each(|_| drop(commit("on")));
    let stages = ["append", "write", "flush", "send", "downstream write", "downstream flush"];
    let mut want = stages.map(|stage| format!("{stage} {COMMITS}, ")).concat();
    want.push_str(&format!("release {COMMITS}"));
    hub.wait_sql(COUNTS, &want);
    assert_eq!(hub.psql(in_order), "t");

    let error = hub.psql_error("select pg_stat_reset_shared('nothing')");
    assert!(error.contains("22023: unrecognized reset target: \"nothing\""), "{error}");
    assert_eq!(hub.psql(COUNTS), want);
}
