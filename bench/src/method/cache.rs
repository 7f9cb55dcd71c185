//! The page cache: WAL that is in it, and WAL that is not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};

/// Bytes read at once.
const READ_LEN: usize = 1 << 20;

/// Whether files lie in the page cache when a run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// They do.
    Warm,
    /// They have to come from the disk.
    Cold,
}

impl Cache {
    /// Brings about what it says, for the files in `dir`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn prepare(self, dir: &Path) -> Result<()> {
        match self {
            Self::Warm => read_all(dir).map(drop),
            Self::Cold => drop_all(dir),
        }
    }
}

/// Takes the files in `dir` out of the page cache. Dirty pages stay there, so they are written
/// first.
///
/// # Errors
/// When one cannot be opened.
pub fn drop_all(dir: &Path) -> Result<()> {
    for path in files(dir)? {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        file.sync_data()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads the files in `dir` to their ends; returns how many bytes that were.
///
/// # Errors
/// When one cannot be read.
pub fn read_all(dir: &Path) -> Result<u64> {
    use std::io::Read as _;
    let mut buffer = vec![0; READ_LEN];
    let mut bytes = 0;
    for path in files(dir)? {
        let mut file = File::open(&path).with_context(|| path.display().to_string())?;
        loop {
            let count = file.read(&mut buffer)?;
            bytes += u64::try_from(count)?;
            if count == 0 {
                break;
            }
        }
    }
    Ok(bytes)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_directories_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [1; 3]).unwrap();
        fs::write(dir.path().join("b"), [1; 4]).unwrap();
        fs::create_dir(dir.path().join("c")).unwrap();
        Cache::Cold.prepare(dir.path()).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), 7);
    }
}
