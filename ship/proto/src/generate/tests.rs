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
