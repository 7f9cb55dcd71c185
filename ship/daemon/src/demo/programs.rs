//! PostgreSQL's programs: where they are, and how the demo runs them.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Signal, geteuid};

use super::hub::{log_tail, without_client_variables};
use super::leftovers::{ChildId, spawn};

/// Every program that the demo runs.
const NEEDED: [&str; 5] = ["initdb", "postgres", "pg_basebackup", "pgbench", "psql"];
/// Where packages put them: a directory for each major.
const PARENTS: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];
/// How long a query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// PostgreSQL's programs, run in one directory.
#[derive(Debug)]
pub(super) struct Programs {
    bin_dir: PathBuf,
    directory: PathBuf,
    /// Servers refuse to run as root: then the user "postgres" runs them.
    user: Option<(u32, u32)>,
}

/// Finds the newest release that has every program.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in PARENTS {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let major = name.strip_prefix(prefix).and_then(|major| major.parse().ok());
            found.extend(major.map(|major| (major, entry.path().join("bin"))));
        }
    }
    found.sort();
    let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok();
    let asked = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = asked
        .map(PathBuf::from)
        .into_iter()
        .chain(found.into_iter().rev().map(|(_, directory)| directory))
        .chain(std::env::split_paths(&path));
    let has_all = |directory: &PathBuf| NEEDED.iter().all(|name| directory.join(name).is_file());
    candidates.into_iter().find(has_all).with_context(|| {
        format!(
            "PostgreSQL is not installed: found no directory with {}\n\
             Debian, Ubuntu:  apt-get install postgresql\n\
             Fedora, RHEL:    dnf install postgresql-server postgresql-contrib\n\
             Without --postgres the demo needs nothing.",
            NEEDED.join(", ")
        )
    })
}

impl Programs {
    /// Programs from `bin_dir` that keep their files in `directory`, which is theirs from now on.
    pub(super) fn new(bin_dir: PathBuf, directory: &Path) -> anyhow::Result<Self> {
        let user = if geteuid().is_root() { Some(postgres_user()?) } else { None };
        if let Some((uid, gid)) = user {
            chown(directory, Some(uid), Some(gid))
                .with_context(|| format!("could not give {} away", directory.display()))?;
        }
        Ok(Self { bin_dir, directory: directory.to_owned(), user })
    }

    /// Starts one; what it writes goes to NAME.out and NAME.log.
    pub(super) fn start(
        &self,
        program: &str,
        name: &str,
        arguments: &[&str],
        end_by: Signal,
    ) -> anyhow::Result<ChildId> {
        let mut command = Command::new(self.bin_dir.join(program));
        let create = |path: PathBuf| {
            File::create(&path).with_context(|| format!("could not create {}", path.display()))
        };
        command
            .args(arguments)
            .current_dir(&self.directory)
            .stdout(create(self.file(name, "out"))?)
            .stderr(create(self.file(name, "log"))?);
        without_client_variables(&mut command);
        command.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        spawn(&mut command, end_by).with_context(|| format!("could not start {program}"))
    }

    /// Runs one to its end; returns what it wrote.
    pub(super) fn run(
        &self,
        program: &str,
        name: &str,
        arguments: &[&str],
        timeout: Duration,
    ) -> anyhow::Result<String> {
        let child = self.start(program, name, arguments, Signal::TERM)?;
        self.finish(&child, name, timeout)
    }

    /// Waits for one that was started as `name`; returns what it wrote.
    pub(super) fn finish(
        &self,
        child: &ChildId,
        name: &str,
        timeout: Duration,
    ) -> anyhow::Result<String> {
        let log = self.file(name, "log");
        child.wait_success(name, timeout).with_context(|| log_tail(&log))?;
        Ok(fs::read_to_string(self.file(name, "out"))?)
    }

    /// What a query returns, without alignment.
    pub(super) fn query(&self, port: u16, sql: &str) -> anyhow::Result<String> {
        self.psql(port, sql, &["-A", "-t"]).map(|text| text.trim().to_owned())
    }

    /// What psql shows of a query.
    pub(super) fn psql(&self, port: u16, sql: &str, options: &[&str]) -> anyhow::Result<String> {
        let port = port.to_string();
        let mut arguments = vec!["-X", "-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        arguments.extend_from_slice(&["-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        arguments.extend_from_slice(options);
        self.run("psql", "psql", &arguments, QUERY_TIMEOUT)
    }

    /// Waits until a server that was started as `name` answers on `port`.
    pub(super) fn wait_ready(&self, child: &ChildId, name: &str, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = self.query(port, "SELECT 1") {
            if let Some(status) = child.try_wait()? {
                bail!("the {name} ended: {status}\n{}", log_tail(&self.file(name, "log")));
            }
            let tail = || log_tail(&self.file(name, "log"));
            ensure!(Instant::now() < deadline, "the {name} is not ready: {error:#}\n{}", tail());
            std::thread::sleep(RETRY_INTERVAL);
        }
        Ok(())
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }
}

/// User and group of "postgres".
fn postgres_user() -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (name == "postgres").then_some((uid, gid))
    });
    found.context("PostgreSQL does not run as root and there is no user \"postgres\"")
}
