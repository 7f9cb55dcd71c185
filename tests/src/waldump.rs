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

    /// Start of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Option<&str> {
        let (_, rest) = self.records.last()?.split_once("lsn: ")?;
        rest.split(',').next()
    }
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
