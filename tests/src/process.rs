//! Programs that a test starts, and that never outlive it.
//!
//! A child is killed when its guard is dropped and, by PDEATHSIG, when the thread that started it
//! is gone: a test that is killed itself leaves nothing behind. `setpriv` of util-linux sets that
//! signal and the user, since doing it here would need `unsafe`.

use std::ffi::OsStr;
use std::fs;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::log::Log;
use crate::scratch::{is_root, postgres_user};
use crate::wait::{wait_for, wait_until};

/// Seconds after which a program that should be quick is killed.
const QUICK_PROGRAM_SECS: &str = "120";

/// A command that dies with the test, run by the user of the test.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    plain_environment(&mut command);
    command
}

/// The same, run by a user that PostgreSQL accepts.
#[must_use]
pub fn command_as_postgres(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        let user = postgres_user();
        command.args(["--reuid", &user, "--regid", &user, "--init-groups"]);
    }
    command.arg("--").arg(program);
    plain_environment(&mut command);
    command
}

/// A command that ends soon by itself, or is killed.
#[must_use]
pub fn quick_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = command("timeout");
    command.args(["--kill-after=5", QUICK_PROGRAM_SECS]).arg(program);
    command
}

/// No setting, certificate or password file of the person who runs the tests may decide anything.
fn plain_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent").env("PGCONNECT_TIMEOUT", "60");
    command.current_dir("/").stdin(Stdio::null());
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs `command` to its end, and returns what it wrote to standard output.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program said, both ways.
#[must_use]
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; what it writes goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command, log: &Log) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        log.follow(child.stdout.take().expect("a pipe"));
        log.follow(child.stderr.take().expect("a pipe"));
        Self { name: name.to_owned(), child }
    }

    /// Its standard input, when the command asked for a pipe.
    ///
    /// # Panics
    /// When there is none.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` to it.
    ///
    /// # Panics
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let what = format!("{} has ended", self.name);
        wait_for(&what, || self.child.try_wait().expect("a child of ours"))
    }

    /// Kills it and its children at once, and waits until they are gone.
    pub fn kill9(&mut self) {
        if !self.is_running() {
            return;
        }
        // Children first: a postmaster would otherwise start to clean up after them.
        let pid = self.child.id();
        self.signal(Signal::STOP);
        let children = children_of(pid);
        self.signal(Signal::KILL);
        for child in &children {
            send_signal(*child, Signal::KILL);
        }
        self.child.wait().expect("a child of ours");
        wait_until("the killed processes are gone", || !children.iter().any(|pid| is_alive(*pid)));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Sends `signal` to the process `pid`, which may be gone.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only error that can come is that it is gone.
        let _ = kill_process(pid, signal);
    }
}

/// Stops a process, and waits until none of its threads runs.
#[track_caller]
pub fn freeze(pid: u32) {
    send_signal(pid, Signal::STOP);
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    let is_stopped = |stat: String| {
        stat.rsplit_once(')').is_some_and(|(_, state)| state.trim_start().starts_with('T'))
    };
    let stats = || threads().map(|thread| fs::read_to_string(thread.path().join("stat")));
    wait_until("every thread is stopped", || stats().all(|stat| stat.is_ok_and(is_stopped)));
}

/// State and parent of a process, from `/proc`.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The processes whose parent is `pid`.
#[must_use]
pub fn children_of(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|(_, parent)| parent == pid))
        .collect()
}
