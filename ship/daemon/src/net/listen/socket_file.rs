//! A unix socket's file and the lock file beside it.
//!
//! PostgreSQL: `Lock_AF_UNIX`, `Setup_AF_UNIX` (src/backend/libpq/pqcomm.c), `CreateLockFile`
//! (src/backend/utils/init/miscinit.c).

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// PostgreSQL's default `unix_socket_permissions`.
const SOCKET_MODE: u32 = 0o777;
/// PostgreSQL: `pg_file_create_mode`.
const LOCK_FILE_MODE: u32 = 0o600;
/// How often a stale lock file is removed before giving up: each time another server may race.
const LOCK_ATTEMPTS_MAX: u32 = 100;

/// Files that are removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile {
    socket: PathBuf,
    lock: PathBuf,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.socket
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        fs::remove_file(&self.socket).ok();
        fs::remove_file(&self.lock).ok();
    }
}

/// Listens on `.s.PGSQL.<port>` in `directory`.
pub(super) fn bind(directory: &Path, port: u16) -> io::Result<(UnixListener, SocketFile)> {
    let socket = directory.join(format!(".s.PGSQL.{port}"));
    let lock = directory.join(format!(".s.PGSQL.{port}.lock"));
    take_lock(&lock, &socket, directory, port)?;
    // From here on the files are ours to remove.
    let file = SocketFile { socket, lock };
    match fs::remove_file(&file.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&file.socket).map_err(|error| {
        let path = file.socket.display();
        io::Error::new(error.kind(), format!("could not bind Unix address \"{path}\": {error}"))
    })?;
    fs::set_permissions(&file.socket, Permissions::from_mode(SOCKET_MODE))?;
    Ok((listener, file))
}

fn take_lock(lock: &Path, socket: &Path, directory: &Path, port: u16) -> io::Result<()> {
    let shown = lock.display();
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let created =
            OpenOptions::new().write(true).create_new(true).mode(LOCK_FILE_MODE).open(lock);
        match created {
            Ok(mut file) => {
                let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let started = started.unwrap_or_default().as_secs();
                let pid = std::process::id();
                // Line two is a server's data directory; the lock says as much without it.
                let directory = directory.display();
                let content = format!("{pid}\n\n{started}\n{port}\n{directory}\n");
                return file.write_all(content.as_bytes()).inspect_err(|_| {
                    fs::remove_file(lock).ok();
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let message = format!("could not create lock file \"{shown}\": {error}");
                return Err(io::Error::new(error.kind(), message));
            }
        }
        if let Some(pid) = live_owner(lock)? {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "lock file \"{shown}\" already exists: is another postmaster (PID {pid}) \
                     using socket file \"{}\"?",
                    socket.display()
                ),
            ));
        }
        match fs::remove_file(lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message = format!("could not remove old lock file \"{shown}\": {error}");
                return Err(io::Error::new(error.kind(), message));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Err(io::Error::other(format!("could not create lock file \"{shown}\"")))
}

/// The process that holds the lock, when it lives. An earlier life of this server may have had
/// this process's own number, and then the file is stale.
///
/// A process id is negative when the server was started in single-user mode.
fn live_owner(lock: &Path) -> io::Result<Option<u32>> {
    let content = match fs::read_to_string(lock) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let first = content.lines().next().unwrap_or_default().trim();
    let Ok(pid) = first.trim_start_matches('-').parse::<u32>() else {
        let message = format!("bogus data in lock file \"{}\": \"{first}\"", lock.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    };
    let is_ours = pid == std::process::id() && !held_here(lock);
    let lives = Path::new("/proc").join(pid.to_string()).exists();
    Ok((lives && !is_ours).then_some(pid))
}

/// Whether this very process listens behind the lock: then it is not stale.
fn held_here(lock: &Path) -> bool {
    let socket = lock.with_extension("");
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
