//! A small blocking client: enough to ask a server something and to start replication.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use walhub_proto::wire::backend::Encoder;
use walhub_proto::wire::copy::COPY_DONE_MESSAGE;
use walhub_proto::wire::error_response::ErrorResponse;
use walhub_proto::wire::reader::{Malformed, Reader};
use walhub_proto::wire::startup;

use crate::connection::Connection;
use crate::endpoint::Endpoint;

/// How long a server may take to accept a connection after its start.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two attempts to connect: nothing tells when a server lets somebody in.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows of text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection that is ready for a query.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects as user postgres.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn connect(to: impl Into<Endpoint>, parameters: &[(&str, &str)]) -> Result<Self> {
        let socket = TcpStream::connect(SocketAddrV4::from(to.into()))?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut client = Self { connection: Connection::new(socket)? };
        let parameters = [&[("user", "postgres")], parameters].concat();
        client.send_encoded(&startup::encode(&parameters))?;
        client.answer()?;
        Ok(client)
    }

    /// Connects to the database postgres.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn database(to: impl Into<Endpoint>) -> Result<Self> {
        Self::connect(to, &[("database", "postgres")])
    }

    /// Connects for physical replication.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn replication(to: impl Into<Endpoint>, application_name: &str) -> Result<Self> {
        Self::connect(to, &[("replication", "true"), ("application_name", application_name)])
    }

    /// Connects once the server lets it.
    ///
    /// # Errors
    /// What `check` says in between, or the last refusal after a while.
    pub fn wait(
        mut connect: impl FnMut() -> Result<Self>,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let began = Instant::now();
        loop {
            check()?;
            match connect() {
                Ok(client) => return Ok(client),
                Err(error) if began.elapsed() > READY_TIMEOUT => return Err(error),
                Err(_) => std::thread::sleep(RETRY_INTERVAL),
            }
        }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// The server's error.
    pub fn query(&mut self, sql: &str) -> Result<Rows> {
        self.send_query(sql)?;
        self.answer()
    }

    /// The only value of the only row.
    ///
    /// # Errors
    /// The server's error, or that there is none.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        rows.into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .with_context(|| format!("no row: {sql}"))
    }

    /// Sends messages that were encoded before.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send_encoded(&mut self, messages: &[u8]) -> io::Result<()> {
        self.connection.send(messages)
    }

    /// Reads up to ReadyForQuery; returns how many statements were completed.
    ///
    /// # Errors
    /// The server's error.
    pub fn completed(&mut self) -> Result<usize> {
        let (mut count, mut body) = (0, Vec::new());
        loop {
            match self.connection.receive(&mut body)? {
                b'Z' => return Ok(count),
                b'C' => count += 1,
                b'E' => bail!("{}", error_text(&body)),
                _ => {}
            }
        }
    }

    /// Runs COPY ... FROM STDIN with rows that were put into CopyData messages before.
    ///
    /// # Errors
    /// The server's error.
    pub fn copy_in(&mut self, sql: &str, messages: &[u8]) -> Result<()> {
        self.send_query(sql)?;
        let mut body = Vec::new();
        match self.connection.receive(&mut body)? {
            b'G' => {}
            b'E' => bail!("{sql}: {}", error_text(&body)),
            kind => bail!("{sql}: a message of type {kind}"),
        }
        self.send_encoded(messages)?;
        self.send_encoded(&COPY_DONE_MESSAGE)?;
        self.completed().map(drop)
    }

    /// Starts replication; the socket begins with the first message of the stream.
    ///
    /// # Errors
    /// The server's error.
    pub fn start_replication(mut self, command: &str) -> Result<(TcpStream, Vec<u8>)> {
        self.send_query(command)?;
        let mut body = Vec::new();
        loop {
            match self.connection.receive(&mut body)? {
                b'W' => return Ok(self.connection.into_parts()),
                b'E' => bail!("{command}: {}", error_text(&body)),
                _ => {}
            }
        }
    }

    /// The socket, before the first command.
    #[must_use]
    pub fn into_socket(self) -> TcpStream {
        self.connection.into_parts().0
    }

    fn send_query(&mut self, sql: &str) -> Result<()> {
        let mut query = Encoder::new();
        query.frame(b'Q', |body| body.extend_from_slice(&[sql.as_bytes(), b"\0"].concat()));
        Ok(self.send_encoded(query.bytes())?)
    }

    /// Rows up to ReadyForQuery.
    fn answer(&mut self) -> Result<Rows> {
        let (mut rows, mut body) = (Rows::new(), Vec::new());
        let mut error = None;
        loop {
            match self.connection.receive(&mut body)? {
                b'Z' => return error.map_or(Ok(rows), |text| bail!("{text}")),
                b'R' if body != [0; 4] => bail!("the server wants a password"),
                b'E' => {
                    let text = error_text(&body);
                    // After a FATAL there is no ReadyForQuery.
                    if text.starts_with("FATAL") {
                        bail!("{text}");
                    }
                    error = Some(text);
                }
                b'D' => rows.push(row(&body).map_err(anyhow::Error::msg)?),
                _ => {}
            }
        }
    }
}

fn row(body: &[u8]) -> Result<Vec<Option<String>>, Malformed> {
    let mut reader = Reader::new(body);
    let columns = reader.u16()?;
    let value = |_| {
        // -1 is NULL.
        let Ok(length) = usize::try_from(reader.i32()?) else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(reader.take(length)?).into_owned()))
    };
    (0..columns).map(value).collect()
}

/// Severity and message of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    match ErrorResponse::decode(body) {
        Ok(error) => format!("{}: {}", error.severity, error.message),
        Err(error) => format!("an error that cannot be read: {error}"),
    }
}
