//! `walhub status`, `stop`, `reload` and `promote`, with the words and exit codes of pg_ctl.
//!
//! PostgreSQL: `do_status`, `do_stop`, `do_reload`, `do_promote` (src/bin/pg_ctl/pg_ctl.c).

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::datadir::{MARKER, PID_FILE, PROMOTE_FILE, PidFile, PidFileLines, Status};
use crate::signals::ShutdownMode;
use crate::strerror::strerror;

/// Exit code of `status` when no server runs.
const NOT_RUNNING: u8 = 3;
/// Exit code of `status` when there is no data directory.
const NO_DATA_DIR: u8 = 4;
/// How often a waiting `stop` looks. PostgreSQL: `WAITS_PER_SEC`.
const WAITS_PER_SECOND: u32 = 10;

/// Says something on standard error, under the program's name.
fn complain(message: impl Display) {
    let _ = writeln!(io::stderr(), "walhub: {message}");
}

/// Says something; a reader that has gone away changes nothing.
fn say(out: &mut impl Write, text: impl Display) {
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// What the server in `data_dir` tells about itself; `Err` carries the exit code.
fn running_server(data_dir: &Path, no_data_dir: u8) -> Result<Option<PidFileLines>, ExitCode> {
    let shown = data_dir.display();
    if !data_dir.exists() {
        complain(format_args!("directory \"{shown}\" does not exist"));
        return Err(ExitCode::from(no_data_dir));
    }
    if !data_dir.join(MARKER).exists() {
        complain(format_args!("directory \"{shown}\" is not a walhub data directory"));
        return Err(ExitCode::from(no_data_dir));
    }
    PidFile::of_running_server(data_dir).map_err(|error| {
        let file = data_dir.join(PID_FILE);
        complain(format_args!(
            "could not open PID file \"{}\": {}",
            file.display(),
            strerror(&error)
        ));
        ExitCode::FAILURE
    })
}

/// The server in `data_dir`, which has to run.
fn server_to_signal(data_dir: &Path) -> Result<PidFileLines, ExitCode> {
    running_server(data_dir, 1)?.ok_or_else(|| {
        let file = data_dir.join(PID_FILE);
        if file.exists() {
            complain(format_args!("no server running in \"{}\"", data_dir.display()));
        } else {
            complain(format_args!("PID file \"{}\" does not exist", file.display()));
        }
        let _ = writeln!(io::stderr(), "Is server running?");
        ExitCode::FAILURE
    })
}

fn send(server: &PidFileLines, signal: Signal, name: &str) -> Result<(), ExitCode> {
    let pid = i32::try_from(server.pid).ok().and_then(Pid::from_raw);
    let sent = pid.ok_or(rustix::io::Errno::SRCH).and_then(|pid| kill_process(pid, signal));
    sent.map_err(|errno| {
        let error = strerror(&io::Error::from(errno));
        complain(format_args!("could not send {name} signal (PID: {}): {error}", server.pid));
        ExitCode::FAILURE
    })
}

/// Tells whether a server runs in `data_dir`, and where it listens.
pub(super) fn status(data_dir: &Path, out: &mut impl Write) -> ExitCode {
    match running_server(data_dir, NO_DATA_DIR) {
        Ok(Some(server)) => {
            say(out, format_args!("walhub: server is running (PID: {})\n", server.pid));
            say(out, format_args!("status: {}\n", server.status.as_str()));
            if !server.listen_address.is_empty() {
                let address = &server.listen_address;
                say(out, format_args!("listen address: {address}, port {}\n", server.port));
            }
            if !server.socket_dir.is_empty() {
                let directory = &server.socket_dir;
                say(out, format_args!("socket directory: {directory}, port {}\n", server.port));
            }
            ExitCode::SUCCESS
        }
        Ok(None) => {
            say(out, "walhub: no server running\n");
            ExitCode::from(NOT_RUNNING)
        }
        Err(code) => code,
    }
}

/// Has the server read its configuration again.
pub(super) fn reload(data_dir: &Path, out: &mut impl Write) -> ExitCode {
    let signalled =
        server_to_signal(data_dir).and_then(|server| send(&server, Signal::HUP, "reload"));
    match signalled {
        Ok(()) => {
            say(out, "server signaled\n");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// Has a standby become a primary, and waits for it up to `wait` seconds.
pub(super) fn promote(data_dir: &Path, wait: Option<u32>, out: &mut impl Write) -> ExitCode {
    if let Err(code) = ask_for_promotion(data_dir) {
        return code;
    }
    let Some(seconds) = wait else {
        say(out, "server promoting\n");
        return ExitCode::SUCCESS;
    };
    say(out, "waiting for server to promote...");
    for round in 0..seconds.saturating_mul(WAITS_PER_SECOND) {
        match PidFile::of_running_server(data_dir) {
            Ok(Some(server)) if server.status == Status::Ready => {
                say(out, " done\nserver promoted\n");
                return ExitCode::SUCCESS;
            }
            // It has ended.
            Ok(None) => break,
            Ok(Some(_)) | Err(_) => {}
        }
        if round % WAITS_PER_SECOND == 0 {
            say(out, ".");
        }
        std::thread::sleep(Duration::from_secs(1) / WAITS_PER_SECOND);
    }
    say(out, " stopped waiting\n");
    complain("server did not promote in time");
    let _ = writeln!(io::stderr(), "Examine the log output.");
    ExitCode::FAILURE
}

/// Leaves the file and sends the signal.
fn ask_for_promotion(data_dir: &Path) -> Result<(), ExitCode> {
    let server = server_to_signal(data_dir)?;
    if server.status != Status::Standby {
        complain("cannot promote server; server is not in standby mode");
        return Err(ExitCode::FAILURE);
    }
    let file = data_dir.join(PROMOTE_FILE);
    let about_file = |what, error: &io::Error| {
        let error = strerror(error);
        complain(format_args!(
            "could not {what} promote signal file \"{}\": {error}",
            file.display()
        ));
    };
    if let Err(error) = fs::write(&file, "") {
        about_file("create", &error);
        return Err(ExitCode::FAILURE);
    }
    send(&server, Signal::USR1, "promote").inspect_err(|_| {
        if let Err(error) = fs::remove_file(&file) {
            about_file("remove", &error);
        }
    })
}

/// Stops the server, and waits for its end up to `wait` seconds.
pub(super) fn stop(
    data_dir: &Path,
    mode: ShutdownMode,
    wait: Option<u32>,
    out: &mut impl Write,
) -> ExitCode {
    let signalled =
        server_to_signal(data_dir).and_then(|server| send(&server, mode.signal(), "stop"));
    if let Err(code) = signalled {
        return code;
    }
    let Some(seconds) = wait else {
        say(out, "server shutting down\n");
        return ExitCode::SUCCESS;
    };
    say(out, "waiting for server to shut down...");
    for round in 0..seconds.saturating_mul(WAITS_PER_SECOND) {
        if matches!(PidFile::of_running_server(data_dir), Ok(None)) {
            say(out, " done\nserver stopped\n");
            return ExitCode::SUCCESS;
        }
        if round % WAITS_PER_SECOND == 0 {
            say(out, ".");
        }
        std::thread::sleep(Duration::from_secs(1) / WAITS_PER_SECOND);
    }
    say(out, " failed\n");
    complain("server does not shut down");
    if mode == ShutdownMode::Smart {
        let _ = writeln!(
            io::stderr(),
            "HINT: The \"-m fast\" option immediately disconnects sessions rather than\n\
             waiting for session-initiated disconnection."
        );
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    use super::*;
    use crate::datadir::{DataDir, Status};

    /// A data directory, and a process that its pid file names.
    struct Server {
        root: tempfile::TempDir,
        dir: DataDir,
        child: Child,
    }

    fn server() -> Server {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&root.path().join("hub")).unwrap();
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        dir.pid_file().update(|lines| lines.pid = child.id()).unwrap();
        Server { root, dir, child }
    }

    /// Runs a command and returns its exit code and what it said.
    fn run(command: impl FnOnce(&mut Vec<u8>) -> ExitCode) -> (ExitCode, String) {
        let mut out = Vec::new();
        let code = command(&mut out);
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn status_answers_as_pg_ctl() {
        let Server { root, dir, mut child } = server();
        let path = dir.path().to_owned();
        dir.pid_file().set_listening(5433, "127.0.0.1", "").unwrap();
        dir.pid_file().set_status(Status::Standby).unwrap();
        let (code, text) = run(|out| status(&path, out));
        assert_eq!(code, ExitCode::SUCCESS);
        let pid = child.id();
        assert_eq!(
            text,
            format!(
                "walhub: server is running (PID: {pid})\nstatus: standby\nlisten address: 127.0.0.1, port 5433\n"
            )
        );
        drop(dir);
        let (code, text) = run(|out| status(&path, out));
        assert_eq!((code, text.as_str()), (ExitCode::from(3), "walhub: no server running\n"));
        for path in [root.path().join("none"), root.path().to_owned()] {
            assert_eq!(run(|out| status(&path, out)), (ExitCode::from(4), String::new()));
            assert_eq!(run(|out| reload(&path, out)), (ExitCode::FAILURE, String::new()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn stop_sends_the_signal_of_its_mode_and_waits_for_the_end() {
        for (mode, number) in
            [(ShutdownMode::Smart, 15), (ShutdownMode::Fast, 2), (ShutdownMode::Immediate, 3)]
        {
            let Server { root: _root, dir, mut child } = server();
            let path = dir.path().to_owned();
            // The lock is given back when the process has ended, as a server's would be.
            let waiter = std::thread::spawn(move || {
                let ended = child.wait().unwrap();
                drop(dir);
                ended.signal()
            });
            let (code, text) = run(|out| stop(&path, mode, Some(60), out));
            assert_eq!(code, ExitCode::SUCCESS);
            assert!(text.starts_with("waiting for server to shut down..."), "{text}");
            assert!(text.ends_with(" done\nserver stopped\n"), "{text}");
            assert_eq!(waiter.join().unwrap(), Some(number));
            assert_eq!(run(|out| stop(&path, mode, None, out)).0, ExitCode::FAILURE);
        }
    }

    #[test]
    fn stop_gives_up_after_its_timeout_or_does_not_wait() {
        let Server { root: _root, dir, mut child } = server();
        let (code, text) = run(|out| stop(dir.path(), ShutdownMode::Fast, Some(0), out));
        assert_eq!(
            (code, text.as_str()),
            (ExitCode::FAILURE, "waiting for server to shut down... failed\n")
        );
        child.wait().unwrap();
        let Server { root: _root, dir, mut child } = server();
        let (code, text) = run(|out| stop(dir.path(), ShutdownMode::Fast, None, out));
        assert_eq!((code, text.as_str()), (ExitCode::SUCCESS, "server shutting down\n"));
        child.wait().unwrap();
    }

    #[test]
    fn promote_leaves_the_file_signals_a_standby_and_waits_until_it_is_ready() {
        let Server { root, dir, mut child } = server();
        let path = dir.path().to_owned();
        // It has not said yet what it is, and then is a primary.
        for status in [None, Some(Status::Ready), Some(Status::Stopping)] {
            status.into_iter().for_each(|status| dir.pid_file().set_status(status).unwrap());
            assert_eq!(run(|out| promote(&path, None, out)), (ExitCode::FAILURE, String::new()));
            assert!(!path.join(PROMOTE_FILE).exists());
        }
        dir.pid_file().set_status(Status::Standby).unwrap();
        // This process ends of the signal, which a server does not.
        let (code, text) = run(|out| promote(&path, None, out));
        assert_eq!((code, text.as_str()), (ExitCode::SUCCESS, "server promoting\n"));
        assert_eq!(child.wait().unwrap().signal(), Some(10));
        assert!(dir.take_promote_file() && !dir.take_promote_file());
        drop(dir);
        let (code, text) = run(|out| promote(&path, Some(60), out));
        assert_eq!((code, text.as_str()), (ExitCode::FAILURE, ""));
        assert!(!path.join(PROMOTE_FILE).exists());
        let none = root.path().join("none");
        assert_eq!(run(|out| promote(&none, None, out)), (ExitCode::FAILURE, String::new()));
    }

    #[test]
    fn promote_waits_for_the_server_to_be_ready_but_not_forever() {
        let Server { root: _root, dir, mut child } = server();
        dir.pid_file().set_status(Status::Standby).unwrap();
        let (code, text) = run(|out| promote(dir.path(), Some(0), out));
        assert_eq!(
            (code, text.as_str()),
            (ExitCode::FAILURE, "waiting for server to promote... stopped waiting\n")
        );
        child.wait().unwrap();
        let Server { root: _root, dir, mut child } = server();
        dir.pid_file().set_status(Status::Standby).unwrap();
        let path = dir.path().to_owned();
        let waiter = std::thread::spawn(move || {
            child.wait().unwrap();
            dir.pid_file().set_status(Status::Ready).unwrap();
            dir
        });
        let (code, text) = run(|out| promote(&path, Some(60), out));
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(text.ends_with(" done\nserver promoted\n"), "{text}");
        waiter.join().unwrap();
    }

    #[test]
    fn reload_sends_sighup() {
        let Server { root: _root, dir, mut child } = server();
        let (code, text) = run(|out| reload(dir.path(), out));
        assert_eq!((code, text.as_str()), (ExitCode::SUCCESS, "server signaled\n"));
        assert_eq!(child.wait().unwrap().signal(), Some(1));
    }
}
