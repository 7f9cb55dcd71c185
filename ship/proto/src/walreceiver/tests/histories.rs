//! Which history files are asked for, and what becomes of those that the upstream does not have.

use super::*;
use alloc::collections::BTreeSet;

/// The answer of an upstream that does not have it. PostgreSQL: `SendTimeLineHistory`.
fn no_file(timeline: u32) -> Vec<u8> {
    let text =
        format!("could not open file \"pg_wal/{timeline:08X}.history\": No such file or directory");
    Encoder::new()
        .report(&Report::error(SqlState::UNDEFINED_FILE, text))
        .ready_for_query(b'I')
        .take()
}

fn known(held: &[u32], absent: &[u32]) -> KnownHistories {
    let set = |numbers: &[u32]| numbers.iter().map(|&number| tli(number)).collect::<BTreeSet<_>>();
    KnownHistories { held: set(held), absent: set(absent) }
}

#[test]
fn numbers_that_the_newest_history_skips_and_those_before_ours_are_fetched_too() {
    let mut receiver = start(WalReceiverConfig::default(), local(3, 0x300_0000), 150_018);
    receiver.set_known_histories(known(&[3], &[]));
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("5", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("TIMELINE_HISTORY 2", history(2)),
            ("TIMELINE_HISTORY 4", history(4)),
            ("TIMELINE_HISTORY 5", history(5)),
            ("START_REPLICATION 0/3000000 TIMELINE 3", copy_both()),
        ],
    );
    let fetched = [history_event(2), history_event(4), history_event(5), started(3, 0x300_0000)];
    assert_eq!(events[2..], fetched);
}

#[test]
fn numbers_that_the_upstream_has_passed_since_it_said_who_it_is_are_fetched_too() {
    let slot = [Some("physical"), Some("0/4000028"), Some("5")];
    let mut receiver = start(with_slot(false), LocalWal::default(), 150_018);
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("3", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("TIMELINE_HISTORY 2", history(2)),
            ("TIMELINE_HISTORY 3", history(3)),
            ("READ_REPLICATION_SLOT \"hub\"", row(&slot)),
            ("TIMELINE_HISTORY 4", history(4)),
            ("TIMELINE_HISTORY 5", history(5)),
            ("START_REPLICATION SLOT \"hub\" 0/4000000 TIMELINE 5", copy_both()),
        ],
    );
    assert_eq!(events.last(), Some(&started(5, 0x400_0000)));
}

#[test]
fn a_history_that_is_here_is_not_fetched_again() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    receiver.set_known_histories(known(&[2, 3], &[]));
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("3", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("START_REPLICATION 0/3000000 TIMELINE 1", next_timeline("2", "0/3000000")),
            ("START_REPLICATION 0/3000000 TIMELINE 2", copy_both()),
        ],
    );
}

#[test]
fn a_history_that_the_upstream_could_not_read_is_not_one_that_it_does_not_have() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let report = Report::error(SqlState::IO_ERROR, "could not read file: Input/output error");
    let answer = Encoder::new().report(&report).ready_for_query(b'I').take();
    for reply in [identity("4", "0/3000100"), segment_size()] {
        query(&mut receiver);
        feed(&mut receiver, at(0), &reply).unwrap();
    }
    assert_eq!(query(&mut receiver), "TIMELINE_HISTORY 2");
    // The next attempt asks again.
    assert!(feed(&mut receiver, at(0), &answer).is_err());
}

#[test]
fn a_skipped_number_that_the_upstream_does_not_have_stops_nothing() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("4", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("TIMELINE_HISTORY 2", no_file(2)),
            ("TIMELINE_HISTORY 3", no_file(3)),
            ("TIMELINE_HISTORY 4", history(4)),
            ("START_REPLICATION 0/3000000 TIMELINE 1", next_timeline("3", "0/3000000")),
        ],
    );
    let absent = |timeline: u32| {
        let reason = format!(
            "could not open file \"pg_wal/{timeline:08X}.history\": No such file or directory"
        );
        Seen::Event(ReceiverEvent::HistoryAbsent { timeline: tli(timeline), reason })
    };
    assert_eq!(events[2..5], [absent(2), absent(3), history_event(4)]);
    // What it goes on to it must have, whatever it said before.
    receiver.set_known_histories(known(&[4], &[2, 3]));
    assert_eq!(query(&mut receiver), "TIMELINE_HISTORY 2");
    feed(&mut receiver, at(0), &no_file(2)).unwrap();
    assert_eq!(query(&mut receiver), "TIMELINE_HISTORY 3");
    let violation = feed(&mut receiver, at(0), &no_file(3)).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "could not receive timeline history file from the primary server: ERROR:  could not open file \
         \"pg_wal/00000003.history\": No such file or directory"
    );
}

#[test]
fn what_the_upstream_does_not_have_is_not_asked_for_again() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    receiver.set_known_histories(known(&[], &[2]));
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("3", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("TIMELINE_HISTORY 3", history(3)),
            ("START_REPLICATION 0/3000000 TIMELINE 1", copy_both()),
        ],
    );
}

#[test]
fn a_session_that_ends_over_a_history_is_over() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("3", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
        ],
    );
    let fatal = Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection");
    assert_eq!(query(&mut receiver), "TIMELINE_HISTORY 2");
    let fatal = Encoder::new().report(&fatal).take();
    let violation = feed(&mut receiver, at(0), &fatal).unwrap_err();
    assert!(violation.to_string().ends_with("FATAL:  terminating connection"), "{violation}");
}

#[test]
fn a_history_under_another_name_is_refused() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("2", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
        ],
    );
    let violation = feed(&mut receiver, at(0), &history(3)).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "primary reported unexpected file name for timeline history file of timeline 2"
    );
    assert_eq!(violation.sqlstate(), SqlState::PROTOCOL_VIOLATION);
}
