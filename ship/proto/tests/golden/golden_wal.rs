//! WAL that a real PostgreSQL wrote, as the `make.sh` of its directory keeps it.

use std::fs;
use std::io::Read;
use std::path::Path;

use walhub_proto::lsn::Lsn;
use walhub_proto::segment::{SegNo, SegmentSize};

/// Size of its segments.
pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;

/// Where the WAL of a directory begins, and its bytes.
pub(crate) fn read(dir: &Path) -> (Lsn, Vec<u8>) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".gz"))
        .collect();
    names.sort();
    let first = SegNo::parse_file_name(names[0].trim_end_matches(".gz"), SIZE).unwrap().1;
    let mut wal = vec![];
    for name in &names {
        let file = fs::File::open(dir.join(name)).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut wal).unwrap();
    }
    (first.start(SIZE), wal)
}
