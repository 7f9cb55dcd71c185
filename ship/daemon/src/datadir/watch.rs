//! Looks again and again whether the data directory is still where it was, and still this server's.
//!
//! A server that goes on in a directory that was removed, or moved away from its path, would call durable
//! what nobody finds again. So the whole process ends at once, as after a failed flush: nothing more is
//! acknowledged. What changes in the directory is noticed when it happens, everything else, such as a
//! renamed parent or a change on another machine, when [`WATCH_INTERVAL`] is over.
//!
//! A thread of its own looks, for a file system that does not answer must not hold up anything else.
//!
//! PostgreSQL: `RecheckDataDirLockFile` (src/backend/utils/init/miscinit.c), `ServerLoop`.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use walhub_engine::fatal::{FatalReason, fatal};

use super::PID_FILE;
use super::lock::{Inode, is_gone};
use super::pidfile::PidFileLines;
use crate::strerror::strerror;

/// How often to look when nothing is heard of a change. PostgreSQL looks once a minute.
const WATCH_INTERVAL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Bytes of the pid file that are read: far more than it has.
const PID_FILE_BYTES_MAX: u64 = 64 << 10;

/// What must be found at the data directory's path.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) path: PathBuf,
    pub(super) directory: Inode,
    pub(super) pg_wal: Inode,
    pub(super) pid: u32,
    pub(super) start_time: u64,
}

impl Claim {
    /// Why this server must not go on; `None` when all is as it was.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(super) fn violation(&self) -> io::Result<Option<String>> {
        let shown = self.path.display();
        for (path, want) in
            [(self.path.clone(), self.directory), (self.path.join("pg_wal"), self.pg_wal)]
        {
            match Inode::at(&path)? {
                Some(found) if found == want => {}
                Some(_) => {
                    return Ok(Some(format!("directory \"{}\" has been replaced", path.display())));
                }
                None => {
                    return Ok(Some(format!("directory \"{}\" has been removed", path.display())));
                }
            }
        }
        let Some(lines) = self.pid_file()? else {
            let file = self.path.join(PID_FILE);
            return Ok(Some(format!("lock file \"{}\" has been removed", file.display())));
        };
        let got = lines.as_ref().map_or(0, |lines| lines.pid);
        if got != self.pid {
            let text = format!(
                "lock file \"{shown}/{PID_FILE}\" contains wrong PID: {got} instead of {}",
                self.pid
            );
            return Ok(Some(text));
        }
        // In containers two servers may have the same process id.
        let is_ours = lines.is_some_and(|lines| lines.start_time == self.start_time);
        Ok((!is_ours)
            .then(|| format!("lock file \"{shown}/{PID_FILE}\" is that of another server")))
    }

    /// What the pid file says; `None` when it is gone.
    fn pid_file(&self) -> io::Result<Option<Option<PidFileLines>>> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        let file = match options.read(true).custom_flags(flags).open(self.path.join(PID_FILE)) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(PID_FILE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(Some(PidFileLines::parse(&String::from_utf8_lossy(&text))))
    }
}

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look, and ends the process when `claim` does not hold any more.
    pub(super) fn start(claim: Claim) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let changes = changes_of(&claim);
        if let Err(error) = &changes {
            tracing::debug!("changes of the data directory are not heard of: {error}");
        }
        let body = move || watch(&claim, changes.ok().as_ref(), &stopped);
        let thread = thread::Builder::new().name("walhub-datadir".to_owned()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An eventfd takes this whatever the state of its reader.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hears of what is moved or removed in the data directory, and of the directories themselves.
fn changes_of(claim: &Claim) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    let inside = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    inotify::add_watch(&changes, &claim.path, itself | inside)?;
    inotify::add_watch(&changes, claim.path.join("pg_wal"), itself)?;
    Ok(changes)
}

fn watch(claim: &Claim, changes: Option<&OwnedFd>, stop: &OwnedFd) {
    let mut complained = false;
    loop {
        let mut events = vec![PollFd::new(stop, PollFlags::IN)];
        events.extend(changes.map(|changes| PollFd::new(changes, PollFlags::IN)));
        // An interrupted wait is a short one.
        let _ = poll(&mut events, Some(&WATCH_INTERVAL));
        if events.first().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
        if let Some(changes) = changes {
            let mut heard = [0; 4096];
            while rustix::io::read(changes.as_fd(), &mut heard).is_ok_and(|count| count > 0) {}
        }
        match claim.violation() {
            Ok(None) => complained = false,
            Ok(Some(violation)) => {
                tracing::error!("{violation}");
                fatal(
                    FatalReason::DataDirectoryLost,
                    "performing immediate shutdown because data directory lock file is invalid",
                );
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(
                        "could not look at data directory \"{}\": {}; continuing anyway",
                        claim.path.display(),
                        strerror(&error)
                    );
                }
            }
        }
    }
}
