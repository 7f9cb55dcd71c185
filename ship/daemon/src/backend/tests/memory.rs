//! Sessions that want much: memory, and the thread that all of them share.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use walhub_proto::roles::BOOTSTRAP_SUPERUSER;
use walhub_proto::wire::reader::decode_frame;

use super::primary::OwnHub;
use super::protocol::{bind, execute, parse, sync};
use super::{client, message, monitor_alone, query, show_message};
use crate::backend::{BackendParams, Sessions, SettingRow, SettingsView, serve};
use walhub_hub::api::hub::Hub;

const LIMIT: usize = 4 << 20;
/// Bytes between a client and its session: more than any answer that the tests do not read.
const PIPE_LEN: usize = 64 << 10;

struct Limited;

impl SettingsView for Limited {
    fn show(&self, _: &str) -> Option<String> {
        None
    }

    fn all(&self) -> Vec<SettingRow> {
        Vec::new()
    }

    fn sql_memory_limit(&self) -> usize {
        LIMIT
    }
}

/// Sessions of one server.
struct Server {
    hub: Arc<OwnHub>,
    sessions: Arc<Sessions>,
    terminate: watch::Sender<bool>,
}

/// One client; what it has not read yet stays in the pipe.
struct Client {
    stream: DuplexStream,
    read: Vec<u8>,
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let server = Server {
        hub: OwnHub::new(false),
        sessions: Arc::default(),
        terminate: watch::Sender::new(false),
    };
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), test(server)).await.expect("the test hangs");
    });
}

impl Server {
    fn connect_by(&self, pid: u32, pipe_len: usize) -> Client {
        let hub: Arc<dyn Hub<OwnedFd>> = Arc::<OwnHub>::clone(&self.hub);
        let params = BackendParams {
            member: Arc::new(self.sessions.enter(pid, 4, self.terminate.subscribe())),
            sessions: Arc::clone(&self.sessions),
            client: client("test", pid),
            database: "postgres".to_owned(),
            startup_options: BTreeMap::new(),
            hub,
            settings: watch::channel(Arc::new(Limited)).1,
            roles: monitor_alone(),
            authenticated: BOOTSTRAP_SUPERUSER,
            system_user: None,
        };
        let (near, far) = tokio::io::duplex(pipe_len);
        tokio::task::spawn_local(serve(far, Vec::new(), params));
        Client { stream: near, read: Vec::new() }
    }

    fn connect(&self, pid: u32) -> Client {
        self.connect_by(pid, PIPE_LEN)
    }

    /// `used_bytes` and `peak_bytes` of one session, or of all.
    async fn memory(&self, of: &str) -> (usize, usize) {
        let mut client = self.connect(9999);
        let sql = format!("select used_bytes, peak_bytes from walhub.sql_memory where pid {of}");
        let lines = client.ask(&query(&sql)).await;
        let (used, peak) = lines[1].split_once('|').unwrap();
        (used.parse().unwrap(), peak.parse().unwrap())
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Up to ReadyForQuery.
    async fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            while let Some(frame) = decode_frame(&self.read, 1 << 30).unwrap() {
                lines.push(show_message(frame.kind, frame.body));
                let (kind, len) = (frame.kind, frame.len);
                self.read.drain(..len);
                if kind == b'Z' {
                    return lines;
                }
            }
            assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "{lines:?}");
        }
    }

    async fn ask(&mut self, bytes: &[u8]) -> Vec<String> {
        self.send(bytes).await;
        self.answer().await
    }
}

const OUT_OF_MEMORY: &str = "ERROR 53200 out of memory";

#[test]
fn a_query_of_a_gigabyte_is_refused_by_its_length_and_the_session_goes_on() {
    run(async |server| {
        let mut client = server.connect(1);
        let piece = vec![b' '; 1 << 20];
        for (kind, body_len, refusal) in [
            (
                b'Q',
                1020 << 20,
                "ERROR 54000 query text of 1069547520 bytes is longer than 67108864",
            ),
            (b'Q', 8 << 20, OUT_OF_MEMORY),
            (b'B', 8 << 20, OUT_OF_MEMORY),
        ] {
            client.send(&[kind]).await;
            client.send(&u32::try_from(body_len + 4).unwrap().to_be_bytes()).await;
            for _ in 0..body_len / piece.len() {
                client.send(&piece).await;
            }
            if kind == b'B' {
                client.send(&sync()).await;
            }
            assert_eq!(client.answer().await, [refusal, "Z I"]);
        }
        assert_eq!(client.ask(&query("select 7")).await[1], "7");
        let (_, peak) = server.memory("= 1").await;
        assert!(peak < 1 << 20, "{peak}");
    });
}

const EMIT: &str = "select pg_logical_emit_message(true, 'p', $1::bytea)";

#[test]
fn open_transactions_that_hold_too_much_fail_and_what_they_held_is_free() {
    run(async |server| {
        let mut clients: Vec<Client> = (1..=5).map(|pid| server.connect(pid)).collect();
        let content = vec![b'x'; 1500 << 10];
        let emit = [bind("", "s", true, &[&content]), execute("", 0), sync()].concat();
        let mut refused = 0;
        for client in &mut clients {
            client.ask(&query("begin")).await;
            client.ask(&[parse("s", EMIT, &[17]), sync()].concat()).await;
            let lines = client.ask(&emit).await;
            if lines.contains(&OUT_OF_MEMORY.to_owned()) {
                refused += 1;
                assert_eq!(lines.last().unwrap(), "Z E");
            }
        }
        assert!((2..=4).contains(&refused), "{refused} of 5");
        assert!(server.memory("is null").await.1 <= LIMIT);
        // One gives up, and another has its turn.
        assert_eq!(clients[0].ask(&query("rollback")).await, ["C ROLLBACK", "Z I"]);
        let last = clients.last_mut().unwrap();
        last.ask(&query("rollback; begin")).await;
        assert_eq!(last.ask(&emit).await.last().unwrap(), "Z T");
        assert_eq!(last.ask(&query("commit")).await, ["C COMMIT", "Z I"]);
        for client in &mut clients {
            client.ask(&query("rollback")).await;
        }
        let (used, _) = server.memory("is null").await;
        assert_eq!(used, 0);
    });
}

#[test]
fn results_that_nobody_reads_are_counted_and_small_statements_go_on() {
    run(async |server| {
        let long = query("select n, n::text as t from generate_series(1, 10000) n");
        let mut unread: Vec<Client> = (1..=4).map(|pid| server.connect(pid)).collect();
        for client in &mut unread {
            client.send(&long).await;
        }
        // Until all have their rows, or are refused.
        let mut other = server.connect(8);
        let waits = "select count(*) from pg_stat_activity where pid < 8 and state = 'active'";
        while server.memory("is null").await.1 < LIMIT / 2 {
            assert_eq!(other.ask(&query(waits)).await[0], "T count:20");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(other.ask(&query("select 1")).await[1], "1");
        let answers = [unread[0].answer().await, unread[1].answer().await];
        assert!(answers.iter().any(|lines| lines.contains(&"C SELECT 10000".to_owned())));
        for client in &mut unread[2..] {
            client.answer().await;
        }
        let (used, peak) = server.memory("is null").await;
        assert!(used == 0 && peak <= LIMIT, "{used} {peak}");
    });
}

#[test]
fn a_statement_that_takes_long_leaves_the_thread_to_the_others() {
    run(async |server| {
        let turns = Arc::clone(&server.sessions.turns().evaluations);
        let turn = turns.acquire().await.unwrap();
        let (mut long, mut other) = (server.connect(1), server.connect(2));
        let sql = "select count(*) from generate_series(1, 20000) n where n::text like '%9%'";
        long.send(&query(sql)).await;
        for number in 0..100 {
            let lines = other.ask(&query(&format!("select {number}"))).await;
            assert_eq!(lines[1], number.to_string());
        }
        assert!(long.read.is_empty());
        drop(turn);
        assert_eq!(long.answer().await[1], "6878");
    });
}

#[test]
fn a_statement_that_takes_long_hears_cancel_requests_and_its_timeout() {
    run(async |server| {
        let turns = Arc::clone(&server.sessions.turns().evaluations);
        let _turn = turns.acquire().await.unwrap();
        let (mut long, mut other) = (server.connect(1), server.connect(2));
        let sql = query("select count(*) from generate_series(1, 50000) n");
        long.send(&sql).await;
        let active = query("select state from pg_stat_activity where pid = 1");
        while other.ask(&active).await[1] != "active" {}
        other.ask(&query("select pg_cancel_backend(1)")).await;
        let canceled = "ERROR 57014 canceling statement due to user request";
        assert_eq!(long.answer().await, [canceled, "Z I"]);
        long.ask(&query("set statement_timeout = '20ms'")).await;
        let timed_out = "ERROR 57014 canceling statement due to statement timeout";
        assert_eq!(long.ask(&sql).await, [timed_out, "Z I"]);
    });
}

#[test]
fn a_statement_signals_once_however_often_it_is_begun() {
    run(async |server| {
        let signaled = server.sessions.enter(7, 4, server.terminate.subscribe());
        let mut client = server.connect(1);
        // Short, and so long that it is begun here and again on another thread.
        for (number, rows) in [(1, 10), (2, 8_000)] {
            let sql = "select count(*) from generate_series(1, ROWS) n where n > 1 or \
                       pg_cancel_backend(7)";
            let lines = client.ask(&query(&sql.replace("ROWS", &rows.to_string()))).await;
            assert_eq!(lines[1], rows.to_string(), "{lines:?}");
            assert_eq!(signaled.interrupts.cancels(), number);
        }
        // LIMIT is looked at before the messages are read, and again.
        let sql = "select lsn from walhub.messages limit pg_cancel_backend(7)::int";
        client.ask(&query(sql)).await;
        assert_eq!(signaled.interrupts.cancels(), 3);
        // What fails has signaled all the same, as in PostgreSQL.
        client.ask(&query("select pg_cancel_backend(7), 1 / 0")).await;
        assert_eq!(signaled.interrupts.cancels(), 4);
    });
}

#[test]
fn a_long_text_of_statements_lets_others_have_their_turn_and_can_be_canceled() {
    run(async |server| {
        let (mut long, mut other) = (server.connect_by(1, 8 << 20), server.connect(2));
        long.send(&query(&"set application_name = 'a';".repeat(5000))).await;
        tokio::task::yield_now().await;
        assert_eq!(other.ask(&query("select 5")).await[1], "5");
        other.ask(&query("select pg_cancel_backend(1)")).await;
        let lines = long.answer().await;
        let canceled = "ERROR 57014 canceling statement due to user request";
        assert_eq!(lines[lines.len() - 2], canceled, "{} lines", lines.len());
        assert!(lines.len() < 5000);
    });
}

#[test]
fn a_copy_that_holds_too_much_fails_and_leaves_nothing() {
    run(async |server| {
        let mut client = server.connect(1);
        for row_len in [1 << 10, 3 << 20] {
            client.send(&query("copy walhub.messages from stdin")).await;
            let row = [b"p\t", &vec![b'x'; row_len][..], b"\n"].concat();
            for piece in row.repeat((8 << 20) / row_len).chunks(50_000) {
                client.send(&message(b'd', piece)).await;
            }
            client.send(&message(b'c', b"")).await;
            let lines = client.answer().await;
            let last = lines[lines.len() - 2].split(" [").next().unwrap();
            assert_eq!((last, lines.last().unwrap().as_str()), (OUT_OF_MEMORY, "Z I"));
        }
        assert_eq!(server.hub.log(), [""; 0]);
        let (used, peak) = server.memory("is null").await;
        assert!(used == 0 && peak <= LIMIT, "{used} {peak}");
    });
}
