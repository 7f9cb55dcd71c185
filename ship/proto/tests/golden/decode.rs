//! Logical decoding against a real PostgreSQL 15's, as tests/golden/decode/make.sh keeps it.

use std::fs;
use std::path::{Path, PathBuf};

use walhub_proto::decode::{Change, Decoder, DecoderConfig, reading_start};
use walhub_proto::lsn::Lsn;
use walhub_proto::page::{PageHeader, WalVersion};
use walhub_proto::pgoutput::{encode_change, encode_message};

use crate::golden_wal::{self, SIZE};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/decode").join(name)
}

/// Where the golden WAL begins, and its bytes.
fn wal() -> (Lsn, Vec<u8>) {
    golden_wal::read(&golden(""))
}

/// Position, length and beginning of each change, as `changes.txt` has them; the transaction's id
/// is among the bytes of its beginning.
fn golden_changes() -> Vec<(Lsn, usize, String)> {
    let text = fs::read_to_string(golden("changes.txt")).unwrap();
    let line = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let bytes = fields.get(3).copied().unwrap_or_default();
        (fields[0].parse().unwrap(), fields[2].parse().unwrap(), bytes.to_owned())
    };
    text.lines().map(line).collect()
}

fn line(lsn: Lsn, bytes: &[u8]) -> (Lsn, usize, String) {
    let start: String = bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect();
    (lsn, bytes.len(), start)
}

fn config(start: Lsn, wal: &[u8]) -> DecoderConfig {
    let slot = fs::read_to_string(golden("slot.txt")).unwrap();
    let [restart, confirmed, database] = slot.trim().split(' ').collect::<Vec<_>>()[..] else {
        panic!("{slot}")
    };
    let system_identifier = PageHeader::decode(wal).unwrap().long.unwrap().system_identifier;
    DecoderConfig {
        system_identifier,
        segment_size: SIZE,
        version: WalVersion::PG15,
        crc: crc32c::crc32c_append,
        database: database.parse().unwrap(),
        start_reading: reading_start(restart.parse().unwrap(), SIZE, start),
        start_decoding_at: confirmed.parse().unwrap(),
        kept_bytes_max: 10 << 20,
    }
}

/// All changes in pgoutput's bytes; the golden WAL ends in what is none.
fn decode(
    start: Lsn,
    wal: &[u8],
    config: DecoderConfig,
    piece: usize,
) -> Vec<(Lsn, usize, String)> {
    let mut decoder = Decoder::new(config);
    let mut lines = vec![];
    for bytes in wal.chunks(piece) {
        let read = decoder.handle_wal(bytes);
        while let Some(change) = decoder.poll_change() {
            let mut out = vec![];
            encode_change(&change, &mut out);
            let lsn = change.lsn();
            let Change::Reread(mut reread) = change else {
                lines.push(line(lsn, &out));
                continue;
            };
            assert!(out.is_empty());
            while let Some(next) = reread.next_lsn() {
                let at = usize::try_from(next - start).unwrap();
                reread.handle_wal(&wal[at..wal.len().min(at + piece)]).unwrap();
                while let Some(message) = reread.poll_message() {
                    let mut out = vec![];
                    encode_message(&message, &mut out);
                    lines.push(line(message.lsn, &out));
                }
            }
        }
        if read.is_err() {
            return lines;
        }
    }
    panic!("the golden WAL ends before the file")
}

#[test]
fn what_postgres_decodes_is_decoded_byte_for_byte() {
    let (start, wal) = wal();
    let want = golden_changes();
    assert!(want.len() > 20);
    let kept = config(start, &wal);
    for kept_bytes_max in [kept.kept_bytes_max, 1000, 0] {
        let config = DecoderConfig { kept_bytes_max, ..kept };
        for piece in [wal.len(), 8192, 777] {
            assert_eq!(decode(start, &wal, config, piece), want, "{kept_bytes_max} {piece}");
        }
    }
}

#[test]
fn from_any_confirmed_position_postgres_s_changes_after_it_come_out() {
    let (start, wal) = wal();
    let want = golden_changes();
    let all = config(start, &wal);
    // A commit's end is what clients confirm; its first byte is 'C'.
    let commits = want.iter().enumerate().filter(|(_, change)| change.2.starts_with("43"));
    for (i, (lsn, ..)) in commits {
        let config = DecoderConfig { start_decoding_at: *lsn, ..all };
        assert_eq!(decode(start, &wal, config, 8192), want[i + 1..], "from {lsn}");
    }
}
