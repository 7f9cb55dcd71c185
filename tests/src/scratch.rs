//! A test's own directory, loopback address and ports.
//!
//! Servers listen on an address of 127.0.0.0/8 that belongs to this process alone. Outgoing
//! connections leave from 127.0.0.1, so the kernel can never give a server's port to one of them
//! while the server is down between two starts.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

use tempfile::TempDir;
use walhub_peers::endpoint::Endpoint;
pub use walhub_peers::program::is_root;

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

    /// Its path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the directory `name`, which PostgreSQL's user may write.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        walhub_peers::postgres::directory(self.dir.path(), name).expect("a directory")
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

/// A place on [`host`] where no program listens, given out once in this process.
///
/// # Panics
/// When the kernel has no port.
#[must_use]
pub fn free_endpoint() -> Endpoint {
    Endpoint::free(host()).expect("a free port")
}

/// Makes `path` belong to the user that runs PostgreSQL.
///
/// # Panics
/// When there is no such user.
pub fn give_to_postgres(path: &Path) {
    walhub_peers::program::give_to_postgres(path).expect("tests/run installs PostgreSQL");
}
