use super::*;
use std::string::ToString;
use std::vec;

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn long(at: Lsn) -> PageHeader {
    PageHeader {
        magic: 0xD110,
        info: LONG_HEADER,
        tli: 3,
        page_addr: at,
        rem_len: 0,
        long: Some(LongHeader {
            system_identifier: SystemIdentifier(7_000_000_000_000_000_001),
            segment_size: 16 << 20,
            page_len: 8192,
        }),
    }
}

fn short(at: Lsn) -> PageHeader {
    PageHeader { info: FIRST_IS_CONTRECORD, rem_len: 99, long: None, ..long(at) }
}

fn want() -> PageWant {
    PageWant {
        segment_size: SIZE,
        version: Some(WalVersion::PG15),
        system_identifier: Some(SystemIdentifier(7_000_000_000_000_000_001)),
        tli_min: TimelineId::new(2).unwrap(),
        timeline: TimelineId::new(3),
    }
}

#[test]
fn headers_round_trip_and_every_prefix_asks_for_more() {
    for (header, len) in
        [(long(Lsn(1 << 24)), LONG_HEADER_LEN), (short(Lsn(1 << 13)), SHORT_HEADER_LEN)]
    {
        let mut bytes = vec![];
        header.encode(&mut bytes);
        assert_eq!(bytes.len(), len);
        assert_eq!(header_len(header.page_addr, SIZE), len);
        assert_eq!(PageHeader::decode(&bytes), Some(header));
        for cut in 0..len {
            assert_eq!(PageHeader::decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(header.check(header.page_addr, &want()), Ok(()));
    }
}

#[test]
fn every_broken_rule_is_named_in_the_words_of_postgres() {
    let at = Lsn(0x0300_0000);
    let mid = at + 8192;
    let other = |change: fn(&mut LongHeader)| {
        let mut header = long(at);
        change(header.long.as_mut().unwrap());
        header
    };
    let file = "000000030000000000000003";
    let foreign = "WAL file is from different database system: ";
    let cases = [
        (
            PageHeader { magic: 0xD10D, ..short(mid) },
            mid,
            "invalid magic number D10D in log segment {file}, offset 8192",
        ),
        (
            PageHeader { magic: 0, ..short(mid) },
            mid,
            "invalid magic number 0000 in log segment {file}, offset 8192",
        ),
        (
            PageHeader { info: 0x10, ..short(mid) },
            mid,
            "invalid info bits 0010 in log segment {file}, offset 8192",
        ),
        (
            PageHeader { info: 0, ..long(at) },
            at,
            "invalid info bits 0000 in log segment {file}, offset 0",
        ),
        (long(mid), mid, "invalid info bits 0002 in log segment {file}, offset 8192"),
        (
            other(|long| long.system_identifier.0 += 1),
            at,
            "{foreign}WAL file database system identifier is 7000000000000000002, pg_control database system identifier is 7000000000000000001",
        ),
        (
            other(|long| long.segment_size *= 2),
            at,
            "{foreign}incorrect segment size in page header",
        ),
        (other(|long| long.page_len *= 2), at, "{foreign}incorrect XLOG_BLCKSZ in page header"),
        (
            short(mid + 8192),
            mid,
            "unexpected pageaddr 0/3004000 in log segment {file}, offset 8192",
        ),
        (
            PageHeader { tli: 1, ..short(mid) },
            mid,
            "out-of-sequence timeline ID 1 (after 2) in log segment {file}, offset 8192",
        ),
        (
            PageHeader { tli: 4, ..short(mid) },
            mid,
            "unexpected timeline ID 4 in log segment {file}, offset 8192",
        ),
    ];
    for (header, at, text) in cases {
        let violation = header.check(at, &want()).unwrap_err();
        let text = text.replace("{file}", file).replace("{foreign}", foreign);
        assert_eq!(violation.to_string(), text);
    }
}

#[test]
fn an_unknown_version_is_taken_when_it_looks_like_one() {
    assert_eq!(WalVersion::from_magic(0xD1FF).map(WalVersion::major), Some(None));
    assert_eq!(WalVersion::from_magic(0xD010), None);
    for (major, version) in WalVersion::KNOWN {
        assert_eq!(WalVersion::of_major(major), Some(version));
        assert_eq!(version.major(), Some(major));
        assert_eq!(WalVersion::from_magic(version.magic()), Some(version));
        assert!(version.has_rmgr(21) && !version.has_rmgr(22));
        assert_eq!(version.has_rmgr(128), major >= 15);
    }
}
