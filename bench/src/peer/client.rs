//! A small blocking client: enough to ask a server something and to start replication.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use walhub_proto::wire::reader::Reader;

/// How long a server may take to accept a connection after its start.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// PostgreSQL: `PG_PROTOCOL(3, 0)`.
const PROTOCOL_3: u32 = 196_608;

/// Rows of text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection that is ready for a query.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects as user postgres.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn connect(port: u16, parameters: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut packet = PROTOCOL_3.to_be_bytes().to_vec();
        for (name, value) in [("user", "postgres")].iter().chain(parameters) {
            for text in [name, value] {
                packet.extend_from_slice(text.as_bytes());
                packet.push(0);
            }
        }
        packet.push(0);
        let mut client = Self { reader: BufReader::new(stream) };
        client.send(None, &packet)?;
        client.answer()?;
        Ok(client)
    }

    /// Connects for physical replication.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn replication(port: u16, application_name: &str) -> Result<Self> {
        Self::connect(port, &[("replication", "true"), ("application_name", application_name)])
    }

    /// Connects to the database postgres once the server lets it.
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
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
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
    pub fn send_encoded(&mut self, messages: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(messages)?)
    }

    /// Reads up to ReadyForQuery; returns how many statements were completed.
    ///
    /// # Errors
    /// The server's error.
    pub fn completed(&mut self) -> Result<usize> {
        let (mut count, mut body) = (0, Vec::new());
        loop {
            match self.message_into(&mut body)? {
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
        match self.message()? {
            (b'G', _) => {}
            (b'E', body) => bail!("{sql}: {}", error_text(&body)),
            (kind, _) => bail!("{sql}: a message of type {kind}"),
        }
        self.send_encoded(messages)?;
        self.send(Some(b'c'), &[])?;
        self.completed().map(drop)
    }

    /// Starts replication; the socket begins with the first message of the stream.
    ///
    /// # Errors
    /// The server's error.
    pub fn start_replication(mut self, command: &str) -> Result<(TcpStream, Vec<u8>)> {
        self.send_query(command)?;
        loop {
            match self.message()? {
                (b'W', _) => break,
                (b'E', body) => bail!("{command}: {}", error_text(&body)),
                _ => {}
            }
        }
        let unread = self.reader.buffer().to_vec();
        Ok((self.reader.into_inner(), unread))
    }

    fn send_query(&mut self, sql: &str) -> Result<()> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        Ok(self.reader.get_mut().write_all(&message)?)
    }

    /// Rows up to ReadyForQuery.
    fn answer(&mut self) -> Result<Rows> {
        let mut rows = Rows::new();
        let mut error = None;
        loop {
            match self.message()? {
                (b'Z', _) => return error.map_or(Ok(rows), |text| bail!("{text}")),
                (b'R', body) if body != [0; 4] => bail!("the server wants a password"),
                (b'E', body) => {
                    let text = error_text(&body);
                    // After a FATAL there is no ReadyForQuery.
                    if text.starts_with("FATAL") {
                        bail!("{text}");
                    }
                    error = Some(text);
                }
                (b'D', body) => rows.push(row(&body).context("a malformed row")?),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut body = Vec::new();
        Ok((self.message_into(&mut body)?, body))
    }

    /// Reads one message; returns its type.
    fn message_into(&mut self, body: &mut Vec<u8>) -> Result<u8> {
        let mut head = [0; 5];
        self.reader.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length))?.saturating_sub(4);
        body.resize(length, 0);
        self.reader.read_exact(body)?;
        Ok(kind)
    }
}

fn row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let mut reader = Reader::new(body);
    let columns = reader.u16().ok()?;
    let mut row = Vec::new();
    for _ in 0..columns {
        let length = reader.u32().ok()?;
        row.push(match length {
            u32::MAX => None,
            length => {
                let bytes = reader.take(usize::try_from(length).ok()?).ok()?;
                Some(String::from_utf8_lossy(bytes).into_owned())
            }
        });
    }
    Some(row)
}

/// A message as it goes over the wire.
#[must_use]
pub fn encoded(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![kind];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// Severity and message of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let mut fields = body.split(|&byte| byte == 0);
    let mut field = |code: u8| {
        let found = fields.find_map(|field| field.strip_prefix(&[code]));
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    };
    let (severity, message) = (field(b'S'), field(b'M'));
    format!("{severity}: {message}")
}
