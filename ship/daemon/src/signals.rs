//! Signals, with the meanings they have for a postmaster.
//!
//! PostgreSQL: `process_pm_shutdown_request`, `process_pm_reload_request`, `process_pm_pmsignal`
//! (src/backend/postmaster/postmaster.c).

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// How a server stops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum ShutdownMode {
    /// Quit after all clients have disconnected (SIGTERM).
    Smart,
    /// Quit directly, with proper shutdown (SIGINT).
    Fast,
    /// Quit without complete shutdown; will lead to recovery on restart (SIGQUIT).
    Immediate,
}

impl ShutdownMode {
    /// The signal that asks for it.
    #[must_use]
    pub const fn signal(self) -> Number {
        match self {
            Self::Smart => Number::TERM,
            Self::Fast => Number::INT,
            Self::Immediate => Number::QUIT,
        }
    }

    /// PostgreSQL's log line for it.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Smart => "received smart shutdown request",
            Self::Fast => "received fast shutdown request",
            Self::Immediate => "received immediate shutdown request",
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerRequest {
    /// Stop (SIGTERM, SIGINT, SIGQUIT).
    Shutdown(ShutdownMode),
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Become a primary, if the file that asks for it is there (SIGUSR1).
    Promote,
}

/// The signals of this process.
#[derive(Debug)]
pub struct Signals {
    term: Stream,
    int: Stream,
    quit: Stream,
    hup: Stream,
    usr1: Stream,
}

impl Signals {
    /// Takes the signals over from their default action. Must be called inside a tokio runtime, the
    /// control plane's.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next request; of several that wait, the most urgent. May be dropped without losing one.
    pub async fn next(&mut self) -> ServerRequest {
        tokio::select! {
            biased;
            _ = self.quit.recv() => ServerRequest::Shutdown(ShutdownMode::Immediate),
            _ = self.int.recv() => ServerRequest::Shutdown(ShutdownMode::Fast),
            _ = self.term.recv() => ServerRequest::Shutdown(ShutdownMode::Smart),
            _ = self.hup.recv() => ServerRequest::Reload,
            _ = self.usr1.recv() => ServerRequest::Promote,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_asks_what_it_asks_of_a_postmaster() {
        tokio_uring::start(async {
            let mut signals = Signals::install().unwrap();
            let me = rustix::process::getpid();
            for (number, want) in [
                (Number::HUP, ServerRequest::Reload),
                (Number::USR1, ServerRequest::Promote),
                (ShutdownMode::Smart.signal(), ServerRequest::Shutdown(ShutdownMode::Smart)),
                (ShutdownMode::Fast.signal(), ServerRequest::Shutdown(ShutdownMode::Fast)),
                (
                    ShutdownMode::Immediate.signal(),
                    ServerRequest::Shutdown(ShutdownMode::Immediate),
                ),
            ] {
                rustix::process::kill_process(me, number).unwrap();
                assert_eq!(signals.next().await, want);
            }
        });
    }
}
