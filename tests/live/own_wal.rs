//! A hub with WAL of its own: real tools read it, kill -9 loses nothing that was acknowledged.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use walhub_tests::client::SqlServer;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{Process, command, said};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::wait::wait_until;
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
            (Process::spawn("emitter", &mut psql, &log), log)
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
    fn finish(mut self) -> BTreeSet<u64> {
        let mut acknowledged = BTreeSet::new();
        for (process, log) in &mut self.clients {
            process.wait_exit();
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
fn kill9_loses_nothing(segment_mb: u32, rounds: u64) {
    const CLIENTS: u64 = 4;
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").build(&scratch);
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
    kill9_loses_nothing(1, 5);
}

#[test]
fn kill9_under_load_loses_no_acknowledged_message_in_segments_of_16_mb() {
    kill9_loses_nothing(16, 3);
}

#[test]
fn kill9_under_load_loses_no_acknowledged_message_in_segments_of_64_mb() {
    kill9_loses_nothing(64, 2);
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
