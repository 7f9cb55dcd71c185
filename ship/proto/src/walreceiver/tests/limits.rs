//! What an upstream may say before it answers, and for how long.

use super::*;

fn notice(len: usize) -> Vec<u8> {
    let text = "n".repeat(len);
    let notice = Report::new(crate::wire::backend::Severity::Notice, SqlState::WARNING, text);
    Encoder::new().report(&notice).take()
}

/// Sends `noise` again and again; what ends it, and after how many bytes.
fn flood(receiver: &mut WalReceiver, noise: &[u8]) -> (UpstreamViolation, usize) {
    let mut sent = 0;
    loop {
        sent += noise.len();
        assert!(sent < 2 * ANSWER_BYTES_MAX, "no end after {sent} bytes");
        if let Err(violation) = feed(receiver, at(0), noise) {
            return (violation, sent);
        }
    }
}

#[test]
fn an_endless_result_has_an_end() {
    let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
    let row = Encoder::new().data_row(&[Some("1"), Some("1"), Some("0/1"), None]).take();
    let (violation, sent) = flood(&mut receiver, &row);
    assert_eq!(
        violation.to_string(),
        "could not receive database system identifier and timeline ID from the primary server: too \
         much data from server"
    );
    assert!(violation.detail().unwrap().contains("4194304 bytes"), "{violation:?}");
    assert!((ANSWER_BYTES_MAX..ANSWER_BYTES_MAX + 100).contains(&sent), "{sent}");
}

#[test]
fn a_flood_of_notices_in_the_stream_has_an_end_and_wal_between_them_has_none() {
    let mut receiver = streaming(WalReceiverConfig::default());
    let noise = notice(1 << 19);
    for number in 0..32 {
        feed(&mut receiver, at(0), &noise).unwrap();
        feed(&mut receiver, at(0), &wal(0x300_0000 + number, b"x")).unwrap();
    }
    let (violation, _) = flood(&mut receiver, &noise);
    assert_eq!(
        violation.to_string(),
        "could not receive data from WAL stream: too much data from server"
    );
}

#[test]
fn an_upstream_that_talks_and_does_not_answer_is_left_after_wal_receiver_timeout() {
    let mut receiver = start(WalReceiverConfig::default(), LocalWal::default(), 150_018);
    for second in 0..60 {
        let now = at(second * 1000);
        assert_eq!(receiver.handle_timeout(now), Ok(()));
        feed(&mut receiver, now, &notice(10)).unwrap();
    }
    assert_eq!(receiver.poll_timeout(), Some(at(60_000).instant));
    let violation = receiver.handle_timeout(at(60_000)).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "could not receive database system identifier and timeline ID from the primary server: \
         timeout expired"
    );
    assert_eq!(receiver.poll_timeout(), None);
}

#[test]
fn each_command_has_its_own_time_and_the_stream_has_none() {
    let mut receiver = start(WalReceiverConfig::default(), local(1, 0x300_0000), 150_018);
    for (second, answer) in
        [(50, identity("1", "0/3000100")), (100, segment_size()), (150, copy_both())]
    {
        assert_eq!(receiver.handle_timeout(at(second * 1000)), Ok(()));
        feed(&mut receiver, at(second * 1000), &answer).unwrap();
    }
    for second in 4..100 {
        let now = at(second * 50_000);
        assert_eq!(receiver.handle_timeout(now), Ok(()));
        feed(&mut receiver, now, &wal(0x300_0000 + second - 4, b"x")).unwrap();
    }
}

#[test]
fn without_wal_receiver_timeout_an_answer_may_take_for_ever() {
    let config = WalReceiverConfig { timeout: None, ..WalReceiverConfig::default() };
    let mut receiver = start(config, LocalWal::default(), 150_018);
    assert_eq!(receiver.poll_timeout(), None);
    assert_eq!(receiver.handle_timeout(at(1_000_000_000)), Ok(()));
}
