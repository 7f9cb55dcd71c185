//! A test's own directory, loopback address and ports.
//!
//! Servers listen on an address of 127.0.0.0/8 that belongs to this process alone. Outgoing
//! connections leave from 127.0.0.1, so the kernel can never give a server's port to one of them
//! while the server is down between two starts.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

/// A directory that goes away with the test.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes the directory, under `$TMPDIR`.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("walhub-test-")
            // The user that runs PostgreSQL must be able to pass through.
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory");
        Self { dir }
    }

    /// The path of `name` in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the directory `name`, which PostgreSQL's user may write.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a directory");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("permissions");
        give_to_postgres(&path);
        path
    }

    /// Writes the file `name`, which only PostgreSQL's user may read.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("permissions");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The loopback address of this process.
#[must_use]
pub fn host() -> Ipv4Addr {
    let [_, high, middle, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 64 * 2 + middle / 128, middle % 128 + 1, low)
}

/// A TCP port on [`host`] that nobody has, and that is given out once in this process.
///
/// # Panics
/// When the kernel has none.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((host(), 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// Whether the tests run as root, which PostgreSQL refuses to do.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user that runs PostgreSQL when the tests run as root.
#[must_use]
pub fn postgres_user() -> String {
    std::env::var("WALHUB_PG_USER").unwrap_or_else(|_| "postgres".to_owned())
}

/// Makes `path` belong to the user that runs PostgreSQL.
///
/// # Panics
/// When there is no such user.
pub fn give_to_postgres(path: &Path) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    if is_root() {
        let (uid, gid) = *IDS.get_or_init(|| (id("-u"), id("-g")));
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
}

fn id(which: &str) -> u32 {
    let user = postgres_user();
    let output = Command::new("id").args([which, &user]).output().expect("id runs");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("there is no user {user}: tests/run installs PostgreSQL"))
}
