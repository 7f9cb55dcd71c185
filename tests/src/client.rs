//! psql against a server, and sessions that are kept open.

use std::io::Write;
use std::process::{ChildStdin, Output, Stdio};
use std::thread::{self, JoinHandle};

pub use walhub_peers::endpoint::Endpoint;

use crate::log::Log;
use crate::postgres::program;
use crate::process::{Process, command, quick_command, run, run_ok, said, spawn, wait_exit};
use crate::wait::wait_until;

/// Something that answers psql.
pub trait SqlServer {
    /// Where it listens.
    fn endpoint(&self) -> Endpoint;

    /// Result of `sql`: a line a row, `|` between columns.
    ///
    /// # Panics
    /// When the statement fails.
    #[track_caller]
    fn psql(&self, sql: &str) -> String {
        run_psql_ok(&self.endpoint().database(), &["-c", sql])
    }

    /// What psql says to `sql`, whether or not it fails.
    fn try_psql(&self, sql: &str) -> Output {
        run_psql(&self.endpoint().database(), &["-c", sql])
    }

    /// The error that `sql` must give, with its SQLSTATE.
    ///
    /// # Panics
    /// When it does not fail.
    #[track_caller]
    fn psql_error(&self, sql: &str) -> String {
        expect_error(&run_psql(
            &self.endpoint().database(),
            &["-v", "VERBOSITY=verbose", "-c", sql],
        ))
    }

    /// Result of a replication command.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    fn replication(&self, sql: &str) -> String {
        let conninfo = format!("{} replication=true", self.endpoint().conninfo("psql"));
        run_psql_ok(&conninfo, &["-c", sql])
    }

    /// The error that a replication command must give, with its SQLSTATE.
    ///
    /// # Panics
    /// When it does not fail.
    #[track_caller]
    fn replication_error(&self, sql: &str) -> String {
        let conninfo = format!("{} replication=true", self.endpoint().conninfo("psql"));
        expect_error(&run_psql(&conninfo, &["-v", "VERBOSITY=verbose", "-c", sql]))
    }

    /// Waits until `sql` gives `want`; a failing statement is asked again.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    fn wait_sql(&self, sql: &str, want: &str) {
        let mut last = String::new();
        let database = self.endpoint().database();
        let what = format!("{sql} gives {want}");
        wait_until(&what, || {
            let output = run_psql(&database, &["-c", sql]);
            let got = said(&output).trim_end().to_owned();
            if got != last {
                eprintln!("{sql}: {got}");
                last.clone_from(&got);
            }
            output.status.success() && got == want
        });
    }
}

impl SqlServer for Endpoint {
    fn endpoint(&self) -> Endpoint {
        *self
    }
}

fn expect_error(output: &Output) -> String {
    assert!(!output.status.success(), "there should be an error, but: {}", said(output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs psql with `arguments` against any connection string.
pub fn run_psql(conninfo: &str, arguments: &[&str]) -> Output {
    run(quick_command(program("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", conninfo])
        .args(arguments))
}

/// The same, when it must succeed.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn run_psql_ok(conninfo: &str, arguments: &[&str]) -> String {
    let text = run_ok(
        quick_command(program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", conninfo])
            .args(arguments),
    );
    text.trim_end().to_owned()
}

/// A statement that may take as long as it likes, in a session of its own.
#[derive(Debug)]
pub struct Statement(JoinHandle<Output>);

impl Statement {
    /// Has psql run `sql`.
    #[must_use]
    pub fn begin(server: &impl SqlServer, sql: &str) -> Self {
        let (endpoint, sql) = (server.endpoint(), sql.to_owned());
        Self(thread::spawn(move || endpoint.try_psql(&sql)))
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> Output {
        wait_until("the statement has ended", || self.0.is_finished());
        self.0.join().expect("psql runs")
    }
}

/// An open psql session.
#[derive(Debug)]
pub struct Psql {
    process: Process,
    input: Option<ChildStdin>,
    log: Log,
}

impl Psql {
    /// Connects, and waits until the server has answered.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn open(server: &impl SqlServer) -> Self {
        let log = Log::new("psql session");
        let mut psql = command(program("psql"));
        psql.args(["-XAtq", "-d", &server.endpoint().database()]).stdin(Stdio::piped());
        let process = spawn(&mut psql, &log);
        let input = process.take_stdin();
        let mut session = Self { process, input, log };
        session.send("\\echo connected\n");
        session.log.wait_for(session.log.beginning(), "connected");
        session
    }

    /// Runs `sql` and waits until its result is there; gives all lines it printed.
    ///
    /// # Panics
    /// When no result comes.
    #[track_caller]
    pub fn psql(&mut self, sql: &str) -> String {
        const END: &str = "-- end of result --";
        let mark = self.log.mark();
        self.send(&format!("{sql};\n\\echo {END}\n"));
        self.log.wait_for(mark, END);
        let text = self.log.text(mark);
        text.lines().filter(|line| *line != END).collect::<Vec<_>>().join("\n")
    }

    fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the session is open");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("psql reads");
    }

    /// Kills the client.
    pub fn kill9(self) {
        self.process.kill();
    }

    /// Ends the session as a client does, and waits for psql's end.
    pub fn close(mut self) {
        self.input = None;
        wait_exit(&self.process);
    }
}
