//! Where roles are kept: one file in the data directory, written anew by each change.
//!
//! A change is one at a time, and durable before it is answered: the new file is written beside the old one, made
//! durable, and renamed over it. Whatever ends the process in between leaves the one or the other. A data directory
//! without the file has the roles of a new cluster, whose superuser is `postgres`.
//!
//! Not here: what roles are and who may change them (`walhub_proto::roles`), statements (`backend`).
//!
//! PostgreSQL: `pg_authid`, which is a table and has the WAL for this; `durable_rename` (src/backend/storage/file/fd.c).

mod files;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::OwnedMutexGuard;
use walhub_proto::roles::Roles;
use walhub_proto::roles::change::{Actor, Settled};
use walhub_proto::roles::file::{ROLES_FILE_BYTES_MAX, decode_roles, encode_roles};
use walhub_proto::roles::statement::RoleStatement;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::placement::spawn_blocking;
use crate::strerror::strerror;
use files::{Files, OsFiles};

/// Name of the file in the data directory.
pub const ROLES_FILE: &str = "walhub.roles";
/// The superuser of a cluster that nobody has named one for.
pub const SUPERUSER_DEFAULT: &str = "postgres";

/// The roles of a server.
#[derive(Debug)]
pub struct RoleStore {
    path: PathBuf,
    files: Arc<dyn Files>,
    current: RwLock<Arc<Roles>>,
    /// Who holds it may change them.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl RoleStore {
    /// Those that are kept in a data directory.
    ///
    /// # Errors
    /// A `FATAL`: the file cannot be read, or is damaged.
    pub fn open(data_dir: &Path) -> Result<Arc<Self>, Box<Report>> {
        let path = data_dir.join(ROLES_FILE);
        let roles = read(&path)?.unwrap_or_else(|| Roles::new(SUPERUSER_DEFAULT));
        Ok(Self::of(path, roles, Arc::new(OsFiles)))
    }

    /// These roles, which are kept in a file of that path from the first change on.
    #[must_use]
    pub fn new(path: PathBuf, roles: Roles) -> Arc<Self> {
        Self::of(path, roles, Arc::new(OsFiles))
    }

    fn of(path: PathBuf, roles: Roles, files: Arc<dyn Files>) -> Arc<Self> {
        let (current, changing) = (RwLock::new(Arc::new(roles)), Arc::default());
        Arc::new(Self { path, files, current, changing })
    }

    /// The roles now.
    #[must_use]
    pub fn current(&self) -> Arc<Roles> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does what a statement says, and gives what the client is told beside. When it returns, the change is durable.
    ///
    /// A change that was begun is carried through, whether or not somebody waits for it.
    ///
    /// # Errors
    /// When the statement is refused, or cannot be kept.
    pub async fn change(
        self: &Arc<Self>,
        statement: &RoleStatement,
        by: Actor,
        settled: &Settled,
    ) -> Result<Vec<Report>, Report> {
        let alone = Arc::clone(&self.changing).lock_owned().await;
        let before = self.current();
        let (roles, notices) =
            before.change(statement, by, settled).map_err(|error| error.report())?;
        if roles == *before {
            return Ok(notices);
        }
        self.keep_alone(alone, roles).await.map(|()| notices)
    }

    /// Makes of them what `change` makes of them. When it returns, the change is durable.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn update(
        self: &Arc<Self>,
        change: impl FnOnce(&Roles) -> Roles,
    ) -> Result<(), Report> {
        let alone = Arc::clone(&self.changing).lock_owned().await;
        let before = self.current();
        let roles = change(&before);
        if roles == *before { Ok(()) } else { self.keep_alone(alone, roles).await }
    }

    /// Writes them aside of the thread that all sessions share.
    async fn keep_alone(
        self: &Arc<Self>,
        alone: OwnedMutexGuard<()>,
        roles: Roles,
    ) -> Result<(), Report> {
        let store = Arc::clone(self);
        let kept = spawn_blocking(move || {
            let kept = store.keep(roles);
            drop(alone);
            kept
        });
        let given_up = || Report::error(SqlState::INTERNAL_ERROR, "the roles were not written");
        kept.await.unwrap_or_else(|_| Err(given_up()))
    }

    /// Writes them, and makes them those that count.
    fn keep(&self, roles: Roles) -> Result<(), Report> {
        let content = encode_roles(&roles, crc32c);
        let replaced = replace(&*self.files, &self.path, &content);
        // What the file says counts, also when it is not known whether it will still say so after a power loss.
        if replaced.as_ref().map_or_else(|failed| failed.is_in_place, |()| true) {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roles);
        }
        replaced.map_err(|failed| failed.report())
    }
}

/// Makes the file of a new cluster.
///
/// # Errors
/// A `FATAL`: it cannot be written.
pub fn create(data_dir: &Path, superuser: &str, secret: Option<String>) -> Result<(), Box<Report>> {
    let roles = Roles::new(superuser).with_bootstrap_secret(secret);
    let content = encode_roles(&roles, crc32c);
    replace(&OsFiles, &data_dir.join(ROLES_FILE), &content).map_err(|failed| {
        let report = failed.report();
        Box::new(Report::fatal(report.sqlstate, report.message))
    })
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    walhub_engine::crc::crc32c(seed, bytes)
}

/// What failed in replacing the file.
struct ReplaceError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
    /// The new file is at its place.
    is_in_place: bool,
}

impl ReplaceError {
    fn report(&self) -> Report {
        let sqlstate = match self.error.kind() {
            io::ErrorKind::StorageFull => SqlState::DISK_FULL,
            _ => SqlState::IO_ERROR,
        };
        let message = format!(
            "could not {} file \"{}\": {}",
            self.what,
            self.path.display(),
            strerror(&self.error)
        );
        let report = Report::error(sqlstate, message);
        if self.is_in_place {
            return report.detail("The change is in effect, and may be lost if the power is.");
        }
        report
    }
}

/// Replaces the file durably. PostgreSQL: `durable_rename`.
fn replace(files: &dyn Files, path: &Path, content: &str) -> Result<(), ReplaceError> {
    let temporary = path.with_extension("roles.tmp");
    let directory = path.parent().unwrap_or(path);
    let failed = |what, path: &Path, is_in_place| {
        let path = path.to_owned();
        move |error| ReplaceError { what, path, error, is_in_place }
    };
    files.write(&temporary, content.as_bytes()).map_err(failed("write", &temporary, false))?;
    files.sync(&temporary).map_err(failed("fsync", &temporary, false))?;
    files.rename(&temporary, path).map_err(failed("rename", &temporary, false))?;
    files.sync(directory).map_err(failed("fsync", directory, true))
}

/// What the file holds; `None` when there is none.
fn read(path: &Path) -> Result<Option<Roles>, Box<Report>> {
    let unreadable = |error: &io::Error| {
        let message = format!("could not read file \"{}\": {}", path.display(), strerror(error));
        Box::new(Report::fatal(SqlState::IO_ERROR, message))
    };
    let damaged = |why: String| {
        let message = format!("role file \"{}\" cannot be used: {why}", path.display());
        let hint = format!(
            "Put back the file from a copy. Without it, that is after moving it away, the only user is the \
             superuser \"{SUPERUSER_DEFAULT}\", without a password."
        );
        Box::new(Report::fatal(SqlState::DATA_CORRUPTED, message).hint(hint))
    };
    let content = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
        Ok(metadata)
            if usize::try_from(metadata.len()).is_ok_and(|len| len <= ROLES_FILE_BYTES_MAX) =>
        {
            std::fs::read(path).map_err(|error| unreadable(&error))?
        }
        Ok(metadata) => return Err(damaged(format!("it has {} bytes", metadata.len()))),
    };
    let text = String::from_utf8(content).map_err(|_| damaged("it is not text".to_owned()))?;
    decode_roles(&text, crc32c).map(Some).map_err(|error| damaged(error.to_string()))
}
