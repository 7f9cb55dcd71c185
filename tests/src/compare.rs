//! Comparing two servers: their tables, and their WAL byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::client::SqlServer;
use crate::process::run;

/// Rows and checksum of every ordinary table of `server`, by name.
///
/// # Panics
/// When a query fails.
#[must_use]
#[track_caller]
pub fn tables(server: &impl SqlServer) -> BTreeMap<String, String> {
    let names = server.psql(
        "select c.oid::regclass from pg_class c join pg_namespace n on n.oid = relnamespace \
         where relkind = 'r' and nspname not in ('pg_catalog', 'information_schema') order by 1",
    );
    let sums: Vec<String> = names
        .lines()
        .map(|name| {
            format!(
                "select '{name}', count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) \
                 from {name} t"
            )
        })
        .collect();
    assert!(!sums.is_empty(), "there is no table to compare");
    let text = server.psql(&sums.join(" union all "));
    text.lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(name, sum)| (name.to_owned(), sum.to_owned()))
        .collect()
}

/// Two servers must hold the same rows in the same tables.
///
/// # Panics
/// When they do not.
#[track_caller]
pub fn assert_equal_tables(one: &impl SqlServer, other: &impl SqlServer) {
    assert_eq!(tables(one), tables(other), "the tables (rows, checksum) differ");
}

/// Names of the segments in `dir`, oldest first; not `.partial`, not `.history`.
///
/// # Errors
/// When the directory cannot be read.
pub fn segment_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let bare = name.strip_suffix(".gz").unwrap_or(&name);
        if bare.len() == 24 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What a comparison of two directories of segments found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentComparison {
    /// Segments that are equal.
    pub equal: Vec<String>,
    /// Segments that differ, and the first differing byte.
    pub different: Vec<(String, usize)>,
}

/// Compares the segments before `end` that both directories hold; `.gz` is unpacked.
///
/// # Panics
/// When a file cannot be read.
#[must_use]
pub fn compare_segments(one: &Path, other: &Path, end: &str) -> SegmentComparison {
    let mut comparison = SegmentComparison { equal: Vec::new(), different: Vec::new() };
    for file in segment_names(other).expect("a directory of segments") {
        let name = file.trim_end_matches(".gz");
        if name >= end || !one.join(name).exists() {
            continue;
        }
        let want = read_segment(&one.join(name));
        let got = read_segment(&other.join(&file));
        if want == got {
            comparison.equal.push(name.to_owned());
        } else {
            let at = want.iter().zip(&got).position(|(a, b)| a != b);
            comparison.different.push((name.to_owned(), at.unwrap_or(want.len().min(got.len()))));
        }
    }
    comparison
}

/// At least `least` segments before `end` must be in both directories, and all must be equal.
///
/// # Panics
/// When it is not so.
#[track_caller]
pub fn assert_equal_segments(one: &Path, other: &Path, end: &str, least: usize) {
    let SegmentComparison { equal, different } = compare_segments(one, other, end);
    assert!(different.is_empty(), "segments differ, at byte: {different:?}");
    assert!(equal.len() >= least, "only {} segments to compare: {equal:?}", equal.len());
}

fn read_segment(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "gz") {
        let output = run(Command::new("gzip").arg("-dc").arg(path));
        assert!(output.status.success(), "gzip -dc {}", path.display());
        output.stdout
    } else {
        fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}
