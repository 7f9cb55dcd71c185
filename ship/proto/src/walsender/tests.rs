//! Tests of the walsender.

use super::*;
use crate::time::Timestamp;
use proptest::prelude::*;
use std::string::ToString;
use std::vec;

const KIB: u64 = 1 << 10;

fn at(millis: u64) -> Now {
    Now { instant: Instant(millis * 1_000_000), wall: Timestamp(millis as i64 * 1000) }
}

fn config() -> WalSenderConfig {
    WalSenderConfig { timeout: Some(Duration::from_secs(60)), message_bytes_max: 128 * KIB }
}

fn sender(start: u64) -> WalSender {
    WalSender::new(config(), at(0), Lsn(start), None)
}

fn status(write: u64, flush: u64, apply: u64) -> StandbyStatusUpdate {
    let (write, flush, apply) = (Lsn(write), Lsn(flush), Lsn(apply));
    StandbyStatusUpdate { write, flush, apply, ..StandbyStatusUpdate::default() }
}

/// Feeds one whole message.
fn feed(sender: &mut WalSender, now: Now, bytes: &[u8]) -> Option<SenderEvent> {
    let mut rest = bytes;
    let event = sender.handle_bytes(now, &mut rest).unwrap();
    assert!(rest.is_empty());
    sender.check();
    event
}

/// Sends everything that is due; WAL as ranges, other messages by their type.
fn pump(sender: &mut WalSender, now: Now) -> Vec<(char, u64, u64)> {
    let mut sent = vec![];
    while let Some(transmit) = sender.poll_transmit(now) {
        sender.check();
        assert_eq!(sender.poll_transmit(now), None, "one is outstanding");
        sent.push(match transmit {
            Transmit::Wal { header, range } => {
                let data = XLogData::decode(&header[FRAME_HEADER_LEN..]).unwrap();
                assert_eq!(data.start, range.start);
                ('w', range.start.0, range.end.0)
            }
            Transmit::Message(bytes) => {
                let frame = decode_frame(&bytes, 100).unwrap().unwrap();
                assert_eq!(frame.len, bytes.len());
                match frame.kind {
                    COPY_DATA => {
                        let keepalive = PrimaryKeepalive::decode(frame.body).unwrap();
                        ('k', keepalive.end.0, u64::from(keepalive.reply_requested))
                    }
                    kind => (char::from(kind), 0, 0),
                }
            }
        });
        sender.handle_sent(now);
        sender.check();
    }
    sent
}

#[test]
fn catchup_is_cut_on_pages_and_streaming_begins_when_all_is_sent() {
    let mut sender = sender(8192 + 100);
    assert_eq!(sender.state().as_str(), "startup");
    assert_eq!(pump(&mut sender, at(0)), []);
    assert_eq!(sender.state().as_str(), "catchup", "nothing is known of what may be sent");
    let end = 300 * KIB + 7;
    sender.handle_sendable(at(0), Lsn(end));
    let Some(Transmit::Wal { header, range }) = sender.poll_transmit(at(5)) else { panic!() };
    let data = XLogData { start: Lsn(8292), end: Lsn(end), sent: Timestamp(5000) };
    assert_eq!(range, LsnRange::new(Lsn(8292), Lsn(136 * KIB)));
    assert_eq!(header, data.encode_header(range.len()));
    assert_eq!(sender.sent_lsn(), Lsn(8292), "not yet with the kernel");
    sender.handle_sent(at(5));
    assert_eq!(sender.sent_lsn(), Lsn(136 * KIB));
    assert_eq!(sender.state(), WalSenderState::Catchup);
    let rest = [('w', 136 * KIB, 264 * KIB), ('w', 264 * KIB, end)];
    assert_eq!(pump(&mut sender, at(6)), rest);
    assert_eq!(sender.state(), WalSenderState::Streaming);
    sender.handle_sendable(at(7), Lsn(end + 1000 * KIB));
    assert_eq!(sender.state(), WalSenderState::Streaming, "it stays so");
    sender.handle_sendable(at(7), Lsn(end));
    assert_eq!(pump(&mut sender, at(7)).len(), 8, "what may be sent does not shrink");
}

#[test]
fn a_message_maximum_below_a_page_is_a_page() {
    let config = WalSenderConfig { message_bytes_max: 1, ..config() };
    let mut sender = WalSender::new(config, at(0), Lsn(100), None);
    sender.handle_sendable(at(0), Lsn(20_000));
    let sent = [('w', 100, 8192), ('w', 8192, 16_384), ('w', 16_384, 20_000)];
    assert_eq!(pump(&mut sender, at(0)), sent);
}

/// What the standby's flush and apply are worth after it has told these.
fn told(sender: &mut WalSender, flush: u64, apply: u64) -> [Option<u64>; 2] {
    let said = status(flush, flush, apply);
    feed(sender, at(1), &said.encode());
    [flush, apply].map(|lsn| sender.counted(Lsn(lsn)).map(|lsn| lsn.0))
}

#[test]
fn a_standby_with_an_abandoned_future_confirms_nothing_before_it_has_made_ours_durable_beyond_it() {
    // As PostgreSQL's walreceiver: from the beginning of its segment, and with the position that is
    // replayed as the durable one.
    for known_late in [false, true] {
        let mut sender = sender(4096);
        if !known_late {
            sender.handle_sendable(at(0), Lsn(5000));
        }
        assert_eq!(told(&mut sender, 9000, 9000), [None; 2]);
        sender.handle_sendable(at(1), Lsn(5000));
        assert_eq!(sender.seam(), Some(Lsn(9000)));
        pump(&mut sender, at(1));
        assert_eq!((sender.sent_lsn(), sender.state()), (Lsn(5000), WalSenderState::Catchup));
        // It writes ours over its own, and says as before that more is durable.
        sender.handle_sendable(at(2), Lsn(8000));
        pump(&mut sender, at(2));
        assert_eq!(told(&mut sender, 9000, 9000), [None; 2]);
        assert_eq!(told(&mut sender, 8000, 9000), [None; 2]);
        sender.handle_sendable(at(3), Lsn(9500));
        pump(&mut sender, at(3));
        assert_eq!(told(&mut sender, 9000, 9000), [None; 2]);
        assert_eq!(sender.state(), WalSenderState::Catchup);
        assert_eq!(told(&mut sender, 9500, 9000), [Some(9500), None]);
        assert_eq!(sender.state(), WalSenderState::Streaming);
        assert_eq!(told(&mut sender, 9500, 9500), [Some(9500), Some(9500)]);
    }
}

#[test]
fn a_standby_that_waited_for_our_wal_counts_when_both_end_at_the_same_record() {
    let mut sender = sender(9000);
    sender.handle_sendable(at(0), Lsn(5000));
    pump(&mut sender, at(0));
    assert_eq!(sender.state(), WalSenderState::Catchup, "it is not up to date: we are not");
    assert_eq!(told(&mut sender, 9000, 8000), [None; 2]);
    sender.handle_sendable(at(2), Lsn(9000));
    assert_eq!((sender.seam(), sender.state()), (None, WalSenderState::Streaming));
    assert_eq!(told(&mut sender, 9000, 8000), [Some(9000), Some(8000)]);
    // One that has WAL from elsewhere may come to be ahead again.
    assert_eq!(told(&mut sender, 9700, 8000), [None; 2]);
    assert_eq!(sender.state(), WalSenderState::Catchup);
    sender.handle_sendable(at(2), Lsn(9800));
    pump(&mut sender, at(2));
    assert_eq!(told(&mut sender, 9800, 9800), [Some(9800), Some(9800)]);
}

#[test]
fn a_standby_that_comes_back_counts_as_soon_as_it_has_been_sent_what_it_had() {
    let mut sender = sender(4096);
    sender.handle_sendable(at(0), Lsn(9000));
    assert_eq!(told(&mut sender, 9000, 9000), [Some(4096); 2], "no more than was sent");
    assert!(sender.has_told_beyond_sent());
    assert_eq!((sender.seam(), sender.state()), (None, WalSenderState::Startup));
    pump(&mut sender, at(0));
    assert_eq!(sender.state(), WalSenderState::Streaming);
    assert_eq!(sender.counted(Lsn(9000)), Some(Lsn(9000)));
    assert!(!sender.has_told_beyond_sent());
}

#[test]
fn a_standby_ahead_of_us_waits() {
    let mut sender = sender(5000);
    sender.handle_sendable(at(0), Lsn(4000));
    assert_eq!(pump(&mut sender, at(0)), []);
    let said = status(9000, 9000, 9000);
    assert_eq!(feed(&mut sender, at(1), &said.encode()), Some(SenderEvent::Status(said)));
    sender.handle_sendable(at(2), Lsn(5500));
    assert_eq!(pump(&mut sender, at(2)), [('w', 5000, 5500)]);
}

#[test]
fn a_historic_timeline_ends_with_copy_done_and_the_stream_with_both() {
    let mut sender = WalSender::new(config(), at(0), Lsn(100), Some(Lsn(200)));
    sender.handle_sendable(at(0), Lsn(900));
    assert_eq!(pump(&mut sender, at(0)), [('w', 100, 200), ('c', 0, 0)]);
    assert!(!sender.is_ended());
    // A keepalive has no place after CopyDone.
    let asks = StandbyStatusUpdate { reply_requested: true, ..status(200, 200, 200) };
    feed(&mut sender, at(1), &asks.encode());
    assert_eq!(pump(&mut sender, at(1)), []);
    let mut rest: &[u8] = b"c\0\0\0\x04Q\0\0\0\x05\0";
    let event = sender.handle_bytes(at(2), &mut rest);
    assert_eq!(event, Ok(Some(SenderEvent::StreamEnded)));
    assert!(sender.is_ended());
    assert_eq!(sender.handle_bytes(at(2), &mut rest), Ok(None));
    assert_eq!(rest, b"Q\0\0\0\x05\0", "the next command is not ours");
}

#[test]
fn nothing_left_on_a_historic_timeline_is_copy_done_at_once() {
    let mut sender = WalSender::new(config(), at(0), Lsn(200), Some(Lsn(200)));
    assert_eq!(pump(&mut sender, at(0)), [('c', 0, 0)]);
}

#[test]
fn a_timeline_that_becomes_historic_ends_at_its_switchpoint_or_at_once() {
    let mut behind = sender(100);
    behind.handle_sendable(at(0), Lsn(500));
    behind.handle_timeline_end(at(0), Lsn(300));
    assert_eq!(pump(&mut behind, at(0)), [('w', 100, 300), ('c', 0, 0)]);

    let mut past = sender(100);
    past.handle_sendable(at(0), Lsn(500));
    assert!(past.poll_transmit(at(0)).is_some());
    past.handle_timeline_end(at(0), Lsn(300));
    past.check();
    past.handle_sent(at(0));
    assert_eq!(past.sent_lsn(), Lsn(500), "what is sent is sent");
    assert_eq!(pump(&mut past, at(0)), [('c', 0, 0)]);
}

#[test]
fn a_clients_copy_done_stops_wal_and_is_answered() {
    let mut sender = sender(0);
    sender.handle_sendable(at(0), Lsn(1000 * KIB));
    assert!(sender.poll_transmit(at(0)).is_some());
    assert_eq!(feed(&mut sender, at(0), &COPY_DONE_MESSAGE), None);
    assert_eq!(sender.handle_sent(at(0)), None);
    let copy_done = Transmit::Message(COPY_DONE_MESSAGE.to_vec());
    assert_eq!(sender.poll_transmit(at(0)), Some(copy_done));
    assert_eq!(sender.handle_sent(at(0)), Some(SenderEvent::StreamEnded));
    assert!(sender.is_ended());
    assert_eq!(pump(&mut sender, at(0)), []);
}

#[test]
fn terminate_is_an_event_and_ends_all_sending() {
    let mut sender = sender(0);
    sender.handle_sendable(at(0), Lsn(100));
    let event = feed(&mut sender, at(0), b"X\0\0\0\x04");
    assert_eq!(event, Some(SenderEvent::Terminated));
    assert_eq!(pump(&mut sender, at(0)), []);
}

#[test]
fn silence_is_asked_about_at_half_of_the_timeout_and_fatal_at_all_of_it() {
    let mut sender = sender(0);
    sender.handle_sendable(at(0), Lsn(0));
    assert_eq!(sender.poll_timeout(), Some(at(30_000).instant));
    sender.handle_timeout(at(29_999));
    assert_eq!(pump(&mut sender, at(29_999)), []);
    sender.handle_timeout(at(30_000));
    assert_eq!(pump(&mut sender, at(30_000)), [('k', 0, 1)]);
    assert_eq!(sender.poll_timeout(), Some(at(60_000).instant));
    sender.handle_timeout(at(59_999));
    assert_eq!(pump(&mut sender, at(59_999)), [], "asked once");
    feed(&mut sender, at(59_999), &status(0, 0, 0).encode());
    assert_eq!(sender.poll_timeout(), Some(at(89_999).instant));
    sender.handle_timeout(at(119_998));
    assert!(!sender.is_timed_out());
    sender.handle_timeout(at(119_999));
    assert!(sender.is_timed_out());
    assert_eq!(pump(&mut sender, at(119_999)), []);
    assert_eq!(sender.poll_timeout(), None);
}

#[test]
fn without_a_timeout_there_is_no_timer() {
    let config = WalSenderConfig { timeout: None, ..config() };
    let mut sender = WalSender::new(config, at(0), Lsn(0), None);
    assert_eq!(sender.poll_timeout(), None);
    sender.handle_timeout(at(1 << 40));
    assert!(!sender.is_timed_out());
}

#[test]
fn a_requested_reply_is_a_keepalive_that_requests_none() {
    let mut sender = sender(7);
    sender.handle_sendable(at(0), Lsn(7));
    let asks = StandbyStatusUpdate { reply_requested: true, ..status(7, 7, 7) };
    assert_eq!(feed(&mut sender, at(3), &asks.encode()), Some(SenderEvent::Status(asks)));
    assert_eq!(pump(&mut sender, at(3)), [('k', 7, 0)]);
    assert_eq!(sender.status(), Some(asks));
}

#[test]
fn a_stopping_server_waits_for_the_flush_of_everything() {
    let mut sender = sender(0);
    sender.handle_sendable(at(0), Lsn(100));
    sender.begin_stop(at(0), Lsn(300));
    assert_eq!(sender.state().as_str(), "stopping");
    assert_eq!(pump(&mut sender, at(0)), [('w', 0, 300), ('k', 300, 1)]);
    feed(&mut sender, at(1), &status(300, 200, 0).encode());
    assert_eq!(pump(&mut sender, at(1)), [('k', 300, 1)], "asked again");
    assert!(!sender.is_drained());
    feed(&mut sender, at(2), &status(300, 300, 0).encode());
    let Some(Transmit::Message(bytes)) = sender.poll_transmit(at(2)) else { panic!() };
    assert_eq!(bytes, b"C\0\0\0\x0bCOPY 0\0");
    assert!(!sender.is_drained());
    sender.handle_sent(at(2));
    assert!(sender.is_drained());
    assert_eq!(pump(&mut sender, at(2)), []);
    sender.check();
}

#[test]
fn a_stopping_server_that_lacks_the_end_of_a_timeline_that_was_left_waits_for_what_it_has() {
    let mut sender = WalSender::new(WalSenderConfig::default(), at(0), Lsn(100), Some(Lsn(500)));
    sender.handle_sendable(at(0), Lsn(200));
    sender.begin_stop(at(0), Lsn(300));
    assert_eq!(pump(&mut sender, at(0)), [('w', 100, 300), ('k', 300, 1)]);
    feed(&mut sender, at(1), &status(300, 200, 0).encode());
    pump(&mut sender, at(1));
    assert!(!sender.is_drained());
    feed(&mut sender, at(2), &status(300, 300, 0).encode());
    assert_eq!(pump(&mut sender, at(2)), [('C', 0, 0)]);
    assert!(sender.is_drained());
    sender.check();
}

#[test]
fn a_client_that_never_flushes_is_believed_its_write() {
    let mut sender = sender(0);
    sender.begin_stop(at(0), Lsn(300));
    pump(&mut sender, at(0));
    feed(&mut sender, at(1), &status(299, 0, 0).encode());
    assert_eq!(pump(&mut sender, at(1)), [('k', 300, 1)]);
    feed(&mut sender, at(2), &status(300, 0, 0).encode());
    assert_eq!(pump(&mut sender, at(2)), [('C', 0, 0)]);
    assert!(sender.is_drained());
}

#[test]
fn lag_is_measured_and_cleared_when_idle() {
    let mut sender = sender(0);
    sender.handle_sendable(at(1000), Lsn(100));
    pump(&mut sender, at(1000));
    feed(&mut sender, at(1500), &status(100, 100, 50).encode());
    let half = Some(Duration::from_millis(500));
    assert_eq!(sender.lags(), Lags { write: half, flush: half, apply: half });
    feed(&mut sender, at(3000), &status(100, 100, 100).encode());
    let apply = Some(Duration::from_secs(2));
    assert_eq!(sender.lags(), Lags { write: half, flush: half, apply });
    feed(&mut sender, at(4000), &status(100, 100, 100).encode());
    assert_eq!(sender.lags(), Lags::default());
}

#[test]
fn violations_have_the_words_of_postgres() {
    let refuse = |bytes: &[u8]| {
        let violation = sender(0).handle_bytes(at(0), &mut &*bytes).unwrap_err();
        assert_eq!(violation.sqlstate().0, "08P01");
        violation.to_string()
    };
    assert_eq!(refuse(b"f"), "invalid standby message type \"f\"");
    assert_eq!(refuse(b"\n"), "invalid standby message type \"\\x0a\"");
    assert_eq!(refuse(b"d\0\0\0\x05z"), "unexpected message type \"z\"");
    assert_eq!(refuse(b"d\0\0\0\x03"), "invalid message length");
    assert_eq!(refuse(b"d\0\0\x27\x15"), "invalid message length");
    assert_eq!(refuse(b"d\xff\xff\xff\xff"), "invalid message length");
    assert_eq!(refuse(b"d\0\0\0\x04"), "insufficient data left in message");
    assert_eq!(refuse(b"d\0\0\0\x06r\0"), "insufficient data left in message");
}

/// Every message that a standby sends, and the events they are.
fn script() -> (Vec<u8>, Vec<SenderEvent>) {
    let feedback = HotStandbyFeedback { xmin: 700, ..HotStandbyFeedback::default() };
    let mut bytes = vec![];
    bytes.extend_from_slice(&status(1, 2, 3).encode());
    bytes.extend_from_slice(&feedback.encode());
    bytes.extend_from_slice(&status(4, 5, 6).encode());
    bytes.extend_from_slice(b"X\0\0\0\x04");
    let events = vec![
        SenderEvent::Status(status(1, 2, 3)),
        SenderEvent::Feedback(feedback),
        SenderEvent::Status(status(4, 5, 6)),
        SenderEvent::Terminated,
    ];
    (bytes, events)
}

/// Feeds `bytes` in pieces, keeping what is not taken, as a caller does.
fn feed_pieces(bytes: &[u8], piece: usize) -> Vec<SenderEvent> {
    let mut sender = sender(0);
    let mut events = vec![];
    let mut kept: Vec<u8> = vec![];
    for piece in bytes.chunks(piece) {
        kept.extend_from_slice(piece);
        let mut rest = kept.as_slice();
        while let Some(event) = sender.handle_bytes(at(0), &mut rest).unwrap() {
            events.push(event);
        }
        kept = rest.to_vec();
        sender.check();
    }
    events
}

#[test]
fn pieces_of_any_size_give_the_same_events_and_no_prefix_gives_more() {
    let (bytes, events) = script();
    for piece in 1..=bytes.len() {
        assert_eq!(feed_pieces(&bytes, piece), events, "pieces of {piece}");
    }
    for cut in 0..bytes.len() {
        let some = feed_pieces(&bytes[..cut], 7);
        assert!(some.len() < events.len() && events.starts_with(&some), "cut at {cut}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Bytes(Vec<u8>),
    Status(u64),
    Sendable(u64),
    TimelineEnd(u64),
    Stop(u64),
    CopyDone,
    Wait(u64),
    Sent,
    Poll,
}

fn op() -> impl Strategy<Value = Op> {
    let lsn = 0..2_000_000_u64;
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Op::Bytes),
        4 => lsn.clone().prop_map(Op::Status),
        6 => lsn.clone().prop_map(Op::Sendable),
        1 => lsn.clone().prop_map(Op::TimelineEnd),
        1 => lsn.prop_map(Op::Stop),
        1 => Just(Op::CopyDone),
        3 => (0..40_000_u64).prop_map(Op::Wait),
        10 => Just(Op::Sent),
        10 => Just(Op::Poll),
    ]
}

proptest! {
    /// No input makes it panic, and the WAL that goes out is contiguous and allowed.
    #[test]
    fn any_input_keeps_the_invariants(ops in prop::collection::vec(op(), 0..80)) {
        let mut sender = sender(1000);
        let mut millis = 0;
        let (mut next, mut allowed) = (Lsn(1000), Lsn(0));
        let mut outstanding = false;
        for op in ops {
            let now = at(millis);
            match op {
                Op::Bytes(bytes) => {
 let _ = sender.handle_bytes(now, &mut bytes.as_slice());
}
                Op::Status(lsn) => {
                    let bytes = status(lsn, lsn, lsn).encode();
                    let _ = sender.handle_bytes(now, &mut bytes.as_slice());
                }
                Op::Sendable(lsn) => {
                    allowed = allowed.max(Lsn(lsn));
                    sender.handle_sendable(now, Lsn(lsn));
                }
                Op::TimelineEnd(lsn) => {
                    allowed = allowed.max(Lsn(lsn));
                    sender.handle_timeline_end(now, Lsn(lsn));
                }
                Op::Stop(lsn) => {
                    allowed = allowed.max(Lsn(lsn));
                    sender.begin_stop(now, Lsn(lsn));
                }
                Op::CopyDone => {
 let _ = sender.handle_bytes(now, &mut COPY_DONE_MESSAGE.as_slice());
}
                Op::Wait(wait) => {
                    millis += wait;
                    sender.handle_timeout(at(millis));
                }
                Op::Sent if outstanding => {
                    sender.handle_sent(now);
                    outstanding = false;
                }
                Op::Poll => {
                    if let Some(transmit) = sender.poll_transmit(now) {
                        prop_assert!(!outstanding);
                        outstanding = true;
                        if let Transmit::Wal { range, .. } = transmit {
                            prop_assert_eq!(range.start, next);
                            prop_assert!(range.end <= allowed);
                            next = range.end;
                        }
                    }
                }
                Op::Sent => {}
            }
            sender.check();
        }
    }
}
