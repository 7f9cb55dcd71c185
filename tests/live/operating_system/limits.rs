//! Limits of the machine, and clients that try to use everything up. All is walhub's own.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use walhub_proto::wire::startup;
use walhub_tests::client::SqlServer;
use walhub_tests::hub::Hub;
use walhub_tests::postgres::Postgres;
use walhub_tests::process::run_ok;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::wait::{DEADLINE, wait_until};

use super::refuse;

/// One megabyte of a message.
const PIECE: usize = 1 << 20;
/// Of the whole process: the tail cache, `sql_memory_limit`, and what a hub is beside them.
const MEMORY_MAX_MB: u64 = 64 + 128 + 110;

/// A client that says what it likes.
struct Client(TcpStream);

impl Client {
    /// Connected, and silent.
    fn silent(hub: &Hub) -> Self {
        let endpoint = hub.endpoint();
        let stream = TcpStream::connect((endpoint.host, endpoint.port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self(stream)
    }

    fn connect(hub: &Hub) -> Self {
        let mut client = Self::silent(hub);
        client.send(&startup::encode(&[("user", "postgres"), ("database", "postgres")]));
        client.answer();
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the hub reads");
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        self.head(kind, body.len());
        self.send(body);
    }

    /// What comes before the body of a message.
    fn head(&mut self, kind: u8, body_len: usize) {
        let len = u32::try_from(body_len + 4).expect("a length").to_be_bytes();
        self.send(&[&[kind], &len[..]].concat());
    }

    fn query(&mut self, sql: &str) {
        self.message(b'Q', format!("{sql}\0").as_bytes());
    }

    /// Emits one message of so many megabytes.
    fn emit(&mut self, megabytes: usize) {
        let parse = b"\0select pg_logical_emit_message(true, 'large', $1)\0\0\x01\0\0\0\x11";
        self.message(b'P', parse);
        let len = megabytes * PIECE;
        let bind =
            [b"\0\0\0\x01\0\x01\0\x01", &u32::try_from(len).expect("a length").to_be_bytes()[..]];
        self.head(b'B', bind.concat().len() + len + 2);
        self.send(&bind.concat());
        let piece = vec![b'x'; PIECE];
        (0..megabytes).for_each(|_| self.send(&piece));
        self.send(b"\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04");
    }

    /// The messages up to ReadyForQuery or the end of the connection, as text.
    fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        let mut head = [0; 5];
        while self.0.read_exact(&mut head).is_ok() {
            let len = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
            let mut body = vec![0; usize::try_from(len - 4).expect("a length")];
            self.0.read_exact(&mut body).expect("a whole message");
            answer.push(head[0]);
            answer.extend(body.iter().take(1000));
            if head[0] == b'Z' {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn peak_memory_mb(hub: &Hub) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", hub.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// A standby gets what is written now.
#[track_caller]
fn standby_goes_on(hub: &Hub, name: &str) {
    let lsn = hub.psql("select pg_logical_emit_message(false, 'p', 'now', true)");
    hub.wait_sql(
        &format!(
            "select flush_lsn >= '{lsn}' from pg_stat_replication where application_name = '{name}'"
        ),
        "t",
    );
}

#[test]
fn fifteen_open_transactions_thirty_unread_results_and_a_query_of_a_gigabyte_leave_the_hub_alive() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").start(&scratch);
    let _standby = ReceiveWal::start(&hub, "standby", &["--synchronous"], &scratch);
    hub.wait_streaming("standby");
    let mut writer = Client::connect(&hub);
    for _ in 0..10 {
        writer.emit(2);
        assert!(writer.answer().contains("SELECT 1"));
    }
    standby_goes_on(&hub, "standby");

    let mut open: Vec<Client> = (0..15).map(|_| Client::connect(&hub)).collect();
    let mut refused = 0;
    for client in &mut open {
        client.query("begin");
        client.answer();
        client.emit(50);
        let answer = client.answer();
        refused += u32::from(answer.contains("C53200\0Mout of memory\0"));
        assert!(
            answer.contains("SELECT 1") || answer.contains("sql_memory_limit (128MB)"),
            "{answer}"
        );
    }
    assert_eq!(refused, 13);
    standby_goes_on(&hub, "standby");

    // Half of it is free again, for as many results as find room there.
    open.truncate(1);
    hub.wait_sql("select used_bytes < 60000000 from walhub.sql_memory where pid is null", "t");
    let mut unread: Vec<Client> = (0..30).map(|_| Client::connect(&hub)).collect();
    for client in &mut unread {
        client.query("select prefix, content from walhub.messages where prefix = 'large'");
    }
    let mut long = Client::connect(&hub);
    long.head(b'Q', 1020 * PIECE);
    let piece = vec![b' '; PIECE];
    for _ in 0..1020 {
        long.send(&piece);
    }
    let answer = long.answer();
    assert!(answer.contains("C54000\0Mquery text of 1069547520 bytes is longer than"), "{answer}");
    long.query("select 7");
    assert!(long.answer().contains("SELECT 1"));
    standby_goes_on(&hub, "standby");

    let answers: Vec<String> = unread.iter_mut().map(Client::answer).collect();
    let failed = answers.iter().filter(|answer| answer.contains("C53200\0")).count();
    let read = answers.iter().filter(|answer| answer.contains("SELECT 10\0")).count();
    assert!(failed + read == 30 && read > 0, "{failed} failed, {read} were read");
    drop((open, unread, long, writer));
    hub.wait_sql("select used_bytes from walhub.sql_memory where pid is null", "0");
    standby_goes_on(&hub, "standby");
    let peak = peak_memory_mb(&hub);
    assert!(peak < MEMORY_MAX_MB, "{peak} MB");
    let complaints = hub.log().count(hub.log().beginning(), "have used up sql_memory_limit");
    assert!((1..=10).contains(&complaints), "{complaints} complaints");
}

#[test]
fn twelve_hundred_silent_connections_take_no_descriptor_from_wal_standbys_or_an_operator() {
    let scratch = Scratch::new();
    let sockets = scratch.path("sockets");
    fs::create_dir(&sockets).expect("a directory");
    let hub = Hub::named("own").limited("nofile=1024:1024");
    let mut hub = hub.set("unix_socket_directories", sockets.display().to_string()).build(&scratch);
    hub.init(1);
    hub.start();
    let mut silent: Vec<Client> = (0..1200).map(|_| Client::silent(&hub)).collect();
    // Who has been silent for longest has made room.
    let answer = silent[0].answer();
    assert!(answer.contains("C53300\0Msorry, too many clients already\0"), "{answer}");
    let _standby = ReceiveWal::start(&hub, "standby", &["--synchronous"], &scratch);
    hub.wait_streaming("standby");
    hub.switch_wal(5);
    standby_goes_on(&hub, "standby");
    let endpoint = hub.endpoint();
    let mut psql = Command::new(walhub_tests::postgres::program("psql"));
    let database = format!("host={} port={} user=postgres", sockets.display(), endpoint.port);
    psql.args(["-XAtc", "select 1", "-d", &database]);
    assert_eq!(run_ok(&mut psql).trim(), "1");
    let open = fs::read_dir(format!("/proc/{}/fd", hub.pid())).expect("a process").count();
    assert!(open < 400, "{open} descriptors");
    assert_eq!(hub.log().count(hub.log().beginning(), "Too many open files"), 0);
    // The newest are still there: there was no need for them to go.
    let newest = silent.last_mut().expect("one");
    newest.0.set_nonblocking(true).expect("a socket");
    let error = newest.0.read(&mut [0; 1]).expect_err("nothing was said");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_last_connections_are_superusers_and_then_those_of_members() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("max_connections", "4").set("reserved_connections", "1");
    let hub = hub.set("superuser_reserved_connections", "1").start(&scratch);
    hub.psql("create role plain login");
    hub.psql("create role member login in role pg_use_reserved_connections");
    let connect = |user: &str| {
        let mut client = Client::silent(&hub);
        client.send(&startup::encode(&[("user", user), ("database", "postgres")]));
        let answer = client.answer();
        (client, answer)
    };
    let _taken = [connect("plain"), connect("plain")];
    let (_third, answer) = connect("plain");
    assert!(answer.contains("C53300\0Mremaining connection slots are reserved for "), "{answer}");
    assert!(answer.contains("\"pg_use_reserved_connections\" role"), "{answer}");
    let (_member, answer) = connect("member");
    assert!(answer.ends_with('I'), "{answer}");
    let (_second, answer) = connect("member");
    let wanted =
        "Mremaining connection slots are reserved for non-replication superuser connections\0";
    assert!(answer.contains(wanted), "{answer}");
    assert_eq!(hub.psql("show superuser_reserved_connections"), "1");
}

/// A client from another address, which has begun to log in and says no more.
fn half_logged_in(hub: &Hub) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    let from = std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(127, 77, 77, 77), 0);
    socket.bind(&from.into()).ok()?;
    let endpoint = hub.endpoint();
    socket.connect(&std::net::SocketAddrV4::new(endpoint.host, endpoint.port).into()).ok()?;
    let mut stream = TcpStream::from(socket);
    let message = b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=x";
    let length = u32::try_from(message.len() + 4).ok()?.to_be_bytes();
    let startup = startup::encode(&[("user", "guarded"), ("database", "postgres")]);
    stream.write_all(&[&startup, &b"p"[..], &length, message].concat()).ok()?;
    Some(stream)
}

#[test]
fn a_flood_of_half_made_logins_keeps_neither_a_standby_nor_an_operator_out() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").limited("nofile=1024:1024").build(&scratch);
    hub.init(1);
    let rules = "host all postgres all trust\nhost all,replication all all scram-sha-256\n";
    fs::write(hub.data().join("pg_hba.conf"), rules).expect("a file");
    hub.start();
    hub.psql("create role guarded login replication password 'pencil'");
    let endpoint = hub.endpoint();
    let begun = peak_memory_mb(&hub);
    let (over, count) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut open = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                open.extend(half_logged_in(&hub));
                count.fetch_add(1, Ordering::Relaxed);
                if open.len() > 300 {
                    open.pop_front();
                }
            }
        });
        wait_until("there is a flood", || count.load(Ordering::Relaxed) > 500);
        let database = format!(
            "host={} port={} dbname=postgres user=guarded password=pencil",
            endpoint.host, endpoint.port
        );
        for _ in 0..10 {
            let mut psql = Command::new(walhub_tests::postgres::program("psql"));
            assert_eq!(run_ok(psql.args(["-XAtc", "select 1", "-d", &database])).trim(), "1");
        }
        let mut slot = Command::new(walhub_tests::postgres::program("pg_receivewal"));
        run_ok(slot.args(["--create-slot", "--slot", "s", "-w", "-d", &database]));
        assert_eq!(hub.psql("select count(*) from pg_replication_slots"), "1");
        over.store(true, Ordering::Relaxed);
    });
    // What each of them may hold, and nothing that grows with their number.
    let peak = peak_memory_mb(&hub);
    assert!(peak < begun + 30, "{begun} MB, then {peak} MB");
    let open = fs::read_dir(format!("/proc/{}/fd", hub.pid())).expect("a process").count();
    assert!(open < 500, "{open} descriptors");
}

#[test]
fn more_standbys_than_the_machine_has_descriptors_for_are_refused_with_what_is_possible() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("max_wal_senders", "5000").limited("nofile=1024:1024");
    let text = hub.build(&scratch).refusal();
    let message = "FATAL:  insufficient file descriptors available to start server process";
    for part in
        [message, "DETAIL:  System allows 1024, server needs at least", "max_wal_senders to "]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    // So many that a ring's table would end the process.
    let hub = Hub::named("own").set("max_wal_senders", "262143");
    let text = hub.build(&scratch).refusal();
    let hint = "HINT:  Set max_wal_senders to 32512 at most.";
    assert!(text.contains("FATAL:  max_wal_senders is larger") && text.contains(hint), "{text}");
}

#[test]
fn files_that_may_not_be_as_large_as_a_segment_are_met_at_start() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").limited("fsize=4194304:4194304").build(&scratch);
    hub.init(16);
    let text = hub.refusal();
    for part in [
        "FATAL:  files may not be as large as a WAL segment",
        "DETAIL:  System allows 4194304 bytes, a segment has 16777216.",
        "HINT:  Raise LimitFSIZE= in the unit, or ulimit -f.",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn an_upstream_with_segments_that_are_too_large_here_is_an_error_and_not_the_end() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let hub = Hub::named("hub")
        .upstream(primary.endpoint().conninfo("hub"))
        .limited("fsize=4194304:unlimited")
        .start(&scratch);
    let line = hub.log().wait_for(hub.log().beginning(), "File too large");
    assert!(line.contains("ERROR:"), "{line}");
    assert!(hub.is_running());
    run_ok(Command::new("prlimit").args([
        "--fsize=unlimited:unlimited",
        "--pid",
        &hub.pid().to_string(),
    ]));
    primary.write_wal(1);
    primary.wait_acknowledged("hub", &primary.flush_lsn());
    let complaints = hub.log().count(hub.log().beginning(), "File too large");
    assert!(complaints <= 2, "{complaints} complaints");
}

#[test]
fn a_system_that_has_no_thread_left_is_named_in_one_line() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").build(&scratch);
    let text = thread::spawn(move || {
        // Of this call only the flags in memory say what it makes: without it the C library uses the other one.
        refuse(libc::SYS_clone3, Vec::new(), libc::ENOSYS);
        let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
        let makes_a_thread = SeccompCmpOp::MaskedEq(thread);
        let rule = SeccompCondition::new(0, SeccompCmpArgLen::Qword, makes_a_thread, thread)
            .and_then(|condition| SeccompRule::new(vec![condition]));
        refuse(libc::SYS_clone, vec![rule.expect("a rule")], libc::EAGAIN);
        hub.refusal()
    });
    let text = text.join().expect("the filtered thread");
    for part in
        ["FATAL:  could not start a thread", "Resource temporarily unavailable", "LimitNPROC="]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_session_that_is_terminated_gives_its_memory_back() {
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("sql_memory_limit", "8MB").start(&scratch);
    let mut holder = Client::connect(&hub);
    holder.query("begin");
    holder.answer();
    holder.emit(6);
    assert!(holder.answer().contains("SELECT 1"));
    let mut other = Client::connect(&hub);
    other.emit(6);
    assert!(other.answer().contains("C53200\0"));
    let who = hub.psql("select pid from walhub.sql_memory where used_bytes > 6000000 and pid > 0");
    assert_eq!(hub.psql(&format!("select pg_terminate_backend({who})")), "t");
    wait_until("the other has room", || {
        other.emit(6);
        other.answer().contains("SELECT 1")
    });
}
