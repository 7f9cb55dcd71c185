//! What the demo must not leave behind: processes and a directory.
//!
//! A release build aborts on a panic, and a signal may come at any time, so nothing here counts on
//! destructors: every child and the directory are known to this module from the moment they exist,
//! and whichever way the demo ends, [`clean_up`] runs.
//!
//! Each child has a process group of its own: Ctrl-C in a terminal reaches the demo alone, which then
//! ends its children in good order.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a child may take to end by itself before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

struct Leftovers {
    children: Vec<Running>,
    directory: Option<PathBuf>,
    keep: bool,
}

struct Running {
    child: Child,
    end_by: Signal,
    /// Once it has ended: its id may be another process's by then.
    status: Option<ExitStatus>,
}

static LEFTOVERS: Mutex<Leftovers> =
    Mutex::new(Leftovers { children: Vec::new(), directory: None, keep: false });

fn lock() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child process. Dropping this ends nothing; the process stays known here until it has ended.
#[derive(Debug)]
pub(super) struct ChildId(u32);

/// Cleans up when a signal or a panic ends the demo, from now on.
pub(super) fn watch(keep: bool) -> anyhow::Result<()> {
    lock().keep = keep;
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        clean_up();
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let watch = {
        let _context = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        async move {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hang_up.recv() => 129,
            }
        }
    };
    let body = move || {
        let code = runtime.block_on(watch);
        let _ = writeln!(io::stdout(), "\ninterrupted: cleaning up");
        // Kept until the process is gone: the main thread cannot start another child meanwhile.
        let mut leftovers = lock();
        leftovers.remove();
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".into()).spawn(body)?;
    Ok(())
}

/// The directory that is removed at the end.
pub(super) fn set_directory(directory: &Path) {
    lock().directory = Some(directory.to_owned());
}

/// Starts a child; at the end it gets `end_by`, and SIGKILL if it does not go.
pub(super) fn spawn(command: &mut Command, end_by: Signal) -> io::Result<ChildId> {
    command.process_group(0).stdin(Stdio::null());
    let mut leftovers = lock();
    let child = command.spawn()?;
    let id = child.id();
    leftovers.children.push(Running { child, end_by, status: None });
    Ok(ChildId(id))
}

impl ChildId {
    /// Its process id.
    pub(super) const fn pid(&self) -> u32 {
        self.0
    }

    /// Its exit status, once it has ended.
    pub(super) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        lock().find(self.0).map_or(Ok(None), Running::try_wait)
    }

    /// Sends a signal; a process that has ended does not mind.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(running) = lock().find(self.0) {
            running.send(signal);
        }
    }

    /// Waits until it has ended; `None` after `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.try_wait()? {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                ended => return Ok(ended),
            }
        }
    }

    /// Runs it to its end, which must be a good one.
    pub(super) fn wait_success(&self, name: &str, timeout: Duration) -> anyhow::Result<()> {
        let status = self.wait(timeout).with_context(|| format!("could not wait for {name}"))?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => anyhow::bail!("{name} failed: {status}"),
            None => anyhow::bail!("{name} did not end within {} s", timeout.as_secs()),
        }
    }
}

impl Drop for ChildId {
    fn drop(&mut self) {
        lock().children.retain(|running| running.child.id() != self.0 || running.status.is_none());
    }
}

impl Running {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    fn send(&self, signal: Signal) {
        if self.status.is_some() {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Ends every child and removes the directory.
pub(super) fn clean_up() {
    lock().remove();
}

impl Leftovers {
    fn find(&mut self, id: u32) -> Option<&mut Running> {
        // Of an id that was used again, the later one.
        self.children.iter_mut().rev().find(|running| running.child.id() == id)
    }

    fn remove(&mut self) {
        for running in &self.children {
            running.send(running.end_by);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        // The last one started depends on those before it.
        while let Some(mut running) = self.children.pop() {
            while matches!(running.try_wait(), Ok(None)) {
                if Instant::now() >= deadline {
                    running.send(Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let Some(directory) = self.directory.take() else { return };
        if self.keep {
            let _ = writeln!(io::stdout(), "kept: {}", directory.display());
        } else if let Err(error) = std::fs::remove_dir_all(&directory) {
            let shown = directory.display();
            let _ = writeln!(io::stderr(), "walhub: could not remove \"{shown}\": {error}");
        }
    }
}
