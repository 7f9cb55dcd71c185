//! Counts system calls of a process and its children with strace: in a run of its own, since
//! counting slows every call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;
use walhub_peers::log::Log;
use walhub_peers::process::Process;

use super::machine::Snapshot;
use crate::peer::program::{Program, command};

/// Counts system calls.
pub const STRACE: Program = Program { name: "strace", package: "strace" };
/// How long strace may take to attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls by name.
pub type Calls = BTreeMap<String, u64>;

/// Counts until it is finished.
#[derive(Debug)]
pub struct Trace {
    running: Process,
    output: PathBuf,
}

impl Trace {
    /// Attaches to `pid`, its descendants, and all their threads, those to come included; needs a
    /// directory for what strace writes.
    ///
    /// # Errors
    /// When strace is missing or may not attach.
    pub fn start(pid: u32, dir: &Path) -> Result<Self> {
        let output = dir.join(format!("strace-{pid}"));
        let mut command = command(STRACE.find()?);
        command.args(["-c", "-f", "-o"]).arg(&output);
        let tree = Snapshot::take()?.tree(pid);
        for pid in &tree {
            command.args(["-p", &pid.to_string()]);
        }
        let log = Log::new(STRACE.name);
        let running = Process::spawn(&mut command, Signal::INT, &log)?;
        if !log.wait_count(" attached", tree.len(), ATTACH_TIMEOUT) {
            running.check()?;
            bail!("strace did not attach to {pid}");
        }
        Ok(Self { running, output })
    }

    /// Detaches.
    ///
    /// # Errors
    /// When strace left nothing.
    pub fn finish(self) -> Result<Calls> {
        drop(self.running);
        Ok(parse(&std::fs::read_to_string(&self.output)?))
    }
}

/// The table of `strace -c`: share, seconds, usecs/call, calls, errors if any, name.
fn parse(table: &str) -> Calls {
    let rows = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = *fields.last().filter(|name| **name != "total")?;
        Some((name.to_owned(), fields.get(3)?.parse().ok()?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_errors() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 90.00    0.000900          10        90         7 recvfrom
 10.00    0.000100           1        10           io_uring_enter
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           1       100         7 total
";
        let want = [("recvfrom".to_owned(), 90), ("io_uring_enter".to_owned(), 10)];
        assert_eq!(parse(table), Calls::from(want));
    }
}
