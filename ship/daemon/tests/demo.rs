//! The demo as a new user meets it: it ends well, says so, and leaves nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A directory on the file system that this program was built on: a disk, wherever /tmp is.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn demo(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walhub"));
    command.arg("demo").args(arguments).env("TMPDIR", scratch).stdin(Stdio::null());
    command
}

/// Whether a process has a file open in this directory: the hub has its log there.
fn is_used(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let files = processes.flat_map(|process| fs::read_dir(process.path().join("fd")));
    let targets = files.flatten().flatten().flat_map(|file| fs::read_link(file.path()));
    targets.into_iter().any(|target| target.starts_with(directory))
}

/// Ends a demo that a failed test would leave running.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let _ = self.0.wait();
        }
    }
}

fn assert_nothing_left(scratch: &Path) {
    let left: Vec<_> = fs::read_dir(scratch).unwrap().flatten().map(|one| one.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!is_used(scratch), "a process is left");
}

#[test]
fn everything_arrives_although_the_hub_is_killed() {
    let scratch = scratch();
    let output = demo(scratch.path(), &["--size", "48MB", "--standbys", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "");
    for standby in ["standby1", "standby2"] {
        let row = text.lines().find(|line| line.trim_start().starts_with(standby)).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..3], ["48", "MB"], "{row}");
        assert_eq!(cells[cells.len() - 2..], ["1", "yes"], "{row}");
    }
    for said in ["hub killed (SIGKILL)", "lost no acknowledged record", "Every byte arrived"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let widest = text.lines().map(str::len).max().unwrap();
    assert!(widest <= 80 + scratch.path().as_os_str().len(), "{widest} columns: {text}");
    assert_nothing_left(scratch.path());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let scratch = scratch();
    let child = demo(scratch.path(), &["--size", "4GB"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut demo = Running(child);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "Shipping"));
    assert!(is_used(scratch.path()));
    demo.signal(Signal::INT);
    assert!(lines.any(|line| line.unwrap().starts_with("interrupted")));
    assert_eq!(demo.0.wait().unwrap().code(), Some(130));
    assert_nothing_left(scratch.path());
}

#[test]
fn the_files_are_kept_when_asked_for() {
    let scratch = scratch();
    let arguments = ["--size", "32MB", "--standbys", "1", "--keep"];
    let output = demo(scratch.path(), &arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let kept = text.lines().find_map(|line| line.strip_prefix("kept: ")).unwrap();
    assert!(fs::metadata(Path::new(kept).join("hub.log")).unwrap().size() > 0);
    assert!(!is_used(scratch.path()));
}

#[test]
fn a_postgresql_standby_gets_every_row_although_the_hub_is_killed() {
    let scratch = scratch();
    // The servers of a demo run by root belong to the user "postgres", who must get to their files.
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(scratch.path(), everyone).unwrap();
    let output = demo(scratch.path(), &["--postgres", "--size", "32MB"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{errors}");
    let identical = |line: &&str| line.starts_with("  pgbench_") && line.ends_with("  yes");
    assert_eq!(text.lines().filter(identical).count(), 4, "{text}");
    assert!(text.contains("| streaming |"), "{text}");
    assert_nothing_left(scratch.path());
}
