use super::*;
use crate::generate::{RecordKind, WalShape, WalWriter};
use crate::lsn::{LsnRange, TimelineId};
use crate::page::PAGE_BYTES;
use crate::rmgr::message::logical_message;
use crate::rmgr::{standby, xact};
use std::format;
use std::string::String;
use std::vec;

const START: Lsn = Lsn(5 << 20);
const ABORT: u8 = xact::XLOG_XACT_ABORT;

/// WAL made by hand.
struct Wal {
    writer: WalWriter,
    bytes: Vec<u8>,
}

impl Wal {
    fn new() -> Self {
        let shape = WalShape {
            system_identifier: SystemIdentifier(42),
            segment_size: SegmentSize::MIN,
            timeline: TimelineId::FIRST,
            version: WalVersion::PG17,
            crc: crc32c::crc32c_append,
        };
        Self { writer: WalWriter::new(shape, START, None), bytes: vec![] }
    }

    fn append(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> LsnRange {
        let record = RecordKind { rmid, info, xid };
        let bytes = &mut self.bytes;
        let mut sink = |piece: &[u8]| bytes.extend_from_slice(piece);
        self.writer.append_checked(record, &[body], crc32c::crc32c(body), &mut sink)
    }

    fn message(&mut self, xid: u32, content: &str) -> LsnRange {
        let body = logical_message(5, xid != 0, "p", content.as_bytes()).unwrap();
        self.append(RM_LOGICALMSG, 0, xid, &body)
    }

    /// A commit or an abort, with these subtransactions.
    fn end(&mut self, info: u8, xid: u32, subxacts: &[u32]) -> LsnRange {
        let mut body = vec![255, 0];
        body.extend_from_slice(&77_i64.to_le_bytes());
        body.extend_from_slice(&2_u32.to_le_bytes());
        body.extend_from_slice(&u32::try_from(subxacts.len()).unwrap().to_le_bytes());
        subxacts.iter().for_each(|xid| body.extend_from_slice(&xid.to_le_bytes()));
        body[1] = u8::try_from(body.len() - 2).unwrap();
        self.append(RM_XACT, info | xact::XLOG_XACT_HAS_INFO, xid, &body)
    }

    fn commit(&mut self, xid: u32) -> LsnRange {
        self.end(xact::XLOG_XACT_COMMIT, xid, &[])
    }

    fn config(&self, start_decoding_at: Lsn) -> DecoderConfig {
        DecoderConfig {
            system_identifier: SystemIdentifier(42),
            segment_size: SegmentSize::MIN,
            version: WalVersion::PG17,
            crc: crc32c::crc32c_append,
            database: 5,
            start_reading: START,
            start_decoding_at,
            kept_bytes_max: 1 << 20,
        }
    }

    fn after(&self, lsn: Lsn) -> &[u8] {
        &self.bytes[usize::try_from(lsn - START).unwrap()..]
    }

    /// Feeds all of it in pieces, and writes down what comes out.
    fn decode(&self, decoder: &mut Decoder, piece: usize) -> String {
        let mut text = String::new();
        for bytes in self.after(decoder.next_lsn()).chunks(piece) {
            decoder.handle_wal(bytes).unwrap();
            while let Some(change) = decoder.poll_change() {
                self.write(change, &mut text);
            }
        }
        text
    }

    fn write(&self, change: Change, text: &mut String) {
        match change {
            Change::Begin(begin) => *text += &format!("B{}(", begin.xid),
            Change::Message(message) => {
                *text += core::str::from_utf8(&message.content).unwrap().trim_end();
            }
            Change::Reread(mut reread) => {
                *text += "!";
                while let Some(next) = reread.next_lsn() {
                    let bytes = self.after(next);
                    reread.handle_wal(&bytes[..bytes.len().min(500)]).unwrap();
                    while let Some(message) = reread.poll_message() {
                        self.write(Change::Message(message), text);
                    }
                }
            }
            Change::Commit(_) => *text += ")",
        }
    }

    fn decoded(&self, start_decoding_at: Lsn) -> String {
        self.decode(&mut Decoder::new(self.config(start_decoding_at)), 1000)
    }
}

#[test]
fn transactions_come_out_whole_and_in_the_order_of_their_commits() {
    let mut wal = Wal::new();
    wal.message(3, "a");
    wal.message(4, "b");
    wal.message(0, "c");
    wal.message(3, "d");
    wal.commit(4);
    wal.commit(9); // Nothing that is of interest here.
    wal.message(5, "gone");
    wal.end(ABORT, 5, &[]);
    wal.commit(3);
    for piece in [1, 7, 100, 1 << 20] {
        let mut decoder = Decoder::new(wal.config(START));
        assert_eq!(wal.decode(&mut decoder, piece), "cB4(b)B3(ad)");
        assert_eq!((decoder.kept_bytes(), decoder.decoded_lsn()), (0, wal.writer.lsn()));
    }
}

#[test]
fn subtransactions_come_out_in_order_with_theirs_unless_they_were_rolled_back() {
    let mut wal = Wal::new();
    wal.message(3, "a");
    wal.message(4, "b");
    wal.message(5, "x");
    wal.message(3, "c");
    wal.end(ABORT, 5, &[]);
    wal.message(6, "d");
    wal.message(4, "e");
    wal.end(xact::XLOG_XACT_COMMIT, 3, &[4, 6]);
    wal.message(7, "x");
    wal.message(8, "x");
    wal.end(ABORT, 7, &[8]);
    assert_eq!(wal.decoded(START), "B3(abcde)");
}

#[test]
fn what_does_not_fit_is_read_again() {
    let mut wal = Wal::new();
    wal.message(3, "a");
    for i in 0..50 {
        wal.message(4, &format!("{i}{}", " ".repeat(3000)));
        wal.message(6, "x"); // Rolled back.
        wal.message(7, ".");
        wal.message(0, ",");
    }
    wal.end(ABORT, 6, &[]);
    wal.end(xact::XLOG_XACT_COMMIT, 4, &[7]);
    wal.commit(3);
    let outside = ",".repeat(50);
    let inside: String = (0..50).map(|i| format!("{i}.")).collect();
    assert_eq!(wal.decoded(START), format!("{outside}B4({inside})B3(a)"));
    let small = DecoderConfig { kept_bytes_max: 20_000, ..wal.config(START) };
    let mut decoder = Decoder::new(small);
    assert_eq!(wal.decode(&mut decoder, 9999), format!("{outside}B4(!{inside})B3(a)"));
    // Not even the smallest one is kept.
    let none = DecoderConfig { kept_bytes_max: 0, ..small };
    assert_eq!(wal.decode(&mut Decoder::new(none), 9999), format!("{outside}B4(!{inside})B3(!a)"));
    let mut decoder = Decoder::new(small);
    for bytes in wal.bytes.chunks(100) {
        decoder.handle_wal(bytes).unwrap();
        assert!(decoder.kept_bytes() <= 20_000);
    }
}

#[test]
fn what_begins_before_the_start_comes_out_if_it_commits_after() {
    let mut wal = Wal::new();
    wal.message(3, "a");
    let plain = wal.message(0, "b");
    wal.message(4, "c");
    let commit = wal.commit(3);
    wal.commit(4);
    assert_eq!(wal.decoded(START), "bB3(a)B4(c)");
    assert_eq!(wal.decoded(plain.start), "bB3(a)B4(c)");
    assert_eq!(wal.decoded(plain.end), "B3(a)B4(c)");
    assert_eq!(wal.decoded(commit.start), "B3(a)B4(c)");
    assert_eq!(wal.decoded(commit.end), "B4(c)");
}

#[test]
fn after_a_restart_anywhere_nothing_is_missing_and_nothing_confirmed_comes_again() {
    // Overlapping transactions, and what comes out after each position.
    let mut wal = Wal::new();
    for i in 0..400_u32 {
        let xid = 3 + i * 7919 % 5;
        wal.message(xid, &format!("{i}{}", " ".repeat(usize::try_from(i % 3).unwrap() * 4000)));
        if i % 3 == 0 {
            wal.message(0, &format!("-{i}-"));
        }
        if i % 4 == 1 {
            wal.commit(3 + i % 5);
        }
    }
    let mut decoder = Decoder::new(wal.config(START));
    let mut confirmed = START;
    for bytes in wal.bytes.chunks(30_000) {
        decoder.handle_wal(bytes).unwrap();
        while decoder.poll_change().is_some() {}
        for confirm_now in [false, true] {
            let restart = decoder.restart_lsn(confirmed);
            assert!(restart <= confirmed);
            // As little before it as can be read: nothing else must be needed.
            let start_reading = restart.align_down(PAGE_BYTES);
            let mut again = Decoder::new(DecoderConfig { start_reading, ..wal.config(confirmed) });
            assert_eq!(wal.decode(&mut again, 10_000), wal.decoded(confirmed));
            if confirm_now {
                confirmed = decoder.decoded_lsn();
                decoder.handle_confirmed(confirmed);
            }
        }
    }
}

#[test]
fn the_restart_position_is_the_start_of_the_oldest_transaction_that_is_needed() {
    let mut wal = Wal::new();
    let first = wal.message(3, "a");
    let second = wal.message(4, "b");
    let commit = wal.commit(3);
    let mut decoder = Decoder::new(wal.config(commit.end));
    // What begins where nothing was read yet is not known.
    assert_eq!(decoder.restart_lsn(commit.end), START);
    decoder = Decoder::new(wal.config(START));
    wal.decode(&mut decoder, 1000);
    assert_eq!(decoder.restart_lsn(second.end), first.start);
    assert_eq!(decoder.restart_lsn(commit.end), second.start);
    decoder.handle_confirmed(commit.end);
    assert_eq!(decoder.restart_lsn(commit.end), second.start);
    let commit = wal.commit(4);
    wal.decode(&mut decoder, 1000);
    assert_eq!(decoder.restart_lsn(commit.start), second.start);
    assert_eq!(decoder.restart_lsn(commit.end), commit.end);
}

#[test]
fn however_many_commits_are_unconfirmed_their_beginnings_are_kept() {
    let mut unconfirmed = Unconfirmed::default();
    for i in 1..=5000_u64 {
        unconfirmed.push(Lsn(i * 10), Lsn(i * 10 - 5));
    }
    for confirmed in [0, 10, 11, 4000, 10_235, 10_240, 49_999, 50_000] {
        let needed = (1..=5000).find(|i| i * 10 >= confirmed).map(|i| Lsn(i * 10 - 5));
        let oldest = unconfirmed.oldest_start(Lsn(confirmed));
        assert!(oldest.is_some() && oldest <= needed, "{confirmed}: {oldest:?} {needed:?}");
    }
    assert_eq!(unconfirmed.oldest_start(Lsn(50_001)), None);
    unconfirmed.confirm(Lsn(50_001));
    assert_eq!(unconfirmed.oldest_start(Lsn(0)), None);
}

#[test]
fn a_transaction_that_a_crash_cut_off_is_forgotten() {
    let mut wal = Wal::new();
    wal.message(u32::MAX, "a");
    wal.message(7, "b");
    wal.append(RM_STANDBY, standby::XLOG_RUNNING_XACTS, 0, &standby::running_xacts(7));
    let mut decoder = Decoder::new(wal.config(START));
    wal.decode(&mut decoder, 1000);
    wal.commit(u32::MAX);
    wal.commit(7);
    assert_eq!(wal.decode(&mut decoder, 1000), "B7(b)");
}

#[test]
fn other_databases_are_passed_over_and_nonsense_is_an_error_that_stays() {
    let mut wal = Wal::new();
    let foreign = logical_message(6, false, "p", b"x").unwrap();
    wal.append(RM_LOGICALMSG, 0, 0, &foreign);
    let foreign = logical_message(6, true, "p", b"x").unwrap();
    wal.append(RM_LOGICALMSG, 0, 3, &foreign);
    wal.commit(3);
    assert_eq!(wal.decoded(START), "");
    wal.message(0, "a");
    let bad = wal.append(RM_LOGICALMSG, 0, 0, &[255, 2, 1, 1]);
    wal.message(0, "b");
    let mut decoder = Decoder::new(wal.config(START));
    let error = DecodeError::Record { at: bad.start, rmid: 21, info: 0 };
    assert_eq!(decoder.handle_wal(&wal.bytes), Err(error));
    assert!(matches!(decoder.poll_change(), Some(Change::Message(_))));
    assert!(decoder.poll_change().is_none());
    assert_eq!(decoder.handle_wal(&[]), Err(error));
}
