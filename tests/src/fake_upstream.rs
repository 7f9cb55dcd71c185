//! A server at the upstream's address that is not what it should be.

use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use walhub_peers::connection::Connection;
use walhub_peers::walsender::start_up;
use walhub_proto::page::WalVersion;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Encoder, Report, Severity};
use walhub_proto::wire::copy::{COPY_DATA, XLOGDATA_FIELDS_LEN, XLogData};
use walhub_proto::wire::startup::STARTUP_PACKET_BYTES_MAX;

use crate::client::Endpoint;
use crate::scratch::host;
use crate::wait::wait_until;

/// What is done with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// It is taken, and nothing is said.
    Silent,
    /// Notices come without end before authentication, each with a text of its own.
    Notices,
    /// The first command is answered by rows without end.
    EndlessRows,
    /// It is passed on to a server.
    PassedOn(Endpoint),
    /// It is passed on to a server, and the first record of each piece of WAL is damaged.
    BadWal(Endpoint),
}

/// Where `XLogRecord.xl_crc` is.
const CRC_OFFSET: usize = 20;

/// The fake.
#[derive(Debug)]
pub struct FakeUpstream {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    conduct: Mutex<Conduct>,
    connections: AtomicUsize,
}

impl FakeUpstream {
    /// Listens from now on, for as long as the test process lives.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind((host(), 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let shared =
            Arc::new(Shared { conduct: Mutex::new(conduct), connections: AtomicUsize::new(0) });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let conduct = *of_thread.conduct.lock().unwrap_or_else(PoisonError::into_inner);
                // The end of a connection is the peer's doing.
                thread::spawn(move || drop(serve(stream, conduct)));
                of_thread.connections.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { endpoint: Endpoint { host: host(), port }, shared }
    }

    /// A connection string that leads here, in the clear.
    #[must_use]
    pub fn conninfo(&self, application_name: &str) -> String {
        format!("{} sslmode=disable", self.endpoint.conninfo(application_name))
    }

    /// Another conduct, for connections to come.
    pub fn set(&self, conduct: Conduct) {
        *self.shared.conduct.lock().unwrap_or_else(PoisonError::into_inner) = conduct;
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until there were so many.
    ///
    /// # Panics
    /// When there are not.
    #[track_caller]
    pub fn wait_connections(&self, count: usize) {
        wait_until(&format!("{count} connections have come"), || self.connections() >= count);
    }
}

fn serve(mut stream: TcpStream, conduct: Conduct) -> io::Result<()> {
    match conduct {
        Conduct::Silent => io::copy(&mut stream, &mut io::sink()).map(drop),
        Conduct::Notices => {
            let mut client = Connection::new(stream)?;
            client.receive_packet(STARTUP_PACKET_BYTES_MAX)?;
            for number in 0_u64.. {
                let text = format!("{number} {}", "n".repeat(1000));
                let notice = Report::new(Severity::Notice, SqlState::WARNING, text);
                client.send(Encoder::new().report(&notice).bytes())?;
            }
            Ok(())
        }
        Conduct::EndlessRows => {
            let mut client = Connection::new(stream)?;
            start_up(&mut client, WalVersion::PG15)?;
            client.receive(&mut Vec::new())?;
            let row = Encoder::new().data_row(&[Some("1"), Some("1"), Some("0/1"), None]).take();
            let rows = row.repeat(100);
            loop {
                client.send(&rows)?;
            }
        }
        Conduct::PassedOn(to) => pass_on(stream, to, false),
        Conduct::BadWal(to) => pass_on(stream, to, true),
    }
}

fn pass_on(mut client: TcpStream, to: Endpoint, bad_wal: bool) -> io::Result<()> {
    let server = TcpStream::connect((to.host, to.port))?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let passed = pass_answers(server, &mut client, bad_wal);
    client.shutdown(Shutdown::Both)?;
    passed
}

fn pass_answers(mut server: TcpStream, client: &mut TcpStream, bad_wal: bool) -> io::Result<()> {
    if !bad_wal {
        return io::copy(&mut server, client).map(drop);
    }
    let (mut server, mut body) = (Connection::new(server)?, Vec::new());
    loop {
        let kind = server.receive(&mut body)?;
        if kind == COPY_DATA
            && body.first() == Some(&XLogData::KIND)
            && let Some(byte) = body.get_mut(XLOGDATA_FIELDS_LEN + CRC_OFFSET)
        {
            *byte ^= 0xFF;
        }
        client.write_all(Encoder::new().frame(kind, |buf| buf.extend_from_slice(&body)).bytes())?;
    }
}
