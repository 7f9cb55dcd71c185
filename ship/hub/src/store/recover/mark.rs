//! The file that notes how far the WAL was durable, read and written with blocking calls.
//!
//! Not here: what it means (`walhub_proto::recovery`), the notes while the server runs
//! (`crate::wal_core`).

use std::io;
use std::path::Path;

use walhub_engine::crc::crc32c;
use walhub_engine::io::Fs;
use walhub_proto::recovery::{ControlFile, DurableMark};

/// Its name in the data directory.
pub const MARK_FILE: &str = "walhub.durable";

/// The mark, if it is about this cluster and its timeline: any other says nothing about this WAL.
///
/// # Errors
/// As the operating system's.
pub fn read_mark(
    fs: &dyn Fs,
    data_dir: &Path,
    control: &ControlFile,
) -> io::Result<Option<DurableMark>> {
    let block = match fs.read(&data_dir.join(MARK_FILE)) {
        Ok(block) => block,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = |mark: &DurableMark| {
        mark.system_identifier == control.system_identifier && mark.timeline == control.timeline
    };
    Ok(DurableMark::decode(&block, crc32c).filter(same))
}

/// Replaces the mark, durably. Where there is one this needs no room: it lies in one sector, so a torn write
/// leaves the old or the new.
///
/// # Errors
/// As the operating system's.
pub fn write_mark(fs: &dyn Fs, data_dir: &Path, mark: &DurableMark) -> io::Result<()> {
    let (path, block) = (data_dir.join(MARK_FILE), mark.encode(crc32c));
    match fs.read(&path) {
        Ok(old) if old.len() == block.len() => {
            fs.write_at(&path, 0, &block)?;
            fs.sync(&path)
        }
        Ok(_) => fs.replace(&path, &block),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.replace(&path, &block),
        Err(error) => Err(error),
    }
}
