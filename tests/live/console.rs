//! The SQL console and the replication commands, through psql and other clients.

use std::fs;

use walhub_tests::client::{SqlServer, run_psql, run_psql_ok};
use walhub_tests::hub::is_ready;
use walhub_tests::postgres::{StopMode, major, program};
use walhub_tests::process::{quick_command, run_ok, said};
use walhub_tests::topology::Relay;

/// Column names of a query's result.
#[track_caller]
fn columns(server: &impl SqlServer, query: &str) -> String {
    // Without -t, the first line is the header.
    let text = run_psql_ok(&server.endpoint().database(), &["-P", "tuples_only=off", "-c", query]);
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn views_have_postgresql_15_columns() {
    let relay = Relay::start();
    for view in ["pg_stat_replication", "pg_stat_wal_receiver", "pg_replication_slots"] {
        let query = format!("select * from {view}");
        let got = columns(&relay.hub, &query);
        assert!(got.contains("slot_name") || got.contains("sent_lsn"), "{view}: {got}");
        if major() == 15 {
            assert_eq!(got, columns(&relay.primary, &query), "{view}");
        }
    }
}

#[test]
fn pg_stat_replication_shows_a_standby() {
    let relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    relay.primary.psql("create table t (i int)");
    let lsn = relay.primary.flush_lsn();
    standby.wait_replay(&lsn);
    let query = format!(
        "select usename, application_name, client_addr, state, sync_state \
         from pg_stat_replication where replay_lsn >= '{lsn}'"
    );
    relay.hub.wait_sql(&query, "postgres|standby|127.0.0.1|streaming|async");
    let lsns = relay
        .hub
        .psql("select sent_lsn, write_lsn, flush_lsn, replay_lsn from pg_stat_replication");
    for field in lsns.split('|') {
        assert!(field.contains('/'), "{lsns}");
    }
    let fresh = relay.hub.psql("select pid, backend_start, reply_time from pg_stat_replication");
    assert!(fresh.split('|').all(|field| !field.is_empty()), "{fresh}");
}

#[test]
fn pg_stat_wal_receiver_shows_the_upstream() {
    let relay = Relay::start();
    let endpoint = relay.primary.endpoint();
    let want = format!("streaming|1|1|{}|{}", endpoint.host, endpoint.port);
    let query = "select status, receive_start_tli, received_tli, sender_host, sender_port \
                 from pg_stat_wal_receiver";
    relay.hub.wait_sql(query, &want);
    relay.primary.switch_wal(1);
    let lsn = relay.primary.flush_lsn();
    let query = format!("select count(*) from pg_stat_wal_receiver where flushed_lsn >= '{lsn}'");
    relay.hub.wait_sql(&query, "1");
    let conninfo = relay.hub.psql("select conninfo from pg_stat_wal_receiver");
    assert!(conninfo.contains("application_name=hub"), "{conninfo}");
}

#[test]
fn selects_filter_sort_limit_and_aggregate() {
    let relay = Relay::start();
    for slot in ["alpha", "gamma", "beta"] {
        relay.hub.replication(&format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL"));
    }
    let hub = &relay.hub;
    let names = "select slot_name from pg_replication_slots";
    assert_eq!(hub.psql(&format!("{names} order by slot_name")), "alpha\nbeta\ngamma");
    assert_eq!(hub.psql(&format!("{names} order by slot_name desc limit 1")), "gamma");
    assert_eq!(hub.psql(&format!("{names} where slot_name = 'beta'")), "beta");
    assert_eq!(hub.psql(&format!("{names} where slot_name <> 'beta' order by 1")), "alpha\ngamma");
    assert_eq!(hub.psql("select count(*) from pg_replication_slots where not active"), "3");
    assert_eq!(
        hub.psql("select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots"),
        "alpha,beta,gamma"
    );
    let answer = hub.psql("select slot_name as name, active from pg_replication_slots limit 0");
    assert_eq!(answer, "");
}

#[test]
fn functions_answer() {
    let relay = Relay::start();
    relay.primary.switch_wal(1);
    let lsn = relay.primary.flush_lsn();
    relay.hub.wait_received(&lsn);
    let hub = &relay.hub;
    assert_eq!(hub.psql("select pg_is_in_recovery()"), "t");
    assert_eq!(hub.psql("select pg_wal_lsn_diff('0/3000000', '0/2000001')"), "16777215");
    assert_eq!(hub.psql("select pg_wal_lsn_diff('0/2000000', '1/0')"), "-4261412864");
    let bytes = hub.psql("select pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')");
    assert!(bytes.parse().is_ok_and(|bytes: u64| bytes > 16 << 20), "{bytes}");
    assert!(hub.psql("select pg_last_wal_replay_lsn()").contains('/'));
    assert!(!hub.psql("select version()").is_empty());
    let server_version = relay.primary.psql("show server_version");
    assert_eq!(hub.psql("show server_version"), server_version);
    // PostgreSQL refuses these during recovery; an answer must be a position or a name.
    for (function, part) in [
        ("pg_current_wal_lsn()", "/"),
        ("pg_current_wal_flush_lsn()", "/"),
        ("pg_walfile_name('0/3000001')", "000000010000000000000003"),
    ] {
        let output = hub.try_psql(&format!("select {function}"));
        let text = said(&output);
        let refused = text.contains("recovery is in progress");
        assert!(if output.status.success() { text.contains(part) } else { refused }, "{text}");
    }
}

#[test]
fn settings_are_shown_and_set() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("wal_sender_timeout", "90s"));
    let hub = &relay.hub;
    assert_eq!(hub.psql("show wal_sender_timeout"), "90s");
    assert_eq!(hub.psql("show wal_keep_size"), "4GB");
    assert_eq!(hub.psql("show wal_segment_size"), "16MB");
    assert_eq!(hub.psql("show max_wal_senders"), "10", "PostgreSQL's default");
    hub.psql("set application_name = 'monitor'");
    hub.psql("set client_encoding = 'UTF8'");
    let error = hub.psql_error("show no_such_setting");
    assert!(error.contains("42704"), "{error}");
    assert!(error.contains("unrecognized configuration parameter \"no_such_setting\""), "{error}");
}

#[test]
fn mistakes_get_postgresql_s_errors() {
    let relay = Relay::start();
    for (sql, sqlstate, message) in [
        ("selec 1", "42601", "syntax error"),
        ("select nothing from pg_stat_replication", "42703", "\"nothing\" does not exist"),
        ("select * from pg_stat_nothing", "42P01", "\"pg_stat_nothing\" does not exist"),
    ] {
        let error = relay.hub.psql_error(sql);
        assert!(error.contains(sqlstate) && error.contains(message), "{sql}: {error}");
    }
    // The session goes on after an error.
    let database = relay.hub.endpoint().database();
    let output = run_psql(
        &database,
        &["-v", "ON_ERROR_STOP=0", "-c", "selec 1", "-c", "select pg_is_in_recovery()"],
    );
    assert!(said(&output).starts_with("t\n"), "{}", said(&output));
}

/// walhub's own case: it is no database.
#[test]
fn other_sql_is_not_supported_and_says_what_is() {
    let relay = Relay::start();
    for sql in [
        "create table t (i int)",
        "select * from pg_stat_replication a join pg_stat_replication b using (pid)",
        "delete from pg_replication_slots",
    ] {
        let error = relay.hub.psql_error(sql);
        assert!(error.contains("0A000"), "{sql}: {error}");
        assert!(error.contains("pg_stat_replication"), "{sql}: {error}");
    }
}

#[test]
fn extended_protocol_and_prepared_statements_work() {
    let relay = Relay::start();
    let script = relay.scratch.path("console.sql");
    let text = "\\set n 1\nselect count(*) from pg_stat_replication;\n\
                select pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0');\n\
                select slot_name from pg_replication_slots where active_pid = :n;\n";
    fs::write(&script, text).expect("a script");
    for protocol in ["simple", "extended", "prepared"] {
        let mut pgbench = quick_command(program("pgbench"));
        pgbench.args(["-n", "-M", protocol, "-c", "2", "-t", "20", "-f"]).arg(&script);
        let report = run_ok(pgbench.arg(relay.hub.endpoint().database()));
        assert!(report.contains("actually processed: 40/40"), "{protocol}: {report}");
    }
}

#[test]
fn pg_isready_knows_whether_the_hub_is_there() {
    let mut relay = Relay::start();
    let endpoint = relay.hub.endpoint();
    assert_eq!(is_ready(endpoint).code(), Some(0));
    relay.hub.stop(StopMode::Fast);
    assert_eq!(is_ready(endpoint).code(), Some(2));
}

#[test]
fn libpq_sees_a_standby() {
    let relay = Relay::start();
    let database = relay.hub.endpoint().database();
    let query = ["-c", "select pg_is_in_recovery()"];
    for accepted in ["any", "read-only", "standby", "prefer-standby"] {
        if major() >= 14 || accepted == "any" {
            let conninfo = format!("{database} target_session_attrs={accepted}");
            assert_eq!(run_psql_ok(&conninfo, &query), "t", "{accepted}");
        }
    }
    let output = run_psql(&format!("{database} target_session_attrs=read-write"), &query);
    assert!(!output.status.success());
    let refused = if major() >= 14 { "read-only" } else { "could not make a writable connection" };
    assert!(said(&output).contains(refused), "{}", said(&output));
}

#[test]
fn tls_is_declined_and_plain_text_goes_on() {
    let relay = Relay::start();
    let database = relay.hub.endpoint().database();
    let query = ["-c", "select pg_is_in_recovery()"];
    assert_eq!(run_psql_ok(&format!("{database} sslmode=prefer"), &query), "t");
    let output = run_psql(&format!("{database} sslmode=require"), &query);
    assert!(said(&output).contains("server does not support SSL"), "{}", said(&output));
}

#[test]
fn replication_commands_answer_as_the_primary_does() {
    let relay = Relay::start();
    let system = |server: &dyn Fn(&str) -> String| {
        let answer = server("IDENTIFY_SYSTEM");
        let fields: Vec<_> = answer.split('|').map(str::to_owned).collect();
        assert_eq!(fields.len(), 4, "{answer}");
        (fields[0].clone(), fields[1].clone(), fields[3].clone())
    };
    let hub = system(&|sql| relay.hub.replication(sql));
    assert_eq!(hub, system(&|sql| relay.primary.replication(sql)));
    assert_eq!(hub.1, "1");
    for setting in ["wal_segment_size", "data_directory_mode"] {
        let show = format!("SHOW {setting}");
        assert_eq!(relay.hub.replication(&show), relay.primary.replication(&show));
    }
    let error = relay.hub.replication_error("TIMELINE_HISTORY 1");
    assert!(error.contains("58P01"), "{error}");
    assert!(error.contains("could not open file \"pg_wal/00000001.history\""), "{error}");
    let error = relay.hub.replication_error("START_REPLICATION 0/3000000 TIMELINE 9");
    assert!(error.contains("requested timeline 9 is not in this server's history"), "{error}");
    let error = relay.hub.replication_error("START_REPLICATION SLOT nobody PHYSICAL 0/3000000");
    assert!(error.contains("42704"), "{error}");
    assert!(error.contains("replication slot \"nobody\" does not exist"), "{error}");
    let error = relay.hub.replication_error("START_REPLICATION PHYSIKAL");
    assert!(error.contains("42601"), "{error}");
    let error = relay.hub.replication_error("CREATE_REPLICATION_SLOT \"Bad-Name\" PHYSICAL");
    assert!(
        error.contains("replication slot name \"Bad-Name\" contains invalid character"),
        "{error}"
    );
}
