//! A hub with WAL of its own: real tools read it, kill -9 loses nothing that was acknowledged.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use walhub_peers::client::Client;
use walhub_proto::page::{LONG_HEADER_LEN, PAGE_LEN, SHORT_HEADER_LEN};
use walhub_proto::wire::frontend::LARGE_MESSAGE_LIMIT;
use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, segment_names};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{Process, command, said, spawn, wait_exit};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::wait::{DEADLINE, wait_until};
use walhub_tests::waldump::waldump;

/// Messages that one session tries to emit.
const MESSAGES_PER_CLIENT_MAX: u64 = 100_000;
/// A statement prints its message's number, where it ends, and this.
const ACKNOWLEDGED: &str = "committed";

/// Sessions that emit numbered messages and remember which were acknowledged.
struct Emitters {
    clients: Vec<(Process, Log)>,
}

impl Emitters {
    /// `round` keeps the numbers of several starts apart; each message has a transaction of its own.
    fn start(server: &impl SqlServer, clients: u64, round: u64, scratch: &Scratch) -> Self {
        let start_one = |client: u64| {
            let first = (round * clients + client) * MESSAGES_PER_CLIENT_MAX;
            let mut script = String::new();
            for id in first..first + MESSAGES_PER_CLIENT_MAX {
                let _ = writeln!(
                    script,
                    "select {id}, pg_logical_emit_message(true, 'load', '{id}'), '{ACKNOWLEDGED}';"
                );
            }
            let path = scratch.path(&format!("emitter-{first}.sql"));
            fs::write(&path, script).expect("a script");
            let mut psql = command("stdbuf");
            psql.arg("--output=L").arg(program("psql"));
            psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &server.endpoint().database()]);
            psql.arg("-f").arg(path);
            let log = Log::new("emitter");
            (spawn(&mut psql, &log), log)
        };
        Self { clients: (0..clients).map(start_one).collect() }
    }

    #[track_caller]
    fn wait_more(&self, more: usize) {
        let count = || -> usize {
            let clients = self.clients.iter();
            clients.map(|(_, log)| log.count(log.beginning(), ACKNOWLEDGED)).sum()
        };
        let before = count();
        wait_until("more messages are acknowledged", || count() >= before + more);
    }

    /// What was acknowledged, once every session has lost its server.
    #[track_caller]
    fn finish(self) -> BTreeSet<u64> {
        let mut acknowledged = BTreeSet::new();
        for (process, log) in &self.clients {
            wait_exit(process);
            log.wait_closed();
            let text = log.text(log.beginning());
            let lines = text.lines().filter(|line| line.ends_with(ACKNOWLEDGED));
            let ids = lines.map(|line| line.split('|').next().and_then(|id| id.parse().ok()));
            acknowledged.extend(ids.map(|id: Option<u64>| id.expect("a number")));
        }
        acknowledged
    }
}

/// Numbers of the messages whose transaction is committed in `dir`, in their order.
#[track_caller]
fn committed(dir: &Path) -> Vec<u64> {
    let dump = waldump(dir, &[]);
    dump.assert_ends_well();
    let committed = dump.committed();
    let messages = dump.records.iter().filter(|record| record.contains("prefix \"load\""));
    let number = |record: &String| {
        let (_, rest) = record.split_once("tx:").expect("a transaction");
        let xid: u64 = rest.split(',').next()?.trim().parse().ok()?;
        let (_, payload) = record.rsplit_once("bytes): ").expect("a payload");
        let byte = |hex: &str| u8::from_str_radix(hex, 16).expect("a byte");
        let content = payload.split_whitespace().map(byte).collect();
        let content = String::from_utf8(content).expect("digits");
        committed.contains(&xid).then(|| content.parse().expect("a number"))
    };
    messages.filter_map(number).collect()
}

/// All that was acknowledged is there once, and besides at most what was under way.
#[track_caller]
fn assert_nothing_lost(found: &[u64], acknowledged: &BTreeSet<u64>, under_way: usize) {
    let unique: BTreeSet<u64> = found.iter().copied().collect();
    assert_eq!(unique.len(), found.len(), "a message is there twice");
    let lost: Vec<&u64> = acknowledged.difference(&unique).collect();
    assert!(lost.is_empty(), "lost of {}: {lost:?}", acknowledged.len());
    let more = unique.len() - acknowledged.len();
    assert!(more <= under_way, "{more} messages were never acknowledged, {under_way} under way");
}

#[track_caller]
fn kill9_loses_nothing(segment_mb: u32, rounds: u64, dedicated_wal_core: &str) {
    const CLIENTS: u64 = 4;
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").set("dedicated_wal_core", dedicated_wal_core).build(&scratch);
    hub.init(segment_mb);
    hub.start();
    let mut acknowledged = BTreeSet::new();
    let mut under_way = 0;
    for round in 0..rounds {
        let emitters = Emitters::start(&hub, CLIENTS, round, &scratch);
        // Not at the same moment of each round.
        emitters.wait_more(usize::try_from(100 + 171 * round).expect("few"));
        if round % 3 == 1 {
            hub.psql("select pg_switch_wal()");
            hub.psql("checkpoint");
        }
        hub.kill9();
        acknowledged.extend(emitters.finish());
        under_way += usize::try_from(CLIENTS).expect("few");
        // Whatever the crash point, before and after the recovery.
        hub.start();
        assert_nothing_lost(&committed(&hub.pg_wal()), &acknowledged, under_way);
    }
    assert!(hub.stop(StopMode::Fast).success());
    let dump = waldump(&hub.pg_wal(), &[]);
    dump.assert_ends_well();
    let last = dump.records.last().expect("a record");
    assert!(last.contains("CHECKPOINT_SHUTDOWN"), "{last}");
}

#[test]
fn kill9_under_load_loses_no_acknowledged_message_in_segments_of_1_mb() {
    kill9_loses_nothing(1, 5, "off");
}

#[test]
fn kill9_under_load_loses_no_acknowledged_message_in_segments_of_16_mb() {
    kill9_loses_nothing(16, 3, "on");
}

#[test]
fn kill9_under_load_loses_no_acknowledged_message_in_segments_of_64_mb() {
    kill9_loses_nothing(64, 2, "off");
}

#[test]
fn what_is_acknowledged_is_on_both_synchronous_standbys_when_the_primary_is_killed() {
    const CLIENTS: u64 = 3;
    let scratch = Scratch::new();
    let mut hub =
        Hub::named("own").set("synchronous_standby_names", "2 (received, second)").build(&scratch);
    hub.init(1);
    hub.start();
    let second = Hub::named("second").upstream(hub.endpoint().conninfo("second")).start(&scratch);
    let mut receive = ReceiveWal::start(&hub, "received", &["--synchronous"], &scratch);
    hub.wait_streaming("second");
    hub.wait_streaming("received");
    let emitters = Emitters::start(&hub, CLIENTS, 0, &scratch);
    emitters.wait_more(700);
    hub.kill9();
    let acknowledged = emitters.finish();
    receive.wait();
    // Of the one that was being written, pg_receivewal keeps what it has.
    for entry in fs::read_dir(receive.dir()).expect("a directory") {
        let path = entry.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::rename(&path, path.with_extension("")).expect("renamed");
        }
    }
    let under_way = usize::try_from(CLIENTS).expect("few");
    for dir in [receive.dir(), &second.pg_wal()] {
        assert_nothing_lost(&committed(dir), &acknowledged, under_way);
    }
    hub.start();
    assert_nothing_lost(&committed(&hub.pg_wal()), &acknowledged, under_way);
    // What was under way counts as committed, and the standbys go on from where they are.
    hub.wait_streaming("second");
    let lsn = hub.psql("select pg_current_wal_flush_lsn()");
    second.wait_received(&lsn);
    assert_eq!(committed(&second.pg_wal()), committed(&hub.pg_wal()));
}

#[test]
fn init_refuses_a_bad_segment_size_and_a_directory_with_wal() {
    let scratch = Scratch::new();
    let data = scratch.path("own").display().to_string();
    for (size, want) in [
        ("0", "power of"),
        ("3", "power of"),
        ("2048", "power of"),
        ("16MB", "invalid value"),
        ("-1", ""),
    ] {
        let output = walhub(["init", "-D", &data, "--wal-segsize", size]);
        let text = said(&output);
        assert!(!output.status.success() && text.contains(want), "{size}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        assert!(!Path::new(&data).join("walhub.control").exists(), "{size}");
    }
    let hub = Hub::named("own").build(&scratch);
    hub.init(1);
    let again = walhub(["init", "-D", &data]);
    assert!(!again.status.success());
    assert!(said(&again).contains("has WAL in it already"), "{}", said(&again));
    // A directory with anything else in it is not taken over.
    let other = scratch.path("other");
    fs::create_dir(&other).expect("a directory");
    fs::write(other.join("precious"), "data").expect("a file");
    let output = walhub(["init", "-D", &other.display().to_string()]);
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(fs::read_dir(&other).expect("a directory").count(), 1);
}

#[test]
fn a_primary_takes_no_upstream_and_a_relay_needs_one() {
    let scratch = Scratch::new();
    let mut own = Hub::named("own").start(&scratch);
    let mut relay = Hub::named("relay").upstream(own.endpoint().conninfo("relay")).start(&scratch);
    own.wait_streaming("relay");
    assert_eq!(own.psql("select pg_is_in_recovery()"), "f");
    assert_eq!(relay.psql("select pg_is_in_recovery()"), "t");
    let error = relay.psql_error("select pg_logical_emit_message(true, 'a', 'b')");
    assert!(error.contains("25006"), "{error}");
    assert!(relay.stop(StopMode::Fast).success());
    assert!(own.stop(StopMode::Fast).success());
    own.set_upstream("host=127.0.0.1 port=1 user=postgres");
    let output = walhub(own.serve_arguments());
    let text = said(&output);
    assert!(!output.status.success() && text.contains("has WAL of its own"), "{text}");
    // A relay without its upstream goes on to serve what it has, and writes nothing.
    let mut alone = Hub::named("alone").data(relay.data().to_owned()).build(&scratch);
    alone.start();
    assert_eq!(alone.psql("select pg_is_in_recovery()"), "t");
    let error = alone.psql_error("select pg_logical_emit_message(true, 'a', 'b')");
    assert!(error.contains("25006"), "{error}");
}

/// A client that sends its messages in pieces, as large ones are.
struct RawClient(BufReader<TcpStream>);

impl RawClient {
    fn connect(server: &impl SqlServer) -> Self {
        let stream = Client::database(server.endpoint()).expect("a session").into_socket();
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the hub reads");
    }

    /// Everything before the content in the messages that emit it; `len` is that of the content.
    fn begin_message(&mut self, prefix: &str, len: usize) {
        let parse = b"\0select pg_logical_emit_message(true, $1, $2)\0\0\x02\0\0\0\x19\0\0\0\x11";
        self.send(&[b"P", &length(parse.len())[..], parse].concat());
        let word = |len: usize| u32::try_from(len).expect("a length").to_be_bytes();
        // Binary parameters, and results as text.
        let head = b"\0\0\0\x01\0\x01\0\x02";
        let head = [&head[..], &word(prefix.len()), prefix.as_bytes(), &word(len)].concat();
        self.send(&[b"B", &length(head.len() + len + 2)[..], &head].concat());
    }

    /// Everything behind the content.
    fn end_message(&mut self) {
        self.send(b"\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    }

    /// The messages up to ReadyForQuery or the end of the connection, bytes that are no text as dots.
    fn answer(&mut self) -> String {
        let mut answer = String::new();
        let mut head = [0; 5];
        while self.0.read_exact(&mut head).is_ok() {
            let len = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
            let mut body = vec![0; usize::try_from(len - 4).expect("short")];
            self.0.read_exact(&mut body).expect("a whole message");
            answer.push(char::from(head[0]));
            answer
                .extend(body.iter().map(|b| {
                    if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }
                }));
            if head[0] == b'Z' {
                break;
            }
        }
        answer
    }
}

/// The length word of a message with such a body.
fn length(body: usize) -> [u8; 4] {
    u32::try_from(4 + body).expect("a length").to_be_bytes()
}

/// The most memory that the process had at a time, in megabytes.
fn peak_memory_mb(hub: &Hub) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", hub.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// Whether the WAL in `dir` holds `content` in one piece, but for the headers of its pages.
fn holds(dir: &Path, content: &[u8]) -> bool {
    let mut wal = Vec::new();
    for name in segment_names(dir).expect("a directory of segments") {
        let segment = fs::read(dir.join(name)).expect("a segment");
        for (number, page) in segment.chunks(PAGE_LEN).enumerate() {
            let header = if number == 0 { LONG_HEADER_LEN } else { SHORT_HEADER_LEN };
            wal.extend_from_slice(&page[header..]);
        }
    }
    let first = &content[..64];
    let start = wal.windows(first.len()).position(|window| window == first);
    start.is_some_and(|start| wal[start..].starts_with(content))
}

#[test]
fn a_message_of_64_mb_spans_segments_of_1_mb_while_other_sessions_commit() {
    const LEN: usize = 64 << 20;
    const PIECE: usize = 1 << 20;
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").set("wal_keep_size", "256MB").build(&scratch);
    hub.init(1);
    hub.start();
    let mut receive = ReceiveWal::start(&hub, "received", &[], &scratch);
    hub.wait_streaming("received");
    let emitters = Emitters::start(&hub, 2, 0, &scratch);
    // No two of its pages are equal.
    let content: Vec<u8> = (0..LEN as u64 / 8).flat_map(|i| (i * i + 1).to_le_bytes()).collect();
    let mut client = RawClient::connect(&hub);
    client.begin_message("large", LEN);
    let (begun, rest) = content.split_at(LEN / 2);
    begun.chunks(PIECE).for_each(|piece| client.send(piece));
    emitters.wait_more(200);
    rest.chunks(PIECE).for_each(|piece| client.send(piece));
    client.end_message();
    let answer = client.answer();
    assert!(answer.contains("CSELECT 1.") && answer.ends_with("ZI"), "{answer}");
    emitters.wait_more(200);
    // The message as it came, once, and the tail that all WAL goes through.
    let peak = peak_memory_mb(&hub);
    assert!(peak < 64 + 64 + 40, "{peak} MB");
    // Once it has the last segment that belongs to the message alone.
    receive.finish_at("00000001000000000000003F");
    hub.kill9();
    let acknowledged = emitters.finish();
    hub.start();
    let dump = waldump(&hub.pg_wal(), &["--rmgr=Transaction"]);
    dump.assert_ends_well();
    assert!(dump.committed().len() > acknowledged.len(), "a transaction is lost");
    assert!(holds(&hub.pg_wal(), &content), "the large message is not there");
    assert_equal_segments(&hub.pg_wal(), receive.dir(), "000000010000000000000040", 63);
}

#[test]
fn what_no_record_can_hold_is_refused_and_the_session_goes_on() {
    const RECORD_LEN_MAX: usize = 1020 << 20;
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("sql_memory_limit", "1200MB").start(&scratch);
    let before = hub.psql("select pg_current_wal_insert_lsn()");
    let mut client = RawClient::connect(&hub);
    client.begin_message("large", RECORD_LEN_MAX);
    let piece = vec![b'x'; 1 << 20];
    (0..RECORD_LEN_MAX / piece.len()).for_each(|_| client.send(&piece));
    client.end_message();
    let answer = client.answer();
    let detail =
        "WAL record would be 1069547579 bytes (of maximum 1069547520 bytes); rmid 21 flags 0.";
    for part in ["SERROR.", "CXX000.", "Moversized WAL record.", detail] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert!(answer.ends_with("ZI"), "{answer}");
    // It is not even copied.
    let peak = peak_memory_mb(&hub);
    assert!(peak < 1020 + 64, "{peak} MB");
    // A message that cannot be true is refused by its length.
    client.begin_message("large", LARGE_MESSAGE_LIMIT);
    let answer = client.answer();
    for part in ["SFATAL.", "C54000.", "bytes is too long."] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert_eq!(hub.psql("select pg_current_wal_insert_lsn()"), before);
    hub.psql("select pg_logical_emit_message(true, 'after', 'it')");
}
