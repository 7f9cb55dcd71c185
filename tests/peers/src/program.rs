//! Installed programs: where they are, and commands that run them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

/// Where packages put PostgreSQL's programs: a directory for each major.
const PARENTS: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// Directories that may hold PostgreSQL's programs: that of `WALHUB_PG_BINDIR` alone, or what
/// pg_config says, those of packages with the newest major first, and the search path.
fn bindirs() -> &'static [PathBuf] {
    static BINDIRS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BINDIRS.get_or_init(|| {
        if let Some(chosen) = std::env::var_os("WALHUB_PG_BINDIR") {
            return vec![chosen.into()];
        }
        let mut packaged: Vec<(u32, PathBuf)> = Vec::new();
        for (parent, prefix) in PARENTS {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let major = name.strip_prefix(prefix).and_then(|major| major.parse().ok());
                packaged.extend(major.map(|major| (major, entry.path().join("bin"))));
            }
        }
        packaged.sort();
        let told = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok();
        let told = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
        let packaged = packaged.into_iter().rev().map(|(_, directory)| directory);
        told.into_iter().chain(packaged).chain(search_path()).collect()
    })
}

fn search_path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

/// The first directory of PostgreSQL's programs that has all of `needed`.
#[must_use]
pub fn bindir(needed: &[&str]) -> Option<&'static Path> {
    let has_all = |dir: &&PathBuf| needed.iter().all(|name| dir.join(name).is_file());
    bindirs().iter().find(has_all).map(PathBuf::as_path)
}

/// One of PostgreSQL's programs; from the installation of a server when there is one.
///
/// # Errors
/// When it is not installed.
pub fn postgres_program(name: &str) -> Result<PathBuf> {
    let bindir = bindir(&["initdb", "postgres", name]).or_else(|| bindir(&[name]));
    let bindir = bindir.with_context(|| {
        format!("{name} of PostgreSQL is not installed (WALHUB_PG_BINDIR chooses a directory)")
    })?;
    Ok(bindir.join(name))
}

/// A program of the search path.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether this process is root's, as which PostgreSQL does not run.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// User and group that run PostgreSQL when this process is root's: those of the user "postgres",
/// or of `WALHUB_PG_USER`.
fn postgres_ids() -> Result<(u32, u32)> {
    static IDS: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let user = std::env::var("WALHUB_PG_USER").unwrap_or_else(|_| "postgres".to_owned());
    let id = |which: &str| {
        let output =
            Command::new("id").args([which, user.as_str()]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let ids = *IDS.get_or_init(|| Some((id("-u")?, id("-g")?)));
    ids.with_context(|| format!("PostgreSQL does not run as root and there is no user \"{user}\""))
}

/// Makes `path` belong to the user that runs PostgreSQL.
///
/// # Errors
/// When there is no such user.
pub fn give_to_postgres(path: &Path) -> Result<()> {
    if is_root() {
        let (uid, gid) = postgres_ids()?;
        let given = chown(path, Some(uid), Some(gid));
        given.with_context(|| format!("could not give {} away", path.display()))?;
    }
    Ok(())
}

/// Whether setpriv of util-linux can tie a process to its parent; doing it here would be unsafe.
fn has_setpriv() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// A command that the kernel kills when the thread that runs it is gone, where that can be had.
///
/// No setting, certificate or password file of the person who runs it may decide anything.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = if has_setpriv() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent").env("PGCONNECT_TIMEOUT", "60");
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// The same, run by a user that PostgreSQL accepts.
///
/// # Errors
/// When there is no such user.
pub fn command_as_postgres(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = command(program);
    if is_root() {
        let (uid, gid) = postgres_ids()?;
        command.uid(uid).gid(gid);
    }
    Ok(command)
}
