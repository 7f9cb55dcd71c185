use super::*;
use crate::generate::{WalGenerator, WalShape, WalWriter};
use crate::page::PageHeader;
use crate::page::{LONG_HEADER_LEN, SHORT_HEADER_LEN};
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const SIZE: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(7 << 20);
const SYSTEM: SystemIdentifier = SystemIdentifier(0x1234_5678_9ABC_DEF0);

fn shape() -> WalShape {
    WalShape {
        system_identifier: SYSTEM,
        segment_size: SIZE,
        timeline: TimelineId::FIRST,
        version: WalVersion::PG15,
        crc: crc32c::crc32c_append,
    }
}

fn reader(start: Lsn) -> RecordReader {
    RecordReader::new(start, SIZE, crc32c::crc32c_append).with_system_identifier(SYSTEM)
}

/// Two segments and a bit: more than a switch and a record that crosses a segment.
fn wal() -> Vec<u8> {
    let mut generator = WalGenerator::new(7, shape(), START);
    let mut out = vec![];
    generator.fill(300_000, &mut out);
    generator.switch_segment(&mut out);
    generator.fill(900_000, &mut out);
    generator.append_message(&[0xA5; 300_000], &mut out);
    generator.fill(100_000, &mut out);
    out
}

/// Records and verified position after `bytes` in pieces of the sizes that `pieces` goes through.
fn read(start: Lsn, bytes: &[u8], pieces: &[usize]) -> (Vec<RecordHeader>, RecordReader) {
    let mut reader = reader(start);
    let mut records = vec![];
    let mut rest = bytes;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        reader.feed_with(now, |record| records.push(*record)).unwrap();
        rest = later;
    }
    (records, reader)
}

/// One record of `payload_len` bytes after another, from the start of a segment.
fn wal_of(payload_lens: &[usize]) -> (Vec<u8>, Vec<Lsn>) {
    let mut writer = WalWriter::new(shape(), START, None);
    let mut out = vec![];
    let starts = payload_lens
        .iter()
        .map(|&len| writer.append_record(21, 0, 9, &[&vec![0x55; len]], &mut out).start)
        .collect();
    (out, starts)
}

#[test]
fn chunking_changes_nothing() {
    let wal = wal();
    let (records, whole) = read(START, &wal, &[wal.len()]);
    let end = START + to_u64(wal.len());
    assert!(records.len() > 1000);
    assert_eq!((whole.next_lsn(), whole.verified_lsn()), (end, end));
    assert_eq!(whole.last_record(), records.last().map(|record| record.start));
    assert_eq!(records.iter().filter(|record| record.is_switch()).count(), 1);
    for pair in records.windows(2) {
        assert_eq!(pair[1].prev, pair[0].start);
        assert!(pair[1].start >= pair[0].end);
    }
    for pieces in [vec![1], vec![7], vec![8191], vec![8192], vec![4096, 1, 24, 40]] {
        let (same, reader) = read(START, &wal, &pieces);
        assert!(same == records, "{pieces:?}");
        assert_eq!(reader.verified_lsn(), end);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_chunking_gives_the_same_records(
        pieces in prop::collection::vec(1_usize..20_000, 1..40),
        lens in prop::collection::vec(0_usize..20_000, 1..40),
    ) {
        let (wal, starts) = wal_of(&lens);
        let (records, reader) = read(START, &wal, &pieces);
        prop_assert_eq!(records.iter().map(|record| record.start).collect::<Vec<_>>(), starts);
        prop_assert_eq!(reader.verified_lsn(), START + to_u64(wal.len()));
    }

    #[test]
    fn any_bytes_at_all_are_answered(
        at in 0_usize..1_500_000,
        noise in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let mut wal = wal();
        let len = wal.len();
        let at = at.min(len - noise.len());
        wal[at..at + noise.len()].copy_from_slice(&noise);
        let mut reader = reader(START);
        let result = reader.feed(&wal);
        prop_assert!(reader.verified_lsn() <= reader.next_lsn());
        prop_assert_eq!(reader.feed(&[]).is_err(), result.is_err());
    }
}

#[test]
fn verified_lsn_is_the_end_of_the_last_whole_record_at_every_byte() {
    let (wal, starts) = wal_of(&[0, 1, 8_000, 20_000, 3]);
    let mut reader = reader(START);
    let mut ends = vec![START];
    let mut verified = START;
    for byte in &wal {
        let before = ends.len();
        reader.feed_with(&[*byte], |record| ends.push(record.end)).unwrap();
        if ends.len() > before {
            verified = ends[before];
        }
        assert_eq!(reader.verified_lsn(), verified);
    }
    assert_eq!(ends.len(), starts.len() + 1);
}

#[test]
fn an_end_on_a_page_boundary_stays_before_the_next_header() {
    let fits = PAGE_LEN - LONG_HEADER_LEN - RECORD_HEADER_LEN;
    let (wal, starts) = wal_of(&[fits, 10]);
    let (records, _) = read(START, &wal, &[wal.len()]);
    assert_eq!(records[0].end, START + PAGE_BYTES);
    assert_eq!(records[1].start, START + PAGE_BYTES + to_u64(SHORT_HEADER_LEN));
    assert_eq!(records[1].start, starts[1]);
    // Going on from that end is going on from the start of a page.
    let mut rest = reader(START + PAGE_BYTES).with_prev(starts[0]);
    rest.feed(&wal[PAGE_LEN..]).unwrap();
    assert_eq!(rest.last_record(), Some(starts[1]));
}

#[test]
fn a_record_header_may_be_split_between_pages_at_each_alignment() {
    for split in [8, 16] {
        let len = PAGE_LEN - LONG_HEADER_LEN - RECORD_HEADER_LEN - split;
        let (wal, starts) = wal_of(&[len, 100, 0]);
        assert_eq!(starts[1], START + to_u64(PAGE_LEN - split));
        let (records, _) = read(START, &wal, &[5]);
        assert_eq!(records.len(), 3);
    }
}

#[test]
fn reading_may_begin_at_any_page_and_passes_over_the_record_under_way() {
    let wal = wal();
    let (records, _) = read(START, &wal, &[wal.len()]);
    let switch_end = records.iter().find(|record| record.is_switch()).unwrap().end;
    for page in (0..wal.len()).step_by(PAGE_LEN) {
        let start = START + to_u64(page);
        if (switch_end..START + SIZE.bytes()).contains(&start) {
            continue;
        }
        let (seen, reader) = read(start, &wal[page..], &[wal.len()]);
        let want: Vec<_> = records.iter().filter(|record| record.start >= start).copied().collect();
        assert!(seen == want, "from {start}");
        assert_eq!(reader.verified_lsn(), START + to_u64(wal.len()));
    }
}

#[test]
fn reading_may_begin_at_every_record() {
    let (wal, starts) = wal_of(&[0, 1, 8_000, 20_000, 3]);
    for (i, &start) in starts.iter().enumerate() {
        let offset = usize::try_from(start - START).unwrap();
        let mut reader = reader(start);
        let mut count = 0;
        reader.feed_with(&wal[offset..], |_| count += 1).unwrap();
        assert_eq!(count, starts.len() - i);
    }
}

#[test]
fn the_filling_after_a_switch_is_verified_as_it_arrives() {
    let mut writer = WalWriter::new(shape(), START, None);
    let mut wal = vec![];
    writer.append_record(21, 0, 0, &[&[1; 100]], &mut wal);
    let end = wal.len() + RECORD_HEADER_LEN;
    writer.switch_segment(&mut wal);
    writer.append_record(21, 0, 0, &[&[2; 100]], &mut wal);
    let mut reader = reader(START);
    reader.feed(&wal[..end]).unwrap();
    assert_eq!(reader.verified_lsn(), START + to_u64(end));
    for at in (end..SIZE.bytes() as usize).step_by(100_000) {
        reader.feed(&wal[usize::try_from(reader.next_lsn() - START).unwrap()..at]).unwrap();
        assert_eq!(reader.verified_lsn(), START + to_u64(at));
    }
    reader.feed(&wal[usize::try_from(reader.next_lsn() - START).unwrap()..]).unwrap();
    assert_eq!(reader.verified_lsn(), writer.lsn());
    assert_eq!(reader.last_record(), writer.last_record());
}

/// A record, a switch, and the segment after it; where the filling begins.
fn switched() -> (Vec<u8>, usize) {
    let mut writer = WalWriter::new(shape(), START, None);
    let mut wal = vec![];
    writer.append_record(21, 0, 0, &[&[1; 100]], &mut wal);
    let filling = wal.len() + RECORD_HEADER_LEN;
    writer.switch_segment(&mut wal);
    writer.append_record(21, 0, 0, &[&[2; 100]], &mut wal);
    (wal, filling)
}

#[test]
fn a_byte_in_the_filling_after_a_switch_is_refused_wherever_it_is() {
    let (wal, filling) = switched();
    let end = usize::try_from(SIZE.bytes()).unwrap();
    let pages = (PAGE_LEN..end).step_by(PAGE_LEN * 17);
    for at in [filling, filling + 1, filling + 63, filling + 64, end - 1].into_iter().chain(pages) {
        for pieces in [wal.len(), 4096, 1000] {
            let mut wal = wal.clone();
            wal[at] = 0x20;
            let mut reader = reader(START);
            let fed = wal.chunks(pieces).try_for_each(|piece| reader.feed(piece));
            let lsn = START + to_u64(at);
            assert_eq!(fed, Err(WalViolation::Filling { at: lsn, got: 0x20 }));
            assert_eq!(reader.verified_lsn(), lsn, "what is right stays");
        }
    }
}

#[test]
fn reading_goes_on_in_the_filling_after_a_switch() {
    let (wal, filling) = switched();
    let end = usize::try_from(SIZE.bytes()).unwrap();
    let filling_lsn = START + to_u64(filling);
    let before = reader(START);
    for at in [filling, filling + 777, end - 1] {
        let mut first = before.clone();
        first.feed(&wal[..at]).unwrap();
        assert_eq!(first.filling(), Some(filling_lsn));
        let mut again = reader(START)
            .with_prev(first.last_record().unwrap())
            .with_filling(filling_lsn, START + to_u64(at));
        again.feed(&wal[at..]).unwrap();
        assert_eq!(again.verified_lsn(), START + to_u64(wal.len()));
    }
}

#[test]
fn filling_that_a_crash_has_interrupted_may_be_anything() {
    let (mut wal, filling) = switched();
    let checked = START + to_u64(filling + 1000);
    wal[filling + 1000..usize::try_from(SIZE.bytes()).unwrap()].fill(0xEE);
    let mut lenient = reader(START).with_filling_checked_to(checked);
    lenient.feed(&wal).unwrap();
    let mut strict = reader(START).with_filling_checked_to(checked + 1);
    assert_eq!(strict.feed(&wal), Err(WalViolation::Filling { at: checked, got: 0xEE }));
}

#[test]
fn bytes_that_belong_to_no_record_are_zero() {
    let (wal, starts) = wal_of(&[1, 9_000, 3]);
    // Between the first record and the second, and at the end of both kinds of page header.
    let padding = usize::try_from(starts[1] - START).unwrap() - 1;
    for at in [padding, SHORT_HEADER_LEN - 1, PAGE_LEN + SHORT_HEADER_LEN - 4] {
        let mut wal = wal.clone();
        wal[at] = 7;
        let want = WalViolation::Filling { at: START + to_u64(at), got: 7 };
        assert_eq!(reader(START).feed(&wal), Err(want));
        assert_eq!(want.numbers().to_string(), "got byte 07, want 00");
    }
    // A page that begins with a record of its own has nothing left of another.
    let mut wal = wal;
    wal[16] = 5;
    let want = WalViolation::ContrecordLength { at: START, page: START, got: 5, want: 0 };
    assert_eq!(reader(START).feed(&wal), Err(want));
}

#[test]
fn an_overwritten_record_is_given_up() {
    let (mut wal, starts) = wal_of(&[100, 20_000]);
    wal.truncate(PAGE_LEN);
    // What PostgreSQL writes after a crash that lost the second page: a new record there.
    let page = START + PAGE_BYTES;
    let mut writer = WalWriter::new(shape(), page, Some(starts[0]));
    let end = writer.append_record(0, 0xD0, 0, &[&[7; 18]], &mut wal);
    let mut header = PageHeader::decode(&wal[PAGE_LEN..]).unwrap();
    header.info |= FIRST_IS_OVERWRITE_CONTRECORD;
    let mut bytes = vec![];
    header.encode(&mut bytes);
    wal[PAGE_LEN..PAGE_LEN + SHORT_HEADER_LEN].copy_from_slice(&bytes);

    let mut reader = reader(START);
    reader.feed(&wal[..PAGE_LEN + SHORT_HEADER_LEN]).unwrap();
    assert_eq!(reader.verified_lsn(), starts[1]);
    reader.feed(&wal[PAGE_LEN + SHORT_HEADER_LEN..]).unwrap();
    assert_eq!((reader.verified_lsn(), reader.last_record()), (end.end, Some(end.start)));
}

#[test]
fn every_corrupt_byte_of_a_record_is_noticed() {
    let (wal, starts) = wal_of(&[100, 9_000, 5]);
    let whole = RECORD_HEADER_LEN + 9_000;
    let first = usize::try_from(starts[1] - START).unwrap();
    let bytes = (first..wal.len()).filter(|at| {
        let on_page = at % PAGE_LEN;
        *at < PAGE_LEN || on_page >= SHORT_HEADER_LEN
    });
    for at in bytes.take(whole) {
        for bit in [0x01, 0x80] {
            let mut corrupt = wal.clone();
            corrupt[at] ^= bit;
            let mut reader = reader(START);
            let result = reader.feed(&corrupt);
            // A longer length may wait for bytes that do not come: then nothing was verified.
            assert!(result.is_err() || at < first + 4, "byte {at}");
            assert_eq!(reader.verified_lsn(), starts[1], "byte {at}");
        }
    }
}

/// What the reader says when `change` was made to records of 100, 9000 and 5 bytes.
fn violation(change: impl FnOnce(&mut Vec<u8>, &[Lsn])) -> WalViolation {
    let (mut wal, starts) = wal_of(&[100, 9_000, 5]);
    change(&mut wal, &starts);
    let mut reader = reader(START).with_timeline(TimelineId::FIRST);
    let violation = reader.feed(&wal).unwrap_err();
    assert_eq!(reader.feed(&[0]), Err(violation), "the reader stays failed");
    violation
}

#[test]
fn violations_are_told_in_the_words_of_postgres() {
    let at = |lsn: Lsn| usize::try_from(lsn - START).unwrap();
    let cases = [
        (
            violation(|wal, starts| wal[at(starts[1]) + 30] ^= 1),
            "incorrect resource manager data checksum in record at 0/7000A8",
        ),
        (
            violation(|wal, starts| wal[at(starts[1]) + 8] ^= 8),
            "record with incorrect prev-link 0/700020 at 0/7000A8",
        ),
        (
            violation(|wal, starts| wal[at(starts[1]) + 17] = 99),
            "invalid resource manager ID 99 at 0/7000A8",
        ),
        (
            violation(|wal, starts| wal[at(starts[1])..][..4].fill(0)),
            "invalid record length at 0/7000A8: wanted 24, got 0",
        ),
        (
            violation(|wal, starts| wal[at(starts[1])..][..4].fill(0xFF)),
            "record length 4294967295 at 0/7000A8 too long",
        ),
        (violation(|wal, _| wal[PAGE_LEN + 2] = 0), "there is no contrecord flag at 0/7000A8"),
        (
            violation(|wal, _| wal[PAGE_LEN + 16] ^= 1),
            "invalid contrecord length 1001 (expected 1000) at 0/7000A8",
        ),
        (
            violation(|wal, _| wal[PAGE_LEN + 9] = 0),
            "unexpected pageaddr 0/700000 in log segment 000000010000000000000007, offset 8192",
        ),
        (
            violation(|wal, _| wal[PAGE_LEN] = 0x0D),
            "invalid magic number D10D in log segment 000000010000000000000007, offset 8192",
        ),
        (
            violation(|wal, _| wal[PAGE_LEN + 4] = 2),
            "unexpected timeline ID 2 in log segment 000000010000000000000007, offset 8192",
        ),
        (
            violation(|wal, _| wal[24] ^= 1),
            "WAL file is from different database system: WAL file database system identifier is \
             1311768467463790321, pg_control database system identifier is 1311768467463790320",
        ),
    ];
    for (violation, text) in cases {
        assert_eq!(violation.to_string(), text);
        assert!(violation.numbers().to_string().contains("got"), "{violation}");
        assert!(violation.lsn() >= START);
    }
    let (wal, starts) = wal_of(&[9_000]);
    let mut reader = reader(START + PAGE_BYTES).with_prev(starts[0]);
    let result = reader.feed(&wal[PAGE_LEN..]).unwrap_err();
    assert_eq!(result.to_string(), "contrecord is requested by 0/702018");
}

#[test]
fn an_unknown_version_is_followed_as_long_as_it_does_not_change() {
    let version = WalVersion::from_magic(0xD1F0).unwrap();
    let mut wal = vec![];
    let mut writer = WalWriter::new(WalShape { version, ..shape() }, START, None);
    writer.append_record(99, 0, 0, &[&[1; 20_000]], &mut wal);
    let mut follower = reader(START);
    follower.feed(&wal).unwrap();
    assert_eq!(follower.version(), Some(version));
    wal[PAGE_LEN] ^= 1;
    assert!(reader(START).feed(&wal).is_err());
    assert!(reader(START).with_version(WalVersion::PG15).feed(&wal).is_err());
}

#[test]
fn zeros_where_a_header_would_be_split_are_the_end_of_the_wal() {
    let len = PAGE_LEN - LONG_HEADER_LEN - RECORD_HEADER_LEN - 8;
    let (mut wal, _) = wal_of(&[len]);
    wal.resize(2 * PAGE_LEN, 0);
    let mut reader = reader(START);
    let at = START + to_u64(PAGE_LEN - 8);
    assert_eq!(reader.feed(&wal), Err(WalViolation::RecordLength { at, got: 0, want: 24 }));
    assert_eq!(reader.verified_lsn(), at);
}
