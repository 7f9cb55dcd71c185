//! One server a data directory, whatever becomes of the files in it.
//!
//! The lock is on the directory itself: nobody can take it away from the WAL that it protects, neither by
//! removing the pid file nor by moving the directory elsewhere. A file system over a network may not be
//! able to lock a directory, so the marker is locked too: a directory with WAL and no marker is nobody's,
//! and no server starts in it.
//!
//! Not here: the pid file, which is locked for programs that ask whether a server runs (`pidfile`).

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

/// Whoever looks whether a server runs holds a lock for a moment, so one refusal says nothing yet.
pub(super) const LOCK_ATTEMPTS_MAX: u32 = 10;
/// How long to wait between two attempts.
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// A file or directory, by what no rename changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// That of an open file.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), number: metadata.ino() })
    }

    /// That of what is at `path` now; `None` when nothing is.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self { device: metadata.dev(), number: metadata.ino() })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the error says that there is nothing of that name.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A locked data directory.
#[derive(Debug)]
pub(super) struct DirLock {
    directory: File,
    _marker: File,
}

impl DirLock {
    /// Locks the directory at `path` and the marker in it; `None` when another process has.
    pub(super) fn take(path: &Path, marker: &Path) -> io::Result<Option<Self>> {
        let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or(0);
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let marker = OpenOptions::new().read(true).write(true).open(marker)?;
        // NFS locks only what is open for writing, which a directory never is.
        let is_free = match lock(&directory) {
            Err(error) if is_unsupported(&error) => true,
            locked => locked?,
        };
        if !is_free || !lock(&marker)? {
            return Ok(None);
        }
        Ok(Some(Self { directory, _marker: marker }))
    }

    /// Which directory is locked.
    pub(super) fn inode(&self) -> io::Result<Inode> {
        Inode::of_file(&self.directory)
    }
}

/// Locks `file`; false when another process has it locked.
fn lock(file: &File) -> io::Result<bool> {
    for attempt in 1..=LOCK_ATTEMPTS_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS_MAX => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    [Errno::BADF, Errno::INVAL, Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS]
        .into_iter()
        .any(|unsupported| errno == Some(unsupported))
}
