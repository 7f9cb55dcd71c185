//! From the startup packet to ReadyForQuery, over any stream.
//!
//! PostgreSQL: `build_startup_packet` (fe-protocol3.c), `PQconnectPoll` (fe-connect.c).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use walhub_proto::conninfo::{ConnInfo, REPLICATION_DATABASE, TargetSessionAttrs};
use walhub_proto::wire::error_response::ErrorResponse;
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Reader, decode_frame};

use super::auth::Authenticator;
use super::environment::Password;
use super::error::Cause;
use super::notices::Notices;
use super::tls::Channel;
use super::version::parse_server_version;

/// Longest message that a server may send before the session is ready.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// All that a server may send before the session is ready. PostgreSQL sends less than a kilobyte.
const STARTUP_BYTES_MAX: usize = 1 << 20;

/// First version that reports `in_hot_standby` and `default_transaction_read_only` by itself.
const REPORTS_HOT_STANDBY: u32 = 140_000;

/// A session that is ready for its first command.
pub(super) struct UpstreamSession {
    pub(super) server_version: String,
    pub(super) server_version_num: u32,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) unread: Vec<u8>,
}

/// What a session is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    Replication,
    Sql { database: &'a str },
}

impl<'a> Purpose<'a> {
    /// The database as the startup packet and password files have it.
    pub(super) const fn database(self) -> &'a str {
        match self {
            Self::Replication => REPLICATION_DATABASE,
            Self::Sql { database } => database,
        }
    }
}

/// Who asks, and for what.
pub(super) struct ConnectRequest<'a> {
    pub(super) conninfo: &'a ConnInfo,
    pub(super) purpose: Purpose<'a>,
    pub(super) application_name: &'a str,
    pub(super) password: Option<&'a Password>,
    /// Which session is wanted; weaker than conninfo's in the second pass of `prefer-standby`.
    pub(super) target: TargetSessionAttrs,
    /// How long each server may take.
    pub(super) timeout: Option<Duration>,
    /// Notices that were logged already.
    pub(super) notices: &'a Notices,
}

/// The next message, once all of it was received.
pub(super) fn take_message(
    received: &mut BytesMut,
    body_max: usize,
) -> Result<Option<(u8, BytesMut)>, Cause> {
    let frame = decode_frame(received, body_max).map_err(Cause::malformed)?;
    Ok(frame.map(|frame| (frame.kind, frame.len)).map(|(kind, len)| {
        let mut message = received.split_to(len);
        message.advance(FRAME_HEADER_LEN);
        (kind, message)
    }))
}

struct Connection<'a, S> {
    stream: &'a mut S,
    notices: &'a Notices,
    received: BytesMut,
    received_bytes: usize,
    authenticated: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn send(&mut self, bytes: &mut BytesMut) -> Result<(), Cause> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        bytes.clear();
        Ok(())
    }

    /// The next message; errors and notices are dealt with here.
    async fn receive(&mut self) -> Result<(u8, BytesMut), Cause> {
        loop {
            if let Some((kind, message)) = take_message(&mut self.received, MESSAGE_BYTES_MAX)? {
                match kind {
                    b'E' => {
                        let error = ErrorResponse::decode(&message).map_err(Cause::malformed)?;
                        return Err(Cause::Server {
                            error: Box::new(error),
                            passfile: None,
                            authenticated: self.authenticated,
                        });
                    }
                    b'N' => {
                        let notice = ErrorResponse::decode(&message).map_err(Cause::malformed)?;
                        self.notices.log(&format!("{notice:#}"));
                    }
                    _ => return Ok((kind, message)),
                }
            } else if self.received_bytes > STARTUP_BYTES_MAX {
                return Err(Cause::Refused(format!(
                    "too much data from server: more than {STARTUP_BYTES_MAX} bytes before the session \
                     was ready"
                )));
            } else {
                let count = self.stream.read_buf(&mut self.received).await?;
                if count == 0 {
                    return Err(Cause::Closed);
                }
                self.received_bytes += count;
            }
        }
    }
}

/// Starts the session.
pub(super) async fn start<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    channel: &Channel,
    request: &ConnectRequest<'_>,
) -> Result<UpstreamSession, Cause> {
    let mut connection = Connection {
        stream,
        notices: request.notices,
        received: BytesMut::with_capacity(8 << 10),
        received_bytes: 0,
        authenticated: false,
    };
    let mut out = BytesMut::new();
    frontend::startup_message(startup_parameters(request), &mut out)?;
    connection.send(&mut out).await?;
    authenticate(&mut connection, channel, request).await?;
    connection.authenticated = true;
    let parameters = receive_parameters(&mut connection).await?;
    check_target(&mut connection, &parameters, request.target).await?;
    let server_version = parameters.get("server_version").cloned().unwrap_or_default();
    let server_version_num = parse_server_version(&server_version).ok_or_else(|| {
        Cause::Refused(format!("unrecognized server_version \"{server_version}\" from server"))
    })?;
    let unread = connection.received.to_vec();
    Ok(UpstreamSession { server_version, server_version_num, parameters, unread })
}

fn startup_parameters<'a>(request: &'a ConnectRequest<'_>) -> Vec<(&'static str, &'a str)> {
    let conninfo = request.conninfo;
    let mut parameters =
        vec![("user", conninfo.user.as_str()), ("database", request.purpose.database())];
    if let Purpose::Replication = request.purpose {
        parameters.push(("replication", "true"));
    }
    parameters.extend(conninfo.options.as_deref().map(|options| ("options", options)));
    parameters.push(("application_name", request.application_name));
    match request.purpose {
        Purpose::Replication => {
            let encoding = conninfo.client_encoding.as_deref();
            parameters.extend(encoding.map(|encoding| ("client_encoding", encoding)));
        }
        // Answers are read by us, whatever role, database and options of the connection string prefer.
        Purpose::Sql { .. } => {
            parameters.extend([
                ("client_encoding", "UTF8"),
                ("DateStyle", "ISO"),
                ("TimeZone", "UTC"),
            ]);
        }
    }
    parameters
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<'_, S>,
    channel: &Channel,
    request: &ConnectRequest<'_>,
) -> Result<(), Cause> {
    let password = request.password.map(|password| password.text.as_str());
    let mut authenticator = Authenticator::new(request.conninfo, password, channel);
    let mut out = BytesMut::new();
    loop {
        let message = connection.receive().await.map_err(|cause| match cause {
            // Says where a wrong password came from. PostgreSQL: pgpassfileWarning.
            Cause::Server { error, .. }
                if authenticator.password_used && error.sqlstate == "28P01" =>
            {
                let passfile: Option<PathBuf> =
                    request.password.and_then(|password| password.file.clone());
                Cause::Server { error, passfile, authenticated: false }
            }
            other => other,
        });
        let (kind, body) = message?;
        if kind != b'R' {
            return Err(Cause::Refused(format!(
                "expected authentication request from server, but received {}",
                char::from(kind)
            )));
        }
        if authenticator.handle_request(&body, &mut out)? {
            return Ok(());
        }
        if !out.is_empty() {
            connection.send(&mut out).await?;
        }
    }
}

async fn receive_parameters<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<'_, S>,
) -> Result<BTreeMap<String, String>, Cause> {
    let mut parameters = BTreeMap::new();
    loop {
        let (kind, body) = connection.receive().await?;
        match kind {
            b'S' => {
                let mut reader = Reader::new(&body);
                let name = reader.cstr_bytes().map_err(Cause::malformed)?;
                let value = reader.cstr_bytes().map_err(Cause::malformed)?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                parameters.insert(text(name), text(value));
            }
            // A key to cancel queries with: a walreceiver has none to cancel.
            b'K' => {}
            b'Z' => return Ok(parameters),
            other => return Err(unexpected(other)),
        }
    }
}

fn unexpected(kind: u8) -> Cause {
    Cause::Refused(format!(
        "unexpected response from server; received \"{}\" during startup",
        char::from(kind).escape_default()
    ))
}

/// Whether this is the session that `target_session_attrs` asks for.
///
/// As libpq: servers since 14 say so by themselves. An older one is asked with SHOW, which is also a
/// replication command, for `read-write` and `read-only`; for the others libpq would have to run
/// `SELECT pg_is_in_recovery()`, which a physical replication connection cannot.
async fn check_target<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<'_, S>,
    parameters: &BTreeMap<String, String>,
    target: TargetSessionAttrs,
) -> Result<(), Cause> {
    let version = parameters.get("server_version").and_then(|text| parse_server_version(text));
    let on = |name: &str| parameters.get(name).map(|value| value == "on");
    let reports = version.is_some_and(|version| version >= REPORTS_HOT_STANDBY);
    match target {
        TargetSessionAttrs::Any => Ok(()),
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::ReadOnly => {
            let reported = (on("default_transaction_read_only"), on("in_hot_standby"));
            let read_only = match reported {
                (Some(read_only), Some(standby)) if reports => read_only || standby,
                _ => show_transaction_read_only(connection).await?,
            };
            match (target == TargetSessionAttrs::ReadOnly, read_only) {
                (false, true) => Err(Cause::Unwanted("session is read-only")),
                (true, false) => Err(Cause::Unwanted("session is not read-only")),
                (true, true) | (false, false) => Ok(()),
            }
        }
        TargetSessionAttrs::Primary
        | TargetSessionAttrs::Standby
        | TargetSessionAttrs::PreferStandby => {
            let Some(standby) = on("in_hot_standby").filter(|_| reports) else {
                return Err(Cause::Unwanted("\"SELECT pg_is_in_recovery()\" failed"));
            };
            match (target == TargetSessionAttrs::Primary, standby) {
                (true, true) => Err(Cause::Unwanted("server is in hot standby mode")),
                (false, false) => Err(Cause::Unwanted("server is not in hot standby mode")),
                (true, false) | (false, true) => Ok(()),
            }
        }
    }
}

async fn show_transaction_read_only<S: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<'_, S>,
) -> Result<bool, Cause> {
    let mut out = BytesMut::new();
    frontend::query("SHOW transaction_read_only", &mut out)?;
    connection.send(&mut out).await?;
    let mut read_only = None;
    loop {
        let (kind, body) = connection.receive().await?;
        match kind {
            b'D' => {
                let mut reader = Reader::new(&body);
                reader.u16().and_then(|_| reader.u32()).map_err(Cause::malformed)?;
                read_only = Some(reader.rest().starts_with(b"on"));
            }
            b'T' | b'C' | b'S' => {}
            b'Z' => {
                return read_only.ok_or(Cause::Unwanted("\"SHOW transaction_read_only\" failed"));
            }
            other => return Err(unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use walhub_proto::conninfo::Environment;
    use walhub_proto::sqlstate::SqlState;
    use walhub_proto::wire::backend::{Column, ColumnType, Encoder, Report, Severity};

    use super::*;

    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

    /// Starts a session with a server that says `transcript` and closes.
    fn start_with(transcript: &[u8], options: &str) -> Result<UpstreamSession, String> {
        let environment = Environment {
            variable: &|_| None,
            read_file: &|_| None,
            os_user: Some("u"),
            home: None,
        };
        let conninfo = ConnInfo::parse(options, &environment).unwrap();
        let target = conninfo.target_session_attrs;
        let password = conninfo.password.clone().map(|text| Password { text, file: None });
        let notices = Notices::default();
        let request = ConnectRequest {
            conninfo: &conninfo,
            purpose: Purpose::Replication,
            application_name: "walhub",
            password: password.as_ref(),
            target,
            timeout: None,
            notices: &notices,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(4 << 20);
            let (mut reader, mut writer) = tokio::io::split(theirs);
            writer.write_all(transcript).await.unwrap();
            writer.shutdown().await.unwrap();
            let result = start(&mut ours, &Channel::Plain, &request).await;
            drop(ours);
            let mut sent = Vec::new();
            reader.read_to_end(&mut sent).await.unwrap();
            assert!(sent.windows(17).any(|window| window == b"replication\0true\0"));
            result.map_err(|cause| super::super::Failure { target: None, cause }.to_string())
        })
    }

    fn ready(version: &str, more: impl FnOnce(&mut Encoder)) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.authentication_ok();
        encoder.parameter_status("server_version", version);
        encoder.backend_key_data(1, &[0; 4]).ready_for_query(b'I');
        more(&mut encoder);
        encoder.take()
    }

    #[test]
    fn every_prefix_of_a_good_start_is_a_closed_connection() {
        let good = ready("13.4", |_| ());
        for cut in 0..good.len() {
            let error = start_with(&good[..cut], "").err().unwrap();
            assert!(error.starts_with("server closed the connection unexpectedly"), "{error}");
        }
        let session = start_with(&[good.as_slice(), b"more"].concat(), "").unwrap();
        assert_eq!(session.unread, b"more");
        assert_eq!(session.parameters["server_version"], "13.4");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (transcript, want) in [
            (&b"Z\0\0\0\x05I"[..], "expected authentication request from server, but received Z"),
            (b"R\0\0\0\x03", "lost synchronization with server: invalid message length"),
            (b"R\0\xff\0\0", "lost synchronization with server: invalid message length"),
            (b"R\0\0\0\x08\0\0\0\x07", "GSSAPI authentication not supported"),
            (b"R\0\0\0\x08\0\0\0\x09", "SSPI authentication not supported"),
            (b"R\0\0\0\x08\0\0\0\x63", "authentication method 99 not supported"),
            (b"R\0\0\0\x08\0\0\0\x0b", "invalid SASL authentication state"),
            (
                b"R\0\0\0\x13\0\0\0\x0aSCRAM-NEW\0\0",
                "none of the server's SASL authentication mechanisms are supported",
            ),
            (
                b"R\0\0\0\x1c\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0",
                "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
            ),
            (
                b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0",
                "AuthenticationOk received from server, but SASL authentication was not completed",
            ),
            (
                b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x0a\0\0\0\x0cv=",
                "incorrect server signature",
            ),
        ] {
            assert_eq!(start_with(transcript, "password=x").err().as_deref(), Some(want));
        }
    }

    #[test]
    fn a_flood_of_notices_before_authentication_has_an_end() {
        let notice = Report::new(Severity::Notice, SqlState::WARNING, "n".repeat(1 << 10));
        let flood = Encoder::new().report(&notice).take().repeat(2 << 10);
        assert_eq!(
            start_with(&flood, "").err().as_deref(),
            Some("too much data from server: more than 1048576 bytes before the session was ready")
        );
        // As many as are no flood are no hindrance.
        let few = Encoder::new().report(&notice).take().repeat(100);
        assert!(start_with(&[few, ready("13.4", |_| ())].concat(), "").is_ok());
    }

    #[test]
    fn a_message_of_a_server_is_cut_where_it_is_longer_than_anybody_reads() {
        let report = Report::fatal(SqlState::CANNOT_CONNECT_NOW, "m".repeat(60_000));
        let error = start_with(&Encoder::new().report(&report).take(), "").err().unwrap();
        assert_eq!(error.len(), "FATAL:  ...".len() + 4096);
    }

    #[test]
    fn an_error_after_authentication_says_so() {
        let mut encoder = Encoder::new();
        encoder.report(&Report::fatal(SqlState::CANNOT_CONNECT_NOW, "no").detail("d").hint("h"));
        let error = start_with(&[OK, encoder.bytes()].concat(), "").err().unwrap();
        assert_eq!(error, "FATAL:  no\nDETAIL:  d\nHINT:  h");
    }

    #[test]
    fn the_severity_of_a_server_that_speaks_another_language_is_not_translated() {
        // What PostgreSQL 15 says with lc_messages = de_DE.UTF-8.
        let body = b"SSCHWERWIEGEND\0VFATAL\0C57P03\0Mdas Datenbanksystem startet\0\0";
        let mut encoder = Encoder::new();
        encoder.frame(b'E', |buf| buf.extend_from_slice(body));
        let error = start_with(encoder.bytes(), "").err().unwrap();
        assert_eq!(error, "FATAL:  das Datenbanksystem startet");
    }

    #[test]
    fn a_server_before_14_is_asked_what_can_be_asked() {
        let answer = |value: &'static str| {
            ready("13.4", |encoder| {
                let column = Column::text("transaction_read_only", ColumnType::TEXT);
                encoder.row_description(&[column]).data_row(&[Some(value)]);
                encoder.command_complete("SHOW").ready_for_query(b'I');
            })
        };
        let outcome = |value, attrs: &str| {
            start_with(&answer(value), &format!("target_session_attrs={attrs}")).map(|_| ())
        };
        assert_eq!(outcome("off", "read-write"), Ok(()));
        assert_eq!(outcome("on", "read-only"), Ok(()));
        assert_eq!(outcome("on", "read-write"), Err("session is read-only".into()));
        assert_eq!(outcome("off", "read-only"), Err("session is not read-only".into()));
        assert_eq!(outcome("on", "standby"), Err("\"SELECT pg_is_in_recovery()\" failed".into()));
    }
}
