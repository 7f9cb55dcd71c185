use super::*;

mod authentication;
mod fake;
mod live;
mod tls;

use std::time::Duration;

use fake::{FakeHub, Harness, RawClient, startup_packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use walhub_proto::lsn::{Lsn, TimelineId};

use crate::net::access::Access;
use crate::net::listen::Listener;

const PHYSICAL: &[(&str, &str)] = &[("user", "u"), ("replication", "true")];
const DATABASE: &[(&str, &str)] = &[("user", "u"), ("replication", "database")];
const SQL: &[(&str, &str)] = &[("user", "u"), ("application_name", "caf\u{e9}")];

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    });
}

#[test]
fn the_greeting_carries_what_libpq_checks() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(PHYSICAL).await;
        let greeting = client.answer().await;
        let joined = greeting.join("\n");
        assert_eq!(greeting.first().unwrap(), "R 0000");
        for status in [
            "S server_version=15.18 (Debian 15.18-0+deb12u1)",
            "S integer_datetimes=on",
            "S in_hot_standby=on",
            "S server_encoding=SQL_ASCII",
            "S session_authorization=u",
            "S standard_conforming_strings=on",
            "S default_transaction_read_only=off",
        ] {
            assert!(greeting.iter().any(|line| line == status), "{status} not in\n{joined}");
        }
        assert_eq!(greeting.len(), 1 + 13 + 2);
        assert!(greeting[14].starts_with('K') && greeting[15] == "Z I", "{joined}");

        let mut client = harness.connect(SQL).await;
        let greeting = client.answer().await;
        assert!(greeting.contains(&"S application_name=caf??".to_owned()), "{greeting:?}");
    });
}

#[test]
fn an_older_upstream_reports_no_newer_settings() {
    run(async {
        let mut hub = FakeHub::ready();
        hub.identity.as_mut().unwrap().server_version_num = 130_021;
        let harness = Harness::new(hub);
        let mut client = harness.connect(PHYSICAL).await;
        let greeting = client.answer().await;
        assert!(!greeting.iter().any(|line| line.contains("in_hot_standby")), "{greeting:?}");
    });
}

#[test]
fn before_the_upstream_only_sql_is_served() {
    run(async {
        let harness = Harness::new(FakeHub::default());
        let mut client = harness.connect(PHYSICAL).await;
        assert_eq!(
            client.answer().await,
            ["E FATAL 57P03 the database system is starting up \
              (walhub has not yet received WAL from its upstream.)"]
        );
        let mut client = harness.connect(SQL).await;
        let greeting = client.answer().await;
        let version = concat!("S server_version=15.0 (walhub ", env!("CARGO_PKG_VERSION"), ")");
        assert!(greeting.contains(&version.to_owned()), "{greeting:?}");
    });
}

#[test]
fn who_may_not_come_in_is_told_why() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        for (parameters, answer) in [
            (
                &[("replication", "true")][..],
                "E FATAL 28000 no PostgreSQL user name specified in startup packet",
            ),
            (
                &[("user", "u"), ("replication", "maybe")],
                "E FATAL 22023 invalid value for parameter \"replication\": \"maybe\"",
            ),
        ] {
            assert_eq!(harness.connect(parameters).await.answer().await, [answer]);
        }
        *harness.hub.stopping.lock().unwrap() = true;
        assert_eq!(
            harness.connect(SQL).await.answer().await,
            ["E FATAL 57P03 the database system is shutting down"]
        );
    });
}

#[test]
fn places_are_limited_and_given_back() {
    run(async {
        let harness = Harness::with_settings(FakeHub::ready(), |settings| {
            settings.hub.max_wal_senders = 1;
            settings.max_connections = 1;
        });
        let mut first = harness.connect(PHYSICAL).await;
        first.answer().await;
        let mut sql = harness.connect(SQL).await;
        sql.answer().await;
        assert_eq!(
            harness.connect(DATABASE).await.answer().await,
            ["E FATAL 53300 number of requested standby connections exceeds max_wal_senders \
              (currently 1)"]
        );
        assert_eq!(
            harness.connect(SQL).await.answer().await,
            ["E FATAL 53300 sorry, too many clients already"]
        );
        first.send(b"X\0\0\0\x04").await;
        assert_eq!(first.answer().await, [""; 0]);
        let mut again = harness.connect(PHYSICAL).await;
        assert_eq!(again.answer().await.last().unwrap(), "Z I");
    });
}

#[test]
fn who_has_been_silent_for_longest_makes_room_for_who_comes() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(harness.open().await);
            tokio::task::yield_now().await;
        }
        let refused = ["E FATAL 53300 sorry, too many clients already"];
        assert_eq!(silent[0].answer().await, refused);
        let mut client = harness.connect(SQL).await;
        assert_eq!(client.answer().await.last().unwrap(), "Z I");
        silent.pop().unwrap().send(&startup_packet(3 << 16, SQL)).await;
    });
}

#[test]
fn of_a_crowd_that_comes_at_once_the_newest_is_not_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let harness = Harness::with_settings(FakeHub::ready(), |settings| {
            settings.max_connections = 5;
            settings.hub.max_wal_senders = 5;
        });
        let mut settings = Settings::default();
        settings.listen_addresses.clear();
        settings.port = 7;
        settings.unix_socket_directories = vec![directory.path().into()];
        let listener = Listener::bind(&settings).unwrap();
        // As many as the kernel holds: all are there before the first is accepted.
        let socket = directory.path().join(".s.PGSQL.7");
        let mut crowd: Vec<RawClient> = (0..200).map(|_| RawClient::connect(&socket)).collect();
        tokio::task::spawn_local(listener.run(Arc::clone(&harness.services)));
        let mut newest = crowd.pop().unwrap();
        newest.send(&startup_packet(3 << 16, SQL)).await;
        assert_eq!(newest.answer().await.last().unwrap(), "Z I");
    });
}

#[test]
fn who_no_rule_is_for_is_told_so() {
    run(async {
        let rules = "local all bob reject\nlocal replication all trust";
        let harness = Harness::with_access(FakeHub::ready(), Access::of(rules));
        for (parameters, answer) in [
            (
                SQL,
                "E FATAL 28000 no pg_hba.conf entry for host \"[local]\", user \"u\", database \
                 \"u\", no encryption",
            ),
            (
                &[("user", "bob"), ("database", "d")],
                "E FATAL 28000 pg_hba.conf rejects connection for host \"[local]\", user \"bob\", \
                 database \"d\", no encryption",
            ),
            // A walsender of a database is one of its connections.
            (
                DATABASE,
                "E FATAL 28000 no pg_hba.conf entry for host \"[local]\", user \"u\", database \
                 \"u\", no encryption",
            ),
        ] {
            assert_eq!(harness.connect(parameters).await.answer().await, [answer]);
        }
        let mut welcome = harness.connect(PHYSICAL).await;
        assert_eq!(welcome.answer().await.last().unwrap(), "Z I");
    });
}

#[test]
fn encryption_is_declined_and_cancelling_ignored() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.open().await;
        for code in [5679_u32, 5680] {
            client.send(&[&[0, 0, 0, 8][..], &(1234 << 16 | code).to_be_bytes()].concat()).await;
            assert_eq!(client.stream.read_u8().await.unwrap(), b'N');
        }
        client.send(&startup_packet(3 << 16, PHYSICAL)).await;
        assert_eq!(client.answer().await.last().unwrap(), "Z I");

        let mut client = harness.open().await;
        client.send(b"\0\0\0\x08\x04\xd2\x16\x2fearly").await;
        assert_eq!(client.stream.read_u8().await.unwrap(), b'N');
        let answer = client.answer().await;
        assert!(
            answer[0].starts_with("E FATAL 08P01 received unencrypted data after SSL request"),
            "{answer:?}"
        );
        for quiet in [&b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\0"[..], b"GET / HTTP/1.0\r\n"] {
            let mut client = harness.open().await;
            client.send(quiet).await;
            assert_eq!(client.answer().await, [""; 0]);
        }
    });
}

#[test]
fn a_newer_protocol_is_negotiated_down_and_another_refused() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.open().await;
        let parameters = [("user", "u"), ("replication", "1"), ("_pq_.x", "1")];
        client.send(&startup_packet(3 << 16 | 3, &parameters)).await;
        let answer = client.answer().await;
        assert_eq!(answer[0], "v 00030002000000015f70715f2e7800");
        assert_eq!(answer.last().unwrap(), "Z I");
        // Nothing need be said of a version that is spoken.
        let mut client = harness.open().await;
        client.send(&startup_packet(3 << 16 | 2, PHYSICAL)).await;
        assert_eq!(client.answer().await[0], "R 0000");

        let mut client = harness.open().await;
        client.send(&startup_packet(2 << 16, &parameters)).await;
        assert_eq!(
            client.answer().await,
            ["E FATAL 0A000 unsupported frontend protocol 2.0: server supports 3.0 to 3.2"]
        );
    });
}

#[test]
fn every_truncation_of_the_first_packet_ends_quietly() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let packet = startup_packet(3 << 16, PHYSICAL);
        for cut in 0..packet.len() {
            let mut client = harness.open().await;
            client.send(&packet[..cut]).await;
            client.stream.shutdown().await.unwrap();
            assert_eq!(client.answer().await, [""; 0], "cut at {cut}");
        }
    });
}

#[test]
fn a_silent_client_is_left_alone_after_a_while() {
    run(async {
        let harness = Harness::with_settings(FakeHub::ready(), |settings| {
            settings.authentication_timeout = Duration::from_millis(20);
        });
        let mut client = harness.open().await;
        assert_eq!(client.answer().await, [""; 0]);
    });
}

#[test]
fn commands_on_slots_answer_as_a_walsender_does() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(PHYSICAL).await;
        client.answer().await;
        for (command, answer) in [
            (
                "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL",
                &[
                    "T slot_name:25 consistent_point:25 snapshot_name:25 output_plugin:25",
                    "D s|0/0|-|-",
                    "C CREATE_REPLICATION_SLOT",
                ][..],
            ),
            (
                "CREATE_REPLICATION_SLOT s PHYSICAL",
                &["E ERROR 42710 replication slot \"s\" already exists"],
            ),
            (
                "READ_REPLICATION_SLOT s",
                &[
                    "T slot_type:25 restart_lsn:25 restart_tli:20",
                    "D physical|0/3000000|2",
                    "C READ_REPLICATION_SLOT",
                ],
            ),
            (
                "ALTER_REPLICATION_SLOT s (failover)",
                &["E ERROR 0A000 cannot use ALTER_REPLICATION_SLOT with a physical replication \
                   slot"],
            ),
            (
                "ALTER_REPLICATION_SLOT t (failover)",
                &["E ERROR 42704 replication slot \"t\" does not exist"],
            ),
            ("DROP_REPLICATION_SLOT s", &["C DROP_REPLICATION_SLOT"]),
            (
                "DROP_REPLICATION_SLOT s WAIT",
                &["E ERROR 42704 replication slot \"s\" does not exist"],
            ),
            (
                "CREATE_REPLICATION_SLOT \"A\" PHYSICAL",
                &["E ERROR 42602 replication slot name \"A\" contains invalid character"],
            ),
            (
                "START_REPLICATION SLOT s LOGICAL 0/0",
                &["E ERROR 55000 logical decoding requires a database connection"],
            ),
        ] {
            client.query(command).await;
            assert_eq!(client.answer().await, [answer, &["Z I"]].concat(), "{command}");
        }
    });
}

#[test]
fn commands_answer_as_a_walsender_does() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(PHYSICAL).await;
        client.answer().await;
        let sql = "E ERROR 0A000 cannot execute SQL commands in WAL sender for physical \
                   replication";
        let max_wal_senders = Settings::default().show("max_wal_senders").unwrap();
        let max_wal_senders = format!("D {max_wal_senders}");
        for (command, answer) in [
            (
                "IDENTIFY_SYSTEM",
                &[
                    "T systemid:25 timeline:23 xlogpos:25 dbname:25",
                    "D 7000000000000000001|2|0/3000100|-",
                    "C IDENTIFY_SYSTEM",
                ][..],
            ),
            ("SHOW wal_segment_size", &["T wal_segment_size:25", "D 16MB", "C SHOW"]),
            ("SHOW timezone", &["T TimeZone:25", "D UTC", "C SHOW"]),
            ("SHOW max_wal_senders", &["T max_wal_senders:25", &max_wal_senders, "C SHOW"]),
            ("SHOW nosuch", &["E ERROR 42704 unrecognized configuration parameter \"nosuch\""]),
            (
                "TIMELINE_HISTORY 2",
                &[
                    "T filename:25 content:25",
                    "D 00000002.history|1\t0/3000000\tno recovery target specified\n",
                    "C TIMELINE_HISTORY",
                ],
            ),
            (
                "TIMELINE_HISTORY 7",
                &[
                    "E ERROR 58P01 could not open file \"pg_wal/00000007.history\": No such file or \
                   directory",
                ],
            ),
            (
                "READ_REPLICATION_SLOT nosuch",
                &[
                    "T slot_type:25 restart_lsn:25 restart_tli:20",
                    "D -|-|-",
                    "C READ_REPLICATION_SLOT",
                ],
            ),
            ("BASE_BACKUP", &["E ERROR 0A000 BASE_BACKUP is not supported yet"]),
            ("IDENTIFY_SYSTEM x", &["E ERROR 42601 syntax error"]),
            ("START_REPLICATION 0/0 TIMELINE 0", &["E ERROR 42601 invalid timeline 0"]),
            ("select 1", &[sql]),
            ("", &[sql]),
        ] {
            client.query(command).await;
            assert_eq!(client.answer().await, [answer, &["Z I"]].concat(), "{command}");
        }
    });
}

#[test]
fn the_extended_protocol_is_refused_up_to_its_sync() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(PHYSICAL).await;
        client.answer().await;
        client.send(b"P\0\0\0\x08\0\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0S\0\0\0\x04").await;
        let refused = "E ERROR 08P01 extended query protocol not supported in a replication \
                       connection";
        assert_eq!(client.answer().await, [refused, "Z I"]);
        client.send(b"F\0\0\0\x04").await;
        let refused = "E ERROR 08P01 fastpath function calls not supported in a replication \
                       connection";
        assert_eq!(client.answer().await, [refused, "Z I"]);
        client.send(b"Q\0\0\0\x05x").await;
        assert_eq!(client.answer().await, ["E ERROR 08P01 invalid string in message", "Z I"]);
        client.send(b"c\0\0\0\x04H\0\0\0\x04y").await;
        assert_eq!(client.answer().await, ["E FATAL 08P01 invalid frontend message type 121"]);
    });
}

#[test]
fn a_stream_that_ends_leaves_the_session_in_command_mode() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        harness.hub.next.lock().unwrap().replace((TimelineId::new(3).unwrap(), Lsn(0x300_0000)));
        let mut client = harness.connect(PHYSICAL).await;
        client.answer().await;
        // The next command is on its way before the stream begins: it must not be lost.
        client.query("START_REPLICATION SLOT s 0/1000000 TIMELINE 2").await;
        client.query("IDENTIFY_SYSTEM").await;
        assert_eq!(
            client.answer().await,
            [
                "T next_tli:20 next_tli_startpos:25",
                "D 3|0/3000000",
                "C START_STREAMING",
                "C START_REPLICATION",
                "Z I"
            ]
        );
        assert_eq!(client.answer().await.last().unwrap(), "Z I");
        let started = harness.hub.started.lock().unwrap().clone();
        assert_eq!(started, ["s 0/1000000 2 blocking"]);

        client.query("START_REPLICATION 0/2000000").await;
        assert_eq!(client.answer().await, ["C START_STREAMING", "C START_REPLICATION", "Z I"]);
        *harness.hub.refusal.lock().unwrap() =
            Some(Report::error(SqlState::OBJECT_IN_USE, "replication slot \"s\" is active"));
        client.query("START_REPLICATION SLOT s 0/2000000").await;
        assert_eq!(
            client.answer().await,
            ["E ERROR 55006 replication slot \"s\" is active", "Z I"]
        );
    });
}

#[test]
fn temporary_slots_end_with_their_session_or_its_first_error() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(PHYSICAL).await;
        client.answer().await;
        let create = "CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL";
        for end in ["SHOW nosuch", "IDENTIFY_SYSTEM"] {
            client.query(create).await;
            assert_eq!(client.answer().await.last().unwrap(), "Z I");
            assert_eq!(harness.hub.slot_names(), ["t"]);
            client.query(end).await;
            client.answer().await;
        }
        client.send(b"X\0\0\0\x04").await;
        assert_eq!(client.answer().await, [""; 0]);
        assert_eq!(harness.hub.slot_names(), [""; 0]);
    });
}

#[test]
fn a_walsender_with_a_database_takes_commands_and_sql() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let parameters = [&[("database", "d")][..], DATABASE].concat();
        let mut client = harness.connect(&parameters).await;
        client.answer().await;
        for _ in 0..2 {
            client.query("IDENTIFY_SYSTEM").await;
            assert_eq!(client.answer().await[1], "D 7000000000000000001|2|0/3000100|d");
            client.query("select 1").await;
            assert_eq!(client.answer().await.last().unwrap(), "Z I");
        }
    });
}

#[test]
fn sessions_in_command_mode_are_terminated() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        for parameters in [PHYSICAL, DATABASE, SQL] {
            harness.terminate.send_replace(false);
            let mut client = harness.connect(parameters).await;
            client.answer().await;
            harness.terminate.send_replace(true);
            assert_eq!(
                client.answer().await,
                ["E FATAL 57P01 terminating connection due to administrator command"]
            );
        }
    });
}

#[test]
fn a_cancel_request_with_the_right_key_ends_a_wait() {
    for (version, key_bytes) in [(3 << 16, 4), (3 << 16 | 2, 32)] {
        run(cancel_with_keys(version, key_bytes));
    }
}

async fn cancel_with_keys(version: u32, key_bytes: usize) {
    let harness = Harness::new(FakeHub::ready());
    let mut client = harness.open().await;
    client.send(&startup_packet(version, SQL)).await;
    let greeting = client.answer().await;
    let key = greeting.iter().find_map(|line| line.strip_prefix("K ")).unwrap();
    let key: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
        .collect();
    assert_eq!(key.len(), 4 + key_bytes);
    client.query("wait for lsn 'FF/0' with (mode 'standby_flush')").await;
    while harness.hub.readers.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let changed = |at: usize| {
        let mut key = key.clone();
        key[at] ^= 1;
        key
    };
    let shorter = key[..8].to_vec();
    for (key, ends) in [
        (changed(key.len() - 1), false),
        (changed(3), false),
        (changed(4), false),
        ([&key[..], &[0]].concat(), false),
        (shorter, key_bytes == 4),
        (key.clone(), true),
    ] {
        let length = u32::try_from(8 + key.len()).unwrap().to_be_bytes();
        let request = [&length[..], &[0x04, 0xd2, 0x16, 0x2e], &key].concat();
        let mut other = harness.open().await;
        other.send(&request).await;
        assert_eq!(other.answer().await, [""; 0]);
        if ends {
            let canceled = ["E ERROR 57014 canceling statement due to user request", "Z I"];
            assert_eq!(client.answer().await, canceled);
            break;
        }
        assert!(harness.hub.readers.lock().unwrap().iter().all(|reader| !reader.is_closed()));
    }
    client.query("select pg_cancel_backend(1000000)").await;
    assert_eq!(client.answer().await[2], "D f");
    client.query("wait for lsn '0/1'").await;
    assert_eq!(client.answer().await, ["T status:25", "D success", "C WAIT", "Z I"]);
}

#[test]
fn what_comes_while_a_walsenders_query_waits_is_answered_after_it() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut client = harness.connect(&[&[("database", "d")][..], DATABASE].concat()).await;
        client.answer().await;
        client.query("begin").await;
        assert_eq!(client.answer().await, ["C BEGIN", "Z T"]);
        client.query("rollback; wait for lsn 'FF/0' with (mode 'standby_flush')").await;
        while harness.hub.readers.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        for command in ["IDENTIFY_SYSTEM", "select 2"] {
            client.query(command).await;
        }
        let mut other = harness.connect(SQL).await;
        other.answer().await;
        other.query("select pg_cancel_backend(1)").await;
        assert_eq!(other.answer().await[1], "D t");
        let canceled = "E ERROR 57014 canceling statement due to user request";
        assert_eq!(client.answer().await, ["C ROLLBACK", canceled, "Z I"]);
        assert_eq!(client.answer().await[1], "D 7000000000000000001|2|0/3000100|d");
        assert_eq!(client.answer().await[1], "D 2");

        client.query("wait for lsn 'FF/0' with (mode 'standby_flush')").await;
        while harness.hub.readers.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        other.query("select pg_terminate_backend(1)").await;
        let terminated = "E FATAL 57P01 terminating connection due to administrator command";
        assert_eq!(client.answer().await, [terminated]);
    });
}

#[test]
fn a_walsender_takes_no_data_for_a_copy() {
    run(async {
        let mut hub = FakeHub::ready();
        hub.primary = true;
        let harness = Harness::new(hub);
        let mut client = harness.connect(DATABASE).await;
        client.answer().await;
        client.query("copy walhub.messages from stdin").await;
        assert_eq!(
            client.answer().await,
            ["E ERROR 57014 COPY from stdin failed: a walsender connection takes no data", "Z I"]
        );
        client.query("select 1").await;
        assert_eq!(client.answer().await[1], "D 1");
    });
}
