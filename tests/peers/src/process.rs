//! Running programs, of which none outlives its owner.
//!
//! Three things see to that. A [`Process`] ends its program when it is dropped. Every running
//! program is known to this module, so that [`end_all`] ends them where nothing is dropped: after
//! a signal, or a panic that aborts. And the kernel kills a program when the thread that started
//! it is gone (see [`crate::program::command`]).
//!
//! Each program has a process group of its own: Ctrl-C in a terminal reaches the owner alone.
//! The kernel's handle of a process (pidfd) tells its end, so nothing here polls, and a signal
//! cannot reach another process that was given the same number.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::log::Log;

/// How long a program may take to end when it was told to, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for all programs together, when somebody waits at a terminal.
const STOP_ALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last words of a program that has ended are waited for.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Running {
    pid: u32,
    handle: OwnedFd,
    child: Mutex<Child>,
    end_by: Signal,
}

/// Every program that runs, in the order of their starts.
static RUNNING: Mutex<Vec<Arc<Running>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program, ended when dropped.
#[derive(Debug)]
pub struct Process {
    running: Arc<Running>,
    log: Log,
}

impl Process {
    /// Starts a program that ends by `end_by`; what it says goes to `log`, whose name is its name.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command, end_by: Signal, log: &Log) -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let process = Self::start(command, end_by, log)?;
        log.follow(reader);
        Ok(process)
    }

    fn start(command: &mut Command, end_by: Signal, log: &Log) -> Result<Self> {
        command.process_group(0);
        let mut all = lock(&RUNNING);
        let child = command.spawn();
        // Or the pipes that it writes to would never end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.with_context(|| format!("could not start {}", log.name()))?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let running = Running { pid: child.id(), handle, child: Mutex::new(child), end_by };
        let running = Arc::new(running);
        all.push(Arc::clone(&running));
        Ok(Self { running, log: log.clone() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// What it said, and those that shared its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its standard input, when the command asked for a pipe.
    #[must_use]
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        lock(&self.running.child).stdin.take()
    }

    /// Sends it a signal; a program that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Whether it is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Its exit status, once it has ended.
    ///
    /// # Panics
    /// When the kernel does not know it: it was waited for elsewhere.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        lock(&self.running.child).try_wait().expect("a child of this process")
    }

    /// Says how it ended, if it has.
    ///
    /// # Errors
    /// When it has ended, with its last words.
    pub fn check(&self) -> Result<()> {
        self.status().map_or(Ok(()), |status| bail!("{}", self.ended(status)))
    }

    fn ended(&self, status: ExitStatus) -> String {
        self.log.wait_closed_for(LAST_WORDS_TIMEOUT);
        format!("{} ended: {status}\n{}", self.log.name(), self.log.tail())
    }

    /// Waits until it has ended; `None` when it has not in time.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        wait_for_end(&self.running.handle, timeout);
        self.status()
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Errors
    /// When it fails, or does not end in time.
    pub fn wait_success(&self, timeout: Duration) -> Result<()> {
        match self.wait(timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{}", self.ended(status)),
            None => bail!("{} did not end within {timeout:?}", self.log.name()),
        }
    }

    /// Has it end by `signal`, by SIGKILL if it takes too long, and waits until it is gone.
    pub fn end_by(self, signal: Signal) {
        self.running.signal(signal);
        wait_for_end(&self.running.handle, STOP_TIMEOUT);
    }

    /// Kills it and its children at once, and waits until they are gone.
    pub fn kill(&self) {
        if !self.is_running() {
            return;
        }
        // Children first: a postmaster would otherwise start to clean up after them.
        self.signal(Signal::STOP);
        let children: Vec<OwnedFd> = children_of(self.pid()).into_iter().filter_map(open).collect();
        self.signal(Signal::KILL);
        for child in &children {
            // It may be gone.
            let _ = pidfd_send_signal(child, Signal::KILL);
        }
        for process in children.iter().chain([&self.running.handle]) {
            wait_for_end(process, KILL_TIMEOUT);
        }
        // Or it would stay a zombie.
        let _ = self.status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running.end_by != Signal::KILL && self.is_running() {
            self.signal(self.running.end_by);
            wait_for_end(&self.running.handle, STOP_TIMEOUT);
        }
        self.kill();
        lock(&RUNNING).retain(|running| !Arc::ptr_eq(running, &self.running));
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        // The only error that can come is that it is gone.
        let _ = pidfd_send_signal(&self.handle, signal);
    }
}

/// No program is started as long as this is held.
#[derive(Debug)]
#[must_use = "programs may be started again once it is dropped"]
pub struct AllEnded(#[expect(dead_code, reason = "held")] MutexGuard<'static, Vec<Arc<Running>>>);

/// Ends every program that runs, each by its own signal, and kills those that take too long.
pub fn end_all() -> AllEnded {
    let mut all = lock(&RUNNING);
    for running in all.iter() {
        running.signal(running.end_by);
    }
    let told = Instant::now();
    // The last one started depends on those before it.
    while let Some(running) = all.pop() {
        if !wait_for_end(&running.handle, STOP_ALL_TIMEOUT.saturating_sub(told.elapsed())) {
            running.signal(Signal::KILL);
            wait_for_end(&running.handle, KILL_TIMEOUT);
        }
    }
    AllEnded(all)
}

/// Runs a program to its end, and returns what it wrote to standard output.
///
/// # Errors
/// When it fails, with what it said, or does not end in time.
pub fn run(name: &str, command: &mut Command, timeout: Duration) -> Result<String> {
    let (mut output, stdout) = io::pipe()?;
    let (errors, stderr) = io::pipe()?;
    command.stdout(stdout).stderr(stderr);
    let log = Log::new(name);
    let process = Process::start(command, Signal::TERM, &log)?;
    log.follow(errors);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| bytes)
    });
    process.wait_success(timeout)?;
    let bytes = reader.join().map_err(|_| anyhow::anyhow!("reading from {name} panicked"))??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    // It may be gone.
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits until a process has ended; whether it has.
fn wait_for_end(process: &OwnedFd, timeout: Duration) -> bool {
    let began = Instant::now();
    loop {
        // What cannot be said in nanoseconds is for ever.
        let left = Timespec::try_from(timeout.saturating_sub(began.elapsed())).ok();
        match poll(&mut [PollFd::new(process, PollFlags::IN)], left.as_ref()) {
            Ok(count) => return count > 0,
            Err(error) => assert_eq!(error, rustix::io::Errno::INTR, "a handle can be polled"),
        }
    }
}

/// The processes whose parent is `pid`.
///
/// # Panics
/// When there is no /proc.
#[must_use]
pub fn children_of(pid: u32) -> Vec<u32> {
    let parent = |child: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        // The command's name, in parentheses, may hold anything; the state follows it.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| parent(*child) == Some(pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::command;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_dropped_program_is_gone_and_so_are_its_children() {
        let log = Log::new("shell");
        let script = "sleep 1000 & echo started; wait";
        let process = Process::spawn(&mut shell(script), Signal::KILL, &log).unwrap();
        assert!(log.wait_count("started", 1, TIMEOUT));
        let children = children_of(process.pid());
        assert_eq!(children.len(), 1);
        let child = open(children[0]).unwrap();
        assert!(process.check().is_ok() && process.wait(Duration::ZERO).is_none());
        drop(process);
        assert!(wait_for_end(&child, Duration::ZERO));
        assert!(log.wait_closed_for(TIMEOUT));
    }

    #[test]
    fn a_program_ends_by_its_own_signal_when_it_listens() {
        let log = Log::new("shell");
        let script = "trap 'echo told; exit' INT; echo started; while :; do sleep 0.01; done";
        let process = Process::spawn(&mut shell(script), Signal::INT, &log).unwrap();
        assert!(log.wait_count("started", 1, TIMEOUT));
        drop(process);
        assert!(log.wait_count("told", 1, TIMEOUT));
    }

    #[test]
    fn a_failed_program_is_named_with_its_last_words() {
        let output = run("shell", &mut shell("echo out; echo words >&2"), TIMEOUT);
        assert_eq!(output.unwrap(), "out\n");
        let error = run("shell", &mut shell("echo words >&2; exit 3"), TIMEOUT).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("shell ended: exit status: 3\nwords"), "{error}");
        let error = run("shell", &mut shell("sleep 1000"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
