//! A SQL session with a server: one statement with one parameter at a time.
//!
//! PostgreSQL: `PQexecParams` (src/interfaces/libpq/fe-exec.c).

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use walhub_proto::convert;
use walhub_proto::wire::error_response::ErrorResponse;
use walhub_proto::wire::reader::{Malformed, Reader};

use super::Stream;
use super::error::Cause;
use super::startup::{UpstreamSession, take_message};

/// Longest message of an answer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Most that the rows of one answer may have in all.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A row, by its columns: names, and values as text.
pub type Row = Vec<(String, Option<String>)>;

/// A session that takes one statement after the other.
pub struct SqlSession {
    stream: Box<dyn ReadWrite>,
    received: BytesMut,
}

impl SqlSession {
    pub(super) fn new(stream: Stream, session: UpstreamSession) -> Self {
        let stream: Box<dyn ReadWrite> = match stream {
            Stream::Tcp(stream) => Box::new(stream),
            Stream::Unix(stream) => Box::new(stream),
            Stream::Tls(stream) => stream,
        };
        Self { stream, received: BytesMut::from(session.unread.as_slice()) }
    }

    /// Runs a statement with `$1`, if it has one, and returns its rows.
    ///
    /// # Errors
    /// The server's, and when the connection breaks or its answer makes no sense.
    pub async fn query(&mut self, sql: &str, parameters: &[&str]) -> Result<Vec<Row>, Cause> {
        let mut out = BytesMut::new();
        frontend::parse("", sql, [], &mut out)?;
        let value = |value: &&str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        frontend::bind("", "", [], parameters, value, [], &mut out)
            .map_err(|_| Cause::Refused("the parameter of a statement is too long".into()))?;
        frontend::describe(b'P', "", &mut out)?;
        frontend::execute("", 0, &mut out)?;
        frontend::sync(&mut out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Vec<Row>, Cause> {
        let (mut names, mut rows, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut failure = None;
        loop {
            let (kind, body) = self.receive().await?;
            match kind {
                b'T' => names = columns(&body).map_err(Cause::malformed)?,
                b'D' => {
                    bytes += body.len();
                    if bytes > ANSWER_BYTES_MAX {
                        let message = format!(
                            "too much data from server: the answer has more than {ANSWER_BYTES_MAX} bytes"
                        );
                        return Err(Cause::Refused(message));
                    }
                    rows.push(row(&names, &body).map_err(Cause::malformed)?);
                }
                b'E' => failure = Some(ErrorResponse::decode(&body).map_err(Cause::malformed)?),
                b'Z' => {
                    return match failure {
                        None => Ok(rows),
                        Some(error) => Err(Cause::Server {
                            error: Box::new(error),
                            passfile: None,
                            authenticated: true,
                        }),
                    };
                }
                // ParseComplete, BindComplete, NoData, CommandComplete, EmptyQueryResponse, notices,
                // ParameterStatus, notifications.
                b'1' | b'2' | b'n' | b'C' | b'I' | b'N' | b'S' | b'A' => {}
                other => {
                    return Err(Cause::Refused(format!(
                        "unexpected response from server; received \"{}\" during a query",
                        char::from(other).escape_default()
                    )));
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<(u8, BytesMut), Cause> {
        loop {
            if let Some(message) = take_message(&mut self.received, MESSAGE_BYTES_MAX)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Cause::Closed);
            }
        }
    }
}

/// The names in a RowDescription.
fn columns(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.u16()?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(String::from_utf8_lossy(reader.cstr_bytes()?).into_owned());
        // Table, column, type, size, modifier, format.
        reader.take(4 + 2 + 4 + 2 + 4 + 2)?;
    }
    Ok(names)
}

/// The values of a DataRow.
fn row(names: &[String], body: &[u8]) -> Result<Row, Malformed> {
    let mut reader = Reader::new(body);
    reader.u16()?;
    let mut row = Vec::new();
    for name in names {
        // The length of NULL is -1.
        let value = match reader.u32()? {
            u32::MAX => None,
            len => {
                let value = reader.take(convert::to_usize(len.into()))?;
                Some(String::from_utf8_lossy(value).into_owned())
            }
        };
        row.push((name.clone(), value));
    }
    Ok(row)
}

trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for S {}
