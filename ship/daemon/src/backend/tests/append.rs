//! Sessions that append, wait, and are interrupted.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::reader::decode_frame;

use super::primary::OwnHub;
use super::protocol::{bind, execute, parse, sync};
use super::{Served, message, params_of, query, show_message, shown, talk_to};
use crate::backend::{Sessions, serve};

/// What a session over the hub answers to everything sent at once.
pub(super) fn lines_of(hub: &Arc<OwnHub>, input: &[Vec<u8>]) -> Vec<String> {
    let params = params_of(Arc::<OwnHub>::clone(hub), &watch::Sender::new(false));
    shown(&talk_to(params, &input.concat()).0)
}

fn lines(input: &[Vec<u8>]) -> (Vec<String>, Vec<String>) {
    let hub = OwnHub::new(false);
    let lines = lines_of(&hub, input);
    (lines, hub.log())
}

const EMIT: &str = "select pg_logical_emit_message($1, $2, $3)";

fn emit(transactional: bool, content: &str) -> Vec<u8> {
    let transactional = if transactional { b"t" } else { b"f" };
    [bind("", "s", false, &[transactional, b"p", content.as_bytes()]), execute("", 0)].concat()
}

#[test]
fn a_statement_is_a_transaction_and_knows_its_position() {
    let (lines, log) = lines(&[
        query("select pg_logical_emit_message(true, 'p', 'one')"),
        query("select pg_logical_emit_message(false, 'p', 'two')"),
        query("select pg_logical_emit_message(false, 'p', 'three', true)"),
        query("select pg_logical_emit_message(true, 'p', '\\x00ff'::bytea) - '0/1000' as bytes"),
        query(
            "select g, pg_logical_emit_message(g % 2 = 0, 'p', g::text) from generate_series(1, 3) g",
        ),
        query("select pg_logical_emit_message(true, null, 'x') is null"),
    ]);
    assert_eq!(
        log,
        [
            "p:one commit flush",
            "p:two nothing",
            "p:three local",
            "p:\0\u{fffd} commit flush",
            "p:1 p:3 nothing",
            "p:2 commit flush",
        ]
    );
    let rows: Vec<&String> =
        lines.iter().filter(|line| !line.starts_with(['T', 'C', 'Z'])).collect();
    assert_eq!(rows, ["0/1010", "0/1030", "0/1040", "80", "1|0/1070", "2|0/1090", "3|0/1080", "t"]);
}

const EMIT_ONE: &str = "pg_logical_emit_message(true, 'p', 'x')";

/// The rows, errors and tags of one query over WAL of its own, and what it has appended.
fn ran(sql: &str) -> (Vec<String>, Vec<String>) {
    let (lines, log) = lines(&[query(&sql.replace("EMIT", EMIT_ONE))]);
    (lines.into_iter().filter(|line| !line.starts_with(['T', 'Z'])).collect(), log)
}

#[test]
fn a_position_that_is_not_known_yet_goes_through_what_only_hands_it_on() {
    for (sql, rows) in [
        ("select EMIT, 1 as one", "0/1010|1"),
        ("select case when true then EMIT end, coalesce(EMIT, '0/0')", "0/1010|0/1020"),
        ("select (select EMIT), lsn from (select EMIT as lsn) s", "0/1020|0/1010"),
        ("select lsn from (values (EMIT)) v(lsn)", "0/1010"),
        ("select EMIT::text, EMIT > '0/1010', '0/1040' >= EMIT", "0/1010|t|t"),
        ("select EMIT - '0/1000', pg_wal_lsn_diff('0/1040', EMIT)", "16|32"),
        ("select count(EMIT), count(*) filter (where EMIT is not null)", "1|1"),
        ("select g, EMIT from generate_series(1, 1) g order by g", "1|0/1010"),
        ("select EMIT - null, EMIT = null, EMIT is null", "-|-|f"),
        ("select 1 where EMIT is not null", "1"),
    ] {
        let (lines, log) = ran(sql);
        assert_eq!(lines, [rows, "C SELECT 1"], "{sql}");
        let messages = sql.matches("EMIT").count();
        assert_eq!(log, [format!("{}commit flush", "p:x ".repeat(messages))], "{sql}");
    }
    let (answered, _) = lines(&[
        parse("", &format!("select {EMIT_ONE}, 7 from generate_series(1, 2)"), &[]),
        bind("", "", true, &[]),
        execute("", 0),
        sync(),
    ]);
    let first = "\0\0\0\0\0\0\u{10}\u{10}|\0\0\0\u{7}";
    let second = "\0\0\0\0\0\0\u{10}\u{20}|\0\0\0\u{7}";
    assert_eq!(answered[2..], [first, second, "C SELECT 2", "Z I"]);
}

#[test]
fn what_needs_a_position_before_it_is_known_is_refused_and_writes_nothing() {
    for sql in [
        "select length(EMIT::text)",
        "select EMIT::text || 'x'",
        "select EMIT + 1",
        "select (EMIT - '0/0') * 2",
        "select EMIT = EMIT",
        "select not (EMIT > '0/0')",
        "select 1 where EMIT > '0/0'",
        "select g from generate_series(1, 2) g order by EMIT",
        "select distinct EMIT from generate_series(1, 2)",
        "select EMIT, count(*) from generate_series(1, 2) group by 1",
        "select max(EMIT)",
        "select count(distinct EMIT)",
        "select EMIT in ('0/0')",
        "select '0/0' in (select EMIT)",
        "select EMIT between '0/0' and '0/1'",
        "select greatest(EMIT, '0/0')",
        "select nullif(EMIT, '0/0')",
        "select pg_logical_emit_message(false, 'p', EMIT::text)",
        "select pg_logical_emit_message(false, 'p', 'stays not'), length(EMIT::text)",
    ] {
        let (lines, log) = ran(sql);
        let refused = "ERROR 0A000 the result of a function that changes something cannot be used \
                       in this expression";
        assert_eq!(lines, [refused], "{sql}");
        assert_eq!(log, [""; 0], "{sql}");
    }
}

#[test]
fn within_a_block_a_position_is_the_one_of_that_moment() {
    let (lines, log) = ran("begin; select EMIT as a, EMIT - '0/0' as b; rollback");
    assert_eq!(lines, ["C BEGIN", "0/1000|4096", "C SELECT 1", "C ROLLBACK"]);
    assert_eq!(log, [""; 0]);
    let (lines, log) = ran("begin; select count(EMIT) from generate_series(1, 2000); commit");
    assert_eq!(lines, ["C BEGIN", "2000", "C SELECT 1", "C COMMIT"]);
    assert_eq!(log, [format!("{}commit flush", "p:x ".repeat(2000))]);
}

#[test]
fn a_block_is_appended_when_it_commits_and_not_before() {
    let (lines, log) = lines(&[
        query("begin; select pg_logical_emit_message(true, 'p', 'a'); savepoint s"),
        query("select pg_logical_emit_message(true, 'p', 'b'); rollback to s"),
        query("select pg_logical_emit_message(false, 'p', 'stays')"),
        query("select pg_logical_emit_message(true, 'p', 'c'); set local synchronous_commit = off"),
        query("commit; show synchronous_commit"),
        query("begin; select pg_logical_emit_message(true, 'p', 'gone'); rollback"),
        query("begin; select pg_logical_emit_message(true, 'p', 'gone'); select 1/0"),
        query("select pg_logical_emit_message(false, 'p', 'refused')"),
        query("commit"),
        query("begin; commit"),
        query("begin; select pg_logical_emit_message(true, 'p', 'left')"),
    ]);
    assert_eq!(log, ["p:stays nothing", "p:a p:c commit nothing"]);
    let told: Vec<&String> = lines.iter().filter(|line| line.starts_with("0/")).collect();
    assert_eq!(told, ["0/1000", "0/1000", "0/1010", "0/1010", "0/1040", "0/1040", "0/1040"]);
    assert!(lines.contains(&"ERROR 22012 division by zero".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("ERROR 25P02")), "{lines:?}");
    let shown = lines.iter().position(|line| line == "T synchronous_commit:25").unwrap();
    assert_eq!(lines[shown + 1], "on");
}

#[test]
fn a_query_of_several_statements_is_one_transaction() {
    let one = "select pg_logical_emit_message(true, 'p', '1')";
    let (lines, log) = lines(&[
        query(&format!("{one}; {one} as second; show port")),
        query(&format!("{one}; select pg_logical_emit_message(false, 'p', '2'); select 1/0")),
        query(&format!("{one}; begin; {one}; commit; {one}")),
        query(&format!("{one}; rollback; {one}")),
    ]);
    assert_eq!(
        log,
        [
            "p:1 p:1 commit flush",
            "p:2 nothing",
            "p:1 p:1 commit flush",
            "p:1 commit flush",
            "p:1 commit flush"
        ]
    );
    assert_eq!(
        lines[..9],
        [
            "T pg_logical_emit_message:3220",
            "0/1010",
            "C SELECT 1",
            "T second:3220",
            "0/1020",
            "C SELECT 1",
            "T port:25",
            "5432",
            "C SHOW"
        ]
    );
}

#[test]
fn a_pipeline_is_one_append_and_its_answers_come_in_order() {
    let (answered, log) = lines(&[
        parse("s", EMIT, &[]),
        emit(true, "1"),
        bind("", "s", true, &[b"\x01", b"p", b"2"]),
        execute("", 0),
        emit(false, "3"),
        parse("", "select 7", &[]),
        bind("", "", false, &[]),
        execute("", 0),
        sync(),
        emit(true, "4"),
        sync(),
    ]);
    assert_eq!(log, ["p:3 nothing", "p:1 p:2 commit flush", "p:4 commit flush"]);
    let binary = "\0\0\0\0\0\0\u{10}0";
    assert_eq!(
        answered,
        [
            "1",
            "2",
            "0/1020",
            "C SELECT 1",
            "2",
            binary,
            "C SELECT 1",
            "2",
            "0/1010",
            "C SELECT 1",
            "1",
            "2",
            "7",
            "C SELECT 1",
            "Z I",
            "2",
            "0/1050",
            "C SELECT 1",
            "Z I"
        ]
    );
    // An error discards what was emitted before it, and skips what comes after.
    let (answered, log) = lines(&[
        parse("s", EMIT, &[]),
        emit(true, "1"),
        bind("", "s", false, &[b"maybe", b"p", b"2"]),
        execute("", 0),
        emit(true, "3"),
        sync(),
        emit(true, "4"),
        message(b'H', b""),
        emit(true, "5"),
        sync(),
    ]);
    assert_eq!(log, ["p:4 p:5 commit flush"]);
    assert_eq!(
        answered,
        [
            "1",
            "2",
            "0/1000",
            "C SELECT 1",
            "ERROR 22P02 invalid input syntax for type boolean: \"maybe\"",
            "Z I",
            "2",
            "0/1000",
            "C SELECT 1",
            "2",
            "0/1020",
            "C SELECT 1",
            "Z I"
        ]
    );
}

#[test]
fn a_block_in_a_pipeline_commits_where_commit_is() {
    let run = |sql: &str| [parse("", sql, &[]), bind("", "", false, &[]), execute("", 0)].concat();
    let (answered, log) = lines(&[
        parse("s", EMIT, &[]),
        run("begin"),
        emit(true, "1"),
        emit(false, "2"),
        run("commit"),
        emit(true, "3"),
        sync(),
    ]);
    assert_eq!(log, ["p:2 nothing", "p:1 commit flush", "p:3 commit flush"]);
    let rows: Vec<&String> = answered.iter().filter(|line| line.starts_with("0/")).collect();
    assert_eq!(rows, ["0/1000", "0/1010", "0/1040"]);
    assert_eq!(answered.iter().filter(|line| *line == "C COMMIT").count(), 1);
}

#[test]
fn rows_asked_for_one_by_one_come_at_once() {
    let series = "select pg_logical_emit_message(true, 'p', g::text) from generate_series(1, 2) g";
    let (answered, log) = lines(&[
        parse("s", EMIT, &[]),
        bind("", "s", false, &[b"t", b"p", b"x"]),
        execute("", 1),
        sync(),
        parse("", series, &[]),
        bind("", "", false, &[]),
        execute("", 1),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(log, ["p:x commit flush", "p:1 p:2 commit flush"]);
    assert_eq!(
        answered,
        ["1", "2", "0/1010", "s", "Z I", "1", "2", "0/1020", "s", "0/1020", "C SELECT 1", "Z I"]
    );
}

#[test]
fn a_refused_append_fails_the_statement_and_answers_nothing_else() {
    let hub = OwnHub::new(false);
    hub.refuse(Report::error(SqlState::DISK_FULL, "no space"));
    let one = "select pg_logical_emit_message(true, 'p', '1')";
    let lines = lines_of(&hub, &[query(one), query("begin"), query(one)]);
    assert_eq!(lines[..4], ["ERROR 53100 no space", "Z I", "C BEGIN", "Z T"]);
    let hub = OwnHub::new(false);
    hub.refuse(Report::error(SqlState::DISK_FULL, "no space"));
    let lines = lines_of(&hub, &[query("begin"), query(one), query("commit"), query(one)]);
    assert_eq!(lines[6..9], ["ERROR 53100 no space", "Z I", "T pg_logical_emit_message:3220"]);
    assert_eq!(hub.log(), ["p:1 commit flush"]);
}

#[test]
fn a_standby_writes_nothing() {
    let lines = super::answer("select pg_logical_emit_message(true, 'p', 'x')");
    assert_eq!(lines, ["ERROR 25006 cannot execute pg_logical_emit_message() during recovery"]);
    assert_eq!(
        super::answer("checkpoint"),
        ["ERROR 25006 cannot execute CHECKPOINT during recovery"]
    );
    assert_eq!(super::answer("select pg_switch_wal()"), ["ERROR 55000 recovery is in progress"]);
    assert_eq!(
        super::answer("copy walhub.messages from stdin"),
        ["ERROR 25006 cannot execute COPY FROM during recovery"]
    );
    let huge = [b"B\x00\x20\x00\x00".to_vec()].concat();
    let params = super::params(super::snapshot(true));
    let lines = shown(&talk_to(params, &huge).0);
    assert_eq!(lines, ["FATAL 54000 message of 2097152 bytes is too long"]);
}

#[test]
fn the_wal_is_switched_and_checkpointed() {
    let (lines, log) = lines(&[
        query("select pg_switch_wal() = pg_current_wal_insert_lsn() as same; checkpoint"),
        query("select pg_walfile_name(pg_current_wal_flush_lsn()), pg_is_in_recovery()"),
    ]);
    assert_eq!(log, ["SwitchSegment", "Checkpoint"]);
    assert_eq!(
        lines,
        [
            "T same:16",
            "t",
            "C SELECT 1",
            "C CHECKPOINT",
            "Z I",
            "T pg_walfile_name:25 pg_is_in_recovery:16",
            "000000010000000000000000|f",
            "C SELECT 1",
            "Z I"
        ]
    );
}

#[test]
fn content_may_be_large_in_bind_and_is_taken_as_it_arrives() {
    let content = vec![b'x'; 3 << 20];
    let (answered, log) = lines(&[
        parse("s", EMIT, &[16, 25, 17]),
        bind("", "s", true, &[b"\x01", b"p", &content]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(log, ["p:3145728 bytes commit flush"]);
    assert_eq!(answered.len(), 5);
    // Nothing is kept ready for what a length word only announces.
    let (answered, _) = lines(&[vec![b'B', 0x3f, 0xff, 0xff, 0xff], b"\0\0".to_vec()]);
    assert_eq!(answered, [""; 0]);
    let (answered, _) = lines(&[vec![b'B', 0x40, 0, 0, 3]]);
    assert_eq!(answered, ["FATAL 54000 message of 1073741827 bytes is too long"]);
    let (answered, _) = lines(&[vec![b'E', 0x01, 0, 0, 0]]);
    assert_eq!(answered, ["FATAL 54000 message of 16777216 bytes is too long"]);
}

#[test]
fn bad_input_is_refused_and_writes_nothing() {
    let (answered, log) = lines(&[
        parse("s", EMIT, &[]),
        bind("", "s", false, &[b"t", b"p\xff", b"x"]),
        sync(),
        bind("", "s", false, &[b"t", b"p", b"x\0y"]),
        sync(),
        bind("", "s", false, &[b"t", b"p"]),
        sync(),
        parse("b", EMIT, &[16, 25, 17]),
        bind("", "b", false, &[b"t", b"p", b"\\x1"]),
        sync(),
        execute("", 0),
        sync(),
        execute("nope", 0),
        sync(),
        message(b'B', b"\0s\0\0\x01"),
        sync(),
        message(b'd', b"stray"),
        message(b'c', b""),
        query("select pg_logical_emit_message(true, 'a')"),
    ]);
    let errors: Vec<&str> =
        answered.iter().map(String::as_str).filter(|line| line.starts_with(['E', 'F'])).collect();
    assert_eq!(
        errors,
        [
            "ERROR 22021 invalid byte sequence for encoding \"UTF8\": 0xff",
            "ERROR 22021 invalid byte sequence for encoding \"UTF8\": 0x00",
            "ERROR 08P01 bind message supplies 2 parameters, but prepared statement \"s\" requires 3",
            "ERROR 22023 invalid hexadecimal data: odd number of digits",
            "ERROR 34000 portal \"\" does not exist",
            "ERROR 34000 portal \"nope\" does not exist",
            "ERROR 08P01 insufficient data left in message",
            "ERROR 42883 function pg_logical_emit_message(boolean, unknown) does not exist @8",
        ]
    );
    assert_eq!(log, [""; 0]);
}

/// A client that waits for answers.
struct Live {
    near: DuplexStream,
    read: Vec<u8>,
    sessions: Arc<Sessions>,
    key: Vec<u8>,
    terminate: watch::Sender<bool>,
    session: JoinHandle<Served>,
}

impl Live {
    fn new(hub: &Arc<OwnHub>) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let terminate = watch::Sender::new(false);
        let params = params_of(Arc::<OwnHub>::clone(hub), &terminate);
        let sessions = Arc::clone(&params.sessions);
        let key = params.member.interrupts.key().bytes().to_vec();
        let session = async { serve(far, Vec::new(), params).await.unwrap() };
        let session = tokio::task::spawn_local(session);
        Self { near, read: Vec::new(), sessions, key, terminate, session }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.near.write_all(bytes).await.unwrap();
    }

    /// Messages up to ReadyForQuery or the end.
    async fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            while let Some(frame) = decode_frame(&self.read, 1 << 20).unwrap() {
                lines.push(show_message(frame.kind, frame.body));
                let (kind, len) = (frame.kind, frame.len);
                self.read.drain(..len);
                if kind == b'Z' {
                    return lines;
                }
            }
            if self.near.read_buf(&mut self.read).await.unwrap() == 0 {
                return lines;
            }
        }
    }
}

async fn until(hub: &OwnHub) {
    while !hub.is_waiting() {
        tokio::task::yield_now().await;
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, test).await.expect("the test hangs");
    });
}

const CANCELED: &str =
    "WARNING 01000 canceling wait for synchronous replication due to user request";
const STOPPED: &str = "WARNING 57P01 canceling the wait for synchronous replication and \
                       terminating connection due to administrator command";
const ONE: &str = "select pg_logical_emit_message(true, 'p', 'x')";

#[test]
fn a_cancel_request_ends_the_wait_and_the_commit_stands() {
    run(async {
        let hub = OwnHub::new(true);
        let mut client = Live::new(&hub);
        client.send(&[query(ONE), query("select 5")].concat()).await;
        until(&hub).await;
        client.sessions.cancel_request(99, &client.key[1..]);
        client.sessions.cancel_request(98, &client.key);
        tokio::task::yield_now().await;
        assert!(hub.is_waiting());
        client.sessions.cancel_request(99, &client.key);
        assert_eq!(
            client.answer().await,
            [CANCELED, "T pg_logical_emit_message:3220", "0/1010", "C SELECT 1", "Z I"]
        );
        // What was sent meanwhile is answered after it.
        assert_eq!(client.answer().await, ["T ?column?:23", "5", "C SELECT 1", "Z I"]);
        client.send(&query(&format!("begin; {ONE}; commit"))).await;
        until(&hub).await;
        client.sessions.cancel_request(99, &client.key);
        let answer = client.answer().await;
        assert_eq!(answer[4..], [CANCELED, "C COMMIT", "Z I"]);
        // Without standbys to wait for, there is nothing to cancel.
        client.send(&query(&format!("set synchronous_commit = local; {ONE}"))).await;
        assert_eq!(client.answer().await.last().unwrap(), "Z I");
    });
}

#[test]
fn a_stopping_server_ends_the_wait_and_says_no_more() {
    run(async {
        let hub = OwnHub::new(true);
        let mut client = Live::new(&hub);
        client.send(&query(ONE)).await;
        until(&hub).await;
        client.terminate.send_replace(true);
        assert_eq!(client.answer().await, [STOPPED]);
        assert_eq!(client.session.await.unwrap(), Served::Silenced);
        // One that is idle is told by its caller.
        let client = Live::new(&hub);
        client.terminate.send_replace(true);
        assert_eq!(client.session.await.unwrap(), Served::Terminated);
    });
}

#[test]
fn a_client_that_goes_ends_its_wait() {
    run(async {
        let hub = OwnHub::new(true);
        let mut client = Live::new(&hub);
        client.send(&[query(ONE), query("begin"), query(ONE)].concat()).await;
        until(&hub).await;
        drop(client.near);
        drop(client.session.await);
        assert!(!hub.is_waiting());
        assert_eq!(hub.log(), ["p:x commit flush"]);
    });
}

#[test]
fn a_reader_waits_for_a_position() {
    run(async {
        let hub = OwnHub::new(false);
        let mut client = Live::new(&hub);
        let wait = |lsn: &str, with: &str| query(&format!("wait for lsn '{lsn}' with ({with})"));
        client.send(&wait("0/1000", "mode 'primary_flush'")).await;
        assert_eq!(client.answer().await, ["T status:25", "success", "C WAIT", "Z I"]);
        client.send(&wait("0/2000", "mode 'PRIMARY_FLUSH', timeout '1h'")).await;
        until(&hub).await;
        hub.flush(Lsn(0x2000));
        assert_eq!(client.answer().await[1], "success");
        client.send(&wait("0/9000", "mode 'primary_flush', timeout 1")).await;
        assert_eq!(
            client.answer().await[0],
            "ERROR 57014 timed out while waiting for target LSN 0/9000 to be flushed; current \
             primary_flush LSN 0/2000"
        );
        client.send(&wait("0/9000", "mode 'primary_flush', timeout '1ms', no_throw")).await;
        assert_eq!(client.answer().await[1], "timeout");
        client.send(&wait("0/9000", "mode 'primary_flush'")).await;
        until(&hub).await;
        assert!(client.sessions.cancel(99));
        let canceled = "ERROR 57014 canceling statement due to user request";
        assert_eq!(client.answer().await, [canceled, "Z I"]);
        client.send(&query("wait for lsn '0/1'")).await;
        assert_eq!(client.answer().await[0], "ERROR 55000 recovery is not in progress");
        client.send(&wait("0/1", "no_throw")).await;
        assert_eq!(client.answer().await[1], "not in recovery");
        client.send(&wait("0/1", "mode 'x'")).await;
        let unknown = "ERROR 22023 unrecognized value for WAIT option \"mode\": \"x\"";
        assert_eq!(client.answer().await[0], unknown);
        client.send(&wait("0/9000", "mode 'primary_flush'")).await;
        until(&hub).await;
        assert!(client.sessions.terminate(99));
        let ended = "FATAL 57P01 terminating connection due to administrator command";
        assert_eq!(client.answer().await, [ended]);
    });
}

#[test]
fn levels_are_those_of_the_session_the_transaction_and_the_start() {
    let (lines, log) = lines(&[
        query("set synchronous_commit = remote_apply"),
        query(ONE),
        query("set synchronous_commit = Remote_Write"),
        query(ONE),
        query(&format!("begin; set local synchronous_commit to local; {ONE}; commit; {ONE}")),
        query("set synchronous_commit = sometimes"),
        query("set synchronous_commit = 0; show synchronous_commit"),
        query(ONE),
    ]);
    assert_eq!(
        log,
        [
            "p:x commit apply",
            "p:x commit write",
            "p:x commit local",
            "p:x commit write",
            "p:x commit nothing"
        ]
    );
    let invalid = "ERROR 22023 invalid value for parameter \"synchronous_commit\": \"sometimes\"";
    assert!(lines.contains(&invalid.to_owned()), "{lines:?}");
    assert!(lines.contains(&"off".to_owned()), "{lines:?}");
}

#[test]
fn large_content_may_be_a_literal_and_a_parameter_and_nothing_else_may() {
    let content = "x".repeat(2 << 20);
    let (lines, log) = lines(&[
        query(&format!("select pg_logical_emit_message(true, 'p', '{content}')")),
        parse("", "select length($1)", &[]),
        bind("", "", false, &[content.as_bytes()]),
        sync(),
        parse("", EMIT, &[]),
        bind("named", "", false, &[b"t", b"p", content.as_bytes()]),
        sync(),
    ]);
    assert_eq!(log, ["p:2097152 bytes commit flush"]);
    let errors: Vec<&String> = lines.iter().filter(|line| line.starts_with("ERROR")).collect();
    assert_eq!(
        errors,
        [
            "ERROR 54000 parameter is too large",
            "ERROR 54000 a message of more than 1 MB can be bound to the unnamed portal only",
        ]
    );
}

#[test]
fn waiters_and_copies_are_seen() {
    let mut state = super::snapshot(false);
    state.sync_waits = vec![walhub_hub::api::append::SyncWaitRow {
        pid: 7,
        level: walhub_proto::syncrep::SynchronousCommit::On,
        lsn: Lsn(0x2000),
        since: crate::clock::now(),
        standby: Some("s1".to_owned()),
    }];
    let sql =
        "select pid, level, lsn, waiting < interval '1 h' as young, standby from walhub.sync_wait";
    assert_eq!(super::answer_of(state, sql)[1], "7|on|0/2000|t|s1");
    assert_eq!(super::answer("select * from sync_wait")[0].get(..11), Some("ERROR 42P01"));
    run(async {
        let hub = OwnHub::new(false);
        let mut client = Live::new(&hub);
        client.send(&query("copy walhub.messages from stdin")).await;
        client.send(&message(b'd', b"p\tone\np\ttwo\np")).await;
        while client.sessions.copies().is_empty() {
            tokio::task::yield_now().await;
        }
        let (pid, progress) = client.sessions.copies().remove(0);
        assert_eq!((pid, progress.bytes_processed, progress.tuples_processed), (99, 13, 2));
        client.send(&message(b'c', b"")).await;
        assert!(client.answer().await[1].starts_with("ERROR 22P04 missing data"));
        assert_eq!(client.sessions.copies().len(), 0);
    });
}

#[test]
fn what_sessions_do_is_seen() {
    run(async {
        let hub = OwnHub::new(false);
        let mut client = Live::new(&hub);
        let mut seen = Vec::new();
        for sql in ["begin", "set application_name = 'mine'", "select oops", "rollback", "nonsense"]
        {
            client.send(&query(sql)).await;
            client.answer().await;
            let activity = client.sessions.activities().remove(0);
            let state = format!("{:?}", activity.state);
            let in_transaction = activity.xact_start.is_some();
            seen.push((state, activity.query.to_string(), in_transaction));
            assert!(activity.query_start.is_some_and(|start| start <= activity.state_change));
        }
        let is = |state: &str, query: &str, open| (state.to_owned(), query.to_owned(), open);
        assert_eq!(
            seen,
            [
                is("IdleInTransaction", "begin", true),
                is("IdleInTransaction", "set application_name = 'mine'", true),
                is("IdleInFailedTransaction", "select oops", true),
                is("Idle", "rollback", false),
                is("Idle", "nonsense", false),
            ]
        );
        assert_eq!(client.sessions.activities()[0].client.application_name, "test");
    });
}
