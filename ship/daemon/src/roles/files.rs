//! The few calls of the file system that replacing a file takes, so that a test can have each of them fail.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What a change does with files.
pub(super) trait Files: Debug + Send + Sync {
    /// Writes a file of that content, in the place of one that was left there.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Makes a file or a directory durable.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Gives a file the place of another one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct OsFiles;

impl Files for OsFiles {
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(path)?.write_all(content)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}
