//! An encrypted connection to the upstream, until it leaves for the data plane.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::net::tls::Records;
use crate::net::tls::stream::Tls;

/// Bytes read at a time during the handshake.
const READ_BYTES: usize = 16 << 10;

/// Our side of the connection.
pub(super) type ClientRecords = Records<UnbufferedClientConnection>;

/// A socket and the TLS on it.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: TcpStream,
    tls: Tls<UnbufferedClientConnection>,
}

impl TlsStream {
    /// Does the handshake; what was agreed on is in the records.
    pub(super) async fn connect(
        mut socket: TcpStream,
        connection: UnbufferedClientConnection,
        agreed: impl FnOnce(&ClientRecords),
    ) -> io::Result<Self> {
        let (mut records, mut plain) = (Records::new(connection), Vec::new());
        let mut opened = records.begin();
        loop {
            // An alert, too, when something is wrong.
            let sent = socket.write_all(records.outgoing()).await;
            *records.outgoing() = Vec::new();
            opened?;
            sent?;
            if !records.state().is_handshaking() {
                break;
            }
            let mut received = Vec::with_capacity(READ_BYTES);
            if socket.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            opened = records.open(&mut received, &mut plain);
        }
        agreed(&records);
        Ok(Self { socket, tls: Tls::new(records, plain) })
    }

    /// The socket, what encrypts on it, and what was decrypted and not taken yet.
    pub(super) fn into_parts(self) -> (TcpStream, ClientRecords, Vec<u8>) {
        let (records, plain) = self.tls.into_parts();
        (self.socket, records, plain)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        tls.poll_read(socket, context, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, tls } = self.get_mut();
        tls.poll_write(socket, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        tls.poll_flush(socket, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        tls.poll_shutdown(socket, context)
    }
}
