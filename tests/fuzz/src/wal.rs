//! Pages and records, from an upstream or from a segment's file.

use walhub_proto::decode::{Change, Decoder, DecoderConfig};
use walhub_proto::generate::{WalShape, WalWriter};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::{LONG_HEADER, LongHeader, PAGE_LEN, PageHeader, WalVersion};
use walhub_proto::record::{RecordHeader, RecordReader, RecordSink};
use walhub_proto::recovery::{ControlFile, EndOfWal, ScanPlan, SegmentPart};
use walhub_proto::rmgr::facts::DatabaseFacts;
use walhub_proto::rmgr::message::LogicalMessage;
use walhub_proto::rmgr::standby::RunningXacts;
use walhub_proto::rmgr::xact::{XactAssignment, XactEnd};
use walhub_proto::rmgr::xlog::Checkpoint;
use walhub_proto::segment::{SegNo, SegmentSize};

const START: Lsn = Lsn(0x0010_0000);
const SYSTEM: SystemIdentifier = SystemIdentifier(7);

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).expect("a size")
}

fn version(number: u8) -> WalVersion {
    let major = 13 + u32::from(number) % 6;
    WalVersion::of_major(major).expect("a major that is known")
}

/// What an input stands for, by its first byte: bytes of WAL as they are, pages around them, or whole
/// records. A fuzzer does not find the headers of pages and records by itself.
fn wal_of(seed: u8, input: &[u8]) -> Vec<u8> {
    match seed % 8 {
        0 => input.to_vec(),
        1..4 => paged(seed, input),
        _ => recorded(seed, input),
    }
}

/// Records whose resource manager, info and length the input says, with its bytes as their data.
fn recorded(seed: u8, mut input: &[u8]) -> Vec<u8> {
    let shape = WalShape {
        system_identifier: SYSTEM,
        segment_size: size(),
        timeline: TimelineId::FIRST,
        version: version(seed),
        crc: super::no_crc,
    };
    let mut writer = WalWriter::new(shape, START, None);
    let mut wal = Vec::new();
    while let Some((&[rmid, info, xid, len], rest)) = input.split_first_chunk() {
        let (data, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        // XLR_BLOCK_ID_DATA_SHORT: all of it is the record's main data.
        let head = [255, u8::try_from(data.len()).expect("what a byte said")];
        writer.append_record(rmid, info, u32::from(xid), &[&head, data], &mut wal);
    }
    wal
}

/// `records` with the headers of pages around them.
fn paged(seed: u8, records: &[u8]) -> Vec<u8> {
    let long = LongHeader {
        system_identifier: SYSTEM,
        segment_size: 1 << 20,
        page_len: u32::try_from(PAGE_LEN).expect("a page"),
    };
    let mut wal = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let page_addr = START + u64::try_from(wal.len()).expect("a length");
        let is_first = wal.is_empty();
        let header = PageHeader {
            magic: version(seed).magic(),
            info: if is_first { LONG_HEADER } else { 1 },
            tli: 1,
            page_addr,
            rem_len: if is_first { 0 } else { u32::from(seed) },
            long: is_first.then_some(long),
        };
        let begin = wal.len();
        header.encode(&mut wal);
        let room = (PAGE_LEN - (wal.len() - begin)).min(rest.len());
        let (now, later) = rest.split_at(room);
        wal.extend_from_slice(now);
        rest = later;
    }
    wal
}

/// Takes whole bodies, and decodes those that walhub looks into.
#[derive(Default)]
struct Bodies {
    body: Vec<u8>,
    version: Option<WalVersion>,
    seen: Vec<(Lsn, Lsn, usize)>,
}

impl RecordSink for Bodies {
    fn begin(&mut self, _: &RecordHeader) {
        self.body.clear();
    }

    fn body(&mut self, _: &RecordHeader, piece: &[u8]) {
        self.body.extend_from_slice(piece);
    }

    fn record(&mut self, record: &RecordHeader) {
        self.seen.push((record.start, record.end, self.body.len()));
        let (info, body) = (record.info, &self.body[..]);
        let version = self.version.unwrap_or_else(|| version(2));
        drop((XactEnd::decode(info, body, version), XactAssignment::decode(info, body)));
        drop((RunningXacts::decode(info, body), Checkpoint::decode(body)));
        if let Some(message) = LogicalMessage::decode(body) {
            assert!(message.content.len() + message.prefix.len() <= body.len());
        }
    }
}

/// Records: whole or in pieces they are the same.
pub(crate) fn records(bytes: &[u8]) {
    let Some((&seed, rest)) = bytes.split_first() else { return };
    let wal = wal_of(seed, rest);
    let mut whole = RecordReader::new(START, size(), super::no_crc);
    let mut bodies = Bodies { version: Some(version(seed)), ..Bodies::default() };
    let answer = whole.feed_to(&wal, &mut bodies);
    if let Err(violation) = &answer {
        drop(violation.to_string());
    }
    assert!(whole.verified_lsn() <= whole.next_lsn());
    for pair in bodies.seen.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "records overlap: {pair:?}");
    }
    let mut pieces = RecordReader::new(START, size(), super::no_crc);
    let mut again = Bodies { version: Some(version(seed)), ..Bodies::default() };
    let step = usize::from(seed) + 1;
    let answers = wal.chunks(step).try_for_each(|piece| pieces.feed_to(piece, &mut again));
    assert_eq!(answers, answer);
    assert_eq!(again.seen, bodies.seen);
    assert_eq!(pieces.verified_lsn(), whole.verified_lsn());
}

/// Logical decoding.
pub(crate) fn decoder(bytes: &[u8]) {
    let Some((&seed, rest)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new(DecoderConfig {
        system_identifier: SYSTEM,
        segment_size: size(),
        version: version(seed),
        crc: super::no_crc,
        database: 5,
        start_reading: START,
        start_decoding_at: START,
        kept_bytes_max: 4096,
    });
    let mut lsn = Lsn(0);
    for piece in wal_of(seed, rest).chunks(4096) {
        if let Err(error) = decoder.handle_wal(piece) {
            drop(error.to_string());
            return;
        }
        while let Some(change) = decoder.poll_change() {
            if let Change::Commit(commit) = &change {
                assert!(lsn <= commit.end_lsn, "commits are in order");
                lsn = commit.end_lsn;
            }
        }
        assert!(decoder.restart_lsn(lsn) <= lsn.max(START));
    }
}

/// What a start-up reads.
pub(crate) fn end_of_wal(bytes: &[u8]) {
    let Some((&seed, rest)) = bytes.split_first() else { return };
    let wal = wal_of(seed, rest);
    let control = ControlFile {
        system_identifier: SYSTEM,
        segment_size: size(),
        server_version_num: 150_000,
        server_version: "15.0".to_owned(),
        wal_version: (seed & 1 != 0).then(|| version(seed)),
        timeline: TimelineId::FIRST,
        start_lsn: START,
        flush_lsn: START,
        last_record: None,
        own_wal: seed & 2 != 0,
        counters: None,
        database: DatabaseFacts::default(),
        checkpoint_lsn: None,
        redo_lsn: None,
        sequence: 1,
    };
    let segno = SegNo::of_start(START, size());
    let part = |segno: SegNo| SegmentPart { tli: TimelineId::FIRST, segno, end: segno.end(size()) };
    let plan = ScanPlan {
        history: TimelineHistory::single(TimelineId::FIRST),
        start: START,
        parts: vec![part(segno), part(segno.next())],
        bound: START,
        oldest_lsn: START,
    };
    let mut scan = EndOfWal::new(plan, &control, super::no_crc);
    while let Some(want) = scan.poll_read() {
        let before = want.segno.start(size()) - START;
        let at = usize::try_from(before + want.offset).expect("a small file");
        let len =
            usize::try_from(want.len_max).expect("a small file").min(usize::from(seed) * 64 + 1);
        let found = wal.get(at..).unwrap_or_default();
        scan.handle_read(&found[..len.min(found.len())]);
    }
    match scan.finish() {
        Ok(end) => {
            assert!(end.end >= START);
            assert!(
                end.end - START
                    <= u64::try_from(wal.len()).expect("a length").next_multiple_of(1 << 20)
            );
            drop(end.reason.to_string());
        }
        Err(error) => drop(error.to_string()),
    }
}
