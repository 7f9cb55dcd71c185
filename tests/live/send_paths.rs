//! How WAL goes to standbys: the path that is counted, the settings that choose it, and the socket.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, segment_names};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{quick_command, run_ok, said, send_signal};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::wait::wait_until;

/// The segment that the next byte goes to.
const SEGMENT: &str = "select pg_walfile_name(pg_current_wal_insert_lsn() + 1)";
/// Segments of 1 MB that [`write_wal`] fills.
const FILLED: usize = 6;

/// Bytes of WAL to standbys by path, of all cores, and how many rounds were put off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counted {
    tail: u64,
    sendfile: u64,
    read: u64,
    put_off: u64,
}

impl Counted {
    #[track_caller]
    fn of(hub: &Hub) -> Self {
        let row = hub.psql(
            "select sum(tail_bytes), sum(sendfile_bytes), sum(read_bytes), sum(rounds_put_off) \
             from walhub.core_stats",
        );
        let numbers: Vec<u64> = row.split('|').map(|n| n.parse().expect("a number")).collect();
        let &[tail, sendfile, read, put_off] = &numbers[..] else { panic!("{row}") };
        Self { tail, sendfile, read, put_off }
    }
}

/// A hub with segments of 1 MB; nothing was written yet.
fn small_segments(hub: Hub) -> Hub {
    let mut hub = hub;
    hub.init(1);
    hub.start();
    hub
}

/// Fills segments, and gives the name of the last one.
#[track_caller]
fn write_wal(hub: &Hub) -> String {
    for _ in 0..FILLED {
        hub.psql(
            "select count(pg_logical_emit_message(false, 'p', repeat('0123456789abcdef', 4096))) \
             from generate_series(1, 15)",
        );
        hub.psql("select pg_switch_wal()");
    }
    segment_names(&hub.pg_wal()).expect("pg_wal")[FILLED - 1].clone()
}

/// pg_receivewal from the beginning to the end of the segment `last`, compared byte by byte.
#[track_caller]
fn receive(hub: &Hub, slot: &str, last: &str, scratch: &Scratch) {
    let mut receive = ReceiveWal::start(hub, slot, &["--slot", slot], scratch);
    receive.finish_at(last);
    assert_equal_segments(&hub.pg_wal(), receive.dir(), &hub.psql(SEGMENT), FILLED);
    hub.wait_sql("select count(*) from pg_stat_replication", "0");
}

/// Whether segments are written past the page cache; only then they are sent from it.
fn is_direct(hub: &Hub) -> bool {
    let warning = "is on a file system without O_DIRECT";
    hub.log().count(hub.log().beginning(), warning) == 0
}

/// Has the page cache hold every segment, or none.
#[track_caller]
fn cache_segments(hub: &Hub, hold: bool) {
    for name in segment_names(&hub.pg_wal()).expect("pg_wal") {
        let path = hub.pg_wal().join(name);
        if hold {
            assert!(!fs::read(path).expect("a segment").is_empty());
        } else {
            let file = format!("if={}", path.display());
            run_ok(Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]));
        }
    }
}

#[test]
fn a_live_standby_is_counted_from_memory_and_a_late_one_by_the_path_that_is_forced() {
    let scratch = Scratch::new();
    let mut hub = small_segments(Hub::named("own").build(&scratch));
    for slot in ["live", "warm", "cold", "forced"] {
        hub.psql(&format!("select pg_create_physical_replication_slot('{slot}', true)"));
    }
    let begin = hub.psql("select restart_lsn from pg_replication_slots where slot_name = 'live'");
    let none = Counted { tail: 0, sendfile: 0, read: 0, put_off: 0 };
    assert_eq!(Counted { put_off: 0, ..Counted::of(&hub) }, none);
    let last = write_wal(&hub);
    let shipped = 6_u64 << 20;
    // The next record will lie behind its page's header.
    let inserted = hub.psql(&format!("select pg_current_wal_insert_lsn() - '{begin}'"));
    assert_eq!(inserted, (shipped + 40).to_string());

    receive(&hub, "live", &last, &scratch);
    let live = Counted::of(&hub);
    assert!(live.tail >= shipped, "{live:?} of {shipped}");
    assert_eq!((live.sendfile, live.read), (0, 0));

    // After a start nothing is in memory.
    let mut late = |slot, path, is_held| {
        assert!(hub.stop(StopMode::Fast).success());
        hub.set("catchup_path", path);
        hub.start();
        cache_segments(&hub, is_held);
        receive(&hub, slot, &last, &scratch);
        let counted = Counted::of(&hub);
        assert!(counted.tail + counted.sendfile + counted.read >= shipped, "{counted:?}");
        (counted, is_direct(&hub))
    };
    let (forced, _) = late("forced", "read", true);
    assert!(forced.read >= shipped && forced.sendfile == 0, "{forced:?} of {shipped}");
    let (warm, is_direct) = late("warm", "auto", true);
    let (cold, _) = late("cold", "auto", false);
    if is_direct {
        assert!(warm.sendfile >= shipped && warm.read == 0, "{warm:?} of {shipped}");
        assert!(cold.read > 0, "{cold:?}");
    } else {
        assert_eq!((warm.sendfile, cold.sendfile), (0, 0));
    }
}

#[test]
fn coalesce_us_puts_rounds_off_under_load_and_0_never() {
    // Where a flush takes no time, rounds follow each other without a pause.
    let memory = tempfile::Builder::new().prefix("walhub-test-").tempdir_in("/dev/shm");
    let memory = memory.expect("a directory in /dev/shm");
    let scratch = Scratch::new();
    let script = scratch.path("emit");
    fs::write(&script, "select pg_logical_emit_message(true, 'p', 'c');\n").expect("a script");
    for value in ["0", "1", "1000", "100000"] {
        let name = format!("coalesce_{value}");
        let hub = Hub::named(&name).data(memory.path().join(&name)).set("coalesce_us", value);
        let hub = small_segments(hub.build(&scratch));
        let start = |number: u32| {
            let name = format!("{name}_{number}");
            let receive = ReceiveWal::start(&hub, &name, &[], &scratch);
            hub.wait_streaming(&name);
            receive
        };
        let mut receives: Vec<_> = (0..4).map(start).collect();
        let load = || {
            let mut pgbench = quick_command(program("pgbench"));
            pgbench.args(["-n", "-c", "4", "-t", "200", "-f"]).arg(&script);
            run_ok(pgbench.arg(hub.endpoint().database()));
            Counted::of(&hub).put_off
        };
        match value {
            "0" => assert_eq!((0..5).map(|_| load()).sum::<u64>(), 0),
            // A pause of a microsecond is over before anybody looks.
            "1" => drop(load()),
            _ => wait_until("a round is put off", || load() > 0),
        }
        let last = hub.psql(SEGMENT);
        hub.psql("select pg_switch_wal()");
        for receive in &mut receives {
            receive.finish_at(&last);
            assert_equal_segments(&hub.pg_wal(), receive.dir(), &hub.psql(SEGMENT), 1);
        }
    }
}

/// What the kernel says of the socket of the walsender of `name`.
#[track_caller]
fn socket(hub: &Hub, name: &str) -> String {
    let port = hub.psql(&format!(
        "select client_port from pg_stat_replication where application_name = '{name}'"
    ));
    let host = hub.endpoint();
    let filter = format!("src {}:{} and dport = :{port}", host.host, host.port);
    let text = run_ok(Command::new("ss").args(["-tinOmH", &filter]));
    assert_eq!(text.lines().count(), 1, "{filter}: {text}");
    text
}

/// The number after `name` in what `ss` says.
fn number(socket: &str, name: &str) -> u64 {
    let after = socket.split_once(name).map_or("", |(_, after)| after);
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn has_word(socket: &str, word: &str) -> bool {
    socket.split_ascii_whitespace().any(|shown| shown == word)
}

#[test]
fn tcp_settings_are_those_of_the_walsenders_socket() {
    let system = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    let system = system.expect("the system's congestion control").trim().to_owned();
    let other = if system == "reno" { "cubic" } else { "reno" };
    let scratch = Scratch::new();
    let hub = Hub::named("own").start(&scratch);
    let connect = |name: &str| {
        let receive = ReceiveWal::start(&hub, name, &[], &scratch);
        hub.wait_streaming(name);
        receive
    };
    let set = |lines: &str, show: &str, want: &str| {
        fs::write(hub.data().join("walhub.toml"), lines).expect("walhub.toml");
        send_signal(hub.pid(), Signal::HUP);
        hub.wait_sql(&format!("show {show}"), want);
    };
    let _auto = connect("auto");
    let unpaced = if system.starts_with("bbr") { "reno" } else { &system };
    assert!(has_word(&socket(&hub, "auto"), unpaced), "{}", socket(&hub, "auto"));
    set("tcp_congestion_control = \"\"\n", "tcp_congestion_control", "");
    let _system = connect("system");
    assert!(has_word(&socket(&hub, "system"), &system), "{}", socket(&hub, "system"));

    // A reload is for the connections that follow.
    let lines = format!("tcp_congestion_control = \"{other}\"\nwal_sender_sndbuf = \"100kB\"\n");
    set(&lines, "wal_sender_sndbuf", "100kB");
    let _chosen = connect("chosen");
    let chosen = socket(&hub, "chosen");
    // The kernel doubles it for its own needs.
    assert!(has_word(&chosen, other) && number(&chosen, ",tb") == 200 << 10, "{chosen}");
    assert!(has_word(&socket(&hub, "system"), &system));

    let mark = hub.log().mark();
    set("tcp_congestion_control = \"nosuch\"\n", "tcp_congestion_control", "nosuch");
    let _refused = connect("refused");
    let warning = "WARNING:  could not set options of the connection of standby \"refused\": \
                   TCP_CONGESTION \"nosuch\": No such file or directory";
    hub.log().wait_for(mark, warning);
    hub.log().wait_for(mark, "DETAIL:  The settings are tcp_congestion_control, ");
    assert!(has_word(&socket(&hub, "refused"), &system));
}

#[test]
fn tcp_notsent_lowat_bounds_what_waits_in_the_socket_of_a_stalled_standby() {
    /// Much less than a socket holds by itself, and more than the bound and a message.
    const TOLD_APART: u64 = 512 << 10;
    for (lowat, is_bounded) in [("0", false), ("64kB", true)] {
        let scratch = Scratch::new();
        let hub = Hub::named("own").set("tcp_notsent_lowat", lowat);
        let hub = hub.set("wal_sender_timeout", "0").start(&scratch);
        let stalled = ReceiveWal::start(&hub, "stalled", &[], &scratch);
        let _live = ReceiveWal::start(&hub, "live", &["--synchronous"], &scratch);
        hub.wait_streaming("stalled");
        hub.wait_streaming("live");
        stalled.signal(Signal::STOP);
        hub.psql(
            "select count(pg_logical_emit_message(true, 'p', repeat('0123456789abcdef', 4096))) \
             from generate_series(1, 512)",
        );
        // Both were sent what there is, as far as the socket takes it.
        hub.wait_sql(
            "select count(*) from pg_stat_replication \
             where application_name = 'live' and flush_lsn = pg_current_wal_flush_lsn()",
            "1",
        );
        let unsent = || number(&socket(&hub, "stalled"), "notsent:");
        wait_until("something waits in the socket", || unsent() > 0);
        if is_bounded {
            assert!(unsent() < TOLD_APART, "{} bytes", unsent());
        } else {
            wait_until("much waits in the socket", || unsent() > TOLD_APART);
        }
        // Nothing can be said to it, and it goes nonetheless.
        hub.psql(
            "select pg_terminate_backend(pid) from pg_stat_replication \
             where application_name = 'stalled'",
        );
        hub.wait_sql("select string_agg(application_name, ' ') from pg_stat_replication", "live");
    }
}

#[test]
fn values_that_these_settings_cannot_have_are_refused_with_those_they_can() {
    let scratch = Scratch::new();
    let data = scratch.path("own").display().to_string();
    for (setting, want) in [
        ("catchup_path=sendfile", "Available values: auto, read."),
        ("coalesce_us=100001", "(0 .. 100000)"),
        ("coalesce_us=-1", "(0 .. 100000)"),
        ("wal_sender_sndbuf=2GB", "outside the valid range"),
        ("tcp_notsent_lowat=much", "invalid value for parameter \"tcp_notsent_lowat\""),
    ] {
        let output = walhub(["serve", "-D", &data, "-c", setting]);
        let text = said(&output);
        assert!(!output.status.success() && text.contains(want), "{setting}: {text}");
    }
}

#[test]
fn a_late_standby_is_served_by_a_catch_up_core_where_there_are_any() {
    let late = |catchup_cores: &str| {
        let scratch = Scratch::new();
        let hub = Hub::named("own").set("cores", "1").set("catchup_cores", catchup_cores);
        let mut hub = small_segments(hub.build(&scratch));
        hub.psql("select pg_create_physical_replication_slot('late', true)");
        let last = write_wal(&hub);
        // After a start nothing is in memory.
        assert!(hub.stop(StopMode::Fast).success());
        hub.start();
        receive(&hub, "late", &last, &scratch);
        let cores = hub.psql("select count(*) from walhub.core_stats");
        let moved = "select sum(moved_in) > 0, sum(sendfile_bytes + read_bytes) > 0";
        let of_live = hub.psql(&format!("{moved} from walhub.core_stats where core = 0"));
        let of_others = hub.psql(&format!("{moved} from walhub.core_stats where core > 0"));
        [cores, of_live, of_others]
    };
    // Without any, all is sent by the core of live standbys.
    assert_eq!(late("0"), ["1", "f|t", "|"]);
    let [cores, of_live, of_others] = late("2");
    assert_eq!([&*cores, &of_others], ["3", "t|t"]);
    // It comes back once it has everything, if it stays so long.
    assert!(of_live.ends_with("|f"), "{of_live}");
}

#[test]
fn cores_for_live_standbys_share_the_sessions_that_are_left() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("cores", "3").set("catchup_cores", "0");
    let hub = small_segments(hub.build(&scratch));
    let sessions = "select string_agg(sessions || '', ' ') from walhub.core_stats";
    let mut receivers = Vec::new();
    for (name, of_each) in [("a", "1 0"), ("b", "1 1"), ("c", "2 1"), ("d", "2 2")] {
        receivers.push(ReceiveWal::start(&hub, name, &[], &scratch));
        hub.wait_sql(sessions, of_each);
    }
    for (at, left) in [(2, "3"), (0, "2")] {
        let mut receiver = receivers.remove(at);
        receiver.signal(Signal::INT);
        assert!(receiver.wait().success());
        hub.wait_sql("select sum(sessions) from walhub.core_stats", left);
    }
    // One of the two goes over when there is something to send, and misses nothing.
    let last = write_wal(&hub);
    hub.wait_sql(sessions, "1 1");
    assert_eq!(hub.psql("select string_agg(moved_in || '', ' ') from walhub.core_stats"), "1 0");
    for mut receiver in receivers {
        receiver.finish_at(&last);
        assert_equal_segments(&hub.pg_wal(), receiver.dir(), &hub.psql(SEGMENT), FILLED);
    }
}
