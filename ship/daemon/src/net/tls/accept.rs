//! The handshake with a client.
//!
//! A handshake's arithmetic takes a millisecond with an RSA key, and the control plane's thread may be the wal core's,
//! too: it is done by workers, a few at a time.
//!
//! PostgreSQL: `secure_open_server`, `be_tls_open_server` (src/backend/libpq/be-secure-openssl.c).

use std::io;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::Records;
use super::facts::TlsFacts;
use super::server::{ALPN, Acceptor};
use super::stream::{ServerRecords, Tls};
use crate::placement::spawn_blocking;

/// Bytes that a client may have sent without a whole record, or in one flight, before it is let in.
const HANDSHAKE_BYTES_MAX: usize = 17 << 10;
/// What is read at a time.
const READ_BYTES: usize = 4 << 10;
/// Bytes that a client may send in all before its handshake is done: a chain of certificates of 64 kB is the most that
/// rustls takes.
const HANDSHAKE_TOTAL_MAX: usize = 96 << 10;

/// Handshakes that are computed at a time. The other workers are others'.
static COMPUTING: Semaphore = Semaphore::const_new(2);

/// Why there is no TLS with a client.
#[derive(Debug)]
pub(in crate::net) enum NoTls {
    /// It has left.
    Left,
    /// For the log. The client has been told by an alert.
    Refused(String),
}

impl From<io::Error> for NoTls {
    fn from(error: io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        Self::Refused(match of_tls {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                format!("certificate verify failed: {reason}")
            }
            Some(error) => error.to_string(),
            None => crate::strerror::strerror(&error),
        })
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(in crate::net) struct Accepted {
    pub(in crate::net) tls: Tls,
    pub(in crate::net) facts: TlsFacts,
    /// Whether the client has said that it wants PostgreSQL's protocol.
    pub(in crate::net) has_alpn: bool,
}

/// Does the handshake on a socket from which `early` was read.
pub(in crate::net) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &Acceptor,
    socket: &mut S,
    early: Vec<u8>,
) -> Result<Accepted, NoTls> {
    let connection = UnbufferedServerConnection::new(Arc::clone(&acceptor.config))
        .map_err(|error| NoTls::Refused(error.to_string()))?;
    let (mut records, mut plain) = (Records::new(connection), Vec::new());
    let (mut received, mut total) = (early, 0);
    loop {
        if !received.is_empty() {
            total += received.len();
            let opened;
            (records, plain, opened) = compute(records, plain, received).await?;
            let sent = socket.write_all(records.outgoing()).await;
            *records.outgoing() = Vec::new();
            opened?;
            sent?;
            if !records.state().is_handshaking() {
                break;
            }
        }
        if records.incoming_len() > HANDSHAKE_BYTES_MAX || total > HANDSHAKE_TOTAL_MAX {
            return Err(NoTls::Refused("too much data in a handshake".to_owned()));
        }
        received = Vec::with_capacity(READ_BYTES);
        if socket.read_buf(&mut received).await? == 0 {
            return Err(NoTls::Left);
        }
    }
    let facts = TlsFacts::of(records.state(), acceptor.end_point.clone());
    let facts = facts.map_err(|reason| NoTls::Refused(reason.to_owned()))?;
    let has_alpn = records.state().alpn_protocol() == Some(ALPN);
    Ok(Accepted { tls: Tls::new(records, plain), facts, has_alpn })
}

type Opened = (ServerRecords, Vec<u8>, io::Result<()>);

/// Has a worker take in what was received.
async fn compute(
    mut records: ServerRecords,
    mut plain: Vec<u8>,
    mut received: Vec<u8>,
) -> Result<Opened, NoTls> {
    let place = COMPUTING.acquire().await;
    let work = move || {
        let opened = records.open(&mut received, &mut plain);
        (records, plain, opened)
    };
    let answer = spawn_blocking(work).await;
    drop(place);
    answer.map_err(|_| NoTls::Refused("the handshake was given up".to_owned()))
}
