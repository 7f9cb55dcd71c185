//! WAL, ends of timelines, and input of every shape.

use super::*;
use crate::wire::copy::{PrimaryKeepalive, XLOGDATA_HEADER_LEN};
use proptest::prelude::*;

#[test]
fn wal_is_delivered_as_it_arrives() {
    let mut receiver = streaming(WalReceiverConfig::default());
    let message = wal(0x300_0000, b"abcdef");
    let (first, second) = message.split_at(XLOGDATA_HEADER_LEN + 2);
    let events = feed(&mut receiver, at(0), first).unwrap();
    assert_eq!(events, [told(), Seen::Wal(Lsn(0x300_0000), b"ab".to_vec())]);
    assert_eq!(receiver.next_lsn(), Lsn(0x300_0002));
    let events = feed(&mut receiver, at(0), second).unwrap();
    assert_eq!(events, [Seen::Wal(Lsn(0x300_0002), b"cdef".to_vec())]);
    let events = feed(&mut receiver, at(0), &wal(0x300_0006, b"")).unwrap();
    assert_eq!(events, [told()]);
}

#[test]
fn wal_that_does_not_follow_is_refused() {
    for start in [0x2FF_FFFF, 0x300_0001] {
        let mut receiver = streaming(WalReceiverConfig::default());
        let violation = feed(&mut receiver, at(0), &wal(start, b"x")).unwrap_err();
        let want = Lsn(0x300_0000);
        assert_eq!(violation, UpstreamViolation::Discontinuity { got: Lsn(start), want });
    }
}

#[test]
fn malformed_stream_messages_have_the_words_of_postgres() {
    let refuse = |bytes: &[u8]| {
        let mut receiver = streaming(WalReceiverConfig::default());
        feed(&mut receiver, at(0), bytes).unwrap_err().to_string()
    };
    assert_eq!(refuse(b"d\0\0\0\x06w\0"), "invalid WAL message received from primary");
    assert_eq!(refuse(b"d\0\0\0\x06k\0"), "invalid keepalive message received from primary");
    assert_eq!(refuse(b"d\0\0\0\x05z"), "invalid replication message type 122");
    assert_eq!(refuse(b"d\0\0\0\x04"), "invalid replication message type 0");
    assert_eq!(
        refuse(b"d\0\0\0\x03"),
        "lost synchronization with server: got message type \"d\", length 3"
    );
    assert!(refuse(b"d\x7f\xff\xff\xff").starts_with("lost synchronization with server"));
    assert!(refuse(b"d\x3f\xff\xff\xffk").starts_with("lost synchronization with server"));
    assert!(refuse(b"Z\0\0\0\x05I").contains("first received character was \"Z\""));
    assert!(refuse(b"E\0\0\0\x05S").contains("do not agree with length in message type \"E\""));
}

#[test]
fn wal_before_the_stream_is_refused() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let violation = feed(&mut receiver, at(0), &wal(0x300_0000, b"x")).unwrap_err();
    let during = Activity::IdentifySystem;
    assert_eq!(violation, UpstreamViolation::UnexpectedFrame { got: b'd', during });
}

#[test]
fn a_primary_that_stops_is_named_as_such() {
    let mut receiver = streaming(WalReceiverConfig::default());
    let bytes = Encoder::new().command_complete("COPY 0").take();
    let violation = feed(&mut receiver, at(0), &bytes).unwrap_err();
    assert_eq!(violation.to_string(), "replication terminated by primary server");
    let detail = violation.detail();
    assert_eq!(detail.as_deref(), Some("End of WAL reached on timeline 1 at 0/3000000."));
}

/// What an upstream sends that is promoted twice while we are on timeline 1.
fn two_promotions() -> Vec<(&'static str, Vec<u8>)> {
    let mut end_of_first = wal(0x300_0000, &[7; 0x100]);
    end_of_first.extend_from_slice(&COPY_DONE_MESSAGE);
    end_of_first.extend_from_slice(&next_timeline("2", "0/3000100"));
    let mut streams = copy_both();
    streams.extend(wal(0x300_0100, b"on two"));
    let mut first = copy_both();
    first.extend(end_of_first);
    vec![
        ("IDENTIFY_SYSTEM", identity("1", "0/3000100")),
        ("SHOW wal_segment_size", segment_size()),
        ("START_REPLICATION 0/3000000 TIMELINE 1", first),
        ("TIMELINE_HISTORY 2", history(2)),
        // The requested point is the end of that timeline: no stream at all.
        ("START_REPLICATION 0/3000100 TIMELINE 2", next_timeline("3", "0/3000100")),
        ("TIMELINE_HISTORY 3", history(3)),
        ("START_REPLICATION 0/3000100 TIMELINE 3", streams),
    ]
}

fn end_of_timeline(next: u32) -> Seen {
    let (next, switchpoint) = (tli(next), Lsn(0x300_0100));
    Seen::Event(ReceiverEvent::EndOfTimeline { next, switchpoint })
}

fn events_of_two_promotions() -> Vec<Seen> {
    vec![
        started(1, 0x300_0000),
        told(),
        Seen::Wal(Lsn(0x300_0000), vec![7; 0x100]),
        end_of_timeline(2),
        history_event(2),
        end_of_timeline(3),
        history_event(3),
        started(3, 0x300_0100),
        told(),
        Seen::Wal(Lsn(0x300_0100), b"on two".to_vec()),
    ]
}

/// The query that comes after what else is sent, and that in front of it.
fn split_query(bytes: &[u8]) -> (String, Vec<u8>) {
    let at = bytes.iter().position(|&byte| byte == b'Q').unwrap();
    let text = bytes[at + 5..].strip_suffix(b"\0").unwrap();
    (String::from_utf8(text.to_vec()).unwrap(), bytes[..at].to_vec())
}

#[test]
fn timelines_are_followed_through_their_ends() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let mut events = vec![];
    for (want, answer) in two_promotions() {
        let (query, before) = split_query(&receiver.poll_transmit(at(0)).unwrap());
        assert_eq!(query, want);
        let after_stream = want == "TIMELINE_HISTORY 2";
        assert_eq!(before == COPY_DONE_MESSAGE, after_stream, "CopyDone is answered, {want}");
        events.extend(feed(&mut receiver, at(0), &answer).unwrap());
        if after_stream {
            assert_eq!(receiver.state(), WalReceiverState::Restarting);
        }
    }
    assert_eq!(events[2..], events_of_two_promotions());
    assert_eq!((receiver.timeline(), receiver.next_lsn()), (tli(3), Lsn(0x300_0106)));
    assert_eq!(receiver.state(), WalReceiverState::Streaming);
}

/// Joins pieces of WAL that follow each other.
fn join(events: Vec<Seen>) -> Vec<Seen> {
    let mut joined: Vec<Seen> = vec![];
    for event in events {
        if let (Some(Seen::Wal(start, bytes)), Seen::Wal(next, more)) = (joined.last_mut(), &event)
        {
            assert_eq!(start.0 + bytes.len() as u64, next.0);
            bytes.extend_from_slice(more);
        } else {
            joined.push(event);
        }
    }
    joined
}

#[test]
fn pieces_of_any_size_give_the_same_events() {
    let script = two_promotions();
    let bytes: Vec<u8> = script.iter().flat_map(|(_, answer)| answer.clone()).collect();
    for piece in (1..64).chain([97, 255, bytes.len()]) {
        let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
        let mut events = vec![];
        for piece in bytes.chunks(piece) {
            events.extend(feed(&mut receiver, at(0), piece).unwrap());
        }
        assert_eq!(join(events)[2..], events_of_two_promotions(), "pieces of {piece}");
    }
}

#[test]
fn no_prefix_gives_other_events_or_an_error() {
    let script = two_promotions();
    let bytes: Vec<u8> = script.iter().flat_map(|(_, answer)| answer.clone()).collect();
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    let all = feed(&mut receiver, at(0), &bytes).unwrap();
    for cut in 0..bytes.len() {
        let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
        let mut some = feed(&mut receiver, at(0), &bytes[..cut]).unwrap();
        if let Some(Seen::Wal(..)) = some.last() {
            some.pop();
        }
        assert!(all.starts_with(&some), "cut at {cut}");
    }
}

#[test]
fn a_fork_before_what_was_received_is_refused() {
    let end = |switchpoint: &str| {
        let mut receiver = streaming(WalReceiverConfig::default());
        feed(&mut receiver, at(0), &wal(0x300_0000, &[0; 0x100])).unwrap();
        feed(&mut receiver, at(0), &COPY_DONE_MESSAGE).unwrap();
        feed(&mut receiver, at(0), &next_timeline("2", switchpoint)).unwrap_err()
    };
    assert_eq!(
        end("0/3000080").to_string(),
        "new timeline 2 forked off current database system timeline 1 before current recovery \
         point 0/3000100"
    );
    assert!(matches!(end("0/3000180"), UpstreamViolation::Discontinuity { .. }));
}

#[test]
fn a_next_timeline_that_is_not_later_is_refused() {
    let mut receiver = streaming(WalReceiverConfig::default());
    feed(&mut receiver, at(0), &COPY_DONE_MESSAGE).unwrap();
    let violation = feed(&mut receiver, at(0), &next_timeline("1", "0/3000000")).unwrap_err();
    assert!(matches!(violation, UpstreamViolation::ResultValue { .. }));
}

#[test]
fn a_result_after_the_stream_has_one_row_or_none() {
    let end = |bytes: &[u8]| {
        let mut receiver = streaming(WalReceiverConfig::default());
        feed(&mut receiver, at(0), &COPY_DONE_MESSAGE).unwrap();
        feed(&mut receiver, at(0), bytes).unwrap_err().to_string()
    };
    assert_eq!(end(&row(&[Some("2")])), "unexpected result set after end-of-streaming");
    let none = Encoder::new().command_complete("START_STREAMING").ready_for_query(b'I').take();
    assert_eq!(end(&none), "replication terminated by primary server");
}

proptest! {
    /// Whatever comes, it is an event, an error or nothing; and positions only grow.
    #[test]
    fn random_bytes_never_panic(
        streams in any::<bool>(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
    ) {
        let mut receiver = if streams {
            streaming(WalReceiverConfig::default())
        } else {
            start(with_slot(true), LocalWal::default(), 150_018)
        };
        for piece in pieces {
            let _ = feed(&mut receiver, at(1), &piece);
            let _ = receiver.poll_transmit(at(1));
        }
    }

    /// A valid conversation with some bytes changed.
    #[test]
    fn damaged_conversations_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let script = two_promotions();
        let mut bytes: Vec<u8> = script.iter().flat_map(|(_, answer)| answer.clone()).collect();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
        let _ = feed(&mut receiver, at(0), &bytes);
    }

    /// Valid frames in any order.
    #[test]
    fn frames_in_any_order_never_panic(order in prop::collection::vec(0..9_usize, 0..30)) {
        let keepalive =
            PrimaryKeepalive { end: Lsn(1), sent: Timestamp(1), reply_requested: true };
        let frames = [
            identity("2", "0/3000100"),
            segment_size(),
            history(2),
            copy_both(),
            wal(0x300_0000, b"abc"),
            keepalive.encode().to_vec(),
            COPY_DONE_MESSAGE.to_vec(),
            next_timeline("2", "0/3000000"),
            Encoder::new().command_complete("COPY 0").take(),
        ];
        let mut receiver = start(with_slot(true), local(1, 0x300_0000), 130_000);
        for index in order {
            let _ = feed(&mut receiver, at(0), &frames[index]);
            let _ = receiver.poll_transmit(at(0));
        }
    }
}
