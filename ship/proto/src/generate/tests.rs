use super::*;
use crate::record::RecordReader;
use std::vec;

const START: Lsn = Lsn(5 << 20);

fn shape() -> WalShape {
    WalShape {
        system_identifier: SystemIdentifier(42),
        segment_size: SegmentSize::MIN,
        timeline: TimelineId::FIRST,
        version: WalVersion::PG17,
        crc: crc32c::crc32c_append,
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_however_they_are_asked_for() {
    let mut at_once = vec![];
    WalGenerator::new(1, shape(), START).fill(500_000, &mut at_once);
    let mut by_record = vec![];
    let mut generator = WalGenerator::new(1, shape(), START);
    while by_record.len() < 500_000 {
        let before = generator.lsn();
        let range = generator.append_next(&mut by_record);
        assert!(range.start >= before && range.end == generator.lsn());
    }
    assert!(at_once == by_record);
    assert_eq!(generator.lsn(), START + u64::try_from(by_record.len()).unwrap());
    let mut other = vec![];
    WalGenerator::new(2, shape(), START).fill(500_000, &mut other);
    assert!(at_once != other);
}

#[test]
fn a_clone_makes_the_same_bytes_again() {
    let mut generator = WalGenerator::new(3, shape(), START);
    let mut out = vec![];
    generator.fill(1_500_000, &mut out);
    let mut copy = generator.clone();
    let (mut a, mut b) = (vec![], vec![]);
    generator.fill(1_000_000, &mut a);
    copy.fill(1_000_000, &mut b);
    assert!(a == b);
}

#[test]
fn what_is_written_is_what_the_reader_finds() {
    let mut generator = WalGenerator::new(4, shape(), START);
    let mut out = vec![];
    let mut ranges = vec![];
    while out.len() < 3 << 20 {
        ranges.push(generator.append_next(&mut out));
    }
    let mut seen = vec![];
    let mut reader = RecordReader::new(START, SegmentSize::MIN, crc32c::crc32c_append)
        .with_system_identifier(SystemIdentifier(42))
        .with_version(WalVersion::PG17);
    reader.feed_with(&out, |record| seen.push(LsnRange::new(record.start, record.end))).unwrap();
    assert_eq!(seen, ranges);
    let longest = ranges.iter().map(|range| range.len()).max().unwrap();
    assert!(longest > 4 * PAGE_BYTES, "no record crosses several pages");
}

#[test]
fn a_switch_at_the_start_of_a_segment_does_nothing() {
    let mut generator = WalGenerator::new(5, shape(), START);
    let mut out = vec![];
    generator.switch_segment(&mut out);
    assert!(out.is_empty());
    generator.append_next(&mut out);
    generator.switch_segment(&mut out);
    assert_eq!(out.len(), 1 << 20);
    generator.switch_segment(&mut out);
    assert_eq!(out.len(), 1 << 20);
}

#[test]
fn a_record_lies_where_it_was_foretold() {
    // Every position at which a record may start on three pages, of which one is a segment's first.
    let mut out = vec![];
    for lead in (0..3 * PAGE_LEN).step_by(8) {
        let mut writer = WalWriter::new(shape(), START + ((1 << 20) - PAGE_BYTES), None);
        writer.append_record(10, 0, 0, &[&vec![1; lead]], &mut out);
        for len in [0, 1, 8, 100, 8120, 8121, 8128, 8129, 8144, 16_300, 16_312, 60_000] {
            let mut writer = writer.clone();
            let want = writer.record_range(len);
            assert_eq!(writer.append_record(10, 0, 0, &[&vec![2; len]], &mut out), want);
            assert_eq!(writer.lsn(), want.end);
        }
        let want = writer.record_range(0);
        let is_empty = writer.lsn().0.is_multiple_of(1 << 20);
        let want = LsnRange::new(want.start, want.end.align_up(1 << 20));
        let want = if is_empty { LsnRange::new(writer.lsn(), writer.lsn()) } else { want };
        assert_eq!(writer.switch_segment_to(&mut |_| ()), want);
        assert_eq!((writer.lsn(), writer.lsn().0 % (1 << 20)), (want.end, 0));
        assert!(writer.switch_segment_to(&mut |_| ()).is_empty());
        out.clear();
    }
}

#[test]
fn a_sink_gets_what_a_vector_gets() {
    let (mut a, mut b) = (WalWriter::new(shape(), START, None), vec![]);
    let (mut c, mut d) = (a.clone(), vec![]);
    let body = vec![7; 20_000];
    let record = RecordKind { rmid: 21, info: 0, xid: 9 };
    let (head, tail) = body.split_at(33);
    for _ in 0..3 {
        let crc = crc32c::crc32c(&body);
        let mut sink = |bytes: &[u8]| d.extend_from_slice(bytes);
        let range = c.append_checked(record, &[head, tail], crc, &mut sink);
        assert_eq!(range, a.append_record(21, 0, 9, &[&body], &mut b));
    }
    a.switch_segment(&mut b);
    c.switch_segment_to(&mut |bytes| d.extend_from_slice(bytes));
    assert!(b == d);
}
