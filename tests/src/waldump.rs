//! What pg_waldump reads in a directory of segments.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::compare::segment_names;
use crate::postgres::{major, program};
use crate::process::{quick_command, run};

/// Records of a directory, as pg_waldump prints them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// A line a record.
    pub records: Vec<String>,
    /// Why pg_waldump stopped; at the end of WAL it always complains.
    pub end: String,
}

impl Dump {
    /// Transactions whose commit is there.
    #[must_use]
    pub fn committed(&self) -> BTreeSet<u64> {
        self.records
            .iter()
            .filter(|record| record.contains("desc: COMMIT"))
            .filter_map(|record| {
                let (_, rest) = record.split_once("tx:")?;
                rest.split(',').next()?.trim().parse().ok()
            })
            .collect()
    }

    /// The logical messages, committed or not, in their order.
    ///
    /// # Panics
    /// When pg_waldump prints one in a form that is not known here.
    #[must_use]
    #[track_caller]
    pub fn messages(&self) -> Vec<Message> {
        let messages = self.records.iter().filter(|record| record.contains("desc: MESSAGE"));
        messages
            .map(|record| {
                let shown: String = record.chars().take(200).collect();
                parse_message(record).unwrap_or_else(|| panic!("what message is {shown}"))
            })
            .collect()
    }

    /// Where each record begins.
    #[must_use]
    pub fn lsns(&self) -> Vec<u64> {
        let lsn = |record: &String| {
            let (_, rest) = record.split_once("lsn: ")?;
            parse_lsn(rest.split(',').next()?)
        };
        self.records.iter().filter_map(lsn).collect()
    }

    /// Fails unless it ended where only zeros follow the last record.
    ///
    /// # Panics
    /// When pg_waldump complains of anything else.
    #[track_caller]
    pub fn assert_ends_well(&self) {
        let want = if major() >= 16 { "expected at least 24, got 0" } else { "wanted 24, got 0" };
        let zeros = self.end.contains(": invalid record length at ")
            && self.end.trim_end().ends_with(&format!(": {want}"));
        // Behind a record that fills its page there is no record, but no page either.
        let no_page = self.end.contains(": invalid magic number 0000 in ")
            && self.records.last().is_some_and(|last| fills_its_page(last));
        let is_one_line = self.end.lines().count() == 1;
        assert!((zeros || no_page) && is_one_line, "pg_waldump: {}", self.end);
    }

    /// Start of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Option<&str> {
        let (_, rest) = self.records.last()?.split_once("lsn: ")?;
        rest.split(',').next()
    }
}

/// Whether a record, as pg_waldump prints it, ends where its page does.
fn fills_its_page(record: &str) -> bool {
    const PAGE: u64 = 8192;
    const PAGE_HEADER: u64 = 24;
    let after = |name: &str| record.split_once(name).map(|(_, rest)| rest);
    let (Some(lengths), Some(lsn)) = (after("len (rec/tot):"), after("lsn: ")) else {
        return false;
    };
    let total = lengths.split(',').next().and_then(|lengths| lengths.split('/').nth(1));
    let total = total.and_then(|total| total.trim().parse::<u64>().ok());
    let start = lsn.split(',').next().and_then(parse_lsn);
    let (Some(mut left), Some(mut at)) = (total, start) else { return false };
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return (at + left).next_multiple_of(8) % PAGE == 0;
        }
        (at, left) = (at + room + PAGE_HEADER, left - room);
    }
}

/// A logical message, as pg_waldump prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where its record begins.
    pub lsn: u64,
    /// Its transaction; 0 without one.
    pub xid: u64,
    /// Whether it belongs to that transaction.
    pub transactional: bool,
    /// Its prefix.
    pub prefix: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// The position that `text` writes as PostgreSQL does.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

fn parse_message(record: &str) -> Option<Message> {
    let field = |name: &str| {
        let (_, rest) = record.split_once(name)?;
        rest.split(',').next().map(str::trim)
    };
    let (_, rest) = record.split_once(" prefix \"")?;
    let (prefix, rest) = rest.split_once("\"; payload (")?;
    let (length, hex) = rest.split_once(" bytes): ")?;
    let byte = |hex| u8::from_str_radix(hex, 16).ok();
    let content: Option<Vec<u8>> = hex.split_ascii_whitespace().map(byte).collect();
    let content = content.filter(|content| Ok(content.len()) == length.parse())?;
    Some(Message {
        lsn: parse_lsn(field(", lsn: ")?)?,
        xid: field(", tx:")?.parse().ok()?,
        transactional: record.contains("desc: MESSAGE transactional"),
        prefix: prefix.to_owned(),
        content,
    })
}

/// Runs pg_waldump over `dir` from its first segment to the end of WAL, with filters such as
/// `--rmgr=Transaction`.
///
/// # Panics
/// When there is no segment.
#[must_use]
#[track_caller]
pub fn waldump(dir: &Path, filters: &[&str]) -> Dump {
    let names = segment_names(dir).expect("a directory of segments");
    let first = names.first().unwrap_or_else(|| panic!("no segment in {}", dir.display()));
    // Given a file, pg_waldump would stop at its end; given a position, it goes on.
    let size = fs::metadata(dir.join(first)).expect("the first segment").len();
    let number = |range| u64::from_str_radix(&first[range], 16).expect("a segment's name");
    let (timeline, high, low) = (number(0..8), number(8..16), number(16..24) * size);
    let mut pg_waldump = quick_command(program("pg_waldump"));
    pg_waldump.args(filters).arg("-p").arg(dir);
    pg_waldump.args(["-t", &timeline.to_string(), "-s", &format!("{high:X}/{low:X}")]);
    let output = run(&mut pg_waldump);
    let text = String::from_utf8_lossy(&output.stdout);
    let records = text.lines().map(|record| {
        if major() >= 14 || !record.contains("desc: MESSAGE") {
            return record.to_owned();
        }
        let with_content = with_content(record, dir, &first[..8], size);
        with_content.unwrap_or_else(|| panic!("what message is {record}"))
    });
    Dump { records: records.collect(), end: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// A logical message as pg_waldump prints it since 14; before, it tells neither prefix nor content,
/// and both are read from the segments.
fn with_content(record: &str, dir: &Path, timeline: &str, segment: u64) -> Option<String> {
    let (head, message) = record.split_once("desc: MESSAGE ")?;
    let (_, len) = head.split_once("len (rec/tot):")?;
    let len = len.split(',').next()?.split('/').nth(1)?.trim().parse().ok()?;
    let lsn = parse_lsn(head.split_once("lsn: ")?.1.split(',').next()?)?;
    let record = read_record(dir, timeline, segment, lsn, len);
    // XLogRecord, then the length of the main data in one byte or in four.
    let data = match record.get(24)? {
        0xFF => record.get(26..)?,
        0xFE => record.get(29..)?,
        _ => return None,
    };
    // xl_logical_message; the prefix counts the zero at its end.
    let size = |at: usize| {
        let word = data.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    let (prefix, content) = data.get(24..)?.split_at_checked(size(8)?)?;
    let (0, prefix) = prefix.split_last()? else { return None };
    let is_whole = Some(content.len()) == size(16)
        && message.ends_with(&format!(" message size {} bytes", content.len()));
    let kind = if message.starts_with("transactional") { "" } else { "non-" };
    let hex: Vec<String> = content.iter().map(|byte| format!("{byte:02X}")).collect();
    is_whole.then(|| {
        format!(
            "{head}desc: MESSAGE {kind}transactional, prefix \"{}\"; payload ({} bytes): {}",
            String::from_utf8_lossy(prefix),
            content.len(),
            hex.join(" ")
        )
    })
}

/// The bytes of a record, without the page headers between them.
fn read_record(dir: &Path, timeline: &str, segment: u64, lsn: u64, len: usize) -> Vec<u8> {
    const PAGE: u64 = 8192;
    let (mut at, mut record) = (lsn, Vec::with_capacity(len));
    while record.len() < len {
        if at % PAGE == 0 {
            at += if at % segment == 0 { 40 } else { 24 };
        }
        let per_id = (1 << 32) / segment;
        let (high, low) = (at / segment / per_id, at / segment % per_id);
        let path = dir.join(format!("{timeline}{high:08X}{low:08X}"));
        let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let on_page = usize::try_from(PAGE - at % PAGE).expect("a page");
        let mut piece = vec![0; on_page.min(len - record.len())];
        file.read_exact_at(&mut piece, at % segment).expect("a whole segment");
        at += u64::try_from(piece.len()).expect("a page");
        record.extend(piece);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_fills_its_page_is_told_from_others() {
        let line = |lsn: &str, total: u32| {
            format!(
                "rmgr: XLOG        len (rec/tot):    114/{total:6}, tx: 0, lsn: {lsn}, prev 0/02001F50, \
                 desc: CHECKPOINT_ONLINE redo 0/2001F50"
            )
        };
        assert!(fills_its_page(&line("0/02001F88", 114)));
        assert!(fills_its_page(&line("0/02001F88", 120)));
        assert!(!fills_its_page(&line("0/02001F88", 112)));
        assert!(!fills_its_page(&line("0/02001F88", 122)));
        // Over a page, whose header is in between.
        assert!(fills_its_page(&line("0/02001F88", 120 + 8192 - 24)));
        assert!(!fills_its_page(&line("0/02001F88", 120 + 8192)));
        assert!(!fills_its_page("rmgr: XLOG"));
    }

    #[test]
    fn reads_the_content_that_pg_waldump_13_does_not_print() {
        use walhub_proto::generate::{WalShape, WalWriter};
        use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
        use walhub_proto::page::WalVersion;
        use walhub_proto::rmgr::RM_LOGICALMSG;
        use walhub_proto::rmgr::message::logical_message;
        use walhub_proto::segment::SegmentSize;

        use crate::scratch::Scratch;

        const SEGMENT: u64 = 1 << 20;
        let shape = WalShape {
            system_identifier: SystemIdentifier(1),
            segment_size: SegmentSize::new(SEGMENT).expect("a size"),
            timeline: TimelineId::FIRST,
            version: WalVersion::PG13,
            crc: crc32c::crc32c_append,
        };
        // A long one goes over a page, and into the next segment.
        for (content, start) in [(3, SEGMENT), (300, SEGMENT), (20_000, 2 * SEGMENT - 8192)] {
            let scratch = Scratch::new();
            let dir = scratch.directory("pg_wal");
            let content = "x".repeat(content);
            let mut bytes = vec![0; usize::try_from(start - SEGMENT).expect("few")];
            let mut writer = WalWriter::new(shape, Lsn(start), None);
            let body = logical_message(5, true, "a, b", content.as_bytes()).expect("short");
            let lies = writer.append_record(RM_LOGICALMSG, 0, 7, &[&body], &mut bytes);
            let len = 24 + body.len();
            bytes.resize(usize::try_from(2 * SEGMENT).expect("few"), 0);
            for (number, segment) in
                bytes.chunks(usize::try_from(SEGMENT).expect("few")).enumerate()
            {
                fs::write(dir.join(format!("0000000100000000{:08X}", number + 1)), segment)
                    .expect("a segment");
            }
            let line = format!(
                "rmgr: LogicalMessage len (rec/tot): {len:6}/{len:6}, tx:          7, lsn: 0/{:08X}, \
                 prev 0/00000000, desc: MESSAGE transactional message size {} bytes",
                lies.start.0,
                content.len()
            );
            let told = with_content(&line, &dir, "00000001", SEGMENT).expect("a message");
            let want = Message {
                lsn: lies.start.0,
                xid: 7,
                transactional: true,
                prefix: "a, b".to_owned(),
                content: content.clone().into_bytes(),
            };
            assert_eq!(parse_message(&told), Some(want));
            let other = line.replace(&format!("size {} ", content.len()), "size 1 ");
            assert_eq!(with_content(&other, &dir, "00000001", SEGMENT), None);
        }
    }

    #[test]
    fn reads_a_message() {
        let line = "rmgr: LogicalMessage len (rec/tot):     56/    56, tx:        731, \
                    lsn: 1/01000098, prev 1/01000028, desc: MESSAGE transactional, \
                    prefix \"a, b\"; payload (3 bytes): 61 FF 00";
        let want = Message {
            lsn: 0x1_0100_0098,
            xid: 731,
            transactional: true,
            prefix: "a, b".to_owned(),
            content: b"a\xff\0".to_vec(),
        };
        assert_eq!(parse_message(line), Some(want));
        assert_eq!(parse_message(&line.replace("3 bytes", "4 bytes")), None);
    }
}
