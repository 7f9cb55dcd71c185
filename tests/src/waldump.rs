//! What pg_waldump reads in a directory of segments.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::compare::segment_names;
use crate::postgres::program;
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

    /// Start of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Option<&str> {
        let (_, rest) = self.records.last()?.split_once("lsn: ")?;
        rest.split(',').next()
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
    Dump {
        records: String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        end: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
