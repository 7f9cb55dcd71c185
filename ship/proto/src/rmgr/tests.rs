use super::counters::Counters;
use super::message::*;
use super::xact::*;
use super::*;
use crate::lsn::Lsn;
use crate::page::WalVersion;
use crate::time::Timestamp;
use std::string::ToString;
use std::vec;

#[test]
fn a_message_is_decoded_as_it_was_made_at_every_length_of_header() {
    for content_len in [0, 1, 220, 223, 224, 225, 255, 256, 70_000] {
        let content = vec![0xA5; content_len];
        let body = logical_message(5, true, "walhub", &content).unwrap();
        let message = LogicalMessage::decode(&body).unwrap();
        let want = LogicalMessage {
            database: 5,
            transactional: true,
            prefix: b"walhub",
            content: &content,
            origin: None,
            toplevel_xid: None,
        };
        assert_eq!(message, want);
        let main = content_len + 24 + 7;
        assert_eq!(body.len(), main + if main <= 255 { 2 } else { 5 });
        let head = logical_message_head(5, true, "walhub", content_len).unwrap();
        assert!(body.starts_with(&head) && head.len() + content_len == body.len());
        for cut in (0..body.len()).step_by(1 + body.len() / 300) {
            assert_eq!(LogicalMessage::decode(&body[..cut]), None, "{cut} of {}", body.len());
        }
    }
}

#[test]
fn origin_and_toplevel_xid_before_the_main_data_are_read() {
    let mut body = vec![ORIGIN, 7, 1, TOPLEVEL_XID, 9, 0, 0, 0];
    body.extend_from_slice(&logical_message(0, false, "", b"x").unwrap());
    let message = LogicalMessage::decode(&body).unwrap();
    assert_eq!((message.origin, message.toplevel_xid), (Some(263), Some(9)));
    assert_eq!((message.prefix, message.content), (&b""[..], &b"x"[..]));
    body[0] = 0; // A block reference.
    assert_eq!(LogicalMessage::decode(&body), None);
}

#[test]
fn a_message_with_sizes_that_do_not_fit_is_no_message() {
    let body = logical_message(5, true, "ab", b"xyz").unwrap();
    // prefix_size, message_size and the prefix's NUL.
    for (at, byte) in [(10, 0), (10, 4), (10, 200), (17, 1), (18, 2), (18, 4), (25, 255), (28, 1)] {
        let mut wrong = body.clone();
        assert_ne!(wrong[at], byte);
        wrong[at] = byte;
        assert_eq!(LogicalMessage::decode(&wrong), None, "byte {at}");
    }
}

#[test]
fn the_longest_message_is_postgres_s_longest_record() {
    let before = 24 + 5 + 24 + 2;
    let longest = (1020 << 20) - before;
    assert!(logical_message_head(5, false, "p", longest).is_ok());
    let error = logical_message_head(5, false, "p", longest + 1).unwrap_err();
    assert_eq!(error.to_string(), "oversized WAL record");
    assert_eq!(error.sqlstate().0, "XX000");
    let detail =
        "WAL record would be 1069547521 bytes (of maximum 1069547520 bytes); rmid 21 flags 0.";
    assert_eq!(error.detail().to_string(), detail);
    assert!(logical_message_head(5, false, "p", usize::MAX).is_err());
}

#[test]
fn commits_are_decoded_as_they_were_made() {
    let time = Timestamp(700_000_000_123_456);
    for apply_feedback in [false, true] {
        let (info, body) = commit(time, apply_feedback);
        let end = XactEnd::decode(info, &body, WalVersion::PG15).unwrap();
        assert!(end.committed && end.time == time && end.apply_feedback == apply_feedback);
        assert_eq!((end.database, end.prepared_xid, end.origin), (None, None, None));
    }
}

#[test]
fn an_abort_is_decoded_as_it_was_made() {
    let (info, body) = abort(Timestamp(77));
    let end = XactEnd::decode(info, &body, WalVersion::PG18).unwrap();
    assert!(!end.committed && end.time == Timestamp(77) && end.subxacts.is_empty());
    // XACT_XINFO_HAS_AE_LOCKS
    assert_eq!(body[10..], [64, 0, 0, 0]);
}

#[test]
fn all_parts_of_a_commit_are_passed_over_to_the_last() {
    for (version, stats) in [(WalVersion::PG15, 12), (WalVersion::PG18, 16)] {
        let mut data = 5_i64.to_le_bytes().to_vec();
        data.extend_from_slice(&0x1BF_u32.to_le_bytes()); // All but the standby's lock flag.
        data.extend_from_slice(&[16, 0, 0, 0, 99, 0, 0, 0]); // The database.
        data.extend_from_slice(&[2, 0, 0, 0, 31, 0, 0, 0, 32, 0, 0, 0]); // Subtransactions.
        for item_len in [12, stats, 16] {
            data.extend_from_slice(&[3, 0, 0, 0]);
            data.resize(data.len() + 3 * item_len, 0xEE);
        }
        data.extend_from_slice(&[77, 0, 0, 0]); // The prepared transaction.
        data.extend_from_slice(b"gid\0");
        data.extend_from_slice(&8_u64.to_le_bytes());
        data.extend_from_slice(&6_i64.to_le_bytes());
        let body = body_of(&data);
        let info = XLOG_XACT_COMMIT_PREPARED | XLOG_XACT_HAS_INFO;
        let end = XactEnd::decode(info, &body, version).unwrap();
        let want = XactEnd {
            committed: true,
            time: Timestamp(5),
            database: Some(16),
            subxacts: vec![31, 32],
            prepared_xid: Some(77),
            origin: Some((Lsn(8), Timestamp(6))),
            origin_id: None,
            apply_feedback: false,
        };
        assert_eq!(end, want);
        for cut in 0..data.len() {
            assert_eq!(XactEnd::decode(info, &body_of(&data[..cut]), version), None);
        }
    }
}

#[test]
fn running_transactions_are_decoded_and_the_id_before_the_first_is_the_last() {
    let running = standby::RunningXacts::decode(0x10, &standby::running_xacts(3)).unwrap();
    assert_eq!((running.next_xid, running.latest_completed_xid), (3, u32::MAX));
    assert!(running.xids.is_empty() && running.oldest_running_xid == 3);
}

#[test]
fn what_17_added_is_there_since_17() {
    use super::counters::Counters;
    use super::xlog::{Checkpoint, WalLevel, checkpoint_redo, end_of_recovery};
    use crate::lsn::TimelineId;
    let (one, two) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
    let checkpoint = Checkpoint {
        redo: Lsn(0x0123_4567_89AB_CDE8),
        timeline: two,
        prev_timeline: one,
        wal_level: WalLevel::Logical,
        counters: Counters { next_xid: (1 << 32) + 9, ..Counters::first() },
        time: Timestamp(1_999_999),
        oldest_active_xid: 8,
    };
    for (version, since_17) in [(WalVersion::PG16, false), (WalVersion::PG17, true)] {
        let body = checkpoint.body(version);
        assert_eq!((body[0], usize::from(body[1])), (255, body.len() - 2));
        let data = &body[2..];
        assert_eq!(data[..8], 0x0123_4567_89AB_CDE8_u64.to_le_bytes());
        assert_eq!(data[8..16], [2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(data[16..24], [1, 0, 0, 0, u8::from(since_17) * 2, 0, 0, 0]);
        assert_eq!(data[24..32], [9, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(data[64..72], 946_684_801_i64.to_le_bytes());
        assert_eq!(data[80..], [8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(checkpoint_redo(WalLevel::Replica, version).is_some(), since_17);
        let end = end_of_recovery(Timestamp(1), two, one, WalLevel::Logical, version);
        assert_eq!(end.len(), 2 + if since_17 { 24 } else { 16 });
        let decoded = main_data(&body).and_then(|main| Checkpoint::decode(main.data));
        assert_eq!(decoded.map(|checkpoint| checkpoint.redo), Some(checkpoint.redo));
    }
}

#[test]
fn transaction_ids_at_the_end_of_all_numbers_do_not_overflow() {
    let mut counters = Counters { next_xid: u64::MAX, ..Counters::first() };
    counters.advance_past(2_000_000_000);
    assert_eq!(counters.next_xid, u64::MAX);
    counters.take_xid();
    assert_eq!(counters.next_xid, u64::MAX);
}
