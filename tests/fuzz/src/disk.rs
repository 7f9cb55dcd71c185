//! What files say.

use walhub::datadir::PidFileLines;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::recovery::{CONTROL_COPY_LEN, ControlFile};
use walhub_proto::slot::{decode_slot, encode_slot};

/// A copy of a control file with these fields; the magic number is there, unless the first byte says no.
fn copy(bytes: &[u8]) -> Vec<u8> {
    let (&seed, fields) = bytes.split_first().unwrap_or((&0, &[]));
    let mut copy = if seed % 8 == 0 { Vec::new() } else { b"walhubCF".to_vec() };
    copy.extend_from_slice(fields);
    // The checksum is in the last four bytes.
    copy.resize(CONTROL_COPY_LEN - 4, 0);
    copy.resize(CONTROL_COPY_LEN, 0);
    copy
}

/// Both copies of a control file.
pub(crate) fn control_file(bytes: &[u8]) {
    let (half_a, half_b) = bytes.split_at(bytes.len() / 2);
    let (copy_a, copy_b) = (&copy(half_a)[..], &copy(half_b)[..]);
    for copy in [copy_a, copy_b] {
        match ControlFile::decode(copy, super::no_crc) {
            Ok(control) => {
                // A version text that is too long is cut once.
                let again = control.encode(super::no_crc);
                let decoded = ControlFile::decode(&again, super::no_crc).expect("what was encoded");
                assert_eq!(decoded.encode(super::no_crc), again);
            }
            Err(error) => drop(error.to_string()),
        }
    }
    if let Ok(Some((chosen, _))) = ControlFile::choose(copy_a, copy_b, super::no_crc) {
        let sequences = [copy_a, copy_b].map(|copy| {
            ControlFile::decode(copy, super::no_crc).map_or(0, |control| control.sequence)
        });
        assert_eq!(chosen.sequence, sequences[0].max(sequences[1]));
    }
}

/// A slot's file: its header fits what follows, unless the first byte says no.
pub(crate) fn slot_file(bytes: &[u8]) {
    let Some((&seed, body)) = bytes.split_first() else { return };
    let mut file = Vec::new();
    if seed % 8 != 0 {
        let version = u32::from(seed % 3);
        let len = u32::try_from(body.len()).expect("a short file");
        for word in [u32::from_be_bytes(*b"WHsl"), 0, version, len] {
            file.extend_from_slice(&word.to_be_bytes());
        }
    }
    file.extend_from_slice(body);
    match decode_slot(&file, super::no_crc) {
        Ok(slot) => {
            let again = encode_slot(&slot, super::no_crc);
            assert_eq!(decode_slot(&again, super::no_crc), Ok(slot));
        }
        Err(error) => drop(error.message("slots/a")),
    }
}

/// A timeline history file, which an upstream may have sent as well.
pub(crate) fn history(bytes: &[u8]) {
    let Some((&number, content)) = bytes.split_first() else { return };
    let Some(timeline) = TimelineId::new(u32::from(number)) else { return };
    match TimelineHistory::parse(content, timeline) {
        Ok(history) => {
            assert_eq!(history.tli(), timeline);
            assert_eq!(history.content(), content);
            let entries = history.entries();
            for pair in entries.windows(2) {
                assert!(pair[0].tli < pair[1].tli);
                assert_eq!(pair[0].end, Some(pair[1].begin));
            }
            for lsn in [0, 1, 0x0300_0000, u64::MAX] {
                assert!(history.contains(history.timeline_of(Lsn(lsn))));
            }
            let end = entries.last().map_or(Lsn(0), |entry| entry.begin);
            if let Some(next) = TimelineId::new(u32::from(number) + 1) {
                let longer = history.extend(next, end + 8, "no recovery target specified");
                let parsed = TimelineHistory::parse(longer.content(), next);
                assert_eq!(parsed.map(|parsed| parsed.tli()).ok(), Some(next));
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

/// The pid file.
pub(crate) fn pid_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(lines) = PidFileLines::parse(text) {
        let again = PidFileLines::parse(&lines.to_string());
        assert_eq!(again.map(|again| again.pid), Some(lines.pid));
    }
}
