//! Tests of the walreceiver, against a scripted upstream.

mod histories;
mod limits;
mod pair;
mod replies;
mod stream;

use super::*;
use crate::wire::backend::{Column, ColumnType, Encoder, Report};
use crate::wire::copy::XLogData;
use std::format;
use std::string::ToString;
use std::vec;

fn at(millis: u64) -> Now {
    Now { instant: Instant(millis * 1_000_000), wall: Timestamp(millis as i64 * 1000) }
}

fn tli(tli: u32) -> TimelineId {
    TimelineId::new(tli).unwrap()
}

const SYSID: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);

fn local(timeline: u32, next_lsn: u64) -> LocalWal {
    LocalWal {
        system_identifier: Some(SYSID),
        segment_size: Some(SegmentSize::DEFAULT),
        timeline: TimelineId::new(timeline),
        next_lsn: Some(Lsn(next_lsn)),
    }
}

fn with_slot(slot_create: bool) -> WalReceiverConfig {
    let slot_name = Some(String::from("hub"));
    WalReceiverConfig { slot_name, slot_create, ..WalReceiverConfig::default() }
}

/// An event that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Event(ReceiverEvent<'static>),
    Wal(Lsn, Vec<u8>),
}

fn own(event: ReceiverEvent<'_>) -> Seen {
    match event {
        ReceiverEvent::Wal { start, bytes } => Seen::Wal(start, bytes.to_vec()),
        ReceiverEvent::Identified { system_identifier, timeline, flush_lsn } => {
            Seen::Event(ReceiverEvent::Identified { system_identifier, timeline, flush_lsn })
        }
        ReceiverEvent::SegmentSize(size) => Seen::Event(ReceiverEvent::SegmentSize(size)),
        ReceiverEvent::SlotCreated => Seen::Event(ReceiverEvent::SlotCreated),
        ReceiverEvent::TimelineHistory { timeline, content } => {
            Seen::Event(ReceiverEvent::TimelineHistory { timeline, content })
        }
        ReceiverEvent::HistoryAbsent { timeline, reason } => {
            Seen::Event(ReceiverEvent::HistoryAbsent { timeline, reason })
        }
        ReceiverEvent::Started { timeline, start } => {
            Seen::Event(ReceiverEvent::Started { timeline, start })
        }
        ReceiverEvent::Told { end, sent } => Seen::Event(ReceiverEvent::Told { end, sent }),
        ReceiverEvent::EndOfTimeline { next, switchpoint } => {
            Seen::Event(ReceiverEvent::EndOfTimeline { next, switchpoint })
        }
    }
}

/// Events of `bytes`, all of which are taken.
fn feed(
    receiver: &mut WalReceiver,
    now: Now,
    mut bytes: &[u8],
) -> Result<Vec<Seen>, UpstreamViolation> {
    let mut events = vec![];
    loop {
        let event = receiver.handle_bytes(now, &mut bytes);
        receiver.check();
        match event? {
            Some(event) => events.push(own(event)),
            None => break,
        }
    }
    assert!(bytes.is_empty());
    Ok(events)
}

/// The query that the receiver sends next.
fn query(receiver: &mut WalReceiver) -> String {
    let bytes = receiver.poll_transmit(at(0)).unwrap_or_default();
    let frame = crate::wire::reader::decode_frame(&bytes, 1000).unwrap().unwrap();
    assert_eq!((frame.kind, frame.len), (b'Q', bytes.len()));
    let text = frame.body.strip_suffix(b"\0").unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

/// A result with one row of text, as a server sends it.
fn row(values: &[Option<&str>]) -> Vec<u8> {
    let columns: Vec<_> = values.iter().map(|_| Column::text("c", ColumnType::TEXT)).collect();
    let mut encoder = Encoder::new();
    encoder.row_description(&columns).data_row(values);
    encoder.command_complete("SELECT").ready_for_query(b'I').take()
}

fn identity(timeline: &str, flush: &str) -> Vec<u8> {
    row(&[Some("7000000000000000001"), Some(timeline), Some(flush), None])
}

fn segment_size() -> Vec<u8> {
    row(&[Some("16MB")])
}

fn history(timeline: u32) -> Vec<u8> {
    let name = format!("{timeline:08X}.history");
    row(&[Some(&name), Some("1\t0/3000100\tno recovery target specified\n")])
}

fn history_event(timeline: u32) -> Seen {
    let content = b"1\t0/3000100\tno recovery target specified\n".to_vec();
    Seen::Event(ReceiverEvent::TimelineHistory { timeline: tli(timeline), content })
}

fn copy_both() -> Vec<u8> {
    Encoder::new().copy_both_response().take()
}

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let data = XLogData { start: Lsn(start), end: Lsn(0x900_0000), sent: Timestamp(5) };
    let mut message = data.encode_header(bytes.len() as u64).to_vec();
    message.extend_from_slice(bytes);
    message
}

fn told() -> Seen {
    Seen::Event(ReceiverEvent::Told { end: Lsn(0x900_0000), sent: Timestamp(5) })
}

/// What ends a timeline: the next one's row and both CommandCompletes.
fn next_timeline(next: &str, switchpoint: &str) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.row_description(&[
        Column::text("next_tli", ColumnType::INT8),
        Column::text("next_tli_startpos", ColumnType::TEXT),
    ]);
    encoder.data_row(&[Some(next), Some(switchpoint)]).command_complete("START_STREAMING");
    encoder.command_complete("START_REPLICATION").ready_for_query(b'I').take()
}

/// Answers each expected query in turn; returns all events.
fn converse(receiver: &mut WalReceiver, script: &[(&str, Vec<u8>)]) -> Vec<Seen> {
    let mut events = vec![];
    for (want, answer) in script {
        assert_eq!(&query(receiver), want);
        events.extend(feed(receiver, at(0), answer).unwrap());
    }
    events
}

fn start(config: WalReceiverConfig, local: LocalWal, version: u32) -> WalReceiver {
    WalReceiver::new(config, at(0), local, version)
}

/// A receiver that streams timeline 1 from 0/3000000.
fn streaming(config: WalReceiverConfig) -> WalReceiver {
    let mut receiver = start(config, local(1, 0x300_0000), 150_018);
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("1", "0/3000100")),
            ("SHOW wal_segment_size", segment_size()),
            ("START_REPLICATION 0/3000000 TIMELINE 1", copy_both()),
        ],
    );
    assert_eq!(receiver.state(), WalReceiverState::Streaming);
    receiver
}

fn started(timeline: u32, start: u64) -> Seen {
    Seen::Event(ReceiverEvent::Started { timeline: tli(timeline), start: Lsn(start) })
}

#[test]
fn a_fresh_hub_begins_with_the_current_segment() {
    let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
    assert_eq!(receiver.state().as_str(), "starting");
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("1", "0/5123456")),
            ("SHOW wal_segment_size", segment_size()),
            ("START_REPLICATION 0/5000000 TIMELINE 1", copy_both()),
        ],
    );
    let identified = ReceiverEvent::Identified {
        system_identifier: SYSID,
        timeline: tli(1),
        flush_lsn: Lsn(0x512_3456),
    };
    let size = ReceiverEvent::SegmentSize(SegmentSize::DEFAULT);
    assert_eq!(events, [Seen::Event(identified), Seen::Event(size), started(1, 0x500_0000)]);
    assert_eq!(receiver.state().as_str(), "streaming");
}

#[test]
fn a_fresh_hub_begins_where_its_slot_does_and_fetches_the_histories() {
    let slot = [Some("physical"), Some("0/4000028"), Some("2")];
    let mut receiver = start(with_slot(false), LocalWal::default(), 150_000);
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("3", "0/9123456")),
            ("SHOW wal_segment_size", segment_size()),
            ("TIMELINE_HISTORY 2", history(2)),
            ("TIMELINE_HISTORY 3", history(3)),
            ("READ_REPLICATION_SLOT \"hub\"", row(&slot)),
            ("START_REPLICATION SLOT \"hub\" 0/4000000 TIMELINE 2", copy_both()),
        ],
    );
    assert_eq!(events[2..], [history_event(2), history_event(3), started(2, 0x400_0000)]);
}

#[test]
fn a_slot_that_reserves_nothing_does_not_say_where_to_begin() {
    let slot = [Some("physical"), None, None];
    let mut receiver = start(with_slot(false), LocalWal::default(), 180_000);
    converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("1", "0/9123456")),
            ("SHOW wal_segment_size", segment_size()),
            ("READ_REPLICATION_SLOT \"hub\"", row(&slot)),
            ("START_REPLICATION SLOT \"hub\" 0/9000000 TIMELINE 1", copy_both()),
        ],
    );
}

#[test]
fn a_missing_slot_is_created_when_asked_for_and_then_read() {
    let created = row(&[Some("hub"), Some("0/0"), None, None]);
    let missing = row(&[None, None, None]);
    let slot = row(&[Some("physical"), Some("0/8000028"), Some("1")]);
    let create = "CREATE_REPLICATION_SLOT \"hub\" PHYSICAL RESERVE_WAL";
    let read = "READ_REPLICATION_SLOT \"hub\"";
    let mut receiver = start(with_slot(true), LocalWal::default(), 170_000);
    let events = converse(
        &mut receiver,
        &[
            ("IDENTIFY_SYSTEM", identity("1", "0/9123456")),
            ("SHOW wal_segment_size", segment_size()),
            (read, missing.clone()),
            (create, created.clone()),
            (read, slot),
            ("START_REPLICATION SLOT \"hub\" 0/8000000 TIMELINE 1", copy_both()),
        ],
    );
    assert_eq!(events[2], Seen::Event(ReceiverEvent::SlotCreated));

    let mut holds_wal = start(with_slot(true), local(1, 0x300_0100), 150_000);
    converse(
        &mut holds_wal,
        &[
            ("IDENTIFY_SYSTEM", identity("1", "0/9123456")),
            ("SHOW wal_segment_size", segment_size()),
            (read, missing.clone()),
            (create, created),
            ("START_REPLICATION SLOT \"hub\" 0/3000100 TIMELINE 1", copy_both()),
        ],
    );

    let mut refused = start(with_slot(false), LocalWal::default(), 150_000);
    let script = [
        ("IDENTIFY_SYSTEM", identity("1", "0/9123456")),
        ("SHOW wal_segment_size", segment_size()),
    ];
    converse(&mut refused, &script);
    assert_eq!(query(&mut refused), read);
    let violation = feed(&mut refused, at(0), &missing).unwrap_err();
    assert_eq!(violation.to_string(), "replication slot \"hub\" does not exist");
    assert_eq!(violation.sqlstate().0, "42704");
    assert!(violation.hint().unwrap().contains("primary_slot_create"));
}

#[test]
fn a_server_that_cannot_read_slots_is_told_to_create_and_may_have_it_already() {
    let duplicate =
        Report::error(SqlState::DUPLICATE_OBJECT, "replication slot \"hub\" already exists");
    let duplicate = Encoder::new().report(&duplicate).ready_for_query(b'I').take();
    let created = row(&[Some("hub"), Some("0/0"), None, None]);
    for (answer, is_created) in [(duplicate, false), (created, true)] {
        let mut receiver = start(with_slot(true), LocalWal::default(), 140_000);
        let events = converse(
            &mut receiver,
            &[
                ("IDENTIFY_SYSTEM", identity("1", "0/9123456")),
                ("SHOW wal_segment_size", segment_size()),
                ("CREATE_REPLICATION_SLOT \"hub\" PHYSICAL RESERVE_WAL", answer),
                ("START_REPLICATION SLOT \"hub\" 0/9000000 TIMELINE 1", copy_both()),
            ],
        );
        assert_eq!(events.contains(&Seen::Event(ReceiverEvent::SlotCreated)), is_created);
    }
}

#[test]
fn another_cluster_segment_size_or_an_older_timeline_is_refused() {
    let refuse = |local: LocalWal, answers: &[Vec<u8>]| {
        let mut receiver = start(WalReceiverConfig::default(), local, 150_018);
        let mut result = Ok(vec![]);
        for answer in answers {
            result = feed(&mut receiver, at(0), answer);
        }
        assert_eq!(receiver.state(), WalReceiverState::Stopped);
        assert_eq!(feed(&mut receiver, at(0), b"anything"), Ok(vec![]), "nothing follows");
        assert_eq!(receiver.poll_transmit(at(0)), None);
        let violation = result.unwrap_err();
        (violation.to_string(), violation.detail())
    };
    let ours = local(2, 0x300_0000);
    let other = LocalWal { system_identifier: Some(SystemIdentifier(5)), ..ours };
    let (message, detail) = refuse(other, &[identity("2", "0/1")]);
    assert_eq!(message, "database system identifier differs between the primary and standby");
    assert_eq!(
        detail.unwrap(),
        "The primary's identifier is 7000000000000000001, the standby's identifier is 5."
    );
    let (message, _) = refuse(ours, &[identity("1", "0/1")]);
    assert_eq!(message, "highest timeline 1 of the primary is behind recovery timeline 2");
    let (_, detail) = refuse(ours, &[identity("2", "0/1"), row(&[Some("1GB")])]);
    assert_eq!(
        detail.unwrap(),
        "The primary's segment size is 1GB, the standby's segment size is 16MB."
    );
}

#[test]
fn results_of_the_wrong_shape_are_refused() {
    let refuse = |answer: Vec<u8>| {
        let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
        let violation = feed(&mut receiver, at(0), &answer).unwrap_err();
        (violation.to_string(), violation.detail().unwrap_or_default())
    };
    let (message, detail) = refuse(row(&[Some("1"), Some("1")]));
    assert_eq!(message, "invalid response from primary server");
    assert_eq!(
        detail,
        "Could not identify system: got 1 rows and 2 fields, expected 1 rows and 3 or more fields."
    );
    let empty = Encoder::new().command_complete("SELECT").ready_for_query(b'I').take();
    assert!(refuse(empty).1.contains("got 0 rows and 0 fields"));
    for (sysid, timeline, flush) in
        [("x", "1", "0/1"), ("1", "0", "0/1"), ("1", "-1", "0/1"), ("1", "1", "nowhere")]
    {
        let (message, _) = refuse(row(&[Some(sysid), Some(timeline), Some(flush), None]));
        assert!(message.starts_with("invalid response from primary server: \""), "{message}");
    }
    assert_eq!(refuse(row(&[None, None, None])).0, "invalid response from primary server: \"\"");
}

#[test]
fn an_error_of_the_server_is_passed_on_whole_and_says_when() {
    let report = Report::error(
        SqlState::UNDEFINED_FILE,
        "requested WAL segment 000000010000000000000003 has already been removed",
    );
    let error = Encoder::new().report(&report.detail("gone").hint("restore")).take();
    let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
    let violation = feed(&mut receiver, at(0), &error).unwrap_err();
    assert!(violation.to_string().starts_with(
        "could not receive database system identifier and timeline ID from the primary server: \
         ERROR:  requested WAL segment"
    ));
    let mut receiver = streaming(WalReceiverConfig::default());
    let violation = feed(&mut receiver, at(0), &error).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "could not receive data from WAL stream: ERROR:  requested WAL segment \
         000000010000000000000003 has already been removed"
    );
    assert_eq!(violation.detail().as_deref(), Some("gone"));
    assert_eq!(violation.hint().as_deref(), Some("restore"));
    let UpstreamViolation::Server { error, during: Activity::Streaming } = violation else {
        panic!()
    };
    assert!(error.is_wal_removed());
    assert_eq!(error.severity, "ERROR");
    // A server gives no hint of its own with it: then ours says what to do.
    let error = ErrorResponse { hint: None, ..*error };
    let violation = UpstreamViolation::Server { error: error.into(), during: Activity::Streaming };
    assert!(violation.hint().is_some_and(|hint| hint.contains("primary_slot_name")));
}

#[test]
fn notices_and_parameters_are_tolerated_anywhere() {
    let notice = Report::new(crate::wire::backend::Severity::Notice, SqlState::WARNING, "hi");
    let mut noise = Encoder::new();
    noise.report(&notice).parameter_status("in_hot_standby", "off").frame(b'A', |_| ());
    let noise = noise.take();
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let mut events = vec![];
    for answer in [identity("1", "0/3000100"), segment_size(), copy_both(), wal(0x300_0000, b"x")] {
        assert_eq!(feed(&mut receiver, at(0), &noise), Ok(vec![]));
        events.extend(feed(&mut receiver, at(0), &answer).unwrap());
    }
    assert_eq!(events.last(), Some(&Seen::Wal(Lsn(0x300_0000), b"x".to_vec())));
}
