//! Start-ups on directories made here.

mod damage;

use std::sync::Mutex;

use walhub_engine::files::OsFs;
use walhub_proto::generate::{WalShape, WalWriter};
use walhub_proto::page::WalVersion;
use walhub_proto::sqlstate::SqlState;

use super::*;

const SIZE: SegmentSize = SegmentSize::MIN;

/// The operating system's files; notes what was made durable.
#[derive(Default)]
struct Watched(Mutex<Vec<PathBuf>>);

impl Fs for Watched {
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        OsFs.list(dir)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        OsFs.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        OsFs.read_at(path, offset, buf)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OsFs.write_at(path, offset, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().push(path.to_owned());
        OsFs.sync(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().push(path.to_owned());
        OsFs.sync_dir(path)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OsFs.replace(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFs.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFs.create_dir(path)
    }
}

fn shape() -> WalShape {
    WalShape {
        system_identifier: SystemIdentifier(1),
        segment_size: SIZE,
        timeline: TimelineId::FIRST,
        version: WalVersion::PG15,
        crc: crc32c,
    }
}

/// Says that nothing is durable yet.
fn control() -> ControlFile {
    let id = SystemIdentifier(1);
    ControlFile::beginning(id, SIZE, TimelineId::FIRST, SegNo(1).start(SIZE))
}

#[test]
fn what_recovery_ends_with_is_made_durable() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let wal_dir = dir.join("pg_wal");
    std::fs::create_dir_all(&wal_dir).unwrap();
    std::fs::create_dir_all(dir.join("slots")).unwrap();
    let start = SegNo(1).start(SIZE);
    let (mut wal, mut out) = (WalWriter::new(shape(), start, None), Vec::new());
    for record in 0..30 {
        wal.append_record(10, 0, record, &[&vec![7; 50_000]], &mut out);
    }
    out.resize(2 << 20, 0);
    let path = |segno| wal_dir.join(SegNo(segno).file_name(TimelineId::FIRST, SIZE));
    std::fs::write(path(1), &out[..1 << 20]).unwrap();
    std::fs::write(path(2), &out[1 << 20..]).unwrap();
    write_control(&OsFs, dir, &control()).unwrap();
    let fs = Watched::default();
    let recovered = recover(&fs, dir).unwrap().wal.unwrap();
    assert_eq!((recovered.end, recovered.last_record), (wal.lsn(), wal.last_record()));
    let slots = dir.join("slots");
    let want = [path(1), path(2), dir.join(CONTROL_FILE), wal_dir, slots, dir.to_owned()];
    assert_eq!(fs.0.into_inner().unwrap(), want);
}

#[test]
fn records_that_a_crash_left_beyond_a_hole_do_not_come_back() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let wal_dir = dir.join("pg_wal");
    std::fs::create_dir_all(&wal_dir).unwrap();
    std::fs::create_dir_all(dir.join("slots")).unwrap();
    let start = SegNo(1).start(SIZE);
    let (mut wal, mut out) = (WalWriter::new(shape(), start, None), Vec::new());
    for record in 0..30 {
        wal.append_record(10, 0, record, &[&vec![7; 50_000]], &mut out);
    }
    out.resize(2 << 20, 0);
    // The first page of the second segment was never written: a record ends in the hole.
    out[1 << 20..][..8192].fill(0);
    let path = |segno| wal_dir.join(SegNo(segno).file_name(TimelineId::FIRST, SIZE));
    std::fs::write(path(1), &out[..1 << 20]).unwrap();
    std::fs::write(path(2), &out[1 << 20..]).unwrap();
    let control = ControlFile {
        own_wal: true,
        wal_version: Some(WalVersion::PG15),
        counters: Some(Counters::first()),
        ..control()
    };
    write_control(&OsFs, dir, &control).unwrap();
    let recovered = recover(&OsFs, dir).unwrap().wal.unwrap();
    assert!(recovered.end < SegNo(1).end(SIZE) && recovered.end < wal.lsn());
    assert!(!path(2).exists());
    let first = std::fs::read(path(1)).unwrap();
    let end = usize::try_from(SIZE.offset(recovered.end)).unwrap();
    assert!(first[..end].ends_with(&[7; 100]) && first[end..].iter().all(|&byte| byte == 0));
}
