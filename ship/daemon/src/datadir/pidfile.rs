//! The pid file: one server a directory, and what `walhub status` reads about it.
//!
//! Its lines are those of postmaster.pid, without the shared memory key.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::lock::{Inode, LOCK_ATTEMPTS_MAX, LOCK_RETRY};
use super::{PID_FILE, io_report};

/// State of the server, as the pid file tells it. PostgreSQL: `PM_STATUS_STARTING` and its kin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Status {
    /// Not yet serving.
    #[default]
    Starting,
    /// Serving no new connections, until it ends.
    Stopping,
    /// Serving its own WAL.
    Ready,
    /// Serving the WAL of an upstream.
    Standby,
}

impl Status {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Ready => "ready",
            Self::Standby => "standby",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Starting, Self::Stopping, Self::Ready, Self::Standby]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

/// What the file tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PidFileLines {
    /// Process id of the server.
    pub pid: u32,
    /// The data directory.
    pub data_dir: PathBuf,
    /// When the server started, in seconds since the Unix epoch.
    pub start_time: u64,
    /// TCP port; 0 before the server listens.
    pub port: u16,
    /// First directory with a socket; empty is none.
    pub socket_dir: String,
    /// First address that the server listens on; empty is none.
    pub listen_address: String,
    /// What the server does.
    pub status: Status,
}

impl fmt::Display for PidFileLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.pid, self.data_dir.display(), self.start_time)?;
        writeln!(f, "{}\n{}\n{}", self.port, self.socket_dir, self.listen_address)?;
        // As wide as the longest word, so that a change of state never moves the end of the file.
        writeln!(f, "{:<8}", self.status.as_str())
    }
}

impl PidFileLines {
    /// Reads the file's text; lines that are missing keep their default, as the file may be that of
    /// a server that has only begun.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|&pid| pid > 0)?;
        let mut next = || lines.next().unwrap_or_default().to_owned();
        Some(Self {
            pid,
            data_dir: PathBuf::from(next()),
            start_time: next().parse().unwrap_or(0),
            port: next().parse().unwrap_or(0),
            socket_dir: next(),
            listen_address: next(),
            status: Status::parse(next().trim_end()).unwrap_or_default(),
        })
    }
}

/// The pid file of this process, locked.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    lines: Mutex<PidFileLines>,
}

impl PidFile {
    /// Takes the lock, or says who has it.
    pub(super) fn lock(data_dir: &Path) -> Result<Self, Box<Report>> {
        let path = data_dir.join(PID_FILE);
        let file = lock_file(&path)
            .map_err(|error| io_report("could not lock file", &path, &error))?
            .ok_or_else(|| Box::new(in_use(data_dir)))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lines = PidFileLines {
            pid: std::process::id(),
            data_dir: data_dir.to_owned(),
            start_time: now.as_secs(),
            ..PidFileLines::default()
        };
        let this = Self { path, file, lines: Mutex::new(lines) };
        this.update(|_| ())
            .map_err(|error| io_report("could not write lock file", &this.path, &error))?;
        Ok(this)
    }

    /// What the file tells.
    pub(super) fn lines(&self) -> PidFileLines {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what the file tells.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update(&self, change: impl FnOnce(&mut PidFileLines)) -> io::Result<()> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut lines);
        let text = lines.to_string();
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Tells where the server listens; the first address and socket directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_listening(&self, port: u16, address: &str, socket_dir: &str) -> io::Result<()> {
        self.update(|lines| {
            lines.port = port;
            address.clone_into(&mut lines.listen_address);
            socket_dir.clone_into(&mut lines.socket_dir);
        })
    }

    /// Tells the state.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_status(&self, status: Status) -> io::Result<()> {
        self.update(|lines| lines.status = status)
    }

    /// The file of the server that runs in `data_dir`; `None` when none runs.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn of_running_server(data_dir: &Path) -> io::Result<Option<PidFileLines>> {
        let mut file = match File::open(data_dir.join(PID_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok(PidFileLines::parse(&text))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Removed while still locked: whoever waits for the lock sees that the file is gone. Not if it is
        // another server's by now.
        if is_the_file_at(&self.file, &self.path).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens and locks; `None` when another process holds the lock.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let mut attempts = 0;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) if is_the_file_at(&file, path)? => return Ok(Some(file)),
            // The server that had it removed it between the open and the lock.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                attempts += 1;
                if attempts == LOCK_ATTEMPTS_MAX {
                    return Ok(None);
                }
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn is_the_file_at(file: &File, path: &Path) -> io::Result<bool> {
    Ok(Inode::at(path)? == Some(Inode::of_file(file)?))
}

/// PostgreSQL: `CreateLockFile`; without the file, `PGSharedMemoryCreate`, which finds the server by what
/// else it holds.
pub(super) fn in_use(data_dir: &Path) -> Report {
    let text = fs::read_to_string(data_dir.join(PID_FILE)).ok();
    let directory = data_dir.display();
    let state = SqlState::LOCK_FILE_EXISTS;
    let Some(text) = text else {
        let message = format!("could not lock data directory \"{directory}\": a server uses it");
        return Report::fatal(state, message)
            .detail(format!("Its lock file \"{PID_FILE}\" has been removed."))
            .hint(format!(
                "Terminate any old server processes associated with data directory \"{directory}\"."
            ));
    };
    let report = Report::fatal(state, format!("lock file \"{PID_FILE}\" already exists"));
    report.hint(match PidFileLines::parse(&text) {
        Some(lines) => format!(
            "Is another walhub (PID {}) running in data directory \"{directory}\"?",
            lines.pid
        ),
        None => format!("Is another walhub running in data directory \"{directory}\"?"),
    })
}
