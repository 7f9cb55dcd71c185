//! The data directory: its creation, permissions, lock and pid file.
//!
//! A directory is walhub's when it holds [`MARKER`], which is written before anything else. One
//! server at a time has the directory itself locked (`lock`), and [`PID_FILE`] for who looks whether a
//! server runs; the locks, not the process id in the file, say so: a file left by a crash cannot be
//! mistaken for a server, nor a process that happens to have its id. A server whose directory or pid file
//! is removed or replaced ends at once (`watch`).
//!
//! PostgreSQL: `checkDataDir`, `CreateLockFile`, `AddToDataDirLockFile`
//! (src/backend/utils/init/miscinit.c), src/include/utils/pidfile.h.

mod lock;
mod mock_nonce;
mod pidfile;
#[cfg(test)]
mod tests;
mod watch;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use walhub_proto::password::MOCK_NONCE_LEN;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::strerror::strerror;
use lock::{DirLock, Inode};
use watch::{Claim, Watch};

pub use pidfile::{PidFile, PidFileLines, Status};

/// File that says that a directory is walhub's; its content is the version of the layout.
pub const MARKER: &str = "WALHUB_VERSION";
/// Content of [`MARKER`].
const LAYOUT_VERSION: &str = "1";
/// The pid file.
pub const PID_FILE: &str = "walhub.pid";
/// The file that asks a standby to become a primary. PostgreSQL: `PROMOTE_SIGNAL_FILE`.
pub const PROMOTE_FILE: &str = "promote";
/// The configuration file that is read when no other is named.
pub const CONFIG_FILE: &str = "walhub.toml";
/// Directories that walhub makes inside of it.
const SUBDIRECTORIES: [&str; 3] = ["pg_wal", "pg_wal/archive_status", "slots"];
/// What a user may put into a directory before walhub first starts in it.
const USER_FILES: [&str; 4] = [CONFIG_FILE, "pg_hba.conf", "pg_ident.conf", "userlist.txt"];
/// Permission bits of the group and of everyone else.
const GROUP_AND_WORLD: u32 = 0o077;

/// A data directory that this process has locked.
///
/// Dropped in the order of its fields: the lock goes last.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    watch: Option<Watch>,
    pid_file: PidFile,
    lock: DirLock,
}

impl DataDir {
    /// Opens and locks the directory at `path`, and makes what is missing.
    ///
    /// # Errors
    /// A `FATAL` in PostgreSQL's words: the directory is not walhub's, is not safe, or is in use.
    pub fn open_or_create(path: &Path) -> Result<Self, Box<Report>> {
        let path = create(path)?;
        check_owner_and_permissions(&path)?;
        claim(&path)?;
        let marker = path.join(MARKER);
        let lock = DirLock::take(&path, &marker)
            .map_err(|error| io_report("could not lock data directory", &path, &error))?
            .ok_or_else(|| Box::new(pidfile::in_use(&path)))?;
        let pid_file = PidFile::lock(&path)?;
        for name in SUBDIRECTORIES {
            let directory = path.join(name);
            make_directory(&directory)
                .map_err(|error| io_report("could not create directory", &directory, &error))?;
        }
        sync_directory(&path)?;
        Ok(Self { path, watch: None, pid_file, lock })
    }

    /// Ends the process from now on when the directory or its pid file is removed, or another's is at its
    /// path.
    ///
    /// # Errors
    /// As the operating system's.
    pub fn watch(&mut self) -> io::Result<()> {
        let lines = self.pid_file.lines();
        let pg_wal = Inode::at(&self.pg_wal())?;
        let claim = Claim {
            path: self.path.clone(),
            directory: self.lock.inode()?,
            pg_wal: pg_wal.ok_or(io::ErrorKind::NotFound)?,
            pid: lines.pid,
            start_time: lines.start_time,
        };
        self.watch = Some(Watch::start(claim)?);
        Ok(())
    }

    /// Where it is, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `pg_wal`.
    #[must_use]
    pub fn pg_wal(&self) -> PathBuf {
        self.path.join("pg_wal")
    }

    /// `slots`.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.path.join("slots")
    }

    /// What salts of roles are made of that have no secret, made at the first start. PostgreSQL:
    /// `GetMockAuthenticationNonce`.
    ///
    /// # Errors
    /// When its file can neither be read nor written.
    pub fn mock_authentication_nonce(&self) -> io::Result<[u8; MOCK_NONCE_LEN]> {
        mock_nonce::read_or_create(&self.path.join(mock_nonce::FILE))
    }

    /// Writes the file of that name, which appears whole or not at all.
    ///
    /// # Errors
    /// A `FATAL`: the operating system refuses.
    pub fn write_file(&self, name: &str, text: &str) -> Result<(), Box<Report>> {
        write_whole(&self.path, name, text)
            .map_err(|error| io_report("could not write file", &self.path.join(name), &error))
    }

    /// Removes the file that asks for a promotion; whether it was there.
    #[must_use]
    pub fn take_promote_file(&self) -> bool {
        fs::remove_file(self.path.join(PROMOTE_FILE)).is_ok()
    }

    /// The pid file, for what the server has to tell there.
    #[must_use]
    pub fn pid_file(&self) -> &PidFile {
        &self.pid_file
    }
}

/// A `FATAL` about a file.
fn io_report(what: &str, path: &Path, error: &io::Error) -> Box<Report> {
    let sqlstate = match error.kind() {
        io::ErrorKind::NotFound => SqlState::UNDEFINED_FILE,
        io::ErrorKind::StorageFull => SqlState::DISK_FULL,
        _ => SqlState::IO_ERROR,
    };
    let message = format!("{what} \"{}\": {}", path.display(), strerror(error));
    Box::new(Report::fatal(sqlstate, message))
}

/// Makes a directory that may be there already.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Makes the directory and its parents, and returns its absolute path.
fn create(path: &Path) -> Result<PathBuf, Box<Report>> {
    let failed = |error| io_report("could not create directory", path, &error);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    make_directory(path).map_err(failed)?;
    fs::canonicalize(path).map_err(|error| io_report("could not access directory", path, &error))
}

/// Refuses a directory that someone else owns or may read.
fn check_owner_and_permissions(path: &Path) -> Result<(), Box<Report>> {
    let metadata = fs::metadata(path)
        .map_err(|error| io_report("could not read permissions of directory", path, &error))?;
    check_metadata(path, &metadata, rustix::process::geteuid().as_raw())
}

fn check_metadata(path: &Path, metadata: &Metadata, euid: u32) -> Result<(), Box<Report>> {
    let fatal = |message| Report::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    let path = path.display();
    if metadata.uid() != euid {
        let report = fatal(format!("data directory \"{path}\" has wrong ownership"))
            .hint("The server must be started by the user that owns the data directory.");
        return Err(Box::new(report));
    }
    if metadata.mode() & GROUP_AND_WORLD != 0 {
        let report = fatal(format!("data directory \"{path}\" has invalid permissions"))
            .detail("Permissions should be u=rwx (0700).");
        return Err(Box::new(report));
    }
    Ok(())
}

/// Marks an empty directory as walhub's; refuses one that is someone else's.
fn claim(path: &Path) -> Result<(), Box<Report>> {
    let marker = path.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(version) if version.trim_end() == LAYOUT_VERSION => return Ok(()),
        Ok(version) => {
            let report = Report::fatal(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "data directory is incompatible with this walhub",
            )
            .detail(format!(
                "The data directory has layout version {}, this walhub reads version {LAYOUT_VERSION}.",
                version.trim_end()
            ));
            return Err(Box::new(report));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_report("could not open file", &marker, &error)),
    }
    let failed = |error| io_report("could not open directory", path, &error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let is_ours = USER_FILES.contains(&name.as_ref()) || name == format!("{MARKER}.tmp");
        if !is_ours {
            return Err(Box::new(refuse_foreign(path, &name)));
        }
    }
    // Whole, or a crash here would leave a directory that nobody owns.
    write_whole(path, MARKER, &format!("{LAYOUT_VERSION}\n"))
        .map_err(|error| io_report("could not write file", &marker, &error))
}

fn refuse_foreign(path: &Path, entry: &str) -> Report {
    let display = path.display();
    let fatal = |message| Report::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    if path.join("PG_VERSION").exists() {
        return fatal(format!("directory \"{display}\" is a PostgreSQL data directory"))
            .hint("Give walhub a directory of its own with -D.");
    }
    let report = fatal(format!("directory \"{display}\" exists but is not empty"));
    if entry == "lost+found" {
        return report
            .detail("It contains a lost+found directory, perhaps due to it being a mount point.")
            .hint("Create a subdirectory under the mount point and use that.");
    }
    report
        .detail(format!("It contains \"{entry}\" but no file \"{MARKER}\", so it is not walhub's."))
        .hint("Give walhub an empty directory, or one that does not exist yet, with -D.")
}

/// Writes a file that appears whole or not at all.
fn write_whole(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn sync_directory(path: &Path) -> Result<(), Box<Report>> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_report("could not fsync file", path, &error))
}
