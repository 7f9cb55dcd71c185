//! Reading back what was emitted: logical slots with pg_recvlogical, and walhub.messages.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use walhub_tests::client::{Psql, SqlServer, run_psql, run_psql_ok};
use walhub_tests::hub::Hub;
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{Process, command, quick_command, run_ok, said, spawn, wait_exit};
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;

const SLOT: &str = "select plugin, slot_type, database, active, confirmed_flush_lsn is not null \
                    from pg_replication_slots";

const CONFIRMED_ALL: &str = "select confirmed_flush_lsn = pg_current_wal_flush_lsn() \
                             from pg_replication_slots";

/// A connection for replication commands and SQL.
fn walsender(hub: &Hub) -> String {
    format!("{} replication=database", hub.endpoint().database())
}

/// The error, with its SQLSTATE, of a command of such a connection.
#[track_caller]
fn command_error(hub: &Hub, sql: &str) -> String {
    let output = run_psql(&walsender(hub), &["-v", "VERBOSITY=verbose", "-c", sql]);
    assert!(!output.status.success(), "{sql}: {}", said(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn create_slot(hub: &Hub, slot: &str) {
    let mut create = quick_command(program("pg_recvlogical"));
    let database = hub.endpoint().database();
    run_ok(create.args(["-d", &database, "--create-slot", "-P", "pgoutput", "--slot", slot]));
}

/// Everything that was emitted is before this position.
fn end(hub: &Hub) -> String {
    hub.psql("checkpoint");
    hub.psql("select pg_current_wal_flush_lsn()")
}

/// pg_recvlogical, writing into a file that later ones of that name go on with.
struct Receiver {
    process: Process,
    log: Log,
    file: PathBuf,
}

impl Receiver {
    fn start(hub: &Hub, scratch: &Scratch, slot: &str, options: &[&str]) -> Self {
        let file = scratch.path(&format!("{slot}.messages"));
        let mut receive = command(program("pg_recvlogical"));
        receive.args(["--start", "--no-loop", "-F", "1", "-s", "1", "--slot", slot, "-d"]);
        receive.args([&hub.endpoint().database(), "-o", "proto_version=1"]);
        receive.args(["-o", "publication_names=x", "-o", "messages=true", "-f"]).arg(&file);
        receive.args(options);
        let log = Log::new("pg_recvlogical");
        let process = spawn(&mut receive, &log);
        Self { process, log, file }
    }

    /// Receives up to a position that the server has.
    #[track_caller]
    fn up_to(hub: &Hub, scratch: &Scratch, slot: &str, end: &str) -> String {
        let receiver = Self::start(hub, scratch, slot, &["--endpos", end]);
        let status = wait_exit(&receiver.process);
        receiver.log.wait_closed();
        assert!(status.success(), "{status}: {}", receiver.said());
        receiver.text()
    }

    fn said(&self) -> String {
        self.log.text(self.log.beginning())
    }

    /// What was received: transactions in parentheses.
    fn text(&self) -> String {
        let bytes = fs::read(&self.file).unwrap_or_default();
        shown(&bytes)
    }

    fn interrupt(self) {
        self.process.signal(Signal::INT);
        wait_exit(&self.process);
    }
}

/// Complete messages of pgoutput, each with a newline after it.
fn shown(mut bytes: &[u8]) -> String {
    let (mut text, mut is_open) = (String::new(), false);
    loop {
        let len = match bytes.first() {
            Some(b'B') if bytes.len() > 21 => {
                text.push('(');
                is_open = true;
                21
            }
            Some(b'C') if bytes.len() > 26 => {
                text.push(')');
                is_open = false;
                26
            }
            Some(b'M') => {
                let Some(zero) = bytes.get(10..).and_then(|rest| rest.iter().position(|&b| b == 0))
                else {
                    return text;
                };
                let at = 10 + zero + 1;
                let Some(word) = bytes.get(at..at + 4) else { return text };
                let len = u32::from_be_bytes(word.try_into().expect("four bytes"));
                let end = at + 4 + usize::try_from(len).expect("a length");
                if bytes.len() <= end {
                    return text;
                }
                assert_eq!(bytes[1] == 1, is_open);
                text.push_str(&String::from_utf8_lossy(&bytes[at + 4..end]));
                text.push(' ');
                end
            }
            None | Some(b'B' | b'C') => return text,
            Some(other) => panic!("a message of type {other} after {text}"),
        };
        assert_eq!(bytes[len], b'\n');
        bytes = &bytes[len + 1..];
    }
}

#[test]
fn pg_recvlogical_gets_what_was_committed_in_the_order_of_the_commits() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    let emit = |text: &str| format!("select pg_logical_emit_message({text})");
    hub.psql(&emit("true, 'p', 'before'"));
    create_slot(&hub, "s");
    assert_eq!(hub.psql(SLOT), "pgoutput|logical|postgres|f|t");
    hub.psql(&emit("true, 'p', 'one'"));
    hub.psql(&emit("false, 'p', 'two'"));
    let mut session = Psql::open(&hub);
    session.psql("begin");
    session.psql(&emit("true, 'p', 'three'"));
    session.psql(&emit("false, 'p', 'four'"));
    hub.psql(&emit("true, 'p', 'five'"));
    session.psql(&emit("true, 'p', repeat('six', 10000)"));
    session.psql("commit");
    session.psql("begin");
    session.psql(&emit("true, 'p', 'gone'"));
    session.psql("rollback");
    let want = format!("(one )two four (five )(three {} )", "six".repeat(10_000));
    let got = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    assert!(got == want, "{}", got.replace("sixsix", ""));

    // What was confirmed does not come again, whether the hub stops or not.
    hub.psql(&emit("true, 'p', 'seven'"));
    let got = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    assert!(got == format!("{want}(seven )"), "{}", got.replace("sixsix", ""));
    let confirmed = hub.psql("select confirmed_flush_lsn from pg_replication_slots");
    assert!(hub.stop(StopMode::Fast).success());
    hub.start();
    let kept = hub.psql("select confirmed_flush_lsn from pg_replication_slots");
    assert_eq!(kept, confirmed);
    hub.psql(&emit("true, 'p', 'eight'"));
    let got = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    assert!(got == format!("{want}(seven )(eight )"), "{}", got.replace("sixsix", ""));
}

#[test]
fn a_logical_session_is_shown_and_is_the_only_one_and_gets_everything_at_a_stop() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    create_slot(&hub, "s");
    let receiver = Receiver::start(&hub, &scratch, "s", &[]);
    hub.wait_streaming("pg_recvlogical");
    assert_eq!(hub.psql("select count(*) from pg_stat_replication"), "1");
    assert_eq!(hub.psql(SLOT), "pgoutput|logical|postgres|t|t");
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'x')";
    let error = command_error(&hub, start);
    assert!(error.contains("55006: replication slot \"s\" is active for PID "), "{error}");
    // Nothing that it could get is left: it confirms the end of the WAL by the keepalives.
    hub.psql("checkpoint");
    hub.wait_sql(CONFIRMED_ALL, "t");
    for i in 0..100 {
        hub.psql(&format!("select pg_logical_emit_message(true, 'p', '{i}')"));
    }
    assert!(hub.stop(StopMode::Fast).success());
    wait_exit(&receiver.process);
    let want: String = (0..100).map(|i| format!("({i} )")).collect();
    assert_eq!(receiver.text(), want);
}

#[test]
fn nothing_is_lost_or_skipped_when_the_hub_is_killed() {
    const ROUNDS: u32 = 4;
    const MESSAGES: u32 = 150;
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    create_slot(&hub, "s");
    let mut emitted = Vec::new();
    for round in 0..ROUNDS {
        let receiver = Receiver::start(&hub, &scratch, "s", &[]);
        let mut session = Psql::open(&hub);
        for i in 0..MESSAGES {
            let text = format!("{round}.{i}");
            session.psql(&format!("select pg_logical_emit_message({}, 'p', '{text}')", i % 3 != 0));
            emitted.push(text);
        }
        // Some of what is confirmed is on disk by now in most rounds, and not all.
        if round % 2 == 0 {
            let last = emitted.last().expect("a message").clone();
            wait_until("the last message is received", || receiver.text().contains(&last));
        }
        // A message that belongs to no transaction is durable with the next commit.
        session.psql("select pg_logical_emit_message(true, 'p', 'committed')");
        hub.kill9();
        wait_exit(&receiver.process);
        hub.start();
    }
    let text = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    let received: Vec<&str> = text
        .split(['(', ')', ' '])
        .filter(|word| !word.is_empty() && *word != "committed")
        .collect();
    let mut seen = BTreeSet::new();
    let first: Vec<&str> = received.iter().copied().filter(|word| seen.insert(*word)).collect();
    assert_eq!(first, emitted);
}

#[test]
fn a_receiver_that_is_interrupted_has_confirmed_what_it_has() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").start(&scratch);
    create_slot(&hub, "s");
    for i in 0..10 {
        let receiver = Receiver::start(&hub, &scratch, "s", &[]);
        hub.wait_streaming("pg_recvlogical");
        hub.psql(&format!("select pg_logical_emit_message(true, 'p', '{i}')"));
        wait_until("it is received", || receiver.text().ends_with(&format!("({i} )")));
        // It says so once a second, and not when it is interrupted.
        hub.wait_sql(CONFIRMED_ALL, "t");
        receiver.interrupt();
        hub.wait_sql("select active from pg_replication_slots", "f");
    }
    let want: String = (0..10).map(|i| format!("({i} )")).collect();
    assert_eq!(Receiver::up_to(&hub, &scratch, "s", &end(&hub)), want);
}

#[test]
fn mistakes_about_slots_get_postgresql_s_errors() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").set("max_replication_slots", "2").start(&scratch);
    let create = |text: &str| format!("CREATE_REPLICATION_SLOT {text}");
    let cases = [
        (
            "l LOGICAL nonsense",
            "58P01: could not access file \"nonsense\": No such file or directory",
        ),
        ("\"L\" LOGICAL pgoutput", "42602: replication slot name \"L\" contains invalid character"),
        ("l LOGICAL pgoutput (SNAPSHOT 'x')", "22023: unrecognized value for"),
        ("l LOGICAL pgoutput (SNAPSHOT 'use')", "0A000: "),
    ];
    for (text, want) in cases {
        let error = command_error(&hub, &create(text));
        assert!(error.contains(want), "{text}: {error}");
    }
    let error = hub.replication_error(&create("l LOGICAL pgoutput"));
    assert!(error.contains("55000: logical decoding requires a database connection"), "{error}");
    // Older clients ask for a snapshot by saying nothing, and get none.
    let row = run_psql_ok(&walsender(&hub), &["-c", &create("l LOGICAL pgoutput")]);
    assert!(row.starts_with("l|0/") && row.ends_with("||pgoutput"), "{row}");
    hub.replication(&create("p PHYSICAL"));
    let start =
        |slot: &str, options: &str| format!("START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}");
    let options = "(proto_version '1', publication_names 'x')";
    let cases = [
        (create("l LOGICAL pgoutput"), "42710: replication slot \"l\" already exists"),
        (create("m LOGICAL pgoutput"), "53400: all replication slots are in use"),
        (start("p", options), "55000: cannot use physical replication slot for logical decoding"),
        (start("x", options), "42704: replication slot \"x\" does not exist"),
        (start("l", "(proto_version '1')"), "22023: option \"publication_names\" missing"),
        (
            start("l", "(proto_version '9', publication_names 'x')"),
            "0A000: client sent proto_version=9",
        ),
        (
            "START_REPLICATION SLOT l PHYSICAL 0/1000000".to_owned(),
            "55000: cannot use a logical replication slot for physical replication",
        ),
        (
            "READ_REPLICATION_SLOT l".to_owned(),
            "0A000: cannot use READ_REPLICATION_SLOT with a logical replication slot",
        ),
    ];
    for (sql, want) in cases {
        let error = command_error(&hub, &sql);
        assert!(error.contains(want), "{sql}: {error}");
    }
    assert_eq!(run_psql_ok(&walsender(&hub), &["-c", "SHOW wal_level"]), "logical");
    hub.replication("DROP_REPLICATION_SLOT l");
    assert_eq!(hub.psql("select slot_name from pg_replication_slots"), "p");
}

#[test]
fn a_transaction_that_is_too_large_to_keep_comes_out_whole_and_in_its_place() {
    const MESSAGES: usize = 500_000;
    let scratch = Scratch::new();
    let hub = Hub::named("hub").start(&scratch);
    create_slot(&hub, "s");
    let copied = scratch.path("rows");
    let content = |i: usize| format!("{i:0100}");
    let rows: String = (0..MESSAGES).map(|i| format!("p\t{}\n", content(i))).collect();
    fs::write(&copied, rows).expect("a file");
    hub.psql("select pg_logical_emit_message(true, 'p', 'before')");
    hub.psql(&format!("\\copy walhub.messages (prefix, content) from '{}'", copied.display()));
    hub.psql("select pg_logical_emit_message(false, 'p', 'after')");
    let inside: String = (0..MESSAGES).map(|i| content(i) + " ").collect();
    let got = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    assert!(got == format!("(before )({inside})after "), "{} bytes", got.len());
}

#[test]
fn functions_make_and_drop_slots() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").start(&scratch);
    let record = hub.psql("select pg_create_logical_replication_slot('l', 'pgoutput')");
    let row =
        "select '(' || slot_name || ',' || confirmed_flush_lsn || ')' from pg_replication_slots";
    assert_eq!(hub.psql(row), record);
    assert_eq!(hub.psql("select pg_create_physical_replication_slot('p')"), "(p,)");
    let cases = [
        ("pg_create_logical_replication_slot('l', 'pgoutput')", "42710: "),
        ("pg_create_logical_replication_slot('m', 'nonsense')", "58P01: "),
        ("pg_create_physical_replication_slot('M')", "42602: "),
        ("pg_create_physical_replication_slot('m', true, true)", "0A000: "),
        ("pg_drop_replication_slot('m')", "42704: "),
    ];
    for (call, want) in cases {
        let error = hub.psql_error(&format!("select {call}"));
        assert!(error.contains(want), "{call}: {error}");
    }
    hub.psql("select pg_logical_emit_message(true, 'p', 'one')");
    assert_eq!(Receiver::up_to(&hub, &scratch, "l", &end(&hub)), "(one )");
    hub.psql("select pg_drop_replication_slot('l')");
    assert_eq!(hub.psql("select slot_name from pg_replication_slots"), "p");
}

#[test]
fn a_canceled_or_terminated_stream_tells_its_client_why() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").start(&scratch);
    create_slot(&hub, "s");
    for (function, error) in [
        ("pg_cancel_backend", "ERROR:  canceling statement due to user request"),
        ("pg_terminate_backend", "FATAL:  terminating connection due to administrator command"),
    ] {
        let receiver = Receiver::start(&hub, &scratch, "s", &[]);
        hub.wait_sql("select state from pg_stat_replication", "streaming");
        assert_eq!(
            hub.psql(&format!("select {function}(active_pid) from pg_replication_slots")),
            "t"
        );
        assert!(!wait_exit(&receiver.process).success());
        receiver.log.wait_closed();
        assert!(receiver.said().contains(error), "{function}: {}", receiver.said());
        hub.wait_sql("select active from pg_replication_slots", "f");
    }
}

#[test]
fn a_slot_holds_the_wal_that_its_client_needs() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").set("wal_keep_size", "0").set("min_wal_size", "2MB");
    let mut hub = hub.build(&scratch);
    hub.init(1);
    hub.start();
    create_slot(&hub, "s");
    hub.psql("select pg_logical_emit_message(true, 'p', 'first')");
    let needed = hub.segments().expect("pg_wal")[0].clone();
    hub.switch_wal(50);
    hub.kill9();
    hub.start();
    hub.switch_wal(50);
    assert!(hub.segments().expect("pg_wal").contains(&needed));
    let text = Receiver::up_to(&hub, &scratch, "s", &end(&hub));
    assert_eq!(text, format!("(first ){}", "(. )".repeat(100)));
    wait_until("what is confirmed is let go", || {
        hub.switch_wal(1);
        !hub.segments().expect("pg_wal").contains(&needed)
    });
}

#[test]
fn messages_can_be_selected() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    let emit = |text: &str| hub.psql(&format!("select pg_logical_emit_message({text})"));
    let lsns = [
        emit("true, 'a', 'one'"),
        emit("false, 'b', 'two'"),
        emit("true, 'a', 'three'"),
        emit("false, 'a', repeat('x', 1000000)"),
        emit("true, 'b', 'five'"),
    ];
    hub.psql("begin; select pg_logical_emit_message(true, 'a', 'gone'); rollback");
    hub.psql("checkpoint");
    let all = hub.psql(
        "select lsn, xid is null, prefix, length(content), transactional from walhub.messages",
    );
    let want =
        [("f|a|3|t", 0), ("t|b|3|f", 1), ("f|a|5|t", 2), ("t|a|1000000|f", 3), ("f|b|4|t", 4)];
    let want: Vec<String> = want.iter().map(|(row, i)| format!("{}|{row}", lsns[*i])).collect();
    assert_eq!(all, want.join("\n"));
    let select = |clauses: &str| {
        let sql = format!("select convert_from(content, 'UTF8') from walhub.messages {clauses}");
        hub.psql(&sql).replace('\n', ",")
    };
    assert_eq!(select("where length(content) < 10 order by lsn"), "one,two,three,five");
    assert_eq!(select(&format!("where lsn >= '{}' order by lsn limit 1", lsns[2])), "three");
    assert_eq!(select(&format!("where lsn > '{}' order by lsn limit 1", lsns[0])), "two");
    assert_eq!(select(&format!("where lsn = '{}'", lsns[4])), "five");
    assert_eq!(select("where prefix = 'b' order by lsn"), "two,five");
    assert_eq!(select("order by lsn desc limit 1"), "five");
    assert_eq!(select("order by lsn limit 1 offset 2"), "three");
    let between = format!("where lsn between '{}' and '{}'", lsns[1], lsns[2]);
    assert_eq!(select(&between), "two,three");
    assert_eq!(hub.psql("select count(*) from walhub.messages where prefix = 'a'"), "3");
    let shape = "select prefix, count(*) from walhub.messages group by prefix order by prefix";
    assert_eq!(hub.psql(shape), "a|3\nb|2");
    let nested = "select max(lsn) from (select lsn from walhub.messages order by lsn limit 2) m";
    assert_eq!(hub.psql(nested), lsns[1]);
    let beside = "select (select count(*) from walhub.messages), count(*) from walhub.messages";
    assert_eq!(hub.psql(beside), "5|5");
    let error =
        hub.psql_error("select pg_logical_emit_message(true, 'a', 'b') from walhub.messages");
    assert!(error.contains("0A000"), "{error}");
    hub.kill9();
    hub.start();
    assert_eq!(hub.psql("select count(*) from walhub.messages"), "5");
}

#[test]
fn many_messages_are_counted_and_too_many_are_not_held() {
    const MESSAGES: usize = 400_000;
    let scratch = Scratch::new();
    let hub = Hub::named("hub").start(&scratch);
    let copied = scratch.path("rows");
    fs::write(&copied, "p\tx\n".repeat(MESSAGES)).expect("a file");
    hub.psql(&format!("\\copy walhub.messages (prefix, content) from '{}'", copied.display()));
    assert_eq!(hub.psql("select count(*) from walhub.messages"), MESSAGES.to_string());
    let error = hub.psql_error("select * from walhub.messages");
    assert!(error.contains("54000: result of the statement is too large"), "{error}");
    assert!(error.contains("Use LIMIT"), "{error}");
    let some = "select count(*) from (select * from walhub.messages order by lsn limit 1000) m";
    assert_eq!(hub.psql(some), "1000");
}

#[test]
fn a_relay_says_that_it_cannot_decode() {
    let relay = Relay::start();
    let error = command_error(&relay.hub, "CREATE_REPLICATION_SLOT l LOGICAL pgoutput");
    assert!(error.contains("0A000: logical decoding cannot be used while in recovery"), "{error}");
    let error = relay.hub.psql_error("select * from walhub.messages");
    assert!(error.contains("0A000"), "{error}");
}

#[test]
fn a_database_name_of_a_hundred_bytes_ends_nobody() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    let name = "d".repeat(100);
    let connection = format!("{} replication=database dbname={name}", hub.endpoint().database());
    run_psql_ok(&connection, &["-c", "create_replication_slot s logical pgoutput"]);
    // PostgreSQL: ProcessStartupPacket.
    assert_eq!(hub.psql("select database from pg_replication_slots"), "d".repeat(63));
    hub.kill9();
    hub.start();
    assert_eq!(hub.psql("select database from pg_replication_slots"), "d".repeat(63));
}
