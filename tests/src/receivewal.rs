//! pg_receivewal against a hub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::client::SqlServer;
use crate::log::Log;
use crate::postgres::{Postgres, program};
use crate::process::{Process, command, quick_command, run_ok, spawn, wait_exit};
use crate::scratch::Scratch;
use crate::wait::wait_until;

/// A running pg_receivewal.
#[derive(Debug)]
pub struct ReceiveWal {
    process: Process,
    log: Log,
    dir: PathBuf,
}

impl ReceiveWal {
    /// Starts it into the directory `name` with further options.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[must_use]
    pub fn start(server: &impl SqlServer, name: &str, options: &[&str], scratch: &Scratch) -> Self {
        let dir = scratch.path(name);
        fs::create_dir_all(&dir).expect("a directory");
        let mut receive = command(program("pg_receivewal"));
        receive
            .args(["--no-loop", "-s", "1", "-d", &server.endpoint().conninfo(name), "-D"])
            .arg(&dir)
            .args(options);
        let log = Log::new(name);
        let process = spawn(&mut receive, &log);
        Self { process, log, dir }
    }

    /// Creates the slot `slot`, as `pg_receivewal --create-slot` does.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn create_slot(server: &impl SqlServer, slot: &str) {
        let conninfo = server.endpoint().conninfo("pg_receivewal");
        let mut receive = quick_command(program("pg_receivewal"));
        run_ok(receive.args(["-d", &conninfo, "--create-slot", "--slot", slot]));
    }

    /// Waits until the first WAL is in its directory. The primary has to write some, for the
    /// position where it starts may be the end of WAL.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn wait_receiving(&mut self, primary: &Postgres) {
        wait_until("pg_receivewal has opened a segment", || {
            assert!(self.process.is_running(), "pg_receivewal ended: {}", self.said());
            primary.psql("select pg_logical_emit_message(true, 'walhub', 'something')");
            fs::read_dir(&self.dir).expect("its directory").next().is_some()
        });
    }

    /// Waits for its end by itself, as it does with `--endpos`.
    ///
    /// # Panics
    /// When it goes on.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_exit(&self.process);
        self.log.wait_closed();
        status
    }

    /// Waits until it has closed the segment `last`, and stops it.
    ///
    /// # Panics
    /// When it does not receive that.
    #[track_caller]
    pub fn finish_at(&mut self, last: &str) {
        let [plain, compressed] = [last.to_owned(), format!("{last}.gz")];
        wait_until(&format!("pg_receivewal has closed {last}"), || {
            assert!(self.process.is_running(), "pg_receivewal ended: {}", self.said());
            self.dir.join(&plain).exists() || self.dir.join(&compressed).exists()
        });
        self.process.signal(Signal::INT);
        self.wait();
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// What it printed.
    #[must_use]
    pub fn said(&self) -> String {
        self.log.text(self.log.beginning())
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where the segments are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
