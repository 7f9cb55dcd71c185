//! Why there is no connection, in libpq's words.

use std::fmt;
use std::io;
use std::path::PathBuf;

use walhub_proto::wire::error_response::ErrorResponse;
use walhub_proto::wire::reader::Malformed;

use crate::strerror::strerror;

/// A server that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TriedServer {
    /// One that listens on TCP.
    Tcp {
        /// As the connection string names it.
        host: String,
        /// Its address, where it is not the name.
        address: Option<String>,
        /// The port that was tried.
        port: u16,
    },
    /// One that listens on a Unix socket.
    Socket {
        /// Path of the socket.
        path: String,
    },
}

/// What went wrong with one server.
#[derive(Debug)]
pub enum Cause {
    /// Nobody answers there.
    Connect(io::Error),
    /// The host's name has no address.
    Lookup {
        /// The name that was looked up.
        host: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// `connect_timeout` passed.
    Timeout,
    /// The server closed the connection without a word.
    Closed,
    /// The connection broke.
    Io(io::Error),
    /// The server refused.
    Server {
        /// What it said.
        error: Box<ErrorResponse>,
        /// Where the password that it refused came from.
        passfile: Option<PathBuf>,
        /// Whether it had accepted who we are: then no other way to connect would help.
        authenticated: bool,
    },
    /// TLS failed; the text is libpq's where libpq has one.
    Tls(String),
    /// This side refused: authentication, options, or a message that makes no sense.
    Refused(String),
    /// The session is not the one that `target_session_attrs` asks for.
    Unwanted(&'static str),
}

impl Cause {
    /// For a message that cannot be decoded.
    pub(super) fn malformed(error: Malformed) -> Self {
        Self::Refused(format!("lost synchronization with server: {error}"))
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// One server that could not be used, and why.
#[derive(Debug)]
pub struct Failure {
    /// The server; `None` before an address was known.
    pub target: Option<TriedServer>,
    /// Why it could not be used.
    pub cause: Cause,
}

/// Every server that was tried.
#[derive(Debug)]
pub struct ConnectError {
    /// In the order in which they were tried; never empty.
    pub failures: Vec<Failure>,
}

impl ConnectError {
    /// Whether somebody was there and one of us refused: for who we are, for its certificate, or because it
    /// speaks another language. A server that is coming or going, or not the one that is wanted, may be the
    /// right one a moment later.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.failures.last().is_some_and(|failure| match &failure.cause {
            // invalid_authorization_specification
            Cause::Server { error, .. } => error.sqlstate.starts_with("28"),
            Cause::Tls(_) | Cause::Refused(_) => true,
            Cause::Connect(_)
            | Cause::Lookup { .. }
            | Cause::Timeout
            | Cause::Closed
            | Cause::Io(_)
            | Cause::Unwanted(_) => false,
        })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.failures.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            failure.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Some(TriedServer::Tcp { host, address: Some(address), port }) => {
                write!(f, "connection to server at \"{host}\" ({address}), port {port} failed: ")?;
            }
            Some(TriedServer::Tcp { host, address: None, port }) => {
                write!(f, "connection to server at \"{host}\", port {port} failed: ")?;
            }
            Some(TriedServer::Socket { path }) => {
                write!(f, "connection to server on socket \"{path}\" failed: ")?;
            }
            None => {}
        }
        let local = matches!(self.target, Some(TriedServer::Socket { .. }));
        match &self.cause {
            Cause::Connect(error) => {
                let hint = if local {
                    "Is the server running locally and accepting connections on that socket?"
                } else {
                    "Is the server running on that host and accepting TCP/IP connections?"
                };
                write!(f, "{}\n\t{hint}", strerror(error))
            }
            Cause::Lookup { host, error } => {
                let text = strerror(error);
                let text = text.trim_start_matches("failed to lookup address information: ");
                write!(f, "could not translate host name \"{host}\" to address: {text}")
            }
            Cause::Timeout => f.write_str("timeout expired"),
            Cause::Closed => f.write_str(
                "server closed the connection unexpectedly\n\tThis probably means the server \
                 terminated abnormally\n\tbefore or while processing the request.",
            ),
            Cause::Io(error) => {
                write!(f, "could not receive data from server: {}", strerror(error))
            }
            Cause::Server { error, passfile: None, .. } => write!(f, "{error:#}"),
            Cause::Server { error, passfile: Some(file), .. } => {
                write!(f, "{error:#}\npassword retrieved from file \"{}\"", file.display())
            }
            Cause::Tls(text) | Cause::Refused(text) => f.write_str(text),
            Cause::Unwanted(text) => f.write_str(text),
        }
    }
}
