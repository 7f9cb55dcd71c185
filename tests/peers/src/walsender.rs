//! The server side of physical replication, for whoever has WAL to send.
//!
//! A [`WalServer`] listens on loopback, trusts everyone, and answers what walhub, pg_receivewal and
//! standbys ask before they stream. What it sends, and how fast, is its [`WalSource`]'s part.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use walhub_proto::command::{self, Command};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::segment::SegmentSize;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Column, ColumnType, Encoder, Report};
use walhub_proto::wire::copy::COPY_DONE_MESSAGE;
use walhub_proto::wire::reader::Reader;
use walhub_proto::wire::startup::{self, FirstPacket, STARTUP_PACKET_BYTES_MAX};

use crate::connection::Connection;

/// Whose WAL it is, and how far it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    /// The cluster that wrote it.
    pub system_identifier: SystemIdentifier,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// Which PostgreSQL could have written it.
    pub version: WalVersion,
    /// End of what there is.
    pub flush_lsn: Lsn,
}

/// WAL, and how it is sent.
pub trait WalSource: Send + Sync + 'static {
    /// What it says of itself now.
    fn describe(&self) -> Description;

    /// Whether it can be sent from `start` on.
    fn has(&self, start: Lsn) -> bool;

    /// Sends WAL from `start` on, after CopyBothResponse, until the receiver ends the stream; then
    /// the session goes on.
    ///
    /// # Errors
    /// When the session is over, for whatever reason.
    fn send(&self, connection: &mut Connection, start: Lsn) -> io::Result<()>;
}

/// A server of replication on a port of its own; it ends, and its sessions, when dropped.
#[derive(Debug)]
pub struct WalServer {
    address: SocketAddr,
    sessions: Arc<Sessions>,
}

/// The socket of every session; `None` once the server has ended.
#[derive(Debug)]
struct Sessions(Mutex<Option<BTreeMap<usize, TcpStream>>>);

impl Sessions {
    fn with<T>(&self, act: impl FnOnce(&mut Option<BTreeMap<usize, TcpStream>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WalServer {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub fn listen<S: WalSource>(source: Arc<S>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let sessions = Arc::new(Sessions(Mutex::new(Some(BTreeMap::new()))));
        let server = Self { address, sessions: Arc::clone(&sessions) };
        let accept = move || {
            for (number, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                let Ok(copy) = socket.try_clone() else { return };
                let insert = |sockets: &mut BTreeMap<_, _>| drop(sockets.insert(number, copy));
                if sessions.with(|sockets| sockets.as_mut().map(insert)).is_none() {
                    return;
                }
                let (source, sessions) = (Arc::clone(&source), Arc::clone(&sessions));
                let serve = move || {
                    // A connection that breaks is the receiver's to make again.
                    let _ = serve(socket, &*source);
                    sessions.with(|sockets| sockets.as_mut().map(|all| all.remove(&number)));
                };
                let _ = thread::Builder::new().name("walsender".into()).spawn(serve);
            }
        };
        thread::Builder::new().name("walsenders".into()).spawn(accept)?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for WalServer {
    fn drop(&mut self) {
        for socket in self.sessions.with(Option::take).unwrap_or_default().values() {
            // The receiver may have hung up.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then lets the port go.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(socket: TcpStream, source: &impl WalSource) -> io::Result<()> {
    let mut connection = Connection::new(socket)?;
    start_up(&mut connection, source.describe().version)?;
    let mut body = Vec::new();
    loop {
        match connection.receive(&mut body)? {
            b'Q' => {
                let text = Reader::new(&body).cstr().map_err(|_| io::ErrorKind::InvalidData)?;
                run_command(&mut connection, source, text)?;
            }
            b'X' => return Ok(()),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Lets anybody in who asks for a session, without encryption, up to the first ReadyForQuery.
///
/// # Errors
/// When the connection is lost, or its first packet is another.
pub fn start_up(connection: &mut Connection, version: WalVersion) -> io::Result<()> {
    loop {
        // The length word is not counted in the maximum.
        let packet = connection.receive_packet(STARTUP_PACKET_BYTES_MAX + 4)?;
        match startup::decode(&packet) {
            Ok(Some((FirstPacket::Startup(_), _))) => break,
            Ok(Some((FirstPacket::SslRequest | FirstPacket::GssEncRequest, _))) => {
                connection.send(b"N")?;
            }
            Ok(Some((FirstPacket::CancelRequest { .. }, _)) | None) | Err(_) => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
    let mut hello = Encoder::new();
    hello.authentication_ok();
    let server_version = format!("{}.0 (walhub-peers)", version.major().unwrap_or(15));
    for (name, value) in [
        ("server_version", server_version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("in_hot_standby", "off"),
        ("default_transaction_read_only", "off"),
    ] {
        hello.parameter_status(name, value);
    }
    hello.backend_key_data(1, &[0; 4]).ready_for_query(b'I');
    connection.send(hello.bytes())
}

fn run_command(connection: &mut Connection, source: &impl WalSource, text: &str) -> io::Result<()> {
    let about = source.describe();
    let mut answer = Encoder::new();
    let mut row = |values: &[(&str, Option<String>)]| {
        let column = |&(name, _): &(&str, _)| Column::text(name, ColumnType::TEXT);
        answer.row_description(&values.iter().map(column).collect::<Vec<_>>());
        let values: Vec<_> = values.iter().map(|(_, value)| value.as_deref()).collect();
        answer.data_row(&values);
    };
    let command = command::parse(text).ok().flatten();
    match &command {
        Some(Command::IdentifySystem) => row(&[
            ("systemid", Some(about.system_identifier.to_string())),
            ("timeline", Some(about.timeline.to_string())),
            ("xlogpos", Some(about.flush_lsn.to_string())),
            ("dbname", None),
        ]),
        Some(Command::Show { name }) if name == "wal_segment_size" => {
            row(&[(name, Some(about.segment_size.to_string()))]);
        }
        Some(Command::Show { name }) if name == "data_directory_mode" => {
            row(&[(name, Some("0700".to_owned()))]);
        }
        Some(Command::ReadReplicationSlot { .. }) => {
            row(&[("slot_type", None), ("restart_lsn", None), ("restart_tli", None)]);
        }
        Some(Command::StartReplication { start, .. }) if source.has(*start) => {
            connection.send(Encoder::new().copy_both_response().bytes())?;
            source.send(connection, *start)?;
            connection.send(&COPY_DONE_MESSAGE)?;
        }
        _ => {
            let text = format!("the source does not know, or does not have: {text}");
            let error = Report::error(SqlState::FEATURE_NOT_SUPPORTED, text);
            answer.report(&error).ready_for_query(b'I');
            return connection.send(answer.bytes());
        }
    }
    answer.command_complete(command.as_ref().map_or("", Command::tag)).ready_for_query(b'I');
    connection.send(answer.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::source::Source;
    use crate::wal::{SHAPE, START, Wal};

    #[test]
    fn commands_before_the_stream_are_answered_and_others_leave_the_session() {
        let source = Arc::new(Source::new(Wal::new(1 << 20, 0)));
        let server = source.listen().unwrap();
        let mut client = Client::replication(server.port(), "test").unwrap();
        let rows = client.query("IDENTIFY_SYSTEM").unwrap();
        let text = |text: &str| Some(text.to_owned());
        let id = SHAPE.system_identifier.to_string();
        assert_eq!(rows, [[text(&id), text("1"), text(&START.to_string()), None]]);
        assert_eq!(client.value("SHOW wal_segment_size").unwrap(), "16MB");
        let error = client.query("START_REPLICATION 0/1").unwrap_err();
        assert!(error.to_string().starts_with("ERROR: "), "{error}");
        assert_eq!(client.value("SHOW data_directory_mode").unwrap(), "0700");
        drop(server);
        assert!(client.query("IDENTIFY_SYSTEM").is_err());
    }
}
