//! Programs that a test starts: what peers do, and a panic where something fails.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, ExitStatus, Output};

use rustix::process::{Pid, Signal, kill_process};
pub use walhub_peers::process::{Process, children_of};
pub use walhub_peers::program::command;

use crate::log::Log;
use crate::wait::{DEADLINE, wait_until};

/// Seconds after which a program that should be quick is killed.
const QUICK_PROGRAM_SECS: &str = "120";

/// A command that dies with the test, run by a user that PostgreSQL accepts.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn command_as_postgres(program: impl AsRef<OsStr>) -> Command {
    walhub_peers::program::command_as_postgres(program).expect("tests/run installs PostgreSQL")
}

/// A command that ends soon by itself, or is killed.
#[must_use]
pub fn quick_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = command("timeout");
    command.args(["--kill-after=5", QUICK_PROGRAM_SECS]).arg(program);
    command
}

/// Starts `command`, which is killed when dropped; what it writes goes to `log`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
#[track_caller]
pub fn spawn(command: &mut Command, log: &Log) -> Process {
    let process = Process::spawn(command, Signal::KILL, log);
    process.unwrap_or_else(|error| panic!("{command:?}: {error:#}"))
}

/// Waits until a program has ended by itself.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn wait_exit(process: &Process) -> ExitStatus {
    let status = process.wait(DEADLINE);
    status.unwrap_or_else(|| panic!("{} has not ended", process.log().name()))
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
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a program said, both ways.
#[must_use]
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
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
