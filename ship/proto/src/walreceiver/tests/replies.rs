//! Replies, feedback, timeouts and stopping.

use super::*;
use crate::feedback::FullTransactionId;
use crate::wire::copy::{
    HotStandbyFeedback, PrimaryKeepalive, StandbyStatusUpdate, TERMINATE_MESSAGE,
};
use crate::wire::reader::decode_frame;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Sent {
    Status(u64, u64, u64, bool),
    Feedback(u32, u32, u32, u32),
    Terminate,
}

/// Everything that is due now.
fn sent(receiver: &mut WalReceiver, now: Now) -> Vec<Sent> {
    let bytes = receiver.poll_transmit(now).unwrap_or_default();
    assert_eq!(receiver.poll_transmit(now), None);
    let mut rest = bytes.as_slice();
    let mut all = vec![];
    while let Some(frame) = decode_frame(rest, 100).unwrap() {
        if rest[..frame.len] == TERMINATE_MESSAGE {
            all.push(Sent::Terminate);
        } else if let Ok(status) = StandbyStatusUpdate::decode(frame.body) {
            assert_eq!(status.sent, now.wall);
            let (write, flush, apply) = (status.write.0, status.flush.0, status.apply.0);
            all.push(Sent::Status(write, flush, apply, status.reply_requested));
        } else {
            let f = HotStandbyFeedback::decode(frame.body).unwrap();
            all.push(Sent::Feedback(f.xmin, f.xmin_epoch, f.catalog_xmin, f.catalog_xmin_epoch));
        }
        rest = &rest[frame.len..];
    }
    assert!(rest.is_empty());
    all
}

fn keepalive(reply_requested: bool) -> Vec<u8> {
    PrimaryKeepalive { end: Lsn(1), sent: Timestamp(2), reply_requested }.encode().to_vec()
}

/// Streaming, with what is said at the start of a stream already said.
fn settled(config: WalReceiverConfig) -> WalReceiver {
    let mut receiver = streaming(config);
    sent(&mut receiver, at(0));
    receiver
}

fn needs(xmin: u32) -> Option<Horizons> {
    Some(Horizons { xmin: FullTransactionId::new(1, xmin), catalog_xmin: None })
}

fn feedback_on() -> WalReceiverConfig {
    WalReceiverConfig { hot_standby_feedback: true, timeout: None, ..WalReceiverConfig::default() }
}

#[test]
fn a_stream_begins_with_our_positions_and_an_end_to_old_feedback() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    receiver.handle_progress(at(0), Lsn(30), Lsn(20), Lsn(10));
    for answer in [identity("1", "0/3000100"), segment_size()] {
        query(&mut receiver);
        feed(&mut receiver, at(0), &answer).unwrap();
    }
    query(&mut receiver);
    assert_eq!(sent(&mut receiver, at(0)), [], "not before the stream");
    feed(&mut receiver, at(0), &copy_both()).unwrap();
    let want = [Sent::Status(30, 20, 10, false), Sent::Feedback(0, 0, 0, 0)];
    assert_eq!(sent(&mut receiver, at(0)), want);
}

#[test]
fn progress_is_told_at_once_and_only_when_there_is_some() {
    let mut receiver = settled(WalReceiverConfig::default());
    receiver.handle_progress(at(1), Lsn(1), Lsn(0), Lsn(0));
    receiver.handle_progress(at(1), Lsn(2), Lsn(1), Lsn(0));
    assert_eq!(sent(&mut receiver, at(1)), [Sent::Status(2, 1, 0, false)], "in one message");
    receiver.handle_progress(at(2), Lsn(2), Lsn(1), Lsn(0));
    assert_eq!(sent(&mut receiver, at(2)), []);
    receiver.handle_progress(at(2), Lsn(2), Lsn(1), Lsn(1));
    assert_eq!(sent(&mut receiver, at(2)), [Sent::Status(2, 1, 1, false)]);
}

#[test]
fn an_idle_stream_is_told_each_interval() {
    let mut receiver = settled(WalReceiverConfig::default());
    assert_eq!(receiver.poll_timeout(), Some(at(10_000).instant));
    receiver.handle_timeout(at(9_999)).unwrap();
    assert_eq!(sent(&mut receiver, at(9_999)), []);
    receiver.handle_timeout(at(10_000)).unwrap();
    assert_eq!(sent(&mut receiver, at(10_000)), [Sent::Status(0, 0, 0, false)]);
    assert_eq!(receiver.poll_timeout(), Some(at(20_000).instant));
}

#[test]
fn without_an_interval_only_requests_are_answered() {
    let config = WalReceiverConfig { status_interval: None, ..WalReceiverConfig::default() };
    let mut receiver = settled(config);
    receiver.handle_progress(at(1), Lsn(5), Lsn(5), Lsn(5));
    assert_eq!(sent(&mut receiver, at(1)), []);
    feed(&mut receiver, at(2), &keepalive(true)).unwrap();
    assert_eq!(sent(&mut receiver, at(2)), [Sent::Status(5, 5, 5, false)]);
}

#[test]
fn a_keepalive_is_answered_when_it_asks() {
    let mut receiver = settled(WalReceiverConfig::default());
    let event = Seen::Event(ReceiverEvent::Told { end: Lsn(1), sent: Timestamp(2) });
    assert_eq!(feed(&mut receiver, at(1), &keepalive(false)), Ok(vec![event.clone()]));
    assert_eq!(sent(&mut receiver, at(1)), []);
    assert_eq!(feed(&mut receiver, at(1), &keepalive(true)), Ok(vec![event]));
    assert_eq!(sent(&mut receiver, at(1)), [Sent::Status(0, 0, 0, false)]);
}

#[test]
fn silence_is_asked_about_at_half_of_the_timeout_and_fatal_at_all_of_it() {
    let config = WalReceiverConfig { status_interval: None, ..WalReceiverConfig::default() };
    let mut receiver = settled(config);
    assert_eq!(receiver.poll_timeout(), Some(at(30_000).instant));
    receiver.handle_timeout(at(30_000)).unwrap();
    assert_eq!(sent(&mut receiver, at(30_000)), [Sent::Status(0, 0, 0, true)]);
    assert_eq!(receiver.poll_timeout(), Some(at(60_000).instant));
    receiver.handle_timeout(at(45_000)).unwrap();
    assert_eq!(sent(&mut receiver, at(45_000)), [], "asked once");
    feed(&mut receiver, at(50_000), &keepalive(false)).unwrap();
    assert_eq!(receiver.poll_timeout(), Some(at(80_000).instant));
    receiver.handle_timeout(at(109_999)).unwrap();
    let violation = receiver.handle_timeout(at(110_000)).unwrap_err();
    assert_eq!(violation.to_string(), "terminating walreceiver due to timeout");
    assert_eq!(violation.sqlstate().0, "08006");
    assert_eq!(receiver.state(), WalReceiverState::Stopped);
    assert_eq!(receiver.poll_timeout(), None);
    assert_eq!(receiver.handle_timeout(at(200_000)), Ok(()));
}

#[test]
fn a_silent_upstream_is_given_up_before_the_stream_too() {
    let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
    assert_eq!(receiver.poll_timeout(), Some(at(60_000).instant));
    assert_eq!(receiver.handle_timeout(at(60_000)), Err(UpstreamViolation::Timeout));
}

#[test]
fn feedback_goes_out_each_interval_and_its_end_at_once() {
    let mut receiver = settled(feedback_on());
    assert_eq!(sent(&mut receiver, at(0)), [], "nothing is known yet");
    receiver.handle_feedback(at(1), needs(700));
    assert_eq!(sent(&mut receiver, at(1)), [Sent::Feedback(700, 1, 0, 0)]);
    receiver.handle_feedback(at(2), needs(701));
    assert_eq!(sent(&mut receiver, at(2)), [], "not before its time");
    receiver.handle_timeout(at(10_001)).unwrap();
    let want = [Sent::Status(0, 0, 0, false), Sent::Feedback(701, 1, 0, 0)];
    assert_eq!(sent(&mut receiver, at(10_001)), want);
    receiver.handle_feedback(at(10_002), None);
    assert_eq!(sent(&mut receiver, at(10_002)), [Sent::Feedback(0, 0, 0, 0)]);
    receiver.handle_feedback(at(10_003), None);
    receiver.handle_timeout(at(30_000)).unwrap();
    assert_eq!(sent(&mut receiver, at(30_000)), [Sent::Status(0, 0, 0, false)], "told once");
}

#[test]
fn turning_feedback_off_is_told_once() {
    let mut receiver = settled(feedback_on());
    receiver.handle_feedback(at(1), needs(700));
    sent(&mut receiver, at(1));
    let off = WalReceiverConfig { hot_standby_feedback: false, ..feedback_on() };
    receiver.set_config(at(2), off);
    assert_eq!(sent(&mut receiver, at(2)), [Sent::Feedback(0, 0, 0, 0)]);
    receiver.handle_feedback(at(3), needs(702));
    receiver.handle_timeout(at(20_000)).unwrap();
    assert_eq!(sent(&mut receiver, at(20_000)), [Sent::Status(0, 0, 0, false)]);
}

#[test]
fn stopping_sends_what_is_owed_and_terminate() {
    let mut receiver = settled(WalReceiverConfig::default());
    receiver.handle_progress(at(1), Lsn(9), Lsn(9), Lsn(0));
    receiver.stop(at(1));
    assert_eq!(receiver.state(), WalReceiverState::Stopping);
    assert_eq!(sent(&mut receiver, at(1)), [Sent::Status(9, 9, 0, false), Sent::Terminate]);
    assert_eq!(receiver.state(), WalReceiverState::Stopped);
    assert_eq!(feed(&mut receiver, at(1), &wal(0x300_0000, b"x")), Ok(vec![]));
    assert_eq!(receiver.poll_timeout(), None);
}
