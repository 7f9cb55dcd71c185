//! A walsender and a walreceiver talking to each other.

use super::*;
use crate::lsn::LsnRange;
use crate::walsender::{SenderEvent, Transmit, WalSender, WalSenderConfig, WalSenderState};
use proptest::prelude::*;

/// The WAL that both sides mean: each byte is a function of its position.
fn wal_bytes(range: LsnRange) -> Vec<u8> {
    (range.start.0..range.end.0).map(|lsn| (lsn.wrapping_mul(0x9E37_79B9) >> 7) as u8).collect()
}

const START: u64 = 0x300_0000;

struct Pair {
    sender: WalSender,
    receiver: WalReceiver,
    /// Not yet arrived, on each way.
    down: Vec<u8>,
    up: Vec<u8>,
    received: Vec<u8>,
    sender_events: Vec<SenderEvent>,
    end: Result<(), UpstreamViolation>,
}

impl Pair {
    fn new(end_of_timeline: Option<Lsn>) -> Self {
        let config = WalSenderConfig { message_bytes_max: 8192, ..WalSenderConfig::default() };
        Self {
            sender: WalSender::new(config, at(0), Lsn(START), end_of_timeline),
            receiver: streaming(WalReceiverConfig::default()),
            down: vec![],
            up: vec![],
            received: vec![],
            sender_events: vec![],
            end: Ok(()),
        }
    }

    fn sender_sends(&mut self, now: Now) {
        if let Some(transmit) = self.sender.poll_transmit(now) {
            match transmit {
                Transmit::Message(bytes) => self.down.extend(bytes),
                Transmit::Wal { header, range } => {
                    self.down.extend(header);
                    self.down.extend(wal_bytes(range));
                }
            }
            self.sender_events.extend(self.sender.handle_sent(now));
        }
        self.sender.check();
    }

    /// At most `bytes` arrive downstream.
    fn receiver_gets(&mut self, now: Now, bytes: usize) {
        let arrived: Vec<u8> = self.down.drain(..bytes.min(self.down.len())).collect();
        match feed(&mut self.receiver, now, &arrived) {
            Ok(events) => {
                for event in events {
                    if let Seen::Wal(start, bytes) = event {
                        assert_eq!(start.0, START + self.received.len() as u64);
                        self.received.extend(bytes);
                    }
                }
            }
            Err(violation) => self.end = Err(violation),
        }
        let end = Lsn(START + self.received.len() as u64);
        self.receiver.handle_progress(now, end, end, end);
        self.up.extend(self.receiver.poll_transmit(now).unwrap_or_default());
    }

    /// At most `bytes` more arrive upstream.
    fn sender_gets(&mut self, now: Now, bytes: usize) {
        let mut rest = &self.up[..bytes.min(self.up.len())];
        let before = rest.len();
        while let Some(event) = self.sender.handle_bytes(now, &mut rest).unwrap() {
            self.sender_events.push(event);
        }
        let taken = before - rest.len();
        self.up.drain(..taken);
        self.sender.check();
    }

    /// Until nothing moves any more.
    fn settle(&mut self, now: Now) {
        for _ in 0..10_000 {
            let before = (self.sender.sent_lsn(), self.received.len(), self.up.len());
            self.sender_sends(now);
            self.receiver_gets(now, usize::MAX);
            self.sender_gets(now, usize::MAX);
            let after = (self.sender.sent_lsn(), self.received.len(), self.up.len());
            if before == after && self.down.is_empty() {
                return;
            }
        }
        panic!("they never settle");
    }

    fn assert_received(&self, end: u64) {
        assert_eq!(self.received, wal_bytes(LsnRange::new(Lsn(START), Lsn(end))));
    }
}

#[test]
fn everything_arrives_and_is_acknowledged() {
    let mut pair = Pair::new(None);
    pair.sender.handle_sendable(at(0), Lsn(START + 100_000));
    pair.settle(at(1));
    pair.assert_received(START + 100_000);
    assert_eq!(pair.sender.state(), WalSenderState::Streaming);
    assert_eq!(pair.sender.status().unwrap().flush, Lsn(START + 100_000));
}

#[test]
fn an_idle_pair_lives_on_pings_and_a_cut_one_ends_on_both_sides() {
    let mut pair = Pair::new(None);
    pair.sender.handle_sendable(at(0), Lsn(START));
    for step in 1..100 {
        let now = at(step * 10_000);
        pair.sender.handle_timeout(now);
        pair.receiver.handle_timeout(now).unwrap();
        pair.settle(now);
    }
    assert!(!pair.sender.is_timed_out());
    let later = at(1_200_000);
    pair.sender.handle_timeout(later);
    assert!(pair.sender.is_timed_out());
    assert_eq!(pair.receiver.handle_timeout(later), Err(UpstreamViolation::Timeout));
}

#[test]
fn a_stopping_sender_drains_and_the_receiver_knows_why_it_ended() {
    let mut pair = Pair::new(None);
    pair.sender.handle_sendable(at(0), Lsn(START + 50));
    pair.sender.begin_stop(at(0), Lsn(START + 30_000));
    pair.settle(at(1));
    assert!(pair.sender.is_drained());
    pair.assert_received(START + 30_000);
    let (timeline, end) = (tli(1), Lsn(START + 30_000));
    assert_eq!(pair.end, Err(UpstreamViolation::Terminated { timeline, end }));
}

#[test]
fn a_timeline_ends_for_both() {
    let mut pair = Pair::new(Some(Lsn(START + 20_000)));
    pair.settle(at(1));
    pair.assert_received(START + 20_000);
    assert!(pair.sender.is_ended());
    assert_eq!(pair.sender_events.last(), Some(&SenderEvent::StreamEnded));
    let switchpoint = Lsn(START + 20_000).to_string();
    let events = feed(&mut pair.receiver, at(2), &next_timeline("2", &switchpoint)).unwrap();
    let event = ReceiverEvent::EndOfTimeline { next: tli(2), switchpoint: Lsn(START + 20_000) };
    assert_eq!(events, [Seen::Event(event)]);
}

#[test]
fn a_receiver_that_stops_is_seen_to() {
    let mut pair = Pair::new(None);
    pair.receiver.stop(at(1));
    pair.settle(at(1));
    assert_eq!(pair.sender_events.last(), Some(&SenderEvent::Terminated));
}

proptest! {
    /// However the bytes are cut and delayed, the same WAL arrives.
    #[test]
    fn any_schedule_delivers_the_same_wal(
        steps in prop::collection::vec((0..4_u8, 1..3000_usize), 0..200),
        end in 0..60_000_u64,
        ends_timeline in any::<bool>(),
    ) {
        let mut pair = Pair::new(None);
        let mut sendable = START;
        for (step, (kind, amount)) in steps.into_iter().enumerate() {
            let now = at(step as u64);
            match kind {
                0 => {
                    sendable = (sendable + amount as u64 * 4).min(START + end);
                    pair.sender.handle_sendable(now, Lsn(sendable));
                }
                1 => pair.sender_sends(now),
                2 => pair.receiver_gets(now, amount),
                _ => pair.sender_gets(now, amount),
            }
        }
        let end = START + end;
        if ends_timeline {
            pair.sender.handle_timeline_end(at(300), Lsn(end));
        }
        pair.sender.handle_sendable(at(300), Lsn(end));
        pair.settle(at(300));
        pair.assert_received(end);
        prop_assert_eq!(pair.sender.is_ended(), ends_timeline);
        if !ends_timeline {
            prop_assert_eq!(pair.sender.status().map(|status| status.apply), Some(Lsn(end)));
        }
    }
}
